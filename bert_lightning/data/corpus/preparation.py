"""Building a token store: shards made in parallel, each complete or absent, the same whatever the number of workers.

A shard takes whole documents until it holds enough text, so its content depends on the input alone; only a document
of more than two shards' text is cut. A shard that is there already, whole and made from the same text in the same
way, is kept: that is how a killed preparation goes on.
"""

import hashlib
import io
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.files import sha256, write_bytes, write_json
from bert_lightning.checkpoints.listing import is_left_behind
from bert_lightning.data.corpus.documents import CorpusFormat, Passage, detect_layout, read_passages
from bert_lightning.data.corpus.executors import dask_executor, local_executor
from bert_lightning.data.corpus.shards import Encoding, ShardText, ShardWriter, kept_record, shard_key
from bert_lightning.data.corpus.token_store import (
    FORMAT,
    MANIFEST,
    SHARD_RECORD,
    TOKEN_COUNTS,
    shard_name,
    store_fingerprint,
)
from bert_lightning.data.reading.hub import HUB, hub_revision
from bert_lightning.data.reading.lines import Repairs, named
from bert_lightning.data.reading.tables import is_table
from bert_lightning.errors import InputError, WorkError
from bert_lightning.text.wordpiece import TOKENIZER_FILES, WordPieceTokenizer

# Text of one shard: small enough to share out even a modest corpus, large enough to be read in one go.
CHARACTERS_PER_SHARD = 4 << 20
# What a store is being made from, until its manifest says so.
UNFINISHED = "unfinished.json"
# What a kill in the middle of writing a file leaves.
_TEMPORARY = re.compile(r"\..+\.(json|npy|txt)\.\d+\.tmp")
_NUM_FREQUENT = 10


@dataclass(frozen=True)
class PreparationSummary:
    """What a preparation found, over the whole store.

    Attributes:
        sentence_lengths: sentences by length in tokens; bin k holds those above 2^(k - 1) up to 2^k.
        document_lengths: documents by length, in the same bins.
        frequent: the most frequent word pieces and how often each occurs.
        layouts: how many plain text files were read in which layout.
        repairs: what had to be mended.
    """

    num_documents: int
    num_sentences: int
    num_tokens: int
    num_unknown: int
    num_shards: int
    num_kept_shards: int
    sentence_lengths: list[int]
    document_lengths: list[int]
    frequent: list[tuple[str, int]]
    layouts: dict[str, int]
    repairs: Repairs


def prepare(
    sources: Sequence[str],
    tokenizer: WordPieceTokenizer,
    output: Path,
    *,
    corpus: CorpusFormat | None = None,
    num_workers: int | None = None,
    scheduler: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> PreparationSummary:
    """Build the token store `output` from `sources`.

    Args:
        sources: files and hub names, as `find_sources` gives them.
        tokenizer: its vocabulary goes into the store.
        output: a new folder, or the same store, finished or not.
        corpus: how the text is read.
        num_workers: processes; one for each core unless given.
        scheduler: address of a Dask scheduler whose workers, which see `output` under the same path, do the work.
        progress: told the characters done after each shard.

    Raises:
        InputError: no text, unreadable input, or `output` holds something else. What this call had written is
            removed again; shards of an earlier call stay.
        WorkError: the disk is full, or the cluster gave up; finished shards stay.
    """
    corpus = corpus or CorpusFormat()
    if num_workers is not None and num_workers < 1:
        raise InputError(f"--workers is {num_workers}; it must be at least 1")
    formats = [_with_layout(source, corpus) for source in sources]
    settings = {
        "language": corpus.language,
        "errors": corpus.errors,
        "document_start": corpus.document_start,
        "lines_per_document": corpus.lines_per_document,
        "text_column": corpus.text_column,
        "inputs": [_describe(source, each) for source, each in zip(sources, formats, strict=True)],
    }
    settings["tokenizer"] = tokenizer.fingerprint
    _refuse_foreign(output, settings)
    key = json.dumps([FORMAT, version("sentencex"), corpus.language, tokenizer.fingerprint])
    repairs = Repairs()
    texts = _shard_texts(
        passage
        for source, each in zip(sources, formats, strict=True)
        for passage in read_passages(source, each, repairs)
    )
    encoding = Encoding(tokenizer.vocabulary, corpus.language, key)
    job = _Job(output.absolute(), encoding, progress)
    existed = output.exists()
    try:
        # Before the first shard, so that a killed preparation is known for what it is.
        if not (output / MANIFEST).is_file():
            write_json(output / UNFINISHED, settings)
    except OSError as error:
        raise InputError(f"{output}: cannot be written: {error.strerror or error}") from None
    try:
        job.run(texts, num_workers, scheduler)
        if not job.records:
            raise InputError(f"the corpus is empty: no text in {named(sources)}")
    except InputError:
        for folder in job.created:
            shutil.rmtree(folder, ignore_errors=True)
        if not existed:
            shutil.rmtree(output)
        elif not any(output.glob("shard-*")):
            (output / UNFINISHED).unlink(missing_ok=True)
        raise
    return _finish(job, sources, formats, settings, tokenizer, output, repairs)


def _finish(
    job: "_Job",
    sources: Sequence[str],
    formats: Sequence[CorpusFormat],
    settings: dict[str, Any],
    tokenizer: WordPieceTokenizer,
    output: Path,
    repairs: Repairs,
) -> PreparationSummary:
    """Write what is of the whole store, the manifest last, and remove what an earlier call left half done."""
    records = job.records
    names = {record["name"] for record in records}
    for stale in output.iterdir():
        if stale.name not in names and re.match(r"\.?shard-", stale.name):
            shutil.rmtree(stale, ignore_errors=True)
        elif _TEMPORARY.fullmatch(stale.name):
            stale.unlink(missing_ok=True)
    token_counts = _token_counts(output, records, len(tokenizer))
    file = io.BytesIO()
    np.save(file, token_counts, allow_pickle=False)
    counts = {
        key: sum(record[key] for record in records)
        for key in ("num_documents", "num_sentences", "num_tokens", "num_unknown")
    }
    counts["num_documents"] -= sum(after["continues"] and before["open"] for before, after in pairwise(records))
    manifest = {
        "format": FORMAT,
        "settings": settings,
        "tokenizer": {"fingerprint": tokenizer.fingerprint, "vocab_size": len(tokenizer)},
        **counts,
        "token_counts_sha256": hashlib.sha256(file.getvalue()).hexdigest(),
        "shards": records,
    }
    try:
        tokenizer.save(output)
        write_bytes(output / TOKEN_COUNTS, file.getvalue())
        write_json(output / MANIFEST, {**manifest, "fingerprint": store_fingerprint(manifest)})
        (output / UNFINISHED).unlink(missing_ok=True)
    except OSError as error:
        raise WorkError(f"{output}: cannot be written: {error.strerror or error}. Finished shards are kept") from None
    chosen = [each.layout for source, each in zip(sources, formats, strict=True) if not is_table(source)]
    most = np.argsort(-token_counts, kind="stable")[:_NUM_FREQUENT]
    return PreparationSummary(
        **counts,
        num_shards=len(records),
        num_kept_shards=len(records) - len(job.created),
        sentence_lengths=_summed([record["sentence_lengths"] for record in records]),
        document_lengths=_summed([record["document_lengths"] for record in records]),
        frequent=[(tokenizer.entries[i], int(token_counts[i])) for i in most if token_counts[i]],
        layouts={name: chosen.count(name) for name in sorted(set(chosen))},
        repairs=repairs,
    )


class _Job:
    """The shards of one preparation, in order: kept, in work, or done."""

    def __init__(self, output: Path, encoding: Encoding, progress: Callable[[int], None]) -> None:
        self.output = output
        self.encoding = encoding
        self.progress = progress
        self.records: list[dict[str, Any]] = []
        self.created: list[Path] = []
        self._pending: deque[tuple[Future[dict[str, Any] | None], Path, int]] = deque()

    def run(self, texts: Iterator[ShardText], num_workers: int | None, scheduler: str | None) -> None:
        """Make every shard that is not there yet."""
        with ExitStack() as stack:
            executor: Executor
            if scheduler is not None:
                executor, num_workers = stack.enter_context(dask_executor(scheduler))
            else:
                first, second = next(texts, None), next(texts, None)
                num_workers = 1 if second is None else num_workers or os.cpu_count() or 1
                texts = _chained(first, second, texts)
                executor = stack.enter_context(local_executor(num_workers))
            try:
                for text in texts:
                    self._submit(text, executor, num_workers)
                while self._pending:
                    self._collect()
            except BaseException:
                # What workers still finish belongs to this call too.
                for future, _, _ in self._pending:
                    if not future.done():
                        future.cancel()
                for future, folder, _ in self._pending:
                    if not future.cancelled() and future.exception() is None and folder.exists():
                        self.created.append(folder)
                raise

    def _submit(self, text: ShardText, executor: Executor, num_workers: int) -> None:
        folder = self.output / shard_name(text.number)
        key = shard_key(text, self.encoding)
        size = sum(len(segment) for passage in text.passages for segment in passage.segments)
        kept = kept_record(folder, key)
        if kept is not None:
            while self._pending:
                self._collect()
            self.records.append(kept)
            self.progress(size)
            return
        self._pending.append((executor.submit(make_shard, text, folder, key, self.encoding), folder, size))
        # One group more in flight than workers keeps them busy and the memory bounded.
        while len(self._pending) > num_workers + 1:
            self._collect()

    def _collect(self) -> None:
        future, folder, size = self._pending[0]
        record = future.result()
        if record is not None and not (folder / SHARD_RECORD).is_file():
            raise WorkError(
                f"{folder}: a worker wrote this shard, but it is not here: all must share one file system"
            )
        self._pending.popleft()
        if record is not None:
            self.created.append(folder)
            self.records.append(record)
        self.progress(size)


_writers: dict[str, ShardWriter] = {}


def make_shard(text: ShardText, folder: Path, key: str, encoding: Encoding) -> dict[str, Any] | None:
    """Write one shard in whatever process this is; its record, or None where the text holds no token."""
    if encoding.settings_key not in _writers:
        _writers.clear()
        _writers[encoding.settings_key] = ShardWriter(WordPieceTokenizer(encoding.vocabulary), encoding.language)
    return _writers[encoding.settings_key].write(text, folder, key)


def _shard_texts(passages: Iterator[Passage]) -> Iterator[ShardText]:
    """Passages in groups of about `CHARACTERS_PER_SHARD`, cut inside a document only at twice that."""
    group: list[Passage] = []
    size = number = 0
    continues = False
    for passage in passages:
        group.append(passage)
        size += sum(map(len, passage.segments))
        if size >= CHARACTERS_PER_SHARD * (1 if passage.ends else 2):
            yield ShardText(number, group, continues)
            continues = not passage.ends
            group, size, number = [], 0, number + 1
    if group:
        yield ShardText(number, group, continues)


def _chained(first: ShardText | None, second: ShardText | None, rest: Iterator[ShardText]) -> Iterator[ShardText]:
    yield from (text for text in (first, second) if text is not None)
    yield from rest


def _with_layout(source: str, corpus: CorpusFormat) -> CorpusFormat:
    if is_table(source) or corpus.layout != "auto":
        return corpus
    return replace(corpus, layout=detect_layout(source, corpus))


def _describe(source: str, corpus: CorpusFormat) -> dict[str, Any]:
    if source.startswith(HUB):
        return {"source": source, "layout": corpus.layout, "revision": hub_revision(source)}
    path = Path(source)
    return {"source": source, "bytes": path.stat().st_size, "sha256": sha256(path), "layout": corpus.layout}


def _token_counts(output: Path, records: Sequence[dict[str, Any]], vocab_size: int) -> NDArray[np.int64]:
    counts = np.zeros(vocab_size, dtype=np.int64)
    for record in records:
        tokens = np.load(output / record["name"] / "tokens.npy", mmap_mode="r", allow_pickle=False)
        counts += np.bincount(tokens, minlength=vocab_size)
    return counts


def _summed(histograms: Sequence[list[int]]) -> list[int]:
    total = np.zeros(max(map(len, histograms)), dtype=np.int64)
    for histogram in histograms:
        total[: len(histogram)] += histogram
    return total.tolist()


def _refuse_foreign(output: Path, settings: dict[str, Any]) -> None:
    """Raise unless `output` is new, empty, or the same store, finished or not."""
    if not output.exists():
        return
    if not output.is_dir():
        raise InputError(f"{output} is a file: choose another --output")
    record = next((output / name for name in (MANIFEST, UNFINISHED) if (output / name).is_file()), None)
    if record is not None:
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
            difference = _difference(content["settings"] if record.name == MANIFEST else content, settings)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise InputError(f"{record} is damaged: delete the folder, or choose another --output") from None
        if difference:
            raise InputError(f"{output} is a token store made from other {difference}: choose another --output")
    for item in output.iterdir():
        if is_left_behind(item.name) and not item.name.startswith(".shard-"):
            continue
        shard = re.fullmatch(r"\.?shard-\d{5,}(\..*)?", item.name) and item.is_dir()
        # A vocabulary without a shard is somebody's tokenizer.
        of_store = record is not None and item.name in (MANIFEST, UNFINISHED, TOKEN_COUNTS, *TOKENIZER_FILES)
        if not (shard and record is not None) and not of_store and not _TEMPORARY.fullmatch(item.name):
            raise InputError(
                f"{output} holds {item.name}, which is no part of a token store: choose another --output"
            )


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """What a store was made from that is another now, in words; None where nothing is."""
    if old == new:
        return None
    if old["tokenizer"] != new["tokenizer"]:
        return "input: the vocabulary is another one"
    # A file is what it holds, wherever it lies; a hub source is its name.
    before, now = ([_content(item) for item in each["inputs"]] for each in (old, new))
    if before != now:
        names = {item["source"] for item in old["inputs"]}
        for item, content in zip(new["inputs"], now, strict=True):
            if content not in before:
                known = item["source"] in names
                return f"input: {item['source']} {'has changed since' if known else 'is new'}"
        return "input: the sources are fewer, or in another order"
    if all(old.get(name) == new[name] for name in new if name != "inputs"):
        return None
    changed = [name for name in new if old.get(name) != new[name]]
    return f"settings ({', '.join(changed)})"


def _content(item: dict[str, Any]) -> list[Any]:
    return [item["layout"], item["sha256"] if "sha256" in item else [item["source"], item["revision"]]]
