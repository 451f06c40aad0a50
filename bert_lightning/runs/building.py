"""An experiment to the objects of its run: the data, then the model that the data decides on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import lightning
import torch

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checks import nearest
from bert_lightning.config.experiment import Experiment
from bert_lightning.config.sections import ModelSettings
from bert_lightning.data.loading.module import EvaluationSplit, StepDataModule
from bert_lightning.data.pretraining.module import PretrainingDataModule
from bert_lightning.data.pretraining.objectives import OBJECTIVES, ObjectiveName
from bert_lightning.errors import InputError
from bert_lightning.model import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForRelationClassification,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from bert_lightning.model.pretrained import PretrainedModel, adapted, config_of, fill, without_head
from bert_lightning.optim.freezing import release_steps
from bert_lightning.runs.starting_point import adapted_to, checkpoint_tokenizer, model_config, take_weights
from bert_lightning.tasks.catalogue import TASKS
from bert_lightning.tasks.fine_tuning.data import FineTuningDataModule
from bert_lightning.tasks.fine_tuning.task import FineTuningTask
from bert_lightning.tasks.multiple_choice.data import MultipleChoiceDataModule
from bert_lightning.tasks.multiple_choice.task import MultipleChoiceTask
from bert_lightning.tasks.pretraining.task import PretrainingTask
from bert_lightning.tasks.question_answering.data import QuestionAnsweringDataModule
from bert_lightning.tasks.question_answering.task import QuestionAnsweringTask
from bert_lightning.tasks.relation_classification.data import RelationClassificationDataModule, with_markers
from bert_lightning.tasks.relation_classification.task import RelationClassificationTask
from bert_lightning.tasks.task import Optimization, Task
from bert_lightning.tasks.text_classification.data import TextClassificationDataModule
from bert_lightning.tasks.text_classification.task import TextClassificationTask
from bert_lightning.tasks.token_classification.data import TokenClassificationDataModule
from bert_lightning.tasks.token_classification.task import TokenClassificationTask
from bert_lightning.text.wordpiece import WordPieceTokenizer, load_tokenizer


class Parts(NamedTuple):
    """The data and the task of a run."""

    data: StepDataModule
    task: Task
    notes: list[str]
    """What a user should know of how they came together."""


def build_parts(experiment: Experiment, start: Checkpoint | None, split: EvaluationSplit | None = None) -> Parts:
    """Data and task; `start` is the checkpoint whose weights and vocabulary are taken up, if any.

    `split` builds what scores one split, with the labels of the checkpoint; None builds what trains.

    Raises:
        InputError: data and checkpoint do not fit together, or one of them is unusable.
    """
    # Rows of a vocabulary that grows are drawn before the model is.
    _seed(experiment)
    build = _build_pretraining if experiment.task == PretrainingTask.name else _build_fine_tuning
    parts: Parts = build(experiment, start, split)
    size, config = experiment.trainer.tensor_parallel_size, parts.task.config
    for name in ("num_attention_heads", "intermediate_size"):
        if getattr(config, name) % size:
            raise InputError(
                f"trainer.tensor_parallel_size is {size}, which does not divide the model's {name} "
                f"({getattr(config, name)})"
            )
    if experiment.trainer.precision == "bf16-true":
        parts.task.model.bfloat16()
    return parts


def _build_pretraining(experiment: Experiment, start: Checkpoint | None, split: EvaluationSplit | None) -> Parts:
    data = PretrainingDataModule(experiment.data, split)
    if split is None:
        start = adapted_to(start, experiment.model, data.tokenizer)
    if start is not None:
        tokenizer = checkpoint_tokenizer(start)
        if tokenizer is not None and tokenizer.fingerprint != data.tokenizer.fingerprint:
            [store, *_] = next(iter(data.stores.values()))
            raise InputError(
                f"the vocabulary does not fit: {store.path} was made with another one "
                f"({_described(data.tokenizer)}) than {start.path} ({_described(tokenizer)}); "
                "model.resize_vocabulary fits the model to it"
            )
    num_segments = 2 if OBJECTIVES[experiment.data.objective].metric is not None else 1
    config = model_config(experiment.model, start, len(data.tokenizer), num_segments)
    length = experiment.data.longest
    if length > config.max_position_embeddings:
        raise InputError(
            f"data.max_seq_length {length} is more than the model's positions ({config.max_position_embeddings})"
        )
    _seed(experiment)
    objective = experiment.data.objective
    model = pretraining_model(config, objective)
    notes = take_weights(model, experiment, start, split)
    counts: torch.Tensor | None
    if split is None:
        counts = torch.from_numpy(data.training_token_counts())
    else:
        counts = start.task_settings.get("token_counts") if start is not None else None
    return Parts(data, PretrainingTask(model, config, data.tokenizer, length, counts, objective), notes)


def _described(tokenizer: WordPieceTokenizer) -> str:
    return f"{len(tokenizer)} entries, {'cased' if tokenizer.vocabulary.lowercase is False else 'uncased'}"


def pretraining_model(config: BertConfig, objective: ObjectiveName) -> BertForPreTraining | BertForMaskedLM:
    """With the sentence head where the objective trains it."""
    return BertForPreTraining(config) if OBJECTIVES[objective].metric else BertForMaskedLM(config)


class _FineTuning(NamedTuple):
    """A row of the table of fine-tuning tasks."""

    data: Callable[..., FineTuningDataModule]
    model: Any
    task: Callable[..., FineTuningTask]


_FINE_TUNING: dict[str, _FineTuning] = {
    "text-classification": _FineTuning(
        TextClassificationDataModule, BertForSequenceClassification, TextClassificationTask
    ),
    "token-classification": _FineTuning(
        TokenClassificationDataModule, BertForTokenClassification, TokenClassificationTask
    ),
    "question-answering": _FineTuning(QuestionAnsweringDataModule, BertForQuestionAnswering, QuestionAnsweringTask),
    "multiple-choice": _FineTuning(MultipleChoiceDataModule, BertForMultipleChoice, MultipleChoiceTask),
    "relation-classification": _FineTuning(
        RelationClassificationDataModule, BertForRelationClassification, RelationClassificationTask
    ),
}


def _build_fine_tuning(experiment: Experiment, start: Checkpoint | None, split: EvaluationSplit | None) -> Parts:
    settings, row = experiment.data, _FINE_TUNING[experiment.task]
    # False is the default: it says nothing of a vocabulary that lies beside a model.
    cased = settings.cased or None
    tokenizer = load_tokenizer(settings.tokenizer, cased) if settings.tokenizer is not None else None
    if split is None:
        if experiment.task == RelationClassificationTask.name:
            tokenizer, start = _with_markers(tokenizer, start)
        start = adapted_to(start, experiment.model, tokenizer)
    carried = checkpoint_tokenizer(start) if start is not None else None
    if (
        split is None
        and tokenizer is not None
        and carried is not None
        and tokenizer.fingerprint != carried.fingerprint
    ):
        raise InputError(
            f"data.tokenizer: {settings.tokenizer} ({_described(tokenizer)}) is another vocabulary than the one "
            f"that {start.path} carries ({_described(carried)}); "  # type: ignore[union-attr]
            "model.resize_vocabulary fits the model to it"
        )
    tokenizer = (carried or tokenizer) if split is not None else (tokenizer or carried)
    if tokenizer is None:
        raise InputError("data.tokenizer is not set: a vocabulary is needed, since no checkpoint brings one")
    config = model_config(experiment.model, start, len(tokenizer), 2 if settings.is_pair else 1)
    if settings.max_seq_length > config.max_position_embeddings:
        raise InputError(
            f"data.max_seq_length {settings.max_seq_length} is more than the model's positions "
            f"({config.max_position_embeddings})"
        )
    known = start.task_settings if start is not None and split is not None else {}
    carried_on = {name: known[name] for name in ("labels", "no_answer") if name in known}
    data = row.data(settings, tokenizer, split=split, **carried_on)
    _seed(experiment)
    model = row.model(config, **data.head, **_chosen_head(experiment.model, data))
    other_head: list[str] = []
    if start is not None and split is None and not _has_head_of(start, experiment.task, model):
        # A head for other labels is of no use, even where their number happens to be the same.
        if start.architecture == model.architecture and "labels" in start.task_settings:
            other_head = [
                f"the head of {start.path} is left out, since its labels are not those of the data, in order"
            ]
        start = without_head(start)
    notes = other_head + take_weights(model, experiment, start, split)
    task = row.task(model, config, tokenizer, settings, **_task_arguments(data, known))
    return Parts(data, task, notes)


def _with_markers(
    tokenizer: WordPieceTokenizer | None, start: Checkpoint | None
) -> tuple[WordPieceTokenizer | None, Checkpoint | None]:
    """Vocabulary and checkpoint with an entry for each marker of an entity."""
    if tokenizer is not None:
        tokenizer = WordPieceTokenizer(with_markers(tokenizer.vocabulary))
    if start is not None and start.vocabulary is not None:
        marked = with_markers(start.vocabulary)
        if marked != start.vocabulary:
            start = adapted(start, marked)
    return tokenizer, start


def _chosen_head(settings: ModelSettings, data: FineTuningDataModule) -> dict[str, Any]:
    """What the settings decide of the head."""
    if isinstance(data, TokenClassificationDataModule):
        return {"crf": settings.head.crf, "tag_scheme": data.tag_scheme if settings.head.crf else None}
    return {"answerability": settings.head.answerability} if isinstance(data, QuestionAnsweringDataModule) else {}


def _has_head_of(start: Checkpoint, task: str, model: PretrainedModel) -> bool:
    """Whether a checkpoint's head is one of this task, for the same labels."""
    same_task = start.task == task if start.task is not None else start.architecture == model.architecture
    wanted = model.head_settings
    return same_task and all(start.task_settings.get(name, value) == value for name, value in wanted.items())


def _task_arguments(data: FineTuningDataModule, known: dict[str, Any]) -> dict[str, Any]:
    """What the data decides of the task."""
    if isinstance(data, QuestionAnsweringDataModule):
        return {"no_answer": data.no_answer, "null_threshold": known.get("null_threshold")}
    if isinstance(data, MultipleChoiceDataModule):
        return {}
    if isinstance(data, TextClassificationDataModule):
        return {"labels": data.labels, "class_weights": known.get("class_weights", data.class_weights)}
    return {"labels": data.head["labels"]}


# What a checkpoint says of its task beside how examples become features and what the head is.
_TASK_ARGUMENTS = ("labels", "no_answer", "null_threshold", "class_weights")


def task_of(checkpoint: Checkpoint) -> Task:
    """A task rebuilt from one of our checkpoints alone, ready to predict.

    Raises:
        InputError: the checkpoint is not one that a run wrote.
    """
    tokenizer = checkpoint_tokenizer(checkpoint)
    if checkpoint.task is None or tokenizer is None:
        raise InputError(f"{checkpoint.path} was not written by a run: predicting needs its labels and vocabulary")
    config, settings = config_of(checkpoint), dict(checkpoint.task_settings)
    task: Task
    if checkpoint.task == PretrainingTask.name:
        model = pretraining_model(config, settings.get("objective", "next-sentence"))
        task = PretrainingTask(model, config, tokenizer, **settings)
    else:
        row = _FINE_TUNING[checkpoint.task]
        data = TASKS[checkpoint.task].settings(**settings.pop("data"))
        own = {name: settings[name] for name in _TASK_ARGUMENTS if name in settings}
        task = row.task(row.model(config, **row.model.arguments_of(checkpoint)), config, tokenizer, data, **own)
    fill(task.model, checkpoint)
    return task


def _seed(experiment: Experiment) -> None:
    lightning.seed_everything(experiment.seed_everything, workers=False, verbose=False)


def num_steps(experiment: Experiment, data: StepDataModule) -> int:
    """Optimiser steps of the whole training: as given, or those of so many epochs.

    Raises:
        InputError: not even one.
    """
    settings = experiment.trainer
    if settings.max_steps is not None:
        return settings.max_steps
    assert settings.max_epochs is not None
    steps = data.num_steps_of(settings.max_epochs)
    if steps < 1:
        raise InputError(
            f"trainer.max_epochs {settings.max_epochs:g} of {data.num_training_samples} samples are less than one "
            f"batch of {experiment.data.batch_size}: lower data.batch_size"
        )
    return steps


def optimization_of(experiment: Experiment, task: Task, steps: int) -> Optimization:
    """What the task's optimiser step needs.

    Raises:
        InputError: a loss weight is of a loss that the task does not have, a pattern of parameters matches none, the
            schedule has no room in so many steps, or gradual unfreezing lets nothing go.
    """
    try:
        experiment.schedule.check(steps)
    except ValueError as error:
        raise InputError(f"schedule.{error}") from None
    known = task.loss_names[: task.num_losses]
    for name in experiment.loss_weights:
        if name not in known:
            raise InputError(f"unknown key 'loss_weights.{name}'{nearest(name, known, 'loss_weights')}")
    parameters = [name for name, _ in task.model.named_parameters()]
    for pattern in experiment.parameter_groups.unmatched(parameters):
        raise InputError(f"parameter_groups.no_decay: no parameter's name holds {pattern!r}; one is {parameters[0]}")
    return Optimization(
        optimizer=experiment.optimizer,
        schedule=experiment.schedule,
        num_steps=steps,
        gradient_clip_val=experiment.trainer.gradient_clip_val,
        seed=experiment.seed_everything,
        non_finite=experiment.trainer.non_finite,
        log_every_n_steps=experiment.trainer.log_every_n_steps,
        loss_weights=experiment.loss_weights,
        parameter_groups=experiment.parameter_groups,
        releases=_releases(experiment.freeze.unfreeze_every, task.model, steps),
    )


def _releases(every: int | None, model: PretrainedModel, steps: int) -> dict[str, int]:
    if every is None:
        return {}
    releases = release_steps(model, model.depths(), every)
    if max(releases.values()) == 0:
        raise InputError("freeze.unfreeze_every: all below the head is frozen for good, so nothing is let go")
    if every >= steps:
        raise InputError(
            f"freeze.unfreeze_every is {every}, but training ends after {steps} steps: use freeze.encoder"
        )
    return releases
