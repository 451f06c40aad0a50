"""Questions on a text, whose answers are spans of it: overlapping windows over texts longer than the model."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checks import require_at_least
from bert_lightning.data.datasets.examples import Answer, Question
from bert_lightning.data.datasets.readers.questions import read_questions
from bert_lightning.data.loading.batching import Batch, assemble, to_batch
from bert_lightning.data.loading.module import EvaluationSplit
from bert_lightning.errors import InputError
from bert_lightning.tasks.fine_tuning.data import EncodedSplit, FineTuningData, FineTuningDataModule, Part
from bert_lightning.text.wordpiece import WordPieceTokenizer

log = logging.getLogger(__name__)
# run_squad.py: the length of a window counts so much beside its poorer side's context.
_LENGTH_WEIGHT = 0.01


@dataclass(frozen=True)
class QuestionAnsweringData(FineTuningData):
    """Files in SQuAD's format, v1.1 or v2.0, or tables of the same keys. Defaults are those of `run_squad.py`.

    Attributes:
        max_seq_length: longest sequence: question, window of the text, special tokens.
        max_question_length: word pieces of a question; longer ones are cut.
        doc_stride: word pieces from the start of a window to that of the next, as in `run_squad.py`.
        doc_overlap: word pieces that two windows have in common, which transformers calls stride; instead of
            `doc_stride`.
        no_answer: whether questions may have no answer; null finds out from the training file.
        n_best_size: how many starts, and ends, of a window are combined, and how many answers are written.
        max_answer_length: word pieces of the longest answer.
        null_threshold: a question is left without an answer where the score of that is more than this above the best
            answer's; null takes the best of the last validation.
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
            raise ValueError("doc_stride and data.doc_overlap say the same in two ways: set one of them")
        if self.max_question_length > self.max_seq_length - 4:
            raise ValueError(
                f"max_question_length is {self.max_question_length}; with max_seq_length {self.max_seq_length} it "
                f"must be at most {self.max_seq_length - 4}, so that a piece of the text has room"
            )
        room = self.max_seq_length - self.max_question_length - 3
        if self.doc_overlap is not None and self.doc_overlap >= room:
            raise ValueError(
                f"doc_overlap is {self.doc_overlap}; beside a long question a window has room for {room}"
            )

    @property
    def is_pair(self) -> bool:
        """Return True: a sequence holds a question and its context."""
        return True

    def step(self, room: int) -> int:
        """Word pieces between the starts of two windows that have room for so many."""
        return room - self.doc_overlap if self.doc_overlap is not None else min(room, self.doc_stride or 128)


class Context(NamedTuple):
    """An encoded text, shared by its questions."""

    pieces: list[int]
    offsets: NDArray[np.int64]
    """(pieces, 2) characters of each piece: start and end"""


class Span(NamedTuple):
    """A window of a text beside a question."""

    example: int
    start: int
    """its first piece in the text"""
    length: int
    """in pieces"""


class EncodedQuestions(EncodedSplit):
    """Questions, encoded into windows.

    A batch holds `input_ids`, `token_type_ids`, `attention_mask` (B, S), `numbers` (B,), and for training
    `start_positions` and `end_positions` (B,), which are 0, [CLS], where the window does not hold the whole answer.
    """

    def __init__(
        self,
        examples: Sequence[Question],
        tokenizer: WordPieceTokenizer,
        settings: QuestionAnsweringData,
        parts: Sequence[Part] | None = None,
        training: bool = False,
        labelled: bool = True,
    ) -> None:
        super().__init__(examples, parts)
        self.settings, self.tokenizer = settings, tokenizer
        self.training, self._labelled = training, labelled
        limit = settings.max_question_length
        self.questions = [ids[:limit] for ids in tokenizer.encode_batch([example.question for example in examples])]
        self.contexts = _encode_contexts([example.context for example in examples], tokenizer)
        self.targets = [self._target(number) for number in range(len(examples))]
        self.windows = [window for number in range(len(examples)) for window in self._windows(number)]
        self.lengths = np.array(
            [len(self.questions[window.example]) + window.length + 3 for window in self.windows], dtype=np.int64
        )
        self.firsts = np.searchsorted([window.example for window in self.windows], np.arange(len(examples) + 1))

    @property
    def is_labelled(self) -> bool:
        """Whether answers are known."""
        return self._labelled

    def batch(self, features: NDArray[np.int64]) -> Batch:
        """Features to tensors."""
        tokenizer, windows = self.tokenizer, [self.windows[number] for number in features]
        arrays = assemble(
            [self.questions[window.example] for window in windows],
            [self.contexts[window.example].pieces[window.start : window.start + window.length] for window in windows],
            tokenizer.cls_id,
            tokenizer.sep_id,
            tokenizer.pad_id,
            self.settings.max_seq_length,
        )
        labels = {}
        if self.training:
            positions = np.array([self._positions(window) for window in windows], dtype=np.int64).reshape(-1, 2)
            labels = {"start_positions": positions[:, 0].copy(), "end_positions": positions[:, 1].copy()}
        return to_batch(*arrays, numbers=features, **labels)

    def first_place(self, window: Span) -> int:
        """Where the text begins in a window's sequence: behind [CLS], the question and [SEP]."""
        return len(self.questions[window.example]) + 2

    def max_context(self, example: int) -> list[NDArray[np.bool_]]:
        """Of each window of an example, (length,) which pieces have most context there.

        The window with the largest min(left, right) + 0.01 * length has a piece; ties go to the first.
        `run_squad.py: _check_is_max_context`.
        """
        windows = self.windows[self.firsts[example] : self.firsts[example + 1]]
        total = windows[-1].start + windows[-1].length
        best, owner = np.full(total, -np.inf), np.full(total, -1)
        for number, window in enumerate(windows):
            left = np.arange(window.length)
            score = np.minimum(left, window.length - 1 - left) + _LENGTH_WEIGHT * window.length
            inside = slice(window.start, window.start + window.length)
            better = score > best[inside]
            best[inside][better] = score[better]
            owner[inside][better] = number
        return [owner[window.start : window.start + window.length] == number for number, window in enumerate(windows)]

    def _windows(self, number: int) -> Iterator[Span]:
        """`run_squad.py: convert_examples_to_features`."""
        total = len(self.contexts[number].pieces)
        room = self.settings.max_seq_length - len(self.questions[number]) - 3
        start = 0
        while True:
            length = min(total - start, room)
            yield Span(number, start, length)
            if start + length == total:
                return
            start += self.settings.step(room)

    def _target(self, number: int) -> tuple[int, int] | None:
        """The first and last piece of the answer that training aims at, the first one; None where there is none."""
        example: Question = self.examples[number]
        if not self.training or not example.answers:
            return None
        begin, end = answer_range(example.context, example.answers[0])
        offsets = self.contexts[number].offsets
        # Pieces that have characters of the answer.
        touched = np.flatnonzero((offsets[:, 1] > begin) & (offsets[:, 0] < end))
        return (int(touched[0]), int(touched[-1])) if len(touched) else None

    def _positions(self, window: Span) -> tuple[int, int]:
        target = self.targets[window.example]
        if target is None or target[0] < window.start or target[1] >= window.start + window.length:
            return 0, 0
        place = self.first_place(window) - window.start
        return target[0] + place, target[1] + place


def _encode_contexts(texts: Sequence[str], tokenizer: WordPieceTokenizer) -> list[Context]:
    distinct = list(dict.fromkeys(texts))
    encodings = tokenizer.backend.encode_batch(distinct, add_special_tokens=False)
    contexts = {
        text: Context(encoding.ids, np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2))
        for text, encoding in zip(distinct, encodings, strict=True)
    }
    return [contexts[text] for text in texts]


def answer_range(context: str, answer: Answer) -> tuple[int, int]:
    """The characters of an answer: where it says, else where its text occurs nearest to that; (-1, -1) nowhere."""
    text = answer.text.strip()
    start = answer.start + len(answer.text) - len(answer.text.lstrip())
    if not text:
        return -1, -1
    if start < 0 or context[start : start + len(text)] != text:
        places = []
        place = context.find(text)
        while place >= 0:
            places.append(place)
            place = context.find(text, place + 1)
        if not places:
            return -1, -1
        start = min(places, key=lambda each: abs(each - answer.start))
    return start, start + len(text)


class QuestionAnsweringDataModule(FineTuningDataModule):
    """Serves windows of texts beside questions.

    Attributes:
        no_answer: whether questions may have no answer.

    Raises:
        InputError: a file is missing or empty, or no training question's answer is in its text.
    """

    def __init__(
        self,
        settings: QuestionAnsweringData,
        tokenizer: WordPieceTokenizer,
        *,
        no_answer: bool | None = None,
        split: EvaluationSplit | None = None,
    ) -> None:
        super().__init__(settings, tokenizer)
        read = self._read(split)
        # A saved model's own, what is set, or what the training file shows.
        self.no_answer = settings.no_answer if no_answer is None else no_answer
        if self.no_answer is None:
            self.no_answer = any(question.is_impossible for question in next(iter(read.values())).examples)
        for name, (examples, parts, source) in read.items():
            training = name == "train"
            labelled = name != "test" or any(example.answers or example.is_impossible for example in examples)
            if training:
                examples = self._trainable(examples, source)
                parts = [Part("", 0, len(examples))]
            elif labelled and not self.no_answer:
                unanswered = next((example for example in examples if not example.answers), None)
                if unanswered is not None:
                    raise InputError(
                        f"{unanswered.location}: this question has no answer, and the model always gives one: "
                        "data.no_answer is false, or was when it was trained"
                    )
            self.splits[name] = EncodedQuestions(examples, tokenizer, settings, parts, training, labelled)

    @property
    def head(self) -> dict[str, Any]:
        """Nothing: starts and ends are the same for all data."""
        return {}

    def _own(self, source: str, split: str) -> Iterator[Question]:
        return read_questions(source, None if split == "test" else True)

    def _trainable(self, examples: Sequence[Question], source: str) -> list[Question]:
        """Questions that can be learnt from: those without an answer fall where every question should have one, and
        those whose answer is not in their text, as in `run_squad.py`.
        """
        kept, lost, moved = [], [], 0
        for example in examples:
            if not example.answers:
                kept += [example] if self.no_answer else []
                lost += [] if self.no_answer else [example]
                continue
            answer = example.answers[0]
            begin, _ = answer_range(example.context, answer)
            if begin < 0:
                lost.append(example)
            else:
                moved += example.context[answer.start : answer.start + len(answer.text)] != answer.text
                kept.append(example)
        if lost:
            log.warning(
                "%s: no answer that is in the text; %d such question(s) in all, left out of training",
                lost[0].location, len(lost),
            )  # fmt: skip
        if moved:
            log.warning("%s: %d answer(s) stand elsewhere than answer_start says", source, moved)
        if not kept:
            raise InputError(f"{source}: no question has an answer that is in its text")
        return kept
