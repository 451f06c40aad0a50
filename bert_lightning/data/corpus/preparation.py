"""Preparation of a corpus: from text to a token store.

A shard takes whole documents until it holds enough text, so its content depends on the input alone and not on the
number of workers. Only a document with more text than two shards is cut. Shards are written in parallel, each
complete or not at all. A whole shard of an earlier preparation is kept if it was made from the same text with the
same settings. A preparation that was killed can therefore continue.
"""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.files import write_bytes, write_json
from bert_lightning.data.corpus.documents import CorpusFormat, Passage, detect_layout, read_passages
from bert_lightning.data.corpus.shard_jobs import ShardJobs, shard_texts
from bert_lightning.data.corpus.shard_writer import Encoding
from bert_lightning.data.corpus.shards import ShardRecord
from bert_lightning.data.corpus.store_settings import (
    UNFINISHED,
    StoreSettings,
    is_unfinished_file,
    refuse_other_content,
    store_settings,
)
from bert_lightning.data.corpus.token_store import FORMAT, MANIFEST, TOKEN_COUNTS, store_fingerprint
from bert_lightning.data.reading.lines import Repairs, named
from bert_lightning.data.reading.tables import is_table
from bert_lightning.errors import InputError, WorkError
from bert_lightning.text.wordpiece import WordPieceTokenizer

_NUM_FREQUENT = 10


@dataclass(frozen=True)
class PreparationSummary:
    """Counts and histograms of a prepared token store.

    Attributes:
        num_documents: documents with at least one token.
        num_sentences: sentences with at least one token.
        num_tokens: all tokens.
        num_unknown: tokens that are [UNK].
        num_shards: all shards.
        num_kept_shards: the shards that an earlier preparation had written.
        sentence_lengths: histogram of sentence lengths in tokens; bin k counts those above 2^(k - 1) and up to 2^k.
        document_lengths: histogram of document lengths, with the same bins.
        frequent: the most frequent word pieces, and how often each occurs.
        layouts: number of plain text files per layout.
        repairs: what had to be repaired in the text.
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
    """Make the token store `output` from `sources`.

    Args:
        sources: files and hub names, as `find_sources` returns them.
        tokenizer: the tokenizer; its vocabulary is saved in the store.
        output: a new folder, or that of the same store, finished or not.
        corpus: settings for reading the text.
        num_workers: processes; one per core unless given.
        scheduler: address of a Dask scheduler whose workers do the work; they must see `output` under the same path.
        progress: callback that receives the number of characters of each shard that is done.

    Raises:
        InputError: there is no text, a source cannot be read, or `output` holds something else. Files of this call
            are removed again; shards of an earlier call stay.
        WorkError: the disk is full, or the cluster gave up; finished shards stay.
    """
    if num_workers is not None and num_workers < 1:
        raise InputError(f"--workers is {num_workers}; it must be at least 1")
    corpus = corpus or CorpusFormat()
    formats = [_with_layout(source, corpus) for source in sources]
    settings = store_settings(sources, formats, corpus, tokenizer)
    refuse_other_content(output, settings)
    repairs = Repairs()
    jobs = ShardJobs(output.absolute(), _encoding(tokenizer, corpus.language), progress)
    existed = output.exists()
    _begin(output, settings)
    try:
        jobs.run(shard_texts(_passages(sources, formats, repairs)), num_workers, scheduler)
        if not jobs.records:
            raise InputError(f"the corpus is empty: no text in {named(sources)}")
    except InputError:
        _undo(output, jobs.created, existed)
        raise
    _remove_leftovers(output, jobs.records)
    token_counts = _token_counts(output, jobs.records, len(tokenizer))
    _finish(output, settings, tokenizer, jobs.records, token_counts)
    layouts = [each.layout for source, each in zip(sources, formats, strict=True) if not is_table(source)]
    most = np.argsort(-token_counts, kind="stable")[:_NUM_FREQUENT]
    return PreparationSummary(
        **_totals(jobs.records),
        num_shards=len(jobs.records),
        num_kept_shards=len(jobs.records) - len(jobs.created),
        sentence_lengths=_sum_histograms([record["sentence_lengths"] for record in jobs.records]),
        document_lengths=_sum_histograms([record["document_lengths"] for record in jobs.records]),
        frequent=[(tokenizer.entries[i], int(token_counts[i])) for i in most if token_counts[i]],
        layouts={name: layouts.count(name) for name in sorted(set(layouts))},
        repairs=repairs,
    )


# -- reading -----------------------------------------------------------------------------------------------------


def _with_layout(source: str, corpus: CorpusFormat) -> CorpusFormat:
    if is_table(source) or corpus.layout != "auto":
        return corpus
    return replace(corpus, layout=detect_layout(source, corpus))


def _encoding(tokenizer: WordPieceTokenizer, language: str) -> Encoding:
    settings_key = json.dumps([FORMAT, version("sentencex"), language, tokenizer.fingerprint])
    return Encoding(tokenizer.vocabulary, language, settings_key)


def _passages(sources: Sequence[str], formats: Sequence[CorpusFormat], repairs: Repairs) -> Iterator[Passage]:
    for source, each in zip(sources, formats, strict=True):
        yield from read_passages(source, each, repairs)


# -- the files of the whole store --------------------------------------------------------------------------------


def _begin(output: Path, settings: StoreSettings) -> None:
    """Write the settings before the first shard, so that the same call can continue after a kill."""
    if (output / MANIFEST).is_file():
        return
    try:
        write_json(output / UNFINISHED, settings)
    except OSError as error:
        raise InputError(f"{output}: cannot be written: {error.strerror or error}") from None


def _undo(output: Path, created: Sequence[Path], existed: bool) -> None:
    """Remove what this call wrote."""
    for folder in created:
        shutil.rmtree(folder, ignore_errors=True)
    if not existed:
        shutil.rmtree(output)
    elif not any(output.glob("shard-*")):
        (output / UNFINISHED).unlink(missing_ok=True)


def _remove_leftovers(output: Path, records: Sequence[ShardRecord]) -> None:
    """Remove shards and files that an earlier call left unfinished."""
    names = {record["name"] for record in records}
    for item in output.iterdir():
        if item.name not in names and re.match(r"\.?shard-", item.name):
            shutil.rmtree(item, ignore_errors=True)
        elif is_unfinished_file(item.name):
            item.unlink(missing_ok=True)


def _finish(
    output: Path,
    settings: StoreSettings,
    tokenizer: WordPieceTokenizer,
    records: list[ShardRecord],
    token_counts: NDArray[np.int64],
) -> None:
    """Write the tokenizer, the token counts and, last, the manifest."""
    file = io.BytesIO()
    np.save(file, token_counts, allow_pickle=False)
    counts_sha256 = hashlib.sha256(file.getvalue()).hexdigest()
    manifest = {
        "format": FORMAT,
        "settings": settings,
        "tokenizer": {"fingerprint": tokenizer.fingerprint, "vocab_size": len(tokenizer)},
        **_totals(records),
        "token_counts_sha256": counts_sha256,
        "shards": records,
        "fingerprint": store_fingerprint(tokenizer.fingerprint, records, counts_sha256),
    }
    try:
        tokenizer.save(output)
        write_bytes(output / TOKEN_COUNTS, file.getvalue())
        write_json(output / MANIFEST, manifest)
        (output / UNFINISHED).unlink(missing_ok=True)
    except OSError as error:
        raise WorkError(f"{output}: cannot be written: {error.strerror or error}. Finished shards are kept") from None


def _totals(records: Sequence[ShardRecord]) -> dict[str, int]:
    """Return the counts of the whole store; a document in several shards counts once."""
    num_continued = sum(after["continues"] and before["open"] for before, after in pairwise(records))
    return {
        "num_documents": sum(record["num_documents"] for record in records) - num_continued,
        "num_sentences": sum(record["num_sentences"] for record in records),
        "num_tokens": sum(record["num_tokens"] for record in records),
        "num_unknown": sum(record["num_unknown"] for record in records),
    }


def _token_counts(output: Path, records: Sequence[ShardRecord], vocab_size: int) -> NDArray[np.int64]:
    """Count how often each vocabulary entry occurs, (V,)."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for record in records:
        tokens = np.load(output / record["name"] / "tokens.npy", mmap_mode="r", allow_pickle=False)
        counts += np.bincount(tokens, minlength=vocab_size)
    return counts


def _sum_histograms(histograms: Sequence[list[int]]) -> list[int]:
    """Add histograms of different numbers of bins.

    >>> _sum_histograms([[1, 2], [0, 1, 5]])
    [1, 3, 5]
    """
    total = np.zeros(max(map(len, histograms)), dtype=np.int64)
    for histogram in histograms:
        total[: len(histogram)] += histogram
    return total.tolist()
