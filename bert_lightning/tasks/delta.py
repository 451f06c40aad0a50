"""Tasks whose checkpoints hold only what was trained, because the rest is in a base that stays as it is."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from bert_lightning.checkpoints.checkpoint import Base
from bert_lightning.checkpoints.digests import PREFIX

if TYPE_CHECKING:
    from bert_lightning.tasks.task import Task


def leave_out_base(task: "Task", base: Base | None) -> None:
    """Leave the tensors of a base out of a task's `state_dict`, and so out of its checkpoints.

    Loading such a state keeps them as they are; everything else is compared strictly. `task.model.state_dict()` is
    complete. None changes nothing.
    """
    if base is None:
        return
    task.base = base
    task.register_state_dict_post_hook(_remove)
    task.register_load_state_dict_pre_hook(_add)


def _names(task: nn.Module, prefix: str) -> list[str]:
    # Read from the module, because a copy of a task has copies of its hooks.
    base = getattr(task, "base", None)
    model = getattr(task, "model", None)
    inside = getattr(model, "prefix", "")
    return [f"{prefix}{PREFIX}{name.removeprefix(inside)}" for name in base.names] if base is not None else []


def _remove(task: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Mapping[str, object]) -> None:
    for name in _names(task, prefix):
        state.pop(name, None)


def _add(task: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    parameters = dict(task.named_parameters())
    for name in _names(task, prefix):
        state.setdefault(name, parameters[name.removeprefix(prefix)].detach())
