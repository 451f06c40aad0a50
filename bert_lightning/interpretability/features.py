"""Features, which are the hidden states of any checkpoint's encoder."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from torch import Tensor

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.config.extensions import allowed_names
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.encoding import encode_texts, text_batch
from bert_lightning.errors import InputError
from bert_lightning.model import BertEncoder
from bert_lightning.model.encoder_output import EncoderOutput
from bert_lightning.runs.blocks import in_blocks
from bert_lightning.runs.inference_device import InferencePrecision, chosen_device, inference, uses_bfloat16
from bert_lightning.runs.own_code import import_code_of
from bert_lightning.runs.trainer import quiet, share_out_cores
from bert_lightning.tasks.inference import PREDICTION_BATCH_SIZE as BATCH_SIZE
from bert_lightning.tasks.rebuilding import checkpoint_tokenizer
from bert_lightning.text.wordpiece import WordPieceTokenizer

FeatureForm = Literal["tokens", "cls", "mean", "max", "pooler"]


class Features(NamedTuple):
    """Hidden states of a text."""

    tokens: list[str]
    """its word pieces, [CLS] and [SEP] included"""
    states: NDArray[np.float32]
    """(layers, S, H), or (layers, H) if the form is one vector per text"""


class FeatureExtractor:
    """Extractor of hidden states from any checkpoint's encoder.

    Args:
        checkpoint: a checkpoint with a vocabulary, from bert_lightning, transformers or TensorFlow.
        device: `cpu`, `cuda`, ...; by default CUDA if it is available.
        precision: as for `load`.

    Raises:
        InputError: the checkpoint has no vocabulary, there is no such precision, or the device cannot be used.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: str | None = None, precision: InferencePrecision = "32"
    ) -> None:
        quiet()
        share_out_cores(1)
        tokenizer = checkpoint_tokenizer(checkpoint)
        if tokenizer is None:
            raise InputError(f"{checkpoint.path} has no vocabulary, so text cannot become tokens")
        self.tokenizer: WordPieceTokenizer = tokenizer
        self.path = checkpoint.path
        self.device = chosen_device(device)
        self._bfloat16 = uses_bfloat16(precision, self.device)
        self.encoder = BertEncoder.from_checkpoint(checkpoint).eval().to(self.device)
        # The encoder of a model that was trained without a pooler gets random weights for it.
        self._has_pooler = "encoder.pooler.weight" in checkpoint.tensors

    @classmethod
    def open(
        cls,
        checkpoint: str | Path,
        device: str | None = None,
        *,
        precision: InferencePrecision = "32",
        base: str | Path | None = None,
        allow_modules: Sequence[str] = (),
    ) -> Self:
        """Read a checkpoint and make its extractor; the arguments are those of `load`.

        Raises:
            InputError: as for the class, or the model needs a module that is not allowed.
            CheckpointError: there is no readable checkpoint at the path.
        """
        read = read_checkpoint(checkpoint, base)
        import_code_of(read, allowed_names(allow_modules), needs_task=False)
        return cls(read, device, precision)

    def with_random_weights(self, seed: int) -> Self:
        """Return the extractor of an untrained encoder of the same architecture and vocabulary."""
        other = copy(self)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = BertEncoder(self.encoder.config).eval()
        other.encoder = encoder.to(self.device, self.encoder.embeddings.word.weight.dtype)
        return other

    @property
    def num_layers(self) -> int:
        """The number of layers with hidden states: the embeddings and the blocks."""
        return self.encoder.config.num_hidden_layers + 1

    def layers(self, numbers: Sequence[int]) -> list[int]:
        """Return layers as numbers from 0: 0 is the embeddings, 1 the first block, and -1 the last one.

        Raises:
            InputError: there is no such layer.
        """
        total = self.num_layers
        for layer in numbers:
            if not -total <= layer < total:
                raise InputError(
                    f"there is no layer {layer}: {self.path} has 0 (embeddings) to {total - 1}, or -{total} to -1 "
                    "from the top"
                )
        return [layer % total for layer in numbers]

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute without gradients, in the precision of the extractor."""
        with inference(self.device, self._bfloat16), self.encoder.without_padding():
            yield

    def hidden_states(self, batch: Batch) -> Tensor:
        """Return the hidden states of a batch at every layer, (layers, B, S, H), on the CPU, in 32 or 64 bits."""
        states = self._outputs(batch).hidden_states
        assert states is not None
        return torch.stack([state if state.dtype == torch.float64 else state.float() for state in states]).cpu()

    def _outputs(self, batch: Batch) -> EncoderOutput:
        inputs = batch["input_ids"], batch["token_type_ids"], batch["attention_mask"]
        output: EncoderOutput = self.encoder(*move_data_to_device(inputs, self.device), output_hidden_states=True)
        return output

    def extract(
        self,
        texts: Iterable[str],
        layers: Sequence[int] = (-1,),
        form: FeatureForm = "tokens",
        max_seq_length: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[Features]:
        """Extract the features of each text in order.

        Args:
            texts: the texts. They are read in blocks of about two thousand.
            layers: numbers as in `layers`.
            form: states of every token, of [CLS], their mean or maximum, or the pooler's output.
            max_seq_length: longest sequence; longer texts are cut. By default all positions of the model.
            batch_size: number of texts per forward pass.

        Raises:
            InputError: there is no such layer, the model lacks a pooler, or it has fewer positions.
        """
        numbers = self.layers(layers)
        if form == "pooler" and not self._has_pooler:
            raise InputError(f"{self.path} has no pooler; features may be tokens, cls, mean or max")
        most = self.encoder.config.max_position_embeddings
        limit = most if max_seq_length is None else max_seq_length
        if not 3 <= limit <= most:
            raise InputError(f"max_seq_length is {limit}; {self.path} allows 3 to {most}")
        for block in in_blocks(texts):
            ids, _ = encode_texts(self.tokenizer, block, None, limit)
            order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
            features: dict[int, Features] = {}
            with self.computing():
                for start in range(0, len(order), batch_size):
                    chosen = order[start : start + batch_size]
                    of_batch = self._batch([ids[n] for n in chosen], numbers, form, limit)
                    features.update(zip(chosen, of_batch, strict=True))
            yield from (features[number] for number in range(len(block)))

    def _batch(self, ids: list[list[int]], layers: list[int], form: FeatureForm, limit: int) -> Iterator[Features]:
        batch = text_batch(self.tokenizer, ids, None, limit)
        output = self._outputs(batch)
        assert output.hidden_states is not None
        states = torch.stack([output.hidden_states[layer] for layer in layers], 1).float().cpu().numpy()
        pooled = output.pooler_output.float().cpu().numpy()
        for number, pieces in enumerate(ids):
            length = len(pieces) + 2
            vectors = states[number, :, :length]
            tokens = [self.tokenizer.entries[i] for i in batch["input_ids"][number, :length].tolist()]
            if form == "pooler":
                yield Features(tokens, pooled[number][None])
            elif form == "tokens":
                yield Features(tokens, vectors)
            else:
                by_form = {"cls": vectors[:, 0], "mean": vectors.mean(1), "max": vectors.max(1)}
                yield Features(tokens, by_form[form])
