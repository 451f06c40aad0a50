"""A gradient of 0 gives no NaN, and one that is not finite perturbs nothing, whichever method perturbs."""

import pytest
import torch

from tests.support.methods import ADVERSARIAL, first_batch, gradients

PERTURBING = ["fgm", "pgd", "freelb", "smart"]


@pytest.mark.parametrize("name", PERTURBING)
def test_a_zero_gradient_gives_no_nan(texts, name, recorded):
    student, batch = first_batch(texts(*ADVERSARIAL[name]))
    # The classifier ignores what it reads.
    torch.nn.init.zeros_(student.model.classifier.weight)
    found = gradients(student, batch)
    assert all(gradient.isfinite().all() for gradient in found)
    assert all(perturbation.isfinite().all() for perturbation in recorded)
    assert any(gradient.any() for gradient in found)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", PERTURBING)
def test_a_gradient_that_is_not_finite_perturbs_nothing(texts, name, recorded, value, monkeypatch):
    student, batch = first_batch(texts(*ADVERSARIAL[name]))

    def spoil(gradient):
        spoilt = gradient.clone()
        spoilt[0, 1, 2] = value
        return spoilt

    # The order of the sequences without padding is not that of the batch.
    student.model.backbone.attention = "eager"
    plain = student.model.backbone._perturbed

    def spoiling(hidden, *arguments):
        result = plain(hidden, *arguments)
        if result.requires_grad:
            result.register_hook(spoil)
        return result

    monkeypatch.setattr(student.model.backbone, "_perturbed", spoiling)
    gradients(student, batch)
    assert not recorded[-1][0].any()
    assert recorded[-1][1].any()
