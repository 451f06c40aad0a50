"""Soak test: kill a training repeatedly, damage its checkpoints, and check that it ends as if undisturbed.

    python experiments/reliability/soak.py --minutes 1 --kills 3 --processes 1

A small pre-training on generated text runs once undisturbed. Then it runs again and is killed with SIGKILL at random
moments: all of its processes or one rank, at the start, in a step, or while a checkpoint is written. Some sessions
have TMPDIR on another file system. Some find the newest checkpoint with one flipped bit, cut off, or with 4 KiB of
zeros in it. In a sharded checkpoint (`--sharded`) one shard or the manifest is damaged in this way, or is missing, or
is that of another step. The same command starts the run again until it is finished.

The last line of the output is JSON. `kills` is the number of kills, `rejected` the number of checkpoints refused as
damaged. `lost` and `repeated` count samples among those that the final weights descend from. `equal` says whether the
final checkpoint (weights, optimiser, everything except times) is bitwise equal to the undisturbed one and the metrics
are equal too. The exit status is 0 only if every kill hit the running training, as many checkpoints were rejected as
were damaged, no sample was lost or repeated, all is equal, and the undisturbed run drew no sample twice in an epoch.
"""

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from comparison import comparable, differences
from faults import Faults
from kills import Kill, Killer, plan_kills
from lineage import drawn_twice, lost_and_repeated
from sessions import Failed, Run, Session, alive, end_group, log
from soak_experiment import write_experiment, write_stores
from soak_planning import Planning

from bert_lightning.checkpoints.errors import CheckpointError

# How often a kill that came too late is tried again.
ATTEMPTS = 5


@contextmanager
def other_file_system() -> Iterator[Path | None]:
    """Yield a folder for temporary files on another file system, or None if there is none."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="soak-", dir=memory, ignore_cleanup_errors=True) as name:
        yield Path(name)


def run_undisturbed(options: argparse.Namespace, folder: Path, planning: Planning) -> tuple[Run, int]:
    """Train once without kills. Return the run and its number of steps."""
    num_steps = planning.guess()
    experiment = write_experiment(folder, num_steps, options)
    reference = Run(experiment, folder / "reference")
    session = reference.start()
    planning.measure(reference, session)
    if planning.better(num_steps) != num_steps:
        end_group(session)
        num_steps = planning.better(num_steps)
        reference.forget()
        write_experiment(folder, num_steps, options)
        session = reference.start()
    reference.wait(session)
    to_start, per_step, to_write = planning.to_start, 1000 * planning.per_step, 1000 * planning.to_write
    log(f"{to_start:.1f} s to start, {per_step:.0f} ms per step, {to_write:.0f} ms per checkpoint: {num_steps} steps")
    return reference, num_steps


class Disturbance:
    """Training that is killed and damaged again and again until it is finished.

    Attributes:
        killer: counts the kills that hit a half-written checkpoint.
        faults: counts damaged and rejected checkpoints.
        num_kills: number of kills that hit the running training.
    """

    def __init__(self, options: argparse.Namespace, run: Run, num_steps: int, planning: Planning) -> None:
        self.options, self.run, self.num_steps = options, run, num_steps
        self.generator = random.Random(options.seed)
        self.killer = Killer(run, num_steps, planning)
        self.faults = Faults(self.generator)
        self.num_kills = 0
        self._to_start = planning.to_start

    def carry_out(self, until: float) -> Failed | None:
        """Kill, damage and restart the training until it is finished.

        Args:
            until: the time after which kills come as early as possible.

        Returns:
            The failure that ended the training, or None if it finished.
        """
        with other_file_system() as elsewhere:
            try:
                for number, kill in enumerate(plan_kills(self.options.kills, self.options.processes, self.generator)):
                    num_left = self.options.kills - number
                    is_made = self._kill(kill, elsewhere, num_left, until)
                    self.num_kills += is_made
                    # If nothing was damaged so far, the last two kills make up for it.
                    is_due = self.generator.random() < 0.5 or (num_left <= 2 and not self.faults.num_damaged)
                    # A finished run reads no checkpoint again.
                    if is_made and is_due and self.run.newest() < self.num_steps:
                        self._damage()
                session = self._start(elsewhere)
                self.run.wait(session)
                self._count_rejected(session)
            except Failed as error:
                return error
            finally:
                for session in self.run.sessions:
                    if alive(session):
                        end_group(session)
        return None

    def _kill(self, kill: Kill, elsewhere: Path | None, num_left: int, until: float) -> bool:
        for _ in range(ATTEMPTS):
            session = self._start(elsewhere)
            hurry = time.time() > until - num_left * self._to_start
            is_made = self.killer.carry_out(kill, session, num_left, hurry)
            if not is_made:
                end_group(session)
                if session.process.returncode:
                    tail = session.errors.read_text(encoding="utf-8", errors="replace")[-4000:]
                    raise Failed(f"a session ended by itself with status {session.process.returncode}:\n{tail}")
            self._count_rejected(session)
            if is_made:
                return True
            log("  a kill came too late, because the run had finished: the next start is killed instead")
            kill = replace(kill, moment="start", rank=None, share=kill.share / 2)
        return False

    def _damage(self) -> None:
        damage = self.faults.damage(self.run.newest_first())
        if damage:
            log(f"  damaged {damage}")

    def _start(self, elsewhere: Path | None) -> Session:
        return self.run.start(elsewhere if self.generator.random() < 0.5 else None)

    def _count_rejected(self, session: Session) -> None:
        self.faults.count_rejected(session.rejected(), session.trace.exists())


def unequal_values(reference: Run, run: Run) -> list[str]:
    """Return the paths of all values in which two finished runs differ."""
    try:
        return list(differences(comparable(reference.directory), comparable(run.directory)))
    except CheckpointError as error:
        return [str(error)]


def soak(options: argparse.Namespace, folder: Path) -> tuple[dict[str, int | bool], bool]:
    """Run the soak. Return its figures, and whether they are as they should be."""
    began = time.time()
    write_stores(folder, options.seed)
    planning = Planning(options, began)
    reference, num_steps = run_undisturbed(options, folder, planning)
    log(f"undisturbed run finished after {time.time() - began:.0f} s")

    run = Run(reference.experiment, folder / "run")
    disturbance = Disturbance(options, run, num_steps, planning)
    faults = disturbance.faults
    failure = disturbance.carry_out(began + 60 * options.minutes)
    if failure is not None:
        log(str(failure))
    log(f"{disturbance.killer.while_writing} of {disturbance.num_kills} kills hit a half-written checkpoint")
    log(f"{faults.num_damaged} checkpoints damaged")

    steps = reference.lineage(options.processes)
    lost, repeated = lost_and_repeated(run.lineage(options.processes), steps)
    twice = drawn_twice(steps, [num_steps // 2])
    unequal = unequal_values(reference, run) if failure is None else ["unfinished"]
    if unequal:
        log(f"different: {', '.join(unequal[:20])}")
    if twice or sorted(steps) != list(range(1, num_steps + 1)):
        log(f"the undisturbed run took {len(steps)} of {num_steps} steps and drew {twice} samples twice in an epoch")
    log(f"{time.time() - began:.0f} s in all")
    figures: dict[str, int | bool] = {
        "kills": disturbance.num_kills,
        "rejected": faults.num_rejected,
        "lost": lost,
        "repeated": repeated,
        "equal": not unequal,
    }
    expected = {"kills": options.kills, "rejected": faults.num_damaged, "lost": 0, "repeated": 0, "equal": True}
    return figures, figures == expected and not twice


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5, help="about how long the whole soak takes (default: 5)")
    parser.add_argument("--kills", type=int, default=8, help="number of kills (default: 8)")
    parser.add_argument("--processes", type=int, default=1, help="number of ranks (default: 1)")
    parser.add_argument(
        "--strategy", choices=("auto", "ddp", "fsdp"), default="auto", help="trainer.strategy (default: auto)"
    )
    parser.add_argument("--sharded", action="store_true", help="checkpoint.sharded, with --strategy fsdp")
    parser.add_argument("--asynchronous", action="store_true", help="checkpoint.asynchronous")
    parser.add_argument("--workers", type=int, default=1, help="loader processes per rank (default: 1)")
    parser.add_argument(
        "--folder", type=Path, help="new or empty folder for all files, which is kept (default: a temporary folder)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the text, the training and the kills (default: 1)"
    )
    options = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error(f"--minutes is {options.minutes:g}; it must be more than 0")
    for name, least in (("kills", 0), ("processes", 1), ("workers", 0), ("seed", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name)}; it must be at least {least}")
    if options.sharded and (options.strategy != "fsdp" or options.processes < 2):
        parser.error("--sharded needs --strategy fsdp and --processes 2 or more")
    if options.sharded and options.asynchronous:
        parser.error("--sharded and --asynchronous contradict each other: each process writes its own shard")
    folder = options.folder
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        parser.error(f"--folder {folder} is not an empty folder")
    return options


def main() -> int:
    """Run the command line and return the exit status."""
    options = parse()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    figures, is_good = soak(options, folder.resolve())
    if options.folder is None and is_good:
        shutil.rmtree(folder)
    elif not is_good:
        log(f"all files are kept in {folder}")
    log(json.dumps(figures))
    return int(not is_good)


if __name__ == "__main__":
    raise SystemExit(main())
