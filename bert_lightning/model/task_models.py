"""Task models: the encoder with a head for sequences, tokens, spans or choices.

All of them take the same inputs as the models for pre-training (`model/bert.py`).
"""

from collections.abc import Sequence
from typing import NamedTuple, get_args

from torch import Tensor, nn

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.model.config import BertConfig
from bert_lightning.model.encoder import BertEncoder
from bert_lightning.model.headed_model import Head, HeadedModel, LabelledModel, linear_bias
from bert_lightning.model.heads import encoder_config
from bert_lightning.model.initialization import initialize
from bert_lightning.model.layers.attention import layout_of
from bert_lightning.model.layers.crf import LinearChainCRF, allowed_by_scheme
from bert_lightning.model.layers.dropout import Dropout
from bert_lightning.model.layers.packing import Packing
from bert_lightning.model.layers.pooling import pool
from bert_lightning.model.losses import ProblemType
from bert_lightning.tags import TagScheme


class BertForSequenceClassification(LabelledModel):
    """Encoder with dropout and one linear layer on the pooled sequence; `run_classifier.py: create_model`.

    `problem_type` fixes the meaning of the outputs: scores of one label out of L, scores of L independent labels, or
    L numbers (`model/losses.py`).
    """

    architecture = "BertForSequenceClassification"

    def __init__(
        self,
        config: BertConfig,
        num_labels: int | None = None,
        labels: Sequence[str] | None = None,
        problem_type: ProblemType = "single_label_classification",
        head: Head = None,
    ) -> None:
        super().__init__(config, num_labels, labels, head)
        if problem_type not in get_args(ProblemType):
            raise ValueError(f"problem_type is {problem_type!r}; known: {', '.join(get_args(ProblemType))}")
        self.problem_type = problem_type
        self.encoder = BertEncoder(encoder_config(self.own_head, config))
        self.dropout = Dropout(config.head_dropout_prob)
        self.classifier = self._new_head()
        initialize(self.classifier, config.initializer_range)

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint, **chosen: object) -> dict[str, object]:
        """Return the labels and the problem type. A single output means regression, as in transformers."""
        arguments = super().arguments_of(checkpoint, **chosen)
        head = linear_bias(checkpoint)
        problem_type = checkpoint.task_settings.get("problem_type")
        if problem_type is None and head is not None and head.numel() == 1:
            problem_type = "regression"
        return arguments if problem_type is None else {"problem_type": problem_type, **arguments}

    @property
    def head_settings(self) -> dict[str, object]:
        """The labels, a custom head and the problem type."""
        return {**super().head_settings, "problem_type": self.problem_type}

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Return scores (B, L) for three inputs of (B, S)."""
        encoded = self.encoder(input_ids, token_type_ids, attention_mask, packing)
        if self.own_head is not None:
            return self._scores_of_own_head(self.classifier, encoded, attention_mask, packing)
        scores: Tensor = self.classifier(self.dropout(encoded.pooler_output))
        return scores


class BertForTokenClassification(LabelledModel):
    """Encoder with dropout and one linear layer on every token; paper section 5.3.

    Args:
        config: the architecture; the model has no pooler.
        num_labels: L, the number of labels.
        labels: the names of the labels; one of `labels` and `num_labels` is enough.
        crf: add a linear-chain CRF over the scores, the module `crf`.
        tag_scheme: the scheme of `labels`; the CRF then forbids tag sequences that the scheme does not allow.
        head: a custom head instead of dropout and linear layer.
    """

    architecture = "BertForTokenClassification"
    uses_pooled = False
    scores_tokens = True
    crf: LinearChainCRF | None

    def __init__(
        self,
        config: BertConfig,
        num_labels: int | None = None,
        labels: Sequence[str] | None = None,
        crf: bool = False,
        tag_scheme: TagScheme | None = None,
        head: Head = None,
    ) -> None:
        super().__init__(config, num_labels, labels, head)
        if tag_scheme is not None and not crf:
            raise ValueError(f"tag_scheme is {tag_scheme!r}, but without crf it forbids nothing")
        self.tag_scheme = tag_scheme
        self.encoder = BertEncoder(config.replace(pooler=False))
        self.dropout = Dropout(config.head_dropout_prob)
        self.classifier = self._new_head()
        allowed = allowed_by_scheme(self.labels, tag_scheme) if tag_scheme is not None else None
        self.crf = LinearChainCRF(len(self.labels), allowed) if crf else None
        initialize(self.classifier, config.initializer_range)

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint, **chosen: object) -> dict[str, object]:
        """Return the labels and, if there is a CRF, its scheme."""
        arguments = super().arguments_of(checkpoint, **chosen)
        if "crf.transitions" not in checkpoint.tensors or chosen.get("crf") is False:
            return arguments
        return {"crf": True, "tag_scheme": checkpoint.task_settings.get("tag_scheme"), **arguments}

    @property
    def head_settings(self) -> dict[str, object]:
        """The labels, and the scheme of the CRF if there is one."""
        return super().head_settings | ({"tag_scheme": self.tag_scheme} if self.tag_scheme is not None else {})

    @property
    def deviations(self) -> list[str]:
        """The inherited deviations and the CRF, which transformers does not have."""
        return super().deviations + (["crf"] if self.crf is not None else [])

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Return scores (B, S, L) of the tokens of three inputs of (B, S). They are the emissions of `crf`."""
        encoded = self.encoder(input_ids, token_type_ids, attention_mask, packing)
        if self.own_head is not None:
            return self._scores_of_own_head(self.classifier, encoded, attention_mask, packing)
        scores: Tensor = self.classifier(self.dropout(encoded.last_hidden_state))
        return scores


class SpanOutput(NamedTuple):
    """Scores of the start and the end of an answer, and of whether there is one."""

    start_logits: Tensor
    """(B, S), or (T,) if packed"""
    end_logits: Tensor
    """(B, S), or (T,) if packed"""
    null_scores: Tensor
    """(B,) scores of no answer: the sum of start and end at the first real token, [CLS]; paper section 4.3"""
    answerable_logits: Tensor | None
    """(B,) scores of an answer, if the model has a head for them"""


class BertForQuestionAnswering(HeadedModel):
    """Encoder with a linear layer H x 2 on every token; `run_squad.py: create_model`.

    With `answerability`, a second linear layer on the first token scores whether the question has an answer, in
    addition to the published score at [CLS]. A custom head replaces the first of the two layers.
    """

    architecture = "BertForQuestionAnswering"
    uses_pooled = False
    scores_tokens = True
    num_outputs = 2
    answer_head: nn.Linear | None

    def __init__(self, config: BertConfig, answerability: bool = False, head: Head = None) -> None:
        super().__init__(config, head)
        self.encoder = BertEncoder(config.replace(pooler=False, pooling="cls"))
        self.span_head = self._new_head()
        self.answer_head = nn.Linear(config.hidden_size, 1) if answerability else None
        initialize(self.span_head, config.initializer_range)
        if self.answer_head is not None:
            initialize(self.answer_head, config.initializer_range)

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint, **chosen: object) -> dict[str, object]:
        """Return `answerability` if the checkpoint has a head for it, and a custom head."""
        chosen = super().arguments_of(checkpoint, **chosen)
        return {"answerability": True, **chosen} if "answer_head.weight" in checkpoint.tensors else chosen

    @property
    def deviations(self) -> list[str]:
        """The inherited deviations and the head for answerability, which transformers does not have."""
        return super().deviations + (["answerability"] if self.answer_head is not None else [])

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        packing: Packing | None = None,
    ) -> SpanOutput:
        """Return the scores for three inputs of (B, S): start and end (B, S), and no answer (B,)."""
        encoded = self.encoder(input_ids, token_type_ids, attention_mask, packing)
        hidden, first, *_ = encoded
        if self.own_head is None:
            scores = self.span_head(hidden)
        else:
            scores = self._scores_of_own_head(self.span_head, encoded, attention_mask, packing)
        at_first = pool(scores, layout_of(attention_mask, packing), "cls")
        answerable = self.answer_head(first).squeeze(-1) if self.answer_head is not None else None
        return SpanOutput(scores[..., 0], scores[..., 1], at_first.sum(-1), answerable)


class BertForMultipleChoice(HeadedModel):
    """Encoder with one score per choice, for a softmax over the choices; paper section 4.4."""

    architecture = "BertForMultipleChoice"
    num_outputs = 1

    def __init__(self, config: BertConfig, head: Head = None) -> None:
        super().__init__(config, head)
        self.encoder = BertEncoder(encoder_config(self.own_head, config))
        self.dropout = Dropout(config.head_dropout_prob)
        self.classifier = self._new_head()
        initialize(self.classifier, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Return scores (B, K) for three inputs of (B, K, S) with K choices. Packed input gives scores (n,)."""
        if packing is None and input_ids.dim() != 3:
            raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}; expected (B, K, S) for K choices")
        choices = input_ids.shape[:-1] if packing is None else None
        if choices is not None:
            input_ids = input_ids.flatten(0, 1)
            token_type_ids = token_type_ids.flatten(0, 1) if token_type_ids is not None else None
            attention_mask = attention_mask.flatten(0, 1) if attention_mask is not None else None
        encoded = self.encoder(input_ids, token_type_ids, attention_mask, packing)
        if self.own_head is not None:
            scores = self._scores_of_own_head(self.classifier, encoded, attention_mask, packing)
        else:
            scores = self.classifier(self.dropout(encoded.pooler_output))
        scores = scores.squeeze(-1)
        return scores if choices is None else scores.view(choices)


class BertForRelationClassification(LabelledModel):
    """Encoder with dropout and one linear layer 2 H x L on the hidden states of the start markers of two entities.

    Baldini Soares et al. 2019, "Matching the Blanks", section 3.2: entity markers, entity start.
    """

    architecture = "BertForRelationClassification"
    uses_pooled = False

    def __init__(
        self,
        config: BertConfig,
        num_labels: int | None = None,
        labels: Sequence[str] | None = None,
        head: Head = None,
    ) -> None:
        super().__init__(config, num_labels, labels, head)
        self.encoder = BertEncoder(config.replace(pooler=False))
        self.dropout = Dropout(config.head_dropout_prob)
        self.classifier = self._new_head(2 * config.hidden_size)
        initialize(self.classifier, config.initializer_range)

    @property
    def deviations(self) -> list[str]:
        """The inherited deviations and the entity markers, which transformers does not have."""
        return [*super().deviations, "entity markers"]

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        packing: Packing | None = None,
        *,
        entity_positions: Tensor,
    ) -> Tensor:
        """Return scores (B, L) for three inputs of (B, S) and the positions of the entities' start markers.

        `entity_positions` are (B, 2) in each sequence, or (n, 2) among packed tokens.

        Raises:
            ValueError: `entity_positions` does not hold two positions for each sequence.
        """
        expected = (input_ids.shape[0] if packing is None else packing.num_sequences, 2)
        if tuple(entity_positions.shape) != expected:
            raise ValueError(f"entity_positions is of shape {tuple(entity_positions.shape)}; expected {expected}")
        encoded = self.encoder(input_ids, token_type_ids, attention_mask, packing)
        hidden = encoded.last_hidden_state
        if packing is None:
            states = hidden.gather(1, entity_positions[:, :, None].expand(-1, -1, hidden.shape[2]))
        else:
            states = hidden[entity_positions]
        if self.own_head is not None:
            return self._scores_of_own_head(self.classifier, encoded, attention_mask, packing, states.flatten(1))
        scores: Tensor = self.classifier(self.dropout(states.flatten(1)))
        return scores
