"""Where the work of a preparation is done: here, in local processes, or on a Dask cluster.

All three are `concurrent.futures.Executor`s.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from bert_lightning.errors import InputError, WorkError

# So often a task is tried again on another worker of a cluster when its own dies.
NUM_RETRIES = 3


class InlineExecutor(Executor):
    """Does the work at once, in this process."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Run `function`; the future is done."""
        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future


@contextmanager
def local_executor(num_workers: int) -> Iterator[Executor]:
    """Processes of this machine; one worker is this process."""
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
            "a worker process was killed, perhaps because memory ran out. Finished shards are kept: the same command "
            "goes on from them; fewer --workers need less memory"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


class DaskExecutor(Executor):
    """Gives the work to the workers of a Dask client.

    Its futures are the client's own: Dask's own executor translates them, and loses the result of a task that is done
    again, while it is fetched, because the worker that held it died.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Send `function` to a worker."""
        future: Future[Any] = self.client.submit(function, *args, retries=NUM_RETRIES, pure=False, **kwargs)
        return future


@contextmanager
def dask_executor(address: str) -> Iterator[tuple[Executor, int]]:
    """The workers of a Dask scheduler, and their number.

    Raises:
        InputError: the extra `dask` is not installed, or no scheduler with workers answers there.
        WorkError: the cluster gave the work up.
    """
    try:
        import distributed
        from distributed.comm import CommClosedError
    except ImportError:
        raise InputError("--scheduler needs the extra: pip install 'bert_lightning[dask]'") from None
    try:
        client = distributed.Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"--scheduler {address}: no Dask scheduler answers there: {error}") from None
    try:
        num_threads = sum(client.nthreads().values())
        if not num_threads:
            raise InputError(f"--scheduler {address}: it has no workers: start them with `dask worker {address}`")
        yield DaskExecutor(client), num_threads
    except (distributed.KilledWorker, distributed.CancelledError, CommClosedError) as error:
        raise WorkError(f"--scheduler {address}: the cluster gave up: {error}") from None
    finally:
        client.close()


def _start_worker(parent: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this worker when the process that started it was killed, which nobody else would tell it."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
