"""Options of the architecture: each has its effect, is stored in the checkpoint, and is off by default."""

import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F
import transformers

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.model import (
    BertConfig,
    BertEncoder,
    BertForPreTraining,
    BertForRelationClassification,
    BertForSequenceClassification,
)
from bert_lightning.model.architectures import model_of
from bert_lightning.model.layers.packing import packing_of

V = 40
IDS = torch.tensor([[2, 7, 8, 9, 3], [2, 11, 3, 0, 0]])
MASK = (IDS > 0).long()
OPTIONS = {
    "pre_layer_norm": True,
    "pooler": False,
    "pooling": "mean",
    "position_embeddings": "sinusoidal",
    "embedding_size": 24,
    "tie_word_embeddings": False,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def small(**changes) -> BertConfig:
    return BertConfig.preset("tiny", vocab_size=V, max_position_embeddings=16, **changes)


def build(cls=BertForPreTraining, **changes):
    torch.manual_seed(0)
    return cls(small(**changes)).double().eval()


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_changes_the_model_and_survives_a_checkpoint(tmp_path, name):
    model, published = build(**{name: OPTIONS[name]}), build()
    assert getattr(small(), name) != OPTIONS[name]
    with torch.no_grad():
        different = model(IDS, None, MASK).seq_relationship_logits, published(IDS, None, MASK).seq_relationship_logits
    if name != "tie_word_embeddings":
        assert not torch.allclose(*different, rtol=1e-6)
    model.save_pretrained(tmp_path)
    again = BertForPreTraining.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in again.state_dict().items())


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in ("pooler", "pooling")])
def test_loading_into_another_architecture_is_an_error_that_names_the_setting(tmp_path, name):
    build().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=rf"another architecture: its {name} is .*, but the model's is"):
        BertForPreTraining.from_pretrained(tmp_path, config={name: OPTIONS[name]})


@pytest.mark.parametrize("name", ["pre_layer_norm", "pooler", "pooling", "position_embeddings", "embedding_size"])
def test_transformers_refuses_models_that_it_would_compute_differently(tmp_path, name):
    model = build(**{name: OPTIONS[name]})
    assert model.deviations == [name]
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "bert_lightning"
    with pytest.raises(ValueError, match="bert_lightning"):
        transformers.AutoModel.from_pretrained(tmp_path)


def test_a_checkpoint_of_the_original_form_loads_with_the_activation_that_has_a_second_derivative(tmp_path):
    model = build(hidden_act="gelu_new")
    model.save_pretrained(tmp_path)
    again = BertForPreTraining.from_pretrained(tmp_path, config={"hidden_act": "gelu_pytorch_tanh"}).double().eval()
    assert again.config.hidden_act == "gelu_pytorch_tanh"
    with torch.no_grad():
        ours, theirs = (each(IDS, None, MASK).seq_relationship_logits for each in (model, again))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    with pytest.raises(CheckpointError, match="its hidden_act is 'gelu_new'"):
        BertForPreTraining.from_pretrained(tmp_path, config={"hidden_act": "relu"})


def test_dropout_rates_and_pooling_may_differ_from_the_checkpoint(tmp_path):
    build().save_pretrained(tmp_path)
    changes = {
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.2,
        "classifier_dropout": 0.5,
        "pooling": "max",
    }
    model = BertForSequenceClassification.from_pretrained(tmp_path, config=changes)
    assert {name: getattr(model.config, name) for name in changes} == changes
    assert (model.dropout.p, model.encoder.layers[0].dropout.p, model.encoder.layers[0].attention_dropout) == (
        0.5,
        0,
        0.2,
    )
    assert BertForSequenceClassification(small(hidden_dropout_prob=0.3)).dropout.p == 0.3


def test_pre_layer_norm_equals_its_formula():
    encoder = build(BertEncoder, pre_layer_norm=True)
    hidden = encoder.embeddings(IDS[:1], None)
    for layer in encoder.layers:
        normed = layer.attention_norm(hidden)
        query, key, value = (t.view(1, 5, 2, 64).transpose(1, 2) for t in layer.query_key_value(normed).chunk(3, -1))
        context = ((query @ key.mT) / 8).softmax(-1) @ value
        hidden = hidden + layer.attention_output(context.transpose(1, 2).flatten(2))
        expanded = F.gelu(layer.intermediate(layer.output_norm(hidden)), approximate="tanh")
        hidden = hidden + layer.output(expanded)
    out = encoder(IDS[:1], output_hidden_states=True)
    torch.testing.assert_close(out.last_hidden_state, encoder.final_norm(hidden), **CLOSE)
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)


def test_pooling_is_over_real_tokens_only():
    out = {
        pooling: build(BertEncoder, pooling=pooling, pooler=False)(IDS, None, MASK)
        for pooling in ("cls", "mean", "max")
    }
    for row, length in ((0, 5), (1, 3)):
        real = out["cls"].last_hidden_state[row, :length]
        torch.testing.assert_close(out["cls"].pooler_output[row], real[0], **CLOSE)
        torch.testing.assert_close(out["mean"].pooler_output[row], real.mean(0), **CLOSE)
        torch.testing.assert_close(out["max"].pooler_output[row], real.amax(0), **CLOSE)


def test_sinusoidal_positions_equal_their_formula_and_none_are_none():
    encoder = build(BertEncoder, position_embeddings="sinusoidal")
    table = encoder.embeddings.position.table
    for position, column in ((0, 0), (1, 0), (3, 5), (15, 127)):
        angle = position / 10000 ** (2 * (column // 2) / 128)
        assert table[position, column].item() == pytest.approx(
            math.cos(angle) if column % 2 else math.sin(angle), abs=1e-6
        )
    assert not any("position" in name for name in encoder.state_dict())
    # Without positions the encoder cannot distinguish orders of the same tokens.
    bag = build(BertEncoder, position_embeddings="none")
    swapped = IDS[:1, [0, 2, 1, 3, 4]]
    torch.testing.assert_close(bag(IDS[:1]).pooler_output, bag(swapped).pooler_output, **CLOSE)
    assert not torch.allclose(encoder(IDS[:1]).pooler_output, encoder(swapped).pooler_output)


def test_factorised_embeddings_equal_wide_ones_with_the_product_as_their_matrix():
    model = build(embedding_size=24)
    embeddings = model.encoder.embeddings
    assert (embeddings.word.weight.shape, embeddings.projection.weight.shape) == ((V, 24), (128, 24))
    summed = embeddings.word.weight[IDS] + embeddings.token_type.weight[0] + embeddings.position.weight[:5]
    expected = F.linear(embeddings.layer_norm(summed), embeddings.projection.weight, embeddings.projection.bias)
    torch.testing.assert_close(embeddings(IDS, None), expected, **CLOSE)
    # The decoder is tied to the narrow embeddings.
    assert model.mlm_head.dense.weight.shape == (24, 128)
    assert model(IDS).prediction_logits.shape == (2, 5, V)


def test_an_untied_decoder_leaves_the_embeddings_alone():
    model = build(tie_word_embeddings=False)
    model(IDS).prediction_logits.sum().backward()
    assert not model.encoder.embeddings.word.weight.grad[12:].any()
    assert model.mlm_head.decoder.weight.grad[12:].any()


def test_activation_checkpointing_changes_no_gradient_with_dropout_on():
    gradients = []
    for recompute in (False, True):
        model = build().train()
        model.encoder.activation_checkpointing = recompute
        torch.manual_seed(5)
        model(IDS, None, MASK).prediction_logits.square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_top_layers_and_pooler_are_reinitialised_on_request(tmp_path):
    build().save_pretrained(tmp_path)
    old, new = BertEncoder.from_pretrained(tmp_path), BertEncoder.from_pretrained(tmp_path, reinitialize_layers=1)
    same = {name for name, tensor in old.state_dict().items() if torch.equal(tensor, new.state_dict()[name])}
    fresh = {name for name in old.state_dict() if name.startswith(("layers.1.", "pooler."))}
    # Biases and norms do not change, because they start at 0 and 1.
    assert {
        name for name in fresh if name.endswith("weight") and "norm" not in name
    } == old.state_dict().keys() - same
    with pytest.raises(ValueError, match="3 layers cannot be reinitialised: the model has 2"):
        BertEncoder.from_pretrained(tmp_path, reinitialize_layers=3)


def test_longer_positions_are_stretched_from_end_to_end(tmp_path):
    model = build()
    with torch.no_grad():
        # A straight line stays the same line, with more points.
        model.encoder.embeddings.position.weight.copy_(torch.linspace(-3, 5, 16)[:, None].expand(-1, 128))
    model.float().save_pretrained(tmp_path)
    longer = BertForPreTraining.from_pretrained(tmp_path, interpolate_positions=31)
    table = longer.encoder.embeddings.position.weight
    torch.testing.assert_close(table, torch.linspace(-3, 5, 31)[:, None].expand(-1, 128), rtol=1e-6, atol=1e-6)
    assert longer.config.max_position_embeddings == 31
    longer(torch.ones(1, 31, dtype=torch.long))
    with pytest.raises(CheckpointError, match="16 positions, which cannot be stretched to 8"):
        BertForPreTraining.from_pretrained(tmp_path, interpolate_positions=8)
    with pytest.raises(
        CheckpointError, match=r"max_position_embeddings is 16, but the model's is 32 \(interpolate_positions"
    ):
        BertForPreTraining.from_pretrained(tmp_path, config={"max_position_embeddings": 32})


def test_another_vocabulary_is_an_error_unless_resizing_is_requested(tmp_path):
    entries = tuple(f"w{number}" for number in range(V))
    model = build(tie_word_embeddings=False)
    torch.nn.init.normal_(model.mlm_head.bias)
    model.float().save_pretrained(tmp_path, Vocabulary(entries, lowercase=True))
    with pytest.raises(CheckpointError, match=rf"vocab_size is {V}, but the model's is 50 \(resize_vocabulary"):
        BertForPreTraining.from_pretrained(tmp_path, config={"vocab_size": 50})
    other = Vocabulary(("new", *reversed(entries[10:])), lowercase=True)
    resized = BertForPreTraining.from_pretrained(tmp_path, resize_vocabulary=other)
    assert resized.vocabulary == other
    assert resized.config.vocab_size == 31
    for matrix in ("encoder.embeddings.word.weight", "mlm_head.decoder.weight", "mlm_head.bias"):
        old, new = model.state_dict()[matrix], resized.state_dict()[matrix]
        assert torch.equal(new[1:], old[10:].flip(0))
    assert 0 < resized.encoder.embeddings.word.weight[0].abs().max() <= 0.04
    larger = BertForPreTraining.from_pretrained(tmp_path, resize_vocabulary=V + 8)
    assert torch.equal(larger.encoder.embeddings.word.weight[:V], model.encoder.embeddings.word.weight)
    assert larger.vocabulary.entries == entries
    smaller = BertForPreTraining.from_pretrained(tmp_path, resize_vocabulary=V - 1)
    assert smaller.vocabulary is None


def test_every_field_of_the_config_is_read_by_the_model():
    # An option that no module reads would have no effect.
    import pathlib

    import bert_lightning.model as package

    texts = [
        path.read_text()
        for path in pathlib.Path(package.__file__).parent.rglob("*.py")
        if path.name not in ("config.py", "pretrained.py")
    ]
    derived = {
        "embedding_size": "embedding_width",
        "classifier_dropout": "head_dropout_prob",
        "pre_layer_norm": "norm_placement",
        "init_args": "arguments_of",
    }
    for field in dataclasses.fields(BertConfig):
        if field.name != "pad_token_id":  # only transformers needs it; our mask marks padding
            name = derived.get(field.name, field.name)
            assert any(f"config.{name}" in text for text in texts), field.name


def test_entity_markers_are_read_at_their_positions_padded_or_packed():
    torch.manual_seed(0)
    config = BertConfig.preset("tiny", vocab_size=30)
    model = BertForRelationClassification(config, labels=["a", "b", "c"]).double().eval()
    ids = torch.randint(5, 30, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    positions = torch.tensor([[1, 7], [4, 2]])
    padded = model(ids, None, mask, entity_positions=positions)
    hidden = model.encoder(ids, None, mask).last_hidden_state
    states = torch.stack([torch.cat([hidden[n, position] for position in positions[n]]) for n in range(2)])
    torch.testing.assert_close(padded, model.classifier(states), rtol=1e-10, atol=1e-12)
    packed = model(ids[mask], packing=packing_of(mask.sum(1)), entity_positions=positions + torch.tensor([[0], [9]]))
    torch.testing.assert_close(packed, padded, rtol=1e-9, atol=1e-11)


def test_a_model_that_transformers_lacks_comes_back_from_its_folder(tmp_path):
    config = BertConfig.preset("tiny", vocab_size=30)
    model = BertForRelationClassification(config, labels=["a", "b", "c"])
    model.save_pretrained(tmp_path)
    again = model_of(read_checkpoint(tmp_path))
    assert isinstance(again, BertForRelationClassification)
    assert again.labels == ["a", "b", "c"]
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))
