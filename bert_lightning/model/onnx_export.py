"""Export of a model as an ONNX file, for runtimes without Python or PyTorch. It needs the extra `onnx`."""

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bert_lightning.model.layers.attention import ATTENTIONS, takes_packed
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.model.task_models import BertForMultipleChoice, BertForRelationClassification

if TYPE_CHECKING:
    import onnx_ir

INPUTS = ("input_ids", "token_type_ids", "attention_mask")
CRF_OUTPUTS = ("crf_starts", "crf_transitions", "crf_ends")
"""scores (L,) of the first tag, (L, L) of transitions from the tag of a row to that of a column, (L,) of the last"""
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_OPSET = 20
_NUM_CHOICES = 3


class _Outputs(nn.Module):
    """All outputs of a model as a flat tuple, without those that are None."""

    def __init__(self, model: PretrainedModel) -> None:
        super().__init__()
        self.model = model
        crf = getattr(model, "crf", None)
        self.num_scores = 0 if crf is None else len(CRF_OUTPUTS)
        if crf is not None:
            with torch.no_grad():
                for name, scores in zip(CRF_OUTPUTS, crf.decoding_scores(), strict=True):
                    self.register_buffer(name, scores)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        output = self.model(input_ids, token_type_ids, attention_mask)
        tensors = (output,) if isinstance(output, Tensor) else tuple(each for each in output if each is not None)
        return (*tensors, *(self.get_buffer(name).clone() for name in CRF_OUTPUTS[: self.num_scores]))


def onnx_obstacle(model: PretrainedModel) -> str | None:
    """Return the setting that prevents the export of a model, with the reason; None if it can be exported."""
    if isinstance(model, BertForRelationClassification):
        return "entity markers, but the inputs of an ONNX file are ids and masks, which do not locate the entities"
    config = model.config
    if config.has_own_attention and takes_packed(ATTENTIONS[config.attention]):
        return f"the attention {config.attention} of packed sequences, but the inputs of an ONNX file are padded"
    return None


def export_onnx(model: PretrainedModel, path: Path) -> dict[str, float]:
    """Write an ONNX file and compare the results of onnxruntime with those of the model.

    The inputs are int64 `input_ids`, `token_type_ids` and `attention_mask`: (B, S) with any B and any S up to the
    number of the model's positions, or (B, K, S) for multiple choice. The outputs have the names of the model's
    outputs, or `logits`.

    A tagger with a CRF also outputs `LinearChainCRF.decoding_scores` as `CRF_OUTPUTS`, which do not depend on the
    input. Its tags follow from them and the logits by the Viterbi algorithm. The algorithm is not part of the file,
    because the inputs do not say which positions have a tag.

    Equal models give identical files in any folder and process, with the same version of torch.

    Returns:
        output name -> the largest difference divided by the largest value, on inputs of two shapes that were not
        traced.

    Raises:
        ModuleNotFoundError: one of `PACKAGES` is not installed.
        ValueError: the model has an `onnx_obstacle`, or a custom part that cannot be traced.
    """
    import onnxruntime  # noqa: F401

    obstacle = onnx_obstacle(model)
    if obstacle is not None:
        raise ValueError(f"the model cannot be exported: it has {obstacle}")
    was_training, attention = model.training, model.backbone.attention
    model.eval()
    model.backbone.attention = "auto" if model.config.has_own_attention else "sdpa"
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = _output_names(model)
            own = [*model.config.own_parts, *(["head"] if "head" in model.head_settings else [])]
            try:
                _write(model, path, names)
            except Exception as error:
                if not own:
                    raise
                raise ValueError(
                    f"the model cannot be exported: torch cannot trace it, and its {' and '.join(own)} are custom "
                    f"parts ({type(error).__name__})"
                ) from error
            return _compare(model, path, names)
    finally:
        model.train(was_training)
        model.backbone.attention = attention


def _write(model: PretrainedModel, path: Path, names: list[str]) -> None:
    dimensions = {
        0: torch.export.Dim("batch"),
        1: torch.export.Dim("sequence", max=model.config.max_position_embeddings),
    }
    if isinstance(model, BertForMultipleChoice):
        dimensions = {0: dimensions[0], 1: torch.export.Dim("choices"), 2: dimensions[1]}
    for library in ("torch.onnx", "onnx_ir"):
        logging.getLogger(library).setLevel(logging.ERROR)
    program = torch.onnx.export(
        _Outputs(model),
        sample_inputs(model, 2, 7),
        input_names=list(INPUTS),
        output_names=names,
        dynamic_shapes=(dimensions,) * len(INPUTS),
        dynamo=True,
        opset_version=_OPSET,
        verbose=False,
    )
    assert program is not None
    _remove_origins(program.model)
    program.save(str(path), external_data=False)


def _compare(model: PretrainedModel, path: Path, names: list[str]) -> dict[str, float]:
    """Return the largest difference of each output between the model and its file, relative to its largest value.

    Difference and largest value are those over all samples. In one sample, the only logit of a single token may be
    near 0 by chance, and a difference of rounding would then look large.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences, largest = (dict.fromkeys(names, value) for value in (0.0, 1e-6))
    for batch_size, length in ((1, 1), (3, min(12, model.config.max_position_embeddings))):
        sample = sample_inputs(model, batch_size, length)
        inputs = dict(zip(INPUTS, (tensor.cpu().numpy() for tensor in sample), strict=True))
        for name, ours, theirs in zip(names, _Outputs(model)(*sample), session.run(names, inputs), strict=True):
            expected = ours.float().cpu().numpy()
            # Not max(), which ignores NaN.
            differences[name] = float(np.maximum(differences[name], _largest_difference(expected, theirs)))
            largest[name] = float(np.abs(expected[np.isfinite(expected)]).max(initial=largest[name]))
    return {name: difference / largest[name] for name, difference in differences.items()}


def sample_inputs(model: PretrainedModel, batch_size: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, segments and a mask; a third of the last sequence is padding."""
    length = min(length, model.config.max_position_embeddings)
    shape = (batch_size, _NUM_CHOICES, length) if isinstance(model, BertForMultipleChoice) else (batch_size, length)
    ids = torch.arange(batch_size * length).view(batch_size, length) * 7 % model.config.vocab_size
    segments = (torch.arange(length) >= length // 2).long().expand(batch_size, -1)
    # A model of single texts has only one segment.
    segments = segments.clamp(max=model.config.type_vocab_size - 1)
    mask = torch.ones_like(ids)
    mask[-1, length - length // 3 :] = 0
    device = model.backbone.embeddings.word.weight.device
    sample = [
        tensor.view(batch_size, *(1,) * (len(shape) - 2), length).expand(shape).contiguous().to(device)
        for tensor in (ids, segments, mask)
    ]
    return sample[0], sample[1], sample[2]


def _output_names(model: PretrainedModel) -> list[str]:
    with torch.no_grad():
        output = model(*sample_inputs(model, 1, 2))
    names = (
        ["logits"]
        if isinstance(output, Tensor)
        else [name for name, value in output._asdict().items() if value is not None]
    )
    return [*names, *(CRF_OUTPUTS if getattr(model, "crf", None) is not None else ())]


def _largest_difference(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> float:
    """Return the largest absolute difference. Equal infinities do not differ."""
    with np.errstate(invalid="ignore"):
        return float(np.where(expected == actual, 0.0, np.abs(expected - actual)).max())


def _remove_origins(model: "onnx_ir.Model") -> None:
    """Delete the metadata on the origin of each node, because it names files of this machine."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
