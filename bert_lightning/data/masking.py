"""Which tokens are hidden from the model, and what stands in their place."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.randomness import UInt64, uniforms


class Masking(Protocol):
    """A strategy: which of the candidates are to be predicted.

    Attributes:
        rate: share of a sequence's tokens, special ones counted, that is to be predicted.
        mask_share: of the chosen, how many become [MASK].
        random_share: of the chosen, how many become a random token; the rest stays as it is.
    """

    @property
    def rate(self) -> float:
        """See above."""
        ...

    @property
    def mask_share(self) -> float:
        """See above."""
        ...

    @property
    def random_share(self) -> float:
        """See above."""
        ...

    def select(self, candidates: NDArray[np.bool_], lengths: NDArray[np.int64], keys: UInt64) -> NDArray[np.bool_]:
        """(B, S) candidates, (B,) real lengths, (B,) keys of chance -> (B, S) chosen, a subset of the candidates."""
        ...


@dataclass(frozen=True)
class TokenMasking:
    """Single tokens, `max(1, round(rate * length))` a sequence.

    `create_pretraining_data.py: create_masked_lm_predictions`.

    Attributes:
        rate: share of tokens to predict; 0.15 in the paper, section 3.1.
        mask_share: 0.8 of them become [MASK].
        random_share: 0.1 of them become a random token.
    """

    rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"rate is {self.rate}; it must be between 0 and 1")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            raise ValueError(
                f"mask_share {self.mask_share} and random_share {self.random_share} must be shares of one"
            )

    def select(self, candidates: NDArray[np.bool_], lengths: NDArray[np.int64], keys: UInt64) -> NDArray[np.bool_]:
        """The candidates with the smallest random numbers, as many as the rate asks for."""
        chance = uniforms(keys[:, None], np.arange(candidates.shape[1])[None, :])
        chance[~candidates] = 2.0
        # np.rint rounds half to even, as Python 3's round does in the original.
        wanted = np.maximum(1, np.rint(self.rate * lengths)).astype(np.int64)
        wanted = np.minimum(wanted, candidates.sum(axis=1))
        ranks = chance.argsort(axis=1).argsort(axis=1)
        return ranks < wanted[:, None]


MASKINGS: dict[str, type] = {"token": TokenMasking}


def replace(
    input_ids: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    masking: Masking,
    mask_id: int,
    ordinary_ids: NDArray[np.int64],
    keys: UInt64,
) -> NDArray[np.int64]:
    """(B, S) ids -> (B, S) ids in which each chosen token draws for itself: [MASK], a random token, or as it was.

    Random tokens come from `ordinary_ids`, which leaves out the special ones.
    """
    positions = np.arange(input_ids.shape[1])[None, :]
    kind = uniforms(keys[:, None], positions)
    pick = uniforms(keys[:, None], positions + input_ids.shape[1])
    random_ids = ordinary_ids[(pick * len(ordinary_ids)).astype(np.int64)]
    replaced = np.where(kind < masking.mask_share, mask_id, input_ids)
    is_random = (kind >= masking.mask_share) & (kind < masking.mask_share + masking.random_share)
    replaced = np.where(is_random, random_ids, replaced)
    return np.where(chosen, replaced, input_ids)
