"""Optimisers and clipping over shared rows do what they do over whole tensors: two processes against one."""

import pytest

# Rows 5, 3 and 1 over two processes: uneven, and none on the second.
SCRIPT = """
import copy
from datetime import timedelta
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor
from bert_lightning.training.finite import clip_gradients
from bert_lightning.training.optimizers import SGD, AdamW, Lamb, Muon
from bert_lightning.training.rows import local, whole
from bert_lightning.training.sharded import ShardedStrategy, shard

if not torch.distributed.is_initialized():
    torch.distributed.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
settings = {
    "adamw": AdamW(0.1), "published": AdamW(0.1, bias_correction=False), "sgd": SGD(0.1), "lamb": Lamb(0.1),
    "muon": Muon(0.1), "bfloat16": AdamW(0.1),
}
found = {}
for name, optimizer in settings.items():
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1))
    one = one.bfloat16() if name == "bfloat16" else one
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
    for step in range(3):
        torch.manual_seed(step)
        inputs = torch.randn(6, 4, dtype=one[0].weight.dtype)
        for model, each in zip((one, two), steps):
            (10 * model(inputs).square()).sum().backward()
            lengths.append(float(clip_gradients(model.parameters(), 0.5)))
            each.step()
            each.zero_grad()
    pairs = [(a, whole(b.detach(), b)) for a, b in zip(one.parameters(), two.parameters())]
    found[name] = {
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


# Muon's iteration is in bfloat16, and so are the weights of the last one.
@pytest.mark.parametrize(
    ("name", "most"),
    [("adamw", 1e-6), ("published", 1e-6), ("sgd", 1e-6), ("lamb", 1e-6), ("muon", 2e-3), ("bfloat16", 8e-3)],
)
def test_an_optimiser_moves_shared_rows_as_it_moves_whole_tensors(found, name, most):
    assert found[name]["shared"]
    assert found[name]["weights"] <= most
    assert found[name]["norms"] <= (1e-2 if name in ("bfloat16", "muon") else 1e-5)


def test_what_is_saved_shares_no_memory_with_what_is_trained(found):
    assert found["saved"] == {"shared": True, "everywhere": True, "plain": True}
