"""Losses over counted items: those of the table, and a custom one."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from bert_lightning.model.losses import (
    IGNORED,
    LOSSES,
    CrossEntropy,
    Focal,
    LabelSmoothing,
    item_losses,
    span_losses,
    summed_losses,
)
from bert_lightning.model.parts import ContractError


@dataclass(frozen=True)
class Margin:
    """Hinge loss of the gold class against the best other one."""

    margin: float = 1.0

    def losses(self, logits, targets):
        gold = logits.gather(1, targets[:, None])[:, 0]
        others = logits.scatter(1, targets[:, None], -torch.inf).amax(1)
        return (self.margin + others - gold).relu()


EVERY = {**{name: cls() for name, cls in LOSSES.items()}, "own": Margin(), "focal below one": Focal(0.5)}
every = pytest.mark.parametrize("loss", EVERY.values(), ids=list(EVERY))


def scores(num_items=7, num_classes=5):
    torch.manual_seed(0)
    logits = torch.randn(num_items, num_classes, dtype=torch.float64) * 3
    return logits.requires_grad_(), torch.randint(num_classes, (num_items,))


@every
def test_the_loss_of_an_item_does_not_depend_on_the_others(loss):
    logits, targets = scores()
    alone = torch.cat([item_losses(loss, logits[n : n + 1], targets[n : n + 1]) for n in range(len(targets))])
    torch.testing.assert_close(item_losses(loss, logits, targets), alone, rtol=1e-12, atol=1e-14)


@every
def test_a_class_that_an_item_cannot_have_changes_nothing(loss):
    logits, targets = scores()
    wider = torch.cat([logits, torch.full((7, 2), -torch.inf, dtype=torch.float64)], 1)
    losses = item_losses(loss, wider, targets)
    torch.testing.assert_close(losses, item_losses(loss, logits, targets), rtol=1e-12, atol=1e-14)
    [gradient] = torch.autograd.grad(losses.sum(), logits)
    assert gradient.isfinite().all()


@every
def test_ignored_items_and_no_items_count_nothing(loss):
    logits, targets = scores()
    expected = item_losses(loss, logits[2:], targets[2:]).sum()
    targets[:2] = IGNORED
    torch.testing.assert_close(summed_losses(loss, logits, targets), expected, rtol=1e-12, atol=1e-14)
    nothing = summed_losses(loss, logits, torch.full_like(targets, IGNORED))
    nothing.backward()
    assert nothing == 0
    assert not logits.grad.any()


@every
def test_certain_items_have_finite_losses_and_gradients(loss):
    logits = torch.tensor([[200.0, 0.0], [-200.0, 0.0]], requires_grad=True)
    losses = item_losses(loss, logits, torch.tensor([0, 0]))
    losses.sum().backward()
    assert losses.isfinite().all()
    assert logits.grad.isfinite().all()


@every
def test_sixteen_bit_scores_are_computed_in_float32(loss):
    logits, targets = scores()
    rounded = logits.detach().bfloat16()
    assert item_losses(loss, rounded, targets).dtype == torch.float32
    expected = item_losses(loss, rounded.float(), targets)
    assert torch.equal(item_losses(loss, rounded, targets), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_label_smoothing_is_that_of_torch(smoothing):
    logits, targets = scores()
    expected = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    actual = LabelSmoothing(smoothing).losses(logits, targets)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)
    gradients = [torch.autograd.grad(each.sum(), logits, retain_graph=True)[0] for each in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_the_focal_loss_equals_its_formula(gamma):
    logits, targets = scores()
    probabilities = logits.softmax(1)[torch.arange(7), targets]
    expected = -((1 - probabilities) ** gamma) * probabilities.log()
    torch.testing.assert_close(Focal(gamma).losses(logits, targets), expected, rtol=1e-10, atol=1e-14)
    assert torch.autograd.gradcheck(lambda values: Focal(gamma).losses(values, targets), [logits])


def test_the_focal_loss_of_gamma_0_is_the_cross_entropy():
    logits, targets = scores()
    expected = CrossEntropy().losses(logits, targets)
    torch.testing.assert_close(Focal(0.0).losses(logits, targets), expected, rtol=1e-12, atol=1e-14)


@every
def test_both_ends_of_an_answer_are_items_and_padding_has_no_effect(loss):
    torch.manual_seed(0)
    starts, ends = torch.tensor([2, 0, 9]), torch.tensor([3, 1, -1])
    logits = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(3, 6)
    # The last sequence begins with padding, and its positions are outside the window.
    mask[1, 4:] = 0
    mask[2, :2] = 0
    losses = span_losses(logits[0], logits[1], starts, ends, mask, loss)
    first = [
        item_losses(loss, each[:1], positions[:1]) for each, positions in zip(logits, (starts, ends), strict=True)
    ]
    torch.testing.assert_close(losses[:1], sum(first) / 2, rtol=1e-10, atol=1e-12)
    short = [
        item_losses(loss, each[1:2, :4], positions[1:2])
        for each, positions in zip(logits, (starts, ends), strict=True)
    ]
    torch.testing.assert_close(losses[1:2], sum(short) / 2, rtol=1e-10, atol=1e-12)
    assert losses[2] == 0
    losses.sum().backward()
    assert logits.grad.isfinite().all()


def test_a_loss_of_another_shape_is_refused():
    class Mean:
        def losses(self, logits, targets):
            return F.cross_entropy(logits, targets)

    with pytest.raises(ValueError, match=r"Mean.losses returned the shape \(\); expected \(7,\), one loss per item"):
        item_losses(Mean(), *scores())


@pytest.mark.parametrize(
    ("result", "kind"), [(None, "NoneType"), (1.0, "float"), (torch.ones(7).long(), "torch.int64")]
)
def test_a_loss_that_returns_no_numbers_with_gradients_is_refused(result, kind):
    with pytest.raises(ContractError, match=f"^loss: SimpleNamespace.losses returned {kind}; expected a floating"):
        item_losses(SimpleNamespace(losses=lambda logits, targets: result), *scores())


@pytest.mark.parametrize(("make", "message"), [(lambda: Focal(-1), "gamma is -1"), (lambda: LabelSmoothing(1), "1;")])
def test_a_parameter_outside_its_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
