"""One battery over every optimiser and every schedule in the tables."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

from bert_lightning.training.optimizers import OPTIMIZERS, SGD, AdamW
from bert_lightning.training.schedules import SCHEDULES, Linear

VARIANTS = {
    **OPTIMIZERS,
    "adamw as published": partial(AdamW, bias_correction=False),
    "sgd without momentum": partial(SGD, momentum=0.0),
    "sgd after nesterov": partial(SGD, nesterov=True),
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def settings(request):
    return request.param


@pytest.fixture(params=SCHEDULES.values(), ids=SCHEDULES)
def schedule(request):
    return request.param


def test_an_optimizer_lowers_a_quadratic(settings):
    parameter = nn.Parameter(torch.full((4,), 3.0))
    optimizer = settings(learning_rate=0.1).build([{"params": [parameter], "weight_decay": 0.0}])
    for _ in range(200):
        optimizer.zero_grad()
        (parameter**2).sum().backward()
        optimizer.step()
    assert (parameter**2).sum() < 0.1


def test_an_optimizers_state_survives_saving(settings):
    def steps(parameter, optimizer, number):
        for _ in range(number):
            optimizer.zero_grad()
            (parameter**2).sum().backward()
            optimizer.step()

    def fresh(value):
        parameter = nn.Parameter(value.clone())
        return parameter, settings(learning_rate=0.1).build([{"params": [parameter], "weight_decay": 0.01}])

    whole, optimizer = fresh(torch.full((4,), 3.0))
    steps(whole, optimizer, 3)
    resumed, other = fresh(whole.detach())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(whole, optimizer, 3)
    steps(resumed, other, 3)
    assert torch.equal(whole, resumed)


def test_what_gets_its_first_gradient_later_moves_from_then_on_also_after_saving(settings):
    """One group of which a part is let go at step 3; the state is saved and loaded before and behind that."""

    def train(first_step, last_step, values, state=None):
        parameters = [nn.Parameter(value.clone()) for value in values]
        optimizer = settings(learning_rate=0.1).build([{"params": parameters, "weight_decay": 0.5}])
        if state is not None:
            optimizer.load_state_dict(copy.deepcopy(state))
        for step in range(first_step, last_step):
            optimizer.zero_grad()
            sum((parameter**2).sum() for parameter in parameters[: 1 if step < 3 else 2]).backward()
            optimizer.step()
        return [parameter.detach() for parameter in parameters], optimizer.state_dict()

    start = [torch.full((4,), 3.0), torch.full((2,), -2.0)]
    whole, _ = train(0, 6, start)
    for stop in (2, 3, 4):
        values, state = train(0, stop, start)
        assert torch.equal(values[1], start[1]) == (stop <= 3)
        resumed, _ = train(stop, 6, values, state)
        assert all(map(torch.equal, whole, resumed))


def test_a_group_has_its_own_rate_and_weight_decay(settings):
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    groups = [
        {"params": parameters[:1], "lr": 0.02, "weight_decay": 0.0},
        {"params": parameters[1:2], "lr": 0.04, "weight_decay": 0.0},
        {"params": parameters[2:], "lr": 0.02, "weight_decay": 0.5},
    ]
    optimizer = settings(learning_rate=9.0).build(groups)
    sum(parameters).backward()
    optimizer.step()
    slow, fast, decayed = (1 - parameter.item() for parameter in parameters)
    assert fast == pytest.approx(2 * slow, rel=1e-4)
    assert decayed > slow * 1.001


def test_adamw_follows_its_closed_form():
    parameter = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = OPTIMIZERS["adamw"](learning_rate=0.1).build([{"params": [parameter], "weight_decay": 0.01}])
    value, first, second = 2.0, 0.0, 0.0
    for step in range(1, 6):
        optimizer.zero_grad()
        (parameter**3).sum().backward()
        optimizer.step()
        gradient = 3 * value**2
        value *= 1 - 0.1 * 0.01
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        value -= 0.1 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)) ** 0.5 + 1e-6)
        assert parameter.item() == pytest.approx(value, rel=1e-9)


def test_adamw_without_bias_correction_is_the_published_update():
    # optimization.py: AdamWeightDecayOptimizer.apply_gradients, for one number.
    gradients = [0.3, -1.2, 0.05, 2.0, -0.7]
    for decay in (0.0, 0.01):
        parameter = nn.Parameter(torch.tensor([0.8], dtype=torch.float64))
        settings = AdamW(learning_rate=0.1, bias_correction=False)
        optimizer = settings.build([{"params": [parameter], "weight_decay": decay}])
        param, m, v = 0.8, 0.0, 0.0
        for grad in gradients:
            parameter.grad = torch.tensor([grad], dtype=torch.float64)
            optimizer.step()
            next_m = 0.9 * m + (1.0 - 0.9) * grad
            next_v = 0.999 * v + (1.0 - 0.999) * grad * grad
            update = next_m / (math.sqrt(next_v) + 1e-6)
            update += decay * param
            param, m, v = param - 0.1 * update, next_m, next_v
            assert parameter.item() == pytest.approx(param, rel=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_follows_its_closed_form(nesterov):
    parameter = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    settings = SGD(learning_rate=0.01, momentum=0.8, nesterov=nesterov)
    optimizer = settings.build([{"params": [parameter], "weight_decay": 0.1}])
    value, velocity = 2.0, 0.0
    for _ in range(5):
        optimizer.zero_grad()
        (parameter**3).sum().backward()
        optimizer.step()
        gradient = 3 * value**2 + 0.1 * value
        velocity = 0.8 * velocity + gradient
        value -= 0.01 * (gradient + 0.8 * velocity if nesterov else velocity)
        assert parameter.item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"momentum": 1.0}, r"momentum is 1.0; it must be in \[0, 1\)"),
        ({"momentum": 0.0, "nesterov": True}, "nesterov does nothing without momentum"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
    ],
)
def test_settings_of_sgd_that_cannot_be_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        SGD(**change)


@pytest.mark.parametrize("warmup_share", [0.0, 0.1, 0.5])
def test_a_schedule_starts_at_zero_peaks_behind_the_warm_up_and_stays_in_range(schedule, warmup_share):
    factors = [schedule(warmup_share=warmup_share).factor(step, 1000) for step in range(1001)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[0] == (0 if warmup_share else 1)
    assert max(factors) == pytest.approx(1, abs=0.51 if warmup_share == 0.5 else 0.11)


def test_linear_is_the_originals_schedule():
    # optimization.py: s / W in the warm-up, then 1 - s / T, counted from the start.
    linear = Linear(warmup_share=0.1)
    assert [linear.factor(step, 100) for step in (0, 5, 9, 10, 50, 100)] == [0, 0.5, 0.9, 0.9, 0.5, 0]


def test_a_warm_up_of_all_steps_is_an_error(schedule):
    with pytest.raises(ValueError, match="warmup_share is 1"):
        schedule(warmup_share=1.0)
