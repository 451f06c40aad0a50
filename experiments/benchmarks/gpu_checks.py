"""What only an accelerator can show, as plain functions: each gives what it measured beside the most that may be.

`tests/gpu` and `gpu_suite.py` run them. A name is a claim. On a processor (`--device cpu`) those that need CUDA are
left out, and with `--quick` those that compile.

    python experiments/benchmarks/gpu_checks.py --device cuda --json FILE [--quick] [--only NAME ...]
"""

import argparse
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities import move_data_to_device
from measuring import write_json
from pretraining_step import Sequences, task_of, train
from torch import Tensor

from bert_lightning.model import BertConfig, BertEncoder, BertForPreTraining
from bert_lightning.model.attention import AttentionName, Layout, eager, varlen, varlen_obstacle
from bert_lightning.model.packing import packing_of, real_tokens
from bert_lightning.runs.trainer import quiet

VOCAB_SIZE, LENGTHS = 97, (50, 64, 1, 17)
# bfloat16 has 8 bits; two layers of sums in another order.
BF16 = 3e-2
NUM_BATCHES, BATCH_SIZE, LENGTH = 4, 16, 64


class Setting(NamedTuple):
    """Where a check runs."""

    device: torch.device
    quick: bool = False


class Measured(NamedTuple):
    """A figure, and the most that it may be."""

    value: float
    limit: float

    @property
    def ok(self) -> bool:
        """Whether it is; not-a-number never is."""
        return self.value <= self.limit


class UnsuitableError(Exception):
    """Why a check cannot be made here."""


Figures = dict[str, Measured]


# -- inputs ------------------------------------------------------------------------------------------------------


def config_of(size: str = "small", dropout: float = 0.0) -> BertConfig:
    """Two layers of that width, with heads 64 wide as published."""
    return BertConfig.preset(
        size,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=64,
        num_hidden_layers=2,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )


def padded(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, segments and mask, (B, S) each."""
    torch.manual_seed(0)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(5, VOCAB_SIZE, mask.shape)
    segments = (torch.arange(mask.shape[1]) >= 2).long().repeat(len(LENGTHS), 1)
    return ids.to(device), segments.to(device), mask.to(device)


def packed(device: torch.device) -> tuple[Any, ...]:
    """The same as ids (T,), segments (T,), no mask and the packing."""
    ids, segments, mask = padded(device)
    places, packing = real_tokens(mask)
    return ids.flatten()[places], segments.flatten()[places], None, packing


def encoder(device: torch.device, attention: AttentionName = "auto") -> BertEncoder:
    """Always with the same weights."""
    torch.manual_seed(0)
    model = BertEncoder(config_of()).to(device)
    model.attention = attention
    return model


def backends(device: torch.device) -> list[AttentionName]:
    """Those that can run in bfloat16."""
    has_varlen = varlen_obstacle(device, torch.bfloat16, 64) is None
    return ["eager", "sdpa", *(["varlen"] if has_varlen else []), "auto"]  # type: ignore[list-item]


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16, as `bf16-mixed` has it."""
    return torch.autocast(device.type, torch.bfloat16)


def distance(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, absolute for small values and relative for large ones."""
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    return float(((actual - expected).abs() / (1 + expected.abs())).max())


def require_cuda(setting: Setting, what: str) -> None:
    """Raises where there is none."""
    if setting.device.type != "cuda":
        raise UnsuitableError(f"{what} for CUDA")


def require_compiler(setting: Setting) -> None:
    """Raises where compiling would take too long."""
    if setting.quick:
        raise UnsuitableError("nothing is compiled with --quick")
    torch._dynamo.reset()


# -- attention ---------------------------------------------------------------------------------------------------


def every_backend_and_form_agrees_with_float64(setting: Setting) -> Figures:
    """Hidden states and pooled vectors in bfloat16, against float64 on the processor."""
    device = setting.device
    expected = encoder(torch.device("cpu")).double()(*padded(torch.device("cpu")))
    mask = padded(torch.device("cpu"))[2]
    figures = {}
    for attention in backends(device):
        for form in ("padded", "packed"):
            model = encoder(device, attention)
            with autocast(device):
                actual = model(*(padded(device) if form == "padded" else packed(device)))
            hidden = actual.last_hidden_state if form == "packed" else actual.last_hidden_state[mask.to(device)]
            difference = max(
                distance(hidden, expected.last_hidden_state[mask]),
                distance(actual.pooler_output, expected.pooler_output),
            )
            figures[f"{attention}, {form}"] = Measured(difference, BF16)
    return figures


def every_backend_has_the_gradients_of_eager(setting: Setting) -> Figures:
    """Of each parameter, by the norm of the difference."""
    ids, segments, mask = padded(setting.device)
    found = {}
    for attention in backends(setting.device):
        torch.manual_seed(0)
        model = BertForPreTraining(config_of()).to(setting.device)
        model.encoder.attention = attention
        with autocast(setting.device):
            out = model(ids, segments, mask)
            loss = F.cross_entropy(out.prediction_logits[mask].float(), ids[mask])
        loss.backward()
        found[attention] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    expected = found.pop("eager")
    total = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    return {
        attention: Measured(
            max(
                float((gradients[name] - gradient).norm() / torch.maximum(gradient.norm(), 0.1 * total))
                for name, gradient in expected.items()
            ),
            BF16,
        )
        for attention, gradients in found.items()
    }


def varlen_equals_sdpa_on_padded_input(setting: Setting) -> Figures:
    """Both in bfloat16 on the device; the encoder packs for the one."""
    require_cuda(setting, "its kernels are")
    inputs = padded(setting.device)
    hidden = []
    for attention in ("sdpa", "varlen"):
        model = encoder(setting.device, attention)
        with autocast(setting.device):
            hidden.append(model(*inputs).last_hidden_state[inputs[2]])
    return {"hidden states": Measured(distance(hidden[1], hidden[0]), BF16)}


def varlen_does_not_drop_dropout(setting: Setting) -> Figures:
    """With V the same vector in every place a context is that vector times the sum of what dropout leaves of the
    weights: 1 on average, with the variance that the weights of `eager` say.
    """
    require_cuda(setting, "its kernels are")
    torch.manual_seed(0)
    length, num_sequences, dropout = 16, 500, 0.25
    query_key_value = torch.randn(num_sequences * length, 3 * 128, device=setting.device, dtype=torch.bfloat16)
    query_key_value[:, 256:] = 1.0
    query_key_value.requires_grad_()
    lengths = torch.full((num_sequences,), length, device=setting.device)
    layout = Layout(packing=packing_of(lengths))
    kept = varlen(query_key_value, layout, 2, dropout).context
    kept.sum().backward()
    gradient = query_key_value.grad
    assert gradient is not None
    sums = kept.detach().float().view(-1, 2, 64)[..., 0]
    weights = eager(query_key_value.detach().float(), layout, 2, 0.0).weights
    assert weights is not None
    expected = float((dropout / (1 - dropout) * (weights**2).sum(-1)).mean())
    without = varlen(query_key_value, layout, 2, 0.0).context
    return {
        "mean": Measured(abs(float(sums.mean()) - 1), 0.02),
        "variance": Measured(abs(float(((sums - 1) ** 2).mean()) / expected - 1), 0.1),
        "without dropout": Measured(distance(without, torch.ones_like(without)), BF16),
        "gradients not finite": Measured(float((~gradient.isfinite()).sum()), 0),
    }


def a_backend_that_cannot_run_says_why(setting: Setting) -> Figures:
    """`varlen` with float32, or on a processor."""
    says = "16-bit numbers, not float32" if setting.device.type == "cuda" else "its kernels are for CUDA"
    try:
        encoder(setting.device, "varlen")(padded(setting.device)[0])
    except ValueError as error:
        return {"not said": Measured(float(says not in str(error)), 0)}
    return {"not said": Measured(1, 0)}


# -- a step ------------------------------------------------------------------------------------------------------


def the_compiled_training_step_is_one_graph(setting: Setting) -> Figures:
    """In both forms, with finite gradients and the names of parameters as before."""
    figures = {}
    for form in ("padded", "packed"):
        require_compiler(setting)
        torch.manual_seed(0)
        model = BertForPreTraining(config_of(dropout=0.1)).to(setting.device)
        positions = torch.tensor([1, 60, 70], device=setting.device)
        labels = torch.tensor([5, 6, 7], device=setting.device)
        inputs = padded(setting.device) if form == "padded" else packed(setting.device)
        arguments = (*inputs[:3], positions, *inputs[3:])

        def step(model: BertForPreTraining = model, arguments: Any = arguments, labels: Tensor = labels) -> Tensor:
            with autocast(setting.device):
                out = model(*arguments)
            return F.cross_entropy(out.prediction_logits.float(), labels)

        torch.compile(step, fullgraph=True)().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        wrong = sum(int((~gradient.isfinite()).sum()) for gradient in gradients)
        figures[f"{form}, gradients not finite"] = Measured(wrong, 0)
        renamed = sum("_orig_mod" in name for name in model.state_dict())
        figures[f"{form}, parameters renamed"] = Measured(renamed, 0)
    return figures


def nothing_in_a_step_waits_for_the_device(setting: Setting) -> Figures:
    """Waiting raises an error meanwhile."""
    require_cuda(setting, "waiting is noticed")
    torch.manual_seed(0)
    model = BertForPreTraining(config_of()).to(setting.device)
    ids, segments, mask = padded(setting.device)
    packed_ids, packed_segments, _, packing = packed(setting.device)
    positions = torch.tensor([1, 60], device=setting.device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with autocast(setting.device):
            model(ids, segments, mask, positions).prediction_logits.float().sum().backward()
            out = model(packed_ids, packed_segments, None, positions, packing)
            out.prediction_logits.float().sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"waited": Measured(0, 0)}


# -- training ----------------------------------------------------------------------------------------------------


class Losses(Callback):
    """The loss of each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        """Take what the task logs."""
        logged: Any = pl_module.training_metrics
        self.values.append(logged["train/loss"])


def sequences() -> list[Sequences]:
    """Some batches that training goes over again and again, so that it has something to learn."""
    generator = np.random.default_rng(0)
    return [
        Sequences(generator.integers(8, LENGTH + 1, BATCH_SIZE), generator, VOCAB_SIZE) for _ in range(NUM_BATCHES)
    ]


def losses(
    setting: Setting, precision: str, steps: int, *, in_packed_form: bool = False, compiled: bool = False
) -> list[float]:
    """Of our task in Lightning's loop, what `fit` runs; always from the same weights."""
    task = task_of(config_of("tiny"), LENGTH, learning_rate=1e-3, log_every_n_steps=1)
    if compiled:
        task.compile_training()
    batches = [each.ours(in_packed_form) for each in sequences()]
    taken = Losses()
    train(task, [batches[step % NUM_BATCHES] for step in range(steps)], setting.device.type, precision, taken)
    return taken.values


def apart(actual: list[float], expected: list[float]) -> float:
    """The largest relative difference of two curves."""
    assert len(actual) == len(expected) > 0
    return float(max(abs(a - e) / e for a, e in zip(actual, expected, strict=True)))


def compiled_training_follows_eager(setting: Setting) -> Figures:
    """Ten steps in float32: kernels sum in another order, and steps carry that on."""
    require_compiler(setting)
    return {
        form: Measured(
            apart(
                losses(setting, "32", 10, in_packed_form=form == "packed", compiled=True),
                losses(setting, "32", 10, in_packed_form=form == "packed"),
            ),
            1e-3,
        )
        for form in ("padded", "packed")
    }


def bf16_mixed_follows_float32(setting: Setting) -> Figures:
    """Fifty steps, in which the loss falls by a quarter or more; padded, and packed as `auto` computes it."""
    steps = 12 if setting.quick else 50
    expected = losses(setting, "32", steps)
    figures = {
        form: Measured(apart(losses(setting, "bf16-mixed", steps, in_packed_form=form == "packed"), expected), 3e-2)
        for form in ("padded", "packed")
    }
    return figures | {"last loss / first": Measured(expected[-1] / expected[0], 1.0 if setting.quick else 0.75)}


def packed_training_follows_padded(setting: Setting) -> Figures:
    """Ten steps in float32."""
    expected = losses(setting, "32", 10)
    return {"losses": Measured(apart(losses(setting, "32", 10, in_packed_form=True), expected), 1e-3)}


def fully_sharded_training_follows_plain(setting: Setting) -> Figures:
    """FSDP2 (`fully_shard` on each layer and on the whole) on one device, in a bare loop of ten steps in float32."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    device = setting.device
    batches = [each.ours(False) for each in sequences()]

    def curve(sharded: bool) -> list[float]:
        torch.manual_seed(0)
        model = BertForPreTraining(config_of("tiny")).to(device)
        if sharded:
            mesh = init_device_mesh(device.type, (1,))
            for layer in model.encoder.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            register_fsdp_forward_method(model, "losses")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        values = []
        for step in range(10):
            batch = batches[step % NUM_BATCHES]
            inputs = batch["input_ids"], batch["token_type_ids"], batch["attention_mask"]
            places = batch["masked_positions"], batch["masked_labels"]
            tokens, pairs = model.losses(*move_data_to_device((*inputs, *places), device))
            labels = batch["sentence_labels"].to(device)
            loss = tokens.loss / len(batch["masked_labels"]) + F.cross_entropy(pairs.float(), labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            values.append(float(loss.detach()))
        return values

    if device.type == "cuda":
        torch.cuda.set_device(0)
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        sharded = curve(sharded=True)
    finally:
        torch.distributed.destroy_process_group()
    return {"losses": Measured(apart(sharded, curve(sharded=False)), 1e-5)}


CHECKS: dict[str, Callable[[Setting], Figures]] = {
    check.__name__: check
    for check in (
        every_backend_and_form_agrees_with_float64,
        every_backend_has_the_gradients_of_eager,
        varlen_equals_sdpa_on_padded_input,
        varlen_does_not_drop_dropout,
        a_backend_that_cannot_run_says_why,
        nothing_in_a_step_waits_for_the_device,
        packed_training_follows_padded,
        bf16_mixed_follows_float32,
        fully_sharded_training_follows_plain,
        compiled_training_follows_eager,
        the_compiled_training_step_is_one_graph,
    )
}


def outcome(name: str, setting: Setting) -> dict[str, Any]:
    """How a check went: `ok`, `failed` or `left out`, why, the seconds, and each figure beside its limit."""
    began = time.perf_counter()
    try:
        figures = CHECKS[name](setting)
        result = "ok" if all(figure.ok for figure in figures.values()) else "failed"
        content: dict[str, Any] = {"result": result, "figures": {k: v._asdict() for k, v in figures.items()}}
    except UnsuitableError as error:
        content = {"result": "left out", "why": str(error)}
    except Exception as error:
        traceback.print_exc()
        content = {"result": "failed", "why": f"{type(error).__name__}: {error}"[:500]}
    return content | {"seconds": round(time.perf_counter() - began, 1)}


def shown(check: dict[str, Any]) -> str:
    """How a check went, in a line: the figure nearest to its limit, or why there is none."""
    figures = [f"{each['value']:.2g} of {each['limit']:g}, {name}" for name, each in check.get("figures", {}).items()]
    nearness = [each["value"] / (each["limit"] or 1) for each in check.get("figures", {}).values()]
    detail = check.get("why") or figures[int(np.argmax(nearness))]
    return f"{check['result']:9}{check['seconds']:6.1f} s  {detail}"


def main() -> int:
    """Run them, write down each as it ends; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", default=list(CHECKS), choices=tuple(CHECKS), metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    quiet()
    warnings.filterwarnings("ignore")
    setting = Setting(torch.device(options.device), options.quick)
    checks: dict[str, Any] = {}
    for name in options.only:
        checks[name] = outcome(name, setting)
        print(f"{name:46} {shown(checks[name])}", flush=True)
        write_json(options.json, {"checks": checks})
    return int(any(check["result"] == "failed" for check in checks.values()))


if __name__ == "__main__":
    raise SystemExit(main())
