"""The table of tasks and its descriptions."""

import dataclasses
import shutil
from types import SimpleNamespace

import pytest

from bert_lightning.config.experiment import load_experiment
from bert_lightning.data.loading.module import TrainingLength
from bert_lightning.errors import InputError
from bert_lightning.runs.building import build_scoring, build_training
from bert_lightning.tasks.catalogue import TASKS, register_task, task_spec
from bert_lightning.tasks.text_classification.data import TextClassificationDataModule
from bert_lightning.tasks.text_classification.settings import TextClassificationData
from bert_lightning.tasks.text_classification.spec import TEXT_CLASSIFICATION
from bert_lightning.tasks.text_classification.task import TextClassificationTask
from tests.support.task_data import task_data


@pytest.fixture
def experiment(tables, tokenizer, tmp_path):
    """A function that makes an experiment of text classification from `trainer`."""
    tokenizer.save(tmp_path / "tokenizer")
    data = task_data("text-classification", tables, tmp_path) | {"tokenizer": str(tmp_path / "tokenizer")}
    values = {
        "experiment": "texts",
        "task": "text-classification",
        "model": {"size": "tiny", "config": {"max_position_embeddings": 48}},
        "data": data | {"max_seq_length": 40, "batch_size": 8},
    }
    return lambda **trainer: load_experiment(
        [], [], values | {"trainer": {"accelerator": "cpu", "precision": "32", **trainer}}
    )


def test_an_unknown_task_is_an_error_that_names_the_nearest():
    with pytest.raises(InputError, match=r"'text-clasification', which does not exist; did you mean 'text-class"):
        task_spec("text-clasification")


def test_every_description_has_the_name_of_its_task_and_its_key_in_the_table():
    for name, spec in TASKS.items():
        assert spec.name == name == spec.task.name


def test_a_custom_task_is_built_without_a_change_elsewhere(experiment, monkeypatch):
    class Mine(TextClassificationTask):
        name = "mine"

    monkeypatch.setattr("bert_lightning.tasks.catalogue.TASKS", dict(TASKS))
    register_task(dataclasses.replace(TEXT_CLASSIFICATION, name="mine", task=Mine))
    setup = build_training(dataclasses.replace(experiment(max_steps=4), task="mine"), None)
    assert isinstance(setup.task, Mine)
    assert setup.task.checkpoint_entry()["task"] == "mine"
    with pytest.raises(ValueError, match="already called 'mine'"):
        register_task(dataclasses.replace(TEXT_CLASSIFICATION, name="mine"))


def test_a_changed_description_keeps_what_its_own_fields_say(experiment):
    class Data(TextClassificationData):
        pass

    changed = dataclasses.replace(TEXT_CLASSIFICATION, kept=("labels", "num_rows"), data_settings=Data)
    data = SimpleNamespace(settings="settings", labels=["a"], num_rows=3)
    assert changed.arguments_of_task(data, {}) == {"settings": "settings", "labels": ["a"], "num_rows": 3}
    assert changed.arguments_of_task(data, {"labels": ["b"]})["labels"] == ["b"]
    saved = changed.arguments_of_saved_task(
        {"data": {"max_seq_length": 9}, "labels": ["b"], "num_rows": 4, "else": 5}
    )
    assert saved == {"settings": Data(max_seq_length=9), "labels": ["b"], "num_rows": 4}


def test_a_setup_that_scores_has_no_length_and_no_optimisation(experiment, tmp_path):
    trained = build_training(experiment(max_steps=4), None).task
    checkpoint = dataclasses.replace(
        trained.model.to_checkpoint(tmp_path, trained.tokenizer.vocabulary),
        task=trained.name,
        task_settings=trained.task_settings,
    )
    scored = build_scoring(experiment(max_steps=4), checkpoint, "validation")
    assert scored.task.optimization is None
    assert list(scored.data.splits) == ["validation"]
    with pytest.raises(InputError, match="without a length"):
        scored.data.plan  # noqa: B018


def test_a_checkpoint_is_scored_with_its_own_vocabulary_after_that_of_the_data_is_gone(experiment, tmp_path):
    settings = experiment(max_steps=4)
    checkpoint = checkpoint_of(settings, tmp_path)
    shutil.rmtree(tmp_path / "tokenizer")
    with pytest.raises(InputError, match="tokenizer"):
        build_training(settings, None)
    scored = build_scoring(settings, checkpoint, "validation")
    assert scored.task.tokenizer.vocabulary == checkpoint.vocabulary


@pytest.fixture(params=[("token-classification", "crf"), ("question-answering", "answerability")], ids=lambda p: p[0])
def option(request, tables, tokenizer, tmp_path):
    """An option of a head, and a function from its value to an experiment."""
    task, name = request.param
    tokenizer.save(tmp_path / "tokenizer")
    values = {
        "experiment": "heads",
        "task": task,
        "model": {"size": "tiny", "config": {"max_position_embeddings": 48}},
        "data": task_data(task, tables, tmp_path) | {"tokenizer": str(tmp_path / "tokenizer"), "max_seq_length": 40},
        "trainer": {"max_steps": 4, "accelerator": "cpu", "precision": "32"},
    }
    return name, lambda value: load_experiment([], [f"--model.head.{name}={value}"], values)


def checkpoint_of(experiment, folder):
    """The checkpoint of a run that has not trained yet."""
    task = build_training(experiment, None).task
    checkpoint = task.model.to_checkpoint(folder, task.tokenizer.vocabulary)
    return dataclasses.replace(checkpoint, task=task.name, task_settings=task.task_settings)


@pytest.mark.parametrize(("trained", "scored"), [("true", "false"), ("false", "true")])
def test_a_checkpoint_is_scored_only_with_the_head_that_it_was_trained_with(option, tmp_path, trained, scored):
    name, experiment = option
    checkpoint = checkpoint_of(experiment(trained), tmp_path)
    assert build_scoring(experiment(trained), checkpoint, "validation").notes == []
    with pytest.raises(InputError, match=rf"^model\.head\.{name} is {scored}, but .* was trained with {trained}: "):
        build_scoring(experiment(scored), checkpoint, "validation")


def test_a_checkpoint_that_lacks_a_parameter_of_its_head_is_not_scored_and_one_too_many_is_noted(
    experiment, tmp_path
):
    checkpoint = checkpoint_of(experiment(max_steps=4), tmp_path)
    bias = checkpoint.tensors["classifier.bias"]
    more = dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, "second.bias": bias})
    [note] = build_scoring(experiment(max_steps=4), more, "validation").notes
    assert "not used: second.bias" in note
    del checkpoint.tensors["classifier.bias"]
    with pytest.raises(InputError, match=r"cannot be scored .* all parameters of the model: classifier\.bias$"):
        build_scoring(experiment(max_steps=4), checkpoint, "validation")


def test_the_length_in_epochs_becomes_steps(experiment):
    setup = build_training(experiment(max_epochs=1.5), None)
    samples = setup.data.num_training_samples
    assert setup.data.plan.num_steps == int(samples / 8 * 1.5) == setup.task.optimization.num_steps
    with pytest.raises(InputError, match=rf"max_epochs 0\.05 of {samples} samples are less than one batch of 8"):
        build_training(experiment(max_epochs=0.05), None)


def test_a_length_is_either_in_steps_or_in_epochs():
    for values in ({}, {"max_steps": 1, "max_epochs": 1.0}):
        with pytest.raises(ValueError, match="and not both"):
            TrainingLength(**values)


def test_micro_batches_chosen_later_replace_those_of_the_length(experiment):
    data = build_training(experiment(max_steps=4), None).data
    assert isinstance(data, TextClassificationDataModule)
    assert len(data.training_batches(0, data.plan, 0, 1)) == 1
    data.use_micro_batches(4)
    assert data.plan.accumulate == 4
    assert len(data.training_batches(0, data.plan, 0, 1)) == 4
