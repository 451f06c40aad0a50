"""The score of an answer, or of no answer, as a function of the words of question and context."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from bert_lightning.checks import nearest
from bert_lightning.data.datasets.examples import Question
from bert_lightning.data.loading.batching import Batch
from bert_lightning.errors import InputError
from bert_lightning.tasks.explained import NO_WORD, Explained, Part, readout_of, split_text
from bert_lightning.tasks.question_answering.decoding import Answers

if TYPE_CHECKING:
    from bert_lightning.tasks.question_answering.data import EncodedQuestions
    from bert_lightning.tasks.question_answering.task import QuestionAnsweringTask

_NO_ANSWER = "no answer"


class _Place(NamedTuple):
    """The window and the positions in it that score an answer; no positions for no answer."""

    window: int
    positions: tuple[int, int] | None


def explained_answer(task: "QuestionAnsweringTask", example: Question, target: str | None) -> Explained:
    """Return the score of an answer: the logit of its start plus that of its end.

    It depends on the one window in which the start has most context, so only the words of this window count. The
    score of no answer is that of the window where it is least.

    Args:
        task: the model.
        example: the question with its context.
        target: an answer, which the context must hold, or an empty text for no answer; None for the prediction.

    Raises:
        InputError: the context does not hold the answer, or the model always gives one.
    """
    split = task.encode([example])
    outputs = task.outputs_for(split, 64)
    [answers] = task.decode(split, outputs)
    predicted = answers.text_at(task.threshold)
    wanted = predicted if target is None else target
    if target == "" and not task.no_answer:
        raise InputError("the target is empty, which means no answer, but this model always gives one")
    if wanted:
        place = _place(split, answers, wanted)
    else:
        place = _Place(int(np.argmin([output.null_score for output in outputs])), None)
    batch = split.batch(np.array([place.window]))
    window = split.windows[place.window]
    question = split_text(task.tokenizer, example.question)
    context = split_text(task.tokenizer, example.context, 1, len(question.words))
    places = np.full(tuple(batch["input_ids"].shape), NO_WORD, dtype=np.int64)
    shown, begin = question.owners[: len(split.questions[0])], split.text_position(window)
    places[0, 1 : len(shown) + 1] = shown
    places[0, begin : begin + window.length] = context.owners[window.start : window.stop]
    readout = np.zeros(places.shape)
    readout[0, list(place.positions or (0, 0))] = 1
    if task.model.own_head is not None:
        readout = readout_of(task.model, batch)

    def score(batch: Batch) -> Tensor:
        computed = task.compute(batch)
        if place.positions is not None:
            start, end = place.positions
            return computed.start_logits[:, start] + computed.end_logits[:, end]
        return computed.null_scores if computed.answerable_logits is None else -computed.answerable_logits

    return Explained(
        example.location,
        wanted or _NO_ANSWER,
        predicted or _NO_ANSWER,
        [Part("question", example.question), Part("context", example.context)],
        [*question.words, *context.words],
        batch,
        places,
        readout / readout.sum(),
        score,
    )


def _place(split: "EncodedQuestions", answers: Answers, text: str) -> _Place:
    """Return where an answer is scored: its best occurrence among the candidates, or its first one in the context.

    Raises:
        InputError: the context does not hold it, or no window holds all of it.
    """
    [example] = split.examples
    known = [candidate.start for candidate in answers.candidates if candidate.text == text]
    start = known[0] if known else example.context.find(text)
    offsets = split.contexts[0].offsets
    pieces = np.flatnonzero((offsets[:, 1] > start) & (offsets[:, 0] < start + len(text)))
    if start < 0 or not len(pieces):
        names = [candidate.text for candidate in answers.candidates]
        raise InputError(
            f"{example.location}: the target is {text!r}, but the context does not hold it{nearest(text, names)}"
        )
    first, last = int(pieces[0]), int(pieces[-1])
    for number, (window, has_most_context) in enumerate(zip(split.windows, split.max_context(0), strict=True)):
        if window.start <= first and last < window.stop and has_most_context[first - window.start]:
            shift = split.text_position(window) - window.start
            return _Place(number, (first + shift, last + shift))
    raise InputError(
        f"{example.location}: the target is {text!r}, which is longer than the windows that the model reads"
    )
