"""Benchmark of scaling: pre-train with the same batch size in one process and in several (DDP).

It measures real tokens per second and the efficiency. On a processor all processes share the threads of the single
one (OMP_NUM_THREADS, or one per core), so an efficiency of 1 means that several processes cost nothing. On CUDA each
process has its own device, and the efficiency is the ratio divided by the number of devices. Each figure is the
median over the steps of `fit` runs except the first few. The runs take turns.

    python experiments/benchmarks/scaling.py --processes 1 2 [--device cpu] [--json FILE]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import yaml
from generated import store
from measuring import in_turn, spread, write_json

from bert_lightning.runs.auto_settings import has_fast_bfloat16
from bert_lightning.runs.directory import RunDirectory

# The first steps allocate memory and fill caches, so they are not counted.
NUM_FIRST = 4


def write_experiment(folder: Path, data: Path, num_processes: int, options: argparse.Namespace) -> Path:
    """Write the pre-training, in which only the number of processes differs."""
    values = {
        "experiment": f"processes-{num_processes}",
        "task": "pretraining",
        "model": {"size": options.size},
        "data": {
            "train": str(data),
            "max_seq_length": options.sequence_length,
            "batch_size": options.batch_size,
            "num_workers": 0 if options.device == "cpu" else 2,
        },
        "trainer": {
            "max_steps": NUM_FIRST + options.steps,
            "log_every_n_steps": 1,
            "accelerator": "cpu" if options.device == "cpu" else "gpu",
            "devices": num_processes,
            "precision": options.precision,
        },
        "wandb": {"mode": "disabled"},
    }
    path = folder / f"processes-{num_processes}.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def run_of(experiment: Path, folder: Path) -> Callable[[], Sequence[float]]:
    """Return a contender that runs `fit` and returns the real tokens per second of each counted step."""

    def run() -> list[float]:
        directory = RunDirectory(tempfile.mkdtemp(dir=folder))
        command = [sys.executable, "-m", "bert_lightning", "fit", "--config", str(experiment)]
        # The processes choose their number of threads by the cores that they may use.
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        ended = subprocess.run(
            [*command, "--run-directory", str(directory.path)], env=environment, capture_output=True, text=True
        )
        if ended.returncode:
            raise RuntimeError(f"`fit` ended with status {ended.returncode}: {ended.stderr[-2000:]}")
        return [
            row["train/tokens_per_second"]
            for row in directory.read_metrics()
            if row["step"] > NUM_FIRST and "train/tokens_per_second" in row
        ]

    return run


def limit_threads() -> int:
    """Limit this process and its children to as many cores as threads, and return that number."""
    cores = sorted(os.sched_getaffinity(0))
    threads = min(int(os.environ.get("OMP_NUM_THREADS", len(cores))), len(cores))
    os.sched_setaffinity(0, cores[:threads])
    return threads


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--size", default="mini", help="tiny, mini, small, medium, base or large")
    parser.add_argument("--batch-size", type=int, default=32, help="batch size over all processes")
    parser.add_argument("--sequence-length", type=int, default=128)
    # Where bfloat16 is emulated, nobody trains with it.
    precision = "bf16-mixed" if has_fast_bfloat16() else "32"
    parser.add_argument("--precision", default=precision, choices=("32", "bf16-mixed"))
    parser.add_argument("--steps", type=int, default=20, help="timed steps per run")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    on_cpu = options.device == "cpu"
    if options.processes[0] != 1:
        parser.error("--processes must begin with 1, because the others are compared with it")
    if not on_cpu and max(options.processes) > torch.cuda.device_count():
        parser.error(
            f"--processes is {max(options.processes)}, but this machine has {torch.cuda.device_count()} CUDA devices"
        )
    threads = limit_threads() if on_cpu else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_samples = options.batch_size * (NUM_FIRST + options.steps)
        data = store(folder, num_documents=max(8, num_samples // 40))
        runs = {
            str(number): run_of(write_experiment(folder, data, number, options), folder)
            for number in options.processes
        }
        rates = {number: spread(values) for number, values in in_turn(runs, options.rounds).items()}
    report(options, rates, threads)


def report(options: argparse.Namespace, rates: dict[str, dict[str, float]], threads: int | None) -> None:
    """Print the table and write the JSON file."""
    single = rates["1"]["median"]
    resources = f"{threads} thread(s) in all" if threads is not None else "one device each"
    print(f"{options.size}, {options.batch_size} x {options.sequence_length}, {options.precision}, {resources}")
    print(f"{'processes':10}{'tokens/s':>10}{'middle half':>20}{'efficiency':>12}")
    efficiency: dict[str, float] = {}
    for number, rate in rates.items():
        efficiency[number] = rate["median"] / single / (1 if threads is not None else int(number))
        print(
            f"{number:10}{rate['median']:10,.0f}{rate['low']:10,.0f}-{rate['high']:9,.0f}{efficiency[number]:12.2f}"
        )
    ratios = {f"efficiency of {number} processes": value for number, value in efficiency.items() if number != "1"}
    settings = {name: value for name, value in vars(options).items() if name != "json"}
    content = {"tokens_per_second": rates, "ratios": ratios, "threads": threads, "settings": settings}
    write_json(options.json, content)


if __name__ == "__main__":
    main()
