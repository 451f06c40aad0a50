"""Data sets of the Hugging Face hub: `hub:NAME[@REVISION][:CONFIG[:SPLIT]]`."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bert_lightning.data.reading.class_names import with_class_names
from bert_lightning.errors import InputError

HUB = "hub:"


class HubSource(NamedTuple):
    """The fields of a source that begins with `hub:`."""

    name: str
    revision: str | None
    config: str | None
    split: str


def parse_hub_source(source: str) -> HubSource:
    """Split `hub:NAME[@REVISION][:CONFIG[:SPLIT]]` into its fields.

    Raises:
        InputError: there is no name, or there are more fields.

    >>> parse_hub_source("hub:nyu-mll/glue@main:cola")
    HubSource(name='nyu-mll/glue', revision='main', config='cola', split='train')
    """
    name, *rest = source.removeprefix(HUB).split(":")
    name, _, revision = name.partition("@")
    if not name:
        raise InputError(f"{source} names no data set; hub:NAME[@REVISION][:CONFIG[:SPLIT]] is expected")
    if len(rest) > 2:
        raise InputError(f"{source} has {len(rest) + 1} fields; hub:NAME[@REVISION][:CONFIG[:SPLIT]] is expected")
    config = rest[0] if rest and rest[0] else None
    return HubSource(name, revision or None, config, rest[1] if len(rest) > 1 else "train")


def hub_revision(source: str) -> str | None:
    """Return the commit at which a hub source is read; None for a folder.

    If the hub does not answer, return the revision that the source names, or None if it names none.
    """
    import huggingface_hub

    name, revision, _, _ = parse_hub_source(source)
    if Path(name).exists():
        return None
    try:
        sha: str | None = huggingface_hub.HfApi().dataset_info(name, revision=revision, timeout=10).sha
    except Exception:
        # Without a network the data may still be cached. Only the commit is then unknown.
        return revision
    return sha


def read_hub(source: str) -> Iterator[dict[str, object]]:
    """Stream the rows of a hub data set, with classes as names.

    Raises:
        InputError: the data set cannot be loaded.
    """
    import datasets

    name, revision, config, split = parse_hub_source(source)
    # Any error here means that the data set is not available: no network, no such name, a refused script.
    try:
        rows = datasets.load_dataset(name, config, split=split, revision=revision, streaming=True)
        features = dict(rows.features or {})
        for values in rows:
            yield with_class_names(values, features)
    except InputError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{source}: the data set cannot be loaded: {reason}") from None
