"""The description of one standard data set."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

from bert_lightning.data.reading.hub import HUB
from bert_lightning.data.reading.lines import format_suffix

T = TypeVar("T")
# Source and split -> examples. The task of the set decides their type.
Read = Callable[[str, str], Iterator[Any]]
ProblemType = Literal["single-label", "multi-label", "regression"]


class SplitFile(NamedTuple):
    """One file of a split. A split of several files has one subset per file."""

    subset: str
    """The subset of the split that it holds (`matched`, `mismatched`, `diagnostics`); empty if there is none."""
    files: tuple[str, ...]
    """Its names in different publications: files or folders, relative to the data folder or to one of the set's
    `folders`. They may be globs. The first one that exists is read."""
    hub: str | None
    """`hub:NAME:CONFIG:SPLIT`; None if the hub has no such data set, or only one that must run its own code."""
    submission: str | None = None
    """The stem of the file in which GLUE's server expects predictions."""
    own: str | None = None
    """Of a registered data set: the source without `data.folder`, a path or the name of a function."""


@dataclass(frozen=True)
class StandardSet:
    """A standard data set: its files, labels and metric.

    Attributes:
        task: its task.
        splits: `train`, `validation` and `test`, if published -> the files.
        read: source and split -> its examples, one by one.
        monitor: the metric that selects the best checkpoint.
        source: the paper that published it.
        labels: in the customary order of their ids; None if there are none or the training split decides.
        problem_type: of a classification; None for other tasks.
        is_pair: whether an example is a pair of texts.
        scheme: the scheme of the tags: `IOB1`, `IOB2`, or `none` for tags that mark no spans; None for other tasks.
        test_has_labels: whether the labels of the test split are public.
        negative_label: the label for "no relation", which the official score leaves out.
        folders: folders below the data folder into which archives unpack the files. They may be globs.
        other_forms: a file or glob of a published form that cannot be read -> the hint in the error message.
        registered: it is a custom data set.
        reads_columns: its files are read as custom ones are, so the keys of their columns count.
    """

    task: str
    splits: Mapping[str, tuple[SplitFile, ...]]
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
    registered: bool = False
    reads_columns: bool = False


def has_hub_columns(source: str) -> bool:
    """Return whether a source has the columns of the hub by name, and not the form in which it was first published.

    >>> [has_hub_columns(source) for source in ("hub:stanfordnlp/imdb", "train.parquet", "train.tsv")]
    [True, True, False]
    """
    return source.startswith(HUB) or format_suffix(source) in (".jsonl", ".parquet")


def one_file_splits(files: Mapping[str, Sequence[str]], hub: str | None) -> dict[str, tuple[SplitFile, ...]]:
    """Describe splits of one file each.

    Args:
        files: split -> the names of its file.
        hub: the source on the hub without the name of the split; None if it is not there.
    """
    return {
        split: (SplitFile("", tuple(alternatives), None if hub is None else f"{hub}:{split}"),)
        for split, alternatives in files.items()
    }


def ignoring_split(read: Callable[[str], Iterator[T]], source: str, split: str) -> Iterator[T]:
    """Read a source whose form does not depend on the split. With `read` bound, this has the signature of `Read`."""
    return read(source)
