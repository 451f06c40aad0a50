"""A warning when training waits long for its data."""

import logging
import threading
import time

log = logging.getLogger(__name__)
# Reading and masking a batch takes milliseconds, and filling a pool of packed samples takes seconds. A minute means
# that a file system, a disk or a worker hangs.
SECONDS = 60.0


class StallWatch:
    """A thread that warns once for each item that takes longer than `SECONDS`.

    It checks four times in that time. A process can end without waiting for the thread.

    Args:
        what: the name of an item in the message: step or batch.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._awaited: tuple[int, float] | None = None
        self._stopped = threading.Event()
        threading.Thread(target=self._look, name="stall-watch", daemon=True).start()

    def begin(self, number: int) -> None:
        """Start waiting for item `number`, counted from 0."""
        self._awaited = (number, time.monotonic())

    def end(self) -> None:
        self._awaited = None

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def _look(self) -> None:
        reported = None
        while not self._stopped.wait(SECONDS / 4):
            awaited = self._awaited
            if awaited is None or awaited is reported:
                continue
            number, since = awaited
            if (waited := time.monotonic() - since) >= SECONDS:
                reported = awaited
                log.warning(
                    "%s %d: its data has not arrived after %.0f seconds; still waiting", self.what, number + 1, waited
                )
