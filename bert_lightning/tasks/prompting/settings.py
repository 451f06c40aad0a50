"""Settings of the cloze task."""

from dataclasses import dataclass, field, replace
from typing import Self

from bert_lightning.checks import RefusedValue, require_at_least
from bert_lightning.tasks.prompting.patterns import Pattern, read_pattern
from bert_lightning.tasks.text_classification.settings import TextClassificationData

# LM-BFF's patterns for single sentences and for pairs; Gao et al. 2021, arXiv 2012.15723, table 1.
_PATTERN, _PAIR_PATTERN = "{text} It was {mask}.", "{text:open}? {mask}, {text_pair}"


@dataclass(frozen=True)
class ClozeData(TextClassificationData):
    """Data of the cloze task: labelled texts as in text classification, a pattern, and words for the labels.

    Attributes:
        pattern: the text that the model reads, with the columns and one `{mask}` in braces; ` || ` begins a second
            segment. By default `{text} It was {mask}.`, for pairs `{text:open}? {mask}, {text_pair}`.
        verbalizer: label -> the word or words that stand for it, such as {positive: great}. A label without an entry
            stands for itself.
        calibration: texts without content, such as ["N/A", "[MASK]", ""]. In scores and predictions, the
            probabilities are divided by those of these texts.
        demonstrations: append a training example of each class, with its answer, to each text (LM-BFF).
        demonstration_draws: in evaluation and prediction, average the scores over this many draws of demonstrations.
            The model reads the text once per draw; the paper takes 16.
    """

    pattern: str | None = None
    verbalizer: dict[str, str | list[str]] = field(default_factory=dict)
    calibration: list[str] | None = None
    demonstrations: bool = False
    demonstration_draws: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind != "single-label":
            raise ValueError(
                f"problem is {self.kind}: the words of a cloze exclude each other, so it must be single-label"
            )
        for label, words in self.verbalizer.items():
            check_words(label, words)
        if self.calibration is not None and not self.calibration:
            raise RefusedValue("calibration", self.calibration, 'have texts, such as ["N/A", "[MASK]", ""]')
        if self.demonstrations and (self.examples_per_class or 0) < 2:
            raise ValueError(
                "demonstrations are few examples that a checkpoint keeps: set data.examples_per_class to 2 or more"
            )
        require_at_least(self, 1, "demonstration_draws")
        if self.demonstration_draws > 1 and not self.demonstrations:
            raise ValueError("demonstration_draws does nothing without data.demonstrations")
        if self.demonstrations and self.calibration is not None:
            raise ValueError("calibration is not defined with data.demonstrations: use one of them")
        if self.label_prefix:
            raise ValueError(
                "label_prefix tells apart labels of several data sets, which one verbalizer cannot answer"
            )
        # Reading the pattern checks it.
        _ = self.cloze

    @property
    def cloze(self) -> Pattern:
        """The pattern with its parts.

        Raises:
            ValueError: the pattern cannot be used.
        """
        default = _PAIR_PATTERN if self.is_pair else _PATTERN
        second = [self.text_pair_column or "text_pair"] if self.is_pair else []
        return read_pattern(self.pattern if self.pattern is not None else default, [self.text_column, *second])

    @property
    def num_segments(self) -> int:
        """The number of token types; demonstrations are in the second segment."""
        return 2 if self.cloze.is_pair or self.demonstrations else 1

    def room(self, num_labels: int) -> tuple[int, int]:
        """Return the most tokens of the text that is asked about, and of each demonstration with its [SEP]."""
        each = self.max_seq_length // (num_labels + 1) if self.demonstrations else 0
        return self.max_seq_length - num_labels * each, each

    def answers_of(self, label: str) -> list[str]:
        """Return the words that stand for a label."""
        words = self.verbalizer.get(label, label)
        return [words] if isinstance(words, str) else list(words)

    def without_dataset(self) -> Self:
        """Return the settings with the data set's properties and labels, and with the pattern as it is."""
        labels = self.labels
        if labels is None and self.standard is not None and self.standard.labels is not None:
            labels = list(self.standard.labels)
        return replace(super().without_dataset(), labels=labels)


def check_words(label: str, words: object) -> None:
    """Check the answers of one label.

    Raises:
        ValueError: they are neither a word nor a list of words.
    """
    if isinstance(words, bool) or (isinstance(words, list) and any(isinstance(word, bool) for word in words)):
        raise ValueError(
            f"verbalizer.{label} is {words}; YAML reads yes, no, on and off without quotes as truth values: put "
            "quotes around the word"
        )
    known = words if isinstance(words, list) else [words]
    if not known or not all(isinstance(word, str) and word.strip() for word in known):
        raise ValueError(f"verbalizer.{label} is {words!r}; it must be a word, or a list of words")
