"""Patterns: a text with fields and a mask, in which the model's words answer a question about the fields.

A pattern is written as one line, such as `{sentence} It was {mask}.`:

- `{mask}` is replaced by as many [MASK] pieces as the longest answer has.
- `{sentence}` is replaced by that column. `{text}` and `{text_pair}` are the first and the second text, whatever
  their columns are called.
- `{sentence:open}` leaves out punctuation at the end of the text, as PET (`pvp.py`) and LM-BFF do.
- ` || ` begins the second segment, after a [SEP] and with token type 1; Schick and Schütze 2021, arXiv 2001.07676,
  section 4.
"""

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bert_lightning.checks import nearest
from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.text.wordpiece import WordPieceTokenizer

MASK, SEGMENT = "mask", "||"
OPEN = "open"
TEXT, TEXT_PAIR = "text", "text_pair"


@dataclass(frozen=True)
class Field:
    """A place for a text of the example.

    Attributes:
        second: whether it is the second text of a pair.
        open: whether punctuation at its end is left out.
    """

    second: bool = False
    open: bool = False

    def text_of(self, example: LabelledText) -> str:
        """Return the text that an example has here."""
        text = (example.text_pair or "") if self.second else example.text
        return text.rstrip(string.punctuation + string.whitespace) if self.open else text


@dataclass(frozen=True)
class Masks:
    """The place of the answer."""


Part = str | Field | Masks


class Filled(NamedTuple):
    """One sequence: the ids of its two segments, without special tokens, and where the masks are."""

    first: list[int]
    second: list[int] | None
    """None if there is one segment"""
    masks: list[int]
    """(K,) positions in the sequence, [CLS] being 0"""
    fields: list[range]
    """the positions of each field"""


@dataclass(frozen=True)
class Pattern:
    """The parts of each segment, in order.

    Attributes:
        text: the pattern as written.
        segments: one or two lists of literal texts, fields and the place of the masks.
    """

    text: str
    segments: tuple[tuple[Part, ...], ...]

    @property
    def is_pair(self) -> bool:
        """Whether a sequence has two segments."""
        return len(self.segments) == 2

    @property
    def fields(self) -> list[Field]:
        """The fields, in order; one that is written twice is there twice."""
        return [part for parts in self.segments for part in parts if isinstance(part, Field)]

    def fill(
        self,
        examples: Sequence[LabelledText],
        tokenizer: WordPieceTokenizer,
        num_masks: int,
        max_seq_length: int,
        answers: Sequence[Sequence[int]] | None = None,
    ) -> list[Filled]:
        """Return the sequence of each example. Long texts lose pieces at their end, so that all else remains.

        One piece at a time is removed from the longest field, and from the last one among equals.

        Args:
            examples: the texts.
            tokenizer: encodes each literal and each field by itself.
            num_masks: K, the number of [MASK] pieces.
            max_seq_length: limit of a sequence, with [CLS] and [SEP].
            answers: pieces that replace the masks of each example, as in a demonstration.

        Raises:
            ValueError: the pattern alone leaves no room for a piece of each field.
        """
        room = self.room(tokenizer, num_masks, max_seq_length)
        fields = [tokenizer.encode_batch([field.text_of(each) for each in examples]) for field in self.fields]
        literals = {part: tokenizer.encode_batch([part])[0] for part in self.literals}
        filled = []
        for number in range(len(examples)):
            pieces = [encoded[number] for encoded in fields]
            kept = kept_lengths([len(each) for each in pieces], room)
            cut = iter([each[:length] for each, length in zip(pieces, kept, strict=True)])
            masks = [tokenizer.mask_id] * num_masks if answers is None else list(answers[number])
            filled.append(self._joined(cut, literals, masks))
        return filled

    def room(self, tokenizer: WordPieceTokenizer, num_masks: int, max_seq_length: int) -> int:
        """Return how many pieces of the fields fit beside the literals, the masks and the special tokens.

        Raises:
            ValueError: there is no room for one piece of each field.
        """
        num_literal = sum(len(each) for each in tokenizer.encode_batch(self.literals))
        needed = num_literal + num_masks + len(self.segments) + 1
        if max_seq_length - needed < len(self.fields):
            raise ValueError(f"the pattern alone has {needed} pieces, and each field needs one more")
        return max_seq_length - needed

    @property
    def literals(self) -> list[str]:
        """The texts between the fields, in order."""
        return [part for parts in self.segments for part in parts if isinstance(part, str)]

    def _joined(self, fields: Iterator[list[int]], literals: Mapping[str, list[int]], masks: list[int]) -> Filled:
        segments: list[list[int]] = []
        of_masks, of_fields = range(0), []
        for number, parts in enumerate(self.segments):
            ids: list[int] = []
            # [CLS] is before the first segment, and a [SEP] before the second.
            first = 1 + number + sum(map(len, segments))
            for part in parts:
                start = first + len(ids)
                if isinstance(part, Masks):
                    ids += masks
                    of_masks = range(start, first + len(ids))
                elif isinstance(part, Field):
                    ids += next(fields)
                    of_fields.append(range(start, first + len(ids)))
                else:
                    ids += literals[part]
            segments.append(ids)
        return Filled(segments[0], segments[1] if self.is_pair else None, list(of_masks), of_fields)


def read_pattern(text: str, columns: Sequence[str]) -> Pattern:
    """Return a pattern from its text.

    Args:
        text: the pattern, as written.
        columns: the columns of the first and, if there is one, of the second text.

    Raises:
        ValueError: it has no mask or several, no field, an unknown field, or more than two segments.

    >>> pattern = read_pattern("{premise:open}? || {mask}, {hypothesis}", ["premise", "hypothesis"])
    >>> pattern.segments[0]
    (Field(second=False, open=True), '?')
    >>> pattern.segments[1]
    (Masks(), ',', Field(second=True, open=False))
    """
    known = {TEXT: Field(), **({TEXT_PAIR: Field(second=True)} if len(columns) > 1 else {})}
    known |= {name: Field(second=bool(number)) for number, name in enumerate(columns)}
    segments = text.split(SEGMENT)
    if len(segments) > 2:
        raise ValueError(f"pattern is {text!r}, which has {len(segments)} segments; BERT reads two")
    parsed = tuple(tuple(_parts(segment, known, text)) for segment in segments)
    parts = [part for each in parsed for part in each]
    if (number := sum(isinstance(part, Masks) for part in parts)) != 1:
        raise ValueError(f"pattern is {text!r}, which has {number or 'no'} {{mask}}; it must have one")
    if not any(isinstance(part, Field) for part in parts):
        raise ValueError(f"pattern is {text!r}, which has no field: one of {', '.join(known)} in braces")
    return Pattern(text, parsed)


def _parts(segment: str, known: Mapping[str, Field], text: str) -> Iterator[Part]:
    """Yield the parts of a segment.

    Raises:
        ValueError: a brace is alone, or a name in braces is no field, or has options that the field does not take.
    """
    try:
        parsed = list(string.Formatter().parse(segment))
    except ValueError as error:
        raise ValueError(f"pattern is {text!r}, which cannot be read: {error}") from None
    names = [*known, MASK]
    for literal, name, options, conversion in parsed:
        if literal.strip():
            yield literal.strip()
        if name is None:
            continue
        if not name:
            raise ValueError(f"pattern is {text!r}, which has braces without a name: one of {', '.join(names)}")
        if name not in names:
            if name == TEXT_PAIR:
                raise ValueError(
                    f"pattern has the field {name!r}, but there is one text; in a configuration, "
                    "data.text_pair_column names the second one"
                )
            raise ValueError(f"pattern has the field {name!r}{nearest(name, names)}")
        if conversion is not None:
            raise ValueError(f"pattern has the field {name}!{conversion}; a conversion such as !r is not possible")
        if name == MASK:
            if options:
                raise ValueError(f"pattern has the field {name}:{options}; {{{MASK}}} takes no options")
            yield Masks()
            continue
        if options not in ("", OPEN):
            raise ValueError(f"pattern has the field {name}:{options}; only {name}:{OPEN} exists")
        yield Field(known[name].second, options == OPEN)


def kept_lengths(lengths: Sequence[int], limit: int) -> list[int]:
    """Return how many pieces of each field to keep, so that all together have at most `limit`.

    One piece at a time is removed from the longest field, or from the last one if several are equally long. For two
    fields this is `data/loading/encoding.py: pair_lengths`.

    >>> kept_lengths([10, 4, 1], 12), kept_lengths([10, 9], 7), kept_lengths([3, 2], 7)
    ([7, 4, 1], [4, 3], [3, 2])
    """
    if sum(lengths) <= limit:
        return list(lengths)
    # The largest bound to which all fields can be cut, and the pieces that are left over beside it.
    bound = next(each for each in range(max(lengths), -1, -1) if sum(min(n, each) for n in lengths) <= limit)
    kept = [min(length, bound) for length in lengths]
    left = limit - sum(kept)
    for number, length in enumerate(lengths):
        if left and length > bound:
            kept[number] += 1
            left -= 1
    return kept
