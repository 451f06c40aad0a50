"""Configurations that runs saved, read by a version that may have other keys, and compared by typed values."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bert_lightning.config.experiment import CHOICES, Experiment, load_experiment
from bert_lightning.config.extensions import extensions_in, without_extensions
from bert_lightning.errors import InputError


def read_saved(values: dict[str, Any], path: Path, allowed: Sequence[str] = ()) -> Experiment:
    """Read a run's saved configuration: keys that it does not have get their defaults, and moved keys move.

    Args:
        values: the content of `path`.
        path: the file, for messages.
        allowed: modules that a `class_path` may name.

    Raises:
        InputError: this version does not know a key, or does not accept a value.
    """
    try:
        return load_experiment([], (), values, allowed)
    except InputError as error:
        raise InputError(f"{path}: this version cannot read the saved configuration: {error}") from None


def differences(old: Experiment, new: Experiment) -> list[str]:
    """Return the dotted keys whose values differ, in order. Floats are equal if they are close."""
    return _differing(old.to_dict(), new.to_dict())


def differences_from_saved(values: dict[str, Any], path: Path, experiment: Experiment) -> list[str]:
    """Return the dotted keys in which an experiment differs from a run's saved configuration.

    An extension that the experiment does not use is a difference, and its module is not imported.

    Args:
        values: the content of `path`.
        path: the file of the saved configuration, for messages.
        experiment: the experiment to compare.

    Raises:
        InputError: the saved configuration cannot be read.
    """
    own = extensions_in(experiment.to_dict(), CHOICES)
    saved = extensions_in(values, CHOICES)
    others = {choice: class_path for choice, class_path in saved.items() if own.get(choice) != class_path}
    # Classes that the experiment uses were imported with the user's consent.
    allowed = [class_path.rpartition(".")[0] for class_path in own.values()]
    readable = without_extensions(values, {choice: CHOICES[choice] for choice in others})
    differing = differences(read_saved(readable, path, allowed), experiment)
    kept = [key for key in differing if not any(f"{key}.".startswith(f"{choice}.") for choice in others)]
    return sorted([*kept, *(f"{choice}.class_path" for choice in others)])


def _differing(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            key
            for name in sorted({*old, *new})
            for key in _differing(old.get(name), new.get(name), f"{path}.{name}" if path else name)
        ]
    same = old == new or (isinstance(old, float) and isinstance(new, float) and math.isclose(old, new))
    return [] if same else [path]
