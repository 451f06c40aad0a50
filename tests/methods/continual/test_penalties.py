"""Penalties and the Fisher information, against closed forms in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from bert_lightning.methods.continual.ewc import EWC
from bert_lightning.methods.continual.fisher import fisher_information
from bert_lightning.methods.continual.l2_sp import L2SP
from bert_lightning.methods.continual.method import Start
from bert_lightning.methods.continual.penalty import Anchor, QuadraticPenalty
from bert_lightning.model import BertConfig, BertForSequenceClassification
from bert_lightning.model.tuning import TUNINGS, tune
from bert_lightning.tasks.distributions import numbers, one_of


class Point(nn.Module):
    """A model that is one vector."""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(values.clone())


class Linear:
    """A task with a linear model of (x, y) pairs: softmax regression, or a regression with the variance 1."""

    num_losses = 1

    def __init__(self, weights: torch.Tensor, *, regression: bool = False) -> None:
        self.model = nn.Linear(weights.shape[1], weights.shape[0], bias=False).double()
        self.model.weight.data.copy_(weights)
        self.regression = regression

    def eval(self) -> None:
        self.model.eval()

    def compute(self, batch):
        return self.model(batch["x"])

    def distributions(self, computed, batch):
        return [numbers(computed) if self.regression else one_of(computed)]

    def sums(self, batch):
        return nn.functional.cross_entropy(self.compute(batch), batch["y"], reduction="sum")[None]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


def test_ewc_on_a_quadratic_ends_at_its_closed_form(generator):
    a, fisher, curvature, b = (torch.rand(5, generator=generator, dtype=torch.float64) + 0.1 for _ in range(4))
    strength = 3.0
    model = Point(torch.zeros(5, dtype=torch.float64))
    penalty = EWC(strength=strength).penalty(Start(model, "", {"w": model.w}, {"fisher.w": fisher, "centre.w": a}))
    assert penalty is not None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
    for _ in range(300):
        optimizer.zero_grad()
        (curvature * (model.w - b).square()).sum().div(2).backward()
        penalty.add_gradients()
        optimizer.step()
    expected = (curvature * b + strength * fisher * a) / (curvature + strength * fisher)
    torch.testing.assert_close(model.w.detach(), expected, rtol=0, atol=1e-6)


def test_the_gradient_of_a_penalty_is_that_of_its_value(generator):
    values, centre, strength = (torch.rand(4, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    model = Point(values)
    penalty = QuadraticPenalty(model, {"w": Anchor(centre, strength)})
    model.w.grad = torch.ones_like(model.w)
    penalty.add_gradients()
    wanted = torch.autograd.functional.jacobian(lambda w: (strength * (w - centre) ** 2).sum() / 2, values)
    torch.testing.assert_close(model.w.grad - 1, wanted, rtol=1e-12, atol=1e-12)
    assert float(penalty.value()) == pytest.approx(float((strength * (values - centre) ** 2).sum() / 2), rel=1e-12)


def test_a_parameter_without_a_gradient_is_left_alone():
    model = Point(torch.ones(2))
    QuadraticPenalty(model, {"w": Anchor(None, 1.0)}).add_gradients()
    assert model.w.grad is None


def test_the_empirical_fisher_information_of_softmax_regression_has_its_closed_form(generator):
    weights = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    x = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (50,), generator=generator)
    task = Linear(weights)
    batches = [{"x": x[n : n + 1], "y": y[n : n + 1]} for n in range(50)]
    found = fisher_information(task, batches, "data", 1)["weight"]
    errors = (x @ weights.T).softmax(-1) - nn.functional.one_hot(y, 3)
    expected = torch.einsum("nk,nd->kd", errors.square(), x.square()) / 50
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_fisher_information_with_labels_of_the_model_tends_to_its_closed_form(generator):
    weights = torch.randn(3, 2, generator=generator, dtype=torch.float64) / 2
    x = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    task, times = Linear(weights), 50
    batches = [{"x": x[n % 20 : n % 20 + 1]} for n in range(20 * times)]
    found = fisher_information(task, batches, "model", 1)["weight"]
    p = (x @ weights.T).softmax(-1)
    # The variance of the one-hot label: p (1 - p).
    each = torch.einsum("nk,nd->nkd", p * (1 - p), x.square())
    # The fourth moment of the error is at most that of p (1 - p), so this is six standard errors.
    bound = 6 * torch.einsum("nk,nd->nkd", p * (1 - p), x.square().square()).mean(0).sqrt() / (20 * times) ** 0.5
    assert ((found - each.mean(0)).abs() <= bound).all()


def test_the_fisher_information_of_a_regression_tends_to_the_mean_of_squared_inputs(generator):
    x = torch.randn(10, 2, generator=generator, dtype=torch.float64)
    task = Linear(torch.zeros(1, 2, dtype=torch.float64), regression=True)
    batches = [{"x": x[n % 10 : n % 10 + 1]} for n in range(1000)]
    found = fisher_information(task, batches, "model", 1)["weight"][0]
    torch.testing.assert_close(found, x.square().mean(0), rtol=0.3, atol=0)


def test_batch_means_would_give_a_fisher_information_about_as_many_times_smaller_as_a_batch_has_examples(generator):
    weights = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    x = torch.randn(2000, 4, generator=generator, dtype=torch.float64)
    p = (x @ weights.T).softmax(-1)
    y = torch.multinomial(p, 1, generator=generator)[:, 0]
    task = Linear(weights)
    own = fisher_information(task, [{"x": x[n : n + 1], "y": y[n : n + 1]} for n in range(2000)], "data", 1)
    means = [{"x": x[n : n + 20], "y": y[n : n + 20]} for n in range(0, 2000, 20)]
    of_means = fisher_information(task, means, "data", 1)["weight"] / 20**2
    assert 15 < float((own["weight"] / of_means).mean()) < 27


def test_the_parabolas_of_several_tasks_are_one_parabola(generator):
    def draw(number):
        return [torch.rand(6, generator=generator, dtype=torch.float64) for _ in range(number)]

    fishers, centres, [w] = draw(3), draw(3), draw(1)
    kept = None
    for fisher, centre in zip(fishers, centres, strict=True):
        kept = EWC().combined({"w": fisher}, {"w": centre}, kept)
    model = Point(w)
    penalty = EWC(strength=2.0).penalty(Start(model, "", {"w": model.w}, kept))
    model.w.grad = torch.zeros_like(model.w)
    penalty.add_gradients()
    expected = 2 * sum(fisher * (w - centre) for fisher, centre in zip(fishers, centres, strict=True))
    torch.testing.assert_close(model.w.grad, expected, rtol=1e-12, atol=1e-12)


def test_online_ewc_draws_to_the_last_weights_with_decayed_information(generator):
    first, second, a, b = (torch.rand(3, generator=generator, dtype=torch.float64) for _ in range(4))
    method = EWC(online=True, decay=0.5)
    kept = method.combined({"w": second}, {"w": b}, method.combined({"w": first}, {"w": a}, None))
    torch.testing.assert_close(kept["fisher.w"], 0.5 * first + second)
    assert torch.equal(kept["centre.w"], b)


def test_a_weight_on_which_no_task_depends_has_a_finite_centre():
    zero, w = torch.zeros(2), torch.tensor([1.0, 2.0])
    kept = EWC().combined({"w": zero}, {"w": w}, EWC().combined({"w": zero}, {"w": w - 5}, None))
    assert torch.equal(kept["centre.w"], w)


def test_strengths_of_0_make_no_penalty():
    model = Point(torch.ones(2))
    assert (
        EWC(strength=0).penalty(Start(model, "", {}, {"fisher.w": torch.ones(2), "centre.w": torch.ones(2)})) is None
    )
    assert L2SP(alpha=0, beta=0).penalty(Start(model, "", {"w": torch.ones(2)})) is None
    assert EWC().penalty(Start(model, "", {})) is None


def test_l2_sp_draws_given_weights_to_where_they_began_and_new_ones_to_0():
    model = nn.ModuleDict({"old": nn.Linear(2, 1, bias=False), "new": nn.Linear(2, 1, bias=False)})
    start = {"encoder.old.weight": model["old"].weight.detach().clone()}
    penalty = L2SP(alpha=0.5, beta=0.25).penalty(Start(model, "encoder.", start))
    began = model["old"].weight.detach().clone()
    for parameter in model.parameters():
        parameter.data += 1
        parameter.grad = torch.zeros_like(parameter)
    penalty.add_gradients()
    torch.testing.assert_close(model["old"].weight.grad, 0.5 * (model["old"].weight.detach() - began))
    torch.testing.assert_close(model["new"].weight.grad, 0.25 * model["new"].weight.detach())


@pytest.mark.parametrize("name", ["ia3", "dora", "lora"])
def test_l2_sp_draws_what_a_tuning_adds_to_where_the_encoder_is_that_of_the_checkpoint(name):
    config = BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    plain = BertForSequenceClassification(config, num_labels=2)
    tensors = {plain.prefix + each: values.clone() for each, values in plain.state_dict().items()}
    # A checkpoint without a pooler: the new one is drawn to 0, as a new head is.
    tensors = {each: values for each, values in tensors.items() if ".pooler." not in each}
    tune(plain, TUNINGS[name](), [each for each, _ in plain.named_parameters() if ".pooler." in each])
    began = {each: values.detach().clone() for each, values in plain.named_parameters() if values.requires_grad}
    penalty = L2SP(alpha=0.5, beta=0).penalty(Start(plain, plain.prefix, tensors))
    added = plain.added_parameters
    assert added == {each for each in began if plain.prefix + each not in tensors and "encoder.pooler" not in each}
    for parameter in plain.parameters():
        parameter.grad = torch.zeros_like(parameter)
        parameter.data += 1
    penalty.add_gradients()
    assert added
    for each in began:
        gradient = plain.get_parameter(each).grad
        torch.testing.assert_close(gradient, torch.full_like(gradient, 0.0 if ".pooler." in each else 0.5))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strength": -1}, "strength is -1; it must be at least 0"),
        ({"samples": 0}, "samples is 0; it must be at least 1"),
        ({"decay": 0.5}, "decay does nothing without continual.online"),
        ({"online": True, "decay": 0}, "decay is 0; it must be more than 0 and at most 1"),
    ],
)
def test_settings_of_ewc_that_are_not_allowed_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        EWC(**values)


def test_numpy_is_not_needed_to_draw_labels_the_same_on_every_machine():
    task = Linear(torch.zeros(4, 1, dtype=torch.float64))
    batches = [{"x": torch.ones(1, 1, dtype=torch.float64)} for _ in range(5)]
    one, other = (fisher_information(task, batches, "model", 7)["weight"] for _ in range(2))
    assert np.array_equal(one, other)
