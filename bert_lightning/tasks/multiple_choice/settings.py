"""Settings of multiple choice."""

from dataclasses import dataclass
from typing import ClassVar

from bert_lightning.tasks.fine_tuning.settings import FineTuningData


@dataclass(frozen=True)
class MultipleChoiceData(FineTuningData):
    """Data of multiple choice.

    Sources are SWAG tables, DREAM and RACE files, or tables with `context`, `question`, `choices` and `label`.
    """

    task: ClassVar[str] = "multiple-choice"
    # [CLS], two [SEP] and one piece of the context and of the choice.
    shortest: ClassVar[int] = 5

    @property
    def is_pair(self) -> bool:
        """True, because a sequence holds a context and a choice."""
        return True
