"""A tag for each word: named entities, parts of speech, chunks; by a softmax a word, or a CRF over the sentence."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from torch import Tensor

from bert_lightning.data.datasets.examples import TaggedSentence
from bert_lightning.data.datasets.readers.tagged import as_column, read_tagged
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.reading.lines import format_suffix
from bert_lightning.data.reading.tables import Row, column
from bert_lightning.data.reading.values import as_text
from bert_lightning.errors import InputError
from bert_lightning.metrics.classification import classification_report, confusion_matrix
from bert_lightning.metrics.entities import conlleval_report, entity_errors, score_entities, spans_of
from bert_lightning.model import BertConfig, BertForTokenClassification
from bert_lightning.model.losses import IGNORED
from bert_lightning.tasks.fine_tuning.data import Part
from bert_lightning.tasks.fine_tuning.task import FineTuningTask, Report
from bert_lightning.tasks.token_classification.data import EncodedWords, TokenClassificationData, labels_mark_spans
from bert_lightning.tasks.token_classification.tag_schemes import convert
from bert_lightning.text.wordpiece import WordPieceTokenizer

# Sentences decoded at once by the CRF.
_DECODED_TOGETHER = 256
_SHOWN_ERRORS = 30
COLUMN_SUFFIXES = (".conll", ".conllu", ".bio", ".iob", ".iob2")


class TokenClassificationTask(FineTuningTask):
    """Cross-entropy on the first piece of each word (paper section 5.3), or the likelihood of a linear-chain CRF.

    Tags of spans are scored as conlleval does, over IOB2 whatever the model's own scheme; the windows of a long
    sentence are put together before a CRF decodes it.

    Attributes:
        labels: tags in id order.
        spans: whether they mark spans.
    """

    name = "token-classification"
    model: BertForTokenClassification

    def __init__(
        self,
        model: BertForTokenClassification,
        config: BertConfig,
        tokenizer: WordPieceTokenizer,
        settings: TokenClassificationData,
        labels: Sequence[str],
    ) -> None:
        super().__init__(model, config, tokenizer, settings)
        self.labels = list(labels)
        self.spans = labels_mark_spans(self.labels, settings)
        names = ("entity_f1", "entity_precision", "entity_recall", "accuracy")
        self.validation_metrics = ("loss", *(names if self.spans else ("accuracy", "macro_f1")))
        self.monitor = f"val/{self.validation_metrics[1]}"
        self.monitor_mode = "max"
        self.loss_names = ("loss", "accuracy")
        self.shown = (
            ("train/loss", "loss", ".3f"),
            ("train/accuracy", "accuracy", ".1%"),
            ("train/tokens_per_second", "tok/s", ",.0f"),
            ("train/mfu", "MFU", ".0%"),
        )

    @property
    def task_settings(self) -> dict[str, Any]:
        """Labels, the scheme that a CRF keeps to, and how examples become features."""
        return {**self.model.head_settings, **super().task_settings}

    def counts(self, batch: Batch) -> Tensor:
        """Labelled pieces, for the loss and the accuracy."""
        return (batch["labels"] != IGNORED).sum().expand(2)

    def compute(self, batch: Batch) -> Tensor:
        """(B, W, L) scores at the words' pieces."""
        scores = self.model(batch["input_ids"], batch["token_type_ids"], batch["attention_mask"]).float()
        return scores.gather(1, batch["places"][:, :, None].expand(-1, -1, scores.shape[2]))

    def sums_of(self, computed: Tensor, batch: Batch) -> Tensor:
        """Loss, and pieces whose likeliest tag, each taken alone, is right."""
        labels = batch["labels"]
        if self.model.crf is not None:
            loss = -self.model.crf.log_likelihood(computed, labels, labels != IGNORED).sum()
        else:
            loss = F.cross_entropy(computed.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        right = (computed.detach().argmax(-1) == labels).sum()
        return torch.stack([loss, right.to(loss.dtype)])

    def outputs_of(self, computed: Tensor, batch: Batch) -> list[Any]:
        """(words, L) scores of each window's words."""
        scores, mask = computed.cpu().numpy(), batch["word_mask"].cpu().numpy()
        return [row[valid] for row, valid in zip(scores, mask, strict=True)]

    # -- tags ----------------------------------------------------------------------------------------------------

    def tags(self, split: Any, outputs: list[Any]) -> list[list[str]]:
        """The predicted tags of each sentence; those of spans in IOB2."""
        scores: list[list[NDArray[np.float32]]] = [[] for _ in split.examples]
        for window, output in zip(split.windows, outputs, strict=True):
            scores[window.sentence].append(output)
        sentences = [np.concatenate(parts) for parts in scores]
        crf = self.model.crf
        ids = self._decoded(sentences) if crf is not None else [sentence.argmax(-1) for sentence in sentences]
        tags = [[self.labels[number] for number in sentence] for sentence in ids]
        return [convert(sentence, "IOB2") for sentence in tags] if self.spans else tags

    def _decoded(self, sentences: list[NDArray[np.float32]]) -> list[NDArray[np.int64]]:
        crf = self.model.crf
        assert crf is not None
        decoded: dict[int, NDArray[np.int64]] = {}
        order = np.argsort([len(sentence) for sentence in sentences], kind="stable")
        for start in range(0, len(order), _DECODED_TOGETHER):
            chosen = order[start : start + _DECODED_TOGETHER]
            width = max(1, *(len(sentences[number]) for number in chosen))
            emissions = np.zeros((len(chosen), width, len(self.labels)), dtype=np.float32)
            mask = np.zeros((len(chosen), width), dtype=bool)
            for row, number in enumerate(chosen):
                emissions[row, : len(sentences[number])] = sentences[number]
                mask[row, : len(sentences[number])] = True
            given = torch.from_numpy(emissions), torch.from_numpy(mask)
            tags = crf.decode(*move_data_to_device(given, self.device))
            for number, row_tags, valid in zip(chosen.tolist(), tags.cpu().numpy(), mask, strict=True):
                decoded[number] = row_tags[valid]
        return [decoded[number] for number in range(len(sentences))]

    def _gold(self, split: Any) -> list[list[str]]:
        return [convert(e.tags, "IOB2") if self.spans else list(e.tags) for e in split.examples]

    # -- scores --------------------------------------------------------------------------------------------------

    def scores(self, split: Any, outputs: list[Any], part: Part) -> dict[str, float]:
        """Spans: micro F1, precision and recall as conlleval has them, and the accuracy of tags."""
        inside = slice(part.start, part.stop)
        gold, predicted = self._gold(split)[inside], self.tags(split, outputs)[inside]
        if self.spans:
            result = score_entities(gold, predicted)
            return {
                "entity_f1": result.overall.f1,
                "entity_precision": result.overall.precision,
                "entity_recall": result.overall.recall,
                "accuracy": result.accuracy,
            }
        report = self._tag_report(gold, predicted)[0]
        return {"accuracy": report.accuracy, "macro_f1": report.macro.f1}

    def _tag_report(self, gold: list[list[str]], predicted: list[list[str]]) -> Any:
        """The report on tags that mark no spans, over those of training and of the gold; names; confusion."""
        names = sorted({*self.labels, *(tag for tags in gold for tag in tags)})
        ids = {name: number for number, name in enumerate(names)}
        wanted, found = (
            np.array([ids[tag] for tags in side for tag in tags], dtype=np.int64) for side in (gold, predicted)
        )
        confusion = confusion_matrix(wanted, found, len(names))
        return classification_report(confusion, names), names, confusion

    def report(self, split: Any, outputs: list[Any]) -> Report:
        """Spans: conlleval's report and the errors by kind; other tags: scores a tag and the confusion matrix."""
        gold, predicted = self._gold(split), self.tags(split, outputs)
        if not self.spans:
            report, names, confusion = self._tag_report(gold, predicted)
            rows = [[name, *score] for name, score in report.per_label.items()]
            columns = ["tag", "precision", "recall", "f1", "support"]
            return Report("\n".join(report.lines()), {"tags": (columns, rows)}, (names, confusion))
        result, errors = score_entities(gold, predicted), entity_errors(gold, predicted)
        counts = errors.counts
        lines = [conlleval_report(result).rstrip("\n"), ""]
        lines += [f"{kind:>9} {number:6,}" for kind, number in counts.items()]
        examples = []
        for kind, cases in vars(errors).items():
            for case in cases if kind != "correct" else ():
                example = split.examples[case.sentence]
                shown = [_shown(example.words, span) for span in (case.gold, case.predicted)]
                examples.append([kind, *shown, example.location])
        kinds = [[kind, number] for kind, number in counts.items()]
        rows = [[name, s.precision, s.recall, s.f1, s.num_gold] for name, s in result.per_type.items()]
        return Report(
            "\n".join(lines),
            {
                "entities": (["type", "precision", "recall", "f1", "support"], rows),
                "errors by kind": (["kind", "number"], kinds),
                "errors": (["kind", "gold", "predicted", "location"], examples[: 10 * _SHOWN_ERRORS]),
            },
        )

    # -- predictions ---------------------------------------------------------------------------------------------

    def predictions(self, split: Any, outputs: list[Any]) -> list[dict[str, Any]]:
        """Words, tags, and the spans that they mark: word numbers (the end not included) and their words."""
        rows = []
        for example, tags in zip(split.examples, self.tags(split, outputs), strict=True):
            row: dict[str, Any] = {"tokens": example.words, "tags": tags}
            if self.spans:
                row["entities"] = [
                    {"type": s.type, "start": s.start, "end": s.end, "text": " ".join(example.words[s.start : s.end])}
                    for s in spans_of(tags)
                ]
            if example.tags is not None:
                row["gold"] = convert(example.tags, "IOB2") if self.spans else list(example.tags)
            rows.append(row)
        return rows

    def files(self, split: Any, outputs: list[Any]) -> dict[str, str]:
        """Return columns that conlleval reads: word, gold tag where there is one, predicted tag; blanks as _."""
        gold = self._gold(split) if split.is_labelled else None
        lines: list[str] = []
        for number, (example, tags) in enumerate(zip(split.examples, self.tags(split, outputs), strict=True)):
            columns = [example.words, gold[number], tags] if gold is not None else [example.words, tags]
            lines += [" ".join(map(as_column, row)) for row in zip(*columns, strict=True)]
            lines.append("")
        return {"predictions.conll": "\n".join(lines) + "\n"}

    def read_raw(self, source: str) -> Iterator[Row] | None:
        """Words of a column file, one a line."""
        if format_suffix(source) not in COLUMN_SUFFIXES:
            return None
        return (
            Row(sentence.location, {"tokens": sentence.words, "document": sentence.document})
            for sentence in read_tagged(source, self.settings.token_column, self.settings.tag_column)
        )

    def example_of(self, row: Row) -> TaggedSentence:
        """A row with `tokens`, or with a `text` whose words and punctuation marks are split as BERT does."""
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

    def encode(self, examples: list[TaggedSentence]) -> EncodedWords:
        """Sentences to features."""
        return EncodedWords(examples, self.tokenizer, self.settings, self.labels, spans=self.spans)


def _shown(words: Sequence[str], span: Any) -> str:
    return f"{' '.join(words[span.start : span.end])} [{span.type}]" if span is not None else ""
