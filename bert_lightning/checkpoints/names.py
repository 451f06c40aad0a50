"""Translation of parameter names between our models, transformers' BERT and the original TensorFlow code.

Our names are shorter than those of transformers. One fused matrix `query_key_value` replaces three; its rows are in
the order query, key, value.
"""

import re
from typing import TypeVar

import torch
from torch import Tensor

_Entry = TypeVar("_Entry")

# Ours -> transformers'.
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
_SELF_ATTENTION = {f"attention.self.{name}": name for name in _QUERY_KEY_VALUE}
# Parameters that only our own models have. They keep our names in a folder that transformers refuses.
_OWN = {
    f"encoder.{module}.{kind}" for module in ("embeddings.projection", "final_norm") for kind in ("weight", "bias")
}
_LAYER_NAME = re.compile(r"bert\.encoder\.layer\.(\d+)\.(.+)\.(weight|bias)")
_DECODER, _DECODER_BIAS = "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"
_TABLE = "embeddings.word_embeddings.weight"
_WORDS, _BIAS = f"bert.{_TABLE}", "cls.predictions.bias"
CONTRADICTIONS = {_FIXED_BACK[_DECODER]: (_DECODER, _WORDS), _DECODER_BIAS: (_DECODER_BIAS, _BIAS)}
"""our name of a copy that may contradict a tied parameter -> the names of the copy and the parameter in the file"""

# Buffers, recognised by the last part of their name. transformers 3.1 to 4.30 wrote `position_ids` into every BERT.
# `num_batches_tracked` counts in torch's BatchNorm, `n_averaged` in its averaged models (`torch.optim.swa_utils`).
# `_extra_state` is torch's key for the state of a module besides its tensors; Transformer Engine keeps float8 scales
# there. `masked_bias` is a constant of transformers' GPT-2.
_BUFFER = re.compile(
    r"(?:.*[./])?(?:position_ids|token_type_ids|num_batches_tracked|n_averaged|_extra_state|masked_bias)"
)
# Components that torch and Lightning insert anywhere in a name. They compute nothing.
_INNER_WRAPPER = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
# Components that libraries put in front of the encoder: DataParallel, DDP and DeepSpeed (`module`), Lightning and
# others (`model`), PEFT (`base_model.model`), sentence-transformers (`0.auto_model`, `0.bert`), and classes that hold
# an encoder as an attribute.
_OUTER_WRAPPERS = ("module", "model", "base_model", "0", "auto_model", "bert", "bert_model", "encoder", "backbone")
_OUTER_WRAPPER = re.compile(rf"^(?:(?:{'|'.join(_OUTER_WRAPPERS)})\.)*?(?=bert\.|embeddings\.|encoder\.layer\.)")
_ENCODER_MODULES = ("embeddings.", "encoder.", "pooler.")
# Components of tensors that are outside the encoder and still change its result: prompts and prefixes of PEFT,
# P-tuning and `adapters`; adapters that all layers share; tables of relative or additional positions; additional or
# projected embeddings of other families (ERNIE, ELECTRA, ALBERT).
_BESIDE_THE_ENCODER = re.compile(
    r"(?:^|[./])(?:(?:prompt|prefix)(?:_\w+)?|soft_prompts?|invertible_adapters|shared_parameters|adapters"
    r"|rel_pos_bias|rel_embeddings|relative_\w+|distance_embedding|rotary_\w+|inv_freq|\w*position_embeddings"
    r"|task_type_embeddings|embeddings_project|embedding_hidden_mapping_in)(?=[./]|$)"
)
# Variables that are not weights in TensorFlow's training: counters, and the optimiser's slots of each variable.
_TENSORFLOW_STATE = re.compile(
    r"(?:.*/)?(?:global_step|beta[12]_power|(?:current_)?loss_scale|good_steps|(?:adam|lamb|lars)_[mv]"
    r"|Adam\w*|LAMB\w*|Momentum|RMSProp|Adagrad|Adadelta|Ftrl|ExponentialMovingAverage)(?:_\d+)?"
)


def without_buffers(entries: dict[str, _Entry]) -> dict[str, _Entry]:
    """Return the entries without buffers, which are recognised by name. Their type and prefix do not matter."""
    return {name: entry for name, entry in entries.items() if not _BUFFER.fullmatch(name)}


def to_huggingface(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename our tensors to transformers' names, splitting the fused projection into its three matrices."""
    theirs = {}
    for name, tensor in tensors.items():
        layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(\w+)\.(weight|bias)", name)
        if name in _FIXED:
            theirs[_FIXED[name]] = tensor
        elif layer and layer[2] == "query_key_value":
            for which, matrix in zip(_QUERY_KEY_VALUE, tensor.chunk(3), strict=True):
                key = f"bert.encoder.layer.{layer[1]}.attention.self.{which}.{layer[3]}"
                theirs[key] = matrix.contiguous()
        elif layer and layer[2] in _LAYER:
            theirs[f"bert.encoder.layer.{layer[1]}.{_LAYER[layer[2]]}.{layer[3]}"] = tensor
        else:
            theirs[name] = tensor
    if _DECODER in theirs:
        # In transformers an untied decoder has its own bias instead of the other one.
        theirs[_DECODER_BIAS] = theirs[_BIAS]
    return theirs


def from_huggingface(tensors: dict[str, Tensor], tied: bool = True, own: bool = False) -> dict[str, Tensor]:
    """Rename transformers' tensors to ours; unknown names outside the encoder stay unchanged.

    The encoder may be under `bert.` or not, after prefixes of wrappers. If `tied`, the MLM decoder is the word
    embedding matrix, so a copy of it in the file is left out. A copy that differs is kept; it makes only the MLM head
    unusable. In a folder with a model that transformers lacks (`own`), names that begin with `encoder.` are ours.
    Those of custom parts are an example.

    Raises:
        ValueError: a tensor that BERT does not have would change the encoder's result; there are two encoders, or one
            under an unknown prefix; a parameter of the encoder has two names; query, key and value differ in shape,
            or one is missing. The message names the tensor.
    """
    of_parts = {name: tensor for name, tensor in tensors.items() if own and name.startswith("encoder.")}
    others = {name: tensor for name, tensor in tensors.items() if name not in of_parts}
    theirs = _untied(_canonical(without_buffers(others)), tied) | of_parts
    ours: dict[str, Tensor] = {}
    attention: dict[str, dict[str, Tensor]] = {}

    def put(our_name: str, tensor: Tensor) -> None:
        if our_name in ours:
            raise ValueError(f"{our_name} occurs twice, also under another name")
        ours[our_name] = tensor

    for name, tensor in theirs.items():
        layer = _LAYER_NAME.fullmatch(name)
        if name in _FIXED_BACK:
            put(_FIXED_BACK[name], tensor)
        elif layer and layer[2] in _SELF_ATTENTION:
            key = f"encoder.layers.{layer[1]}.query_key_value.{layer[3]}"
            attention.setdefault(key, {})[_SELF_ATTENTION[layer[2]]] = tensor
        elif layer and layer[2] in _LAYER_BACK:
            put(f"encoder.layers.{layer[1]}.{_LAYER_BACK[layer[2]]}.{layer[3]}", tensor)
        else:
            put(name, tensor)
    for key, matrices in attention.items():
        missing = [which for which in _QUERY_KEY_VALUE if which not in matrices]
        if missing:
            raise ValueError(f"{key}: the matrix '{missing[0]}' is missing")
        shapes = {which: tuple(matrices[which].shape) for which in _QUERY_KEY_VALUE}
        if len(set(shapes.values())) > 1 or () in shapes.values():
            raise ValueError(f"{key}: the matrices have the shapes {shapes}; they must be equal")
        put(key, torch.cat([matrices[which] for which in _QUERY_KEY_VALUE]))
    return ours


def _canonical(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors to transformers' current names with the prefix `bert.`, without wrappers.

    Raises:
        ValueError: as `from_huggingface`.
    """
    inner = {original: _INNER_WRAPPER.sub("", original) for original in tensors}
    wrapper, bare = _wrapper(inner)
    canonical: dict[str, Tensor] = {}
    for original, tensor in tensors.items():
        name = original
        if name not in _OWN:
            # Remove other wrappers than that of the file's encoder too. Otherwise an encoder parameter under one of
            # them would count as part of a head.
            name = _present(_OUTER_WRAPPER.sub("", inner[original].removeprefix(wrapper), count=1))
            if bare and name.startswith(_ENCODER_MODULES):
                name = f"bert.{name}"
            _require_bert_parameter(name, original)
        if name in canonical:
            raise ValueError(f"{original} occurs twice, also under another name")
        canonical[name] = tensor
    return canonical


def _present(name: str) -> str:
    """Return the current name of a LayerNorm's parameter; until 2018 transformers used TensorFlow's names."""
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name))


def _wrapper(inner: dict[str, str]) -> tuple[str, bool]:
    """Find the prefix before `bert.`, or before the encoder's own names if there is no `bert.`.

    The name of the word embeddings decides: every encoder has them, and nothing else has that name.

    Args:
        inner: name in the file -> the same name without inner wrappers.

    Returns:
        The prefix, and whether the encoder's names follow it without `bert.`.

    Raises:
        ValueError: there are two encoders, or the prefix is not that of a known wrapper.
    """
    tables = [original for original, name in inner.items() if f".{name}".endswith(f".{_TABLE}")]
    if len(tables) > 1:
        raise ValueError(f"{tables[0]} and {tables[1]} belong to two encoders, and only one can be read")
    if not tables:
        return "", not any(name.startswith("bert.") for name in inner.values())
    prefix = inner[tables[0]].removesuffix(_TABLE)
    components = prefix.split(".")[:-1]
    if any(component not in _OUTER_WRAPPERS for component in components):
        raise ValueError(
            f"{tables[0]}: the encoder is under {prefix!r}; it may be under 'bert.' or nothing, after any of "
            f"{', '.join(f'{wrapper}.' for wrapper in _OUTER_WRAPPERS)}"
        )
    bare = components[-1:] != ["bert"]
    return (prefix if bare else prefix.removesuffix("bert.")), bare


def _require_bert_parameter(name: str, original: str) -> None:
    """Refuse a tensor that changes the encoder's result and is not one of BERT's parameters.

    Raises:
        ValueError: it is such a tensor; the message uses `original`, its name in the file.
    """
    layer = _LAYER_NAME.fullmatch(name)
    if name in _FIXED_BACK or (layer and (layer[2] in _SELF_ATTENTION or layer[2] in _LAYER_BACK)):
        return
    if name.startswith(("bert.", "embeddings.", "encoder.layer.")):
        raise ValueError(
            f"{original} is in the encoder, but is not a parameter of BERT: without it, the encoder would compute "
            "something different"
        )
    if _BESIDE_THE_ENCODER.search(name):
        raise ValueError(
            f"{original} changes what the encoder computes, and is not a parameter of BERT: without it, the encoder "
            "would compute something different"
        )


def _untied(tensors: dict[str, Tensor], tied: bool) -> dict[str, Tensor]:
    """Leave out the decoder's copies of tied parameters; the bias of an untied decoder replaces the head's bias.

    A copy that differs is kept, so that the encoder can be read; `CONTRADICTIONS` has its name.
    """
    tensors = dict(tensors)
    different = [
        copy
        for copy, name in CONTRADICTIONS.values()
        if tied and copy in tensors and name in tensors and not torch.equal(tensors[copy], tensors[name])
    ]
    if tied and _DECODER not in different:
        tensors.pop(_DECODER, None)
    if _DECODER_BIAS in tensors and _DECODER_BIAS not in different:
        tensors[_BIAS] = tensors.pop(_DECODER_BIAS)
    return tensors


def from_tensorflow(variables: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the variables of google-research/bert to transformers' names; leave out those of the optimiser.

    Dense kernels are transposed: TensorFlow multiplies from the left. Sources: `modeling.py`, `run_pretraining.py`,
    `run_classifier.py`, `run_squad.py`. Other floating-point variables, such as those of additional heads, keep
    their names. Other integer variables are counters of the training program and are left out.

    Raises:
        ValueError: a variable that BERT does not have would change the encoder's result; the message names it.
    """
    theirs = {}
    for original, tensor in without_buffers(variables).items():
        if _TENSORFLOW_STATE.fullmatch(original):
            continue
        if not re.match(r"(bert/|cls/|output_(weights|bias)$)", original):
            if tensor.is_floating_point():
                theirs[original] = tensor
            continue
        name = original.replace("/", ".").replace("layer_", "layer.")
        name = re.sub(r"^cls\.squad\.output_", "qa_outputs.", name)
        name = re.sub(r"^output_", "classifier.", name)
        name = name.replace("cls.predictions.output_bias", "cls.predictions.bias").replace("output_weights", "weight")
        name = name.replace("output_bias", "bias").replace("weights", "weight")
        name = re.sub(r"_embeddings$", "_embeddings.weight", name)
        is_kernel = name.endswith(".kernel")
        name = f"{name.removesuffix('.kernel')}.weight" if is_kernel else name
        _require_bert_parameter(_present(name), original)
        if is_kernel and tensor.ndim == 2:
            tensor = tensor.T.contiguous()
        theirs[name] = tensor
    return theirs
