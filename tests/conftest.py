"""Fixtures that make small files. None needs a network or data from elsewhere."""

import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import yaml

# Before anything imports a library that reads them.
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
# libgomp's threads spin while they wait, which starves the other processes of a test.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

from bert_lightning.cli import main
from bert_lightning.data.corpus.preparation import prepare
from bert_lightning.text.vocabulary import train_wordpiece
from bert_lightning.text.wordpiece import WordPieceTokenizer
from tests.support.ranks import Ranks, started
from tests.support.small_corpus import PRETRAINING, make_documents, sentence, write_corpus
from tests.support.tuned import write_base

# Examples have no deadline, because their time depends on the load of the machine.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# The handlers that the test run began with, and the signals that it blocks.
_HANDLERS = {
    number: signal.getsignal(number)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
}
_BLOCKED = signal.pthread_sigmask(signal.SIG_BLOCK, [])

# Fixtures of one folder have no doctests, and pytest would import all of these files under one name.
collect_ignore_glob = ["*/conftest.py"]


@pytest.fixture(autouse=True)
def program_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this program be a file, which trainings in several processes need; a worker of pytest-xdist is none."""
    if not hasattr(sys.modules["__main__"], "__file__"):
        monkeypatch.setattr(sys.modules["__main__"], "__file__", pytest.__file__, raising=False)


@pytest.fixture(autouse=True)
def handlers_of_signals() -> Iterator[None]:
    """Give each test the handlers of signals that the test run began with.

    A training ignores signals at its end, and processes that later tests start would inherit that. Trainings of
    fixtures with a wider scope end before this fixture begins, so what they leave is no handler to restore.
    """
    for when in ("before", "after"):
        for number, handler in _HANDLERS.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, _BLOCKED)
        if when == "before":
            yield


@pytest.fixture(scope="session")
def documents() -> list[list[str]]:
    """Thirty documents of twelve sentences."""
    return make_documents(seed=1)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, documents: list[list[str]]) -> Path:
    """The documents as a file."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "train.txt", documents)


@pytest.fixture(scope="session")
def tokenizer(documents: list[list[str]]) -> WordPieceTokenizer:
    """A vocabulary for the documents."""
    return train_wordpiece((text for document in documents for text in document), 120)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, corpus: Path, tokenizer: WordPieceTokenizer) -> Path:
    """The documents as a token store."""
    path = tmp_path_factory.mktemp("store") / "train"
    prepare([str(corpus)], tokenizer, path, num_workers=1)
    return path


@pytest.fixture(scope="session")
def validation_store(tmp_path_factory: pytest.TempPathFactory, tokenizer: WordPieceTokenizer) -> Path:
    """Other documents as a token store."""
    folder = tmp_path_factory.mktemp("validation")
    text = write_corpus(folder / "validation.txt", make_documents(seed=2, num_documents=9))
    prepare([str(text)], tokenizer, folder / "store", num_workers=1)
    return folder / "store"


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Labelled texts: which of three topics a sentence is about."""
    folder = tmp_path_factory.mktemp("tables")
    paths = {}
    for seed, (split, size) in enumerate({"train": 96, "validation": 30, "test": 31}.items()):
        generator = random.Random(seed)
        lines = [f"{sentence(generator, n % 3)}\t{('animals', 'nature', 'places')[n % 3]}" for n in range(size)]
        paths[split] = folder / f"{split}.tsv"
        paths[split].write_text("sentence\ttopic\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return paths


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that BERT_LIGHTNING_DATA names."""
    folder = os.environ.get("BERT_LIGHTNING_DATA")
    if not folder:
        pytest.skip("BERT_LIGHTNING_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def home(tmp_path_factory, corpus, store, validation_store) -> Path:
    """A folder with an experiment file, and a finished pre-training under runs/whole."""
    folder = tmp_path_factory.mktemp("home")
    values = {
        **PRETRAINING,
        "data": {**PRETRAINING["data"], "train": str(store), "validation": str(validation_store)},
    }
    (folder / "pretraining.yaml").write_text(yaml.safe_dump(values))
    assert (
        main(["fit", "--config", str(folder / "pretraining.yaml"), "--run-directory", str(folder / "runs/whole")])
        == 0
    )
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: WordPieceTokenizer) -> Path:
    """A pre-trained model for runs that tune it."""
    return write_base(tmp_path_factory.mktemp("base") / "model", tokenizer)


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[Ranks]:
    """Two processes that train together, as often as a test asks."""
    with started(2) as ranks:
        yield ranks


@pytest.fixture(scope="session")
def classifier(home, tables) -> Path:
    """A classifier fine-tuned from the pre-trained run."""
    values = {
        "experiment": "topics",
        "task": "text-classification",
        "model": {"pretrained": str(home / "runs/whole")},
        "data": {
            **{split: str(path) for split, path in tables.items()},
            "text_column": "sentence",
            "label_column": "topic",
            "max_seq_length": 40,
            "batch_size": 16,
        },
        "optimizer": {"learning_rate": 2e-3},
        "trainer": {"max_epochs": 12, "accelerator": "cpu", "precision": "32"},
        "early_stopping": {"patience": 50},
    }
    (home / "topics.yaml").write_text(yaml.safe_dump(values))
    run = home / "runs/topics"
    assert main(["fit", "--config", str(home / "topics.yaml"), "--run-directory", str(run)]) == 0
    return run
