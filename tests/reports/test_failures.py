"""Failed runs against those of the baseline, with counts and p of scipy."""

import json

import pytest
from scipy import stats

from bert_lightning.cli import main
from bert_lightning.reports.tabulation import tabulate
from bert_lightning.studies.found_runs import find_runs
from tests.support.run_directories import write_study

GOOD = dict.fromkeys(range(1, 7), 0.8)


def failed(arm, seeds):
    return {(arm, seed): ("failed", "the loss is not finite") for seed in seeds}


def failures_of(study):
    [table] = tabulate(find_runs([study])).tables
    return tuple(table.failures.values())


def test_failed_runs_are_compared_with_those_of_the_baseline_by_fishers_exact_test(tmp_path):
    states = {**failed("muon", (3, 4, 5, 6)), ("muon", 7): ("blocked", None), ("muon", 8): ("interrupted", None)}
    study = write_study(tmp_path / "s", {"adamw": GOOD, "muon": {1: 0.8, 2: 0.8}}, states=states)
    p = stats.fisher_exact([[4, 2], [0, 6]]).pvalue
    sentence = f"muon: 4 of 6 runs failed, against 0 of 6 of adamw; p by Fisher's exact test is {p:.4f}."
    assert failures_of(study) == (sentence,)
    for form in ("md", "tex", "html", "json"):
        output = tmp_path / f"report.{form}"
        assert main(["report", str(study), "--output", str(output)]) == 0
        text = output.read_text()
        if form == "json":
            assert [entry["failures"] for entry in json.loads(text)] == [None, sentence]
        else:
            assert "against 0 of 6 of adamw; p by Fisher" in text


def test_several_arms_are_adjusted_and_failures_of_the_baseline_count_too(tmp_path):
    states = {**failed("adamw", range(7, 13)), **failed("sgd", (7,))}
    study = write_study(tmp_path / "s", {"adamw": GOOD, "muon": GOOD, "sgd": GOOD}, states=states)
    muon, sgd = failures_of(study)
    first = stats.fisher_exact([[0, 6], [6, 6]]).pvalue
    second = stats.fisher_exact([[1, 6], [6, 6]]).pvalue
    low, high = sorted((first, second))
    assert "muon: 0 of 6 runs failed, against 6 of 12 of adamw" in muon
    assert sgd.startswith("sgd: 1 of 7 runs failed")
    shown = [float(line.rpartition(" is ")[2].rstrip(".")) for line in (muon, sgd)]
    assert min(shown) == pytest.approx(2 * low, abs=1e-4)
    assert max(shown) == pytest.approx(max(2 * low, high), abs=1e-4)
    assert "adjusted by Holm's method" in muon


def test_missing_blocked_and_interrupted_runs_are_no_failures(tmp_path):
    states = {("muon", 3): ("blocked", None), ("muon", 4): ("interrupted", None), ("muon", 5): ("waiting", None)}
    assert failures_of(write_study(tmp_path / "s", {"adamw": GOOD, "muon": {1: 0.8}}, states=states)) == ()
