"""Optimisers and clipping over slices: two processes compute what one computes over whole tensors."""

import pytest
import torch

# 5, 3 and 1 rows over two processes: unequal slices, and an empty one on the second.
SCRIPT = """
import copy
from datetime import timedelta
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor
from bert_lightning.training.finite import gradient_norm, limit_gradients
from bert_lightning.optim.optimizers import SGD, AdamW, Lamb, Muon
from bert_lightning.distributed.slices import local, whole
from bert_lightning.distributed.sharded import ShardedStrategy, shard

if not torch.distributed.is_initialized():
    torch.distributed.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
settings = {
    "adamw": AdamW(0.1), "published": AdamW(0.1, bias_correction=False), "sgd": SGD(0.1), "lamb": Lamb(0.1),
    "muon": Muon(0.1), "bfloat16": AdamW(0.1),
}
# Muon's iteration in float64 too: in bfloat16 its last bits depend on the processor.
to_bfloat16 = torch.Tensor.bfloat16
found = {}
for name, optimizer in settings.items():
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1))
    one = one.bfloat16() if name == "bfloat16" else one.double()
    two = copy.deepcopy(one)
    shard(two, [two[0], two[2]], (), mesh, "bf16-true" if name == "bfloat16" else "32")
    steps, lengths = [], []
    for model in (one, two):
        matrices = [p for p in model.parameters() if p.ndim == 2]
        others = [p for p in model.parameters() if p.ndim == 1]
        groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        if name == "muon":
            groups = [{**groups[0], "num_matrices": 1}, {**groups[1], "num_matrices": 0}]
        steps.append(optimizer.build(groups))
    torch.Tensor.bfloat16 = torch.Tensor.double
    for step in range(3):
        torch.manual_seed(step)
        inputs = torch.randn(6, 4, dtype=one[0].weight.dtype)
        for model, each in zip((one, two), steps):
            (10 * model(inputs).square()).sum().backward()
            norm = gradient_norm(model.parameters())
            limit_gradients(model.parameters(), norm, 0.5)
            lengths.append(float(norm))
            each.step()
            each.zero_grad()
    torch.Tensor.bfloat16 = to_bfloat16
    pairs = [(a, whole(b.detach(), b)) for a, b in zip(one.parameters(), two.parameters())]
    found[name] = {
        "largest": max(float(a.abs().max()) for a, _ in pairs),
        "weights": max(float((a - b).abs().max()) for a, b in pairs),
        "norms": max(abs(a / b - 1) for a, b in zip(lengths[::2], lengths[1::2])),
        "shared": all(p.to_local().shape[0] < p.shape[0] or p.shape[0] == 1 for p in two.parameters()),
    }
strategy = ShardedStrategy(2, 1, False, timedelta(seconds=60))
kept = {
    "shared": two[0].weight.detach(), "everywhere": distribute_tensor(torch.ones(3), mesh, [Replicate()] * 2),
    "plain": torch.tensor(2.0),
}
found["saved"] = {
    name: not torch._C._is_alias_of(saved, local(value)) and torch.equal(saved, whole(value, value))
    for name, value in kept.items()
    for saved in [strategy._saved(value, value)]
}
answer = found
"""


@pytest.fixture(scope="module")
def found(two_ranks):
    return two_ranks.execute(SCRIPT)[0]


@pytest.mark.parametrize("name", ["adamw", "published", "sgd", "lamb", "muon", "bfloat16"])
def test_an_optimiser_moves_slices_as_it_moves_whole_tensors(found, name):
    assert found[name]["shared"]
    if name == "bfloat16":
        # Each of three steps rounds a weight to a neighbour at most; lengths then differ as the weights do.
        epsilon = torch.finfo(torch.bfloat16).eps
        assert found[name]["weights"] <= 3 * epsilon * found[name]["largest"]
        assert found[name]["norms"] <= 3 * epsilon
    else:
        # In float64, where other orders of summation differ by some 1e-16.
        assert found[name]["weights"] <= 1e-12
        assert found[name]["norms"] <= 1e-12


def test_saved_tensors_share_no_memory_with_trained_ones(found):
    assert found["saved"] == {"shared": True, "everywhere": True, "plain": True}
