"""GPU checks of training: a compiled step, and loss curves in each precision, form and strategy."""

import dataclasses
import itertools
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

from bert_lightning.distributed.sharded import shard
from bert_lightning.model import BertForPreTraining
from bert_lightning.optim.optimizers import OPTIMIZERS, AdamW
from bert_lightning.tasks.task import Task
from bert_lightning.training.finite import gradient_norm, limit_gradients

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
    """Take whole training steps of every optimiser while torch raises an error for each synchronisation.

    They are the steps of `Task.training_step`: forward and backward passes, clipping, the check for finite values and
    the update. The first step allocates memory, which may wait, so it is not watched.
    """
    require_cuda(setting, "waiting is only detected on CUDA")
    figures = {}
    for name, optimizer in OPTIMIZERS.items():
        for form in ("padded", "packed"):
            task = task_of(config_of(dropout=0.1), LENGTH, learning_rate=1e-3, log_every_n_steps=100)
            settings: Any = optimizer(learning_rate=1e-3)
            task.optimization = dataclasses.replace(task.optimization, optimizer=settings)
            waits = watched(task)
            batches = [each.ours(form == "packed") for each in sequences()]
            train(task, batches, "cuda", "bf16-mixed", Losses())
            figures[f"{name}, {form}: steps that waited"] = Measured(len(waits), 0)
    return figures


def watched(task: Task) -> list[str]:
    """Let torch raise an error if a step of the task waits, except in the first one; return the errors so far."""
    step, errors, taken = task.training_step, [], itertools.count()

    def watching(*arguments: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error" if next(taken) else "default")
        try:
            return step(*arguments)
        except RuntimeError as error:
            errors.append(str(error))
            raise
        finally:
            torch.cuda.set_sync_debug_mode("default")

    task.training_step = watching  # type: ignore[method-assign]
    return errors


class Losses(Callback):
    """Callback that collects the loss of each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: object) -> None:
        assert isinstance(pl_module, Task)
        if pl_module.training_metrics:
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
        # As `fit` compiles on a GPU.
        task.compile_training(blocks_alone=True)
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
    """Compare our FSDP2 on one device with plain training, over ten steps in float32 of a bare loop."""
    from torch.distributed.device_mesh import init_device_mesh

    device = setting.device
    batches = [each.ours(False) for each in sequences()]

    def curve(sharded: bool) -> list[float]:
        torch.manual_seed(0)
        model = BertForPreTraining(config_of("tiny")).to(device)
        if sharded:
            names = ("data_parallel", "tensor_parallel")
            mesh = init_device_mesh(device.type, (1, 1), mesh_dim_names=names)
            shard(model, list(model.encoder.layers), ("losses",), mesh, "32")
        settings: Any = AdamW(learning_rate=1e-3)
        optimizer = settings.build([{"params": list(model.parameters())}])
        values = []
        for step in range(10):
            batch = batches[step % NUM_BATCHES]
            inputs = batch["input_ids"], batch["token_type_ids"], batch["attention_mask"]
            targets = batch["masked_positions"], batch["masked_labels"]
            tokens, pairs = model.losses(*move_data_to_device((*inputs, *targets), device))
            labels = batch["sentence_labels"].to(device)
            loss = tokens.loss / len(batch["masked_labels"]) + F.cross_entropy(pairs.float(), labels)
            loss.backward()
            limit_gradients(model.parameters(), gradient_norm(model.parameters()), 1.0)
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
    # The optimiser's kernels add in another order, and attention's backward pass may reorder its sums.
    return {"losses": Measured(apart(sharded, curve(sharded=False)), 1e-4)}
