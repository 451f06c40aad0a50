"""Sections of an experiment that belong to no other package: model, trainer, early stopping, W&B."""

import dataclasses
import re
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from bert_lightning.checks import RefusedValue, require_at_least, require_positive
from bert_lightning.model.config import BertConfig
from bert_lightning.model.layers.attention import ATTENTIONS, AttentionName
from bert_lightning.tasks.spec import NoHeadSettings

ARCHITECTURE = [field.name for field in dataclasses.fields(BertConfig)]
"""Keys under `model.config`."""
_TYPES = typing.get_type_hints(BertConfig)


@dataclass(frozen=True)
class ModelSettings:
    """The encoder, new or from a checkpoint, and the options of the task's head.

    Attributes:
        size: architecture of a model with new weights: tiny, mini, small, medium, base or large.
        config: fields of `BertConfig` that differ from those of the size. With a checkpoint: dropout rates, pooling.
        pretrained: the checkpoint to start from, instead of a size. A run directory, checkpoint file, Hugging Face
            folder, TensorFlow checkpoint or hub name.
        weights: `random` takes only architecture and vocabulary of `pretrained` and initialises new weights.
        keep_layers: build the model from these blocks of the checkpoint, by number from 0, in order; null for all.
            [0, 2, 4, 6, 8, 10] makes a student of half the depth, as DistilBERT's.
        resize_vocabulary: resize the checkpoint's embeddings if the data has another vocabulary.
        interpolate_positions: stretch the checkpoint's position table to `config.max_position_embeddings`.
        reinitialize_layers: reinitialise that many of the checkpoint's top layers, and the pooler; 0 for none.
        head: options of the task's head, which the task declares.
        attention: eager, sdpa, varlen (without padding, on CUDA) or auto. A custom attention by its registered name,
            or by class_path and init_args.
        activation_checkpointing: keep only each block's input for the backward pass: less memory, more time.
    """

    size: Literal["tiny", "mini", "small", "medium", "base", "large"] | None = None
    config: dict[str, Any] = field(default_factory=dict, metadata={"keys": BertConfig})
    pretrained: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    keep_layers: list[int] | None = None
    resize_vocabulary: bool = False
    interpolate_positions: bool = False
    reinitialize_layers: int = 0
    head: Any = field(default_factory=NoHeadSettings)
    attention: str = "auto"
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        if (self.size is None) == (self.pretrained is None):
            raise ValueError("size or model.pretrained must be set, and not both")
        require_at_least(self, 0, "reinitialize_layers")
        if self.keep_layers is not None and (not self.keep_layers or min(self.keep_layers) < 0):
            raise ValueError(f"keep_layers is {self.keep_layers}; it must name one or more blocks, by numbers from 0")
        if self.keep_layers is not None and "num_hidden_layers" in self.config:
            raise ValueError(
                "keep_layers decides the number of blocks, so model.config.num_hidden_layers must be left out"
            )
        for name in ("keep_layers", "resize_vocabulary", "interpolate_positions", "reinitialize_layers"):
            if getattr(self, name) not in (None, False, 0) and self.pretrained is None:
                raise ValueError(f"{name} does nothing without model.pretrained")
        if self.reinitialize_layers and self.weights == "random":
            raise ValueError("reinitialize_layers does nothing if model.weights is random")
        if self.interpolate_positions and "max_position_embeddings" not in self.config:
            raise ValueError("interpolate_positions needs model.config.max_position_embeddings")
        if not self.has_own_attention and self.attention not in get_args(AttentionName):
            names = (*get_args(AttentionName), *ATTENTIONS)
            raise ValueError(f"attention is {self.attention!r}; expected one of {', '.join(names)}")
        if "attention" in self.config:
            raise ValueError("config.attention cannot be set: set model.attention to name a custom attention")
        # 0 and 0.0 are one value, so they must also be one in the hash of the experiment.
        numbers = {name: float(value) for name, value in self.config.items() if _is_float_as_int(name, value)}
        object.__setattr__(self, "config", {**self.config, **numbers})
        if self.size is not None and set(self.config) <= set(ARCHITECTURE):
            try:
                # The vocabulary is not known yet.
                BertConfig.preset(self.size, **{"vocab_size": 2**31 - 1, **self.architecture})
            except ValueError as error:
                raise ValueError(f"config: {error}") from None

    @property
    def has_own_attention(self) -> bool:
        """True if `attention` names a custom attention, and not a backend of the published one."""
        return self.attention in ATTENTIONS

    @property
    def architecture(self) -> dict[str, Any]:
        """The fields of `BertConfig` that these settings set."""
        return {**self.config, **({"attention": self.attention} if self.has_own_attention else {})}

    @property
    def backend(self) -> AttentionName:
        """The way to compute the published attention."""
        return "auto" if self.has_own_attention else cast(AttentionName, self.attention)


def _is_float_as_int(name: str, value: object) -> bool:
    """Return whether a field of `BertConfig` that holds a float was given as an integer."""
    return type(value) is int and float in (_TYPES.get(name), *typing.get_args(_TYPES.get(name)))


@dataclass(frozen=True)
class TrainerSettings:
    """How the run is computed; names as in Lightning's Trainer.

    Attributes:
        max_steps: optimiser steps.
        max_epochs: the length in passes over the data instead; steps = int(samples / batch_size * epochs). If neither
            is set, a tuning gives its own.
        accelerator: auto, cpu or gpu.
        devices: processes on each node.
        num_nodes: machines.
        timeout_seconds: how long a process waits for the others before training ends. It must exceed the time that
            the first process needs for work it does alone, such as writing a checkpoint.
        strategy: ddp (each process has the whole model), fsdp (each process holds a slice of weights, gradients and
            optimiser states: less memory, more communication), or auto: ddp if there are several processes.
        tensor_parallel_size: with fsdp, how many processes share the heads and widths of each block, and so compute
            each sample together. It must divide the processes, the heads and the width of the feed-forward network.
        precision: 32 (products in TF32 on a GPU), bf16-mixed (bfloat16 autocast, weights in float32), bf16-true
            (weights in bfloat16 too; the optimiser keeps them and its moments in float32), 16-mixed (float16 autocast
            with a scaled loss, on CUDA), or auto: bf16-mixed if the device multiplies bfloat16 in hardware, otherwise
            32. A run that resumes keeps the precision it started with.
        accumulate_grad_batches: gradient accumulation: micro-batches that each process computes in turn per step.
            The batch size does not change. auto finds the smallest number with which a step fits into memory.
        gradient_clip_val: largest global norm of the gradients; 1.0 as published.
        non_finite: after a step with a loss or gradients that are not finite: stop training, or skip that step. Such
            gradients never reach the weights.
        val_check_interval: steps between validations, with one more after the last step; null validates ten times.
        log_every_n_steps: steps over which training metrics are averaged.
        log_norms: norms that are logged with them, of the last of these steps: `total` logs the global norm of the
            gradients before clipping and that of the trained parameters, `blocks` also those of the embeddings, of
            each block and of the head. They change no result.
        compile: compile the model with `torch.compile`, which takes about a minute; on a GPU and with several
            processes, each block by itself. auto does so on a GPU for 2,000 steps or more, but not with fsdp. On a
            processor, steps without it were faster.
        deterministic: use only torch's deterministic algorithms: the same bits on the same machine.
    """

    max_steps: int | None = None
    max_epochs: float | None = None
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    # Torch's default for gloo.
    timeout_seconds: int = 1800
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    tensor_parallel_size: int = 1
    precision: Literal["32", "bf16-mixed", "bf16-true", "16-mixed", "auto"] = "auto"
    accumulate_grad_batches: int | Literal["auto"] = 1
    gradient_clip_val: float | None = 1.0
    non_finite: Literal["stop", "skip"] = "stop"
    val_check_interval: int | None = None
    log_every_n_steps: int = 10
    log_norms: Literal["none", "total", "blocks"] = "total"
    compile: bool | Literal["auto"] = "auto"
    deterministic: bool = False

    def __post_init__(self) -> None:
        if (self.max_steps is None) == (self.max_epochs is None):
            raise ValueError("max_steps or trainer.max_epochs must be set, and not both")
        require_positive(self, "max_steps", "max_epochs", "gradient_clip_val", "val_check_interval")
        require_at_least(
            self, 1, "devices", "num_nodes", "tensor_parallel_size", "timeout_seconds", "log_every_n_steps"
        )
        if self.accumulate_grad_batches != "auto":
            require_at_least(self, 1, "accumulate_grad_batches")
        if self.strategy == "fsdp":
            for name, refused in (("precision", "16-mixed"), ("accumulate_grad_batches", "auto")):
                if getattr(self, name) == refused:
                    raise ValueError(f"{name} is {refused}, which cannot be combined with trainer.strategy fsdp")
            if self.tensor_parallel_size > 1 and self.compile is True:
                raise ValueError("compile is true, which cannot be combined with trainer.tensor_parallel_size")
        elif self.tensor_parallel_size > 1:
            raise ValueError("tensor_parallel_size does nothing without trainer.strategy fsdp")
        if self.num_processes % self.tensor_parallel_size:
            raise ValueError(
                f"tensor_parallel_size is {self.tensor_parallel_size}, which does not divide the "
                f"{self.num_processes} process(es) (trainer.devices times trainer.num_nodes)"
            )

    @property
    def num_processes(self) -> int:
        """Processes over all machines."""
        return self.devices * self.num_nodes

    @property
    def num_shares(self) -> int:
        """Micro-batches that are computed at the same time."""
        return self.num_processes // self.tensor_parallel_size


@dataclass(frozen=True)
class EarlyStoppingSettings:
    """When to stop because validation no longer improves.

    Attributes:
        patience: validations without improvement before training stops; null never stops early.
        min_delta: smallest change of the monitored metric (that of `checkpoint`) that counts as an improvement.
    """

    patience: int | None = None
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        require_at_least(self, 1, "patience")


@dataclass(frozen=True)
class WandbSettings:
    """Logging to Weights & Biases.

    Attributes:
        mode: `auto` goes online if there is an API key and stays offline otherwise; `disabled` does not use W&B.
        project: W&B project.
        tags: W&B tags.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "bert_lightning"
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # The rules of `wandb.Settings`. W&B itself would apply them only after the data is read.
        if self.mode == "disabled":
            return
        if not re.fullmatch(r"[^/\\#?%:]{1,128}", self.project, re.DOTALL):
            raise RefusedValue("project", repr(self.project), "have 1 to 128 characters, none of them / \\ # ? % :")
        for tag in self.tags:
            if not 1 <= len(tag) <= 64:
                raise ValueError(f"tags holds {tag!r}; a tag must have 1 to 64 characters")
