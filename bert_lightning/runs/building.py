"""From an experiment to the objects of its run: data, model, task and optimisation, each complete."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import lightning
from torch import Tensor

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.delta import base_of
from bert_lightning.checkpoints.provenance import Provenance
from bert_lightning.checks import name_in
from bert_lightning.config.experiment import Experiment
from bert_lightning.data.loading.module import EvaluationSplit, StepDataModule, TrainingLength
from bert_lightning.errors import InputError
from bert_lightning.methods.adversarial import cost_of
from bert_lightning.methods.composition import compose
from bert_lightning.methods.continual import CONTINUAL_METHODS
from bert_lightning.model import BertConfig
from bert_lightning.model.config import PARTS
from bert_lightning.model.heads import LINEAR
from bert_lightning.model.losses import LOSSES, CrossEntropy
from bert_lightning.model.pretrained import PretrainedModel, config_of, without_head
from bert_lightning.model.tuning import Full, register_tuning, saved_tuning
from bert_lightning.runs.continual import (
    Previous,
    SequenceData,
    add_penalty,
    losses_of_previous,
    read_previous,
    replay,
)
from bert_lightning.runs.masked_words import add_masked_words, with_masked_words
from bert_lightning.runs.optimization import optimization_of
from bert_lightning.runs.pseudo_labelling import label_texts
from bert_lightning.runs.setup_checks import check_head, check_loss_weights, check_sizes, check_slices
from bert_lightning.runs.starting_point import (
    adapted_to,
    fill_for_scoring,
    fill_for_training,
    model_config,
    shared_tokenizer,
    tuning_name,
    with_vocabulary_of,
)
from bert_lightning.runs.teacher import Distillation, distillation_of, head_is_untrained
from bert_lightning.tasks.catalogue import OWNERS, task_spec
from bert_lightning.tasks.delta import leave_out_base
from bert_lightning.tasks.fine_tuning.settings import HeadSettings
from bert_lightning.tasks.fine_tuning.task import FineTuningTask
from bert_lightning.tasks.spec import Saved, TaskSpec
from bert_lightning.tasks.step_method import CountedLosses
from bert_lightning.tasks.task import Optimization, Task
from bert_lightning.tasks.text_classification.few_shot import with_seed_of_split
from bert_lightning.text.wordpiece import WordPieceTokenizer, load_tokenizer
from bert_lightning.wording import count


class Setup(NamedTuple):
    """Everything that a run trains or scores."""

    data: StepDataModule
    task: Task
    notes: list[str]
    """Notes for the user about how the setup was made."""
    teacher: Provenance | None = None
    """The origin of the teacher that the task learns from, if there is one."""
    fingerprints: Mapping[str, str] = MappingProxyType({})
    """Entries of the manifest that identify other models that the run needs: name -> SHA-256"""
    sequence: SequenceData | None = None
    """The data of all tasks, if the run belongs to a sequence"""


def build_training(experiment: Experiment, start: Checkpoint | None) -> Setup:
    """Build the setup of a run that trains.

    Args:
        experiment: the configuration.
        start: the checkpoint whose weights and vocabulary the run starts from, if any.

    Raises:
        InputError: data, head and checkpoint do not fit together, one of them is unusable, or the optimisation does
            not fit the task.
    """
    spec = task_spec(experiment.task)
    register_tuning(type(experiment.tuning))
    previous = read_previous(experiment)
    # Entries that are added to the vocabulary get their embeddings before the model is initialised.
    _seed(experiment)
    tokenizer, fitted = with_vocabulary_of(spec.prepare_vocabulary, _tokenizer_of_data(spec, experiment, None), start)
    fitted = adapted_to(fitted, experiment.model, tokenizer)
    tokenizer = shared_tokenizer(tokenizer, fitted)
    read = _reading_of(spec, experiment, tokenizer, {})
    config = model_config(experiment.model, fitted, len(tokenizer), read.num_segments)
    check_sizes(experiment, config)
    data = spec.data(read.settings, tokenizer, split=None, length=_length_of(experiment), **read.arguments)
    if read.sequence is not None:
        replay(experiment, data, read.sequence)
    # The masked texts are read first, because `label_texts` turns some unlabelled texts into examples.
    add_masked_words(experiment, data)
    labelled = label_texts(experiment, data)
    _seed(experiment)
    model = _new_model(spec, experiment, config, data)
    notes = [*labelled.notes]
    if fitted is not None and not spec.keeps_every_head and not _has_head_of(fitted, spec, model):
        notes += _other_labels(fitted, model)
        fitted = without_head(fitted)
    notes += fill_for_training(model, experiment, fitted)
    if start is not None:
        notes += _unlearned_entries(model, start, config)
    if experiment.trainer.precision == "bf16-true":
        model.bfloat16()
    optimization = optimization_of(experiment, model, data.plan.num_steps)
    arguments = spec.arguments_of_task(data, {})
    task = _new_task(spec, experiment, (model, config, tokenizer), arguments, optimization)
    check_slices(experiment, experiment.tuning, model)
    if start is not None and type(experiment.tuning) is not Full:
        leave_out_base(task, base_of(start, _frozen(model)))
    add_penalty(experiment, task, model, (start, fitted), previous)
    distillation = distillation_of(experiment, task, data, read.num_segments, arguments, labelled.for_student)
    losses = with_masked_words(experiment, task, _losses_of(experiment, task, distillation, previous, read.sequence))
    task.step_method = compose(task, experiment.step_method, experiment.adversarial, losses)
    check_loss_weights(experiment, task)
    if head_is_untrained(experiment, task):
        notes.append(
            "the student learns only inner states of its teacher: the validation scores are those of an untrained "
            "head, so there is no best checkpoint, and the last one is the result"
        )
    notes += [*distillation.notes, *cost_of(experiment.adversarial)]
    of_previous = previous.fingerprints if previous is not None else {}
    fingerprints = {**distillation.fingerprints, **labelled.fingerprints, **of_previous}
    return Setup(data, task, notes, distillation.teacher, fingerprints, read.sequence)


def build_scoring(experiment: Experiment, checkpoint: Checkpoint, split: EvaluationSplit) -> Setup:
    """Build the setup that scores a checkpoint.

    Args:
        experiment: the configuration.
        checkpoint: the weights that are scored, with their labels and their vocabulary.
        split: the one split that is read.

    Raises:
        InputError: data, head and checkpoint do not fit together, or one of them is unusable.
    """
    spec, saved = task_spec(experiment.task), checkpoint.task_settings
    check_head(spec, experiment, checkpoint)
    register_tuning(type(experiment.tuning))
    tuning = saved_tuning(checkpoint)
    _seed(experiment)
    stored = spec.stored_tokenizer is not None
    # A checkpoint has its own vocabulary. That of the data is read only if no other one can read the data.
    own = _tokenizer_of_data(spec, experiment, split) if stored or checkpoint.vocabulary is None else None
    tokenizer = shared_tokenizer(own, checkpoint)
    read = _reading_of(spec, experiment, tokenizer, saved)
    # A run that began with random weights has trained ones in its checkpoint.
    settings = dataclasses.replace(experiment.model, weights="pretrained")
    config = model_config(settings, checkpoint, len(tokenizer), read.num_segments, tuning)
    check_sizes(experiment, config)
    data = spec.data(read.settings, tokenizer, split=split, length=None, **read.arguments)
    _seed(experiment)
    model = _new_model(spec, experiment, config, data)
    notes = fill_for_scoring(model, experiment, checkpoint, tuning)
    if experiment.trainer.precision == "bf16-true":
        model.bfloat16()
    task = _new_task(spec, experiment, (model, config, tokenizer), spec.arguments_of_task(data, saved), None)
    check_slices(experiment, tuning, model)
    return Setup(data, task, notes)


class _Reading(NamedTuple):
    """How the data of a run is read."""

    settings: Any
    """The data settings of the task, which a sequence decides for its run."""
    arguments: dict[str, Any]
    """Further arguments of the data module, such as the labels"""
    num_segments: int
    """The number of token types that a sequence of tokens has."""
    sequence: SequenceData | None


def _reading_of(spec: TaskSpec, experiment: Experiment, tokenizer: WordPieceTokenizer, saved: Saved) -> _Reading:
    """Return how to read the data of a run. `saved` has the labels of a checkpoint that is scored."""
    if experiment.sequence is not None:
        sequence = SequenceData(experiment, tokenizer, saved.get("labels"))
        arguments = {**spec.data_arguments(saved), **sequence.arguments}
        return _Reading(sequence.own, arguments, sequence.num_segments, sequence)
    settings = with_seed_of_split(experiment.data, experiment.seed_everything)
    return _Reading(settings, spec.data_arguments(saved), spec.num_segments(settings), None)


def _new_task(
    spec: TaskSpec,
    experiment: Experiment,
    parts: tuple[PretrainedModel, BertConfig, WordPieceTokenizer],
    arguments: dict[str, Any],
    optimization: Optimization | None,
) -> Task:
    task = spec.task(*parts, **arguments, optimization=optimization)
    task.module = OWNERS.get(spec.name)
    _use_loss(experiment, task)
    return task


def _losses_of(
    experiment: Experiment,
    task: Task,
    distillation: Distillation,
    previous: Previous | None,
    sequence: SequenceData | None,
) -> CountedLosses | None:
    """Return the losses that another model's predictions add: those of a teacher, or of the run before.

    Raises:
        InputError: the settings ask for both.
    """
    settings, remembers = experiment.distillation, experiment.sequence is not None and experiment.continual.remembers
    if remembers and settings is not None and settings.has_effect:
        raise InputError(
            f"continual.name {name_in(CONTINUAL_METHODS, type(experiment.continual))} and distillation both train on "
            "the predictions of another model: use one of them"
        )
    of_previous = losses_of_previous(experiment, task, previous, sequence)
    return distillation.losses if of_previous is None else of_previous


def _other_labels(start: Checkpoint, model: PretrainedModel) -> list[str]:
    """Return a note if the head of a checkpoint is left out although it is one of the model's kind."""
    if start.architecture != model.architecture or "labels" not in start.task_settings:
        return []
    return [f"the head of {start.path} is not used, because its labels are not those of the data in the same order"]


def _use_loss(experiment: Experiment, task: Task) -> None:
    """Give the task its loss over counted items, which training and evaluation share.

    Raises:
        InputError: the task can use only the default.
    """
    if isinstance(experiment.loss, CrossEntropy):
        return
    own = "this task has losses of its own"
    obstacle = task.loss_obstacle if isinstance(task, FineTuningTask) else own
    if obstacle is not None or not isinstance(task, FineTuningTask):
        name = name_in(LOSSES, type(experiment.loss))
        raise InputError(f"loss.name is {name}, which cannot be used: {obstacle or own}")
    task.loss = experiment.loss


def _new_model(spec: TaskSpec, experiment: Experiment, config: BertConfig, data: StepDataModule) -> PretrainedModel:
    """Build the model with the head that task, settings and data decide.

    Raises:
        InputError: a custom head does not take its arguments.
    """
    head = experiment.model.head
    arguments = spec.head_arguments(head, data)
    if isinstance(head, HeadSettings) and head.name != LINEAR:
        arguments["head"] = {"name": head.name, "init_args": head.init_args}
    try:
        return spec.model(config, **arguments)
    except ValueError as error:
        field = str(error).partition(" ")[0].rstrip(":")
        section = "model.config." if field in PARTS and field != "attention" else "model."
        raise InputError(f"{section}{error}") from None


def _frozen(model: PretrainedModel) -> dict[str, Tensor]:
    """Return the parameters that do not train, under their names in a checkpoint."""
    return {
        f"{model.prefix}{name}": parameter.detach()
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad
    }


def _unlearned_entries(model: PretrainedModel, given: Checkpoint, config: BertConfig) -> list[str]:
    """Return a note if entries were added to a vocabulary whose embeddings do not train."""
    added = config.vocab_size - config_of(given).vocab_size
    words = model.backbone.embeddings.word.weight
    if type(model.tuning) is Full or added <= 0 or words.requires_grad:
        return []
    return [
        f"tuning.name {tuning_name(model)} leaves the random embeddings of {count(added, 'new vocabulary row')} as "
        "they are"
    ]


def _seed(experiment: Experiment) -> None:
    lightning.seed_everything(experiment.seed_everything, workers=False, verbose=False)


def _tokenizer_of_data(spec: TaskSpec, experiment: Experiment, split: str | None) -> WordPieceTokenizer | None:
    """Return the tokenizer that the data is stored with, or the one that `data.tokenizer` names, if any."""
    settings = experiment.data
    if spec.stored_tokenizer is not None:
        return spec.stored_tokenizer(settings, split)
    # False is the default of `cased`. It does not contradict the files of a model's folder.
    return load_tokenizer(settings.tokenizer, settings.cased or None) if settings.tokenizer is not None else None


def _length_of(experiment: Experiment) -> TrainingLength:
    settings = experiment.trainer
    # `auto` starts with one micro-batch; training/micro_batch.py settles the number before the first step.
    accumulate = settings.accumulate_grad_batches
    micro_batches = 1 if accumulate == "auto" else accumulate
    return TrainingLength(settings.max_steps, settings.max_epochs, micro_batches, experiment.seed_everything)


def _has_head_of(start: Checkpoint, spec: TaskSpec, model: PretrainedModel) -> bool:
    """Return whether a checkpoint's head is one of this task, for the same labels in the same order."""
    same_task = start.task == spec.name if start.task is not None else start.architecture == model.architecture
    expected = {"head": None, **model.head_settings}
    return same_task and all(start.task_settings.get(name, value) == value for name, value in expected.items())
