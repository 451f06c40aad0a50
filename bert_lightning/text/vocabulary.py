"""Training a WordPiece vocabulary that depends on the text alone, in bounded memory and one pass."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, WhitespaceSplit
from tokenizers.trainers import WordPieceTrainer

from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import MAX_CHARACTERS_PER_WORD, SPECIAL_TOKENS, UNKNOWN, WordPieceTokenizer

# Rarer characters than the first thousand are left to [UNK]: the default of the `tokenizers` trainer.
MAX_ALPHABET = 1000
# Characters of distinct words that are counted at once; beyond it the rarest are forgotten.
MAX_DISTINCT_CHARACTERS = 1 << 25
# A longer stretch between spaces is broken into its words before it is counted.
_MAX_STRETCH = 64
# The trainer sees at most so many words; counts of larger corpora are scaled down to it.
_MAX_WORDS = 100_000_000
_REPEATS = 1000


class WordCounts:
    """How often each word of a text occurs, after BERT's cleaning.

    Attributes:
        num_forgotten: rare distinct words that were dropped to bound memory, each as often as it came again.
    """

    def __init__(self, lowercase: bool, special_tokens: Sequence[str] = ()) -> None:
        self.normalizer = BertNormalizer(lowercase=lowercase)
        self.special_tokens = special_tokens
        self.num_forgotten = 0
        # Stretches between spaces as they stand, which are quick to count, and words.
        self._stretches: Counter[str] = Counter()
        self._words: Counter[str] = Counter()
        self._unchecked = 0

    def add(self, text: str) -> None:
        """Count the words of a text."""
        for token in self.special_tokens:
            text = text.replace(token, " ")
        stretches = text.split(" ")
        if len(text) > _MAX_STRETCH * len(stretches) or max(map(len, stretches)) > _MAX_STRETCH:
            for stretch in stretches:
                if len(stretch) > _MAX_STRETCH:
                    self._words.update(self._split(stretch))
            stretches = [stretch for stretch in stretches if len(stretch) <= _MAX_STRETCH]
        self._stretches.update(stretches)
        self._unchecked += len(text)
        if self._unchecked > MAX_DISTINCT_CHARACTERS:
            self._unchecked = 0
            self._bound()

    def words(self) -> Counter[str]:
        """Word -> occurrences."""
        for stretch, count in self._stretches.items():
            for word in self._split(stretch):
                self._words[word] += count
        self._stretches.clear()
        return self._words

    def _split(self, text: str) -> list[str]:
        normalized = self.normalizer.normalize_str(text)
        words = (word for word, _ in BertPreTokenizer().pre_tokenize_str(normalized))
        # A longer word becomes [UNK] whatever the vocabulary; the trainer's time grows with its square.
        return [word for word in words if len(word) <= MAX_CHARACTERS_PER_WORD]

    def _bound(self) -> None:
        least = 1
        while sum(map(len, self._stretches)) + sum(map(len, self._words)) > MAX_DISTINCT_CHARACTERS:
            for counts in (self._stretches, self._words):
                rare = [word for word, count in counts.items() if count <= least]
                self.num_forgotten += len(rare)
                for word in rare:
                    del counts[word]
            least *= 2


def train_wordpiece(
    texts: Iterable[str],
    vocab_size: int,
    lowercase: bool = True,
    min_frequency: int = 2,
    special_tokens: Sequence[str] = (),
    source: str = "this text",
) -> WordPieceTokenizer:
    """Train on texts, each read once; memory is bounded (`MAX_DISTINCT_CHARACTERS`).

    The trainer of `tokenizers` breaks ties by an order that differs from run to run. It does not when every
    character has a fixed id beforehand, so the sorted alphabet (and its `##` forms) enters as special tokens.

    Args:
        texts: any stretches of text that end between words.
        vocab_size: entries, at most.
        lowercase: lower-case and strip accents.
        min_frequency: how often a piece must occur to become an entry.
        special_tokens: further entries behind BERT's own five that are never split and never masked.
        source: the name of the text in messages, such as its file.

    Raises:
        InputError: no text, an impossible special token, or `vocab_size` leaves no room beside the alphabet.
    """
    special = (*SPECIAL_TOKENS, *special_tokens)
    for token in special:
        if not token or any(c.isspace() for c in token) or special.count(token) > 1:
            raise InputError(f"the special token {token!r} is empty, holds a space, or is there already")
    counts = WordCounts(lowercase, special_tokens)
    for text in texts:
        counts.add(text)
    words = counts.words()
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    if not characters:
        raise InputError(f"there is no text to train on in {source}: every document is empty")
    by_frequency = sorted(characters, key=lambda c: (-characters[c], c))
    alphabet, rare = sorted(by_frequency[:MAX_ALPHABET]), by_frequency[MAX_ALPHABET:]
    # A special token of one character is in the alphabet once.
    fixed = list(dict.fromkeys((*special, *alphabet, *(f"##{c}" for c in alphabet))))
    if vocab_size <= len(fixed):
        raise InputError(
            f"--vocab-size {vocab_size} is too small: the alphabet of {source} and the special "
            f"tokens alone take {len(fixed)} entries"
        )
    backend = Tokenizer(WordPiece(unk_token=UNKNOWN))
    backend.pre_tokenizer = WhitespaceSplit()
    trainer = WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=fixed, show_progress=False
    )
    backend.train_from_iterator(_repeated(words, str.maketrans("", "", "".join(rare))), trainer)
    ids = backend.get_vocab()
    entries = tuple(sorted(ids, key=ids.__getitem__))
    return WordPieceTokenizer(Vocabulary(entries, lowercase, special_tokens=tuple(special_tokens)))


def _repeated(words: Counter[str], without_rare: dict[int, int | None]) -> Iterator[str]:
    """Each word as often as it occurs, which is how the trainer counts."""
    scale = max(1.0, words.total() / _MAX_WORDS)
    for word, count in words.items():
        word = word.translate(without_rare)
        count = max(1, round(count / scale)) if scale > 1 else count
        for start in range(0, count if word else 0, _REPEATS):
            yield " ".join([word] * min(_REPEATS, count - start))
