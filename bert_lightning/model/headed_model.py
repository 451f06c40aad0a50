"""The bases of the task models: a linear head that can be exchanged, and named labels."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.model.config import BertConfig
from bert_lightning.model.encoder_output import EncoderOutput
from bert_lightning.model.heads import head_choice, new_head, saved_head, scores_of
from bert_lightning.model.layers.packing import Packing
from bert_lightning.model.pretrained import PretrainedModel

Head = str | Mapping[str, object] | None
"""A custom head: its name, or a mapping with its `name` and `init_args`. None means the linear layer."""


class HeadedModel(PretrainedModel):
    """Base of models whose linear head can be exchanged for a custom one (`register_head`).

    Attributes:
        own_head: the head that replaces the linear one, if any.
    """

    scores_tokens: ClassVar[bool] = False
    """True if the head scores tokens, False if it scores sequences"""
    num_outputs: int

    def __init__(self, config: BertConfig, head: Head) -> None:
        super().__init__(config)
        self.own_head = head_choice(head)

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint, **chosen: object) -> dict[str, object]:
        """Return the head of the checkpoint, if it is a custom one."""
        return {**saved_head(checkpoint), **super().arguments_of(checkpoint, **chosen)}

    @property
    def head_settings(self) -> dict[str, object]:
        """The head, if it is a custom one."""
        return {**super().head_settings, **({} if self.own_head is None else {"head": self.own_head._asdict()})}

    @property
    def deviations(self) -> list[str]:
        """The inherited deviations, and a custom head."""
        return [*super().deviations, *(["head"] if self.own_head is not None else [])]

    def _new_head(self, width: int | None = None) -> nn.Module:
        """Return the head, not yet initialised."""
        return new_head(self.own_head, self.config, self.num_outputs, width or self.config.hidden_size)

    def _scores_of_own_head(
        self,
        head: nn.Module,
        encoded: EncoderOutput,
        attention_mask: Tensor | None,
        packing: Packing | None,
        pooled: Tensor | None = None,
    ) -> Tensor:
        """Score with a custom head, from the pooled vectors or from other vectors in their place."""
        vectors = encoded.pooler_output if pooled is None else pooled
        return scores_of(
            head,
            encoded.last_hidden_state,
            vectors,
            attention_mask,
            packing,
            num_outputs=self.num_outputs,
            per_token=self.scores_tokens,
        )


class LabelledModel(HeadedModel):
    """Base of models with a head `classifier` over named labels."""

    def __init__(
        self, config: BertConfig, num_labels: int | None, labels: Sequence[str] | None, head: Head = None
    ) -> None:
        super().__init__(config, head)
        if labels is None:
            # transformers uses these names if a model has none.
            labels = [f"LABEL_{number}" for number in range(2 if num_labels is None else num_labels)]
        if isinstance(labels, str) or not labels:
            raise ValueError(f"labels are {labels!r}; expected a list of at least one name")
        if num_labels is not None and num_labels != len(labels):
            raise ValueError(f"num_labels is {num_labels}, but there are {len(labels)} labels")
        self.labels = list(labels)
        self.num_outputs = len(self.labels)

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint, **chosen: object) -> dict[str, object]:
        """Return the labels, or their number if they have no names.

        If a number of labels is chosen that equals the checkpoint's, the labels keep the names of the checkpoint.
        """
        chosen = super().arguments_of(checkpoint, **chosen)
        labels = checkpoint.task_settings.get("labels")
        head = linear_bias(checkpoint)
        if labels is not None and head is not None and len(labels) != head.numel():
            raise CheckpointError(f"{checkpoint.path} names {len(labels)} labels, but its head has {head.numel()}")
        if "labels" in chosen:
            return chosen
        if labels is not None and chosen.get("num_labels", len(labels)) == len(labels):
            return {"labels": labels, **chosen}
        if "num_labels" in chosen or head is None:
            return chosen
        return {"num_labels": head.numel(), **chosen}

    @property
    def head_settings(self) -> dict[str, object]:
        """The labels, and a custom head."""
        return {"labels": self.labels, **super().head_settings}


def linear_bias(checkpoint: Checkpoint) -> Tensor | None:
    """Return the bias (L,) of a linear head; None if the checkpoint has another head or none."""
    return None if saved_head(checkpoint) else checkpoint.tensors.get("classifier.bias")
