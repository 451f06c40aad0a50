"""The sources of each split: the user's files, or those of a standard data set."""

from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from bert_lightning.data.datasets.catalogue import locate
from bert_lightning.data.datasets.standard_set import StandardSet
from bert_lightning.data.reading.lines import format_suffix, is_compressed
from bert_lightning.errors import InputError
from bert_lightning.tasks.fine_tuning.settings import FineTuningData


class SubsetSource(NamedTuple):
    """The source of one subset of a split. Only some standard data sets have several subsets per split."""

    name: str
    """name of the subset, such as `mismatched`; empty for the first or only one"""
    source: str
    layout: str
    """the split whose columns the file has: GLUE's test files have other columns than the rest"""
    submission: str | None = None
    """the file of the GLUE submission that its predictions go to, without `.tsv`"""


def subset_sources(settings: FineTuningData, split: str | None) -> dict[str, list[SubsetSource]]:
    """Return split -> its sources: of the one split that is scored, or of training and validation if that is None.

    Raises:
        InputError: the split is neither set nor found.
    """
    first, *rest = ("train", "validation") if split is None else (split,)
    sources: dict[str, list[SubsetSource]] = {}
    for name in (first, *rest):
        path: str | None = getattr(settings, name)
        standard = settings.standard
        if path is not None:
            sources[name] = [_named_source(standard, settings.dataset, name, path)]
        elif standard is not None and (name == first or name in standard.splits):
            located = locate(str(settings.dataset), name, settings.folder)
            sources[name] = [SubsetSource(file.subset, source, name, file.submission) for file, source in located]
        elif name == first:
            raise InputError(f"data.{name} is not set: name it with --data.{name} PATH")
    return sources


def _named_source(standard: StandardSet | None, dataset: str | None, split: str, source: str) -> SubsetSource:
    """Return the source that a setting names: a custom file, or a file of any split of a standard data set.

    Raises:
        InputError: the name of the file does not show which columns of the standard data set it has.
    """
    if standard is None:
        return SubsetSource("", source, split)
    name = Path(source).stem if is_compressed(source) else Path(source).name
    for layout, files in standard.splits.items():
        for file in files:
            if source == file.hub or any(
                fnmatch(name.removesuffix(Path(published).suffix), Path(published).stem) for published in file.files
            ):
                return SubsetSource("", source, layout, file.submission if layout == "test" else None)
    if not standard.test_has_labels and format_suffix(source) == ".tsv":
        published_names = ", ".join(Path(file.files[0]).name for files in standard.splits.values() for file in files)
        raise InputError(
            f"{source}: the columns of {dataset} depend on the file, and this name is none of {published_names}; "
            "leave data.dataset out to name columns"
        )
    return SubsetSource("", source, split)
