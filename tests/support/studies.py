"""Small studies, and a launcher that trains in the process of the tests."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

import bert_lightning
from bert_lightning.studies.launchers import Job
from tests.support.small_corpus import PRETRAINING


def write_experiments(folder: Path, store: Path, validation_store: Path, tables: Mapping[str, Path]) -> None:
    """Write `pretraining.yaml` and `topics.yaml`, two small experiments of few steps."""
    data = {**PRETRAINING["data"], "train": str(store), "validation": str(validation_store)}
    trainer = {**PRETRAINING["trainer"], "max_steps": 4, "val_check_interval": 4}
    (folder / "pretraining.yaml").write_text(yaml.safe_dump({**PRETRAINING, "data": data, "trainer": trainer}))
    topics = {
        "experiment": "topics",
        "task": "text-classification",
        "model": {},
        "data": {
            **{split: str(tables[split]) for split in ("train", "validation")},
            "text_column": "sentence",
            "label_column": "topic",
            "max_seq_length": 40,
            "batch_size": 16,
        },
        "trainer": {"max_steps": 3, "val_check_interval": 3, "accelerator": "cpu", "precision": "32"},
    }
    (folder / "topics.yaml").write_text(yaml.safe_dump(topics))


def write_study(path: Path, **changed: Any) -> Path:
    """Write a study of two stages, two arms and two seeds. A key that is None is left out."""
    values = {
        "study": "nsp",
        "base": "pretraining.yaml",
        "axes": [{"data.objective": ["next-sentence", "full-sentences"]}],
        "seeds": [1, 2],
        "stages": {"pretraining": {}, "topics": {"base": "topics.yaml", "from": "pretraining"}},
        **changed,
    }
    values = {key: value for key, value in values.items() if value is not None}
    path.write_text("# Does it help?\n" + yaml.safe_dump(values, sort_keys=False))
    return path


class InProcess:
    """A launcher that trains in the process of the tests, one run at a time.

    Args:
        instead: called with a job before it trains; if it returns a status, nothing is trained.

    Attributes:
        started: names of the jobs that were started.
        num_jobs: one.
    """

    num_jobs = 1
    at_stop = "{runs} end"

    def __init__(self, instead: Callable[[Job], int | None] | None = None) -> None:
        self.started: list[str] = []
        self.jobs: list[Job] = []
        self._instead = instead
        self._stopped = threading.Event()

    def wait_for_earlier(self, job: Job, say: Callable[[str], None]) -> bool:
        return False

    def run(self, job: Job) -> int | None:
        if self._stopped.is_set():
            return None
        self.started.append(job.name)
        self.jobs.append(job)
        status = self._instead(job) if self._instead is not None else None
        if status is not None:
            return status
        words = list(job.arguments)
        files = [word for word in words[words.index("--config") + 1 :] if not word.startswith("--")]
        overrides = [word for word in words if word.startswith("--") and "=" in word]
        bert_lightning.fit(files, overrides, run_directory=job.directory)
        return 0

    def stop(self) -> None:
        self._stopped.set()
