"""Building a token store: shards made in parallel, each complete or absent, the same whatever the number of workers.

A shard takes whole documents until it holds enough text, so its content depends on the input alone. A shard that
is there already, whole and made from the same documents in the same way, is kept: that is how a killed
preparation goes on.
"""

import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from bert_lightning.checkpoints.files import sha256, sync_folder, write_json
from bert_lightning.checkpoints.tokenizer_files import Vocabulary
from bert_lightning.data.sources import HUB, Document, Layout, detect_layout, is_table, read_documents
from bert_lightning.data.token_store import (
    ARRAYS,
    MANIFEST,
    SHARD_RECORD,
    shard_fault,
    shard_name,
    store_fingerprint,
)
from bert_lightning.errors import InputError
from bert_lightning.text.sentences import split_sentences
from bert_lightning.text.wordpiece import TOKENIZER_FILES, WordPieceTokenizer

# Text of one shard: small enough to share out even a modest corpus, large enough to be read in one go.
CHARACTERS_PER_SHARD = 4 << 20
FORMAT = 1


@dataclass(frozen=True)
class PreparationSummary:
    """What a preparation found: counts over the whole store."""

    num_documents: int
    num_sentences: int
    num_tokens: int
    num_unknown: int
    num_shards: int
    num_kept_shards: int
    layouts: dict[str, int]


def prepare(
    sources: Sequence[str],
    tokenizer: WordPieceTokenizer,
    output: Path,
    *,
    num_workers: int | None = None,
    layout: Layout = "auto",
    text_column: str = "text",
    language: str = "en",
    progress: Callable[[int], None] = lambda _: None,
) -> PreparationSummary:
    """Build the token store `output` from `sources`; `progress` is told the characters done after each shard.

    Raises:
        InputError: no text, unreadable input, or `output` holds something else. What this call had written is
            removed again; shards of an earlier call stay.
    """
    if layout == "auto":
        layouts = {source: detect_layout(source) for source in sources if not is_table(source)}
    else:
        layouts = {source: layout for source in sources if not is_table(source)}
    settings = {"format": FORMAT, "language": language, "tokenizer": tokenizer.fingerprint}
    inputs = [_describe(source, layouts.get(source)) for source in sources]
    _refuse_foreign(output, {**settings, "inputs": inputs, "text_column": text_column})

    created: list[Path] = []
    existed = output.exists()
    try:
        records = _build_shards(
            _documents(sources, layouts, text_column),
            tokenizer,
            output,
            settings,
            num_workers,
            created,
            progress,
        )
        if not records:
            raise InputError(f"the corpus is empty: no text in {', '.join(sources[:3])}" + ("…" * (len(sources) > 3)))
    except InputError:
        for folder in created:
            shutil.rmtree(folder)
        if not existed and output.exists():
            shutil.rmtree(output)
        raise
    names = [record["name"] for record in records]
    for stale in output.glob("shard-*"):
        if stale.name not in names:
            shutil.rmtree(stale)
    counts = {key: sum(record[key] for record in records) for key in ("num_documents", "num_sentences", "num_tokens")}
    tokenizer.save(output)
    checksums = [record["sha256"] for record in records]
    write_json(
        output / MANIFEST,
        {
            "settings": {**settings, "inputs": inputs, "text_column": text_column},
            "tokenizer": {"fingerprint": tokenizer.fingerprint, "vocab_size": len(tokenizer)},
            "shards": names,
            **counts,
            "fingerprint": store_fingerprint(tokenizer.fingerprint, checksums),
        },
    )
    chosen = list(layouts.values())
    return PreparationSummary(
        **counts,
        num_unknown=sum(record["num_unknown"] for record in records),
        num_shards=len(records),
        num_kept_shards=len(records) - len(created),
        layouts={name: chosen.count(name) for name in sorted(set(chosen))},
    )


def _refuse_foreign(output: Path, settings: dict[str, Any]) -> None:
    """Raise unless `output` is new, empty, or the same store, finished or not."""
    if not output.exists():
        return
    if not output.is_dir():
        raise InputError(f"{output} is a file: choose another --output")
    if (output / MANIFEST).is_file():
        try:
            made_from = json.loads((output / MANIFEST).read_text())["settings"]
        except (ValueError, LookupError, TypeError):
            raise InputError(
                f"{output / MANIFEST} is damaged: delete the folder, or choose another --output"
            ) from None
        if made_from != settings:
            raise InputError(f"{output} is a token store made from other input or settings: choose another --output")
    items = list(output.iterdir())
    shards = [i for i in items if re.fullmatch(r"shard-\d{5}", i.name) and (i / SHARD_RECORD).is_file()]
    for item in items:
        # A vocabulary without a shard is somebody's tokenizer.
        of_store = item.name == MANIFEST or (shards and item.name in TOKENIZER_FILES)
        if not (item in shards or of_store or item.name.startswith(".shard-")):
            raise InputError(
                f"{output} holds {item.name}, which is no part of a token store: choose another --output"
            )


def _documents(sources: Sequence[str], layouts: dict[str, Any], text_column: str) -> Iterator[Document]:
    for source in sources:
        yield from read_documents(source, layouts.get(source, "paragraphs"), text_column)


def _describe(source: str, layout: str | None) -> dict[str, Any]:
    if source.startswith(HUB):
        return {"source": source}
    return {
        "source": source,
        "bytes": os.path.getsize(source),
        "sha256": sha256(Path(source)),
        "layout": layout,
    }


def _groups(documents: Iterator[Document]) -> Iterator[tuple[list[Document], int]]:
    """Whole documents in groups of about `CHARACTERS_PER_SHARD`, each with its number of characters."""
    group: list[Document] = []
    size = 0
    for document in documents:
        group.append(document)
        size += sum(map(len, document.segments))
        if size >= CHARACTERS_PER_SHARD:
            yield group, size
            group, size = [], 0
    if group:
        yield group, size


def _build_shards(
    documents: Iterator[Document],
    tokenizer: WordPieceTokenizer,
    output: Path,
    settings: dict[str, Any],
    num_workers: int | None,
    created: list[Path],
    progress: Callable[[int], None],
) -> list[dict[str, Any]]:
    """Make every shard that is not there yet; the records of all of them, in order, without empty shards."""
    num_workers = num_workers or os.cpu_count() or 1
    if num_workers < 1:
        raise InputError(f"--workers is {num_workers}; it must be at least 1")
    records: list[dict[str, Any]] = []
    pending: list[tuple[Future[dict[str, Any] | None], Path, int]] = []
    pool: ProcessPoolExecutor | None = None

    def collect() -> None:
        future, folder, size = pending.pop(0)
        record = future.result()
        if record is not None:
            created.append(folder)
            records.append(record)
        progress(size)

    def submit(group: list[Document], size: int, number: int) -> None:
        key = _key(group, settings)
        folder = output / shard_name(number)
        kept = _kept(folder, key)
        if kept is not None:
            while pending:
                collect()
            records.append(kept)
            progress(size)
            return
        arguments = (group, folder, key)
        future: Future[dict[str, Any] | None]
        if pool is None:
            future = Future()
            future.set_result(write_shard(*arguments, tokenizer, settings["language"]))
        else:
            future = pool.submit(_work, *arguments)
        pending.append((future, folder, size))
        # Twice as many groups in flight as workers keeps them busy and the memory bounded.
        while len(pending) > 2 * num_workers:
            collect()

    try:
        groups = _groups(documents)
        first, second = next(groups, None), next(groups, None)
        if second is not None and num_workers > 1:
            pool = ProcessPoolExecutor(
                num_workers,
                mp_context=get_context("spawn"),
                initializer=_start_worker,
                initargs=(tokenizer.vocabulary, settings["language"], os.getpid()),
            )
        number = 0
        for group in (first, second):
            if group is not None:
                submit(*group, number)
                number += 1
        for group in groups:
            submit(*group, number)
            number += 1
        while pending:
            collect()
    except BaseException:
        # What workers still finish belongs to this call too.
        if pool is not None:
            pool.shutdown(cancel_futures=True)
        created.extend(folder for future, folder, _ in pending if folder.exists() and folder not in created)
        raise
    finally:
        if pool is not None:
            pool.shutdown()
    return records


def _key(group: list[Document], settings: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for document in group:
        digest.update(json.dumps(document).encode())
    return digest.hexdigest()


def _kept(folder: Path, key: str) -> dict[str, Any] | None:
    """The record of a shard that an earlier call finished from the same documents, if it is whole."""
    try:
        record = json.loads((folder / SHARD_RECORD).read_text())
        whole = record["key"] == key and shard_fault(folder, record) is None
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return record if whole else None


_worker: dict[str, Any] = {}


def _start_worker(vocabulary: Vocabulary, language: str, parent: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _worker.update(tokenizer=WordPieceTokenizer(vocabulary), language=language)


def _end_with(parent: int) -> None:
    """End this worker when the process that started it was killed, which nobody else would tell it."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _work(group: list[Document], folder: Path, key: str) -> dict[str, Any] | None:
    return write_shard(group, folder, key, _worker["tokenizer"], _worker["language"])


def write_shard(
    group: list[Document], folder: Path, key: str, tokenizer: WordPieceTokenizer, language: str
) -> dict[str, Any] | None:
    """Encode documents and write them as one shard, under a temporary name that is renamed when all is on disk.

    Sentences and documents without a token are dropped; None, and no shard, when nothing is left.
    """
    dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32
    tokens: list[int] = []
    sentence_ends: list[int] = []
    document_ends: list[int] = []
    for document in group:
        sentences = document.segments
        if document.split:
            sentences = [s for paragraph in sentences for s in split_sentences(paragraph, language)]
        before = len(sentence_ends)
        for ids in tokenizer.encode_batch(sentences):
            if ids:
                tokens.extend(ids)
                sentence_ends.append(len(tokens))
        if len(sentence_ends) > before:
            document_ends.append(len(sentence_ends))
    if not tokens:
        return None
    token_array = np.asarray(tokens, dtype=dtype)
    arrays = {
        "tokens": token_array,
        "sentence_ends": np.asarray(sentence_ends, dtype=np.int64),
        "document_ends": np.asarray(document_ends, dtype=np.int64),
        "token_counts": np.bincount(token_array, minlength=len(tokenizer)).astype(np.int64),
    }
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name in ARRAYS:
            with open(temporary / f"{name}.npy", "wb") as file:
                np.save(file, arrays[name], allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        record = {
            "key": key,
            "name": folder.name,
            "num_documents": len(document_ends),
            "num_sentences": len(sentence_ends),
            "num_tokens": len(tokens),
            "num_unknown": int(arrays["token_counts"][tokenizer.unknown_id]),
            "sha256": {name: sha256(temporary / f"{name}.npy") for name in ARRAYS},
        }
        write_json(temporary / SHARD_RECORD, record)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder.parent)
    return record
