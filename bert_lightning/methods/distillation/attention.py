"""Distillation of attention scores, as in TinyBERT."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bert_lightning.checks import require_positive
from bert_lightning.data.loading.batching import Batch
from bert_lightning.methods.distillation.layer_maps import LayerMap, check_layer_map, pairs_of
from bert_lightning.methods.distillation.term import Needs, Rows, in_one_type
from bert_lightning.model import BertConfig
from bert_lightning.model.recording import Recording

# `task_distill.py` of TinyBERT sets scores of -100 and less to 0, in order to leave out masked keys.
_IGNORED_SCORE = -1e2


@dataclass(frozen=True)
class AttentionSettings:
    """The mean squared difference of attention scores before the softmax: TinyBERT, arXiv 1909.10351, equation 7.

    It is averaged over the keys of a sequence, heads and tokens, and summed over the compared blocks. As in the
    authors' `task_distill.py`, scores of -100 and less count as 0. The authors also average over padding. Here it is
    left out.

    Attributes:
        weight: factor on the loss.
        layers: which block of the teacher each block of the student learns from, as for hidden states.
    """

    weight: float = 1.0
    layers: LayerMap = "uniform"

    def __post_init__(self) -> None:
        require_positive(self, "weight")
        check_layer_map(self.layers)

    def build(self, student: BertConfig, teacher: BertConfig) -> "AttentionTerm":
        """Build the loss."""
        for owner, config in (("student", student), ("teacher", teacher)):
            if config.has_own_attention:
                raise ValueError(
                    f"layers compares scores, but the {owner}'s custom attention {config.attention} has none"
                )
        pairs = pairs_of(self.layers, student.num_hidden_layers, teacher.num_hidden_layers)
        if student.num_attention_heads != teacher.num_attention_heads:
            raise ValueError(
                f"layers compares heads one by one, but the student has {student.num_attention_heads} heads and the "
                f"teacher {teacher.num_attention_heads}: use distillation.relations"
            )
        return AttentionTerm(self, pairs, student.num_attention_heads)


class AttentionTerm:
    """The loss that `AttentionSettings` describes.

    Args:
        settings: the weight.
        pairs: block of the student -> block of the teacher.
        num_heads: the number of heads of both.
    """

    names = ("attention_loss",)

    def __init__(self, settings: AttentionSettings, pairs: dict[int, int], num_heads: int) -> None:
        self.weight = settings.weight
        self.pairs = pairs
        self.num_heads = num_heads
        self.student, self.teacher = Needs(blocks=pairs.keys()), Needs(blocks=pairs.values())
        self.projections = nn.ModuleDict()

    def counts(self, batch: Batch) -> list[int]:
        """Return the number of tokens."""
        return [batch["num_tokens"]]

    def sums(self, student: Recording, teacher: Recording, rows: Rows) -> list[Tensor]:
        """Return the differences, summed over tokens and compared pairs."""
        total = []
        for mine, theirs in self.pairs.items():
            both = in_one_type(student.query_key_value[mine], teacher.query_key_value[theirs])
            scores, expected = (self._scores(rows.by_sequence(each)) for each in both)
            total.append(_sum_over_rows((scores - expected).square().mean(1), rows))
        return [torch.stack(total).sum()]

    def _scores(self, query_key_value: Tensor) -> Tensor:
        """Return Q K^T / sqrt(D) of (B, S, 3 H) as (B, N, S, S), with 0 in place of very negative scores."""
        query, key, _ = query_key_value.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (query * query.shape[-1] ** -0.5) @ key.mT
        return scores.masked_fill(scores <= _IGNORED_SCORE, 0)


def _sum_over_rows(differences: Tensor, rows: Rows) -> Tensor:
    """Average (B, S, S) over the keys of each sequence, and sum over its tokens: ()."""
    keys = rows.keys(differences.shape[-1])
    if keys is None:
        return differences.mean(-1).sum()
    lengths = keys.sum(-1).clamp(min=1)[:, None]
    averages = torch.where(keys[:, None], differences, 0).sum(-1) / lengths
    return torch.where(keys, averages, 0).sum()
