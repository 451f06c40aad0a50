"""Settings of relation classification."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from bert_lightning.tasks.fine_tuning.settings import FineTuningData


@dataclass(frozen=True)
class RelationClassificationData(FineTuningData):
    """Data of relation classification.

    Sources are files of SemEval-2010 task 8, JSONL in TACRED's format, or tables whose text holds <e1> </e1> and
    <e2> </e2>.

    Attributes:
        text_column: column of the text in tables; by default `text` or `sentence`.
        label_column: column of the relation in tables; by default `label` or `relation`.
        negative_label: the label for "no relation", which the F1 scores leave out, such as `no_relation`; by default
            that of the standard data set.
    """

    task: ClassVar[str] = "relation-classification"
    # [CLS], [SEP], four markers and one piece of each entity.
    shortest: ClassVar[int] = 8

    text_column: str | None = None
    label_column: str | None = None
    negative_label: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_with_dataset("text_column", "label_column")

    @property
    def negative(self) -> str | None:
        """The label for "no relation"."""
        standard = self.standard
        return self.negative_label or (standard.negative_label if standard is not None else None)

    def without_dataset(self) -> Self:
        """Return the settings with the data set's label for "no relation"."""
        return replace(self, dataset=None, folder=None, negative_label=self.negative)
