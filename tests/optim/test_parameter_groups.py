"""Rates and weight decay of every parameter of every model."""

import pytest
import torch
from torch import nn

from bert_lightning.model import BertConfig, BertForSequenceClassification
from bert_lightning.model.architectures import MODELS
from bert_lightning.optim.parameter_groups import ParameterGroupSettings, parameter_groups

LAYERS = 3
CONFIG = BertConfig(
    vocab_size=30, num_hidden_layers=LAYERS, hidden_size=16, num_attention_heads=2, intermediate_size=32
)


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model(request):
    with torch.device("meta"):
        return request.param(CONFIG)


def by_name(model, settings=None, learning_rate=1.0, weight_decay=0.01):
    """Return name -> (rate, decay), and check that each parameter is in exactly one group."""
    groups = parameter_groups(model, model.depths(), learning_rate, weight_decay, settings)
    found = [(id(p), group["lr"], group["weight_decay"]) for group in groups for p in group["params"]]
    given = {key: (rate, decay) for key, rate, decay in found}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(found) == len(given) == len(trained)
    return {name: given[id(parameter)] for name, parameter in trained.items()}


def test_by_default_all_have_one_rate_and_only_biases_and_layer_norms_no_decay(model):
    norms = {id(p) for module in model.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
    given = by_name(model)
    for name, parameter in model.named_parameters():
        spared = id(parameter) in norms or name.split(".")[-1] == "bias"
        assert given[name] == (1.0, 0.0 if spared else 0.01), name
    assert len(parameter_groups(model, model.depths(), 1.0, 0.01)) == 2


def test_exempt_parameters_have_their_own_groups_even_without_weight_decay(model):
    groups = parameter_groups(model, model.depths(), 1.0, 0.0)
    spared = {id(p) for group in groups if not group["decayed"] for p in group["params"]}
    assert {
        id(p)
        for group in parameter_groups(model, model.depths(), 1.0, 0.01)
        if group["weight_decay"] == 0
        for p in group["params"]
    } == spared
    assert {group["weight_decay"] for group in groups} == {0.0}


def test_only_the_matrices_of_the_blocks_get_their_own_groups_on_request(model):
    settings = ParameterGroupSettings(layer_decay=0.5)
    groups = parameter_groups(model, model.depths(), 1.0, 0.01, settings, model.hidden_matrices())
    names = {id(p): name for name, p in model.named_parameters()}
    stacked = {names[id(p)]: group["num_matrices"] for group in groups for p in group["params"]}
    inside = {name for name, p in model.named_parameters() if "layers." in name and p.ndim == 2}
    assert len(inside) == 4 * LAYERS
    assert {name for name, number in stacked.items() if number} == inside
    assert {name for name, number in stacked.items() if number == 3} == {n for n in inside if "query_key_value" in n}
    # The rates do not change.
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    assert rates == {name: rate for name, (rate, _) in by_name(model, settings).items()}
    assert not any("num_matrices" in group for group in parameter_groups(model, model.depths(), 1.0, 0.01))


def test_rates_fall_by_one_factor_per_layer_from_the_head_down(model):
    given = by_name(model, ParameterGroupSettings(layer_decay=0.5), learning_rate=8.0)
    has_head = any(not name.startswith("encoder.") for name in given) and model.prefix == ""
    expected = {"embeddings.": 0.5**LAYERS, "pooler.": 1.0, "layers.0.": 0.25, "layers.1.": 0.5, "layers.2.": 1.0}
    factor = 0.5 if has_head else 1.0  # an encoder alone ends with its top block
    for name, (rate, _) in given.items():
        body = name.removeprefix("encoder.")
        known = [value for start, value in expected.items() if body.startswith(start)]
        assert rate == pytest.approx(8.0 * (known[0] * factor if known else 1.0)), name


def test_the_head_may_have_its_own_rate():
    model = BertForSequenceClassification(CONFIG)
    given = by_name(model, ParameterGroupSettings(head_learning_rate=5.0, layer_decay=0.5))
    assert {name for name, (rate, _) in given.items() if rate == 5.0} == {"classifier.weight", "classifier.bias"}
    assert given["encoder.pooler.weight"][0] == 0.5


def test_other_patterns_exempt_other_parameters():
    model = BertForSequenceClassification(CONFIG)
    given = by_name(model, ParameterGroupSettings(no_decay=[r"^encoder\.embeddings\."]))
    spared = {name for name, (_, decay) in given.items() if decay == 0}
    assert spared == {name for name in given if name.startswith("encoder.embeddings.")}
    assert {decay for _, decay in by_name(model, ParameterGroupSettings(no_decay=[])).values()} == {0.01}


def test_a_pattern_that_matches_nothing_is_found():
    names = [name for name, _ in BertForSequenceClassification(CONFIG).named_parameters()]
    assert ParameterGroupSettings().unmatched(names) == []
    assert ParameterGroupSettings(no_decay=["LayerNorm", "bias$"]).unmatched(names) == ["LayerNorm"]


def test_the_last_layer_norm_of_pre_layer_norm_goes_with_the_top_block():
    model = BertForSequenceClassification(CONFIG.replace(pre_layer_norm=True))
    assert model.depths()["encoder.final_norm.weight"] == LAYERS
    assert model.depths()["classifier.weight"] == LAYERS + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_decay": 0.0}, "layer_decay is 0.0; it must be more than 0 and at most 1"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5"),
        ({"head_learning_rate": 0.0}, "head_learning_rate is 0.0; it must be more than 0"),
        ({"no_decay": ["("]}, r"no_decay: '\(' is not a regular expression"),
    ],
)
def test_impossible_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        ParameterGroupSettings(**change)


def test_modules_beside_a_model_train_like_its_head(model):
    beside = nn.ModuleDict({"0": nn.Linear(2, 3)})
    settings = ParameterGroupSettings(layer_decay=0.5, head_learning_rate=7.0)
    groups = parameter_groups(model, model.depths(), 1.0, 0.01, settings, beside=beside)
    given = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert given[id(beside["0"].weight)] == (7.0, 0.01)
    assert given[id(beside["0"].bias)] == (7.0, 0.0)
    assert len(given) == len(list(model.parameters())) + 2
