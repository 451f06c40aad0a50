"""The tokenizer files of a folder: `vocab.txt` or `tokenizer.json`, and `tokenizer_config.json`."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.files import write_bytes, write_json, write_text

VOCABULARY, SERIALIZED, SETTINGS = "vocab.txt", "tokenizer.json", "tokenizer_config.json"
_ADDED = "added_tokens.json"
_FILES = (VOCABULARY, SERIALIZED, SETTINGS, _ADDED, "special_tokens_map.json")
# transformers' classes that read text as BERT does.
_CLASSES = ("BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
# What transformers calls special tokens beside BERT's, before version 5 and since.
_SPECIAL_KEYS = ("additional_special_tokens", "extra_special_tokens")
_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


@dataclass(frozen=True)
class Vocabulary:
    """What fixes how BERT's tokenizer reads text; names as in transformers' BertTokenizer.

    Attributes:
        entries: WordPiece entries in id order.
        lowercase: whether text is lower-cased first; None where the files do not say.
        strip_accents: whether accents are removed; None means where text is lower-cased, as in the original code.
        tokenize_chinese_chars: whether every CJK ideograph is a word of its own.
        special_tokens: entries beside BERT's five that are never split and never masked.
        obstacle: why no tokenizer of ours reads text as these files say; None if one does.
        originals: name and content of the files, where there is an obstacle: they are taken along as they are.
    """

    entries: tuple[str, ...]
    lowercase: bool | None = None
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool = True
    special_tokens: tuple[str, ...] = ()
    obstacle: str | None = None
    originals: tuple[tuple[str, bytes], ...] = ()

    def looks_cased(self) -> bool:
        """Whether an entry beside the special ones holds a capital letter, as none of an uncased vocabulary does."""
        return any(entry != entry.lower() for entry in self.entries if not entry.startswith("["))


def read_vocabulary(path: Path) -> Vocabulary | None:
    """Read a folder's tokenizer files, or one vocabulary file with the settings beside it; None if there are none.

    A tokenizer that is not BERT's, or has tokens added to it, is read with the `obstacle` that it is.

    Raises:
        CheckpointError: a file is damaged.
    """
    folder = path if path.is_dir() else path.parent
    file = folder / VOCABULARY if path.is_dir() else path
    settings = read_json_object(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    serialized = folder / SERIALIZED if path.is_dir() and (folder / SERIALIZED).is_file() else None
    found, obstacle = Vocabulary(()), None
    if serialized is not None:
        try:
            found, obstacle = _read_serialized(read_json_object(serialized))
        except (AttributeError, KeyError, TypeError) as error:
            raise CheckpointError(f"{serialized}: not the file of a tokenizer: {error}") from None
    if file.is_file():
        entries = _read_entries(file)
        if len(found.entries) > len(entries):
            obstacle = obstacle or f"{SERIALIZED} adds tokens to {VOCABULARY}"
    elif serialized is not None:
        entries = found.entries
    else:
        return None
    if (folder / _ADDED).is_file() and any(token not in entries for token in read_json_object(folder / _ADDED)):
        obstacle = obstacle or f"{_ADDED} adds tokens to {VOCABULARY}"
    values = {
        "lowercase": settings.get("do_lower_case", found.lowercase),
        "strip_accents": settings.get("strip_accents", found.strip_accents),
        "tokenize_chinese_chars": settings.get("tokenize_chinese_chars", found.tokenize_chinese_chars),
    }
    for name, value in values.items():
        if not isinstance(value, bool) and not (value is None and name != "tokenize_chinese_chars"):
            raise CheckpointError(f"{folder / SETTINGS}: {name} is {value!r}; expected true or false")
    special = _special_tokens(settings)
    if any(token not in entries for token in special):
        obstacle = obstacle or f"{SETTINGS} adds tokens to {VOCABULARY}"
    obstacle = obstacle or _obstacle(settings, entries)
    originals: tuple[tuple[str, bytes], ...] = ()
    if obstacle is not None and path.is_dir():
        originals = tuple((name, (folder / name).read_bytes()) for name in _FILES if (folder / name).is_file())
    return Vocabulary(entries, special_tokens=special, obstacle=obstacle, originals=originals, **values)


def write_vocabulary(vocabulary: Vocabulary, folder: Path, max_length: int | None = None) -> None:
    """Write `tokenizer_config.json` and `vocab.txt`, and remove tokenizer files of before that would contradict them.

    `max_length` is the longest sequence of the model. A tokenizer that is not ours is written as it was read.
    """
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    if vocabulary.obstacle is not None:
        for name, content in vocabulary.originals:
            write_bytes(folder / name, content)
        return
    settings: dict[str, Any] = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": vocabulary.lowercase is not False,
        "strip_accents": vocabulary.strip_accents,
        "tokenize_chinese_chars": vocabulary.tokenize_chinese_chars,
    }
    if vocabulary.special_tokens:
        settings[_SPECIAL_KEYS[0]] = list(vocabulary.special_tokens)
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
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        # Half of a surrogate pair can be escaped in JSON, but not written again.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, OSError, RecursionError) as error:
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
    text = text.replace("\r\n", "\n")
    # Where no line ends in LF, lines end in CR.
    end = "\n" if "\n" in text else "\r"
    return tuple(text.removesuffix(end).split(end))


def _read_serialized(content: dict[str, Any]) -> tuple[Vocabulary, str | None]:
    """The vocabulary in a `tokenizer.json`, and what of it is not BERT's."""
    model, normalizer = content.get("model") or {}, content.get("normalizer") or {}
    # Older files leave the type out.
    kind = model.get("type", "WordPiece")
    if kind != "WordPiece" or not isinstance(model["vocab"], dict):
        return Vocabulary(()), f"{SERIALIZED} holds a {kind} tokenizer, but BERT's is WordPiece"
    ids = dict(model["vocab"])
    added = {token["content"]: token["id"] for token in content.get("added_tokens") or []}
    new = sorted(token for token in added if token not in ids)
    ids |= added
    entries = tuple(sorted(ids, key=ids.__getitem__))
    obstacle = f"{new[0]!r} was added to the vocabulary" if new else None
    if [ids[entry] for entry in entries] != list(range(len(entries))):
        obstacle = f"the ids in {SERIALIZED} are not 0 to {len(entries) - 1}"
    for name, value, expected in (
        ("normalizer", normalizer.get("type"), "BertNormalizer"),
        ("pre_tokenizer", (content.get("pre_tokenizer") or {}).get("type"), "BertPreTokenizer"),
        ("unk_token", model.get("unk_token", "[UNK]"), "[UNK]"),
        ("continuing_subword_prefix", model.get("continuing_subword_prefix", "##"), "##"),
    ):
        if value != expected:
            obstacle = f"its {name} is {value!r}, but BERT's is {expected!r}"
    found = Vocabulary(entries)
    if normalizer.get("type") == "BertNormalizer":
        found = dataclasses.replace(
            found,
            lowercase=normalizer.get("lowercase"),
            strip_accents=normalizer.get("strip_accents"),
            tokenize_chinese_chars=normalizer.get("handle_chinese_chars", True),
        )
    return found, obstacle


def _special_tokens(settings: dict[str, Any]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for key in _SPECIAL_KEYS:
        tokens = settings.get(key) or []
        for token in tokens.values() if isinstance(tokens, dict) else tokens:
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str) and text not in _SPECIAL.values():
                found[text] = None
    return tuple(found)


def _obstacle(settings: dict[str, Any], entries: tuple[str, ...]) -> str | None:
    """What of `tokenizer_config.json` and the entries is not BERT's."""
    name = settings.get("tokenizer_class") or "BertTokenizer"
    if name not in _CLASSES:
        return f"its class is {name}, but BERT's is BertTokenizer"
    for role, expected in _SPECIAL.items():
        token = settings.get(f"{role}_token") or expected
        token = token.get("content") if isinstance(token, dict) else token
        if token != expected:
            return f"its {role}_token is {token!r}, but BERT's is {expected!r}"
    added = settings.get("added_tokens_decoder") or {}
    if isinstance(added, dict):
        for token in added.values():
            text = token.get("content") if isinstance(token, dict) else token
            if text not in entries:
                return f"{text!r} was added to the vocabulary"
    broken = next((entry for entry in entries if "\n" in entry or "\r" in entry), None)
    return f"the entry {broken!r} holds a line break" if broken is not None else None
