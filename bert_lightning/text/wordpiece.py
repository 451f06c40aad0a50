"""BERT's WordPiece tokenizer, built from a vocabulary with the `tokenizers` library."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.files import write_text
from bert_lightning.checkpoints.tokenizers.added_tokens import SETTINGS
from bert_lightning.checkpoints.tokenizers.serialized_tokenizer import SERIALIZED
from bert_lightning.checkpoints.tokenizers.tokenizer_files import (
    VOCABULARY,
    Vocabulary,
    read_vocabulary,
    with_casing,
    write_vocabulary,
)
from bert_lightning.errors import InputError

log = logging.getLogger(__name__)

PAD, UNKNOWN, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Longer words become [UNK]. This is transformers' limit; the original code's is 200.
MAX_CHARACTERS_PER_WORD = 100
# A vocabulary next to one of these files belongs to a model (of transformers or of the original code).
_MODEL_SETTINGS = ("config.json", "bert_config.json")
TOKENIZER_FILES = (VOCABULARY, SERIALIZED, SETTINGS)


class WordPieceTokenizer:
    """Tokenizer whose word piece ids equal those of transformers' BERT tokenizer.

    Attributes:
        vocabulary: the vocabulary and its settings; `lowercase` is True if the files do not say.
        entries: the entries in id order; empty at an id that has no entry.
        entry_ids: the ids of the entries that are not empty, ascending.
        special_ids: the ids of BERT's special tokens and the vocabulary's own, ascending.
        backend: the `tokenizers.Tokenizer` that does the work; it adds [CLS] and [SEP] only on request.

    >>> tokenizer = WordPieceTokenizer(Vocabulary((*SPECIAL_TOKENS, "un", "##able", "!")))
    >>> tokenizer.encode_batch(["Unable!", "able"])
    [[5, 6, 7], [1]]
    >>> tokenizer.decode([5, 6, 7])
    'unable!'
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        if vocabulary.obstacle is not None:
            raise InputError(f"this tokenizer cannot be used: {vocabulary.obstacle}")
        self.vocabulary = dataclasses.replace(vocabulary, lowercase=vocabulary.lowercase is not False)
        self.entries = vocabulary.entries
        ids = {token: number for number, token in enumerate(self.entries) if token}
        self.entry_ids = [number for number, token in enumerate(self.entries) if token]
        if len(ids) != len(self.entry_ids):
            duplicate = next(self.entries[number] for number in self.entry_ids if ids[self.entries[number]] != number)
            raise InputError(
                f"the vocabulary holds {duplicate!r} twice (the second time in line {ids[duplicate] + 1})"
            )
        missing = [token for token in SPECIAL_TOKENS if token not in ids]
        if missing:
            raise InputError(f"the vocabulary has no {', '.join(missing)}")
        self.pad_id, self.unknown_id, self.cls_id, self.sep_id, self.mask_id = (ids[t] for t in SPECIAL_TOKENS)
        special = (*SPECIAL_TOKENS, *vocabulary.special_tokens)
        self.special_ids = sorted(ids[token] for token in special)
        self.backend = Tokenizer(WordPiece(ids, unk_token=UNKNOWN, max_input_chars_per_word=MAX_CHARACTERS_PER_WORD))
        self.backend.normalizer = BertNormalizer(
            lowercase=vocabulary.lowercase is not False,
            strip_accents=vocabulary.strip_accents,
            handle_chinese_chars=vocabulary.tokenize_chinese_chars,
        )
        self.backend.pre_tokenizer = BertPreTokenizer()
        self.backend.post_processor = BertProcessing((SEP, self.sep_id), (CLS, self.cls_id))
        self.backend.decoder = WordPieceDecoder()
        self.backend.add_special_tokens(list(special))

    def __len__(self) -> int:
        return len(self.entries)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without [CLS] and [SEP]."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of word piece ids, including special tokens."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary and its settings. If two tokenizers share it, they give every text equal ids."""
        vocabulary = self.vocabulary
        content: list[object] = [vocabulary.entries, vocabulary.lowercase]
        # By default accents are stripped exactly if text is lower-cased.
        strips_accents = vocabulary.strip_accents in (None, vocabulary.lowercase)
        if not strips_accents or not vocabulary.tokenize_chinese_chars:
            content += [vocabulary.strip_accents, vocabulary.tokenize_chinese_chars]
        if vocabulary.special_tokens:
            content.append(["special", *vocabulary.special_tokens])
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write `vocab.txt`, `tokenizer.json` and `tokenizer_config.json`."""
        write_vocabulary(self.vocabulary, folder)
        write_text(folder / SERIALIZED, self.backend.to_str(pretty=True))


def load_tokenizer(path: str | Path, cased: bool | None = None) -> WordPieceTokenizer:
    """Load a tokenizer from a folder with `vocab.txt` or `tokenizer.json`, or from a vocabulary file.

    `cased` decides whether text is lower-cased if the files do not say. With None, a vocabulary next to a model
    lower-cases unless it looks cased (`with_casing`), and any other vocabulary lower-cases.

    Raises:
        InputError: there is no vocabulary, it is not usable, or its files say uncased although `cased` is true.
    """
    path = Path(path)
    try:
        vocabulary = read_vocabulary(path)
    except CheckpointError as error:
        raise InputError(str(error)) from None
    if vocabulary is None:
        file = path / VOCABULARY if path.is_dir() else path
        raise InputError(f"{file} does not exist; expected a folder with {VOCABULARY}, or a vocabulary file")
    if vocabulary.lowercase and cased:
        raise InputError(f"{path} is an uncased tokenizer, but --cased was given")
    folder = path if path.is_dir() else path.parent
    if cased is None and any((folder / name).is_file() for name in _MODEL_SETTINGS):
        vocabulary = with_casing(vocabulary, path)
    if vocabulary.lowercase is None:
        vocabulary = dataclasses.replace(vocabulary, lowercase=not cased)
        _warn_of_casing(vocabulary, path)
    try:
        return WordPieceTokenizer(vocabulary)
    except InputError as error:
        # An obstacle names its file itself. Any other error is about the entries.
        if path.is_dir() and vocabulary.obstacle is None:
            path /= SERIALIZED if (path / SERIALIZED).is_file() else VOCABULARY
        raise InputError(f"{path}: {error}") from None


def _warn_of_casing(vocabulary: Vocabulary, path: Path) -> None:
    """Warn if the entries do not fit the casing of the vocabulary."""
    capital = vocabulary.capital()
    if vocabulary.lowercase and capital is not None:
        log.warning(
            "%s contains capital letters (%r), but the text is lower-cased. Is --cased (data.cased) missing?",
            path,
            capital,
        )
    if vocabulary.lowercase is False and capital is None:
        log.warning("%s has no entry with a capital letter, but the text keeps its capitals (cased)", path)
