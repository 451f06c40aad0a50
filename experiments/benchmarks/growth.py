"""Benchmark of growth: what a token store costs to open and to draw from, for stores of any size.

A large store is built out of links to a few real shards, of 2 GB together, with tables of the full size. The text is
the novels of the folder that BERT_LIGHTNING_DATA names, cut into documents of 30 lines, or generated sentences if it
is not set. A process then opens the store, makes a batch in the middle of the first epoch, and continues for 1,000
batches, in which one round of sections ends and the next begins. Before that, the system's copies of all files are
dropped, so the first read of each section comes from the disk.

    python experiments/benchmarks/growth.py [--gigacharacters 4 80 400] [--folder DIR] [--json FILE]

4,230 gigacharacters are 10^12 tokens, and need 5 GB for the tables. Times leave out the moments in which the process
could run but others had its core. Waits for the disk count.
"""

import argparse
import contextlib
import hashlib
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from data import corpus
from measuring import write_json
from rich.console import Console
from rich.table import Table

from bert_lightning.checkpoints.files import write_bytes, write_text
from bert_lightning.data.corpus.documents import CorpusFormat, detect_layout
from bert_lightning.data.corpus.preparation import prepare
from bert_lightning.data.corpus.section_tables import CHUNK_COUNTS, CHUNK_LENGTHS, SECTION_ROW, SECTIONS
from bert_lightning.data.corpus.shard_files import (
    SECTIONS_PER_SHARD,
    PlacedSection,
    copied,
    read_shard,
    shard_name,
    write_shard,
)
from bert_lightning.data.corpus.store_files import store_fingerprint
from bert_lightning.data.corpus.token_store import MANIFEST, TokenStore
from bert_lightning.data.loading.module import TrainingPlan
from bert_lightning.data.pretraining.module import PretrainingDataModule
from bert_lightning.data.pretraining.objectives import OBJECTIVES
from bert_lightning.data.pretraining.samples import Samples
from bert_lightning.data.pretraining.settings import PretrainingData
from bert_lightning.runs.directory import processor_name

CHARACTERS_PER_SECTION = 4 << 20
LINES_PER_DOCUMENT = 30
NUM_REAL_SHARDS = 8
BATCH_SIZE = 256
BEFORE, AFTER, STRETCH = 500, 500, 10


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigacharacters", type=float, nargs="+", default=[4, 80, 400], metavar="G")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for the stores; a temporary one unless given")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--search", type=Path, metavar="STORE", help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, metavar=("STORE", "STEP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.search is not None:
        print(round_change(options.search))
        return
    if options.measure is not None:
        print(json.dumps(measured(Path(options.measure[0]), int(options.measure[1]))))
        return
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        real = real_shards(folder)
        figures = {}
        for size in options.gigacharacters:
            store = linked_store(folder / f"{size:g}", real, size)
            step = in_a_process("--search", str(store))
            drop_copies([*store.iterdir(), *real.iterdir()])
            figures[f"{size:g} G characters"] = json.loads(in_a_process("--measure", str(store), step))
    table = Table(title=f"growth, {processor_name()}, one process")
    table.add_column("")
    for name in figures:
        table.add_column(name, justify="right")
    for row in next(iter(figures.values())):
        values = [each[row] for each in figures.values()]
        table.add_row(row, *(f"{value:,.2f}" if value < 100 else f"{value:,.0f}" for value in values))
    Console().print(table)
    write_json(options.json, {"figures": figures})


def in_a_process(*options: str) -> str:
    """Return the last line that this program prints with other options."""
    command = [sys.executable, __file__, *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


# -- stores ------------------------------------------------------------------------------------------------------


def real_shards(folder: Path) -> Path:
    """Write a small store, and shards that repeat its sections; return the folder of the shards."""
    small, real = folder / "small", folder / "real"
    if not real.exists():
        text = folder / "text"
        text.mkdir(parents=True, exist_ok=True)
        files, tokenizer = corpus(text, math.inf)
        layout = CorpusFormat(layout=detect_layout(files[0]), lines_per_document=LINES_PER_DOCUMENT)
        prepare(files, tokenizer, small, corpus=layout)
        sections = read_shard(small / shard_name(0))
        for number in range(NUM_REAL_SHARDS):
            chosen = [sections[each % len(sections)] for each in texts_of(number)]
            contents = [copied(each.place) for each in chosen]
            token_bytes = chosen[0].place.token_bytes
            write_shard(real / shard_name(number), token_bytes, [each.record for each in chosen], contents)
    return real


def texts_of(shard: int) -> range:
    """Return the numbers of the sections of a shard."""
    return range(shard * SECTIONS_PER_SHARD, (shard + 1) * SECTIONS_PER_SHARD)


def linked_store(store: Path, real: Path, gigacharacters: float) -> Path:
    """Write a store of whole shards with at least that much text, whose shards are links."""
    if store.exists():
        return store
    small = real.with_name("small")
    shards = [read_shard(real / shard_name(number)) for number in range(NUM_REAL_SHARDS)]
    num_shards = math.ceil(gigacharacters * 1e9 / CHARACTERS_PER_SECTION / SECTIONS_PER_SHARD)
    store.mkdir()
    for number in range(num_shards):
        os.link(real / shard_name(number % NUM_REAL_SHARDS), store / shard_name(number))
    for path in small.iterdir():
        if path.suffix in (".txt", ".json") or path.name == "token_counts.npy":
            (store / path.name).write_bytes(path.read_bytes())
    rows = np.stack([np.array([row_of(placed) for placed in shard], SECTION_ROW) for shard in shards])
    numbers = np.arange(num_shards)
    every = rows[numbers % NUM_REAL_SHARDS]
    every["shard"] = numbers[:, None]
    content = io.BytesIO()
    np.save(content, every.ravel())
    write_bytes(store / SECTIONS, content.getvalue())
    manifest = json.loads((small / MANIFEST).read_text())
    digests = {
        "sections_sha256": hashlib.sha256(content.getvalue()).hexdigest(),
        "chunk_counts_sha256": write_chunk_counts(store / CHUNK_COUNTS, TokenStore(small), num_shards),
        "token_counts_sha256": manifest["token_counts_sha256"],
    }
    fingerprint = store_fingerprint(
        manifest["tokenizer"]["fingerprint"],
        manifest["token_bytes"],
        digests["sections_sha256"],
        digests["chunk_counts_sha256"],
        digests["token_counts_sha256"],
    )
    write_text(store / MANIFEST, json.dumps(manifest | digests | {"fingerprint": fingerprint}))
    return store


def row_of(placed: PlacedSection) -> tuple[object, ...]:
    """Return the row of a section in the table."""
    record = placed.record
    counts = (record[name] for name in ("num_documents", "num_sentences", "num_tokens", "num_single"))
    return 0, *counts, 0, placed.place.offset, np.frombuffer(placed.place.sha256, np.uint8)


def write_chunk_counts(path: Path, small: TokenStore, num_shards: int) -> str:
    """Write the table of chunk counts of a linked store, and return the SHA-256 of its digests."""
    texts = np.concatenate([texts_of(number % NUM_REAL_SHARDS) for number in range(num_shards)])
    with open(path, "wb") as file:
        digests = []
        file.seek(32 * len(CHUNK_LENGTHS))
        for length in CHUNK_LENGTHS:
            row = small.chunk_counts(length)[texts % small.num_sections].astype("<u4").tobytes()
            digests.append(hashlib.sha256(row).digest())
            file.write(row)
        file.seek(0)
        file.write(b"".join(digests))
    return hashlib.sha256(b"".join(digests)).hexdigest()


def drop_copies(paths: Sequence[Path]) -> None:
    """Let the system drop its copies of files, so that they are read from the disk."""
    os.sync()
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


# -- measuring ---------------------------------------------------------------------------------------------------


def measured(store: Path, change: int) -> dict[str, float]:
    """Open a store and draw from it, around the step in which a round ends."""
    before = peak_memory()
    clock = Clock()
    data = PretrainingDataModule(PretrainingData(str(store), batch_size=BATCH_SIZE))
    figures = {
        "sections": data.stores["train"][0].num_sections,
        "tokens, millions": data.stores["train"][0].num_tokens / 1e6,
        "files": sum(1 for _ in store.iterdir()),
        "open, s": clock.read(),
    }
    plan = TrainingPlan(change + AFTER + 1, 1, seed=1)
    clock = Clock()
    data.training_batches(change - BEFORE, plan, 0, 1)
    figures["first batch, s"] = clock.read()
    stretches = []
    for start in range(change - BEFORE + 1, change + AFTER, STRETCH):
        clock, tokens = Clock(), 0
        for step in range(start, start + STRETCH):
            tokens += sum(batch["num_tokens"] for batch in data.training_batches(step, plan, 0, 1))
        stretches.append((tokens / 1e6, clock.read()))
    # The ten batches in which a round ends and the next begins.
    end = (BEFORE - 1) // STRETCH
    for name, part in (
        ("batches 2 to 11", stretches[:1]),
        ("batches 12 to 101", stretches[1:10]),
        ("the ten batches in which a round ends", stretches[end : end + 1]),
        ("1,000 batches", stretches),
    ):
        tokens, seconds = map(sum, zip(*part, strict=True))
        figures[f"{name}, million real tokens/s"] = tokens / seconds
    return figures | {"peak memory, MB": peak_memory(), "of which importing, MB": before}


class Clock:
    """The seconds since it was made, without those in which this process could run and others had its core."""

    def __init__(self) -> None:
        self._started = self._now()

    def read(self) -> float:
        """Return the seconds."""
        return self._now() - self._started

    def _now(self) -> float:
        # "Time spent waiting on a runqueue", in nanoseconds: the kernel's scheduler/sched-stats.rst.
        waited = int(Path("/proc/self/schedstat").read_text().split()[1])
        return time.perf_counter() - waited / 1e9


def round_change(store: Path) -> int:
    """Return a step in the middle of the first epoch in which a round ends."""
    data = PretrainingDataModule(PretrainingData(str(store), batch_size=BATCH_SIZE))
    source = OBJECTIVES[data.settings.objective](data.stores["train"][0], data.settings.max_seq_length, 0.1, seed=1)
    return next_round(source, source.num_samples // 2) // BATCH_SIZE


def next_round(source: Samples, position: int) -> int:
    """Return the first position after a given one that belongs to another round, in the first epoch."""

    def round_at(place: int) -> int:
        [section], _ = source.rounds.locate(source.shuffle(0, 0, np.array([place])))
        return source.rounds.round_of(0, int(section))

    low, high = position, position + 1
    while high < source.num_samples and round_at(high) == round_at(position):
        high += high - position
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if round_at(middle) == round_at(position) else (low, middle)
    return high


def peak_memory() -> float:
    """Return the most memory that this process has used, in MB."""
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
