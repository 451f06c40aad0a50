"""Small sequences of tasks: experiment files and runs of them."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bert_lightning.cli import main
from tests.support.small_corpus import SMALL_MODEL, sentence

TASKS = ("topics", "sizes", "pairs")


def write_tasks(folder: Path, tokenizer: Any) -> dict[str, dict[str, Any]]:
    """Write the tables of three tasks, the last one of pairs, and return task -> the keys under `data`."""
    tokenizer.save(folder / "tokenizer")
    generator = random.Random(5)
    data: dict[str, dict[str, Any]] = {}
    for task in TASKS:
        for split, size in (("train", 48), ("validation", 24)):
            rows = [_row(task, number, generator) for number in range(size)]
            lines = ["\t".join(row) for row in (list(rows[0]), *(list(each.values()) for each in rows))]
            path = folder / f"{task}-{split}.tsv"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            data.setdefault(task, {})[split] = str(path)
    data["pairs"]["text_pair_column"] = "second"
    shared = {"tokenizer": str(folder / "tokenizer"), "max_seq_length": 40, "batch_size": 16}
    return {task: {**shared, **own} for task, own in data.items()}


def _row(task: str, number: int, generator: random.Random) -> dict[str, str]:
    topic = number % 3
    text = sentence(generator, topic)
    if task == "topics":
        return {"text": text, "label": ("animals", "nature", "places")[topic]}
    if task == "sizes":
        words = text.split()
        short = number % 2 == 0
        return {"text": " ".join(words[:3] if short else words * 2), "label": "animals" if short else "long"}
    same = number % 2 == 0
    second = sentence(generator, topic if same else (topic + 1) % 3)
    return {"text": text, "second": second, "label": "same" if same else "other"}


def values_of(task: str, data: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the values of the experiment of one task of the sequence."""
    return {
        "experiment": "sequence",
        "task": "text-classification",
        "model": SMALL_MODEL,
        "data": data[task],
        "optimizer": {"learning_rate": 3e-3},
        "trainer": {
            "max_steps": 4,
            "accelerator": "cpu",
            "precision": "32",
            "log_every_n_steps": 1,
            "val_check_interval": 99,
        },
        "checkpoint": {"every_n_steps": 1, "keep_last": 9},
        "loggers": [],
        "sequence": {"task": task, "tasks": [{"name": name, "data": dict(own)} for name, own in data.items()]},
    }


def fit_task(folder: Path, task: str, data: Mapping[str, dict[str, Any]], run: Path, *options: object) -> int:
    """Train one task of the sequence in this process, and return the exit status."""
    values = values_of(task, data)
    if any(str(option).startswith("--model.pretrained") for option in options):
        values["model"] = {}
    file = folder / f"{task}.yaml"
    file.write_text(yaml.safe_dump(values))
    return main(["fit", "--config", str(file), "--run-directory", str(run), *map(str, options)])


def after(run: Path) -> list[str]:
    """Return the options of a run that continues another one."""
    return [f"--model.pretrained={run}", f"--sequence.previous={run}"]
