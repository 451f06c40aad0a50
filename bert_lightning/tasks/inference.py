"""The methods that Lightning expects of a module apart from training: forward, prediction, export and loading."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from lightning import LightningModule
from torch import nn

from bert_lightning.checkpoints.native import hyper_parameters_of
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.data.loading.module import NumberedInput
from bert_lightning.data.reading.tables import Row
from bert_lightning.errors import InputError
from bert_lightning.model import BertEncoder
from bert_lightning.model.onnx_export import PACKAGES, export_onnx
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.tasks.explained import Explained

PREDICTION_BATCH_SIZE = 64
_FOR_SEVERAL_TEXTS = "set data.inputs to the list of inputs, or use DataLoader(inputs, collate_fn=list)"


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Compute without dropout, gradients and padding, and restore the mode of each part afterwards.

    Parts that are frozen stay in evaluation mode while the rest trains.
    """
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        with torch.no_grad(), without_padding(module):
            yield
    finally:
        for each, was_training in modes:
            each.training = was_training


def without_padding(module: nn.Module) -> AbstractContextManager[None]:
    """Let the encoder of a task skip padding, unless a custom head may read the hidden states there."""
    model = getattr(module, "model", None)
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, BertEncoder) or getattr(model, "own_head", None) is not None:
        return nullcontext()
    return encoder.without_padding()


class Inference(LightningModule):
    """The part of a task that does not train.

    Attributes:
        line_columns: the columns of plain raw input: one text, or several texts if there are several columns.
    """

    model: PretrainedModel
    line_columns: Sequence[str] = ("text",)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the model's output, such as logits (B, L), for `input_ids`, `token_type_ids` and `attention_mask`.

        The only argument may also be a batch of the data module.

        Raises:
            InputError: the first argument is a text or a list.
        """
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            return self.compute_batch(inputs[0])
        if inputs and isinstance(inputs[0], str | list | tuple):
            raise InputError(
                "a task computes with tensors, input_ids (B, S), not with texts or lists: for texts, use "
                "`bert_lightning.load(path).predict(texts)`"
            )
        return self.model(*inputs, **named)

    def compute_batch(self, batch: Mapping[str, Any]) -> Any:
        """Return the model's output for a batch of the data module."""
        packing = {"packing": batch["packing"]} if "packing" in batch else {}
        return self.model(batch["input_ids"], batch["token_type_ids"], batch.get("attention_mask"), **packing)

    def predict_rows(self, rows: list[Row], batch_size: int) -> list[dict[str, object]]:
        """Predict from raw input: one prediction per row.

        Raises:
            InputError: a row lacks what the model needs; the message names its location.
        """
        raise NotImplementedError

    def explained(self, row: Row, target: str | None) -> list[Explained]:
        """Return the scores of a raw input that are explained, with the words that they are computed from.

        Args:
            row: the raw input.
            target: what is explained, such as a label; None for the prediction.

        Returns:
            One score or several; none if the input has no words.

        Raises:
            InputError: this task has no such scores, there is no such target, or the row lacks what the model needs.
        """
        name = getattr(self, "name", type(self).__name__)
        raise InputError(f"a model of the task {name!r} cannot be explained: the task has no method `explained`")

    def row_of(self, location: str, item: object) -> Row:
        """Turn a raw input into a row: a text, several texts if the model reads several, or a dictionary of columns.

        Args:
            location: the name of the input in errors.
            item: the input.

        Raises:
            InputError: it is none of these.
        """
        names = self.line_columns
        if isinstance(item, dict):
            return Row(location, item)
        if isinstance(item, str) and len(names) == 1:
            return Row(location, {names[0]: item})
        if isinstance(item, list | tuple) and len(item) == len(names) and all(isinstance(text, str) for text in item):
            return Row(location, dict(zip(names, item, strict=True)))
        expected = f"{' and '.join(names)}, or " if names else ""
        raise InputError(f"{location}: this model takes {expected}a dictionary of its columns, not {item!r}")

    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, object]]:
        """Return the predictions for raw inputs, which may come from `data.inputs` or from a loader of texts.

        Raises:
            InputError: the batch does not hold raw inputs, or one lacks what the model needs.
        """
        items = batch if isinstance(batch, list) else [batch]
        rows = []
        for number, item in enumerate(items, 1):
            if isinstance(item, NumberedInput):
                rows.append(self.row_of(f"item {item.number + 1}", item.item))
                continue
            if isinstance(item, Mapping) and "input_ids" in item:
                raise InputError(
                    "trainer.predict takes raw inputs or the data module, not encoded batches: pass data"
                )
            if not isinstance(item, str | dict):
                # The default `collate_fn` transposes a list of pairs, and the result looks like other pairs.
                raise InputError(f"batch {batch_idx + 1} holds {type(item).__name__} objects: {_FOR_SEVERAL_TEXTS}")
            if isinstance(item, dict) and not isinstance(batch, list):
                raise InputError(f"batch {batch_idx + 1} is a dictionary of lists: {_FOR_SEVERAL_TEXTS}")
            rows.append(self.row_of(f"item {number} of batch {batch_idx + 1}", item))
        return self.predict_rows(rows, PREDICTION_BATCH_SIZE) if rows else []

    def to_onnx(self, file_path: Any = None, input_sample: Any | None = None, **kwargs: Any) -> None:
        """Write the model as ONNX, as `bert-lightning export --format onnx` does.

        Args:
            file_path: the file.
            input_sample: not needed; the file takes any batch size and length.
            **kwargs: none.

        Raises:
            InputError: the model or an argument does not fit ONNX, or a package is missing.
        """
        if not isinstance(file_path, str | Path) or kwargs:
            raise InputError(f"to_onnx takes the path of a file alone, not {file_path!r} {kwargs or ''}".rstrip())
        try:
            export_onnx(self.model, Path(file_path))
        except ModuleNotFoundError:
            raise InputError(f"to_onnx needs {', '.join(PACKAGES)}: pip install 'bert_lightning[onnx]'") from None
        except ValueError as error:
            raise InputError(str(error)) from None

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Rebuild a task from a checkpoint, offline. Pickled code is never executed.

        Args:
            checkpoint_path: checkpoint file or run directory.
            map_location: the device; by default the processor.
            hparams_file: not needed.
            strict: not needed, because weights always have to fit.
            weights_only: not needed, because nothing else is ever read.
            **kwargs: further arguments of the constructor, such as `optimization` to train on. With `model`,
                Lightning's own loading fills the given model.

        Raises:
            InputError: no run and no Trainer with such a task wrote the checkpoint.
            CheckpointError: there is no readable checkpoint.

        Example:
            ::

                task = TextClassificationTask.load_from_checkpoint("lightning_logs/version_0/checkpoints/last.ckpt")
        """
        from bert_lightning.tasks.rebuilding import arguments_among, task_of

        if hparams_file is not None:
            raise InputError("hparams_file is not read: the checkpoint holds all that the task needs")
        checkpoint = read_checkpoint(checkpoint_path)
        if "model" in kwargs:
            return super().load_from_checkpoint(
                checkpoint.path, map_location, strict=strict, weights_only=True, **kwargs
            )
        task_class: Any = cls
        saved = arguments_among(hyper_parameters_of(checkpoint.path), task_class)
        task: Any = task_of(checkpoint, task_class, saved | kwargs)
        return task if map_location is None else task.to(map_location)
