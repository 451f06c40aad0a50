"""Configurations that runs saved, read by a version that may have other keys, and compared by typed values."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bert_lightning.config.experiment import Experiment, load_experiment
from bert_lightning.config.extensions import classes_in, own_modules, without_sections
from bert_lightning.config.kinds import OBJECT_LISTS
from bert_lightning.config.nested import at, copied, split
from bert_lightning.config.objects import read_objects
from bert_lightning.config.settings import Fault, plain
from bert_lightning.errors import InputError


def read_saved(values: dict[str, object], path: Path, allowed: Sequence[str] = ()) -> Experiment:
    """Read a run's saved configuration: missing keys get their defaults, and old names of keys are understood.

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


def with_defaults(values: dict[str, object], path: Path) -> dict[str, object]:
    """Return a run's saved configuration with defaults for keys that it does not have, to compare several runs.

    Extensions stay as they were saved, and no module is imported for them.

    Args:
        values: the content of `path`.
        path: the file, for messages.

    Raises:
        InputError: this version cannot read the saved configuration.
    """
    completed: dict[str, object] = read_saved(
        _without_lists(without_sections(values, classes_in(values))), path
    ).to_dict()
    for choice in classes_in(values):
        section_path, key = split(choice)
        completed, section = copied(completed, section_path)
        section[key] = at(values, choice)
    return completed | _lists(values, path)


class Difference(NamedTuple):
    """A key whose value differs between two experiments."""

    key: str
    """the dotted key"""
    old: object
    new: object


def differences(old: Experiment, new: Experiment) -> list[Difference]:
    """Compare two experiments key by key, in order of the keys. Floats are equal if they are close."""
    return list(value_differences(old.to_dict(), new.to_dict()))


def differences_from_saved(values: dict[str, object], path: Path, experiment: Experiment) -> list[Difference]:
    """Compare a run's saved configuration with an experiment, key by key.

    An extension that the experiment does not use is a difference, and its module is not imported. Lists of modules,
    callbacks and loggers are compared as a whole.

    Args:
        values: the content of `path`.
        path: the file of the saved configuration, for messages.
        experiment: the experiment to compare.

    Raises:
        InputError: the saved configuration cannot be read.
    """
    own_values = experiment.to_dict()
    saved_modules, used_modules = values.get("modules", []), own_values["modules"]
    if isinstance(saved_modules, list) and not {*map(str, saved_modules)} <= {*used_modules}:
        # The saved tasks and data sets are not known without these modules.
        return [Difference("modules", saved_modules, used_modules)]
    own = classes_in(own_values)
    saved = classes_in(values)
    others = {choice: class_path for choice, class_path in saved.items() if own.get(choice) != class_path}
    # The modules of the experiment were imported with the user's consent.
    allowed = own_modules(own_values)
    readable = without_sections(values, others)
    saved_values = read_saved(_without_lists(readable), path, allowed).to_dict() | _lists(values, path)
    differing = [
        difference
        for difference in value_differences(saved_values, own_values)
        if not any(f"{difference.key}.".startswith(f"{choice}.") for choice in others)
    ]
    for choice, class_path in others.items():
        differing.append(Difference(f"{choice}.class_path", class_path, own.get(choice)))
    return sorted(differing, key=lambda difference: difference.key)


def _without_lists(values: dict[str, object]) -> dict[str, object]:
    """Return nested keys without the lists that name modules, callbacks and loggers."""
    return {key: value for key, value in values.items() if key not in ("modules", *OBJECT_LISTS)}


def _lists(values: dict[str, object], path: Path) -> dict[str, object]:
    """Return the lists of modules, callbacks and loggers that a saved configuration has. Nothing is imported.

    Raises:
        InputError: a list cannot be read.
    """
    lists: dict[str, object] = {"modules": values["modules"]} if "modules" in values else {}
    for key, kind in OBJECT_LISTS.items():
        if key in values:
            faults: list[Fault] = []
            lists[key] = plain(read_objects(values[key], key, kind, None, faults).value)
            for _, message in faults:
                raise InputError(f"{path}: this version cannot read the saved configuration: {message}")
    return lists


def value_differences(old: object, new: object, path: str = "") -> Iterator[Difference]:
    """Yield the keys in which two nested configurations differ, in order. Floats are equal if they are close."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}, key=str):
            yield from value_differences(old.get(name), new.get(name), f"{path}.{name}" if path else str(name))
    elif old != new and not (isinstance(old, float) and isinstance(new, float) and math.isclose(old, new)):
        yield Difference(path, old, new)
