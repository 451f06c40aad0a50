"""What only an accelerator can show of the model; run by `make test-gpu`."""

import pytest
import torch
import torch.nn.functional as F

from bert_lightning.model import BertConfig, BertEncoder, BertForPreTraining
from bert_lightning.model.attention import Layout, eager, varlen
from bert_lightning.model.packing import packing_of, real_tokens

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
V, LENGTHS = 97, [50, 64, 1, 17]
# bfloat16 has 8 bits; two layers of sums in another order.
BF16 = {"rtol": 3e-2, "atol": 3e-2}


def small(**changes) -> BertConfig:
    return BertConfig.preset("small", vocab_size=V, max_position_embeddings=64, num_hidden_layers=2, **changes)


def batch():
    torch.manual_seed(0)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(5, V, mask.shape)
    return ids.cuda(), (torch.arange(mask.shape[1]) >= 2).long().repeat(len(LENGTHS), 1).cuda(), mask.cuda()


def without_dropout(cls=BertEncoder):
    torch.manual_seed(0)
    return cls(small(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).cuda()


@pytest.mark.parametrize("form", ["padded", "packed"])
@pytest.mark.parametrize("attention", ["eager", "sdpa", "varlen", "auto"])
def test_every_backend_and_form_agrees_with_float64_on_the_processor(attention, form):
    model, (ids, segments, mask) = without_dropout(), batch()
    expected = without_dropout().cpu().double()(ids.cpu(), segments.cpu(), mask.cpu())
    model.attention = attention
    arguments = (ids, segments, mask)
    if form == "packed":
        places, packing = real_tokens(mask)
        arguments = (ids.flatten()[places], segments.flatten()[places], None, packing)
    with torch.autocast("cuda", torch.bfloat16):
        actual = model(*arguments)
    hidden = actual.last_hidden_state if form == "packed" else actual.last_hidden_state[mask]
    torch.testing.assert_close(hidden.cpu().double(), expected.last_hidden_state[mask.cpu()], **BF16)
    torch.testing.assert_close(actual.pooler_output.cpu().double(), expected.pooler_output, **BF16)


def test_varlen_has_the_gradients_of_eager():
    ids, segments, mask = batch()
    gradients = []
    for attention in ("eager", "varlen"):
        model = without_dropout(BertForPreTraining)
        model.encoder.attention = attention
        with torch.autocast("cuda", torch.bfloat16):
            out = model(ids, segments, mask)
            loss = F.cross_entropy(out.prediction_logits[mask].float(), ids[mask])
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    total = torch.stack([gradient.norm() for gradient in gradients[0].values()]).norm()
    for name, expected in gradients[0].items():
        assert (gradients[1][name] - expected).norm() <= 3e-2 * max(expected.norm(), 1e-1 * total), name


def test_varlen_does_not_drop_dropout():
    """With V the same vector in every place a context is that vector times the sum of what dropout leaves of the
    weights; see the test of the other backends."""
    torch.manual_seed(0)
    length, num_sequences, dropout = 16, 500, 0.25
    query_key_value = torch.randn(num_sequences * length, 3 * 128, device="cuda", dtype=torch.bfloat16)
    query_key_value[:, 256:] = 1.0
    query_key_value.requires_grad_()
    layout = Layout(packing=packing_of(torch.full((num_sequences,), length, device="cuda")))
    kept = varlen(query_key_value, layout, 2, dropout).context
    kept.sum().backward()
    assert query_key_value.grad.isfinite().all()
    sums = kept.detach().float().view(-1, 2, 64)[..., 0]
    weights = eager(query_key_value.detach().float(), layout, 2, 0.0).weights
    expected = (dropout / (1 - dropout) * (weights**2).sum(-1)).mean()
    assert sums.mean().item() == pytest.approx(1, abs=0.02)
    assert ((sums - 1) ** 2).mean().item() == pytest.approx(float(expected), rel=0.1)
    without = varlen(query_key_value, layout, 2, 0.0).context
    torch.testing.assert_close(without, torch.ones_like(without), **BF16)


def test_a_backend_that_cannot_run_says_why():
    model, (ids, *_) = without_dropout(), batch()
    model.attention = "varlen"
    with pytest.raises(ValueError, match="16-bit numbers, not float32: use bf16-mixed"):
        model(ids)


@pytest.mark.parametrize("form", ["padded", "packed"])
def test_the_compiled_training_step_is_one_graph(form):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = BertForPreTraining(small()).cuda()
    ids, segments, mask = batch()
    positions, labels = torch.tensor([1, 60, 70], device="cuda"), torch.tensor([5, 6, 7], device="cuda")
    arguments = (ids, segments, mask, positions)
    if form == "packed":
        places, packing = real_tokens(mask)
        arguments = (ids.flatten()[places], segments.flatten()[places], None, positions, packing)

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            out = model(*arguments)
        return F.cross_entropy(out.prediction_logits.float(), labels)

    torch.compile(step, fullgraph=True)().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert not any("_orig_mod" in name for name in model.state_dict())


def test_nothing_in_a_step_waits_for_the_device():
    model, (ids, segments, mask) = without_dropout(BertForPreTraining), batch()
    places, packing = real_tokens(mask)
    packed_ids, packed_segments = ids.flatten()[places], segments.flatten()[places]
    positions = torch.tensor([1, 60], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", torch.bfloat16):
            model(ids, segments, mask, positions).prediction_logits.float().sum().backward()
            packed = model(packed_ids, packed_segments, None, positions, packing)
            packed.prediction_logits.float().sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
