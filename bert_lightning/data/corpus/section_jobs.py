"""The sections of one preparation: the text of each, and the jobs that write them on an executor."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from bert_lightning.data.corpus.documents import Passage
from bert_lightning.data.corpus.executors import dask_executor, local_executor
from bert_lightning.data.corpus.kept_sections import KeptSections
from bert_lightning.data.corpus.section_writer import (
    Encoding,
    SectionText,
    SectionWriter,
    WrittenSection,
    section_key,
)
from bert_lightning.data.corpus.shard_files import read_shard, section_name
from bert_lightning.data.corpus.store_builder import StoreBuilder
from bert_lightning.errors import WorkError
from bert_lightning.text.wordpiece import WordPieceTokenizer

# Characters of text per section: few enough that a small corpus has sections for several workers, and that a whole
# section can be read at once.
CHARACTERS_PER_SECTION = 4 << 20


class SectionTask(NamedTuple):
    """A section to write."""

    number: int
    key: str
    """SHA-256 of everything that decides its content; a section with this key is kept"""
    size: int
    """how much it counts in the progress: characters of text, or tokens of a converted store"""
    write: Callable[[Path], WrittenSection | None]
    """writes the section to a file, in any process; None if there is no token"""


def section_texts(passages: Iterator[Passage]) -> Iterator[SectionText]:
    """Group passages into sections of about `CHARACTERS_PER_SECTION`; cut a document only at twice that size."""
    group: list[Passage] = []
    size = number = 0
    continues = False
    for passage in passages:
        group.append(passage)
        size += sum(map(len, passage.segments))
        if size >= CHARACTERS_PER_SECTION * (1 if passage.ends else 2):
            yield SectionText(number, group, continues)
            continues = not passage.ends
            group, size, number = [], 0, number + 1
    if group:
        yield SectionText(number, group, continues)


def text_tasks(passages: Iterator[Passage], encoding: Encoding) -> Iterator[SectionTask]:
    """Yield the task of each section of a text."""
    for text in section_texts(passages):
        key = section_key(text, encoding)
        size = sum(len(segment) for passage in text.passages for segment in passage.segments)
        yield SectionTask(text.number, key, size, partial(make_section, text, key, encoding))


class _Job(NamedTuple):
    """A section that a worker is writing."""

    section: "Future[WrittenSection | None]"
    path: Path
    size: int


class SectionJobs:
    """The jobs of one preparation, in the order of the sections.

    Args:
        output: folder of the token store.
        builder: takes the sections in order.
        kept: sections of an earlier preparation.
        progress: callback that receives the size of each section that is done.

    Attributes:
        num_kept: sections that an earlier preparation had written.
        created: section files that a failed preparation leaves in addition to those of the builder.
    """

    def __init__(
        self, output: Path, builder: StoreBuilder, kept: KeptSections, progress: Callable[[int], None]
    ) -> None:
        self.output = output
        self.builder = builder
        self.kept = kept
        self.progress = progress
        self.num_kept = 0
        self.created: list[Path] = []
        self._pending: deque[_Job] = deque()

    def run(self, tasks: Iterator[SectionTask], num_workers: int | None, scheduler: str | None) -> None:
        """Write every section that does not exist yet.

        Args:
            tasks: the sections.
            num_workers: processes of this machine; one per core unless given.
            scheduler: address of a Dask scheduler whose workers do the work instead.
        """
        with ExitStack() as stack:
            executor: Executor
            if scheduler is not None:
                executor, num_workers = stack.enter_context(dask_executor(scheduler))
            else:
                # A single section needs no worker process.
                first = list(islice(tasks, 2))
                num_workers = 1 if len(first) < 2 else num_workers or os.cpu_count() or 1
                tasks = chain(first, tasks)
                executor = stack.enter_context(local_executor(num_workers))
            try:
                for task in tasks:
                    self._submit(task, executor, num_workers)
                while self._pending:
                    self._collect()
            except BaseException:
                self._abandon()
                raise

    def _submit(self, task: SectionTask, executor: Executor, num_workers: int) -> None:
        kept = self.kept.find(task.number, task.key)
        if kept is not None:
            while self._pending:
                self._collect()
            self.builder.add(*kept, created=False)
            self.num_kept += 1
            self.progress(task.size)
            return
        path = self.output / section_name(task.number)
        self._pending.append(_Job(executor.submit(task.write, path), path, task.size))
        # A few more jobs than workers keep the workers busy and the memory bounded.
        while len(self._pending) > num_workers + 1:
            self._collect()

    def _collect(self) -> None:
        """Wait for the oldest job."""
        job = self._pending[0]
        section = job.section.result()
        if section is not None and not job.path.is_file():
            raise WorkError(
                f"{job.path}: a worker wrote this section, but it is not there: all workers must share a file system"
            )
        self._pending.popleft()
        if section is not None:
            [placed] = read_shard(job.path)
            self.builder.add(section, placed.place, created=True)
        self.progress(job.size)

    def _abandon(self) -> None:
        """Cancel the pending jobs; the sections that workers still finish count as created."""
        for job in self._pending:
            if not job.section.done():
                job.section.cancel()
        for job in self._pending:
            if not job.section.cancelled() and job.section.exception() is None and job.path.exists():
                self.created.append(job.path)


# The writer of this process, under the key of its settings. It is kept for its cache of encoded words.
_writers: dict[str, SectionWriter] = {}


def make_section(text: SectionText, key: str, encoding: Encoding, path: Path) -> WrittenSection | None:
    """Write one section, in any process; return it, or None if the text has no token."""
    if encoding.settings_key not in _writers:
        _writers.clear()
        _writers[encoding.settings_key] = SectionWriter(WordPieceTokenizer(encoding.vocabulary), encoding.language)
    return _writers[encoding.settings_key].write(text, path, key)
