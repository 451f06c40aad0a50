"""Entity scores from tag sequences, as conlleval counts them or as the strict mode of seqeval does."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bert_lightning.checkpoints.plain_text import printable
from bert_lightning.errors import InputError
from bert_lightning.metrics.conlleval import SpanCounts, TagPair, count_as_conlleval, split_conlleval_tag
from bert_lightning.metrics.spans import strict_spans_of
from bert_lightning.tags import split_tag

EntityScheme = Literal["conlleval", "strict"]


class Score(NamedTuple):
    """Precision, recall and F1 as fractions, and the counts from which they are computed."""

    precision: float
    recall: float
    f1: float
    num_gold: int
    num_predicted: int
    num_correct: int

    @classmethod
    def of(cls, num_gold: int, num_predicted: int, num_correct: int) -> "Score":
        """Compute the scores; a score with a zero denominator is 0, as in conlleval and seqeval."""
        return cls(*_scores(1, num_gold, num_predicted, num_correct), num_gold, num_predicted, num_correct)

    def percent(self) -> tuple[float, float, float]:
        """Return precision, recall and F1 in percent, equal to those of conlleval in the last bit.

        A hundred times the fraction may differ in that bit, and then be rounded to another second decimal.
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
        per_type: of each type in gold or prediction, sorted by its name.
        num_tokens: all tokens, those tagged O included.
        num_correct_tags: tokens whose tag is the gold one.
    """

    overall: Score
    per_type: dict[str, Score]
    num_tokens: int
    num_correct_tags: int

    @property
    def accuracy(self) -> float:
        """The fraction of correct tags; 0 without tokens."""
        return self.num_correct_tags / self.num_tokens if self.num_tokens else 0.0

    @property
    def accuracy_percent(self) -> float:
        """The same in percent, in the arithmetic of conlleval."""
        return 100 * self.num_correct_tags / self.num_tokens if self.num_tokens else 0.0


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
        InputError: the sentences do not match in number or length.
        ValueError: a tag is not of the scheme.

    >>> score_entities([["B-PER", "I-PER", "O"]], [["B-PER", "O", "O"]]).overall.f1
    0.0
    >>> score_entities([["B-PER", "I-PER", "O"]], [["B-PER", "O", "O"]]).num_correct_tags
    2
    """
    pairs = list(paired_sentences(gold, predicted))
    counts = count_as_conlleval(pairs) if scheme == "conlleval" else _count_strictly(pairs)
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


def _count_strictly(pairs: list[TagPair]) -> SpanCounts:
    """Count well-formed spans, as the strict mode of seqeval does."""
    counts = SpanCounts(Counter(), Counter(), Counter())
    for gold_tags, predicted_tags in pairs:
        gold_spans, predicted_spans = set(strict_spans_of(gold_tags)), set(strict_spans_of(predicted_tags))
        counts.num_gold.update(span.type for span in gold_spans)
        counts.num_predicted.update(span.type for span in predicted_spans)
        counts.num_correct.update(span.type for span in gold_spans & predicted_spans)
    return counts


def paired_sentences(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Iterator[TagPair]:
    """Yield the gold and predicted tags of each sentence.

    Raises:
        InputError: the sentences do not match in number or length.
    """
    if len(gold) != len(predicted):
        raise InputError(f"there are {len(gold)} sentences of gold tags, but {len(predicted)} of predicted ones")
    for number, (gold_tags, predicted_tags) in enumerate(zip(gold, predicted, strict=True)):
        if len(gold_tags) != len(predicted_tags):
            raise InputError(
                f"sentence {number}: {len(gold_tags)} gold tags, but {len(predicted_tags)} predicted ones"
            )
        yield gold_tags, predicted_tags


def conlleval_report(scores: EntityScores) -> str:
    """Return the text that conlleval prints for such scores, final line break included.

    Types are padded to 17 bytes of UTF-8, as in Perl. Spans without a type have one line here; the script repeats it
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
