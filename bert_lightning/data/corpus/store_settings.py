"""The sources and settings of a token store, and the check that a folder holds no other store."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from bert_lightning.checkpoints.files import sha256
from bert_lightning.checkpoints.listing import is_leftover
from bert_lightning.data.corpus.documents import CorpusFormat
from bert_lightning.data.corpus.section_tables import CHUNK_COUNTS, SECTIONS
from bert_lightning.data.corpus.token_store import MANIFEST, TOKEN_COUNTS
from bert_lightning.data.reading.hub import HUB, hub_revision
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import TOKENIZER_FILES, WordPieceTokenizer

# The file that holds the settings of a store until its manifest is written.
UNFINISHED = "unfinished.json"
# Temporary files that remain if the process is killed while it writes a file.
_TEMPORARY = re.compile(r"\..+\.(json|npy|txt|bin|tokens)\.\d+\.tmp")
# A shard or section, finished or not; those of the earlier format are folders.
_TOKENS = re.compile(r"\.*(shard-\d{5,}(\.tokens)?|section-\d{7,}\.tokens)(\..*)?")
_STORE_FILES = (MANIFEST, UNFINISHED, TOKEN_COUNTS, SECTIONS, CHUNK_COUNTS, *TOKENIZER_FILES)


class _Source(TypedDict):
    """One source: a file with its size and SHA-256, or a hub data set with its revision."""

    source: str
    layout: str
    bytes: NotRequired[int]
    sha256: NotRequired[str]
    revision: NotRequired[str | None]


class StoreSettings(TypedDict):
    """The sources and settings of a token store, as its manifest holds them."""

    language: str
    errors: str
    document_start: str | None
    lines_per_document: int | None
    text_column: str
    inputs: list[_Source]
    tokenizer: str


def store_settings(
    sources: Sequence[str], formats: Sequence[CorpusFormat], corpus: CorpusFormat, tokenizer: WordPieceTokenizer
) -> StoreSettings:
    """Return the sources and settings from which a store is made.

    Args:
        sources: files and hub names.
        formats: `corpus` with the layout of each source.
        corpus: settings for reading text.
        tokenizer: the tokenizer of the store.
    """
    return {
        "language": corpus.language,
        "errors": corpus.errors,
        "document_start": corpus.document_start,
        "lines_per_document": corpus.lines_per_document,
        "text_column": corpus.text_column,
        "inputs": [_describe(source, each.layout) for source, each in zip(sources, formats, strict=True)],
        "tokenizer": tokenizer.fingerprint,
    }


def refuse_other_content(output: Path, settings: StoreSettings) -> None:
    """Check that `output` is new, empty, or the same store, finished or not.

    Raises:
        InputError: `output` is a file, or a folder that holds something else.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise InputError(f"{output} is a file: choose another --output")
    record = next((output / name for name in (MANIFEST, UNFINISHED) if (output / name).is_file()), None)
    if record is not None:
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
            previous = cast(StoreSettings, content["settings"] if record.name == MANIFEST else content)
            difference = _difference(previous, settings)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise InputError(f"{record} is damaged: delete the folder, or choose another --output") from None
        if difference:
            raise InputError(f"{output} is a token store made from other {difference}: choose another --output")
    for item in output.iterdir():
        if is_leftover(item.name) and not item.name.startswith((".shard-", ".section-")):
            continue
        is_store_file = _TOKENS.fullmatch(item.name) is not None or item.name in _STORE_FILES
        # In a folder without such a record, the vocabulary belongs to a tokenizer and not to a store.
        if not (record is not None and is_store_file) and not is_unfinished_file(item.name):
            raise InputError(
                f"{output} holds {item.name}, which does not belong to a token store: choose another --output"
            )


def is_unfinished_file(name: str) -> bool:
    """Return whether a file name is that of a file that was being written when its process was killed.

    >>> is_unfinished_file(".manifest.json.4711.tmp"), is_unfinished_file("manifest.json")
    (True, False)
    """
    return _TEMPORARY.fullmatch(name) is not None


def _describe(source: str, layout: str) -> _Source:
    if source.startswith(HUB):
        return {"source": source, "layout": layout, "revision": hub_revision(source)}
    path = Path(source)
    return {"source": source, "bytes": path.stat().st_size, "sha256": sha256(path), "layout": layout}


def _difference(old: StoreSettings, new: StoreSettings) -> str | None:
    """Describe what has changed since a store was made; None if nothing has."""
    if old == new:
        return None
    if old["tokenizer"] != new["tokenizer"]:
        return "input: the vocabulary differs"
    old_contents, new_contents = ([_content(source) for source in each["inputs"]] for each in (old, new))
    if old_contents != new_contents:
        old_names = {source["source"] for source in old["inputs"]}
        for source, content in zip(new["inputs"], new_contents, strict=True):
            if content not in old_contents:
                return (
                    f"input: {source['source']} {'has changed since' if source['source'] in old_names else 'is new'}"
                )
        return "input: there are fewer sources, or they are in another order"
    changed = [name for name, value in new.items() if name != "inputs" and old.get(name) != value]
    return f"settings ({', '.join(changed)})" if changed else None


def _content(source: _Source) -> list[object]:
    """Return the identity of a source: the SHA-256 of a file, whatever its path, or the name of a hub data set."""
    content = source["sha256"] if "sha256" in source else [source["source"], source["revision"]]
    return [source["layout"], content]
