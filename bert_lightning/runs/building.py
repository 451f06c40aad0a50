"""An experiment to the objects of its run: data, then the model that the data decides on, then the Trainer."""

import dataclasses
import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, Strategy

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.data.module import Stage, StepDataModule
from bert_lightning.data.pretraining import PretrainingDataModule
from bert_lightning.data.text_classification import TextClassificationDataModule
from bert_lightning.errors import InputError
from bert_lightning.model import BertConfig, BertForPreTraining, BertForSequenceClassification
from bert_lightning.model.pretrained import PretrainedModel, config_of, fill
from bert_lightning.runs.experiment import Experiment, ModelSettings
from bert_lightning.runs.settings import nearest
from bert_lightning.tasks.base import Optimization, Task
from bert_lightning.tasks.pretraining import PretrainingTask
from bert_lightning.tasks.text_classification import TextClassificationTask
from bert_lightning.text.wordpiece import WordPieceTokenizer, load_tokenizer
from bert_lightning.training.checkpointing import Checkpointing, VerifiedCheckpointIO
from bert_lightning.training.progress import TrainingProgress
from bert_lightning.training.signals import StopOnSignal
from bert_lightning.training.validation_at_end import ValidationAtEnd


class Parts(NamedTuple):
    """The data and the task of a run."""

    data: StepDataModule
    task: Task
    notes: list[str]
    """What a user should know of how they came together."""


def build_parts(experiment: Experiment, start: Checkpoint | None, stage: Stage | None = None) -> Parts:
    """Data and task; `start` is the checkpoint whose weights and vocabulary are taken up, if any.

    `stage` builds what scores one split, with the labels of the checkpoint; None builds what trains.

    Raises:
        InputError: data and checkpoint do not fit together, or one of them is unusable.
    """
    return _BUILDERS[experiment.task](experiment, start, stage)


def start_checkpoint(settings: ModelSettings) -> Checkpoint | None:
    """The checkpoint that training starts from."""
    return read_checkpoint(settings.pretrained) if settings.pretrained is not None else None


def weights_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 over a checkpoint's names and tensors."""
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        digest.update(name.encode())
        digest.update(checkpoint.tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def checkpoint_tokenizer(checkpoint: Checkpoint) -> WordPieceTokenizer | None:
    """The tokenizer that a checkpoint carries."""
    if checkpoint.vocabulary is None:
        return None
    return WordPieceTokenizer(checkpoint.vocabulary, checkpoint.lowercase is not False)


def _build_pretraining(experiment: Experiment, start: Checkpoint | None, stage: Stage | None) -> Parts:
    data = PretrainingDataModule(experiment.data, stage)
    if start is not None:
        tokenizer = checkpoint_tokenizer(start)
        if tokenizer is not None and tokenizer.fingerprint != data.tokenizer.fingerprint:
            store = next(iter(data.stores.values()))
            raise InputError(
                f"the vocabulary does not fit: {store.path} was made with another one "
                f"({len(data.tokenizer)} entries) than {start.path} ({len(tokenizer)} entries)"
            )
    config = model_config(experiment.model, start, len(data.tokenizer))
    length = experiment.data.max_seq_length
    if length > config.max_position_embeddings:
        raise InputError(
            f"data.max_seq_length {length} is more than the model's positions ({config.max_position_embeddings})"
        )
    _seed(experiment)
    model = BertForPreTraining(config)
    notes = _take_weights(model, experiment, start)
    counts: torch.Tensor | None
    if stage is None:
        counts = torch.from_numpy(data.training_token_counts())
    else:
        counts = start.task_settings.get("token_counts") if start is not None else None
    return Parts(data, PretrainingTask(model, config, data.tokenizer, length, counts), notes)


def _build_text_classification(experiment: Experiment, start: Checkpoint | None, stage: Stage | None) -> Parts:
    settings = experiment.data
    tokenizer = load_tokenizer(settings.tokenizer, settings.cased) if settings.tokenizer is not None else None
    carried = checkpoint_tokenizer(start) if start is not None else None
    if tokenizer is not None and carried is not None and tokenizer.fingerprint != carried.fingerprint:
        raise InputError(
            f"data.tokenizer: {settings.tokenizer} is another vocabulary than the one that {start.path} carries"  # type: ignore[union-attr]
        )
    tokenizer = tokenizer or carried
    if tokenizer is None:
        raise InputError("data.tokenizer is not set: a vocabulary is needed, since no checkpoint brings one")
    labels = start.task_settings["labels"] if start is not None and stage is not None else None
    config = model_config(experiment.model, start, len(tokenizer))
    if settings.max_seq_length > config.max_position_embeddings:
        raise InputError(
            f"data.max_seq_length {settings.max_seq_length} is more than the model's positions "
            f"({config.max_position_embeddings})"
        )
    data = TextClassificationDataModule(settings, tokenizer, labels=labels, stage=stage)
    if start is not None and start.task_settings.get("labels") != data.labels:
        # A head for other labels is of no use, even where their number happens to be the same.
        start = dataclasses.replace(
            start, tensors={n: t for n, t in start.tensors.items() if not n.startswith("classifier.")}
        )
    _seed(experiment)
    model = BertForSequenceClassification(config, len(data.labels), experiment.model.classifier_dropout)
    notes = _take_weights(model, experiment, start)
    task = TextClassificationTask(
        model,
        config,
        tokenizer,
        data.labels,
        settings.max_seq_length,
        settings.text_column,
        settings.text_pair_column,
        settings.column_names,
    )
    return Parts(data, task, notes)


# task -> how its parts are built.
_BUILDERS: dict[str, Callable[[Experiment, Checkpoint | None, Stage | None], Parts]] = {
    "pretraining": _build_pretraining,
    "text-classification": _build_text_classification,
}


def task_of(checkpoint: Checkpoint) -> Task:
    """A task rebuilt from one of our checkpoints alone, ready to predict.

    Raises:
        InputError: the checkpoint is not one that a run wrote.
    """
    tokenizer = checkpoint_tokenizer(checkpoint)
    if checkpoint.task is None or tokenizer is None:
        raise InputError(f"{checkpoint.path} was not written by a run: predicting needs its labels and vocabulary")
    config, settings = config_of(checkpoint), checkpoint.task_settings
    task: Task
    if checkpoint.task == PretrainingTask.name:
        task = PretrainingTask(BertForPreTraining(config), config, tokenizer, **settings)
    else:
        classifier = BertForSequenceClassification(config, len(settings["labels"]))
        task = TextClassificationTask(classifier, config, tokenizer, **settings)
    fill(task.model, checkpoint)
    return task


def model_config(settings: ModelSettings, start: Checkpoint | None, vocab_size: int) -> BertConfig:
    """The architecture: a size or the checkpoint's own, with the configured fields changed.

    Raises:
        InputError: an unknown or impossible field, or a checkpoint with another number of vocabulary entries.
    """
    overrides = dict(settings.config)
    if "vocab_size" in overrides:
        raise InputError("model.config.vocab_size cannot be set: the vocabulary decides it")
    try:
        if start is None:
            return BertConfig.preset(settings.size or "base", vocab_size=vocab_size, **overrides)
        config = config_of(start)
        # Also names unknown keys and wrong types.
        BertConfig.preset("tiny", **{**overrides, "hidden_size": 128, "num_attention_heads": 2})
        config = dataclasses.replace(config, **overrides)
    except (ValueError, TypeError) as error:
        raise InputError(f"model.config: {error}") from None
    if config.vocab_size != vocab_size:
        raise InputError(
            f"the vocabulary has {vocab_size} entries, but {start.path} was built for {config.vocab_size}"
        )
    return config


def _seed(experiment: Experiment) -> None:
    lightning.seed_everything(experiment.seed_everything, workers=False, verbose=False)


def _take_weights(model: PretrainedModel, experiment: Experiment, start: Checkpoint | None) -> list[str]:
    if start is None or experiment.model.weights == "random":
        return []
    report = fill(model, start)
    return [str(report)] if report.missing else []


def num_steps(experiment: Experiment, num_samples: int) -> int:
    """Optimiser steps of the whole training: as given, or int(samples / batch size * epochs) as published.

    Raises:
        InputError: not even one.
    """
    settings = experiment.trainer
    if settings.max_steps is not None:
        return settings.max_steps
    assert settings.max_epochs is not None
    steps = int(num_samples / experiment.data.batch_size * settings.max_epochs)
    if steps < 1:
        raise InputError(
            f"trainer.max_epochs {settings.max_epochs:g} of {num_samples} samples are less than one batch of "
            f"{experiment.data.batch_size}: lower data.batch_size"
        )
    return steps


def optimization_of(experiment: Experiment, steps: int) -> Optimization:
    """What the task's optimiser step needs."""
    return Optimization(
        optimizer=experiment.optimizer,
        schedule=experiment.schedule,
        num_steps=steps,
        gradient_clip_val=experiment.trainer.gradient_clip_val,
        seed=experiment.seed_everything,
        log_every_n_steps=experiment.trainer.log_every_n_steps,
    )


def build_trainer(
    experiment: Experiment,
    folder: Path,
    loggers: Sequence[Logger],
    *,
    steps: int = -1,
    callbacks: Sequence[Callback] = (),
) -> Trainer:
    """A Trainer whose steps are optimiser steps and whose only epoch is the whole training.

    Raises:
        InputError: a device or precision that is not there.
    """
    quiet()
    settings = experiment.trainer
    world_size = settings.devices * settings.num_nodes
    on_cpu = settings.accelerator == "cpu" or not torch.cuda.is_available()
    if on_cpu:
        share_out_cores(settings.devices)
    strategy: str | Strategy = settings.strategy
    if settings.strategy == "ddp" or world_size > 1:
        strategy = DDPStrategy(gradient_as_bucket_view=True)
    try:
        return Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy=strategy,
            precision=settings.precision,
            max_steps=steps,
            val_check_interval=validation_interval(experiment, steps),
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=settings.log_every_n_steps,
            logger=list(loggers),
            callbacks=list(callbacks),
            enable_checkpointing=bool(callbacks),
            enable_progress_bar=bool(callbacks),
            enable_model_summary=False,
            use_distributed_sampler=False,
            plugins=[VerifiedCheckpointIO()],
            default_root_dir=folder,
        )
    except (
        lightning.fabric.utilities.exceptions.MisconfigurationException,
        RuntimeError,
        ValueError,
    ) as error:
        raise InputError(f"trainer: {str(error).splitlines()[0]}") from None


def validation_interval(experiment: Experiment, steps: int) -> int:
    """Steps between validations: as given, or a tenth of the training."""
    return experiment.trainer.val_check_interval or max(1, -(-steps // 10))


def training_callbacks(
    experiment: Experiment, task: Task, folder: Path, steps: int, *, validates: bool
) -> list[Callback]:
    """Progress, signals, validation, early stopping and checkpoints.

    Raises:
        InputError: `checkpoint.monitor` is no metric of the task.
    """
    interval = validation_interval(experiment, steps)
    settings = experiment.checkpoint
    known = [f"val/{name}" for name in task.validation_metrics]
    if settings.monitor is not None and settings.monitor not in known:
        raise InputError(f"checkpoint.monitor is {settings.monitor!r}{nearest(settings.monitor, known)}")
    if not validates and settings.every_n_steps is None:
        settings = dataclasses.replace(settings, every_n_steps=interval)
    checkpointing = Checkpointing(folder, settings, task.monitor, task.monitor_mode, interval if validates else None)
    callbacks: list[Callback] = [TrainingProgress(task.shown), StopOnSignal(checkpointing)]
    if validates:
        callbacks.append(ValidationAtEnd())
        patience = experiment.early_stopping.patience
        if patience is not None:
            mode = experiment.checkpoint.mode or task.monitor_mode
            callbacks.append(
                EarlyStopping(
                    checkpointing.monitor,
                    mode=mode,
                    patience=patience,
                    min_delta=experiment.early_stopping.min_delta,
                )
            )
    return [*callbacks, checkpointing]


def share_out_cores(num_processes: int) -> None:
    """Give each process of this machine its share of the cores, unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ or num_processes > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // num_processes))


def quiet() -> None:
    """Leave out what Lightning says of settings that are meant."""
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for pattern in (
        ".*does not have many workers.*",
        ".*sync_dist=True.*",
        ".*LeafSpec.*",
        ".*lr_scheduler.step.*",
        ".*has been used as a.*",
        ".*isinstance.*treespec.*",
        ".*exists and is not empty.*",
        ".*The total number of parameters.*",
        ".*Matthews.*",
        ".*you have set.*val_dataloader.*",
        ".*GPU available but not used.*",
        ".*number of training batches.*",
        ".*Total length of.*",
        ".*called before the ``update``.*",
    ):
        warnings.filterwarnings("ignore", pattern)


def wandb_logger(experiment: Experiment, folder: Path, run_id: str) -> list[Any]:
    """The W&B logger, offline unless an API key is at hand; never a prompt, never a wait for a network."""
    settings = experiment.wandb
    if settings.mode == "disabled" or os.environ.get("WANDB_MODE") == "disabled":
        return []
    os.environ["WANDB_SILENT"] = "true"
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    mode = os.environ.get("WANDB_MODE", settings.mode)
    offline = mode == "offline" or (mode == "auto" and not _has_api_key())
    if mode == "online" and not _has_api_key():
        raise InputError("wandb.mode is online, but there is no API key: run `wandb login`, or set WANDB_API_KEY")
    return [
        WandbLogger(
            project=settings.project,
            name=f"{experiment.experiment}-{run_id}",
            group=experiment.experiment,
            id=run_id,
            resume="allow",
            tags=settings.tags,
            save_dir=folder,
            offline=offline,
            config=experiment.to_dict(),
            # The command line, code and machine stay out of W&B; the manifest has them.
            settings=wandb.Settings(x_disable_meta=True, save_code=False, console="off", silent=True),
        )
    ]


def _has_api_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
