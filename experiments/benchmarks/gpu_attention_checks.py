"""GPU checks of attention: every backend computes the same as float64, and has the gradients of `eager`."""

import torch
import torch.nn.functional as F
from gpu_setting import (
    BF16,
    Figures,
    Measured,
    Setting,
    autocast,
    backends,
    config_of,
    distance,
    encoder,
    packed,
    padded,
    require_cuda,
)

from bert_lightning.model import BertForPreTraining
from bert_lightning.model.layers.attention import Layout, eager, varlen
from bert_lightning.model.layers.packing import packing_of


def every_backend_and_form_agrees_with_float64(setting: Setting) -> Figures:
    """Compare hidden states and pooled vectors in bfloat16 with float64 on the processor."""
    device = setting.device
    expected = encoder(torch.device("cpu")).double()(*padded(torch.device("cpu")))
    mask = padded(torch.device("cpu"))[2]
    figures = {}
    for attention in backends(device):
        for form in ("padded", "packed"):
            model = encoder(device, attention)
            with autocast(device):
                actual = model(*(padded(device) if form == "padded" else packed(device)))
            hidden = actual.last_hidden_state if form == "packed" else actual.last_hidden_state[mask.to(device)]
            difference = max(
                distance(hidden, expected.last_hidden_state[mask]),
                distance(actual.pooler_output, expected.pooler_output),
            )
            figures[f"{attention}, {form}"] = Measured(difference, BF16)
    return figures


def every_backend_has_the_gradients_of_eager(setting: Setting) -> Figures:
    """Compare the gradient of each parameter with that of `eager`, by the norm of the difference."""
    ids, segments, mask = padded(setting.device)
    by_backend = {}
    for attention in backends(setting.device):
        torch.manual_seed(0)
        model = BertForPreTraining(config_of()).to(setting.device)
        model.encoder.attention = attention
        with autocast(setting.device):
            out = model(ids, segments, mask)
            loss = F.cross_entropy(out.prediction_logits[mask].float(), ids[mask])
        loss.backward()
        by_backend[attention] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    expected = by_backend.pop("eager")
    total = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    return {
        attention: Measured(
            max(
                float((gradients[name] - gradient).norm() / torch.maximum(gradient.norm(), 0.1 * total))
                for name, gradient in expected.items()
            ),
            BF16,
        )
        for attention, gradients in by_backend.items()
    }


def varlen_equals_sdpa_on_padded_input(setting: Setting) -> Figures:
    """Compare both in bfloat16 on the device. The encoder packs its input for `varlen`."""
    require_cuda(setting, "its kernels are for CUDA")
    inputs = padded(setting.device)
    hidden = []
    for attention in ("sdpa", "varlen"):
        model = encoder(setting.device, attention)
        with autocast(setting.device):
            hidden.append(model(*inputs).last_hidden_state[inputs[2]])
    return {"hidden states": Measured(distance(hidden[1], hidden[0]), BF16)}


def varlen_does_not_drop_dropout(setting: Setting) -> Figures:
    """Check mean and variance of the attention weights after dropout.

    If every position has the same value vector, a context is that vector times the sum of the remaining weights. The
    sum is 1 on average, with the variance that follows from the weights of `eager`.
    """
    require_cuda(setting, "its kernels are for CUDA")
    torch.manual_seed(0)
    length, num_sequences, dropout = 16, 500, 0.25
    query_key_value = torch.randn(num_sequences * length, 3 * 128, device=setting.device, dtype=torch.bfloat16)
    query_key_value[:, 256:] = 1.0
    query_key_value.requires_grad_()
    lengths = torch.full((num_sequences,), length, device=setting.device)
    layout = Layout(packing=packing_of(lengths))
    kept = varlen(query_key_value, layout, 2, dropout).context
    kept.sum().backward()
    gradient = query_key_value.grad
    assert gradient is not None
    sums = kept.detach().float().view(-1, 2, 64)[..., 0]
    weights = eager(query_key_value.detach().float(), layout, 2, 0.0).weights
    assert weights is not None
    expected = float((dropout / (1 - dropout) * (weights**2).sum(-1)).mean())
    without = varlen(query_key_value, layout, 2, 0.0).context
    return {
        "mean": Measured(abs(float(sums.mean()) - 1), 0.02),
        "variance": Measured(abs(float(((sums - 1) ** 2).mean()) / expected - 1), 0.1),
        "without dropout": Measured(distance(without, torch.ones_like(without)), BF16),
        "gradients not finite": Measured(float((~gradient.isfinite()).sum()), 0),
    }


def a_backend_that_cannot_run_says_why(setting: Setting) -> Figures:
    """Check the message of `varlen` with float32, or on a processor."""
    reason = "16-bit numbers, not float32" if setting.device.type == "cuda" else "its kernels are for CUDA"
    try:
        encoder(setting.device, "varlen")(padded(setting.device)[0])
    except ValueError as error:
        return {"not said": Measured(float(reason not in str(error)), 0)}
    return {"not said": Measured(1, 0)}
