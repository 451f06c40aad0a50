"""The shards of one preparation: the text of each, and the jobs that write them on an executor."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from bert_lightning.data.corpus.documents import Passage
from bert_lightning.data.corpus.executors import dask_executor, local_executor
from bert_lightning.data.corpus.shard_writer import Encoding, ShardText, ShardWriter, kept_record, shard_key
from bert_lightning.data.corpus.shards import SHARD_RECORD, ShardRecord, shard_name
from bert_lightning.errors import WorkError
from bert_lightning.text.wordpiece import WordPieceTokenizer

# Characters of text per shard. Even a small corpus has enough shards for several workers, and one is read at once.
CHARACTERS_PER_SHARD = 4 << 20


def shard_texts(passages: Iterator[Passage]) -> Iterator[ShardText]:
    """Group passages into shards of about `CHARACTERS_PER_SHARD`; cut a document only at twice that size."""
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


class _Job(NamedTuple):
    """A shard that a worker is writing."""

    record: "Future[ShardRecord | None]"
    folder: Path
    num_characters: int


class ShardJobs:
    """The jobs of one preparation, in the order of the shards.

    Args:
        output: folder of the token store.
        encoding: the settings with which text becomes tokens.
        progress: callback that receives the number of characters of each shard that is done.

    Attributes:
        records: records of the shards that are done.
        created: folders of the shards that this preparation wrote; the others were kept from an earlier one.
    """

    def __init__(self, output: Path, encoding: Encoding, progress: Callable[[int], None]) -> None:
        self.output = output
        self.encoding = encoding
        self.progress = progress
        self.records: list[ShardRecord] = []
        self.created: list[Path] = []
        self._pending: deque[_Job] = deque()

    def run(self, texts: Iterator[ShardText], num_workers: int | None, scheduler: str | None) -> None:
        """Write every shard that does not exist yet.

        Args:
            texts: the text of each shard.
            num_workers: processes of this machine; one per core unless given.
            scheduler: address of a Dask scheduler whose workers do the work instead.
        """
        with ExitStack() as stack:
            executor: Executor
            if scheduler is not None:
                executor, num_workers = stack.enter_context(dask_executor(scheduler))
            else:
                # A single shard needs no worker process.
                first = list(islice(texts, 2))
                num_workers = 1 if len(first) < 2 else num_workers or os.cpu_count() or 1
                texts = chain(first, texts)
                executor = stack.enter_context(local_executor(num_workers))
            try:
                for text in texts:
                    self._submit(text, executor, num_workers)
                while self._pending:
                    self._collect()
            except BaseException:
                self._abandon()
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
        self._pending.append(_Job(executor.submit(make_shard, text, folder, key, self.encoding), folder, size))
        # A few more jobs than workers keep the workers busy and the memory bounded.
        while len(self._pending) > num_workers + 1:
            self._collect()

    def _collect(self) -> None:
        """Wait for the oldest job."""
        job = self._pending[0]
        record = job.record.result()
        if record is not None and not (job.folder / SHARD_RECORD).is_file():
            raise WorkError(
                f"{job.folder}: a worker wrote this shard, but it is not there: all workers must share a file system"
            )
        self._pending.popleft()
        if record is not None:
            self.created.append(job.folder)
            self.records.append(record)
        self.progress(job.num_characters)

    def _abandon(self) -> None:
        """Cancel the pending jobs; the shards that workers still finish count as created."""
        for job in self._pending:
            if not job.record.done():
                job.record.cancel()
        for job in self._pending:
            if not job.record.cancelled() and job.record.exception() is None and job.folder.exists():
                self.created.append(job.folder)


# The writer of this process, under the key of its settings. It is kept for its cache of encoded words.
_writers: dict[str, ShardWriter] = {}


def make_shard(text: ShardText, folder: Path, key: str, encoding: Encoding) -> ShardRecord | None:
    """Write one shard, in any process; return its record, or None if the text has no token."""
    if encoding.settings_key not in _writers:
        _writers.clear()
        _writers[encoding.settings_key] = ShardWriter(WordPieceTokenizer(encoding.vocabulary), encoding.language)
    return _writers[encoding.settings_key].write(text, folder, key)
