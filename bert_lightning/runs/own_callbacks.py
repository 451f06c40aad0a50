"""The user's callbacks, which a run takes from its experiment and from a program."""

from collections.abc import Sequence
from typing import NamedTuple

from lightning import Callback

from bert_lightning.checks import class_path
from bert_lightning.config.experiment import Experiment
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
            hint = f", such as {callback.__name__}()" if isinstance(callback, type) else ""
            raise InputError(f"callbacks.{number} is {callback!r}; it must be a lightning.Callback{hint}")
        reason = refusal(type(callback), CALLBACK)
        if reason is not None:
            raise InputError(f"callbacks.{number} {class_path(type(callback))} {reason}")
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
        guard_callback(callback, f"{key} ({class_path(type(callback))})", first_error)
    return OwnCallbacks(list(named.values()), first_error)


def _has_state(callback: Callback) -> bool:
    return type(callback).state_dict is not Callback.state_dict
