"""Encoding of texts and pairs of texts: as token ids that fit a model, and as a micro-batch."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from bert_lightning.data.loading.batching import Batch, assemble, to_batch
from bert_lightning.text.wordpiece import WordPieceTokenizer

# For each token to keep, this many characters of a text are encoded. A word piece of running text has four or five.
_CHARACTERS_PER_TOKEN = 12


def pair_lengths(first: int, second: int, limit: int) -> tuple[int, int]:
    """Return how many tokens of each text of a pair to keep, so that both together have at most `limit`.

    One token at a time is removed from the longer text, or from the second if both have the same length. The original
    code has the same rule in `create_pretraining_data.py: truncate_seq_pair` and `run_classifier.py:
    _truncate_seq_pair`.

    >>> pair_lengths(10, 4, limit=12)
    (8, 4)
    >>> pair_lengths(10, 9, limit=7)
    (4, 3)
    """
    if first + second <= limit:
        return first, second
    half = -(-limit // 2)
    keep = min(first, max(limit - second, half))
    return keep, limit - keep


def encode_texts(
    tokenizer: WordPieceTokenizer, texts: Sequence[str], pairs: Sequence[str | None] | None, max_seq_length: int
) -> tuple[list[list[int]], list[list[int] | None] | None]:
    """Encode texts, or pairs of texts, and cut them at the end so that they and the special tokens fit.

    Args:
        tokenizer: the tokenizer of the model.
        texts: the texts, or the first text of each pair.
        pairs: the second text of each pair, or None for a single text among pairs; None if the texts are no pairs.
        max_seq_length: limit of a sequence, with [CLS] and [SEP].

    Returns:
        Ids of the first and of the second texts, without special tokens.
    """
    firsts = first_tokens(tokenizer, texts, max_seq_length)
    if pairs is None:
        return [first[: max_seq_length - 2] for first in firsts], None
    encoded = first_tokens(tokenizer, [pair or "" for pair in pairs], max_seq_length)
    seconds = [None if pair is None else second for pair, second in zip(pairs, encoded, strict=True)]
    for number, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        if second is None:
            firsts[number] = first[: max_seq_length - 2]
            continue
        keep_first, keep_second = pair_lengths(len(first), len(second), max_seq_length - 3)
        firsts[number], seconds[number] = first[:keep_first], second[:keep_second]
    return firsts, seconds


def first_tokens(tokenizer: WordPieceTokenizer, texts: Sequence[str], limit: int) -> list[list[int]]:
    """Return the ids of each text, at least the first `limit` of them; the end of a long text is not encoded.

    A book thus takes no longer than a text of the few hundred tokens that a model reads. No rule of BERT's
    tokenization crosses a space. So the ids of the text up to a space are the first ids of the whole text.
    """
    length = _CHARACTERS_PER_TOKEN * limit
    stops = [text.rfind(" ", 0, length) if len(text) > 2 * length else -1 for text in texts]
    if max(stops, default=-1) < 0:
        return tokenizer.encode_batch(texts)
    ids = tokenizer.encode_batch([text if end < 0 else text[:end] for text, end in zip(texts, stops, strict=True)])
    # Some texts have long words, or many spaces.
    short = [number for number, end in enumerate(stops) if end >= 0 and len(ids[number]) < limit]
    for number, whole in zip(short, tokenizer.encode_batch([texts[number] for number in short]), strict=True):
        ids[number] = whole
    return ids


def text_batch(
    tokenizer: WordPieceTokenizer,
    firsts: list[list[int]],
    seconds: list[list[int] | None] | None,
    max_seq_length: int,
    **labels: NDArray[Any],
) -> Batch:
    """Turn encoded texts into a padded micro-batch; `labels` are arrays with one entry per text."""
    arrays = assemble(firsts, seconds, tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, max_seq_length)
    return to_batch(*arrays, **labels)
