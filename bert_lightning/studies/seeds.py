"""The option `fit --seeds`: train one experiment with several seeds, and summarise its scores."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bert_lightning.config.experiment import load_experiment
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory, choose_directory
from bert_lightning.studies.comparison import group_runs, read_run
from bert_lightning.training.signals import EXIT_STATUS

_SEED = "seed_everything"
_BAD_INPUT = 2


@dataclass(frozen=True)
class SeedRun:
    """One training of `fit --seeds` that has ended.

    Attributes:
        seed: value of `seed_everything`.
        directory: its run directory.
        status: exit status of its process; negative if a signal killed it.
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
    """Train once per seed, one after the other.

    Each training is a `fit` in its own process, so a crash, used memory, or processes of other devices cannot affect
    the next one. Runs that have already finished are not repeated. A failed seed does not stop the other seeds, but
    bad input and stop signals do.

    Args:
        files: experiment files.
        overrides: keys and values as on the command line.
        seeds: values of `seed_everything`.
        parent: run directories are `parent`/seed-N; if None, `fit` chooses them.
        resume: `auto` or `never`.
        allowed: modules that a `class_path` may import.

    Returns:
        The runs that were started.

    Raises:
        InputError: seeds, settings or directories are not allowed. No training was started.
    """
    _check(overrides, seeds, parent, resume)
    plan = []
    for seed in seeds:
        keys = [*overrides, f"--{_SEED}={seed}"]
        experiment = load_experiment([Path(file) for file in files], keys, None, allowed)
        directory = choose_directory(experiment, parent / f"seed-{seed}" if parent is not None else None, resume)
        plan.append((seed, directory, keys))
    runs: list[SeedRun] = []
    for seed, directory, keys in plan:
        print(f"seed {seed} ({len(runs) + 1} of {len(seeds)})", flush=True)
        arguments = ["--config", *files, "--run-directory", str(directory.path), "--resume", resume, *keys]
        arguments += [word for module in allowed for word in ("--allow-module", module)]
        runs.append(SeedRun(seed, directory, _fit(arguments)))
        if runs[-1].status in (_BAD_INPUT, *EXIT_STATUS.values()):
            break
    return runs


def exit_status(runs: Sequence[SeedRun]) -> int:
    """Return 0 if all runs finished, the last run's status if it stopped the others, and otherwise 1."""
    if all(run.status == 0 for run in runs):
        return 0
    last = runs[-1].status
    return last if last in (_BAD_INPUT, *EXIT_STATUS.values()) else 1


def summary_lines(runs: Sequence[SeedRun], num_seeds: int) -> list[str]:
    """Return the lines that report failed seeds and the scores over the finished ones.

    The columns are mean and standard deviation (n - 1), n, minimum and maximum.
    """
    finished = [run for run in runs if run.status == 0]
    lines = [f"{len(finished)} of {num_seeds} seeds finished"]
    lines += [f"seed {run.seed} failed (status {run.status}): {run.directory.path}" for run in runs if run.status]
    if not finished:
        return lines
    # Runs of one experiment differ only in their seed, so they are one group.
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
        raise InputError(f"--resume {resume} resumes one run, but --seeds trains several: use auto or never")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise InputError(
            "--seeds starts its own processes: set their number with --trainer.devices, without torchrun"
        )
    if parent is not None and parent.exists() and not parent.is_dir():
        raise InputError(
            f"{parent} is a file: with --seeds it must be a folder, which gets one run directory per seed"
        )
    if parent is not None and RunDirectory(parent).exists:
        raise InputError(
            f"{parent} is a run directory: with --seeds it gets one run directory per seed, so choose another"
        )


def _fit(arguments: Sequence[str]) -> int:
    """Run `fit` in a process and return its exit status.

    If this process is interrupted or terminated, it terminates `fit` and waits for its checkpoint.
    """
    process = subprocess.Popen([sys.executable, "-m", "bert_lightning", "fit", *arguments])
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
