"""The way of a model from and to checkpoints."""

import logging
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from torch import nn

from bert_lightning.checkpoints.checkpoint import Checkpoint, CheckpointError
from bert_lightning.checkpoints.huggingface import write_huggingface
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.model.config import BertConfig

log = logging.getLogger(__name__)


class PretrainedModel(nn.Module):
    """`from_pretrained` and `save_pretrained` for a module whose parameters are named as in a checkpoint."""

    architecture: ClassVar[str]
    """transformers' class of the same shape"""
    prefix: ClassVar[str] = ""
    """What a checkpoint puts in front of this module's parameter names."""
    config: BertConfig

    @classmethod
    def from_pretrained(cls, path: str | Path, **arguments: Any) -> Self:
        """Build the model that a checkpoint describes and fill it.

        `path`: one of our run directories or checkpoint files, or a Hugging Face folder. A head that the
        checkpoint lacks is drawn anew, which is logged. `arguments` go to the class.

        Raises:
            CheckpointError: unreadable, without an encoder, or with tensors of another shape.
        """
        checkpoint = read_checkpoint(path)
        model = cls(config_of(checkpoint), **arguments)
        report = fill(model, checkpoint)
        if report.missing:
            log.warning("%s", report)
        return model

    def save_pretrained(
        self, folder: str | Path, vocabulary: list[str] | None = None, lowercase: bool | None = None
    ) -> None:
        """Write a folder that transformers opens; with a vocabulary also the tokenizer files."""
        tensors = {f"{self.prefix}{name}": tensor for name, tensor in self.state_dict().items()}
        checkpoint = Checkpoint(Path(folder), self.config.to_dict(), tensors, vocabulary, lowercase)
        write_huggingface(checkpoint, self.architecture, Path(folder))


def config_of(checkpoint: Checkpoint) -> BertConfig:
    """The architecture that a checkpoint describes.

    Raises:
        CheckpointError: its values do not fit together.
    """
    try:
        return BertConfig.from_dict(checkpoint.config)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{checkpoint.path}: the configuration is not usable: {error}") from None


class LoadingReport(NamedTuple):
    """What a checkpoint and a model did not have in common, by parameter name."""

    path: Path
    missing: list[str]
    """in the model only: drawn anew"""
    unused: list[str]
    """in the checkpoint only"""

    def __str__(self) -> str:
        return f"drawn anew, since {self.path} lacks them: {', '.join(self.missing)}"


def fill(model: PretrainedModel, checkpoint: Checkpoint) -> LoadingReport:
    """Copy a checkpoint's tensors into a model.

    Raises:
        CheckpointError: a parameter of the encoder is missing (but for the pooler), or a tensor has another shape.
    """
    prefix = model.prefix
    wanted = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    missing = [name for name in wanted if name not in checkpoint.tensors]
    for name in missing:
        if name.startswith("encoder.") and not name.startswith("encoder.pooler."):
            raise CheckpointError(f"{checkpoint.path} has no tensor for {name}")
    given = {name: tensor for name, tensor in checkpoint.tensors.items() if name in wanted}
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{checkpoint.path}: {name} has shape {tuple(tensor.shape)}, expected {tuple(wanted[name].shape)}"
            )
    model.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in given.items()}, strict=False)
    unused = [name for name in checkpoint.tensors if name not in wanted]
    return LoadingReport(checkpoint.path, missing, unused)
