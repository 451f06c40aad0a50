"""Comparison of `tokenizer.json`, the file of the `tokenizers` library, with BERT's tokenizer."""

from collections.abc import Iterator
from typing import Any, NamedTuple

SERIALIZED = "tokenizer.json"
# Unicode's White_Space, which `tokenizers` removes from the end of each line of a vocabulary file. str.rstrip()
# without an argument would remove more.
BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


class SerializedTokenizer(NamedTuple):
    """The settings of a `tokenizer.json`."""

    entries: tuple[str, ...]
    """in id order, with added tokens; empty at an id that has no entry"""
    lowercase: bool | None = None
    """None if the normalizer is not BERT's"""
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool = True
    faults: tuple[str, ...] = ()
    """components of another type than BERT's, which our tokenizer does not have"""
    differences: tuple[str, ...] = ()
    """values other than BERT's in components of BERT's types"""
    frames: bool = True
    """whether it has a post-processor, which adds [CLS] and [SEP]"""


def parse_serialized(content: dict[str, Any]) -> SerializedTokenizer:
    """Compare a `tokenizer.json` with BERT's tokenizer, component by component.

    `truncation`, `padding` and `decoder` are ignored, because they do not change the ids of an untruncated text.

    Raises:
        AttributeError, KeyError, TypeError, IndexError: it does not have the form of a tokenizer's file.
    """
    model = content.get("model") or {}
    # Older files do not name the type.
    kind = model.get("type", "WordPiece")
    if kind == "WordPiece" and not isinstance(model["vocab"], dict):
        raise TypeError("its vocab is not an object of entries and ids")
    if kind != "WordPiece":
        return SerializedTokenizer((), faults=(f"{SERIALIZED} holds a {kind} tokenizer, but BERT's is WordPiece",))
    entries, fault = _entries(model["vocab"], content.get("added_tokens") or [])
    normalizer = _single(content.get("normalizer"), "normalizers")
    pre_tokenizer = _single(content.get("pre_tokenizer"), "pretokenizers")
    frame = _single(content.get("post_processor"), "processors")
    lowercase, accents, chinese = None, None, True
    if normalizer.get("type") == "BertNormalizer":
        lowercase, chinese = normalizer["lowercase"], normalizer["handle_chinese_chars"]
        accents = normalizer.get("strip_accents")
        if type(lowercase) is not bool or type(chinese) is not bool or type(accents) not in (bool, type(None)):
            raise TypeError("a setting of its normalizer is neither true nor false")
    faults = _unlike(
        ("normalizer", normalizer.get("type"), "BertNormalizer"),
        ("pre_tokenizer", pre_tokenizer.get("type"), "BertPreTokenizer"),
        ("unk_token", model.get("unk_token", "[UNK]"), "[UNK]"),
        ("continuing_subword_prefix", model.get("continuing_subword_prefix", "##"), "##"),
    )
    differences = _unlike(
        ("clean_text", normalizer.get("clean_text", True), True),
        ("max_input_chars_per_word", model.get("max_input_chars_per_word", 100), 100),
        ("post_processor", _frame(frame, entries) if frame else _BERT_FRAME, _BERT_FRAME),
    )
    first = (fault,) if fault is not None else ()
    return SerializedTokenizer(
        entries, lowercase, accents, chinese, (*first, *faults), tuple(differences), frames=bool(frame)
    )


def _unlike(*settings: tuple[str, object, object]) -> Iterator[str]:
    for name, value, expected in settings:
        if value != expected:
            yield f"in {SERIALIZED} its {name} is {value!r}, but BERT's is {expected!r}"


def _single(component: dict[str, Any] | None, key: str) -> dict[str, Any]:
    """Unwrap a component from sequences of one component."""
    component = component or {}
    while component.get("type") == "Sequence" and len(component[key]) == 1:
        component = component[key][0]
    return component


def _entries(vocab: dict[str, Any], added: list[dict[str, Any]]) -> tuple[tuple[str, ...], str | None]:
    """Return the entries in id order, and the reason why our tokenizer cannot use them, or None."""
    contents = [token["content"] for token in added]
    new = {token["content"]: token["id"] for token in added if token["content"] not in vocab}
    ids = {**vocab, **new}
    numbers = list(ids.values())
    sound = all(type(number) is int and number >= 0 for number in numbers) and len(set(numbers)) == len(numbers)
    # A vocabulary with repeated entries leaves some ids out. A file that leaves out many more is damaged.
    if not sound or max(numbers, default=0) > 2 * len(numbers):
        return tuple(ids), f"the ids in {SERIALIZED} are not 0 to {len(numbers) - 1}"
    entries = [""] * (max(numbers, default=-1) + 1)
    for entry, number in ids.items():
        # No word holds a blank, and such an entry would change when it is written to vocab.txt.
        broken = "\n" in entry or "\r" in entry or entry != entry.rstrip(BLANKS)
        entries[number] = "" if broken and entry not in contents else entry
    while entries and not entries[-1]:
        entries.pop()
    return tuple(entries), f"{min(new)!r} was added to the vocabulary" if new else None


# -- the frame of a sequence -------------------------------------------------------------------------------------

_BERT_FRAME = "[CLS] A [SEP] B:1 [SEP]:1"


def _frame(processor: dict[str, Any], entries: tuple[str, ...]) -> str:
    """Describe how a post-processor frames a pair, with `:1` for the second segment; else return its type."""
    kind = processor.get("type")
    if kind == "BertProcessing":
        (separator, separator_id), (start, start_id) = processor["sep"], processor["cls"]
        ids = {separator: separator_id, start: start_id}
        pair = f"{start} A {separator} B:1 {separator}:1"
        single = f"{start} A {separator}"
    elif kind == "TemplateProcessing":
        ids = {}
        for name, token in processor["special_tokens"].items():
            ids[name] = token["ids"][0] if len(token["ids"]) == 1 else None
        single, pair = _template(processor["single"]), _template(processor["pair"])
    else:
        return str(kind)
    for token, number in ids.items():
        if number is None or not 0 <= number < len(entries) or entries[number] != token:
            return f"{token} with the id {number}"
    return pair if pair.startswith(single) else f"{single} for a text, {pair} for a pair"


def _template(pieces: list[dict[str, Any]]) -> str:
    pieces_of_frame = []
    for piece in pieces:
        [value] = piece.values()
        pieces_of_frame.append(value["id"] + (f":{value['type_id']}" if value["type_id"] else ""))
    return " ".join(pieces_of_frame)
