"""The option `fit --seeds`: train one experiment with several seeds, and summarise its scores."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bert_lightning.config.experiment import load_experiment
from bert_lightning.config.extensions import options_that_allow
from bert_lightning.cores import usable_cores
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory, choose_directory
from bert_lightning.studies.comparison import Group, read_run
from bert_lightning.studies.processes import Processes, with_cores
from bert_lightning.training.signals import EXIT_STATUS

_SEED = "seed_everything"
_BAD_INPUT = 2
# If a run ends with one of these statuses, no further run is started.
_STOPPING = (_BAD_INPUT, *EXIT_STATUS.values())


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
    at_once: int = 1,
) -> list[SeedRun]:
    """Train an experiment once per seed, one run after the other or several at once.

    Each run is a separate process of `fit`, so that neither a crash nor used memory affects the next one. Runs that
    have finished are not repeated. If one seed fails, the others still train. After bad input or a stop signal, no
    further run starts.

    Args:
        files: experiment files.
        overrides: keys and values as on the command line.
        seeds: values of `seed_everything`.
        parent: run directories are `parent`/seed-N; if None, `fit` chooses them.
        resume: `auto` or `never`.
        allowed: modules that a `class_path` may import.
        at_once: how many train at the same time. They share the cores, unless OMP_NUM_THREADS is set. With more than
            one, the output of each run goes to the file `<run directory>.log`.

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

    def train(number: int) -> None:
        seed, directory, keys = plan[number]
        if processes.ended or any(run.status in _STOPPING for run in runs):
            return
        log = Path(f"{directory.path}.log") if at_once > 1 else None
        where = f", output in {log}" if log else ""
        print(f"seed {seed} ({number + 1} of {len(seeds)}){where}", flush=True)
        arguments = ["--config", *files, "--run-directory", str(directory.path), "--resume", resume, *keys]
        arguments += options_that_allow(allowed)
        with ExitStack() as stack:
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
            output = stack.enter_context(open(log, "ab")) if log is not None else None
            status = processes.fit(arguments, environment, output)
        if status is not None:
            runs.append(SeedRun(seed, directory, status))

    processes = Processes()
    environment = with_cores(os.environ, max(1, usable_cores() // at_once)) if at_once > 1 else os.environ
    if at_once == 1:
        for number in range(len(plan)):
            train(number)
    else:
        # Signals interrupt this thread, which then ends the processes for which the others wait.
        with ThreadPoolExecutor(at_once) as pool, processes:
            for trained in [pool.submit(train, number) for number in range(len(plan))]:
                trained.result()
    runs.sort(key=lambda run: seeds.index(run.seed))
    return runs


def exit_status(runs: Sequence[SeedRun]) -> int:
    """Return 0 if all runs finished; otherwise the status of the run that stopped the others, or 1 without one."""
    if all(run.status == 0 for run in runs):
        return 0
    return next((run.status for run in runs if run.status in _STOPPING), 1)


def summary_lines(runs: Sequence[SeedRun], num_seeds: int) -> list[str]:
    """Return the lines that report failed seeds and the scores over the finished ones.

    The columns are mean and standard deviation (n - 1), n, minimum and maximum.
    """
    finished = [run for run in runs if run.status == 0]
    lines = [f"{len(finished)} of {num_seeds} seeds finished"]
    lines += [f"seed {run.seed} failed (status {run.status}): {run.directory.path}" for run in runs if run.status]
    if not finished:
        return lines
    # They are one group, even if settings without effect on the result have changed between the sessions.
    members = [read_run(run.directory.path) for run in finished]
    group = Group("", members[0].task, members, {})
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
            f"{parent} is a run directory: with --seeds, --run-directory is a folder for one run directory per seed"
        )
