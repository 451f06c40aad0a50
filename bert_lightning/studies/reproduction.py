"""The command `reproduce`: train a run again in a new directory, and report every difference."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from bert_lightning.checkpoints.digests import current_form
from bert_lightning.checkpoints.native import LAST, find_native
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.fit import train
from bert_lightning.runs.processes import is_first_process
from bert_lightning.runs.record import FINISHED, GIVEN
from bert_lightning.studies.two_runs import (
    MetricDifference,
    changed_circumstances,
    comparable_values,
    metric_differences,
)

log = logging.getLogger(__name__)


class Comparison(NamedTuple):
    """Result of training a run again and comparing both runs."""

    num_values: int
    """number of compared values: one per metric and step"""
    differences: list[MetricDifference]
    """sorted by step"""
    weights: tuple[str, str]
    """SHA-256 of the final weights, before and now"""
    circumstances: list[str]
    """changes of versions, hardware, settings, commits and patches of uncommitted files, one sentence each"""

    @property
    def equal(self) -> bool:
        """True if all metrics and all weights are bitwise equal."""
        return not self.differences and self.weights[0] == self.weights[1]

    def lines(self) -> Iterator[str]:
        """Yield the lines that the command prints."""
        for text in self.circumstances:
            yield f"changed: {text}"
        if self.differences:
            first = self.differences[0]
            yield (
                f"metrics: {len(self.differences):,} of {self.num_values:,} differ, first at step {first.step}: "
                f"{first.metric} {_as_text(first.before)} before, {_as_text(first.now)} now"
            )
        else:
            yield f"metrics: all {self.num_values:,} equal, step by step"
        before, now = self.weights
        same = "equal" if before == now else f"differ from {before[:16]}"
        yield f"final weights: {same} (SHA-256 {now[:16]})"


def reproduce(path: Path, output: Path | None, allowed: Sequence[str] = ()) -> Comparison | None:
    """Train a finished run again and compare the two.

    Args:
        path: directory of the finished run.
        output: directory for the new run; by default `<path>-reproduced`.
        allowed: modules that a `class_path` of the run may import.

    Returns:
        The comparison; None on all ranks except the first.

    Raises:
        InputError: the run has not finished or cannot be repeated, its data changed, or `output` holds other files.
    """
    run = RunDirectory(path)
    run.read_config()
    manifest = run.read_manifest()
    if manifest.get("ended") != FINISHED:
        raise InputError(f"{path} has not finished: resume it with its `bert-lightning fit` command first")
    if (manifest.get("sessions") or [{}])[0].get("resumed_from") is not None:
        raise InputError(f"{path} began from the checkpoint of another run, so it cannot be repeated from its start")
    if "weights" not in manifest:
        raise InputError(f"{path}: its manifest.json lacks the hash of the final weights")
    original = Path(os.path.realpath(path))
    repetition = RunDirectory(output or original.with_name(f"{original.name}-reproduced"))
    if is_first_process() and not repetition.exists and not repetition.is_free:
        raise InputError(f"{repetition.path} is not empty and is not a run directory: choose another --output")
    experiment = run.read_experiment(allowed)
    if os.path.realpath(repetition.path) == str(original) or repetition.read_manifest().get("ended") == FINISHED:
        raise InputError(f"{repetition.path} holds a finished run: choose another --output")
    given = {
        name
        for session in manifest.get("sessions", [])
        for names in session.get(GIVEN, {}).values()
        for name in names
    }
    if given and is_first_process():
        log.warning(
            "%s was trained with %s from a Python program, which this repetition lacks: repeat it with that program",
            path,
            " and ".join(sorted(given)),
        )
    micro_batches = manifest.get("micro_batches")
    train(experiment, repetition, "auto", expected_data=manifest["data"], micro_batches=micro_batches)
    return compare(run, repetition) if is_first_process() else None


def compare(before: RunDirectory, now: RunDirectory) -> Comparison:
    """Compare two finished runs: their final weights, and their metrics except those of time and memory."""
    old, new = comparable_values(before.read_metrics(), now.read_metrics())
    manifests = before.read_manifest(), now.read_manifest()
    # A resumed run has several sessions, and something may have changed between two of them.
    sessions = [session for manifest in manifests for session in manifest.get("sessions", [])]
    changed = [f"{name} {first} -> {last}" for name, first, last in changed_circumstances(sessions)]
    # An earlier version may have recorded the digest in another form.
    recorded = current_form(manifests[0]["weights"], _final_weights(now))
    return Comparison(len({*old, *new}), metric_differences(old, new), (recorded, manifests[1]["weights"]), changed)


def _final_weights(run: RunDirectory) -> dict[str, Tensor]:
    checkpoint = find_native(run.path, (LAST,))
    assert checkpoint is not None, "the run has just finished"
    return read_checkpoint(checkpoint).tensors


def _as_text(value: float | None) -> str:
    return "none" if value is None else repr(value)
