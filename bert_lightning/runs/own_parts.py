"""Callbacks and loggers that a run takes from its experiment, and the record of the user's modules."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning import Callback

from bert_lightning.checkpoints.files import sha256
from bert_lightning.config.experiment import Experiment
from bert_lightning.config.extensions import OURS, is_allowed, own_classes
from bert_lightning.config.kinds import CALLBACK
from bert_lightning.config.objects import build_object, refusal
from bert_lightning.errors import InputError
from bert_lightning.training.guarded import FirstError, guard_callback


class OwnCallbacks(NamedTuple):
    """The user's callbacks."""

    callbacks: Sequence[Callback]
    first_error: FirstError
    """receives their errors that wait for the end of a step"""


def own_callbacks(experiment: Experiment, given: Sequence[Callback] = ()) -> OwnCallbacks:
    """Build the callbacks that an experiment names.

    Args:
        experiment: the settings.
        given: callbacks that a program adds to them.

    Raises:
        InputError: a constructor refuses its arguments, or two callbacks would write the same entry of a checkpoint.
    """
    named = {
        f"callbacks.{number}": build_object(settings, f"callbacks.{number}", CALLBACK)
        for number, settings in enumerate(experiment.callbacks)
    }
    for number, callback in enumerate(given, len(named)):
        if not isinstance(callback, Callback):
            raise InputError(f"callbacks.{number} is {callback!r}; it must be a lightning.Callback")
        reason = refusal(type(callback), CALLBACK)
        if reason is not None:
            raise InputError(f"callbacks.{number} {_name_of(callback)} {reason}")
        named[f"callbacks.{number}"] = callback
    first_error = FirstError()
    for key, callback in named.items():
        for other, earlier in named.items():
            if (
                other != key
                and _has_state(callback)
                and _has_state(earlier)
                and callback.state_key == earlier.state_key
            ):
                raise InputError(
                    f"{key} and {other} have the same state_key {callback.state_key!r}, so a checkpoint cannot hold "
                    "the state of both: override state_key"
                )
        guard_callback(callback, f"{key} ({_name_of(callback)})", first_error)
    return OwnCallbacks(list(named.values()), first_error)


def recorded_modules(experiment: Experiment, given: Sequence[object] = ()) -> dict[str, dict[str, object]]:
    """Identify the user's code that a run uses, for the manifest.

    Args:
        experiment: names classes and modules.
        given: objects that a Python program gave.

    Returns:
        Module -> the classes that the configuration names in it, and the SHA-256 of its file. A package is recorded
        with all of its modules that are loaded.
    """
    classes: dict[str, list[str]] = {}
    objects = [(type(each).__module__, type(each).__qualname__) for each in given]
    for module, name in (*own_classes(experiment.to_dict()), *objects):
        if is_allowed(module, (*OURS, "lightning")):
            continue
        classes.setdefault(module, [])
        if name is not None and name not in classes[module]:
            classes[module].append(name)
    loaded = sorted(
        name for name in sys.modules if name in classes or any(name.startswith(f"{each}.") for each in classes)
    )
    return {name: {"classes": classes.get(name, []), "sha256": _sha256_of(name)} for name in loaded}


def changed_modules(
    before: Mapping[str, Mapping[str, object]], now: Mapping[str, Mapping[str, object]]
) -> Iterator[str]:
    """Yield the modules whose file differs between two records."""
    for name in sorted({*before} & {*now}):
        if before[name].get("sha256") != now[name].get("sha256"):
            yield name


def _sha256_of(module: str) -> str | None:
    file = getattr(sys.modules[module], "__file__", None)
    return sha256(Path(file)) if file is not None and Path(file).is_file() else None


def _has_state(callback: Callback) -> bool:
    return type(callback).state_dict is not Callback.state_dict


def _name_of(part: object) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"
