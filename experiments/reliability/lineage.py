"""Which samples the final weights descend from, when training was killed and went on from checkpoints many times."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

# Step -> the samples that all ranks took in it, each a tuple of numbers that say which it is.
Steps = dict[int, list[tuple[int, ...]]]


def read_trace(path: Path, num_ranks: int) -> Steps:
    """The steps of one session of a run that all ranks took; a line that a kill cut short is left out."""
    ranks: dict[int, dict[int, list[tuple[int, ...]]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        ranks.setdefault(row["step"], {})[row["rank"]] = [tuple(sample) for sample in row["samples"]]
    return {
        step: [sample for rank in sorted(shares) for sample in shares[rank]]
        for step, shares in ranks.items()
        if len(shares) == num_ranks
    }


def descent(sessions: Sequence[Steps]) -> Steps:
    """The steps behind the weights of the last step that any session took.

    A session goes on from the checkpoint of the step before its first one. That checkpoint was written by the last
    session before it that took that step: whoever went on from further back set it aside.
    """
    lineage: Steps = {}
    wanted = max((step for session in sessions for step in session), default=0)
    for session in reversed(sessions):
        if wanted not in session:
            continue
        first = min(session)
        lineage |= {step: samples for step, samples in session.items() if step <= wanted}
        wanted = first - 1
    return lineage


def lost_and_repeated(lineage: Steps, reference: Steps) -> tuple[int, int]:
    """How many samples the lineage lacks of the reference, and how many it has beyond it, in whichever steps."""
    ours, theirs = _counted(lineage), _counted(reference)
    return (theirs - ours).total(), (ours - theirs).total()


def _counted(steps: Steps) -> Counter[tuple[int, ...]]:
    return Counter(sample for samples in steps.values() for sample in samples)


def drawn_twice(steps: Steps, stage_starts: Sequence[int]) -> int:
    """How many samples were drawn again within an epoch; each stage, from its first step on, draws afresh."""
    keys = Counter(
        (sum(step > start for start in stage_starts), *sample[:2])
        for step, samples in steps.items()
        for sample in samples
    )
    return keys.total() - len(keys)
