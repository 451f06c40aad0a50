"""The description of one task: its settings, data, model and LightningModule, and how a checkpoint rebuilds them."""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.data.loading.module import StepDataModule
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.tasks.task import Task
from bert_lightning.text.wordpiece import WordPieceTokenizer

Arguments = dict[str, Any]
"""The keyword arguments of a constructor."""
Saved = Mapping[str, Any]
"""The `task_settings` of a checkpoint that a run of the same task wrote; empty when training starts."""


@dataclass(frozen=True)
class NoHeadSettings:
    """Settings of a head that has no options and cannot be exchanged: `model.head` has no keys."""


def _no_arguments(*_: object) -> Arguments:
    return {}


def _unchanged(vocabulary: Vocabulary) -> Vocabulary:
    return vocabulary


@dataclass(frozen=True)
class TaskSpec:
    """The description of one task, from which runs build it and checkpoints rebuild it.

    A run builds its data module first, then the model, then the task. Each of the three has a class here, and a
    function that returns its keyword arguments. For prediction, model and task are built from a checkpoint alone.

    Attributes:
        name: the value of the key `task`.
        data_settings: dataclass of the keys under `data`.
        data: data module; its positional arguments are data settings and tokenizer, its keywords are `split` and
            `length`.
        model: encoder with its head; its positional argument is the architecture.
        task: LightningModule; its positional arguments are model, architecture and tokenizer, its keyword is
            `optimization`.
        kept: names of the arguments of `task` that its checkpoints keep in `task_settings`, in addition to the
            settings of the data, such as `labels`. A new task gets attributes of the data module with these names.
        task_arguments: data module, saved values -> arguments of `task`; None for `settings` and those in `kept`.
        saved_task_arguments: saved values -> arguments of `task`; None for `settings` and those in `kept`.
        saved_head_arguments: checkpoint -> arguments of `model`; None for what its `arguments_of` returns.
        head_settings: dataclass of the keys under `model.head`. If it is a subclass of `HeadSettings`, `model` takes
            the argument `head`, a custom head.
        head_arguments: head settings, data module -> arguments of `model`, except `head`.
        head_options: names of a checkpoint's tensors -> the head settings that decide which tensors a head has. A
            checkpoint can be scored or resumed only with the same values of these settings.
        data_arguments: saved values -> arguments of `data`, such as the labels, to score a checkpoint.
        prepare_vocabulary: adds the entries that the task needs, before training.
        stored_tokenizer: data settings, split -> the tokenizer of data that is stored as token ids. None if the data
            is text, which any tokenizer can encode.
        num_segments: data settings -> number of token types that a sequence has.
        guess_settings: source -> data settings that reading it needs, guessed from its first rows; for
            `bert-lightning init`.
        scores_without_training: the tasks whose checkpoints this one can score, because it adds no parameters to
            their heads; None among them stands for checkpoints that no run wrote.
        keeps_every_head: whether training starts from every head tensor of a checkpoint. Otherwise it starts from a
            checkpoint's head only if the task and the labels are the same.
    """

    name: str
    data_settings: type
    data: Callable[..., StepDataModule]
    model: Callable[..., PretrainedModel]
    task: Callable[..., Task]
    kept: tuple[str, ...] = ()
    task_arguments: Callable[[Any, Saved], Arguments] | None = None
    saved_task_arguments: Callable[[Saved], Arguments] | None = None
    saved_head_arguments: Callable[[Checkpoint], Arguments] | None = None
    head_settings: type = NoHeadSettings
    head_arguments: Callable[[Any, Any], Arguments] = _no_arguments
    head_options: Callable[[Container[str]], Arguments] = _no_arguments
    data_arguments: Callable[[Saved], Arguments] = _no_arguments
    prepare_vocabulary: Callable[[Vocabulary], Vocabulary] = _unchanged
    stored_tokenizer: Callable[[Any, str | None], WordPieceTokenizer] | None = None
    num_segments: Callable[[Any], int] = lambda settings: 2 if settings.is_pair else 1
    guess_settings: Callable[[str], Arguments] = _no_arguments
    scores_without_training: tuple[str | None, ...] = ()
    keeps_every_head: bool = False

    def arguments_of_task(self, data: Any, saved: Saved) -> Arguments:
        """Return the arguments of a task for its data module. A checkpoint that is scored decides the kept ones."""
        if self.task_arguments is not None:
            return self.task_arguments(data, saved)
        own = {name: getattr(data, name) for name in self.kept if name not in saved}
        return {"settings": data.settings, **own, **self._kept_of(saved)}

    def arguments_of_saved_task(self, saved: Saved) -> Arguments:
        """Return the arguments of the task of a checkpoint."""
        if self.saved_task_arguments is not None:
            return self.saved_task_arguments(saved)
        return {"settings": self.data_settings(**saved["data"]), **self._kept_of(saved)}

    def arguments_of_saved_head(self, checkpoint: Checkpoint) -> Arguments:
        """Return the arguments of the model of a checkpoint."""
        if self.saved_head_arguments is not None:
            return self.saved_head_arguments(checkpoint)
        arguments_of: Callable[[Checkpoint], Arguments] = getattr(self.model, "arguments_of", _no_arguments)
        return arguments_of(checkpoint)

    def _kept_of(self, saved: Saved) -> Arguments:
        return {name: saved[name] for name in self.kept if name in saved}
