"""Demonstrations: training examples with their answers, appended to the text that is asked about.

Gao et al. 2021 (LM-BFF), arXiv 2012.15723, section 6: one example of each class, drawn anew at each training step.
The demonstrations form the second segment, each after a [SEP]. An evaluated text gets one draw or several. Each draw
depends only on the text and on the number of the draw. The paper draws only among the examples that are most similar
to the text. That is not done here.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.loading.randomness import derive_key, random_bits
from bert_lightning.errors import InputError


class Demonstrations:
    """The examples that can be appended, by their class.

    Args:
        examples: the training examples.
        labels: all labels, in the order of their ids.
        pieces: the pieces of each example's pattern with its answer, without special tokens.

    Raises:
        InputError: a class has fewer than two examples, so one of them could only be appended to itself.
    """

    def __init__(
        self, examples: Sequence[LabelledText], labels: Sequence[str], pieces: Sequence[Sequence[int]]
    ) -> None:
        self.pieces = [list(each) for each in pieces]
        numbers = [labels.index(str(example.label)) for example in examples]
        self.by_class = [np.flatnonzero(np.array(numbers) == label) for label in range(len(labels))]
        for label, of_class in zip(labels, self.by_class, strict=True):
            if len(of_class) < 2:
                raise InputError(
                    f"data.demonstrations needs two examples of each class, and there is {len(of_class)} of {label!r}"
                )

    def drawn(self, keys: Sequence[int], own: Sequence[int | None]) -> NDArray[np.int64]:
        """Return (n, L) the numbers of the examples that n texts get, one of each class.

        Args:
            keys: a random key of each text.
            own: the number of the text itself among the examples, which is never drawn; None if it is none of them.
        """
        columns = []
        for label, of_class in enumerate(self.by_class):
            bits = np.array([random_bits(key, np.array([label]))[0] for key in keys], dtype=np.uint64)
            places = [np.flatnonzero(of_class == number) for number in own]
            sizes = np.array([len(of_class) - len(place) for place in places], dtype=np.uint64)
            chosen = (bits % sizes).astype(np.int64)
            # The places after the text itself move up by one.
            skipped = [len(place) > 0 and at >= place[0] for place, at in zip(places, chosen, strict=True)]
            columns.append(of_class[chosen + np.array(skipped, dtype=np.int64)])
        return np.stack(columns, axis=1)

    def appended(self, second: list[int] | None, drawn: Sequence[int], sep_id: int) -> list[int]:
        """Return a second segment with the drawn examples after it, each after a [SEP]."""
        parts = [*([second] if second is not None else []), *(self.pieces[number] for number in drawn)]
        return [piece for number, part in enumerate(parts) for piece in ([sep_id] if number else []) + part]


def key_of(example: LabelledText, draw: int = 0) -> int:
    """Return the key of a draw for an evaluated text, a function of the text and the number of the draw."""
    return derive_key("demonstrations", example.text, example.text_pair, *([draw] if draw else []))


def keys_of_step(seed: int, step: int, numbers: Sequence[int]) -> list[int]:
    """Return the key of each text of a training step."""
    return [derive_key(seed, step, number, "demonstrations") for number in numbers]
