"""A step method that calls backward several times trains as a plain one does, on one process and on two."""

from types import SimpleNamespace

import pytest
import torch

from bert_lightning.errors import InputError
from bert_lightning.methods.adversarial import NoAdversary
from bert_lightning.methods.composition import compose
from bert_lightning.model.parts import ContractError
from bert_lightning.tasks.log_interval import Work
from bert_lightning.tasks.step import Backward, accumulate_gradients
from tests.support.ranks import Ranks
from tests.test_strategies import NO_DROPOUT, difference, fit, weights

TWICE = """
import os
import torch
from bert_lightning.cli import main
from bert_lightning.methods import plain
from bert_lightning.tasks.step_method import PlainStep

local = []


class Twice(PlainStep):
    def sums(self, batch, backward):
        for is_last in (False, True):
            sums = self.losses.sums(batch)
            backward(sums[: self.num_losses] / 2, is_last=is_last)
            if not is_last:
                parameters = self.losses.model.parameters()
                local.append(float(sum(p.grad.double().sum() for p in parameters if p.grad is not None)))
        return sums.detach()


default, plain.PlainStep = plain.PlainStep, Twice
os.environ.pop("BERT_LIGHTNING_RUN_DIRECTORY", None)
try:
    answer = [main({command!r}), *local]
finally:
    plain.PlainStep = default
"""


def twice(home, run, ranks: Ranks):
    command = ["fit", "--config", str(home / "pretraining.yaml"), "--trainer.max_steps=2", *NO_DROPOUT]
    command += ["--trainer.accumulate_grad_batches=2", "--run-directory", str(run), "--trainer.devices=2"]
    return ranks.execute(TWICE.format(command=command))


def test_two_backward_passes_train_like_one_and_exchange_gradients_once(home, two_ranks, tmp_path):
    options = ["--trainer.max_steps=2", "--trainer.accumulate_grad_batches=2", *NO_DROPOUT]
    fit(home, tmp_path / "plain", *options, ranks=two_ranks)
    (status, *one), (_, *other) = twice(home, tmp_path / "twice", two_ranks)
    assert status == 0
    # The first pass of each of four micro-batches left the gradients of its own process.
    assert len(one) == 4
    assert all(a != b for a, b in zip(one, other, strict=True))
    assert difference(weights(tmp_path / "plain"), weights(tmp_path / "twice")) <= 2e-6


@pytest.mark.parametrize(
    ("passes", "message"),
    [([], "no last backward pass"), ([False], "no last backward pass"), ([True, False], "after the last pass")],
)
def test_a_step_method_ends_each_micro_batch_with_one_last_pass(passes, message):
    def call():
        task = SimpleNamespace(manual_backward=lambda loss: None, trainer=SimpleNamespace(strategy=None))
        backward = Backward(task, torch.sum, exchanges=True)
        for is_last in passes:
            backward(torch.ones(1, requires_grad=True), is_last=is_last)
        backward.check_ended()

    with pytest.raises(ContractError, match=message):
        call()


@pytest.mark.parametrize("scale", [None, 8.0])
def test_a_gradient_of_a_tensor_is_no_pass_and_gives_parameters_none(scale):
    weight, moved = torch.tensor([2.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)
    scaler = (
        None
        if scale is None
        else SimpleNamespace(scale=lambda loss: loss * scale, _get_scale_async=lambda: torch.tensor(scale))
    )
    trainer = SimpleNamespace(strategy=None, precision_plugin=SimpleNamespace(scaler=scaler))
    task = SimpleNamespace(manual_backward=lambda loss: loss.backward(), trainer=trainer)
    backward = Backward(task, lambda losses: losses.sum() / 4, exchanges=True)
    assert backward.gradient(weight * moved**2, moved) == 2 * 2 * 3 / 4
    assert weight.grad is None
    assert moved.grad is None
    with pytest.raises(ContractError, match="carry no gradients"):
        backward.gradient(torch.ones(1), moved)
    backward(weight * moved, is_last=True)
    backward.check_ended()
    assert weight.grad == 3 / 4


class Promises:
    """A step method of a loss and a further sum, with parts that a test replaces."""

    loss_names, num_losses, loss_factors = ("loss", "right"), 1, (1.0,)

    def __init__(self, **changes):
        self.backed, self.of_counts, self.of_sums = torch.ones(1, requires_grad=True), torch.ones(2), torch.ones(2)
        self.__dict__.update(changes)

    def counts(self, batch):
        return self.of_counts

    def sums(self, batch, backward):
        backward(self.backed)
        return self.of_sums

    def operations(self, batch, num_passes=1):
        return 0.0


def step_of(method):
    trainer = SimpleNamespace(global_step=0, strategy=None, global_rank=0, world_size=1)
    task = SimpleNamespace(
        manual_backward=lambda loss: loss.backward(),
        trainer=trainer,
        device=torch.device("cpu"),
        step_method=method,
        device_mesh=None,
    )
    optimization = SimpleNamespace(seed=0, loss_weights={})
    return accumulate_gradients(task, optimization, method, [{}], Work(1, 1, 1.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"of_counts": torch.ones(1)}, r"step_method: counts returned the shape \(1,\); expected .* \(2,\)"),
        ({"of_counts": None}, "step_method: counts returned NoneType"),
        ({"of_sums": torch.ones(1)}, r"step_method: sums returned the shape \(1,\)"),
        ({"of_sums": None}, "step_method: sums returned NoneType"),
        (
            {"backed": torch.ones(2, requires_grad=True)},
            r"step_method: backward was called with the shape \(2,\); expected .* \(1,\)",
        ),
        ({"backed": torch.ones(1)}, "the losses carry no gradients: head, loss and step_method must"),
    ],
)
def test_values_that_broadcasting_would_stretch_and_losses_without_gradients_are_refused(changes, message):
    assert step_of(Promises()).loss == 1
    with pytest.raises(ContractError, match=message):
        step_of(Promises(**changes))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (None, "step_method made None, which lacks loss_names, num_losses, "),
        (Promises(num_losses=3), "step_method has 3 losses"),
        (Promises(num_losses=0, loss_factors=()), "step_method has 0 losses"),
        (Promises(loss_factors=()), "one factor for each loss"),
        (Promises(loss_names=("loss", "loss")), "different names"),
    ],
)
def test_a_step_method_whose_losses_do_not_fit_together_is_refused_before_training(method, message):
    chosen = SimpleNamespace(build=lambda losses: method)
    with pytest.raises(InputError, match=message):
        compose(SimpleNamespace(), chosen, NoAdversary())


def test_perturbations_that_make_no_step_method_are_refused_before_training():
    with pytest.raises(InputError, match="adversarial made None, which lacks loss_names"):
        compose(
            SimpleNamespace(),
            SimpleNamespace(build=lambda losses: Promises()),
            SimpleNamespace(wrap=lambda method, task: None),
        )


class Following(Promises):
    """A step method that follows the training."""

    modules = ()

    def configure(self):
        """Do nothing."""

    def begin_step(self, step, num_steps, seed):
        """Do nothing."""


def test_a_step_method_that_follows_the_training_also_does_so_below_an_adversary():
    task, own = SimpleNamespace(), Following()
    adversary = SimpleNamespace(wrap=lambda method, task: Promises())
    compose(task, SimpleNamespace(build=lambda losses: own), adversary)
    assert task.step_parts == [own]
    compose(task, SimpleNamespace(build=lambda losses: own), NoAdversary())
    assert task.step_parts == [own]
