"""One battery over every optimiser and every schedule in the tables."""

import copy

import pytest
import torch
from torch import nn

from bert_lightning.model import BertConfig, BertForPreTraining
from bert_lightning.training.optimizers import OPTIMIZERS, parameter_groups
from bert_lightning.training.schedules import SCHEDULES, Linear


@pytest.fixture(params=OPTIMIZERS.values(), ids=OPTIMIZERS)
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


def test_decay_groups_cover_every_parameter_once_and_spare_biases_and_layer_norms():
    model = BertForPreTraining(BertConfig.preset("tiny", vocab_size=30))
    decayed, plain = ({id(p) for p in group["params"]} for group in parameter_groups(model, 0.01))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert decayed | plain == set(names)
    assert not decayed & plain
    for key in names:
        assert (key in plain) == (names[key].endswith("bias") or "norm" in names[key]), names[key]


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
