"""Entity scores from tag sequences, as conlleval counts them, and as the strict mode of seqeval does.

conlleval.pl (Tjong Kim Sang, version of 2004-01-26) scores the spans that a reader of possibly malformed tags would
see. It knows B, I, E, `[`, `]` and `.`, but not S, L and U. `spans_of` agrees with it for B and I, and reads the
spans of all schemes, as the default mode of seqeval does. Strict mode counts only well-formed spans.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple, get_args

from bert_lightning.checkpoints.plain_text import printable
from bert_lightning.errors import InputError

EntityScheme = Literal["conlleval", "strict"]
StrictScheme = Literal["IOB1", "IOB2", "BIOES", "BILOU"]
OUTSIDE = "O"
# BILOU calls the last tag of a span L and that of a span of one U where BIOES has E and S.
_AS_BIOES = {"L": "E", "U": "S"}
_PREFIXES = ("B", "I", "E", "S", "L", "U")
# conlleval.pl counts a span of one word for each of the brackets, and `.` is like O.
_SCRIPT_PREFIXES = (*_PREFIXES, "[", "]", ".")
# conlleval.pl: (prefix before, prefix) between which a span ends, or starts, whatever the types.
_SCRIPT_ENDS = {"BB", "BO", "IB", "IO", "EE", "EI", "EO"}
_SCRIPT_STARTS = {"BB", "IB", "OB", "OI", "EE", "EI", "OE"}
_PREFIXES_OF = {"IOB1": ("B", "I"), "IOB2": ("B", "I"), "BIOES": ("B", "I", "E", "S"), "BILOU": ("B", "I", "L", "U")}
# What seqeval calls a type that has no name.
_NAMELESS = "_"


class Span(NamedTuple):
    """An entity of one sentence.

    Attributes:
        type: its type, empty where tags have none (`B`, `I`, `O`).
        start: number of its first token.
        end: number of the token behind its last.
    """

    type: str
    start: int
    end: int


class Score(NamedTuple):
    """Precision, recall and F1 as fractions, and the counts that they come from."""

    precision: float
    recall: float
    f1: float
    num_gold: int
    num_predicted: int
    num_correct: int

    @classmethod
    def of(cls, num_gold: int, num_predicted: int, num_correct: int) -> "Score":
        """From counts; 0 where there is nothing to divide by, as in conlleval and seqeval."""
        return cls(*_scores(1, num_gold, num_predicted, num_correct), num_gold, num_predicted, num_correct)

    def percent(self) -> tuple[float, float, float]:
        """Precision, recall and F1 in percent in the arithmetic of conlleval, equal to it in the last bit.

        A hundred times a fraction may differ there, and then where conlleval rounds.
        """
        return _scores(100, self.num_gold, self.num_predicted, self.num_correct)


def _scores(scale: int, num_gold: int, num_predicted: int, num_correct: int) -> tuple[float, float, float]:
    precision = scale * num_correct / num_predicted if num_predicted else 0.0
    recall = scale * num_correct / num_gold if num_gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if num_correct else 0.0
    return precision, recall, f1


@dataclass(frozen=True)
class EntityScores:
    """Scores of a set of sentences.

    Attributes:
        overall: over all types together (micro average).
        per_type: of each type that gold or prediction has, sorted by its name.
        num_tokens: all of them, O included.
        num_correct_tags: tokens whose tag is the gold one.
    """

    overall: Score
    per_type: dict[str, Score]
    num_tokens: int
    num_correct_tags: int

    @property
    def accuracy(self) -> float:
        """Fraction of the tags that are right; 0 without tokens."""
        return self.num_correct_tags / self.num_tokens if self.num_tokens else 0.0

    @property
    def accuracy_percent(self) -> float:
        """The same in percent, in the arithmetic of conlleval."""
        return 100 * self.num_correct_tags / self.num_tokens if self.num_tokens else 0.0


def split_tag(tag: str, known: Sequence[str] = _PREFIXES) -> tuple[str, str]:
    """Split a tag at the first hyphen, as conlleval does, into prefix and type: `B-GROUP-A` has the type `GROUP-A`.

    Raises:
        InputError: neither `O` nor one of the known prefixes, alone or before a hyphen.
    """
    prefix, _, kind = tag.partition("-")
    if tag != OUTSIDE and prefix not in known:
        raise InputError(f"the tag {tag!r} is neither {OUTSIDE} nor {', '.join(_PREFIXES)} and a type, such as B-PER")
    return prefix, kind


def split_conlleval_tag(tag: str) -> tuple[str, str]:
    """Split a tag into prefix and type as conlleval.pl does.

    Raises:
        InputError: as `split_tag`; the prefixes `[`, `]` and `.` of conlleval.pl are known too.
    """
    prefix, kind = split_tag(tag, _SCRIPT_PREFIXES)
    # `$type ? $type : ""` in Perl, where the text 0 is false.
    return prefix, "" if kind == "0" else kind


def spans_of(tags: Sequence[str]) -> list[Span]:
    """Return the spans of one sentence in order, malformed ones too.

    A span starts at B and S, at I and E after O, E or S, and where the type changes. It ends before the next start
    or O. For O, B and I these are the rules of conlleval.pl; for the other tags, those of seqeval 1.2.2. L is read as
    E, U as S.

    Raises:
        InputError: as `split_tag`.
    """
    spans: list[Span] = []
    start, before = 0, (OUTSIDE, "")
    for position, tag in enumerate(chain(tags, [OUTSIDE])):
        prefix, kind = split_tag(tag)
        prefix = _AS_BIOES.get(prefix, prefix)
        goes_on = before[0] in ("B", "I") and prefix in ("I", "E") and kind == before[1]
        if not goes_on:
            if before[0] != OUTSIDE:
                spans.append(Span(before[1], start, position))
            start = position
        before = prefix, kind
    return spans


def strict_spans_of(tags: Sequence[str], scheme: StrictScheme = "IOB2") -> list[Span]:
    """Well-formed spans of one sentence, in order: what `seqeval.scheme.Tokens` of seqeval 1.2.2 finds.

    A span that breaks the rules of its scheme is none: in IOB2 an I without its B, in BIOES a B without its E. Types
    are those of seqeval: hyphens at either end fall, and `_` is one without a name.

    Raises:
        InputError: as `split_strict_tag`.
        ValueError: an unknown scheme.
    """
    if scheme not in get_args(StrictScheme):
        raise ValueError(f"scheme is {scheme!r}; known: {', '.join(get_args(StrictScheme))}")
    parts = [split_strict_tag(tag, scheme) for tag in chain(tags, [OUTSIDE])]
    spans: list[Span] = []
    before, start = (OUTSIDE, ""), 0
    while start < len(tags):
        end = start + 1
        if _starts_well(before, parts[start], scheme):
            while _goes_on_well(parts[end - 1], parts[end]):
                end += 1
            if _ends_well(parts[end - 1], parts[end], scheme):
                spans.append(Span(parts[start][1], start, end))
        before, start = parts[end - 1], end
    return spans


def split_strict_tag(tag: str, scheme: StrictScheme) -> tuple[str, str]:
    """Prefix, in the letters of BIOES, and type as seqeval reads them.

    Raises:
        InputError: the tag is not of the scheme.
    """
    prefix, _ = split_tag(tag)
    if prefix != OUTSIDE and prefix not in _PREFIXES_OF[scheme]:
        known = ", ".join(_PREFIXES_OF[scheme])
        raise InputError(f"the tag {tag!r} is not of the scheme {scheme}, which has {known} and {OUTSIDE}")
    return _AS_BIOES.get(prefix, prefix), tag[1:].strip("-") or _NAMELESS


def _starts_well(before: tuple[str, str], tag: tuple[str, str], scheme: StrictScheme) -> bool:
    if scheme != "IOB1":
        return tag[0] in ("B", "S")
    same_type = before[0] != OUTSIDE and before[1] == tag[1]
    # In IOB1 a B only parts a span from one of its own type before it.
    return same_type if tag[0] == "B" else tag[0] == "I" and (before[0] != "I" or not same_type)


def _goes_on_well(before: tuple[str, str], tag: tuple[str, str]) -> bool:
    return before[0] in ("B", "I") and tag[0] in ("I", "E") and before[1] == tag[1]


def _ends_well(last: tuple[str, str], behind: tuple[str, str], scheme: StrictScheme) -> bool:
    if scheme in ("BIOES", "BILOU"):
        return last[0] in ("E", "S")
    return scheme == "IOB2" or last[0] != "B" or behind[0] != "B" or last[1] == behind[1]


def score_entities(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], scheme: EntityScheme = "conlleval"
) -> EntityScores:
    """Score predicted tags against gold ones, sentence by sentence.

    Args:
        gold: the tags of each sentence.
        predicted: the same for the prediction.
        scheme: `conlleval`, which counts tag by tag as the script does, or `strict` for the strict mode of seqeval
            over IOB2. The script has no rule for S, L and U, so with such tags it takes touching spans of one type
            for one span. `tasks/token_classification/tag_schemes.py: convert` turns tags into IOB2, which avoids it.

    Raises:
        InputError: sentences that do not match in number or length, or a tag that is not of the scheme.
    """
    pairs = list(_paired(gold, predicted))
    counts = _count_as_conlleval(pairs) if scheme == "conlleval" else _count_strictly(pairs)
    split = split_conlleval_tag if scheme == "conlleval" else split_tag
    num_correct_tags = sum(a == b or split(a) == split(b) for tags in pairs for a, b in zip(*tags, strict=True))
    num_gold, num_predicted, num_correct = counts
    return EntityScores(
        overall=Score.of(num_gold.total(), num_predicted.total(), num_correct.total()),
        per_type={
            kind: Score.of(num_gold[kind], num_predicted[kind], num_correct[kind])
            for kind in sorted({*num_gold, *num_predicted})
        },
        num_tokens=sum(len(tags) for tags, _ in pairs),
        num_correct_tags=num_correct_tags,
    )


_TagPair = tuple[Sequence[str], Sequence[str]]
_SpanCounts = tuple[Counter[str], Counter[str], Counter[str]]


def _count_strictly(pairs: list[_TagPair]) -> _SpanCounts:
    """Count the spans of gold, of the prediction, and of both, by type."""
    num_gold, num_predicted, num_correct = Counter[str](), Counter[str](), Counter[str]()
    for gold_tags, predicted_tags in pairs:
        gold_spans, predicted_spans = set(strict_spans_of(gold_tags)), set(strict_spans_of(predicted_tags))
        num_gold.update(span.type for span in gold_spans)
        num_predicted.update(span.type for span in predicted_spans)
        num_correct.update(span.type for span in gold_spans & predicted_spans)
    return num_gold, num_predicted, num_correct


def _count_as_conlleval(pairs: list[_TagPair]) -> _SpanCounts:
    """Count as the main loop of conlleval.pl does, with a boundary after each sentence.

    Starts and ends are counted separately, because by the rules of the script a span may start while another one
    continues. A span is correct if it has the same type, start and end on both sides, and the sides agree in between.
    """
    num_gold, num_predicted, num_correct = Counter[str](), Counter[str](), Counter[str]()
    parts: dict[str, tuple[str, str]] = {}
    gold_before = predicted_before = (OUTSIDE, "")
    agrees = False
    for sentence in pairs:
        for gold_tag, predicted_tag in chain(zip(*sentence, strict=True), [(OUTSIDE, OUTSIDE)]):
            for tag in (gold_tag, predicted_tag):
                if tag not in parts:
                    parts[tag] = split_conlleval_tag(tag)
            gold, predicted = parts[gold_tag], parts[predicted_tag]
            if agrees:
                gold_ends, predicted_ends = _ends(gold_before, gold), _ends(predicted_before, predicted)
                if gold_ends and predicted_ends and gold_before[1] == predicted_before[1]:
                    num_correct[gold_before[1]] += 1
                    agrees = False
                elif gold_ends != predicted_ends or gold[1] != predicted[1]:
                    agrees = False
            gold_starts, predicted_starts = _starts(gold_before, gold), _starts(predicted_before, predicted)
            agrees |= gold_starts and predicted_starts and gold[1] == predicted[1]
            num_gold[gold[1]] += gold_starts
            num_predicted[predicted[1]] += predicted_starts
            gold_before, predicted_before = gold, predicted
    # A letter that the script does not know, without a type, starts a span that no O ends.
    if agrees:
        num_correct[gold_before[1]] += 1
    return +num_gold, +num_predicted, num_correct


def _ends(before: tuple[str, str], after: tuple[str, str]) -> bool:
    """`endOfChunk` of conlleval.pl."""
    changes = before[0] not in (OUTSIDE, ".") and before[1] != after[1]
    return changes or before[0] + after[0] in _SCRIPT_ENDS or before[0] in ("[", "]")


def _starts(before: tuple[str, str], after: tuple[str, str]) -> bool:
    """`startOfChunk` of conlleval.pl."""
    changes = after[0] not in (OUTSIDE, ".") and before[1] != after[1]
    return changes or before[0] + after[0] in _SCRIPT_STARTS or after[0] in ("[", "]")


def _paired(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    if len(gold) != len(predicted):
        raise InputError(f"{len(gold)} sentences of gold tags, but {len(predicted)} of predicted ones")
    for number, (gold_tags, predicted_tags) in enumerate(zip(gold, predicted, strict=True)):
        if len(gold_tags) != len(predicted_tags):
            raise InputError(
                f"sentence {number}: {len(gold_tags)} gold tags, but {len(predicted_tags)} predicted ones"
            )
        yield gold_tags, predicted_tags


def conlleval_report(scores: EntityScores) -> str:
    """Return the text that conlleval prints for such scores, line end included.

    Types are padded to 17 bytes of UTF-8, as in Perl. Spans without a type have one row here; the script repeats it
    if gold and prediction both have such spans.
    """
    overall = scores.overall
    lines = [
        f"processed {scores.num_tokens} tokens with {overall.num_gold} phrases; "
        f"found: {overall.num_predicted} phrases; correct: {overall.num_correct}."
    ]
    if scores.num_tokens:
        lines.append(f"accuracy: {scores.accuracy_percent:6.2f}%; {_report_columns(overall)}")
    for kind, score in scores.per_type.items():
        name = printable(kind)
        padding = " " * (17 - len(name.encode("utf-8", "surrogatepass")))
        lines.append(f"{padding}{name}: {_report_columns(score)}  {score.num_predicted}")
    return "\n".join(lines) + "\n"


def _report_columns(score: Score) -> str:
    precision, recall, f1 = score.percent()
    return f"precision: {precision:6.2f}%; recall: {recall:6.2f}%; FB1: {f1:6.2f}"


class EntityCase(NamedTuple):
    """A gold span, a predicted one, or the pair of them.

    Attributes:
        sentence: its number, from 0.
        gold: the gold span; None where the prediction has no counterpart.
        predicted: the predicted span; None where it is missed.
    """

    sentence: int
    gold: Span | None
    predicted: Span | None


@dataclass(frozen=True)
class EntityErrors:
    """What became of every gold and every predicted span, each of which stands in one case only.

    Attributes:
        correct: right type and boundaries.
        boundary: right type, overlapping.
        type: right boundaries, another type.
        both: overlapping, another type.
        missed: gold without a prediction.
        spurious: predicted without gold.
    """

    correct: list[EntityCase]
    boundary: list[EntityCase]
    type: list[EntityCase]
    both: list[EntityCase]
    missed: list[EntityCase]
    spurious: list[EntityCase]

    @property
    def counts(self) -> dict[str, int]:
        """The number of cases of each kind, by its name."""
        return {kind: len(cases) for kind, cases in vars(self).items()}


def entity_errors(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> EntityErrors:
    """Pair the spans of gold and predicted tags, as conlleval reads them, and sort the pairs by kind of error.

    Spans of equal boundaries overlap no others, so they are paired in any case. Other pairs are made from the largest
    overlap (in tokens) down; between equal ones the right type goes first, then what stands first in the sentence.

    Raises:
        InputError: as `score_entities`.
    """
    errors = EntityErrors([], [], [], [], [], [])
    for number, (gold_tags, predicted_tags) in enumerate(_paired(gold, predicted)):
        gold_left, predicted_left = dict.fromkeys(spans_of(gold_tags)), dict.fromkeys(spans_of(predicted_tags))
        for a, b in _best_first(gold_left, predicted_left):
            if a in gold_left and b in predicted_left:
                del gold_left[a], predicted_left[b]
                same_boundaries = (a.start, a.end) == (b.start, b.end)
                if a.type == b.type:
                    cases = errors.correct if same_boundaries else errors.boundary
                else:
                    cases = errors.type if same_boundaries else errors.both
                cases.append(EntityCase(number, a, b))
        errors.missed.extend(EntityCase(number, a, None) for a in gold_left)
        errors.spurious.extend(EntityCase(number, None, b) for b in predicted_left)
    return errors


def _best_first(gold: Iterable[Span], predicted: Iterable[Span]) -> list[tuple[Span, Span]]:
    """All pairs that overlap. Spans of one side never do, so there are at most as many as spans on both sides."""
    pairs = [(a, b) for a in gold for b in predicted if a.start < b.end and b.start < a.end]

    def rank(pair: tuple[Span, Span]) -> tuple[int, bool, int, int]:
        a, b = pair
        overlap = min(a.end, b.end) - max(a.start, b.start)
        return -overlap, a.type != b.type, a.start, b.start

    return sorted(pairs, key=rank)
