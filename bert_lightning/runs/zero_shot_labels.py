"""Labels, words and sentences as a user gives them for zero-shot classification, checked."""

import string
from collections.abc import Iterable, Mapping, Sequence

from bert_lightning.checks import nearest
from bert_lightning.errors import InputError
from bert_lightning.tasks.prompting.settings import check_words

LABEL = "label"


def checked_labels(labels: Iterable[str]) -> list[str]:
    """Return the labels as a list.

    Raises:
        InputError: there are fewer than two, or one is there twice or blank.
    """
    if not isinstance(labels, str) and isinstance(labels, Iterable):
        labels = list(labels)
    if not isinstance(labels, list) or len(labels) < 2:
        raise InputError(f"labels is {labels!r}; at least two are needed")
    for number, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip():
            raise InputError(f"labels has {label!r}; each must be a text")
        if label in labels[:number]:
            raise InputError(f"labels has {label!r} twice")
    return labels


def checked_words(verbalizer: Mapping[str, str | Iterable[str]] | None) -> dict[str, str | list[str]]:
    """Return the word or the list of words of each label.

    Raises:
        InputError: `verbalizer` is no mapping, or the words of a label cannot be used.
    """
    if not isinstance(verbalizer, Mapping | None):
        raise InputError(f"verbalizer is {verbalizer!r}; it must be a mapping from labels to words")
    words: dict[str, str | list[str]] = {}
    for label, given in (verbalizer or {}).items():
        words[label] = given if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
        try:
            check_words(label, words[label])
        except ValueError as error:
            raise InputError(str(error)) from None
    return words


def checked_calibration(texts: Iterable[str] | None) -> list[str] | None:
    """Return the texts without content as a list; None if there are none.

    Raises:
        InputError: `texts` is a single text, whose letters would count as texts, or no list of texts at all.
    """
    if texts is None:
        return None
    found = list(texts) if isinstance(texts, Iterable) and not isinstance(texts, str) else None
    if found is None or not all(isinstance(text, str) for text in found):
        raise InputError(f'calibration is {texts!r}; it must be a list of texts, such as ["N/A", "[MASK]", ""]')
    return found


def label_sentences(pattern: str, labels: Sequence[str], verbalizer: Mapping[str, str | list[str]]) -> list[str]:
    """Return the sentence with each label, or with its word.

    Raises:
        InputError: the pattern has no `{label}`, other fields or options, a label has several words, or two labels
            have the same sentence.
    """
    try:
        fields = [each for each in string.Formatter().parse(pattern) if each[1] is not None]
    except ValueError as error:
        raise InputError(f"pattern is {pattern!r}, which cannot be read: {error}") from None
    if [name for _, name, _, _ in fields] != [LABEL]:
        raise InputError(
            f"pattern is {pattern!r}; for nsp and entailment it must be a sentence that has {{{LABEL}}} once"
        )
    if any(options or conversion is not None for _, _, options, conversion in fields):
        raise InputError(f"pattern is {pattern!r}; {{{LABEL}}} takes no options, and no conversion such as !r")
    for label in verbalizer:
        if label not in labels:
            raise InputError(f"verbalizer has {label!r}, which is no label{nearest(label, labels)}")
    sentences: list[str] = []
    for label in labels:
        word = verbalizer.get(label, label)
        if not isinstance(word, str):
            raise InputError(f"verbalizer.{label} is {word!r}; several words per label need masked-words")
        sentences.append(pattern.format(label=word))
    for number, sentence in enumerate(sentences):
        if sentence in sentences[:number]:
            raise InputError(f"verbalizer gives two labels the same sentence, {sentence!r}")
    return sentences
