"""The checkpoints of a finished run, which may be reduced to their weights."""

import logging

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.config.experiment import Experiment
from bert_lightning.errors import WorkError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.processes import is_first_process
from bert_lightning.training.checkpoint_folder import keep_weights_alone

log = logging.getLogger(__name__)


def reduce_finished(experiment: Experiment, directory: RunDirectory) -> None:
    """Reduce the checkpoints of a finished run to their weights if the settings say so, in the first process.

    If that fails, a warning says so, because the training has succeeded.
    """
    if experiment.checkpoint.keep_training_state or not is_first_process():
        return
    try:
        keep_weights_alone(directory.checkpoints, experiment.checkpoint)
    except (CheckpointError, WorkError) as error:
        log.warning("the run has finished, but its checkpoints keep the state of training: %s", error)
