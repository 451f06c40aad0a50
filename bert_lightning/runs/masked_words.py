"""The auxiliary loss of a run on masked words: its texts, and the losses of the task with it."""

from bert_lightning.config.experiment import Experiment
from bert_lightning.data.loading.module import StepDataModule
from bert_lightning.errors import InputError
from bert_lightning.methods.adversarial import NoAdversary
from bert_lightning.methods.masked_words import MaskedWordLosses
from bert_lightning.tasks.prompting.data import ClozeDataModule
from bert_lightning.tasks.prompting.task import ClozeTask
from bert_lightning.tasks.step_method import CountedLosses
from bert_lightning.tasks.task import Task


def add_masked_words(experiment: Experiment, data: StepDataModule) -> None:
    """Read the texts whose words are masked, as `masked_words` says, and add them to the micro-batches of training.

    Raises:
        InputError: the task is no cloze, there are no texts, or another method cannot be combined with them. The
            message names the key.
    """
    settings = experiment.masked_words
    if settings is None:
        return
    if not isinstance(data, ClozeDataModule):
        raise InputError(
            f"masked_words needs the task cloze, whose model predicts words, and this is {experiment.task}"
        )
    if experiment.sequence is not None:
        raise InputError("masked_words cannot be combined with sequence, whose tasks have patterns of their own")
    if not isinstance(experiment.adversarial, NoAdversary):
        raise InputError(
            "masked_words cannot be combined with adversarial, whose perturbations fit only the labelled texts"
        )
    try:
        texts = data.unlabelled(settings.unlabelled, settings.max_samples)
    except InputError as error:
        raise InputError(f"masked_words.unlabelled: {error}") from None
    data.mask_words_of([text._replace(label=None) for text in texts], settings.texts_per_example)


def with_masked_words(experiment: Experiment, task: Task, losses: CountedLosses | None) -> CountedLosses | None:
    """Return the losses of a task with that of masked words, if `masked_words` is set.

    Args:
        experiment: the settings of the training.
        task: the task that is trained.
        losses: its losses and those of a teacher; None if there is no teacher.
    """
    settings = experiment.masked_words
    if settings is None:
        return losses
    assert isinstance(task, ClozeTask), "checked when the texts were read"
    return MaskedWordLosses(task if losses is None else losses, task, settings.weight)
