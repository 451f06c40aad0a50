"""Fine-tuning on SST-2: ours against a plain loop over transformers, same start weights, data, recipe and seeds.

The loop pads each batch to its longest sequence (`dynamic`), or all to the longest allowed (`maximum`), as scripts
of transformers do unless told otherwise. Contenders take turns within one run; printed are medians and ratios.

    python experiments/benchmarks/finetuning.py --checkpoint RUN --data FOLDER_OF_SST-2
"""

import argparse
import json
import logging
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_MODE", "disabled")

import torch
import transformers
from torch.utils.data import DataLoader

from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.data.module import TrainingPlan
from bert_lightning.model import BertForSequenceClassification
from bert_lightning.model.pretrained import without_head
from bert_lightning.runs.building import build_parts, num_steps, optimization_of
from bert_lightning.runs.experiment import Experiment, load_experiment
from bert_lightning.runs.starting_point import start_checkpoint
from bert_lightning.runs.trainer import build_trainer

LENGTH = 128


def experiment_of(options: argparse.Namespace, seed: int) -> Experiment:
    """Our half of the comparison."""
    return load_experiment(
        [],
        below={
            "experiment": "benchmark",
            "task": "text-classification",
            "seed_everything": seed,
            "model": {"pretrained": options.checkpoint, "config": {"hidden_dropout_prob": 0.1}},
            "data": {
                "dataset": "glue/sst2",
                "folder": options.data,
                "max_seq_length": LENGTH,
                "batch_size": options.batch_size,
                "max_train_samples": options.train_samples,
            },
            "optimizer": {"learning_rate": options.learning_rate},
            "trainer": {"max_epochs": options.epochs, "precision": options.precision, "log_every_n_steps": 50},
            "wandb": {"mode": "disabled"},
        },
    )


def ours(experiment: Experiment, folder: Path) -> tuple[float, float]:
    """Seconds of training and accuracy on the validation rows."""
    parts = build_parts(experiment, start_checkpoint(experiment.model))
    steps = num_steps(experiment, parts.data)
    parts.data.plan = TrainingPlan(steps, 1, experiment.seed_everything)
    parts.task.optimization = optimization_of(experiment, parts.task, steps)
    trainer = build_trainer(experiment, folder, [], steps=steps)
    began = time.perf_counter()
    trainer.fit(parts.task, train_dataloaders=parts.data.train_dataloader())
    seconds = time.perf_counter() - began
    scorer = build_trainer(experiment, folder, [])
    scorer.validate(parts.task, parts.data, verbose=False)
    return seconds, float(scorer.callback_metrics["val/accuracy"])


def theirs(experiment: Experiment, start: Path, padding: str) -> tuple[float, float]:
    """The same by a plain loop; the texts are encoded in front of the clock, as ours are."""
    parts = build_parts(experiment, start_checkpoint(experiment.model))
    train, validation = (parts.data.splits[name] for name in ("train", "validation"))  # type: ignore[attr-defined]
    tokenizer = transformers.BertTokenizer.from_pretrained(start)
    transformers.set_seed(experiment.seed_everything)
    model = transformers.BertForSequenceClassification.from_pretrained(start, hidden_dropout_prob=0.1)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=experiment.optimizer.learning_rate, eps=1e-6, weight_decay=0.01
    )
    steps = num_steps(experiment, parts.data)
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, int(0.1 * steps), steps)

    def encoded(split: Any) -> list[dict[str, Any]]:
        texts = tokenizer([example.text for example in split.examples], truncation=True, max_length=LENGTH)
        return [
            {"input_ids": ids, "label": int(label)}
            for ids, label in zip(texts["input_ids"], split.labels, strict=True)
        ]

    def batches(rows: list[dict[str, Any]], shuffle: bool) -> DataLoader[Any]:
        return DataLoader(
            rows,  # type: ignore[arg-type]
            batch_size=experiment.data.batch_size,
            shuffle=shuffle,
            drop_last=shuffle,
            collate_fn=transformers.DataCollatorWithPadding(
                tokenizer, padding="max_length" if padding == "maximum" else "longest", max_length=LENGTH
            ),
        )

    autocast = experiment.trainer.precision == "bf16-mixed"
    rows = encoded(train)
    model.train()
    taken = 0
    began = time.perf_counter()
    while taken < steps:
        for batch in batches(rows, shuffle=True):
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
    model.eval()
    right = 0
    with torch.inference_mode():
        for batch in batches(encoded(validation), shuffle=False):
            right += int((model(**batch).logits.argmax(-1) == batch["labels"]).sum())
    return seconds, right / len(validation.examples)


def main() -> None:
    """Run all contenders once a seed and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="run or checkpoint whose encoder both start from")
    parser.add_argument("--data", required=True, help="folder with train.tsv and dev.tsv of SST-2")
    parser.add_argument("--train-samples", type=int, default=8000)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--precision", default="bf16-mixed", choices=("32", "bf16-mixed"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--contenders", nargs="+", default=["ours", "dynamic", "maximum"])
    parser.add_argument("--json", type=Path, help="gets the figures")
    options = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in options.contenders}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # The encoder that both start from, with a head that transformers draws anew for each seed.
        model = BertForSequenceClassification.from_checkpoint(
            without_head(read_checkpoint(options.checkpoint)), labels=["0", "1"]
        )
        model.save_pretrained(folder / "start")
        for seed in options.seeds:
            experiment = experiment_of(options, seed)
            for name in options.contenders:
                run = ours(experiment, folder) if name == "ours" else theirs(experiment, folder / "start", name)
                results[name].append(run)
                print(f"seed {seed}  {name:8} {run[0]:7.1f} s  accuracy {run[1]:.4f}", flush=True)
    print(f"\n{'':10}{'seconds':>9}{'ours faster by':>16}{'accuracy':>18}")
    reference = statistics.median(seconds for seconds, _ in results.get("ours", [(float("nan"), 0.0)]))
    table = {}
    for name, runs in results.items():
        seconds = statistics.median(each for each, _ in runs)
        scores = [score for _, score in runs]
        deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
        table[name] = {"seconds": seconds, "ratio": seconds / reference, "accuracy": statistics.fmean(scores)}
        print(
            f"{name:10}{seconds:9.1f}{seconds / reference:15.2f}x{statistics.fmean(scores):11.4f} ± {deviation:.4f}"
        )
    if options.json is not None:
        settings = {key: str(value) for key, value in vars(options).items()}
        machine = {"machine": platform.processor(), "cores": os.cpu_count(), "torch": torch.__version__}
        content = {"contenders": table, "settings": settings, **machine, "transformers": transformers.__version__}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
