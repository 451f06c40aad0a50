"""Answers from the scores of windows, compared with a slow transcription of `run_squad.py`."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_lightning.data.datasets.examples import Answer, Question
from bert_lightning.model import BertConfig, BertForQuestionAnswering
from bert_lightning.model.task_models import SpanOutput
from bert_lightning.tasks.question_answering.data import EncodedQuestions
from bert_lightning.tasks.question_answering.settings import QuestionAnsweringData
from bert_lightning.tasks.question_answering.task import QuestionAnsweringTask


def make_task(tokenizer, no_answer=True, **changes):
    config = BertConfig.preset("tiny", vocab_size=len(tokenizer), max_position_embeddings=48)
    data = QuestionAnsweringData(max_seq_length=20, max_question_length=6, doc_stride=5, **changes)
    return QuestionAnsweringTask(BertForQuestionAnswering(config), config, tokenizer, data, no_answer).eval()


def slow_answers(split, logits, longest):
    """Try every start and end of every window. Return texts in order of score, and the least null score."""
    found, nulls = [], []
    owned = split.max_context(0)
    for number, window in enumerate(split.windows):
        starts, ends = logits[number]
        nulls.append(starts[0] + ends[0])
        offset = split.text_position(window)
        for i in range(window.length):
            for j in range(i, min(window.length, i + longest)):
                if owned[number][i]:
                    found.append((starts[offset + i] + ends[offset + j], window.start + i, window.start + j))
    found.sort(key=lambda each: -each[0])
    context, offsets = split.examples[0].context, split.contexts[0].offsets
    texts = dict.fromkeys(context[offsets[i, 0] : offsets[j, 1]] for _, i, j in found)
    return list(texts), min(nulls), found[0][0]


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 40), longest=st.integers(1, 9))
def test_the_n_best_answers_are_those_of_an_exhaustive_search(tokenizer, seed, length, longest):
    generator = random.Random(seed)
    context = " ".join(generator.choices(["cat", "dog", "house", "the", "river."], k=length))
    task = make_task(tokenizer, n_best_size=20, max_answer_length=longest)
    split = task.encode([Question("x", "1", "the cat sees", context, (), False, "")])
    outputs, logits = [], []
    for number in range(len(split.windows)):
        batch = split.batch(np.array([number]))
        scores = torch.randn(2, batch["input_ids"].shape[1], generator=torch.Generator().manual_seed(seed + number))
        computed = SpanOutput(scores[:1], scores[1:], scores[:, 0].sum()[None], None)
        outputs += task.outputs_of(computed, batch)
        logits.append(scores.double().numpy())
    [decoded] = task.decode(split, outputs)
    texts, null, best = slow_answers(split, logits, longest)
    # With room for twenty starts and ends, the search is exhaustive.
    assert [candidate.text for candidate in decoded.candidates] == texts[:20]
    assert decoded.null_score == pytest.approx(null, abs=1e-5)
    assert decoded.null_odds == pytest.approx(null - best, abs=1e-5)


def test_the_threshold_decides_on_no_answer(tokenizer):
    task = make_task(tokenizer)
    split = task.encode([Question("x", "1", "the cat sees", "the dog", (), False, "")])
    scores = torch.zeros(2, 24)
    scores[:, 0] = 2.0
    batch = split.batch(np.array([0]))
    scores = scores[:, : batch["input_ids"].shape[1]]
    outputs = task.outputs_of(SpanOutput(scores[:1], scores[1:], scores[:, 0].sum()[None], None), batch)
    assert task.predictions(split, outputs)[0]["answer"] == ""
    task.null_threshold = 4.0
    assert task.predictions(split, outputs)[0]["answer"] != ""
    assert task.predictions(split, outputs)[0]["null_odds"] == 4.0


def test_a_question_as_long_as_the_model_and_an_empty_text_still_get_an_answer(tokenizer):
    task = make_task(tokenizer, no_answer=False)
    rows = [
        Question("x", "1", "the cat " * 50, "the dog", (), False, ""),
        Question("x", "2", "the", "", (), False, ""),
        Question("x", "3", "", "cat", (), False, ""),
    ]
    split = task.encode(rows)
    with torch.inference_mode():
        predictions = task.predictions(split, task.outputs_for(split, 2))
    assert [row["answer"] != "" for row in predictions] == [True, False, True]


def test_perfect_scores_give_perfect_marks(tokenizer):
    task = make_task(tokenizer, no_answer=False)
    context = "The old cat sees the young dog."
    question = Question("x", "1", "what", context, (Answer("old cat", 4),), False, "")
    split = EncodedQuestions([question], tokenizer, task.settings, training=True)
    batch = split.batch(np.array([0]))
    scores = torch.zeros(2, batch["input_ids"].shape[1])
    scores[0, batch["start_positions"]] = 9.0
    scores[1, batch["end_positions"]] = 9.0
    outputs = task.outputs_of(SpanOutput(scores[:1], scores[1:], torch.zeros(1), None), batch)
    assert task.scores(split, outputs, split.subsets[0]) == {"squad_exact": 100.0, "squad_f1": 100.0}
