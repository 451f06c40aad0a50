"""Settings of the data of question answering."""

from dataclasses import dataclass
from typing import ClassVar

from bert_lightning.checks import require_at_least
from bert_lightning.tasks.fine_tuning.settings import FineTuningData, HeadSettings


@dataclass(frozen=True)
class QuestionAnsweringData(FineTuningData):
    """Data of question answering. Defaults are those of `run_squad.py`.

    Sources are files in SQuAD's format, v1.1 or v2.0, or tables with the same keys.

    Attributes:
        max_seq_length: longest sequence: question, window of the text, special tokens.
        max_question_length: word pieces of a question; longer ones are cut.
        doc_stride: word pieces from the start of a window to that of the next, as in `run_squad.py`; 128 unless set.
        doc_overlap: word pieces that two windows have in common, which transformers calls stride; instead of
            `doc_stride`.
        no_answer: whether questions may have no answer. With null, the training file decides.
        n_best_size: how many starts, and ends, of a window are combined, and how many answers are written.
        max_answer_length: word pieces of the longest answer.
        null_threshold: a question gets no answer if the score of "no answer" exceeds that of the best answer by more
            than this. With `model.head.answerability`, the score of that head alone must exceed it. Null means the
            best threshold of the last validation.
    """

    task: ClassVar[str] = "question-answering"
    shortest: ClassVar[int] = 8

    max_seq_length: int = 384
    max_question_length: int = 64
    doc_stride: int | None = None
    doc_overlap: int | None = None
    no_answer: bool | None = None
    n_best_size: int = 20
    max_answer_length: int = 30
    null_threshold: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "max_question_length", "doc_stride", "n_best_size", "max_answer_length")
        require_at_least(self, 0, "doc_overlap")
        if self.doc_stride is not None and self.doc_overlap is not None:
            raise ValueError("doc_stride and data.doc_overlap are two ways to set the same thing: set one of them")
        if self.max_question_length > self.max_seq_length - 4:
            raise ValueError(
                f"max_question_length is {self.max_question_length}; with max_seq_length {self.max_seq_length} it "
                f"must be at most {self.max_seq_length - 4}, so that a piece of the text has room"
            )
        room = self.max_seq_length - self.max_question_length - 3
        if self.doc_overlap is not None and self.doc_overlap >= room:
            raise ValueError(
                f"doc_overlap is {self.doc_overlap}; it must be less than {room}, the room of a window beside the "
                "longest question"
            )

    @property
    def is_pair(self) -> bool:
        """True, because a sequence holds a question and its context."""
        return True

    def window_distance(self, room: int) -> int:
        """Return the number of word pieces between the starts of two windows that hold `room` pieces each."""
        return room - self.doc_overlap if self.doc_overlap is not None else min(room, self.doc_stride or 128)


@dataclass(frozen=True)
class QuestionAnsweringHead(HeadSettings):
    """Head of question answering.

    Attributes:
        answerability: predict whether a question has an answer with a second linear layer.
    """

    answerability: bool = False
