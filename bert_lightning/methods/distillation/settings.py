"""The settings of distillation, and the table of the losses on inner states."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from bert_lightning.checks import (
    RefusedValue,
    refuse_empty_paths,
    refuse_nameless_runs,
    refuse_other_weights,
    require_at_least,
    require_positive,
)
from bert_lightning.methods.distillation.attention import AttentionSettings
from bert_lightning.methods.distillation.hidden import HiddenSettings
from bert_lightning.methods.distillation.relations import RelationSettings
from bert_lightning.methods.distillation.term import TermSettings

TERMS: dict[str, type] = {"hidden": HiddenSettings, "attention": AttentionSettings, "relations": RelationSettings}
"""Key of a loss on inner states -> its settings."""


@dataclass(frozen=True)
class DistillationSettings:
    """Distillation of a teacher's logits (Hinton et al. 2015, arXiv 1503.02531, section 2) and of its inner states.

    The loss is `labels` times the loss on the labels, plus `alpha` T^2 KL(teacher / T || student / T), plus the
    weighted losses of `hidden`, `attention` and `relations`, if they are set.

    Attributes:
        teachers: name -> a run of text classification or of the cloze task, in place of `teacher`. Each reads the
            examples in its own form, with its own vocabulary and pattern, and their logits are averaged (PET).
        teacher_weights: name -> weight of that teacher in the average. PET takes the accuracy of each untrained model
            on the training examples. By default, they count equally.
        unlabelled: a table with the text columns. The student of `teachers` also learns what they say about these
            texts. Each text gets the label that they find likeliest. Where the loss on the labels has no weight, this
            label has none.
        max_samples: how many of the unlabelled texts are read, from the first on; null for all.
        teacher: a checkpoint of the same task, with the same labels and vocabulary. With `alpha: 0`, which compares
            only inner states, it may be any encoder with the same vocabulary. It is a run directory, checkpoint file,
            Hugging Face folder or hub name. Its size does not matter.
        temperature: T, which divides the logits of both.
        alpha: weight of the teacher's logits. If `labels` is null, it is between 0 (only labels) and 1 (only the
            teacher).
        labels: weight of the loss on the labels; null for 1 - `alpha`.
        hidden: a loss on hidden states.
        attention: a loss on attention scores.
        relations: a loss on relations between queries, keys and values.
        cache: a folder that keeps the teacher's logits for the training sequences, so that they are computed once.
    """

    teacher: str | None = None
    temperature: float = 2.0
    alpha: float = 0.5
    labels: float | None = None
    hidden: HiddenSettings | None = None
    attention: AttentionSettings | None = None
    relations: RelationSettings | None = None
    cache: str | None = None
    teachers: dict[str, str] = field(default_factory=dict)
    teacher_weights: dict[str, float] = field(default_factory=dict)
    unlabelled: str | None = None
    max_samples: int | None = None

    def __post_init__(self) -> None:
        self._check_teachers()
        refuse_empty_paths(self, "teacher", "cache", "unlabelled")
        require_at_least(self, 1, "max_samples")
        require_positive(self, "temperature")
        require_at_least(self, 0, "alpha", "labels")
        if self.labels is None and self.alpha > 1:
            raise RefusedValue("alpha", self.alpha, "be between 0 and 1, unless distillation.labels is set")
        if self.labels == 0 and not self.has_effect:
            raise ValueError("labels is 0 and so is alpha, so nothing is left to learn: set one of them, or hidden")
        if not self.has_effect and self.labels not in (None, 1):
            raise ValueError(
                f"labels is {self.labels}, which weighs the labels against the teacher, but with alpha 0 and without "
                "inner states the teacher has no weight: leave distillation.labels out"
            )
        if self.cache is not None:
            self._check_cache()

    def _check_teachers(self) -> None:
        """Check that there is one teacher or a set of them, and that a set is asked for nothing but logits."""
        if (self.teacher is None) == (not self.teachers):
            raise ValueError("teacher or teachers must be set, and not both")
        refuse_other_weights(self, "teacher_weights", "teachers")
        if self.max_samples is not None and self.unlabelled is None:
            raise ValueError("max_samples limits the texts of distillation.unlabelled, which is not set")
        if not self.teachers:
            if self.unlabelled is not None:
                raise ValueError("unlabelled texts are labelled by teachers: set teachers in place of teacher")
            return
        refuse_nameless_runs(self, "teachers")
        for name, _ in self.terms():
            raise ValueError(f"{name} compares inner states with one teacher: set teacher in place of teachers")
        if self.cache is not None:
            raise ValueError("cache keeps the logits of one teacher: leave it out, or set one teacher")
        if not self.alpha:
            raise ValueError("teachers have no effect with alpha 0")

    def _check_cache(self) -> None:
        """Refuse a cache if logits have no weight, or if inner states are compared, which are too large to keep."""
        if not self.alpha:
            raise ValueError("cache keeps the teacher's logits, which alpha 0 does not use")
        for name, _ in self.terms():
            raise ValueError(
                f"cache keeps the teacher's logits alone, but distillation.{name} compares inner states, which are "
                "too large to keep: leave out one of the two"
            )

    def terms(self) -> Iterator[tuple[str, TermSettings]]:
        """Yield key and settings of each loss on inner states that is set."""
        for name in TERMS:
            if (settings := getattr(self, name)) is not None:
                yield name, settings

    @property
    def has_effect(self) -> bool:
        """Whether the teacher has any weight. If not, training equals training on the labels alone, bit for bit."""
        return self.alpha > 0 or any(True for _ in self.terms())

    @property
    def label_weight(self) -> float:
        """The factor on the loss on the labels."""
        return 1 - self.alpha if self.labels is None else self.labels
