"""Benchmark of data: speed and memory of turning text into tokens and tokens into batches, as ratios within one run.

The text is the novels of the folder that BERT_LIGHTNING_DATA names, or generated sentences if it is not set.

    python experiments/benchmarks/data.py [--json FILE] [--megabytes 8] [--original FOLDER] [--copies 20]

`--megabytes` takes only the first novels, up to that much text. `--original` is a working checkout of
google-research/bert, whose generator imports TensorFlow 1. `--copies` repeats the text under other names, to see
whether memory grows with it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from generated import corpus
from measuring import write_json
from rich.console import Console
from rich.table import Table

from bert_lightning.data.corpus.documents import CorpusFormat, detect_layout, read_passages
from bert_lightning.data.loading.module import TrainingPlan
from bert_lightning.data.pretraining.masking import MASKINGS
from bert_lightning.data.pretraining.module import PretrainingDataModule
from bert_lightning.data.pretraining.settings import Batching, PretrainingData
from bert_lightning.runs.directory import processor_name
from bert_lightning.text.sentences import split_sentences
from bert_lightning.text.wordpiece import WordPieceTokenizer

REPEATS = 3
BATCH_SIZE = 256
BATCHINGS: tuple[Batching, ...] = ("padded", "bucketed", "packed")


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--original", type=Path, metavar="FOLDER")
    parser.add_argument("--copies", type=int, metavar="N")
    parser.add_argument("--megabytes", type=float, default=float("inf"), metavar="N")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, tokenizer = corpus(folder, options.megabytes)
        figures = text_to_tokens(files, tokenizer, folder, options.original)
        figures |= tokens_to_batches(folder / "store0")
        if options.copies:
            figures |= memory(files, folder, options.copies)
    table = Table(title=f"data, {processor_name()}, {os.cpu_count()} cores")
    table.add_column("figure")
    table.add_column("median", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.2f}" if value < 100 else f"{value:,.0f}")
    Console().print(table)
    ratios = {name: value for name, value in figures.items() if " / " in name or "share" in name}
    write_json(options.json, {"figures": figures, "ratios": ratios})


def text_to_tokens(
    files: Sequence[str], tokenizer: WordPieceTokenizer, folder: Path, original: Path | None
) -> dict[str, float]:
    """Measure `prepare` as a shell command, encoding without anything else, and the original generator."""
    sentences = []
    for file in files:
        for passage in read_passages(file, CorpusFormat(layout=detect_layout(file))):
            for segment in passage.segments:
                sentences += split_sentences(segment) if passage.split else [segment]
    tokenizer.save(folder / "tokenizer")
    megabytes = sum(os.path.getsize(file) for file in files) / 1e6
    rates: dict[str, list[float]] = {"encode_batch": [], "encode_batch_fast": [], "prepare": []}
    for repeat in range(REPEATS):
        for name, work in (
            ("encode_batch", lambda: tokenizer.backend.encode_batch(sentences)),
            ("encode_batch_fast", lambda: tokenizer.backend.encode_batch_fast(sentences)),
            ("prepare", lambda: prepare_store(files, folder / "tokenizer", folder / f"store{repeat}")),  # noqa: B023
        ):
            rates[name].append(megabytes / seconds(work))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    figures = {f"{name}, MB of text/s": rate for name, rate in medians.items()}
    figures["prepare / encode_batch"] = medians["prepare"] / medians["encode_batch"]
    figures["prepare / encode_batch_fast"] = medians["prepare"] / medians["encode_batch_fast"]
    if original is not None:
        rate = original_rate(original, sentences[:20_000], tokenizer, folder)
        figures["original generator, one pass, MB of text/s"] = rate
        figures["prepare / original generator"] = medians["prepare"] / rate
    return figures


def prepare_store(files: Sequence[str], tokenizer: Path, store: Path) -> None:
    """Run the command `prepare`, including its start."""
    command = [sys.executable, "-m", "bert_lightning", "prepare", "--input", *files, "--tokenizer", str(tokenizer)]
    subprocess.run([*command, "--output", str(store)], check=True, capture_output=True)


def original_rate(original: Path, sentences: Sequence[str], tokenizer: WordPieceTokenizer, folder: Path) -> float:
    """Return the MB of text per second of the original generator, with a dupe factor of 1."""
    lines = [line for start in range(0, len(sentences), 100) for line in (*sentences[start : start + 100], "")]
    text, vocabulary = folder / "original.txt", folder / "original_vocab.txt"
    text.write_text("\n".join(lines))
    vocabulary.write_text("".join(f"{entry}\n" for entry in tokenizer.entries))
    command = [sys.executable, str(original / "create_pretraining_data.py"), f"--input_file={text}"]
    command += [f"--output_file={folder / 'original.tfrecord'}", f"--vocab_file={vocabulary}", "--dupe_factor=1"]
    return os.path.getsize(text) / 1e6 / seconds(lambda: subprocess.run(command, check=True, capture_output=True))


def tokens_to_batches(store: Path) -> dict[str, float]:
    """Measure the real tokens per second of one process, including masking, and their share of each batch."""
    figures: dict[str, float] = {}
    started = time.perf_counter()
    data = PretrainingDataModule(PretrainingData(str(store), batch_size=BATCH_SIZE))
    data.training_batches(1_000_000, TrainingPlan(2_000_000, 1, seed=1), 0, 1)
    figures["open a store and make its millionth batch, s"] = time.perf_counter() - started
    for length in (128, 512):
        for batching in BATCHINGS:
            settings = PretrainingData(str(store), max_seq_length=length, batch_size=BATCH_SIZE, batching=batching)
            rate, used = batch_rate(PretrainingDataModule(settings))
            figures[f"{batching} at {length}, real tokens/s"] = rate
            figures[f"{batching} at {length}, real share of the room"] = used
    for name, masking in MASKINGS.items():
        settings = PretrainingData(str(store), batch_size=BATCH_SIZE, masking=masking())
        figures[f"masking {name} at 128, real tokens/s"], _ = batch_rate(PretrainingDataModule(settings))
    return figures


def batch_rate(data: PretrainingDataModule) -> tuple[float, float]:
    """Return the real tokens per second and their share of the batch.

    The size of a batch is batch size times length if it is packed, and its padded size otherwise.
    """
    # Measure whole pools, because a pool is arranged at its first step for all of its steps.
    num_steps, rates, shares = 32, [], []
    plan = TrainingPlan(num_steps * (REPEATS + 1), 1, seed=1)
    data.training_batches(0, plan, 0, 1)
    for repeat in range(REPEATS):
        real = room = 0
        started = time.perf_counter()
        for step in range((repeat + 1) * num_steps, (repeat + 2) * num_steps):
            for batch in data.training_batches(step, plan, 0, 1):
                real += batch["num_tokens"]
                packed = "packing" in batch
                room += data.batch_size * data.settings.max_seq_length if packed else batch["input_ids"].numel()
        rates.append(real / (time.perf_counter() - started))
        shares.append(real / room)
    return statistics.median(rates), statistics.median(shares)


def memory(files: Sequence[str], folder: Path, copies: int) -> dict[str, float]:
    """Measure the peak memory of `prepare` and of a loader, with the text once and repeated.

    That of `prepare` is an upper bound: its own peak, and the largest peak of a worker times the number of cores.
    """
    figures: dict[str, float] = {}
    for number in (1, copies):
        text = folder / f"text{number}"
        text.mkdir()
        for copy in range(number):
            for file in files:
                (text / f"{copy}-{Path(file).name}").symlink_to(Path(file).absolute())
        store = folder / f"copies{number}"
        # Each name is a separate source, although the content is the same.
        sources = "sorted(map(str, Path(sys.argv[1]).iterdir()))"
        work = {
            "prepare": f"prepare({sources}, load_tokenizer(sys.argv[3]), Path(sys.argv[2]))",
            "loader": "load(sys.argv[2])",
        }
        for name, code in work.items():
            script = folder / f"{name}.py"
            script.write_text(_CHILD.format(code=code))
            command = [sys.executable, str(script), str(text), str(store), str(folder / "tokenizer")]
            started = time.perf_counter()
            peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
            figures[f"{name}, text x {number}, peak MB"] = peak
            figures[f"{name}, text x {number}, s"] = time.perf_counter() - started
    return figures


_CHILD = """
import os, resource, sys
from pathlib import Path
from bert_lightning.data.corpus.preparation import prepare
from bert_lightning.text.wordpiece import load_tokenizer

def load(store):
    from bert_lightning.data.loading.module import TrainingPlan
    from bert_lightning.data.pretraining.module import PretrainingDataModule
    from bert_lightning.data.pretraining.settings import PretrainingData
    data = PretrainingDataModule(PretrainingData(store, batch_size=256))
    for step in range(0, 200_000, 1000):
        data.training_batches(step, TrainingPlan(200_000, 1, 1), 0, 1)

if __name__ == "__main__":
    {code}
    # Not `ru_maxrss`, which a process inherits from its parent.
    own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print((own + os.cpu_count() * child) / 1024)
"""


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
