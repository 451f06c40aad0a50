"""Every tuning begins as it should, trains only what it should, computes every layout alike, and is saved whole."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch

from bert_lightning.checkpoints.checkpoint import Base, Checkpoint
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.model import BertEncoder, BertForMaskedLM, BertForSequenceClassification
from bert_lightning.model.layers.packing import real_tokens
from bert_lightning.model.tuning import TUNINGS, Full, described, merged, tune
from tests.support.tuned_models import CONFIG, EVERY_TARGET, IDS, MASK, disturb, make, outputs

SETTINGS = [
    *((name, {}) for name in TUNINGS),
    ("lora", {"targets": EVERY_TARGET, "rank": 3, "alpha": 5.0}),
    ("dora", {"targets": EVERY_TARGET, "rank": 3, "alpha": 5.0}),
    ("adapter", {"placement": "houlsby", "size": 3}),
]


@pytest.fixture(params=SETTINGS, ids=lambda param: f"{param[0]}{len(param[1]) or ''}")
def tuning(request):
    name, settings = request.param
    # Dropout of its own is the subject of other tests. A ReLU of width 1 may be dead.
    own = {"prefix": {"dropout": 0.0}, "adapter": {} if settings else {"size": 4}}.get(name, {})
    return TUNINGS[name](**settings, **own)


def added_names(model, base):
    """Return the names of the parameters that only the tuned model has."""
    return [name for name in model.state_dict() if name not in base.state_dict()]


def saved(model):
    return Checkpoint(Path("x"), CONFIG.to_dict(), model.state_dict(), tuning=described(model.tuning))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("training", [False, True])
def test_every_tuning_begins_as_the_base_bit_for_bit_or_says_that_it_does_not(tuning, dtype, training):
    model, base = make(tuning)
    models = [each.to(dtype).train(training) for each in (model, base)]
    assert torch.equal(outputs(models[0]), outputs(models[1])) == tuning.begins_as_base
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(outputs(models[0]), outputs(models[1])) == tuning.begins_as_base


def test_every_tuning_keeps_the_names_and_values_of_the_base(tuning):
    model, base = make(tuning)
    tensors = model.state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in base.state_dict().items())
    depths = model.depths()
    assert depths.keys() == dict(model.named_parameters()).keys()
    for name, depth in depths.items():
        expected = {"layers": lambda name: int(name.split(".")[2]) + 1, "embeddings": lambda name: 0}
        place = name.split(".")[1]
        assert place not in expected or depth == expected[place](name)


def test_every_tuning_trains_the_head_and_parameters_that_the_base_lacks(tuning):
    torch.manual_seed(0)
    model = BertForSequenceClassification(CONFIG)
    tune(model, tuning, new=["encoder.pooler.weight", "encoder.pooler.bias"])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained >= {"classifier.weight", "classifier.bias", "encoder.pooler.weight", "encoder.pooler.bias"}


def test_a_step_of_every_tuning_leaves_frozen_parameters_as_they_were_and_moves_all_others(tuning):
    model, _ = make(tuning)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 1.0, weight_decay=0.5)
    for _ in range(3):
        outputs(model).square().sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


def test_every_tuning_merges_into_a_plain_model_that_computes_the_same_or_is_kept(tuning):
    model = disturb(make(tuning)[0].double())
    state = copy.deepcopy(model.state_dict())
    checkpoint = model.to_checkpoint(Path("x"))
    again = BertForSequenceClassification.from_checkpoint(checkpoint)
    assert isinstance(again.tuning, Full) == tuning.mergeable
    assert (checkpoint.tuning is None) == tuning.mergeable
    torch.testing.assert_close(outputs(again), outputs(model), rtol=0, atol=1e-12 if tuning.mergeable else 0)
    # Merging changes no tensor, so what is stored stays the base bit for bit.
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_checkpoint_of_every_tuning_is_rebuilt_exactly_or_merged(tuning):
    model, base = make(tuning)
    whole = saved(disturb(model))
    again = BertForSequenceClassification.from_checkpoint(whole)
    torch.testing.assert_close(outputs(again), outputs(model), rtol=0, atol=1e-5)
    if tuning.mergeable:
        assert merged(whole).tensors.keys() == base.state_dict().keys()
    else:
        with pytest.raises(CheckpointError, match=f"tuned by {whole.tuning['name']}, which cannot be merged"):
            merged(whole)


def test_a_tuning_that_cannot_be_merged_is_never_written_as_a_plain_model(tuning, tmp_path):
    model, _ = make(tuning)
    if tuning.mergeable:
        model.save_pretrained(tmp_path / "plain")
        assert "tuning" not in model.deviations
        return
    with pytest.raises(ValueError, match="cannot be merged into the weights"):
        model.save_pretrained(tmp_path / "plain")
    assert "tuning" in model.deviations
    assert not (tmp_path / "plain").exists()


def test_a_checkpoint_that_lacks_an_added_parameter_or_has_another_shape_is_refused_by_name(tuning):
    model, base = make(tuning)
    whole = saved(model)
    for name in added_names(model, base)[:3]:
        rest = {key: tensor for key, tensor in whole.tensors.items() if key != name}
        stretched = {**rest, name: torch.cat([whole.tensors[name]] * 2)}
        for tensors, message in (
            (rest, f"has no tensor for {name}"),
            (stretched, f"{name} has shape"),
            ({**whole.tensors, f"{name}_2": whole.tensors[name]}, f"has a tensor {name}_2"),
        ):
            for load in (BertForSequenceClassification, BertEncoder):
                with pytest.raises(CheckpointError, match=message):
                    load.from_checkpoint(dataclasses.replace(whole, tensors=tensors))


def test_a_merged_checkpoint_names_no_changed_tensor_as_one_of_its_base(tuning):
    model, base = make(tuning)
    if not tuning.mergeable:
        return
    tensors, added = disturb(model).state_dict(), added_names(model, base)
    origin = Base("x", "x", "0" * 64, "float32", [name for name in tensors if name not in added])
    whole = merged(dataclasses.replace(saved(model), base=origin))
    unchanged = [name for name in origin.names if torch.equal(whole.tensors[name], tensors[name])]
    assert whole.base.names == unchanged
    assert (len(unchanged) < len(origin.names)) == bool(added)


def test_an_unknown_tuning_or_unusable_settings_in_a_checkpoint_are_one_error():
    for tuning, message in (
        ({"name": "mine.Own"}, "mine.Own"),
        ({"name": "lora", "rank": 0}, "rank is 0"),
        ({"name": "adapter", "rank": 8}, "its tuning adapter is not usable"),
        ({"name": "top-layers", "layers": 7}, "does not fit the model: layers is 7, but the model has 2"),
    ):
        checkpoint = Checkpoint(Path("x"), CONFIG.to_dict(), {}, tuning=tuning)
        with pytest.raises(CheckpointError, match=message):
            BertEncoder.from_checkpoint(checkpoint)


# -- Layouts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_tuning_computes_padded_packed_and_single_sequences_alike(tuning, attention):
    model = disturb(make(tuning, cls=BertEncoder)[0]).double().eval()
    model.attention = attention
    rows, (indices, packing) = MASK.bool(), real_tokens(MASK)
    padded = model(IDS, attention_mask=MASK, output_hidden_states=True)
    packed = model(IDS.flatten()[indices], packing=packing, output_hidden_states=True)
    assert padded.last_hidden_state.shape == (*IDS.shape, CONFIG.hidden_size)
    assert packed.last_hidden_state.shape == (int(MASK.sum()), CONFIG.hidden_size)
    for one, other in zip(padded.hidden_states, packed.hidden_states, strict=True):
        torch.testing.assert_close(one[rows], other, rtol=0, atol=1e-12)
    torch.testing.assert_close(padded.pooler_output, packed.pooler_output, rtol=0, atol=1e-12)
    for row in range(2):
        alone = model(IDS[row : row + 1, rows[row]])
        torch.testing.assert_close(alone.last_hidden_state[0], padded.last_hidden_state[row, rows[row]])
        torch.testing.assert_close(alone.pooler_output[0], padded.pooler_output[row])


def test_every_tuning_returns_attention_weights_of_the_tokens_alone(tuning):
    model = disturb(make(tuning, cls=BertEncoder)[0]).double().eval()
    weights = model(IDS, attention_mask=MASK, output_attentions=True).attentions
    length = IDS.shape[1]
    assert {tuple(each.shape) for each in weights} == {(2, CONFIG.num_attention_heads, length, length)}
    sums = torch.stack(weights).sum(-1)
    # Vectors in front of the tokens get the rest.
    assert bool((sums < 1 - 1e-6).all()) == (not tuning.begins_as_base)
    assert sums.max() < 1 + 1e-9


def test_activation_checkpointing_gives_the_same_gradients(tuning):
    if hasattr(tuning, "dropout"):
        tuning = dataclasses.replace(tuning, dropout=0.3)
    gradients = []
    for checkpointing in (False, True):
        model = disturb(make(tuning)[0]).train()
        model.encoder.activation_checkpointing = checkpointing
        torch.manual_seed(1)
        outputs(model).square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_every_tuning_leaves_the_tied_word_matrix_of_the_mlm_head_frozen_and_tied(tuning):
    if isinstance(tuning, Full):
        return
    model, base = make(tuning, cls=BertForMaskedLM)
    outputs(model).square().sum().backward()
    assert model.encoder.embeddings.word.weight.grad is None
    assert model.mlm_head.dense.weight.grad is not None
    assert torch.equal(outputs(model), outputs(base)) == tuning.begins_as_base


@pytest.mark.slow
def test_a_compiled_tuned_model_computes_what_the_plain_one_does(tuning):
    model = disturb(make(tuning)[0]).double()
    expected = outputs(model)
    compiled = torch.compile(model, backend="aot_eager", dynamic=True, fullgraph=False)
    torch.testing.assert_close(compiled(IDS, attention_mask=MASK), expected, rtol=0, atol=1e-12)
