"""Experiment of the soak: a small pre-training on generated text."""

import argparse
import io
import random
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml
from traced import main as bert_lightning

SAVED_EVERY = 5
KEPT = 3
# Seconds after which a rank that waits for another one ends, so that a run that hangs is reported.
TIMEOUT = 300


def write_corpora(folder: Path, seed: int) -> None:
    """Write `train.txt` and `validation.txt` with sentences of few words, so that the loss falls at once."""
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
    """Write an experiment with dropout, two stages, validation, and a checkpoint every few steps."""
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
            # Not a multiple of SAVED_EVERY, so that only some checkpoints are written after a validation.
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
    """Run a `bert-lightning` command in this process, and exit if it fails."""
    with redirect_stdout(io.StringIO()):
        status = bert_lightning([*map(str, arguments)])
    if status:
        sys.exit(f"soak.py: bert-lightning {arguments[0]} ended with {status}")


def write_stores(folder: Path, seed: int) -> None:
    """Write the text, a vocabulary, and the token stores `train` and `validation`."""
    write_corpora(folder, seed)
    tokenizer = folder / "tokenizer"
    command("tokenizer", "--input", folder / "train.txt", "--vocab-size", 300, "--output", tokenizer)
    for split in ("train", "validation"):
        text = folder / f"{split}.txt"
        command("prepare", "--input", text, "--tokenizer", tokenizer, "--output", folder / split)
