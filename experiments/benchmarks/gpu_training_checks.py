"""GPU checks of training: a compiled step, and loss curves in each precision, form and strategy."""

from typing import Any

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from drawn_batches import Sequences, task_of, train
from gpu_setting import (
    VOCAB_SIZE,
    Figures,
    Measured,
    Setting,
    autocast,
    config_of,
    packed,
    padded,
    require_compiler,
    require_cuda,
)
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from bert_lightning.model import BertForPreTraining
from bert_lightning.tasks.task import Task

NUM_BATCHES, BATCH_SIZE, LENGTH = 4, 16, 64


def the_compiled_training_step_is_one_graph(setting: Setting) -> Figures:
    """Compile a step in both forms, with finite gradients and unchanged parameter names."""
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
    """Run two forward and backward passes while torch raises an error for each synchronisation."""
    require_cuda(setting, "waiting is only detected on CUDA")
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


class Losses(Callback):
    """Callback that collects the loss of each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: object) -> None:
        assert isinstance(pl_module, Task)
        self.values.append(pl_module.training_metrics["train/loss"])


def sequences() -> list[Sequences]:
    """Return a few batches that training repeats, so that the loss falls."""
    generator = np.random.default_rng(0)
    return [
        Sequences(generator.integers(8, LENGTH + 1, BATCH_SIZE), generator, VOCAB_SIZE) for _ in range(NUM_BATCHES)
    ]


def losses(
    setting: Setting, precision: str, steps: int, *, in_packed_form: bool = False, compiled: bool = False
) -> list[float]:
    """Return the losses of our task in Lightning's loop, as `fit` runs it, always from the same weights."""
    task = task_of(config_of("tiny"), LENGTH, learning_rate=1e-3, log_every_n_steps=1)
    if compiled:
        task.compile_training()
    batches = [each.ours(in_packed_form) for each in sequences()]
    collected = Losses()
    train(task, [batches[step % NUM_BATCHES] for step in range(steps)], setting.device.type, precision, collected)
    return collected.values


def apart(actual: list[float], expected: list[float]) -> float:
    """Return the largest relative difference of two curves."""
    assert len(actual) == len(expected) > 0
    return float(max(abs(a - e) / e for a, e in zip(actual, expected, strict=True)))


def compiled_training_follows_eager(setting: Setting) -> Figures:
    """Compare ten steps in float32. Kernels add in another order, and later steps amplify that."""
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
    """Compare fifty steps, in which the loss falls by at least a quarter, padded and packed."""
    steps = 12 if setting.quick else 50
    expected = losses(setting, "32", steps)
    figures = {
        form: Measured(apart(losses(setting, "bf16-mixed", steps, in_packed_form=form == "packed"), expected), 3e-2)
        for form in ("padded", "packed")
    }
    return figures | {"last loss / first": Measured(expected[-1] / expected[0], 1.0 if setting.quick else 0.75)}


def packed_training_follows_padded(setting: Setting) -> Figures:
    """Compare ten steps in float32."""
    expected = losses(setting, "32", 10)
    return {"losses": Measured(apart(losses(setting, "32", 10, in_packed_form=True), expected), 1e-3)}


def fully_sharded_training_follows_plain(setting: Setting) -> Figures:
    """Compare FSDP2 on one device with plain training, over ten steps in float32 of a bare loop.

    `fully_shard` is applied to each layer and to the whole model.
    """
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
            targets = batch["masked_positions"], batch["masked_labels"]
            tokens, pairs = model.losses(*move_data_to_device((*inputs, *targets), device))
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
