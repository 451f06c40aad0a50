"""Models of every task, as they are before training, with values that no initialisation gives."""

import pytest
import torch

from bert_lightning.config.experiment import load_experiment
from bert_lightning.runs.building import build_training
from tests.support.small_corpus import SMALL_MODEL
from tests.support.task_data import short_experiment


@pytest.fixture(scope="session")
def untrained(store, validation_store, tables, tokenizer, tmp_path_factory):
    """A function that builds a task with random weights in float64, once for the same arguments."""
    made = {}

    def make(name, *overrides):
        if (name, overrides) not in made:
            folder = tmp_path_factory.mktemp(name)
            tokenizer.save(folder / "tokenizer")
            values = short_experiment(name, (store, validation_store), tables, folder)
            values["model"] = SMALL_MODEL
            if name != "pretraining":
                values["data"]["tokenizer"] = str(folder / "tokenizer")
            task = build_training(load_experiment([], overrides, values), None).task.eval().double()
            generator = torch.Generator().manual_seed(5)
            for parameter in task.parameters():
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            made[name, overrides] = task
        return made[name, overrides]

    return make
