"""Checks of label names: indicators instead of names, two spellings of one name, and pairs without agreement."""

import ast
import logging
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.errors import InputError
from bert_lightning.wording import count

log = logging.getLogger(__name__)
T = TypeVar("T")
# Texts that other programs write for a missing value. Torch's loss ignores the label -100.
_MISSING = ("nan", "nat", "null", "<na>", "#n/a", "-100")
# Words for 1 and 0 that may also be names of classes. A row of a single one therefore does not count as an indicator.
_TRUTHS = frozenset(("yes", "no", "y", "n", "t", "f", "on", "off"))
# A text with one digit for each class, such as 010.
_DIGITS = re.compile(r"[01]{2,}")
# The beginning of a printed array whose text was split.
_ARRAY = re.compile(r"^((torch|np|numpy)\.)?(tensor|array)\(")
_WORD_BORDER = re.compile(r"(?<=[^\W_])[\s_\-\u2010-\u2015]+(?=[^\W_])")
# Cyrillic and Greek letters that look like Latin ones; Unicode Technical Standard 39, confusables.txt.
_LOOK_ALIKES = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u03bf\u03b1\u03c1\u03bd", "aeopcyxijsoapv"
)
# The label of pairs in SNLI and MNLI without a majority, and the classes of both; Bowman et al. 2015, section 2.2.
NO_AGREEMENT = "-"
NLI_LABELS = ("contradiction", "entailment", "neutral")
_WAY_TO_WRITE = (
    'labels are the names of the classes that apply: ["news", "sport"], or as text news|sport with '
    "data.label_separator"
)


def refuse_indicators(examples: Sequence[LabelledText], known: Sequence[str] | None = None) -> None:
    """Refuse rows of 0 and 1 per class, since names of classes are expected, and rows that repeat a name.

    Indicators are 0, 1 and -1 (unknown) in any spelling, and truth values. Rows of equal length that hold only
    indicators are refused even if no row repeats one. So are rows of probabilities, rows of yes and no, and texts
    such as 010. If `known` holds all these values, they are names.

    Args:
        examples: multi-label texts; those without labels are skipped.
        known: the label names, if training has settled them.

    Raises:
        InputError: the message names the first such row and the way to write labels.
    """
    rows = [(example.location, example.label) for example in examples if isinstance(example.label, tuple)]
    for location, labels in rows:
        repeated = next((label for label in labels if labels.count(label) > 1), None)
        if repeated is not None and (all(map(_is_indicator, labels)) or all(map(_is_truth, labels))):
            raise InputError(f"{location}: {', '.join(labels)} are indicators, one per class; {_WAY_TO_WRITE}")
        if repeated is not None:
            raise InputError(f"{location}: the label {repeated!r} occurs twice in one row")
    names = {label for _, labels in rows for label in labels}
    lengths = {len(labels) for _, labels in rows}
    if not names or len(lengths) > 1 or (known is not None and names <= set(known)):
        return
    several = lengths != {1} and (all(map(_is_share, names)) or all(map(_is_truth, names)))
    if all(map(_is_indicator, names)) or several or _are_digits(names):
        location, labels = rows[0]
        raise InputError(
            f"{location}: {', '.join(labels)}: every row has {count(len(labels), 'label')} of "
            f"{', '.join(sorted(names))}, which are indicators, one per class; {_WAY_TO_WRITE}"
        )


def _is_indicator(label: str) -> bool:
    return _value(label) in (-1, 0, 1)


def _is_share(label: str) -> bool:
    value = _value(label)
    return value == -1 or (value is not None and 0 <= value <= 1)


def _is_truth(label: str) -> bool:
    return label.strip().lower() in _TRUTHS


def _are_digits(names: Iterable[str]) -> bool:
    """Return whether all names consist of the digits 0 and 1, have one length, and one begins with 0.

    Numbers seldom begin with 0, so such names are probably rows of indicators.
    """
    texts = [name.strip() for name in names]
    same = len({len(text) for text in texts}) == 1
    return same and all(map(_DIGITS.fullmatch, texts)) and any(text.startswith("0") for text in texts)


def is_list_of_names(text: str) -> bool:
    """Return whether a text is a list of names as Python prints it.

    >>> [is_list_of_names(text) for text in ("['news', 'sport']", "news", "[0, 1]")]
    [True, False, False]
    """
    if not text.strip().startswith(("[", "(", "{")):
        return False
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return isinstance(value, list | tuple | set) and any(isinstance(item, str) for item in value)


def _value(label: str) -> float | None:
    # Brackets remain if the text of a list was split.
    text = _ARRAY.sub("", label.strip()).strip(" \t[]()").lower()
    try:
        return float({"true": 1, "false": 0}.get(text, text))
    except ValueError:
        return None


def indicator_columns(names_and_values: Iterable[tuple[str, object]]) -> list[str]:
    """Return the names of the columns whose value is an indicator."""
    return [name for name, value in names_and_values if _is_indicator(str(value))]


def warn_of_look_alikes(labels: Sequence[str], source: str) -> None:
    """Warn about several names that are probably one class, and about names that are probably not a class.

    Two names are probably one class if they differ only in blanks, dashes, quotation marks, case or the spelling of a
    number. Case does not count in names of one letter. Names that differ only in Unicode form (NFKC), in invisible
    characters, or in letters that look alike are probably one class too.

    Some names are probably not a class. `nan` stands for a missing value, and so does -1 if the other names are 0, 1
    and 2. Printed lists of names and rows of indicators are not classes either.
    """
    spellings: dict[str | float, list[str]] = defaultdict(list)
    for label in labels:
        spellings[_plain(label)].append(label)
    for group in spellings.values():
        if len(group) > 1:
            log.warning(
                "%s: the labels %s differ only in blanks, case or spelling, but are read as different classes",
                source, " and ".join(map(repr, group)),
            )  # fmt: skip
        elif group[0].strip().lower() in _MISSING:
            log.warning("%s: the label %r is a class; it looks like a missing value", source, group[0])
    without_minus_one = {*labels} - {"-1"}
    counted = set(map(str, range(len(without_minus_one))))
    if "-1" in labels and len(counted) > 2 and without_minus_one == counted:
        log.warning(
            "%s: the label '-1' is a class; next to classes from 0 on, it often means that there is no label", source
        )
    if any(map(is_list_of_names, labels)):
        name = next(filter(is_list_of_names, labels))
        log.warning("%s: the label %r is a single class; it looks like a list of several", source, name)
    rows = [re.split(r"[\s,;|]+", _ARRAY.sub("", label.strip()).strip(" []()")) for label in labels]
    is_matrix = len({len(row) for row in rows}) == 1 and len(rows[0]) > 1 and all(map(_all_indicators, rows))
    if is_matrix or (len(labels) > 1 and _are_digits(labels)):
        log.warning(
            "%s: the labels %s are single classes; they look like indicators of several. With data.problem "
            "multi-label, %s",
            source, ", ".join(map(repr, labels[:3])), _WAY_TO_WRITE,
        )  # fmt: skip


def _all_indicators(row: Sequence[str]) -> bool:
    return all(map(_is_indicator, row))


def _plain(label: str) -> str | float:
    """Return the number that a name spells, or the name without the details that people overlook.

    A name that consists only of such details stays unchanged.
    """
    visible = "".join(c for c in unicodedata.normalize("NFKC", label) if unicodedata.category(c) != "Cf")
    text = " ".join(visible.split())
    # Python reads 1_0 as ten; no data set does.
    if "_" not in text:
        with suppress(ValueError):
            return float(text)
    plain = _WORD_BORDER.sub(" ", text.strip("\"'\u2018\u2019\u201c\u201d ")) or text
    folded = plain.casefold() if len(plain) > 1 else plain
    return folded.translate(_LOOK_ALIKES) if any(character.isascii() for character in folded) else folded


def without_disagreement(
    examples: Sequence[LabelledText], known: Sequence[str] | None, source: str
) -> Sequence[LabelledText]:
    """Leave out pairs that SNLI and MNLI label `-`, as their authors and GLUE do, and warn about their number.

    Nothing is left out if labels other than theirs occur, if `-` is the only label, or if it is a known class.

    Args:
        examples: the examples of one split.
        known: the label names, if training has settled them.
        source: the file that the warning names.
    """
    labels = {example.label for example in examples}
    classes = (labels if known is None else {*known}) - {NO_AGREEMENT}
    if NO_AGREEMENT not in labels or NO_AGREEMENT in (known or ()) or not classes or not classes <= {*NLI_LABELS}:
        return examples
    if labels == {NO_AGREEMENT}:
        return examples
    return list(leave_out_disagreement(examples, lambda example: example.label, source))


def leave_out_disagreement(items: Iterable[T], label_of: Callable[[T], object], source: str) -> Iterator[T]:
    """Stream the items whose label is not `-`, and warn at the end about the number of the others.

    Args:
        items: pairs of SNLI or MNLI, as examples or as rows.
        label_of: returns the label of an item.
        source: the file that the warning names.
    """
    num_left_out = 0
    for item in items:
        if label_of(item) == NO_AGREEMENT:
            num_left_out += 1
        else:
            yield item
    if num_left_out:
        log.warning(
            "%s: left out: %s with the label %r, which says that annotators did not agree",
            source, count(num_left_out, "pair"), NO_AGREEMENT,
        )  # fmt: skip
