"""Random numbers for the embeddings of sequences, as a pure function of seed, step and the tokens of a sequence.

So they do not depend on the micro-batch or process that computes a sequence, nor on padding or packing. The numbers
come from the finaliser of SplitMix64, as in `data/loading/randomness.py`, but on the device of the batch.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.randomness import derive_key
from bert_lightning.methods.adversarial.perturbations import real_tokens_of


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


# Those of SplitMix64 (Steele, Lea, Flood 2014), as 64-bit integers with a sign, whose products wrap around.
_INCREMENT = _signed(0x9E3779B97F4A7C15)
_MULTIPLIERS = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


class Noise:
    """A source of noise that differs between steps. It is a `StepPart`: `begin_step` gives it the step."""

    def __init__(self) -> None:
        self._key = 0

    @property
    def modules(self) -> Sequence[str]:
        """None: there is no state."""
        return ()

    def configure(self) -> None:
        """Do nothing: there is no state."""

    def begin_step(self, step: int, num_steps: int, seed: int) -> None:
        """Draw other numbers than in the steps before."""
        self._key = _signed(derive_key(seed, "perturbation", step))

    def uniform(self, batch: Batch, width: int) -> Tensor:
        """Return numbers between -1 and 1, both excluded, in float64: (..., S, width), or packed (T, width)."""
        keys = self._keys_of_tokens(batch)
        features = torch.arange(1, width + 1, device=keys.device) * _INCREMENT
        bits = _mixed(keys[..., None] + features)
        # With 53 bits, the largest number would be rounded to 1.
        return ((bits >> 12 & (1 << 52) - 1) + 0.5) * 2.0**-51 - 1

    def normal(self, batch: Batch, width: int) -> Tensor:
        """Return numbers of the standard normal distribution in float64: (..., S, width), or packed (T, width)."""
        return math.sqrt(2) * torch.erfinv(self.uniform(batch, width))

    def _keys_of_tokens(self, batch: Batch) -> Tensor:
        """Return 64 bits for each token, of the shape of `input_ids`: a hash of its sequence and its position."""
        ids, packing = batch["input_ids"], batch.get("packing")
        if packing is None:
            real = real_tokens_of(batch).long()
            positions = real.cumsum(-1)
        else:
            positions = packing.positions(len(ids)) + 1
        tokens = _mixed(self._key + positions * _INCREMENT) ^ _mixed(ids * 2 + batch["token_type_ids"])
        tokens = _mixed(tokens)
        if packing is None:
            sequences = (tokens * real).sum(-1, keepdim=True)
        else:
            numbers = packing.sequence_numbers(len(ids))
            sums = tokens.new_zeros(packing.num_sequences).index_add_(0, numbers, tokens)
            sequences = sums[numbers]
        return _mixed(_mixed(sequences) + positions * _INCREMENT)


def _mixed(state: Tensor) -> Tensor:
    """Apply the finaliser of SplitMix64 to 64-bit integers."""
    state = (state ^ _shifted(state, 30)) * _MULTIPLIERS[0]
    state = (state ^ _shifted(state, 27)) * _MULTIPLIERS[1]
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Shift to the right and fill with zeros; torch fills with the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
