"""Distillation of relations between queries, keys and values: MiniLM and MiniLMv2."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from bert_lightning.checks import require_at_least, require_positive
from bert_lightning.data.loading.batching import Batch
from bert_lightning.methods.distillation.term import Needs, Rows, in_one_type
from bert_lightning.model import BertConfig
from bert_lightning.model.recording import Recording
from bert_lightning.tasks.distributions import kl_divergence

Relation = Literal["query-key", "query-query", "key-key", "value-value"]
_PARTS = ("query", "key", "value")


@dataclass(frozen=True)
class RelationSettings:
    """The divergence of self-attention relations in the last block of the student, each with a loss of its own.

    A relation of A and B is softmax(A B^T / sqrt(D)) per relation head of width D: a distribution over the tokens of
    a sequence for each of its tokens. The loss is KL(teacher || student), averaged over heads and tokens.

    The default is MiniLMv2 (Wang et al. 2021, arXiv 2012.15828, section 3). `{of: [query-key, value-value]}`
    with the heads of the attention is MiniLM (Wang et al. 2020, arXiv 2002.10957, section 3): the attention
    distributions and the value relation. The student may have any width.

    Attributes:
        weight: factor on each of the losses.
        of: the relations that are compared: query-query, key-key, value-value, and query-key for the attention.
        heads: the number of relation heads, which must divide both hidden sizes; 48 in MiniLMv2 with a base teacher.
            null takes the attention heads, of which both models must have equally many.
        teacher_layer: the number of the teacher's block, from 0; null for the last one. MiniLMv2 takes a block in the
            upper middle of large teachers.
    """

    weight: float = 1.0
    of: list[Relation] = field(default_factory=lambda: ["query-query", "key-key", "value-value"])
    heads: int | None = None
    teacher_layer: int | None = None

    def __post_init__(self) -> None:
        require_positive(self, "weight")
        require_at_least(self, 1, "heads")
        require_at_least(self, 0, "teacher_layer")
        if not self.of or len({*self.of}) != len(self.of):
            raise ValueError(f"of is {self.of}; it must name one or more relations, each once")

    def build(self, student: BertConfig, teacher: BertConfig) -> "RelationTerm":
        """Build the losses."""
        num_blocks = teacher.num_hidden_layers
        layer = num_blocks - 1 if self.teacher_layer is None else self.teacher_layer
        if layer >= num_blocks:
            raise ValueError(f"teacher_layer is {layer}, but the teacher has blocks 0 to {num_blocks - 1}")
        heads = self.heads
        if heads is None:
            heads = student.num_attention_heads
            if heads != teacher.num_attention_heads:
                raise ValueError(
                    f"heads is null, but the student has {heads} attention heads and the teacher "
                    f"{teacher.num_attention_heads}: set a number that divides {student.hidden_size} and "
                    f"{teacher.hidden_size}"
                )
        for owner, config in (("student", student), ("teacher", teacher)):
            if config.hidden_size % heads:
                raise ValueError(
                    f"heads is {heads}, which does not divide the {owner}'s hidden size {config.hidden_size}"
                )
        return RelationTerm(self, heads, student.num_hidden_layers - 1, layer)


class RelationTerm:
    """The losses that `RelationSettings` describes.

    Args:
        settings: weight and relations.
        num_heads: the number of relation heads.
        student: the student's block.
        teacher: the teacher's block.
    """

    def __init__(self, settings: RelationSettings, num_heads: int, student: int, teacher: int) -> None:
        self.names = [f"{name.replace('-', '_')}_loss" for name in settings.of]
        self.weight = settings.weight
        self.num_heads = num_heads
        self.relations = [tuple(map(_PARTS.index, name.split("-"))) for name in settings.of]
        self.blocks = student, teacher
        self.student, self.teacher = Needs(blocks=[student]), Needs(blocks=[teacher])
        self.projections = nn.ModuleDict()

    def counts(self, batch: Batch) -> list[int]:
        """Return the number of tokens, once per relation."""
        return [batch["num_tokens"]] * len(self.relations)

    def sums(self, student: Recording, teacher: Recording, rows: Rows) -> list[Tensor]:
        """Return the divergence of each relation, averaged over heads and summed over tokens."""
        both = in_one_type(student.query_key_value[self.blocks[0]], teacher.query_key_value[self.blocks[1]])
        mine, theirs = map(rows.by_sequence, both)
        keys = rows.keys(mine.shape[1])
        possible = None if keys is None else keys[:, None, None]
        sums = []
        for one, other in self.relations:
            predicted, expected = (scaled_products(each, one, other, self.num_heads) for each in (mine, theirs))
            divergences = kl_divergence(predicted, expected, possible).mean(1)
            sums.append((divergences if keys is None else torch.where(keys, divergences, 0)).sum())
        return sums


def scaled_products(query_key_value: Tensor, one: int, other: int, num_heads: int) -> Tensor:
    """Return A B^T / sqrt(D) of (B, S, 3 H) as (B, heads, S, S), for two of the three parts.

    The softmax over the last dimension, restricted to the tokens of a sequence, is the relation.
    """
    parts = query_key_value.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    products: Tensor = (parts[one] * parts.shape[-1] ** -0.5) @ parts[other].mT
    return products
