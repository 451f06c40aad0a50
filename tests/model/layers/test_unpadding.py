"""Unpadding around the kernels of `varlen`, which are replaced by an exact equivalent because they need CUDA."""

import pytest
import torch
import transformers

from bert_lightning.model import BertConfig, BertEncoder
from bert_lightning.model.architectures import MODELS
from bert_lightning.model.layers import attention, packing
from bert_lightning.model.layers.attention import AttentionOutput, Backend, choose_backend, sdpa
from bert_lightning.model.layers.packing import order_by_length, packing_of, round_size
from bert_lightning.model.task_models import BertForMultipleChoice

V = 50
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture
def packed_lengths(monkeypatch):
    """Let `varlen` run here, and record how many tokens it receives."""
    seen = []

    def stand_in(query_key_value, layout, num_heads, dropout) -> AttentionOutput:
        assert layout.packing is not None
        seen.append(len(query_key_value))
        return sdpa(query_key_value, layout, num_heads, dropout)

    monkeypatch.setitem(attention._BACKENDS, "varlen", Backend(stand_in, needs_packing=True))
    monkeypatch.setattr(attention, "varlen_obstacle", lambda *_: None)
    return seen


def batch(lengths=(9, 4, 1, 6)):
    torch.manual_seed(1)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.randint(5, V, mask.shape), (torch.arange(max(lengths)) >= 2).long().repeat(len(lengths), 1), mask


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("kind", [torch.bool, torch.long, torch.float])
def test_a_padded_batch_is_unpadded_before_the_blocks_and_padded_after_them(packed_lengths, pooling, kind):
    torch.manual_seed(0)
    encoder = BertEncoder(BertConfig.preset("tiny", vocab_size=V, max_position_embeddings=16, pooling=pooling))
    encoder = encoder.double().eval()
    ids, segments, mask = batch()
    expected = encoder(ids, segments, mask, output_hidden_states=True)
    encoder.attention = "varlen"
    actual = encoder(ids, segments, mask.to(kind), output_hidden_states=True)
    assert packed_lengths == [24, 24]
    for ours, theirs in zip((actual[0], *actual[2]), (expected[0], *expected[2]), strict=True):
        torch.testing.assert_close(ours[mask], theirs[mask], **CLOSE)
        assert not ours[~mask].any()
    torch.testing.assert_close(actual.pooler_output, expected.pooler_output, **CLOSE)
    # Without a mask nothing is removed.
    torch.testing.assert_close(encoder(ids).last_hidden_state.shape, (*ids.shape, 128))
    assert packed_lengths[-1] == round_size(ids.numel())


@pytest.mark.parametrize("architecture", MODELS)
def test_every_model_runs_on_varlen(packed_lengths, architecture):
    model = MODELS[architecture](BertConfig.preset("tiny", vocab_size=V, max_position_embeddings=16)).double().eval()
    ids, segments, mask = batch()
    if isinstance(model, BertForMultipleChoice):
        ids, segments, mask = (tensor.view(2, 2, -1) for tensor in (ids, segments, mask))
    results = []
    for name in ("sdpa", "varlen"):
        model.backbone.attention = name
        output = model(ids, segments, mask)
        tensors = (
            [output] if isinstance(output, torch.Tensor) else [tensor for tensor in output if tensor is not None]
        )
        results.append([tensor[mask] if tensor.shape[:2] == mask.shape else tensor for tensor in tensors])
    assert packed_lengths
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, **CLOSE)


def test_auto_leaves_a_padded_batch_padded_and_takes_packed_ones(packed_lengths):
    encoder = BertEncoder(BertConfig.preset("tiny", vocab_size=V, max_position_embeddings=16))
    ids, segments, mask = batch()
    encoder(ids, segments, mask)
    assert not packed_lengths
    encoder(ids[mask], packing=packing_of(mask.sum(1)))
    assert packed_lengths == [24, 24]


def test_the_dtype_of_autocast_decides_whether_it_can_run(monkeypatch):
    seen = []
    monkeypatch.setattr(attention, "varlen_obstacle", lambda device, dtype, width: seen.append((dtype, width)))
    encoder = BertEncoder(BertConfig.preset("tiny", vocab_size=V))
    ids, *_ = batch()
    encoder(ids)
    with torch.autocast("cpu", torch.bfloat16):
        encoder(ids)
    encoder.half()(ids)
    assert seen == [(torch.float32, 64), (torch.bfloat16, 64), (torch.float16, 64)]


def test_head_widths_beyond_the_kernels_are_named():
    with pytest.raises(ValueError, match="multiples of 8, not 264"):
        choose_backend("varlen", torch.device("cuda"), torch.bfloat16, 264, packed=True, weights=False)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_training_on_a_cpu_removes_padding_that_costs_more_than_groups(pooling, monkeypatch):
    torch.manual_seed(0)
    config = BertConfig.preset(
        "tiny",
        vocab_size=V,
        max_position_embeddings=16,
        pooling=pooling,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    encoder = BertEncoder(config).double()
    ids, segments, mask = batch((9, 4, 9, 9, 9, 4, 9))
    shapes = []
    monkeypatch.setattr(packing, "_TOKENS_PER_GROUP", 1)

    def recording(query_key_value, layout, num_heads, dropout) -> AttentionOutput:
        shapes.append(tuple(query_key_value.shape))
        return sdpa(query_key_value, layout, num_heads, dropout)

    results = []
    for groups in (False, True):
        monkeypatch.setitem(attention._BACKENDS, "sdpa", Backend(recording, groups_lengths=groups))
        hidden, pooled, states, _ = encoder(ids, segments, mask, output_hidden_states=True)
        encoder.zero_grad()
        (hidden[mask].sin().sum() + pooled.sum()).backward()
        results.append([pooled, *(s[mask] for s in (hidden, *states)), *(p.grad for p in encoder.parameters())])
    assert shapes == [(7, 9, 384)] * 2 + [(56, 384)] * 2
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, **CLOSE)


def test_padding_is_removed_if_its_products_cost_more_than_the_groups_of_attention():
    lengths = (128,) * 28 + (17, 50, 90, 128)
    mask = torch.arange(128) < torch.tensor(lengths)[:, None]
    padding = 3 * 128 - 17 - 50 - 90
    # 29 long sequences are four groups: 16, 8, 4 and 1. Each short one is a group of its own.
    assert padding * 240**2 < 7 * 3e6 < padding * 320**2
    assert order_by_length(mask, 240) is None
    assert order_by_length(mask, 320).tolist() == [28, 29, 30, *range(28), 31]
    assert order_by_length(mask[:28], 1024) is None


# Real tokens of each sequence: padding in front, in the middle, on both sides, at the end, everywhere, nowhere.
LAYOUTS = ("000111111", "011011011", "001111100", "111110000", "000000000", "111111111", "101010101", "000000001")


def any_padding():
    torch.manual_seed(2)
    mask = torch.tensor([[character == "1" for character in row] for row in LAYOUTS * 3])
    return torch.randint(5, V, mask.shape), torch.randint(0, 2, mask.shape), mask


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_every_path_through_the_encoder_pools_the_same_tokens_wherever_the_padding_is(
    packed_lengths, pooling, monkeypatch
):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(V, **sizes, **rates, max_position_embeddings=16, pooling=pooling, initializer_range=0.5)
    encoder = BertEncoder(config).double()
    ids, segments, mask = any_padding()
    monkeypatch.setattr(packing, "_TOKENS_PER_GROUP", 1)
    assert order_by_length(mask, 8) is not None
    outputs = {"training": encoder.train()(ids, segments, mask), "evaluation": encoder.eval()(ids, segments, mask)}
    assert not packed_lengths
    encoder.attention = "varlen"
    outputs["varlen"] = encoder(ids, segments, mask)
    hidden = outputs["evaluation"].last_hidden_state
    for row, real in enumerate(mask):
        states = hidden[row][real] if real.any() else torch.zeros(1, 8, dtype=torch.float64)
        one = {"cls": states[0], "mean": states.mean(0), "max": states.amax(0)}[pooling]
        for name, output in outputs.items():
            torch.testing.assert_close(output.last_hidden_state[row][real], hidden[row][real], **CLOSE, msg=name)
            torch.testing.assert_close(output.pooler_output[row], encoder.pooler(one).tanh(), **CLOSE, msg=name)


def test_the_score_of_no_answer_is_that_of_the_first_real_token(packed_lengths):
    torch.manual_seed(0)
    config = BertConfig.preset("tiny", vocab_size=V, max_position_embeddings=16, hidden_dropout_prob=0.0)
    model = MODELS["BertForQuestionAnswering"](config.replace(attention_probs_dropout_prob=0.0), answerability=True)
    ids, segments, mask = any_padding()
    model.double()
    outputs = [model.train()(ids, segments, mask), model.eval()(ids, segments, mask)]
    model.backbone.attention = "varlen"
    outputs.append(model(ids, segments, mask))
    some = mask.any(1)
    first = mask.int().argmax(1)[some, None]
    for output in outputs:
        expected = (output.start_logits + output.end_logits)[some].gather(1, first)[:, 0]
        torch.testing.assert_close(output.null_scores[some], expected, **CLOSE)
        torch.testing.assert_close(output.answerable_logits, outputs[0].answerable_logits, **CLOSE)


def test_hidden_states_equal_those_of_transformers_wherever_the_padding_is(tmp_path):
    torch.manual_seed(0)
    encoder = BertEncoder(BertConfig.preset("tiny", vocab_size=V, max_position_embeddings=16)).eval()
    encoder.save_pretrained(tmp_path)
    theirs = transformers.BertModel.from_pretrained(tmp_path).eval().double()
    ids, segments, mask = (tensor[torch.tensor([0, 1, 2, 3, 5, 6, 7])] for tensor in any_padding())
    expected = theirs(ids, mask.long(), segments)
    actual = encoder.double()(ids, segments, mask)
    torch.testing.assert_close(actual.last_hidden_state[mask], expected.last_hidden_state[mask], **CLOSE)
    begins = mask[:, 0]
    torch.testing.assert_close(actual.pooler_output[begins], expected.pooler_output[begins], **CLOSE)
