"""How fast text becomes tokens, and tokens become batches, on this machine; ratios within one run.

The text are generated sentences of real English words, so nothing need be at hand. Rates are medians of five.
"""

import argparse
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bert_lightning.data.module import TrainingPlan
from bert_lightning.data.preparation import prepare
from bert_lightning.data.pretraining import PretrainingData, PretrainingDataModule
from bert_lightning.runs.directory import processor_name
from bert_lightning.text.vocabulary import train_wordpiece

REPEATS = 5
NUM_DOCUMENTS, SENTENCES_PER_DOCUMENT = 400, 200
BATCHES = 50


def main() -> None:
    """Print a table; with `--json FILE` also write the figures."""
    words = sorted({word for module in (random, re, json, argparse) for word in (module.__doc__ or "").split()})
    generator = random.Random(1)
    documents = [
        [" ".join(generator.choices(words, k=generator.randint(5, 30))) + "." for _ in range(SENTENCES_PER_DOCUMENT)]
        for _ in range(NUM_DOCUMENTS)
    ]
    sentences = [sentence for document in documents for sentence in document]
    tokenizer = train_wordpiece(lambda: sentences, 1000)
    num_tokens = sum(map(len, tokenizer.encode_batch(sentences)))
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "corpus.txt"
        text.write_text("\n\n".join("\n".join(document) for document in documents))
        figures["raw encoding, tokens/s"] = rate(num_tokens, lambda _: tokenizer.backend.encode_batch(sentences))
        figures["prepare, tokens/s"] = rate(
            num_tokens,
            lambda n: prepare([str(text)], tokenizer, Path(folder) / f"store{n}", layout="sentences"),
        )
        data = PretrainingDataModule(PretrainingData(train=f"{folder}/store0", batch_size=32))
        plan = TrainingPlan(num_steps=REPEATS * BATCHES, accumulate=1, seed=1)

        def batches(n: int) -> int:
            steps = range(n * BATCHES, (n + 1) * BATCHES)
            return sum(data.training_batch(*data.training_samples(s, plan), plan)["num_tokens"] for s in steps)

        figures["masked pairs, tokens/s"] = rate(batches(0), batches)
    figures["prepare / raw encoding"] = figures["prepare, tokens/s"] / figures["raw encoding, tokens/s"]
    table = Table(title=f"data, {processor_name()}, {os.cpu_count()} cores")
    table.add_column("work")
    table.add_column("median of five", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.2f}" if value < 100 else f"{value:,.0f}")
    Console().print(table)
    if "--json" in sys.argv:
        Path(sys.argv[sys.argv.index("--json") + 1]).write_text(json.dumps(figures, indent=2) + "\n")


def rate(amount: int, work: Callable[[int], object]) -> float:
    """`amount` per second, the median over repeats; `work` is told which repeat it is."""
    seconds = []
    for repeat in range(REPEATS):
        started = time.perf_counter()
        work(repeat)
        seconds.append(time.perf_counter() - started)
    return amount / statistics.median(seconds)


if __name__ == "__main__":
    main()
