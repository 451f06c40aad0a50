"""Devices of inputs. torch's meta device, on which tensors have no values, stands for a GPU."""

import numpy as np
import pytest
import torch

from bert_lightning import load
from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.data.reading.tables import Row
from bert_lightning.errors import InputError
from bert_lightning.interpretability.features import FeatureExtractor
from bert_lightning.model import BertConfig, BertEncoder
from bert_lightning.model.architectures import MODELS, OWN_MODELS
from bert_lightning.model.onnx_export import export_onnx
from bert_lightning.runs.predictor import Predictor
from bert_lightning.tasks.multiple_choice.settings import MultipleChoiceData
from bert_lightning.tasks.multiple_choice.task import MultipleChoiceTask
from bert_lightning.tasks.pretraining.task import PretrainingTask
from bert_lightning.tasks.question_answering.settings import QuestionAnsweringData
from bert_lightning.tasks.question_answering.task import QuestionAnsweringTask
from bert_lightning.tasks.relation_classification.data import with_markers
from bert_lightning.tasks.relation_classification.settings import RelationClassificationData
from bert_lightning.tasks.relation_classification.task import RelationClassificationTask
from bert_lightning.tasks.text_classification.settings import TextClassificationData
from bert_lightning.tasks.text_classification.task import TextClassificationTask
from bert_lightning.tasks.token_classification.settings import TokenClassificationData
from bert_lightning.tasks.token_classification.task import TokenClassificationTask
from bert_lightning.text.wordpiece import WordPieceTokenizer
from tests.support.task_data import RAW

NAMES, TAGS = ["animals", "nature"], ["O", "B-X", "I-X"]
PAIRS = [{"sentence": "The old cat.", "other": "The road."}, {"sentence": "The dog.", "other": ""}]
MULTIPLE = {"problem": "multi-label", "label_separator": ","}


def texts(problem_type="single_label_classification", **settings):
    data = TextClassificationData(text_column="sentence", max_seq_length=40, **settings)
    labels = NAMES[:1] if problem_type == "regression" else NAMES
    head = {"labels": labels, "problem_type": problem_type}
    return MODELS["BertForSequenceClassification"], TextClassificationTask, data, head, {"labels": labels}


def tags(**head):
    data = TokenClassificationData(max_seq_length=40, window_overlap=8)
    return (
        MODELS["BertForTokenClassification"],
        TokenClassificationTask,
        data,
        {"labels": TAGS, **head},
        {"labels": TAGS},
    )


def answers(no_answer, **head):
    data = QuestionAnsweringData(max_seq_length=40, max_question_length=12, doc_stride=8)
    return MODELS["BertForQuestionAnswering"], QuestionAnsweringTask, data, head, {"no_answer": no_answer}


KINDS = {
    "one of several classes": texts(),
    "any number of classes": texts("multi_label_classification", **MULTIPLE),
    "a number": texts("regression", problem="regression"),
    "pairs of texts": texts(text_pair_column="other"),
    "tags": tags(),
    "tags by a CRF": tags(crf=True, tag_scheme="IOB2"),
    "answers": answers(no_answer=False),
    "answers or none": answers(no_answer=True),
    "answers or none by a head": answers(no_answer=True, answerability=True),
    "choices": (MODELS["BertForMultipleChoice"], MultipleChoiceTask, MultipleChoiceData(max_seq_length=40), {}, {}),
    "relations": (
        OWN_MODELS["BertForRelationClassification"],
        RelationClassificationTask,
        RelationClassificationData(max_seq_length=40),
        {"labels": NAMES},
        {"labels": NAMES},
    ),
}


def tiny(tokenizer):
    return BertConfig(
        len(tokenizer),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=40,
    )


def task_of_kind(kind, tokenizer):
    if kind.startswith("masks"):
        alone = kind == "masks alone"
        model = MODELS["BertForMaskedLM" if alone else "BertForPreTraining"](tiny(tokenizer))
        objective = "full-sentences" if alone else "next-sentence"
        return PretrainingTask(model, model.config, tokenizer, 40, objective=objective)
    model_class, task_class, data, head, own = KINDS[kind]
    if kind == "relations":
        tokenizer = WordPieceTokenizer(with_markers(tokenizer.vocabulary))
    model = model_class(tiny(tokenizer), **head)
    return task_class(model, model.config, tokenizer, data, **own)


def watch(model):
    """Record the device of every tensor that goes into any of a model's modules."""
    devices = []

    def record(module, arguments, named):
        tensors = [each for each in (*arguments, *named.values()) if isinstance(each, torch.Tensor)]
        devices.extend(tensor.device.type for tensor in tensors)

    for module in model.modules():
        module.register_forward_pre_hook(record, with_kwargs=True)
    return devices


# A value was read that the meta device does not compute. Any other message is about a wrong device.
NO_VALUES = "Cannot copy out of meta tensor|cannot be called on meta tensors"


@pytest.mark.parametrize("kind", ["masks", "masks alone", *KINDS])
def test_every_task_predicts_on_the_device_of_its_model(kind, tokenizer):
    task = task_of_kind(kind, tokenizer)
    rows = PAIRS if kind == "pairs of texts" else RAW[task.name]
    expected = Predictor(task_of_kind(kind, tokenizer), "cpu")
    assert len(expected.predict(rows)) == len(rows)
    predictor = Predictor(task, "meta")
    devices = watch(predictor.task.model)
    with pytest.raises((RuntimeError, NotImplementedError), match=NO_VALUES):
        predictor.predict(rows)
    assert devices
    assert set(devices) == {"meta"}


def test_a_crf_decodes_on_the_device_of_its_model(tokenizer, monkeypatch):
    task = task_of_kind("tags by a CRF", tokenizer).to("meta")
    devices = []

    def decode(emissions, mask):
        devices.extend([emissions.device.type, mask.device.type])
        return torch.zeros(mask.shape, dtype=torch.long)

    monkeypatch.setattr(task.model.crf, "decode", decode)
    split = task.encode([task.example_of(Row("", RAW[task.name][0]))])
    assert task.tags(split, [np.zeros((5, 3), dtype=np.float32)]) == [["O"] * 5]
    assert devices == ["meta", "meta"]


def test_a_saved_run_is_loaded_onto_a_device(classifier):
    predictor = load(classifier, device="meta")
    assert {parameter.device.type for parameter in predictor.task.model.parameters()} == {"meta"}
    devices = watch(predictor.task.model)
    with pytest.raises(NotImplementedError, match=NO_VALUES):
        predictor.predict(["The cat."])
    assert set(devices) == {"meta"}


def test_features_are_computed_on_the_device_of_the_encoder(tokenizer, tmp_path):
    encoder = BertEncoder(tiny(tokenizer))
    checkpoint: Checkpoint = encoder.to_checkpoint(tmp_path, tokenizer.vocabulary)
    extractor = FeatureExtractor(checkpoint, "meta")
    devices = watch(extractor.encoder)
    with pytest.raises(NotImplementedError, match=NO_VALUES):
        list(extractor.extract(["The cat.", "The old dog sees."]))
    assert set(devices) == {"meta"}


@pytest.mark.parametrize("device", ["graphics", "cuda:77", "mps:9", "cpu:x"])
def test_a_device_that_cannot_be_used_is_named(tokenizer, device):
    with pytest.raises(InputError, match=f"device '{device}' cannot be used: "):
        Predictor(task_of_kind("tags", tokenizer), device)


def test_an_onnx_file_is_traced_on_the_device_of_the_model(tokenizer, tmp_path, monkeypatch):
    class Traced(Exception):
        """The model was traced."""

    def trace(model, inputs, **_):
        model(*inputs)
        raise Traced

    monkeypatch.setattr(torch.onnx, "export", trace)
    for architecture, cls in MODELS.items():
        model = cls(tiny(tokenizer)).to("meta")
        devices = watch(model)
        with pytest.raises(Traced):
            export_onnx(model, tmp_path / f"{architecture}.onnx")
        assert set(devices) == {"meta"}
