"""Planning of the soak: how many steps fill the given minutes, by the measured speed of this machine."""

import argparse
import time

from sessions import Run, Session, alive

MEASURED_STEPS = 40


class Planning:
    """Number of steps that fill the available time.

    Attributes:
        to_start: seconds from the start of the command to its first step.
        per_step: seconds per step, with its share of validations and checkpoints.
        to_write: seconds during which a checkpoint is half-written.
    """

    def __init__(self, options: argparse.Namespace, began: float) -> None:
        self.options = options
        self.left = 60 * options.minutes - (time.time() - began)
        self.fewest = 15 * (options.kills + 1)
        # First guesses for a machine with two cores; `measure` replaces them.
        self.to_start, self.per_step = 2.5 + 2.5 * options.processes, 0.03 * options.processes
        self.to_write = 0.006

    def guess(self) -> int:
        """Return the number of steps that fit."""
        # Each session has to start. The undisturbed and the disturbed run take all steps, the latter some twice.
        seconds = self.left - (self.options.kills + 2) * (self.to_start + 1.5)
        return max(self.fewest, int(seconds / (2.8 * self.per_step)))

    def measure(self, run: Run, session: Session) -> None:
        """Wait for some steps of a session, and measure their times."""
        seen: dict[str, list[float]] = {}
        last_look = 0.0
        while alive(session):
            now = time.time()
            for name in run.half_written():
                seen.setdefault(name, []).append(now)
            if now > last_look + 0.1:
                last_look = now
                if len(session.times()) >= MEASURED_STEPS:
                    break
            time.sleep(0.001)
        times = session.times()
        if len(times) > MEASURED_STEPS // 2:
            self.to_start = times[0] - session.began
            self.per_step = (times[-1] - times[5]) / (len(times) - 6)
        if seen:
            self.to_write = max(self.to_write, min(each[-1] - each[0] for each in seen.values()))

    def better(self, steps: int) -> int:
        """Return the number of steps by the measured times, or `steps` if that was close enough."""
        fitting = self.guess()
        return steps if 0.7 * steps <= fitting <= 1.5 * steps else fitting
