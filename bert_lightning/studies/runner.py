"""The runner of a study: it trains the runs, several at a time, and keeps the record up to date."""

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from bert_lightning.checkpoints.plain_text import printable
from bert_lightning.config.extensions import options_that_allow
from bert_lightning.config.yaml_files import flow_yaml
from bert_lightning.errors import Interrupted
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.log_file import last_lines
from bert_lightning.studies.estimates import Estimates, logged_step
from bert_lightning.studies.launchers import Job, Launcher
from bert_lightning.studies.plan import PlannedRun
from bert_lightning.studies.progress import TO_DO, Progress
from bert_lightning.studies.record import RecordedRun, StudyRecord
from bert_lightning.studies.states import after_process, current
from bert_lightning.wording import count, duration

# How many of the last lines of a failed run are printed.
_SHOWN_LINES = 6
# Seconds between two updates of the status line.
_REFRESH = 2.0
# The most characters that W&B allows in a tag.
_LONGEST_TAG = 64


class Reporter(Protocol):
    """A receiver of messages while a study runs."""

    def line(self, text: str) -> None:
        """Print a message."""

    def status(self, text: str) -> None:
        """Show which runs are training. The next call replaces the text."""


class PrintedLines:
    """A reporter that prints the messages, and shows no status."""

    def line(self, text: str) -> None:
        """Print a message at once, also if the output is a pipe."""
        print(text, flush=True)

    def status(self, text: str) -> None:
        """Show nothing."""


class Runner:
    """The training of all runs of a study that are not finished.

    Args:
        progress: the runs and their states.
        launcher: where they train.
        reporter: receives messages about the progress.
        record: the record of the study. It contains only runs that are not in `progress`.
        allowed: modules that a `class_path` of an experiment may import.
    """

    def __init__(
        self,
        progress: Progress,
        launcher: Launcher,
        reporter: Reporter,
        record: StudyRecord,
        allowed: Sequence[str] = (),
    ) -> None:
        self._progress, self._launcher, self._reporter = progress, launcher, reporter
        self._record, self._allowed = record, allowed
        # Other runs in the same folder: those of searches or, in a search, those of the arms.
        self._others = record.runs
        self._writing = threading.Lock()
        self._training: dict[Future[RecordedRun], PlannedRun] = {}
        self._estimates: Estimates | None = None
        self._num_ended = len([run for run in progress.chosen.values() if run.state not in TO_DO])

    def run(self) -> StudyRecord:
        """Train all runs, and return the record. The record on the disk is written whenever a state changes.

        On an interrupt, the launcher is stopped, the states of the runs are recorded, and the interrupt is raised
        again. The launcher of this machine ends its runs after a checkpoint; that of a cluster leaves them queued.
        """
        self._write()
        with ThreadPoolExecutor(self._launcher.num_jobs) as pool:
            try:
                self._start(pool)
                while self._training:
                    done, _ = wait(self._training, _REFRESH, FIRST_COMPLETED)
                    for future in done:
                        self._take(future)
                    self._start(pool)
                    self._reporter.status(self._status())
            except BaseException:
                self._stop(pool)
                raise
            finally:
                self._reporter.status("")
        return self._record

    def _start(self, pool: ThreadPoolExecutor) -> None:
        """Start runs that can start, until the launcher trains as many runs as it can."""
        for run in self._progress.startable():
            if len(self._training) == self._launcher.num_jobs:
                return
            if run not in self._training.values():
                self._training[pool.submit(self._train, run)] = run

    def _train(self, run: PlannedRun) -> RecordedRun:
        """Train a run, and return its entry for the record. Each call has its own thread."""
        before = self._progress.runs[run]
        folder, directory = self._progress.folder, before.directory
        job = self._job(run, directory)
        # A process of an earlier command may have trained the run until now.
        is_known = not self._launcher.wait_for_earlier(job, self._reporter.line) and before.state != "running"
        found = current(run, folder, directory, before)
        if found.state == "finished" or (found.state == "failed" and not is_known):
            return found
        began = replace(before, state="running", message=None, attempts=before.attempts + 1)
        self._set(run, began)
        self._reporter.line(f"started: {run.name} ({directory})")
        start = job.log.stat().st_size if job.log.exists() else 0
        clock = time.monotonic()
        status = self._launcher.run(job)
        if status is None:
            return replace(before, state="interrupted" if before.attempts else "waiting")
        ended = replace(began, seconds=round(before.seconds + time.monotonic() - clock, 1))
        return after_process(current(run, folder, directory, ended), status, _shown_lines(job.log, start))

    def _job(self, run: PlannedRun, directory: str) -> Job:
        path, trainer = self._progress.folder / directory, run.experiment.trainer
        arguments = run.arguments(self._progress.directories.path)
        environment = {"WANDB_RUN_GROUP": self._record.study, "WANDB_JOB_TYPE": run.stage}
        # W&B refuses an empty variable. An arm without settings has no tags.
        if own := tags(run.arm.values):
            environment["WANDB_TAGS"] = ",".join(own)
        return Job(
            name=run.name,
            arguments=["--run-directory", str(path), *options_that_allow(self._allowed), *arguments],
            directory=path,
            log=Path(f"{path}.log"),
            num_processes=trainer.devices,
            uses_gpu=trainer.accelerator != "cpu",
            environment=environment,
        )

    def _take(self, future: Future[RecordedRun]) -> None:
        """Record and report the result of a run."""
        run = self._training.pop(future)
        recorded = self._progress.settled(run, future.result())
        self._progress.runs[run] = recorded
        if recorded.state == "finished":
            self._progress.find_stale(run)
        self._progress.block()
        self._write()
        self._estimates = None
        self._num_ended += recorded.state not in TO_DO
        place = f"[{self._num_ended} of {len(self._progress.chosen)}]"
        if recorded.state == "finished":
            self._reporter.line(
                f"finished: {run.name} in {duration(recorded.seconds)}{self._scores(recorded)} {place}"
            )
        elif recorded.state == "failed":
            log = self._progress.folder / recorded.log
            lines = "".join(f"\n    {line}" for line in _shown_lines(log))
            self._reporter.line(f"failed: {run.name} (status {recorded.status}), output in {log}{lines}")
        elif recorded.state == "interrupted":
            self._reporter.line(f"interrupted: {run.name} ({recorded.message}); the same command resumes it")

    def _scores(self, recorded: RecordedRun) -> str:
        """Return the last values of the metrics that the study compares."""
        scores: dict[str, float] = {}
        for row in RunDirectory(self._progress.folder / recorded.directory).read_metrics():
            scores.update({name: row[name] for name in self._record.compare.metric if name in row})
        return "".join(f", {name} {score:.4f}" for name, score in scores.items())

    def _status(self) -> str:
        """Describe the runs that are training, and estimate the time until all runs have ended."""
        runs = self._progress.runs
        parts = []
        for run in self._training.values():
            step, steps = logged_step(self._progress.folder / runs[run].directory), run.experiment.trainer.max_steps
            parts.append(f"{run.name}: step {step:,}" + (f" of {steps:,}" if steps else ""))
        return f"[{self._num_ended} of {len(self._progress.chosen)}]{self._time_left()} {'; '.join(parts)}"

    def _time_left(self) -> str:
        if self._estimates is None:
            self._estimates = Estimates(self._progress.folder, self._progress.runs)
        seconds, num_unknown = self._estimates.all_seconds_left(self._progress.chosen)
        return "" if num_unknown else f" about {duration(seconds / self._launcher.num_jobs)} left,"

    def _set(self, run: PlannedRun, recorded: RecordedRun) -> None:
        with self._writing:
            self._progress.runs[run] = recorded
        self._write()

    def _write(self) -> None:
        with self._writing:
            self._record = self._current_record()
            self._record.write(self._progress.folder)

    def _current_record(self) -> StudyRecord:
        return replace(self._record, runs=(*self._progress.recorded(), *self._others))

    def _stop(self, pool: ThreadPoolExecutor) -> None:
        """Let all runs end, and record their states. A further SIGTERM does not cut this short, but Ctrl-C does."""
        self._reporter.status("")
        self._launcher.stop()
        if self._training:
            self._reporter.line(self._launcher.at_stop.format(runs=count(len(self._training), "run")))
        while self._training:
            try:
                done, _ = wait(self._training, return_when=FIRST_COMPLETED)
            except (Interrupted, KeyboardInterrupt):
                raise
            except BaseException:
                continue
            for future in done:
                run = self._training.pop(future)
                if future.exception() is None:
                    self._progress.runs[run] = future.result()
        pool.shutdown()
        for run, recorded in self._progress.runs.items():
            # The interrupt came after the run ended and before its state was recorded.
            if recorded.state == "running":
                self._progress.runs[run] = current(run, self._progress.folder, recorded.directory, recorded)
        with suppress(OSError):
            self._progress.block()
            self._write()


def tags(values: Mapping[str, object]) -> list[str]:
    """Return axis values as W&B tags, without commas, because commas separate tags in WANDB_TAGS.

    >>> tags({"data.objective": "next-sentence", "optimizer.betas": [0.9, 0.98]})
    ['data.objective=next-sentence', 'optimizer.betas=[0.9 0.98]']
    """
    texts = (f"{key}={value if isinstance(value, str) else flow_yaml(value)}" for key, value in values.items())
    return [text.replace(", ", " ").replace(",", " ")[:_LONGEST_TAG] for text in texts]


def _shown_lines(log: Path, start: int = 0) -> list[str]:
    """Return the last lines of a log, without control characters."""
    return [printable(line) for line in last_lines(log, _SHOWN_LINES, start)]
