"""The processes that train together: when one of them dies the others end too, soon, and one of them says why."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from lightning import Trainer
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from bert_lightning.errors import WorkError
from bert_lightning.training.signals import EXIT_STATUS

# The process that started this one, so that it can be missed; getppid alone may be too late to know it.
_PARENT = "BERT_LIGHTNING_PARENT"
_SECONDS_BETWEEN_LOOKS = 1.0
# What a process has to notice by itself, at a broken connection, that another one is gone. Gloo notices at once; NCCL
# does not, and its process is ended when the time is over.
SECONDS_TO_NOTICE = 10.0
# What it has then for its records: W&B is given a minute to finish.
_SECONDS_TO_END = 60.0
# Between a broken connection and the death of the process behind it that the system reports.
_SECONDS_TO_LEARN_WHO = 3.0
# Behind an error that all ranks meet, they end by themselves; where the first alone met it, they wait for it.
_SECONDS_FOR_THE_OTHERS = 5.0
_TIMED_OUT = re.compile(r"tim(ed|e) ?out", re.IGNORECASE)
# As gloo and NCCL begin: torch has a class for the second only.
_OF_RANKS = re.compile(
    r"gloo|nccl|pair closure|connection (closed|reset|refused)|socket|TCPStore|broken pipe", re.IGNORECASE
)


class RankLost(WorkError):
    """Another process of this training is gone.

    Args:
        message: which one, and how it ended.
        status: what it exited with. Where a signal asked it to end, this one ends as if it had been asked, too;
            anything else is a failure at work.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status if status in EXIT_STATUS.values() else 1


def own_processes(trainer: Trainer) -> None:
    """Take signals and the processes of the other ranks over from Lightning.

    Its handler of SIGTERM waits for other ranks inside a signal handler. Its observer of the other processes ends the
    first with SIGKILL when another one exits with a status, as all do behind a signal.
    """
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        trainer.strategy._launcher = RankLauncher(
            launcher.cluster_environment, launcher.num_processes, launcher.num_nodes
        )


class RankLauncher(_SubprocessScriptLauncher):
    """Starts the other processes of this machine, unless torchrun or SLURM did, and watches over them."""

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        """Call `function` in each process.

        Raises:
            RankLost: another process is gone, or did not answer in time.
        """
        self.others: list[subprocess.Popen[bytes]] = []

        def watched(*args: Any, **kwargs: Any) -> Any:
            watch = RankWatch(self.others)
            try:
                return function(*args, **kwargs)
            except RuntimeError as error:
                if isinstance(error, WorkError):
                    raise
                lost = watch.behind(error)
                if lost is None:
                    raise
                raise lost from None
            finally:
                watch.left()

        try:
            return super().launch(watched, *args, trainer=trainer, **kwargs)
        except BaseException as error:
            self._end_others(at_once=not isinstance(error, Exception))
            raise

    def _call_children_scripts(self) -> None:
        os.environ[_PARENT] = str(os.getpid())
        try:
            super()._call_children_scripts()
        finally:
            # What stays in `procs` is watched by Lightning, too.
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
    """Looks once a second, in a thread that keeps no process alive, whether the others on this machine are there.

    Args:
        others: the processes that this one started: local ranks 1, 2, ...
    """

    def __init__(self, others: list[subprocess.Popen[bytes]]) -> None:
        self.others = others
        parent = int(os.environ.get(_PARENT, 0))
        # The first process has the variable, too, once it has set it for the others.
        self.parent = parent if parent != os.getpid() and os.environ.get("LOCAL_RANK", "0") != "0" else 0
        self._left = threading.Event()
        self._lost: RankLost | None = None
        self._raised = False
        threading.Thread(target=self._look, name="rank-watch", daemon=True).start()

    def left(self) -> None:
        """The training has come to an end in this process."""
        self._left.set()

    def behind(self, error: RuntimeError) -> RankLost | None:
        """The dead process, or the silent one, that an error comes from; None if it is one of its own.

        A process that the first one started, and that the first one outlives, leaves the message to it.

        Raises:
            SystemExit: it does.
        """
        text = str(error)
        if not _OF_RANKS.search(text) and not type(error).__name__.startswith("Dist"):
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
            own = os.environ.get("RANK") or os.environ.get("LOCAL_RANK", "0")
            self._lost = RankLost(f"rank {own}: another rank {what}{_GO_ON}")
        return self._lost

    def _find(self) -> RankLost | None:
        if self.parent and os.getppid() != self.parent:
            return RankLost(f"rank 0 (process {self.parent}) is gone{_GO_ON}")
        ended = [(other.poll(), rank, other.pid) for rank, other in enumerate(self.others, 1)]
        # One that was killed first: the others may have ended because of it.
        for status, rank, pid in sorted((each for each in ended if each[0]), key=lambda each: each[0] or 0):
            assert status
            if status < 0:
                how, status = f"was killed by {signal.Signals(-status).name}", _status_of(-status)
            else:
                how = f"ended with status {status}"
            return RankLost(f"rank {rank} (process {pid}) {how}{_GO_ON}", status)
        return None

    def _look(self) -> None:
        while not self._left.wait(_SECONDS_BETWEEN_LOOKS) and self._lost is None:
            self._lost = self._find()
        if self._lost is None:
            return
        if not self._left.wait(SECONDS_TO_NOTICE):
            print(f"bert-lightning: {self._lost}", file=sys.stderr, flush=True)
        elif self._raised:
            time.sleep(_SECONDS_TO_END)
        else:
            # It has ended for a reason of its own, as the other one has.
            return
        for other in self.others:
            other.kill()
        os._exit(self._lost.status)


_GO_ON = "; the others cannot go on without it. The same command goes on from the last checkpoint"


def _status_of(number: int) -> int:
    return next((status for known, status in EXIT_STATUS.items() if known == number), 1)
