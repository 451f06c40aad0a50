"""The parts of a run that belong to continual learning: labels of all tasks, replayed examples, the run before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.digests import weights_digest
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checks import name_in
from bert_lightning.config.experiment import CHOICES, Experiment
from bert_lightning.config.sequence_tasks import data_of_tasks
from bert_lightning.errors import InputError
from bert_lightning.methods.continual import CONTINUAL_METHODS, Start
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.tasks.catalogue import task_spec
from bert_lightning.tasks.rebuilding import task_of
from bert_lightning.tasks.step_method import CountedLosses
from bert_lightning.tasks.task import Task
from bert_lightning.tasks.text_classification.few_shot import with_seed_of_split
from bert_lightning.text.wordpiece import WordPieceTokenizer
from bert_lightning.wording import count

# What a run keeps of its weights for the run of the next task, and its scores on all tasks.
INFORMATION = "information.safetensors"
SCORES = "sequence.json"
_DIGEST, _WEIGHTS = "digest", "weights"


class SequenceData:
    """The data of all tasks of a sequence, with one set of labels for the head.

    Args:
        experiment: an experiment with a sequence.
        tokenizer: encodes all texts.
        labels: the labels of a saved head; None to take those of all tasks together.
    """

    def __init__(self, experiment: Experiment, tokenizer: WordPieceTokenizer, labels: Sequence[str] | None) -> None:
        assert experiment.sequence is not None
        self.sequence = experiment.sequence
        self._spec, self._tokenizer = task_spec(experiment.task), tokenizer
        settings = data_of_tasks(self.sequence, experiment.data, self._spec, CHOICES, [])
        seed = experiment.seed_everything
        self.settings = {name: with_seed_of_split(each, seed) for name, each in settings.items()}
        self._modules: dict[str, Any] = {}
        self._has_labels = "labels" in self._spec.data_arguments({}) and _kind(experiment.data) != "regression"
        self.of_tasks = {name: self._labels_of(name) for name in self.settings} if self._has_labels else {}
        union = dict.fromkeys(label for own in self.of_tasks.values() for label in own)
        self.labels = list(labels) if labels is not None else list(union)

    @property
    def own(self) -> Any:
        """The settings of the data of this run."""
        return self.settings[self.sequence.task]

    @property
    def arguments(self) -> dict[str, object]:
        """The argument of data modules that holds the labels."""
        return {"labels": self.labels} if self._has_labels else {}

    @property
    def num_segments(self) -> int:
        """The number of token types that the data of all tasks need."""
        return max(self._spec.num_segments(each) for each in self.settings.values())

    def numbers_of(self, task: str) -> list[int]:
        """Return the ids of the labels of a task; empty if outputs are no labels."""
        return [self.labels.index(label) for label in self.of_tasks.get(task, ()) if label in self.labels]

    def training_examples(self, task: str) -> list[Any]:
        """Return the training examples of a task, as its data module reads them."""
        if task not in self._modules:
            self._modules[task] = self._spec.data(self.settings[task], self._tokenizer, **self.arguments)
        return list(self._modules[task].splits["train"].examples)

    def _labels_of(self, task: str) -> list[str]:
        """Return the labels of a task, without reading its data if they are known."""
        settings = self.settings[task]
        known = getattr(settings, "labels", None) or (settings.standard.labels if settings.standard else None)
        if known is not None and hasattr(settings, "label_prefix"):
            return [settings.label_prefix + label for label in known]
        data: Any = self._spec.data(settings, self._tokenizer)
        return list(data.labels)


def _kind(data: Any) -> str | None:
    return getattr(data, "kind", None)


@dataclass(frozen=True)
class Previous:
    """The run of the previous task.

    Attributes:
        path: its directory.
        checkpoint: its weights; None if they are not needed.
        information: what it kept of them; None if it is not needed.
        fingerprints: entries of the manifest that identify both.
    """

    path: Path
    checkpoint: Checkpoint | None
    information: Mapping[str, Tensor] | None
    fingerprints: dict[str, str]


def read_previous(experiment: Experiment) -> Previous | None:
    """Read what a run needs of the run of the previous task; return None if there is none.

    Raises:
        InputError: the method needs such a run, and there is none or another one than the sequence says.
    """
    sequence, method = experiment.sequence, experiment.continual
    name = name_in(CONTINUAL_METHODS, type(method))
    if sequence is None and method.needs_sequence:
        raise InputError(
            f"continual.name {name} does nothing without sequence, which names the tasks and the run of the task "
            "before"
        )
    if sequence is None:
        return None
    if sequence.models == "per-task" and (method.keeps_information or method.remembers):
        raise InputError(
            f"sequence.models is per-task, but continual.name {name} keeps one model as it was after earlier tasks: "
            "set sequence.models to one, or choose another continual.name"
        )
    if sequence.previous is None:
        if sequence.earlier and (method.keeps_information or method.remembers or sequence.models == "per-task"):
            reason = "sequence.models per-task" if sequence.models == "per-task" else f"continual.name {name}"
            raise InputError(
                f"sequence.previous is not set: {reason} needs the run of the task {sequence.earlier[-1]}"
            )
        return None
    directory = RunDirectory(sequence.previous)
    if not directory.exists:
        raise InputError(f"sequence.previous is {sequence.previous}, which is not a run directory")
    _check_place(directory, experiment)
    if sequence.models == "per-task" and not (directory.path / SCORES).is_file():
        raise InputError(f"sequence.previous is {directory.path}, which has no {SCORES}: its training has not ended")
    checkpoint = read_checkpoint(directory.path)
    assert checkpoint.provenance is not None
    fingerprints = {"previous": checkpoint.provenance.digest}
    information = None
    if method.keeps_information:
        weights = checkpoint.provenance.digest
        information, fingerprints["information"] = _read_information(directory, name, weights)
    return Previous(directory.path, checkpoint if method.remembers else None, information, fingerprints)


def _check_place(directory: RunDirectory, experiment: Experiment) -> None:
    sequence = experiment.sequence
    assert sequence is not None
    theirs = directory.read_config().get("sequence")
    if not isinstance(theirs, dict) or theirs.get("task") != sequence.earlier[-1]:
        found = theirs.get("task") if isinstance(theirs, dict) else "not part of a sequence"
        raise InputError(
            f"sequence.previous is {directory.path}, whose task is {found}, but the task before {sequence.task} is "
            f"{sequence.earlier[-1]}"
        )
    names = [task.get("name") for task in theirs.get("tasks", ())]
    if names != sequence.names:
        raise InputError(
            f"sequence.previous is {directory.path}, which belongs to another sequence: {', '.join(names)}"
        )


def refuse_itself(experiment: Experiment, directory: RunDirectory) -> None:
    """Refuse a run whose `sequence.previous` is its own directory.

    Raises:
        InputError: `sequence.previous` is that directory.
    """
    sequence = experiment.sequence
    if sequence is None or sequence.previous is None:
        return
    if Path(sequence.previous).resolve() == directory.path.resolve():
        raise InputError(f"sequence.previous is {sequence.previous}, the run itself: it would wait for itself")


def _read_information(directory: RunDirectory, name: str, weights: str) -> tuple[dict[str, Tensor], str]:
    """Read what a run kept of its weights, and return it with its SHA-256.

    Raises:
        InputError: it is missing, damaged, or of other weights than those with the SHA-256 `weights`.
    """
    path = directory.path / INFORMATION
    if not path.is_file():
        raise InputError(
            f"sequence.previous is {directory.path}, which has no {INFORMATION}: the run of the task before must be "
            f"trained with continual.name {name} too"
        )
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    digest = weights_digest(tensors)
    if digest != metadata.get(_DIGEST):
        raise InputError(f"{path}: damaged: its values are not those that were written")
    if metadata.get(_WEIGHTS) != weights:
        raise InputError(
            f"{path} was made of other weights than those of {directory.path}: end the training of that task first"
        )
    return tensors, digest


def replay(experiment: Experiment, data: Any, sequence: SequenceData) -> None:
    """Add the stored examples of earlier tasks to the training data, if the method replays any.

    Raises:
        InputError: the settings do not fit the data.
    """
    method, names = experiment.continual, sequence.sequence.names
    if not method.replays:
        return
    if getattr(sequence.own, "demonstrations", False):
        name = name_in(CONTINUAL_METHODS, type(method))
        raise InputError(
            f"continual.name {name} replays examples of other tasks, which cannot "
            "be combined with data.demonstrations"
        )
    num_own = len(data.splits["train"].examples)
    counts = {
        name: num_own if name == sequence.sequence.task else len(sequence.training_examples(name)) for name in names
    }
    try:
        method.check_size(list(counts.values()))
    except ValueError as error:
        raise InputError(f"continual.{error}") from None
    earlier = sequence.sequence.earlier
    numbers = method.replayed([counts[name] for name in earlier], earlier, experiment.seed_everything, num_own)
    _check_replayed(numbers, {name: counts[name] for name in earlier}, type(method).__name__)
    examples = [
        sequence.training_examples(name)[number]
        for name, of_task in zip(earlier, numbers, strict=True)
        for number in of_task
    ]
    if examples:
        data.add_to_training(examples)


def _check_replayed(numbers: Sequence[Sequence[int]], counts: Mapping[str, int], method: str) -> None:
    """Check what a method replays, because a custom one may be wrong.

    Raises:
        InputError: it is not a list of numbers of examples for each earlier task.
    """
    if len(numbers) != len(counts):
        raise InputError(
            f"continual: {method}.replayed returned {count(len(numbers), 'list')} for "
            f"{count(len(counts), 'earlier task')}: it needs one list for each"
        )
    for (name, size), of_task in zip(counts.items(), numbers, strict=True):
        for number in of_task:
            if not 0 <= number < size:
                raise InputError(
                    f"continual: {method}.replayed returned the number {number} for {name}, which has "
                    f"{count(size, 'training example')}, numbered from 0"
                )


def add_penalty(
    experiment: Experiment,
    task: Task,
    model: PretrainedModel,
    starts: tuple[Checkpoint | None, Checkpoint | None],
    previous: Previous | None,
) -> None:
    """Give a task the penalty of its method, if it has one.

    Args:
        experiment: the settings.
        task: the task that is trained.
        model: its model, filled with its first weights.
        starts: the checkpoint that the settings name, and the same with the vocabulary and head of this run.
        previous: the run of the previous task.

    Raises:
        InputError: the method is not defined for the task, or the weights that train are not those of the previous
            run.
    """
    method, (given, start) = experiment.continual, starts
    of_given = given.provenance.digest if given is not None and given.provenance is not None else None
    if method.keeps_information and previous is not None and of_given != previous.fingerprints["previous"]:
        raise InputError(
            f"continual holds the weights of the run before, {previous.path}, but the training starts from "
            f"{given.path if given is not None else 'random weights'}: set model.pretrained to that run"
        )
    tensors = start.tensors if start is not None and experiment.model.weights == "pretrained" else {}
    information = previous.information if previous is not None else None
    try:
        method.check_task(task)
        task.penalty = method.penalty(
            Start(model, model.prefix, tensors, information, experiment.sequence is not None)
        )
    except ValueError as error:
        raise InputError(f"continual.{error}") from None


def losses_of_previous(
    experiment: Experiment, task: Task, previous: Previous | None, sequence: SequenceData | None
) -> CountedLosses | None:
    """Return the losses of a task with those on the predictions of the previous model; None if there are none.

    Raises:
        InputError: the previous model has other labels or another vocabulary.
    """
    if previous is None or previous.checkpoint is None or sequence is None:
        return None
    checkpoint = previous.checkpoint
    before = task_of(checkpoint)
    own, saved = task.task_settings.get("labels"), checkpoint.task_settings.get("labels")
    if own != saved or before.tokenizer.fingerprint != task.tokenizer.fingerprint:
        what = "labels" if own != saved else "vocabulary"
        raise InputError(f"sequence.previous is {previous.path}, whose model has another {what} than this run")
    before.model.backbone.attention = experiment.model.backend
    if experiment.trainer.precision == "bf16-true":
        before.model.to(torch.bfloat16)
    groups = [sequence.numbers_of(name) for name in sequence.sequence.earlier]
    if sequence.sequence.labels == "shared":
        shared = sorted({number for group in groups for number in group})
        groups = [shared] if shared and len(shared) < len(sequence.labels) else []
    usable = groups if _kind(sequence.own) != "regression" and any(groups) else None
    return experiment.continual.losses(task, previous=before, groups=usable)
