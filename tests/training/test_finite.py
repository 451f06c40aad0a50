"""Non-finite steps, which never reach the weights, and spikes of the loss, which are reported."""

import json
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_lightning.optim.optimizers import SGD
from bert_lightning.tasks import task as base
from bert_lightning.training import finite
from bert_lightning.training.finite import MOST_SKIPPED_IN_A_ROW, LossSpikes, gradient_norm, limit_gradients
from bert_lightning.training.precision import ScaledFloat16
from tests.support.poisoned_training import trained


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    """Replace the measurement of a CPU's speed in float16, which takes seconds."""
    monkeypatch.setattr(base, "peak_operations", lambda *_: 1.0)


@pytest.fixture(params=["at once", "later"])
def report_time(request, monkeypatch):
    """Refuse the step at once, or let the fused kernel skip it and report it later, as on a GPU."""
    if request.param == "later":
        monkeypatch.setattr(finite, "_skips_by_itself", lambda device, optimizer: True)


@pytest.mark.parametrize("only_gradient", [False, True])
def test_a_non_finite_step_stops_training_and_names_its_samples(tmp_path, report_time, only_gradient):
    task, error = trained(tmp_path, poisoned=(4,), only_gradient=only_gradient)
    assert "step 4" in str(error)
    assert "12, 13, 14, 15" in str(error)
    assert ("a gradient is not finite" if only_gradient else "the loss is not finite") in str(error)
    [report] = tmp_path.glob("non-finite-*.json")
    assert str(report) in str(error)
    content = json.loads(report.read_text())
    assert content["step"] == 4
    [process] = content["processes"]
    assert process["samples"] == [[12, 13, 14, 15]]
    weights = torch.cat([weight.detach().flatten() for weight in task.parameters()])
    assert torch.equal(weights, task.history[2])


def test_a_skipped_step_changes_no_weight_and_training_continues(tmp_path, report_time):
    task, error = trained(tmp_path, poisoned=(3,), non_finite="skip")
    assert error is None
    assert torch.equal(task.history[2], task.history[1])
    assert not torch.equal(task.history[3], task.history[2])
    assert task.history[-1].isfinite().all()
    assert task.training_metrics["train/skipped_steps"] == 1
    assert np.isfinite(task.training_metrics["train/loss"])


def test_a_skipped_step_changes_no_moment(tmp_path):
    # Plain descent over the other steps: the skipped step has no effect at all.
    with_skip, _ = trained(tmp_path, poisoned=(6,), non_finite="skip", optimizer=SGD(learning_rate=0.1, momentum=0.9))
    without, _ = trained(tmp_path, num_steps=5, optimizer=SGD(learning_rate=0.1, momentum=0.9))
    assert torch.equal(with_skip.history[-1], without.history[-1])


def test_diverged_training_is_not_skipped_for_ever(tmp_path):
    steps = MOST_SKIPPED_IN_A_ROW + 3
    _, error = trained(tmp_path, poisoned=tuple(range(2, steps + 1)), non_finite="skip", num_steps=steps)
    assert "has diverged" in str(error)
    assert f"step {MOST_SKIPPED_IN_A_ROW + 1}:" in str(error)


@given(st.integers(0, 2**32), st.floats(1e-3, 1e3))
@settings(max_examples=50)
def test_clipping_equals_that_of_torch_to_the_bit(seed, largest):
    generator = torch.Generator().manual_seed(seed)
    ours = [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in (3, 70, 1)]
    for parameter in ours:
        parameter.grad = torch.randn(parameter.shape, generator=generator) * 10
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    for mine, other in zip(ours, theirs, strict=True):
        other.grad = mine.grad.clone()
    norm = gradient_norm(ours)
    limit_gradients(ours, norm, largest)
    assert torch.equal(norm, torch.nn.utils.clip_grad_norm_(theirs, largest))
    assert all(torch.equal(mine.grad, other.grad) for mine, other in zip(ours, theirs, strict=True))


def test_a_spike_of_the_loss_is_reported_and_noise_is_not(caplog):
    spikes = LossSpikes()
    generator = np.random.default_rng(0)
    with caplog.at_level(logging.WARNING):
        for step in range(200):
            spikes.add(step, 6 * 0.99**step + 1 + 0.03 * float(generator.standard_normal()))
        assert not caplog.records
        spikes.add(200, 3.0)
        spikes.add(201, 1.8)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["step 200"]


def test_a_spike_of_the_loss_is_reported_by_the_first_process_only(caplog, monkeypatch):
    monkeypatch.setattr(finite, "process_rank", lambda: 1)
    spikes = LossSpikes()
    for step in range(9):
        spikes.add(step, 1.0 if step < 8 else 9.0)
    assert not caplog.records
    assert spikes.losses[-1] == 9.0


def test_the_first_log_intervals_are_not_compared(caplog):
    spikes = LossSpikes()
    for step, loss in enumerate([1.0, 50.0, 2.0, 90.0]):
        spikes.add(step, loss)
    assert not caplog.records


@pytest.mark.parametrize("scale", [2.0**10, 2.0**4])
def test_a_scaled_loss_changes_the_weights_like_an_unscaled_one(tmp_path, scale):
    precision = ScaledFloat16("cpu")
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    plain_sgd = {"optimizer": SGD(learning_rate=0.1, momentum=0.0), "num_steps": 3}
    scaled, error = trained(tmp_path, plugins=[precision], **plain_sgd)
    assert error is None
    plain, _ = trained(tmp_path, **plain_sgd)
    # Clipping to a norm of 1 comes after unscaling. Before it, steps would be shorter by the scale.
    torch.testing.assert_close(scaled.history[-1], plain.history[-1], rtol=2e-2, atol=2e-3)
    assert not torch.equal(scaled.history[-1], scaled.history[0])


def test_a_loss_scale_too_large_is_halved_and_its_steps_are_silently_skipped(tmp_path, caplog):
    precision = ScaledFloat16("cpu")
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    task, error = trained(tmp_path, plugins=[precision])
    assert error is None
    assert torch.equal(task.history[0], task.history[1])
    assert precision.scaler.get_scale() < 2.0**30
    assert not list(tmp_path.glob("non-finite-*.json"))


def test_a_non_finite_loss_stops_training_also_with_loss_scaling(tmp_path):
    _, error = trained(tmp_path, poisoned=(2,), plugins=[ScaledFloat16("cpu")], num_steps=3)
    assert "the loss is not finite" in str(error)
