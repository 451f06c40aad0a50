"""Optimisers leave out a step with `found_inf` on the device, and keep float32 weights behind narrower ones."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor

from bert_lightning.optim.optimizers import SGD, AdamW, Lamb, Muon
from tests.optim.test_optimizers import VARIANTS, value_of


def optimizer_of(settings, parameters):
    groups = [
        {"params": parameters[:2], "weight_decay": 0.1, "num_matrices": 3},
        {"params": parameters[2:], "weight_decay": 0.0, "num_matrices": 0},
    ]
    return settings(learning_rate=0.1).build(groups)


def steps(settings, gradients, dtype=torch.float32, wrap=lambda tensor: tensor):
    """Return weights and state after steps; a gradient of None is a step that is not finite."""
    values = [value_of(1, 1), value_of(2, 1), value_of(3, 0)]
    parameters = [nn.Parameter(wrap(value.to(dtype))) for value in values]
    optimizer = optimizer_of(settings, parameters)
    for gradient in gradients:
        optimizer.found_inf = torch.tensor(float(gradient is None))
        for number, parameter in enumerate(parameters):
            own = value_of(gradient + number, parameter.ndim > 1) if gradient is not None else parameter * torch.nan
            parameter.grad = wrap(own.to(dtype)) if gradient is not None else own.detach()
        optimizer.step()
    return [parameter.detach() for parameter in parameters], optimizer.state_dict()["state"]


def equal(one, other):
    weights = all(map(torch.equal, one[0], other[0]))
    return weights and all(
        torch.equal(torch.as_tensor(value), torch.as_tensor(other[1][number][name]))
        for number, state in one[1].items()
        for name, value in state.items()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_a_step_with_found_inf_never_happened(settings, dtype):
    assert equal(steps(settings, [10, None, 20, None, 30], dtype), steps(settings, [10, 20, 30], dtype))
    # Also if it is the first one, and training continues after it.
    assert equal(steps(settings, [None, 10], dtype), steps(settings, [10], dtype))
    assert not equal(steps(settings, [10, 20, 30], dtype), steps(settings, [10, 30], dtype))


def check_distributed_parameters():
    """Check that AdamW leaves out a step of distributed parameters."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    weights, states = steps(AdamW, [10, None, 20], wrap=lambda value: distribute_tensor(value, mesh))
    whole = {
        number: {name: getattr(value, "full_tensor", lambda value=value: value)() for name, value in state.items()}
        for number, state in states.items()
    }
    assert equal(([weight.full_tensor() for weight in weights], whole), steps(AdamW, [10, 20]))


def test_adamw_leaves_out_a_step_of_distributed_parameters():
    # Not in this process: the threads of a process group stay, and a loader's workers would be forked beside them.
    code = "from tests.optim.test_left_out_steps import check_distributed_parameters as check; check()"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)


@pytest.mark.parametrize("settings", [AdamW, Lamb, SGD, Muon])
def test_updates_too_small_for_bfloat16_add_up(settings):
    # Half the last place of a weight of 1 is 2^-9. Each of these steps is less than a fifth of it.
    rate = {Lamb: 1e-4, SGD: 1e-4, Muon: 1e-3}.get(settings, 3e-4)
    parameter = nn.Parameter(torch.eye(4, dtype=torch.bfloat16))
    group = {"params": [parameter], "weight_decay": 0.0, "num_matrices": int(settings is Muon)}
    optimizer = settings(learning_rate=rate).build([group])
    for _ in range(100):
        parameter.grad = torch.eye(4, dtype=torch.bfloat16)
        optimizer.step()
    assert parameter.dtype == torch.bfloat16
    assert parameter.diagonal().max() < 1 - 2**-8


def test_the_weights_in_float32_survive_saving_and_follow_changes_from_outside():
    def train(parameter, optimizer, number):
        for step in range(number):
            parameter.grad = torch.full_like(parameter, 0.3 + step)
            optimizer.step()

    def fresh(values):
        parameter = nn.Parameter(values.clone())
        return parameter, AdamW(learning_rate=1e-4).build([{"params": [parameter], "weight_decay": 0.01}])

    start = torch.linspace(0.5, 2, 50).bfloat16()
    whole, optimizer = fresh(start)
    train(whole, optimizer, 3)
    resumed, other = fresh(whole.detach())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(whole, optimizer, 3)
    train(resumed, other, 3)
    assert torch.equal(whole, resumed)
    assert torch.equal(optimizer.state[whole]["master"], other.state[resumed]["master"])
    # A callback that sets weights decides about them, and only about them.
    kept = optimizer.state[whole]["master"][25:].clone()
    with torch.no_grad():
        whole[:25] = 7.0
    optimizer.param_groups[0]["lr"] = 0.0
    train(whole, optimizer, 1)
    assert (whole[:25] == 7.0).all()
    assert torch.equal(optimizer.state[whole]["master"][25:], kept)


def test_a_state_of_an_earlier_version_loads():
    # Its counts of steps are plain numbers, and it has no float32 weights.
    parameter = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = AdamW(learning_rate=1e-3).build([{"params": [parameter], "weight_decay": 0.0}])
    earlier = {"m": torch.full((4,), 0.1), "v": torch.full((4,), 0.2), "step": 9}
    optimizer.load_state_dict({"state": {0: earlier}, "param_groups": optimizer.state_dict()["param_groups"]})
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert optimizer.state[parameter]["step"] == 10
    m, v = 0.9 * 0.1 + 0.1, 0.999 * 0.2 + 0.001
    expected = 1 - 1e-3 * (m / (1 - 0.9**10)) / ((v / (1 - 0.999**10)) ** 0.5 + 1e-6)
    assert optimizer.state[parameter]["master"][0].item() == pytest.approx(expected, rel=1e-6)
