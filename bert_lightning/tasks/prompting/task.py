"""The cloze task: labels from the probabilities of words at a mask."""

from collections.abc import Sequence

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.reading.tables import Row
from bert_lightning.model import BertConfig, BertForMaskedLM
from bert_lightning.model.losses import ProblemType
from bert_lightning.tasks.explained import Explained, number_of
from bert_lightning.tasks.prompting.data import EncodedClozes, Shown, verbalizer_of
from bert_lightning.tasks.prompting.explained import explained_cloze
from bert_lightning.tasks.prompting.settings import ClozeData
from bert_lightning.tasks.prompting.verbalizers import log_probabilities
from bert_lightning.tasks.task import Optimization
from bert_lightning.tasks.text_classification.task import TextClassificationTask
from bert_lightning.text.wordpiece import WordPieceTokenizer


class ClozeTask(TextClassificationTask):
    """Classification by the words that the masked-language-model head prefers at the mask of a pattern.

    Schick and Schütze 2021, arXiv 2001.07676, section 3.1. The score of a label is the logarithm of the probability
    of its answer (`Verbalizer`). For answers of one piece, the cross-entropy over these scores is that over the
    logits of the pieces, as published, because the softmax over the vocabulary cancels. There is no parameter besides
    those of the pre-trained model, so the task needs no training.

    With `data.calibration`, scores and predictions divide the probabilities of the labels by those that texts
    without content get; Zhao et al. 2021, arXiv 2102.09690, section 5: the average over these texts, W diagonal and
    b = 0. Losses are never calibrated: not in training, not in validation, and not when two models are compared.

    Attributes:
        verbalizer: the answers as word pieces.
    """

    name = "cloze"
    model: BertForMaskedLM  # type: ignore[assignment]
    settings: ClozeData
    pieces: Tensor
    piece_mask: Tensor
    of_label: Tensor

    def __init__(
        self,
        model: BertForMaskedLM,
        config: BertConfig,
        tokenizer: WordPieceTokenizer,
        settings: ClozeData,
        labels: Sequence[str],
        class_weights: Sequence[float] | None = None,
        demonstrations: Shown | None = None,
        *,
        optimization: Optimization | None = None,
    ) -> None:
        super().__init__(model, config, tokenizer, settings, labels, class_weights, optimization=optimization)
        self.verbalizer = verbalizer_of(settings, labels, tokenizer)
        names = ("pieces", "piece_mask", "of_label")
        for name, tensor in zip(names, self.verbalizer.tensors(), strict=True):
            self.register_buffer(name, tensor, persistent=False)
        self._shown = [list(each) for each in demonstrations] if demonstrations else None
        self._empty_texts = self._without_content(settings)

    @property
    def problem_type(self) -> ProblemType:
        """Each text has one label, because the words exclude each other."""
        return "single_label_classification"

    @property
    def task_settings(self) -> dict[str, object]:
        """The settings of text classification, and the examples that are appended as demonstrations."""
        shown = {"demonstrations": self._shown} if self._shown is not None else {}
        return {**super().task_settings, **shown}

    def _without_content(self, settings: ClozeData) -> Batch | None:
        """Return the texts without content as a batch; None without calibration."""
        if settings.calibration is None:
            return None
        pairs = [text if settings.is_pair else None for text in settings.calibration]
        examples = [
            LabelledText(f"data.calibration.{number}", text, pair, None, "")
            for number, (text, pair) in enumerate(zip(settings.calibration, pairs, strict=True))
        ]
        split = self.encode(examples)
        return split.batch(torch.arange(len(examples)).numpy())

    def num_scored(self, batch: Batch) -> int:
        """Return the number of masks."""
        return len(batch["masked_positions"])

    def compute(self, batch: Batch) -> Tensor:
        """Return (B, L) the logarithms of the probabilities of the labels, without calibration.

        With several draws of demonstrations, the logarithms are averaged over the draws. Up to a constant, that is
        the average of the logits of the label's answer, as in LM-BFF's `run.py`.
        """
        scores = self.log_probabilities(batch)
        num_draws = len(scores) // max(1, len(batch["numbers"]))
        if num_draws > 1:
            scores = scores.view(-1, num_draws, len(self.labels)).mean(1)
        return scores

    def calibrated(self, computed: Tensor) -> Tensor:
        """Return (B, L) the scores minus what the labels get for texts without content (`log_prior`)."""
        prior = self.log_prior()
        return computed if prior is None else computed - prior

    def log_prior(self) -> Tensor | None:
        """Return (L,) the logarithms of the labels' mean probabilities for texts without content, up to a constant.

        None if there are no such texts.
        """
        if self._empty_texts is None:
            return None
        without_content = self.log_probabilities(move_data_to_device(self._empty_texts, self.pieces.device))
        return without_content.log_softmax(-1).logsumexp(0)

    def log_probabilities(self, batch: Batch) -> Tensor:
        """Return (B, L) the logarithms of the probabilities of the labels."""
        logits = self.model(
            batch["input_ids"], batch["token_type_ids"], batch["attention_mask"], batch["masked_positions"]
        )
        num_masks = self.verbalizer.num_masks
        at_masks = logits.view(-1, num_masks, logits.shape[-1])
        return log_probabilities(at_masks.float(), self.pieces, self.piece_mask, self.of_label)

    def explained(self, row: Row, target: str | None) -> list[Explained]:
        """Return the score of a label, by default of the likeliest one."""
        split = self.encode([self.example_of(row)])
        [scores] = self.outputs_for(split, 1)
        predicted = self._likeliest(scores)
        number = number_of(predicted if target is None else target, self.labels, "label")
        return [explained_cloze(self, split, number, predicted)]

    def encode(self, examples: list[LabelledText]) -> EncodedClozes:
        split = EncodedClozes(examples, self.tokenizer, self.settings, self.labels)
        split.show(self._shown)
        return split
