"""The choice of a few training examples per class, the same for every task that reads labelled texts."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.errors import InputError

PUBLISHED_SEEDS = (13, 21, 42, 87, 100)
"""The seeds of the five splits of LM-BFF (Gao et al. 2021, arXiv 2012.15723), in `tools/generate_k_shot_data.py`"""


def few_shot(
    examples: Sequence[LabelledText], per_class: int, seed: int, *, source: str, key: str, skipped: int = 0
) -> list[LabelledText]:
    """Return `per_class` examples of each class, as a pure function of the examples and the seed.

    The choice is that of LM-BFF (`generate_k_shot_data.py`). It shuffles all rows with numpy's legacy generator
    (`RandomState`). Then it takes the first rows of each class, in the order in which the classes first occur. Its
    validation rows are the next rows of each class; `skipped` selects them.

    Args:
        examples: all examples of the training file, in its order, each with one label.
        per_class: the number of examples of each class.
        seed: that of the split, such as one of `PUBLISHED_SEEDS`.
        source: the file that an error names.
        key: the setting that an error names.
        skipped: how many examples of each class are left out before the chosen ones.

    Raises:
        InputError: a class has fewer examples.

    >>> rows = [LabelledText("", text, None, label, "") for text, label in zip("abcdef", "001101")]
    >>> [row.text for row in few_shot(rows, 2, 13, source="train.tsv", key="data.examples_per_class")]
    ['b', 'e', 'd', 'f']
    """
    order = list(range(len(examples)))
    np.random.RandomState(seed).shuffle(order)
    by_class: dict[str, list[LabelledText]] = {}
    for number in order:
        by_class.setdefault(str(examples[number].label), []).append(examples[number])
    return list(_chosen(by_class, per_class, skipped, source, key))


def _chosen(
    by_class: dict[str, list[LabelledText]], per_class: int, skipped: int, source: str, key: str
) -> Iterator[LabelledText]:
    for label, of_class in by_class.items():
        if len(of_class) < skipped + per_class:
            beside = f" beside the {skipped} to train on" if skipped else ""
            raise InputError(
                f"{key} is {per_class}{beside}, but {source} has only {len(of_class)} examples of the class {label!r}"
            )
        yield from of_class[skipped : skipped + per_class]


def with_seed_of_split(settings: Any, seed: int) -> Any:
    """Return data settings in which `examples_seed` is that of the run, if examples are chosen and it is not set."""
    if getattr(settings, "examples_per_class", None) is None or settings.examples_seed is not None:
        return settings
    return replace(settings, examples_seed=seed)
