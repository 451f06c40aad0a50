"""Token classification: a tag for each word, by a softmax per word or a CRF per sentence."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from torch import Tensor

from bert_lightning.data.datasets.examples import TaggedSentence
from bert_lightning.data.datasets.readers.tagged import CONLLU_SUFFIXES, as_column, read_tagged
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.reading.lines import format_suffix
from bert_lightning.data.reading.tables import Row, column
from bert_lightning.data.reading.values import as_text
from bert_lightning.errors import InputError
from bert_lightning.metrics.classification import ClassificationReport, classification_report, confusion_matrix
from bert_lightning.metrics.entities import EntityScores, conlleval_report, score_entities
from bert_lightning.metrics.entity_errors import EntityErrors, entity_errors
from bert_lightning.metrics.spans import Span, spans_of
from bert_lightning.model import BertConfig, BertForTokenClassification
from bert_lightning.model.layers.crf import LinearChainCRF
from bert_lightning.model.losses import IGNORED, summed_losses
from bert_lightning.tasks.distributions import Distribution, one_of
from bert_lightning.tasks.explained import Explained
from bert_lightning.tasks.fine_tuning.report import Report
from bert_lightning.tasks.fine_tuning.splits import Subset
from bert_lightning.tasks.fine_tuning.task import FineTuningTask
from bert_lightning.tasks.task import Optimization
from bert_lightning.tasks.token_classification.data import EncodedWords, labels_mark_spans
from bert_lightning.tasks.token_classification.explained import explained_tags
from bert_lightning.tasks.token_classification.settings import TokenClassificationData
from bert_lightning.tasks.token_classification.tag_schemes import convert
from bert_lightning.text.wordpiece import WordPieceTokenizer

# Sentences that the CRF decodes at once.
_DECODING_BATCH_SIZE = 256
_MAX_REPORTED_ERRORS = 300
WordScores = NDArray[np.float32]
"""(words, L) the scores of the words of a window or a sentence."""
COLUMN_SUFFIXES = (".conll", *CONLLU_SUFFIXES, ".bio", ".iob", ".iob2")


class TokenClassificationTask(FineTuningTask[EncodedWords, WordScores, Tensor]):
    """Token classification by the first piece of each word (paper section 5.3).

    The loss is a cross-entropy or another `loss` over tags, or the likelihood of a linear-chain CRF. Tags of spans
    are converted to IOB2 from any scheme, and scored as conlleval does. The windows of a long sentence are joined
    before a CRF decodes it.

    Attributes:
        labels: tags in id order.
        spans: whether they mark spans.
    """

    name = "token-classification"
    model: BertForTokenClassification
    settings: TokenClassificationData

    def __init__(
        self,
        model: BertForTokenClassification,
        config: BertConfig,
        tokenizer: WordPieceTokenizer,
        settings: TokenClassificationData,
        labels: Sequence[str],
        *,
        optimization: Optimization | None = None,
    ) -> None:
        super().__init__(model, config, tokenizer, settings, optimization=optimization)
        self.labels = list(labels)
        self.spans = labels_mark_spans(self.labels, settings)
        names = ("entity_f1", "entity_precision", "entity_recall", "accuracy")
        self.validation_metrics = ("loss", *(names if self.spans else ("accuracy", "macro_f1")))
        self.monitor = f"val/{self.validation_metrics[1]}"
        self.monitor_mode = "max"
        self.loss_names = ("loss", "accuracy")
        self.progress_scores = (("train/accuracy", "accuracy", ".1%"),)
        self.loss_obstacle = "model.head.crf has the likelihood of whole sentences as its loss" if model.crf else None

    @property
    def task_settings(self) -> dict[str, object]:
        """The labels, the scheme of a CRF, and the settings that encode examples."""
        return {**self.model.head_settings, **super().task_settings}

    def counts(self, batch: Batch) -> Tensor:
        """Count labelled pieces, once for the loss and once for the accuracy."""
        return (batch["labels"] != IGNORED).sum().expand(2)

    def compute(self, batch: Batch) -> Tensor:
        """Return the scores (B, W, L) at the pieces of the words."""
        scores = self.model(batch["input_ids"], batch["token_type_ids"], batch["attention_mask"]).float()
        return scores.gather(1, batch["positions"][:, :, None].expand(-1, -1, scores.shape[2]))

    def sums_of(self, computed: Tensor, batch: Batch) -> Tensor:
        """Sum the loss, and count the pieces whose likeliest tag is right. The accuracy ignores the CRF."""
        labels = batch["labels"]
        if self.model.crf is not None:
            loss = -self.model.crf.log_likelihood(computed, labels, labels != IGNORED).sum()
        else:
            loss = summed_losses(self.loss, computed.flatten(0, 1), labels.flatten())
        right = (computed.detach().argmax(-1) == labels).sum()
        return torch.stack([loss, right.to(loss.dtype)])

    @property
    def distribution_names(self) -> Sequence[str]:
        """The loss. A CRF has none: it scores whole sequences of tags."""
        return ("loss",) if self.model.crf is None else ()

    def distribution_counts(self, batch: Batch) -> Tensor:
        """Return (1,) the number of labelled pieces."""
        return self.counts(batch)[:1]

    def distributions(self, computed: Tensor, batch: Batch) -> list[Distribution]:
        """Return the probabilities of the tags at the labelled pieces."""
        return [one_of(computed, counted=batch["labels"] != IGNORED)]

    def outputs_of(self, computed: Tensor, batch: Batch) -> list[WordScores]:
        """Return the scores (words, L) of each window's words."""
        scores, mask = computed.cpu().numpy(), batch["word_mask"].cpu().numpy()
        return [of_window[valid] for of_window, valid in zip(scores, mask, strict=True)]

    # -- tags ----------------------------------------------------------------------------------------------------

    def tags(self, split: EncodedWords, outputs: list[WordScores]) -> list[list[str]]:
        """Return the predicted tags of each sentence; tags of spans in IOB2."""
        tags = [[self.labels[number] for number in sentence] for sentence in self.tag_ids(split, outputs)]
        return [convert(sentence, "IOB2") for sentence in tags] if self.spans else tags

    def tag_ids(self, split: EncodedWords, outputs: list[WordScores]) -> list[NDArray[np.int64]]:
        """Return the ids (words,) of the predicted tags of each sentence."""
        windows: list[list[WordScores]] = [[] for _ in split.examples]
        for window, scores in zip(split.windows, outputs, strict=True):
            windows[window.sentence].append(scores)
        sentences = [np.concatenate(each) for each in windows]
        crf = self.model.crf
        return [scores.argmax(-1) for scores in sentences] if crf is None else self._decode(crf, sentences)

    def _decode(self, crf: LinearChainCRF, sentences: list[WordScores]) -> list[NDArray[np.int64]]:
        """Return the likeliest tags of each sentence, from its scores (words, L)."""
        decoded: dict[int, NDArray[np.int64]] = {}
        by_length = np.argsort([len(sentence) for sentence in sentences], kind="stable").tolist()
        for start in range(0, len(by_length), _DECODING_BATCH_SIZE):
            numbers = by_length[start : start + _DECODING_BATCH_SIZE]
            width = max(1, *(len(sentences[number]) for number in numbers))
            emissions = np.zeros((len(numbers), width, len(self.labels)), dtype=np.float32)
            mask = np.zeros((len(numbers), width), dtype=bool)
            for i, number in enumerate(numbers):
                emissions[i, : len(sentences[number])] = sentences[number]
                mask[i, : len(sentences[number])] = True
            inputs = torch.from_numpy(emissions), torch.from_numpy(mask)
            tags = crf.decode(*move_data_to_device(inputs, self.device)).cpu().numpy()
            decoded.update((number, tags[i, mask[i]]) for i, number in enumerate(numbers))
        return [decoded[number] for number in range(len(sentences))]

    def _gold(self, split: EncodedWords) -> list[list[str]]:
        tags = [example.tags or [] for example in split.examples]
        return [convert(each, "IOB2") for each in tags] if self.spans else tags

    # -- scores --------------------------------------------------------------------------------------------------

    def scores(self, split: EncodedWords, outputs: list[WordScores], subset: Subset) -> dict[str, float]:
        """Score spans by F1, precision and recall (micro averages of conlleval), and tags by accuracy.

        Plain labels are scored by accuracy and macro F1.
        """
        inside = subset.examples
        gold, predicted = self._gold(split)[inside], self.tags(split, outputs)[inside]
        if self.spans:
            result = score_entities(gold, predicted)
            return {
                "entity_f1": result.overall.f1,
                "entity_precision": result.overall.precision,
                "entity_recall": result.overall.recall,
                "accuracy": result.accuracy,
            }
        report, _, _ = self._label_report(gold, predicted)
        return {"accuracy": report.accuracy, "macro_f1": report.macro.f1}

    def _label_report(
        self, gold: list[list[str]], predicted: list[list[str]]
    ) -> tuple[ClassificationReport, list[str], NDArray[np.int64]]:
        """Report on plain labels, those of training and of the gold.

        Returns:
            The report, the names of the labels, and their confusion matrix.
        """
        names = sorted({*self.labels, *(tag for tags in gold for tag in tags)})
        ids = {name: number for number, name in enumerate(names)}
        gold_ids, predicted_ids = (
            np.array([ids[tag] for tags in side for tag in tags], dtype=np.int64) for side in (gold, predicted)
        )
        confusion = confusion_matrix(gold_ids, predicted_ids, len(names))
        return classification_report(confusion, names), names, confusion

    def report(self, split: EncodedWords, outputs: list[WordScores]) -> Report:
        """Report spans by conlleval's table and errors by kind, and plain labels by scores and confusion matrix."""
        gold, predicted = self._gold(split), self.tags(split, outputs)
        if self.spans:
            return _span_report(score_entities(gold, predicted), entity_errors(gold, predicted), split.examples)
        report, names, confusion = self._label_report(gold, predicted)
        rows = [[name, *score] for name, score in report.per_label.items()]
        columns = ["tag", "precision", "recall", "f1", "support"]
        return Report("\n".join(report.lines()), {"tags": (columns, rows)}, (names, confusion))

    # -- predictions ---------------------------------------------------------------------------------------------

    def predictions(self, split: EncodedWords, outputs: list[WordScores]) -> list[dict[str, object]]:
        """Return words, tags, and the spans that they mark: word numbers (end excluded) and the text of the words."""
        rows = []
        for example, tags in zip(split.examples, self.tags(split, outputs), strict=True):
            row: dict[str, object] = {"tokens": example.words, "tags": tags}
            if self.spans:
                row["entities"] = [
                    {"type": s.type, "start": s.start, "end": s.end, "text": " ".join(example.words[s.start : s.end])}
                    for s in spans_of(tags)
                ]
            if example.tags is not None:
                row["gold"] = convert(example.tags, "IOB2") if self.spans else list(example.tags)
            rows.append(row)
        return rows

    def files(self, split: EncodedWords, outputs: list[WordScores]) -> dict[str, str]:
        """Return columns that conlleval reads: word, gold tag if there is one, predicted tag; blanks become _."""
        gold = self._gold(split) if split.is_labelled else None
        lines: list[str] = []
        for number, (example, tags) in enumerate(zip(split.examples, self.tags(split, outputs), strict=True)):
            columns = [example.words, gold[number], tags] if gold is not None else [example.words, tags]
            lines += [" ".join(map(as_column, row)) for row in zip(*columns, strict=True)]
            lines.append("")
        return {"predictions.conll": "\n".join(lines) + "\n"}

    def read_raw(self, source: str) -> Iterator[Row] | None:
        """Read a column file, one word per line; return None for other files."""
        if format_suffix(source) not in COLUMN_SUFFIXES:
            return None
        return (
            Row(sentence.location, {"tokens": sentence.words, "document": sentence.document})
            for sentence in read_tagged(source, self.settings.token_column, self.settings.tag_column)
        )

    def example_of(self, row: Row) -> TaggedSentence:
        """Read a row with `tokens`, or with a `text` that is split into words and punctuation marks as in BERT."""
        words = row.values.get("tokens")
        if words is None:
            split = self.tokenizer.backend.pre_tokenizer.pre_tokenize_str(column(row, "text"))
            words = [word for word, _ in split]
        elif not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise InputError(f"{row.location}: tokens is {words!r}; a list of words is expected")
        else:
            words = [as_text(row.location, "a word of tokens", word) for word in words]
        document = row.values.get("document", 0)
        if not isinstance(document, int):
            raise InputError(f"{row.location}: document is {document!r}; a number is expected")
        return TaggedSentence(row.location, words, None, document)

    def explained(self, row: Row, target: str | None) -> list[Explained]:
        """Return the tags of each predicted entity, or the tag of a word."""
        return explained_tags(self, self.example_of(row), target)

    def encode(self, examples: list[TaggedSentence]) -> EncodedWords:
        return EncodedWords(examples, self.tokenizer, self.settings, self.labels, spans=self.spans)


def _span_report(scores: EntityScores, errors: EntityErrors, examples: Sequence[TaggedSentence]) -> Report:
    counts = errors.counts
    lines = [conlleval_report(scores).rstrip("\n"), ""]
    lines += [f"{kind:>9} {number:6,}" for kind, number in counts.items()]
    wrong = []
    for kind, cases in vars(errors).items():
        for case in cases if kind != "correct" else ():
            example = examples[case.sentence]
            wrong.append(
                [kind, *(_shown(example.words, span) for span in (case.gold, case.predicted)), example.location]
            )
    kinds = [[kind, number] for kind, number in counts.items()]
    types = [[name, s.precision, s.recall, s.f1, s.num_gold] for name, s in scores.per_type.items()]
    return Report(
        "\n".join(lines),
        {
            "entities": (["type", "precision", "recall", "f1", "support"], types),
            "errors by kind": (["kind", "number"], kinds),
            "errors": (["kind", "gold", "predicted", "location"], wrong[:_MAX_REPORTED_ERRORS]),
        },
    )


def _shown(words: Sequence[str], span: Span | None) -> str:
    return f"{' '.join(words[span.start : span.end])} [{span.type}]" if span is not None else ""
