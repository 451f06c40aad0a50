"""The tokenizer files of a folder: `vocab.txt` or `tokenizer.json`, and `tokenizer_config.json`.

Where files disagree, transformers 5 decides which one counts (`tokenization_utils_base.py: _from_pretrained`,
`models/bert/tokenization_bert.py`). `docs/checkpoints.md` lists every setting and its effect.
"""

import dataclasses
import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.files import refuse_pointer, write_bytes, write_json, write_text
from bert_lightning.checkpoints.tokenizers.added_tokens import (
    ADDED,
    BERT_TOKENS,
    EXTRA_BEFORE,
    SETTINGS,
    SPECIAL_MAP,
    TokenFiles,
    gather_tokens,
    has_decoder,
    token_obstacles,
)
from bert_lightning.checkpoints.tokenizers.serialized_tokenizer import (
    BLANKS,
    SERIALIZED,
    SerializedTokenizer,
    parse_serialized,
)

log = logging.getLogger(__name__)

VOCABULARY = "vocab.txt"
_MODEL_SETTINGS = "config.json"
_FILES = (VOCABULARY, SERIALIZED, SETTINGS, ADDED, SPECIAL_MAP)
# transformers' classes that read text as BERT does. The first ones build BERT's tokenizer from the settings; the
# others use `tokenizer.json` unchanged.
_BUILT = tuple(f"{family}Tokenizer{kind}" for family in ("Bert", "Electra", "MobileBert") for kind in ("", "Fast"))
_UNCHANGED = ("PreTrainedTokenizerFast", "TokenizersBackend")
_NUM_NAMED = 3
_ASCII_CAPITAL = re.compile("[A-Z]")
_ASCII_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")


@dataclass(frozen=True)
class Vocabulary:
    """The settings that fix how BERT's tokenizer reads text; names as in transformers' BertTokenizer.

    Attributes:
        entries: WordPiece entries in id order; empty at an id that has no entry.
        lowercase: whether text is lower-cased first; None if the files do not say.
        strip_accents: whether accents are removed; None removes them if text is lower-cased, as in the original code.
        tokenize_chinese_chars: whether every CJK ideograph is a separate word.
        special_tokens: entries besides BERT's five that are never split and never masked.
        obstacle: the reason why our tokenizer cannot read text as these files require; None if it can.
        originals: name and content of the files if there is an obstacle; they are written unchanged.
    """

    entries: tuple[str, ...]
    lowercase: bool | None = None
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool = True
    special_tokens: tuple[str, ...] = ()
    obstacle: str | None = None
    originals: tuple[tuple[str, bytes], ...] = ()

    def capital(self) -> str | None:
        """Return an entry whose capital letter shows that the vocabulary is cased; None if there is none.

        Special tokens do not count, nor do entries with punctuation among letters, which no word of a text equals:
        the uncased Chinese BERT holds `<S>` and `<T>`. ASCII capitals count only if at least one entry in a thousand
        has one, because people put names into unused entries. An uncased vocabulary of many languages may hold a few
        letters that newer versions of Unicode call capital. Outside ASCII, capitals therefore count only if at least
        one entry in a hundred has one.
        """
        special = set(self.special_tokens)
        capitals = [
            entry
            for entry in self.entries
            if entry != entry.lower()
            and not _ASCII_PUNCTUATION.search(entry.removeprefix("##"))
            and entry not in special
        ]
        plain = [entry for entry in capitals if _ASCII_CAPITAL.search(entry)]
        if plain and 1000 * len(plain) >= len(self.entries):
            return plain[0]
        return capitals[0] if capitals and 100 * len(capitals) >= len(self.entries) else None

    def looks_cased(self) -> bool:
        """Return whether an entry shows that the vocabulary is cased."""
        return self.capital() is not None


def read_vocabulary(path: Path) -> Vocabulary | None:
    """Read a folder's tokenizer files, or a vocabulary file and the settings next to it; None if there are none.

    If the tokenizer is not BERT's, or has added tokens, `obstacle` is set. Settings that contradict those in use are
    warned about.

    Raises:
        CheckpointError: a file is damaged.
    """
    folder = path if path.is_dir() else path.parent
    file = folder / VOCABULARY if path.is_dir() else path
    content = _read_optional(folder / SERIALIZED) if path.is_dir() else None
    if content is None and not file.is_file():
        return None
    settings = _read_optional(folder / SETTINGS) or {}
    named = settings.get("tokenizer_class") or (_read_optional(folder / _MODEL_SETTINGS) or {}).get("tokenizer_class")
    try:
        serialized = parse_serialized(content) if content is not None else None
    except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        raise CheckpointError(f"{folder / SERIALIZED}: not the file of a tokenizer: {error}") from None
    unchanged = serialized is not None and named in _UNCHANGED
    entries = serialized.entries if serialized is not None else ()
    if not entries and file.is_file():
        entries = _read_entries(file)
    vocabulary = Vocabulary(entries, *_casing(settings, serialized, folder, unchanged=unchanged))
    smaller = [{} if has_decoder(settings) else _read_optional(folder / name) or {} for name in (SPECIAL_MAP, ADDED)]
    files = TokenFiles(settings, smaller[0], content or {}, smaller[1])
    try:
        tokens = gather_tokens(files, unchanged=unchanged)
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / SETTINGS}: not the settings of a tokenizer: {error}") from None
    obstacles = [
        *_obstacles(settings, named),
        *(serialized.faults if serialized is not None else ()),
        *(serialized.differences if serialized is not None and unchanged else ()),
        *token_obstacles(files, tokens, entries, unchanged=unchanged),
    ]
    if obstacles:
        originals = _originals(folder, settings, named) if path.is_dir() else ()
        return dataclasses.replace(vocabulary, obstacle=obstacles[0], originals=originals)
    _warn_of_unused(vocabulary, settings, serialized, folder, unchanged=unchanged)
    return dataclasses.replace(vocabulary, special_tokens=tuple(t for t in tokens if t not in BERT_TOKENS.values()))


def with_casing(vocabulary: Vocabulary, path: Path) -> Vocabulary:
    """Decide whether text is lower-cased if the files do not say: it is, unless the vocabulary looks cased.

    transformers would always lower-case, and then never find an entry with a capital letter. The difference is warned
    about.
    """
    if vocabulary.lowercase is not None or vocabulary.obstacle is not None:
        return vocabulary
    capital = vocabulary.capital()
    if capital is not None:
        log.warning(
            "%s: no file says whether text is lower-cased, but the vocabulary holds capital letters (%r). Text keeps "
            "its case and accents here; transformers would lower-case it. do_lower_case in %s decides for both",
            path,
            capital,
            SETTINGS,
        )
    return dataclasses.replace(vocabulary, lowercase=capital is None)


def write_vocabulary(vocabulary: Vocabulary, folder: Path, max_length: int | None = None) -> None:
    """Write `tokenizer_config.json` and `vocab.txt`, and remove older tokenizer files that would contradict them.

    `max_length` is the longest sequence of the model. A tokenizer that is not ours is written as it was read.
    """
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    if vocabulary.obstacle is not None:
        for name, content in vocabulary.originals:
            write_bytes(folder / name, content)
        return
    settings: dict[str, object] = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": vocabulary.lowercase is not False,
        "strip_accents": vocabulary.strip_accents,
        "tokenize_chinese_chars": vocabulary.tokenize_chinese_chars,
    }
    if vocabulary.special_tokens:
        settings[EXTRA_BEFORE] = list(vocabulary.special_tokens)
    if max_length is not None:
        settings["model_max_length"] = max_length
    write_json(folder / SETTINGS, settings)
    write_text(folder / VOCABULARY, "".join(f"{entry}\n" for entry in vocabulary.entries))


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        CheckpointError: the file is missing or damaged, or holds something else.
    """
    try:
        refuse_pointer(path)
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        # JSON can escape half of a surrogate pair, which could not be written again.
        json.dumps(value, ensure_ascii=False).encode()
    except CheckpointError:
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: a JSON object is expected")
    return value


def _read_optional(path: Path) -> dict[str, Any] | None:
    return read_json_object(path) if path.is_file() else None


def _originals(folder: Path, settings: Mapping[str, object], named: object) -> tuple[tuple[str, bytes], ...]:
    """Return the unchanged tokenizer files, plus the class that only the model's `config.json` names."""
    files = {name: (folder / name).read_bytes() for name in _FILES if (folder / name).is_file()}
    if named and not settings.get("tokenizer_class"):
        content = {**settings, "tokenizer_class": named}
        files[SETTINGS] = json.dumps(content, ensure_ascii=False, indent=2).encode()
    return tuple(files.items())


def _read_entries(file: Path) -> tuple[str, ...]:
    """Read the lines of a vocabulary file as `tokenizers` does (`WordPiece::read_file`).

    Blanks at the end of a line are removed. A repeated entry has the id of its last line, and its other lines become
    empty. A byte-order mark is left out, although `tokenizers` makes it part of the first entry. A pointer of Git LFS
    instead of the file is refused.
    """
    refuse_pointer(file)
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: byte {error.start} is not UTF-8") from None
    if "\n" not in text:
        text = text.replace("\r", "\n")
    # Not splitlines(): a vocabulary may hold other line separators as entries.
    entries = [line.rstrip(BLANKS) for line in text.split("\n")]
    while entries and not entries[-1]:
        entries.pop()
    lines: dict[str, list[int]] = {}
    for number, entry in enumerate(entries, 1):
        lines.setdefault(entry, []).append(number)
    lines.pop("", None)
    doubled = {entry: numbers for entry, numbers in lines.items() if len(numbers) > 1}
    for numbers in doubled.values():
        for number in numbers[:-1]:
            entries[number - 1] = ""
    if doubled:
        named = [f"{entry!r} in lines {' and '.join(map(str, numbers))}" for entry, numbers in doubled.items()]
        more = f", and {len(named) - _NUM_NAMED} more" if len(named) > _NUM_NAMED else ""
        log.warning(
            "%s holds an entry more than once: %s%s. Its last line counts, as in transformers",
            file,
            ", ".join(named[:_NUM_NAMED]),
            more,
        )
    return tuple(entries)


# -- settings ----------------------------------------------------------------------------------------------------


def _casing(
    settings: Mapping[str, Any], serialized: SerializedTokenizer | None, folder: Path, *, unchanged: bool
) -> tuple[bool | None, bool | None, bool]:
    """Return `lowercase`, `strip_accents` and `tokenize_chinese_chars` from the file that transformers uses."""
    if serialized is not None and unchanged:
        return serialized.lowercase, serialized.strip_accents, serialized.tokenize_chinese_chars
    lowercase = settings.get("do_lower_case", serialized.lowercase if serialized is not None else None)
    accents, chinese = settings.get("strip_accents"), settings.get("tokenize_chinese_chars", True)
    for name, value in (
        ("do_lower_case", lowercase),
        ("strip_accents", accents),
        ("tokenize_chinese_chars", chinese),
    ):
        if not isinstance(value, bool) and not (value is None and name != "tokenize_chinese_chars"):
            raise CheckpointError(f"{folder / SETTINGS}: {name} is {value!r}; expected true or false")
    return lowercase, accents, chinese


def _obstacles(settings: Mapping[str, object], named: object) -> Iterator[str]:
    """Yield a message for each setting of `tokenizer_config.json` that makes it differ from BERT's tokenizer."""
    if named is not None and named not in (*_BUILT, *_UNCHANGED):
        file = SETTINGS if settings.get("tokenizer_class") else _MODEL_SETTINGS
        yield f"in {file} its tokenizer_class is {named!r}, but BERT's is 'BertTokenizer'"
    if settings.get("auto_map"):
        yield f"in {SETTINGS} its auto_map names custom code, which is not run: {settings['auto_map']!r}"
    if settings.get("split_special_tokens"):
        yield f"in {SETTINGS} its split_special_tokens is {settings['split_special_tokens']!r}, but BERT's is False"
    if settings.get("fast_tokenizer_files", [SERIALIZED]) != [SERIALIZED]:
        files = settings["fast_tokenizer_files"]
        yield f"in {SETTINGS} its fast_tokenizer_files are {files!r}, but only {SERIALIZED} is read"


def _warn_of_unused(
    vocabulary: Vocabulary,
    settings: Mapping[str, object],
    serialized: SerializedTokenizer | None,
    folder: Path,
    *,
    unchanged: bool,
) -> None:
    """Warn about settings that neither transformers nor our tokenizer uses."""
    unused = [f"{name} ({settings[name]!r})" for name in ("never_split",) if settings.get(name)]
    if settings.get("do_basic_tokenize", True) is not True:
        unused.append(f"do_basic_tokenize ({settings['do_basic_tokenize']!r})")
    in_use = {
        "do_lower_case": vocabulary.lowercase,
        "strip_accents": vocabulary.strip_accents,
        "tokenize_chinese_chars": vocabulary.tokenize_chinese_chars,
    }
    if unchanged:
        unused += [f"{key} ({settings[key]!r})" for key, value in in_use.items() if settings.get(key, value) != value]
    elif serialized is not None:
        stated = dict(zip(in_use, serialized[1:4], strict=True))
        for values in (stated, in_use):
            values["strip_accents"] = _strips_accents(values["do_lower_case"], values["strip_accents"])
        unused += [
            f"{name} in {SERIALIZED} ({stated[key]!r})"
            for name, key in zip(("lowercase", "strip_accents", "handle_chinese_chars"), in_use, strict=True)
            if stated[key] != in_use[key]
        ]
        unused += serialized.differences
    if unused:
        log.warning("%s: not used, as in transformers: %s", folder, "; ".join(unused))
    if serialized is None:
        return
    if unchanged and not serialized.frames:
        log.warning(
            "%s has no post_processor, so transformers adds neither [CLS] nor [SEP]; we add them",
            folder / SERIALIZED,
        )
    if not unchanged and vocabulary.lowercase is False and "do_lower_case" not in settings:
        log.warning(
            "%s does not lower-case text, and %s does not set do_lower_case. Text keeps its case and accents here; "
            "transformers' BertTokenizer would lower-case it",
            folder / SERIALIZED,
            SETTINGS,
        )
    file = folder / VOCABULARY
    if file.is_file() and _read_entries(file) != vocabulary.entries:
        log.warning("%s differs from %s, which is used, as in transformers", file, SERIALIZED)


def _strips_accents(lowercase: bool | None, strip_accents: bool | None) -> bool | None:
    return lowercase if strip_accents is None else strip_accents
