"""Contenders of the benchmark of pre-training: `fit`, our bare step, and transformers' `BertForPreTraining`.

All take the same stream of batches from our data module, one batch per step and none twice. `fit` is the command's
whole loop, with its loader, loggers and callbacks. The bare contenders get batches that were made before.
"""

import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import transformers
from lightning import Callback
from measuring import Contender, PausedTraining, synchronize

from bert_lightning.config.experiment import Experiment
from bert_lightning.data.loading.batching import Batch, to_packed_batch
from bert_lightning.data.loading.loader import StepLoader
from bert_lightning.data.loading.module import TrainingLength
from bert_lightning.data.pretraining.module import PretrainingDataModule
from bert_lightning.data.pretraining.settings import PretrainingData
from bert_lightning.model import BertConfig
from bert_lightning.runs import fit
from bert_lightning.runs.building import build_training
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.trainer import build_trainer
from bert_lightning.tasks.task import Task

# The number of batches that `ours_repeated` repeats.
NUM_REPEATED = 2
# The best form of transformers pads to a multiple of this, so that a compiled step has few shapes.
MULTIPLE = 64
# Longer than any benchmark takes.
NUM_STEPS = 10**6
# Keys of our architecture that transformers has under the same name.
SHARED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
)


class Stream:
    """The batches of a training in order, each made when it is first asked for.

    Args:
        experiment: the pre-training, with padded batches.
    """

    def __init__(self, experiment: Experiment) -> None:
        settings = experiment.data
        assert isinstance(settings, PretrainingData)
        assert settings.batching == "padded"
        length = TrainingLength(max_steps=NUM_STEPS, seed=experiment.seed_everything)
        self._data = PretrainingDataModule(settings, length=length)
        self._batches: list[Batch] = []

    @property
    def vocab_size(self) -> int:
        """The number of entries of the vocabulary."""
        return len(self._data.tokenizer)

    def __getitem__(self, step: int) -> Batch:
        while len(self._batches) <= step:
            [batch] = self._data.training_batches(len(self._batches), self._data.plan, 0, 1)
            self._batches.append(batch)
        return self._batches[step]

    def first(self, number: int) -> list[Batch]:
        """Return the batches of the first steps."""
        return [self[step] for step in range(number)]


def lengths_of(batch: Batch) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the number of real tokens of each sequence of a padded batch, (B,)."""
    mask = batch.get("attention_mask")
    real = torch.ones_like(batch["input_ids"]) if mask is None else mask
    return real.sum(1).numpy()


def in_packed_form(batch: Batch) -> Batch:
    """Return the same sequences end to end, without padding."""
    lengths, width = lengths_of(batch), batch["input_ids"].shape[1]
    real = (np.arange(width)[None, :] < lengths[:, None]).ravel()
    places = np.cumsum(real) - 1
    return to_packed_batch(
        batch["input_ids"].numpy(),
        batch["token_type_ids"].numpy(),
        lengths,
        masked_positions=places[batch["masked_positions"].numpy()],
        masked_labels=batch["masked_labels"].numpy(),
        sentence_labels=batch["sentence_labels"].numpy(),
    )


def inputs_of_transformers(batch: Batch, multiple: int) -> dict[str, torch.Tensor]:
    """Return the inputs of transformers for a padded batch, padded further to a multiple."""
    lengths = torch.from_numpy(lengths_of(batch))
    longest = int(lengths.max())
    width = -(-longest // multiple) * multiple
    labels = torch.full_like(batch["input_ids"], -100)
    labels.view(-1)[batch["masked_positions"]] = batch["masked_labels"]

    def padded(values: torch.Tensor, filler: int = 0) -> torch.Tensor:
        return torch.nn.functional.pad(values[:, :longest], (0, width - longest), value=filler)

    return {
        "input_ids": padded(batch["input_ids"]),
        "token_type_ids": padded(batch["token_type_ids"]),
        "attention_mask": (torch.arange(width) < lengths[:, None]).long(),
        "labels": padded(labels, -100),
        "next_sentence_label": batch["sentence_labels"],
    }


@dataclasses.dataclass
class Setting:
    """The settings that all contenders share.

    Attributes:
        experiment: the pre-training as `fit` gets it; its precision is settled.
        num_steps: steps per turn.
        device: the device.
        batch_size: sequences of a batch that is not packed.
    """

    experiment: Experiment
    num_steps: int
    device: torch.device
    batch_size: int

    @cached_property
    def stream(self) -> Stream:
        """The batches that contenders share, padded."""
        data = dataclasses.replace(self.experiment.data, batching="padded", batch_size=self.batch_size)
        return Stream(dataclasses.replace(self.experiment, data=data))

    @property
    def config(self) -> BertConfig:
        """The architecture."""
        size = self.experiment.model.size
        assert size is not None
        return BertConfig.preset(size, vocab_size=self.stream.vocab_size)

    def fit(self, *, compiled: bool = False) -> Contender:
        """Return `fit` as the command runs it, in a directory of its own."""
        trainer = dataclasses.replace(self.experiment.trainer, compile=compiled)
        experiment = dataclasses.replace(self.experiment, trainer=trainer)

        def train(callback: Callback) -> None:
            directory = RunDirectory(tempfile.mkdtemp(prefix="benchmark-"))
            fit.train(experiment, directory, "never", callbacks=[callback])

        return PausedTraining(train, self.num_steps, self.device)

    def step(self, *, compiled: bool = False, repeated: bool = False) -> Contender:
        """Return our step in the Trainer of `fit`, without loggers, on batches that were made before.

        Args:
            compiled: whether the step is compiled.
            repeated: take the same few batches over and over.
        """
        experiment = self.experiment
        form = in_packed_form if self.device.type == "cuda" else lambda batch: batch

        def make(step: int) -> list[Batch]:
            return [form(self.stream[step % NUM_REPEATED if repeated else step])]

        def train(callback: Callback) -> None:
            task: Task = build_training(experiment, None).task
            trainer = build_trainer(experiment, Path(tempfile.gettempdir()), [], steps=NUM_STEPS, compiled=compiled)
            # Given to the Trainer at once, it would come with a progress bar and checkpoints.
            trainer.callbacks.append(callback)  # type: ignore[attr-defined]
            if compiled:
                task.compile_training(blocks_alone=self.device.type == "cuda")
            loader = StepLoader(make, NUM_STEPS, 0, self.device.type == "cuda")
            trainer.fit(task, train_dataloaders=loader)

        paused = PausedTraining(train, self.num_steps, self.device)
        return self._with_batches_made_before(paused)

    def _with_batches_made_before(self, contender: Contender) -> Contender:
        turns = itertools.count(1)

        def turn() -> Sequence[float]:
            # Lightning asks for one batch more than the turn takes.
            self.stream.first(next(turns) * self.num_steps + 1)
            return contender()

        return turn

    def transformers(self, *, fused: bool = False, compiled: bool = False) -> Contender:
        """Return transformers' model in a bare loop with SDPA.

        Args:
            fused: whether AdamW is fused.
            compiled: whether the model is compiled, for sequences padded to a multiple of `MULTIPLE`.
        """
        device, experiment = self.device, self.experiment
        torch.manual_seed(0)
        sizes = self.config.to_dict()
        model: Any = transformers.BertForPreTraining._from_config(
            transformers.BertConfig(**{name: value for name, value in sizes.items() if name in SHARED}),
            attn_implementation="sdpa",
        )
        model = model.to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, eps=1e-6, weight_decay=0.01, fused=fused or None)
        call: Callable[..., Any] = torch.compile(model) if compiled else model
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=experiment.trainer.precision == "bf16-mixed")
        steps = itertools.count()

        def inputs() -> Iterator[dict[str, torch.Tensor]]:
            for step in itertools.islice(steps, self.num_steps):
                arrays = inputs_of_transformers(self.stream[step], MULTIPLE if compiled else 1)
                yield {name: array.to(device) for name, array in arrays.items()}

        def turn() -> list[float]:
            batches = list(inputs())
            synchronize(device)
            began = perf_counter()
            for batch in batches:
                with autocast:
                    loss = call(**batch).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            synchronize(device)
            seconds = perf_counter() - began
            return [sum(int(batch["attention_mask"].sum()) for batch in batches) / seconds]

        return turn
