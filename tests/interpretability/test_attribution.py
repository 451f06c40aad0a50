"""Attributions of scores whose exact values are known, and those of captum."""

import copy

import numpy as np
import pytest
import torch
from captum.attr import LayerGradientXActivation, LayerIntegratedGradients

from bert_lightning.interpretability.attribution import (
    gradient_x_input,
    gradients,
    integrated_gradients,
    occlusion,
    per_word,
)
from bert_lightning.model import BertConfig, BertForSequenceClassification

CONFIG = BertConfig(
    vocab_size=40,
    num_hidden_layers=2,
    hidden_size=16,
    num_attention_heads=2,
    intermediate_size=24,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
IDS = torch.tensor([[2, 10, 11, 12, 13, 3]])
MASKED = torch.tensor([[2, 4, 4, 4, 4, 3]])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(2)
    model = BertForSequenceClassification(CONFIG, num_labels=3).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.15 * torch.randn_like(parameter)
    return model


def score_of(model, label):
    """The score of a label as a function of the embeddings of copies of one sequence."""
    inputs = model.encoder.embed(IDS)

    def score(points):
        with model.encoder.perturbed(points - inputs):
            return model(IDS.expand(len(points), -1))[:, label]

    return score


@pytest.fixture
def linear():
    generator = torch.Generator().manual_seed(0)
    weights, inputs, baseline = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    return (lambda points: (points * weights).sum((1, 2)) + 3.0), weights, inputs, baseline


@pytest.mark.parametrize("num_points", [1, 2, 64])
def test_integrated_gradients_of_a_linear_score_are_its_terms_with_any_number_of_points(linear, num_points):
    score, weights, inputs, baseline = linear
    found = integrated_gradients(score, inputs, baseline, num_points)
    torch.testing.assert_close(found.values, weights * (inputs - baseline), rtol=0, atol=1e-14)
    assert found.error < 1e-13


def test_gradient_times_input_equals_integrated_gradients_for_a_linear_score(linear):
    score, weights, inputs, _ = linear
    from_zero = integrated_gradients(score, inputs, torch.zeros_like(inputs), 3).values
    torch.testing.assert_close(gradient_x_input(score, inputs), from_zero, rtol=0, atol=1e-14)
    assert torch.equal(gradient_x_input(score, inputs), weights * inputs)


def test_the_points_are_exact_for_polynomials_up_to_twice_their_number_minus_one():
    inputs, zero = torch.tensor([1.5], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    # The derivative of x^6 is of degree 5, which 3 points integrate exactly and 2 points do not.
    for num_points, is_exact in ((2, False), (3, True)):
        found = integrated_gradients(lambda points: points[:, 0] ** 6, inputs, zero, num_points)
        assert (abs(float(found.values) - 1.5**6) < 1e-12) is is_exact
        assert (found.error < 1e-13) is is_exact


def test_completeness_holds_to_1e_6_at_64_points_with_masks_as_the_baseline(model):
    for label in range(3):
        score = score_of(model, label)
        inputs, baseline = (model.encoder.embed(ids).detach() for ids in (IDS, MASKED))
        found = integrated_gradients(score, inputs, baseline)
        with torch.no_grad():
            difference = float(model(IDS)[0, label] - model(MASKED)[0, label])
        assert found.difference == pytest.approx(difference, abs=1e-12)
        assert abs(float(found.values.sum()) - difference) < 1e-6
        assert found.error < 1e-6


def test_zeros_are_no_baseline_for_a_model_with_layer_norm(model):
    # As before training, biases are 0. Near zero, a LayerNorm then jumps to whatever direction the inputs have.
    without_biases = copy.deepcopy(model)
    for name, parameter in without_biases.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    inputs, masks = (without_biases.encoder.embed(ids).detach() for ids in (IDS, MASKED))
    score, zeros = score_of(without_biases, 0), torch.zeros_like(inputs)
    assert integrated_gradients(score, inputs, masks).error < 1e-6
    assert integrated_gradients(score, inputs, zeros).error > 0.05


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_integrated_gradients_equal_those_of_captum_however_many_points_are_computed_at_once(model, rows):
    inputs, baseline = (model.encoder.embed(ids).detach() for ids in (IDS, MASKED))
    ours = integrated_gradients(score_of(model, 1), inputs, baseline, 20, rows).values
    captum = LayerIntegratedGradients(lambda ids: model(ids)[:, 1], model.encoder.embeddings)
    theirs = captum.attribute(IDS, baselines=MASKED, n_steps=20, method="gausslegendre")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_gradient_times_input_equals_that_of_captum(model):
    ours = gradient_x_input(score_of(model, 2), model.encoder.embed(IDS).detach())
    captum = LayerGradientXActivation(lambda ids: model(ids)[:, 2], model.encoder.embeddings)
    torch.testing.assert_close(ours, captum.attribute(IDS), rtol=0, atol=1e-12)


def test_an_error_is_a_share_of_the_difference_and_rounding_of_a_difference_of_zero_is_none(linear):
    _, _, inputs, baseline = linear

    def wiggly(points):
        return points.mul(9).sin().sum((1, 2))

    found = integrated_gradients(wiggly, inputs, baseline, 2)
    exact = float((inputs * 9).sin().sum() - (baseline * 9).sin().sum())
    assert found.error == pytest.approx(abs(float(found.values.sum()) - exact) / abs(exact))
    assert found.error > 0.05
    # Both terms are large, and what their sum is beside 0 is rounding.
    ends = torch.tensor([[1.0], [1.1]]), torch.tensor([[0.0], [0.1]])
    opposite = integrated_gradients(lambda points: 1e6 * (points[:, 0, 0] - points[:, 1, 0]), *ends)
    assert opposite.difference != 0
    assert opposite.error < 1e-3


def test_occlusion_equals_the_score_of_each_changed_copy():
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    ids = torch.randint(5, 20, (2, 6), generator=generator)
    places = torch.tensor([[-1, 0, 0, 1, 2, -1], [-1, 1, 2, 3, 3, -1]])

    def score(copies):
        return (table[copies].cumsum(2).tanh().sum((1, 2)) ** 2).sum(-1)

    expected = []
    for word in range(4):
        changed = ids.clone()
        for row in range(2):
            for column in range(6):
                if places[row, column] == word:
                    changed[row, column] = 4
        expected.append(float(score(ids[None])[0] - score(changed[None])[0]))
    for rows in (1, 3, 64):
        found = occlusion(score, ids, places, 4, 4, rows)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_values_of_pieces_are_summed_per_word_over_all_windows():
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])
    places = torch.tensor([[-1, 0, 0, 1], [-1, 1, 3, -1]])
    assert per_word(values, places, 4).tolist() == [5.0, 24.0, 0.0, 30.0, 51.0]


def test_gradients_are_those_of_each_point_alone(model):
    score = score_of(model, 0)
    points = model.encoder.embed(IDS).detach() * torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1)
    alone = torch.cat([gradients(score, point[None], 1) for point in points])
    torch.testing.assert_close(gradients(score, points, 2), alone, rtol=0, atol=1e-13)
