"""Every step method on every task: the loss is that of the whole batch, and a run resumes bit for bit."""

import pytest
import torch

from bert_lightning.methods.adversarial import ADVERSARIES
from bert_lightning.methods.distillation import TERMS
from bert_lightning.methods.plain import STEP_METHODS
from tests.support.methods import METHODS, NO_DROPOUT, first_batch, gradients, micro_batches, train


# All at once in the fast tests; `make test-slow` tests each by itself.
@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name != "all")) for name in METHODS])
def method(request, task, teachers):
    """The overrides of each method in turn."""
    return METHODS[request.param](teachers(task))


def test_the_gradient_does_not_depend_on_how_a_batch_is_split(make, method):
    found = []
    for number in (1, 4):
        student, batches = micro_batches(make(*method, *NO_DROPOUT), number)
        student.model.double()
        found.append(gradients(student, *batches))
    assert len(batches) == 4
    for one, other in zip(*found, strict=True):
        # Logits are in float32, and so is the difference of two probabilities in the gradient.
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_a_run_resumes_bit_for_bit_with_the_open_log_interval(make, method, tmp_path):
    options = [*method, "--checkpoint.every_n_steps=1", "--checkpoint.keep_last=9", "--trainer.log_every_n_steps=4"]
    whole = train(make(*options), tmp_path / "whole")
    resumed = train(make(*options), tmp_path / "resumed", tmp_path / "whole/step-000000002.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    losses = {name: value for name, value in whole.training_metrics.items() if name.endswith(("loss", "accuracy"))}
    assert losses == {name: resumed.training_metrics[name] for name in losses}
    assert len(losses) == len({*whole.step_method.loss_names, "loss"})


def test_the_logged_loss_is_the_weighted_sum_of_the_losses_with_those_of_the_settings(make, method, tmp_path):
    names = first_batch(make(*method))[0].step_method.loss_names
    trained = train(make(*method, f"--loss_weights.{names[0]}=0.3", "--trainer.max_steps=1"), tmp_path)
    step, logged = trained.step_method, trained.training_metrics
    factors = dict(zip(step.loss_names, step.loss_factors, strict=False))
    factors[names[0]] *= 0.3
    if names[0] == "loss":
        # The only loss of a task is the total, and so its weight is in it.
        plain = train(make(*method, "--trainer.max_steps=1"), tmp_path / "plain").training_metrics["train/loss"]
        assert logged["train/loss"] == pytest.approx(0.3 * plain, rel=1e-6)
    else:
        total = sum(logged[f"train/{name}"] * factor for name, factor in factors.items())
        assert logged["train/loss"] == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("precision", [pytest.param("bf16-mixed", marks=pytest.mark.slow), "bf16-true"])
def test_it_trains_in_bfloat16(make, method, tmp_path, precision):
    trained = train(make(*method, f"--trainer.precision={precision}", "--trainer.max_steps=2"), tmp_path)
    assert all(torch.isfinite(parameter).all() for parameter in trained.model.parameters())


@pytest.mark.slow
def test_activation_checkpointing_changes_nothing_but_rounding(task, make, method, tmp_path):
    results = [
        train(make(*method, f"--model.activation_checkpointing={on}", "--trainer.max_steps=2"), tmp_path / on)
        for on in ("false", "true")
    ]
    for name, value in results[0].model.state_dict().items():
        # A term added to every choice or position cancels, so its gradient is noise, which Adam scales up.
        if (task, name) not in (("multiple-choice", "classifier.bias"), ("question-answering", "span_head.bias")):
            torch.testing.assert_close(results[1].model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_every_adversary_step_method_and_loss_on_inner_states_is_among_the_methods_of_these_tests():
    assert {*ADVERSARIES, *STEP_METHODS, *TERMS} - {"none", "plain"} <= {*METHODS}
