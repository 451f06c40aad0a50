"""Benchmark of fine-tuning: ours and a plain loop over transformers, with equal weights, data, recipe and seeds.

Ours is what `fit` runs. The loop pads each batch to its longest sequence (`dynamic`), or all batches to the longest
allowed length (`maximum`), which is the default of transformers' scripts. For `squad` it cuts windows with the fast
tokenizer, like their `run_qa.py`. Contenders take turns within one run. The figures are medians and ratios of
training and of encoding, which turns text into sequences.

    python experiments/benchmarks/finetuning.py [--task squad] [--checkpoint RUN] [--data FOLDER] [--share 1]

Without `--checkpoint` both start from the same random weights of a model with 6 layers and width 384. The data comes
from `--data`, from the folder that BERT_LIGHTNING_DATA names, or is generated with the published lengths. `--share`
is the share of its training examples to use, drawn from a fixed seed; 1 uses all. Our code scores all contenders.
"""

import argparse
import json
import logging
import os
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("WANDB_MODE", "disabled")

import torch
import transformers
from generated import vocabulary, write_squad, write_sst2
from measuring import write_json
from torch.utils.data import DataLoader
from transformers_encoding import Features, text_features, window_features

from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary, read_vocabulary
from bert_lightning.config.experiment import Experiment, load_experiment
from bert_lightning.model import BertConfig, BertForQuestionAnswering, BertForSequenceClassification
from bert_lightning.model.pretrained import PretrainedModel, fill, without_head
from bert_lightning.runs.building import Setup, build
from bert_lightning.runs.starting_point import start_checkpoint
from bert_lightning.runs.trainer import build_trainer

# Training examples of SST-2 and training paragraphs of SQuAD v1.1. Generated data has the share of these.
NUM_SST2, NUM_SQUAD = 67_349, 18_896


class TaskEntry(NamedTuple):
    """Entry of a task in the benchmark."""

    name: str
    metric: str
    folder: str
    """its folder in the one that BERT_LIGHTNING_DATA names"""
    data: dict[str, str | int]
    """keys of the configuration below `data`"""
    start: Callable[..., PretrainedModel]
    """makes a model from a configuration"""
    num_scored: int
    """number of validation examples that are scored"""
    share: float
    """default share of the training examples: one minute per contender on two cores"""
    generate: Callable[[Path, float], None]
    """writes generated files with a share of the training examples"""
    sample: Callable[[Path, Path, float], None]
    """copies files from one folder to another, with a share of the training examples"""


# -- data --------------------------------------------------------------------------------------------------------


def sample_sst2(source: Path, target: Path, share: float) -> None:
    """Copy SST-2, keeping each training example with the probability `share`."""
    generator = random.Random(0)
    [header, *rows] = (source / "train.tsv").read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if generator.random() < share]
    (target / "train.tsv").write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")
    (target / "dev.tsv").write_bytes((source / "dev.tsv").read_bytes())


def sample_squad(source: Path, target: Path, share: float) -> None:
    """Copy SQuAD, keeping each training paragraph and its questions with the probability `share`."""
    generator = random.Random(0)
    content = json.loads((source / "train-v1.1.json").read_text(encoding="utf-8"))
    for article in content["data"]:
        article["paragraphs"] = [each for each in article["paragraphs"] if generator.random() < share]
    (target / "train-v1.1.json").write_text(json.dumps(content), encoding="utf-8")
    (target / "dev-v1.1.json").write_bytes((source / "dev-v1.1.json").read_bytes())


TASKS = {
    "sst2": TaskEntry(
        "text-classification",
        "accuracy",
        "glue/SST-2",
        {"dataset": "glue/sst2", "max_seq_length": 128},
        lambda config: BertForSequenceClassification(config, labels=["0", "1"]),
        500,
        0.01,
        lambda folder, share: write_sst2(folder, round(NUM_SST2 * share), 500),
        sample_sst2,
    ),
    "squad": TaskEntry(
        "question-answering",
        "squad_f1",
        "squad",
        {"dataset": "squad-v1.1", "max_seq_length": 384, "doc_overlap": 128},
        BertForQuestionAnswering,
        100,
        0.002,
        lambda folder, share: write_squad(folder, round(NUM_SQUAD * share), 20),
        sample_squad,
    ),
}


def write_data(options: argparse.Namespace, folder: Path) -> Vocabulary:
    """Write the share of the data to use, and return the vocabulary for it."""
    entry, folder_of_data = TASKS[options.task], os.environ.get("BERT_LIGHTNING_DATA")
    share = options.share if options.share is not None else entry.share
    source = options.data or (Path(folder_of_data) / entry.folder if folder_of_data else None)
    (folder / "data").mkdir()
    if source is None:
        entry.generate(folder / "data", share)
    else:
        entry.sample(source, folder / "data", share)
    if folder_of_data is not None:
        published = read_vocabulary(Path(folder_of_data) / "vocab/bert-base-uncased.txt")
        if published is not None:
            return published
    return vocabulary()


def write_start(options: argparse.Namespace, words: Vocabulary, folder: Path) -> None:
    """Write the weights that all start from, including the head's, to a folder that transformers reads."""
    entry = TASKS[options.task]
    torch.manual_seed(0)
    if options.checkpoint is None:
        # L6 H384 is small enough for a processor, and its heads are 64 wide as published.
        config = BertConfig(
            vocab_size=len(words.entries),
            num_hidden_layers=6,
            hidden_size=384,
            num_attention_heads=6,
            intermediate_size=1536,
        )
        entry.start(config).save_pretrained(folder, words)
        return
    labels: dict[str, Any] = {"labels": ["0", "1"]} if options.task == "sst2" else {}
    cls = BertForSequenceClassification if options.task == "sst2" else BertForQuestionAnswering
    cls.from_checkpoint(without_head(read_checkpoint(options.checkpoint)), **labels).save_pretrained(folder)


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
            "trainer": {"max_epochs": options.epochs, "precision": options.precision, "log_every_n_steps": 50},
            "wandb": {"mode": "disabled"},
        },
    )


# -- contenders --------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """Times and score of one contender."""

    encoding: float
    """seconds from text to sequences"""
    training: float
    """seconds of training"""
    score: float


def built(experiment: Experiment) -> Setup:
    """Return our data and task, with the common start weights."""
    return build(experiment, start_checkpoint(experiment.model))


def score(experiment: Experiment, setup: Setup, folder: Path, metric: str) -> float:
    """Return the metric on the validation examples."""
    scorer = build_trainer(experiment, folder, [])
    scorer.validate(setup.task, setup.data, verbose=False)
    return float(scorer.callback_metrics[f"val/{metric}"])


def ours(options: argparse.Namespace, experiment: Experiment, folder: Path) -> Run:
    """Train as `fit` does."""
    setup = built(experiment)
    training = setup.data.splits["train"]  # type: ignore[attr-defined]
    began = time.perf_counter()
    # Encode once more to measure the time, without reading the files.
    type(training)(
        training.examples,
        setup.data.tokenizer,
        experiment.data,
        **({"labels": setup.data.labels} if options.task == "sst2" else {"training": True}),  # type: ignore[attr-defined]
    )
    encoding = time.perf_counter() - began
    trainer = build_trainer(experiment, folder, [], steps=setup.data.plan.num_steps)
    began = time.perf_counter()
    trainer.fit(setup.task, train_dataloaders=setup.data.train_dataloader())
    seconds = time.perf_counter() - began
    return Run(encoding, seconds, score(experiment, setup, folder, TASKS[options.task].metric))


def theirs(options: argparse.Namespace, experiment: Experiment, folder: Path, padding: str) -> Run:
    """Train in a plain loop over transformers."""
    entry, start, length = TASKS[options.task], folder / "start", experiment.data.max_seq_length
    setup = built(experiment)
    examples = setup.data.splits["train"].examples  # type: ignore[attr-defined]
    tokenizer = transformers.AutoTokenizer.from_pretrained(start)
    transformers.set_seed(experiment.seed_everything)
    cls: Any = transformers.BertForSequenceClassification
    encode: Callable[[Any], list[Features]] = partial(text_features, tokenizer, length)
    if options.task == "squad":
        cls = transformers.BertForQuestionAnswering
        encode = partial(window_features, tokenizer, length, experiment.data.doc_overlap)
    # The first call prepares the tokenizer, so it is not timed.
    encode(examples[:1])
    began = time.perf_counter()
    features = encode(examples)
    encoding = time.perf_counter() - began
    model = cls.from_pretrained(start, hidden_dropout_prob=0.1)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=experiment.optimizer.learning_rate, eps=1e-6, weight_decay=0.01
    )
    steps = setup.data.plan.num_steps
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, int(0.1 * steps), steps)
    batches: Any = DataLoader(
        features,  # type: ignore[arg-type]
        batch_size=experiment.data.batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=transformers.DataCollatorWithPadding(
            tokenizer, padding="max_length" if padding == "maximum" else "longest", max_length=length
        ),
    )
    autocast = experiment.trainer.precision == "bf16-mixed"
    model.train()
    taken = 0
    began = time.perf_counter()
    while taken < steps:
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            taken += 1
            if taken == steps:
                break
    seconds = time.perf_counter() - began
    model.save_pretrained(folder / "trained")
    fill(setup.task.model, read_checkpoint(str(folder / "trained")))
    return Run(encoding, seconds, score(experiment, setup, folder, entry.metric))


def main() -> None:
    """Run all contenders once per seed and print the comparison."""
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
    parser.add_argument("--precision", default="bf16-mixed", choices=("32", "bf16-mixed"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    contenders = ("ours", "dynamic", "maximum")
    parser.add_argument("--contenders", nargs="+", default=list(contenders), choices=contenders)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    if options.share is not None and not 0 < options.share <= 1:
        parser.error(f"--share is {options.share}; it must be more than 0 and at most 1")
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
                    f"seed {seed}  {name:8} {run.encoding:6.1f} s, {run.training:7.1f} s of training  "
                    f"{TASKS[options.task].metric} {run.score:.4f}",
                    flush=True,
                )
    report(options, results)


def report(options: argparse.Namespace, results: dict[str, list[Run]]) -> None:
    """Print the table and write the JSON file."""
    medians = {
        name: Run(*(statistics.median(values) for values in zip(*runs, strict=True)))
        for name, runs in results.items()
    }
    mine = medians.get("ours", Run(float("nan"), float("nan"), 0.0))
    metric = TASKS[options.task].metric
    print(f"\n{'':10}{'encoding':>9}{'training':>9}{'ours faster by':>22}{metric:>18}")
    table: dict[str, dict[str, float]] = {}
    ratios: dict[str, float] = {}
    for name, median in medians.items():
        scores = [run.score for run in results[name]]
        deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
        table[name] = {**median._asdict(), "score": statistics.fmean(scores), "deviation": deviation}
        encoding, training = median.encoding / mine.encoding, median.training / mine.training
        print(
            f"{name:10}{median.encoding:9.1f}{median.training:9.1f}{encoding:13.2f}x {training:7.2f}x"
            f"{statistics.fmean(scores):11.4f} ± {deviation:.4f}"
        )
        if name != "ours":
            ratios |= {f"{name}, training": training, f"{name}, encoding": encoding}
    settings = {name: str(value) for name, value in vars(options).items() if name != "json"}
    write_json(options.json, {"contenders": table, "ratios": ratios, "settings": settings})


if __name__ == "__main__":
    main()
