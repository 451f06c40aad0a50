"""Read gold and predicted tags from two files so that both have the same words."""

import re
from collections.abc import Callable, Iterable
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from bert_lightning.data.datasets.examples import TaggedSentence
from bert_lightning.data.datasets.readers.tagged import BOUNDARY, as_column, has_columns, read_tagged, word_location
from bert_lightning.data.reading.lines import STANDARD_INPUT, read_lines
from bert_lightning.errors import InputError
from bert_lightning.metrics.entities import EntityScheme, split_conlleval_tag, split_strict_tag
from bert_lightning.tasks.token_classification.tag_schemes import convert, is_span_tag, judge_tags, nearest_tag
from bert_lightning.wording import count

_BLANKS = " \t\r\n"


class TagLine(NamedTuple):
    """A word of a file of tags."""

    location: str
    token: str | None
    """None in a file of tags alone."""
    tag: str
    gold: str | None
    """The column before the tag, where there are three or more."""


Sentences = list[list[TagLine]]
_Reader = Callable[[str], Sentences]
# The number of tokens that agree, and a message.
_Failure = tuple[int, str]


def read_aligned(
    gold: str, predictions: str, scheme: EntityScheme, token_column: int | str | None, tag_column: int | str | None
) -> tuple[tuple[Sentences, Sentences], bool]:
    """Read two files in the first of several ways that yields the same tokens and only tags of the scheme.

    Returns:
        Gold and predicted sentences, and whether their tags are plain labels.

    Raises:
        InputError: no way serves; the message is about the one in which most tokens agree.
    """

    @cache
    def columns(source: str) -> Sentences:
        return _read_columns(source)

    @cache
    def as_fit_reads(source: str) -> Sentences:
        named = (token_column, tag_column) if source == gold else (None, None)
        return _as_written(read_tagged(source, *named))

    ways: list[tuple[_Reader, _Reader]] = [(as_fit_reads, columns)]
    if token_column is None and tag_column is None:
        if gold == STANDARD_INPUT or has_columns(gold):
            ways.insert(0, (columns, columns))
        if (of_run := _reader_of_run(predictions)) is not None:
            ways.insert(0, (lambda source: _as_written(of_run(source)), columns))
    if predictions != STANDARD_INPUT:
        ways.append((as_fit_reads, as_fit_reads))
    if gold == STANDARD_INPUT:
        # Standard input can be read only once.
        ways = [way for way in ways if way[0] is columns] or ways[:1]
    failures: list[_Failure] = []
    for read_gold, read_predictions in ways:
        try:
            gold_sentences, predicted_sentences = read_gold(gold), read_predictions(predictions)
        except InputError as error:
            failures.append((-1, str(error)))
            continue
        failure = _first_difference(gold, gold_sentences, predictions, predicted_sentences)
        if failure is None:
            sentences = _with_written_gold(gold_sentences, predicted_sentences), predicted_sentences
            plain, failure = _are_plain(sentences, scheme)
            read = ((gold, read_gold), (predictions, read_predictions))
            cut = [source for source, reader in read if plain and reader is columns and _cuts_tags(source)]
            if failure is None and not cut:
                return sentences, plain
            failure = failure or (-1, f"{cut[0]}: there are blanks in the tags")
        failures.append(failure)
    raise InputError(max(failures, key=lambda failure: failure[0])[1])


def _cuts_tags(source: str) -> bool:
    """Return whether a file separated by tabs has blanks in its tags, at which conlleval would cut them."""
    if source == STANDARD_INPUT:
        return False
    fields = (line.rpartition("\t") for _, line in read_lines(source))
    return any(tab and " " in tag.strip(_BLANKS) for _, tab, tag in fields)


def _read_columns(source: str) -> Sentences:
    """Read columns as conlleval does."""
    sentences: Sentences = [[]]
    has_tokens: bool | None = None
    for location, line in read_lines(source):
        # Not split(): no-break and other spaces of Unicode are tokens of real files.
        columns = re.split(r"[ \t]+", line.rstrip(_BLANKS))
        if columns == [""] or columns[0] == BOUNDARY:
            sentences.append([])
            continue
        if has_tokens is None:
            has_tokens = len(columns) > 1
        if has_tokens and len(columns) == 1:
            raise InputError(f"{location}: a single column, but the lines before have a token and a tag")
        if not has_tokens and len(columns) > 1:
            raise InputError(f"{location}: {len(columns)} columns, but the lines before have a tag alone")
        gold = columns[-2] if len(columns) > 2 else None
        sentences[-1].append(TagLine(location, columns[0] if has_tokens else None, columns[-1], gold))
    return [sentence for sentence in sentences if sentence]


def _as_written(examples: Iterable[TaggedSentence]) -> Sentences:
    """Return tagged sentences with their words and tags as a run writes them."""
    sentences: Sentences = []
    for sentence in examples:
        if sentence.tags is None:
            raise InputError(f"{sentence.location}: this sentence has no tags")
        pairs = zip(sentence.words, sentence.tags, strict=True)
        sentences.append(
            [
                TagLine(word_location(sentence, number), as_column(word), as_column(tag), None)
                for number, (word, tag) in enumerate(pairs)
            ]
        )
    return sentences


def _reader_of_run(predictions: str) -> Callable[[str], Iterable[TaggedSentence]] | None:
    """Return the reader of the run that wrote `RUN/predictions/SPLIT/predictions.conll`; None for other files."""
    folder = Path(predictions).resolve().parent.parent
    if predictions == STANDARD_INPUT or folder.name != "predictions" or not (folder.parent / "config.yaml").is_file():
        return None
    # Imported here because they load torch, which takes a second.
    from bert_lightning.config.experiment import load_experiment
    from bert_lightning.runs.directory import RunDirectory
    from bert_lightning.tasks.token_classification.data import TokenClassificationData

    try:
        settings = load_experiment([], (), RunDirectory(folder.parent).read_config()).data
    except InputError:
        return None
    if not isinstance(settings, TokenClassificationData):
        return None
    standard = settings.standard
    if standard is not None:
        return lambda source: standard.read(source, "validation")
    return lambda source: read_tagged(source, settings.token_column, settings.tag_column)


def _first_difference(
    gold: str, gold_sentences: Sentences, predictions: str, predicted_sentences: Sentences
) -> _Failure | None:
    """Return the number of tokens before the first difference, and a message about it; None if there is none."""
    if not gold_sentences:
        return 0, f"{gold}: no token in this file"
    num_same = 0
    pairs = zip_longest(gold_sentences, predicted_sentences, fillvalue=())
    for number, (gold_lines, predicted_lines) in enumerate(pairs):
        for a, b in zip(gold_lines, predicted_lines, strict=False):
            if a.token is not None and b.token is not None and a.token != b.token:
                hint = "; --token-column names another column of it" if a.gold is not None else ""
                return num_same, f"{b.location}: the token is {b.token!r}, but {a.token!r} in {a.location}{hint}"
            num_same += 1
        if len(gold_lines) == len(predicted_lines):
            continue
        shorter, longer = sorted((gold_lines, predicted_lines), key=len)
        rest = longer[len(shorter)].location
        if shorter:
            ends = f"sentence {number + 1} ends after {count(len(shorter), 'token')}"
            return num_same, f"{shorter[-1].location}: {ends}, but continues in {rest}"
        ended = gold if shorter is gold_lines else predictions
        ends = f"the file ends after {count(number, 'sentence')}"
        return num_same, f"{ended}: {ends}, but the next begins in {rest}"
    return None


def _with_written_gold(gold: Sentences, predicted: Sentences) -> Sentences:
    """Return the gold sentences in IOB2 if the predictions hold the same gold tags in IOB2; otherwise unchanged."""
    found: Sentences = []
    for gold_lines, predicted_lines in zip(gold, predicted, strict=True):
        tags = [line.tag for line in gold_lines]
        if not all(map(is_span_tag, tags)) or convert(tags, "IOB2") != [line.gold for line in predicted_lines]:
            return gold
        pairs = zip(gold_lines, convert(tags, "IOB2"), strict=True)
        found.append([line._replace(tag=tag) for line, tag in pairs])
    return found


def _are_plain(sentences: tuple[Sentences, Sentences], scheme: EntityScheme) -> tuple[bool, _Failure | None]:
    """Return whether all tags are plain labels, and otherwise a failure if a tag is not of the scheme."""
    lines = [line for side in sentences for sentence in side for line in sentence]
    tags = {line.tag for line in lines}
    wrong = {tag: error for tag in tags if (error := _tag_error(tag, scheme)) is not None}
    if not wrong:
        return False, None
    verdict = judge_tags(tags)
    if scheme == "conlleval" and not verdict.spans and not verdict.refused:
        return True, None
    line = next(line for line in lines if line.tag in wrong)
    reading = None if is_span_tag(line.tag) else nearest_tag(line.tag, tags)
    nearest = f"; the nearest tag is {reading!r}" if reading is not None else ""
    return False, (len(lines), f"{line.location}: {wrong[line.tag]}{nearest}")


def _tag_error(tag: str, scheme: EntityScheme) -> str | None:
    try:
        split_conlleval_tag(tag) if scheme == "conlleval" else split_strict_tag(tag, "IOB2")
    except InputError as error:
        return str(error)
    return None
