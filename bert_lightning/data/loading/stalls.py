"""Says when training waits long for its data, which otherwise looks like any other standstill."""

import logging
import threading
import time

log = logging.getLogger(__name__)
# Reading and masking a batch takes milliseconds, filling a shuffled window of packed rows some seconds; a minute is a
# file system, a disk or a worker that hangs.
SECONDS = 60.0


class StallWatch:
    """Warns once for each item that takes longer than `SECONDS`.

    A thread of its own looks at four points of that time and costs nothing in between; it keeps no process alive.

    Args:
        what: what the items are, for the message: step or batch.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._awaited: tuple[int, float] | None = None
        self._stopped = threading.Event()
        threading.Thread(target=self._look, name="stall-watch", daemon=True).start()

    def begin(self, number: int) -> None:
        """Item `number`, from 0, is waited for from now."""
        self._awaited = (number, time.monotonic())

    def end(self) -> None:
        """It came."""
        self._awaited = None

    def stop(self) -> None:
        """Nothing is waited for any more."""
        self._stopped.set()

    def _look(self) -> None:
        told = None
        while not self._stopped.wait(SECONDS / 4):
            awaited = self._awaited
            if awaited is None or awaited is told:
                continue
            number, since = awaited
            if (waited := time.monotonic() - since) >= SECONDS:
                told = awaited
                log.warning(
                    "%s %d: its data is not there after %.0f seconds; still waiting", self.what, number + 1, waited
                )
