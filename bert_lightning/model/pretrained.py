"""Loading models from checkpoints and saving them."""

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self, cast

import torch
from torch import nn

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.huggingface import write_huggingface
from bert_lightning.checkpoints.names import CONTRADICTIONS, to_huggingface
from bert_lightning.checkpoints.provenance import Provenance
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.model.adaptation import interpolate_positions, resize_vocabulary
from bert_lightning.model.config import BertConfig
from bert_lightning.model.merging import plain
from bert_lightning.model.tuning.table import described, is_mergeable, tune_as
from bert_lightning.model.tuning.tuning import Full, Tuning

if TYPE_CHECKING:
    from bert_lightning.model.encoder import BertEncoder

log = logging.getLogger(__name__)

ENCODER, POOLER = "encoder.", "encoder.pooler."
_MLM_HEAD = "mlm_head."
_EMBEDDINGS, _BLOCK = "encoder.embeddings.", re.compile(r"encoder\.layers\.(\d+)\.")
# Settings that may differ between a model and the checkpoint of its weights.
_FREE = {
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "initializer_range",
    "pad_token_id",
    "pooling",
    "pooler",
}
# Two names of one activation function; only the second has a second derivative on a processor.
_SAME_FUNCTION = ("gelu_new", "gelu_pytorch_tanh")
_HOW_TO_ADAPT = {
    "vocab_size": " (resize_vocabulary adapts it to another vocabulary)",
    "max_position_embeddings": " (interpolate_positions stretches the position table)",
}


class LoadingReport(NamedTuple):
    """Names of the parameters that only the checkpoint or only the model has."""

    path: Path
    missing: list[str]
    """only in the model; newly initialised"""
    unused: list[str]
    """only in the checkpoint"""

    def __bool__(self) -> bool:
        return bool(self.missing or self.unused)

    def __str__(self) -> str:
        sentences = []
        if self.missing:
            sentences.append(f"newly initialised, because {self.path} does not have them: {', '.join(self.missing)}")
        if self.unused:
            sentences.append(f"in {self.path}, but not used: {', '.join(self.unused)}")
        return "; ".join(sentences)


class PretrainedModel(nn.Module):
    """Base of all models: loading and saving. Parameters have the same names as in a checkpoint.

    Attributes:
        config: the architecture.
        vocabulary: the vocabulary of the checkpoint, which is saved with the model again.
        provenance: the origin of the checkpoint, for the model card of the saved model.
        loading_report: the differences between checkpoint and model; None if there was no checkpoint.
        tuning: what trains in the encoder, and what was added to it (`model/tuning`).
        added_parameters: the names of the parameters that the tuning added.
    """

    architecture: ClassVar[str]
    """transformers' class of the same shape"""
    prefix: ClassVar[str] = ""
    """the prefix of this module's parameter names in a checkpoint"""
    uses_pooled: ClassVar[bool] = True
    """True if the outputs depend on the pooled vector"""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.vocabulary: Vocabulary | None = None
        self.provenance: Provenance | None = None
        self.loading_report: LoadingReport | None = None
        self.tuning: Tuning = Full()
        self.added_parameters: frozenset[str] = frozenset()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        config: Mapping[str, object] | None = None,
        resize_vocabulary: Vocabulary | int | None = None,
        interpolate_positions: int | None = None,
        reinitialize_layers: int = 0,
        new_head: bool = False,
        base: str | Path | None = None,
        **arguments: object,
    ) -> Self:
        """Build the model that a checkpoint describes, and load its weights.

        Differences between the two are in `loading_report` and logged as a warning. A checkpoint in float64 gives a
        model in float64, any other checkpoint a model in float32.

        Args:
            path: a run directory or checkpoint file of ours, a Hugging Face folder, a TensorFlow 1 checkpoint, or a
                hub name (`bert-base-uncased`, `hub:google-bert/bert-base-cased@REVISION`).
            config: fields of `BertConfig` to change, such as dropout rates.
            resize_vocabulary: adapt the model to another vocabulary, or to a number of entries.
            interpolate_positions: stretch the position table to this number of positions.
            reinitialize_layers: reinitialise this many top layers and the pooler; 0 for none of them.
            new_head: initialise a new head even if the checkpoint has one.
            base: the base of a checkpoint that holds only what was trained, if it has moved.
            arguments: arguments of the class, such as labels; the checkpoint provides the others.

        Raises:
            CheckpointError: the checkpoint is unreadable, has no encoder, or has another architecture.
            ValueError: a field is unknown, or values do not fit together.
        """
        checkpoint = adapted(read_checkpoint(path, base), resize_vocabulary, interpolate_positions)
        if new_head:
            checkpoint = without_head(checkpoint)
        model = cls.from_checkpoint(checkpoint, config_of(checkpoint).replace(**config or {}), **arguments)
        model.backbone.reinitialize_top(reinitialize_layers)
        if model.loading_report:
            log.warning("%s", model.loading_report)
        return model

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, config: BertConfig | None = None, **arguments: object) -> Self:
        """Build a model and load its weights; `arguments` override the checkpoint's settings of its head.

        The tuning of the checkpoint is merged into the weights. If it cannot be merged, as with adapters, the model
        has the parameters that it added, and only these and the head train.

        Raises:
            CheckpointError: the checkpoint has another architecture, or its content contradicts its configuration.
        """
        checkpoint = plain(checkpoint) if is_mergeable(checkpoint) else checkpoint
        head = cls.arguments_of(checkpoint, **arguments)
        config = config or config_of(checkpoint)
        try:
            with torch.device("meta"):
                skeleton = cls(config, **head)
                tune_as(skeleton, checkpoint)
        except ValueError as error:
            if arguments:
                raise
            raise CheckpointError(f"{checkpoint.path}: {error}") from None
        # Compare before memory is allocated, because a damaged file may name huge sizes.
        compare(skeleton, checkpoint)
        model = cls(config, **head)
        tune_as(model, checkpoint)
        if all(tensor.dtype == torch.float64 for tensor in checkpoint.tensors.values()):
            model.double()
        fill(model, checkpoint)
        return model

    @property
    def backbone(self) -> "BertEncoder":
        """The encoder, which is the model itself if it has no head."""
        return cast("BertEncoder", getattr(self, "encoder", self))

    def depths(self) -> dict[str, int]:
        """Return the depth of each parameter, by name.

        The embeddings have depth 0, the blocks 1 to L, the head L + 1. The pooler and a last LayerNorm have the depth
        of the top block.
        """
        return {name: self._depth(f"{self.prefix}{name}") for name, _ in self.named_parameters()}

    def hidden_matrices(self) -> dict[str, int]:
        """Return the number of matrices stacked in each matrix of the blocks, by name; 3 for query, key and value.

        The factors that tuning adds are not among them. An optimiser that makes the update of a matrix orthogonal
        would treat each factor separately, not their product.
        """
        return {
            name: 3 if name.endswith(".query_key_value.weight") else 1
            for name, parameter in self.named_parameters()
            if parameter.ndim == 2 and _BLOCK.match(f"{self.prefix}{name}") and name.endswith(".weight")
        }

    def _depth(self, name: str) -> int:
        top = self.config.num_hidden_layers
        if name.startswith(_EMBEDDINGS):
            return 0
        if (block := _BLOCK.match(name)) is not None:
            return int(block[1]) + 1
        return top if name.startswith(ENCODER) else top + 1

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint, **chosen: object) -> dict[str, object]:
        """Return the constructor's arguments, besides the architecture, for the head that a checkpoint holds.

        The `chosen` arguments override those of the checkpoint.
        """
        return chosen

    @property
    def head_settings(self) -> dict[str, object]:
        """The settings of the head that a checkpoint stores with the weights."""
        return {}

    @property
    def deviations(self) -> list[str]:
        """The settings with which transformers' class of this architecture computes different results or fails."""
        config = self.config
        deviating = {
            "pre_layer_norm": config.pre_layer_norm,
            "norm_placement": config.norm_placement not in ("post", "pre"),
            "position_embeddings": config.position_embeddings != "learned",
            "hidden_act": "hidden_act" in config.own_parts,
            "attention": config.has_own_attention,
            "embedding_size": config.embedding_width != config.hidden_size,
            "pooling": self.uses_pooled and config.pooling != "cls",
            "pooler": self.uses_pooled and not config.pooler,
            "tuning": not self.tuning.mergeable,
        }
        return [name for name, deviates in deviating.items() if deviates]

    def save_pretrained(self, folder: str | Path, vocabulary: Vocabulary | None = None) -> None:
        """Write a folder that transformers can load, with the tokenizer files if the vocabulary is known.

        `README.md` is a model card with the known origin of the weights. With settings that transformers' BERT does
        not have (`deviations`), only this package can load the folder, and transformers refuses it.

        Raises:
            ValueError: the model was tuned in a way that cannot be merged, so no such folder can hold it.
        """
        if not self.tuning.mergeable:
            raise ValueError(
                f"the tuning {described(self.tuning)['name']} cannot be merged into the weights of a plain BERT, "
                "which is all that the folder can hold"
            )
        write_huggingface(
            self.to_checkpoint(Path(folder), vocabulary),
            self.architecture,
            Path(folder),
            published=not self.deviations,
        )

    def to_checkpoint(self, path: Path, vocabulary: Vocabulary | None = None) -> Checkpoint:
        """Return the weights and settings of the model. What tuning added is merged into the weights if possible."""
        tensors, mergeable = self.state_dict(), self.tuning.mergeable
        tensors = {f"{self.prefix}{name}": tensor for name, tensor in tensors.items()}
        return Checkpoint(
            path,
            self.config.to_dict(),
            self.tuning.merged(tensors) if mergeable else tensors,
            vocabulary or self.vocabulary,
            task_settings=self.head_settings,
            provenance=self.provenance,
            tuning=None if mergeable else described(self.tuning),
        )


def adapted(
    checkpoint: Checkpoint, vocabulary: Vocabulary | int | None = None, num_positions: int | None = None
) -> Checkpoint:
    """Adapt a checkpoint to another vocabulary and another number of positions, if they are given."""
    if vocabulary is not None:
        checkpoint = resize_vocabulary(checkpoint, vocabulary)
    if num_positions is not None:
        checkpoint = interpolate_positions(checkpoint, num_positions)
    return checkpoint


def with_blocks(checkpoint: Checkpoint, blocks: Sequence[int]) -> Checkpoint:
    """Return the checkpoint of a model that consists of some of its blocks, by their numbers from 0, in this order.

    Everything outside the blocks stays as it is. Students begin in this way in DistilBERT (Sanh et al. 2019, arXiv
    1910.01108, section 3) and PKD (Sun et al. 2019, arXiv 1908.09355, section 4.1).

    Raises:
        CheckpointError: it has no block of such a number.
    """
    number = config_of(checkpoint).num_hidden_layers
    if missing := [block for block in blocks if not 0 <= block < number]:
        raise CheckpointError(f"{checkpoint.path} has blocks 0 to {number - 1}, so there is no block {missing[0]}")
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if not _BLOCK.match(name)}
    for name, tensor in checkpoint.tensors.items():
        if (found := _BLOCK.match(name)) is not None:
            for new, old in enumerate(blocks):
                if old == int(found[1]):
                    tensors[f"encoder.layers.{new}.{name[found.end() :]}"] = tensor
    config = {**checkpoint.config, "num_hidden_layers": len(blocks)}
    return dataclasses.replace(checkpoint, config=config, tensors=tensors)


def without_head(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint without its head."""
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(ENCODER)}
    return dataclasses.replace(checkpoint, tensors=tensors, task_settings={})


def config_of(checkpoint: Checkpoint) -> BertConfig:
    """Return the architecture that a checkpoint describes.

    Raises:
        CheckpointError: its values do not fit together.
    """
    try:
        return BertConfig.from_dict(checkpoint.config)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path}: the configuration is not usable: {error}") from None


def fill(model: PretrainedModel, checkpoint: Checkpoint) -> LoadingReport:
    """Copy a checkpoint's tensors, vocabulary and provenance into a model, and store the loading report there.

    Raises:
        CheckpointError: checkpoint and model do not fit, as in `compare`.
    """
    model.loading_report = compare(model, checkpoint)
    expected = {f"{model.prefix}{name}" for name in model.state_dict()}
    shared = {name: tensor for name, tensor in checkpoint.tensors.items() if name in expected}
    model.load_state_dict({name.removeprefix(model.prefix): tensor for name, tensor in shared.items()}, strict=False)
    model.vocabulary, model.provenance = checkpoint.vocabulary, checkpoint.provenance
    return model.loading_report


def compare(model: PretrainedModel, checkpoint: Checkpoint) -> LoadingReport:
    """Compare a checkpoint with a model, and report the parameters that only one of them has.

    Raises:
        CheckpointError: the architectures differ; the encoder lacks a parameter or has one too many; a tensor has
            another shape; or the MLM head has two values for one parameter. The message names the parameter. Only the
            pooler may be missing, as a whole.
    """
    _check_architecture(model, checkpoint)
    # Checkpoints hold no counters, such as that of BatchNorm.
    expected = {
        f"{model.prefix}{name}": tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()
    }
    missing = [name for name in expected if name not in checkpoint.tensors]
    unused = [name for name in checkpoint.tensors if name not in expected]
    has_pooler = any(name.startswith(POOLER) for name in checkpoint.tensors)
    for name in missing:
        if _is_body(name) or (has_pooler and name.startswith(POOLER)):
            raise CheckpointError(f"{checkpoint.path} has no tensor for {name}{_their_names(name)}")
    for name, (copy, original) in CONTRADICTIONS.items():
        if name in unused and any(each.startswith(_MLM_HEAD) for each in expected):
            raise CheckpointError(
                f"{checkpoint.path}: {copy} differs from {original}, but "
                "tie_word_embeddings makes them the same parameter. Set it to false to use both"
            )
    for name in unused:
        if _is_body(name):
            raise CheckpointError(
                f"{checkpoint.path} has a tensor {name}, which does not exist in its configuration"
                + _their_names(name)
            )
    for name, tensor in checkpoint.tensors.items():
        if name in expected and tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{checkpoint.path}: {name} has shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
                + (_their_names(name) if name.startswith(ENCODER) else " (new_head initialises a new head)")
            )
    return LoadingReport(checkpoint.path, missing, unused)


def _their_names(name: str) -> str:
    """Return transformers' name of a parameter as a remark, because most files use that name."""
    theirs = list(to_huggingface({name: torch.empty(3, device="meta")}))
    return f" (for transformers: {', '.join(theirs)})" if theirs != [name] else ""


def _is_body(name: str) -> bool:
    return name.startswith(ENCODER) and not name.startswith(POOLER)


def _check_architecture(model: PretrainedModel, checkpoint: Checkpoint) -> None:
    stored = config_of(checkpoint)
    for field in dataclasses.fields(BertConfig):
        expected, actual = getattr(model.config, field.name), getattr(stored, field.name)
        same = expected == actual or (expected in _SAME_FUNCTION and actual in _SAME_FUNCTION)
        if field.name not in _FREE and not same:
            how = _HOW_TO_ADAPT.get(field.name, "")
            raise CheckpointError(
                f"{checkpoint.path} has another architecture: its {field.name} is {actual!r}, "
                f"but the model's is {expected!r}{how}"
            )
