"""Inner states that are recorded during a forward pass equal those that the encoder returns, in every layout."""

import copy

import pytest
import torch

from bert_lightning.model import BertConfig
from bert_lightning.model.architectures import MODELS
from bert_lightning.model.recording import Recording
from bert_lightning.model.task_models import BertForMultipleChoice
from tests.model.test_embeddings_in import H, V, encoder, packed, padded
from tests.model.test_embeddings_in import varlen as varlen

EVERYTHING = {"states": range(3), "blocks": range(2)}


def weights_of(query_key_value, mask):
    """Return the attention weights (B, N, S, S) by the formula of the paper, from recorded (B, S, 3 H)."""
    query, key, _ = query_key_value.chunk(3, -1)
    query, key = (each.unflatten(-1, (2, -1)).transpose(1, 2) for each in (query, key))
    scores = query @ key.mT / (H // 2) ** 0.5
    return scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)


@pytest.mark.parametrize("form", ["kept", "ordered", "varlen", "packed", "recomputed", "pre"])
def test_what_is_recorded_equals_what_the_encoder_returns(varlen, form):
    options = {"norm_placement": "pre"} if form == "pre" else {}
    model = encoder(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **options).double().train()
    ids, segments, mask = padded()
    model.attention = "eager"
    expected = model(ids, segments, mask, output_hidden_states=True, output_attentions=True)
    model.attention = {"kept": "eager", "varlen": "varlen"}.get(form, "sdpa")
    model.activation_checkpointing = form == "recomputed"
    recording = Recording(**EVERYTHING)
    with model.recorded(recording):
        if form == "packed":
            ids, segments, packing = packed()
            output = model(ids, segments, packing=packing)
        else:
            output = model(ids, segments, mask)
    real = slice(None) if form == "packed" else mask
    for number, state in enumerate(expected.hidden_states):
        torch.testing.assert_close(recording.states[number][real], state[mask], rtol=1e-10, atol=1e-12)
    assert torch.equal(recording.states[2], output.last_hidden_state)
    for number, weights in enumerate(expected.attentions):
        recorded = recording.query_key_value[number]
        if form == "packed":
            recorded = recorded.new_zeros(*mask.shape, 3 * H).masked_scatter(mask[..., None], recorded)
        rows = mask[:, None, :, None].expand_as(weights)
        torch.testing.assert_close(weights_of(recorded, mask)[rows], weights[rows], rtol=1e-9, atol=1e-12)


def test_a_loss_of_recorded_tensors_has_the_same_gradients_with_recomputed_blocks_and_without():
    found = []
    for recomputes in (False, True):
        model = encoder(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).double().train()
        model.activation_checkpointing = recomputes
        recording = Recording(**EVERYTHING)
        with model.recorded(recording):
            model(*padded())
        tensors = [*recording.states.values(), *recording.query_key_value.values()]
        torch.stack([each.sin().sum() for each in tensors]).sum().backward()
        found.append([each.grad for each in model.parameters() if each.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("architecture", MODELS)
def test_every_model_can_be_recorded_and_computes_and_is_copied_as_before_afterwards(architecture):
    torch.manual_seed(0)
    model = MODELS[architecture](BertConfig.preset("tiny", vocab_size=V, max_position_embeddings=16)).eval()
    ids, segments, mask = padded()
    if isinstance(model, BertForMultipleChoice):
        ids, segments, mask = (tensor.reshape(2, 3, -1) for tensor in (ids, segments, mask))
    recording = Recording(states=[1], blocks=[1])
    with model.backbone.recorded(recording):
        model(ids, segments, mask)
    assert recording.states.keys() == {1}
    assert recording.states[1].shape == (6, 9, H)
    assert recording.query_key_value.keys() == {1}
    before = recording.states[1]
    model(ids, segments, mask)
    assert recording.states[1] is before
    # A tensor that is left in a block would carry a graph, which cannot be copied.
    copy.deepcopy(model)
    recording.clear()
    assert not recording.states
    assert not recording.query_key_value
