"""Setting of the GPU checks: the device, the small model and its inputs, and how far results may differ."""

from typing import NamedTuple

import torch
from torch import Tensor

from bert_lightning.model import BertConfig, BertEncoder
from bert_lightning.model.layers.attention import AttentionName, varlen_obstacle
from bert_lightning.model.layers.packing import Packing, real_tokens

VOCAB_SIZE, LENGTHS = 97, (50, 64, 1, 17)
# bfloat16 has 8 bits of precision, and two layers add numbers in another order.
BF16 = 3e-2


class Setting(NamedTuple):
    """Device of a check, and whether it runs in its quick form."""

    device: torch.device
    quick: bool = False


class Measured(NamedTuple):
    """A figure and its upper limit."""

    value: float
    limit: float

    @property
    def ok(self) -> bool:
        """The figure is within its limit; not-a-number never is."""
        return self.value <= self.limit


class UnsuitableError(Exception):
    """Reason why a check cannot run on this device."""


Figures = dict[str, Measured]


def config_of(size: str = "small", dropout: float = 0.0) -> BertConfig:
    """Return a model of two layers with the width of a preset. Heads are 64 wide, as published."""
    return BertConfig.preset(
        size,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=64,
        num_hidden_layers=2,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )


def padded(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return padded inputs: ids, segments and mask, (B, S) each."""
    torch.manual_seed(0)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(5, VOCAB_SIZE, mask.shape)
    segments = (torch.arange(mask.shape[1]) >= 2).long().repeat(len(LENGTHS), 1)
    return ids.to(device), segments.to(device), mask.to(device)


def packed(device: torch.device) -> tuple[Tensor, Tensor, None, Packing]:
    """Return the same inputs packed: ids (T,), segments (T,), no mask, and the packing."""
    ids, segments, mask = padded(device)
    positions, packing = real_tokens(mask)
    return ids.flatten()[positions], segments.flatten()[positions], None, packing


def encoder(device: torch.device, attention: AttentionName = "auto") -> BertEncoder:
    """Return an encoder that always has the same weights."""
    torch.manual_seed(0)
    model = BertEncoder(config_of()).to(device)
    model.attention = attention
    return model


def backends(device: torch.device) -> list[AttentionName]:
    """Return the attention backends that can run in bfloat16 on a device."""
    has_varlen = varlen_obstacle(device, torch.bfloat16, 64) is None
    return ["eager", "sdpa", *(["varlen"] if has_varlen else []), "auto"]  # type: ignore[list-item]


def autocast(device: torch.device) -> torch.autocast:
    """Return the autocast context of `bf16-mixed`."""
    return torch.autocast(device.type, torch.bfloat16)


def distance(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference, absolute for small values and relative for large ones."""
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    return float(((actual - expected).abs() / (1 + expected.abs())).max())


def require_cuda(setting: Setting, reason: str) -> None:
    """Refuse a device without CUDA.

    Raises:
        UnsuitableError: the device is a processor.
    """
    if setting.device.type != "cuda":
        raise UnsuitableError(reason)


def require_compiler(setting: Setting) -> None:
    """Refuse to compile in the quick form, and forget earlier compilations otherwise.

    Raises:
        UnsuitableError: the form is quick.
    """
    if setting.quick:
        raise UnsuitableError("nothing is compiled with --quick")
    torch._dynamo.reset()
