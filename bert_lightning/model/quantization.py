"""ONNX files with weights of eight bits, and forward passes with onnxruntime. Both need the extra `onnx`.

This is onnxruntime's dynamic quantisation. The weights of matrix products and the embedding tables are converted
once, to integers of eight bits with a scale. The inputs of a product get a new scale in each call, one for the whole
batch.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bert_lightning.model.onnx_export import CRF_OUTPUTS, INPUTS, sample_inputs
from bert_lightning.model.pretrained import PretrainedModel


class Quantization(NamedTuple):
    """A way to turn weights into integers of eight bits. Activations are unsigned in all of them."""

    per_channel: bool
    """each output of a matrix has a scale of its own, instead of one for the matrix"""
    signed: bool
    """weights are from -128 to 127 around 0, instead of from 0 to 255 around an offset"""

    def __str__(self) -> str:
        """Return the name in reports, such as `signed int8 per channel`."""
        return f"{'signed' if self.signed else 'unsigned'} int8 per {'channel' if self.per_channel else 'matrix'}"


QUANTIZATIONS = tuple(Quantization(per_channel, signed) for per_channel in (True, False) for signed in (True, False))
"""All ways that are tried. None of them is the most exact for every model and the fastest on every processor."""


def quantize(source: Path, target: Path, quantization: Quantization) -> None:
    """Write an ONNX file of float32 as one with weights of eight bits.

    Raises:
        ModuleNotFoundError: onnx or onnxruntime is not installed.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(source))
    # The quantizer transposes weights of `Gemm`, and then refuses the shapes that torch noted for them.
    del model.graph.value_info[:]
    # It logs, on the root logger, the advice to prepare the file first. Only convolutions need that.
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)
    try:
        quantize_dynamic(
            model,
            str(target),
            per_channel=quantization.per_channel,
            weight_type=QuantType.QInt8 if quantization.signed else QuantType.QUInt8,
        )
    finally:
        root.setLevel(level)


class OnnxForward:
    """The forward pass of a model, computed by onnxruntime on the processor.

    Args:
        path: the ONNX file that `export_onnx` or `quantize` wrote.
        model: the model it was made from, whose outputs it imitates.
        num_threads: how many threads compute a matrix product.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
    """

    def __init__(self, path: Path, model: PretrainedModel, num_threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._names = [each.name for each in self._session.get_outputs() if each.name not in CRF_OUTPUTS]
        with torch.no_grad():
            self._output = model(*sample_inputs(model, 1, 2))

    def __call__(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *others: object,
        **named: object,
    ) -> object:
        """Return what the model returns for the same arguments, on the processor.

        Raises:
            ValueError: there is an argument that an ONNX file does not take.
        """
        if any(each is not None for each in (*others, *named.values())):
            raise ValueError("an ONNX file takes ids, segments and a mask, but the task gives its model more")
        tensors = (
            input_ids,
            torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
            torch.ones_like(input_ids) if attention_mask is None else attention_mask,
        )
        arrays = {name: tensor.long().cpu().numpy() for name, tensor in zip(INPUTS, tensors, strict=True)}
        values = {
            name: torch.from_numpy(array)
            for name, array in zip(self._names, self._session.run(self._names, arrays), strict=True)
        }
        if isinstance(self._output, Tensor):
            return values["logits"]
        return type(self._output)(**{name: values.get(name) for name in self._output._fields})


@contextmanager
def computed_by(model: PretrainedModel, forward: Callable[..., object] | None) -> Iterator[None]:
    """Let another function compute the forward pass of a model inside the context; None changes nothing."""
    if forward is None:
        yield
        return
    model.forward = forward
    try:
        yield
    finally:
        del model.forward
