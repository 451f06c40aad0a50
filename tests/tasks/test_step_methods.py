"""A step method that calls backward several times trains as a plain one does, on one process and on two."""

from types import SimpleNamespace

import pytest
import torch

from bert_lightning.tasks.step import Backward
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
            backward(torch.ones(1), is_last=is_last)
        backward.check_ended()

    with pytest.raises(RuntimeError, match=message):
        call()
