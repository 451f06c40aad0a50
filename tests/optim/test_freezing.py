"""Frozen layers get no gradient and no dropout; layers that are unfrozen later move from their step on."""

import pytest
import torch

from bert_lightning.model import BertConfig, BertForSequenceClassification
from bert_lightning.optim.freezing import FreezeSettings, drop_gradients, release_steps

LAYERS = 3
CONFIG = BertConfig(
    vocab_size=30, num_hidden_layers=LAYERS, hidden_size=16, num_attention_heads=2, intermediate_size=32
)
IDS = torch.tensor([[2, 10, 11, 12, 3]])


def frozen_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.grad is None}


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        ({"embeddings": True}, ("encoder.embeddings.",)),
        ({"num_layers": 2}, ("encoder.layers.0.", "encoder.layers.1.")),
        ({"embeddings": True, "num_layers": 1}, ("encoder.embeddings.", "encoder.layers.0.")),
        ({"everything": True}, ("encoder.",)),
    ],
)
def test_exactly_the_frozen_parameters_get_no_gradient(arguments, starts):
    model = BertForSequenceClassification(CONFIG)
    model.encoder.freeze(**arguments)
    model(IDS).sum().backward()
    assert frozen_names(model) == {name for name, _ in model.named_parameters() if name.startswith(starts)}


def test_nothing_is_saved_for_a_backward_pass_through_frozen_layers_at_the_bottom():
    model = BertForSequenceClassification(CONFIG)
    model.encoder.freeze(embeddings=True, num_layers=2)
    states = model.encoder(IDS, output_hidden_states=True).hidden_states
    assert [state.requires_grad for state in states] == [False, False, False, True]


def test_frozen_layers_have_no_dropout_also_after_an_evaluation_and_the_others_have():
    model = BertForSequenceClassification(CONFIG.replace(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5))
    model.encoder.freeze(embeddings=True, num_layers=2)
    model.eval()
    expected = model.encoder(IDS, output_hidden_states=True).hidden_states
    model.train()
    one, two = (model.encoder(IDS, output_hidden_states=True).hidden_states for _ in range(2))
    for layer in range(LAYERS):
        assert torch.equal(one[layer], expected[layer])
    assert not torch.equal(one[LAYERS], two[LAYERS])
    assert model.encoder.layers[2].training
    assert model.dropout.training


def test_freezing_more_layers_than_exist_is_an_error():
    with pytest.raises(ValueError, match="4 layers cannot be frozen: the model has 3"):
        BertForSequenceClassification(CONFIG).encoder.freeze(num_layers=4)


def test_layers_are_unfrozen_from_the_head_down_and_the_embeddings_last():
    model = BertForSequenceClassification(CONFIG)
    releases = release_steps(model, model.depths(), 10)
    expected = {"classifier.": 0, "encoder.pooler.": 10, "encoder.layers.2.": 10, "encoder.layers.1.": 20}
    expected |= {"encoder.layers.0.": 30, "encoder.embeddings.": 40}
    for name, step in releases.items():
        assert [step] == [value for start, value in expected.items() if name.startswith(start)], name
    assert releases.keys() == dict(model.named_parameters()).keys()


def test_permanently_frozen_layers_are_skipped():
    model = BertForSequenceClassification(CONFIG)
    model.encoder.freeze(num_layers=2)
    releases = release_steps(model, model.depths(), 10)
    assert {step for name, step in releases.items() if name.startswith("encoder.embeddings.")} == {20}
    assert not any(name.startswith(("encoder.layers.0.", "encoder.layers.1.")) for name in releases)


@pytest.mark.parametrize(("step", "depth"), [(0, 4), (9, 4), (10, 3), (39, 1), (40, 0), (1000, 0)])
def test_gradients_are_dropped_up_to_the_step_of_release_and_no_longer(step, depth):
    model = BertForSequenceClassification(CONFIG)
    model(IDS).sum().backward()
    drop_gradients(model, release_steps(model, model.depths(), 10), step)
    assert frozen_names(model) == {name for name, own in model.depths().items() if own < depth}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": -1}, "layers is -1; it must be at least 0"),
        ({"unfreeze_every": 0}, "unfreeze_every is 0; it must be at least 1"),
        ({"encoder": True, "layers": 2}, "layers does nothing together with freeze.encoder"),
        ({"encoder": True, "embeddings": True}, "embeddings does nothing together with freeze.encoder"),
        ({"encoder": True, "unfreeze_every": 5}, "unfreeze_every contradicts freeze.encoder"),
    ],
)
def test_contradictions_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        FreezeSettings(**settings)
