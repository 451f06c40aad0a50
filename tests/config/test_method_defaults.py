"""A tuning has a learning rate and a length of its own, which everything that the user writes wins over."""

import pytest

from bert_lightning.config.experiment import load_experiment
from bert_lightning.errors import InputError
from bert_lightning.model.tuning import TUNINGS
from bert_lightning.optim.optimizers import OPTIMIZERS

VALUES = {
    "experiment": "try",
    "task": "text-classification",
    "model": {"size": "tiny"},
    "data": {"train": "t.tsv", "validation": "v.tsv", "tokenizer": "x"},
}
STEPS = {"trainer": {"max_steps": 10}}


def load(*overrides, **values):
    return load_experiment({**VALUES, **values}, list(overrides))


@pytest.mark.parametrize("name", TUNINGS)
def test_every_tuning_gives_its_rate_and_length_where_none_is_set(name):
    cls = TUNINGS[name]
    experiment = load("--tuning", name, **({} if cls.default_epochs else STEPS))
    assert experiment.optimizer.learning_rate == (cls.default_learning_rate or 1e-4)
    assert experiment.trainer.max_epochs == cls.default_epochs
    said = " ".join(experiment.method_defaults)
    assert ("optimizer.learning_rate is" in said) == (cls.default_learning_rate is not None)
    assert (f"the default of tuning.name {name}" in said) == bool(cls.default_learning_rate or cls.default_epochs)


def test_what_the_user_writes_wins_wherever_it_is_written():
    for values, overrides in (
        ({"optimizer": {"learning_rate": 1e-4}, **STEPS}, []),
        ({}, ["--optimizer.learning_rate", "1e-4", "--trainer.max_steps", "10"]),
    ):
        experiment = load("--tuning", "lora", *overrides, **values)
        assert experiment.optimizer.learning_rate == 1e-4
        assert (experiment.trainer.max_steps, experiment.trainer.max_epochs) == (10, None)
        assert experiment.method_defaults == []


def test_the_default_is_the_same_experiment_as_its_value_written_out():
    written = load("--tuning", "lora", "--optimizer.learning_rate", "5e-4", "--trainer.max_epochs", "50")
    assert written.identity == load("--tuning", "lora").identity
    assert load_experiment([], below=load("--tuning", "lora").to_dict()).identity == written.identity


def test_without_a_tuning_nothing_is_filled_in():
    assert load(**STEPS).optimizer.learning_rate == 1e-4
    assert load(**STEPS).method_defaults == []
    with pytest.raises(InputError, match="trainer"):
        load()


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "adamw"])
def test_another_optimiser_keeps_its_own_rate(optimizer):
    experiment = load("--tuning", "adapter", "--optimizer", optimizer)
    assert experiment.optimizer.learning_rate == OPTIMIZERS[optimizer]().learning_rate


def test_a_saved_run_keeps_its_rate_when_its_tuning_is_changed():
    saved = load("--tuning", "lora").to_dict()
    assert load_experiment([], ["--tuning", "bitfit"], below=saved).optimizer.learning_rate == 5e-4


def test_a_section_of_a_wrong_type_is_one_message():
    with pytest.raises(InputError, match="optimizer"):
        load("--tuning", "lora", optimizer=["adamw"])
