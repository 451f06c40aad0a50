"""Fixtures of every task and a teacher of each."""

from pathlib import Path

import pytest

from bert_lightning.model import BertEncoder
from bert_lightning.tasks.catalogue import TASKS
from tests.support.methods import LARGER, experiment_of, maker, train


@pytest.fixture(scope="session")
def experiments(store, validation_store, tables, tokenizer, tmp_path_factory):
    """Task -> values of a short experiment."""
    sources = {"store": store, "validation_store": validation_store, "tables": tables, "tokenizer": tokenizer}
    folder = tmp_path_factory.mktemp("methods")
    return {task: experiment_of(task, sources, folder / task) for task in TASKS}


@pytest.fixture(scope="session")
def teachers(experiments, tmp_path_factory):
    """A function from a task to a checkpoint of a larger model that was trained for it."""
    folder, known = tmp_path_factory.mktemp("teachers"), {}

    def teacher(task: str) -> Path:
        if task not in known:
            make = maker(experiments[task])
            train(make(*LARGER, "--trainer.max_steps=2", "--optimizer.learning_rate=1e-2"), folder / task)
            known[task] = folder / task / "last.ckpt"
        return known[task]

    return teacher


@pytest.fixture(params=TASKS)
def task(request):
    """Each task in turn."""
    return request.param


@pytest.fixture
def make(experiments, task):
    """A function from overrides to an experiment of the task."""
    return maker(experiments[task])


@pytest.fixture(scope="session")
def texts(experiments):
    """A function from overrides to an experiment of text classification."""
    return maker(experiments["text-classification"])


@pytest.fixture
def recorded(monkeypatch):
    """The perturbations of every pass, in order."""
    seen, plain = [], BertEncoder.perturbed

    def recording(self, perturbation):
        seen.append(perturbation.detach().clone())
        return plain(self, perturbation)

    monkeypatch.setattr(BertEncoder, "perturbed", recording)
    return seen
