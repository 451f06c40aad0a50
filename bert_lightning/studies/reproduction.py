"""`reproduce`: train a run again in a directory of its own, and say whether everything came out the same."""

import math
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from bert_lightning.checkpoints.digests import current_form
from bert_lightning.checkpoints.native import LAST, find_native, read_native
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.fit import fit
from bert_lightning.runs.processes import is_first_process
from bert_lightning.runs.record import FINISHED
from bert_lightning.training.throughput import THROUGHPUT_METRICS

# What a row says of the clock rather than of the training.
_OF_THE_CLOCK = {"time", *THROUGHPUT_METRICS}


class Difference(NamedTuple):
    """A metric that came out otherwise."""

    step: int
    metric: str
    before: float | None
    """None where the run did not log it"""
    now: float | None


class Comparison(NamedTuple):
    """What became of a run that was trained again."""

    num_values: int
    """metrics compared, each of each step once"""
    differences: list[Difference]
    """in order of the steps"""
    weights: tuple[str, str]
    """SHA-256 of the final weights, before and now"""
    circumstances: list[str]
    """what is not as it was: versions, hardware, commit"""

    @property
    def equal(self) -> bool:
        """Whether all metrics and all weights are the same, to the bit."""
        return not self.differences and self.weights[0] == self.weights[1]

    def lines(self) -> Iterator[str]:
        """What a person reads."""
        for text in self.circumstances:
            yield f"not as it was: {text}"
        if self.differences:
            first = self.differences[0]
            yield (
                f"metrics: {len(self.differences):,} of {self.num_values:,} differ, first at step {first.step}: "
                f"{first.metric} {_shown(first.before)} before, {_shown(first.now)} now"
            )
        else:
            yield f"metrics: all {self.num_values:,} equal, step by step"
        before, now = self.weights
        same = "equal" if before == now else f"differ from {before[:16]}"
        yield f"final weights: {same} (SHA-256 {now[:16]})"


def reproduce(path: Path, output: Path | None, allowed: Sequence[str] = ()) -> Comparison | None:
    """Train the run in `path` again in `output` (beside it unless given) and compare; None on ranks but the first.

    `allowed` are the modules that a `class_path` of the run may name.

    Raises:
        InputError: no finished run lies there, its data is no longer what it was, or `output` holds something else.
    """
    run = RunDirectory(path)
    run.read_config()
    manifest = run.read_manifest()
    if manifest.get("ended") != FINISHED:
        raise InputError(f"{path} has not finished: `bert-lightning fit` with its command goes on with it")
    if manifest["sessions"][0]["resumed_from"] is not None:
        raise InputError(f"{path} began with the checkpoint of another run, which a training anew does not")
    if "weights" not in manifest:
        raise InputError(f"{path}: its manifest does not hold the hash of the final weights")
    whole = Path(os.path.realpath(path))
    again = RunDirectory(output or whole.with_name(f"{whole.name}-reproduced"))
    if is_first_process() and not again.exists and not again.is_free:
        raise InputError(f"{again.path} is not empty and no run directory: choose another --output")
    experiment = run.read_experiment(allowed)
    if os.path.realpath(again.path) == str(whole) or again.read_manifest().get("ended") == FINISHED:
        raise InputError(f"{again.path} holds a finished run: choose another --output")
    known = manifest.get("micro_batches")
    fit(experiment, again, "auto", expected_data=manifest["data"], micro_batches=known)
    return compare(run, again) if is_first_process() else None


def compare(before: RunDirectory, now: RunDirectory) -> Comparison:
    """Two finished runs: their metrics, but for those of the clock, and their final weights."""
    old, new = _values(before), _values(now)
    keys = sorted({*old, *new})
    differences = [
        Difference(*key, old.get(key), new.get(key)) for key in keys if not _same(old.get(key), new.get(key))
    ]
    manifests = before.read_manifest(), now.read_manifest()
    # A run of several sessions may have changed on its way already.
    sessions = [_circumstances(session) for manifest in manifests for session in manifest["sessions"]]
    changed = [
        f"{name} {first.get(name)} -> {last.get(name)}"
        for first, last in pairwise(sessions)
        for name in sorted({*first, *last})
        if first.get(name) != last.get(name)
    ]
    # An earlier version may have recorded the digest in another form.
    recorded = current_form(manifests[0]["weights"], _final_weights(now))
    return Comparison(len(keys), differences, (recorded, manifests[1]["weights"]), changed)


def _final_weights(run: RunDirectory) -> dict[str, Tensor]:
    checkpoint = find_native(run.path, (LAST,))
    assert checkpoint is not None, "the run has just finished"
    return read_native(checkpoint).tensors


def _values(run: RunDirectory) -> dict[tuple[int, str], float]:
    return {
        (row["step"], name): value
        for row in run.read_metrics()
        # Others are of scoring a checkpoint later.
        if "checkpoint" not in row
        for name, value in row.items()
        if name != "step" and name not in _OF_THE_CLOCK
    }


def _same(before: float | None, now: float | None) -> bool:
    if before is None or now is None:
        return before is now
    return before == now or (math.isnan(before) and math.isnan(now))


def _circumstances(session: dict[str, Any]) -> dict[str, Any]:
    """Plain values of a session by name, without its command."""
    found = {f"version of {name}": version for name, version in session["versions"].items()}
    found |= session["hardware"] | session.get("settings", {})
    git = session["git"] or {}
    return found | {"commit": git.get("commit"), "modified files": git.get("modified")}


def _shown(value: float | None) -> str:
    return "none" if value is None else repr(value)
