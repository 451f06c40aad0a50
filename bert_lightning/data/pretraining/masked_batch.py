"""From samples to a micro-batch: special tokens, masks and tensors."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.loading.batching import Batch, assemble, to_batch, to_packed_batch
from bert_lightning.data.loading.randomness import UInt64, derive_key, random_bits
from bert_lightning.data.pretraining.masking import Masking, Sequences, apply_masks, word_starts
from bert_lightning.data.pretraining.samples import NumberedSample
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import WordPieceTokenizer


class MaskedBatches:
    """Micro-batches of masked samples.

    Args:
        tokenizer: the vocabulary of the samples.
        masking: which tokens are predicted, and what replaces them.
        pairs: whether samples are pairs of texts whose label is predicted.
        source: the location of the vocabulary, for messages.

    Raises:
        InputError: the vocabulary has no entry for random tokens.
    """

    def __init__(self, tokenizer: WordPieceTokenizer, masking: Masking, pairs: bool, source: str) -> None:
        self.tokenizer = tokenizer
        self.masking = masking
        self.pairs = pairs
        entry_ids = np.array(tokenizer.entry_ids)
        ordinary_ids = np.setdiff1d(entry_ids, tokenizer.special_ids)
        self._random_ids = entry_ids if masking.random_tokens == "all" else ordinary_ids
        if not len(self._random_ids):
            raise InputError(f"{source}: the vocabulary has only special tokens; masking needs others to draw from")
        self._is_special = np.isin(np.arange(len(tokenizer)), tokenizer.special_ids)
        self._continues = np.array([entry.startswith("##") for entry in tokenizer.entries])

    def build(
        self,
        samples: Sequence[NumberedSample],
        max_seq_length: int,
        seed: int,
        progress: float = 0.0,
        packed: bool = False,
    ) -> Batch:
        """Mask samples and turn them into tensors.

        Args:
            samples: the samples of the micro-batch.
            max_seq_length: longest sample.
            seed: seed of the masks; a sample's mask depends on it, its epoch, its number and, with `final_rate`, on
                `progress`.
            progress: fraction of the training that is done, from 0 to 1.
            packed: put the samples end to end, without padding.

        Returns:
            `input_ids`, `token_type_ids`, `attention_mask` (B, S), `masked_positions` (M,) into the flattened tokens,
            `masked_labels` (M,), `samples` (B, 2) with epochs and numbers and, for pairs, `sentence_labels` (B,). If
            packed, `input_ids` and `token_type_ids` are (T,), and `packing` replaces the mask.
        """
        epochs = np.array([each.epoch for each in samples], dtype=np.int64)
        numbers = np.array([each.number for each in samples], dtype=np.int64)
        original, token_type_ids, lengths = self._assemble(samples, max_seq_length)
        is_real = np.arange(original.shape[1])[None, :] < lengths[:, None]
        candidates = is_real & ~self._is_special[original]
        starts = word_starts(candidates, self._continues[original])
        keys = _mask_keys(seed, epochs, numbers)
        selection = self.masking.select(Sequences(candidates, starts, lengths, keys), progress)
        # The inverted keys give other random numbers than those of the selection.
        masked = apply_masks(original, selection, self.masking, self.tokenizer.mask_id, self._random_ids, ~keys)
        labels = {"masked_labels": original[selection.positions]}
        if self.pairs:
            labels["sentence_labels"] = np.array([each.sample.label for each in samples], dtype=np.int64)
        positions = selection.positions[is_real] if packed else selection.positions
        labels["masked_positions"] = np.flatnonzero(positions)
        to_tensors = to_packed_batch if packed else to_batch
        return {
            **to_tensors(masked, token_type_ids, lengths, **labels),
            "samples": np.stack([epochs, numbers], axis=1),
        }

    def _assemble(
        self, samples: Sequence[NumberedSample], max_seq_length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return ids (B, S), token types (B, S) and lengths (B,), with special tokens and padding."""
        seconds = [each.sample.second for each in samples]
        return assemble(
            [each.sample.first for each in samples],
            seconds if any(each is not None for each in seconds) else None,
            self.tokenizer.cls_id,
            self.tokenizer.sep_id,
            self.tokenizer.pad_id,
            max_seq_length,
        )


def _mask_keys(seed: int, epochs: NDArray[np.int64], numbers: NDArray[np.int64]) -> UInt64:
    """Return a key for each sample, (B,)."""
    keys = np.empty(len(numbers), dtype=np.uint64)
    for epoch in np.unique(epochs):
        of_epoch = epochs == epoch
        keys[of_epoch] = random_bits(derive_key(seed, int(epoch), "masking"), numbers[of_epoch])
    return keys
