"""The norms and learning rates in the log are those of the step, and logging them changes no bit."""

import re

import pytest
import torch
from lightning import Callback

from tests.support.plain_lightning import NUM_STEPS, trainer

pytestmark = pytest.mark.filterwarnings("ignore")
RECIPE = {"trainer__log_every_n_steps": 1, "trainer__gradient_clip_val": 0.01}


class BruteForce(Callback):
    """Computes the norms of each step in float64, value by value, and notes the rates of the optimiser's groups."""

    def __init__(self):
        self.gradients, self.parameters, self.rates, self.logged = [], [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        groups = trainer.optimizers[0].param_groups
        self.rates.append({id(parameter): group["lr"] for group in groups for parameter in group["params"]})

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        named = pl_module.model.named_parameters()
        self.gradients.append(by_place((name, each.grad) for name, each in named if each.grad is not None))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        named = pl_module.model.named_parameters()
        self.parameters.append(by_place((name, each) for name, each in named if each.requires_grad))
        self.logged.append(dict(pl_module.training_metrics))


def place_of(name, num_blocks=2):
    """Return the place of a parameter, from its name alone."""
    if block := re.search(r"layers\.(\d+)\.", name):
        return f"block_{int(block[1]) + 1}"
    if "embeddings" in name:
        return "embeddings"
    return f"block_{num_blocks}" if "pooler" in name else "head"


def by_place(named):
    values = {}
    for name, tensor in named:
        for place in ("", f"_{place_of(name)}"):
            values.setdefault(place, []).extend(tensor.detach().double().flatten().tolist())
    return {place: sum(value * value for value in each) ** 0.5 for place, each in values.items()}


def fitted(plain, **overrides):
    truth = BruteForce()
    task, data = plain.make(trainer__max_steps=NUM_STEPS, **RECIPE, **overrides)
    trainer(callbacks=[truth], limit_val_batches=0).fit(task, data)
    return task, truth


def test_norms_are_those_of_brute_force_in_total_and_at_each_place(plain):
    _, truth = fitted(plain, trainer__log_norms="blocks")
    places = {"", "_embeddings", "_block_1", "_block_2", "_head"}
    assert len(truth.logged) == NUM_STEPS
    for logged, gradients, parameters in zip(truth.logged, truth.gradients, truth.parameters, strict=True):
        assert {name for name in logged if "_norm" in name} == {
            f"train/{kind}_norm{place}" for kind in ("gradient", "parameter") for place in places
        }
        # More than a hundred times the limit of clipping: these are norms before it.
        assert logged["train/gradient_norm"] > 0.02
        for place in places:
            assert logged[f"train/gradient_norm{place}"] == pytest.approx(gradients[place], rel=1e-5)
            assert logged[f"train/parameter_norm{place}"] == pytest.approx(parameters[place], rel=1e-5)
    norms = [logged["train/parameter_norm"] for logged in truth.logged]
    assert len(set(norms)) == NUM_STEPS


def test_parameters_that_do_not_train_count_in_no_norm(plain):
    _, truth = fitted(plain, trainer__log_norms="blocks", freeze__encoder=True)
    assert {name for name in truth.logged[-1] if "_norm" in name} == {
        f"train/{kind}_norm{place}" for kind in ("gradient", "parameter") for place in ("", "_head")
    }
    assert truth.logged[-1]["train/parameter_norm"] == truth.logged[-1]["train/parameter_norm_head"]
    assert truth.logged[-1]["train/parameter_norm"] == pytest.approx(truth.parameters[-1][""], rel=1e-5)


def test_what_is_logged_changes_no_bit_of_the_training(plain):
    runs = {each: fitted(plain, trainer__log_norms=each) for each in ("none", "total", "blocks")}
    without, truth = runs["none"]
    assert not any("_norm" in name for name in truth.logged[-1])
    for task, _ in runs.values():
        for name, tensor in without.state_dict().items():
            assert torch.equal(tensor, task.state_dict()[name]), name
        assert task.training_metrics["train/loss"] == without.training_metrics["train/loss"]


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        ({}, {}),
        ({"head_learning_rate": 5e-3}, {"encoder": "layers.0", "head": "classifier"}),
        (
            {"layer_decay": 0.5},
            {"embeddings": "embeddings", "block_1": "layers.0", "block_2": "layers.1", "head": "classifier"},
        ),
        # The head begins at the rate of the second block, and shares its groups.
        (
            {"layer_decay": 0.5, "head_learning_rate": 5e-4},
            {"embeddings": "embeddings", "block_1": "layers.0", "block_2_head": "layers.1"},
        ),
    ],
)
def test_each_rate_is_logged_under_the_places_that_it_moves(plain, groups, names):
    overrides = {f"parameter_groups__{name}": value for name, value in groups.items()}
    task, truth = fitted(plain, optimizer__learning_rate=1e-3, **overrides)
    of_names = dict(task.model.named_parameters())
    for logged, rates in zip(truth.logged, truth.rates, strict=True):
        assert {name for name in logged if name.startswith("train/learning_rate_")} == {
            f"train/learning_rate_{name}" for name in names
        }
        for name, part in names.items():
            [rate] = {rates[id(each)] for own, each in of_names.items() if part in own}
            assert logged[f"train/learning_rate_{name}"] == rate
        if "encoder" in names:
            assert logged["train/learning_rate"] == logged["train/learning_rate_encoder"]
