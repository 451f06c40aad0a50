"""Parameter names: ours on one side, those of transformers' BERT on the other.

Ours differ in two ways: shorter names, and one fused matrix `query_key_value` in place of three (rows in the
order query, key, value).
"""

import re

import torch
from torch import Tensor

# Ours -> transformers'. `{}` is the layer number.
_FIXED = {
    "encoder.embeddings.word.weight": "bert.embeddings.word_embeddings.weight",
    "encoder.embeddings.position.weight": "bert.embeddings.position_embeddings.weight",
    "encoder.embeddings.token_type.weight": "bert.embeddings.token_type_embeddings.weight",
    "encoder.embeddings.layer_norm.weight": "bert.embeddings.LayerNorm.weight",
    "encoder.embeddings.layer_norm.bias": "bert.embeddings.LayerNorm.bias",
    "encoder.pooler.weight": "bert.pooler.dense.weight",
    "encoder.pooler.bias": "bert.pooler.dense.bias",
    "mlm_head.dense.weight": "cls.predictions.transform.dense.weight",
    "mlm_head.dense.bias": "cls.predictions.transform.dense.bias",
    "mlm_head.layer_norm.weight": "cls.predictions.transform.LayerNorm.weight",
    "mlm_head.layer_norm.bias": "cls.predictions.transform.LayerNorm.bias",
    "mlm_head.bias": "cls.predictions.bias",
    "mlm_head.decoder.weight": "cls.predictions.decoder.weight",
    "nsp_head.weight": "cls.seq_relationship.weight",
    "nsp_head.bias": "cls.seq_relationship.bias",
    "span_head.weight": "qa_outputs.weight",
    "span_head.bias": "qa_outputs.bias",
    "classifier.weight": "classifier.weight",
    "classifier.bias": "classifier.bias",
}
_LAYER = {
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
_QUERY_KEY_VALUE = ("query", "key", "value")
_FIXED_BACK = {theirs: ours for ours, theirs in _FIXED.items()}
_LAYER_BACK = {theirs: ours for ours, theirs in _LAYER.items()}
# Tables of position numbers, which hold nothing of their own, and the decoder's copies of tied parameters.
_DERIVED = re.compile(r".*\.(position_ids|token_type_ids)$")
_DECODER, _DECODER_BIAS = "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"
_WORDS, _BIAS = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"


def to_huggingface(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename our tensors to transformers' names, splitting the fused projection into its three parts."""
    theirs = {}
    for name, tensor in tensors.items():
        layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(\w+)\.(weight|bias)", name)
        if name in _FIXED:
            theirs[_FIXED[name]] = tensor
        elif layer and layer[2] == "query_key_value":
            for part, piece in zip(_QUERY_KEY_VALUE, tensor.chunk(3), strict=True):
                key = f"bert.encoder.layer.{layer[1]}.attention.self.{part}.{layer[3]}"
                theirs[key] = piece.contiguous()
        elif layer and layer[2] in _LAYER:
            theirs[f"bert.encoder.layer.{layer[1]}.{_LAYER[layer[2]]}.{layer[3]}"] = tensor
        else:
            theirs[name] = tensor
    if _DECODER in theirs:
        # transformers gives an untied decoder a bias of its own in place of the other one.
        theirs[_DECODER_BIAS] = theirs[_BIAS]
    return theirs


def from_huggingface(tensors: dict[str, Tensor], tied: bool = True) -> dict[str, Tensor]:
    """Rename transformers' tensors (with or without the prefix `bert.`) to ours; unknown names stay as they are.

    `tied`: the MLM decoder is the word embedding matrix, so a copy of it in the file is left out.

    Raises:
        ValueError: two names of one parameter with different values, or query, key and value that are no three of a
            kind; the message names the parameter.
    """
    theirs = _untied(_canonical(tensors), tied)
    ours: dict[str, Tensor] = {}
    attention: dict[str, dict[str, Tensor]] = {}
    for name, tensor in theirs.items():
        self_attention = re.fullmatch(r"bert\.encoder\.layer\.(\d+)\.attention\.self\.(\w+)\.(weight|bias)", name)
        layer = re.fullmatch(r"bert\.encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", name)
        if name in _FIXED_BACK:
            ours[_FIXED_BACK[name]] = tensor
        elif self_attention and self_attention[2] in _QUERY_KEY_VALUE:
            key = f"encoder.layers.{self_attention[1]}.query_key_value.{self_attention[3]}"
            attention.setdefault(key, {})[self_attention[2]] = tensor
        elif layer and layer[2] in _LAYER_BACK:
            ours[f"encoder.layers.{layer[1]}.{_LAYER_BACK[layer[2]]}.{layer[3]}"] = tensor
        else:
            ours[name] = tensor
    for key, parts in attention.items():
        missing = [part for part in _QUERY_KEY_VALUE if part not in parts]
        if missing:
            raise ValueError(f"{key}: the part '{missing[0]}' is missing")
        shapes = {part: tuple(parts[part].shape) for part in _QUERY_KEY_VALUE}
        if len(set(shapes.values())) > 1 or () in shapes.values():
            raise ValueError(f"{key}: the parts have the shapes {shapes}, which must be one")
        ours[key] = torch.cat([parts[part] for part in _QUERY_KEY_VALUE])
    return ours


def _canonical(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The present names with the prefix `bert.`, without what is derived."""
    bare = not any(name.startswith("bert.") for name in tensors)
    canonical: dict[str, Tensor] = {}
    for original, tensor in tensors.items():
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", original)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        if bare and name.startswith(("embeddings.", "encoder.", "pooler.")):
            name = f"bert.{name}"
        if _DERIVED.match(name):
            continue
        if name in canonical:
            raise ValueError(f"{original} is there twice, also under another name")
        canonical[name] = tensor
    return canonical


def _untied(tensors: dict[str, Tensor], tied: bool) -> dict[str, Tensor]:
    """Leave out the decoder's copies of tied parameters; an untied decoder's own bias takes the other one's place."""
    tensors = dict(tensors)
    if tied:
        for copy, name in ((_DECODER, _WORDS), (_DECODER_BIAS, _BIAS)):
            if copy in tensors and name in tensors and not torch.equal(tensors[copy], tensors[name]):
                raise ValueError(
                    f"{copy} differs from {name}, though tie_word_embeddings makes them one: false would use both"
                )
        tensors.pop(_DECODER, None)
    if _DECODER_BIAS in tensors:
        tensors[_BIAS] = tensors.pop(_DECODER_BIAS)
    return tensors


def from_tensorflow(variables: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the variables of google-research/bert to transformers' names; what is no weight is left out.

    Dense kernels are transposed: TensorFlow multiplies from the left. Sources: `modeling.py`, `run_pretraining.py`,
    `run_classifier.py`, `run_squad.py`.
    """
    theirs = {}
    for original, tensor in variables.items():
        if not re.match(r"(bert/|cls/|output_(weights|bias)$)", original) or re.search(
            r"/(adam_[mv]|Adam(_1)?)$", original
        ):
            continue
        name = original.replace("/", ".").replace("layer_", "layer.")
        name = re.sub(r"^cls\.squad\.output_", "qa_outputs.", name)
        name = re.sub(r"^output_", "classifier.", name)
        name = name.replace("cls.predictions.output_bias", "cls.predictions.bias").replace("output_weights", "weight")
        name = name.replace("output_bias", "bias").replace("weights", "weight")
        name = re.sub(r"_embeddings$", "_embeddings.weight", name)
        if name.endswith(".kernel"):
            name, tensor = f"{name.removesuffix('.kernel')}.weight", tensor.T.contiguous()
        theirs[name] = tensor
    return theirs
