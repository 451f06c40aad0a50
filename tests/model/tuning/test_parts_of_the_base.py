"""BitFit, layer-norm and top-layers train the parts of the base that they name, and nothing else."""

import pytest
import torch

from bert_lightning.model import BertEncoder
from bert_lightning.model.tuning import BitFit, LayerNormOnly, TopLayers, tune
from tests.support.tuned_models import CONFIG, make, num_trained, outputs


@pytest.mark.parametrize(("preset", "expected"), [("base", 102_912), ("large", 272_384)])
def test_bitfit_trains_as_many_parameters_as_published(preset, expected):
    assert num_trained(BitFit(), preset) == expected


def test_bitfit_trains_the_biases_and_the_head_alone():
    model, _ = make(BitFit())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name.endswith("bias") or name.startswith("classifier."))


def test_the_bias_of_the_keys_has_no_gradient_because_the_softmax_does_not_see_it():
    model = make(BitFit())[0].double()
    outputs(model).square().sum().backward()
    gradient = model.encoder.layers[0].query_key_value.bias.grad
    assert gradient[:16].abs().max() > 1e-3
    assert gradient[32:].abs().max() > 1e-3
    assert gradient[16:32].abs().max() < 1e-13 * gradient.abs().max()


# -- LayerNorm and top blocks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "expected"), [("base", 2 * 768 * 25), ("large", 2 * 1024 * 49)])
def test_layer_norm_trains_two_vectors_of_each_of_two_norms_per_block_and_of_the_embeddings(preset, expected):
    assert num_trained(LayerNormOnly(), preset) == expected


def test_layer_norm_trains_norms_and_the_head_alone():
    model, _ = make(LayerNormOnly())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("norm." in name or name.startswith("classifier."))


def test_layer_norm_is_refused_by_an_encoder_that_has_none():
    encoder = BertEncoder(CONFIG)
    for block in (encoder.embeddings, *encoder.layers):
        for name, _ in list(block.named_children()):
            if name.endswith("norm"):
                setattr(block, name, torch.nn.Identity())
    with pytest.raises(ValueError, match="name is layer-norm, but the encoder has no LayerNorm"):
        tune(encoder, LayerNormOnly())


@pytest.mark.parametrize(("layers", "pre_norm"), [(1, False), (2, False), (1, True)])
def test_top_layers_trains_the_blocks_from_the_top_what_follows_them_and_the_head(layers, pre_norm):
    encoder = BertEncoder(CONFIG.replace(norm_placement="pre" if pre_norm else "post"))
    tune(encoder, TopLayers(layers))
    for name, parameter in encoder.named_parameters():
        place = name.split(".")
        top = place[0] == "layers" and int(place[1]) >= CONFIG.num_hidden_layers - layers
        assert parameter.requires_grad == (top or place[0] in ("pooler", "final_norm")), name
    assert any(name.startswith("final_norm") for name, _ in encoder.named_parameters()) == pre_norm


def test_a_block_of_bert_base_and_its_pooler_have_as_many_parameters_as_derived():
    width, inner = 768, 3072
    block = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    assert num_trained(TopLayers(3), "base") == 3 * block + width * width + width


@pytest.mark.parametrize(("layers", "message"), [(0, "layers is 0"), (3, "layers is 3, but the model has 2")])
def test_an_impossible_number_of_top_layers_names_the_field(layers, message):
    with pytest.raises(ValueError, match=message):
        make(TopLayers(layers))
