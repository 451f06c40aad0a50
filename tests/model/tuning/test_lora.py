"""LoRA computes the published sum, for each of the stacked projections, and equals PEFT's."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bert_lightning.model import BertConfig, BertEncoder
from bert_lightning.model.layers.dropout import dropout
from bert_lightning.model.tuning import ChangedLinear, Lora, tune
from tests.support.tuned_models import CONFIG, EVERY_TARGET, IDS, MASK, disturb, make, num_trained


@pytest.mark.parametrize(
    ("preset", "targets", "expected"),
    [
        # One factor of 8 x H and one of H x 8 for each matrix of H x H.
        ("base", ["query", "value"], 294_912),
        ("large", ["query", "value"], 786_432),
        ("base", EVERY_TARGET, 12 * 8 * (4 * (768 + 768) + 2 * (768 + 3072))),
    ],
)
def test_lora_trains_as_many_parameters_as_published(preset, targets, expected):
    assert num_trained(Lora(targets=targets), preset) == expected


def test_lora_computes_the_closed_form_with_factors_for_each_projection():
    model = disturb(make(Lora(rank=3, alpha=6.0, targets=["query", "value", "output"]))[0].double())
    block = model.encoder.layers[1]
    hidden = torch.randn(2, 5, 16, dtype=torch.float64)
    layer, (query, value) = block.query_key_value, block.query_key_value.lora_b.chunk(2)
    expected = hidden @ layer.weight.T + layer.bias
    expected[..., :16] += 2.0 * hidden @ layer.lora_a[:3].T @ query.T
    expected[..., 32:] += 2.0 * hidden @ layer.lora_a[3:].T @ value.T
    torch.testing.assert_close(layer(hidden), expected, rtol=0, atol=1e-12)
    # The key is computed as before, to the bit.
    assert torch.equal(layer(hidden)[..., 16:32], F.linear(hidden, layer.weight, layer.bias)[..., 16:32])
    wide = torch.randn(2, 5, 24, dtype=torch.float64)
    expected = wide @ (block.output.weight + 2.0 * block.output.lora_b @ block.output.lora_a).T + block.output.bias
    torch.testing.assert_close(block.output(wide), expected, rtol=0, atol=1e-12)


def test_merging_lora_leaves_the_rows_of_other_projections_untouched():
    model, base = make(Lora(targets=["query", "value"]))
    plain = disturb(model).to_checkpoint(Path("x")).tensors
    for block in range(2):
        name = f"encoder.layers.{block}.query_key_value.weight"
        same = (plain[name] == base.state_dict()[name]).all(1)
        assert same[16:32].all()
        assert not same[:16].any()
        assert not same[32:].any()


def test_lora_factors_begin_as_in_loralib():
    torch.manual_seed(0)
    model = BertEncoder(BertConfig(vocab_size=30, num_hidden_layers=1, hidden_size=64, num_attention_heads=2))
    tune(model, Lora(rank=32, targets=EVERY_TARGET))
    for layer in model.modules():
        if isinstance(layer, ChangedLinear):
            bound = layer.in_features**-0.5
            assert layer.lora_a.abs().max() <= bound
            # Thousands of uniform numbers come within a hundredth of the bound, and spread as far as they should.
            assert layer.lora_a.abs().max() > 0.99 * bound
            assert float(layer.lora_a.detach().std() / (bound / 3**0.5)) == pytest.approx(1, abs=0.05)
            assert not layer.lora_b.any()


def test_lora_dropout_acts_on_the_input_of_the_factors_alone_and_in_training_alone():
    model = disturb(make(Lora(rank=2, alpha=2.0, dropout=0.5, targets=["intermediate"]))[0].double())
    layer = model.encoder.layers[0].intermediate
    hidden = torch.randn(4, 16, dtype=torch.float64)
    base = F.linear(hidden, layer.weight, layer.bias)
    layer.eval()
    torch.testing.assert_close(layer(hidden), base + hidden @ layer.lora_a.T @ layer.lora_b.T, rtol=0, atol=1e-12)
    layer.train()
    torch.manual_seed(5)
    dropped = layer(hidden) - base
    torch.manual_seed(5)
    kept = F.linear(F.linear(dropout(hidden, 0.5), layer.lora_a), layer.lora_b)
    torch.testing.assert_close(dropped, kept, rtol=0, atol=1e-12)
    assert not torch.equal(layer(hidden), layer(hidden))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"targets": []}, "targets is"),
        ({"targets": ["query", "query"]}, "each once"),
        ({"targets": ["pooler"]}, "attention_output"),
    ],
)
def test_impossible_settings_of_lora_name_their_field(settings, message):
    with pytest.raises(ValueError, match=message):
        Lora(**settings)


def test_a_rank_above_that_of_the_matrices_is_an_error():
    with pytest.raises(ValueError, match="rank is 17, but a matrix of 16 x 16 has at most rank 16"):
        make(Lora(rank=17))


def test_the_order_of_targets_does_not_matter():
    assert Lora(targets=["value", "query"]) == Lora(targets=["query", "value"])


@pytest.mark.slow
def test_lora_equals_peft_on_the_separate_projections_of_transformers():
    import peft
    import transformers

    from bert_lightning.checkpoints.names import to_huggingface

    tuned, base = make(Lora(rank=3, alpha=7.0, targets=EVERY_TARGET), cls=BertEncoder)
    theirs = transformers.BertModel(transformers.BertConfig(**CONFIG.to_dict())).double()
    tensors = to_huggingface({f"encoder.{name}": tensor for name, tensor in base.double().state_dict().items()})
    theirs.load_state_dict({name.removeprefix("bert."): tensor for name, tensor in tensors.items()})
    # The pooler is the only other linear layer.
    names = ["query", "key", "value", "attention.output.dense", "intermediate.dense", r"\d.output.dense"]
    pattern = rf".*encoder\..*({'|'.join(names)})"
    settings = peft.LoraConfig(r=3, lora_alpha=7.0, target_modules=pattern, lora_dropout=0.0)
    adapted = peft.get_peft_model(theirs, settings).eval()
    tuned = disturb(tuned.double()).eval()
    num_ours = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    assert num_ours == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    copy_to_peft(tuned, adapted)
    expected = adapted(IDS, attention_mask=MASK).last_hidden_state
    actual = tuned(IDS, attention_mask=MASK).last_hidden_state
    torch.testing.assert_close(actual[MASK.bool()], expected[MASK.bool()], rtol=0, atol=1e-12)


def copy_to_peft(ours, theirs):
    """Copy our factors into PEFT's modules, one for each projection."""
    single = {
        "attention_output": "attention.output.dense",
        "intermediate": "intermediate.dense",
        "output": "output.dense",
    }
    for number, block in enumerate(ours.layers):

        def put(name, a, b, number=number):
            layer = theirs.get_submodule(f"base_model.model.encoder.layer.{number}.{name}")
            layer.lora_A["default"].weight.data.copy_(a)
            layer.lora_B["default"].weight.data.copy_(b)

        fused = block.query_key_value
        for name, a, b in zip(("query", "key", "value"), fused.lora_a.chunk(3), fused.lora_b.chunk(3), strict=True):
            put(f"attention.self.{name}", a, b)
        for own, name in single.items():
            put(name, getattr(block, own).lora_a, getattr(block, own).lora_b)
