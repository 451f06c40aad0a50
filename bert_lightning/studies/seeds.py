"""`fit --seeds`: one experiment over several seeds, and its scores over them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bert_lightning.config.experiment import load_experiment
from bert_lightning.errors import InputError
from bert_lightning.runs.choices import choose_directory
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.studies.comparison import group_runs, read_run
from bert_lightning.training.signals import EXIT_STATUS

_SEED = "seed_everything"
_BAD_INPUT = 2


@dataclass(frozen=True)
class SeedRun:
    """How the training of one seed ended.

    Attributes:
        seed: of everything.
        directory: of its run.
        status: what its process exited with; negative if a signal killed it.
    """

    seed: int
    directory: RunDirectory
    status: int


def fit_seeds(
    files: Sequence[str],
    overrides: Sequence[str],
    seeds: Sequence[int],
    parent: Path | None,
    resume: str,
    allowed: Sequence[str] = (),
) -> list[SeedRun]:
    """Train once for each seed, one after the other, and give the runs that were begun.

    Each is a `fit` in a process of its own, so that a crash, the memory it filled and the processes of its other
    devices are gone before the next one. Its directory is the one that `fit` would choose, or `parent`/seed-N; a run
    that finished before says so and is left alone. A seed that fails leaves the others alone; bad input and a
    request to stop end it all.

    Raises:
        InputError: seeds, settings or directories that cannot be; nothing was begun then.
    """
    _check(overrides, seeds, parent, resume)
    planned = []
    for seed in seeds:
        own = [*overrides, f"--{_SEED}={seed}"]
        experiment = load_experiment([Path(file) for file in files], own, None, allowed)
        directory = choose_directory(experiment, parent / f"seed-{seed}" if parent is not None else None, resume)
        planned.append((seed, directory, own))
    runs: list[SeedRun] = []
    for seed, directory, own in planned:
        print(f"seed {seed} ({len(runs) + 1} of {len(seeds)})", flush=True)
        arguments = ["--config", *files, "--run-directory", str(directory.path), "--resume", resume, *own]
        arguments += [part for module in allowed for part in ("--allow-module", module)]
        runs.append(SeedRun(seed, directory, _fit(arguments)))
        if runs[-1].status in (_BAD_INPUT, *EXIT_STATUS.values()):
            break
    return runs


def exit_status(runs: Sequence[SeedRun]) -> int:
    """0 if all finished; that of the last one where it ended them all; otherwise 1."""
    if all(run.status == 0 for run in runs):
        return 0
    last = runs[-1].status
    return last if last in (_BAD_INPUT, *EXIT_STATUS.values()) else 1


def summary_lines(runs: Sequence[SeedRun], num_seeds: int) -> list[str]:
    """Which seeds finished, and each of their scores: mean and standard deviation (n - 1), n, minimum, maximum."""
    finished = [run for run in runs if run.status == 0]
    lines = [f"{len(finished)} of {num_seeds} seeds finished"]
    lines += [f"seed {run.seed} failed (status {run.status}): {run.directory.path}" for run in runs if run.status]
    if not finished:
        return lines
    # Seeds of one experiment differ in nothing else.
    [group] = group_runs([read_run(run.directory.path) for run in finished])
    rows = [("", "mean ± sd", "n", "min", "max")]
    for name, score in sorted(group.summary().items()):
        rows.append((name, str(score), str(score.num), f"{score.minimum:.4f}", f"{score.maximum:.4f}"))
    if len(rows) == 1:
        return lines
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines


def _check(overrides: Sequence[str], seeds: Sequence[int], parent: Path | None, resume: str) -> None:
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise InputError(f"--seeds names {seed} twice")
    if any(argument.partition("=")[0] == f"--{_SEED}" for argument in overrides):
        raise InputError(f"--{_SEED} and --seeds contradict each other")
    if resume not in ("auto", "never"):
        raise InputError(f"--resume {resume} goes on with one run, but --seeds makes several: give auto or never")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise InputError("--seeds starts its processes itself: name them with --trainer.devices, without torchrun")
    if parent is not None and parent.exists() and not parent.is_dir():
        raise InputError(f"{parent} is a file: with --seeds it gets a run directory for each seed")
    if parent is not None and RunDirectory(parent).exists:
        raise InputError(f"{parent} is a run directory: with --seeds it gets one for each seed, so choose another")


def _fit(arguments: Sequence[str]) -> int:
    """Run `fit` in a process and give its status; what ends this process lets that one write its checkpoint first."""
    process = subprocess.Popen([sys.executable, "-m", "bert_lightning", "fit", *arguments])
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
