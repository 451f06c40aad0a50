"""Experiments of every task and every step method, and teachers for them."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bert_lightning.config.experiment import Experiment, load_experiment
from bert_lightning.data.loading.batching import Batch
from bert_lightning.runs.building import build_training
from bert_lightning.runs.trainer import build_trainer, training_callbacks
from bert_lightning.tasks.step_method import BackwardPass, CountedLosses, PlainStep, StepMethod
from bert_lightning.tasks.task import Task
from tests.support.small_corpus import SMALL_MODEL
from tests.support.task_data import short_experiment

NO_DROPOUT = ["--model.config.hidden_dropout_prob=0", "--model.config.attention_probs_dropout_prob=0"]
LARGER = ["--model.config.hidden_size=48", "--model.config.num_hidden_layers=3"]
Make = Callable[..., Experiment]


def experiment_of(task: str, sources: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the values of a short experiment.

    Args:
        task: the name of the task.
        sources: `store`, `validation_store`, `tables` and `tokenizer`, as in the fixtures.
        folder: receives the files of the task.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources["tokenizer"].save(folder / "tokenizer")
    values = short_experiment(task, (sources["store"], sources["validation_store"]), sources["tables"], folder)
    if task != "pretraining":
        values["data"]["tokenizer"] = str(folder / "tokenizer")
    values["trainer"]["log_every_n_steps"] = 3
    return {**values, "model": SMALL_MODEL}


def maker(values: dict[str, Any]) -> Make:
    """Return a function from overrides to the experiment."""
    return lambda *overrides: load_experiment([], overrides, values, ["tests.support.methods"])


def train(experiment: Experiment, folder: Path, resume: Path | None = None) -> Task:
    """Train, and return the task. Checkpoints are in the folder."""
    setup = build_training(experiment, None)
    steps = setup.data.plan.num_steps
    callbacks = training_callbacks(experiment, setup.task, folder, steps, validates=True)
    trainer = build_trainer(experiment, folder, [], steps=steps, callbacks=callbacks)
    trainer.fit(setup.task, setup.data, ckpt_path=resume)
    return setup.task


def micro_batches(experiment: Experiment, number: int = 1) -> tuple[Task, list[Batch]]:
    """Return a task before training, in training mode, and the micro-batches of its first step."""
    setup = build_training(experiment, None)
    plan = dataclasses.replace(setup.data.plan, accumulate=number)
    return setup.task.train(), list(setup.data.training_batches(0, plan, 0, 1))


def first_batch(experiment: Experiment) -> tuple[Task, Batch]:
    """Return a task before training, in training mode, and its first batch."""
    task, [batch] = micro_batches(experiment)
    return task, batch


class WholeBatch:
    """The backward pass of a step of one process, over the given micro-batches."""

    def __init__(self, method: StepMethod, *batches: Batch) -> None:
        self.divisors = torch.stack([method.counts(batch)[: method.num_losses] for batch in batches]).sum(0)
        self.factors = torch.tensor(method.loss_factors)

    def loss(self, losses: torch.Tensor) -> torch.Tensor:
        return (losses / self.divisors.clamp(min=1) * self.factors).sum()

    def __call__(self, losses: torch.Tensor, *, is_last: bool = True) -> None:
        self.loss(losses).backward()

    def gradient(self, losses: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(self.loss(losses), of)[0]


def gradients(task: Task, *batches: Batch, method: StepMethod | None = None, seed: int = 1) -> list[torch.Tensor]:
    """Return the gradients of the micro-batches of a whole batch, and delete them in the model."""
    method = task.step_method if method is None else method
    backward = WholeBatch(method, *batches)
    task.model.zero_grad()
    for batch in batches:
        torch.manual_seed(seed)
        method.sums(batch, backward)
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in task.model.parameters()]
    task.model.zero_grad()
    return found


def same(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    """Return whether tensors are equal bit for bit."""
    return len(one) == len(other) and all(map(torch.equal, one, other))


@dataclass(frozen=True)
class TwoPasses:
    """A step method of a user: `share` of the gradient from one pass, the rest from another."""

    share: float = 0.25

    def build(self, losses: CountedLosses) -> StepMethod:
        return TwoPassesStep(losses, self.share)


class TwoPassesStep(PlainStep):
    def __init__(self, losses: CountedLosses, share: float) -> None:
        super().__init__(losses)
        self.share = share

    def sums(self, batch: Batch, backward: BackwardPass) -> torch.Tensor:
        for is_last, share in ((False, self.share), (True, 1 - self.share)):
            sums = self.losses.sums(batch)
            backward(sums[: self.num_losses] * share, is_last=is_last)
        return sums.detach()


OWN = ["--step_method.class_path=tests.support.methods.TwoPasses", "--step_method.init_args.share=0.5"]
L2_SP = ["--continual.name=l2-sp", "--continual.alpha=0", "--continual.beta=0.1"]
FGM = ["--adversarial.name=fgm", "--adversarial.epsilon=0.5"]
INNER = {
    "hidden": ["--distillation.hidden.layers=[0, 2]", "--distillation.hidden.embeddings=true"],
    "attention": ["--distillation.attention.layers=last"],
    "relations": ["--distillation.relations.of=[query-key, value-value]"],
}
"""Key of a loss on inner states -> overrides for a teacher with three blocks and a student with two."""
ALL_INNER = [option for options in INNER.values() for option in options]
ADVERSARIAL = {
    "fgm": FGM,
    "pgd": ["--adversarial.name=pgd", "--adversarial.num_ascents=2", "--adversarial.random_start=true"],
    "freelb": ["--adversarial.name=freelb", "--adversarial.num_passes=2", "--adversarial.clean_pass=true"],
    "smart": ["--adversarial.name=smart", "--adversarial.proximal=1.0", "--adversarial.sigma=1e-2"],
    "r-drop": ["--adversarial.name=r-drop", "--adversarial.alpha=1.0"],
}
"""Value of `adversarial.name` -> overrides that use all of its parts."""
METHODS: dict[str, Callable[[Path], list[str]]] = {
    "own": lambda teacher: OWN,
    **{name: lambda teacher, options=options: options for name, options in ADVERSARIAL.items()},
    "distillation": lambda teacher: [f"--distillation.teacher={teacher}"],
    **{
        name: lambda teacher, options=options: [
            f"--distillation.teacher={teacher}",
            "--distillation.alpha=0",
            *options,
        ]
        for name, options in INNER.items()
    },
    "distilled-pgd": lambda teacher: [*ADVERSARIAL["pgd"], f"--distillation.teacher={teacher}"],
    "distilled-freelb": lambda teacher: [*ADVERSARIAL["freelb"], f"--distillation.teacher={teacher}"],
    "all-smart": lambda teacher: [*OWN, *ADVERSARIAL["smart"], f"--distillation.teacher={teacher}", *INNER["hidden"]],
    "all-r-drop": lambda teacher: [*OWN, *ADVERSARIAL["r-drop"], f"--distillation.teacher={teacher}"],
    "hidden-r-drop": lambda teacher: [
        *ADVERSARIAL["r-drop"],
        f"--distillation.teacher={teacher}",
        "--distillation.alpha=0",
        *INNER["hidden"],
    ],
    "l2-sp": lambda teacher: L2_SP,
    "all": lambda teacher: [*OWN, *FGM, *L2_SP, f"--distillation.teacher={teacher}", *ALL_INNER],
}
"""Name of a combination -> overrides, given a teacher."""
