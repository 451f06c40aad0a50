"""Masked sentence pairs from token stores, for pre-training."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.batching import Batch, assemble, shuffled, to_batch
from bert_lightning.data.masking import Masking, TokenMasking, replace
from bert_lightning.data.module import Stage, StepDataModule, TrainingPlan, require_at_least, used_splits
from bert_lightning.data.randomness import derive_key, permute, random_bits
from bert_lightning.data.sentence_pairs import SentencePairs
from bert_lightning.data.token_store import TokenStore
from bert_lightning.errors import InputError

# Validation draws its pairs and masks with this seed in every run, so that runs can be compared.
EVALUATION_SEED = 0


@dataclass(frozen=True)
class PretrainingData:
    """Token stores, and how samples are made of them.

    Attributes:
        train: token store to train on.
        validation: token store of held-out documents, or none.
        test: token store for `bert-lightning test`, or none.
        max_seq_length: longest pair, special tokens included.
        short_sequence_probability: share of pairs cut to a random length; 0.1 as published.
        masking: which tokens are predicted, and what stands in their place.
        batch_size: pairs of one optimiser step, over all processes and accumulated micro-batches.
        evaluation_batch_size: pairs of one batch in validation.
        max_evaluation_samples: a fixed share of the held-out pairs to score, where there are more.
        num_workers: processes that make batches ahead; 0 makes them in the training process.
    """

    train: str | None = None
    validation: str | None = None
    test: str | None = None
    max_seq_length: int = 128
    short_sequence_probability: float = 0.1
    masking: TokenMasking = field(default_factory=TokenMasking)
    batch_size: int = 32
    evaluation_batch_size: int = 64
    max_evaluation_samples: int | None = 2048
    num_workers: int = 1

    def __post_init__(self) -> None:
        require_at_least(self, 5, "max_seq_length")
        require_at_least(self, 1, "batch_size", "evaluation_batch_size", "max_evaluation_samples")
        require_at_least(self, 0, "num_workers")
        if not 0 <= self.short_sequence_probability <= 1:
            raise ValueError(
                f"short_sequence_probability is {self.short_sequence_probability}; it must be between 0 and 1"
            )


class PretrainingDataModule(StepDataModule):
    """Serves masked sentence pairs: the vocabulary is the stores' own.

    A batch holds `input_ids`, `token_type_ids`, `attention_mask` (B, S), `masked_positions` (M,) into the flattened
    tokens, `masked_labels` (M,) and `next_sentence_labels` (B,).

    `stage` opens only the split that it scores; None is for training.

    Raises:
        InputError: no store, one that is damaged or too small, or stores of different vocabularies.
    """

    def __init__(self, settings: PretrainingData, stage: Stage | None = None) -> None:
        paths = used_splits(settings, stage)
        self.stores = {split: TokenStore(path) for split, path in paths.items()}
        tokenizer = next(iter(self.stores.values())).tokenizer
        for split, store in self.stores.items():
            if store.tokenizer.fingerprint != tokenizer.fingerprint:
                raise InputError(
                    f"data.{split}: {store.path} was made with another vocabulary than the other token store"
                )
        super().__init__(tokenizer, settings.batch_size, settings.evaluation_batch_size, settings.num_workers)
        self.settings = settings
        self.masking: Masking = settings.masking
        self._ordinary_ids = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.special_ids)
        self._pairs: dict[tuple[str, int], SentencePairs] = {}

    @property
    def num_training_samples(self) -> int:
        """Pairs of one epoch."""
        return self._split_pairs("train", EVALUATION_SEED).num_samples

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of each store."""
        return {split: store.fingerprint for split, store in self.stores.items()}

    def training_token_counts(self) -> NDArray[np.int64]:
        """(V,) how often each vocabulary entry occurs in the training store."""
        return self.stores["train"].token_counts()

    def training_samples(self, step: int, plan: TrainingPlan) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The shuffled stream, step by step."""
        pairs = self._split_pairs("train", plan.seed)
        return shuffled(plan.seed, pairs.num_samples, step * self.batch_size, (step + 1) * self.batch_size)

    def training_batch(self, epochs: NDArray[np.int64], indices: NDArray[np.int64], plan: TrainingPlan) -> Batch:
        """Pairs, masked anew in each epoch."""
        return self._batch("train", plan.seed, epochs, indices)

    def num_evaluation_samples(self, stage: Stage) -> int:
        """Pairs of the held-out store, at most `max_evaluation_samples`."""
        if stage not in self.stores:
            return 0
        total = self._split_pairs(stage, EVALUATION_SEED).num_samples
        return min(total, self.settings.max_evaluation_samples or total)

    def evaluation_batch(self, stage: Stage, numbers: NDArray[np.int64]) -> Batch:
        """Pairs with masks that are the same in every run."""
        total = self._split_pairs(stage, EVALUATION_SEED).num_samples
        indices = permute(derive_key(EVALUATION_SEED, "evaluation"), total, numbers)
        return self._batch(stage, EVALUATION_SEED, np.zeros_like(indices), indices)

    def _split_pairs(self, split: str, seed: int) -> SentencePairs:
        if (split, seed) not in self._pairs:
            self._pairs[split, seed] = SentencePairs(
                self.stores[split],
                self.settings.max_seq_length,
                self.settings.short_sequence_probability,
                seed,
            )
        return self._pairs[split, seed]

    def _batch(self, split: str, seed: int, epochs: NDArray[np.int64], indices: NDArray[np.int64]) -> Batch:
        source = self._split_pairs(split, seed)
        pairs: list[Any] = [None] * len(indices)
        keys = np.empty(len(indices), dtype=np.uint64)
        for epoch in np.unique(epochs):
            rows = np.flatnonzero(epochs == epoch)
            for row, pair in zip(rows, source.pairs(int(epoch), indices[rows]), strict=True):
                pairs[row] = pair
            keys[rows] = random_bits(derive_key(seed, int(epoch), "masking"), indices[rows])
        tokenizer = self.tokenizer
        original, token_type_ids, lengths = assemble(
            [pair.first for pair in pairs],
            [pair.second for pair in pairs],
            tokenizer.cls_id,
            tokenizer.sep_id,
            tokenizer.pad_id,
            self.settings.max_seq_length,
        )
        real = np.arange(original.shape[1])[None, :] < lengths[:, None]
        candidates = real & ~np.isin(original, (tokenizer.cls_id, tokenizer.sep_id))
        chosen = self.masking.select(candidates, lengths, keys)
        # Other draws than those that chose.
        masked = replace(original, chosen, self.masking, tokenizer.mask_id, self._ordinary_ids, ~keys)
        return to_batch(
            masked,
            token_type_ids,
            lengths,
            masked_positions=np.flatnonzero(chosen),
            masked_labels=original[chosen],
            next_sentence_labels=np.array([pair.label for pair in pairs], dtype=np.int64),
        )
