"""The key `loss` in every task: exact over micro-batches, the same in training and evaluation, or refused."""

import pytest
import torch
import yaml

from bert_lightning.config.experiment import load_experiment
from bert_lightning.errors import InputError
from bert_lightning.model.losses import LOSSES, Focal, LabelSmoothing, item_losses
from bert_lightning.runs.building import build_training
from bert_lightning.tasks.catalogue import TASKS
from tests.support.runs import fit, logged, weights
from tests.support.task_data import task_data, tiny_classification

WITH_ITEMS = [name for name in TASKS if name != "pretraining"]
OWN = "tests.model.test_item_losses.Margin"


@pytest.fixture
def values(tables, tokenizer, tmp_path):
    """A function from a task to the values of an experiment of it."""

    def make(task, **changes):
        made = tiny_classification(tables, tokenizer, tmp_path)
        shared = {key: made["data"][key] for key in ("tokenizer", "batch_size")} | {"max_seq_length": 40}
        return made | {"task": task, "data": task_data(task, tables, tmp_path) | shared} | changes

    return make


def task_and_batch(experiment):
    setup = build_training(experiment, None)
    split = setup.data.splits["train"]
    return setup.task.eval(), split.batch(torch.arange(6).numpy())


@pytest.mark.parametrize("task", WITH_ITEMS)
def test_every_task_sums_the_loss_over_its_items(values, task):
    losses = {}
    for name in (*LOSSES, "focal of 0"):
        loss = {"name": "focal", "gamma": 0} if name == "focal of 0" else {"name": name}
        model, batch = task_and_batch(load_experiment(values(task, loss=loss)))
        with torch.no_grad():
            # With the small weights of the start, all labels are equally likely, and smoothing changes nothing.
            for parameter in model.model.parameters():
                parameter.mul_(4)
            losses[name] = model.sums(batch)[0].item()
            counts = model.counts(batch)
    # The focal loss of 0 is the cross-entropy, by the path of every other loss.
    assert losses["focal of 0"] == pytest.approx(losses["default"], rel=1e-5)
    assert losses["focal"] < losses["default"]
    assert losses["label_smoothing"] != losses["default"]
    assert counts[0] > 0


def test_class_weights_multiply_the_loss_of_each_text(values):
    made = values("text-classification", loss={"name": "focal"})
    made["data"]["class_weights"] = {"animals": 2.0, "nature": 0.5, "places": 1.0}
    task, batch = task_and_batch(load_experiment(made))
    with torch.no_grad():
        computed = task.compute(batch)
        each = item_losses(Focal(), computed, batch["labels"])
        weight = torch.tensor([{"animals": 2.0, "nature": 0.5, "places": 1.0}[label] for label in task.labels])
        assert task.sums(batch)[0].item() == pytest.approx((each * weight[batch["labels"]]).sum().item(), rel=1e-6)
        assert task.counts(batch)[0].item() == pytest.approx(weight[batch["labels"]].sum().item())


def test_equal_class_weights_of_any_size_train_as_none_do(values, tmp_path):
    trained = []
    for number, each in enumerate((None, 0.01)):
        made = values("text-classification")
        made["model"]["config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        made["data"]["class_weights"] = each and dict.fromkeys(("animals", "nature", "places"), each)
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(made))
        assert fit(tmp_path / f"{number}.yaml", tmp_path / str(number), "--trainer.precision=32") == 0
        trained.append(weights(tmp_path / str(number)))
    for name, tensor in trained[0].items():
        torch.testing.assert_close(trained[1][name], tensor, rtol=1e-4, atol=1e-5)


CUT = [{"class_path": OWN}, {"name": "label_smoothing"}, {"name": "focal", "gamma": 1.5}]


@pytest.mark.parametrize("loss", [CUT[0], *(pytest.param(each, marks=pytest.mark.slow) for each in CUT[1:])])
def test_a_step_does_not_depend_on_how_the_batch_is_cut(values, tmp_path, loss):
    file = tmp_path / "experiment.yaml"
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    made = values("token-classification", loss=loss)
    made["model"]["config"] |= still
    made["trainer"] |= {"precision": "32"}
    file.write_text(yaml.safe_dump(made))
    allowed = ("--allow-module", "tests.model.test_item_losses")
    for number in (1, 4):
        assert fit(file, tmp_path / str(number), *allowed, f"--trainer.accumulate_grad_batches={number}") == 0
    whole, cut = (weights(tmp_path / str(number)) for number in (1, 4))
    for name, tensor in whole.items():
        # Adam's first steps divide tiny gradients by themselves, so rounding shows.
        torch.testing.assert_close(cut[name], tensor, rtol=1e-4, atol=1e-6)
    first, other = (
        [row["train/loss"] for row in logged(tmp_path / str(number)) if "train/loss" in row] for number in (1, 4)
    )
    assert first
    assert first == pytest.approx(other, rel=1e-5)


def test_validation_uses_the_loss_of_training(values, tmp_path):
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(values("text-classification", loss={"name": "label_smoothing", "smoothing": 0.5})))
    assert fit(file, tmp_path / "run") == 0
    [last] = [row for row in logged(tmp_path / "run") if "val/loss" in row][-1:]
    experiment = load_experiment(file)
    assert experiment.loss == LabelSmoothing(0.5)
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["loss"] == {
        "name": "label_smoothing",
        "smoothing": 0.5,
    }
    task, _ = task_and_batch(experiment)
    from bert_lightning.checkpoints.reading import read_checkpoint
    from bert_lightning.model.pretrained import fill

    fill(task.model, read_checkpoint(tmp_path / "run/checkpoints/last.ckpt"))
    data = build_training(experiment, None).data
    batch = data.splits["validation"].batch(torch.arange(30).numpy())
    with torch.no_grad():
        mean = (task.sums(batch)[0] / task.counts(batch)[0]).item()
    # The run may compute in bfloat16.
    assert last["val/loss"] == pytest.approx(mean, rel=1e-2)


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("pretraining", {}, "loss.name is focal, which cannot be used: this task has losses of its own"),
        (
            "token-classification",
            {"model": {"head": {"crf": True}}},
            "loss.name is focal, which cannot be used: model.head.crf has the likelihood",
        ),
        (
            "text-classification",
            {"data": {"problem": "multi-label", "label_separator": ","}},
            "loss.name is focal, which cannot be used: a loss over classes needs single labels",
        ),
    ],
)
def test_a_task_that_cannot_use_the_loss_says_so(values, home, task, changes, message):
    if task == "pretraining":
        made = yaml.safe_load((home / "pretraining.yaml").read_text()) | {"loss": {"name": "focal"}}
    else:
        made = values(task, loss={"name": "focal"})
        made["model"] |= changes.get("model", {})
        made["data"] |= changes.get("data", {})
    experiment = load_experiment(made)
    with pytest.raises(InputError, match=message):
        build_training(experiment, None)


def test_the_default_loss_changes_no_identity(values):
    made = values("text-classification")
    plain, named = load_experiment(made), load_experiment(made | {"loss": "default"})
    assert plain.identity == named.identity
    assert load_experiment(made | {"loss": "focal"}).identity != plain.identity


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"name": "fokal"}, r"loss.name is 'fokal'; did you mean 'focal'\?"),
        ({"name": "focal", "gama": 2}, r"unknown key 'loss.gama'; did you mean 'loss.gamma'\?"),
        ({"name": "focal", "gamma": -1}, "loss.gamma is -1.0; it must be at least 0"),
        ({"class_path": OWN}, r"--allow-module tests\.model\.test_item_losses"),
    ],
)
def test_a_wrong_loss_is_an_error_that_names_its_key(values, loss, message):
    with pytest.raises(InputError, match=message):
        load_experiment(values("text-classification", loss=loss))
