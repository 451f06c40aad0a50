"""Every tuning begins as the base model bit for bit, trains only what it should, and merges into a plain model."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bert_lightning.checkpoints.checkpoint import Base, Checkpoint
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.model import BertConfig, BertEncoder, BertForMaskedLM, BertForSequenceClassification
from bert_lightning.model.layers.dropout import dropout
from bert_lightning.model.tuning import TUNINGS, BitFit, ChangedLinear, Full, Lora, described, merged, tune

CONFIG = BertConfig(
    vocab_size=30,
    num_hidden_layers=2,
    hidden_size=16,
    num_attention_heads=2,
    intermediate_size=24,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
IDS = torch.tensor([[2, 10, 11, 12, 3], [2, 13, 3, 0, 0]])
MASK = (IDS != 0).long()
ALL = ["query", "key", "value", "attention_output", "intermediate", "output"]


def make(tuning, seed=0, cls=BertForSequenceClassification):
    """Return a tuned model and its base, with the same weights."""
    torch.manual_seed(seed)
    base = cls(CONFIG)
    # Biases begin as zeros and LayerNorm as the identity, which would hide mistakes.
    for parameter in base.parameters():
        parameter.data.normal_(std=0.3)
    model = copy.deepcopy(base)
    tune(model, tuning)
    return model, base


def disturb(model):
    """Change every trained parameter, as training does."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1
    return model


def outputs(model):
    return model(IDS, attention_mask=MASK)


@pytest.fixture(params=[(name, {}) for name in TUNINGS] + [("lora", {"targets": ALL, "rank": 3, "alpha": 5.0})])
def tuning(request):
    name, settings = request.param
    return TUNINGS[name](**settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("training", [False, True])
def test_every_tuning_begins_as_the_base_bit_for_bit(tuning, dtype, training):
    model, base = make(tuning)
    models = [each.to(dtype).train(training) for each in (model, base)]
    assert torch.equal(outputs(models[0]), outputs(models[1]))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(outputs(models[0]), outputs(models[1]))


def test_every_tuning_keeps_the_names_and_values_of_the_base(tuning):
    model, base = make(tuning)
    tensors = model.state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in base.state_dict().items())
    depths = model.depths()
    assert depths.keys() == dict(model.named_parameters()).keys()
    for name, depth in depths.items():
        assert "encoder.layers." not in name or depth == int(name.split(".")[2]) + 1


def test_every_tuning_trains_the_head_and_parameters_that_the_base_lacks(tuning):
    torch.manual_seed(0)
    model = BertForSequenceClassification(CONFIG)
    tune(model, tuning, new=["encoder.pooler.weight", "encoder.pooler.bias"])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained >= {"classifier.weight", "classifier.bias", "encoder.pooler.weight", "encoder.pooler.bias"}


def test_a_step_of_every_tuning_leaves_frozen_parameters_as_they_were_and_moves_all_others(tuning):
    model, base = make(tuning)
    optimizer = torch.optim.SGD(model.parameters(), 1.0, weight_decay=0.5)
    for _ in range(3):
        outputs(model).square().sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    before = base.state_dict()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(parameter, before[name]), name
        elif name in before:
            assert not torch.equal(parameter, before[name]), name
        else:
            assert parameter.abs().sum() > 0, name


def test_every_tuning_merges_into_a_plain_model_that_computes_the_same(tuning):
    model = disturb(make(tuning)[0].double())
    state = copy.deepcopy(model.state_dict())
    plain = BertForSequenceClassification(CONFIG).double()
    plain.load_state_dict(model.to_checkpoint(Path("x")).tensors)
    torch.testing.assert_close(outputs(plain), outputs(model), rtol=0, atol=1e-12)
    # Merging changes no tensor, so what is stored stays the base bit for bit.
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_checkpoint_of_every_tuning_is_rebuilt_exactly_or_merged(tuning):
    model = disturb(make(tuning)[0])
    tensors = model.state_dict()
    saved = Checkpoint(Path("x"), CONFIG.to_dict(), tensors, tuning=described(tuning))
    again = BertForSequenceClassification.from_checkpoint(saved)
    assert isinstance(again.tuning, Full)
    torch.testing.assert_close(outputs(again), outputs(model), rtol=0, atol=1e-5)
    assert not any("lora" in name for name in merged(saved).tensors)


def test_a_merged_checkpoint_names_no_changed_tensor_as_one_of_its_base(tuning):
    tensors = disturb(make(tuning)[0]).state_dict()
    base = Base("x", "x", "0" * 64, "float32", [name for name in tensors if "lora" not in name])
    whole = merged(Checkpoint(Path("x"), CONFIG.to_dict(), tensors, tuning=described(tuning), base=base))
    unchanged = [name for name in base.names if torch.equal(whole.tensors[name], tensors[name])]
    assert whole.base.names == unchanged
    assert (len(unchanged) < len(base.names)) == isinstance(tuning, Lora)


def test_an_unknown_tuning_or_unusable_settings_in_a_checkpoint_are_one_error():
    for tuning, message in (({"name": "mine.Own"}, "mine.Own"), ({"name": "lora", "rank": 0}, "rank is 0")):
        with pytest.raises(CheckpointError, match=message):
            merged(Checkpoint(Path("x"), {}, {}, tuning=tuning))


# -- LoRA --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "targets", "expected"),
    [
        # One factor of 8 x H and one of H x 8 for each matrix of H x H.
        ("base", ["query", "value"], 294_912),
        ("large", ["query", "value"], 786_432),
        ("base", ALL, 12 * 8 * (4 * (768 + 768) + 2 * (768 + 3072))),
    ],
)
def test_lora_trains_as_many_parameters_as_published(preset, targets, expected):
    with torch.device("meta"):
        model = BertEncoder(BertConfig.preset(preset))
        tune(model, Lora(targets=targets))
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == expected


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
    tune(model, Lora(rank=32, targets=ALL))
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


def test_lora_on_a_tied_word_matrix_of_the_mlm_head_leaves_it_frozen_and_tied():
    model, base = make(Lora(), cls=BertForMaskedLM)
    outputs(model).square().sum().backward()
    assert model.encoder.embeddings.word.weight.grad is None
    assert model.mlm_head.dense.weight.grad is not None
    assert torch.equal(outputs(model), outputs(base))


def test_activation_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = disturb(make(Lora(targets=ALL, dropout=0.3))[0]).train()
        model.encoder.activation_checkpointing = checkpointing
        torch.manual_seed(1)
        outputs(model).square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


@pytest.mark.slow
def test_a_compiled_lora_model_computes_what_the_plain_one_does():
    model = disturb(make(Lora(targets=ALL))[0]).double()
    expected = outputs(model)
    compiled = torch.compile(model, backend="aot_eager", dynamic=True, fullgraph=False)
    torch.testing.assert_close(compiled(IDS, attention_mask=MASK), expected, rtol=0, atol=1e-12)


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


def test_lora_equals_peft_on_the_separate_projections_of_transformers():
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    from bert_lightning.checkpoints.names import to_huggingface

    tuned, base = make(Lora(rank=3, alpha=7.0, targets=ALL), cls=BertEncoder)
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


# -- BitFit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "expected"), [("base", 102_912), ("large", 272_384)])
def test_bitfit_trains_as_many_parameters_as_published(preset, expected):
    with torch.device("meta"):
        model = BertEncoder(BertConfig.preset(preset))
        tune(model, BitFit())
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == expected


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
