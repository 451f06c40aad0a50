"""From an experiment to the objects of its run: data, model, task and optimisation, each complete."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import lightning
from torch import Tensor, nn

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.delta import base_of
from bert_lightning.checkpoints.provenance import Provenance
from bert_lightning.checks import name_in, nearest
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
from bert_lightning.model.tuning import TUNINGS, Full, Tuning, register_tuning, saved_tuning
from bert_lightning.optim.freezing import release_steps
from bert_lightning.runs.continual import SequenceData, add_penalty, memory_of, read_previous, replay
from bert_lightning.runs.masked_words import add_masked_words, with_masked_words
from bert_lightning.runs.pseudo_labelling import Labelled, label_texts
from bert_lightning.runs.starting_point import (
    adapted_to,
    model_config,
    shared_tokenizer,
    take_weights,
    tuning_name,
    with_vocabulary_of,
)
from bert_lightning.runs.teacher import distillation_of, head_is_untrained
from bert_lightning.tasks.catalogue import OWNERS, task_spec
from bert_lightning.tasks.delta import leave_out_base
from bert_lightning.tasks.fine_tuning.settings import HeadSettings
from bert_lightning.tasks.fine_tuning.task import FineTuningTask
from bert_lightning.tasks.spec import TaskSpec
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


def build(experiment: Experiment, start: Checkpoint | None, split: EvaluationSplit | None = None) -> Setup:
    """Build the setup of a run.

    Args:
        experiment: the configuration.
        start: the checkpoint whose weights and vocabulary the run starts from, if any.
        split: the one split to score, with the labels of `start`; None builds a setup that trains.

    Raises:
        InputError: data, head and checkpoint do not fit together, one of them is unusable, or the optimisation does
            not fit the task.
    """
    spec, settings = task_spec(experiment.task), with_seed_of_split(experiment.data, experiment.seed_everything)
    if start is not None and split is not None:
        _check_head(spec, experiment, start)
    given, tuning = start, _tuning_of(experiment, start, split)
    previous = read_previous(experiment) if split is None else None
    # Entries that are added to the vocabulary get their embeddings before the model is initialised.
    _seed(experiment)
    tokenizer = _tokenizer_of_data(spec, experiment, split)
    if split is None:
        tokenizer, start = with_vocabulary_of(spec.prepare_vocabulary, tokenizer, start)
        start = adapted_to(start, experiment.model, tokenizer)
    tokenizer = shared_tokenizer(tokenizer, start, data_decides=spec.stored_tokenizer is not None, split=split)
    # Only a checkpoint that is scored has the parameters of a tuning. One that training starts from has none.
    added = tuning if split is not None else None
    saved = start.task_settings if start is not None and split is not None else {}
    sequence, labels, num_segments = None, spec.data_arguments(saved), spec.num_segments(settings)
    if experiment.sequence is not None:
        sequence = SequenceData(experiment, tokenizer, saved.get("labels"))
        settings, labels, num_segments = sequence.own, sequence.arguments, sequence.num_segments
    config = model_config(experiment.model, start, len(tokenizer), num_segments, added)
    _check_sizes(experiment, config)
    length = _length_of(experiment) if split is None else None
    data = spec.data(settings, tokenizer, split=split, length=length, **labels)
    if sequence is not None and split is None:
        replay(experiment, data, sequence)
    labelled = Labelled()
    if split is None:
        # The masked texts are read first, because `label_texts` turns some unlabelled texts into examples.
        add_masked_words(experiment, data)
        labelled = label_texts(experiment, data)
    _seed(experiment)
    model = _new_model(spec, experiment, config, data)
    notes: list[str] = [*labelled.notes]
    if start is not None and split is None and not spec.keeps_every_head and not _has_head_of(start, spec, model):
        notes += _other_labels(start, model)
        start = without_head(start)
    notes += take_weights(model, experiment, start, split, tuning)
    if start is not None and given is not None:
        notes += _unlearned_entries(model, given, config)
    if experiment.trainer.precision == "bf16-true":
        model.bfloat16()
    optimization = optimization_of(experiment, model, data.plan.num_steps) if split is None else None
    arguments = spec.task_arguments(data, saved)
    task = spec.task(model, config, tokenizer, **arguments, optimization=optimization)
    task.module = OWNERS.get(spec.name)
    _use_loss(experiment, task)
    _check_slices(experiment, tuning, model)
    if split is not None:
        return Setup(data, task, notes)
    if given is not None and type(tuning) is not Full:
        leave_out_base(task, base_of(given, _frozen(model)))
    add_penalty(experiment, task, model, (given, start), previous)
    distillation = distillation_of(experiment, task, data, num_segments, arguments, labelled.for_student)
    with_memory = memory_of(experiment, task, previous, sequence)
    if with_memory is not None and distillation.losses is not None:
        raise InputError(
            f"continual.name {name_in(CONTINUAL_METHODS, type(experiment.continual))} and distillation both train on "
            "the predictions of another model: use one of them"
        )
    losses = distillation.losses if with_memory is None else with_memory(task)
    losses = with_masked_words(experiment, task, losses)
    task.step_method = compose(task, experiment.step_method, experiment.adversarial, losses)
    _check_loss_weights(experiment, task)
    if head_is_untrained(experiment, task):
        notes.append(
            "the student learns inner states of its teacher alone: the validation scores are those of an untrained "
            "head, so there is no best checkpoint, and the last one is the result"
        )
    notes += [*distillation.notes, *cost_of(experiment.adversarial)]
    of_previous = previous.fingerprints if previous is not None else {}
    fingerprints = {**distillation.fingerprints, **labelled.fingerprints, **of_previous}
    return Setup(data, task, notes, distillation.teacher, fingerprints, sequence)


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


def _tuning_of(experiment: Experiment, start: Checkpoint | None, split: EvaluationSplit | None) -> Tuning:
    """Return the tuning of a training, or the one with which the checkpoint that is scored was trained."""
    register_tuning(type(experiment.tuning))
    if split is None:
        return experiment.tuning
    return saved_tuning(start) if start is not None else Full()


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


def _check_head(spec: TaskSpec, experiment: Experiment, checkpoint: Checkpoint) -> None:
    """Check that a checkpoint is scored with the head that it was trained with.

    Raises:
        InputError: an option of the head differs. The message names the key and the checkpoint's value.
    """
    if checkpoint.task != spec.name:
        return
    saved, settings = checkpoint.task_settings.get("head") or {}, experiment.model.head
    options = spec.head_options(checkpoint.tensors)
    if isinstance(settings, HeadSettings):
        options |= {"name": saved.get("name", LINEAR), "init_args": saved.get("init_args", {})}
    for name, value in options.items():
        chosen = getattr(experiment.model.head, name)
        if chosen != value:
            raise InputError(
                f"model.head.{name} is {json.dumps(chosen)}, but {checkpoint.path} was trained with "
                f"{json.dumps(value)}: a checkpoint can be scored only with its own head"
            )


def _tokenizer_of_data(spec: TaskSpec, experiment: Experiment, split: str | None) -> WordPieceTokenizer | None:
    """Return the tokenizer that the data is stored with, or the one that `data.tokenizer` names, if any."""
    settings = experiment.data
    if spec.stored_tokenizer is not None:
        return spec.stored_tokenizer(settings, split)
    # False is the default of `cased`. It does not contradict the files of a model's folder.
    return load_tokenizer(settings.tokenizer, settings.cased or None) if settings.tokenizer is not None else None


def _check_sizes(experiment: Experiment, config: BertConfig) -> None:
    """Check that sequences fit the model, and the model the processes that share it.

    Raises:
        InputError: they do not.
    """
    length, num_positions = experiment.data.longest, config.max_position_embeddings
    if length > num_positions:
        raise InputError(
            f"data.max_seq_length {length} is more than the model's positions ({num_positions}): lower it"
        )
    size = experiment.trainer.tensor_parallel_size
    for name in ("num_attention_heads", "intermediate_size"):
        if getattr(config, name) % size:
            raise InputError(
                f"trainer.tensor_parallel_size is {size}, which does not divide the model's {name} "
                f"({getattr(config, name)})"
            )


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


def optimization_of(experiment: Experiment, model: PretrainedModel, num_steps: int) -> Optimization:
    """Return the settings of a model's optimiser step.

    Raises:
        InputError: a pattern of parameters matches none, the schedule does not fit into the steps, or gradual
            unfreezing releases nothing.
    """
    try:
        experiment.schedule.check(num_steps)
    except ValueError as error:
        raise InputError(f"schedule.{error}") from None
    _check_matrices(experiment, model)
    parameters = [name for name, _ in model.named_parameters()]
    for pattern in experiment.parameter_groups.unmatched(parameters):
        raise InputError(f"parameter_groups.no_decay: no parameter's name holds {pattern!r}; one is {parameters[0]}")
    return Optimization(
        optimizer=experiment.optimizer,
        schedule=experiment.schedule,
        num_steps=num_steps,
        gradient_clip_val=experiment.trainer.gradient_clip_val,
        seed=experiment.seed_everything,
        non_finite=experiment.trainer.non_finite,
        log_every_n_steps=experiment.trainer.log_every_n_steps,
        log_norms=experiment.trainer.log_norms,
        loss_weights=experiment.loss_weights,
        parameter_groups=experiment.parameter_groups,
        releases=_releases(experiment.freeze.unfreeze_every, model, num_steps),
    )


def _check_slices(experiment: Experiment, tuning: Tuning, model: PretrainedModel) -> None:
    """Check that FSDP and tensor parallelism can slice the parameters that a tuning and custom parts add.

    Raises:
        InputError: the tuning is a custom class, a custom attention or activation has parameters, or
            a parameter is a scalar.
    """
    for name, parameter in model.named_parameters() if experiment.trainer.strategy == "fsdp" else ():
        if parameter.ndim == 0:
            raise InputError(
                f"trainer.strategy fsdp cannot slice the scalar parameter {name}: give it the shape (1,)"
            )
    if experiment.trainer.tensor_parallel_size == 1:
        return
    for name, key in (("attention", "model.attention"), ("activation", "model.config.hidden_act")):
        for block in model.backbone.layers:
            part = getattr(block, name)
            if isinstance(part, nn.Module) and any(True for _ in part.parameters()):
                raise InputError(
                    f"trainer.tensor_parallel_size cannot be combined with {key} {type(part).__name__}, which has "
                    "parameters: each process has only some of the heads and widths"
                )
    if type(tuning) not in TUNINGS.values():
        raise InputError(
            "trainer.tensor_parallel_size cannot be combined with tuning.class_path: it cuts only layers it knows"
        )


def _check_matrices(experiment: Experiment, model: PretrainedModel) -> None:
    """Check that an optimiser with its own step for the matrices of the blocks has one to update.

    Raises:
        InputError: the tuning freezes all of them.
    """
    if not experiment.optimizer.matrices_apart or type(model.tuning) is Full:
        return
    matrices = model.hidden_matrices()
    if not any(parameter.requires_grad for name, parameter in model.named_parameters() if name in matrices):
        raise InputError(
            f"optimizer.name muon has no matrix to update with tuning.name {tuning_name(model)}: it would be AdamW, "
            "so use adamw"
        )


def _releases(every: int | None, model: PretrainedModel, num_steps: int) -> dict[str, int]:
    """Return the step at which each parameter begins to train under `freeze.unfreeze_every`."""
    if every is None:
        return {}
    releases = release_steps(model, model.depths(), every)
    if max(releases.values()) == 0:
        raise InputError("freeze.unfreeze_every has no effect: everything below the head is frozen for good")
    if every >= num_steps:
        raise InputError(
            f"freeze.unfreeze_every is {every}, but training ends after {num_steps} steps: use freeze.encoder"
        )
    return releases


def _check_loss_weights(experiment: Experiment, task: Task) -> None:
    losses = task.step_method.loss_names[: task.step_method.num_losses]
    for name in experiment.loss_weights:
        if name not in losses:
            raise InputError(f"unknown key 'loss_weights.{name}'{nearest(name, losses, 'loss_weights')}")
