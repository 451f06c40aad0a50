"""The data of question answering: questions whose answers are spans of a text, with windows over long texts."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.datasets.examples import Answer, Question
from bert_lightning.data.datasets.readers.questions import read_questions
from bert_lightning.data.loading.batching import Batch, assemble, to_batch
from bert_lightning.data.loading.module import EvaluationSplit, TrainingLength
from bert_lightning.errors import InputError
from bert_lightning.tasks.fine_tuning.data import FineTuningDataModule
from bert_lightning.tasks.fine_tuning.splits import EncodedSplit, SplitExamples, Subset
from bert_lightning.tasks.question_answering.settings import QuestionAnsweringData
from bert_lightning.text.wordpiece import WordPieceTokenizer
from bert_lightning.wording import count

log = logging.getLogger(__name__)
# run_squad.py: the weight of a window's length in the score that decides which window has most context for a piece.
_LENGTH_WEIGHT = 0.01


class Context(NamedTuple):
    """An encoded text, shared by its questions.

    Attributes:
        pieces: ids.
        offsets: (pieces, 2) first character of each piece, and the first one after it.
    """

    pieces: list[int]
    offsets: NDArray[np.int64]


class Window(NamedTuple):
    """A window of the context of a question.

    Attributes:
        example: number of the question.
        start: its first piece in the context.
        length: in pieces.
    """

    example: int
    start: int
    length: int

    @property
    def stop(self) -> int:
        """The first piece of the context after the window."""
        return self.start + self.length


class EncodedQuestions(EncodedSplit[Question]):
    """Questions, encoded into windows.

    A batch holds `input_ids`, `token_type_ids`, `attention_mask` (B, S) and `numbers` (B,). For training it also
    holds `start_positions` and `end_positions` (B,). They are 0, which is [CLS], if the window does not hold the
    whole answer.

    Attributes:
        questions: the pieces of each question.
        contexts: the context of each question.
        targets: first and last piece of each answer in its context; None if there is none to train on.
        windows: the windows of all questions, in order.
        firsts: (questions + 1,) number of the first window of each question, and the number of all windows.
    """

    def __init__(
        self,
        examples: Sequence[Question],
        tokenizer: WordPieceTokenizer,
        settings: QuestionAnsweringData,
        subsets: Sequence[Subset] | None = None,
        training: bool = False,
        labelled: bool = True,
    ) -> None:
        super().__init__(examples, subsets)
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
    def owners(self) -> NDArray[np.int64]:
        """(windows,) the number of the question of each window."""
        return np.array([window.example for window in self.windows], dtype=np.int64)

    def part(self, numbers: NDArray[np.int64]) -> Self:
        part, chosen = super().part(numbers), numbers.tolist()
        part.questions = [self.questions[number] for number in chosen]
        part.contexts = [self.contexts[number] for number in chosen]
        part.targets = [self.targets[number] for number in chosen]
        part.windows = [
            window._replace(example=new)
            for new, number in enumerate(chosen)
            for window in self.windows[self.firsts[number] : self.firsts[number + 1]]
        ]
        part.firsts = np.searchsorted(part.owners, np.arange(len(chosen) + 1))
        return part

    @property
    def is_labelled(self) -> bool:
        """Whether the examples have gold answers."""
        return self._labelled

    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        tokenizer, windows = self.tokenizer, [self.windows[number] for number in numbers]
        arrays = assemble(
            [self.questions[window.example] for window in windows],
            [self.contexts[window.example].pieces[window.start : window.stop] for window in windows],
            tokenizer.cls_id,
            tokenizer.sep_id,
            tokenizer.pad_id,
            self.settings.max_seq_length,
        )
        labels = {}
        if self.training:
            positions = np.array([self._positions(window) for window in windows], dtype=np.int64).reshape(-1, 2)
            labels = {"start_positions": positions[:, 0].copy(), "end_positions": positions[:, 1].copy()}
        return to_batch(*arrays, numbers=numbers, **labels)

    def text_position(self, window: Window) -> int:
        """Return the position at which the text begins: after [CLS], the question and [SEP]."""
        return len(self.questions[window.example]) + 2

    def max_context(self, example: int) -> list[NDArray[np.bool_]]:
        """Return a mask (length,) for each window of an example, True at the pieces that have most context in it.

        A piece has most context in the window with the largest min(left, right) + 0.01 * length. There, left and
        right are the numbers of pieces on its two sides. In a tie, the first window counts. The rule is that of
        `run_squad.py: _check_is_max_context`.
        """
        windows = self.windows[self.firsts[example] : self.firsts[example + 1]]
        best, owner = np.full(windows[-1].stop, -np.inf), np.full(windows[-1].stop, -1)
        for number, window in enumerate(windows):
            left = np.arange(window.length)
            score = np.minimum(left, window.length - 1 - left) + _LENGTH_WEIGHT * window.length
            inside = slice(window.start, window.stop)
            is_better = score > best[inside]
            best[inside][is_better] = score[is_better]
            owner[inside][is_better] = number
        return [owner[window.start : window.stop] == number for number, window in enumerate(windows)]

    def _windows(self, number: int) -> Iterator[Window]:
        """Cut a context into windows at equal distances; `run_squad.py: convert_examples_to_features`."""
        total = len(self.contexts[number].pieces)
        room = self.settings.max_seq_length - len(self.questions[number]) - 3
        start = 0
        while True:
            window = Window(number, start, min(total - start, room))
            yield window
            if window.stop == total:
                return
            start += self.settings.window_distance(room)

    def _target(self, number: int) -> tuple[int, int] | None:
        """Return the first and last piece of the first gold answer; None without an answer or outside training."""
        example = self.examples[number]
        if not self.training or not example.answers:
            return None
        begin, end = answer_range(example.context, example.answers[0])
        offsets = self.contexts[number].offsets
        # Pieces with at least one character of the answer.
        pieces = np.flatnonzero((offsets[:, 1] > begin) & (offsets[:, 0] < end))
        return (int(pieces[0]), int(pieces[-1])) if len(pieces) else None

    def _positions(self, window: Window) -> tuple[int, int]:
        """Return the positions of the first and last piece of the answer; 0 if the window does not hold them both."""
        target = self.targets[window.example]
        if target is None or target[0] < window.start or target[1] >= window.stop:
            return 0, 0
        shift = self.text_position(window) - window.start
        return target[0] + shift, target[1] + shift


def _encode_contexts(texts: Sequence[str], tokenizer: WordPieceTokenizer) -> list[Context]:
    distinct = list(dict.fromkeys(texts))
    encodings = tokenizer.backend.encode_batch(distinct, add_special_tokens=False)
    contexts = {
        text: Context(encoding.ids, np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2))
        for text, encoding in zip(distinct, encodings, strict=True)
    }
    return [contexts[text] for text in texts]


def answer_range(context: str, answer: Answer) -> tuple[int, int]:
    """Return the range of an answer in characters: its first one, and the first one after it.

    If the answer's text is not at `answer.start`, the nearest occurrence of the text counts. If it does not occur,
    the result is (-1, -1).

    >>> answer_range("the cat sees a cat", Answer("cat", 14))
    (15, 18)
    """
    text = answer.text.strip()
    if not text:
        return -1, -1
    start = answer.start + len(answer.text) - len(answer.text.lstrip())
    if start < 0 or context[start : start + len(text)] != text:
        occurrences = list(_occurrences(context, text))
        if not occurrences:
            return -1, -1
        start = min(occurrences, key=lambda each: abs(each - answer.start))
    return start, start + len(text)


def _occurrences(context: str, text: str) -> Iterator[int]:
    start = context.find(text)
    while start >= 0:
        yield start
        start = context.find(text, start + 1)


class QuestionAnsweringDataModule(FineTuningDataModule[Question, EncodedQuestions]):
    """Data module of questions with windows of their contexts.

    Attributes:
        no_answer: whether questions may have no answer.
        null_threshold: None, because only a validation finds the best threshold.

    Raises:
        InputError: a file is missing or empty, or no training question has an answer that is in its text.
    """

    settings: QuestionAnsweringData
    null_threshold: float | None = None

    def __init__(
        self,
        settings: QuestionAnsweringData,
        tokenizer: WordPieceTokenizer,
        *,
        no_answer: bool | None = None,
        split: EvaluationSplit | None = None,
        length: TrainingLength | None = None,
    ) -> None:
        super().__init__(settings, tokenizer, length)
        read = self._read(split)
        # In this order: the value of a saved model, of the settings, or of the training file.
        self.no_answer = settings.no_answer if no_answer is None else no_answer
        if self.no_answer is None:
            self.no_answer = any(question.is_impossible for question in next(iter(read.values())).examples)
        self.splits |= {name: self._encode(name, each) for name, each in read.items()}

    def _encode(self, split: str, read: SplitExamples[Question]) -> EncodedQuestions:
        examples, subsets, source = read
        training = split == "train"
        labelled = split != "test" or any(example.answers or example.is_impossible for example in examples)
        if training:
            examples = self._trainable(examples, source)
            subsets = [Subset("", 0, len(examples))]
        elif labelled and not self.no_answer:
            unanswered = next((example for example in examples if not example.answers), None)
            if unanswered is not None:
                raise InputError(
                    f"{unanswered.location}: this question has no answer, and the model always gives one: "
                    "data.no_answer is false, or was when it was trained"
                )
        return EncodedQuestions(examples, self.tokenizer, self.settings, subsets, training, labelled)

    def _read_custom(self, source: str, split: str) -> Iterator[Question]:
        return read_questions(source, None if split == "test" else True)

    def _trainable(self, examples: Sequence[Question], source: str) -> list[Question]:
        """Return the questions to train on, as in `run_squad.py`; warn about the others.

        Questions whose answer is not in their text are left out. Questions without an answer are also left out,
        unless `no_answer` is true.
        """
        kept: list[Question] = []
        left_out: list[Question] = []
        num_moved = 0
        for example in examples:
            if not example.answers:
                (kept if self.no_answer else left_out).append(example)
                continue
            answer = example.answers[0]
            begin, _ = answer_range(example.context, answer)
            if begin < 0:
                left_out.append(example)
            else:
                num_moved += example.context[answer.start : answer.start + len(answer.text)] != answer.text
                kept.append(example)
        if left_out:
            log.warning(
                "%s: the text does not contain an answer; left out of training: %s like this",
                left_out[0].location, count(len(left_out), "question"),
            )  # fmt: skip
        if num_moved:
            log.warning("%s: not at their answer_start in the text: %s", source, count(num_moved, "answer"))
        if not kept:
            raise InputError(f"{source}: no question has an answer that is in its text")
        return kept
