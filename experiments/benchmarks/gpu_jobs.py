"""Jobs of the suite for a GPU: processes that run side by side, each with a log and a limit."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Job(NamedTuple):
    """A Python process of the suite.

    Attributes:
        name: its name in the results, and that of its log.
        command: arguments of Python.
        limit: seconds after which it is ended.
    """

    name: str
    command: Sequence[str]
    limit: float


class Workplace:
    """The folder of the logs, and the time at which the whole suite ends.

    Args:
        logs: the folder of the logs.
        budget: seconds from now.
        environment: variables of all jobs, in addition to those of this process.
    """

    def __init__(self, logs: Path, budget: float, environment: Mapping[str, str]) -> None:
        self.logs = logs
        self.environment = environment
        self._until = time.perf_counter() + budget
        logs.mkdir(parents=True, exist_ok=True)

    @property
    def seconds_left(self) -> float:
        """Seconds until the suite ends."""
        return self._until - time.perf_counter()

    def run(self, job: Job, reserve: float = 0.0) -> dict[str, Any]:
        """Run a job; end it after its limit, or `reserve` seconds before the suite ends.

        Returns:
            `result`: `ended`, `failed`, `out of time` or `not run`; `seconds`; and if it failed, `why`.
        """
        limit = min(job.limit, self.seconds_left - reserve)
        if limit < 1:
            return {"result": "not run", "seconds": 0.0}
        began, log = time.perf_counter(), self.logs / f"{job.name}.log"
        with log.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                [sys.executable, *job.command],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                cwd=ROOT,
                # A group of its own, so that its workers end with it.
                start_new_session=True,
            )
            try:
                status = process.wait(limit)
                result = "failed" if status else "ended"
            except subprocess.TimeoutExpired:
                result = "out of time"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        why = {} if result == "ended" else {"why": last_line(log)}
        return {"result": result, **why, "seconds": round(time.perf_counter() - began, 1)}

    def run_side_by_side(self, lanes: Sequence[Sequence[Job]], reserve: float = 0.0) -> dict[str, dict[str, Any]]:
        """Run lanes at the same time, and the jobs of a lane one after the other; return name -> outcome."""
        outcomes: dict[str, dict[str, Any]] = {}

        def run_lane(lane: Sequence[Job]) -> None:
            for job in lane:
                outcomes[job.name] = self.run(job, reserve)
                print_outcome(job.name, outcomes[job.name])

        with ThreadPoolExecutor(len(lanes)) as pool:
            list(pool.map(run_lane, lanes))
        return {job.name: outcomes[job.name] for lane in lanes for job in lane}


def print_outcome(name: str, outcome: Mapping[str, Any]) -> None:
    """Print one line about a job."""
    print(
        f"{name:32} {outcome['result']:12}{outcome['seconds']:6.1f} s  {outcome.get('why', '')}".rstrip(), flush=True
    )


def last_line(path: Path) -> str:
    """Return the last line of a log."""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no output"
