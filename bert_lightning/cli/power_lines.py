"""Output of the command `power`, as sentences."""

from collections.abc import Iterator

from bert_lightning.studies.seed_power import LEVEL, Answer, Answers, Question
from bert_lightning.wording import count


def power_lines(found: Answers) -> Iterator[str]:
    """Yield the lines: a paragraph per pair of arms, and per single arm if a pair has no answer."""
    question = found.question
    least, most = found.scores
    yield (
        f"{question.metric}: a difference of {question.difference:g}, which the two-sided t test at level "
        f"{question.alpha:g} should find with a probability of {_percent(question.power)}. The scores of these runs "
        f"lie between {least:.4g} and {most:.4g}."
    )
    # The spread of single arms says less than that of the differences between two arms.
    incomplete = not found.pairs or any(answer.deviation is None for answer in found.pairs)
    for answer in (*found.pairs, *(found.arms if incomplete else ())):
        yield ""
        yield from _sentences(answer, question)
    if found.notes:
        yield from ("", *found.notes)


def _sentences(answer: Answer, question: Question) -> Iterator[str]:
    existing = count(answer.num, "pair") if answer.paired else count(answer.num, "seed")
    if answer.deviation is None:
        why = "all values are equal" if answer.num > 1 else "at least 2 are needed"
        yield f"{answer.label}: {existing}. There is no standard deviation to compute with: {why}."
        return
    of = "differences between runs with the same seed" if answer.paired else "runs of an arm"
    yield (
        f"{answer.label}: {existing}. The standard deviation of the {of} is {answer.deviation:.4g}, with a "
        f"{_percent(LEVEL)} interval from {_range(answer.interval)}."
    )
    what = "pairs of runs with the same seed" if answer.paired else "seeds per arm, if the arms have different seeds"
    yield (
        f"To find the difference, {answer.needed:,} {what} are needed; over that interval, from "
        f"{_range(answer.needed_interval)}."
    )
    if answer.needed_apart is not None:
        yield f"With different seeds in the two arms, {answer.needed_apart:,} runs per arm would be needed."
    if answer.power_now is None or answer.detectable is None:
        return
    now = existing if answer.paired else f"Two arms with {existing} each"
    yield (
        f"{now} find it with a probability of {_percent(answer.power_now)}. With {_percent(question.power)} they "
        f"find a difference of {answer.detectable:.4g}; over that interval, from "
        f"{_range(answer.detectable_interval)}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _range(interval: tuple[float, float] | None) -> str:
    if interval is None:
        raise AssertionError("an answer with a spread has its intervals")
    low, high = (f"{end:,}" if isinstance(end, int) else f"{end:.4g}" for end in interval)
    return f"{low} to {high}"
