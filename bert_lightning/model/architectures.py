"""All models by the name of transformers' class, and the model that a checkpoint holds."""

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
"""Name of transformers' class -> our class."""
OWN_MODELS: dict[str, type[PretrainedModel]] = {
    BertForRelationClassification.architecture: BertForRelationClassification
}
"""Classes that transformers does not have."""
# Heads -> the class of a checkpoint that names none. The first entry all of whose heads it holds is taken.
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
    """Return the model that a checkpoint holds, of any class.

    Raises:
        CheckpointError: the class is unknown, or the checkpoint cannot fill it.
    """
    name, classes = checkpoint.architecture, {**MODELS, **OWN_MODELS}
    if name not in classes and all(tensor.startswith(ENCODER) for tensor in checkpoint.tensors):
        # A custom class without additional parameters, such as Contriever.
        name = BertEncoder.architecture
    if name is not None and name not in classes:
        raise CheckpointError(f"{checkpoint.path} holds a {name}; known: {', '.join(classes)}")
    heads = {tensor.split(".")[0] for tensor in checkpoint.tensors}
    by_heads = next(cls for needed, cls in _BY_HEADS if heads.issuperset(needed))
    if by_heads is BertForSequenceClassification and "encoder.pooler.weight" not in checkpoint.tensors:
        by_heads = BertForTokenClassification
    cls = classes[name] if name is not None else by_heads
    # The released models of Hugging Face hold both heads, though they call themselves masked language models.
    if cls is BertForMaskedLM and by_heads is BertForPreTraining:
        cls = BertForPreTraining
    return cls.from_checkpoint(checkpoint)
