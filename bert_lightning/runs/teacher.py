"""The teacher of a distillation: a checkpoint that must fit the student's task, data and head."""

from collections.abc import Iterator, Mapping

import torch

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.config.experiment import Experiment
from bert_lightning.config.model_parts import register_parts_of
from bert_lightning.errors import InputError
from bert_lightning.model import BertConfig
from bert_lightning.model.pretrained import PretrainedModel, config_of, fill
from bert_lightning.model.tuning import tune_as
from bert_lightning.runs.starting_point import checkpoint_tokenizer
from bert_lightning.tasks.catalogue import task_spec
from bert_lightning.tasks.task import Task

# Values of a checkpoint that decide what its outputs mean.
_MEANINGS = ("labels", "problem_type", "objective", "no_answer")


def read_teacher(experiment: Experiment) -> Checkpoint | None:
    """Read the checkpoint of the teacher, if there is one. Its custom parts may be of the experiment's modules."""
    if experiment.distillation is None:
        return None
    teacher = read_checkpoint(experiment.distillation.teacher)
    register_parts_of(teacher, experiment.modules)
    return teacher


def build_teacher(
    experiment: Experiment, checkpoint: Checkpoint, student: Task, num_segments: int, arguments: Mapping[str, object]
) -> Task:
    """Build a task with the teacher's model that computes the batches of the student.

    Args:
        experiment: the settings of the training.
        checkpoint: the teacher.
        student: the task that is trained.
        num_segments: the number of token types in the data.
        arguments: the arguments of the student except its model.

    Raises:
        InputError: the student has no distributions to compare, or the teacher differs in what its outputs mean.
    """
    if not student.distribution_names:
        crf = " with a CRF, which scores whole sequences of tags" if getattr(student.model, "crf", None) else ""
        raise InputError(f"distillation is not defined for the task {student.name}{crf}")
    spec, config = task_spec(experiment.task), config_of(checkpoint)
    problems = [
        *_other_task(checkpoint, student),
        *_other_inputs(checkpoint, config, experiment, student, num_segments),
    ]
    if not problems:
        # The student's random numbers must not depend on the teacher.
        with torch.random.fork_rng(devices=[]):
            try:
                model = spec.model(config, **spec.saved_head_arguments(checkpoint))
            except ValueError as error:
                raise InputError(
                    f"distillation.teacher {checkpoint.path}: {error}; name the module under modules too"
                ) from None
            tune_as(model, checkpoint)
        problems += _other_head(checkpoint, model, student)
    if problems:
        raise InputError(f"distillation.teacher {checkpoint.path} cannot teach this student: {'; '.join(problems)}")
    missing = fill(model, checkpoint).missing
    if missing:
        raise InputError(f"distillation.teacher {checkpoint.path} lacks parameters of the task: {', '.join(missing)}")
    model.backbone.attention = experiment.model.backend
    if experiment.trainer.precision == "bf16-true":
        model.bfloat16()
    return spec.task(model, config, student.tokenizer, **arguments)


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
