"""LayerNorm in 16 bits where autocast would compute it in float32."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert_lightning.model.layers.autograd import without_autocast

# Devices whose bfloat16 autocast keeps float32 between the layers. Other devices keep bfloat16, as MosaicBERT does
# (Portes et al. 2023, arXiv 2312.17482, section 3.1): half the memory traffic, and no casts before each product.
_WIDE_DEVICES = {"cpu"}


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm of (..., H). Under bfloat16 autocast on an accelerator, its output is bfloat16.

    Mean and variance are computed in float32 on every device. The residual sums of a block begin and end with a
    LayerNorm, so they are bfloat16 then too.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        if not _computes_in_bfloat16(hidden):
            return super().forward(hidden)
        kind = torch.bfloat16
        with without_autocast(hidden):
            weight, bias = self.weight.to(kind), self.bias.to(kind)
            return F.layer_norm(hidden.to(kind), self.normalized_shape, weight, bias, self.eps)


def _computes_in_bfloat16(hidden: Tensor) -> bool:
    device = hidden.device.type
    if device in _WIDE_DEVICES or not torch.amp.is_autocast_available(device):
        return False
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
