"""The data of each task of a sequence, as typed settings."""

import dataclasses
from typing import Any

from bert_lightning.config.settings import Fault, Tables, build, changed
from bert_lightning.config.variables import with_literal_variables, with_variables
from bert_lightning.config.yaml_files import yaml_value
from bert_lightning.errors import InputError
from bert_lightning.methods.continual import SequenceSettings
from bert_lightning.tasks.fine_tuning.settings import FineTuningData
from bert_lightning.tasks.spec import TaskSpec

# Between the name of a task and a label of it.
SEPARATOR = ":"
_PREFIX = "label_prefix"


def check_sequence(experiment: Any, spec: TaskSpec, tables: Tables, faults: list[Fault]) -> None:
    """Add a fault for each task of a sequence whose data cannot be used."""
    sequence, own = experiment.sequence, experiment.data
    if not issubclass(spec.data_settings, FineTuningData):
        faults.append(
            (
                "sequence",
                f"sequence is for labelled tasks, not for {spec.name}: mix token stores to replay earlier text",
            )
        )
        return
    tasks = data_of_tasks(sequence, own, spec, tables, faults)
    if sequence.labels == "separate" and not all(separable(each) for each in tasks.values()):
        faults.append(
            (
                "sequence.labels",
                "sequence.labels is separate, which needs texts with a single label each: set it to shared",
            )
        )
    for name, data in tasks.items():
        of_standard = data.standard is not None and "validation" in data.standard.splits
        if data.validation is None and not of_standard and getattr(data, "validation_per_class", None) is None:
            faults.append(
                ("sequence.tasks", f"sequence.tasks: {name} has no data.validation, on which every run is scored")
            )
        if data.is_pair != own.is_pair and spec.name != "text-classification":
            faults.append(("sequence.tasks", f"sequence.tasks: the inputs of {name} have another form than data"))


def separable(data: Any) -> bool:
    """Return whether a name can be put before the labels of a task."""
    # The words of a cloze tell its labels apart, not their names.
    return (
        hasattr(data, _PREFIX) and getattr(data, "kind", None) == "single-label" and not hasattr(data, "verbalizer")
    )


def data_of_tasks(
    sequence: SequenceSettings, own: Any, spec: TaskSpec, tables: Tables, faults: list[Fault]
) -> dict[str, Any]:
    """Return name -> the settings of the data of each task that has no faults; those of the run for its own task.

    Labels that are to be kept apart have the name of their task as `label_prefix`.
    """
    found = {}
    for number, task in enumerate(sequence.tasks):
        values, path = with_literal_variables(task.data), f"sequence.tasks.{number}.data"
        data = own if task.name == sequence.task else build(spec.data_settings, values, path, tables, faults)
        if data is not None:
            found[task.name] = _with_prefix(data, task.name) if sequence.labels == "separate" else data
    return found


def _with_prefix(data: Any, name: str) -> Any:
    return dataclasses.replace(data, **{_PREFIX: f"{name}{SEPARATOR}"}) if separable(data) else data


def changed_data(experiment: Any) -> dict[str, Any]:
    """Return the keys under `data` that differ from their defaults, as the tasks of `sequence` have them."""
    return dict(with_literal_variables(changed(experiment.data)))


def with_resolved_tasks(values: dict[str, Any], faults: list[Fault]) -> dict[str, Any]:
    """Return the values of an experiment with environment variables replaced in the data of a sequence's tasks."""
    sequence, key = values.get("sequence"), "sequence.tasks"
    if not isinstance(sequence, dict) or "tasks" not in sequence:
        return values
    try:
        tasks = _resolved(yaml_value(sequence["tasks"], key), key)
    except InputError as error:
        faults.append((key, str(error)))
        return values
    return {**values, "sequence": {**sequence, "tasks": tasks}}


def _resolved(value: object, path: str) -> object:
    if isinstance(value, str):
        return with_variables(value, path)
    if isinstance(value, list):
        return [_resolved(each, path) for each in value]
    if isinstance(value, dict):
        return {name: _resolved(each, f"{path}.{name}") for name, each in value.items()}
    return value
