"""The known properties of one standard data set."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from bert_lightning.data.reading.lines import format_suffix
from bert_lightning.data.reading.tables import HUB

# Source and split -> examples; of which type, the task says.
Read = Callable[[str, str], Iterator[Any]]
Task = Literal[
    "text-classification", "token-classification", "question-answering", "multiple-choice", "relation-classification"
]
ProblemType = Literal["single-label", "multi-label", "regression"]


class Part(NamedTuple):
    """One file of a split."""

    name: str
    """Empty, or what tells it from the split's other parts: `matched`, `mismatched`, `diagnostics`."""
    files: tuple[str, ...]
    """Files or folders, relative to the data folder or to one of the set's `folders`; may be globs. The first that
    exists is taken."""
    hub: str | None
    """`hub:NAME:CONFIG:SPLIT`, or None where the hub has no such data set that is read without its code."""
    submission: str | None = None
    """Stem of the file that GLUE's server expects predictions in."""


@dataclass(frozen=True)
class StandardSet:
    """The known properties of a data set.

    Attributes:
        task: which task it is of.
        splits: `train`, `validation`, `test`, as far as published -> its parts.
        read: source and split -> its examples, one by one.
        monitor: the metric that decides.
        source: the paper that published it.
        labels: in the order of the field's ids; None where there are none or the training split decides.
        problem_type: of text classification; None for other tasks than classification.
        is_pair: whether an example is a pair of texts.
        scheme: of the tags: `IOB1`, `IOB2`, `none` for tags that mark no spans; None for other tasks.
        test_has_labels: whether the labels of the test split are public.
        negative_label: the relation that stands for none, which the official score leaves out.
        folders: folders below the data folder into which archives unpack the files; may be globs.
        other_forms: a file (may be a glob) of a published form that cannot be read -> the hint in the error message.
    """

    task: Task
    splits: Mapping[str, tuple[Part, ...]]
    read: Read
    monitor: str
    source: str
    labels: tuple[str, ...] | None = None
    problem_type: ProblemType | None = None
    is_pair: bool = False
    scheme: str | None = None
    test_has_labels: bool = True
    negative_label: str | None = None
    folders: tuple[str, ...] = ()
    other_forms: Mapping[str, str] = field(default_factory=dict)


def has_hub_columns(source: str) -> bool:
    """Whether columns are found by their names on the hub, not as the files were first published."""
    return source.startswith(HUB) or format_suffix(source) in (".jsonl", ".parquet")
