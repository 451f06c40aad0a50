"""Hints in messages about unknown keys: the section or the task that has a key of this name."""

import dataclasses
from collections.abc import Mapping, Sequence

from bert_lightning.config.settings import Fault, Tables, fill, unknown_key
from bert_lightning.tasks.catalogue import TASKS

_MISSING = object()


def field_names(cls: type) -> list[str]:
    """Return the names of a dataclass's fields."""
    return [field.name for field in dataclasses.fields(cls)]


def with_hint(key: str, message: str, sections: Mapping[str, Sequence[str]]) -> str:
    """Return a message about an unknown key with the section or task that has a key of just this name.

    Args:
        key: the dotted key.
        message: a message that may be about an unknown key; others are returned as they are.
        sections: section -> its keys; if several have a key, the last one is named.
    """
    start = f"unknown key {key!r}"
    section, _, name = key.rpartition(".")
    if not message.startswith(start):
        return message
    for own_section, classes in _task_classes().items():
        tasks = [task for task, cls in classes.items() if name in field_names(cls)]
        if section == own_section and tasks:
            return f"{start}, which is of the task {' and '.join(tasks)}"
    owners = {each: f"{owner}." if owner else "" for owner, names in sections.items() for each in names}
    nearest = f"{owners[name]}{name}" if name in owners else key
    return message if nearest == key else f"{start}; did you mean {nearest!r}?"


def _task_classes() -> dict[str, dict[str, type]]:
    """Return the sections whose keys depend on the task: section -> task -> dataclass."""
    return {
        "model.head": {name: spec.head_settings for name, spec in TASKS.items()},
        "data": {name: spec.data_settings for name, spec in TASKS.items()},
    }


def task_keys() -> dict[str, list[str]]:
    """Return the keys of the sections that depend on the task, of all tasks together."""
    return {
        section: [name for cls in classes.values() for name in field_names(cls)]
        for section, classes in _task_classes().items()
    }


def check_task_section(section: str, values: object, tables: Tables, faults: list[Fault]) -> None:
    """Check a section that depends on the task, when the task is not known.

    A key is a fault if no task has it, a value if no task accepts it.
    """
    if values is not None and not isinstance(values, dict):
        faults.append((section, f"{section}: keys and values are expected, got {values!r}"))
        return
    fields = {cls: field_names(cls) for cls in _task_classes()[section].values()}
    for key, value in (values or {}).items():
        readings: list[list[Fault]] = []
        for cls in (cls for cls, names in fields.items() if key in names):
            faults_of_reading: list[Fault] = []
            fill(cls, {key: value}, section, tables, faults_of_reading)
            readings.append([fault for fault in faults_of_reading if f"{fault[0]}.".startswith(f"{section}.{key}.")])
        if not readings:
            known = dict.fromkeys(name for names in fields.values() for name in names)
            faults.append((f"{section}.{key}", unknown_key(key, known, section)))
        elif all(readings):
            faults += readings[0]


def source_of(key: str, sources: Sequence[tuple[str, dict[str, object]]]) -> str | None:
    """Return the name of the source whose value of a dotted key counts: the last one that has it."""
    for name, values in reversed(sources):
        value: object = values
        for step in key.split("."):
            if isinstance(value, dict):
                value = {str(each): inner for each, inner in value.items()}.get(step, _MISSING)
        if value is not _MISSING:
            return name
    return None
