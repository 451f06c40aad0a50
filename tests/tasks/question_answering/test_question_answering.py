import json
import logging
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_lightning.data.datasets.examples import Answer, Question
from bert_lightning.errors import InputError
from bert_lightning.tasks.question_answering.data import (
    EncodedQuestions,
    QuestionAnsweringDataModule,
    answer_range,
)
from bert_lightning.tasks.question_answering.settings import QuestionAnsweringData
from tests.support.task_data import squad


def encode(tokenizer, context, answers=(), question="What sees?", training=True, **changes):
    changes = {"max_seq_length": 24, "max_question_length": 8, "doc_stride": 6} | changes
    example = Question("x", "1", question, context, tuple(answers), False, "")
    return EncodedQuestions([example], tokenizer, QuestionAnsweringData(**changes), training=training)


def google_spans(total: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Return the windows of `run_squad.py`, implemented independently."""
    spans, start = [], 0
    while start < total:
        length = min(total - start, room)
        spans.append((start, length))
        if start + length == total:
            break
        start += min(length, stride)
    return spans


def google_is_max_context(spans: list[tuple[int, int]], number: int, position: int) -> bool:
    best, chosen = None, None
    for index, (start, length) in enumerate(spans):
        end = start + length - 1
        if position < start or position > end:
            continue
        score = min(position - start, end - position) + 0.01 * length
        if best is None or score > best:
            best, chosen = score, index
    return number == chosen


@settings(max_examples=40)
@given(number=st.integers(1, 60), stride=st.integers(1, 30), length=st.integers(0, 12))
def test_windows_and_max_context_are_those_of_run_squad(tokenizer, number, stride, length):
    split = encode(tokenizer, "cat " * number, question="the " * length, doc_stride=stride)
    room = 24 - min(length, 8) - 3
    spans = google_spans(number, room, stride)
    assert [(window.start, window.length) for window in split.windows] == spans
    for window, owned in enumerate(split.max_context(0)):
        start = spans[window][0]
        assert owned.tolist() == [
            google_is_max_context(spans, window, start + position) for position in range(spans[window][1])
        ]


def test_step_and_overlap_are_the_two_measures_of_the_protocol(tokenizer):
    # 12-token question, 500-token context, L 384, value 128: the figures of evaluation protocols section 3.3.
    sizes = {"max_seq_length": 384, "max_question_length": 64, "question": "the " * 12}
    by_step = encode(tokenizer, "cat " * 500, **sizes, doc_stride=128)
    by_overlap = encode(tokenizer, "cat " * 500, **sizes, doc_stride=None, doc_overlap=128)
    assert [window.start for window in by_step.windows] == [0, 128, 256]
    assert [window.start for window in by_overlap.windows] == [0, 241]
    with pytest.raises(ValueError, match="set one of them"):
        QuestionAnsweringData(doc_stride=1, doc_overlap=1)


def test_positions_mark_the_answer_or_cls_if_a_window_does_not_hold_all_of_it(tokenizer):
    context = "The old cat sees the young dog. " * 4 + "The river finds the horse."
    start = context.index("river")
    split = encode(tokenizer, context, [Answer("river finds", start)])
    found = 0
    for number in range(len(split.windows)):
        batch = split.batch(np.array([number]))
        first, last = int(batch["start_positions"][0]), int(batch["end_positions"][0])
        ids = batch["input_ids"][0].tolist()
        if first:
            found += 1
            assert tokenizer.decode(ids[first : last + 1]) == "river finds"
        else:
            assert (first, last) == (0, 0)
    assert found
    total = len(tokenizer.encode_batch([context])[0])
    expected = google_spans(total, 24 - len(split.questions[0]) - 3, 6)
    assert len(expected) == len(split.windows)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer("cat", 4), (4, 7)),
        (Answer("cat", 0), (4, 7)),
        (Answer("cat", 21), (21, 24)),
        (Answer("cat", 17), (21, 24)),
        (Answer(" cat ", 3), (4, 7)),
        (Answer("bird", 4), (-1, -1)),
        (Answer("", 4), (-1, -1)),
    ],
)
def test_an_answer_is_at_its_start_or_at_the_nearest_occurrence_of_its_text(answer, expected):
    assert answer_range("The cat sees another cat.", answer) == expected


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def test_answers_that_are_not_in_the_text_are_counted_and_left_out_of_training(tmp_path, tokenizer, caplog):
    content = squad(random.Random(0), 4)
    content["data"][0]["paragraphs"][2]["qas"][0]["answers"] = [{"text": "elephant", "answer_start": 3}]
    content["data"][0]["paragraphs"][3]["qas"][0]["answers"][0]["answer_start"] += 1
    path = write(tmp_path / "train.json", content)
    settings = QuestionAnsweringData(train=path)
    with caplog.at_level(logging.WARNING):
        data = QuestionAnsweringDataModule(settings, tokenizer)
    assert data.num_training_samples == 3
    assert "the text does not contain an answer; left out of training: 1 question like this" in caplog.text
    assert "not at their answer_start in the text: 1 answer" in caplog.text
    for paragraph in content["data"][0]["paragraphs"]:
        paragraph["qas"][0]["answers"] = [{"text": "elephant", "answer_start": 3}]
    with pytest.raises(InputError, match="no question has an answer"):
        QuestionAnsweringDataModule(QuestionAnsweringData(train=write(tmp_path / "other.json", content)), tokenizer)


def test_questions_without_answer_are_learnt_as_cls_only_if_they_are_allowed(tmp_path, tokenizer):
    path = write(tmp_path / "train.json", squad(random.Random(0), 6, no_answer=True))
    data = QuestionAnsweringDataModule(QuestionAnsweringData(train=path), tokenizer)
    assert data.no_answer
    batch = data.splits["train"].batch(np.arange(6))
    assert (batch["start_positions"] == 0).sum() == 2
    without = QuestionAnsweringDataModule(QuestionAnsweringData(train=path, no_answer=False), tokenizer)
    assert without.num_training_samples == 4
    with pytest.raises(InputError, match=r"this question has no answer, and the model always gives one"):
        QuestionAnsweringDataModule(QuestionAnsweringData(train=path, validation=path, no_answer=False), tokenizer)
