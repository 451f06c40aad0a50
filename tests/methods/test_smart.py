"""SMART: exact properties, on every task, and its momentum weights."""

import pytest
import torch
from torch import nn

from bert_lightning.errors import InputError
from bert_lightning.methods.adversarial.momentum_weights import MomentumWeights
from bert_lightning.methods.adversarial.noise import Noise
from bert_lightning.runs.building import build_training
from bert_lightning.runs.resuming import _check_checkpoint as check_resumable
from bert_lightning.tasks.step_method import PlainStep
from tests.methods.test_r_drop import kl
from tests.support.methods import NO_DROPOUT, WholeBatch, first_batch, gradients, maker, micro_batches, same, train
from tests.support.perturbing import moved, parameter_gradients

SMART, PROXIMAL = "--adversarial.name=smart", "--adversarial.proximal=1.0"
BALL = ["--adversarial.projection=ball"]


def distributions_at(student, batch, perturbation):
    with moved(student, perturbation):
        return student.distributions(student.compute(batch), batch)


def both_ways(one, other):
    """The divergence that SMART calls l; of numbers the squared error."""
    first = kl(one.logits, other.logits, one)
    return first if one.are_numbers else first + kl(other.logits, one.logits, one)


def perturbation_of(student, batch, clean, start, projection):
    """One ascent, token by token and sequence by sequence."""
    held = [each._replace(logits=each.logits.detach()) for each in clean]
    start = start.detach().requires_grad_()
    there = distributions_at(student, batch, start)
    total = sum(both_ways(*pair) for pair in zip(held, there, strict=True))
    [gradient] = torch.autograd.grad(total, start)
    if batch["attention_mask"] is not None:
        gradient = gradient * batch["attention_mask"][..., None]
    result = start.detach().clone()
    for sequence, slope in zip(result.flatten(0, -3), gradient.flatten(0, -3), strict=True):
        if projection == "ball":
            sequence += 1e-3 * slope / max(float(slope.abs().max()), 1e-300)
            sequence.clamp_(-0.02, 0.02)
        else:
            for token, along in zip(sequence, slope, strict=True):
                token += 1e-3 * along
                token /= float(token.abs().max()) + 1e-6
    return result


@pytest.mark.parametrize("projection", ["unit", "ball"])
def test_perturbation_and_gradients_are_those_of_a_plain_loop(task, make, recorded, projection):
    options = ["--adversarial.sigma=1e-2", "--adversarial.weight=3.0", f"--adversarial.projection={projection}"]
    options += ["--adversarial.epsilon=0.02"] * (projection == "ball")
    student, batch = first_batch(make(SMART, *options, *NO_DROPOUT))
    student.model.double()
    found = gradients(student, batch)
    start, reached = recorded
    clean = distributions_at(student, batch, torch.zeros_like(start))
    expected = perturbation_of(student, batch, clean, start, projection)
    # Logits are in float32, and so are the differences that the gradient is made of.
    torch.testing.assert_close(reached, expected, rtol=1e-3, atol=1e-5)
    number = student.num_losses
    loss = (student.sums(batch)[:number] / student.counts(batch)[:number]).sum()
    counts, there = student.distribution_counts(batch), distributions_at(student, batch, reached)
    for one, other, count in zip(clean, there, counts, strict=True):
        loss = loss + 3.0 * both_ways(one, other) / count
    for mine, theirs in zip(found, parameter_gradients(student, loss), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


def test_the_noise_is_normal_with_its_deviation_and_padding_has_none(task, make, recorded):
    student, batch = first_batch(make(SMART, "--adversarial.sigma=0.3", "--adversarial.special_tokens=false"))
    gradients(student, batch)
    start, tokenizer = recorded[0], student.tokenizer
    left_out = torch.tensor([tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id])
    may_move = ~torch.isin(batch["input_ids"], left_out)
    for perturbation in recorded:
        assert not perturbation[~may_move].any()
    expected = 0.3 * Noise().normal(batch, start.shape[-1])[may_move].double()
    torch.testing.assert_close(start[may_move].double(), expected, rtol=1e-6, atol=1e-12)


def test_unit_gives_every_token_the_largest_number_1_and_ball_none_above_epsilon(texts, recorded):
    for options, bound in (([], 1.0), ([*BALL, "--adversarial.epsilon=1e-4"], 1e-4), (BALL, 1e-5)):
        recorded.clear()
        student, batch = first_batch(texts(SMART, *options, "--adversarial.num_ascents=2"))
        gradients(student, batch)
        assert len(recorded) == 3
        for reached in recorded[1:]:
            largest = reached.abs().amax(-1)[batch["input_ids"] != student.tokenizer.pad_id]
            assert largest.max() <= bound * (1 + 1e-6)
            assert largest.max() > 0.9 * bound


def test_without_a_ball_to_move_in_the_divergence_is_exactly_nothing_and_so_is_its_gradient(task, make):
    options = [*BALL, "--adversarial.epsilon=0", "--adversarial.weight=5.0"]
    student, batch = first_batch(make(SMART, *options))
    method, number = student.step_method, student.num_losses
    torch.manual_seed(1)
    sums = method.sums(batch, WholeBatch(method, batch))
    assert (sums[number : 2 * number] == 0).all()
    found, plain = gradients(student, batch), gradients(student, batch, method=PlainStep(student))
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_the_divergence_is_never_negative(texts):
    for seed in range(3):
        student, batch = first_batch(texts(SMART, f"--seed_everything={seed + 1}", "--adversarial.sigma=1e-7"))
        sums = student.step_method.sums(batch, WholeBatch(student.step_method, batch))
        assert (sums[student.num_losses : 2 * student.num_losses] >= 0).all()


# -- momentum weights ----------------------------------------------------------------------------------------------


def test_equal_momentum_weights_give_exactly_nothing_and_others_do_not(task, make):
    student, batch = first_batch(make(SMART, PROXIMAL, "--adversarial.weight=0"))
    method, number = student.step_method, student.num_losses
    proximal = slice(2 * number, 3 * number)
    assert all(name.startswith("proximal_") for name in method.loss_names[proximal])
    torch.manual_seed(1)
    assert (method.sums(batch, WholeBatch(method, batch))[proximal] == 0).all()
    before = [parameter.detach().clone() for parameter in student.model.parameters()]
    with torch.no_grad():
        for own in student.momentum_weights.parameters():
            own += 0.05 * torch.randn_like(own)
    torch.manual_seed(1)
    sums = method.sums(batch, WholeBatch(method, batch))
    assert (sums[proximal] > 0).all()
    assert same(before, list(student.model.parameters()))
    # The loss on the labels is that of the weights, with the same dropout masks.
    torch.manual_seed(1)
    torch.testing.assert_close(sums[:number], student.sums(batch).detach()[:number], rtol=1e-5, atol=1e-6)


def test_the_proximal_term_is_the_divergence_from_a_model_with_the_momentum_weights(texts):
    student, batch = first_batch(texts(SMART, PROXIMAL, *NO_DROPOUT))
    method, number = student.step_method, student.num_losses
    method.sums(batch, WholeBatch(method, batch))
    with torch.no_grad():
        for own in student.momentum_weights.parameters():
            own += 0.05 * torch.randn_like(own)
    sums = method.sums(batch, WholeBatch(method, batch))
    here = student.distributions(student.compute(batch), batch)
    names = [name for name, _ in student.model.named_parameters()]
    state = {name: getattr(student.momentum_weights, name.replace(".", "/")) for name in names}
    student.model.load_state_dict(state, strict=False)
    there = student.distributions(student.compute(batch), batch)
    expected = torch.stack([both_ways(*pair) for pair in zip(here, there, strict=True)])
    torch.testing.assert_close(sums[2 * number : 3 * number], expected.detach(), rtol=1e-3, atol=1e-6)


def test_they_follow_the_weights_after_each_step_as_published():
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    model.bias.requires_grad_(False)
    weights = MomentumWeights(model)
    assert [name for name, _ in weights.named_parameters()] == ["weight"]
    expected = model.weight.detach().clone()
    for step in range(30):
        weights.follow(model, step, 30)
        # A step that is begun again after an error follows once.
        weights.follow(model, step, 30)
        if step > 0:
            beta = 0.99 if step <= 3 else 0.999
            expected = (1 - beta) * model.weight.detach() + beta * expected
        torch.testing.assert_close(weights.weight.detach(), expected, rtol=1e-12, atol=0)
        with torch.no_grad():
            model.weight += torch.randn(2, 3)


def test_they_begin_anew_with_a_further_training():
    model = nn.Linear(3, 2)
    weights = MomentumWeights(model)
    for _ in range(2):
        weights.follow(model, 0, 5)
        begun = model.weight.detach().clone()
        assert torch.equal(weights.weight, begun)
        with torch.no_grad():
            model.weight += 1
        weights.follow(model, 3, 5)
        torch.testing.assert_close(weights.weight.detach(), 0.999 * begun + 0.001 * model.weight.detach())


def test_they_are_kept_in_float32_and_the_model_is_restored_bit_for_bit_after_an_error():
    model = nn.Linear(3, 2).bfloat16()
    weights, before = MomentumWeights(model), model.weight.detach().clone()
    assert weights.weight.dtype == torch.float32
    with torch.no_grad():
        weights.weight.fill_(1.0)

    def fail():
        with weights.in_place_of(model):
            assert (model.weight == 1).all()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(model.weight, before)


def test_training_keeps_them_in_checkpoints_and_resumes_them_bit_for_bit(experiments, tmp_path):
    make = maker(experiments["text-classification"])
    options = [SMART, PROXIMAL, "--checkpoint.every_n_steps=1", "--checkpoint.keep_last=9"]
    whole = train(make(*options), tmp_path / "whole")
    state = torch.load(tmp_path / "whole/step-000000002.ckpt", weights_only=True)["state_dict"]
    assert state["momentum_weights.num_steps"] == 1
    resumed = train(make(*options), tmp_path / "resumed", tmp_path / "whole/step-000000002.ckpt")
    found = dict(resumed.state_dict())
    assert any(name.startswith("momentum_weights.encoder/") for name in found)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, found[name]), name
    plain = train(make(SMART, "--trainer.max_steps=1"), tmp_path / "plain")
    assert not any(name.startswith("momentum") for name in plain.state_dict())


def test_a_checkpoint_with_or_without_them_is_refused_by_the_other_kind_of_training(experiments, tmp_path):
    values, options = experiments["text-classification"], ["--trainer.max_steps=2", "--checkpoint.every_n_steps=1"]
    make = maker(values)
    for name, more, other in (("with", [SMART, PROXIMAL], [SMART]), ("without", [SMART], [SMART, PROXIMAL])):
        train(make(*options, *more), tmp_path / name)
        task = build_training(make(*options, *other), None).task
        message = {"with": "it has momentum weights", "without": "it lacks the momentum weights"}[name]
        with pytest.raises(InputError, match=f"cannot be resumed here: {message}, so adversarial differs"):
            check_resumable(tmp_path / name / "step-000000001.ckpt", task, 2)
        same_kind = build_training(make(*options, *more), None).task
        assert check_resumable(tmp_path / name / "step-000000001.ckpt", same_kind, 2) == 1


@pytest.mark.parametrize("tuning", ["lora", "bitfit"])
def test_only_what_trains_has_momentum(experiments, tuning, tmp_path):
    make = maker(experiments["text-classification"])
    train(make("--trainer.max_steps=1"), tmp_path / "base")
    options = [f"--model.pretrained={tmp_path / 'base/last.ckpt'}", "--model.size=null", f"--tuning.name={tuning}"]
    student, [batch] = micro_batches(make(SMART, PROXIMAL, *options))
    gradients(student, batch)
    trained = {name.replace(".", "/") for name, p in student.model.named_parameters() if p.requires_grad}
    assert {name for name, _ in student.momentum_weights.named_parameters()} == trained


def test_frozen_embeddings_are_perturbed_too(experiments, recorded):
    student, batch = first_batch(maker(experiments["text-classification"])(SMART, "--freeze.encoder=true"))
    found = gradients(student, batch)
    assert recorded[1].any()
    assert any(gradient.any() for gradient in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--adversarial.epsilon=0.1"], "adversarial.epsilon does nothing with adversarial.projection unit"),
        (["--adversarial.projection=bal"], "adversarial.projection.*ball"),
        (["--adversarial.num_ascents=0"], "adversarial.num_ascents is 0; it must be at least 1"),
        (["--adversarial.alpha=1"], "adversarial.alpha': it is a key of adversarial.name r-drop"),
        (["--adversarial.proximl=1"], "did you mean 'adversarial.proximal'"),
    ],
)
def test_a_wrong_setting_names_its_key(experiments, options, message):
    with pytest.raises(InputError, match=message):
        maker(experiments["text-classification"])(SMART, *options)
