"""Guards around the user's callbacks and loggers: an error in one ends the run with a message that names it.

An error at the end of a step, or in validation, waits until the step and its checkpoint are complete. Then all
processes stop together. Any other error ends training at once.
"""

import functools
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from lightning import Callback
from lightning.pytorch.loggers import Logger
from torch import Tensor

from bert_lightning.checks import class_path
from bert_lightning.errors import WorkError
from bert_lightning.wording import first_line

Wrapper = TypeVar("Wrapper", bound=Callable[..., object])
_MARK = "is_of_one_training"
# Hooks whose errors wait. `StopOnSignal` comes after the user's callbacks and raises them.
_WAITING = (
    "on_train_batch_end",
    *(f"on_validation_{event}" for event in ("start", "epoch_start", "batch_start", "batch_end", "epoch_end", "end")),
)
# Hooks in which the state of a step is not complete, or not readable.
_INCOMPLETE = (
    *("setup", "teardown", "on_exception", "on_before_zero_grad"),
    *("state_dict", "load_state_dict", "on_save_checkpoint", "on_load_checkpoint"),
)
_STATE_HOOKS = ("state_dict", "on_save_checkpoint")
_LOGGER_METHODS = ("log_metrics", "log_hyperparams", "save", "finalize")
_PLAIN = (type(None), bool, int, float, str, Tensor)


class OwnPartError(WorkError):
    """An error in a user's callback or logger.

    Attributes:
        allows_checkpoint: whether a checkpoint of the last step can be written.
    """

    def __init__(self, message: str, *, allows_checkpoint: bool) -> None:
        super().__init__(message)
        self.allows_checkpoint = allows_checkpoint


class FirstError:
    """The first error of a step that waits for the step to be complete.

    Attributes:
        error: None while there is no error; its cause is what the user's code raised.
    """

    def __init__(self) -> None:
        self.error: OwnPartError | None = None

    def keep(self, error: OwnPartError) -> None:
        """Remember an error unless there is one already."""
        self.error = self.error or error

    @property
    def message(self) -> str | None:
        """The message of the error."""
        return str(self.error) if self.error is not None else None


def guard_callback(callback: Callback, label: str, waiting: FirstError) -> None:
    """Make errors in a callback's hooks name the callback, the hook and the key.

    Args:
        callback: it is changed in place.
        label: its key and class, for messages.
        waiting: receives the errors that wait until the step is complete.
    """
    hooks = [name for name in dir(Callback) if not name.startswith("_") and name != "state_key"]
    for name in hooks:
        if getattr(type(callback), name) is not getattr(Callback, name):
            _guard(callback, name, label, waiting if name in _WAITING else None)


def guard_logger(logger: Logger, label: str) -> None:
    """Make errors in a logger's methods name the logger, the method and the key."""
    for name in _LOGGER_METHODS:
        _guard(logger, name, label, None)


def marked(wrapper: Wrapper) -> Wrapper:
    """Mark a wrapper that belongs to one training, so that the next one replaces it."""
    setattr(wrapper, _MARK, True)
    return wrapper


def _guard(part: Callback | Logger, name: str, label: str, waiting: FirstError | None) -> None:
    original: Callable[..., object] = getattr(part, name)
    while getattr(original, _MARK, False):
        # A program has trained with the same object before.
        original = original.__wrapped__  # type: ignore[attr-defined]

    @functools.wraps(original)
    def guarded(*arguments: Any, **keywords: Any) -> Any:
        before = set(arguments[-1]) if name == "on_save_checkpoint" and arguments else set()
        try:
            result = original(*arguments, **keywords)
        except OwnPartError:
            raise
        except (Exception, SystemExit) as error:
            message = f"{label} raised in {name}: {type(error).__name__}: {first_line(error)}"
            own = OwnPartError(message, allows_checkpoint=isinstance(part, Callback) and name not in _INCOMPLETE)
            own.__cause__ = error
            if waiting is None:
                raise own from error
            return waiting.keep(own)
        if name in _STATE_HOOKS:
            _check_state(result if name == "state_dict" else _added(arguments, before), f"{label}.{name}")
        return result

    setattr(part, name, marked(guarded))


def _added(arguments: tuple[Any, ...], before: Collection[str]) -> dict[str, object]:
    return {name: value for name, value in arguments[-1].items() if name not in before} if arguments else {}


def _check_state(state: object, label: str) -> None:
    """Check that a checkpoint with this state can be read: no pickled code is executed.

    Raises:
        OwnPartError: it holds an object of another class.
    """
    if isinstance(state, dict):
        for key, value in state.items():
            _check_state(key, label)
            _check_state(value, label)
    elif isinstance(state, list | tuple | set):
        for value in state:
            _check_state(value, label)
    elif not isinstance(state, _PLAIN):
        raise OwnPartError(
            f"{label} holds a {class_path(type(state))}: checkpoints hold only tensors, numbers, texts, "
            "lists and dictionaries",
            allows_checkpoint=False,
        )
