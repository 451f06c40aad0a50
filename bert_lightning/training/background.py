"""A thread that does work during training, one task after the other."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """A thread that does tasks in order. A process that exits normally waits for it.

    If a task fails, all later ones are dropped, and `wait` raises the error.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint-writer")
        self._tasks: list[Future[None]] = []

    def do(self, work: Callable[[], object]) -> None:
        """Queue `work`. The thread does it after all earlier tasks, unless one of them fails."""
        before = self._tasks[-1] if self._tasks else None

        def task() -> None:
            if before is not None:
                before.result()
            work()

        self._tasks.append(self._executor.submit(task))

    def wait(self) -> None:
        """Wait until all tasks are done.

        Raises:
            Exception: the error of the first task that failed; it is raised once.
        """
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.result()
