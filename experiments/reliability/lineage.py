"""Lineage of the final weights: the samples they descend from, after many kills and resumptions."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

# Step -> the samples of all ranks in that step, each a tuple of numbers that identify it.
Steps = dict[int, list[tuple[int, ...]]]


def read_trace(path: Path, num_ranks: int) -> Steps:
    """Return the steps of one session that all ranks took, without lines that a kill cut short."""
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
    """Return the steps that led to the weights of the last step of all sessions.

    A session resumes from the checkpoint of the step before its first one. The last earlier session that took that
    step wrote the checkpoint, because a session that resumes from an older one moves later checkpoints away.
    """
    lineage: Steps = {}
    last = max((step for session in sessions for step in session), default=0)
    for session in reversed(sessions):
        if last not in session:
            continue
        first = min(session)
        lineage |= {step: samples for step, samples in session.items() if step <= last}
        last = first - 1
    return lineage


def lost_and_repeated(lineage: Steps, reference: Steps) -> tuple[int, int]:
    """Return the number of samples that the lineage lacks, and of those that only it has, whatever the step."""
    ours, theirs = _counts(lineage), _counts(reference)
    return (theirs - ours).total(), (ours - theirs).total()


def _counts(steps: Steps) -> Counter[tuple[int, ...]]:
    return Counter(sample for samples in steps.values() for sample in samples)


def drawn_twice(steps: Steps, stage_starts: Sequence[int]) -> int:
    """Return the number of samples drawn again within an epoch. Each stage draws afresh from its first step on."""
    keys = Counter(
        (sum(step > start for start in stage_starts), *sample[:2])
        for step, samples in steps.items()
        for sample in samples
    )
    return keys.total() - len(keys)
