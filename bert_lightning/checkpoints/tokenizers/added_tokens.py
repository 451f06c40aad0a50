"""Special and added tokens, which a tokenizer finds in the text before it splits the text into words.

transformers gathers them from four files; source: `tokenization_utils_base.py: _from_pretrained`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bert_lightning.checkpoints.tokenizers.serialized_tokenizer import BLANKS, SERIALIZED

SETTINGS, ADDED, SPECIAL_MAP = "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"
# The keys of special tokens other than BERT's: before version 5 of transformers, and since.
EXTRA_BEFORE, _EXTRA = "additional_special_tokens", "extra_special_tokens"
BERT_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


class AddedToken(NamedTuple):
    """The way in which a tokenizer finds one token."""

    file: str
    """the file that describes the token"""
    is_plain: bool
    """whether it is found everywhere in the unchanged text, as BERT's special tokens are"""


class TokenFiles(NamedTuple):
    """The parsed files that hold tokens; empty if one is missing or transformers does not read it."""

    settings: dict[str, Any]
    """`tokenizer_config.json`"""
    special_map: dict[str, Any]
    """`special_tokens_map.json`"""
    serialized: dict[str, Any]
    """`tokenizer.json`"""
    added: dict[str, Any]
    """`added_tokens.json`"""


def has_decoder(settings: Mapping[str, object]) -> bool:
    """Return whether the settings list all added tokens. transformers then ignores the two smaller files."""
    return settings.get("added_tokens_decoder") is not None


def gather_tokens(files: TokenFiles, *, unchanged: bool) -> dict[str, AddedToken]:
    """Return every token that transformers adds, and the way in which it is found.

    `unchanged` means that transformers uses `tokenizer.json` unchanged instead of building BERT's tokenizer.

    Raises:
        AttributeError, KeyError, TypeError: a value does not have the form of a token.
    """
    tokens: dict[str, AddedToken] = {}
    for token, how in _in_order(files, unchanged=unchanged):
        first = tokens.setdefault(token, how)
        if how.file == SETTINGS and not how.is_plain and first.file == SERIALIZED:
            tokens[token] = how
    # Listed tokens come first, so that the order does not depend on which of our files is read.
    listed = [token for token, _ in _extra_tokens(files.settings, files.special_map)]
    return {token: tokens[token] for token in dict.fromkeys([*listed, *tokens])}


def token_obstacles(
    files: TokenFiles, tokens: dict[str, AddedToken], entries: tuple[str, ...], *, unchanged: bool
) -> Iterator[str]:
    """Yield a message for each token that our tokenizer cannot treat as transformers does."""
    named = {**files.settings, **files.special_map}
    for key, expected in BERT_TOKENS.items():
        value = named.get(key, expected)
        name = value.get("content") if isinstance(value, dict) else value
        if name != expected and not (unchanged and name is None):
            file = SPECIAL_MAP if key in files.special_map else SETTINGS
            yield f"in {file} its {key} is {name!r}, but BERT's is {expected!r}"
    vocabulary = set(entries)
    for token, (file, is_plain) in tokens.items():
        if token not in vocabulary:
            # Our tokenizer itself reports BERT's tokens that are missing.
            if token not in BERT_TOKENS.values():
                yield f"{file} adds tokens to the vocabulary: {token!r}"
        elif not is_plain:
            yield f"its token {token!r} has single_word or normalized set ({file}), but BERT's have neither"
        elif any(blank in token for blank in BLANKS):
            yield f"its token {token!r} holds a blank, but BERT's do not"
    for key, token in BERT_TOKENS.items():
        if token in vocabulary and token not in tokens:
            yield f"{token!r} is not among its special tokens ({key})"


def _in_order(files: TokenFiles, *, unchanged: bool) -> Iterator[tuple[str, AddedToken]]:
    """Yield every token in the order in which transformers adds them. The first description of a token counts."""
    settings, legacy = files.settings, not has_decoder(files.settings)
    named = {**settings, **files.special_map}
    if unchanged or legacy:
        for value in files.serialized.get("added_tokens") or []:
            yield _token(value, SERIALIZED)
    for value in (settings.get("added_tokens_decoder") or {}).values():
        yield _token(value, SETTINGS)
    roles = {str(named.get(key)) for key in BERT_TOKENS}
    for token in files.added:
        # transformers finds all others in the normalized text.
        yield token, AddedToken(ADDED, is_plain=token in roles)
    yield from _named_tokens(named)
    yield from _extra_tokens(settings, files.special_map)
    if not unchanged:
        yield from _named_tokens({key: token for key, token in BERT_TOKENS.items() if key not in settings})


def _named_tokens(settings: Mapping[str, object]) -> Iterator[tuple[str, AddedToken]]:
    """Yield the tokens of keys such as `mask_token`."""
    for key, value in settings.items():
        if key.endswith("_token") and isinstance(value, str | dict) and value:
            yield _token(value, SETTINGS)


def _extra_tokens(settings: Mapping[str, Any], special_map: Mapping[str, Any]) -> Iterator[tuple[str, AddedToken]]:
    """Yield further special tokens from their lists. A list under the new key replaces the old key."""
    extra, before = settings.get(_EXTRA), settings.get(EXTRA_BEFORE)
    lists = [extra, special_map.get(_EXTRA)]
    if not extra or isinstance(extra, dict):
        lists.append(before)
    if _EXTRA not in settings and EXTRA_BEFORE not in settings:
        lists.append(special_map.get(EXTRA_BEFORE))
    for tokens in lists:
        for value in tokens.values() if isinstance(tokens, dict) else tokens or []:
            yield _token(value, SETTINGS)


def _token(value: Any, file: str) -> tuple[str, AddedToken]:
    if isinstance(value, str):
        return value, AddedToken(file, is_plain=True)
    normalized = value.get("normalized", not value.get("special", False))
    return value["content"], AddedToken(file, is_plain=not normalized and not value.get("single_word", False))
