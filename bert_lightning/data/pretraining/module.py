"""The data module of pre-training: masked samples from token stores."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.corpus.token_store import TokenStore
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.module import (
    EvaluationSplit,
    StepDataModule,
    TrainingLength,
    TrainingPlan,
    used_splits,
)
from bert_lightning.data.loading.randomness import derive_key
from bert_lightning.data.pretraining.masked_batch import MaskedBatches
from bert_lightning.data.pretraining.mixture import Mixture, block_counts
from bert_lightning.data.pretraining.objectives import OBJECTIVES
from bert_lightning.data.pretraining.pools import Pools
from bert_lightning.data.pretraining.samples import NumberedSample
from bert_lightning.data.pretraining.settings import PretrainingData
from bert_lightning.data.pretraining.stages import ResolvedStage, resolve_stages
from bert_lightning.errors import InputError

# Validation and test use this seed for their pairs and masks in every run, so that runs can be compared.
EVALUATION_SEED = 0


class PretrainingDataModule(StepDataModule):
    """Masked samples for training, validation and test, with the vocabulary of the token stores.

    `MaskedBatches.build` lists the content of a micro-batch.

    Args:
        settings: the `data` section of the configuration.
        split: the only split to open, in order to score it; None opens training and validation.
        length: length of the training; None if the data only scores a model.

    Raises:
        InputError: there is no store, one is damaged or too small, or two have different vocabularies.
    """

    def __init__(
        self, settings: PretrainingData, split: EvaluationSplit | None = None, length: TrainingLength | None = None
    ) -> None:
        train = settings.train
        self.weights = tuple(train.values()) if isinstance(train, dict) else (1.0,)
        block_counts(self.weights)
        self.stores: dict[str, list[TokenStore]] = {}
        for name, value in used_splits(settings, split).items():
            paths = list(value) if isinstance(value, dict) else [value]
            self.stores[name] = [TokenStore(path) for path in paths]
        first = next(iter(self.stores.values()))[0]
        for name, stores in self.stores.items():
            _check_vocabulary(name, stores, first)
        super().__init__(
            first.tokenizer, settings.batch_size, settings.evaluation_batch_size, settings.num_workers, length
        )
        self.settings = settings
        is_pair = OBJECTIVES[settings.objective].metric is not None
        self._batches = MaskedBatches(first.tokenizer, settings.masking, is_pair, str(first.path))
        self._stages = resolve_stages(
            settings.max_seq_length, settings.batch_size, settings.batch_size_warmup, settings.stages
        )
        # Steps come in order, so the mixtures and pools of earlier stages are not needed again.
        self._mixture = lru_cache(8)(self._make_mixture)
        self._pools = lru_cache(4)(self._make_pools)

    def has_split(self, split: str) -> bool:
        """Return whether the stores of a split are open."""
        return split in self.stores

    def _read_later(self, split: EvaluationSplit) -> None:
        stores = [TokenStore(used_splits(self.settings, split)[split])]
        _check_vocabulary(split, stores, next(iter(self.stores.values()))[0])
        self.stores[split] = stores

    @property
    def num_training_samples(self) -> int:
        """Samples per epoch over all training stores."""
        return self._mixture("train", self._stages[0].max_seq_length, EVALUATION_SEED).num_samples

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of each store, by split; several stores of a split are numbered, such as `train.0`."""
        return {
            split if len(stores) == 1 else f"{split}.{number}": store.fingerprint
            for split, stores in self.stores.items()
            for number, store in enumerate(stores)
        }

    @property
    def batch_shares(self) -> Sequence[tuple[str, int, int | None]]:
        """The batch size of each stage."""
        plan = self.plan
        return [(stage.key, stage.batch_size, stage.num_micro_batches(plan)) for stage in self._stages]

    def num_steps_of(self, max_epochs: float) -> int:
        """Return the steps in a number of epochs.

        Raises:
            InputError: there are several stages, whose steps have different sizes.
        """
        if len(self._stages) > 1:
            key = "stages" if self.settings.stages else "batch_size_warmup"
            raise InputError(f"trainer.max_epochs cannot be used with data.{key}: set trainer.max_steps")
        per_step: float = self.batch_size
        if self.settings.batching == "packed":
            per_step = self._pools(self._stages[0], EVALUATION_SEED, 1).samples_per_step
        return int(self.num_training_samples / per_step * max_epochs)

    def training_token_counts(self) -> NDArray[np.int64]:
        """Return how often each vocabulary entry occurs in the training stores, (V,)."""
        return np.sum([store.token_counts() for store in self.stores["train"]], axis=0)

    def training_batches(self, step: int, plan: TrainingPlan, share: int, num_shares: int) -> list[Batch]:
        """Return the micro-batches of a step for one share of the batch.

        Each epoch draws and masks the samples again, unless `dupe_factor` is set. A process reads only the tokens of
        its own micro-batches.
        """
        stage = next(stage for stage in reversed(self._stages) if stage.first_step <= step)
        seed = plan.seed if not stage.number else derive_key(plan.seed, "stage", stage.number)
        progress = self._progress(stage, step, plan)
        packed = self.settings.batching == "packed"
        num_micro_batches = stage.num_micro_batches(plan) * num_shares
        return [
            self._batches.build(
                self._samples_of_step(stage, step, plan, seed, numbers), stage.max_seq_length, seed, progress, packed
            )
            for numbers in np.split(np.arange(stage.batch_size), num_micro_batches)[share::num_shares]
        ]

    def _samples_of_step(
        self, stage: ResolvedStage, step: int, plan: TrainingPlan, seed: int, numbers: NDArray[np.int64]
    ) -> list[NumberedSample]:
        """Return the samples of a micro-batch.

        Args:
            stage: the stage of the step.
            step: the optimiser step.
            plan: the division of training into steps.
            seed: seed of the stage.
            numbers: consecutive numbers from 0 to the batch size: of samples, or of the bins of `Pools`.
        """
        step_of_stage = step - stage.first_step
        if self.settings.batching == "padded":
            mixture = self._mixture("train", stage.max_seq_length, seed)
            start = step_of_stage * stage.batch_size
            return mixture.numbered_samples(
                *mixture.draw(seed, start + int(numbers[0]), start + int(numbers[-1]) + 1)
            )
        pools = self._pools(stage, seed, self._stage_steps(stage, plan))
        return [sample for number in numbers.tolist() for sample in pools.bin(step_of_stage, number)]

    def num_evaluation_samples(self, split: EvaluationSplit) -> int:
        """Return the number of samples of a held-out store to score, at most `max_evaluation_samples`."""
        if split not in self.stores:
            return 0
        total = self._mixture(split, self.settings.max_seq_length, EVALUATION_SEED).num_samples
        return min(total, self.settings.max_evaluation_samples or total)

    def evaluation_batch(self, split: EvaluationSplit, numbers: NDArray[np.int64]) -> Batch:
        """Make a micro-batch of samples whose pairs and masks are the same in every run."""
        mixture = self._mixture(split, self.settings.max_seq_length, EVALUATION_SEED)
        [source] = mixture.sources
        indices = source.shuffle(derive_key(EVALUATION_SEED, "evaluation"), 0, numbers)
        samples = mixture.numbered_samples(np.zeros_like(indices), indices)
        return self._batches.build(samples, self.settings.max_seq_length, EVALUATION_SEED)

    def _make_mixture(self, split: str, max_seq_length: int, seed: int) -> Mixture:
        samples = OBJECTIVES[self.settings.objective]
        probability = self.settings.short_sequence_probability
        # Each source has its own seed, because the same store may be given twice.
        seeds = [seed] + [derive_key(seed, "source", n) for n in range(1, len(self.stores[split]))]
        weights = self.weights if split == "train" else (1.0,)
        sources = [
            samples(store, max_seq_length, probability, source_seed, weight / sum(weights))
            for store, source_seed, weight in zip(self.stores[split], seeds, weights, strict=True)
        ]
        return Mixture(sources, weights, self.settings.dupe_factor)

    def _progress(self, stage: ResolvedStage, step: int, plan: TrainingPlan) -> float:
        """Return the fraction of the training's samples that the steps before this one consume."""
        last = next(s for s in reversed(self._stages) if s.first_step < plan.num_steps)
        total = last.samples_before + (plan.num_steps - last.first_step) * last.batch_size
        return (stage.samples_before + (step - stage.first_step) * stage.batch_size) / total

    def check_shares(self, num_shares: int) -> None:
        """Check that the samples of each step can be divided evenly, and that training reaches each stage.

        Raises:
            InputError: a batch size is no multiple of processes times micro-batches, or a stage is not reached.
        """
        super().check_shares(num_shares)
        steps = {"data.batch_size_warmup.num_steps": self.settings.batch_size_warmup.num_steps}
        steps |= {f"data.stages.{n}.from_step": stage.from_step for n, stage in enumerate(self.settings.stages)}
        for key, step in steps.items():
            if step is not None and step >= self.plan.num_steps:
                raise InputError(f"{key} {step} is never reached: training ends after {self.plan.num_steps} steps")

    def _stage_steps(self, stage: ResolvedStage, plan: TrainingPlan) -> int:
        """Return the number of steps in a stage."""
        following = self._stages[stage.number + 1 :]
        return min([plan.num_steps, *(later.first_step for later in following[:1])]) - stage.first_step

    def _make_pools(self, stage: ResolvedStage, seed: int, num_steps: int) -> Pools:
        mixture = self._mixture("train", stage.max_seq_length, seed)
        packed = self.settings.batching == "packed"
        return Pools(mixture, seed, stage.batch_size, stage.max_seq_length, packed, num_steps)


def _check_vocabulary(split: str, stores: Sequence[TokenStore], first: TokenStore) -> None:
    for store in stores:
        if store.tokenizer.fingerprint != first.tokenizer.fingerprint:
            raise InputError(
                f"data.{split}: {store.path} was made with another vocabulary than {first.path}: make both with the "
                "same tokenizer"
            )
