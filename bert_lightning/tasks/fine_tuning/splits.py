"""The examples of a split, its subsets, and the sequences that examples become."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.loading.batching import Batch
from bert_lightning.errors import InputError


class AnyExample(Protocol):
    """An example of any task: a named tuple with a location."""

    @property
    def location(self) -> str:
        """File and line, as an error names them."""

    def _asdict(self) -> dict[str, object]: ...


Example = TypeVar("Example", bound=AnyExample)


class Subset(NamedTuple):
    """A named portion of a split that is scored by itself."""

    name: str
    start: int
    """number of its first example"""
    stop: int
    """number of its last example, plus 1"""
    submission: str | None = None
    """the file of the GLUE submission that its predictions go to, without `.tsv`"""

    @property
    def examples(self) -> slice:
        """The examples of the split that belong to it."""
        return slice(self.start, self.stop)

    @property
    def prefix(self) -> str:
        """The beginning of its metrics' names.

        >>> Subset("mismatched", 9815, 19647).prefix
        'mismatched_'
        >>> Subset("matched", 0, 9815).prefix
        ''
        """
        return f"{self.name}_" if self.name and self.start else ""


class SplitExamples(NamedTuple, Generic[Example]):
    """All examples of a split, the subset that each belongs to, and the first source."""

    examples: list[Example]
    subsets: list[Subset]
    source: str


class EncodedSplit(ABC, Generic[Example]):
    """Examples of a split and the sequences that they become: one per example, or one per window.

    Attributes:
        examples: in the order of the source.
        subsets: the portions that are scored by themselves.
        lengths: (sequences,) tokens of each sequence.
    """

    def __init__(self, examples: Sequence[Example], subsets: Sequence[Subset] | None = None) -> None:
        self.examples = examples
        self.subsets = list(subsets) if subsets is not None else [Subset("", 0, len(examples))]

    lengths: NDArray[np.int64]

    @cached_property
    def by_length(self) -> NDArray[np.int64]:
        """The numbers of the sequences, short ones first."""
        return np.argsort(self.lengths, kind="stable")

    @property
    @abstractmethod
    def is_labelled(self) -> bool:
        """Whether the examples have gold labels, so that they can be scored."""

    @property
    def owners(self) -> NDArray[np.int64]:
        """(sequences,) the number of the example of each sequence; by default, an example is one sequence."""
        return np.arange(len(self.examples))

    def part(self, numbers: NDArray[np.int64]) -> Self:
        """Return the split with these examples alone. Each keeps the sequences that it has here.

        A subclass adds what it keeps per example or per sequence. A subset without an example stays and is empty.

        Args:
            numbers: the numbers of the examples, ascending.
        """
        part = copy(self)
        part.__dict__.pop("by_length", None)
        part.examples = [self.examples[number] for number in numbers.tolist()]
        part.subsets = [
            Subset(each.name, int((numbers < each.start).sum()), int((numbers < each.stop).sum()))
            for each in self.subsets
        ]
        part.lengths = self.lengths[self.sequences_of(numbers)]
        return part

    def sequences_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of the sequences of some examples, in the order of the examples."""
        owners = self.owners
        by_owner = np.argsort(owners, kind="stable")
        first = np.searchsorted(owners[by_owner], numbers)
        stop = np.searchsorted(owners[by_owner], numbers, side="right")
        ranges = [by_owner[start:end] for start, end in zip(first, stop, strict=True)]
        return np.concatenate(ranges) if ranges else np.zeros(0, dtype=np.int64)

    @abstractmethod
    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        """Return the sequences with these numbers as tensors, with labels if the split has them."""

    def training_batch(self, numbers: NDArray[np.int64], seed: int, step: int) -> Batch:
        """Return sequences for a step of a training, in which they may differ from step to step."""
        return self.batch(numbers)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the examples, without their locations."""
        digest = hashlib.sha256()
        for example in self.examples:
            # Manifests hold this digest, so its form never changes. Earlier versions called the location `place`.
            values = {"place" if name == "location" else name: value for name, value in example._asdict().items()}
            text = ", ".join(f"{name}={value!r}" for name, value in {**values, "place": ""}.items())
            digest.update(f"{type(example).__name__}({text})".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def check_all_or_none(
    examples: Sequence[AnyExample], split: str, item: str, label: str, *, attribute: str = "label", hint: str = ""
) -> None:
    """Check that all examples of a split have a label, or in a test split that either all or none have one.

    Args:
        examples: the examples of one split.
        split: train, validation or test.
        item: the name of an example in messages.
        label: the name of its label in messages.
        attribute: the attribute that holds the label, or None if the source has none.
        hint: added to the message about an example without a label: how to name where the labels are.

    Raises:
        InputError: labels are missing; the message names the first example without one, or the first that differs.
    """
    labelled = getattr(examples[0], attribute) is not None
    if split != "test" and not labelled:
        raise InputError(f"{examples[0].location}: this {item} has no {label}{hint}")
    for example in examples:
        if (getattr(example, attribute) is not None) != labelled:
            raise InputError(
                f"{example.location}: this {item} has {'no' if labelled else 'a'} {label}, unlike the first"
            )


def number_labels(
    examples: Sequence[AnyExample], labels: Sequence[str], attribute: str = "label"
) -> NDArray[np.int64]:
    """Return the (n,) id of each example's one label.

    Raises:
        InputError: a label is not one of training; the message names its location.
    """
    ids = {label: number for number, label in enumerate(labels)}
    return np.array([label_id(ids, example, getattr(example, attribute)) for example in examples], dtype=np.int64)


def label_id(ids: dict[str, int], example: AnyExample, label: str) -> int:
    """Return the id of a label.

    Raises:
        InputError: the label is not one of training; the message names the example's location.
    """
    if label not in ids:
        raise InputError(
            f"{example.location}: the label {label!r} does not occur in training; known: {', '.join(ids)}"
        )
    return ids[label]
