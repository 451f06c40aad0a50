"""Checks of the tags of files before training or scoring. Every message names file and line."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal

from bert_lightning.data.datasets.examples import TaggedSentence
from bert_lightning.data.datasets.readers.tagged import has_columns, read_tagged, word_location
from bert_lightning.errors import InputError
from bert_lightning.tags import OUTSIDE, PREFIXES_OF, TagScheme, has_type, is_span_tag
from bert_lightning.tasks.token_classification.nearest_tag import is_fraction, similar_types, tag_problem
from bert_lightning.tasks.token_classification.tag_schemes import detect_scheme, first_break
from bert_lightning.tasks.token_classification.tag_verdict import TagVerdict, is_several, judge_tags
from bert_lightning.wording import count

log = logging.getLogger(__name__)
_NUM_SEARCHED_COLUMNS, _NUM_SEARCHED_SENTENCES = 16, 200


def tags_in(examples: Sequence[TaggedSentence]) -> set[str]:
    """Return the distinct tags of sentences."""
    return {tag for tags in _sequences(examples) for tag in tags}


def mark_spans(examples: Sequence[TaggedSentence]) -> bool:
    """Decide by its tags whether a training file marks spans.

    Raises:
        InputError: a tag is nearly that of a span, or marks no span although other tags do; or all words are tags of
            spans.
    """
    tags = tags_in(examples)
    verdict = judge_tags(tags)
    if verdict.refused:
        raise _refusal(examples, verdict.refused)
    if not verdict.spans and _words_mark_spans(examples):
        raise InputError(
            f"{word_location(examples[0], 0)}: {examples[0].words[0]!r} is read as a word and "
            f"{(examples[0].tags or [])[0]!r} as its tag, but all words of this file are tags of spans: "
            "data.token_column and data.tag_column say which is which"
        )
    if verdict.doubtful:
        log.warning(
            "%s could mark a span, but the tags are read as plain labels and scored by accuracy and macro F1; "
            "set data.source_scheme to BIOES or BILOU to read spans, or to none to end this warning",
            _first(examples, verdict.doubtful),
        )
    if tags and all(map(is_fraction, tags)):
        log.warning("%s is a number, as all tags are; set data.tag_column to another column", _first(examples, tags))
    return verdict.spans


def _words_mark_spans(examples: Sequence[TaggedSentence]) -> bool:
    """Return whether all words are tags of spans, so that the two columns were probably confused."""
    words = (word for example in examples for word in example.words)
    if not all(map(is_span_tag, words)):
        return False
    return judge_tags(word for example in examples for word in example.words).spans


def warn_of_other_columns(source: str, token_column: int | str | None) -> None:
    """Warn if the last column of a column file holds plain labels, and one before it holds tags of spans."""
    if not has_columns(source):
        return
    for column in range(_NUM_SEARCHED_COLUMNS):
        try:
            examples = list(islice(read_tagged(source, token_column, column), _NUM_SEARCHED_SENTENCES))
        except InputError:
            # There is no such column, or it holds the words.
            continue
        starts = {tag for tag in tags_in(examples) if tag[:2] in ("B-", "I-")}
        if starts and judge_tags(tags_in(examples)) == TagVerdict(True):
            log.warning(
                "%s marks a span, but the last column, which holds plain labels, is read as the tags; "
                "set data.tag_column to %d to read the spans",
                _first(examples, starts), column,
            )  # fmt: skip
            return


def refuse_other_than_spans(examples: Sequence[TaggedSentence], known: Collection[str]) -> None:
    """Refuse tags that mark no span, and tags with a type if those of training have none, or the reverse.

    Args:
        examples: the sentences of one file.
        known: the tags of training.

    Raises:
        InputError: there is such a tag.
    """
    tags = tags_in(examples)
    forms = {has_type(tag) for tag in known if tag != OUTSIDE and is_span_tag(tag)}
    unfit = {tag for tag in tags if tag != OUTSIDE and not _fits(tag, forms)}
    if unfit:
        raise _refusal(examples, unfit, known)
    if several := {tag for tag in tags if is_several(tag)}:
        log.warning(
            "%s holds several tags, but is read as one; its type is everything after the prefix",
            _first(examples, several),
        )
    if pair := similar_types({tag[2:] for tag in tags | {*known} if has_type(tag)}):
        log.warning("%s: the types %r and %r are similar, but are read as two", examples[0].location, *pair)


def _fits(tag: str, forms: set[bool]) -> bool:
    """Return whether a tag marks a span, and has a type exactly if the tags of training have types.

    Args:
        tag: the tag.
        forms: contains True if a tag of training has a type, and False if one has none. If it contains both, a tag
            needs a type. If it is empty, because training has only O, the training file is refused later.
    """
    return is_span_tag(tag) and (not forms or has_type(tag) is (True in forms))


def refuse_spans(examples: Sequence[TaggedSentence], known: Collection[str]) -> None:
    """Refuse tags of spans if those of training are plain labels.

    Args:
        examples: the sentences of one file.
        known: the tags of training.

    Raises:
        InputError: the tags mark spans, or look like tags that do.
    """
    tags = tags_in(examples)
    unknown = tags - set(known)
    verdict = judge_tags(tags)
    if unknown and verdict.refused:
        raise _refusal(examples, verdict.refused)
    unknown -= {OUTSIDE}
    if unknown and verdict.spans:
        raise InputError(
            f"{_first(examples, unknown)} marks a span, but the tags of training are plain labels, such as "
            f"{min(known)!r}; set data.source_scheme to none to read all tags as plain labels"
        )


def schemes_of(
    splits: Mapping[str, Sequence[TaggedSentence]], source_scheme: TagScheme | Literal["auto"]
) -> dict[str, TagScheme]:
    """Return the scheme of each split that has tags, all of which mark spans.

    If a split has another scheme than the first one, its spans are read by its own scheme, with a warning.
    """
    labelled = {split: examples for split, examples in splits.items() if examples[0].tags is not None}
    if source_scheme != "auto":
        return dict.fromkeys(labelled, source_scheme)
    schemes: dict[str, TagScheme] = {split: detect_scheme(_sequences(each)) for split, each in labelled.items()}
    # Only a few words show whether the scheme is IOB1 or IOB2, so all files that may be either decide together.
    two_letters = [split for split, scheme in schemes.items() if scheme in ("IOB1", "IOB2")]
    together = detect_scheme(tags for split in two_letters for tags in _sequences(labelled[split]))
    schemes |= dict.fromkeys(two_letters, together)
    for split in schemes:
        first = next(iter(schemes))
        # A file that uses only some tags of its scheme may look like a file of another scheme.
        if schemes[split] != schemes[first] and _keeps_to(labelled[split], schemes[first]):
            schemes[split] = schemes[first]
        if schemes[split] != schemes[first]:
            log.warning(
                "%s: the tags follow %s, but those of %s follow %s; each split is read by its own scheme",
                labelled[split][0].location, schemes[split], labelled[first][0].location, schemes[first],
            )  # fmt: skip
    return schemes


def check_scheme(
    examples: Sequence[TaggedSentence], scheme: TagScheme, broken_tags: Literal["repair", "error"]
) -> None:
    """Refuse tags that a scheme does not have; refuse or warn about sequences that break it.

    Raises:
        InputError: there is such a tag, or a broken sequence and `broken_tags` is `error`.
    """
    foreign = {tag for tag in tags_in(examples) if not _is_of(tag, scheme)}
    if foreign:
        tag = _first(examples, foreign)
        raise InputError(f"{tag} is not of the scheme {scheme}; set data.source_scheme to the scheme of the tags")
    breaks = [(e, word) for e in examples if (word := first_break(e.tags or (), scheme)) is not None]
    if not breaks:
        return
    message = f"{_tag_at(*breaks[0])} breaks the scheme {scheme}"
    if broken_tags == "error":
        raise InputError(message)
    log.warning("%s; %s in all, read as conlleval reads them", message, count(len(breaks), "sentence"))


def _is_of(tag: str, scheme: TagScheme) -> bool:
    return tag == OUTSIDE or tag[0] in PREFIXES_OF[scheme]


def _keeps_to(examples: Sequence[TaggedSentence], scheme: TagScheme) -> bool:
    if not all(_is_of(tag, scheme) for tag in tags_in(examples)):
        return False
    return all(first_break(tags, scheme) is None for tags in _sequences(examples))


def _sequences(examples: Sequence[TaggedSentence]) -> Iterator[Sequence[str]]:
    return (example.tags or () for example in examples)


def _find(examples: Sequence[TaggedSentence], tags: Collection[str]) -> tuple[TaggedSentence, int]:
    """Return the first sentence that has one of the tags, and the number of the word."""
    return next((e, word) for e in examples for word, tag in enumerate(e.tags or ()) if tag in tags)


def _first(examples: Sequence[TaggedSentence], tags: Collection[str]) -> str:
    """Describe the first occurrence of one of the tags, with its line."""
    return _tag_at(*_find(examples, tags))


def _tag_at(example: TaggedSentence, word: int) -> str:
    return f"{word_location(example, word)}: the tag {(example.tags or [])[word]!r} of {example.words[word]!r}"


def _refusal(examples: Sequence[TaggedSentence], tags: Collection[str], known: Collection[str] = ()) -> InputError:
    """Build the error about the first wrong tag, with its line and the tag that was likely meant."""
    example, word = _find(examples, tags)
    problem = tag_problem((example.tags or [])[word], tags_in(examples) | {*known})
    advice = "set data.source_scheme to none to read all tags as plain labels"
    return InputError(f"{_tag_at(example, word)} {problem}; {advice}")
