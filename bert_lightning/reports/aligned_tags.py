"""Reading of gold and predicted tags from two files, so that both have the same tokens.

conlleval splits every line at blanks. That fails for gold files with blanks in their words, for tables, and for files
with comments. So several ways of reading are tried in turn, and the first one that yields equal tokens is used.
"""

import re
from collections.abc import Callable, Iterable
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from bert_lightning.data.datasets.examples import TaggedSentence
from bert_lightning.data.datasets.readers.tagged import (
    SENTENCE_END,
    as_column,
    has_columns,
    read_tagged,
    word_location,
)
from bert_lightning.data.reading.lines import STANDARD_INPUT, read_lines
from bert_lightning.errors import InputError
from bert_lightning.metrics.conlleval import split_conlleval_tag
from bert_lightning.metrics.entities import EntityScheme
from bert_lightning.metrics.spans import split_strict_tag
from bert_lightning.tags import is_span_tag
from bert_lightning.tasks.token_classification.nearest_tag import nearest_tag
from bert_lightning.tasks.token_classification.tag_schemes import convert
from bert_lightning.tasks.token_classification.tag_verdict import judge_tags
from bert_lightning.wording import count

_BLANKS = " \t\r\n"


class TagLine(NamedTuple):
    """A word in a file of tags.

    Attributes:
        location: file and line.
        token: the word; None in a file that has only tags.
        tag: its tag.
        gold: the column before the tag, if there are three or more columns.
    """

    location: str
    token: str | None
    tag: str
    gold: str | None


Sentences = list[list[TagLine]]


class AlignedTags(NamedTuple):
    """Gold and predicted sentences with the same tokens.

    Attributes:
        gold: the gold sentences.
        predicted: the predicted sentences.
        plain: whether the tags are plain labels, which mark no spans.
    """

    gold: Sentences
    predicted: Sentences
    plain: bool


class _Way(NamedTuple):
    """A way of reading both files.

    Attributes:
        read_gold: reads the gold file.
        read_predictions: reads the file of predictions.
        splits_gold: whether the lines of the gold file are split at blanks, as conlleval does.
        splits_predictions: the same for the predictions.
    """

    read_gold: Callable[[str], Sentences]
    read_predictions: Callable[[str], Sentences]
    splits_gold: bool
    splits_predictions: bool


class _Failure(NamedTuple):
    """The reason why a way of reading failed.

    Attributes:
        num_same: the number of tokens that agree before the first problem; -1 if a file cannot be read in this way.
        message: the problem, with file and line.
    """

    num_same: int
    message: str


def read_aligned(
    gold: str, predictions: str, scheme: EntityScheme, token_column: int | str | None, tag_column: int | str | None
) -> AlignedTags:
    """Try several ways of reading two files; return the first result with equal tokens and allowed tags.

    Raises:
        InputError: every way failed. The message describes the failure of the way in which most tokens agree.
    """
    failures: list[_Failure] = []
    for way in _ways(gold, predictions, token_column, tag_column):
        result = _read_in(way, gold, predictions, scheme)
        if isinstance(result, AlignedTags):
            return result
        failures.append(result)
    raise InputError(max(failures, key=lambda failure: failure.num_same).message)


def _ways(gold: str, predictions: str, token_column: int | str | None, tag_column: int | str | None) -> list[_Way]:
    """Return the ways of reading the two files, in the order in which they are tried."""

    @cache
    def split_at_blanks(source: str) -> Sentences:
        return _read_columns(source)

    @cache
    def as_fit(source: str) -> Sentences:
        columns = (token_column, tag_column) if source == gold else (None, None)
        return _as_written(read_tagged(source, *columns))

    ways: list[_Way] = []
    if token_column is None and tag_column is None:
        # The settings of the run that wrote the predictions say how its gold file is read.
        if (reader_of_run := _reader_of_run(predictions)) is not None:
            ways.append(_Way(lambda source: _as_written(reader_of_run(source)), split_at_blanks, False, True))
        # Both files as conlleval reads them.
        if gold == STANDARD_INPUT or has_columns(gold):
            ways.append(_Way(split_at_blanks, split_at_blanks, True, True))
    # A gold file that only `fit` can read. The predictions have the format of a run or that of the gold file.
    ways.append(_Way(as_fit, split_at_blanks, False, True))
    if predictions != STANDARD_INPUT:
        ways.append(_Way(as_fit, as_fit, False, False))
    if gold == STANDARD_INPUT:
        # Standard input can be read only once. Only `split_at_blanks`, which is cached, may serve several ways.
        return [way for way in ways if way.splits_gold] or ways[:1]
    return ways


def _read_in(way: _Way, gold: str, predictions: str, scheme: EntityScheme) -> AlignedTags | _Failure:
    """Read both files in one way, and check their tokens, then their tags."""
    try:
        gold_sentences, predicted_sentences = way.read_gold(gold), way.read_predictions(predictions)
    except InputError as error:
        return _Failure(-1, str(error))
    failure = _first_difference(gold, gold_sentences, predictions, predicted_sentences)
    if failure is not None:
        return failure
    gold_sentences = _with_written_gold(gold_sentences, predicted_sentences)
    wrong = _first_wrong_tag(gold_sentences + predicted_sentences, scheme)
    if wrong is None:
        return AlignedTags(gold_sentences, predicted_sentences, plain=False)
    if not _are_plain(gold_sentences + predicted_sentences, scheme):
        return wrong
    # Plain labels may be any text, so no other check would notice that a label was cut at a blank.
    for source, splits in ((gold, way.splits_gold), (predictions, way.splits_predictions)):
        if splits and _cuts_tags(source):
            return _Failure(-1, f"{source}: there are blanks in the tags")
    return AlignedTags(gold_sentences, predicted_sentences, plain=True)


def _cuts_tags(source: str) -> bool:
    """Return whether a tab-separated file has tags with blanks, at which conlleval would cut them."""
    if source == STANDARD_INPUT:
        return False
    fields = (line.rpartition("\t") for _, line in read_lines(source))
    return any(tab and " " in tag.strip(_BLANKS) for _, tab, tag in fields)


def _read_columns(source: str) -> Sentences:
    """Read columns as conlleval does."""
    sentences: Sentences = [[]]
    has_tokens: bool | None = None
    for location, line in read_lines(source):
        # `str.split` would also split at no-break and other Unicode spaces, which are tokens in some real files.
        columns = re.split(r"[ \t]+", line.rstrip(_BLANKS))
        if columns == [""] or columns[0] == SENTENCE_END:
            sentences.append([])
            continue
        if has_tokens is None:
            has_tokens = len(columns) > 1
        if has_tokens and len(columns) == 1:
            raise InputError(f"{location}: a single column, but the lines before have a token and a tag")
        if not has_tokens and len(columns) > 1:
            raise InputError(f"{location}: {len(columns)} columns, but the lines before have only a tag")
        gold = columns[-2] if len(columns) > 2 else None
        sentences[-1].append(TagLine(location, columns[0] if has_tokens else None, columns[-1], gold))
    return [sentence for sentence in sentences if sentence]


def _as_written(examples: Iterable[TaggedSentence]) -> Sentences:
    """Return tagged sentences as a run writes them, with `_` in place of blanks."""
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
    # Imported here because these modules load torch, which takes a second.
    from bert_lightning.config.experiment import load_experiment
    from bert_lightning.runs.directory import RunDirectory
    from bert_lightning.tasks.token_classification.settings import TokenClassificationData

    try:
        settings = load_experiment([], (), RunDirectory(folder.parent).read_config()).data
    except InputError:
        return None
    if not isinstance(settings, TokenClassificationData):
        return None
    standard = settings.standard
    if standard is not None and not standard.reads_columns:
        return lambda source: standard.read(source, "validation")
    return lambda source: read_tagged(source, settings.token_column, settings.tag_column)


def _first_difference(
    gold: str, gold_sentences: Sentences, predictions: str, predicted_sentences: Sentences
) -> _Failure | None:
    """Describe the first token, or first end of a sentence or file, that differs; return None if all are equal."""
    if not gold_sentences:
        return _Failure(0, f"{gold}: no token in this file")
    num_same = 0
    pairs = zip_longest(gold_sentences, predicted_sentences, fillvalue=())
    for number, (gold_lines, predicted_lines) in enumerate(pairs):
        for gold_line, line in zip(gold_lines, predicted_lines, strict=False):
            if gold_line.token is not None and line.token is not None and gold_line.token != line.token:
                hint = "; --token-column names another column of it" if gold_line.gold is not None else ""
                tokens = f"the token is {line.token!r}, but {gold_line.token!r} in {gold_line.location}"
                return _Failure(num_same, f"{line.location}: {tokens}{hint}")
            num_same += 1
        if len(gold_lines) == len(predicted_lines):
            continue
        shorter, longer = sorted((gold_lines, predicted_lines), key=len)
        rest = longer[len(shorter)].location
        if shorter:
            ends = f"sentence {number + 1} ends after {count(len(shorter), 'token')}"
            return _Failure(num_same, f"{shorter[-1].location}: {ends}, but continues in {rest}")
        ended = gold if shorter is gold_lines else predictions
        ends = f"the file ends after {count(number, 'sentence')}"
        return _Failure(num_same, f"{ended}: {ends}, but the next begins in {rest}")
    return None


def _with_written_gold(gold: Sentences, predicted: Sentences) -> Sentences:
    """Return the gold sentences in IOB2 if the predictions hold the same gold tags in IOB2; otherwise unchanged.

    A run writes gold tags in IOB2 and is scored by them. conlleval counts other schemes differently, so only the same
    tags give the scores of the run.
    """
    converted: Sentences = []
    for gold_lines, predicted_lines in zip(gold, predicted, strict=True):
        tags = [line.tag for line in gold_lines]
        if not all(map(is_span_tag, tags)) or convert(tags, "IOB2") != [line.gold for line in predicted_lines]:
            return gold
        pairs = zip(gold_lines, convert(tags, "IOB2"), strict=True)
        converted.append([line._replace(tag=tag) for line, tag in pairs])
    return converted


def _first_wrong_tag(sentences: Sentences, scheme: EntityScheme) -> _Failure | None:
    """Describe the first tag outside the scheme, with the nearest tag; return None if all tags are of the scheme."""
    lines = [line for sentence in sentences for line in sentence]
    tags = {line.tag for line in lines}
    problems = {tag: problem for tag in tags if (problem := _tag_error(tag, scheme)) is not None}
    line = next((line for line in lines if line.tag in problems), None)
    if line is None:
        return None
    reading = None if is_span_tag(line.tag) else nearest_tag(line.tag, tags)
    hint = f"; the nearest tag is {reading!r}" if reading is not None else ""
    # All tokens agree, so this failure is reported rather than that of another way.
    return _Failure(len(lines), f"{line.location}: {problems[line.tag]}{hint}")


def _are_plain(sentences: Sentences, scheme: EntityScheme) -> bool:
    """Return whether tags that are not all of the scheme are plain labels. Strict mode has no plain labels."""
    verdict = judge_tags(line.tag for sentence in sentences for line in sentence)
    return scheme == "conlleval" and not verdict.spans and not verdict.refused


def _tag_error(tag: str, scheme: EntityScheme) -> str | None:
    try:
        split_conlleval_tag(tag) if scheme == "conlleval" else split_strict_tag(tag, "IOB2")
    except ValueError as error:
        return str(error)
    return None
