"""Averages of GLUE figures, compared with those of published tables."""

import pytest

from bert_lightning.errors import InputError
from bert_lightning.metrics.glue import AVERAGES, glue_average


def figures(cola, sst2, mrpc, stsb, qqp, matched, mismatched, qnli, rte, wnli):
    return {
        "CoLA": {"matthews": cola},
        "SST-2": {"accuracy": sst2},
        "MRPC": dict(zip(("f1", "accuracy"), mrpc, strict=True)),
        "STS-B": dict(zip(("pearson", "spearman"), stsb, strict=True)),
        "QQP": dict(zip(("f1", "accuracy"), qqp, strict=True)),
        "MNLI-m": {"accuracy": matched},
        "MNLI-mm": {"accuracy": mismatched},
        "QNLI": {"accuracy": qnli},
        "RTE": {"accuracy": rte},
        "WNLI": {"accuracy": wnli},
    }


# The table of small models of google-research/bert: test set, F1/accuracy, Pearson/Spearman.
TINY = figures(0.0, 83.2, (81.1, 71.1), (74.3, 73.6), (62.2, 83.4), 70.2, 70.3, 81.5, 57.2, 62.3)
MINI = figures(0.0, 85.9, (81.1, 71.8), (75.4, 73.3), (66.4, 86.2), 74.8, 74.3, 84.1, 57.9, 62.3)
SMALL = figures(27.8, 89.7, (83.4, 76.2), (78.8, 77.0), (68.1, 87.0), 77.6, 77.0, 86.4, 61.8, 62.3)
MEDIUM = figures(38.0, 89.6, (86.6, 81.6), (80.4, 78.4), (69.6, 87.9), 80.0, 79.1, 87.7, 62.2, 62.3)


@pytest.mark.parametrize(("table", "average"), [(TINY, 64.144), (MINI, 65.761), (SMALL, 71.172), (MEDIUM, 73.511)])
def test_the_leaderboard_score_is_that_of_the_published_table(table, average):
    assert glue_average(table, "leaderboard") == pytest.approx(average, abs=5.1e-4)


@pytest.mark.parametrize(
    ("matched", "mismatched", "qqp", "qnli", "sst2", "cola", "stsb", "mrpc", "rte", "average"),
    [
        (84.6, 83.4, 71.2, 90.5, 93.5, 52.1, 85.8, 88.9, 66.4, 79.600),
        (86.7, 85.9, 72.1, 92.7, 94.9, 60.5, 86.5, 89.3, 70.1, 82.078),
    ],
)
def test_the_paper_average_is_that_of_table_1(matched, mismatched, qqp, qnli, sst2, cola, stsb, mrpc, rte, average):
    # Figures that the average does not use are far off, so that using them would show.
    table = figures(cola, sst2, (mrpc, 0), (0, stsb), (qqp, 0), matched, mismatched, qnli, rte, 0)
    assert glue_average(table, "paper") == pytest.approx(average, abs=5.1e-4)


@pytest.mark.parametrize(
    ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "average"),
    [
        # ModernBERT base and large (Warner et al. 2024, table of GLUE).
        (65.1, 96.0, 92.2, 91.8, 92.1, 89.1, 93.9, 87.4, 88.45),
        (71.4, 97.1, 91.7, 92.8, 92.7, 90.8, 95.2, 92.1, 90.475),
    ],
)
def test_the_average_of_eight_columns_is_that_of_modernbert(cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, average):
    table = figures(cola, sst2, (0, mrpc), (0, stsb), (0, qqp), mnli, 0, qnli, rte, 0)
    assert glue_average(table, "eight-columns") == pytest.approx(average, abs=1e-9)


@pytest.mark.parametrize("rule", AVERAGES)
def test_every_average_of_equal_figures_is_that_figure(rule):
    table = figures(7.0, 7.0, (7.0, 7.0), (7.0, 7.0), (7.0, 7.0), 7.0, 7.0, 7.0, 7.0, 7.0)
    assert glue_average(table, rule) == 7.0


def test_missing_figures_are_named():
    table = {task: dict(values) for task, values in MINI.items() if task != "RTE"}
    del table["MRPC"]["f1"]
    with pytest.raises(InputError, match=r"'paper' also needs MRPC f1, RTE accuracy$"):
        glue_average(table, "paper")


def test_a_figure_that_is_nan_is_named():
    with pytest.raises(InputError, match=r"^CoLA matthews is nan"):
        glue_average({**MINI, "CoLA": {"matthews": float("nan")}}, "paper")


def test_an_unknown_rule_is_named_with_its_neighbour():
    with pytest.raises(InputError, match="did you mean 'leaderboard'"):
        glue_average(MINI, "leader-board")
