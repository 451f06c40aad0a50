"""Work that a thread does behind the training, one piece after the other."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Does what it is given in order, in a thread; a process that ends by itself ends behind it.

    A piece that fails is the last one: what was given behind it is dropped, and `wait` raises its error.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint-writer")
        self._given: list[Future[None]] = []

    def do(self, work: Callable[[], object]) -> None:
        """Do `work` behind what was given before, unless that fails."""
        before = self._given[-1] if self._given else None

        def next_piece() -> None:
            if before is not None:
                before.result()
            work()

        self._given.append(self._executor.submit(next_piece))

    def wait(self) -> None:
        """Until all is done.

        Raises:
            Exception: what went wrong; once.
        """
        given, self._given = self._given, []
        for piece in given:
            piece.result()
