"""An experiment file to start from: the keys that must be set, and the most useful others as comments."""

import dataclasses
import re
from collections.abc import Sequence

from bert_lightning.config.commented_yaml import Entry, commented_yaml
from bert_lightning.config.keys import Key, all_sections
from bert_lightning.config.yaml_files import yaml_value
from bert_lightning.data.datasets.catalogue import STANDARD_SETS
from bert_lightning.runs.data_survey import Survey
from bert_lightning.tasks.fine_tuning.settings import FineTuningData
from bert_lightning.tasks.spec import TaskSpec

# A model that trains on a processor, and the rates of new and of pre-trained weights.
_SIZE, _RATE, _RATE_OF_PRETRAINED = "tiny", 5e-4, 3e-5
_HUB_MODEL = "bert-base-uncased"
_EPOCHS, _LARGEST_BATCH = 3.0, 32
# Options that most users look for -> an example. A task has those of them that are its keys.
_OPTIONS: dict[str, object] = {
    "seed_everything": 1,
    "data.test": "path/to/test",
    "data.objective": "next-sentence",
    "data.masking.name": "token",
    "data.max_train_samples": 100,
    "data.num_workers": 2,
    "optimizer.name": "adamw",
    "optimizer.weight_decay": 0.01,
    "schedule.name": "linear",
    "schedule.warmup_share": 0.1,
    "trainer.precision": "auto",
    "trainer.accumulate_grad_batches": 1,
    "trainer.val_check_interval": 100,
    "checkpoint.every_n_steps": 500,
    "early_stopping.patience": 3,
    "wandb.mode": "disabled",
}
_NOTES = {
    "model.size": "Set this or `pretrained`.",
    "model.pretrained": "Set this or `size`. It brings its own vocabulary.",
    "data.dataset": "Set it instead of files and columns.",
}


def starting_file(
    spec: TaskSpec,
    survey: Survey | None = None,
    tokenizer: str | None = None,
    pretrained: str | None = None,
    name: str = "first",
    modules: Sequence[str] = (),
) -> str:
    """Return the text of an experiment file.

    Args:
        spec: the task.
        survey: what was found in the data; None for placeholders.
        tokenizer: folder of the vocabulary that was made for the data.
        pretrained: the checkpoint to start from; None for new weights.
        name: the value of `experiment`, or a text that becomes one.
        modules: those that register the task.
    """
    keys = {key.path: key for section in all_sections(spec.name) for key in section.keys}
    entries = [
        Entry("experiment", re.sub(r"[^\w-]+", "-", name, flags=re.ASCII).strip("-") or "first"),
        Entry("task", spec.name),
        *([Entry("modules", list(modules))] if modules else []),
        *_model_entries(keys, pretrained),
        *_data_entries(keys, spec, survey, tokenizer),
        Entry("optimizer.learning_rate", _RATE if pretrained is None else _RATE_OF_PRETRAINED),
        Entry("trainer.max_epochs", _EPOCHS),
    ]
    taken = {entry.path for entry in entries}
    entries += [Entry(path, value, is_set=False) for path, value in _OPTIONS.items() if path in keys.keys() - taken]
    entries = [entry._replace(note=" ".join(filter(None, (_NOTES.get(entry.path), entry.note)))) for entry in entries]
    return f"{_head(spec, survey)}\n{commented_yaml(_in_sections(entries), spec.name)}"


def _head(spec: TaskSpec, survey: Survey | None) -> str:
    lines = [f"An experiment of the task {spec.name}. `bert-lightning fit --config FILE` trains it."]
    if survey is None:
        lines.append("Replace every value that begins with path/to before you train.")
    lines.append("A key right after a # is an option: remove the # to set it.")
    lines.append(f"`bert-lightning keys --task {spec.name}` lists all keys.")
    return "".join(f"# {line}\n" for line in lines)


def _model_entries(keys: dict[str, Key], pretrained: str | None) -> list[Entry]:
    entries = [
        Entry("model.size", _SIZE, is_set=pretrained is None),
        Entry("model.pretrained", pretrained or _HUB_MODEL, is_set=pretrained is not None),
    ]
    heads = [key for path, key in keys.items() if path.startswith("model.head.") and key.type == "bool"]
    return entries + [Entry(key.path, yaml_value(key.default, key.path) is False, is_set=False) for key in heads]


def _data_entries(keys: dict[str, Key], spec: TaskSpec, survey: Survey | None, tokenizer: str | None) -> list[Entry]:
    """Return the keys of the data: those that it needs, then the task's own as options."""
    if survey is None:
        values: dict[str, object] = {key.path: _placeholder(key) for key in _needed(keys)}
        notes: dict[str, str] = {}
    else:
        values = {f"data.{name}": value for name, value in survey.settings.items()}
        values["data.batch_size"] = _batch_size(survey.num_samples)
        notes = {f"data.{name}": note for name, note in survey.notes.items()}
    if tokenizer is not None:
        values["data.tokenizer"] = tokenizer
    options: dict[str, object] = {} if "data.validation" in values else {"data.validation": "path/to/validation"}
    standard = next((name for name, described in STANDARD_SETS.items() if described.task == spec.name), None)
    if standard is not None:
        options["data.dataset"] = standard
    options |= {
        key.path: yaml_value(key.default, key.path) for key in _own_keys(keys, spec) if key.path not in values
    }
    entries = [Entry(path, value, note=notes.get(path, "")) for path, value in values.items()]
    return entries + [Entry(path, value, is_set=False) for path, value in options.items() if path in keys]


def _needed(keys: dict[str, Key]) -> list[Key]:
    """Return the keys of the data that a training needs: the required ones, the training data and a vocabulary."""
    names = ("data.train", "data.tokenizer")
    is_direct = {path: path.startswith("data.") and path.count(".") == 1 for path in keys}
    return [key for path, key in keys.items() if path in names or (is_direct[path] and key.default is None)]


def _placeholder(key: Key) -> object:
    return 1 if key.type in ("int", "float") else key.path.replace("data.", "path/to/")


def _own_keys(keys: dict[str, Key], spec: TaskSpec) -> list[Key]:
    """Return the keys that a fine-tuning task adds to those that all fine-tuning tasks have."""
    if not issubclass(spec.data_settings, FineTuningData):
        return []
    shared = {field.name for field in dataclasses.fields(FineTuningData)}
    own = [f"data.{field.name}" for field in dataclasses.fields(spec.data_settings) if field.name not in shared]
    return [keys[path] for path in own if path in keys]


def _batch_size(num_samples: int) -> int:
    """Return a power of two, so that a pass over little data still has several steps."""
    return min(_LARGEST_BATCH, 1 << max(0, (num_samples // 4).bit_length() - 1))


def _in_sections(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries section by section, after the keys that belong to none."""
    sections = list(dict.fromkeys(entry.path.partition(".")[0] for entry in entries if "." in entry.path))
    ranks = {section: number for number, section in enumerate(sections, 1)}
    return sorted(entries, key=lambda entry: ranks.get(entry.path.partition(".")[0], 0))
