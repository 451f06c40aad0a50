"""Everything that a machine with one GPU should tell, in two commands, and a third one that prepares their data.

    python experiments/benchmarks/gpu_suite.py prepare           without a GPU: collects data and wheels in build/gpu
    python experiments/benchmarks/gpu_suite.py first --out DIR   checks, tests and every form of `fit`; then two rows
    python experiments/benchmarks/gpu_suite.py second --out DIR  headline rows; then real pre-training and fine-tuning

`first` takes at most 450 seconds and `second` at most 400. What is not ready by then is ended, and keeps the figures
that it has written. Right after `first` on the same machine, `second` finds its compiled kernels.

Each needs the checkout, `build/gpu`, one CUDA GPU, some 16 cores, and torch 2.11 or later, lightning, torchmetrics,
tokenizers, safetensors, huggingface_hub, transformers, rich, jinja2, matplotlib, numpy, PyYAML, pytest and
hypothesis. `prepare` adds jsonargparse and sentencex. No network is needed.

Each prints a line per job and a table per row, and leaves `DIR/results.json`, the JSON of each row, the metrics of
each run, and all logs. The exit status is 1 if something failed, and 2 without CUDA. `--quick --device cpu` rehearses
a command in a tiny form, with the data of `prepare --quick`.
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_checks import shown
from gpu_data import ARCHIVE, LACKING, download_wheels, install_wheels, unpack, write_archive
from gpu_jobs import ROOT, Job, Workplace, print_outcome
from measuring import write_json

HERE = Path(__file__).resolve().parent
BUDGETS = {"first": 450.0, "second": 400.0}
# Seconds that a row has to write its figures after the last round.
GRACE = 15.0
# Seconds of `first` that belong to its rows, and of `second` that belong to its runs.
ROWS_OF_FIRST, RUNS_OF_SECOND = 160.0, 185.0

BASE = "--size base --batch-size 128 --sequence-length 128"
LARGE = "--size large --sequence-length 512 --mean-length 256"
# Name -> arguments of `pretraining_step.py`, and seconds.
ROWS: dict[str, dict[str, tuple[str, float]]] = {
    "first": {
        "base-128": (f"{BASE} --rounds 3 --steps 15 --contenders ours ours_compiled", 75),
        "large-512": (f"{LARGE} --batch-size 32 --rounds 3 --steps 10 --contenders ours ours_compiled", 80),
    },
    "second": {
        "base-128": (
            f"{BASE} --rounds 3 --steps 15 "
            "--contenders ours transformers_fused fit_compiled transformers_compiled ours_compiled",
            105,
        ),
        "base-128-of-512": (
            "--size base --batch-size 512 --sequence-length 128 --rounds 2 --steps 8 --contenders fit_compiled",
            35,
        ),
        "large-512-of-32k": (
            f"{LARGE} --batch-size 128 --rounds 2 --steps 5 --contenders fit_compiled transformers_compiled",
            75,
        ),
    },
}
# The kernels of these rows are compiled while the checks run.
COMPILED = {name: f"{arguments} --rounds 1 --steps 2" for name, (arguments, _) in ROWS["first"].items()}
# Forms of `fit`, in lanes that run side by side.
FITS: tuple[dict[str, list[str]], ...] = (
    {
        "fsdp": ["--trainer.strategy", "fsdp"],
        "ddp": ["--trainer.strategy", "ddp"],
        "deterministic": ["--trainer.deterministic", "true"],
        "float32": ["--trainer.precision", "32"],
    },
    {
        "float16": ["--trainer.precision", "16-mixed"],
        "bfloat16-weights": ["--trainer.precision", "bf16-true"],
        "lamb": ["--optimizer.name", "lamb"],
        "sgd": ["--optimizer.name", "sgd", "--optimizer.learning_rate", "0.1"],
    },
    {
        "packed": ["--data.batching", "packed"],
        "auto-micro-batches": ["--trainer.accumulate_grad_batches", "auto"],
        "muon": ["--optimizer.name", "muon"],
        "compiled": ["--trainer.compile", "true", "--data.batching", "packed"],
    },
)
TESTS = ("test_finite_on_cuda.py", "test_pretraining_on_cuda.py", "test_deterministic_on_cuda.py")
DROPOUT = ["--model.config.hidden_dropout_prob", "0.1", "--model.config.attention_probs_dropout_prob", "0.1"]


class Suite:
    """A command of the suite with its options.

    Args:
        name: `first` or `second`.
        options: the command line.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.quick, self.device = name, options.quick, options.device
        self.out: Path = options.out.resolve()
        # The second command finds there what the first one has unpacked and compiled.
        kind = "quick" if self.quick else "full"
        work = Path(tempfile.gettempdir()) / f"bert-lightning-gpu-{kind}-{os.getuid()}"
        self.data, self.runs, site = work / "data", self.out / "runs", work / "site"
        environment = {
            "PYTHONPATH": os.pathsep.join([str(site), str(ROOT), str(HERE)]),
            "PYTHONUNBUFFERED": "1",
            "WANDB_MODE": "disabled",
            "HF_HUB_OFFLINE": "1",
            "BERT_LIGHTNING_DATA": str(self.data),
            "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
            "TORCHINDUCTOR_COMPILE_THREADS": "6",
        }
        # A processor that rehearses may be busy with other work.
        self.patience = 5 if self.quick else 1
        self.place = Workplace(self.out / "logs", options.budget or BUDGETS[name], environment)
        unpack(options.prepared, self.data)
        if any(importlib.util.find_spec(package) is None for package in LACKING):
            install_wheels(options.prepared, site)

    # -- jobs ----------------------------------------------------------------------------------------------------

    def row(self, name: str) -> dict[str, Any]:
        """Run a row of the benchmark, and return its outcome with its figures."""
        arguments, limit = ROWS[self.name][name]
        limit *= self.patience
        path = self.out / f"{name}.json"
        reserve = RUNS_OF_SECOND if self.name == "second" else 0.0
        seconds = min(limit, self.place.seconds_left - reserve)
        command = [str(HERE / "pretraining_step.py"), *self._sized(arguments), "--device", self.device]
        command += ["--limit", str(max(1.0, seconds - GRACE)), "--json", str(path)]
        outcome = self.place.run(Job(f"row-{name}", command, limit), reserve)
        figures = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        print_outcome(f"row-{name}", outcome)
        print_figures(figures)
        return {**outcome, "figures": figures}

    def _sized(self, arguments: str) -> list[str]:
        """Return the arguments of a row; in the quick form, those of a tiny model that is not compiled."""
        if not self.quick:
            return arguments.split()
        names = [name for name in arguments.partition("--contenders ")[2].split() if not name.endswith("compiled")]
        tiny = "--size tiny --batch-size 4 --sequence-length 32 --rounds 1 --steps 2 --contenders"
        return [*tiny.split(), *(names or ["fit"])]

    def compilations(self) -> list[list[Job]]:
        """Return a lane for each row whose kernels are compiled beside everything else."""
        if self.quick:
            return []
        script = str(HERE / "pretraining_step.py")
        jobs = [
            Job(f"compile-{name}", [script, *arguments.split(), "--device", self.device], 270)
            for name, arguments in COMPILED.items()
        ]
        return [[job] for job in jobs]

    def checks(self) -> Job:
        """Return the job of the checks."""
        command = [str(HERE / "gpu_checks.py"), "--device", self.device, "--json", str(self.out / "checks.json")]
        some = ["--quick", "--only", "a_backend_that_cannot_run_says_why", "packed_training_follows_padded"]
        return Job("checks", [*command, *(some if self.quick else [])], 270 * self.patience)

    def tests(self) -> Job:
        """Return the job of the tests for CUDA, which skip on a processor."""
        files = [str(ROOT / "tests/gpu" / name) for name in TESTS]
        return Job("tests", ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files], 270)

    def fit(self, name: str, experiment: str, limit: float, overrides: Sequence[str]) -> Job:
        """Return the job of a run."""
        config = str(ROOT / "experiments" / f"{experiment}.yaml")
        command = ["-m", "bert_lightning", "fit", "--config", config, "--run-directory", str(self.runs / name)]
        tiny = ["--trainer.max_epochs", "null", "--trainer.max_steps", "3", "--data.max_seq_length", "32"]
        tiny += ["--trainer.accelerator", "cpu", "--data.num_workers", "0", "--data.batch_size", "8"]
        return Job(f"fit-{name}", [*command, *overrides, *(tiny if self.quick else [])], limit * self.patience)

    def form_of_fit(self, name: str, overrides: Sequence[str]) -> Job:
        """Return the job of a short pre-training in one form."""
        common = [
            "--trainer.max_steps",
            "40",
            "--trainer.val_check_interval",
            "40",
            "--trainer.log_every_n_steps",
            "10",
        ]
        common += [*self._stores(), "--data.max_evaluation_samples", "128", "--trainer.compile", "false"]
        quick = ["--model.size", "tiny", "--trainer.log_every_n_steps", "1"] if self.quick else []
        return self.fit(name, "novels/adamw", 150, [*common, *quick, *overrides])

    def _stores(self) -> list[str]:
        stores = self.data / "stores"
        return ["--data.train", str(stores / "train"), "--data.validation", str(stores / "validation")]

    # -- results -------------------------------------------------------------------------------------------------

    def metrics(self, name: str) -> list[dict[str, Any]]:
        """Return what a run has logged last, and each of its validations."""
        path = self.runs / name / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        scores = [row for row in rows if any(key.startswith("val/") for key in row)]
        return [*(row for row in rows if "train/loss" in row)][-1:] + scores

    def finish(self, results: dict[str, Any]) -> int:
        """Write the results, remove the weights of the runs, and return the exit status."""
        jobs = {**results["jobs"], **{f"row-{name}": row for name, row in results.get("rows", {}).items()}}
        # A row that ran out of time keeps the figures of the contenders that it measured.
        cut = [name for name, job in jobs.items() if job["result"] == "out of time" and job.get("figures")]
        failed = [name for name, job in jobs.items() if job["result"] != "ended" and name not in cut]
        checks = results.get("checks", {})
        failed += [name for name, check in checks.items() if check["result"] == "failed"]
        results["metrics"] = {path.name: self.metrics(path.name) for path in sorted(self.runs.glob("*"))}
        results |= {"failed": failed, "quick": self.quick}
        write_json(self.out / "results.json", results)
        for folder in self.runs.glob("*/checkpoints"):
            shutil.rmtree(folder)
        print("failed: " + ", ".join(failed) if failed else "nothing failed")
        return int(bool(failed))


def first(suite: Suite) -> int:
    """Run checks, tests and every form of `fit` side by side, then two rows alone."""
    on_cpu = suite.device == "cpu"
    left_out = {*(["float16"] if on_cpu else []), *(["compiled"] if suite.quick else [])}
    forms = [
        [suite.form_of_fit(name, overrides) for name, overrides in lane.items() if name not in left_out]
        for lane in FITS
    ]
    lanes = [*suite.compilations(), [suite.checks()], [suite.tests()], *forms]
    # pytest's status 5 means that nothing was selected, which is so without CUDA.
    lanes = [lane for lane in lanes if not (on_cpu and lane[0].name == "tests")]
    jobs = suite.place.run_side_by_side(lanes, ROWS_OF_FIRST)
    path = suite.out / "checks.json"
    checks = json.loads(path.read_text(encoding="utf-8"))["checks"] if path.is_file() else {}
    for name, check in checks.items():
        print(f"{name:46} {shown(check)}", flush=True)
    rows = {name: suite.row(name) for name in ROWS["first"]}
    return suite.finish({"jobs": jobs, "checks": checks, "rows": rows})


def second(suite: Suite) -> int:
    """Measure the headline rows alone; then pre-train BERT base for 2,000 steps, and fine-tune it side by side."""
    rows = {name: suite.row(name) for name in ROWS["second"]}
    recipe = ["--model.size", "tiny" if suite.quick else "base", *DROPOUT, *suite._stores()]
    recipe += ["--data.max_seq_length", "128", "--data.batch_size", "128", "--data.batching", "packed"]
    recipe += [
        "--optimizer.learning_rate",
        "4e-4",
        "--trainer.max_steps",
        "2000",
        "--checkpoint.every_n_steps",
        "2000",
    ]
    workers = ["--data.num_workers", "0" if suite.quick else "4"]
    pretraining = suite.fit("pretraining", "novels/adamw", 105, [*recipe, *workers])
    jobs = {pretraining.name: suite.place.run(pretraining, 75)}
    print_outcome(pretraining.name, jobs[pretraining.name])
    start = ["--model.pretrained", str(suite.runs / "pretraining"), "--optimizer.learning_rate", "5e-5"]
    start += ["--trainer.max_epochs", "1", *workers]
    windows = ["--data.doc_stride", "128", "--data.max_question_length", "64"]
    limits = ["--data.max_seq_length", "384", "--data.max_train_samples", "10000"]
    questions = ["--data.max_question_length", "12", "--data.doc_stride", "8"] if suite.quick else windows
    sst2 = suite.fit("sst2", "finetuning/sst2", 85, [*start, "--data.max_train_samples", "67349"])
    squad = suite.fit("squad", "finetuning/squad", 85, [*start, *limits, *questions])
    jobs |= suite.place.run_side_by_side([[sst2], [squad]])
    return suite.finish({"jobs": jobs, "rows": rows})


COMMANDS: dict[str, Callable[[Suite], int]] = {"first": first, "second": second}


def print_figures(figures: Mapping[str, Any]) -> None:
    """Print the rate of each contender of a row."""
    for name, each in figures.get("contenders", {}).items():
        low, high = each["spread"]
        ratio = f"{figures['ratios'][name]:8.2f}x" if name in figures["ratios"] else ""
        print(
            f"  {name:24}{each['tokens_per_second']:12,.0f} tokens/s  ({low:,.0f}-{high:,.0f}), "
            f"{each['ceiling_share']:.1%} of the best product {ratio}".rstrip()
        )


def prepare(options: argparse.Namespace) -> int:
    """Collect data and wheels; return the exit status."""
    source = os.environ.get("BERT_LIGHTNING_DATA")
    if source is None and not options.quick:
        print("gpu_suite.py: set BERT_LIGHTNING_DATA to the folder of data, or give --quick", file=sys.stderr)
        return 2
    write_archive(options.prepared, Path(source) if source is not None and not options.quick else None)
    if options.python_version is not None:
        download_wheels(options.prepared, options.python_version)
    return 0


def main() -> int:
    """Run a command and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("prepare", *COMMANDS):
        command = commands.add_parser(name)
        command.add_argument("--prepared", type=Path, default=ROOT / "build/gpu", metavar="DIR")
        command.add_argument("--quick", action="store_true", help="a tiny form in which nothing is compiled")
        if name == "prepare":
            command.add_argument("--python-version", metavar="3.12", help="that of the machine: adds wheels for it")
            continue
        command.add_argument("--out", type=Path, required=True, metavar="DIR", help="an empty folder for the results")
        command.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
        command.add_argument("--budget", type=float, metavar="SECONDS")
    options = parser.parse_args()
    if options.command == "prepare":
        return prepare(options)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu_suite.py: this machine has no CUDA device; --device cpu --quick rehearses it", file=sys.stderr)
        return 2
    if not (options.prepared / ARCHIVE).is_file():
        print(f"gpu_suite.py: {options.prepared} has no {ARCHIVE}: run gpu_suite.py prepare", file=sys.stderr)
        return 2
    if (options.out / "runs").exists():
        print(f"gpu_suite.py: {options.out} holds runs already: name another folder", file=sys.stderr)
        return 2
    return COMMANDS[options.command](Suite(options.command, options))


if __name__ == "__main__":
    raise SystemExit(main())
