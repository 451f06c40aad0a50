"""No training step waits for its accelerator, for which torch's meta device stands."""

from contextlib import nullcontext, suppress

import pytest
import torch
from lightning.pytorch.plugins.precision import Precision

from bert_lightning.optim.optimizers import OPTIMIZERS
from bert_lightning.runs.building import build_training
from bert_lightning.tasks.catalogue import TASKS
from bert_lightning.training.precision import ScaledFloat16
from tests.support.accelerator import Waits, steps_on_meta
from tests.support.methods import FGM, OWN, experiment_of, maker

STEPS = ["--trainer.max_steps=9", "--trainer.log_every_n_steps=9"]


@pytest.fixture(scope="module")
def make(store, validation_store, tables, tokenizer, tmp_path_factory):
    """Return a function from the name of a task and overrides to its task and data."""
    sources = {"store": store, "validation_store": validation_store, "tables": tables, "tokenizer": tokenizer}

    def made(name, *overrides):
        values = experiment_of(name, sources, tmp_path_factory.mktemp("waits"))
        setup = build_training(maker(values)(*STEPS, *overrides), None)
        return setup.task, setup.data

    return made


@pytest.mark.parametrize("name", TASKS)
def test_a_training_step_of_no_task_waits_for_the_device(make, monkeypatch, name):
    with steps_on_meta(*make(name), monkeypatch) as waits:
        assert waits.found == []


CASES = {
    "packed": ("pretraining", ["--data.batching=packed"]),
    "masks alone": ("pretraining", ["--data.objective=full-sentences"]),
    "micro-batches": ("pretraining", ["--trainer.accumulate_grad_batches=2"]),
    "weights of losses": ("pretraining", ["--loss_weights.mlm_loss=0.5"]),
    "a CRF": ("token-classification", ["--model.head.crf=true"]),
    "another loss of tags": ("token-classification", ["--loss.name=focal"]),
    "another loss of ends": ("question-answering", ["--loss.name=label_smoothing"]),
    "answerability": ("question-answering", ["--model.head.answerability=true"]),
    "class weights": ("text-classification", ["--data.class_weights=balanced"]),
    "an adversary": ("text-classification", FGM),
    "a packed adversary": ("pretraining", ["--data.batching=packed", *FGM]),
    "a step method": ("relation-classification", OWN),
    "gradual unfreezing": ("multiple-choice", ["--freeze.unfreeze_every=1"]),
    "LoRA": ("text-classification", ["--tuning.name=lora"]),
    "recomputed blocks": ("pretraining", ["--model.activation_checkpointing=true"]),
    "adamw in bfloat16": ("pretraining", ["--trainer.precision=bf16-true"]),
    "adamw as published": ("pretraining", ["--optimizer.bias_correction=false"]),
    **{name: ("pretraining", [f"--optimizer.name={name}"]) for name in OPTIMIZERS},
}


@pytest.mark.parametrize("case", CASES)
def test_no_setting_makes_a_step_wait(make, monkeypatch, case):
    name, options = CASES[case]
    with steps_on_meta(*make(name, *options), monkeypatch) as waits:
        assert waits.found == []


class Scaled(ScaledFloat16):
    """Loss scaling on the meta device, which has no autocast."""

    def __init__(self):
        Precision.__init__(self)
        self.scaler = torch.amp.GradScaler("cpu")

    def forward_context(self):
        return nullcontext()


def test_the_scale_of_the_loss_is_not_read_in_a_step(make, monkeypatch):
    with steps_on_meta(*make("pretraining"), monkeypatch, plugins=[Scaled()]) as waits:
        assert waits.found == []


@pytest.mark.parametrize(
    "operation",
    [
        lambda tensor: tensor.to("cpu"),
        lambda tensor: torch.ones(3).to("meta"),
        lambda tensor: torch.tensor(1.0, device="meta"),
        lambda tensor: tensor.item(),
        lambda tensor: bool(tensor),
        lambda tensor: tensor.nonzero(),
        lambda tensor: tensor[tensor > 0],
        lambda tensor: tensor.repeat_interleave(tensor.long()),
        lambda tensor: torch.empty(1).copy_(tensor),
    ],
)
def test_the_recorder_finds_what_waits(operation):
    waits = Waits()
    with suppress(RuntimeError, NotImplementedError), waits:
        operation(torch.ones(1, device="meta"))
    assert len(waits.found) >= 1
