"""Cost of safety: the time to save a checkpoint, and the time from the start of `fit` to the first resumed step.

    python experiments/reliability/overhead.py [--sizes mini base] [--saves 5] [--resumes 3] [--json FILE]

The time of a save is the time that training waits: gather the state, write, flush to the disk, hash, rename, move
links. Its share assumes one checkpoint every five minutes. The resumed run is a tiny model late in a long training.
The time to the first step of the same training from its start is measured for comparison.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning import Trainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from generated import store
from measuring import spread, write_json
from sessions import Run
from traced import main as bert_lightning

SECONDS_BETWEEN = 300.0
BATCH_SIZE, LENGTH = 8, 128
# Two months of training at ten steps per second, resumed at nine tenths of it.
NUM_STEPS, POSITION = 50_000_000, 45_000_000


def write_experiment(folder: Path, name: str, size: str, steps: int, **checkpoint: int) -> Path:
    """Write a pre-training on generated text, without validation."""
    values = {
        "experiment": name,
        "task": "pretraining",
        "model": {"size": size},
        "data": {"train": str(folder / "store"), "max_seq_length": LENGTH, "batch_size": BATCH_SIZE},
        "trainer": {"max_steps": steps, "log_every_n_steps": 1, "accelerator": "cpu"},
        "checkpoint": checkpoint,
        "wandb": {"mode": "disabled"},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def save_seconds(folder: Path, size: str, num_saves: int) -> tuple[list[float], int]:
    """Train in this process with a checkpoint per step. Return the seconds of each save and the bytes of a file."""
    from bert_lightning.training.checkpointing import Checkpointing

    seconds: list[float] = []
    save = Checkpointing.save

    def timed(self: Checkpointing, trainer: Trainer) -> None:
        before, began = self.saved_step, time.perf_counter()
        save(self, trainer)
        # Nothing was written if the step had a checkpoint already.
        if self.saved_step != before:
            seconds.append(time.perf_counter() - began)

    Checkpointing.save = timed  # type: ignore[method-assign]
    run = folder / f"{size}-run"
    try:
        experiment = write_experiment(folder, size, size, num_saves + 1, every_n_steps=1)
        if status := bert_lightning(["fit", "--config", str(experiment), "--run-directory", str(run)]):
            sys.exit(f"overhead.py: fit ended with {status}")
        num_bytes = (run / "checkpoints/last.ckpt").stat().st_size
    finally:
        Checkpointing.save = save  # type: ignore[method-assign]
        shutil.rmtree(run, ignore_errors=True)
    # The first save also allocates memory.
    return seconds[1:], num_bytes


def move_to(checkpoint: Path, position: int) -> None:
    """Copy a checkpoint to another step, as if training had come so far."""
    import torch

    from bert_lightning.checkpoints.native import load_native, step_name
    from bert_lightning.training.checkpointing import VerifiedCheckpointIO

    def moved(value: object, old: int) -> object:
        if isinstance(value, dict):
            return {key: moved(each, old) for key, each in value.items()}
        if isinstance(value, list):
            return [moved(each, old) for each in value]
        is_count = isinstance(value, int) and not isinstance(value, bool) and value == old
        return position if is_count else value

    content = load_native(checkpoint)
    step = content["global_step"]
    for entry in ("loops", "lr_schedulers"):
        content[entry] = moved(content[entry], step)
    for state in content["optimizer_states"][0]["state"].values():
        state["step"] = torch.tensor(float(position))
    content["global_step"] = position
    VerifiedCheckpointIO().save_checkpoint(content, checkpoint.with_name(step_name(position)))


def resume_seconds(folder: Path, num_resumes: int) -> tuple[list[float], list[float]]:
    """Return the seconds from the start of `fit` to its first step: of new runs, and from a late checkpoint."""
    # No other counter in the checkpoint has this value.
    first = 7
    experiment = write_experiment(folder, "resume", "tiny", NUM_STEPS, every_n_steps=first, keep_last=2)
    fresh, resumed = [], []
    for number in range(num_resumes):
        run = Run(experiment, folder / f"resume-{number}")
        fresh.append(_until_first_step(run, first))
        checkpoint = run.checkpoints / f"step-{first:09d}.ckpt"
        move_to(checkpoint, POSITION)
        resumed.append(_until_first_step(run, 1))
        steps = [json.loads(line)["step"] for line in run.sessions[-1].trace.read_text().splitlines()]
        assert steps[0] == POSITION + 1, steps
    return fresh, resumed


def _until_first_step(run: Run, checkpoint_step: int) -> float:
    """Start the run, and kill it after its first step and a checkpoint. Return the seconds to the first step."""
    session = run.start()
    while not session.times() or run.newest() < checkpoint_step:
        if session.process.poll() is not None:
            sys.exit(f"overhead.py: fit ended: {session.errors.read_text()}")
        time.sleep(0.05)
    session.process.kill()
    session.process.wait()
    return session.times()[0] - session.began


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["mini", "base"])
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--resumes", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    content: dict[str, Any] = {"saves": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store(folder, num_documents=20)
        lines = []
        for size in options.sizes:
            seconds, num_bytes = save_seconds(folder, size, options.saves)
            figures = spread(seconds)
            share = figures["median"] / SECONDS_BETWEEN
            content["saves"][size] = {**figures, "bytes": num_bytes, "share": share}
            took = f"{figures['median']:8.2f} s ({figures['low']:.2f}-{figures['high']:.2f})"
            lines.append(
                f"{size:6}{num_bytes / 1e6:7.0f} MB {took} {share:8.2%} of training, one per {SECONDS_BETWEEN:.0f} s"
            )
        fresh, resumed = resume_seconds(folder, options.resumes)
        content["resume"] = {
            "position": POSITION,
            "steps": NUM_STEPS,
            "fresh": spread(fresh),
            "late": spread(resumed),
        }
    print("a checkpoint", *lines, sep="\n")
    print(f"to the first step of a new run: {statistics.median(fresh):.1f} s")
    print(
        f"to the first step after a resume: {statistics.median(resumed):.1f} s at step {POSITION:,} of {NUM_STEPS:,}"
    )
    write_json(options.json, content)


if __name__ == "__main__":
    main()
