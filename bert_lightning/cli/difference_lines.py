"""Output of the command `compare`."""

import math
from collections.abc import Iterable, Iterator, Sequence

from bert_lightning.studies.side_differences import NONE, Parting, ScoreDifference, SideDifferences
from bert_lightning.studies.sides import Side
from bert_lightning.studies.two_runs import UNKNOWN, MetricDifference
from bert_lightning.wording import count

# Lines and characters of a diff between two patches.
_MOST_LINES, _WIDEST = 24, 100
_MOST_METRICS = 4
_DIGEST = 12


def difference_lines(found: SideDifferences) -> Iterator[str]:
    """Yield the lines that describe all differences, with one line for each kind without differences."""
    for letter, side, role in zip("AB", found.sides, ("the baseline", "ours"), strict=True):
        yield f"{letter} ({role}): {side.name}, {_seeds(side)}"
        yield from (f"  {note}" for note in side.notes)
    yield from _configuration(found)
    yield from _named("versions, hardware and commit", found.circumstances)
    yield from _patches(found)
    yield from _named("data", {name: _shortened(values) for name, values in found.data.items()})
    yield from _curves(found)
    yield from _scores(found)
    yield from _weights(found)


def _seeds(side: Side) -> str:
    numbers = [str(run.seed) for run in side.runs]
    return f"seed {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} seeds ({', '.join(numbers)})"


def _configuration(found: SideDifferences) -> Iterator[str]:
    values = {each.key: ([_text(each.old)], [_text(each.new)]) for each in found.configuration}
    yield from _named("configuration", values)


def _text(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _named(title: str, values: dict[str, tuple[list[str], list[str]]]) -> Iterator[str]:
    """Yield a table of names with the values of both sides."""
    if not values:
        yield f"{title}: equal"
        return
    yield f"{title}: {count(len(values), 'difference')}"
    rows = [(name, ", ".join(first), ", ".join(second)) for name, (first, second) in values.items()]
    yield from _table([("", "A", "B"), *rows])


def _shortened(values: tuple[list[str], list[str]]) -> tuple[list[str], list[str]]:
    first, second = ([digest[:_DIGEST] for digest in side] for side in values)
    return first, second


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield f"  {'  '.join(f'{cell:<{width}}' for cell, width in zip(row, widths, strict=True))}".rstrip()


def _patches(found: SideDifferences) -> Iterator[str]:
    first, second = found.patches
    if UNKNOWN in (*first, *second):
        yield "uncommitted files: not recorded by an earlier version of this package"
    elif sorted(first) == sorted(second):
        yield f"uncommitted files: {'none' if first == [NONE] else 'the same patch'}"
    else:
        yield f"uncommitted files: {', '.join(first)} in A, {', '.join(second)} in B"
    for line in found.patch_diff[:_MOST_LINES]:
        yield f"  {line if len(line) <= _WIDEST else line[: _WIDEST - 3] + '...'}"
    if len(found.patch_diff) > _MOST_LINES:
        more = count(len(found.patch_diff) - _MOST_LINES, "more line")
        yield f"  ... and {more}; the patches are in the run directories"


def _curves(found: SideDifferences) -> Iterator[str]:
    if not found.partings:
        yield "curves: A and B have no seed in common, so no runs are compared"
    for parting in found.partings:
        where = "" if found.of_runs else f" of seed {parting.seeds[0]}"
        yield f"curves{where}: {_parting(parting)}"
        if parting.differences and found.of_runs:
            yield from (f"  {_difference(each)}" for each in parting.differences[:_MOST_METRICS])
            if len(parting.differences) > _MOST_METRICS:
                yield f"  and {count(len(parting.differences) - _MOST_METRICS, 'other metric')}"


def _parting(parting: Parting) -> str:
    first, second = parting.last_steps
    ends = "" if first == second else f" (A ends at step {first:,}, B at step {second:,})"
    if parting.differences:
        before = f"after {count(parting.num_equal, 'equal value')}" if parting.num_equal else "from the beginning"
        shown = "" if len(parting.differences) == 1 else f" in {count(len(parting.differences), 'metric')}"
        return f"they part at step {parting.differences[0].step:,}{shown}, {before}{ends}"
    if not parting.num_equal:
        return f"no metric is logged at the same step in both{ends}"
    return f"all {count(parting.num_equal, 'value')} that both logged are bitwise equal{ends}"


def _difference(each: MetricDifference) -> str:
    before, now = each.before, each.now
    if before is None or now is None:
        raise AssertionError("only values that both runs logged are compared")
    relative = f", {abs(now - before) / abs(before):.2g} of A" if before and math.isfinite(before) else ""
    return f"{each.metric}: {before!r} in A, {now!r} in B (difference {now - before:+.3g}{relative})"


def _scores(found: SideDifferences) -> Iterator[str]:
    if not found.scores:
        yield "scores: A and B have no score in common"
    else:
        level = next((each.test.level for each in found.scores if each.test is not None), 0.95)
        yield "scores: B minus A" if found.of_runs else "scores: means over seeds, B minus A"
        header = (
            "",
            "A",
            "B",
            "difference",
            f"{100 * level:g} % interval",
            "p",
            "p (Holm)",
            "test",
        )
        yield from _table([header, *(_score_row(each) for each in found.scores)])
        yield from (f"  {note}" for note in _notes(found.scores))
    for letter, names in zip("AB", found.only, strict=True):
        if names:
            yield f"  only in {letter}: {', '.join(names)}"


def _score_row(score: ScoreDifference) -> list[str]:
    test = score.test
    difference = score.ours - score.baseline if test is None or test.difference is None else test.difference
    cells = [score.metric, f"{score.baseline:.4f}", f"{score.ours:.4f}", f"{difference:+.4f}"]
    if test is None:
        return [*cells, "", "", "", ""]
    interval = "" if test.interval is None else f"{test.interval[0]:+.4f} to {test.interval[1]:+.4f}"
    return [*cells, interval, _p(test.p), _p(score.p_adjusted), test.test]


def _p(value: float | None) -> str:
    return "" if value is None else "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _notes(scores: Iterable[ScoreDifference]) -> Iterator[str]:
    """Yield each note once. The scores are named unless a note holds for all of them."""
    owners: dict[str, list[str]] = {}
    names = []
    for score in scores:
        names.append(score.metric)
        for note in score.test.notes if score.test is not None else (f"There is no test, because {score.reason}.",):
            owners.setdefault(note, []).append(score.metric)
    for note, metrics in owners.items():
        yield note if metrics == names else f"{', '.join(metrics)}: {note}"


def _weights(found: SideDifferences) -> Iterator[str]:
    if not found.equal_weights:
        return
    values = [*found.equal_weights.values()]
    if found.of_runs:
        texts = {
            True: "bitwise equal",
            False: "differ",
            None: "not known, because they are not recorded or cannot be read",
        }
        yield f"final weights: {texts[values[0]]}"
    else:
        unknown = f", not known for {values.count(None)}" if None in values else ""
        yield f"final weights: equal for {values.count(True)} of {count(len(values), 'seed')}{unknown}"
