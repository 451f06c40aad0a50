"""Supervision of the processes that train together.

If one of them dies, the others end soon too, and one of them reports why.
"""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from lightning import Trainer
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from bert_lightning.errors import WorkError
from bert_lightning.training.signals import EXIT_STATUS, signal_name

Result = TypeVar("Result")
# The variable with the id of the process that started this one. If that process dies before the first check, getppid
# already returns another id.
_PARENT = "BERT_LIGHTNING_PARENT"
_SECONDS_BETWEEN_LOOKS = 1.0
# Time for a process to notice by itself, from a broken connection, that another one is gone. Gloo notices at once.
# NCCL does not, so a process that uses it is ended after this time.
SECONDS_TO_NOTICE = 10.0
# Time for such a process to finish its records; W&B may take a minute.
_SECONDS_TO_END = 60.0
# Time between a broken connection and the system's report that the process at its other end has died.
_SECONDS_TO_LEARN_WHO = 3.0
# Time for the others to end by themselves after an error. If only the first process has the error, they do not end.
_SECONDS_FOR_THE_OTHERS = 5.0
_RESUME = "; the others cannot continue without it. The same command resumes from the last checkpoint"
_TIMED_OUT = re.compile(r"tim(ed|e) ?out", re.IGNORECASE)
# Words in the errors of gloo and NCCL; torch has an error class only for NCCL.
_CONNECTION_ERROR = re.compile(
    r"gloo|nccl|pair closure|connection (closed|reset|refused)|socket|TCPStore|broken pipe", re.IGNORECASE
)


class RankLost(WorkError):
    """The loss of another process of this training.

    Args:
        message: which one, and how it ended.
        status: its exit status. If a signal ended it, this process ends as if it had received the signal too. Any
            other status counts as a failure of work.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status if status in EXIT_STATUS.values() else 1


def own_processes(trainer: Trainer) -> None:
    """Take over from Lightning the handling of signals and of the other processes.

    Lightning's handler of SIGTERM waits for other processes inside a signal handler. Its observer kills the first
    process with SIGKILL when another one exits with a status other than 0, as all do after a signal.
    """
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        trainer.strategy._launcher = RankLauncher(
            launcher.cluster_environment, launcher.num_processes, launcher.num_nodes
        )


class RankLauncher(_SubprocessScriptLauncher):
    """A launcher that starts the other processes of this machine, unless torchrun or SLURM did, and watches them."""

    def launch(
        self, function: Callable[..., Result], *args: object, trainer: Trainer | None = None, **kwargs: object
    ) -> Result:
        """Call `function` in each process.

        Raises:
            RankLost: another process is gone, or did not answer in time.
        """
        self.others: list[subprocess.Popen[bytes]] = []

        def watched(*args: object, **kwargs: object) -> Result:
            watch = RankWatch(self.others)
            try:
                return function(*args, **kwargs)
            except RuntimeError as error:
                if isinstance(error, WorkError):
                    raise
                lost = watch.explain(error)
                if lost is None:
                    raise
                raise lost from None
            finally:
                watch.stop()

        try:
            result: Result = super().launch(watched, *args, trainer=trainer, **kwargs)
            return result
        except BaseException as error:
            self._end_others(at_once=not isinstance(error, Exception))
            raise

    def _call_children_scripts(self) -> None:
        os.environ[_PARENT] = str(os.getpid())
        try:
            super()._call_children_scripts()
        finally:
            # Lightning would watch the processes that stay in `procs`.
            self.others, self.procs = self.procs, []

    def _end_others(self, at_once: bool) -> None:
        if at_once:
            for process in self.others:
                process.terminate()
        deadline = time.monotonic() + _SECONDS_FOR_THE_OTHERS
        for process in self.others:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class RankWatch:
    """A thread that checks once a second whether the other processes of this machine are alive.

    A process can end without waiting for the thread.

    Args:
        others: the processes that this one started: local ranks 1, 2, ...
    """

    def __init__(self, others: list[subprocess.Popen[bytes]]) -> None:
        self.others = others
        parent = int(os.environ.get(_PARENT, 0))
        # The first process has the variable too, because it has set it for the others.
        self.parent = parent if parent != os.getpid() and os.environ.get("LOCAL_RANK", "0") != "0" else 0
        self._stopped = threading.Event()
        self._lost: RankLost | None = None
        self._raised = False
        threading.Thread(target=self._look, name="rank-watch", daemon=True).start()

    def stop(self) -> None:
        """End the thread, at the end of training in this process."""
        self._stopped.set()

    def explain(self, error: RuntimeError) -> RankLost | None:
        """Return `RankLost` if the end of another process caused an error; None if this process caused it itself.

        Raises:
            SystemExit: no dead process was found, and the first process, which started this one, will report.
        """
        text = str(error)
        if not _CONNECTION_ERROR.search(text) and not type(error).__name__.startswith("Dist"):
            return None
        deadline = time.monotonic() + _SECONDS_TO_LEARN_WHO
        while (self._lost is None) and time.monotonic() < deadline:
            self._lost = self._find()
            time.sleep(0.05)
        if self._lost is None and self.parent:
            sys.exit(1)
        self._raised = True
        if self._lost is None:
            what = "did not answer in time (trainer.timeout_seconds)" if _TIMED_OUT.search(text) else "is gone"
            rank = os.environ.get("RANK") or os.environ.get("LOCAL_RANK", "0")
            self._lost = RankLost(f"rank {rank}: another rank {what}{_RESUME}")
        return self._lost

    def _find(self) -> RankLost | None:
        if self.parent and os.getppid() != self.parent:
            return RankLost(f"rank 0 (process {self.parent}) is gone{_RESUME}")
        ended = [(other.poll(), rank, other.pid) for rank, other in enumerate(self.others, 1)]
        # A killed process comes first: the others may have ended because of it.
        for status, rank, pid in sorted((each for each in ended if each[0]), key=lambda each: each[0] or 0):
            assert status
            if status < 0:
                how, status = f"was killed by {signal_name(-status)}", _status_of(-status)
            else:
                how = f"ended with status {status}"
            return RankLost(f"rank {rank} (process {pid}) {how}{_RESUME}", status)
        return None

    def _look(self) -> None:
        while not self._stopped.wait(_SECONDS_BETWEEN_LOOKS) and self._lost is None:
            self._lost = self._find()
        if self._lost is None:
            return
        if not self._stopped.wait(SECONDS_TO_NOTICE):
            print(f"bert-lightning: {self._lost}", file=sys.stderr, flush=True)
        elif self._raised:
            time.sleep(_SECONDS_TO_END)
        else:
            # This process ended by itself, not because of the lost one.
            return
        for other in self.others:
            other.kill()
        os._exit(self._lost.status)


def _status_of(number: int) -> int:
    return next((status for each, status in EXIT_STATUS.items() if each == number), 1)
