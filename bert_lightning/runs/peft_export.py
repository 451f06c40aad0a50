"""The format `peft`: what a tuning added, as PEFT reads it.

PEFT adds it to transformers' BERT, which has separate matrices for query, key and value.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from bert_lightning.checkpoints import hub
from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.files import write_json, write_safetensors
from bert_lightning.checkpoints.huggingface import is_huggingface_folder
from bert_lightning.checkpoints.model_card import write_card
from bert_lightning.checkpoints.names import to_huggingface
from bert_lightning.checkpoints.tokenizers.tokenizer_files import write_vocabulary
from bert_lightning.errors import InputError
from bert_lightning.model.pretrained import ENCODER, POOLER, config_of
from bert_lightning.model.tuning import TUNINGS, Dora, Ia3, Lora, Tuning, saved_tuning
from bert_lightning.model.tuning.dora import MAGNITUDE, Decomposed
from bert_lightning.model.tuning.ia3 import SCALE, ScaledInputs
from bert_lightning.model.tuning.lora import A, B

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# PEFT's `TaskType` for each class of transformers; it has none for multiple choice.
_TASK_TYPES = {
    "BertForSequenceClassification": "SEQ_CLS",
    "BertForTokenClassification": "TOKEN_CLS",
    "BertForQuestionAnswering": "QUESTION_ANS",
    "BertForMultipleChoice": None,
}
_MODEL = "base_model.model."
# Our names of the added parameters -> PEFT's.
_NAMES = {A: "lora_A.weight", B: "lora_B.weight", MAGNITUDE: "lora_magnitude_vector", SCALE: "ia3_l"}


def write_peft(source: str, checkpoint: Checkpoint, architecture: str, folder: Path) -> list[str]:
    """Write a folder that `PeftModel.from_pretrained` opens over the base, and return lines that report it.

    The head and a new pooler are in it too, under PEFT's `modules_to_save`. Equal checkpoints give identical files.

    Args:
        source: the checkpoint's name, for messages.
        checkpoint: a tuned one, with the tensors of its base.
        architecture: transformers' class of its model.
        folder: where to write; it exists.

    Raises:
        InputError: PEFT has no such tuning or head, there is no base, or further parameters of the encoder were
            trained.
    """
    tuning = saved_tuning(checkpoint)
    base, known = checkpoint.base, [name for name, cls in TUNINGS.items() if issubclass(cls, Lora | Ia3)]
    if type(tuning) not in {TUNINGS[name] for name in known}:
        name = (checkpoint.tuning or {"name": "full"})["name"]
        raise InputError(f"--format peft is for the tunings {', '.join(known)}, and {source} has {name}")
    if architecture not in _TASK_TYPES:
        raise InputError(
            f"--format peft has no form for the head of {architecture}: use --format huggingface --merge"
        )
    if base is None:
        raise InputError(f"--format peft needs a pre-trained base, and {source} began with random weights")
    assert isinstance(tuning, Lora | Ia3)
    own = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in set(base.names)}
    added = {name: own.pop(name) for name in list(own) if name.rpartition(".")[2] in _NAMES}
    others = [name for name in own if name.startswith(ENCODER) and not name.startswith(POOLER)]
    if others:
        raise InputError(
            f"--format peft keeps the base as it is, but {others[0]} of {source} differs from it: use --format "
            "huggingface --merge"
        )
    kept = to_huggingface(own)
    tensors = dict(_tensors(tuning, added, checkpoint, config_of(checkpoint).num_hidden_layers)) | kept
    payload = {f"{_MODEL}{name}": tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    write_safetensors(folder / WEIGHTS, save(payload, metadata={"format": "pt"}))
    if checkpoint.vocabulary is not None:
        write_vocabulary(checkpoint.vocabulary, folder, checkpoint.config.get("max_position_embeddings"))
    place, revision = _place(base.name, base.path)
    usage = f"Open it with PEFT over {place}, as {architecture} with {_num_labels(checkpoint)} labels."
    write_card(checkpoint, architecture, folder, published=True, notes=[usage])
    modules = sorted({"pooler" if ".pooler." in name else name.split(".")[0] for name in kept})
    write_json(
        folder / CONFIG,
        {
            "base_model_name_or_path": place,
            "revision": revision,
            "task_type": _TASK_TYPES[architecture],
            "modules_to_save": modules,
            "inference_mode": True,
            "fan_in_fan_out": False,
            **_settings(tuning),
        },
    )
    is_open = revision is not None or is_huggingface_folder(Path(place))
    hint = f"transformers cannot open {place}: export it with --format huggingface, and open the adapter over that"
    return [usage] if is_open else [usage, hint]


def _num_labels(checkpoint: Checkpoint) -> int:
    return next((len(tensor) for name, tensor in checkpoint.tensors.items() if name.endswith("classifier.bias")), 2)


def _place(name: str, path: str) -> tuple[str, str | None]:
    """Return where the base is, as `from_pretrained` takes it, and the revision of a model on the hub."""
    bare, _, revision = name.removeprefix(hub.PREFIX).partition("@")
    return (bare, revision) if revision and hub.is_hub_name(name) else (path, None)


def _modules(number: int | str, layer: str) -> list[str]:
    """Return transformers' modules of a layer of a block: three for query, key and value."""
    name = f"encoder.layers.{number}.{layer}.weight"
    return [theirs.removesuffix(".weight") for theirs in to_huggingface({name: torch.empty(3)})]


def _adapted(tuning: Lora | Ia3) -> dict[str, list[str]]:
    """Return the adapted modules of transformers' block, by the name of our layer."""
    return {
        layer: [_modules(0, layer)[part].partition("layer.0.")[2] for part in change.adapted]
        for layer, change in tuning.changes().items()
    }


def _pattern(modules: list[str]) -> str:
    """Return a regular expression for the full names of modules of all blocks."""
    return rf".*\.encoder\.layer\.\d+\.({'|'.join(module.replace('.', '[.]') for module in modules)})"


def _settings(tuning: Tuning) -> dict[str, object]:
    assert isinstance(tuning, Lora | Ia3)
    adapted = _adapted(tuning)
    target_modules = _pattern([module for modules in adapted.values() for module in modules])
    if isinstance(tuning, Ia3):
        inner = [layer for layer, change in tuning.changes().items() if isinstance(change, ScaledInputs)]
        feed_forward = _pattern([module for layer in inner for module in adapted[layer]])
        return {"peft_type": "IA3", "target_modules": target_modules, "feedforward_modules": feed_forward}
    return {
        "peft_type": "LORA",
        "target_modules": target_modules,
        "r": tuning.rank,
        "lora_alpha": tuning.alpha,
        "lora_dropout": tuning.dropout,
        "use_dora": isinstance(tuning, Dora),
        "bias": "none",
    }


def _tensors(
    tuning: Lora | Ia3, added: Mapping[str, Tensor], checkpoint: Checkpoint, num_layers: int
) -> Iterator[tuple[str, Tensor]]:
    """Yield the added parameters for each of transformers' matrices, under PEFT's names."""
    for number in range(num_layers):
        for layer, change in tuning.changes().items():
            prefix = f"encoder.layers.{number}.{layer}."
            own = {name.removeprefix(prefix): tensor for name, tensor in added.items() if name.startswith(prefix)}
            if isinstance(change, Decomposed):
                own[MAGNITUDE] = change.lengths(checkpoint.tensors[f"{prefix}weight"], own).to(own[A].dtype)
            modules = [_modules(number, layer)[part] for part in change.adapted]
            for name, values in own.items():
                for module, part in zip(modules, values.chunk(len(modules)), strict=True):
                    if name == SCALE:
                        # PEFT multiplies a row of inputs, or a column of outputs.
                        part = part[None] if isinstance(change, ScaledInputs) else part[:, None]
                    yield f"{module}.{_NAMES[name]}", part
