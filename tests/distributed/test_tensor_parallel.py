"""Tensor-parallel processes compute what one process computes: model, gradients and optimisers."""

import pytest

from tests.support.ranks import started

# `tensor` processes split the blocks; each slice is split again over `data` processes.
SCRIPT = """
import copy
import torch
from torch.distributed.device_mesh import init_device_mesh
from bert_lightning.model import BertConfig, BertForMaskedLM
from bert_lightning.tasks.norms_and_rates import LoggedNorms
from bert_lightning.training.finite import gradient_norms, limit_gradients
from bert_lightning.optim.optimizers import SGD, AdamW, Lamb, Muon
from bert_lightning.distributed.slices import local, slice_for, whole, whole_shape
from bert_lightning.distributed.sharded import shard
from bert_lightning.distributed.tensor_parallel import _draws_of, mark_slices

torch.set_num_threads(1)
if not torch.distributed.is_initialized():
    torch.distributed.init_process_group("gloo")
mesh = init_device_mesh("cpu", (data, tensor), mesh_dim_names=("data_parallel", "tensor_parallel"))
config = BertConfig(
    vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=6, intermediate_size=36,
    max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pooler=False,
)
ids = torch.arange(32).reshape(2, 16) % 50
# Everything in float64, Muon's iteration too: in bfloat16 its last bits depend on the processor.
bfloat16, torch.Tensor.bfloat16 = torch.Tensor.bfloat16, torch.Tensor.double
settings = {
    "adamw": AdamW(0.01), "published": AdamW(0.01, bias_correction=False), "sgd": SGD(0.1), "lamb": Lamb(0.01),
    "muon": Muon(0.01),
}
found = {}
for name, optimizer in settings.items():
    torch.manual_seed(0)
    one = BertForMaskedLM(config).double()
    two = copy.deepcopy(one)
    matrices = one.hidden_matrices() if name == "muon" else None
    shard(two, two.backbone.layers, (), mesh, "32")
    mark_slices(two)
    steps, lengths, losses, logged = [], [], [], []
    for model in (one, two):
        named = list(model.named_parameters())
        groups = [{"params": [p for _, p in named], "weight_decay": 0.01}]
        if name == "muon":
            stacked = {number: [p for n, p in named if matrices.get(n, 0) == number] for number in (0, 1, 3)}
            groups = [{"params": each, "num_matrices": number} for number, each in stacked.items()]
        steps.append(optimizer.build(groups))
    for step in range(3):
        for model, each in zip((one, two), steps):
            loss = model(ids).square().sum() * 100
            loss.backward()
            losses.append(float(loss))
            norms = gradient_norms(model.parameters())
            norm = norms.total()
            logged.append(LoggedNorms(model, norms, "blocks").read())
            limit_gradients(model.parameters(), norm, 0.5)
            lengths.append(float(norm))
            each.step()
            each.zero_grad()
    pairs = [(a, b) for a, b in zip(one.parameters(), two.parameters())]
    found[name] = {
        "weights": max(float((a - whole(b.detach(), b)).abs().max()) for a, b in pairs),
        "losses": max(abs(a / b - 1) for a, b in zip(losses[::2], losses[1::2])),
        "norms": max(abs(a / b - 1) for a, b in zip(lengths[::2], lengths[1::2])),
        "logged": max(abs(a[key] / b[key] - 1) for a, b in zip(logged[::2], logged[1::2]) for key in a),
        "logged names": [sorted(each) for each in logged[:2]],
        "kept": sum(local(b).numel() for _, b in pairs) / sum(a.numel() for a, _ in pairs),
        "shapes": all(tuple(a.shape) == whole_shape(b) for a, b in pairs),
        "rows": all(torch.equal(slice_for(whole(b.detach(), b), b), local(b)) for _, b in pairs),
    }
torch.Tensor.bfloat16 = bfloat16
torch.manual_seed(7)
with _draws_of(mesh["tensor_parallel"].get_local_rank()):
    apart = torch.rand(3)
after = torch.rand(3)
every = [torch.empty(6) for _ in range(data * tensor)]
torch.distributed.all_gather(every, torch.cat([apart, after]))
found["draws"] = [each.tolist() for each in every]
answer = found
"""


@pytest.fixture(
    scope="module",
    params=[(1, 2), pytest.param((1, 3), marks=pytest.mark.slow), pytest.param((2, 2), marks=pytest.mark.slow)],
    ids=lambda each: "x".join(map(str, each)),
)
def found(request, two_ranks):
    data, tensor = request.param
    script = f"data, tensor = {data}, {tensor}\n{SCRIPT}"
    if data * tensor == 2:
        return two_ranks.execute(script)[0]
    with started(data * tensor) as ranks:
        return ranks.execute(script)[0]


# Sums have another order, so gradients differ by rounding in float64, by 1e-15. The gradient of the key's bias is
# only rounding. Adam divides it by epsilon, 1e-6, so 3 steps of rate 0.01 differ by less than 1e-10.
MOST = 1e-10


@pytest.mark.parametrize("name", ["adamw", "published", "sgd", "lamb", "muon"])
def test_tensor_parallel_processes_train_what_one_process_trains(found, name):
    assert found[name]["weights"] <= MOST
    assert found[name]["losses"] <= MOST
    assert found[name]["norms"] <= MOST
    one, several = found[name]["logged names"]
    assert one == several
    assert "train/gradient_norm_block_2" in one
    # Norms are logged in float32.
    assert found[name]["logged"] <= 1e-6
    assert found[name]["shapes"]
    assert found[name]["rows"]


def test_each_process_holds_its_slice_of_the_blocks(found):
    assert found["adamw"]["kept"] < 0.7


def test_only_the_heads_draw_different_dropout_on_different_processes(found):
    draws = found["draws"]
    assert draws[0][:3] != draws[1][:3]
    assert all(each[3:] == draws[0][3:] for each in draws)
