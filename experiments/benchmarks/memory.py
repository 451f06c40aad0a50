"""Benchmark of memory: what `fit` holds after 50 steps and after many, which must be about the same.

Each training is `fit` in a process of its own, on the model of the demo and on mini. `resident` is the memory that
the process has at a step, and `peak` the most that it had until then. Growth is the share by which they are larger at
the last step. `guard.py` fails if a peak grows by more than 10 %.

    python experiments/benchmarks/memory.py [--steps 5000] [--json FILE]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from generated import store_of_corpus
from lightning import Callback, LightningModule, Trainer
from measuring import write_json

from bert_lightning.runs import fit
from bert_lightning.runs.directory import RunDirectory

ROOT = Path(__file__).resolve().parents[2]
FIRST, LIMIT = 50, 0.10
MEGABYTES = 2.0
# Model -> the sections of its experiment that differ from the defaults.
MODELS: dict[str, dict[str, Any]] = {
    "demo": {
        name: section
        for name, section in yaml.safe_load((ROOT / "experiments/demo/pretraining.yaml").read_text()).items()
        if name in ("model", "data", "optimizer", "schedule")
    },
    "mini": {"model": {"size": "mini"}, "data": {"max_seq_length": 128, "batch_size": 4}},
}


def gigabytes() -> dict[str, float]:
    """Return the resident memory of this process and its peak, in GB."""
    # Not `ru_maxrss`, which a process inherits from its parent.
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return {"resident": int(fields["VmRSS"].split()[0]) / 2**20, "peak": int(fields["VmHWM"].split()[0]) / 2**20}


class MemoryAtSteps(Callback):
    """Callback that notes the memory after some steps.

    Args:
        steps: the steps.
    """

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps
        self.noted: dict[int, dict[str, float]] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step in self.steps:
            self.noted[trainer.global_step] = gigabytes()


def train(model: str, store: Path, first: int, last: int) -> None:
    """Train in this process, and print the memory after the two steps as JSON."""
    from bert_lightning.config.experiment import load_experiment

    sections = MODELS[model]
    data = {**sections["data"], "train": str(store), "validation": None}
    trainer = {"max_steps": last, "accelerator": "cpu", "precision": "auto"}
    values = {"experiment": "memory", "task": "pretraining", **sections, "data": data, "trainer": trainer}
    memory = MemoryAtSteps([first, last])
    with tempfile.TemporaryDirectory() as folder:
        experiment = load_experiment([], below=values)
        fit.train(experiment, RunDirectory(Path(folder) / "run"), "never", callbacks=[memory])
    print(json.dumps(memory.noted))


def measured(model: str, store: Path, first: int, last: int) -> dict[str, dict[str, float]]:
    """Train in a process of its own, and return step -> memory."""
    command = [sys.executable, __file__, "--child", model, "--store", str(store), "--steps", str(last)]
    ended = subprocess.run([*command, "--first", str(first)], check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, dict[str, float]] = json.loads(ended.stdout.splitlines()[-1])
    return result


def growth(noted: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the share by which resident memory and its peak are larger at the last step than at the first.

    >>> growth({"50": {"resident": 1.0, "peak": 2.0}, "400": {"resident": 1.5, "peak": 2.0}})
    {'resident': 0.5, 'peak': 0.0}
    """
    before, after = noted.values()
    return {name: after[name] / before[name] - 1 for name in before}


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--first", type=int, default=FIRST, help=f"step of the first figure (default: {FIRST})")
    parser.add_argument("--steps", type=int, default=400, help="step of the last figure (default: 400)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--child", choices=MODELS, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not 0 < options.first < options.steps:
        parser.error(f"--first is {options.first}; it must be 1 to {options.steps - 1}, less than --steps")
    if options.child:
        train(options.child, options.store, options.first, options.steps)
        return
    figures: dict[str, Any] = {}
    print(f"{'':6}{'step':>8}{'resident, GB':>14}{'peak, GB':>10}")
    with tempfile.TemporaryDirectory() as folder:
        store = store_of_corpus(Path(folder), MEGABYTES)
        for model in options.models:
            noted = measured(model, store, options.first, options.steps)
            figures[model] = {"gigabytes": noted, "growth": growth(noted)}
            for step, each in noted.items():
                print(f"{model:6}{step:>8}{each['resident']:14.2f}{each['peak']:10.2f}")
            print(f"{model:6}{'growth':>8}" + "".join(f"{value:13.0%} " for value in growth(noted).values()))
    limits = {f"{model}, peak": {"value": each["growth"]["peak"], "limit": LIMIT} for model, each in figures.items()}
    settings = {"first": options.first, "steps": options.steps}
    write_json(options.json, {"models": figures, "limits": limits, "settings": settings})


if __name__ == "__main__":
    main()
