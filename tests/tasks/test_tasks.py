"""Tests of every task: it learns, its loss does not depend on how a batch is split, and it saves and loads."""

from pathlib import Path

import pytest
import torch

from bert_lightning.checkpoints.native import LAST, read_native
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.config.experiment import load_experiment
from bert_lightning.data.loading.module import TrainingPlan
from bert_lightning.data.reading.tables import Row
from bert_lightning.errors import InputError
from bert_lightning.runs.building import build_training
from bert_lightning.runs.trainer import build_trainer, training_callbacks
from bert_lightning.tasks.catalogue import TASKS
from bert_lightning.tasks.rebuilding import task_of
from tests.support.small_corpus import SMALL_MODEL
from tests.support.task_data import RAW, task_data

NO_DROPOUT = ["--model.config.hidden_dropout_prob", "0", "--model.config.attention_probs_dropout_prob", "0"]


@pytest.fixture(params=TASKS)
def make(request, store, validation_store, tables, tokenizer, tmp_path):
    """A function that makes an experiment of the task from overrides."""
    tokenizer.save(tmp_path / "tokenizer")
    values = {
        "experiment": "battery",
        "task": request.param,
        "model": SMALL_MODEL,
        "trainer": {"max_steps": 4, "accelerator": "cpu", "precision": "32"},
        "wandb": {"mode": "disabled"},
        "data": {"max_seq_length": 40, "batch_size": 8},
    }
    if request.param == "pretraining":
        values["data"] |= {"train": str(store), "validation": str(validation_store), "num_workers": 0}
    else:
        values["data"] |= task_data(request.param, tables, tmp_path) | {"tokenizer": str(tmp_path / "tokenizer")}
    return lambda *overrides: load_experiment([], overrides, values)


def train(experiment, folder: Path):
    """Train, and return the task, the data and the trainer."""
    data, task, *_ = build_training(experiment, None)
    steps = data.plan.num_steps
    callbacks = training_callbacks(experiment, task, folder, steps, validates=True)
    trainer = build_trainer(experiment, folder, [], steps=steps, callbacks=callbacks)
    trainer.fit(task, data)
    return task, data, trainer


def test_a_task_overfits_eight_samples(make, tmp_path):
    experiment = make("--optimizer.learning_rate", "5e-3", *NO_DROPOUT)
    setup = build_training(experiment, None)
    plan = TrainingPlan(60, 1, 1)
    batch = setup.data.training_batches(0, plan, 0, 1)[0]
    task = setup.task
    optimizer = task.optimization.optimizer.build([{"params": list(task.model.parameters()), "weight_decay": 0.0}])
    for _ in range(120):
        losses = (task.sums(batch) / task.counts(batch))[: task.num_losses]
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
    assert losses.sum() < 0.1
    accuracies = (task.sums(batch) / task.counts(batch))[task.num_losses :]
    assert (accuracies == 1).all()


@pytest.mark.parametrize("accumulate", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_splitting_a_batch_does_not_change_training(make, tmp_path, accumulate):
    whole, _, _ = train(make(*NO_DROPOUT), tmp_path / "whole")
    split, _, _ = train(make(*NO_DROPOUT, f"--trainer.accumulate_grad_batches={accumulate}"), tmp_path / "split")
    for (name, expected), actual in zip(whole.model.named_parameters(), split.model.parameters(), strict=True):
        if whole.name == "multiple-choice" and name == "classifier.bias":
            # A term added to every choice cancels, so its gradient is noise, which Adam scales up.
            continue
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-6, msg=name)


def test_a_checkpoint_alone_predicts_as_the_trained_model_does(make, tmp_path):
    task, _, _ = train(make(), tmp_path)
    rows = [Row(str(number), values) for number, values in enumerate(RAW[task.name])]
    loaded = task_of(read_native((tmp_path / LAST).resolve())).eval()
    with torch.inference_mode():
        assert loaded.predict_rows(rows, 1) == task.eval().predict_rows(rows, 1)
        assert [len(p) for p in loaded.predict_rows(rows, 8)] == [len(p) for p in loaded.predict_rows(rows, 1)]


def spoiled(value, bad):
    """Yield copies of a row, each with one text replaced by `bad`."""
    if isinstance(value, str):
        yield bad
    for key, row in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        for other in spoiled(row, bad):
            copy = value.copy()
            copy[key] = other
            yield copy


@pytest.mark.parametrize("bad", ["a \ud83d", float("nan"), None])
def test_half_a_character_or_a_missing_value_in_any_text_is_an_error_with_its_location(make, bad):
    task = build_training(make(), None).task.eval()
    rows = [values for row in RAW[task.name] for values in spoiled(row, bad)]
    assert len(rows) >= 2
    for values in rows:
        if values.get("question", bad) is None and "choices" in values:
            # The question of choices may be missing.
            continue
        with pytest.raises(InputError, match="item 7: "):
            task.predict_rows([Row("item 7", values)], 1)


def test_validation_does_not_depend_on_the_batch_size(make, tmp_path):
    setup = build_training(make(), None)
    results = []
    for size in (7, 64):
        setup.data.evaluation_batch_size = size
        trainer = build_trainer(make(), tmp_path, [])
        trainer.validate(setup.task, setup.data, verbose=False)
        results.append({name: float(value) for name, value in trainer.callback_metrics.items()})
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        assert value == pytest.approx(results[1][name], rel=1e-4, abs=1e-6), name


def test_the_monitored_metric_is_logged_and_progress_metrics_exist(make, tmp_path):
    task, _, trainer = train(make("--trainer.log_every_n_steps", "2"), tmp_path)
    assert task.monitor in trainer.callback_metrics
    assert {name for name, _, _ in task.shown} <= task.training_metrics.keys()


def test_two_runs_of_one_seed_are_bitwise_equal_and_seeds_differ(make, tmp_path):
    def weights(number, *overrides):
        return torch.cat([p.flatten() for p in train(make(*overrides), tmp_path / str(number))[0].model.parameters()])

    first = weights(1)
    assert torch.equal(first, weights(2))
    assert not torch.equal(first, weights(3, "--seed_everything", "2"))


@pytest.mark.parametrize(
    ("objective", "metrics"),
    [
        ("next-sentence", {"mlm", "nsp"}),
        ("sentence-order", {"mlm", "sop"}),
        ("full-sentences", {"mlm"}),
        ("document-sentences", {"mlm"}),
    ],
)
@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_every_objective_trains_scores_and_predicts(store, validation_store, tmp_path, objective, metrics, batching):
    values = {
        "experiment": "objectives",
        "task": "pretraining",
        "model": SMALL_MODEL,
        "trainer": {"max_steps": 3, "accelerator": "cpu", "precision": "32", "accumulate_grad_batches": 2},
        "wandb": {"mode": "disabled"},
        "data": {
            "train": str(store),
            "validation": str(validation_store),
            "num_workers": 0,
            "max_seq_length": 40,
            "batch_size": 8,
            "objective": objective,
            "batching": batching,
        },
    }
    _, _, trainer = train(load_experiment([], [], values), tmp_path / "c")
    logged = {name for name in trainer.callback_metrics if name.startswith("val/")}
    assert {name.split("/")[1].split("_")[0] for name in logged} == metrics
    checkpoint = read_checkpoint(tmp_path / "c/last.ckpt")
    again = task_of(checkpoint).eval()
    assert again.objective == objective
    [row] = again.predict_rows([Row("x", {"text": "the [MASK] sees"})], 1)
    assert len(row["masks"][0]) == 5


def test_loss_weights_scale_the_gradient_of_each_loss(store, tmp_path):
    values = {
        "experiment": "weights",
        "task": "pretraining",
        "model": SMALL_MODEL,
        "trainer": {"max_steps": 1, "accelerator": "cpu", "precision": "32", "gradient_clip_val": None},
        "optimizer": {"learning_rate": 1.0, "weight_decay": 0.0},
        "schedule": {"name": "constant"},
        "wandb": {"mode": "disabled"},
        "data": {"train": str(store), "num_workers": 0, "max_seq_length": 40, "batch_size": 8},
    }
    moved = {}
    for weight in (0.0, 1.0):
        overrides = ["--loss_weights.nsp_loss", str(weight)]
        experiment = load_experiment([], overrides, values)
        start = build_training(experiment, None).task.model.nsp_head.weight.detach().clone()
        task, _, _ = train(experiment, tmp_path / str(weight))
        moved[weight] = (task.model.nsp_head.weight - start).abs().max().item()
        losses = task.training_metrics
        assert losses["train/loss"] == pytest.approx(losses["train/mlm_loss"] + weight * losses["train/nsp_loss"])
    assert moved[0.0] == 0
    assert moved[1.0] > 0
