"""The settings of a sequence of tasks, and which of its tasks a run trains."""

import re
from dataclasses import dataclass, field
from typing import Literal

from bert_lightning.checks import nearest, refuse_empty_paths


@dataclass(frozen=True)
class SequenceTask:
    """One task of a sequence.

    Attributes:
        name: its name, which stands before its scores and its labels.
        data: its keys under `data`; those of the run count for the task of the run itself.
    """

    name: str
    data: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-][\w.-]*", self.name):
            raise ValueError(f"name is {self.name!r}; it must have only letters, digits, '-', '_' and '.'")


@dataclass(frozen=True)
class SequenceSettings:
    """A sequence of tasks, which one model learns one after the other, and the task of this run.

    The run trains on its own `data`. At its end it scores its model on the validation split of every task.

    Attributes:
        task: name of the task of this run, one of `tasks`.
        tasks: the tasks in their order. A study fills them in (`sequence` in its file).
        previous: the run of the previous task; null for the first task.
        labels: `separate` tells apart labels of different tasks, even if they have the same name; with `shared`, a
            name is one label in all tasks. Only text classification can separate them.
        models: `one` model for all tasks. With `per-task`, each run is the model of its own task, so the scores on
            earlier tasks are those of the runs before.
    """

    task: str
    tasks: list[SequenceTask] = field(default_factory=list)
    previous: str | None = None
    labels: Literal["separate", "shared"] = "separate"
    models: Literal["one", "per-task"] = "one"

    def __post_init__(self) -> None:
        refuse_empty_paths(self, "previous")
        if not self.tasks:
            raise ValueError("tasks is empty: it names the tasks in their order, with the keys under data of each")
        for number, name in enumerate(self.names):
            if name in self.names[:number]:
                raise ValueError(f"tasks has {name!r} twice: each task needs a name of its own")
        if self.task not in self.names:
            raise ValueError(f"task is {self.task!r}{nearest(self.task, self.names)}")
        if self.previous is not None and not self.earlier:
            raise ValueError(f"previous is set, but {self.task} is the first task, which continues no other")

    @property
    def names(self) -> list[str]:
        """The names of all tasks, in order."""
        return [task.name for task in self.tasks]

    @property
    def earlier(self) -> list[str]:
        """The names of the tasks before this one, in order."""
        return self.names[: self.names.index(self.task)]
