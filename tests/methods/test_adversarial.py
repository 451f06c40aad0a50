"""The fast gradient method: exact properties, on every task."""

import pytest
import torch

from bert_lightning.methods.adversarial import FastGradient, FastGradientStep, directions
from bert_lightning.model.layers.packing import packing_of, pad
from bert_lightning.tasks.step_method import PlainStep
from tests.support.methods import NO_DROPOUT, first_batch, gradients, same

FGM = "--adversarial.name=fgm"
PACKED = "--data.batching=packed"


def forms(task):
    """Overrides of each layout that a task has."""
    return [[], [PACKED]] if task == "pretraining" else [[]]


def by_sequence(values, batch):
    """Values of the tokens (..., S, H) or (T, H) as (n, S, H)."""
    return pad(values, batch["packing"])[0] if "packing" in batch else values.flatten(0, -3)


def test_a_direction_has_the_norm_one_and_no_gradient_gives_none():
    torch.manual_seed(0)
    gradient = torch.randn(5, 7, 16) * 10.0 ** torch.tensor([-30, -12, 0, 12, 30])[:, None, None]
    gradient[3] = 0
    gradient[4, 1, 2] = torch.inf
    found = directions(gradient)
    norms = found.double().flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([1.0, 1, 1, 0, 0], dtype=torch.float64), rtol=0, atol=1e-6)
    exact = gradient[:3].double()
    torch.testing.assert_close(found[:3].double() * exact.norm(dim=(1, 2))[:, None, None], exact, rtol=1e-6, atol=0)


def test_packed_directions_are_those_of_the_sequences_by_themselves():
    torch.manual_seed(0)
    packing = packing_of(torch.tensor([3, 1, 5]))
    gradient = torch.randn(9, 4, dtype=torch.float64)
    padded, indices = pad(gradient, packing)
    torch.testing.assert_close(directions(gradient, packing), directions(padded).flatten(0, 1)[indices])
    assert directions(gradient[:0], packing_of(torch.tensor([], dtype=torch.long))).shape == (0, 4)


@pytest.mark.parametrize("special", [True, False])
def test_each_sequence_is_perturbed_by_epsilon_and_padding_is_not(task, make, recorded, special):
    for form in forms(task):
        recorded.clear()
        experiment = make(FGM, "--adversarial.epsilon=0.7", f"--adversarial.special_tokens={special}", *form)
        student, batch = first_batch(experiment)
        gradients(student, batch)
        clean, perturbation = recorded
        assert not clean.any()
        ids, tokenizer = batch["input_ids"], student.tokenizer
        norms = by_sequence(perturbation.double(), batch).norm(dim=(1, 2))
        exists = norms > 0
        torch.testing.assert_close(norms[exists], torch.full_like(norms[exists], 0.7), rtol=1e-6, atol=0)
        # A question without its third choice has an empty sequence there.
        assert exists.all() or task == "multiple-choice"
        is_special = (ids == tokenizer.cls_id) | (ids == tokenizer.sep_id)
        moved = perturbation.any(-1)
        assert not moved[ids == tokenizer.pad_id].any()
        assert moved[is_special].any() == special
        assert moved[~is_special & (ids != tokenizer.pad_id)].any()


def test_the_gradient_is_that_of_the_clean_and_of_the_perturbed_loss(task, make, recorded):
    for form in forms(task):
        recorded.clear()
        options = ["--adversarial.epsilon=0.5", "--adversarial.weight=0.25", *NO_DROPOUT]
        student, batch = first_batch(make(FGM, *options, *form))
        student.model.double()
        together = gradients(student, batch)
        plain = PlainStep(student)
        clean = gradients(student, batch, method=plain)
        perturbation = recorded[1]
        # The gradient of the embeddings themselves. `eager` keeps the padding, so all shapes are those of the ids.
        student.model.backbone.attention, embeddings = "eager", []

        def keep(module, inputs, output, embeddings=embeddings):
            output.retain_grad()
            embeddings.append(output)

        with student.model.backbone.embeddings.register_forward_hook(keep):
            gradients(student, batch, method=plain)
        gradient = by_sequence(embeddings[0].grad, batch)
        expected = 0.5 * gradient / gradient.norm(dim=(1, 2), keepdim=True).clamp(min=1e-30)
        torch.testing.assert_close(by_sequence(perturbation, batch), expected, rtol=1e-9, atol=1e-12)
        with student.model.backbone.perturbed(recorded[1]):
            adversarial = gradients(student, batch, method=plain)
        for found, one, other in zip(together, clean, adversarial, strict=True):
            torch.testing.assert_close(found, one + 0.25 * other, rtol=1e-9, atol=1e-12)


def test_without_perturbation_the_gradient_is_twice_the_clean_one_bit_for_bit(task, make):
    for form in forms(task):
        student, batch = first_batch(make(FGM, "--adversarial.epsilon=0", *form))
        before = [p.detach().clone() for p in student.model.parameters()]
        doubled = gradients(student, batch)
        clean = gradients(student, batch, method=PlainStep(student))
        assert same(doubled, [2 * gradient for gradient in clean])
        # Dropout is on: other masks give other gradients.
        assert not same(clean, gradients(student, batch, method=PlainStep(student), seed=2))
        assert same(before, list(student.model.parameters()))


def test_the_perturbed_loss_rises_and_has_its_own_sums(task, make):
    student, batch = first_batch(make(FGM, "--adversarial.epsilon=0.1", *NO_DROPOUT))
    method, number = student.step_method, student.num_losses
    assert method.num_losses == 2 * number
    assert len(method.loss_names) == len({*method.loss_names}) == len(method.counts(batch))
    assert all(name.startswith("adversarial_") for name in method.loss_names[number : 2 * number])
    sums = method.sums(batch, lambda losses, is_last=True: losses.sum().backward())
    clean, perturbed = sums[:number], sums[number : 2 * number]
    assert perturbed.sum() > clean.sum()
    torch.testing.assert_close(sums[[*range(number), *range(2 * number, len(sums))]], student.sums(batch).detach())


@pytest.mark.parametrize("frozen", ["--freeze.embeddings=true", "--freeze.encoder=true"])
def test_frozen_embeddings_are_perturbed_too(make, recorded, frozen):
    student, batch = first_batch(make(FGM, frozen))
    found = gradients(student, batch)
    assert recorded[1].any()
    trained = [p.requires_grad for p in student.model.parameters()]
    assert [bool(gradient.any()) for gradient in found].count(True) <= trained.count(True)
    assert any(gradient.any() for gradient in found)


def test_only_the_last_pass_is_the_last(make):
    student, batch = first_batch(make())
    calls = []

    class Several(PlainStep):
        def sums(self, batch, backward):
            for is_last in (False, True):
                sums = self.losses.sums(batch)
                backward(sums[: self.num_losses], is_last=is_last)
            return sums.detach()

    def backward(losses, *, is_last=True):
        calls.append(is_last)
        losses.sum().backward()

    FastGradientStep(Several(student), student, FastGradient()).sums(batch, backward)
    assert calls == [False, False, False, True]
