"""Start a run repeatedly, each time with a trace, and manage the processes of one start."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lineage import Steps, descent, read_trace
from traced import SLOW, VARIABLE

HERE = Path(__file__).resolve().parent
# The longest delay in seconds, some steps long, before an asynchronous checkpoint is written or its links move.
SLOWLY = 0.2
_STEP = re.compile(r"step-(\d{9})\.ckpt$")
# A file or a folder of shards. One that is being removed has another name.
BEING_WRITTEN = re.compile(r"\.step-(\d{9})\.ckpt\.\d+\.tmp$")
_REJECTED = re.compile(r"(step-\d{9}\.ckpt) \S.*; trying the previous one")


def log(text: str) -> None:
    """Print progress at once, for whoever watches."""
    print(text, flush=True)


def environment() -> dict[str, str]:
    """Return variables for a process that finds this package and uses one thread, unless set otherwise."""
    own_path = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(HERE.parents[1]), *([own_path] if own_path else [])])
    return {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}


@dataclass
class Session:
    """One start of `fit`, with its trace.

    Attributes:
        process: its first process, the leader of its process group.
        trace: file with a line per step and rank.
        errors: file with its standard error.
        leftovers: names of half-written checkpoints that existed before it.
        began: time of its start.
    """

    process: subprocess.Popen[bytes]
    trace: Path
    errors: Path
    leftovers: set[str]
    began: float = field(default_factory=time.time)

    def rejected(self) -> set[str]:
        """Return the names of the checkpoints that it refused."""
        return set(_REJECTED.findall(self.errors.read_text(encoding="utf-8", errors="replace")))

    def times(self) -> list[float]:
        """Return the time at which the first rank began each step."""
        if not self.trace.exists():
            return []
        rows = [json.loads(line) for line in self.trace.read_text(encoding="utf-8").splitlines()]
        return [row["time"] for row in rows if row["rank"] == 0]


class Run:
    """A run directory, its command, and all of its sessions."""

    def __init__(self, experiment: Path, directory: Path) -> None:
        self.experiment, self.directory = experiment, directory
        self.checkpoints = directory / "checkpoints"
        self.sessions: list[Session] = []

    def start(self, temporary: Path | None = None) -> Session:
        """Start the command in its own process group; the command is always the same."""
        number = len(self.sessions)
        trace, errors = (
            self.directory.with_name(f"{self.directory.name}-{number}.{end}") for end in ("trace", "err")
        )
        variables = {**environment(), VARIABLE: str(trace), SLOW: str(SLOWLY)}
        if temporary is not None:
            variables["TMPDIR"] = str(temporary)
        leftovers = self.half_written()
        call = [sys.executable, str(HERE / "traced.py"), "fit", "--config", str(self.experiment)]
        with open(errors, "wb") as file:
            process = subprocess.Popen(
                [*call, "--run-directory", str(self.directory)],
                env=variables,
                stdout=subprocess.DEVNULL,
                stderr=file,
                start_new_session=True,
            )
        self.sessions.append(Session(process, trace, errors, leftovers))
        return self.sessions[-1]

    def wait(self, session: Session) -> Session:
        """Wait for a session to end with status 0.

        Raises:
            Failed: it ended with another status.
        """
        if status := session.process.wait():
            tail = session.errors.read_text(encoding="utf-8", errors="replace")[-4000:]
            raise Failed(f"{self.directory.name} ended with status {status}:\n{tail}")
        return session

    def forget(self) -> None:
        """Remove the directory and all traces, as if nothing had been started yet."""
        for session in self.sessions:
            session.trace.unlink(missing_ok=True)
        self.sessions.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    def files(self) -> list[str]:
        """Return the names in the folder of checkpoints."""
        try:
            return os.listdir(self.checkpoints)
        except FileNotFoundError:
            return []

    def half_written(self) -> set[str]:
        """Return the names of checkpoints that are being written, or that a kill left half-written."""
        return {name for name in self.files() if BEING_WRITTEN.match(name)}

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, newest first."""
        matches = [match for name in self.files() if (match := _STEP.match(name))]
        return sorted((int(match[1]) for match in matches), reverse=True)

    def newest(self) -> int:
        """Return the step of the newest checkpoint, or 0."""
        return next(iter(self.steps()), 0)

    def newest_first(self) -> list[Path]:
        """Return the paths of the checkpoints, newest first."""
        return [self.checkpoints / f"step-{step:09d}.ckpt" for step in self.steps()]

    def lineage(self, num_ranks: int) -> Steps:
        """Return the steps that its final weights descend from."""
        return descent([read_trace(session.trace, num_ranks) for session in self.sessions])


class Failed(Exception):
    """Failure of the run that is tested, such as a wrong exit status."""


def alive(session: Session) -> bool:
    """Return whether the first process of a session runs."""
    return session.process.poll() is None


def ranks_of(session: Session) -> dict[int, int]:
    """Return rank -> process id, read from the environment of the processes in the group."""
    ranks = {0: session.process.pid}
    for folder in Path("/proc").iterdir():
        try:
            if not folder.name.isdigit() or os.getpgid(int(folder.name)) != session.process.pid:
                continue
            variables = (folder / "environ").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        # Loader processes have their rank's variables too, but another parent.
        rank = next((int(each[11:]) for each in variables if each.startswith(b"LOCAL_RANK=")), 0)
        if rank and parent == session.process.pid:
            ranks[rank] = int(folder.name)
    return ranks


def group_lives(group: int) -> bool:
    """Return whether the group still has a process that is not a zombie."""
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and os.getpgid(int(folder.name)) == group:
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                if state not in "ZX":
                    return True
        except OSError:
            continue
    return False


def end_group(session: Session) -> None:
    """Kill all remaining processes of a session."""
    with suppress(ProcessLookupError):
        os.killpg(session.process.pid, signal.SIGKILL)
    session.process.wait()
    while group_lives(session.process.pid):
        time.sleep(0.01)
