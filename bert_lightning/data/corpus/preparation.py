"""Preparation of a corpus: from text to a token store.

A section takes whole documents until it holds enough text, so its content depends on the input alone and not on the
number of workers. Only a document with more text than two sections is cut. Sections are written in parallel, each
complete or not at all, and joined to shards. A whole section of an earlier preparation is kept if it was made from
the same text with the same settings. A preparation that was killed can therefore continue.
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bert_lightning.checkpoints.files import write_json
from bert_lightning.data.corpus.documents import CorpusFormat, Passage, detect_layout, read_passages
from bert_lightning.data.corpus.earlier_format import EARLIER_FORMAT, EarlierFiles
from bert_lightning.data.corpus.kept_sections import KeptSections
from bert_lightning.data.corpus.section_jobs import SectionJobs, SectionTask, text_tasks
from bert_lightning.data.corpus.section_writer import Encoding
from bert_lightning.data.corpus.store_builder import StoreBuilder, StoreTotals
from bert_lightning.data.corpus.store_settings import (
    UNFINISHED,
    StoreSettings,
    is_unfinished_file,
    refuse_other_content,
    store_settings,
)
from bert_lightning.data.corpus.token_store import MANIFEST, TokenStore, read_manifest
from bert_lightning.data.reading.lines import Repairs, named
from bert_lightning.data.reading.tables import is_table
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import WordPieceTokenizer

_NUM_FREQUENT = 10
# Raised whenever the same text and settings give other tokens, so that sections of earlier versions are not kept.
_ENCODING = 2


@dataclass(frozen=True)
class PreparationSummary:
    """Counts and histograms of a prepared token store.

    Attributes:
        num_documents: documents with at least one token.
        num_sentences: sentences with at least one token.
        num_tokens: all tokens.
        num_unknown: tokens that are [UNK].
        num_shards: files with tokens.
        num_sections: all sections.
        num_kept_sections: how many of them an earlier preparation had written.
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
    num_sections: int
    num_kept_sections: int
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
        output: a new folder, or that of the same store, finished or not. A finished store of an earlier format is
            verified and left as it is.
        corpus: settings for reading the text.
        num_workers: processes; one per core unless given.
        scheduler: address of a Dask scheduler whose workers do the work; they must see `output` under the same path.
        progress: callback that receives the number of characters of each section that is done.

    Raises:
        InputError: there is no text, a source cannot be read, or `output` holds something else. Files of this call
            are removed again; sections of an earlier call stay.
        WorkError: the disk is full, or the cluster gave up; finished sections stay.
    """
    if num_workers is not None and num_workers < 1:
        raise InputError(f"--workers is {num_workers}; it must be at least 1")
    corpus = corpus or CorpusFormat()
    formats = [_with_layout(source, corpus) for source in sources]
    settings = store_settings(sources, formats, corpus, tokenizer)
    refuse_other_content(output, settings)
    repairs = Repairs()
    layouts = [each.layout for source, each in zip(sources, formats, strict=True) if not is_table(source)]
    numbers: dict[str, int] = {name: layouts.count(name) for name in sorted(set(layouts))}
    if (output / MANIFEST).is_file() and read_manifest(output)["format"] == EARLIER_FORMAT:
        # Runs may continue on this store, and they need its order of samples.
        totals = _earlier_totals(output)
        return summary_of(totals, totals.num_sections, tokenizer, numbers, repairs)
    tasks = text_tasks(_passages(sources, formats, repairs), _encoding(tokenizer, corpus.language))
    totals, num_kept = build_store(
        output, tasks, tokenizer, settings, num_workers, scheduler, progress, f"no text in {named(sources)}"
    )
    return summary_of(totals, num_kept, tokenizer, numbers, repairs)


def _earlier_totals(output: Path) -> StoreTotals:
    """Verify a finished store of the earlier format, and return its totals."""
    store = TokenStore(output)
    assert isinstance(store.files, EarlierFiles), "the manifest has this format"
    store.verify()
    totals = StoreTotals(len(store.tokenizer))
    totals.num_shards, totals.token_counts = store.num_shards, store.token_counts()
    for record, joined in zip(store.files.records, store.files.joined.tolist(), strict=True):
        totals.add(record, joined)
    return totals


def build_store(
    output: Path,
    tasks: Iterator[SectionTask],
    tokenizer: WordPieceTokenizer,
    settings: StoreSettings,
    num_workers: int | None,
    scheduler: str | None,
    progress: Callable[[int], None],
    empty: str,
) -> tuple[StoreTotals, int]:
    """Make a store from the tasks of its sections; return its totals, and how many sections were kept.

    Args:
        output: folder of the store.
        tasks: the sections.
        tokenizer: the tokenizer of the store.
        settings: the text, tokenizer and layout from which the store is made.
        num_workers: processes; one per core unless given.
        scheduler: address of a Dask scheduler whose workers do the work.
        progress: callback that receives the size of each section that is done.
        empty: the end of the message if there is no section.

    Raises:
        InputError: there is no section, or a task raises it. Files of this call are removed again.
        WorkError: the disk is full, or the cluster gave up; finished sections stay.
    """
    existed = output.exists()
    # Workers of a cluster do not share the folder of this process.
    output = output.absolute()
    with ExitStack() as stack:
        stack.enter_context(_alone(output))
        _begin(output, settings)
        builder = stack.enter_context(closing(StoreBuilder(output, len(tokenizer))))
        jobs = SectionJobs(output, builder, KeptSections(output, len(tokenizer)), progress)
        try:
            jobs.run(tasks, num_workers, scheduler)
            if not builder.num_added:
                raise InputError(f"the corpus is empty: {empty}")
        except InputError:
            _undo(output, [*builder.created, *jobs.created], existed)
            raise
        builder.finish(tokenizer, settings)
        (output / UNFINISHED).unlink(missing_ok=True)
        _remove_leftovers(output, builder.shards)
    return builder.totals, jobs.num_kept


def summary_of(
    totals: StoreTotals, num_kept: int, tokenizer: WordPieceTokenizer, layouts: dict[str, int], repairs: Repairs
) -> PreparationSummary:
    """Return the summary of a store that was made."""
    most = np.argsort(-totals.token_counts, kind="stable")[:_NUM_FREQUENT]
    return PreparationSummary(
        num_documents=totals.num_documents,
        num_sentences=totals.num_sentences,
        num_tokens=totals.num_tokens,
        num_unknown=totals.num_unknown,
        num_shards=totals.num_shards,
        num_sections=totals.num_sections,
        num_kept_sections=num_kept,
        sentence_lengths=totals.sentence_lengths,
        document_lengths=totals.document_lengths,
        frequent=[(tokenizer.entries[i], int(totals.token_counts[i])) for i in most if totals.token_counts[i]],
        layouts=layouts,
        repairs=repairs,
    )


# -- reading -----------------------------------------------------------------------------------------------------


def _with_layout(source: str, corpus: CorpusFormat) -> CorpusFormat:
    if is_table(source) or corpus.layout != "auto":
        return corpus
    return replace(corpus, layout=detect_layout(source, corpus))


def _encoding(tokenizer: WordPieceTokenizer, language: str) -> Encoding:
    settings_key = json.dumps([_ENCODING, version("sentencex"), language, tokenizer.fingerprint])
    return Encoding(tokenizer.vocabulary, language, settings_key)


def _passages(sources: Sequence[str], formats: Sequence[CorpusFormat], repairs: Repairs) -> Iterator[Passage]:
    for source, each in zip(sources, formats, strict=True):
        yield from read_passages(source, each, repairs)


# -- the files of the whole store --------------------------------------------------------------------------------


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Make the folder, and lock other preparations out. The system releases the lock, however the process ends.

    Raises:
        InputError: another preparation works in the folder, or it cannot be made.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        folder = os.open(output, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{output}: cannot be written: {error.strerror or error}") from None
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{output}: another command is making this token store: wait for its end, or choose another --output"
            ) from None
        except OSError:
            # The file system cannot lock a folder.
            pass
        yield
    finally:
        os.close(folder)


def _begin(output: Path, settings: StoreSettings) -> None:
    """Write the settings before the first section, so that the same call can continue after a kill."""
    if (output / MANIFEST).is_file():
        return
    try:
        write_json(output / UNFINISHED, settings)
    except OSError as error:
        raise InputError(f"{output}: cannot be written: {error.strerror or error}") from None


def _undo(output: Path, created: Iterable[Path], existed: bool) -> None:
    """Remove what this call wrote."""
    for path in created:
        path.unlink(missing_ok=True)
    if not existed:
        shutil.rmtree(output)
    elif not any(output.glob("*.tokens")):
        (output / UNFINISHED).unlink(missing_ok=True)


def _remove_leftovers(output: Path, shards: set[str]) -> None:
    """Remove sections, shards and other files that an earlier call left unfinished."""
    for item in output.iterdir():
        if item.name in shards:
            continue
        if re.match(r"\.*(shard|section)-", item.name) or is_unfinished_file(item.name):
            if item.is_dir():
                shutil.rmtree(item, ignore_errors=True)
            else:
                item.unlink(missing_ok=True)
