"""Vectors of plain texts at every layer: of words, which every tokenizer cuts alike, of word pieces, or of texts."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal, NamedTuple, get_args

import numpy as np
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor

from bert_lightning.checks import RefusedValue
from bert_lightning.data.datasets.examples import TaggedSentence
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.encoding import text_batch
from bert_lightning.errors import InputError
from bert_lightning.interpretability.features import FeatureExtractor
from bert_lightning.interpretability.pooled_states import Stretch, pooled_states
from bert_lightning.tasks.inference import PREDICTION_BATCH_SIZE as BATCH_SIZE
from bert_lightning.tasks.token_classification.data import EncodedWords
from bert_lightning.tasks.token_classification.settings import TokenClassificationData

Unit = Literal["words", "pieces", "texts"]
"""The unit that one vector represents. The vector of a word or a text is the mean over its pieces."""
UNITS: tuple[Unit, ...] = get_args(Unit)
# Tokens of one forward pass, which bound the memory of hidden states at every layer.
_MOST_TOKENS = 4096
# Pieces that two windows of a long text have in common, so that words at a border see both sides.
_OVERLAP = 32


class TextVectors(NamedTuple):
    """The vectors of some words, pieces or texts, in the order of the texts.

    Attributes:
        names: (n,) the words, pieces or texts.
        texts: (n,) the text that each belongs to.
        positions: (n,) the number of the word in its text; 0 for a whole text.
        vectors: (layers, n, H).
    """

    names: Sequence[str]
    texts: Sequence[str]
    positions: Sequence[int]
    vectors: Tensor


def require_unit(unit: str) -> None:
    """Check the name of a unit.

    Raises:
        InputError: there is no such unit.
    """
    if unit not in UNITS:
        raise InputError(f"vectors is {unit!r}; it must be one of {', '.join(UNITS)}")


def refuse_single_text(name: str, texts: Iterable[str] | None) -> None:
    """Refuse a text where several are expected, because its characters would be read as texts.

    Raises:
        InputError: it is one text.
    """
    if isinstance(texts, str):
        raise InputError(f"{name} is one text; a list of texts is expected")


def shared_length(extractors: Sequence[FeatureExtractor], max_seq_length: int | None) -> int:
    """Return the longest sequence that all models read; None stands for the most that all of them can.

    Raises:
        RefusedValue: `max_seq_length` is too small or too large.
    """
    most = min(each.encoder.config.max_position_embeddings for each in extractors)
    if max_seq_length is not None and not 3 <= max_seq_length <= most:
        raise RefusedValue("max_seq_length", max_seq_length, f"be between 3 and {most}")
    return max_seq_length or most


def batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield items in lists of `size`, and a last one of the rest."""
    items = iter(items)
    while block := list(islice(items, size)):
        yield block


def words_of(text: str) -> list[str]:
    """Return the words and punctuation marks of a text, as BERT's tokenizer separates them before it cuts pieces.

    >>> words_of("It's a boat, isn't it?")
    ['It', "'", 's', 'a', 'boat', ',', 'isn', "'", 't', 'it', '?']
    """
    return [word for word, _ in BertPreTokenizer().pre_tokenize_str(text)]


def text_vectors(
    extractor: FeatureExtractor, texts: Iterable[str], unit: Unit, max_seq_length: int
) -> Iterator[TextVectors]:
    """Yield the vectors of texts, a few at a time, so that any number of texts takes the same memory.

    Words of a text that is longer than `max_seq_length` are computed in windows, each with context on both sides. Its
    pieces, and the text as a whole, are cut there. Two models yield the same words and texts in the same order.
    """
    for block in batched(texts, BATCH_SIZE):
        yield from (
            _words(extractor, block, max_seq_length)
            if unit == "words"
            else _pieces(extractor, block, unit, max_seq_length)
        )


def _words(extractor: FeatureExtractor, texts: Sequence[str], limit: int) -> Iterator[TextVectors]:
    """Yield the vectors of words. Each is in exactly one window of its text."""
    examples = [TaggedSentence("", words_of(text), None, 0) for text in texts]
    examples = [each for each in examples if each.words]
    kept = [text for text in texts if words_of(text)]
    if not kept:
        return
    settings = TokenClassificationData(max_seq_length=limit, window_overlap=min(_OVERLAP, (limit - 2) // 2))
    split = EncodedWords(examples, extractor.tokenizer, settings, [])
    for numbers in _micro_batches(split.lengths.tolist()):
        windows = split.windows[numbers.start : numbers.stop]
        stretches = [
            Stretch(row, *place)
            for row, window in enumerate(windows)
            for place in zip(window.positions, window.num_pieces, strict=True)
        ]
        found = [(window.sentence, word) for window in windows for word in window.words]
        names = [examples[text].words[word] for text, word in found]
        positions = [word for _, word in found]
        vectors = _pooled(extractor, split.batch(np.array(numbers)), stretches)
        yield TextVectors(names, [kept[text] for text, _ in found], positions, vectors)


def _pieces(extractor: FeatureExtractor, texts: Sequence[str], unit: Unit, limit: int) -> Iterator[TextVectors]:
    """Yield the vectors of word pieces or of whole texts."""
    tokenizer = extractor.tokenizer
    ids = [each[: limit - 2] for each in tokenizer.encode_batch(texts)]
    for numbers in _micro_batches([len(each) + 2 for each in ids]):
        chosen, own = ids[numbers.start : numbers.stop], texts[numbers.start : numbers.stop]
        batch = text_batch(tokenizer, chosen, None, limit)
        if unit == "texts":
            stretches = [Stretch(row, 0, len(pieces) + 2) for row, pieces in enumerate(chosen)]
            yield TextVectors(own, own, [0] * len(own), _pooled(extractor, batch, stretches))
            continue
        places = [(row, position) for row, pieces in enumerate(chosen) for position in range(len(pieces))]
        names = [tokenizer.entries[chosen[row][position]] for row, position in places]
        vectors = _pooled(extractor, batch, [Stretch(row, position + 1, 1) for row, position in places])
        yield TextVectors(names, [own[row] for row, _ in places], [position for _, position in places], vectors)


def _pooled(extractor: FeatureExtractor, batch: Batch, stretches: Sequence[Stretch]) -> Tensor:
    """Return the vectors (layers, N, H) of stretches of a batch.

    A generator must not yield within `computing`: its caller would compute without gradients too, and two generators
    that take turns would leave PyTorch in this mode.
    """
    with extractor.computing():
        return pooled_states(extractor.hidden_states(batch), stretches)


def _micro_batches(lengths: Sequence[int]) -> Iterator[range]:
    """Yield consecutive sequences, as many as have at most `_MOST_TOKENS` tokens with their padding.

    >>> list(_micro_batches([1000, 2000, 2000, 500]))
    [range(0, 2), range(2, 4)]
    """
    start = longest = 0
    for number, length in enumerate(lengths):
        longest = max(longest, length)
        if number > start and longest * (number - start + 1) > _MOST_TOKENS:
            yield range(start, number)
            start, longest = number, length
    yield range(start, len(lengths))
