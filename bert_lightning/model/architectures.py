"""All models by the name of transformers' class, and which of them a checkpoint holds."""

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.model.bert import BertForMaskedLM, BertForNextSentencePrediction, BertForPreTraining
from bert_lightning.model.encoder import BertEncoder
from bert_lightning.model.pretrained import ENCODER, PretrainedModel
from bert_lightning.model.task_models import (
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForRelationClassification,
    BertForSequenceClassification,
    BertForTokenClassification,
)

# transformers' class -> ours.
MODELS: dict[str, type[PretrainedModel]] = {
    cls.architecture: cls
    for cls in (
        BertForPreTraining,
        BertForMaskedLM,
        BertForNextSentencePrediction,
        BertForSequenceClassification,
        BertForTokenClassification,
        BertForQuestionAnswering,
        BertForMultipleChoice,
        BertEncoder,
    )
}
# Those that transformers does not have.
OWN_MODELS: dict[str, type[PretrainedModel]] = {
    BertForRelationClassification.architecture: BertForRelationClassification
}
# What a checkpoint that names no class is, by the heads that it holds; the first row that it has all of.
_BY_HEADS: tuple[tuple[tuple[str, ...], type[PretrainedModel]], ...] = (
    (("mlm_head", "nsp_head"), BertForPreTraining),
    (("mlm_head",), BertForMaskedLM),
    (("nsp_head",), BertForNextSentencePrediction),
    (("span_head",), BertForQuestionAnswering),
    (("crf",), BertForTokenClassification),
    (("classifier",), BertForSequenceClassification),
    ((), BertEncoder),
)


def model_of(checkpoint: Checkpoint) -> PretrainedModel:
    """The model that a checkpoint holds, whatever its class.

    Raises:
        CheckpointError: the class is none of ours, or the checkpoint cannot fill it.
    """
    name, known = checkpoint.architecture, {**MODELS, **OWN_MODELS}
    if name not in known and all(tensor.startswith(ENCODER) for tensor in checkpoint.tensors):
        # A class of someone's own, such as Contriever, that adds no parameter.
        name = BertEncoder.architecture
    if name is not None and name not in known:
        raise CheckpointError(f"{checkpoint.path} holds a {name}; known: {', '.join(known)}")
    heads = {tensor.split(".")[0] for tensor in checkpoint.tensors}
    by_heads = next(cls for needed, cls in _BY_HEADS if heads.issuperset(needed))
    if by_heads is BertForSequenceClassification and "encoder.pooler.weight" not in checkpoint.tensors:
        by_heads = BertForTokenClassification
    cls = known[name] if name is not None else by_heads
    # The released models of Hugging Face call themselves masked language models, and hold both heads.
    if cls is BertForMaskedLM and by_heads is BertForPreTraining:
        cls = BertForPreTraining
    return cls.from_checkpoint(checkpoint)
