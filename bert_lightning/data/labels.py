"""Check label names for indicators instead of names, two spellings of one name, and pairs without agreement."""

import logging
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

from bert_lightning.data.examples import LabelledText
from bert_lightning.errors import InputError

log = logging.getLogger(__name__)
# Texts that other programs write for a missing value.
_MISSING = ("nan", "nat", "null", "<na>", "#n/a")
# The label in SNLI and MNLI where annotators have no majority, and their classes; Bowman et al. 2015, section 2.2.
NO_AGREEMENT = "-"
NLI_LABELS = ("contradiction", "entailment", "neutral")
_WAY_TO_WRITE = (
    'labels are the names of the classes that apply: ["news", "sport"], or as text news|sport with '
    "data.label_separator"
)


def refuse_indicators(examples: Sequence[LabelledText], known: Sequence[str] | None = None) -> None:
    """Refuse rows of 0 and 1 per class where names of classes are expected, and rows that repeat a name.

    Indicators are 0, 1 and -1 (unknown) in any spelling, and truth values. Rows of equal length that hold only
    indicators are refused even if no row repeats one. So are rows of probabilities. If `known` holds all these
    values, they are names.

    Args:
        examples: multi-label texts; those without labels are skipped.
        known: the label names, if training has settled them.

    Raises:
        InputError: the message names the first such row and the way to write labels.
    """
    rows = [(example.place, example.label) for example in examples if isinstance(example.label, tuple)]
    for place, labels in rows:
        repeated = next((label for label in labels if labels.count(label) > 1), None)
        if repeated is not None and all(map(_is_indicator, labels)):
            raise InputError(f"{place}: {', '.join(labels)} are indicators, one per class; {_WAY_TO_WRITE}")
        if repeated is not None:
            raise InputError(f"{place}: the label {repeated!r} occurs twice in one row")
    names = {label for _, labels in rows for label in labels}
    lengths = {len(labels) for _, labels in rows}
    if not names or len(lengths) > 1 or (known is not None and names <= set(known)):
        return
    if all(map(_is_indicator, names)) or (lengths != {1} and all(map(_is_share, names))):
        place, labels = rows[0]
        raise InputError(
            f"{place}: {', '.join(labels)}: every row has {len(labels)} label(s) of {', '.join(sorted(names))}, "
            f"which are indicators, one per class; {_WAY_TO_WRITE}"
        )


def _is_indicator(label: str) -> bool:
    return _value(label) in (-1, 0, 1)


def _is_share(label: str) -> bool:
    value = _value(label)
    return value == -1 or (value is not None and 0 <= value <= 1)


def _value(label: str) -> float | None:
    # Brackets remain where the text of a list was split.
    text = label.strip(" \t[]()").lower()
    try:
        return float({"true": 1, "false": 0}.get(text, text))
    except ValueError:
        return None


def indicator_columns(names_and_values: Iterable[tuple[str, object]]) -> list[str]:
    """Return the names of the columns whose value is an indicator."""
    return [name for name, value in names_and_values if _is_indicator(str(value))]


def warn_of_look_alikes(labels: Sequence[str], source: str) -> None:
    """Warn about names that are probably one class, and about names that are probably not a class.

    Two names are probably one class if they differ only in blanks, in Unicode form (NFKC) or in the spelling of a
    number. Names such as `nan` stand for missing values, and a row of indicators is not the name of one class.
    """
    spellings: dict[str | float, list[str]] = defaultdict(list)
    for label in labels:
        spellings[_plain(label)].append(label)
    for group in spellings.values():
        if len(group) > 1:
            log.warning(
                "%s: the labels %s differ only in blanks or spelling, but are read as different classes",
                source, " and ".join(map(repr, group)),
            )  # fmt: skip
        elif group[0].strip().lower() in _MISSING:
            log.warning("%s: the label %r is a class; it looks like a missing value", source, group[0])
    rows = [re.split(r"[\s,;|]+", label.strip(" []()")) for label in labels]
    if rows and len({len(row) for row in rows}) == 1 and len(rows[0]) > 1 and all(map(_all_indicators, rows)):
        log.warning(
            "%s: the labels %s are single classes; they look like indicators of several. With data.problem "
            "multi-label, %s",
            source, ", ".join(map(repr, labels[:3])), _WAY_TO_WRITE,
        )  # fmt: skip


def _all_indicators(row: Sequence[str]) -> bool:
    return all(map(_is_indicator, row))


def _plain(label: str) -> str | float:
    text = " ".join(unicodedata.normalize("NFKC", label).split())
    try:
        return text if "_" in text else float(text)
    except ValueError:
        return text


def without_disagreement(
    examples: Sequence[LabelledText], known: Sequence[str] | None, source: str
) -> Sequence[LabelledText]:
    """Leave out pairs that SNLI and MNLI label `-`, as their authors and GLUE do, and warn with their number.

    Nothing is left out if labels other than theirs occur, or if `-` is a known class.

    Args:
        examples: the examples of one split.
        known: the label names, if training has settled them.
        source: the file that the warning names.
    """
    labels = {example.label for example in examples}
    others = (labels if known is None else {*known}) - {NO_AGREEMENT}
    if NO_AGREEMENT not in labels or NO_AGREEMENT in (known or ()) or not others or not others <= {*NLI_LABELS}:
        return examples
    kept = [example for example in examples if example.label != NO_AGREEMENT]
    if not kept:
        return examples
    log.warning(
        "%s: %d pair(s) are left out, because their label %r says that annotators did not agree",
        source, len(examples) - len(kept), NO_AGREEMENT,
    )  # fmt: skip
    return kept
