"""Conversion of a token store of the earlier format into today's, without encoding its text again.

The result has the same bytes as a store that `prepare` makes from the same text.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import cast

from bert_lightning.data.corpus.earlier_format import EarlierFiles, Shard, ShardRecord
from bert_lightning.data.corpus.preparation import PreparationSummary, build_store, summary_of
from bert_lightning.data.corpus.section_jobs import SectionTask
from bert_lightning.data.corpus.section_writer import WrittenSection, write_section
from bert_lightning.data.corpus.sections import SectionArrays
from bert_lightning.data.corpus.store_settings import StoreSettings, refuse_other_content
from bert_lightning.data.corpus.token_store import TokenStore, read_manifest
from bert_lightning.data.reading.lines import Repairs
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import WordPieceTokenizer


def convert(store: Path, output: Path, *, num_workers: int | None = None) -> PreparationSummary:
    """Make the token store `output` from a store of the earlier format.

    Args:
        store: folder of the earlier store, which stays as it is.
        output: a new folder, or that of the same conversion, finished or not.
        num_workers: processes; one per core unless given.

    Raises:
        InputError: `store` is of today's format or damaged, or `output` is `store` or holds something else.
        WorkError: the disk is full; finished sections stay, and the same call continues.
    """
    if num_workers is not None and num_workers < 1:
        raise InputError(f"--workers is {num_workers}; it must be at least 1")
    opened = TokenStore(store)
    if not isinstance(opened.files, EarlierFiles):
        raise InputError(f"{store} is a token store of today's format: there is nothing to convert")
    if output.exists() and output.samefile(store):
        raise InputError(f"--output is {output}, the store itself, which stays as it is: choose another folder")
    settings = cast(StoreSettings, read_manifest(store)["settings"])
    refuse_other_content(output, settings)
    tasks = _tasks(store.absolute(), opened.files, opened.tokenizer)
    totals, num_kept = build_store(
        output, tasks, opened.tokenizer, settings, num_workers, None, lambda _: None, f"{store} holds no token"
    )
    return summary_of(totals, num_kept, opened.tokenizer, {}, Repairs())


def _tasks(store: Path, files: EarlierFiles, tokenizer: WordPieceTokenizer) -> Iterator[SectionTask]:
    for record in files.records:
        write = partial(_convert_shard, store / record["name"], record, len(tokenizer), tokenizer.unknown_id)
        number = int(record["name"].removeprefix("shard-"))
        yield SectionTask(number, record["key"], record["num_tokens"], write)


def _convert_shard(folder: Path, record: ShardRecord, vocab_size: int, unknown_id: int, path: Path) -> WrittenSection:
    """Verify an earlier shard, and write it as a section."""
    shard = Shard(folder, record, set())
    return write_section(
        path,
        SectionArrays(shard.tokens, shard.sentences, shard.documents),
        vocab_size,
        unknown_id,
        key=record["key"],
        number=int(record["name"].removeprefix("shard-")),
        continues=record["continues"],
        open=record["open"],
    )
