"""The standard data sets by name, and the files of their splits in a folder or on the hub."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from bert_lightning.checkpoints.listing import entries, matches
from bert_lightning.checks import nearest_or_own
from bert_lightning.data.datasets.glue import GLUE_SETS
from bert_lightning.data.datasets.question_sets import QUESTION_SETS
from bert_lightning.data.datasets.standard_set import SplitFile, StandardSet
from bert_lightning.data.datasets.tagged_sets import TAGGED_SETS
from bert_lightning.data.datasets.text_sets import TEXT_SETS
from bert_lightning.data.reading.lines import COMPRESSIONS
from bert_lightning.errors import InputError

STANDARD_SETS: dict[str, StandardSet] = {**GLUE_SETS, **TAGGED_SETS, **QUESTION_SETS, **TEXT_SETS}
# Files of a folder that an error message lists.
_MAX_LISTED = 20


def standard_set(name: str) -> StandardSet:
    """Return the standard data set of a name.

    Raises:
        InputError: there is none. The message suggests the nearest name.

    >>> standard_set("conll2003-ner").scheme
    'IOB1'
    >>> standard_set("GLUE/COLA")
    Traceback (most recent call last):
    bert_lightning.errors.InputError: no standard data set is called 'GLUE/COLA'; did you mean 'glue/cola'?
    """
    if name not in STANDARD_SETS:
        raise InputError(f"no standard data set is called {name!r}{nearest_or_own(name.lower(), STANDARD_SETS)}")
    return STANDARD_SETS[name]


def locate(name: str, split: str, folder: str | None = None) -> list[tuple[SplitFile, str]]:
    """Find the files of a split of a standard data set.

    Args:
        name: the name of the data set.
        split: `train`, `validation` or `test`.
        folder: the data folder; None for the hub. Its files may also be compressed (`.gz`, `.xz`, `.zst`).

    Returns:
        Each file of the split, and its source: a path or a name on the hub.

    Raises:
        InputError: there is no such data set or split, or the hub does not have it, or a file is missing. In the last
            case the message names the file and lists the folder.

    >>> locate("glue/cola", "train")[0][1]
    'hub:nyu-mll/glue:cola:train'
    """
    described = standard_set(name)
    if split not in described.splits:
        raise InputError(f"{name} has no {split} split; it has {', '.join(described.splits)}")
    return [
        (file, _without_folder(name, split, file) if folder is None else _in_folder(described, file, folder))
        for file in described.splits[split]
    ]


def _without_folder(name: str, split: str, file: SplitFile) -> str:
    if file.own is not None:
        return file.own
    if file.hub is None:
        raise InputError(f"{name}: the hub has no {split} split that can be read by name: give a folder")
    return file.hub


def _in_folder(described: StandardSet, file: SplitFile, folder: str) -> str:
    """Return the first file of a folder that has one of the names of a split's file.

    Raises:
        InputError: no file has, or several files match one name.
    """
    if not file.files:
        raise InputError(f"data.folder does nothing: functions yield the examples of {file.own}")
    try:
        path = Path(folder).expanduser()
    except RuntimeError as error:
        raise InputError(f"{folder}: {error}") from None
    if not path.is_dir():
        raise InputError(f"{folder}: no such folder")
    alternatives = (*file.files, *_hub_file_names(file))
    for pattern, subfolder, ending in product(alternatives, ("", *described.folders), ("", *COMPRESSIONS)):
        name = str(Path(subfolder, pattern + ending))
        files = matches(name, path) if "*" in name else [path / name]
        if len(files) > 1:
            several = ", ".join(str(match.relative_to(path)) for match in files)
            raise InputError(f"{folder}: more than one file is {pattern}: {several}")
        if files and files[0].exists():
            return str(files[0])
    raise InputError(_not_found(described, file, folder))


def _not_found(described: StandardSet, file: SplitFile, folder: str) -> str:
    path = Path(folder).expanduser()
    names = sorted(entry.name + "/" * entry.is_dir() for entry in entries(path))
    listing = ", ".join(names[:_MAX_LISTED]) + (
        f" and {len(names) - _MAX_LISTED} more" if names[_MAX_LISTED:] else ""
    )
    also = f", also in {', '.join(described.folders)}" if described.folders else ""
    hints = [hint for form, hint in described.other_forms.items() if matches(form, path)]
    hint = f"; {hints[0]}" if hints else ""
    return f"{folder}: {' or '.join(file.files)} was looked for{also}; the folder holds: {listing or 'nothing'}{hint}"


def _hub_file_names(file: SplitFile) -> Iterator[str]:
    """Yield the names of Parquet files that were downloaded from the hub or written by `datasets`."""
    if file.hub is not None:
        _, configuration, split = file.hub.rsplit(":", 2)
        yield from (f"{folder}{split}-*.parquet" for folder in (f"{configuration or 'default'}/", "data/", ""))
        yield from (f"{configuration or 'default'}/{split}/*.parquet", f"{split}.parquet", f"{split}.jsonl")
