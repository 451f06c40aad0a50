"""A model as an ONNX file, for runtimes without Python or PyTorch. Needs the extra `onnx`."""

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.model.task_models import BertForMultipleChoice

INPUTS = ("input_ids", "token_type_ids", "attention_mask")
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_OPSET = 20
_NUM_CHOICES = 3


class _Outputs(nn.Module):
    """All outputs of a model as a flat tuple, without those that are None."""

    def __init__(self, model: PretrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        output = self.model(input_ids, token_type_ids, attention_mask)
        return (output,) if isinstance(output, Tensor) else tuple(part for part in output if part is not None)


def export_onnx(model: PretrainedModel, path: Path) -> dict[str, float]:
    """Write `path` and compare what onnxruntime computes with it with what the model computes.

    Inputs are int64 `input_ids`, `token_type_ids` and `attention_mask`, (B, S) of any B and any S up to the model's
    positions; (B, K, S) for multiple choice. Outputs have the names of the model's own, or `logits`.

    Returns:
        output name -> the largest difference over the largest value, on inputs of two shapes other than the one
        that was traced.

    Raises:
        ModuleNotFoundError: one of `PACKAGES` is not installed.
    """
    import onnxruntime

    was_training, attention = model.training, model.backbone.attention
    model.eval()
    model.backbone.attention = "sdpa"
    dimensions = {
        0: torch.export.Dim("batch"),
        1: torch.export.Dim("sequence", max=model.config.max_position_embeddings),
    }
    if isinstance(model, BertForMultipleChoice):
        dimensions = {0: dimensions[0], 1: torch.export.Dim("choices"), 2: dimensions[1]}
    names = _output_names(model)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            torch.onnx.export(
                _Outputs(model),
                _sample(model, 2, 7),
                str(path),
                input_names=list(INPUTS),
                output_names=names,
                dynamic_shapes=(dimensions,) * len(INPUTS),
                dynamo=True,
                opset_version=_OPSET,
                external_data=False,
                verbose=False,
            )
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            differences = dict.fromkeys(names, 0.0)
            for batch_size, length in ((1, 1), (3, min(12, model.config.max_position_embeddings))):
                sample = _sample(model, batch_size, length)
                given = dict(zip(INPUTS, (tensor.numpy() for tensor in sample), strict=True))
                for name, ours, theirs in zip(
                    names, _Outputs(model)(*sample), session.run(names, given), strict=True
                ):
                    expected = ours.float().numpy()
                    difference = float(np.abs(expected - theirs).max() / max(np.abs(expected).max(), 1e-6))
                    # Not max(), which would leave out what is not a number.
                    differences[name] = float(np.maximum(differences[name], difference))
    finally:
        model.train(was_training)
        model.backbone.attention = attention
    return differences


def _sample(model: PretrainedModel, batch_size: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids in which the last row is padded by a third."""
    length = min(length, model.config.max_position_embeddings)
    shape = (batch_size, _NUM_CHOICES, length) if isinstance(model, BertForMultipleChoice) else (batch_size, length)
    ids = torch.arange(batch_size * length).view(batch_size, length) * 7 % model.config.vocab_size
    segments = (torch.arange(length) >= length // 2).long().expand(batch_size, -1)
    # A model of single texts has the first segment alone.
    segments = segments.clamp(max=model.config.type_vocab_size - 1)
    mask = torch.ones_like(ids)
    mask[-1, length - length // 3 :] = 0
    sample = [
        tensor.view(batch_size, *(1,) * (len(shape) - 2), length).expand(shape) for tensor in (ids, segments, mask)
    ]
    return sample[0].contiguous(), sample[1].contiguous(), sample[2].contiguous()


def _output_names(model: PretrainedModel) -> list[str]:
    with torch.no_grad():
        output = model(*_sample(model, 1, 2))
    if isinstance(output, Tensor):
        return ["logits"]
    return [name for name, value in output._asdict().items() if value is not None]
