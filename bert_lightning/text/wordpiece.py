"""The WordPiece tokenizer of BERT, built from a vocabulary on the `tokenizers` library."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from bert_lightning.checkpoints.files import write_json, write_text
from bert_lightning.errors import InputError

PAD, UNKNOWN, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# A longer word becomes [UNK]; transformers' limit (the original code's is 200).
MAX_CHARACTERS_PER_WORD = 100
TOKENIZER_FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json")


class WordPieceTokenizer:
    """Text -> word piece ids, equal to transformers' BERT tokenizer.

    Attributes:
        vocabulary: entries in id order.
        lowercase: whether text is lower-cased and stripped of accents first.
        backend: the `tokenizers.Tokenizer` behind it; it adds no [CLS] or [SEP].
    """

    def __init__(self, vocabulary: Sequence[str], lowercase: bool) -> None:
        self.vocabulary = list(vocabulary)
        self.lowercase = lowercase
        ids = {token: number for number, token in enumerate(self.vocabulary)}
        if len(ids) != len(self.vocabulary):
            twice = next(token for number, token in enumerate(self.vocabulary) if ids[token] != number)
            raise InputError(f"the vocabulary holds {twice!r} twice (the second time in line {ids[twice] + 1})")
        missing = [token for token in SPECIAL_TOKENS if token not in ids]
        if missing:
            raise InputError(f"the vocabulary has no {', '.join(missing)}")
        self.pad_id, self.unknown_id, self.cls_id, self.sep_id, self.mask_id = (ids[t] for t in SPECIAL_TOKENS)
        self.special_ids = sorted(ids[token] for token in SPECIAL_TOKENS)
        self.backend = Tokenizer(WordPiece(ids, unk_token=UNKNOWN, max_input_chars_per_word=MAX_CHARACTERS_PER_WORD))
        self.backend.normalizer = BertNormalizer(lowercase=lowercase)
        self.backend.pre_tokenizer = BertPreTokenizer()
        self.backend.decoder = WordPieceDecoder()
        self.backend.add_special_tokens(list(SPECIAL_TOKENS))

    def __len__(self) -> int:
        return len(self.vocabulary)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without [CLS] and [SEP]."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of word piece ids, special tokens included."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the vocabulary and the casing: equal exactly when every text gets equal ids."""
        return hashlib.sha256(json.dumps([self.vocabulary, self.lowercase]).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write `vocab.txt`, `tokenizer.json` and `tokenizer_config.json`."""
        write_json(
            folder / "tokenizer_config.json",
            {"tokenizer_class": "BertTokenizer", "do_lower_case": self.lowercase},
        )
        write_text(folder / "tokenizer.json", self.backend.to_str(pretty=True))
        write_text(folder / "vocab.txt", "".join(f"{token}\n" for token in self.vocabulary))


def load_tokenizer(path: str | Path, cased: bool | None = None) -> WordPieceTokenizer:
    """Load from a folder with `vocab.txt` or from a vocabulary file.

    `cased` None takes the casing from the folder's `tokenizer_config.json`, or lower-cases where there is none.

    Raises:
        InputError: no vocabulary there, an unusable one, or a casing other than the folder's.
    """
    path = Path(path)
    vocabulary_file = path / "vocab.txt" if path.is_dir() else path
    if not vocabulary_file.is_file():
        raise InputError(f"{vocabulary_file} does not exist: expected a folder with vocab.txt, or a vocabulary file")
    try:
        # Not splitlines(): a vocabulary may hold other line separators as entries.
        vocabulary = vocabulary_file.read_bytes().decode("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{vocabulary_file}: byte {error.start} is not UTF-8") from None
    lowercase = None
    settings_file = vocabulary_file.with_name("tokenizer_config.json")
    if settings_file.is_file():
        try:
            lowercase = json.loads(settings_file.read_text(encoding="utf-8")).get("do_lower_case")
        except ValueError as error:
            raise InputError(f"{settings_file}: {error}") from None
    if lowercase is not None and cased and lowercase:
        raise InputError(f"{path} is an uncased tokenizer ({settings_file.name}), but --cased was given")
    if lowercase is None:
        lowercase = not cased
    try:
        return WordPieceTokenizer(vocabulary, lowercase)
    except InputError as error:
        raise InputError(f"{vocabulary_file}: {error}") from None
