"""Executors for a preparation: this process, local worker processes, or a Dask cluster.

Each is a `concurrent.futures.Executor`.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from bert_lightning.errors import InputError, WorkError

if TYPE_CHECKING:
    import distributed

# If a worker of a cluster dies, its task is tried again this often on another one.
NUM_RETRIES = 3
_P = ParamSpec("_P")
_Result = TypeVar("_Result")


class InlineExecutor(Executor):
    """An executor that does the work at once, in this process."""

    def submit(self, function: Callable[_P, _Result], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_Result]:
        """Run `function` and return a future that holds its result."""
        future: Future[_Result] = Future()
        future.set_result(function(*args, **kwargs))
        return future


@contextmanager
def local_executor(num_workers: int) -> Iterator[Executor]:
    """Yield an executor with processes of this machine; a single worker is this process itself.

    Raises:
        WorkError: a worker process was killed.
    """
    if num_workers == 1:
        yield InlineExecutor()
        return
    pool = ProcessPoolExecutor(
        num_workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),)
    )
    try:
        yield pool
    except BrokenProcessPool:
        raise WorkError(
            "a worker process was killed, perhaps because memory ran out. Finished sections are kept, and the same "
            "command continues from them; fewer --workers need less memory"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


class DaskExecutor(Executor):
    """An executor that gives the work to the workers of a Dask client.

    `submit` returns the futures of the client. Dask's own executor would convert them, and would lose a result if
    the worker that holds it dies during the transfer and the task runs again.
    """

    def __init__(self, client: "distributed.Client") -> None:
        self.client = client

    def submit(self, function: Callable[_P, _Result], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_Result]:
        """Send `function` to a worker."""
        future: Future[_Result] = self.client.submit(function, *args, retries=NUM_RETRIES, pure=False, **kwargs)
        return future


@contextmanager
def dask_executor(address: str) -> Iterator[tuple[Executor, int]]:
    """Yield an executor for the workers of a Dask scheduler, and the number of their threads.

    Raises:
        InputError: the extra `dask` is not installed, or no scheduler with workers answers at the address.
        WorkError: the cluster gave up.
    """
    try:
        import distributed
        from distributed.comm import CommClosedError
    except ImportError:
        raise InputError("--scheduler needs an extra package: pip install 'bert_lightning[dask]'") from None
    try:
        client = distributed.Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"--scheduler {address}: no Dask scheduler answers there: {error}") from None
    try:
        num_threads = sum(client.nthreads().values())
        if not num_threads:
            raise InputError(
                f"--scheduler {address}: the scheduler has no workers: start some with `dask worker {address}`"
            )
        yield DaskExecutor(client), num_threads
    except (distributed.KilledWorker, distributed.CancelledError, CommClosedError) as error:
        raise WorkError(f"--scheduler {address}: the cluster gave up: {error}") from None
    finally:
        client.close()


def _start_worker(parent: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: int) -> None:
    """Exit when the process that started this worker is gone. If that was killed, nothing else ends the worker."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
