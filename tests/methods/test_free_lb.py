"""FreeLB: exact properties, on every task."""

import pytest
import torch

from bert_lightning.methods.adversarial import FreeLBStep
from bert_lightning.tasks.step_method import PlainStep
from tests.support.methods import NO_DROPOUT, first_batch, gradients, same
from tests.support.perturbing import ascended, gradient_at, loss_at, parameter_gradients

FREELB = "--adversarial.name=freelb"


def test_gradients_are_the_mean_over_the_passes_of_a_plain_loop(task, make, recorded):
    student, batch = first_batch(make(FREELB, "--adversarial.ascent_size=0.1", *NO_DROPOUT))
    student.model.double()
    found = gradients(student, batch)
    assert len(recorded) == 3
    reached, losses = recorded[0], []
    for number in range(3):
        torch.testing.assert_close(recorded[number], reached, rtol=1e-6, atol=1e-8)
        losses.append(loss_at(student, batch, reached))
        reached = ascended(reached, gradient_at(student, batch, reached), 0.1, 0.14)
    for one, other in zip(found, parameter_gradients(student, sum(losses) / 3), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_one_pass_without_a_start_is_plain_training_bit_for_bit(task, make):
    student, batch = first_batch(make(FREELB, "--adversarial.num_passes=1", "--adversarial.initial=0"))
    assert isinstance(student.step_method, FreeLBStep)
    plain, method = PlainStep(student), student.step_method
    assert same(gradients(student, batch), gradients(student, batch, method=plain))
    assert (list(method.loss_names), method.num_losses) == (list(plain.loss_names), plain.num_losses)
    assert method.counts(batch).tolist() == plain.counts(batch).tolist()


def test_the_start_is_uniform_within_its_size_over_the_root_of_the_numbers_of_a_sequence(task, make, recorded):
    for special in (True, False):
        recorded.clear()
        options = ["--adversarial.initial=0.5", f"--adversarial.special_tokens={special}"]
        student, batch = first_batch(make(FREELB, *options))
        gradients(student, batch)
        tokenizer, ids, start = student.tokenizer, batch["input_ids"], recorded[0]
        for of_sequence, values in zip(ids.flatten(0, -2), start.flatten(0, -3), strict=True):
            left_out = [tokenizer.pad_id] if special else [tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id]
            moves = ~torch.isin(of_sequence, torch.tensor(left_out))
            assert not values[~moves].any()
            if moves.any():
                bound = 0.5 / (int(moves.sum()) * values.shape[-1]) ** 0.5
                assert 0.9 * bound < values.abs().max() <= bound
                # The deviation of a uniform number is its bound over the root of 3.
                torch.testing.assert_close(
                    values[moves].square().mean().sqrt().item(), bound / 3**0.5, rtol=0.2, atol=0
                )


@pytest.mark.parametrize("start", ["0", "0.16"])
def test_all_perturbations_but_the_first_are_in_the_ball(texts, recorded, start):
    options = ["--adversarial.ascent_size=0.2", f"--adversarial.initial={start}"]
    student, batch = first_batch(texts(FREELB, *options))
    gradients(student, batch)
    assert recorded[0].any() == (start != "0")
    for reached in recorded[1:]:
        norms = reached.double().flatten(0, -3).norm(dim=(1, 2))
        assert 0.1 < norms.max() <= 0.14 * (1 + 1e-6)


def test_without_a_ball_the_perturbation_moves_on(texts, recorded):
    gradients(*first_batch(texts(FREELB, "--adversarial.epsilon=null", "--adversarial.ascent_size=1.0")))
    assert recorded[2].flatten(0, -3).norm(dim=(1, 2)).max() > 1.5


def test_a_clean_pass_counts_as_one_more(texts, recorded):
    student, batch = first_batch(texts(FREELB, "--adversarial.clean_pass=true", *NO_DROPOUT))
    student.model.double()
    found = gradients(student, batch)
    clean, *others = recorded
    assert not clean.any()
    assert len(others) == 3
    assert others[0].any()
    loss = sum(loss_at(student, batch, each) for each in recorded) / 4
    for one, other in zip(found, parameter_gradients(student, loss), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_all_passes_have_the_same_dropout(task, make):
    # Four equal gradients, whose quarters are exact, add up to the gradient itself.
    options = ["--adversarial.num_passes=4", "--adversarial.initial=0", "--adversarial.ascent_size=0"]
    student, batch = first_batch(make(FREELB, *options))
    assert same(gradients(student, batch), gradients(student, batch, method=PlainStep(student)))
