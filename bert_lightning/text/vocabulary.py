"""Training a WordPiece vocabulary that depends on the text alone."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

from bert_lightning.checkpoints.tokenizer_files import Vocabulary
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import SPECIAL_TOKENS, UNKNOWN, WordPieceTokenizer

# Rarer characters than the first thousand are left to [UNK]: the default of the `tokenizers` trainer.
MAX_ALPHABET = 1000


def train_wordpiece(
    texts: Callable[[], Iterable[str]], vocab_size: int, lowercase: bool = True, min_frequency: int = 2
) -> WordPieceTokenizer:
    """Train on `texts()`, which is called twice; memory grows with the number of distinct words only.

    The trainer of `tokenizers` breaks ties by an order that differs from run to run. It does not when every
    character has a fixed id beforehand, so the sorted alphabet (and its `##` forms) enters as special tokens.

    Raises:
        InputError: no text, or `vocab_size` leaves no room beside the alphabet.
    """
    normalizer = BertNormalizer(lowercase=lowercase)
    characters: Counter[str] = Counter()
    for text in texts():
        characters.update(normalizer.normalize_str(text))
    for space in [c for c in characters if c.isspace()]:
        del characters[space]
    if not characters:
        raise InputError("there is no text to train on: every document is empty")
    by_frequency = sorted(characters, key=lambda c: (-characters[c], c))
    alphabet, rare = sorted(by_frequency[:MAX_ALPHABET]), by_frequency[MAX_ALPHABET:]
    fixed = [*SPECIAL_TOKENS, *alphabet, *(f"##{c}" for c in alphabet)]
    if vocab_size <= len(fixed):
        raise InputError(
            f"--vocab-size {vocab_size} is too small: the alphabet of this text and the special tokens "
            f"alone take {len(fixed)} entries"
        )
    without_rare = str.maketrans("", "", "".join(rare))

    def normalized() -> Iterator[str]:
        for text in texts():
            yield normalizer.normalize_str(text).translate(without_rare)

    backend = Tokenizer(WordPiece(unk_token=UNKNOWN))
    backend.pre_tokenizer = BertPreTokenizer()
    trainer = WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=fixed, show_progress=False
    )
    backend.train_from_iterator(normalized(), trainer)
    ids = backend.get_vocab()
    return WordPieceTokenizer(Vocabulary(tuple(sorted(ids, key=ids.__getitem__)), lowercase))
