"""Several teachers of one student, each of which reads texts in a form of its own."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.config.model_parts import register_parts_of
from bert_lightning.errors import InputError
from bert_lightning.tasks.rebuilding import task_of
from bert_lightning.tasks.text_classification.task import TextClassificationTask

# The end of the name of a fingerprint. Manifests of earlier versions lack it.
SETTINGS = ": settings"


def meaning_of(checkpoint: Checkpoint, settings: Mapping[str, object]) -> str:
    """Return what decides the outputs of a teacher besides its weights, as text.

    Everything is as the checkpoint has it, so that a later version with more keys gives the same text.

    Args:
        checkpoint: the teacher's checkpoint.
        settings: the settings of its task.
    """
    # Class weights change the losses of the student, and not what the teacher computes.
    own = {name: value for name, value in settings.items() if name != "class_weights"}
    return json.dumps({**own, "config": checkpoint.config, "tuning": checkpoint.tuning}, sort_keys=True, default=str)


class Teachers(NamedTuple):
    """Teachers, ready to compute."""

    tasks: list[TextClassificationTask]
    digests: dict[str, str]
    """name -> SHA-256 of the weights; `NAME: settings` -> that of what else decides the answers, such as a pattern"""
    shares: list[float]
    """how much each counts"""


def read_teachers(
    key: str,
    paths: Mapping[str, str],
    weights: Mapping[str, float],
    labels: Sequence[str],
    *,
    is_pair: bool,
    modules: Sequence[str],
) -> Teachers:
    """Read classifiers of texts with the labels of a student.

    Args:
        key: the setting that names them, for messages.
        paths: name -> run.
        weights: name -> how much it counts; empty if all count equally.
        labels: the labels of the student, in any order.
        is_pair: whether the student reads pairs of texts.
        modules: the modules of the experiment, whose parts a teacher may have.

    Raises:
        InputError: a teacher cannot be read, is no classifier of texts with single labels, or has other labels or
            inputs. The message names its key.
    """
    tasks: list[TextClassificationTask] = []
    digests: dict[str, str] = {}
    for name, path in paths.items():
        try:
            checkpoint = read_checkpoint(path)
        except CheckpointError as error:
            raise InputError(f"{key}.{name}: {error}") from None
        register_parts_of(checkpoint, modules)
        # The student's random numbers must not depend on the teachers.
        with torch.random.fork_rng(devices=[]):
            task = task_of(checkpoint)
        refused = f"{key}.{name} {path} cannot teach this student"
        if not isinstance(task, TextClassificationTask) or task.kind != "single-label":
            raise InputError(f"{refused}: it was trained for {task.name}")
        if {*task.labels} != {*labels}:
            raise InputError(f"{refused}: its labels are {', '.join(task.labels)}, not {', '.join(labels)}")
        if task.settings.is_pair != is_pair:
            raise InputError(f"{refused}: one reads single texts, the other pairs")
        tasks.append(task.eval().requires_grad_(False))
        digests[name] = checkpoint.provenance.digest if checkpoint.provenance is not None else ""
        meaning = meaning_of(checkpoint, checkpoint.task_settings)
        digests[f"{name}{SETTINGS}"] = hashlib.sha256(meaning.encode()).hexdigest()
    return Teachers(tasks, digests, [weights.get(name, 1.0) for name in paths])
