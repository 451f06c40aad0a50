"""Tests of every optimiser in the table, and of each against an update written out here."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from bert_lightning.optim.muon import orthogonalize
from bert_lightning.optim.optimizers import OPTIMIZERS, SGD, AdamW, Lamb, Muon

VARIANTS = {
    **OPTIMIZERS,
    "adamw as published": partial(AdamW, bias_correction=False),
    "sgd without momentum": partial(SGD, momentum=0.0),
    "sgd after nesterov": partial(SGD, nesterov=True),
    "lamb as published": partial(Lamb, bias_correction=False),
    "muon without nesterov": partial(Muon, nesterov=False),
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def settings(request):
    return request.param


@pytest.fixture(params=[0, 1, 3], ids=["vectors", "matrices", "stacked"])
def num_matrices(request):
    """Return the extra keys of groups of matrices, which other optimisers ignore."""
    return request.param


def value_of(number, num_matrices):
    """Return initial values: a vector, or a matrix of full rank."""
    generator = torch.Generator().manual_seed(number)
    return torch.randn((6, 4) if num_matrices else (4,), generator=generator)


def test_an_optimizer_lowers_a_quadratic(settings, num_matrices):
    parameter = nn.Parameter(value_of(1, num_matrices))
    group = {"params": [parameter], "weight_decay": 0.0, "num_matrices": num_matrices}
    optimizer = settings(learning_rate=0.2).build([group])
    for step in range(200):
        # Steps of a fixed length end near the minimum only if they get shorter.
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 200)
        optimizer.zero_grad()
        (parameter**2).sum().backward()
        optimizer.step()
    assert (parameter**2).sum() < 0.1


def test_an_optimizers_state_survives_saving(settings, num_matrices):
    def steps(parameter, optimizer, number):
        for _ in range(number):
            optimizer.zero_grad()
            (parameter**2).sum().backward()
            optimizer.step()

    def fresh(value):
        parameter = nn.Parameter(value.clone())
        group = {"params": [parameter], "weight_decay": 0.01, "num_matrices": num_matrices}
        return parameter, settings(learning_rate=0.1).build([group])

    whole, optimizer = fresh(value_of(1, num_matrices))
    steps(whole, optimizer, 3)
    resumed, other = fresh(whole.detach())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(whole, optimizer, 3)
    steps(resumed, other, 3)
    assert torch.equal(whole, resumed)


def test_a_parameter_moves_from_its_first_gradient_on_also_after_saving(settings, num_matrices):
    """Unfreeze some parameters of a group at step 3; save and load the state before and after that."""

    def train(first_step, last_step, values, state=None):
        parameters = [nn.Parameter(value.clone()) for value in values]
        group = {"params": parameters, "weight_decay": 0.5, "num_matrices": num_matrices}
        optimizer = settings(learning_rate=0.1).build([group])
        if state is not None:
            optimizer.load_state_dict(copy.deepcopy(state))
        for step in range(first_step, last_step):
            optimizer.zero_grad()
            sum((parameter**2).sum() for parameter in parameters[: 1 if step < 3 else 2]).backward()
            optimizer.step()
        return [parameter.detach() for parameter in parameters], optimizer.state_dict()

    start = [value_of(1, num_matrices), value_of(2, num_matrices)]
    whole, _ = train(0, 6, start)
    for stop in (2, 3, 4):
        values, state = train(0, stop, start)
        assert torch.equal(values[1], start[1]) == (stop <= 3)
        resumed, _ = train(stop, 6, values, state)
        assert all(map(torch.equal, whole, resumed))


def test_a_group_has_its_own_rate_and_weight_decay(settings):
    parameters = [nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(3)]
    groups = [
        {"params": parameters[:1], "lr": 0.02, "weight_decay": 0.0},
        {"params": parameters[1:2], "lr": 0.04, "weight_decay": 0.0},
        {"params": parameters[2:], "lr": 0.02, "weight_decay": 0.5},
    ]
    optimizer = settings(learning_rate=9.0).build(groups)
    sum(parameters).sum().backward()
    optimizer.step()
    slow, fast, decayed = (torch.tensor([1.0, 2.0]) - parameter.detach() for parameter in parameters)
    torch.testing.assert_close(fast, 2 * slow, rtol=1e-4, atol=0)
    # Weight decay moves the larger number further.
    assert decayed[1] / decayed[0] > slow[1] / slow[0] * 1.001


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
def test_impossible_settings_of_sgd_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        SGD(**change)


def lamb_written_out(values, gradients, rate, decay, adapted, bias_correction):
    """Return the values of one tensor after each step of You et al. 2020, algorithm 2, in float64."""
    m, v, w, path = np.zeros_like(values), np.zeros_like(values), values.copy(), []
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + (1 - 0.9) * g, 0.999 * v + (1 - 0.999) * g**2
        m_hat, v_hat = (m / (1 - 0.9**t), v / (1 - 0.999**t)) if bias_correction else (m, v)
        u = m_hat / (np.sqrt(v_hat) + 1e-6) + decay * w
        norms = math.sqrt((w**2).sum()), math.sqrt((u**2).sum())
        ratio = norms[0] / norms[1] if adapted and min(norms) > 0 else 1.0
        w = w - rate * ratio * u
        path.append(w)
    return path


def run_lamb(settings, groups, gradients, dtype):
    """Return the values of each tensor after each step, given (start, weight decay, decayed) of each group."""
    parameters = [[nn.Parameter(torch.tensor(value, dtype=dtype)) for value in values] for values, _, _ in groups]
    optimizer = settings.build(
        [
            {"params": own, "weight_decay": decay, "decayed": decayed}
            for own, (_, decay, decayed) in zip(parameters, groups, strict=True)
        ]
    )
    flat, path = [each for own in parameters for each in own], []
    for step in gradients:
        for parameter, gradient in zip(flat, step, strict=True):
            parameter.grad = torch.tensor(gradient, dtype=dtype)
        optimizer.step()
        path.append([parameter.detach().double().numpy().copy() for parameter in flat])
    return path, optimizer


@pytest.mark.parametrize("bias_correction", [True, False])
@pytest.mark.parametrize("weight_decay", [0.1, 0.0])
def test_lamb_is_the_papers_update_tensor_by_tensor(bias_correction, weight_decay):
    generator = np.random.default_rng(1)
    shapes = [(5, 3), (7,), (4,), (2, 2)]
    starts = [generator.normal(size=shape) for shape in shapes]
    starts[3] = np.zeros((2, 2))  # its ratio is 1
    gradients = [[generator.normal(size=shape) for shape in shapes] for _ in range(5)]
    groups = [([starts[0], starts[1], starts[3]], weight_decay, True), ([starts[2]], 0.0, False)]
    order = [0, 1, 3, 2]
    settings = Lamb(learning_rate=0.05, bias_correction=bias_correction)
    path, _ = run_lamb(settings, groups, [[step[n] for n in order] for step in gradients], torch.float64)
    for position, number in enumerate(order):
        own = [step[number] for step in gradients]
        decay, adapted = (0.0, False) if number == 2 else (weight_decay, True)
        expected = lamb_written_out(starts[number], own, 0.05, decay, adapted, bias_correction)
        for ours, theirs in zip(path, expected, strict=True):
            np.testing.assert_allclose(ours[position], theirs, rtol=1e-12, atol=1e-15)


def test_lamb_moves_a_tensor_by_its_rate_times_its_norm():
    start = np.array([3.0, 4.0])
    [[moved]], _ = run_lamb(
        Lamb(learning_rate=0.01), [([start], 0.5, True)], [[np.array([0.2, -9.0])]], torch.float64
    )
    assert np.linalg.norm(moved - start) == pytest.approx(0.01 * 5, rel=1e-12)


def test_lamb_keeps_moments_and_norms_of_bfloat16_weights_in_float32_also_after_saving():
    generator = np.random.default_rng(2)
    # In bfloat16 a sum of so many squares would stop growing.
    start = generator.normal(size=(64, 64))
    start = torch.tensor(start).bfloat16().double().numpy()
    gradients = [torch.tensor(generator.normal(size=(64, 64))).bfloat16().double().numpy() for _ in range(3)]
    settings = Lamb(learning_rate=0.1)
    [[moved], *_], optimizer = run_lamb(
        settings, [([start], 0.0, True)], [[each] for each in gradients], torch.bfloat16
    )
    expected = lamb_written_out(start, gradients, 0.1, 0.0, True, True)[0]
    # The step is in float32 and rounded once.
    rounded = torch.tensor(expected).bfloat16().double().numpy()
    assert (moved == rounded).mean() > 0.999
    [state] = optimizer.state.values()
    assert {state[name].dtype for name in "mv"} == {torch.float32}
    other = settings.build(
        [{"params": [nn.Parameter(torch.zeros(64, 64, dtype=torch.bfloat16))], "weight_decay": 0.0}]
    )
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    [loaded] = other.state.values()
    assert loaded["step"] == 3
    assert all(loaded[name].dtype == torch.float32 and torch.equal(loaded[name], state[name]) for name in "mv")


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(16, 16), (32, 8), (8, 32)])
def test_muon_equals_torchs_on_each_matrix_separately(nesterov, shape, monkeypatch):
    # Rounding depends on the CPU. In float64 it hides no difference. torch's Muon always iterates in bfloat16.
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda values: values.to(torch.float64, copy=True))
    monkeypatch.setattr("bert_lightning.optim.muon._product_type", lambda device: torch.float64)
    generator = torch.Generator().manual_seed(1)
    starts = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(4)]
    alone = [nn.Parameter(start.clone()) for start in starts]
    single, stacked = nn.Parameter(starts[0].clone()), nn.Parameter(torch.cat(starts[1:]))
    theirs = torch.optim.Muon(
        alone, lr=0.02, weight_decay=0.1, nesterov=nesterov, adjust_lr_fn="match_rms_adamw", momentum=0.9
    )
    ours = Muon(learning_rate=0.02, nesterov=nesterov, momentum=0.9).build(
        [
            {"params": [single], "weight_decay": 0.1, "num_matrices": 1},
            {"params": [stacked], "weight_decay": 0.1, "num_matrices": 3},
        ]
    )
    for _ in range(4):
        gradients = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(4)]
        for parameter, gradient in zip(alone, gradients, strict=True):
            parameter.grad = gradient.clone()
        single.grad, stacked.grad = gradients[0].clone(), torch.cat(gradients[1:])
        theirs.step()
        ours.step()
    moved = torch.stack(alone).detach() - torch.stack(starts)
    found = torch.cat([single, stacked]).detach().view(4, *shape) - torch.stack(starts)
    torch.testing.assert_close(found, moved, rtol=1e-9, atol=1e-12)


def test_orthogonalizing_takes_the_singular_values_through_the_polynomial(monkeypatch):
    # In float64, on the singular values; a, b, c as published.
    generator = torch.Generator().manual_seed(3)
    for rows, columns in ((24, 24), (48, 12), (12, 48)):
        matrices = torch.randn(5, rows, columns, generator=generator)
        left, values, right = torch.linalg.svd(matrices.double(), full_matrices=False)
        values = values / values.norm(dim=1, keepdim=True)
        for _ in range(5):
            values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
        expected = left @ torch.diag_embed(values) @ right
        for in_hardware, dtype, rounding in ((True, torch.bfloat16, 2**-8), (False, torch.float32, 2**-24)):
            monkeypatch.setattr("bert_lightning.optim.muon.multiply_bfloat16", lambda device, fast=in_hardware: fast)
            found = orthogonalize(matrices, 5)
            assert found.dtype == dtype
            # Five iterations of three products, each with one relative rounding error in bfloat16, which sums in
            # float32. In float32 the sums of up to 48 terms are rounded too.
            terms = 1 if in_hardware else 48
            assert (found.double() - expected).norm() < 15 * terms * rounding * expected.norm()
        with monkeypatch.context() as exact:
            exact.setattr("bert_lightning.optim.muon._product_type", lambda device: torch.float64)
            torch.testing.assert_close(orthogonalize(matrices, 5), expected, rtol=0.0, atol=1e-10)


def test_muon_is_adamw_outside_of_the_matrices():
    starts, gradients = (torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    ours, theirs = (nn.Parameter(starts[0].clone().double()) for _ in range(2))
    group = {"weight_decay": 0.1, "lr": 0.03}
    optimizers = [
        Muon().build([{"params": [ours], "num_matrices": 0, **group}]),
        torch.optim.AdamW([{"params": [theirs], **group}], betas=(0.9, 0.999), eps=1e-6),
    ]
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.double(), gradient.double()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (Lamb, {"betas": (0.9, 1.0)}, r"betas is \[0.9, 1.0\]; both must be in \[0, 1\)"),
        (Lamb, {"weight_decay": -0.1}, "weight_decay is -0.1; it must be at least 0"),
        (Muon, {"momentum": 1.0}, r"momentum is 1.0; it must be in \[0, 1\)"),
        (Muon, {"momentum": 0.0}, "nesterov does nothing without momentum"),
        (Muon, {"num_iterations": 0}, "num_iterations is 0; it must be at least 1"),
    ],
)
def test_impossible_settings_of_lamb_and_muon_are_named(settings, change, message):
    with pytest.raises(ValueError, match=message):
        settings(**change)
