"""Masked samples from token stores, for pre-training."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checks import refuse_empty_paths, require_at_least
from bert_lightning.data.corpus.token_store import TokenStore
from bert_lightning.data.loading.batching import (
    Batch,
    assemble,
    to_batch,
    to_packed_batch,
)
from bert_lightning.data.loading.module import EvaluationSplit, StepDataModule, TrainingPlan, used_splits
from bert_lightning.data.loading.randomness import derive_key, permute, random_bits
from bert_lightning.data.pretraining.masking import Masking, Sequences, TokenMasking, replace, word_starts
from bert_lightning.data.pretraining.mixture import Mixture, block_counts
from bert_lightning.data.pretraining.objectives import OBJECTIVES, ObjectiveName
from bert_lightning.data.pretraining.pools import Windows
from bert_lightning.data.pretraining.samples import Sample
from bert_lightning.data.pretraining.stages import BatchSizeWarmup, PretrainingStage, ResolvedStage, resolved
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import WordPieceTokenizer

Batching = Literal["padded", "bucketed", "packed"]
# Validation draws its pairs and masks with this seed in every run, so that runs can be compared.
EVALUATION_SEED = 0


@dataclass(frozen=True)
class PretrainingData:
    """Token stores, and how samples are made of them.

    Attributes:
        train: token store to train on, or several with the share of each: {stores/books: 0.2, stores/wiki: 0.8}.
        validation: token store of held-out documents, or none.
        test: token store for `bert-lightning test`, or none.
        objective: what sentences are for: next-sentence (pairs, B follows A or not, as published), sentence-order
            (pairs, swapped or not), full-sentences (no pairs, on into the next document) or document-sentences (no
            pairs, within one document).
        max_seq_length: longest sample, special tokens included; validation and test keep to it in every stage.
        short_sequence_probability: share of samples cut to a random length; 0.1 as published.
        masking: which tokens are predicted, and what stands in their place.
        stages: what changes later in training, such as longer samples for the last tenth of the steps.
        batch_size: samples of one optimiser step, over all processes and accumulated micro-batches.
        batch_size_warmup: smaller batches in the first steps; each size is a stage, and draws afresh as stages do.
        batching: padded: samples in random order; bucketed: those of one length together; packed: samples end to
            end without padding in rows of max_seq_length, batch_size rows a step.
        evaluation_batch_size: samples of one batch in validation.
        max_evaluation_samples: a fixed share of the held-out samples to score, where there are more.
        num_workers: processes that make batches ahead; 0 makes them in the training process.
    """

    train: str | dict[str, float] | None = None
    validation: str | None = None
    test: str | None = None
    objective: ObjectiveName = "next-sentence"
    max_seq_length: int = 128
    short_sequence_probability: float = 0.1
    masking: Masking = field(default_factory=TokenMasking)
    stages: list[PretrainingStage] = field(default_factory=list)
    batch_size: int = 32
    batch_size_warmup: BatchSizeWarmup = field(default_factory=BatchSizeWarmup)
    batching: Batching = "padded"
    evaluation_batch_size: int = 64
    max_evaluation_samples: int | None = 2048
    num_workers: int = 1

    def __post_init__(self) -> None:
        refuse_empty_paths(self, "train", "validation", "test")
        require_at_least(self, 5, "max_seq_length")
        require_at_least(self, 1, "batch_size", "evaluation_batch_size", "max_evaluation_samples")
        require_at_least(self, 0, "num_workers")
        if not 0 <= self.short_sequence_probability <= 1:
            raise ValueError(
                f"short_sequence_probability is {self.short_sequence_probability}; it must be between 0 and 1"
            )
        steps = [stage.from_step for stage in self.stages]
        if steps != sorted(set(steps)):
            raise ValueError(f"stages begin at the steps {steps}; each must begin behind the one before")
        full = self.batch_size_warmup.sizes(self.batch_size)[-1][0]
        if steps and steps[0] <= full:
            raise ValueError(f"stages.0.from_step is {steps[0]}, but batch_size_warmup ends at step {full}")
        if isinstance(self.train, dict) and not self.train:
            raise ValueError("train names no token store")

    @property
    def longest(self) -> int:
        """The longest sample of any stage."""
        return max([self.max_seq_length, *(stage.max_seq_length or 0 for stage in self.stages)])


class PretrainingDataModule(StepDataModule):
    """Serves masked samples: the vocabulary is the stores' own.

    A batch holds `input_ids`, `token_type_ids`, `attention_mask` (B, S), `masked_positions` (M,) into the flattened
    tokens, `masked_labels` (M,) and, where there are pairs, `sentence_labels` (B,). A packed one has `input_ids` and
    `token_type_ids` (T,) and their `packing` in place of the mask.

    `split` names the one split to score, which alone is opened; None is for training.

    Raises:
        InputError: no store, one that is damaged or too small, or stores of different vocabularies.
    """

    def __init__(self, settings: PretrainingData, split: EvaluationSplit | None = None) -> None:
        train = settings.train
        self.weights = tuple(train.values()) if isinstance(train, dict) else (1.0,)
        block_counts(self.weights)
        self.stores: dict[str, list[TokenStore]] = {}
        for name, value in used_splits(settings, split).items():
            paths = list(value) if isinstance(value, dict) else [value]
            self.stores[name] = [TokenStore(path) for path in paths]
        opened = [(name, store) for name, stores in self.stores.items() for store in stores]
        tokenizer: WordPieceTokenizer = opened[0][1].tokenizer
        for name, store in opened:
            if store.tokenizer.fingerprint != tokenizer.fingerprint:
                raise InputError(
                    f"data.{name}: {store.path} was made with another vocabulary than {opened[0][1].path}"
                )
        super().__init__(tokenizer, settings.batch_size, settings.evaluation_batch_size, settings.num_workers)
        self.settings = settings
        self.masking: Masking = settings.masking
        everything = np.arange(len(tokenizer))
        entry_ids = np.array(tokenizer.entry_ids)
        ordinary = np.setdiff1d(entry_ids, tokenizer.special_ids)
        self._random_ids = entry_ids if self.masking.random_tokens == "all" else ordinary
        self._is_special = np.isin(everything, tokenizer.special_ids)
        self._continues = np.array([entry.startswith("##") for entry in tokenizer.entries])
        self._stages = resolved(
            settings.max_seq_length, settings.batch_size, settings.batch_size_warmup, settings.stages
        )
        if not len(self._random_ids):
            raise InputError(f"{opened[0][1].path}: the vocabulary holds special tokens alone")
        # Steps come in order: what a stage long past drew from is not needed again.
        self._mixture = lru_cache(8)(self._make_mixture)
        self._windows = lru_cache(4)(self._make_windows)

    @property
    def num_training_samples(self) -> int:
        """Samples of one epoch over all training stores."""
        return self._mixture("train", self._stages[0].max_seq_length, EVALUATION_SEED).num_samples

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of each store."""
        named: dict[str, str] = {}
        for split, stores in self.stores.items():
            for number, store in enumerate(stores):
                named[split if len(stores) == 1 else f"{split}.{number}"] = store.fingerprint
        return named

    @property
    def batch_shares(self) -> Sequence[tuple[str, int, int | None]]:
        """The batch size of each stage."""
        assert self.plan is not None
        return [(stage.key, stage.batch_size, stage.num_micro_batches(self.plan)) for stage in self._stages]

    def num_steps_of(self, max_epochs: float) -> int:
        """Steps of so many epochs.

        Raises:
            InputError: there are several stages, whose steps are of different sizes.
        """
        if len(self._stages) > 1:
            key = "stages" if self.settings.stages else "batch_size_warmup"
            raise InputError(f"trainer.max_epochs cannot be used with data.{key}: set trainer.max_steps")
        per_step: float = self.batch_size
        if self.settings.batching == "packed":
            per_step = self._windows(self._stages[0], EVALUATION_SEED, 1).samples_per_step
        return int(self.num_training_samples / per_step * max_epochs)

    def training_token_counts(self) -> NDArray[np.int64]:
        """(V,) how often each vocabulary entry occurs in the training stores."""
        return np.sum([store.token_counts() for store in self.stores["train"]], axis=0)

    def training_batches(self, step: int, plan: TrainingPlan, rank: int, world_size: int) -> list[Batch]:
        """Samples, drawn and masked anew in each epoch; a rank reads the tokens of its own share alone."""
        stage = next(stage for stage in reversed(self._stages) if stage.first_step <= step)
        num_parts = stage.num_micro_batches(plan) * world_size
        seed = plan.seed if not stage.number else derive_key(plan.seed, "stage", stage.number)
        mixture = self._mixture("train", stage.max_seq_length, seed)
        progress = self._progress(stage, step, plan)
        place = step - stage.first_step
        parts = np.split(np.arange(stage.batch_size), num_parts)[rank::world_size]
        batches = []
        if self.settings.batching == "padded":
            epochs, indices = mixture.draw(seed, place * stage.batch_size, (place + 1) * stage.batch_size)
            for own in parts:
                samples = mixture.samples(epochs[own], indices[own])
                batches.append(self._batch(stage.max_seq_length, seed, epochs[own], indices[own], samples, progress))
            return batches
        packed = self.settings.batching == "packed"
        windows = self._windows(stage, seed, self._stage_steps(stage, plan))
        for own in parts:
            drawn = [each for row in own.tolist() for each in windows.row(place, row)]
            epochs, indices = (np.array([each[k] for each in drawn], dtype=np.int64) for k in (0, 1))
            samples = [each.sample for each in drawn]
            batches.append(self._batch(stage.max_seq_length, seed, epochs, indices, samples, progress, packed))
        return batches

    def num_evaluation_samples(self, split: EvaluationSplit) -> int:
        """Samples of the held-out store, at most `max_evaluation_samples`."""
        if split not in self.stores:
            return 0
        total = self._mixture(split, self.settings.max_seq_length, EVALUATION_SEED).num_samples
        return min(total, self.settings.max_evaluation_samples or total)

    def evaluation_batch(self, split: EvaluationSplit, numbers: NDArray[np.int64]) -> Batch:
        """Samples with masks that are the same in every run."""
        mixture = self._mixture(split, self.settings.max_seq_length, EVALUATION_SEED)
        indices = permute(derive_key(EVALUATION_SEED, "evaluation"), mixture.num_samples, numbers)
        epochs = np.zeros_like(indices)
        samples = mixture.samples(epochs, indices)
        return self._batch(self.settings.max_seq_length, EVALUATION_SEED, epochs, indices, samples, 0.0)

    def _make_mixture(self, split: str, max_seq_length: int, seed: int) -> Mixture:
        samples = OBJECTIVES[self.settings.objective]
        probability = self.settings.short_sequence_probability
        # Sources draw differently, be they the same store twice.
        seeds = [seed] + [derive_key(seed, "source", n) for n in range(1, len(self.stores[split]))]
        sources = [
            samples(store, max_seq_length, probability, own)
            for store, own in zip(self.stores[split], seeds, strict=True)
        ]
        return Mixture(sources, self.weights if split == "train" else (1.0,))

    def _progress(self, stage: ResolvedStage, step: int, plan: TrainingPlan) -> float:
        """The share of the training's samples that were consumed before a step."""
        last = next(s for s in reversed(self._stages) if s.first_step < plan.num_steps)
        total = last.samples_before + (plan.num_steps - last.first_step) * last.batch_size
        return (stage.samples_before + (step - stage.first_step) * stage.batch_size) / total

    def check_shares(self, world_size: int) -> None:
        """As everywhere, and each stage must be reached."""
        super().check_shares(world_size)
        assert self.plan is not None
        begins = {f"data.stages.{n}.from_step": stage.from_step for n, stage in enumerate(self.settings.stages)}
        for key, step in {
            "data.batch_size_warmup.num_steps": self.settings.batch_size_warmup.num_steps,
            **begins,
        }.items():
            if step is not None and step >= self.plan.num_steps:
                raise InputError(f"{key} {step} is never reached: training ends after {self.plan.num_steps} steps")

    def _stage_steps(self, stage: ResolvedStage, plan: TrainingPlan) -> int:
        following = self._stages[stage.number + 1 :]
        return min([plan.num_steps, *(later.first_step for later in following[:1])]) - stage.first_step

    def _make_windows(self, stage: ResolvedStage, seed: int, num_steps: int) -> Windows:
        mixture = self._mixture("train", stage.max_seq_length, seed)
        packed = self.settings.batching == "packed"
        return Windows(mixture, seed, stage.batch_size, stage.max_seq_length, packed, num_steps)

    # -- samples to tensors --------------------------------------------------------------------------------------

    def _batch(
        self,
        max_seq_length: int,
        seed: int,
        epochs: NDArray[np.int64],
        indices: NDArray[np.int64],
        samples: list[Sample],
        progress: float,
        packed: bool = False,
    ) -> Batch:
        keys = np.empty(len(indices), dtype=np.uint64)
        for epoch in np.unique(epochs):
            rows = epochs == epoch
            keys[rows] = random_bits(derive_key(seed, int(epoch), "masking"), indices[rows])
        tokenizer = self.tokenizer
        pairs = OBJECTIVES[self.settings.objective].metric is not None
        original, token_type_ids, lengths = assemble(
            [sample.first for sample in samples],
            [sample.second for sample in samples if sample.second is not None] if pairs else None,
            tokenizer.cls_id,
            tokenizer.sep_id,
            tokenizer.pad_id,
            max_seq_length,
        )
        real = np.arange(original.shape[1])[None, :] < lengths[:, None]
        candidates = real & ~self._is_special[original]
        starts = word_starts(candidates, self._continues[original])
        chosen = self.masking.select(Sequences(candidates, starts, lengths, keys), progress)
        # Other draws than those that chose.
        masked = replace(original, chosen, self.masking, tokenizer.mask_id, self._random_ids, ~keys)
        labels = {"masked_labels": original[chosen.positions]}
        if pairs:
            labels["sentence_labels"] = np.array([sample.label for sample in samples], dtype=np.int64)
        lay_out, chosen_positions = to_batch, chosen.positions
        if packed:
            lay_out, chosen_positions = to_packed_batch, chosen.positions[real]
        labels["masked_positions"] = np.flatnonzero(chosen_positions)
        return {
            **lay_out(masked, token_type_ids, lengths, **labels),
            "samples": np.stack([epochs, indices], axis=1),
        }
