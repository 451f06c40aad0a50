"""The teacher of a distillation: a checkpoint that must fit the student's task, data and head."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.provenance import Provenance
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.config.experiment import Experiment
from bert_lightning.config.model_parts import register_parts_of
from bert_lightning.data.loading.module import StepDataModule
from bert_lightning.errors import InputError
from bert_lightning.methods.distillation import DistillationSettings, DistilledLosses
from bert_lightning.methods.distillation.cache import LogitCache
from bert_lightning.methods.distillation.ensemble import EnsembleLogits
from bert_lightning.methods.distillation.term import Term
from bert_lightning.model import BertConfig, BertEncoder
from bert_lightning.model.pretrained import PretrainedModel, config_of, fill
from bert_lightning.model.tuning import tune_as
from bert_lightning.runs.ensemble_teachers import meaning_of, read_teachers
from bert_lightning.runs.starting_point import checkpoint_tokenizer
from bert_lightning.tasks.catalogue import task_spec
from bert_lightning.tasks.distributions import described
from bert_lightning.tasks.fine_tuning.data import FineTuningDataModule
from bert_lightning.tasks.step import loss_weights
from bert_lightning.tasks.task import Task
from bert_lightning.tasks.text_classification.task import TextClassificationTask
from bert_lightning.wording import count

# Values of a checkpoint that decide what its outputs mean.
_MEANINGS = ("labels", "problem_type", "objective", "no_answer")
# Beginnings of the names of losses that do not teach a head what its outputs should be. These are the losses on inner
# states, if no logits are compared, and those on the difference between predictions of the student itself.
_NOT_OF_HEADS = ("distillation_", "r_drop_", "smart_", "proximal_")


class Distillation(NamedTuple):
    """The losses with which a student learns from its teacher, and the origin of the teacher."""

    losses: DistilledLosses | None
    """None if the settings give the teacher no weight"""
    teacher: Provenance | None
    """the origin of the teacher"""
    notes: list[str]
    """for the user"""
    fingerprints: Mapping[str, str] = MappingProxyType({})
    """entries of the manifest that identify several teachers: name -> SHA-256"""


def head_is_untrained(experiment: Experiment, task: Task) -> bool:
    """Return whether a student with a new head learns nothing but the inner states of its teacher.

    Its scores then say nothing. The task must have its step method.
    """
    settings, report = experiment.distillation, task.model.loading_report
    if settings is None or settings.alpha or task.optimization is None:
        return False
    weights = zip(task.step_method.loss_names, loss_weights(task, task.optimization), strict=False)
    learned = [name.removeprefix("adversarial_") for name, weight in weights if weight]
    if not all(name.startswith(_NOT_OF_HEADS) for name in learned):
        return False
    encoder = {id(parameter) for parameter in task.model.backbone.parameters()}
    head = {name for name, parameter in task.model.named_parameters() if id(parameter) not in encoder}
    return report is None or bool(head & {*report.missing})


def distillation_of(
    experiment: Experiment,
    student: Task,
    data: StepDataModule,
    num_segments: int,
    arguments: Mapping[str, object],
    known: Tensor | None = None,
) -> Distillation:
    """Read the teacher, if there is one, and build the losses of a student that learns from it.

    Args:
        experiment: the settings of the training.
        student: the task that is trained; it receives the projections of inner states.
        data: the data of the training.
        num_segments: the number of token types in the data.
        arguments: the arguments of the student except its model.
        known: (n, L) the logits of several teachers for the last n training examples, if they have been computed.

    Raises:
        InputError: the student has no distributions to compare, the teacher differs in what its outputs mean, or the
            settings do not fit the two models or the data.
    """
    settings = experiment.distillation
    if settings is None:
        return Distillation(None, None, [])
    if settings.teacher is None:
        return _ensemble(experiment, settings, student, data, known)
    try:
        checkpoint = read_checkpoint(settings.teacher)
    except CheckpointError as error:
        raise InputError(f"distillation.teacher: {error}") from None
    # Its custom parts may be of the experiment's modules.
    register_parts_of(checkpoint, experiment.modules)
    _check_student(settings, student)
    teacher = _build_teacher(experiment, settings, checkpoint, student, num_segments, arguments)
    if not settings.has_effect:
        return Distillation(None, checkpoint.provenance, [])
    terms = _terms(experiment, settings, checkpoint, student)
    cache = _cache(experiment, settings, checkpoint, teacher, data)
    losses = DistilledLosses(student, teacher, settings, terms, cache)
    return Distillation(losses, checkpoint.provenance, _notes(student, cache, data))


def _ensemble(
    experiment: Experiment,
    settings: DistillationSettings,
    student: Task,
    data: StepDataModule,
    known: Tensor | None,
) -> Distillation:
    """Read several teachers, each of which reads the student's examples in its own form.

    Raises:
        InputError: student or teacher is no classifier of texts with single labels, or their labels differ. The
            message names the key.
    """
    if not isinstance(student, TextClassificationTask) or student.kind != "single-label":
        raise InputError(
            f"distillation.teachers need a student with single labels of texts, and this is {student.name}: name one "
            "distillation.teacher"
        )
    tasks, digests, shares = read_teachers(
        "distillation.teachers",
        settings.teachers,
        settings.teacher_weights,
        student.labels,
        is_pair=student.settings.is_pair,
        modules=experiment.modules,
    )
    calibrated = [name for name, task in zip(settings.teachers, tasks, strict=True) if _is_calibrated(task)]
    if calibrated and _is_calibrated(student):
        raise InputError(
            f"data.calibration would be applied twice: the teacher {calibrated[0]} is calibrated, and the student "
            "learns what it says: leave data.calibration out"
        )
    assert isinstance(data, FineTuningDataModule)
    mean = EnsembleLogits(tasks, student.labels, data.splits["train"], shares, known)
    losses = DistilledLosses(student, tasks[0], settings, None, mean)
    return Distillation(losses, None, [], {f"teacher {name}": digest for name, digest in digests.items()})


def _is_calibrated(task: Task) -> bool:
    return getattr(task.settings, "calibration", None) is not None


def _check_student(settings: DistillationSettings, student: Task) -> None:
    """Check that the student predicts something that can be compared, if its logits are.

    Raises:
        InputError: it does not.
    """
    if settings.alpha and not student.distribution_names:
        raise InputError(
            f"distillation of logits is not defined for {described(student)}: set distillation.alpha to 0 to compare "
            "only inner states"
        )


def _build_teacher(
    experiment: Experiment,
    settings: DistillationSettings,
    checkpoint: Checkpoint,
    student: Task,
    num_segments: int,
    arguments: Mapping[str, object],
) -> Task | BertEncoder:
    """Build the teacher: a task that computes the student's batches, or only an encoder if no logits are compared.

    Raises:
        InputError: the teacher differs in what its inputs or outputs mean.
    """
    config, encoder_alone = config_of(checkpoint), not settings.alpha
    problems = [
        *(() if encoder_alone else _other_task(checkpoint, student)),
        *_other_inputs(checkpoint, config, experiment, student, num_segments),
    ]
    model: PretrainedModel | None = None
    if not problems:
        # The student's random numbers must not depend on the teacher.
        with torch.random.fork_rng(devices=[]):
            model = _new_model(checkpoint, config, None if encoder_alone else experiment.task)
        problems += () if encoder_alone else _other_head(checkpoint, model, student)
    if problems or model is None:
        raise InputError(f"distillation.teacher {checkpoint.path} cannot teach this student: {'; '.join(problems)}")
    missing = fill(model, checkpoint).missing
    if missing and not encoder_alone:
        raise InputError(
            f"distillation.teacher {checkpoint.path} lacks parameters of the task: {', '.join(missing)}. With "
            "distillation.alpha 0, which compares only inner states, it needs none"
        )
    model.backbone.attention = experiment.model.backend
    if experiment.trainer.precision == "bf16-true":
        model.bfloat16()
    if isinstance(model, BertEncoder):
        return model
    return task_spec(experiment.task).task(model, config, student.tokenizer, **arguments)


def _new_model(checkpoint: Checkpoint, config: BertConfig, task: str | None) -> PretrainedModel:
    """Return the model of a checkpoint with its tuning but without its weights; without a task, the encoder alone.

    Raises:
        InputError: the head is not known here.
    """
    spec = task_spec(task) if task is not None else None
    try:
        model = (
            BertEncoder(config) if spec is None else spec.model(config, **spec.arguments_of_saved_head(checkpoint))
        )
    except ValueError as error:
        raise InputError(
            f"distillation.teacher {checkpoint.path}: {error}; name the module under modules too"
        ) from None
    tune_as(model, checkpoint)
    return model


def _terms(
    experiment: Experiment, settings: DistillationSettings, checkpoint: Checkpoint, student: Task
) -> dict[str, Term]:
    """Build the losses on inner states.

    Raises:
        InputError: one does not fit the two architectures, or the processes that share a model.
    """
    terms: dict[str, Term] = {}
    for name, each in settings.terms():
        try:
            # The random numbers of what follows must not depend on the projections.
            with torch.random.fork_rng(devices=[]):
                terms[name] = each.build(student.config, config_of(checkpoint))
        except ValueError as error:
            raise InputError(f"distillation.{name}.{error}") from None
        if terms[name].student.blocks and experiment.trainer.tensor_parallel_size > 1:
            raise InputError(
                f"distillation.{name} cannot be combined with trainer.tensor_parallel_size: it compares all heads, "
                "and each process has only some of them"
            )
        terms[name].projections.to(student.model.backbone.embeddings.word.weight.dtype)
    return terms


def _cache(
    experiment: Experiment,
    settings: DistillationSettings,
    checkpoint: Checkpoint,
    teacher: Task | BertEncoder,
    data: StepDataModule,
) -> LogitCache | None:
    """Return the file of the teacher's logits, if the settings name a folder for it.

    Raises:
        InputError: the inputs of the task change from step to step.
    """
    if settings.cache is None:
        return None
    where = None if isinstance(data, FineTuningDataModule) else "in pre-training: masks"
    if getattr(experiment.data, "demonstrations", False):
        where = "with data.demonstrations: they"
    if where is not None:
        raise InputError(
            f"distillation.cache cannot be used {where} are drawn anew at each step, so the teacher never reads the "
            "same input twice"
        )
    assert isinstance(data, FineTuningDataModule)
    assert isinstance(teacher, Task), "the settings refuse a cache without logits"
    digest = checkpoint.provenance.digest if checkpoint.provenance is not None else ""
    key = f"{digest}\n{meaning_of(checkpoint, teacher.task_settings)}"
    return LogitCache(Path(settings.cache), data.splits["train"], key, experiment.trainer.precision)


def _notes(student: Task, cache: LogitCache | None, data: StepDataModule) -> list[str]:
    number = sum(parameter.numel() for parameter in student.beside_model.parameters())
    notes = [f"{number:,} parameters of projections train beside the model"] if number else []
    if cache is not None:
        sequences = count(data.num_training_samples, "sequence")
        verb = "are read from" if cache.path.exists() else f"are computed at the first step, for {sequences}, into"
        notes.append(f"the teacher's logits {verb} {cache.path}")
    return notes


def _other_task(checkpoint: Checkpoint, student: Task) -> Iterator[str]:
    if checkpoint.task not in (None, student.name):
        yield f"it was trained for {checkpoint.task}, not {student.name}"
    elif checkpoint.task is None and checkpoint.architecture not in (None, student.model.architecture):
        yield f"it is a {checkpoint.architecture}, not a {student.model.architecture}"


def _other_inputs(
    checkpoint: Checkpoint, config: BertConfig, experiment: Experiment, student: Task, num_segments: int
) -> Iterator[str]:
    """Yield why a teacher cannot read the student's batches."""
    tokenizer, own = checkpoint_tokenizer(checkpoint), student.tokenizer
    if tokenizer is not None and tokenizer.fingerprint != own.fingerprint:
        yield f"its vocabulary ({len(tokenizer)} entries) is not that of the data ({len(own)} entries)"
    elif config.vocab_size < len(own):
        yield f"its vocab_size is {config.vocab_size}, but the vocabulary has {len(own)} entries"
    elif "mlm_loss" in student.distribution_names and config.vocab_size != student.config.vocab_size:
        yield f"its vocab_size is {config.vocab_size}, not {student.config.vocab_size}"
    if config.max_position_embeddings < experiment.data.longest:
        yield f"it has {config.max_position_embeddings} positions, fewer than data.max_seq_length"
    if config.type_vocab_size < num_segments:
        yield f"its type_vocab_size is {config.type_vocab_size}, but the data are pairs"


def _other_head(checkpoint: Checkpoint, model: PretrainedModel, student: Task) -> Iterator[str]:
    """Yield what differs in the outputs of a teacher, or in the options that decide which outputs there are."""
    options = task_spec(student.name).head_options
    optional = options(student.model.state_dict())
    own = student.task_settings | student.model.head_settings | optional
    saved = checkpoint.task_settings | model.head_settings | options(model.state_dict())
    for name in (*_MEANINGS, *optional):
        mine, theirs = own.get(name), saved.get(name)
        if name == "labels" and own.get("problem_type") == "regression":
            mine, theirs = (len(each) if isinstance(each, list) else each for each in (mine, theirs))
        if name in own and name in saved and mine != theirs:
            yield f"its {name} is {_shown(theirs)}, not {_shown(mine)}"


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
