"""Projected gradient descent: exact properties, on every task."""

import pytest
import torch

from tests.support.methods import NO_DROPOUT, first_batch, gradients, same
from tests.support.perturbing import ascended, gradient_at, loss_at, parameter_gradients

PGD, FGM = "--adversarial.name=pgd", "--adversarial.name=fgm"


def norms(perturbation):
    return perturbation.double().flatten(0, -3).norm(dim=(1, 2))


def test_ascents_and_gradient_are_those_of_a_plain_loop(task, make, recorded):
    options = ["--adversarial.epsilon=0.5", "--adversarial.ascent_size=0.3", "--adversarial.weight=0.25"]
    student, batch = first_batch(make(PGD, *options, *NO_DROPOUT))
    student.model.double()
    found = gradients(student, batch)
    reached, iterates = recorded[0], []
    for _ in range(3):
        reached = ascended(reached, gradient_at(student, batch, reached), 0.3, 0.5)
        iterates.append(reached)
    assert len(recorded) == 4
    for mine, expected in zip(recorded[1:], iterates, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-8)
    loss = loss_at(student, batch, recorded[0]) + 0.25 * loss_at(student, batch, reached)
    for one, other in zip(found, parameter_gradients(student, loss), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("start", ["false", "true"])
def test_every_iterate_is_in_the_ball_and_padding_stays(texts, recorded, start):
    options = ["--adversarial.epsilon=0.4", "--adversarial.ascent_size=0.3", f"--adversarial.random_start={start}"]
    student, batch = first_batch(texts(PGD, *options))
    gradients(student, batch)
    # Clean pass, start at random, two ascents that are passed again, and the last pass.
    assert len(recorded) == 4 + (start == "true")
    assert not recorded[0].any()
    for reached in recorded[1:]:
        assert norms(reached).max() <= 0.4 * (1 + 1e-6)
        assert norms(reached).max() > 0.29
        assert not reached[batch["input_ids"] == student.tokenizer.pad_id].any()
    if start == "true":
        exists = norms(recorded[1]) > 0
        torch.testing.assert_close(norms(recorded[1])[exists].float(), torch.full((int(exists.sum()),), 0.4))


def test_one_ascent_as_long_as_the_ball_is_the_fast_gradient_method(task, make, recorded):
    options = ["--adversarial.epsilon=0.5", "--adversarial.weight=0.5"]
    student, batch = first_batch(make(PGD, *options, "--adversarial.num_ascents=1", "--adversarial.ascent_size=0.5"))
    projected = gradients(student, batch)
    fast = gradients(*first_batch(make(FGM, *options)))
    torch.testing.assert_close(recorded[1], recorded[3], rtol=1e-6, atol=0)
    for one, other in zip(projected, fast, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_ascents_leave_no_gradients_in_the_weights_and_all_passes_have_the_same_dropout(task, make):
    # With nothing to ascend, every pass is the clean one.
    student, batch = first_batch(make(PGD, "--adversarial.epsilon=0"))
    clean = gradients(student, batch, method=student.step_method.method)
    assert same(gradients(student, batch), [2 * gradient for gradient in clean])


def test_the_loss_rises_with_each_ascent(texts, recorded):
    student, batch = first_batch(texts(PGD, "--adversarial.ascent_size=0.1", *NO_DROPOUT))
    gradients(student, batch)
    losses = [loss_at(student, batch, each).item() for each in recorded]
    assert losses == sorted(losses)
    assert losses[-1] > losses[0]
