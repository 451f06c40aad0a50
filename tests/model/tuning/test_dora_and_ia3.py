"""DoRA and IA3 compute their closed forms, and change only the rows and columns that they name."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bert_lightning.model.tuning import Dora, Ia3, Lora
from tests.support.tuned_models import CONFIG, EVERY_TARGET, disturb, make, num_trained

WIDTH, INNER = CONFIG.hidden_size, CONFIG.intermediate_size


def merged(model):
    return model.to_checkpoint(Path("x")).tensors


# -- DoRA --------------------------------------------------------------------------------------------------------


def changed_rows(layer):
    """Return |W| and W + s B A of the query's rows, of a layer with the target query alone."""
    rows, scaling = layer.weight[:WIDTH], layer.change.scaling
    return rows.norm(dim=1), rows + scaling * layer.lora_b @ layer.lora_a


def test_dora_has_the_factors_of_lora_and_one_number_per_row():
    rows = 12 * 2 * 768
    assert num_trained(Dora(), "base") == num_trained(Lora(), "base") + rows
    every = num_trained(Dora(targets=EVERY_TARGET), "base") - num_trained(Lora(targets=EVERY_TARGET), "base")
    assert every == 12 * (5 * 768 + 3072)


def test_dora_computes_the_closed_form_and_leaves_other_projections_as_they_were():
    model = disturb(make(Dora(rank=3, alpha=6.0, targets=["query"]))[0].double())
    layer = model.encoder.layers[1].query_key_value
    hidden = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    norms, rows = changed_rows(layer)
    matrix = (layer.magnitude * norms)[:, None] * rows / rows.norm(dim=1, keepdim=True)
    expected = F.linear(hidden, layer.weight, layer.bias)
    torch.testing.assert_close(layer(hidden)[..., :WIDTH], F.linear(hidden, matrix, layer.bias[:WIDTH]))
    assert torch.equal(layer(hidden)[..., WIDTH:], expected[..., WIDTH:])


def test_the_rows_of_a_matrix_with_merged_dora_have_the_magnitudes_as_their_norms():
    model, base = make(Dora(targets=["query", "value", "output"]))
    model, base = disturb(model.double()), base.double()
    plain, before = merged(model), base.state_dict()
    for number, block in enumerate(model.encoder.layers):
        for name, adapted in (("query_key_value", [0, 2]), ("output", [0])):
            key = f"encoder.layers.{number}.{name}.weight"
            rows, old = (tensors[key].unflatten(0, (-1, WIDTH)) for tensors in (plain, before))
            magnitudes = getattr(block, name).magnitude.unflatten(0, (len(adapted), -1))
            norms = old[adapted].norm(dim=-1)
            torch.testing.assert_close(rows[adapted].norm(dim=-1), magnitudes * norms, rtol=1e-12, atol=0)
            if name == "query_key_value":
                assert torch.equal(rows[1], old[1])


def test_no_gradient_of_dora_passes_through_the_norm():
    model = disturb(make(Dora(rank=3, alpha=6.0, targets=["query"]))[0].double())
    layer = model.encoder.layers[0].query_key_value
    hidden = torch.randn(4, WIDTH, dtype=torch.float64)
    layer(hidden).square().sum().backward()
    norms, rows = changed_rows(layer)
    a, b, m = (
        parameter.detach().clone().requires_grad_() for parameter in (layer.lora_a, layer.lora_b, layer.magnitude)
    )
    ratio = m * (norms / rows.norm(dim=1)).detach()
    query = F.linear(hidden, ratio[:, None] * (layer.weight[:WIDTH] + 2.0 * b @ a), layer.bias[:WIDTH])
    query.square().sum().backward()
    for ours, expected in ((layer.lora_a, a), (layer.lora_b, b), (layer.magnitude, m)):
        torch.testing.assert_close(ours.grad, expected.grad)


def test_dora_leaves_a_row_of_zeros_a_row_of_zeros_and_finite():
    model = make(Dora(targets=["query"]))[0]
    layer = model.encoder.layers[0].query_key_value
    layer.weight.data[0] = 0
    hidden = torch.randn(4, WIDTH)
    assert torch.equal(layer(hidden), F.linear(hidden, layer.weight, layer.bias))
    assert torch.equal(merged(model)["encoder.layers.0.query_key_value.weight"][0], torch.zeros(WIDTH))


# -- IA3 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "expected"), [("base", 55_296), ("large", 24 * (2 * 1024 + 4096))])
def test_ia3_trains_as_many_parameters_as_published(preset, expected):
    assert num_trained(Ia3(), preset) == expected


def test_ia3_scales_keys_values_and_inner_activations():
    block = disturb(make(Ia3())[0].double()).encoder.layers[0]
    hidden = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    projected = F.linear(hidden, block.query_key_value.weight, block.query_key_value.bias)
    query, key, value = block.query_key_value(hidden).chunk(3, -1)
    scales = block.query_key_value.ia3_scale.chunk(2)
    assert torch.equal(query, projected[..., :WIDTH])
    torch.testing.assert_close(key, projected[..., WIDTH : 2 * WIDTH] * scales[0])
    torch.testing.assert_close(value, projected[..., 2 * WIDTH :] * scales[1])
    inner = torch.randn(2, 5, INNER, dtype=torch.float64)
    expected = F.linear(inner * block.output.ia3_scale, block.output.weight, block.output.bias)
    torch.testing.assert_close(block.output(inner), expected)


def test_merging_ia3_scales_rows_of_key_and_value_and_columns_of_the_output_matrix_alone():
    model, base = make(Ia3())
    plain, before = merged(disturb(model)), base.state_dict()
    changed = {name for name in before if "encoder" in name and not torch.equal(plain[name], before[name])}
    layers = [f"encoder.layers.{number}" for number in range(CONFIG.num_hidden_layers)]
    names = ("query_key_value.weight", "query_key_value.bias", "output.weight")
    assert changed == {f"{layer}.{name}" for layer in layers for name in names}
    for layer, block in zip(layers, model.encoder.layers, strict=True):
        ratio = plain[f"{layer}.query_key_value.weight"] / before[f"{layer}.query_key_value.weight"]
        expected = torch.cat([torch.ones(WIDTH), block.query_key_value.ia3_scale.detach()])[:, None]
        torch.testing.assert_close(ratio, expected.expand_as(ratio))
        ratio = plain[f"{layer}.output.weight"] / before[f"{layer}.output.weight"]
        torch.testing.assert_close(ratio, block.output.ia3_scale.detach().expand_as(ratio))
