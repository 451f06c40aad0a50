"""Does a run survive anything? Kills a training again and again, damages its checkpoints, and compares how it ends.

    python experiments/reliability/soak.py --minutes 1 --kills 3 --processes 1

A small pre-training on generated text is run once undisturbed. Then it is run again and killed with SIGKILL at random
moments: all of its processes, or one rank; at the start, in a step, or while a checkpoint is written. Some sessions
have TMPDIR on another file system, and some find the newest checkpoint with one bit flipped, cut off, or with 4 KiB
of zeros in it; of a folder of parts (`--sharded`) a part or the manifest is so, or gone, or that of another step. The
same command starts it again until it is finished.

The last line of the output is JSON: `kills` made, checkpoints `rejected` as damaged, samples `lost` and `repeated`
among those that the final weights descend from, and whether the final checkpoint (weights, optimiser, all but times)
is bitwise `equal` to the undisturbed one and the metrics are equal too. The exit status is 0 only if all is as it
should be: every kill made while it ran, as many rejected as were damaged, none lost, none repeated, equal.
"""

import argparse
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from comparison import comparable, differences
from faults import Faults
from lineage import drawn_twice, lost_and_repeated
from sessions import BEING_WRITTEN, Failed, Run, Session, alive, end_group, group_lives, ranks_of
from traced import main as bert_lightning

from bert_lightning.checkpoints.errors import CheckpointError

SAVED_EVERY = 5
KEPT = 3
# Seconds that the other ranks have to end by themselves when one was killed.
PATIENCE = 60.0
# Seconds after which a rank that waits for another one ends, so that a run that hangs is told.
TIMEOUT = 300
# How often a kill is tried that came too late.
ATTEMPTS = 5
MEASURED_STEPS = 40


def say(text: str) -> None:
    """What goes on, for whoever watches."""
    print(text, flush=True)


# -- the experiment ----------------------------------------------------------------------------------------------


def write_corpora(folder: Path, seed: int) -> None:
    """`train.txt` and `validation.txt`: sentences of few words, so that there is something to learn at once."""
    generator = random.Random(seed)
    words = [
        "".join(generator.choice("abdeghiklmnorstu") for _ in range(generator.randint(2, 6))) for _ in range(150)
    ]
    for name, num_documents in (("train", 60), ("validation", 8)):
        documents = [
            "\n".join(" ".join(generator.choices(words, k=generator.randint(4, 14))) + "." for _ in range(20))
            for _ in range(num_documents)
        ]
        (folder / f"{name}.txt").write_text("\n\n".join(documents) + "\n", encoding="utf-8")


def write_experiment(folder: Path, steps: int, options: argparse.Namespace) -> Path:
    """Dropout as published, two stages of sequence length, validation inside, a checkpoint every few steps."""
    values: dict[str, Any] = {
        "experiment": "soak",
        "task": "pretraining",
        "seed_everything": options.seed,
        "model": {"size": "tiny", "config": {"max_position_embeddings": 64}},
        "data": {
            "train": str(folder / "train"),
            "validation": str(folder / "validation"),
            "max_seq_length": 32,
            "batch_size": 4 * options.processes,
            "stages": [{"from_step": steps // 2, "max_seq_length": 64}],
            "num_workers": options.workers,
        },
        "trainer": {
            "max_steps": steps,
            "accelerator": "cpu",
            "devices": options.processes,
            "strategy": options.strategy,
            "timeout_seconds": TIMEOUT,
            "accumulate_grad_batches": 2 if options.processes == 1 else 1,
            # No multiple of the other: some checkpoints are written behind a validation, some are not.
            "val_check_interval": 4 * SAVED_EVERY - 3,
            "log_every_n_steps": 3,
        },
        "checkpoint": {
            "every_n_steps": SAVED_EVERY,
            "keep_last": KEPT,
            "sharded": options.sharded,
            "asynchronous": options.asynchronous,
        },
        "wandb": {"mode": "disabled"},
    }
    path = folder / "soak.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def command(*arguments: object) -> None:
    """Run one of our commands, in this process."""
    with redirect_stdout(io.StringIO()):
        status = bert_lightning([*map(str, arguments)])
    if status:
        sys.exit(f"soak.py: bert-lightning {arguments[0]} ended with {status}")


class Planning:
    """How many steps fill the time that there is.

    Attributes:
        to_start: seconds from the start of the command to its first step.
        a_step: seconds of a step, with its share of validations and checkpoints.
        to_write: seconds that a checkpoint is half-written.
    """

    def __init__(self, options: argparse.Namespace, began: float) -> None:
        self.options = options
        self.left = 60 * options.minutes - (time.time() - began)
        self.fewest = 15 * (options.kills + 1)
        # Of a machine of two cores; measured when it runs.
        self.to_start, self.a_step = 2.5 + 2.5 * options.processes, 0.03 * options.processes
        self.to_write = 0.006

    def guess(self) -> int:
        """The steps that fit."""
        # Every session starts; then the undisturbed run, the disturbed one, and what is done again there.
        seconds = self.left - (self.options.kills + 2) * (self.to_start + 1.5)
        return max(self.fewest, int(seconds / (2.8 * self.a_step)))

    def measure(self, run: Run, session: Session) -> None:
        """Wait for some steps of a session, and take the times of those."""
        seen: dict[str, list[float]] = {}
        looked = 0.0
        while alive(session):
            now = time.time()
            for name in run.half_written():
                seen.setdefault(name, []).append(now)
            if now > looked + 0.1:
                looked = now
                if len(session.times()) >= MEASURED_STEPS:
                    break
            time.sleep(0.001)
        times = session.times()
        if len(times) > MEASURED_STEPS // 2:
            self.to_start = times[0] - session.began
            self.a_step = (times[-1] - times[5]) / (len(times) - 6)
        if seen:
            self.to_write = max(self.to_write, min(each[-1] - each[0] for each in seen.values()))

    def better(self, steps: int) -> int:
        """The steps to take now that times are known: as they were, unless that was far off."""
        fitting = self.guess()
        return steps if 0.7 * steps <= fitting <= 1.5 * steps else fitting


# -- kills -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kill:
    """When, and whom.

    Attributes:
        moment: while it starts, anywhere in a step, or while a checkpoint is written.
        rank: the one to kill; None for all processes at once.
        share: of the steps (or the start-up) that this session may take, how many pass first.
        delay: share of a step, or of the time that a checkpoint takes, to wait then.
    """

    moment: Literal["start", "step", "writing"]
    rank: int | None
    share: float
    delay: float


def planned(number: int, num_processes: int, generator: random.Random) -> list[Kill]:
    """Half of them while a checkpoint is written; with several ranks a third of all hits one rank alone."""
    moments: list[Literal["start", "step", "writing"]] = ["writing"] * -(-number // 2)
    moments += ["start"] * (number // 6)
    moments += ["step"] * (number - len(moments))
    generator.shuffle(moments)
    alone = [n < number // 3 for n in range(number)] if num_processes > 1 else [False] * number
    generator.shuffle(alone)
    # While it starts there is no other rank yet.
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
    """Carries out kills, one a session.

    Attributes:
        while_writing: how many of them hit a checkpoint that was half-written.
    """

    def __init__(self, run: Run, num_steps: int, planning: Planning) -> None:
        self.run, self.num_steps, self.planning = run, num_steps, planning
        self.while_writing = 0

    def carry_out(self, kill: Kill, session: Session, num_left: int, hurry: bool) -> bool:
        """Wait for the moment and kill; False where the run ended before it."""
        # A share for each kill that is left; half more at most, and never what later ones need if they come late.
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
                self._wait(session, kill.delay * self.planning.a_step * SAVED_EVERY)
        return alive(session) and self._kill(kill, session)

    def _wait(self, session: Session, seconds: float, until_first_step: bool = False) -> None:
        until = time.time() + seconds
        while alive(session) and (left := until - time.time()) > 0:
            if until_first_step and session.trace.exists():
                return
            time.sleep(min(0.005, left))

    def _wait_for_step(self, session: Session, step: int) -> None:
        while alive(session):
            # One of this session, not one that a session before it left.
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
            # The other ranks must notice by themselves.
            until = time.time() + PATIENCE
            while group_lives(session.process.pid):
                session.process.poll()
                if time.time() > until:
                    end_group(session)
                    raise Failed(f"rank {kill.rank} was killed, and the others still ran {PATIENCE:.0f} s later")
                time.sleep(0.05)
        end_group(session)
        # The ranks that are left over remove what they cannot complete.
        begun = (begun | self.run.half_written()) - session.found
        caught = any(int(match[1]) not in self.run.steps() for name in begun if (match := BEING_WRITTEN.match(name)))
        self.while_writing += caught
        whom = "all processes" if victim is None else f"rank {kill.rank}"
        where = "while a checkpoint was written, " if caught else ""
        say(
            f"  killed {whom} after {time.time() - session.began:.1f} s, {where}newest checkpoint {self.run.newest()}"
        )
        return session.process.returncode != 0


# -- all of it ---------------------------------------------------------------------------------------------------


@contextmanager
def other_file_system() -> Iterator[Path | None]:
    """A folder for temporary files on another file system, where there is one."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="soak-", dir=memory, ignore_cleanup_errors=True) as name:
        yield Path(name)


def soak(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], bool]:
    """The figures, and whether all is as it should be."""
    began = time.time()
    generator = random.Random(options.seed)
    write_corpora(folder, options.seed)
    texts = {name: folder / f"{name}.txt" for name in ("train", "validation")}
    command("tokenizer", "--input", texts["train"], "--vocab-size", 300, "--output", folder / "tokenizer")
    for name, text in texts.items():
        command("prepare", "--input", text, "--tokenizer", folder / "tokenizer", "--output", folder / name)

    planning = Planning(options, began)
    num_steps = planning.guess()
    experiment = write_experiment(folder, num_steps, options)
    reference, run = Run(experiment, folder / "reference"), Run(experiment, folder / "run")
    session = reference.start()
    planning.measure(reference, session)
    if planning.better(num_steps) != num_steps:
        end_group(session)
        num_steps = planning.better(num_steps)
        reference.forget()
        write_experiment(folder, num_steps, options)
        session = reference.start()
    reference.wait(session)
    to_start, a_step, to_write = planning.to_start, 1000 * planning.a_step, 1000 * planning.to_write
    say(f"{to_start:.1f} s to start, {a_step:.0f} ms a step, {to_write:.0f} ms a checkpoint: {num_steps} steps")
    say(f"undisturbed run finished after {time.time() - began:.0f} s")

    killer = Killer(run, num_steps, planning)
    faults = Faults(generator)
    kills = 0
    failure: Failed | None = None
    with other_file_system() as elsewhere:

        def started() -> Session:
            return run.start(elsewhere if generator.random() < 0.5 else None)

        def found(session: Session) -> None:
            faults.found(session.rejected(), session.trace.exists())

        try:
            for number, kill in enumerate(planned(options.kills, options.processes, generator)):
                num_left = options.kills - number
                made = False
                for _ in range(ATTEMPTS):
                    session = started()
                    hurry = time.time() - began > 60 * options.minutes - num_left * to_start
                    made = killer.carry_out(kill, session, num_left, hurry)
                    if not made:
                        end_group(session)
                        if session.process.returncode:
                            tail = session.errors.read_text(encoding="utf-8", errors="replace")[-4000:]
                            raise Failed(f"a session ended by itself with {session.process.returncode}:\n{tail}")
                    found(session)
                    if made:
                        break
                    say("  a kill came too late: the run is finished, so the start of the same command is hit")
                    kill = replace(kill, moment="start", rank=None, share=kill.share / 2)
                kills += made
                # The last kills make up for what was left out.
                due = generator.random() < 0.5 or (num_left <= 2 and not faults.num_damaged)
                # A finished run looks at no checkpoint again.
                due = due and made and run.newest() < num_steps
                if due and (what := faults.damage(run.newest_first())):
                    say(f"  damaged {what}")
            session = started()
            run.wait(session)
            found(session)
        except Failed as error:
            failure = error
        finally:
            for session in run.sessions:
                if alive(session):
                    end_group(session)

    if failure is not None:
        say(str(failure))
    say(f"{killer.while_writing} of {kills} kills hit a half-written checkpoint")
    say(f"{faults.num_damaged} checkpoints damaged")
    whole = reference.lineage(options.processes)
    lost, repeated = lost_and_repeated(run.lineage(options.processes), whole)
    twice = drawn_twice(whole, [num_steps // 2])
    unequal = ["unfinished"]
    if failure is None:
        try:
            unequal = list(differences(comparable(reference.directory), comparable(run.directory)))
        except CheckpointError as error:
            unequal = [str(error)]
    if unequal:
        say(f"different: {', '.join(unequal[:20])}")
    if twice or sorted(whole) != list(range(1, num_steps + 1)):
        say(f"the undisturbed run took {len(whole)} of {num_steps} steps and drew {twice} samples twice in an epoch")
    figures = {
        "kills": kills,
        "rejected": faults.num_rejected,
        "lost": lost,
        "repeated": repeated,
        "equal": not unequal,
    }
    say(f"{time.time() - began:.0f} s in all")
    as_expected = {**figures, "twice": twice} == {
        "kills": options.kills,
        "rejected": faults.num_damaged,
        "lost": 0,
        "repeated": 0,
        "equal": True,
        "twice": 0,
    }
    return figures, as_expected


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5, help="about how long all of it takes (default: 5)")
    parser.add_argument("--kills", type=int, default=8, help="how often it is killed (default: 8)")
    parser.add_argument("--processes", type=int, default=1, help="ranks (default: 1)")
    parser.add_argument(
        "--strategy", choices=("auto", "ddp", "fsdp"), default="auto", help="trainer.strategy (default: auto)"
    )
    parser.add_argument("--sharded", action="store_true", help="checkpoint.sharded, with --strategy fsdp")
    parser.add_argument("--asynchronous", action="store_true", help="checkpoint.asynchronous")
    parser.add_argument("--workers", type=int, default=1, help="loader processes of each rank (default: 1)")
    parser.add_argument("--folder", type=Path, help="new or empty, and kept; else a temporary one")
    parser.add_argument("--seed", type=int, default=1, help="of the text, the training and the kills (default: 1)")
    options = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error(f"--minutes is {options.minutes:g}; it must be more than 0")
    for name, least in (("kills", 0), ("processes", 1), ("workers", 0), ("seed", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name)}; it must be at least {least}")
    if options.sharded and (options.strategy != "fsdp" or options.processes < 2):
        parser.error("--sharded goes with --strategy fsdp and --processes 2 or more")
    if options.sharded and options.asynchronous:
        parser.error("--sharded does not go with --asynchronous: each process writes its own part")
    folder = options.folder
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        parser.error(f"--folder {folder} is not an empty folder")
    return options


def main() -> int:
    """The exit status."""
    options = parse()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    figures, good = soak(options, folder.resolve())
    if options.folder is None and good:
        shutil.rmtree(folder)
    elif not good:
        say(f"all of it lies in {folder}")
    say(json.dumps(figures))
    return int(not good)


if __name__ == "__main__":
    raise SystemExit(main())
