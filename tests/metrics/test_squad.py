"""SQuAD scores, compared with values by hand, a search over every threshold and the official scorers."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_lightning.errors import InputError
from bert_lightning.metrics.squad import (
    exact_match,
    f1,
    f1_or_both_empty,
    normalize_answer,
    score_squad_v1,
    score_squad_v2,
)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The Cat", "cat"),
        ("a  b\tan\nc", "b c"),
        ("U.S.A.", "usa"),
        ("the-end", "theend"),  # punctuation is removed before articles
        ("theatre and a man", "theatre and man"),
        ("“the” cat", "“ ” cat"),  # only ASCII punctuation is removed
        ("a\u00a0dog", "dog"),
        ("İ", "i̇"),
        ("The", ""),
        ("?!", ""),
        ("", ""),
    ],
)
def test_answers_are_normalized_in_the_official_order(text, normalized):
    assert normalize_answer(text) == normalized


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "score"),
    [
        ("the cat", ["A cat!"], 1, 1.0),
        ("black cat", ["cat"], 0, 2 / 3),  # precision 1/2, recall 1
        ("dog", ["cat"], 0, 0.0),
        ("cat cat", ["cat dog"], 0, 0.5),  # a multiset: one cat is shared
        ("cat", ["dog", "cat", "cat sat"], 1, 1.0),
        ("cat sat", ["cat", "cat sat down"], 0, 0.8),  # the best answer: precision 1, recall 2/3
        ("", ["cat"], 0, 0.0),
    ],
)
def test_exact_match_and_f1_by_hand(prediction, answers, exact, score):
    assert exact_match(prediction, answers) == exact
    assert f1(prediction, answers) == pytest.approx(score, abs=1e-15)
    assert f1_or_both_empty(prediction, answers) == pytest.approx(score, abs=1e-15)


def test_two_empty_answers_agree_in_v2_but_share_no_token_in_v1():
    assert exact_match("the", ["!"]) == 1
    assert f1("the", ["!"]) == 0
    assert f1_or_both_empty("the", ["!"]) == 1
    assert f1_or_both_empty("cat", ["", "dog"]) == 0


def test_v1_counts_every_question_and_ignores_unknown_ids():
    answers = {"1": ["cat"], "2": ["black dog"], "3": ["x"]}
    scores = score_squad_v1(answers, {"1": "a cat", "2": "dog", "unknown": "x"})
    assert scores == {"exact_match": pytest.approx(100 / 3), "f1": pytest.approx(100 * (1 + 2 / 3) / 3)}
    assert list(scores) == ["exact_match", "f1"]


def test_v1_refuses_what_its_scorer_cannot_score():
    with pytest.raises(InputError, match="no question"):
        score_squad_v1({}, {})
    with pytest.raises(InputError, match="'q' has no answer"):
        score_squad_v1({"q": []}, {"q": ""})
    assert score_squad_v1({"q": []}, {})["f1"] == 0.0


def test_v2_reports_only_groups_that_have_questions():
    report = score_squad_v2({"1": ["cat"], "2": []}, {"1": "cat", "2": "dog"})
    assert report == {
        "exact": 50.0,
        "f1": 50.0,
        "total": 2,
        "HasAns_exact": 100.0,
        "HasAns_f1": 100.0,
        "HasAns_total": 1,
        "NoAns_exact": 0.0,
        "NoAns_f1": 0.0,
        "NoAns_total": 1,
    }
    assert list(score_squad_v2({"1": ["cat"]}, {"1": "cat"})) == [
        *("exact", "f1", "total", "HasAns_exact", "HasAns_f1", "HasAns_total")
    ]
    assert list(score_squad_v2({"1": []}, {"1": "cat"}, {"1": 0})) == [
        *("exact", "f1", "total", "NoAns_exact", "NoAns_f1", "NoAns_total"),
        *("best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"),
    ]


def test_v2_drops_gold_answers_that_normalize_to_nothing_but_keeps_the_question_answerable():
    report = score_squad_v2({"1": ["the", "cat"], "2": ["the"]}, {"1": "", "2": "an"})
    assert (report["HasAns_exact"], report["HasAns_f1"], report["HasAns_total"]) == (50.0, 50.0, 2)


def test_v2_blanks_answers_above_the_threshold_and_not_at_it():
    answers, predictions = {"1": ["cat"], "2": [], "3": []}, {"1": "cat", "2": "x", "3": "x"}
    report = score_squad_v2(answers, predictions, {"1": 0.5, "2": 0.5, "3": 0.6}, threshold=0.5)
    assert (report["HasAns_exact"], report["NoAns_exact"]) == (100.0, 50.0)
    # Missing probabilities count as 0, as in the script.
    assert score_squad_v2(answers, predictions, threshold=-1.0)["NoAns_exact"] == 100.0


def test_the_search_counts_raw_scores_and_walks_equal_probabilities_in_the_order_of_their_file():
    answers, predictions = {"1": [], "2": ["cat"]}, {"1": "x", "2": "cat"}
    # The answerable one comes first: the running sum is 1, 2, 1, and its maximum 2 precedes the subtraction.
    best = score_squad_v2(answers, predictions, {"2": 0.5, "1": 0.5}, threshold=0.0)
    assert (best["best_exact"], best["best_exact_thresh"], best["exact"]) == (100.0, 0.5, 50.0)
    best = score_squad_v2(answers, predictions, {"1": 0.5, "2": 0.5})
    assert (best["best_exact"], best["best_exact_thresh"]) == (50.0, 0.0)


def test_the_search_takes_an_empty_text_alone_for_no_answer():
    # "the" is an empty answer to the score, but not to the search.
    report = score_squad_v2({"1": [], "2": ["cat"]}, {"1": "the", "2": "cat"}, {"1": -3, "2": 2, "unknown": -9})
    assert report["exact"] == 50.0  # the threshold 1.0 blanks question 2
    assert (report["best_exact"], report["best_exact_thresh"]) == (50.0, 0.0)
    report = score_squad_v2({"1": [], "2": ["cat"]}, {"1": "", "2": "cat"}, {"1": -3, "2": 2})
    assert (report["best_exact"], report["best_exact_thresh"]) == (100.0, 2)
    assert isinstance(report["best_exact_thresh"], int)


WORDS = st.lists(st.sampled_from(["cat", "dog", "sat"]), max_size=3).map(" ".join)
ANSWERS = st.lists(WORDS.filter(bool), max_size=2)


@given(st.lists(st.tuples(ANSWERS, WORDS, st.floats(0, 1)), min_size=1, max_size=8, unique_by=lambda row: row[2]))
def test_the_best_score_is_the_best_over_every_threshold(rows):
    answers, predictions, probabilities = (
        {f"q{number}": row[column] for number, row in enumerate(rows)} for column in range(3)
    )
    tried = {
        threshold: score_squad_v2(answers, predictions, probabilities, threshold)
        for threshold in (-math.inf, *probabilities.values())
    }
    report = score_squad_v2(answers, predictions, probabilities)
    for name in ("exact", "f1"):
        best = max(scores[name] for scores in tried.values())
        assert report[f"best_{name}"] == pytest.approx(best, rel=1e-12)
        chosen = report[f"best_{name}_thresh"]
        at_it = tried[chosen if tried[-math.inf][name] < best - 1e-9 else -math.inf]
        assert at_it[name] == pytest.approx(best, rel=1e-12)


def test_v2_names_how_many_are_missing_and_the_first():
    with pytest.raises(InputError, match="2 of 3 questions have no prediction; the first of them is 'b'"):
        score_squad_v2({"a": [], "b": [], "c": []}, {"a": ""})
    with pytest.raises(InputError, match="1 of 1 questions have no no-answer probability"):
        score_squad_v2({"a": []}, {"a": ""}, {})
    with pytest.raises(InputError, match="no question"):
        score_squad_v2({}, {})


def gold_answers(dataset) -> dict[str, list[str]]:
    return {
        question["id"]: [answer["text"] for answer in question["answers"]]
        for article in dataset["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    }


@pytest.mark.real_data
def test_v1_scores_are_those_of_the_official_scorer_to_the_last_bit(real_data):
    golden = json.loads((real_data / "golden/squad_v1.1_scores.json").read_text())
    assert score_squad_v1(gold_answers(golden["dataset"]), golden["predictions"]) == golden["expected"]


@pytest.mark.real_data
def test_v2_scores_are_those_of_the_official_scorer_to_the_last_bit(real_data):
    golden = json.loads((real_data / "golden/squad_v2.0_scores.json").read_text())
    report = score_squad_v2(
        gold_answers(golden["dataset"]),
        golden["predictions"],
        golden["no_answer_probability"],
        golden["no_answer_threshold"],
    )
    assert report == golden["expected"]
    assert list(report) == list(golden["expected"])
