"""Labelling texts with other models before a training, and adding them to its examples."""

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from bert_lightning.config.experiment import Experiment
from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.loading.module import StepDataModule
from bert_lightning.errors import InputError
from bert_lightning.methods.distillation import DistillationSettings
from bert_lightning.methods.distillation.ensemble import mean_logits
from bert_lightning.methods.pseudo_labels import PseudoLabelSettings, drawn_texts
from bert_lightning.runs.ensemble_teachers import read_teachers
from bert_lightning.runs.trainer import on_gpu, prepare_machine
from bert_lightning.tasks.text_classification.data import TextClassificationDataModule
from bert_lightning.wording import count


class Labelled(NamedTuple):
    """Records of the texts that were labelled for a run."""

    notes: Sequence[str] = ()
    """for the user"""
    fingerprints: Mapping[str, str] = MappingProxyType({})
    """entries of the manifest that identify the models: name -> SHA-256"""
    for_student: Tensor | None = None
    """(n, L) the teachers' logits of the last n training examples, those of `distillation.unlabelled`"""


def label_texts(experiment: Experiment, data: StepDataModule) -> Labelled:
    """Label texts as `pseudo_labels` and `distillation.unlabelled` say, and add them to the training examples.

    Every process of a training labels them by itself. The fingerprint of the training data covers the labels, so a
    run does not resume with others.

    Raises:
        InputError: the data are no texts with single labels, a teacher does not fit, there are no texts to label, or
            some label is given to none of them. The message names the key.
    """
    drawn, for_student = _pseudo_labelled(experiment, data), _labelled_for_student(experiment, data)
    return drawn._replace(notes=[*drawn.notes, *for_student.notes], for_student=for_student.for_student)


def _pseudo_labelled(experiment: Experiment, data: StepDataModule) -> Labelled:
    """Add texts of each label, drawn among those to which the teachers give it, as in iPET."""
    settings = experiment.pseudo_labels
    if settings is None:
        return Labelled()
    texts_data = _checked("pseudo_labels", experiment, data)
    texts, logits, digests = _read_and_labelled("pseudo_labels", settings, experiment, texts_data)
    try:
        drawn = drawn_texts(
            logits.double().softmax(1).numpy(),
            settings.per_class,
            experiment.seed_everything,
            settings.num_likeliest,
        )
    except ValueError as error:
        [number] = error.args
        raise InputError(
            f"pseudo_labels.teachers say {texts_data.labels[number]!r} about none of {len(texts):,} texts: set "
            "pseudo_labels.num_likeliest to draw among those to which they give it the highest probability"
        ) from None
    texts_data.add_to_training([texts[number]._replace(label=texts_data.labels[label]) for number, label in drawn])
    fingerprints = {f"labeller {name}": digest for name, digest in digests.items()}
    return Labelled([_note(texts, drawn, texts_data.labels)], fingerprints)


def _labelled_for_student(experiment: Experiment, data: StepDataModule) -> Labelled:
    """Add all texts of `distillation.unlabelled`, each with the label that its teachers find likeliest.

    The manifest gets the fingerprints of the teachers where their student is built.
    """
    settings = experiment.distillation
    if settings is None or settings.unlabelled is None:
        return Labelled()
    texts_data = _checked("distillation.unlabelled", experiment, data)
    texts, logits, _ = _read_and_labelled("distillation", settings, experiment, texts_data)
    likeliest = logits.argmax(1).tolist()
    texts_data.add_to_training(
        [text._replace(label=texts_data.labels[label]) for text, label in zip(texts, likeliest, strict=True)]
    )
    note = f"distillation: the student also learns from {count(len(texts), 'unlabelled text')}"
    return Labelled([note], for_student=logits)


def _checked(key: str, experiment: Experiment, data: StepDataModule) -> TextClassificationDataModule:
    """Return the data after checking that texts with labels can be added to them."""
    if not isinstance(data, TextClassificationDataModule) or data.settings.kind != "single-label":
        raise InputError(f"{key} needs texts with single labels, and this is {experiment.task}")
    if experiment.sequence is not None:
        raise InputError(f"{key} cannot be combined with sequence: label the texts of its tasks beforehand")
    if getattr(data.settings, "demonstrations", False):
        raise InputError(f"{key} cannot be combined with data.demonstrations: the checkpoint would keep all texts")
    return data


def _read_and_labelled(
    key: str,
    settings: PseudoLabelSettings | DistillationSettings,
    experiment: Experiment,
    data: TextClassificationDataModule,
) -> tuple[list[LabelledText], Tensor, dict[str, str]]:
    """Return the texts to label, (n, L) the mean logits of the teachers, and the SHA-256 of each teacher by name."""
    try:
        texts = data.unlabelled(settings.unlabelled, settings.max_samples)
    except InputError as error:
        raise InputError(f"{key}.unlabelled: {error}") from None
    teachers, digests, shares = read_teachers(
        f"{key}.teachers",
        settings.teachers,
        settings.teacher_weights,
        data.labels,
        is_pair=data.settings.is_pair,
        modules=experiment.modules,
    )
    # Threads and kernels are those of the training, so a second training of a process labels as the first one did.
    prepare_machine(experiment.trainer)
    return texts, mean_logits(teachers, data.labels, texts, _device(experiment), shares), digests


def _device(experiment: Experiment) -> torch.device:
    """Return the device on which this process will train."""
    if not on_gpu(experiment.trainer):
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))))


def _note(texts: Sequence[LabelledText], drawn: Sequence[tuple[int, int]], labels: Sequence[str]) -> str:
    """Describe the labels for the user. If the source had labels, say how many are the same."""
    each = len(drawn) // len(labels)
    note = f"pseudo_labels: {len({number for number, _ in drawn}):,} of {len(texts):,} texts, {each:,} of each label"
    if texts[0].label is None:
        return note
    right = sum(texts[number].label == labels[label] for number, label in drawn)
    return f"{note}; {right / len(drawn):.1%} of the labels are those of the file"
