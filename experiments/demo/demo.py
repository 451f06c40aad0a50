"""Demo in a few minutes, with the commands that a user types: text -> encoder -> classifier -> report.

Everything is written to `demo/`. The demo needs no network, no account and no data: its corpus is the docstrings of
this installation.
"""

import hashlib
import json
import shlex
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from docstrings import Docstring, fingerprint, gather, without_name
from rich.console import Console
from rich.table import Table

from bert_lightning.checkpoints.files import write_text
from bert_lightning.cli import main
from bert_lightning.runs.auto_settings import has_fast_bfloat16
from bert_lightning.runs.directory import RunDirectory

HERE = Path(__file__).parent
OUT = Path("demo")
VOCAB_SIZE = 6000
NUM_PACKAGES = 10
TRAIN_TEXTS_PER_PACKAGE = 40
TEST_TEXTS_PER_PACKAGE = 60
SEEDS = (1, 2, 3)
# Eight of a hundred documents are kept out of pre-training: four validate both models, four test the classifier.
HELD_OUT_VALIDATION, HELD_OUT_TEST = range(4), range(4, 8)
# The usual import names of packages would also give the answer away.
IMPORT_NAMES = ("np", "pd", "nx", "plt", "mpl", "sp", "sm")

console = Console(highlight=False, soft_wrap=True)


def run() -> None:
    """Run the whole demo."""
    started = time.monotonic()
    if OUT.exists() and not (OUT / ".demo").exists():
        sys.exit(f"{OUT.resolve()} exists and was not made by the demo: move it away")
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    (OUT / ".demo").touch()

    section("The corpus: docstrings of this installation")
    documents = gather()
    make_files(documents)
    size = sum(len(document.text) for document in documents)
    console.print(f"{len(documents):,} documents, {size:,} characters, fingerprint {fingerprint(documents)[:16]}")

    section("Vocabulary and token stores")
    command(f"tokenizer --input demo/text/train.jsonl --vocab-size {VOCAB_SIZE} --output demo/tokenizer")
    for split in ("train", "validation"):
        command(f"prepare --input demo/text/{split}.jsonl --tokenizer demo/tokenizer --output demo/stores/{split}")

    section("Pre-training: masked language modelling and next-sentence prediction")
    precision = "bf16-mixed" if has_fast_bfloat16() else "32"
    config = HERE.relative_to(Path.cwd()) if HERE.is_relative_to(Path.cwd()) else HERE
    command(
        f"fit --config {config}/pretraining.yaml --trainer.precision {precision} "
        "--run-directory demo/runs/pretraining"
    )

    section("Fine-tuning: which package does a docstring come from? From the encoder, and from random weights")
    for seed in SEEDS:
        for weights in ("pretrained", "random"):
            name = f"demo/runs/{weights}-seed{seed}"
            command(
                f"fit --config {config}/classification.yaml --model.weights {weights} --seed_everything {seed} "
                f"--trainer.precision {precision} --run-directory {name}",
            )
            command(f"test --checkpoint {name}")

    section("Results")
    runs = [
        "demo/runs/pretraining",
        *(f"demo/runs/{w}-seed{s}" for w in ("pretrained", "random") for s in SEEDS),
    ]
    command(f"report {' '.join(runs)} --output demo/report.html")
    console.print(result_table())
    console.print(f"Time: {(time.monotonic() - started) / 60:.1f} minutes.")
    console.print(NEXT_STEPS)


def make_files(documents: list[Docstring]) -> None:
    """Write the pre-training text per split and the classifier's tables. A document's text decides its split."""
    splits: dict[str, list[Docstring]] = {"train": [], "validation": [], "test": []}
    for document in documents:
        bucket = hashlib.sha256(document.text.encode()).digest()[0] % 100
        held_out = {
            **dict.fromkeys(HELD_OUT_VALIDATION, "validation"),
            **dict.fromkeys(HELD_OUT_TEST, "test"),
        }
        splits[held_out.get(bucket, "train")].append(document)
    for split in ("train", "validation"):
        write_lines(OUT / "text" / f"{split}.jsonl", ({"text": document.text} for document in splits[split]))

    # Take the packages with the most held-out texts, so that each can fill its share of the test split.
    frequent = [p for p, _ in Counter(document.package for document in splits["test"]).most_common(NUM_PACKAGES)]
    names = {document.package for document in documents} - {"standard library"}
    limits = {
        "train": TRAIN_TEXTS_PER_PACKAGE,
        "validation": TEST_TEXTS_PER_PACKAGE,
        "test": TEST_TEXTS_PER_PACKAGE,
    }
    for split, limit in limits.items():
        rows = []
        for package in frequent:
            texts = sorted(
                (d.text for d in splits[split] if d.package == package),
                key=lambda text: hashlib.sha256(text.encode()).digest(),
            )
            rows += [{"text": without_names(text, names), "package": package} for text in texts[:limit]]
        write_lines(OUT / "classification" / f"{split}.jsonl", rows)


def without_names(text: str, names: set[str]) -> str:
    """Return a docstring on one line, without the words that contain a package name."""
    return " ".join(without_name(text, names, IMPORT_NAMES).split())


def write_lines(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write a JSONL file."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def result_table() -> Table:
    """Return the table of results, with the score of guessing beside each figure."""
    last = last_values("demo/runs/pretraining", "val/")
    accuracy = {
        weights: [last_values(f"demo/runs/{weights}-seed{seed}", "test/")["test/accuracy"] for seed in SEEDS]
        for weights in ("pretrained", "random")
    }
    table = Table(title="Held-out documents")
    for name in ("", "this model", "without learning"):
        table.add_column(name, justify="left" if not name else "right")
    table.add_row(
        "masked-token loss",
        f"{last['val/mlm_loss']:.3f}",
        f"{last['val/mlm_unigram_loss']:.3f} (word frequencies)",
    )
    table.add_row(
        "masked-token accuracy",
        f"{last['val/mlm_accuracy']:.1%}",
        f"{last['val/mlm_unigram_accuracy']:.1%} (most frequent token)",
    )
    table.add_row(
        "next-sentence accuracy",
        f"{last['val/nsp_accuracy']:.1%}",
        f"{last['val/nsp_majority_accuracy']:.1%} (majority)",
    )
    table.add_section()
    table.add_row(
        f"package accuracy, pre-trained (mean ± sd of {len(SEEDS)} seeds)",
        mean_and_deviation(accuracy["pretrained"]),
        "",
    )
    table.add_row(
        "package accuracy, from random weights",
        mean_and_deviation(accuracy["random"]),
        f"{1 / NUM_PACKAGES:.1%} (chance)",
    )
    return table


def mean_and_deviation(values: list[float]) -> str:
    """Return the mean and the standard deviation with n - 1, as percentages.

    >>> mean_and_deviation([0.5, 0.7])
    '60.0% ± 14.1%'
    """
    return f"{statistics.mean(values):.1%} ± {statistics.stdev(values):.1%}"


def last_values(run: str, prefix: str) -> dict[str, float]:
    """Return the last row of a run's metrics that has a metric with the prefix."""
    rows = [row for row in RunDirectory(run).read_metrics() if any(name.startswith(prefix) for name in row)]
    return rows[-1]


def command(line: str) -> None:
    """Print and run one `bert-lightning` command, and exit if it fails."""
    console.print(f"\n[bold]$ bert-lightning {line}[/]")
    status = main(shlex.split(line))
    if status:
        sys.exit(status)


def section(title: str) -> None:
    """Print a heading."""
    console.rule(f"[bold]{title}", align="left")


NEXT_STEPS = """
Where to find the results
  demo/report.html             curves and tables; open it in a browser
  demo/runs/pretraining        the pre-trained encoder: config.yaml, manifest.json, metrics.jsonl, checkpoints/
  demo/runs/pretrained-seed1   a classifier; there is one per seed, also from random weights
  demo/stores, demo/tokenizer  the corpus as tokens, and its vocabulary

Next steps
  echo 'Return the [MASK] of the given array.' | bert-lightning predict --checkpoint demo/runs/pretraining
  echo 'Compute the eigenvalues of a matrix.' | bert-lightning predict --checkpoint demo/runs/pretrained-seed1
  bert-lightning fit --config experiments/demo/pretraining.yaml --data.masking.rate 0.3
  docs/tutorial.md, for the same on your own text
"""

if __name__ == "__main__":
    run()
