"""The way of a model from and to checkpoints."""

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import nn

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.huggingface import write_huggingface
from bert_lightning.checkpoints.names import CONTRADICTIONS, to_huggingface
from bert_lightning.checkpoints.provenance import Provenance
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tokenizer_files import Vocabulary
from bert_lightning.model.adaptation import interpolate_positions, resize_vocabulary
from bert_lightning.model.config import BertConfig

log = logging.getLogger(__name__)

ENCODER, POOLER = "encoder.", "encoder.pooler."
_MLM_HEAD = "mlm_head."
_EMBEDDINGS, _BLOCK = "encoder.embeddings.", re.compile(r"encoder\.layers\.(\d+)\.")
# Settings in which a model may differ from the checkpoint it takes its weights from.
_FREE = {
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "initializer_range",
    "pad_token_id",
    "pooling",
    "pooler",
}
_HOW_TO_ADAPT = {
    "vocab_size": " (resize_vocabulary fits it to another vocabulary)",
    "max_position_embeddings": " (interpolate_positions stretches the position table)",
}


class LoadingReport(NamedTuple):
    """What a checkpoint and a model did not have in common, by parameter name."""

    path: Path
    missing: list[str]
    """in the model only: drawn anew"""
    unused: list[str]
    """in the checkpoint only"""

    def __bool__(self) -> bool:
        return bool(self.missing or self.unused)

    def __str__(self) -> str:
        parts = []
        if self.missing:
            parts.append(f"drawn anew, not taken from {self.path}: {', '.join(self.missing)}")
        if self.unused:
            parts.append(f"in {self.path}, but not used: {', '.join(self.unused)}")
        return "; ".join(parts)


class PretrainedModel(nn.Module):
    """`from_pretrained` and `save_pretrained` for a module whose parameters are named as in a checkpoint.

    Attributes:
        config: the architecture.
        vocabulary: what the tokenizer of the checkpoint needs, taken along to the next one.
        provenance: where the checkpoint came from, for the card of the next one.
        loading_report: what the checkpoint and the model did not have in common; None if not from a checkpoint.
    """

    architecture: ClassVar[str]
    """transformers' class of the same shape"""
    prefix: ClassVar[str] = ""
    """What a checkpoint puts in front of this module's parameter names."""
    uses_pooled: ClassVar[bool] = True
    """Whether outputs depend on the pooled vector."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.vocabulary: Vocabulary | None = None
        self.provenance: Provenance | None = None
        self.loading_report: LoadingReport | None = None

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        config: dict[str, Any] | None = None,
        resize_vocabulary: Vocabulary | int | None = None,
        interpolate_positions: int | None = None,
        reinitialize_layers: int = 0,
        new_head: bool = False,
        **arguments: Any,
    ) -> Self:
        """Build the model that a checkpoint describes and fill it.

        What the two do not have in common is in `loading_report`, and logged as a warning.
        A checkpoint in float64 gives a model in float64, any other one in float32.

        Args:
            path: a run directory or checkpoint file of ours, a Hugging Face folder, a TensorFlow 1 checkpoint, or a
                hub name (`bert-base-uncased`, `hub:google-bert/bert-base-cased@REVISION`).
            config: fields of `BertConfig` to change, such as dropout rates.
            resize_vocabulary: fit to another vocabulary, or to a number of entries.
            interpolate_positions: stretch the position table to so many.
            reinitialize_layers: draw so many top layers, and the pooler, anew.
            new_head: draw the head anew even if the checkpoint has one.
            arguments: go to the class; what is left out is taken from the checkpoint (labels, say).

        Raises:
            CheckpointError: unreadable, without an encoder, or of another architecture.
            ValueError: an unknown field, or values that do not fit together.
        """
        checkpoint = adapted(read_checkpoint(path), resize_vocabulary, interpolate_positions)
        if new_head:
            checkpoint = without_head(checkpoint)
        model = cls.from_checkpoint(checkpoint, config_of(checkpoint).replace(**config or {}), **arguments)
        model.backbone.reinitialize_top(reinitialize_layers)
        if model.loading_report:
            log.warning("%s", model.loading_report)
        return model

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, config: BertConfig | None = None, **arguments: Any) -> Self:
        """Build and fill a model; `arguments` win over what the checkpoint says of its head.

        Raises:
            CheckpointError: the checkpoint is of another architecture, or lies about itself.
        """
        head = cls.arguments_of(checkpoint, **arguments)
        config = config or config_of(checkpoint)
        try:
            with torch.device("meta"):
                skeleton = cls(config, **head)
        except ValueError as error:
            if arguments:
                raise
            raise CheckpointError(f"{checkpoint.path}: {error}") from None
        # Check before allocating memory, because the configuration may claim wrong sizes.
        compare(skeleton, checkpoint)
        model = cls(config, **head)
        if all(tensor.dtype == torch.float64 for tensor in checkpoint.tensors.values()):
            model.double()
        fill(model, checkpoint)
        return model

    @property
    def backbone(self) -> Any:
        """The `BertEncoder`, which is the model itself where there is no head."""
        return getattr(self, "encoder", self)

    def depths(self) -> dict[str, int]:
        """How far up each parameter lies, by its name.

        0 the embeddings, 1 to L the blocks, L + 1 the head; the pooler and a last LayerNorm go with the top block.
        """
        return {name: self._depth(f"{self.prefix}{name}") for name, _ in self.named_parameters()}

    def hidden_matrices(self) -> dict[str, int]:
        """How many matrices are stacked in each matrix of the blocks, by its name: three in query, key and value."""
        return {
            name: 3 if name.endswith(".query_key_value.weight") else 1
            for name, parameter in self.named_parameters()
            if parameter.ndim == 2 and _BLOCK.match(f"{self.prefix}{name}")
        }

    def _depth(self, name: str) -> int:
        top = self.config.num_hidden_layers
        if name.startswith(_EMBEDDINGS):
            return 0
        if (block := _BLOCK.match(name)) is not None:
            return int(block[1]) + 1
        return top if name.startswith(ENCODER) else top + 1

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint, **chosen: Any) -> dict[str, Any]:
        """Return the constructor's arguments, besides the architecture, for the head that a checkpoint holds.

        The `chosen` arguments win over those of the checkpoint.
        """
        return chosen

    @property
    def head_settings(self) -> dict[str, Any]:
        """What a checkpoint must say of the head beside its weights."""
        return {}

    @property
    def deviations(self) -> list[str]:
        """The settings with which transformers' class of this architecture computes something else, or nothing."""
        config = self.config
        deviating = {
            "pre_layer_norm": config.pre_layer_norm,
            "position_embeddings": config.position_embeddings != "learned",
            "embedding_size": config.embedding_width != config.hidden_size,
            "pooling": self.uses_pooled and config.pooling != "cls",
            "pooler": self.uses_pooled and not config.pooler,
        }
        return [name for name, deviates in deviating.items() if deviates]

    def save_pretrained(self, folder: str | Path, vocabulary: Vocabulary | None = None) -> None:
        """Write a folder that transformers opens; with the tokenizer files where the vocabulary is known.

        `README.md` is a model card with what is known of where the weights came from.

        With settings that transformers' BERT does not have (`deviations`) only this package reads the folder, and
        transformers refuses it.
        """
        write_huggingface(
            self.to_checkpoint(Path(folder), vocabulary),
            self.architecture,
            Path(folder),
            published=not self.deviations,
        )

    def to_checkpoint(self, path: Path, vocabulary: Vocabulary | None = None) -> Checkpoint:
        """The model as plain values."""
        tensors = {f"{self.prefix}{name}": tensor for name, tensor in self.state_dict().items()}
        return Checkpoint(
            path,
            self.config.to_dict(),
            tensors,
            vocabulary or self.vocabulary,
            task_settings=self.head_settings,
            provenance=self.provenance,
        )


def adapted(
    checkpoint: Checkpoint, vocabulary: Vocabulary | int | None = None, num_positions: int | None = None
) -> Checkpoint:
    """The checkpoint fitted to another vocabulary and to so many positions, where they are given."""
    if vocabulary is not None:
        checkpoint = resize_vocabulary(checkpoint, vocabulary)
    if num_positions is not None:
        checkpoint = interpolate_positions(checkpoint, num_positions)
    return checkpoint


def without_head(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint's encoder alone."""
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(ENCODER)}
    return dataclasses.replace(checkpoint, tensors=tensors, task_settings={})


def config_of(checkpoint: Checkpoint) -> BertConfig:
    """The architecture that a checkpoint describes.

    Raises:
        CheckpointError: its values do not fit together.
    """
    try:
        return BertConfig.from_dict(checkpoint.config)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path}: the configuration is not usable: {error}") from None


def fill(model: PretrainedModel, checkpoint: Checkpoint) -> LoadingReport:
    """Copy a checkpoint's tensors into a model; the model remembers the report and the vocabulary.

    Raises:
        CheckpointError: as `compare`.
    """
    model.loading_report = compare(model, checkpoint)
    wanted = {f"{model.prefix}{name}" for name in model.state_dict()}
    given = {name: tensor for name, tensor in checkpoint.tensors.items() if name in wanted}
    model.load_state_dict({name.removeprefix(model.prefix): tensor for name, tensor in given.items()}, strict=False)
    model.vocabulary, model.provenance = checkpoint.vocabulary, checkpoint.provenance
    return model.loading_report


def compare(model: PretrainedModel, checkpoint: Checkpoint) -> LoadingReport:
    """Compare a checkpoint with a model, and report what they do not have in common.

    Raises:
        CheckpointError: the architectures differ, a parameter of the encoder is missing (except a whole pooler) or
            too many, a tensor has another shape, or the MLM head has two values for one parameter; the message names
            it.
    """
    _check_architecture(model, checkpoint)
    wanted = {f"{model.prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    missing = [name for name in wanted if name not in checkpoint.tensors]
    unused = [name for name in checkpoint.tensors if name not in wanted]
    has_pooler = any(name.startswith(POOLER) for name in checkpoint.tensors)
    for name in missing:
        if _is_body(name) or (has_pooler and name.startswith(POOLER)):
            raise CheckpointError(f"{checkpoint.path} has no tensor for {name}{_their_names(name)}")
    for name, (copy, original) in CONTRADICTIONS.items():
        if name in unused and any(each.startswith(_MLM_HEAD) for each in wanted):
            raise CheckpointError(
                f"{checkpoint.path}: {copy} differs from {original}, though tie_word_embeddings makes them one: "
                "false would use both"
            )
    for name in unused:
        if _is_body(name):
            raise CheckpointError(
                f"{checkpoint.path} holds {name}, for which its configuration has no place" + _their_names(name)
            )
    for name, tensor in checkpoint.tensors.items():
        if name in wanted and tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{checkpoint.path}: {name} has shape {tuple(tensor.shape)}, expected {tuple(wanted[name].shape)}"
                + (_their_names(name) if name.startswith(ENCODER) else " (new_head draws the head anew)")
            )
    return LoadingReport(checkpoint.path, missing, unused)


def _their_names(name: str) -> str:
    """Name a parameter of ours as transformers does, since most files use that name."""
    return f" (for transformers: {', '.join(to_huggingface({name: torch.empty(3, device='meta')}))})"


def _is_body(name: str) -> bool:
    return name.startswith(ENCODER) and not name.startswith(POOLER)


def _check_architecture(model: PretrainedModel, checkpoint: Checkpoint) -> None:
    theirs = config_of(checkpoint)
    for field in dataclasses.fields(BertConfig):
        wanted, found = getattr(model.config, field.name), getattr(theirs, field.name)
        if field.name not in _FREE and wanted != found:
            how = _HOW_TO_ADAPT.get(field.name, "")
            raise CheckpointError(
                f"{checkpoint.path} has another architecture: its {field.name} is {found!r}, "
                f"but the model's is {wanted!r}{how}"
            )
