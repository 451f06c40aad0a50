"""Benchmark of fine-tuning: `fit` and a plain loop over transformers, with equal weights, data, recipe and seeds.

Ours is the command's whole run. The loop has fused AdamW, and pads each batch to its longest sequence (`dynamic`), to
a multiple of 8 (`multiple`), or to the longest allowed length (`maximum`), which is the default of transformers'
scripts. For `squad` it cuts windows with the fast tokenizer, like their `run_qa.py`. Both are on the same device and
have the same autocast. Contenders take turns within one run. The figures are medians and ratios of

    training    from the first step to the last one
    encoding    from text to sequences
    whole       from start weights and data to a trained and saved model with its outputs for the validation examples;
                ours also scores them, reads the files, and writes metrics and predictions

    python experiments/benchmarks/finetuning.py [--task mrpc] [--checkpoint RUN] [--data FOLDER] [--share 1]

Without `--checkpoint` both start from the same random weights of a model with 6 layers and width 384. The data comes
from `--data`, from the folder that BERT_LIGHTNING_DATA names, or is generated with the published lengths. `--share`
is the share of its training examples to use, drawn from a fixed seed; 1 uses all. Our code scores all contenders.
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("WANDB_MODE", "disabled")

import transformers
from finetuning_data import TASKS, write_data, write_start
from lightning import Callback, LightningModule, Trainer
from measuring import synchronize, write_json
from transformers_finetuning import PADDINGS, Recipe, Times, train

from bert_lightning.allocation import give_back_freed_memory
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.config.experiment import Experiment, load_experiment
from bert_lightning.data.datasets.examples import LabelledText, Question
from bert_lightning.data.loading.module import StepDataModule
from bert_lightning.model.pretrained import fill
from bert_lightning.runs import fit
from bert_lightning.runs.auto_settings import has_fast_bfloat16
from bert_lightning.runs.building import Setup, build_training
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.starting_point import start_checkpoint
from bert_lightning.runs.trainer import build_trainer


def experiment_of(options: argparse.Namespace, folder: Path, seed: int) -> Experiment:
    """Return the configuration of our contender."""
    entry = TASKS[options.task]
    return load_experiment(
        [],
        below={
            "experiment": "benchmark",
            "task": entry.name,
            "seed_everything": seed,
            "model": {"pretrained": str(folder / "start"), "config": {"hidden_dropout_prob": 0.1}},
            "data": {
                **entry.data,
                "folder": str(folder / "data"),
                "batch_size": options.batch_size,
                "max_evaluation_samples": entry.num_scored,
            },
            "optimizer": {"learning_rate": options.learning_rate},
            "trainer": {
                "max_epochs": options.epochs,
                "accelerator": "cpu" if options.device == "cpu" else "gpu",
                "precision": options.precision,
                "log_every_n_steps": 50,
                # There is a validation after the last step, which is all that the loop has too.
                "val_check_interval": 10**9,
            },
            "wandb": {"mode": "disabled"},
        },
    )


class Run(NamedTuple):
    """Times and score of one contender."""

    encoding: float
    """seconds from text to sequences"""
    training: float
    """seconds from the first step to the last one"""
    whole: float
    """seconds from start weights and data to a trained and saved model"""
    score: float


class StepTimes(Callback):
    """Callback that measures the seconds from the beginning of the first step to the end of the last one."""

    def __init__(self) -> None:
        self.began: float | None = None
        self.seconds = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        if self.began is None:
            synchronize(pl_module.device)
            self.began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        assert self.began is not None
        if trainer.global_step == trainer.max_steps:
            synchronize(pl_module.device)
            self.seconds = time.perf_counter() - self.began


def built(experiment: Experiment) -> Setup:
    """Return our data and task, with the common start weights."""
    return build_training(experiment, start_checkpoint(experiment.model))


def examples_of(data: StepDataModule, split: str) -> list[LabelledText] | list[Question]:
    """Return the examples of a split."""
    examples: list[LabelledText] | list[Question] = data.splits[split].examples  # type: ignore[attr-defined]
    return examples


def ours(options: argparse.Namespace, experiment: Experiment, folder: Path) -> Run:
    """Train with `fit`."""
    data = built(experiment).data
    training = data.splits["train"]  # type: ignore[attr-defined]
    arguments = {"training": True} if options.task == "squad" else {"labels": data.labels}  # type: ignore[attr-defined]
    began = time.perf_counter()
    # Encode once more to measure the time, without reading the files.
    type(training)(training.examples, data.tokenizer, experiment.data, **arguments)
    encoding = time.perf_counter() - began
    times, directory = StepTimes(), RunDirectory(tempfile.mkdtemp(dir=folder))
    began = time.perf_counter()
    metrics = fit.train(experiment, directory, "never", callbacks=[times])
    whole = time.perf_counter() - began
    assert metrics is not None
    return Run(encoding, times.seconds, whole, metrics[f"val/{TASKS[options.task].metric}"])


def theirs(options: argparse.Namespace, experiment: Experiment, folder: Path, padding: str) -> Run:
    """Train in a plain loop over transformers, and score the model with our code."""
    give_back_freed_memory()
    setup = built(experiment)
    recipe = Recipe(
        task=options.task,
        start=folder / "start",
        trained=folder / "trained",
        max_seq_length=experiment.data.max_seq_length,
        overlap=getattr(experiment.data, "doc_overlap", 0) or 0,
        batch_size=experiment.data.batch_size,
        learning_rate=experiment.optimizer.learning_rate,
        num_steps=setup.data.plan.num_steps,
        seed=experiment.seed_everything,
        device=options.device,
        precision=options.precision,
    )
    times: Times = train(recipe, padding, examples_of(setup.data, "train"), examples_of(setup.data, "validation"))
    fill(setup.task.model, read_checkpoint(str(recipe.trained)))
    scorer = build_trainer(experiment, folder, [])
    scorer.validate(setup.task, setup.data, verbose=False)
    score = float(scorer.callback_metrics[f"val/{TASKS[options.task].metric}"])
    return Run(times.encoding, times.training, times.whole, score)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="sst2", choices=tuple(TASKS))
    parser.add_argument("--checkpoint", help="run or checkpoint whose encoder all start from")
    parser.add_argument(
        "--data", type=Path, help="folder with train.tsv and dev.tsv, or train-v1.1.json and dev-v1.1.json"
    )
    parser.add_argument(
        "--share", type=float, help="share of the training examples (default: minutes of training); 1 uses all"
    )
    parser.add_argument("--epochs", type=float, default=1, help="epochs over that share")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    # Where bfloat16 is emulated, nobody trains with it.
    precision = "bf16-mixed" if has_fast_bfloat16() else "32"
    parser.add_argument("--precision", default=precision, choices=("32", "bf16-mixed"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    contenders = ("ours", *PADDINGS)
    parser.add_argument("--contenders", nargs="+", default=list(contenders), choices=contenders)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    if options.share is not None and not 0 < options.share <= 1:
        parser.error(f"--share is {options.share}; it must be more than 0 and at most 1")
    return options


def main() -> None:
    """Run all contenders once per seed and print the comparison."""
    options = parse()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    results: dict[str, list[Run]] = {name: [] for name in options.contenders}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_start(options, write_data(options, folder), folder / "start")
        for number, seed in enumerate(options.seeds):
            experiment = experiment_of(options, folder, seed)
            for name in options.contenders[:: 1 if number % 2 == 0 else -1]:
                is_ours = name == "ours"
                run = ours(options, experiment, folder) if is_ours else theirs(options, experiment, folder, name)
                results[name].append(run)
                print(
                    f"seed {seed}  {name:8} {run.encoding:6.1f} s, {run.training:7.1f} s of training, "
                    f"{run.whole:7.1f} s in all  {TASKS[options.task].metric} {run.score:.4f}",
                    flush=True,
                )
    report(options, results)


def report(options: argparse.Namespace, results: dict[str, list[Run]]) -> None:
    """Print the table and write the JSON file."""
    medians = {
        name: Run(*(statistics.median(values) for values in zip(*runs, strict=True)))
        for name, runs in results.items()
    }
    nothing = float("nan")
    mine = medians.get("ours", Run(nothing, nothing, nothing, nothing))
    metric, measured = TASKS[options.task].metric, ("encoding", "training", "whole")
    print(f"\n{'':10}" + "".join(f"{name + ', s':>14}{'ours':>8}" for name in measured) + f"{metric:>20}")
    table: dict[str, dict[str, float]] = {}
    ratios: dict[str, float] = {}
    for name, median in medians.items():
        scores = [run.score for run in results[name]]
        deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
        table[name] = {**median._asdict(), "score": statistics.fmean(scores), "deviation": deviation}
        faster = {each: getattr(median, each) / getattr(mine, each) for each in measured}
        print(
            f"{name:10}"
            + "".join(f"{getattr(median, each):14.2f}{faster[each]:7.2f}x" for each in measured)
            + f"{statistics.fmean(scores):11.4f} ± {deviation:.4f}"
        )
        if name != "ours":
            ratios |= {f"{name}, {each}": value for each, value in faster.items()}
    settings = {name: str(value) for name, value in vars(options).items() if name != "json"}
    write_json(options.json, {"contenders": table, "ratios": ratios, "settings": settings})


if __name__ == "__main__":
    main()
