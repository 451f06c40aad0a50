"""Kills of the soak: at which moments a run is killed, and the killing itself."""

import os
import random
import signal
import time
from dataclasses import dataclass
from typing import Literal

from sessions import BEING_WRITTEN, Failed, Run, Session, alive, end_group, group_lives, log, ranks_of
from soak_experiment import SAVED_EVERY
from soak_planning import Planning

# Seconds that the other ranks have to end by themselves after one was killed.
PATIENCE = 60.0


@dataclass(frozen=True)
class Kill:
    """Moment and victim of a kill.

    Attributes:
        moment: while the command starts, anywhere in a step, or while a checkpoint is written.
        rank: the rank to kill; None for all processes at once.
        share: share of this session's steps, or of its start-up, that pass before the kill.
        delay: share of a step, or of the time to write a checkpoint, to wait after that.
    """

    moment: Literal["start", "step", "writing"]
    rank: int | None
    share: float
    delay: float


def plan_kills(number: int, num_processes: int, generator: random.Random) -> list[Kill]:
    """Plan kills. Half of them come while a checkpoint is written. With several ranks, a third hit a single rank."""
    moments: list[Literal["start", "step", "writing"]] = ["writing"] * -(-number // 2)
    moments += ["start"] * (number // 6)
    moments += ["step"] * (number - len(moments))
    generator.shuffle(moments)
    alone = [n < number // 3 for n in range(number)] if num_processes > 1 else [False] * number
    generator.shuffle(alone)
    # During the start there is no other rank yet.
    return [
        Kill(
            moment,
            generator.randrange(num_processes) if one and moment != "start" else None,
            generator.random(),
            generator.random(),
        )
        for moment, one in zip(moments, alone, strict=True)
    ]


class Killer:
    """Killer of sessions, once per session.

    Attributes:
        while_writing: number of kills that hit a half-written checkpoint.
    """

    def __init__(self, run: Run, num_steps: int, planning: Planning) -> None:
        self.run, self.num_steps, self.planning = run, num_steps, planning
        self.while_writing = 0

    def carry_out(self, kill: Kill, session: Session, num_left: int, hurry: bool) -> bool:
        """Wait for the moment and kill. Return False if the run ended before it."""
        # Each remaining kill gets an equal share of the steps, or up to half more. The limit leaves enough steps for
        # the later kills.
        position = self.run.newest()
        limit = self.num_steps - 2 * SAVED_EVERY * num_left
        share = (limit - position) / num_left * (0.1 if hurry else 1.5)
        target = min(position + max(1, int(kill.share * share)), limit)
        if kill.moment == "start":
            self._wait(session, kill.share * self.planning.to_start, until_first_step=True)
        else:
            self._wait_for_step(session, target)
            if kill.moment == "writing":
                self._wait_for_writing(session, kill.delay)
            else:
                self._wait(session, kill.delay * self.planning.per_step * SAVED_EVERY)
        return alive(session) and self._kill(kill, session)

    def _wait(self, session: Session, seconds: float, until_first_step: bool = False) -> None:
        until = time.time() + seconds
        while alive(session) and (left := until - time.time()) > 0:
            if until_first_step and session.trace.exists():
                return
            time.sleep(min(0.005, left))

    def _wait_for_step(self, session: Session, step: int) -> None:
        while alive(session):
            # The trace shows that this session has begun, so the checkpoint is not only an earlier one.
            if session.trace.exists() and self.run.newest() >= step:
                return
            time.sleep(0.005)

    def _wait_for_writing(self, session: Session, delay: float) -> None:
        last = self.num_steps - SAVED_EVERY
        while alive(session) and self.run.newest() < last:
            if self.run.half_written():
                time.sleep(delay * self.planning.to_write)
                return
            time.sleep(0.0003)

    def _kill(self, kill: Kill, session: Session) -> bool:
        victim = None if kill.rank is None else ranks_of(session).get(kill.rank)
        try:
            if victim is None:
                os.killpg(session.process.pid, signal.SIGKILL)
            else:
                os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            return False
        begun = self.run.half_written()
        if victim is not None:
            self._wait_for_others(kill, session)
        end_group(session)
        # The remaining ranks remove checkpoints that they cannot complete.
        begun = (begun | self.run.half_written()) - session.leftovers
        caught = any(int(match[1]) not in self.run.steps() for name in begun if (match := BEING_WRITTEN.match(name)))
        self.while_writing += caught
        whom = "all processes" if victim is None else f"rank {kill.rank}"
        where = "while a checkpoint was written, " if caught else ""
        log(
            f"  killed {whom} after {time.time() - session.began:.1f} s, {where}newest checkpoint {self.run.newest()}"
        )
        return session.process.returncode != 0

    def _wait_for_others(self, kill: Kill, session: Session) -> None:
        # The other ranks must notice the kill by themselves.
        until = time.time() + PATIENCE
        while group_lives(session.process.pid):
            session.process.poll()
            if time.time() > until:
                end_group(session)
                raise Failed(f"rank {kill.rank} was killed, and the others were still running {PATIENCE:.0f} s later")
            time.sleep(0.05)
