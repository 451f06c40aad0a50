"""An experiment as one typed value, and how files and overrides become one."""

import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from bert_lightning.checks import RefusedValue, name_in, nearest_or_own, require_between
from bert_lightning.config.extensions import (
    allowed_names,
    extensions_in,
    own_modules,
    read_modules,
    with_extensions,
    without_sections,
)
from bert_lightning.config.hints import check_task_section, field_names, source_of, task_keys, with_hint
from bert_lightning.config.kinds import OBJECT_LISTS
from bert_lightning.config.layers import (
    OVERRIDE_LAYERS,
    Layer,
    Overrides,
    Source,
    merge,
    override_layer,
    read_layers,
    with_names,
)
from bert_lightning.config.method_defaults import method_defaults, with_method_defaults
from bert_lightning.config.migrations import migrate, warn_of_old_keys, with_old_name, without_needless
from bert_lightning.config.model_parts import PART_PATHS, with_class_paths, with_own_parts, without_stale_arguments
from bert_lightning.config.objects import ObjectSettings, read_objects
from bert_lightning.config.published import Published
from bert_lightning.config.sections import (
    ARCHITECTURE,
    EarlyStoppingSettings,
    ModelSettings,
    TrainerSettings,
    WandbSettings,
)
from bert_lightning.config.sequence_tasks import check_sequence, with_resolved_tasks
from bert_lightning.config.settings import (
    Fault,
    Tables,
    as_one_message,
    build,
    changed,
    fill,
    plain,
    unknown_key,
)
from bert_lightning.config.variables import with_literal_variables
from bert_lightning.data.pretraining.masking import MASKINGS
from bert_lightning.errors import InputError
from bert_lightning.methods.adversarial import ADVERSARIES, Adversary, NoAdversary
from bert_lightning.methods.continual import CONTINUAL_METHODS, ContinualMethod, NoContinual, SequenceSettings
from bert_lightning.methods.distillation import TERMS, DistillationSettings
from bert_lightning.methods.masked_words import MaskedWordSettings
from bert_lightning.methods.plain import STEP_METHODS, Plain, StepMethodSettings
from bert_lightning.methods.pseudo_labels import PseudoLabelSettings
from bert_lightning.model.losses import LOSSES, CrossEntropy, Loss
from bert_lightning.model.tuning import TUNINGS, Full, Tuning
from bert_lightning.optim.freezing import FreezeSettings
from bert_lightning.optim.optimizers import OPTIMIZERS, AdamW, OptimizerSettings
from bert_lightning.optim.parameter_groups import ParameterGroupSettings
from bert_lightning.optim.schedules import SCHEDULES, Linear, Schedule
from bert_lightning.tasks.catalogue import TASKS
from bert_lightning.tasks.fine_tuning.settings import HeadSettings
from bert_lightning.tasks.spec import TaskSpec
from bert_lightning.training.checkpointing import CheckpointSettings
from bert_lightning.wording import one_of

# File systems allow 255 bytes for a name, and numbers are added to this one.
_LONGEST_NAME = 200
CHOICES: Tables = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "data.masking": MASKINGS,
    "tuning": TUNINGS,
    "loss": LOSSES,
    "step_method": STEP_METHODS,
    "adversarial": ADVERSARIES,
    "continual": CONTINUAL_METHODS,
}
_SECTIONS: dict[str, type] = {
    "model": ModelSettings,
    "optimizer": AdamW,
    "schedule": Linear,
    "parameter_groups": ParameterGroupSettings,
    "freeze": FreezeSettings,
    "tuning": Full,
    "loss": CrossEntropy,
    "step_method": Plain,
    "adversarial": NoAdversary,
    "distillation": DistillationSettings,
    **{f"distillation.{name}": settings for name, settings in TERMS.items()},
    "pseudo_labels": PseudoLabelSettings,
    "masked_words": MaskedWordSettings,
    "continual": NoContinual,
    "sequence": SequenceSettings,
    "checkpoint": CheckpointSettings,
    "early_stopping": EarlyStoppingSettings,
    "wandb": WandbSettings,
    "trainer": TrainerSettings,
}
# The keys that an override may give as the text of a mapping, besides the choices.
_MAPPINGS = frozenset(
    [
        *("data", "loss_weights", "model.config", *_SECTIONS, *PART_PATHS),
        *(f"{path}.init_args" for path in (*CHOICES, *PART_PATHS)),
    ]
)


@dataclass(frozen=True)
class Experiment:
    """Everything that decides a run.

    Attributes:
        experiment: its name, the folder under `runs/`.
        task: what is trained. It decides which keys `data` and `model.head` have.
        seed_everything: seed of weights, data order, masks and dropout.
        published: figures that the experiment is to reproduce.
        loss_weights: factor on each loss of training by its name, such as {nsp_loss: 0.5}; 1 if none is given.
        modules: the user's modules that register tasks and data sets, or hold custom parts of the teacher or of the
            checkpoint to start from; each needs `--allow-module`.
        callbacks: Lightning's or custom callbacks, each with `class_path` and `init_args`.
        loggers: where metrics go in addition to `metrics.jsonl`: `wandb`, `tensorboard`, `csv`, `mlflow`, or a class.
        optimizer: the optimiser, by name or as a class.
        schedule: the factor on the learning rate at each step, by name or as a class.
        tuning: which parameters of the encoder train, or are added to it.
        step_method: what a step does with a micro-batch.
        adversarial: training on perturbed embeddings, or for predictions that do not depend on noise.
        loss: the loss of each counted item, in training and evaluation, by name or as a class.
        distillation: training on the predictions of a teacher and on the labels.
        pseudo_labels: additional training on texts that other models have labelled.
        masked_words: for the cloze task, additional training on masked words of unlabelled texts.
        continual: the method that preserves earlier tasks while the model learns this one.
        sequence: the place of the run in a sequence of tasks.
    """

    experiment: str
    task: str
    model: ModelSettings
    data: Any
    trainer: TrainerSettings
    seed_everything: int = 1
    published: list[Published] = field(default_factory=list)
    loss_weights: dict[str, float] = field(default_factory=dict)
    optimizer: OptimizerSettings = field(default_factory=AdamW)
    schedule: Schedule = field(default_factory=Linear)
    parameter_groups: ParameterGroupSettings = field(default_factory=ParameterGroupSettings)
    freeze: FreezeSettings = field(default_factory=FreezeSettings)
    tuning: Tuning = field(default_factory=Full)
    loss: Loss = field(default_factory=CrossEntropy)
    step_method: StepMethodSettings = field(default_factory=Plain)
    adversarial: Adversary = field(default_factory=NoAdversary)
    distillation: DistillationSettings | None = None
    pseudo_labels: PseudoLabelSettings | None = None
    masked_words: MaskedWordSettings | None = None
    continual: ContinualMethod = field(default_factory=NoContinual)
    sequence: SequenceSettings | None = None
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    early_stopping: EarlyStoppingSettings = field(default_factory=EarlyStoppingSettings)
    wandb: WandbSettings = field(default_factory=WandbSettings)
    modules: list[str] = field(default_factory=list)
    callbacks: list[ObjectSettings] = field(default_factory=list)
    loggers: list[str | ObjectSettings] = field(default_factory=lambda: ["wandb"])

    def __post_init__(self) -> None:
        require_between(self, 0, 2**32 - 1, "seed_everything")
        for name, weight in self.loss_weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise RefusedValue(f"loss_weights.{name}", weight, "be 0 or more")
        if self.checkpoint.sharded and self.trainer.strategy != "fsdp":
            raise ValueError("checkpoint.sharded does nothing without trainer.strategy fsdp")
        if self.freeze.encoder and self.parameter_groups.layer_decay != 1:
            raise ValueError("parameter_groups.layer_decay does nothing with freeze.encoder: only the head trains")
        if self.freeze.encoder and type(self.tuning) is not Full:
            raise ValueError("tuning does nothing with freeze.encoder: only the head trains")

    @property
    def method_defaults(self) -> list[str]:
        """Sentences about the settings that have the default of a method, instead of that of their own section."""
        sentences = []
        choices = {choice: type(getattr(self, choice)) for choice in CHOICES if "." not in choice}
        for key, (value, choice) in method_defaults(choices).items():
            section, _, name = key.partition(".")
            if getattr(getattr(self, section), name) == value:
                method = name_in(CHOICES[choice], choices[choice])
                sentences.append(f"{key} is {value:g}, the default of {choice}.name {method}")
        return sentences

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that `load_experiment` reads back to the same experiment."""
        return with_class_paths(dict(plain(self, "", CHOICES)))

    @property
    def identity(self) -> str:
        """Twelve hexadecimal digits, the hash of every value that differs from its default.

        A key that a later version adds has its default here, so it does not change the identity. Keys without a
        default are included always, and so is the `name` of each choice, such as the optimiser's.
        """
        return hashlib.sha256(json.dumps(changed(self, "", CHOICES), sort_keys=True).encode()).hexdigest()[:12]


def load_experiment(
    experiment: Source | Sequence[Source] | Experiment,
    overrides: Overrides | None = None,
    below: dict[str, Any] | None = None,
    allow_modules: Sequence[str] = (),
    only: Collection[str] | None = None,
) -> Experiment:
    """Read an experiment, then apply overrides. A later source wins key by key; it replaces a list as a whole.

    Args:
        experiment: a YAML file of nested keys, a mapping of nested keys, a list of these, or an experiment.
        overrides: dotted keys and their values, such as `{"data.batch_size": 16}`, or arguments of the command line,
            such as `["--data.batch_size", "16"]`.
        below: values that all of these win over, such as those of a saved run.
        allow_modules: modules that a `class_path` may name.
        only: the sections of the experiment that count; its other sections are left out, and only an unknown one is
            an error. By default all count.

    Raises:
        InputError: a key is unknown or missing, a value has a wrong type or is not allowed, or an environment
            variable is not set.

    >>> values = {"experiment": "try", "task": "pretraining", "model": {"size": "tiny"},
    ...           "data": {"train": "store"}, "trainer": {"max_steps": 10}}
    >>> load_experiment(values, {"optimizer.learning_rate": 5e-4}).optimizer.learning_rate
    0.0005
    """
    allow_modules = allowed_names(allow_modules)
    if isinstance(experiment, Experiment):
        if not overrides and below is None:
            return experiment
        saved = experiment.to_dict()
        # The classes that it uses were imported with the user's consent.
        own = own_modules(saved)
        below, experiment = merge(below or {}, with_literal_variables(saved), CHOICES), []
        allow_modules = [*allow_modules, *own]
    layers, unread = read_layers(experiment)
    if only is not None:
        left_out = {each.name for each in dataclasses.fields(Experiment)} - {*only}
        layers = [(name, {key: each for key, each in own.items() if key not in left_out}) for name, own in layers]
    try:
        layers.append(override_layer(overrides or (), CHOICES, _MAPPINGS))
    except InputError as error:
        unread.append(str(error))
    return _loaded(layers, unread, below or {}, allow_modules)


def _loaded(
    layers: Sequence[Layer], unread: list[str], below: dict[str, Any], allow_modules: Sequence[str]
) -> Experiment:
    """Return the experiment of all layers.

    Raises:
        InputError: there are messages about layers that could not be read, or the values have faults.
    """
    faults: list[Fault] = []
    sources: list[Layer] = []
    for name, written in layers:
        try:
            sources.append((name, _migrated(written, name)))
        except InputError as error:
            unread.append(str(error))
    values = migrate(below)
    for _, content in sources:
        values = merge(without_stale_arguments(values, content), content, CHOICES)
    experiment = _build(values, allow_modules, faults)
    # The keys of each source under the names that the user wrote.
    all_written: dict[str | None, dict[str, Any]] = {None: below, **dict(layers)}
    if experiment is not None and not unread:
        for name, _ in sources:
            warn_of_old_keys(all_written[name], name)
        return experiment
    if unread:
        # The content of an unreadable file is not known. An unknown key is a fault whatever that content is.
        faults = [fault for fault in faults if fault[1].startswith("unknown key")]
    all_names = ", ".join(name for name, _ in layers if name not in OVERRIDE_LAYERS)
    messages = []
    for key, message in faults:
        section, _, name = key.rpartition(".")
        # The keys of a class were written under `init_args`.
        owner = source_of(key, sources) or source_of(f"{section}.init_args.{name}", sources)
        message = with_old_name(
            _with_choice(key, with_hint(key, message, _keys_by_section())), key, all_written[owner]
        )
        source = owner or all_names
        messages.append(f"{source}: {message}" if source else message)
    raise InputError(as_one_message([*unread, *messages]))


def _migrated(values: dict[str, Any], source: str) -> dict[str, Any]:
    return with_names(migrate(values, source), CHOICES)


def _with_choice(key: str, message: str) -> str:
    """Return a message about an unknown key of a choice with the names of the choice that have the key."""
    section, _, own = key.rpartition(".")
    owners = [name for name, cls in CHOICES.get(section, {}).items() if own in field_names(cls)]
    start = f"unknown key {key!r}"
    if not message.startswith(start):
        return message
    if owners:
        return f"{start}: it is a key of {section}.name {one_of(owners)}"
    return f"{message}name" if message.endswith("known: ") else message


def _keys_by_section() -> dict[str, list[str]]:
    shared = {section: field_names(cls) for section, cls in _SECTIONS.items()}
    return {"": field_names(Experiment), "model.config": ARCHITECTURE, **task_keys(), **shared}


def _build(values: dict[str, Any], allow_modules: Sequence[str], faults: list[Fault]) -> Experiment | None:
    """Return the experiment; on faults return None and add an entry to `faults` for each."""
    trainer = values.get("trainer")
    if isinstance(trainer, dict) and isinstance(trainer.get("precision"), int):
        values = {**values, "trainer": {**trainer, "precision": str(trainer["precision"])}}
    tables = CHOICES
    if "modules" in values:
        values = {**values, "modules": read_modules(values["modules"], "modules", allow_modules, faults)}
        if faults:
            # Tasks and data sets are not known without them.
            return None
    for key, kind in OBJECT_LISTS.items():
        if key in values:
            values = {**values, key: read_objects(values[key], key, kind, allow_modules, faults)}
    try:
        values, tables = with_extensions(values, CHOICES, allow_modules)
    except InputError as error:
        # The message begins with the key.
        faults.append((str(error).split()[0].rstrip(":"), str(error)))
        values = without_sections(values, extensions_in(values, CHOICES))
    values = with_method_defaults(values, tables)
    _check_name(values.get("experiment"), faults)
    model = values.get("model")
    config = model.get("config") if isinstance(model, dict) else None
    for key in config if isinstance(config, dict) else ():
        if key not in ARCHITECTURE:
            faults.append((f"model.config.{key}", unknown_key(key, ARCHITECTURE, "model.config")))
    task = values.get("task")
    known_task = isinstance(task, str) and task in TASKS
    head_keys = field_names(TASKS[str(task)].head_settings if known_task else HeadSettings)
    values = with_own_parts(values, head_keys, allow_modules, faults)
    if not isinstance(task, str) or not known_task:
        _check_without_task(values, tables, faults)
        return None
    values = without_needless(values, "model.head", field_names(TASKS[task].head_settings))
    values = with_resolved_tasks(values, faults)
    experiment = build(experiment_class(TASKS[task]), {"data": None, **values}, "", tables, faults)
    if experiment is not None and experiment.sequence is not None:
        check_sequence(experiment, TASKS[task], tables, faults)
    return None if faults else experiment


def _check_name(name: object, faults: list[Fault]) -> None:
    if isinstance(name, str) and (not re.fullmatch(r"[\w-][\w.-]*", name) or len(name.encode()) > _LONGEST_NAME):
        message = (
            f"experiment is {name[:_LONGEST_NAME]!r}; it names a folder, so it must have only letters, digits, '-', "
            f"'_' and '.', no '.' at the start, and at most {_LONGEST_NAME} bytes"
        )
        faults.append(("experiment", message))


def _check_without_task(values: dict[str, Any], tables: Tables, faults: list[Fault]) -> None:
    """Add a fault about the task, which is missing or unknown, and check all keys as far as possible without it."""
    task = values.get("task")
    if task is None:
        faults.append(("task", f"the key task is missing; known: {', '.join(TASKS)}"))
    else:
        faults.append(("task", f"task is {task!r}{nearest_or_own(str(task), TASKS)}"))
    model = values.get("model")
    if isinstance(model, dict):
        check_task_section("model.head", model.get("head"), tables, faults)
        values = {**values, "model": {key: value for key, value in model.items() if key != "head"}}
    check_task_section("data", values.get("data"), tables, faults)
    rest = {key: value for key, value in values.items() if key not in ("task", "data")}
    fill(experiment_class(None), {**rest, "task": "", "data": None}, "", tables, faults)


@functools.cache
def experiment_class(spec: TaskSpec | None) -> type:
    """Return `Experiment` with the types of the sections that depend on the task."""
    if spec is None:
        return _subclass(Experiment, [("data", Any, field())])
    model = _subclass(ModelSettings, [("head", spec.head_settings, field(default_factory=spec.head_settings))])
    return _subclass(Experiment, [("data", spec.data_settings, field()), ("model", model, field())])


def _subclass(cls: type, fields: list[tuple[str, Any, Any]]) -> type:
    return dataclasses.make_dataclass(cls.__name__, fields, bases=(cls,), frozen=True, kw_only=True)
