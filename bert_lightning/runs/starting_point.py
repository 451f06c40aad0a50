"""The model as training begins: its vocabulary, architecture, weights and frozen parameters."""

from collections.abc import Callable, Sequence

import torch

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.checks import name_in
from bert_lightning.config.experiment import Experiment
from bert_lightning.config.model_parts import register_parts_of
from bert_lightning.config.sections import ModelSettings
from bert_lightning.errors import InputError
from bert_lightning.model import BertConfig, BertEncoder
from bert_lightning.model.layers.attention import varlen_obstacle
from bert_lightning.model.merging import plain
from bert_lightning.model.pretrained import (
    ENCODER,
    LoadingReport,
    PretrainedModel,
    adapted,
    compare,
    config_of,
    fill,
    with_blocks,
)
from bert_lightning.model.tuning import TUNINGS, Tuning, saved_tuning, tune
from bert_lightning.tasks.catalogue import task_spec
from bert_lightning.tasks.rebuilding import checkpoint_tokenizer
from bert_lightning.text.wordpiece import WordPieceTokenizer
from bert_lightning.training.precision import product_type


def start_checkpoint(settings: ModelSettings, modules: Sequence[str] = ()) -> Checkpoint | None:
    """Read the checkpoint that training starts from, if there is one. Its tuning is merged into the weights.

    Args:
        settings: the keys under `model`.
        modules: the experiment's modules, which may define custom parts of the checkpoint.

    Raises:
        InputError: its tuning cannot be merged.
    """
    if settings.pretrained is None:
        return None
    start = read_checkpoint(settings.pretrained)
    register_parts_of(start, modules)
    if not saved_tuning(start).mergeable:
        raise InputError(
            f"model.pretrained is {settings.pretrained}, which was tuned by {(start.tuning or {})['name']}. That "
            "cannot be merged into the weights, so no other training can start from it: continue it with --resume, "
            "or start from its base"
        )
    return plain(start)


def adapted_to(
    start: Checkpoint | None, settings: ModelSettings, tokenizer: WordPieceTokenizer | None
) -> Checkpoint | None:
    """Fit a checkpoint to the data's vocabulary, to more positions and to fewer blocks, if the settings ask for it.

    Raises:
        InputError: the vocabulary is to be fitted, but the data has none of its own; or a block does not exist.
    """
    if start is None:
        return None
    if settings.keep_layers is not None:
        try:
            start = with_blocks(start, settings.keep_layers)
        except CheckpointError as error:
            raise InputError(f"model.keep_layers is {settings.keep_layers}: {error}") from None
    vocabulary = None
    if settings.resize_vocabulary:
        if tokenizer is None:
            raise InputError("model.resize_vocabulary does nothing without data.tokenizer")
        carried = checkpoint_tokenizer(start)
        if carried is None or carried.fingerprint != tokenizer.fingerprint:
            vocabulary = tokenizer.vocabulary
    num_positions = settings.config["max_position_embeddings"] if settings.interpolate_positions else None
    return adapted(start, vocabulary, num_positions)


def with_vocabulary_of(
    prepare: Callable[[Vocabulary], Vocabulary], tokenizer: WordPieceTokenizer | None, start: Checkpoint | None
) -> tuple[WordPieceTokenizer | None, Checkpoint | None]:
    """Return the data's tokenizer and the checkpoint, both with the vocabulary entries that a task adds."""
    if tokenizer is not None and (added := prepare(tokenizer.vocabulary)) != tokenizer.vocabulary:
        tokenizer = WordPieceTokenizer(added)
    if start is not None and start.vocabulary is not None:
        added = prepare(start.vocabulary)
        if added != start.vocabulary:
            start = adapted(start, added)
    return tokenizer, start


def shared_tokenizer(tokenizer: WordPieceTokenizer | None, start: Checkpoint | None) -> WordPieceTokenizer:
    """Return the one tokenizer of data and model.

    Args:
        tokenizer: the data's own, if it has one.
        start: the checkpoint that training starts from or that is scored, if there is one.

    Raises:
        InputError: there is no tokenizer, or data and checkpoint have different vocabularies.
    """
    carried = checkpoint_tokenizer(start) if start is not None else None
    if tokenizer is None or carried is None:
        if (either := tokenizer or carried) is None:
            raise InputError("data.tokenizer is not set: a vocabulary is needed, because no checkpoint has one")
        return either
    if tokenizer.fingerprint != carried.fingerprint:
        assert start is not None
        raise InputError(
            f"the vocabulary does not fit: that of the data ({_described(tokenizer)}) differs from that of "
            f"{start.path} ({_described(carried)}); model.resize_vocabulary fits the model to the data's"
        )
    return tokenizer


def _described(tokenizer: WordPieceTokenizer) -> str:
    return f"{len(tokenizer)} entries, {'cased' if tokenizer.vocabulary.lowercase is False else 'uncased'}"


def model_config(
    settings: ModelSettings,
    start: Checkpoint | None,
    vocab_size: int,
    num_segments: int,
    tuning: Tuning | None = None,
) -> BertConfig:
    """Return the architecture: a size or the checkpoint's own, with the configured fields changed.

    Args:
        settings: the keys under `model`.
        start: the checkpoint that training starts from, if there is one.
        vocab_size: entries of the vocabulary; a checkpoint may have more rows.
        num_segments: 2 if the data are pairs, 1 if they are single texts.
        tuning: what added parameters to the checkpoint, if something did.

    Raises:
        InputError: an unknown or impossible field, a checkpoint with fewer rows than the vocabulary has entries, or
            pairs for a model of single texts.
    """
    overrides = dict(settings.architecture)
    if "vocab_size" in overrides:
        raise InputError("model.config.vocab_size cannot be set: the vocabulary decides it")
    try:
        if start is None:
            config = BertConfig.preset(settings.size or "base", vocab_size=vocab_size, **overrides)
        else:
            config = config_of(start).replace(**overrides)
        if start is not None and settings.weights == "pretrained":
            # Check before allocating memory, because the configuration may claim wrong sizes.
            with torch.device("meta"):
                encoder = BertEncoder(config)
                if tuning is not None:
                    tune(encoder, tuning)
                compare(encoder, start)
    except CheckpointError:
        raise
    except ValueError as error:
        raise InputError(f"model.config: {error}") from None
    if config.type_vocab_size < num_segments:
        origin = "model.config" if start is None else start.path
        raise InputError(
            f"{origin}: type_vocab_size is {config.type_vocab_size}, for single texts, but the data are pairs, "
            f"which need {num_segments}"
        )
    # More rows than entries are harmless: some published models round the number up.
    if start is not None and config.vocab_size < vocab_size:
        raise InputError(
            f"the vocabulary has {vocab_size} entries, but {start.path} was built for {config.vocab_size}"
        )
    return config


def fill_for_training(model: PretrainedModel, experiment: Experiment, start: Checkpoint | None) -> list[str]:
    """Fill a model that trains with the weights that it starts from, tune and freeze it.

    Args:
        model: the new model.
        experiment: the settings.
        start: the checkpoint that training starts from, if there is one.

    Returns:
        Notes for the user: the parameters that the checkpoint lacks.

    Raises:
        InputError: the attention cannot run here, layers cannot be tuned, frozen or reinitialised, or the checkpoint
            lacks a head that the task does not learn anew.
    """
    settings, tuning = experiment.model, experiment.tuning
    _choose_computation(model, experiment)
    report = fill(model, start) if start is not None and settings.weights == "pretrained" else None
    if report is not None:
        _refuse_new_head(experiment, report)
    try:
        model.backbone.reinitialize_top(settings.reinitialize_layers)
    except ValueError as error:
        raise InputError(f"model.reinitialize_layers: {error}") from None
    try:
        tune(model, tuning, new=report.missing if report is not None else ())
    except ValueError as error:
        raise InputError(f"tuning.{error}") from None
    freeze(model, experiment)
    # Training replaces the head of another task, so the checkpoint need not be used as a whole.
    return [str(report)] if report is not None and report.missing else []


def _refuse_new_head(experiment: Experiment, report: LoadingReport) -> None:
    """Refuse a checkpoint without the head of a task that adds no parameters, because a random head cannot answer.

    Raises:
        InputError: the checkpoint lacks parameters of the head.
    """
    missing = [name for name in report.missing if not name.startswith(ENCODER)]
    if missing and task_spec(experiment.task).scores_without_training:
        raise InputError(
            f"model.pretrained is {report.path}, which lacks the head that the task {experiment.task} needs: "
            f"{', '.join(missing)}; name a checkpoint with this head"
        )


def _choose_computation(model: PretrainedModel, experiment: Experiment) -> None:
    """Choose how the attention is computed, and whether the blocks keep their activations.

    Raises:
        InputError: the attention cannot run here.
    """
    settings = experiment.model
    obstacle = _varlen_obstacle(experiment, model.config) if settings.attention == "varlen" else None
    if obstacle is not None:
        raise InputError(f"model.attention is varlen, which cannot run here: {obstacle}")
    model.backbone.attention = settings.backend
    model.backbone.activation_checkpointing = settings.activation_checkpointing


def fill_for_scoring(
    model: PretrainedModel, experiment: Experiment, checkpoint: Checkpoint, tuning: Tuning
) -> list[str]:
    """Fill a model that is scored. It must have all of its parameters from the checkpoint.

    Args:
        model: the new model.
        experiment: the settings.
        checkpoint: the checkpoint that is scored.
        tuning: the tuning with which it was trained.

    Returns:
        Notes for the user: the parameters of the checkpoint that the model does not use.

    Raises:
        InputError: the attention cannot run here, or the checkpoint lacks parameters.
    """
    _choose_computation(model, experiment)
    tune(model, tuning)
    report = fill(model, checkpoint)
    if report.missing:
        raise InputError(
            f"{checkpoint.path} cannot be scored with this configuration, because it does not have all parameters of "
            f"the model: {', '.join(report.missing)}"
        )
    return [str(report)] if report.unused else []


def freeze(model: PretrainedModel, experiment: Experiment) -> None:
    """Exclude from training what the settings freeze.

    Raises:
        InputError: there are fewer layers, frozen layers are to be reinitialised, or nothing is left to train.
    """
    settings, num_drawn = experiment.freeze, experiment.model.reinitialize_layers
    num_layers = model.config.num_hidden_layers
    num_frozen = num_layers if settings.encoder else settings.layers
    try:
        model.backbone.freeze(embeddings=settings.embeddings, num_layers=settings.layers, everything=settings.encoder)
    except ValueError as error:
        raise InputError(f"freeze.layers: {error}") from None
    if num_drawn and num_frozen and num_drawn + num_frozen > num_layers:
        key = "encoder" if settings.encoder else "layers"
        raise InputError(f"freeze.{key} would freeze layers that model.reinitialize_layers reinitialises")
    drawn = model.backbone.layers[num_layers - num_drawn :]
    if not all(parameter.requires_grad for parameter in drawn.parameters()):
        raise InputError(
            f"tuning.name {tuning_name(model)} would freeze layers that model.reinitialize_layers reinitialises"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("freeze leaves nothing to train: remove one of its keys")


def tuning_name(model: PretrainedModel) -> str:
    """Return the name that selects the tuning of a model in a configuration."""
    return name_in(TUNINGS, type(model.tuning))


def _varlen_obstacle(experiment: Experiment, config: BertConfig) -> str | None:
    on_cuda = torch.cuda.is_available() and experiment.trainer.accelerator != "cpu"
    dtype = product_type(experiment.trainer.precision)
    width = config.hidden_size // config.num_attention_heads
    return varlen_obstacle(torch.device("cuda" if on_cuda else "cpu"), dtype, width)
