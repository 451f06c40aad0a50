"""Exchangeable parts of the model: the built-in ones, and a custom one of each kind."""

import json

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.model import (
    BertConfig,
    BertEncoder,
    BertForPreTraining,
    register_activation,
    register_attention,
    register_head,
    register_norm_placement,
    register_position_embedding,
)
from bert_lightning.model.architectures import model_of
from bert_lightning.model.config import PARTS
from bert_lightning.model.layers.packing import packing_of
from bert_lightning.model.pretrained import fill
from tests.support import own_parts

V = 40
IDS = torch.tensor([[2, 7, 8, 9, 3], [2, 11, 3, 0, 0], [2, 12, 13, 3, 0]])
MASK = (IDS > 0).long()
PUBLISHED = [(field, name) for field, table in PARTS.items() for name in table]
OWN = [
    ("hidden_act", "squared_relu"),
    ("hidden_act", "swish"),
    ("position_embeddings", "slope"),
    ("norm_placement", "sandwich"),
    ("norm_placement", "parallel"),
    ("attention", "window"),
    ("attention", "relative"),
    ("attention", "cumulative"),
]
ARGUMENTS = {
    "squared_relu": {"factor": 0.5},
    "swish": {"start": 2.0},
    "parallel": {"start": 0.25},
    "window": {"width": 1},
    "relative": {"max_distance": 2},
}
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
pytestmark = pytest.mark.usefixtures("own_parts_registered")


def small(**changes) -> BertConfig:
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    return BertConfig.preset("tiny", vocab_size=V, max_position_embeddings=16, **sizes, **changes)


def build(cls=BertForPreTraining, **changes):
    torch.manual_seed(0)
    return cls(small(**changes)).double().eval()


@pytest.mark.parametrize(("field", "name"), [*PUBLISHED, *OWN])
def test_every_part_computes_the_same_padded_and_packed(field, name):
    encoder = build(BertEncoder, **{field: name})
    padded = encoder(IDS, None, MASK).last_hidden_state[MASK.bool()]
    real = MASK.bool()
    packed = encoder(IDS[real], packing=packing_of(real.sum(1))).last_hidden_state
    torch.testing.assert_close(packed, padded, **CLOSE)


@pytest.mark.parametrize(("field", "name"), [*PUBLISHED, *OWN])
def test_every_part_is_not_changed_by_padding_and_other_sequences(field, name):
    encoder = build(BertEncoder, **{field: name})
    together = encoder(IDS, None, MASK).pooler_output[1]
    alone = encoder(IDS[1:2, :3]).pooler_output[0]
    torch.testing.assert_close(together, alone, **CLOSE)


@pytest.mark.parametrize(("field", "name"), OWN)
def test_every_own_part_changes_the_result_and_comes_back_from_its_folder(tmp_path, field, name):
    model, published = build(**{field: name}), build()
    with torch.no_grad():
        for parameter in model.parameters():
            # Off the initial values, so that a parameter which is not loaded is seen.
            parameter.add_(torch.rand_like(parameter) * 0.01)
    outputs = model(IDS, None, MASK).prediction_logits, published(IDS, None, MASK).prediction_logits
    assert not torch.allclose(*outputs, rtol=1e-4)
    assert model.deviations == [field]
    model.save_pretrained(tmp_path)
    again = model_of(read_checkpoint(tmp_path))
    assert isinstance(again, BertForPreTraining)
    assert again.config == model.config
    assert not again.loading_report
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in again.state_dict().items())
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "bert_lightning"
    with pytest.raises(ValueError, match="bert_lightning"):
        transformers.AutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(("field", "name"), OWN)
def test_every_parameter_of_every_own_part_is_trained_and_has_a_depth(field, name):
    model = build(**{field: name}).train()
    model(IDS, None, MASK).prediction_logits.square().sum().backward()
    without = {"pooler", "nsp_head"}
    for key, parameter in model.named_parameters():
        if not without & set(key.split(".")):
            assert parameter.grad is not None, key
    depths = model.depths()
    for key, depth in depths.items():
        if ".layers." in key:
            assert depth == int(key.split(".")[2]) + 1
        elif ".embeddings." in key:
            assert depth == 0


@pytest.mark.parametrize(("field", "name"), OWN)
def test_every_own_part_works_with_activation_checkpointing_and_dropout(field, name):
    gradients = []
    for recompute in (False, True):
        model = build(**{field: name}).train()
        model.encoder.activation_checkpointing = recompute
        torch.manual_seed(5)
        model(IDS, None, MASK).prediction_logits.square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def loss_of(model, *inputs):
    out = model(*inputs)
    return out.prediction_logits.square().sum() + out.seq_relationship_logits.square().sum()


# One of them is compiled always. Packing padded input counts tokens, which breaks the graph.
GRAPHS = [
    pytest.param(*part, marks=[pytest.mark.slow] * (part[1] != "relative")) for part in OWN if part[1] != "cumulative"
]


@pytest.mark.parametrize(("field", "name"), GRAPHS)
def test_every_own_part_is_one_compiled_graph_with_the_same_loss(field, name):
    torch._dynamo.reset()
    model = build(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **{field: name})
    expected = loss_of(model, IDS, None, MASK)
    compiled = torch.compile(loss_of, fullgraph=True, backend="aot_eager")(model, IDS, None, MASK)
    torch.testing.assert_close(compiled, expected, **CLOSE)


@pytest.mark.parametrize(("field", "name"), OWN)
def test_every_own_part_computes_in_bfloat16(field, name):
    model = build(**{field: name}).bfloat16()
    out = model(IDS, None, MASK).prediction_logits
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        assert build(**{field: name}).float()(IDS, None, MASK).prediction_logits.isfinite().all()


@pytest.mark.parametrize(("field", "name"), [part for part in OWN if part[1] in ARGUMENTS])
def test_arguments_of_an_own_part_act_and_are_stored(tmp_path, field, name):
    arguments = {field: ARGUMENTS[name]}
    model, default = build(**{field: name}, init_args=arguments), build(**{field: name})
    outputs = [each(IDS, None, MASK).prediction_logits for each in (model, default)]
    # The bias by distance starts near 0, so its reach changes little.
    assert not torch.equal(*outputs)
    model.save_pretrained(tmp_path)
    assert BertForPreTraining.from_pretrained(tmp_path).config.init_args == arguments
    with pytest.raises(ValueError, match=rf"^{field}: {name} .*'?wrong'?"):
        build(**{field: name}, init_args={field: {"wrong": 1}})


def test_the_parts_equal_their_formulas():
    block = build(BertEncoder, norm_placement="sandwich").layers[0]
    hidden = torch.rand(1, 4, 32, dtype=torch.float64)

    def attention(x):
        query, key, value = (t.view(1, 4, 4, 8).transpose(1, 2) for t in block.query_key_value(x).chunk(3, -1))
        context = F.scaled_dot_product_attention(query, key, value)
        return block.attention_output(context.transpose(1, 2).flatten(2))

    middle = hidden + block.attention_end_norm(attention(block.attention_norm(hidden)))
    expanded = F.gelu(block.intermediate(block.output_norm(middle)), approximate="tanh")
    expected = middle + block.output_end_norm(block.output(expanded))
    encoder = build(BertEncoder)
    from bert_lightning.model.layers.attention import Backend, Layout, eager

    actual, _ = block(hidden, Layout(), Backend(eager))
    torch.testing.assert_close(actual, expected, **CLOSE)
    # A window wider than the sequences is the published attention.
    wide = build(BertEncoder, attention="window", init_args={"attention": {"width": 16}})
    wide.load_state_dict(encoder.state_dict())
    one, other = (each(IDS, None, MASK).last_hidden_state[MASK.bool()] for each in (wide, encoder))
    torch.testing.assert_close(one, other, **CLOSE)
    slope = build(BertEncoder, position_embeddings="slope").embeddings
    bare = build(BertEncoder, position_embeddings="none").embeddings
    bare.load_state_dict({key: tensor for key, tensor in slope.state_dict().items() if "position" not in key})
    shifted = bare.word(IDS) + bare.token_type.weight[0] + torch.arange(5)[:, None] * slope.position.slope
    torch.testing.assert_close(slope(IDS, None), bare.layer_norm(shifted), **CLOSE)


def test_an_own_attention_may_return_its_weights():
    model = build(BertEncoder, attention="relative")
    weights = model(IDS, None, MASK, output_attentions=True).attentions
    assert [tuple(each.shape) for each in weights] == [(3, 4, 5, 5)] * 2
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(3, 4, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match="attention 'window' returns no attention weights"):
        build(BertEncoder, attention="window")(IDS, output_attentions=True)
    with pytest.raises(ValueError, match="attention 'cumulative' returns no attention weights"):
        build(BertEncoder, attention="cumulative")(IDS, output_attentions=True)


def test_a_checkpoint_whose_custom_part_has_other_arguments_is_refused(tmp_path):
    build(attention="window", init_args={"attention": {"width": 2}}).save_pretrained(tmp_path)
    model = build(attention="window", init_args={"attention": {"width": 3}})
    with pytest.raises(CheckpointError, match=r"its init_args is .*'width': 2.*, but the model's is .*'width': 3"):
        fill(model, read_checkpoint(tmp_path))


def test_an_own_attention_has_no_backend():
    model = build(BertEncoder, attention="window")
    model.attention = "sdpa"
    with pytest.raises(ValueError, match=r"attention is 'sdpa', but .* 'window' has no backends"):
        model(IDS)


def test_an_attention_of_another_shape_is_refused():
    register_attention("flat", lambda query, key, value, layout, dropout: value.flatten(2))
    with pytest.raises(ValueError, match=r"returned the shape .*, but the query has \(3, 4, 5, 8\)"):
        build(BertEncoder, attention="flat")(IDS)


def test_an_own_module_with_reset_parameters_is_initialised_by_it_again(tmp_path):
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.empty(1))

        def reset_parameters(self):
            nn.init.constant_(self.factor, 3.0)

        def forward(self, values):
            return self.factor * values

    register_activation("scale", Scale)
    model = build(hidden_act="scale")
    assert {key: p.item() for key, p in model.named_parameters() if "factor" in key} == dict.fromkeys(
        ("encoder.layers.0.activation.factor", "encoder.layers.1.activation.factor", "mlm_head.activation.factor"),
        3.0,
    )
    with torch.no_grad():
        model.encoder.layers[1].activation.factor.fill_(5.0)
    model.encoder.reinitialize_top(1)
    assert model.encoder.layers[1].activation.factor.item() == 3.0


@pytest.mark.parametrize("changes", [{"pre_layer_norm": True}, {"norm_placement": "pre"}])
def test_the_two_fields_for_the_norm_placement_agree(changes):
    config = small(**changes)
    assert (config.pre_layer_norm, config.norm_placement) == (True, "pre")
    assert BertConfig.from_dict(config.to_dict()) == config
    # Checkpoints of earlier versions have only the first field.
    old = {key: value for key, value in config.to_dict().items() if key != "norm_placement"}
    assert BertConfig.from_dict(old) == config
    for back in ({"pre_layer_norm": False}, {"norm_placement": "post"}):
        assert config.replace(**back) == small()
    assert config.replace(norm_placement="sandwich").pre_layer_norm is False
    assert small().replace(**changes) == config
    with pytest.raises(ValueError, match="contradicts norm_placement 'sandwich'"):
        small(pre_layer_norm=True, norm_placement="sandwich")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "sqared_relu"}, r"hidden_act is 'sqared_relu'; known: .*; did you mean 'squared_relu'\?"),
        ({"position_embeddings": "slop"}, r"position_embeddings is 'slop'; .*did you mean 'slope'\?"),
        ({"norm_placement": "sandwhich"}, r"norm_placement is 'sandwhich'; .*did you mean 'sandwich'\?"),
        ({"attention": "windows"}, r"attention is 'windows'; .*did you mean 'window'\?"),
        ({"attention": "os.system"}, r"attention is 'os.system', which is not registered: .*--allow-module os\)"),
        ({"hidden_act": 3}, "hidden_act is 3; expected str"),
        ({"init_args": {"hidden_act": {"a": 1}}}, "only a custom part takes arguments"),
        ({"init_args": {"hiden_act": {}}}, "unknown key 'hiden_act'; did you mean 'hidden_act'"),
        ({"init_args": {"attention": 3}}, "init_args.attention is 3; expected names and values"),
        ({"init_args": []}, r"init_args is \[\]; expected names and values"),
    ],
)
def test_a_wrong_name_or_argument_of_a_part_is_an_error_that_names_the_field(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


@pytest.mark.parametrize(
    ("register", "part", "published"),
    [
        (register_activation, own_parts.squared_relu, "gelu"),
        (register_attention, own_parts.window, "sdpa"),
        (register_attention, own_parts.window, "dot_product"),
        (register_position_embedding, own_parts.Slope, "learned"),
        (register_norm_placement, own_parts.Sandwich, "post"),
        (register_head, own_parts.Attentive, "linear"),
    ],
)
def test_a_name_belongs_to_one_part(register, part, published):
    register("new", part)
    register("new", part)
    for name in ("new", published):
        with pytest.raises(ValueError, match=rf"'{name}' is registered already: choose another name"):
            register(name, type("Other", (part,), {}) if isinstance(part, type) else lambda *_: None)


@pytest.mark.parametrize(
    ("register", "part", "message"),
    [
        (register_activation, 3, "is 3; it must be a function or a subclass of nn.Module"),
        (register_attention, dict, "it must be a function or a subclass of nn.Module"),
        (register_norm_placement, nn.Linear, "must be a subclass of BertLayer"),
        (register_position_embedding, own_parts.squared_relu, "must be a subclass of Module"),
        (register_head, own_parts.squared_relu, "must be a subclass of Module"),
    ],
)
def test_a_part_of_the_wrong_kind_is_refused(register, part, message):
    with pytest.raises(ValueError, match=message):
        register("wrong", part)


def test_a_checkpoint_of_an_unknown_part_says_so(tmp_path):
    build(attention="relative", hidden_act="swish").save_pretrained(tmp_path)
    del PARTS["attention"]["relative"]
    checkpoint = read_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"configuration is not usable: attention is 'relative'; known: "):
        model_of(checkpoint)
