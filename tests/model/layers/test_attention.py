"""Attention backends, and packed in place of padded sequences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_lightning.model import BertConfig, BertEncoder, Packing
from bert_lightning.model.architectures import MODELS
from bert_lightning.model.bert import BertForPreTraining
from bert_lightning.model.layers.attention import Layout, choose_backend, eager, sdpa
from bert_lightning.model.layers.packing import packing_of, pad, real_tokens
from bert_lightning.model.task_models import BertForMultipleChoice

V = 97
lengths_of_batches = st.lists(st.integers(1, 12), min_size=1, max_size=5)


def small(**changes) -> BertConfig:
    return BertConfig.preset("tiny", vocab_size=V, max_position_embeddings=16, **changes)


def padded_batch(lengths):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, V, mask.shape)
    segments = (torch.arange(mask.shape[1]) >= 2).long().repeat(len(lengths), 1)
    return ids, segments, mask


def packed(ids, segments, mask):
    positions, packing = real_tokens(mask)
    return ids.flatten()[positions], segments.flatten()[positions], None, packing


@settings(max_examples=30)
@given(lengths=lengths_of_batches)
def test_padding_and_packing_are_inverses(lengths):
    packing = packing_of(torch.tensor(lengths))
    values = torch.arange(sum(lengths) * 2.0).view(-1, 2)
    padded, positions = pad(values, packing)
    assert padded.shape == (len(lengths), max(lengths), 2)
    assert torch.equal(padded.flatten(0, 1)[positions], values)
    assert padded.flatten(0, 1).sum() == values.sum()
    expected = torch.cat([torch.arange(length) for length in lengths])
    assert torch.equal(packing.positions(sum(lengths)), expected)
    assert torch.equal(
        packing.sequence_numbers(sum(lengths)), torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    )


@settings(max_examples=15)
@given(lengths=lengths_of_batches, seed=st.integers(0, 99))
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_packed_and_padded_sequences_give_equal_results(attention, pooling, lengths, seed):
    torch.manual_seed(seed)
    encoder = BertEncoder(small(pooling=pooling)).double().eval()
    encoder.attention = attention
    batch = padded_batch(lengths)
    expected = encoder(*batch, output_hidden_states=True)
    actual = encoder(*packed(*batch), output_hidden_states=True)
    torch.testing.assert_close(actual.last_hidden_state, expected.last_hidden_state[batch[2]], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(actual.pooler_output, expected.pooler_output, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(actual.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs[batch[2]], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("architecture", MODELS)
def test_every_model_takes_packed_sequences_and_has_the_same_gradients(architecture):
    torch.manual_seed(0)
    cls = MODELS[architecture]
    model = cls(small(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).double()
    ids, segments, mask = padded_batch([5, 9, 1, 4])
    packed_ids, packed_segments, _, packing = packed(ids, segments, mask)
    if cls is BertForMultipleChoice:
        padded_output = model(*(tensor.view(2, 2, -1) for tensor in (ids, segments, mask))).flatten()
    else:
        padded_output = model(ids, segments, mask)
    results = []
    for output in (padded_output, model(packed_ids, packed_segments, packing=packing)):
        tensors = (
            [output] if isinstance(output, torch.Tensor) else [tensor for tensor in output if tensor is not None]
        )
        tensors = [tensor[mask] if tensor.shape[:2] == mask.shape else tensor for tensor in tensors]
        model.zero_grad()
        sum((tensor**2).sum() for tensor in tensors).backward()
        results.append(tensors + [p.grad.clone() for p in model.parameters() if p.grad is not None])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


def test_packed_sequences_do_not_see_each_other():
    torch.manual_seed(0)
    encoder = BertEncoder(small()).double().eval()
    ids = torch.randint(5, V, (10,))
    packing = packing_of(torch.tensor([4, 6]))
    before = encoder(ids, packing=packing).last_hidden_state
    ids[5] = (ids[5] + 1) % V
    after = encoder(ids, packing=packing).last_hidden_state
    assert torch.equal(before[:4], after[:4])
    assert not torch.allclose(before[4:], after[4:])


def test_masked_positions_index_packed_tokens():
    torch.manual_seed(0)
    model = BertForPreTraining(small()).double().eval()
    batch = padded_batch([6, 3])
    ids, segments, _, packing = packed(*batch)
    expected = model(*batch).prediction_logits[batch[2]][[1, 7]]
    actual = model(ids, segments, masked_positions=torch.tensor([1, 7]), packing=packing).prediction_logits
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", ["padded", "packed"])
@pytest.mark.parametrize("backend", [eager, sdpa])
def test_no_backend_drops_dropout_silently(backend, form):
    """If V has the same vector at every position, the context is that vector times the sum of the weights.

    After dropout this sum is 1 on average. Without dropout the context would be the vector itself.
    """
    torch.manual_seed(0)
    length, num_sequences, dropout = 16, 200, 0.25
    query_key_value = torch.randn(num_sequences, length, 3 * 8)
    query_key_value[..., 16:] = 1.0
    layout = Layout()
    if form == "packed":
        layout = Layout(packing=packing_of(torch.full((num_sequences,), length)))
        query_key_value = query_key_value.flatten(0, 1)
    kept = backend(query_key_value, layout, 2, dropout).context.view(num_sequences, length, 2, 4)[..., 0]
    assert kept.mean() == pytest.approx(1, abs=0.02)
    # Each weight is kept with probability 0.75 and scaled, so the sum varies by 0.25 / 0.75 * sum(w^2).
    weights = eager(query_key_value, layout, 2, 0.0).weights
    expected = (dropout / (1 - dropout) * (weights**2).sum(-1)).mean()
    assert ((kept - 1) ** 2).mean() == pytest.approx(float(expected), rel=0.1)
    without = backend(query_key_value, layout, 2, 0.0).context
    torch.testing.assert_close(without, torch.ones_like(without))


def test_attention_weights_are_probabilities_over_real_tokens_in_every_form():
    encoder = BertEncoder(small()).eval()
    batch = padded_batch([5, 9, 1])
    padded = encoder(*batch, output_attentions=True).attentions
    for ours, theirs in zip(encoder(*packed(*batch), output_attentions=True).attentions, padded, strict=True):
        assert ours.shape == (3, 2, 9, 9)
        rows = batch[2][:, None, :, None].expand_as(ours)
        torch.testing.assert_close(ours[rows], theirs[rows])
        assert not ours[~batch[2][:, None, None, :].expand_as(ours)].any()
        torch.testing.assert_close(ours.sum(-1), torch.ones(3, 2, 9))


def test_a_sequence_without_a_real_token_does_not_become_nan():
    for attention in ("eager", "sdpa"):
        encoder = BertEncoder(small(attention_probs_dropout_prob=0.0))
        encoder.attention = attention
        ids, segments, mask = padded_batch([4, 2])
        out = encoder(ids, segments, mask & torch.tensor([[True], [False]]))
        out.pooler_output.sum().backward()
        assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("varlen", False, "'varlen' cannot run here: its kernels are for CUDA, and the model is on cpu"),
        ("sdpa", True, "attention weights need the eager backend, but attention is 'sdpa'"),
        ("flash", False, "attention is 'flash'; known: auto, eager, sdpa, varlen"),
    ],
)
def test_the_error_of_a_backend_that_cannot_run_has_the_reason(name, weights, message):
    encoder = BertEncoder(small())
    encoder.attention = name
    with pytest.raises(ValueError, match=message):
        encoder(torch.zeros(1, 3, dtype=torch.long), output_attentions=weights)


@pytest.mark.parametrize(
    ("dtype", "width", "message"),
    [(torch.float32, 64, "16-bit numbers, not float32"), (torch.bfloat16, 20, "multiples of 8, not 20")],
)
def test_varlen_names_the_missing_support_of_its_kernels(dtype, width, message):
    with pytest.raises(ValueError, match=message):
        choose_backend("varlen", torch.device("cuda"), dtype, width, packed=True, weights=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (torch.zeros(1, 3, dtype=torch.long), None, None, Packing(torch.tensor([0, 3]), 3)),
            "packed input must have shape",
        ),
        ((torch.zeros(3, dtype=torch.long),), r"input_ids has shape \(3,\); expected \(B, S\)"),
        (
            (torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long)),
            r"token_type_ids has shape \(1, 2\)",
        ),
        ((torch.zeros(1, 17, dtype=torch.long),), "17 tokens is longer than the position table \\(16\\)"),
        ((torch.tensor([[1, V]]),), rf"input_ids\[0, 1\] is {V}, outside the vocabulary \(0 to {V - 1}\)"),
        ((torch.tensor([[1, -1]]),), r"input_ids\[0, 1\] is -1"),
        ((torch.tensor([[1, 2]]), torch.tensor([[0, 2]])), r"token_type_ids\[0, 1\] is 2, outside the segments"),
    ],
)
def test_input_that_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        BertEncoder(small())(*arguments)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("lengths", [[4, 0, 6], [4, 6, 0], [0, 3], [0]])
def test_a_sequence_without_tokens_does_not_shift_the_others(attention, pooling, lengths):
    encoder = BertEncoder(small(pooling=pooling, pooler=False)).double().eval()
    encoder.attention = attention
    ids = torch.randint(5, V, (sum(lengths),))
    pooled = encoder(ids, packing=packing_of(torch.tensor(lengths))).pooler_output
    start = 0
    for length, vector in zip(lengths, pooled, strict=True):
        if length == 0:
            assert not vector.any()
        else:
            alone = encoder(ids[None, start : start + length]).pooler_output[0]
            torch.testing.assert_close(vector, alone, rtol=1e-10, atol=1e-12)
        start += length


def test_a_fully_masked_sequence_pools_to_zero():
    for pooling in ("mean", "max"):
        out = BertEncoder(small(pooling=pooling, pooler=False))(
            torch.ones(1, 4, dtype=torch.long), None, torch.zeros(1, 4)
        )
        assert not out.pooler_output.any()


@pytest.mark.parametrize(
    ("boundaries", "longest", "message"),
    [
        ([0, 6, 10], 5, "max_length is 5, but a sequence has 6 tokens"),
        ([0, 6, 9], 6, r"boundaries \[0, 6, 9\] do not run from 0 to 10"),
        ([1, 6, 10], 6, "do not run from 0 to 10"),
        ([0, 11, 10], 11, "do not run from 0 to 10"),
    ],
)
def test_boundaries_that_do_not_fit_the_tokens_are_an_error(boundaries, longest, message):
    packing = Packing(torch.tensor(boundaries, dtype=torch.int32), longest)
    with pytest.raises(ValueError, match=message):
        BertEncoder(small())(torch.ones(10, dtype=torch.long), packing=packing)


def test_a_max_length_above_the_longest_sequence_changes_nothing():
    encoder, ids = BertEncoder(small()).eval(), torch.randint(5, V, (10,))
    boundaries = torch.tensor([0, 4, 10], dtype=torch.int32)
    for attention in ("eager", "sdpa"):
        encoder.attention = attention
        found = [encoder(ids, packing=Packing(boundaries, bound)).last_hidden_state for bound in (6, 20)]
        torch.testing.assert_close(*found)


def test_weights_and_states_are_kept_only_on_request():
    encoder = BertEncoder(small())
    encoder.attention = "eager"
    out = encoder(torch.ones(1, 3, dtype=torch.long))
    assert out.attentions is None
    assert out.hidden_states is None


def test_softmax_of_half_precision_scores_is_taken_in_float32():
    torch.manual_seed(0)
    query_key_value = torch.randn(1, 12, 24).bfloat16()
    weights = eager(query_key_value, Layout(), 1, 0.0).weights
    query, key, _ = query_key_value.chunk(3, dim=-1)
    scores = (query * 8**-0.5) @ key.mT
    torch.testing.assert_close(weights[0], scores.float().softmax(-1).bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("form", ["padded", "packed"])
def test_attention_in_training_on_a_cpu_equals_the_fused_one(form, monkeypatch):
    torch.manual_seed(0)
    mask = torch.arange(9) < torch.tensor([[9], [4], [9]])
    positions, packing = real_tokens(mask)
    query_key_value = torch.randn(3, 9, 24, dtype=torch.float64)
    values, layout = (query_key_value, Layout(mask[:, None, None, :]))
    if form == "packed":
        values, layout = query_key_value.flatten(0, 1)[positions], Layout(packing=packing)
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k)
    )
    trained = sdpa(values, layout, 2, 0.0).context
    assert not calls
    with torch.no_grad():
        torch.testing.assert_close(sdpa(values, layout, 2, 0.0).context, trained)
    assert calls
