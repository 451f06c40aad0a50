"""A survey of the data of a task before there is an experiment: labels, lengths, and a vocabulary for it."""

import logging
import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.data.corpus.documents import CorpusFormat, read_passages
from bert_lightning.data.corpus.preparation import prepare
from bert_lightning.data.corpus.token_store import MANIFEST
from bert_lightning.data.loading.module import StepDataModule
from bert_lightning.data.reading.lines import Repairs
from bert_lightning.data.reading.sources import CORPUS_SUFFIXES, find_sources
from bert_lightning.errors import InputError
from bert_lightning.model.pretrained import config_of
from bert_lightning.runs.starting_point import checkpoint_tokenizer
from bert_lightning.tasks.fine_tuning.data import FineTuningDataModule
from bert_lightning.tasks.fine_tuning.settings import FineTuningData
from bert_lightning.tasks.spec import TaskSpec
from bert_lightning.text.vocabulary import train_wordpiece
from bert_lightning.text.wordpiece import SPECIAL_TOKENS, WordPieceTokenizer

# At most this many examples are read. The further examples of a large file hardly change what is found.
NUM_SURVEYED = 20_000
VOCABULARY_SIZE = 16_000
# Positions of a model with new weights, and of most published ones.
_NUM_POSITIONS = 512
# This share of the sequences, in percent, is not cut. Batches are only as long as their longest sequence, so a limit
# that is too high costs nothing.
_COVERED, _SHORTEST_LIMIT = 99, 32
# A vocabulary of characters, to read data before the real vocabulary exists. It splits a word into known pieces.
_CHARACTERS = (*SPECIAL_TOKENS, *(prefix + each for prefix in ("", "##") for each in string.printable.strip()))
# Parts of an example that are no text for a vocabulary.
_NO_TEXT = {"location", "id", "label", "tags", "title"}


class Survey(NamedTuple):
    """Findings about the data of a task.

    Attributes:
        settings: keys under `data` that the data needs, and their values.
        notes: a key of `settings` -> what was found, as a sentence.
        num_samples: training samples, of the first `NUM_SURVEYED` examples.
        vocabulary: made for the data; None if a checkpoint brings one.
    """

    settings: dict[str, object]
    notes: dict[str, str]
    num_samples: int
    vocabulary: WordPieceTokenizer | None = None


def survey_examples(spec: TaskSpec, source: str, validation: str | None, pretrained: str | None) -> Survey:
    """Read labelled data, with the vocabulary of a checkpoint or one made for it.

    Raises:
        InputError: a source cannot be read, or is not data of the task; the message names file and line.
    """
    settings: dict[str, object] = {"train": source, **({"validation": validation} if validation is not None else {})}
    settings |= spec.guess_settings(source)
    vocabulary, num_positions = None, _NUM_POSITIONS
    if pretrained is not None:
        tokenizer, num_positions = _of_checkpoint(pretrained)
    else:
        with _no_warnings():
            unknown = _data(spec, settings, WordPieceTokenizer(Vocabulary(_CHARACTERS, lowercase=True)))
        of_examples = (text for example in unknown.splits["train"].examples for text in _texts(example._asdict()))
        texts = chain(of_examples, unknown.further_texts)
        # The capital letters of names tell a tagger more than they cost.
        lowercase = spec.name != "token-classification"
        tokenizer = vocabulary = train_wordpiece(texts, VOCABULARY_SIZE, lowercase, source=source)
    data = _data(spec, settings, tokenizer)
    lengths = _lengths(data)
    needed = max(_SHORTEST_LIMIT, int(np.percentile(lengths, _COVERED)))
    settings["max_seq_length"] = _accepted_length(spec, settings, needed, num_positions)
    notes = {"train": _count_note(data), "max_seq_length": _length_note(lengths)}
    return Survey(settings, notes, len(lengths), vocabulary)


def _of_checkpoint(name: str) -> tuple[WordPieceTokenizer, int]:
    """Return the tokenizer of a checkpoint and its number of positions."""
    start = read_checkpoint(name)
    tokenizer = checkpoint_tokenizer(start)
    if tokenizer is None:
        raise InputError(f"--pretrained {name} has no vocabulary: choose another checkpoint, or leave it out")
    return tokenizer, config_of(start).max_position_embeddings


def survey_text(
    spec: TaskSpec, source: str, validation: str | None, folder: Path, pretrained: str | None = None
) -> Survey:
    """Prepare text for pre-training: a vocabulary and a token store per source. A finished store is used as it is.

    Args:
        spec: the task, whose data is stored as token ids.
        source: a text file, a table, a folder of them, or a token store.
        validation: the same for validation, or None.
        folder: where vocabulary and stores are written; a new folder.
        pretrained: the checkpoint that training starts from; None for new weights. Text is encoded with the
            vocabulary of a given store, else with that of the checkpoint, else with a new one.

    Raises:
        InputError: a source cannot be read or holds no text, or the checkpoint has no vocabulary.
    """
    settings: dict[str, object] = {}
    tokenizer, num_positions = _of_checkpoint(pretrained) if pretrained is not None else (None, None)
    for split, path in (("train", source), ("validation", validation)):
        if path is None:
            continue
        if (Path(path) / MANIFEST).is_file():
            settings[split] = path
            if split == "train":
                tokenizer = spec.stored_tokenizer(_settings(spec, settings), "train")  # type: ignore[misc]
            continue
        sources = find_sources([path], CORPUS_SUFFIXES)
        if tokenizer is None:
            tokenizer = train_wordpiece(_passages(sources), VOCABULARY_SIZE, source=path)
            tokenizer.save(folder / "vocabulary")
        prepare(sources, tokenizer, folder / split)
        settings[split] = str(folder / split)
    if num_positions is not None and _settings(spec, settings).longest > num_positions:
        settings["max_seq_length"] = num_positions
    data = spec.data(_settings(spec, settings), tokenizer, split=None)
    return Survey(settings, {}, data.num_training_samples)


def _passages(sources: Sequence[str]) -> Iterator[str]:
    for source in sources:
        for passage in read_passages(source, CorpusFormat(), Repairs()):
            yield from passage.segments


def _data(
    spec: TaskSpec, settings: dict[str, object], tokenizer: WordPieceTokenizer
) -> FineTuningDataModule[Any, Any]:
    with_markers = WordPieceTokenizer(spec.prepare_vocabulary(tokenizer.vocabulary))
    limits = {
        "max_seq_length": _NUM_POSITIONS,
        "max_train_samples": NUM_SURVEYED,
        "max_evaluation_samples": NUM_SURVEYED,
    }
    data: StepDataModule = spec.data(_settings(spec, {**settings, **limits}), with_markers, split=None)
    assert isinstance(data, FineTuningDataModule)
    return data


def _settings(spec: TaskSpec, values: dict[str, object]) -> Any:
    try:
        return spec.data_settings(**values)
    except ValueError as error:
        raise InputError(f"data.{error}") from None


def _accepted_length(spec: TaskSpec, settings: dict[str, object], needed: int, num_positions: int) -> int:
    """Return the smallest multiple of 8 that holds `needed` tokens and fits the task; at most all positions."""
    for length in range(-(-needed // 8) * 8, num_positions, 8):
        try:
            spec.data_settings(**settings, max_seq_length=length)
        except ValueError:
            continue
        return length
    return num_positions


def _texts(value: object) -> Iterator[str]:
    """Yield the texts of an example, as far as they are text for a model."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            if name not in _NO_TEXT:
                yield from _texts(part)
    elif isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        for part in value:
            yield from _texts(part)


def _count_note(data: FineTuningDataModule[Any, Any]) -> str:
    number = len(data.splits["train"].examples)
    limit = "the first " if number == NUM_SURVEYED else ""
    note = f"Found {limit}{number:,} examples"
    labels = getattr(data, "labels", [])
    if len(labels) < 2:
        return f"{note}."
    shown = ", ".join(map(str, labels[:10])) + (", ..." if len(labels) > 10 else "")
    return f"{note} with {len(labels)} labels: {shown}."


def _lengths(data: FineTuningDataModule[Any, Any]) -> NDArray[np.int64]:
    """Return the number of tokens of each training sequence. The lengths of some tasks leave out special tokens."""
    split = data.splits["train"]
    longest = np.argmax(split.lengths)
    batch = split.batch(np.array([longest]))
    mask = batch["attention_mask"]
    # There is no mask if nothing is padded.
    num_tokens = batch["input_ids"].shape[-1] if mask is None else int(mask.sum(-1).max())
    return np.asarray(split.lengths + num_tokens - split.lengths[longest])


def _length_note(lengths: NDArray[np.int64]) -> str:
    median, most = (int(np.percentile(lengths, share)) for share in (50, _COVERED))
    cut = f"{int(lengths.max())}" if lengths.max() < _NUM_POSITIONS else f"{_NUM_POSITIONS} or more"
    return f"In tokens: half of the sequences have at most {median}, {_COVERED} % at most {most}, the longest {cut}."


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Suppress warnings about data while it is read for the vocabulary; the second reading shows them."""
    logger = logging.getLogger("bert_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def can_survey(spec: TaskSpec) -> bool:
    """Return whether data of a task can be read here: labelled examples, or text that is stored as token ids."""
    return spec.stored_tokenizer is not None or issubclass(spec.data_settings, FineTuningData)
