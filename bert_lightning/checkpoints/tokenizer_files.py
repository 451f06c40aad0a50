"""The tokenizer files of a folder: `vocab.txt` or `tokenizer.json`, and `tokenizer_config.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.files import write_json, write_text

VOCABULARY, SERIALIZED, SETTINGS = "vocab.txt", "tokenizer.json", "tokenizer_config.json"


@dataclass(frozen=True)
class Vocabulary:
    """What fixes how BERT's tokenizer reads text; names as in transformers' BertTokenizer.

    Attributes:
        entries: WordPiece entries in id order.
        lowercase: whether text is lower-cased first; None where the files do not say.
        strip_accents: whether accents are removed; None means where text is lower-cased, as in the original code.
        tokenize_chinese_chars: whether every CJK ideograph is a word of its own.
    """

    entries: tuple[str, ...]
    lowercase: bool | None = None
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool = True

    def looks_cased(self) -> bool:
        """Whether an entry beside the special ones holds a capital letter, as none of an uncased vocabulary does."""
        return any(entry != entry.lower() for entry in self.entries if not entry.startswith("["))


def read_vocabulary(path: Path) -> Vocabulary | None:
    """Read a folder's tokenizer files, or one vocabulary file with the settings beside it; None if there are none.

    Raises:
        CheckpointError: a file is damaged, or the tokenizer is no WordPiece.
    """
    folder = path if path.is_dir() else path.parent
    file = folder / VOCABULARY if path.is_dir() else path
    settings = read_json_object(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    serialized = _read_serialized(folder / SERIALIZED) if path.is_dir() and (folder / SERIALIZED).is_file() else None
    if file.is_file():
        entries = _read_entries(file)
    elif serialized is not None:
        entries = serialized.entries
    else:
        return None
    given = serialized or Vocabulary(entries)
    return Vocabulary(
        entries,
        settings.get("do_lower_case", given.lowercase),
        settings.get("strip_accents", given.strip_accents),
        settings.get("tokenize_chinese_chars", given.tokenize_chinese_chars),
    )


def write_vocabulary(vocabulary: Vocabulary, folder: Path, max_length: int | None = None) -> None:
    """Write `tokenizer_config.json` and `vocab.txt`; `max_length` is the longest sequence of the model."""
    settings: dict[str, Any] = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": vocabulary.lowercase is not False,
        "strip_accents": vocabulary.strip_accents,
        "tokenize_chinese_chars": vocabulary.tokenize_chinese_chars,
    }
    if max_length is not None:
        settings["model_max_length"] = max_length
    write_json(folder / SETTINGS, settings)
    write_text(folder / VOCABULARY, "".join(f"{entry}\n" for entry in vocabulary.entries))


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        CheckpointError: it is missing, damaged or something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: a JSON object is expected")
    return value


def _read_entries(file: Path) -> tuple[str, ...]:
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: byte {error.start} is not UTF-8") from None
    # Not splitlines(): a vocabulary may hold other line separators as entries.
    return tuple(text.replace("\r\n", "\n").removesuffix("\n").split("\n"))


def _read_serialized(file: Path) -> Vocabulary:
    """The vocabulary in a `tokenizer.json`, which is all that newer versions of transformers write."""
    content = read_json_object(file)
    model, normalizer = content.get("model") or {}, content.get("normalizer") or {}
    # Older files leave the type out.
    kind = model.get("type", "WordPiece")
    if kind != "WordPiece" or not isinstance(model.get("vocab"), dict):
        raise CheckpointError(f"{file} holds a {kind} tokenizer, but BERT's is WordPiece")
    ids = dict(model["vocab"])
    ids.update({token["content"]: token["id"] for token in content.get("added_tokens") or []})
    entries = sorted(ids, key=ids.__getitem__)
    if [ids[entry] for entry in entries] != list(range(len(entries))):
        raise CheckpointError(f"{file}: the ids of the vocabulary are not 0 to {len(entries) - 1}")
    if normalizer.get("type") != "BertNormalizer":
        return Vocabulary(tuple(entries))
    return Vocabulary(
        tuple(entries),
        normalizer.get("lowercase"),
        normalizer.get("strip_accents"),
        normalizer.get("handle_chinese_chars", True),
    )
