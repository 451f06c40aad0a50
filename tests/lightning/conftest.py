"""Fixtures of the tests in a plain Trainer."""

import pytest

from bert_lightning.tasks.catalogue import TASKS
from tests.support.plain_lightning import Plain, experiment_values

BUILT_IN = [name for name in TASKS if TASKS[name].task.__module__.startswith("bert_lightning.")]


@pytest.fixture(scope="session")
def experiments(store, validation_store, tables, tokenizer, tmp_path_factory):
    """Task -> its experiment."""
    folder = tmp_path_factory.mktemp("plain")
    tokenizer.save(folder / "tokenizer")
    values = {}
    for name in BUILT_IN:
        (folder / name).mkdir()
        values[name] = experiment_values(name, (store, validation_store), tables, folder / "tokenizer", folder / name)
    return values


@pytest.fixture
def plain(experiments, tmp_path, monkeypatch):
    """Text classification in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Plain("text-classification", experiments, tmp_path, monkeypatch)


@pytest.fixture(params=BUILT_IN)
def any_task(request, experiments, tmp_path, monkeypatch):
    """Each task in turn, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Plain(request.param, experiments, tmp_path, monkeypatch)
