"""Training of a WordPiece vocabulary: deterministic, in one pass and in bounded memory."""

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

# Only the thousand most frequent characters get entries: the default of `BertWordPieceTokenizer.train`.
MAX_ALPHABET = 1000
# Total length of the distinct words that are counted; above it, the rarest words are dropped.
MAX_DISTINCT_CHARACTERS = 1 << 25
# A longer chunk between spaces is split into its words before it is counted.
_MAX_CHUNK = 64
# The trainer sees at most this many words; counts of larger corpora are scaled down to it.
_MAX_WORDS = 100_000_000
# Copies of a word that are handed to the trainer at once.
_REPEATS = 1000


class WordCounts:
    """Counter of the words of a text, after BERT's normalization.

    Attributes:
        num_dropped: how many rare distinct words were dropped to bound memory; a word counts each time it is dropped.
    """

    def __init__(self, lowercase: bool, special_tokens: Sequence[str] = ()) -> None:
        self.normalizer = BertNormalizer(lowercase=lowercase)
        self.special_tokens = special_tokens
        self.num_dropped = 0
        # Unchanged chunks between spaces are quick to count. They are split into words at the end.
        self._chunks: Counter[str] = Counter()
        self._words: Counter[str] = Counter()
        self._unchecked = 0

    def add(self, text: str) -> None:
        for token in self.special_tokens:
            text = text.replace(token, " ")
        chunks = text.split(" ")
        if len(text) > _MAX_CHUNK * len(chunks) or max(map(len, chunks)) > _MAX_CHUNK:
            for chunk in chunks:
                if len(chunk) > _MAX_CHUNK:
                    self._words.update(self._split(chunk))
            chunks = [chunk for chunk in chunks if len(chunk) <= _MAX_CHUNK]
        self._chunks.update(chunks)
        self._unchecked += len(text)
        if self._unchecked > MAX_DISTINCT_CHARACTERS:
            self._unchecked = 0
            self._bound()

    def words(self) -> Counter[str]:
        """Return how often each word occurs."""
        for chunk, count in self._chunks.items():
            for word in self._split(chunk):
                self._words[word] += count
        self._chunks.clear()
        return self._words

    def _split(self, text: str) -> list[str]:
        normalized = self.normalizer.normalize_str(text)
        words = (word for word, _ in BertPreTokenizer().pre_tokenize_str(normalized))
        # The tokenizer maps longer words to [UNK] anyway, and the trainer's time grows with the length squared.
        return [word for word in words if len(word) <= MAX_CHARACTERS_PER_WORD]

    def _bound(self) -> None:
        least = 1
        while sum(map(len, self._chunks)) + sum(map(len, self._words)) > MAX_DISTINCT_CHARACTERS:
            for counts in (self._chunks, self._words):
                rare = [word for word, count in counts.items() if count <= least]
                self.num_dropped += len(rare)
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
    """Train a vocabulary on texts, each read once; memory is bounded (`MAX_DISTINCT_CHARACTERS`).

    The result depends on the texts alone. The trainer of `tokenizers` breaks ties differently from run to run unless
    every character has a fixed id. The sorted alphabet and its `##` forms are therefore passed as special tokens.

    Args:
        texts: pieces of text that end between words.
        vocab_size: the largest number of entries.
        lowercase: lower-case and strip accents.
        min_frequency: how often a piece must occur to become an entry.
        special_tokens: further entries after BERT's own five; they are never split and never masked.
        source: the name of the text in messages, such as its file.

    Raises:
        InputError: there is no text, a special token is not usable, or `vocab_size` is too small for the alphabet.

    >>> tokenizer = train_wordpiece(["low lower lowest"] * 9, vocab_size=30)
    >>> [tokenizer.entries[number] for number in tokenizer.encode_batch(["lowest owl"])[0]]
    ['lowest', 'o', '##w', '##l']
    """
    special = (*SPECIAL_TOKENS, *special_tokens)
    for token in special:
        if not token or any(c.isspace() for c in token) or special.count(token) > 1:
            raise InputError(f"the special token {token!r} is empty, contains a space, or exists already")
    counts = WordCounts(lowercase, special_tokens)
    for text in texts:
        counts.add(text)
    words = counts.words()
    alphabet, rare = _alphabet(words)
    if not alphabet:
        raise InputError(f"there is no text to train on in {source}: every document is empty")
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
    backend.train_from_iterator(_repeat(words, str.maketrans("", "", "".join(rare))), trainer)
    ids = backend.get_vocab()
    entries = tuple(sorted(ids, key=ids.__getitem__))
    return WordPieceTokenizer(Vocabulary(entries, lowercase, special_tokens=tuple(special_tokens)))


def _alphabet(words: Counter[str]) -> tuple[list[str], list[str]]:
    """Return the characters that get entries, sorted, and the rarer ones that do not."""
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    by_frequency = sorted(characters, key=lambda c: (-characters[c], c))
    return sorted(by_frequency[:MAX_ALPHABET]), by_frequency[MAX_ALPHABET:]


def _repeat(words: Counter[str], without_rare: dict[int, int | None]) -> Iterator[str]:
    """Repeat each word as often as it occurs, because the trainer counts words itself."""
    scale = max(1.0, words.total() / _MAX_WORDS)
    for word, count in words.items():
        word = word.translate(without_rare)
        count = max(1, round(count / scale)) if scale > 1 else count
        for start in range(0, count if word else 0, _REPEATS):
            yield " ".join([word] * min(_REPEATS, count - start))
