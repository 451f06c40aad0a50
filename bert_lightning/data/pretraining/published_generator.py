"""The published instance generator: `google-research/bert`, `create_pretraining_data.py`.

The same text, vocabulary, seed and settings give the same instances in the same order as the original code. The
faults of the original are kept:

- A B that is labelled random may come from the document of A.
- A word piece at the cut front of B counts as part of the last word of A.
- A random token may be a special token.

The dynamic samples of `objectives.py` correct them.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, Protocol

from bert_lightning.data.reading.lines import DecodingErrors, Repairs, named, numbered_lines
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import CLS, MASK, SEP

Segment = list[str]
_NUM_DOCUMENT_DRAWS = 10


class Encoder(Protocol):
    """Anything that splits a line of text into word pieces."""

    def tokenize(self, text: str) -> list[str]:
        """Return the word pieces of a text."""
        ...


@dataclass(frozen=True)
class GoogleSettings:
    """Settings of the original generator with their original names, meanings and defaults.

    Attributes:
        max_seq_length: longest pair in tokens, special tokens included.
        max_predictions_per_seq: limit of masked tokens per pair.
        masked_lm_prob: fraction of a pair's tokens to mask, special tokens included in the count.
        dupe_factor: passes over the text, each with other masks and pairs.
        short_seq_prob: fraction of documents whose pairs are made shorter, drawn again in each pass.
        whole_word: mask whole words.
        seed: seed of Python's generator, from which all random numbers come.
    """

    max_seq_length: int = 128
    max_predictions_per_seq: int = 20
    masked_lm_prob: float = 0.15
    dupe_factor: int = 10
    short_seq_prob: float = 0.1
    whole_word: bool = False
    seed: int = 12345

    def __post_init__(self) -> None:
        # Below 5 the original fails, because a pair needs a token in each text.
        for name, least in {"max_seq_length": 5, "max_predictions_per_seq": 1, "dupe_factor": 1}.items():
            if getattr(self, name) < least:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least {least}")
        for name in ("masked_lm_prob", "short_seq_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be between 0 and 1")


class Instance(NamedTuple):
    """One masked pair, with the fields that the original writes."""

    tokens: list[str]
    segment_ids: list[int]
    is_random_next: bool
    masked_lm_positions: list[int]
    masked_lm_labels: list[str]

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(self._asdict(), ensure_ascii=False)


def google_instances(
    sources: Sequence[str],
    encoder: Encoder,
    vocabulary: Sequence[str],
    settings: GoogleSettings,
    errors: DecodingErrors = "strict",
    repairs: Repairs | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Iterator[str]:
    """Yield all instances of some plain text files, as lines of JSON, in the original order.

    All documents are held in memory, because a random B may come from any of them. Instances are kept in a temporary
    file until the final shuffle.

    Args:
        sources: text files: a line is a segment, and a blank line ends a document; the end of a file does not.
        encoder: the original encoding (`text/original.py`).
        vocabulary: entries in file order, from which random tokens are drawn.
        settings: settings of the generator.
        errors: the treatment of bytes that are not UTF-8.
        repairs: counts what had to be repaired.
        progress: callback that receives how many documents are done, and how many there are, over all passes.

    Raises:
        InputError: a source cannot be read, or there is no text.
    """
    documents = _read_documents(sources, encoder, errors, repairs)
    if not documents:
        raise InputError(f"the corpus is empty: no text in {named(sources)}")
    words = list(dict.fromkeys(vocabulary))
    generator = Random(settings.seed)
    generator.shuffle(documents)
    offsets: list[int] = []
    with tempfile.TemporaryFile() as file:
        for number in range(settings.dupe_factor * len(documents)):
            for instance in _of_document(documents, number % len(documents), words, settings, generator):
                offsets.append(file.tell())
                file.write(instance.to_json().encode() + b"\n")
            progress(number + 1, settings.dupe_factor * len(documents))
        # Shuffled instances would have the same order: the draws of a shuffle depend only on the number of items.
        generator.shuffle(offsets)
        for offset in offsets:
            file.seek(offset)
            yield file.readline().decode()


def _read_documents(
    sources: Sequence[str], encoder: Encoder, errors: DecodingErrors, repairs: Repairs | None
) -> list[list[Segment]]:
    documents: list[list[Segment]] = [[]]
    for source in sources:
        num_lines, joined = 0, False
        for _, line in numbered_lines(source, errors, repairs, keep_mark=True, carriage_returns="keep"):
            num_lines += 1
            joined = "\r" in line.rstrip("\r\n")
            # TensorFlow's reader drops every carriage return, and keeps a byte-order mark.
            text = line.replace("\r", "").strip()
            if not text:
                documents.append([])
            elif segment := encoder.tokenize(text):
                documents[-1].append(segment)
        if num_lines == 1 and joined:
            raise InputError(
                f"{source}: its lines end in carriage returns alone, so the published generator reads them as one "
                "line: convert the line ends to LF"
            )
    return [document for document in documents if document]


def _of_document(
    documents: list[list[Segment]], number: int, words: Sequence[str], settings: GoogleSettings, generator: Random
) -> Iterator[Instance]:
    """Yield the instances of one document: `create_instances_from_document`."""
    document = documents[number]
    max_num_tokens = settings.max_seq_length - 3
    target = max_num_tokens
    # This is drawn once per document and pass, not once per chunk.
    if generator.random() < settings.short_seq_prob:
        target = generator.randint(2, max_num_tokens)
    chunk: list[Segment] = []
    length = position = 0
    while position < len(document):
        chunk.append(document[position])
        length += len(document[position])
        if position == len(document) - 1 or length >= target:
            num_first = generator.randint(1, len(chunk) - 1) if len(chunk) >= 2 else 1
            first = _joined(chunk[:num_first])
            # A chunk of one segment has no rest for B, so B is random without a draw.
            is_random = len(chunk) == 1 or generator.random() < 0.5
            if is_random:
                second = _random_second(documents, number, target - len(first), generator)
                # The segments after A were not used, so they are read again.
                position -= len(chunk) - num_first
            else:
                second = _joined(chunk[num_first:])
            first, second = _truncate(first, second, max_num_tokens, generator)
            tokens = [CLS, *first, SEP, *second, SEP]
            segment_ids = [0] * (len(first) + 2) + [1] * (len(second) + 1)
            masked, positions, labels = _mask(tokens, words, settings, generator)
            yield Instance(masked, segment_ids, is_random, positions, labels)
            chunk, length = [], 0
        position += 1


def _joined(segments: Sequence[Segment]) -> Segment:
    return [token for segment in segments for token in segment]


def _random_second(documents: list[list[Segment]], number: int, target: int, generator: Random) -> Segment:
    """Return whole segments of a random document, from a random segment on.

    After ten draws the document of A is accepted.
    """
    other = number
    for _ in range(_NUM_DOCUMENT_DRAWS):
        other = generator.randint(0, len(documents) - 1)
        if other != number:
            break
    document = documents[other]
    second: Segment = []
    for segment in document[generator.randint(0, len(document) - 1) :]:
        second += segment
        if len(second) >= target:
            break
    return second


def _truncate(first: Segment, second: Segment, limit: int, generator: Random) -> tuple[Segment, Segment]:
    """Cut the longer text (at equal lengths the second) at its front or end, at random: `truncate_seq_pair`."""
    bounds = [[0, len(first)], [0, len(second)]]
    lengths = [len(first), len(second)]
    while sum(lengths) > limit:
        longer = 0 if lengths[0] > lengths[1] else 1
        lengths[longer] -= 1
        if generator.random() < 0.5:
            bounds[longer][0] += 1
        else:
            bounds[longer][1] -= 1
    return first[slice(*bounds[0])], second[slice(*bounds[1])]


def _mask(
    tokens: Sequence[str], words: Sequence[str], settings: GoogleSettings, generator: Random
) -> tuple[list[str], list[int], list[str]]:
    """Return the masked tokens, the sorted positions of masks, and the original tokens there.

    The original calls it `create_masked_lm_predictions`.
    """
    candidates: list[list[int]] = []
    for position, token in enumerate(tokens):
        if token in (CLS, SEP):
            continue
        if settings.whole_word and candidates and token.startswith("##"):
            candidates[-1].append(position)
        else:
            candidates.append([position])
    generator.shuffle(candidates)
    num_to_mask = min(settings.max_predictions_per_seq, max(1, round(len(tokens) * settings.masked_lm_prob)))
    masked = list(tokens)
    masked_positions: list[int] = []
    for candidate in candidates:
        if len(masked_positions) >= num_to_mask:
            break
        if len(masked_positions) + len(candidate) > num_to_mask:
            continue
        for position in candidate:
            if generator.random() < 0.8:
                masked[position] = MASK
            elif generator.random() >= 0.5:
                masked[position] = words[generator.randint(0, len(words) - 1)]
        masked_positions += candidate
    masked_positions.sort()
    return masked, masked_positions, [tokens[position] for position in masked_positions]
