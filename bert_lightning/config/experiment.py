"""An experiment file and its overrides as one typed value."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bert_lightning.checks import RefusedValue, nearest
from bert_lightning.config.extensions import with_own_parts
from bert_lightning.config.published import Published
from bert_lightning.config.settings import (
    Fault,
    Tables,
    as_one_message,
    build,
    fill,
    merge,
    parse_overrides,
    plain,
    read_yaml,
    unknown_key,
    with_names,
)
from bert_lightning.data.pretraining.masking import MASKINGS
from bert_lightning.data.pretraining.settings import PretrainingData
from bert_lightning.errors import InputError
from bert_lightning.model.attention import AttentionName
from bert_lightning.model.config import BertConfig
from bert_lightning.optim.freezing import FreezeSettings
from bert_lightning.optim.optimizers import OPTIMIZERS, AdamW
from bert_lightning.optim.parameter_groups import ParameterGroupSettings
from bert_lightning.optim.schedules import SCHEDULES, Linear
from bert_lightning.tasks.multiple_choice.settings import MultipleChoiceData
from bert_lightning.tasks.question_answering.settings import QuestionAnsweringData
from bert_lightning.tasks.relation_classification.settings import RelationClassificationData
from bert_lightning.tasks.text_classification.settings import TextClassificationData
from bert_lightning.tasks.token_classification.settings import TokenClassificationData
from bert_lightning.training.checkpointing import CheckpointSettings

# task -> the settings of its data; the other half of a task's row is in runs/building.py.
TASK_DATA: dict[str, type] = {
    "pretraining": PretrainingData,
    "text-classification": TextClassificationData,
    "token-classification": TokenClassificationData,
    "question-answering": QuestionAnsweringData,
    "multiple-choice": MultipleChoiceData,
    "relation-classification": RelationClassificationData,
}
# File systems allow 255 bytes for a name, and numbers are added to this one.
_LONGEST_NAME = 200
_ARCHITECTURE = {field.name for field in dataclasses.fields(BertConfig)}
CHOICES: Tables = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "data.masking": MASKINGS}


@dataclass(frozen=True)
class ModelSettings:
    """The encoder: a published size drawn anew, or a checkpoint to start from.

    Attributes:
        size: tiny, mini, small, medium, base or large.
        config: fields of `BertConfig` that differ from the size's (or the checkpoint's: dropout rates, pooling).
        pretrained: run directory, checkpoint file, Hugging Face folder, TensorFlow checkpoint or hub name to start
            from.
        weights: `random` takes only architecture and vocabulary of `pretrained` and draws the weights anew.
        resize_vocabulary: fit the checkpoint to the data's vocabulary where it is another one.
        interpolate_positions: stretch the checkpoint's position table to `config.max_position_embeddings`.
        reinitialize_layers: draw so many of the checkpoint's top layers, and the pooler, anew.
        crf: a linear-chain CRF on the tags' scores; token classification only.
        answerability: a head of its own for whether a question has an answer; question answering only.
        attention: eager, sdpa, varlen (without padding, on CUDA) or auto.
        activation_checkpointing: keep only each block's input for the backward pass: less memory, more time.
    """

    size: Literal["tiny", "mini", "small", "medium", "base", "large"] | None = None
    config: dict[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    resize_vocabulary: bool = False
    interpolate_positions: bool = False
    reinitialize_layers: int = 0
    crf: bool = False
    answerability: bool = False
    attention: AttentionName = "auto"
    activation_checkpointing: bool = False

    @property
    def head(self) -> Any:
        """The settings of the task's head."""
        return self

    def __post_init__(self) -> None:
        if (self.size is None) == (self.pretrained is None):
            raise ValueError("size or model.pretrained must be set, and not both")
        if self.reinitialize_layers < 0:
            raise RefusedValue("reinitialize_layers", self.reinitialize_layers, "be at least 0")
        for name in ("resize_vocabulary", "interpolate_positions", "reinitialize_layers"):
            if getattr(self, name) and self.pretrained is None:
                raise ValueError(f"{name} does nothing without model.pretrained")
        if self.reinitialize_layers and self.weights == "random":
            raise ValueError("reinitialize_layers does nothing where weights are random")
        if self.interpolate_positions and "max_position_embeddings" not in self.config:
            raise ValueError("interpolate_positions needs model.config.max_position_embeddings")
        if self.size is not None and set(self.config) <= _ARCHITECTURE:
            try:
                # The vocabulary is not known yet.
                BertConfig.preset(self.size, **{"vocab_size": 2**31 - 1, **self.config})
            except ValueError as error:
                raise ValueError(f"config: {error}") from None


@dataclass(frozen=True)
class TrainerSettings:
    """How the run is computed; names as in Lightning's Trainer.

    Attributes:
        max_steps: optimiser steps.
        max_epochs: the length in passes over the data instead; steps = int(samples / batch_size * epochs).
        accelerator: auto, cpu or gpu.
        devices: processes on each node.
        num_nodes: machines.
        timeout_seconds: how long a process waits for the others before training ends; more than the first one needs
            for what it does alone, such as writing a checkpoint.
        strategy: ddp (each process has the whole model), fsdp (processes share the rows of weights, gradients and
            optimiser states: less memory, more communication), or auto: ddp where there are several processes.
        tensor_parallel_size: with fsdp, how many processes share the heads and widths of each block, and so compute
            each sample together; must divide the processes, the heads and the width of the feed-forward part.
        precision: 32, bf16-mixed (bfloat16 autocast, weights in float32), bf16-true (weights in bfloat16 too, moments
            in float32), 16-mixed (float16 autocast with a scaled loss, on CUDA), or auto: bf16-mixed where the device
            multiplies bfloat16 in hardware; a run keeps to what it began with.
        accumulate_grad_batches: micro-batches computed one after the other in a step; the batch size stays. auto
            finds the fewest with which a step fits into memory.
        gradient_clip_val: largest global norm of the gradients; 1.0 as published.
        non_finite: what becomes of a step whose loss or gradients are not finite, which never reach the weights: stop
            training, or skip that step.
        val_check_interval: validate every so many steps, and after the last; ten times in all when null.
        log_every_n_steps: training metrics are averaged over so many steps.
        compile: compile the model with `torch.compile`, which takes a minute first; auto does on a GPU for 2,000
            steps or more. On a processor plain steps were the faster ones.
    """

    max_steps: int | None = None
    max_epochs: float | None = None
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    # Torch's own for gloo.
    timeout_seconds: int = 1800
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    tensor_parallel_size: int = 1
    precision: Literal["32", "bf16-mixed", "bf16-true", "16-mixed", "auto"] = "32"
    accumulate_grad_batches: int | Literal["auto"] = 1
    gradient_clip_val: float | None = 1.0
    non_finite: Literal["stop", "skip"] = "stop"
    val_check_interval: int | None = None
    log_every_n_steps: int = 10
    compile: bool | Literal["auto"] = "auto"
    deterministic: bool = False

    def __post_init__(self) -> None:
        if (self.max_steps is None) == (self.max_epochs is None):
            raise ValueError("max_steps or trainer.max_epochs must be set, and not both")
        for name in ("max_steps", "max_epochs", "gradient_clip_val", "val_check_interval"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise RefusedValue(name, value, "be more than 0")
        counts = ("devices", "num_nodes", "tensor_parallel_size", "timeout_seconds", "log_every_n_steps")
        for name in (*counts, "accumulate_grad_batches"):
            value = getattr(self, name)
            if value != "auto" and value < 1:
                raise RefusedValue(name, value, "be at least 1")
        if self.strategy == "fsdp":
            for name, cannot in (("precision", "16-mixed"), ("accumulate_grad_batches", "auto")):
                if getattr(self, name) == cannot:
                    raise ValueError(f"{name} is {cannot}, which does not go with trainer.strategy fsdp")
            if self.tensor_parallel_size > 1 and self.compile is True:
                raise ValueError("compile is true, which does not go with trainer.tensor_parallel_size")
        elif self.tensor_parallel_size > 1:
            raise ValueError("tensor_parallel_size does nothing without trainer.strategy fsdp")
        if self.num_processes % self.tensor_parallel_size:
            raise ValueError(
                f"tensor_parallel_size is {self.tensor_parallel_size}, which does not divide the "
                f"{self.num_processes} process(es) (trainer.devices times trainer.num_nodes)"
            )

    @property
    def num_processes(self) -> int:
        """Over all machines."""
        return self.devices * self.num_nodes

    @property
    def num_shares(self) -> int:
        """Parts of a micro-batch that processes compute at once."""
        return self.num_processes // self.tensor_parallel_size


@dataclass(frozen=True)
class EarlyStoppingSettings:
    """Stop when validation no longer improves.

    Attributes:
        patience: validations without improvement before stopping; none means never.
        min_delta: what counts as an improvement of the monitored metric (that of `checkpoint`).
    """

    patience: int | None = None
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise RefusedValue("patience", self.patience, "be at least 1")


@dataclass(frozen=True)
class WandbSettings:
    """Logging to Weights & Biases.

    Attributes:
        mode: auto goes online when an API key is at hand and stays offline otherwise; disabled leaves it out.
        project: W&B project.
        tags: W&B tags.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "bert_lightning"
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # The rules of `wandb.Settings`, which W&B would apply only after the data are read.
        if self.mode == "disabled":
            return
        if not re.fullmatch(r"[^/\\#?%:]{1,128}", self.project, re.DOTALL):
            raise ValueError(
                f"project is {self.project!r}; it must have 1 to 128 characters, none of them / \\ # ? % :"
            )
        for tag in self.tags:
            if not 1 <= len(tag) <= 64:
                raise ValueError(f"tags holds {tag!r}; a tag must have 1 to 64 characters")


@dataclass(frozen=True)
class Experiment:
    """Everything that decides a run.

    Attributes:
        experiment: its name, the folder under `runs/`.
        task: what is trained; decides what `data` holds.
        seed_everything: of weights, data order, masks and dropout.
        published: figures that it is to reproduce.
        loss_weights: factor on each loss of the task by its name, such as {nsp_loss: 0.5}; 1 where none is given.
    """

    experiment: str
    task: str
    model: ModelSettings
    data: Any
    trainer: TrainerSettings
    seed_everything: int = 1
    published: list[Published] = field(default_factory=list)
    loss_weights: dict[str, float] = field(default_factory=dict)
    optimizer: Any = field(default_factory=AdamW)
    schedule: Any = field(default_factory=Linear)
    parameter_groups: ParameterGroupSettings = field(default_factory=ParameterGroupSettings)
    freeze: FreezeSettings = field(default_factory=FreezeSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    early_stopping: EarlyStoppingSettings = field(default_factory=EarlyStoppingSettings)
    wandb: WandbSettings = field(default_factory=WandbSettings)

    def __post_init__(self) -> None:
        for name, task in (("crf", "token-classification"), ("answerability", "question-answering")):
            if getattr(self.model, name) and self.task != task:
                raise ValueError(f"model.{name} is of the task {task}, not of {self.task}")
        if not 0 <= self.seed_everything < 2**32:
            raise RefusedValue("seed_everything", self.seed_everything, "be between 0 and 2^32 - 1")
        for name, weight in self.loss_weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise RefusedValue(f"loss_weights.{name}", weight, "be 0 or more")
        if self.checkpoint.sharded and self.trainer.strategy != "fsdp":
            raise ValueError("checkpoint.sharded does nothing without trainer.strategy fsdp")
        if self.freeze.encoder and self.parameter_groups.layer_decay != 1:
            raise ValueError("parameter_groups.layer_decay does nothing beside freeze.encoder: only the head trains")

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `load_experiment` reads back to the same experiment."""
        return plain(self, "", CHOICES)

    @property
    def identity(self) -> str:
        """Twelve hexadecimal digits that differ when any value does."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


def load_experiment(
    files: Sequence[Path],
    overrides: Sequence[str] = (),
    below: dict[str, Any] | None = None,
    allowed: Sequence[str] = (),
) -> Experiment:
    """Read experiment files in order (a later one wins key by key, lists as a whole), then apply overrides.

    `below` holds values under all of them, such as a saved run's; `allowed` the modules that a `class_path` may name.

    Raises:
        InputError: an unknown key, a wrong type, a missing value or an unset environment variable.
    """
    faults: list[Fault] = []
    unread: list[str] = []
    sources: list[tuple[str, dict[str, Any]]] = []
    for file in files:
        try:
            sources.append((str(file), with_names(read_yaml(file), CHOICES)))
        except InputError as error:
            unread.append(str(error))
    try:
        sources.append(("command line", with_names(parse_overrides(overrides), CHOICES)))
    except InputError as error:
        unread.append(str(error))
    values = dict(below or {})
    for _, content in sources:
        values = merge(values, content, CHOICES)
    experiment = _build(values, allowed, faults)
    if experiment is not None and not unread:
        return experiment
    if unread:
        # The content of an unreadable file is not known. An unknown key is a fault whatever that content is.
        faults = [fault for fault in faults if fault[1].startswith("unknown key")]
    named = ", ".join(map(str, files))
    origins = [_origin(key, sources) or named for key, _ in faults]
    messages = [_placed(key, message) for key, message in faults]
    placed = [f"{origin}: {m}" if origin else m for origin, m in zip(origins, messages, strict=True)]
    raise InputError(as_one_message([*unread, *placed]))


def _placed(key: str, message: str) -> str:
    """Return the message about an unknown key, with the place where a key of just this name is known."""
    start = f"unknown key {key!r}"
    section, _, name = key.rpartition(".")
    if not message.startswith(start):
        return message
    tasks = [task for task, cls in TASK_DATA.items() if name in _names(cls)]
    if section == "data" and tasks:
        return f"{start}, which is of the task {' and '.join(tasks)}"
    places = {
        **dict.fromkeys(_names(Experiment), ""),
        **dict.fromkeys(_names(BertConfig), "model.config."),
        **{each: "data." for cls in TASK_DATA.values() for each in _names(cls)},
        **{each: f"{part}." for part, cls in _PARTS.items() for each in _names(cls)},
    }
    place = f"{places[name]}{name}" if name in places else key
    return message if place == key else f"{start}; did you mean {place!r}?"


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def _origin(key: str, sources: Sequence[tuple[str, dict[str, Any]]]) -> str | None:
    """Return the name of the source whose value of a dotted key counts."""
    for name, values in reversed(sources):
        place: Any = values
        for part in key.split("."):
            if isinstance(place, dict):
                place = {str(own): value for own, value in place.items()}.get(part, _NOTHING)
        if place is not _NOTHING:
            return name
    return None


_NOTHING = object()
_PARTS: dict[str, type] = {
    "model": ModelSettings,
    "optimizer": AdamW,
    "schedule": Linear,
    "parameter_groups": ParameterGroupSettings,
    "freeze": FreezeSettings,
    "checkpoint": CheckpointSettings,
    "early_stopping": EarlyStoppingSettings,
    "wandb": WandbSettings,
    "trainer": TrainerSettings,
}


def _build(values: dict[str, Any], allowed: Sequence[str], faults: list[Fault]) -> Experiment | None:
    """Return the experiment; on faults return None and add an entry to `faults` for each."""
    trainer = values.get("trainer")
    if isinstance(trainer, dict) and isinstance(trainer.get("precision"), int):
        values = {**values, "trainer": {**trainer, "precision": str(trainer["precision"])}}
    tables = CHOICES
    try:
        values, tables = with_own_parts(values, CHOICES, allowed)
    except InputError as error:
        faults.append(("", str(error)))
        values = _without_own_parts(values)
    name = values.get("experiment")
    if isinstance(name, str) and (not re.fullmatch(r"[\w-][\w.-]*", name) or len(name.encode()) > _LONGEST_NAME):
        faults.append(
            (
                "experiment",
                f"experiment is {name[:_LONGEST_NAME]!r}; it names a folder: letters, digits, '-', '_' and '.', the "
                f"last not in front, at most {_LONGEST_NAME} bytes",
            )
        )
    model = values.get("model")
    config = model.get("config") if isinstance(model, dict) else None
    for key in config if isinstance(config, dict) else ():
        if key not in _ARCHITECTURE:
            faults.append((f"model.config.{key}", unknown_key(key, _names(BertConfig), "model.config")))
    task = values.get("task")
    if not isinstance(task, str) or task not in TASK_DATA:
        known = f"; known: {', '.join(TASK_DATA)}" if task is None else nearest(str(task), TASK_DATA)
        faults.append(("task", f"the key task is missing{known}" if task is None else f"task is {task!r}{known}"))
        _check_data(values.get("data"), tables, faults)
        rest = {key: value for key, value in values.items() if key not in ("task", "data")}
        fill(_experiment_class(Any), {**rest, "task": "", "data": None}, "", tables, faults)
        return None
    experiment = build(_experiment_class(TASK_DATA[task]), {"data": None, **values}, "", tables, faults)
    return None if faults else experiment


def _experiment_class(data: Any) -> type:
    return dataclasses.make_dataclass("Experiment", [("data", data)], bases=(Experiment,), frozen=True, kw_only=True)


def _check_data(values: Any, tables: Tables, faults: list[Fault]) -> None:
    """Compare the keys under `data` with those of all tasks. A value is a fault if no task accepts it."""
    if values is not None and not isinstance(values, dict):
        faults.append(("data", f"data: keys and values are expected, got {values!r}"))
        return
    fields = {cls: _names(cls) for cls in TASK_DATA.values()}
    for key, value in (values or {}).items():
        readings: list[list[Fault]] = []
        for cls in (cls for cls, names in fields.items() if key in names):
            own: list[Fault] = []
            fill(cls, {key: value}, "data", tables, own)
            readings.append([fault for fault in own if f"{fault[0]}.".startswith(f"data.{key}.")])
        if not readings:
            known = dict.fromkeys(name for names in fields.values() for name in names)
            faults.append((f"data.{key}", unknown_key(key, known, "data")))
        elif all(readings):
            faults += readings[0]


def _without_own_parts(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values without the choices that name a class."""
    kept = {}
    for key, value in values.items():
        if isinstance(value, dict):
            if "class_path" in value:
                continue
            value = {k: v for k, v in value.items() if not (isinstance(v, dict) and "class_path" in v)}
        kept[key] = value
    return kept
