"""All tunings by name; how one is applied to a model, and how a checkpoint names and merges its tuning."""

import dataclasses
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checks import class_path, name_in
from bert_lightning.model.tuning.adapter import Adapter
from bert_lightning.model.tuning.bitfit import BitFit
from bert_lightning.model.tuning.dora import Dora
from bert_lightning.model.tuning.ia3 import Ia3
from bert_lightning.model.tuning.layer_norm import LayerNormOnly
from bert_lightning.model.tuning.lora import Lora
from bert_lightning.model.tuning.prefix import Prefix
from bert_lightning.model.tuning.prompt import Prompt
from bert_lightning.model.tuning.top_layers import TopLayers
from bert_lightning.model.tuning.tuning import Full, Tuning

if TYPE_CHECKING:
    from bert_lightning.model.pretrained import PretrainedModel

TUNINGS: dict[str, type[Tuning]] = {
    "full": Full,
    "lora": Lora,
    "dora": Dora,
    "ia3": Ia3,
    "adapter": Adapter,
    "bitfit": BitFit,
    "prefix": Prefix,
    "prompt": Prompt,
    "layer-norm": LayerNormOnly,
    "top-layers": TopLayers,
}
# Custom tunings, by module and name of their class.
_OWN: dict[str, type[Tuning]] = {}


def tune(model: "PretrainedModel", tuning: Tuning, new: Collection[str] = ()) -> None:
    """Apply a tuning to a model: the encoder is frozen except for what the tuning trains.

    Args:
        model: filled with the base's weights.
        tuning: what trains in the encoder.
        new: names, with the prefix `encoder.`, of parameters that the base lacks. They always train.

    Raises:
        ValueError: the model lacks what the tuning names; the message begins with the name of the field.
    """
    before = {name for name, _ in model.named_parameters()}
    model.backbone.requires_grad_(False)
    tuning.apply(model.backbone)
    model.added_parameters = frozenset(name for name, _ in model.named_parameters() if name not in before)
    for name, parameter in model.named_parameters():
        if f"{model.prefix}{name}" in new:
            parameter.requires_grad_(True)
    model.tuning = tuning


def register_tuning(cls: type[Tuning]) -> None:
    """Make a custom tuning known, so that its checkpoints can be read.

    A checkpoint is a file of unknown origin, so it must not choose which class is imported.
    """
    if cls not in TUNINGS.values():
        _OWN[class_path(cls)] = cls


def described(tuning: Tuning) -> dict[str, Any]:
    """Return a tuning as plain values, as a checkpoint names it.

    >>> described(Lora(rank=4))
    {'name': 'lora', 'rank': 4, 'alpha': 16.0, 'dropout': 0.0, 'targets': ['query', 'value']}
    """
    assert dataclasses.is_dataclass(tuning)
    return {"name": name_in(TUNINGS, type(tuning)), **dataclasses.asdict(tuning)}


def saved_tuning(checkpoint: Checkpoint) -> Tuning:
    """Return the tuning with which a checkpoint was trained; `Full` if it names none.

    Raises:
        CheckpointError: the tuning is not known here, or its settings are unusable.
    """
    if checkpoint.tuning is None:
        return Full()
    settings, known = dict(checkpoint.tuning), {**TUNINGS, **_OWN}
    name = settings.pop("name", None)
    if name not in known:
        module = str(name).rpartition(".")[0]
        how = f": its module {module} must be imported first (--allow-module {module})" if module else ""
        raise CheckpointError(f"{checkpoint.path} was tuned by {name}, which is not known here{how}")
    try:
        return known[name](**settings)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint.path}: its tuning {name} is not usable: {error}") from None


def tune_as(model: "PretrainedModel", checkpoint: Checkpoint) -> None:
    """Apply the tuning with which a checkpoint was trained to a model, which then has all of its parameters.

    Raises:
        CheckpointError: the tuning is not known here, its settings are unusable, or they do not fit the model.
    """
    try:
        tune(model, saved_tuning(checkpoint))
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path}: its tuning does not fit the model: {error}") from None


def is_mergeable(checkpoint: Checkpoint) -> bool:
    """Return whether `merged` can make a checkpoint one of a plain model.

    Raises:
        CheckpointError: the tuning is not known here, or its settings are unusable.
    """
    return saved_tuning(checkpoint).mergeable


def merged(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint of a plain model: what tuning added is merged into the base's weights.

    The caller has checked that the added parameters have their names and shapes (`model/merging.py`).

    Raises:
        CheckpointError: the tuning is not known here, its settings are unusable, or it cannot be merged.
    """
    if checkpoint.tuning is None:
        return checkpoint
    tuning, base = saved_tuning(checkpoint), checkpoint.base
    if not tuning.mergeable:
        raise CheckpointError(
            f"{checkpoint.path} was tuned by {checkpoint.tuning['name']}, which cannot be merged into the weights of "
            "a plain BERT"
        )
    tensors = tuning.merged(checkpoint.tensors)
    if base is not None:
        # Merged weights are no longer those of the base.
        names = [name for name in base.names if tensors.get(name) is checkpoint.tensors[name]]
        base = dataclasses.replace(base, names=names)
    return dataclasses.replace(checkpoint, tensors=tensors, tuning=None, base=base)
