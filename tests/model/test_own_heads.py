"""Custom heads in every task model."""

import pytest
import torch

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.model import (
    BertConfig,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForRelationClassification,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from bert_lightning.model.architectures import model_of
from bert_lightning.model.headed_model import HeadedModel
from bert_lightning.model.heads import HEADS
from bert_lightning.model.layers.packing import packing_of
from bert_lightning.model.parts import ContractError

V = 40
IDS = torch.tensor([[2, 7, 8, 9, 3], [2, 11, 3, 0, 0], [2, 12, 13, 3, 0]])
MASK = (IDS > 0).long()
LABELS = {"labels": ["a", "b", "c"]}
POSITIONS = torch.tensor([[1, 3], [1, 2], [2, 1]])
VECTOR = {"name": "of-vector", "init_args": {"inputs": 64}}
# The model, a head for it, its other arguments.
CASES = {
    "sequence": (BertForSequenceClassification, "attentive", LABELS),
    "sequence from the pooled vector": (BertForSequenceClassification, "of-vector", LABELS),
    "regression": (BertForSequenceClassification, "attentive", {"labels": ["score"], "problem_type": "regression"}),
    "tokens": (BertForTokenClassification, "per-token", LABELS),
    "tokens with a CRF": (BertForTokenClassification, "per-token", {**LABELS, "crf": True}),
    "spans": (BertForQuestionAnswering, "per-token", {}),
    "spans and answerability": (BertForQuestionAnswering, "per-token", {"answerability": True}),
    "relations": (BertForRelationClassification, VECTOR, LABELS),
    "relations from all tokens": (BertForRelationClassification, "attentive", LABELS),
}
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
pytestmark = pytest.mark.usefixtures("own_parts_registered")


def small(**changes) -> BertConfig:
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    return BertConfig.preset("tiny", vocab_size=V, max_position_embeddings=16, **sizes, **changes)


def build(case, **changes):
    cls, head, arguments = CASES[case]
    torch.manual_seed(0)
    return cls(small(**changes), **arguments, head=head).double().eval()


def outputs_of(model, *inputs, **more):
    positions = {"entity_positions": POSITIONS} if isinstance(model, BertForRelationClassification) else {}
    output = model(*inputs, **{**positions, **more})
    return [output] if isinstance(output, torch.Tensor) else [each for each in output if each is not None]


def test_every_task_model_takes_a_head_of_the_users():
    named = {cls for cls, *_ in CASES.values()}
    assert named | {BertForMultipleChoice} == {
        cls for cls in all_subclasses(HeadedModel) if "architecture" in vars(cls)
    }


def all_subclasses(cls):
    return {cls, *(each for direct in cls.__subclasses__() for each in all_subclasses(direct))}


@pytest.mark.parametrize("case", CASES)
def test_a_head_is_trained_stored_and_read_back(tmp_path, case):
    model = build(case)
    assert "head" in model.deviations
    outputs = outputs_of(model, IDS, None, MASK)
    sum(output.square().sum() for output in outputs).backward()
    unused = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    # The CRF has no part in the scores.
    assert not [key for key in unused if not key.startswith("crf.")]
    top = model.config.num_hidden_layers + 1
    assert {depth for key, depth in model.depths().items() if not key.startswith("encoder.")} == {top}
    model.save_pretrained(tmp_path)
    again = model_of(read_checkpoint(tmp_path))
    assert not again.loading_report
    assert again.own_head == model.own_head
    for one, other in zip(outputs_of(again.eval(), IDS, None, MASK), outputs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("case", CASES)
def test_a_head_scores_packed_sequences_like_padded_ones(case):
    model, real = build(case), MASK.bool()
    padded, packing = outputs_of(model, IDS, None, MASK), packing_of(real.sum(1))
    positions = {"entity_positions": POSITIONS + packing.firsts[:, None]} if "relations" in case else {}
    packed = outputs_of(model, IDS[real], None, None, packing, **positions)
    for one, other in zip(packed, padded, strict=True):
        expected = other[real] if other.shape[:2] == IDS.shape and one.shape[0] == real.sum() else other
        torch.testing.assert_close(one, expected, **CLOSE)


def test_a_head_of_choices_scores_every_choice():
    torch.manual_seed(0)
    model = BertForMultipleChoice(small(), head="attentive").double().eval()
    choices = torch.stack([IDS, IDS.flip(0)], 1)
    scores = model(choices, None, (choices > 0).long())
    assert scores.shape == (3, 2)
    torch.testing.assert_close(scores[:, 1], scores[:, 0].flip(0), **CLOSE)


def test_the_attentive_head_equals_its_formula():
    model = build("sequence")
    [logits] = outputs_of(model, IDS, None, MASK)
    hidden = model.encoder(IDS, None, MASK).last_hidden_state
    for row in range(3):
        states = hidden[row, : MASK[row].sum()]
        weights = model.classifier.attention(states).softmax(0)
        torch.testing.assert_close(logits[row], model.classifier.output((weights * states).sum(0)), **CLOSE)


def test_a_head_that_ignores_the_pooled_vector_leaves_no_pooler_without_gradient():
    assert build("sequence").encoder.pooler is None
    assert build("sequence from the pooled vector").encoder.pooler is not None


def test_the_layers_of_a_head_start_like_those_of_bert():
    head = build("sequence", initializer_range=0.01).classifier
    assert 0 < head.output.weight.abs().max() <= 0.02
    assert not head.output.bias.any()


def test_a_checkpoint_with_the_linear_head_gives_a_new_own_head(tmp_path):
    torch.manual_seed(0)
    BertForSequenceClassification(small(), **LABELS).save_pretrained(tmp_path)
    model = BertForSequenceClassification.from_pretrained(tmp_path, head="attentive")
    assert model.labels == LABELS["labels"]
    assert set(model.loading_report.unused) == {
        "classifier.weight",
        "classifier.bias",
        "encoder.pooler.weight",
        "encoder.pooler.bias",
    }
    assert all(name.startswith("classifier.") for name in model.loading_report.missing)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("atentive", r"head is 'atentive'; known: .*; did you mean 'attentive'\?"),
        ("subprocess.Popen", r"head is 'subprocess.Popen', which is not registered: .*--allow-module subprocess\)"),
        ({"name": "attentive", "init_args": {"widht": 3}}, "head: attentive cannot be built with .*'widht'"),
        ({"name": "attentive", "width": 3}, "expected a name, or a mapping with name and init_args"),
        ({"init_args": {}}, "expected a name, or a mapping with name and init_args"),
        ({"name": "linear", "init_args": {"a": 1}}, "the linear head takes none"),
    ],
)
def test_a_wrong_head_is_an_error_that_says_what_is_wrong(head, message):
    with pytest.raises(ValueError, match=message):
        BertForSequenceClassification(small(), **LABELS, head=head)


def test_a_head_of_another_shape_is_refused():
    model = BertForTokenClassification(small(), **LABELS, head="attentive")
    with pytest.raises(ValueError, match=r"the head returned the shape \(3, 3\); expected \(3, 5, 3\)"):
        model(IDS, None, MASK)


@pytest.mark.parametrize(("result", "kind"), [(None, "NoneType"), (torch.ones(3, 5, 3).long(), "torch.int64")])
def test_a_head_that_returns_no_scores_is_refused(result, kind, monkeypatch):
    model = BertForTokenClassification(small(), **LABELS, head="attentive")
    monkeypatch.setattr(HEADS["attentive"], "forward", lambda *_: result)
    with pytest.raises(ContractError, match=f"^model.head: the head returned {kind}; expected a floating-point"):
        model(IDS, None, MASK)


def test_a_checkpoint_of_an_unknown_head_says_so(tmp_path):
    build("sequence").save_pretrained(tmp_path)
    del HEADS["attentive"]
    with pytest.raises(CheckpointError, match=r"head is 'attentive'; known: "):
        model_of(read_checkpoint(tmp_path))
