"""A tuned model trains the same whether one process has it, or several share it."""

import pytest

from bert_lightning.model.tuning import TUNINGS

# `tensor` processes split the blocks; each slice is split again over `data` processes.
SCRIPT = """
import copy
import torch
from torch.distributed.device_mesh import init_device_mesh
from bert_lightning.model import BertConfig, BertForMaskedLM
from bert_lightning.model.tuning import TUNINGS, tune
from bert_lightning.optim.optimizers import AdamW
from bert_lightning.distributed.slices import local, slice_for, whole, whole_shape
from bert_lightning.distributed.sharded import shard
from bert_lightning.distributed.tensor_parallel import mark_slices

torch.set_num_threads(1)
if not torch.distributed.is_initialized():
    torch.distributed.init_process_group("gloo")
mesh = init_device_mesh("cpu", (data, tensor), mesh_dim_names=("data_parallel", "tensor_parallel"))
config = BertConfig(
    vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=6, intermediate_size=36,
    max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pooler=False,
)
ids = torch.arange(32).reshape(2, 16) % 50
answer = {}
for name, (tuning, settings) in cases.items():
    torch.manual_seed(0)
    one = BertForMaskedLM(config).double()
    tune(one, TUNINGS[tuning](**settings))
    for parameter in one.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.05
    frozen = {name: parameter.clone() for name, parameter in one.named_parameters() if not parameter.requires_grad}
    two = copy.deepcopy(one)
    shard(two, two.backbone.layers, (), mesh, "32")
    mark_slices(two)
    losses = []
    for model in (one, two):
        optimizer = AdamW(0.01).build([{"params": [p for p in model.parameters() if p.requires_grad]}])
        for step in range(3):
            loss = model(ids).square().sum() * 100
            loss.backward()
            losses.append(float(loss))
            optimizer.step()
            optimizer.zero_grad()
    pairs = list(zip(one.parameters(), two.parameters()))
    now = {n: whole(p.detach(), p) for n, p in two.named_parameters()}
    answer[name] = {
        "weights": max(float((a - whole(b.detach(), b)).abs().max()) for a, b in pairs),
        "losses": max(abs(a / b - 1) for a, b in zip(losses[:3], losses[3:])),
        "frozen": all(torch.equal(tensor, now[n]) for n, tensor in frozen.items()),
        "shapes": all(tuple(a.shape) == whole_shape(b) for a, b in pairs),
        "rows": all(torch.equal(slice_for(whole(b.detach(), b), b), local(b)) for _, b in pairs),
    }
"""
EVERY_TARGET = {
    "rank": 3,
    "alpha": 6.0,
    "targets": ["query", "key", "value", "attention_output", "intermediate", "output"],
}
CASES = {
    **{name: (name, {"dropout": 0.0} if name == "prefix" else {}) for name in TUNINGS},
    "lora on every target": ("lora", EVERY_TARGET),
    "dora on every target": ("dora", EVERY_TARGET),
    "adapter of Houlsby": ("adapter", {"placement": "houlsby", "size": 4}),
}


# Those that tensor parallelism cuts; all others have whole parameters on every process.
CUT = ("lora on every target", "dora on every target", "ia3", "prefix")


@pytest.mark.parametrize(("data", "tensor"), [(2, 1), (1, 2)])
@pytest.mark.parametrize("cut", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_processes_that_share_a_tuned_model_train_it_as_one_process_does(two_ranks, data, tensor, cut):
    cases = {name: case for name, case in CASES.items() if (name in CUT) == cut}
    for found in two_ranks.execute(f"data, tensor, cases = {data}, {tensor}, {cases}\n{SCRIPT}"):
        assert found.keys() == cases.keys()
        for result in found.values():
            # Sums have another order, so gradients differ by rounding in float64 (see test_tensor_parallel.py).
            assert result["weights"] <= 1e-10
            assert result["losses"] <= 1e-10
            assert result["frozen"]
            assert result["shapes"]
            assert result["rows"]
