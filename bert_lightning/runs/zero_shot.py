"""Classification by labels that the model was not trained for: by masked words, next sentences or entailment."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, get_args

import numpy as np
import torch
from torch import Tensor

from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checks import nearest
from bert_lightning.config.extensions import allowed_names
from bert_lightning.data.loading.encoding import text_batch
from bert_lightning.data.reading.tables import Row
from bert_lightning.data.reading.values import as_text
from bert_lightning.errors import InputError
from bert_lightning.model import BertForMaskedLM
from bert_lightning.model.architectures import model_of
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.runs.blocks import in_blocks
from bert_lightning.runs.inference_device import InferencePrecision, chosen_device, inference, uses_bfloat16
from bert_lightning.runs.own_code import import_code_of
from bert_lightning.runs.trainer import prepare_gpu, quiet, share_out_cores
from bert_lightning.runs.zero_shot_labels import checked_calibration, checked_labels, checked_words, label_sentences
from bert_lightning.tasks.fine_tuning.one_of_several import softmax
from bert_lightning.tasks.fine_tuning.report import rounded
from bert_lightning.tasks.inference import PREDICTION_BATCH_SIZE as BATCH_SIZE
from bert_lightning.tasks.inference import evaluating
from bert_lightning.tasks.prompting.data import verbalizer_of
from bert_lightning.tasks.prompting.settings import ClozeData
from bert_lightning.tasks.prompting.task import ClozeTask
from bert_lightning.tasks.rebuilding import checkpoint_tokenizer, task_of
from bert_lightning.text.wordpiece import WordPieceTokenizer

By = Literal["masked-words", "nsp", "entailment"]
"""How a label is asked for: as a word at a mask, as the next sentence, or as a hypothesis that the text entails."""
# The template of transformers' pipeline `zero-shot-classification`, and LM-BFF's pattern as a sentence.
_TEMPLATES = {"entailment": "This example is {label}.", "nsp": "It was {label}."}
_LONGEST = 512
_ENTAILMENT = "entail"


class HowToAsk(TypedDict, total=False):
    """Keyword arguments of `ZeroShot.classify`, which explains them."""

    by: By | None
    pattern: str | None
    verbalizer: Mapping[str, str | Iterable[str]] | None
    calibration: Iterable[str] | None
    batch_size: int


class ZeroShot:
    """A model that sorts texts into any labels, without training for them.

    - `masked-words`: the masked-language-model head scores the labels' words at the mask of a pattern, as the task
      `cloze` does (Schick and Schütze 2021, arXiv 2001.07676).
    - `nsp`: the next-sentence head scores whether a sentence with the label follows the text (NSP-BERT, Sun et al.
      2021, arXiv 2109.03564, section 3): the probabilities of "is next", divided by their sum over the labels.
    - `entailment`: a classifier of pairs scores whether the text entails a sentence with the label (Yin et al. 2019,
      arXiv 1909.00161): a softmax of the logits of entailment over the labels, as in transformers' pipeline.

    Args:
        model: a model with one of these heads.
        tokenizer: its tokenizer.
        name: what errors call the model.
        precision: as for `load`.

    Raises:
        InputError: there is no such precision.
    """

    def __init__(
        self,
        model: PretrainedModel,
        tokenizer: WordPieceTokenizer,
        name: str = "the model",
        precision: InferencePrecision = "32",
    ) -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self._bfloat16 = uses_bfloat16(precision, self._device)

    @property
    def ways(self) -> list[By]:
        """The ways in which this model can be asked, the best known first."""
        heads: dict[By, bool] = {
            "masked-words": hasattr(self.model, "mlm_head"),
            "entailment": self._entailment is not None,
            "nsp": hasattr(self.model, "nsp_head"),
        }
        return [way for way, has_head in heads.items() if has_head]

    @property
    def _entailment(self) -> int | None:
        """The number of the label that means entailment; None if there is none."""
        labels = self.model.head_settings.get("labels")
        names = [str(label).lower() for label in labels] if isinstance(labels, Sequence) else []
        found = [number for number, name in enumerate(names) if name.startswith(_ENTAILMENT)]
        return found[0] if len(found) == 1 else None

    def classify(self, texts: Iterable[str], labels: Iterable[str], **how: Unpack[HowToAsk]) -> list[dict[str, Any]]:
        """Return the likeliest label of each text and the probabilities of all, in order.

        Args:
            texts: the texts.
            labels: the labels, at least two.
            how: keyword arguments:

                - `by`: how to ask; by default the first of `ways`.
                - `pattern`: with `masked-words` a pattern with `{text}` and `{mask}`, otherwise a sentence with
                  `{label}`.
                - `verbalizer`: label -> its word or words, if the label itself is not the word.
                - `calibration`: texts without content, for `masked-words` (`ClozeData`).
                - `batch_size`: how many sequences are computed at once.

        Raises:
            InputError: the model has no head for this, a label is missing or doubled, the pattern cannot be filled,
                or a word is outside the vocabulary.
        """
        return list(self.classified(texts, labels, **how))

    def classified(
        self,
        texts: Iterable[str],
        labels: Iterable[str],
        *,
        by: By | None = None,
        pattern: str | None = None,
        verbalizer: Mapping[str, str | Iterable[str]] | None = None,
        calibration: Iterable[str] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[dict[str, Any]]:
        """Yield what `classify` returns. Texts are read in blocks, so memory does not grow with their number."""
        if isinstance(texts, str):
            raise InputError("a list of texts is expected, not one text")
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be at least 1")
        way = self._way(by)
        labels = checked_labels(labels)
        words = checked_words(verbalizer)
        without_content = checked_calibration(calibration)
        if pattern is not None and not (isinstance(pattern, str) and pattern.strip()):
            raise InputError(f"pattern is {pattern!r}; it must be a text, or left out for the default")
        if way == "masked-words":
            predict = self._by_masked_words(labels, pattern, words, without_content, batch_size)
        elif calibration is not None:
            raise InputError(f"calibration is for masked-words, and the labels are asked for by {way}")
        else:
            predict = self._by_sentences(way, labels, pattern, words, batch_size)
        for block in in_blocks(as_text(f"item {number}", "a text", text) for number, text in enumerate(texts, 1)):
            with inference(self._device, self._bfloat16):
                predictions = predict(block)
            yield from predictions

    def _way(self, by: By | None) -> By:
        """Return how to ask.

        Raises:
            InputError: there is no such way, or the model lacks the head for it.
        """
        if by is not None and by not in get_args(By):
            raise InputError(f"by is {by!r}{nearest(by, get_args(By))}")
        ways = self.ways
        if by is None and ways:
            return ways[0]
        if by not in ways:
            needed = {
                "masked-words": "a head for masked words (mlm_head)",
                "nsp": "a head for sentence pairs (nsp_head)",
                "entailment": "a classifier of pairs with one label that begins with 'entail'",
                None: "a head for masked words or sentence pairs, or a classifier with a label entailment",
            }[by]
            can = f"; it can be asked by {' or '.join(ways)}" if ways else ""
            how = f" by {by}" if by is not None else ""
            raise InputError(f"{self.name} cannot classify{how}: that needs {needed}{can}")
        return by

    def _by_masked_words(
        self,
        labels: list[str],
        pattern: str | None,
        verbalizer: dict[str, str | list[str]],
        calibration: list[str] | None,
        batch_size: int,
    ) -> "Predict":
        """Return the prediction of a cloze over the model's own modules."""
        try:
            settings = ClozeData(
                pattern=pattern, verbalizer=verbalizer, calibration=calibration, max_seq_length=self._longest
            )
        except ValueError as error:
            raise InputError(str(error)) from None
        with torch.device("meta"):
            model = BertForMaskedLM(self.model.config)
        model.encoder, model.mlm_head = self.model.backbone, self.model.mlm_head  # type: ignore[assignment]
        try:
            num_masks = verbalizer_of(settings, labels, self.tokenizer).num_masks
        except InputError as error:
            raise InputError(str(error).removeprefix("data.")) from None
        try:
            settings.cloze.room(self.tokenizer, num_masks, self._longest)
        except ValueError as error:
            raise InputError(f"pattern is too long for the {self._longest} positions of the model: {error}") from None
        cloze = ClozeTask(model, self.model.config, self.tokenizer, settings, labels).to(self._device).eval()
        return lambda texts: cloze.predict_rows([Row("", {settings.text_column: text}) for text in texts], batch_size)

    def _by_sentences(
        self,
        way: By,
        labels: list[str],
        pattern: str | None,
        verbalizer: dict[str, str | list[str]],
        batch_size: int,
    ) -> "Predict":
        """Return the prediction of a head for pairs: a text, and a sentence with a label."""
        sentences = label_sentences(pattern if pattern is not None else _TEMPLATES[way], labels, verbalizer)
        seconds = self.tokenizer.encode_batch(sentences)
        room = self._longest - 3 - max(map(len, seconds))
        if room < 1:
            raise InputError(f"pattern is too long for the {self._longest} positions of the model")

        def predict(texts: list[str]) -> list[dict[str, Any]]:
            firsts = [ids[:room] for ids in self.tokenizer.encode_batch(texts)]
            pairs = [(first, second) for first in firsts for second in seconds]
            scores = self._scores_of_pairs(way, pairs, batch_size).reshape(len(texts), len(labels))
            return [_prediction(text, labels, each) for text, each in zip(texts, scores, strict=True)]

        return predict

    def _scores_of_pairs(self, way: By, pairs: list[tuple[list[int], list[int]]], batch_size: int) -> Any:
        """Return (n,) the logarithm of the probability of "is next", or the logit of entailment, of n pairs."""
        scores = np.zeros(len(pairs), dtype=np.float32)
        order = np.argsort([len(first) + len(second) for first, second in pairs], kind="stable")
        with evaluating(_Holder(self.model)):
            for start in range(0, len(order), batch_size):
                numbers = order[start : start + batch_size]
                firsts = [pairs[number][0] for number in numbers]
                batch = text_batch(self.tokenizer, firsts, [pairs[n][1] for n in numbers], self._longest)
                inputs = [batch["input_ids"], batch["token_type_ids"], batch["attention_mask"]]
                moved = [each.to(self._device) if each is not None else None for each in inputs]
                scores[numbers] = self._scored(way, moved).float().cpu().numpy()
        return scores

    def _scored(self, way: By, inputs: list[Tensor | None]) -> Tensor:
        if way == "entailment":
            logits: Tensor = self.model(*inputs)
            return logits[:, self._entailment]
        pooled = self.model.backbone(*inputs).pooler_output
        head: Any = self.model.nsp_head
        # Index 0 means that the second text follows the first.
        return head(pooled).float().log_softmax(-1)[:, 0]

    @property
    def _longest(self) -> int:
        return min(self.model.config.max_position_embeddings, _LONGEST)

    @property
    def _device(self) -> torch.device:
        return self.model.backbone.embeddings.word.weight.device


Predict = Callable[[list[str]], list[dict[str, Any]]]
"""Texts -> their predictions."""


class _Holder(torch.nn.Module):
    """A module with the attribute `model`, as tasks have it."""

    def __init__(self, model: PretrainedModel) -> None:
        super().__init__()
        self.model = model


def zero_shot(
    path: str | Path,
    device: str | None = None,
    *,
    precision: InferencePrecision = "32",
    base: str | Path | None = None,
    allow_modules: Sequence[str] = (),
) -> ZeroShot:
    """Open any checkpoint with a vocabulary, to classify texts with labels that it was not trained for.

    Args:
        path: a run directory or checkpoint file, a Hugging Face folder, a TensorFlow checkpoint, or a hub name.
        device: `cpu`, `cuda`, ...; by default CUDA if it is available.
        precision: as for `load`.
        base: the pre-trained model that a tuned run started from, if it is no longer where it was.
        allow_modules: your modules that may be imported, for a custom task or a custom part of the model.

    Raises:
        InputError: the checkpoint has no vocabulary, there is no such precision, or the device cannot be used.
        CheckpointError: there is no readable checkpoint at the path.

    Example:
        ::

            model = bert_lightning.zero_shot("bert-base-uncased")
            model.classify(["a gripping film"], ["bad", "great"], pattern="{text} It was {mask}.")
    """
    quiet()
    share_out_cores(1)
    prepare_gpu()
    checkpoint = read_checkpoint(path, base)
    import_code_of(checkpoint, allowed_names(allow_modules), needs_task=False)
    tokenizer = checkpoint_tokenizer(checkpoint)
    if tokenizer is None:
        raise InputError(f"{path} has no vocabulary, so it cannot read texts")
    model = task_of(checkpoint).model if checkpoint.task is not None else model_of(checkpoint)
    return ZeroShot(model.eval().to(chosen_device(device)), tokenizer, str(path), precision)


def _prediction(text: str, labels: Sequence[str], scores: Any) -> dict[str, Any]:
    by_label = {label: rounded(p) for label, p in zip(labels, softmax(scores), strict=True)}
    return {"text": text, "label": labels[int(np.argmax(scores))], "probabilities": by_label}
