"""The end of a run in a sequence: its scores on every task, and what the run of the next task needs."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from safetensors.torch import save

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.digests import weights_digest
from bert_lightning.checkpoints.files import write_json, write_safetensors
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.config.experiment import Experiment
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.randomness import derive_key, random_bits
from bert_lightning.errors import InputError
from bert_lightning.methods.continual import End
from bert_lightning.runs.building import Setup, build_training
from bert_lightning.runs.continual import INFORMATION, SCORES, SequenceData, read_previous
from bert_lightning.runs.inference_device import chosen_device
from bert_lightning.runs.processes import is_first_process
from bert_lightning.runs.record import Session
from bert_lightning.tasks.catalogue import task_spec
from bert_lightning.tasks.fine_tuning.task import FineTuningTask
from bert_lightning.tasks.rebuilding import task_of
from bert_lightning.training import metrics_file
from bert_lightning.training.precision import product_type

# Prefix of the names of scores for which the task of an example is known.
KNOWN = "known_task_"
Scores = dict[str, dict[str, float]]
"""Task -> metric -> score."""


@dataclass(frozen=True)
class SequenceScores:
    """The scores of a run's model on the validation split of every task, `sequence.json` of its directory.

    Attributes:
        task: the task of the run.
        tasks: all tasks, in order.
        weights: SHA-256 of the weights that were scored.
        scores: what was measured. A metric `known_task_...` chooses only among the labels of the example's task.
        untrained: the same before the first task was learned; None in the runs of later tasks.
    """

    task: str
    tasks: list[str]
    weights: str
    scores: Scores
    untrained: Scores | None = None
    version: int = field(default=1)

    @classmethod
    def read(cls, directory: Path) -> "SequenceScores | None":
        """Read the scores of the run in a directory; None if there are none."""
        try:
            return cls(**json.loads((directory / SCORES).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{directory / SCORES}: cannot be read: {error}") from None

    def named(self) -> dict[str, float]:
        """Return the scores as metrics, such as `val/sst2/accuracy`."""
        return {f"val/{task}/{name}": value for task, of in self.scores.items() for name, value in of.items()}


def finish_task(session: Session, setup: Setup) -> dict[str, float]:
    """Score the model of a finished training on every task of its sequence, and keep what the next run needs.

    The first process does it, with the weights as the next run reads them. Results of the same weights are used
    again. So a run that is killed here resumes.

    Returns:
        The scores as metrics; empty for a run of no sequence.
    """
    directory = session.directory
    if setup.sequence is None or not is_first_process():
        return {}
    checkpoint = read_checkpoint(directory.path)
    assert checkpoint.provenance is not None
    _keep_information(session, setup, checkpoint)
    found = SequenceScores.read(directory.path)
    if found is None or found.weights != checkpoint.provenance.digest or found.tasks != setup.sequence.sequence.names:
        found = _scored(session, setup.sequence, checkpoint)
        write_json(directory.path / SCORES, asdict(found))
    row = {"step": directory.read_manifest()["num_steps"], **found.named()}
    # A session that was killed after this row has written it already. Scores that are not numbers are equal as text.
    rows = [each for each in directory.read_metrics() if "checkpoint" not in each]
    if not rows or repr({name: rows[-1].get(name) for name in row}) != repr(row):
        metrics_file.append(directory.metrics, row)
    return found.named()


def _scored(session: Session, sequence: SequenceData, checkpoint: Checkpoint) -> SequenceScores:
    experiment, place = session.experiment, sequence.sequence
    assert checkpoint.provenance is not None
    names, before = place.names, {}
    if place.models == "per-task":
        names = [place.task]
        earlier = SequenceScores.read(Path(place.previous)) if place.previous is not None else None
        before = earlier.scores if earlier is not None else {}
    scores = {**before, **_scores_on(names, _task_of(experiment, checkpoint), sequence, experiment)}
    untrained = None
    if not place.earlier and place.models == "one":
        new = build_training(experiment, session.inputs.start).task
        untrained = _scores_on(place.names, new, sequence, experiment)
    return SequenceScores(place.task, place.names, checkpoint.provenance.digest, scores, untrained)


def _task_of(experiment: Experiment, checkpoint: Checkpoint) -> FineTuningTask[Any, Any, Any]:
    """Rebuild the whole model from its checkpoint, whichever strategy trained it."""
    task = task_of(checkpoint)
    assert isinstance(task, FineTuningTask)
    task.loss = experiment.loss
    task.model.backbone.attention = experiment.model.backend
    return task


def _scores_on(names: list[str], task: Any, sequence: SequenceData, experiment: Experiment) -> Scores:
    device = chosen_device("cpu" if experiment.trainer.accelerator == "cpu" else None)
    task.to(device)
    with _autocast(experiment, device):
        return {name: _scores_of(name, task, sequence, experiment) for name in names}


def _autocast(experiment: Experiment, device: torch.device) -> AbstractContextManager[object]:
    kind = product_type(str(experiment.trainer.precision))
    mixed = str(experiment.trainer.precision).endswith("mixed")
    return torch.autocast(device.type, kind) if mixed else nullcontext()


def _scores_of(name: str, task: Any, sequence: SequenceData, experiment: Experiment) -> dict[str, float]:
    settings, spec = sequence.settings[name], task_spec(experiment.task)
    arguments = {**spec.data_arguments(task.task_settings), **sequence.arguments}
    data = spec.data(settings, task.tokenizer, split="validation", **arguments)
    split: Any = data.encoded_split("validation")
    outputs = task.outputs_for(split, settings.evaluation_batch_size)
    scores = _over_subsets(task, split, outputs)
    labels = sequence.numbers_of(name)
    if labels and len(labels) < len(sequence.labels) and np.shape(outputs[0]) == (len(sequence.labels),):
        known = [_among(logits, labels) for logits in outputs]
        scores |= {f"{KNOWN}{metric}": value for metric, value in _over_subsets(task, split, known).items()}
    return scores


def _over_subsets(task: Any, split: Any, outputs: list[Any]) -> dict[str, float]:
    return {
        f"{subset.prefix}{metric}": float(value)
        for subset in split.subsets
        for metric, value in task.scores(split, outputs, subset).items()
    }


def _among(logits: NDArray[np.float32], labels: list[int]) -> NDArray[np.float32]:
    """Return logits in which only some labels are possible."""
    kept = np.full_like(logits, -np.inf)
    kept[labels] = logits[labels]
    return kept


def _keep_information(session: Session, setup: Setup, checkpoint: Checkpoint) -> None:
    """Write what the method needs when the next task is trained, unless the file has it for the same weights."""
    experiment, method = session.experiment, session.experiment.continual
    assert checkpoint.provenance is not None
    path, weights = session.directory.path / INFORMATION, checkpoint.provenance.digest
    if not method.keeps_information or _weights_of(path) == weights:
        return
    previous = read_previous(experiment)
    task = _task_of(experiment, checkpoint)
    task.model.float()
    for name, parameter in setup.task.model.named_parameters():
        task.model.get_parameter(name).requires_grad_(parameter.requires_grad)
    device = chosen_device("cpu" if experiment.trainer.accelerator == "cpu" else None)
    task.to(device)

    def samples(number: int | None) -> Iterator[Batch]:
        return (move_data_to_device(batch, device) for batch in _single_samples(setup, number, experiment))

    before = previous.information if previous is not None else None
    kept = method.information(End(task, samples, experiment.seed_everything, before))
    tensors = {name: values.detach().cpu().contiguous() for name, values in kept.items()}
    write_safetensors(path, save(tensors, {"digest": weights_digest(tensors), "weights": weights}))


def _weights_of(path: Path) -> str | None:
    """Return the SHA-256 of the weights that a file of information belongs to; None without a usable file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            return (file.metadata() or {}).get("weights")
    except (OSError, SafetensorError):
        return None


def _single_samples(setup: Setup, number: int | None, experiment: Experiment) -> Iterator[Batch]:
    """Yield `number` training samples, each as a batch: those with the smallest hashes; None yields all."""
    split: Any = setup.data.splits["train"]  # type: ignore[attr-defined]
    assert experiment.sequence is not None
    key = derive_key(experiment.seed_everything, "fisher", experiment.sequence.task)
    order = np.argsort(random_bits(key, np.arange(len(split.lengths))), kind="stable")
    for sample in np.sort(order[:number]):
        yield split.batch(np.array([sample]))
