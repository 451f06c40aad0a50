"""The assembled models: the encoder with the heads of a task, and their way from and to checkpoints."""

import logging
from pathlib import Path
from typing import Any, NamedTuple, Self

from torch import Tensor, nn

from bert_lightning.checkpoints.checkpoint import Checkpoint, CheckpointError
from bert_lightning.checkpoints.huggingface import write_huggingface
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.model.config import BertConfig
from bert_lightning.model.encoder import BertEncoder as _Encoder
from bert_lightning.model.encoder import initialize
from bert_lightning.model.heads import MaskedLanguageModelHead

log = logging.getLogger(__name__)


class PretrainingOutput(NamedTuple):
    """Scores of the two pre-training objectives."""

    prediction_logits: Tensor
    """(B, S, V), or (M, V) when masked positions were given"""
    seq_relationship_logits: Tensor
    """(B, 2); index 0 = B follows A"""


class _FromCheckpoint:
    """`from_pretrained` and `save_pretrained` for a module whose parameters are named as in a checkpoint."""

    architecture: str
    config: BertConfig
    prefix = ""

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
        assert isinstance(self, nn.Module)
        tensors = {f"{self.prefix}{name}": tensor for name, tensor in self.state_dict().items()}
        checkpoint = Checkpoint(Path(folder), self.config.to_dict(), tensors, vocabulary, lowercase)
        write_huggingface(checkpoint, self.architecture, Path(folder))


class BertEncoder(_FromCheckpoint, _Encoder):
    __doc__ = _Encoder.__doc__
    architecture = "BertModel"
    prefix = "encoder."

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        initialize(self, config.initializer_range)


class BertForPreTraining(_FromCheckpoint, nn.Module):
    """Encoder with the masked-language-model head (tied) and the next-sentence head."""

    architecture = "BertForPreTraining"

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = BertEncoder(config)
        self.mlm_head = MaskedLanguageModelHead(config)
        self.nsp_head = nn.Linear(config.hidden_size, 2)
        initialize(self.mlm_head, config.initializer_range)
        initialize(self.nsp_head, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        masked_positions: Tensor | None = None,
    ) -> PretrainingOutput:
        """(B, S) x 3 -> (B, S, V), (B, 2).

        With `masked_positions` (M,), indices into the flattened B * S tokens, only those are scored: (M, V).
        """
        hidden, pooled = self.encoder(input_ids, token_type_ids, attention_mask)
        if masked_positions is not None:
            hidden = hidden.flatten(0, 1)[masked_positions]
        return PretrainingOutput(
            self.mlm_head(hidden, self.encoder.embeddings.word.weight), self.nsp_head(pooled)
        )


class BertForSequenceClassification(_FromCheckpoint, nn.Module):
    """Encoder with dropout and one linear layer on the pooled [CLS]; `run_classifier.py: create_model`."""

    architecture = "BertForSequenceClassification"

    def __init__(self, config: BertConfig, num_labels: int = 2, classifier_dropout: float = 0.1) -> None:
        super().__init__()
        self.config = config
        self.encoder = BertEncoder(config)
        self.dropout = nn.Dropout(classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, num_labels)
        initialize(self.classifier, config.initializer_range)

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """(B, S) x 3 -> (B, num_labels)."""
        return self.classifier(self.dropout(self.encoder(input_ids, token_type_ids, attention_mask).pooler_output))


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


def fill(model: nn.Module, checkpoint: Checkpoint) -> LoadingReport:
    """Copy a checkpoint's tensors into a model.

    Raises:
        CheckpointError: a parameter of the encoder is missing (but for the pooler), or a tensor has another shape.
    """
    prefix = BertEncoder.prefix if isinstance(model, BertEncoder) else ""
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
