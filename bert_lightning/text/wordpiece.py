"""The WordPiece tokenizer of BERT, built from a vocabulary on the `tokenizers` library."""

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
# A longer word becomes [UNK]; transformers' limit (the original code's is 200).
MAX_CHARACTERS_PER_WORD = 100
# Either file beside a vocabulary shows that it belongs to a model: of transformers, or of the original code.
_MODEL_SETTINGS = ("config.json", "bert_config.json")
TOKENIZER_FILES = (VOCABULARY, SERIALIZED, SETTINGS)


class WordPieceTokenizer:
    """Text -> word piece ids, equal to transformers' BERT tokenizer.

    Attributes:
        vocabulary: what it was built from; lower-cases where that does not say.
        entries: its entries in id order; empty at an id that has no entry.
        entry_ids: the ids of the entries that are not empty, ascending.
        special_ids: of BERT's special tokens and the vocabulary's own, ascending.
        backend: the `tokenizers.Tokenizer` behind it; it adds no [CLS] or [SEP] unless asked to.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        if vocabulary.obstacle is not None:
            raise InputError(f"this is no tokenizer that can be used here: {vocabulary.obstacle}")
        self.vocabulary = dataclasses.replace(vocabulary, lowercase=vocabulary.lowercase is not False)
        self.entries = vocabulary.entries
        ids = {token: number for number, token in enumerate(self.entries) if token}
        self.entry_ids = [number for number, token in enumerate(self.entries) if token]
        if len(ids) != len(self.entry_ids):
            twice = next(self.entries[number] for number in self.entry_ids if ids[self.entries[number]] != number)
            raise InputError(f"the vocabulary holds {twice!r} twice (the second time in line {ids[twice] + 1})")
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
        """Ids of each text, without [CLS] and [SEP]."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of word piece ids, special tokens included."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what it was built from: equal exactly when every text gets equal ids."""
        vocabulary = self.vocabulary
        parts: list[object] = [vocabulary.entries, vocabulary.lowercase]
        # Accents are stripped where text is lower-cased unless it is said otherwise.
        strips_accents = vocabulary.strip_accents in (None, vocabulary.lowercase)
        if not strips_accents or not vocabulary.tokenize_chinese_chars:
            parts += [vocabulary.strip_accents, vocabulary.tokenize_chinese_chars]
        if vocabulary.special_tokens:
            parts.append(["special", *vocabulary.special_tokens])
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write `vocab.txt`, `tokenizer.json` and `tokenizer_config.json`."""
        write_vocabulary(self.vocabulary, folder)
        write_text(folder / SERIALIZED, self.backend.to_str(pretty=True))


def load_tokenizer(path: str | Path, cased: bool | None = None) -> WordPieceTokenizer:
    """Load from a folder with `vocab.txt` or `tokenizer.json`, or from a vocabulary file.

    Where the files do not say whether text is lower-cased, `cased` does. With None a vocabulary beside a model is
    read as the model's checkpoint is (`with_casing`), and any other one lower-cases.

    Raises:
        InputError: no vocabulary there, an unusable one, or a casing other than the folder's.
    """
    path = Path(path)
    try:
        vocabulary = read_vocabulary(path)
    except CheckpointError as error:
        raise InputError(str(error)) from None
    if vocabulary is None:
        file = path / VOCABULARY if path.is_dir() else path
        raise InputError(f"{file} does not exist: expected a folder with {VOCABULARY}, or a vocabulary file")
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
        # An obstacle names its file itself; what else is wrong is wrong with the entries.
        if path.is_dir() and vocabulary.obstacle is None:
            path /= SERIALIZED if (path / SERIALIZED).is_file() else VOCABULARY
        raise InputError(f"{path}: {error}") from None


def _warn_of_casing(vocabulary: Vocabulary, path: Path) -> None:
    """Warn if the entries do not fit the casing that the user asked for."""
    capital = vocabulary.capital()
    if vocabulary.lowercase and capital is not None:
        log.warning(
            "%s holds capital letters (%r), but the text is lower-cased: is --cased (data.cased) missing?",
            path,
            capital,
        )
    if vocabulary.lowercase is False and capital is None:
        log.warning("%s: no entry holds a capital letter, but they are kept in the text (cased)", path)
