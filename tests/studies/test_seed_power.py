"""The command `power`: how many seeds a difference needs, by the spread of one's own runs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.power import TTestIndPower, TTestPower

from bert_lightning.cli import main
from bert_lightning.studies.record import Compare, RecordedRun, StudyRecord
from bert_lightning.studies.seed_power import seeds_for_difference
from tests.support.made_runs import make_run, recorded, row

LOW = {1: 0.70, 2: 0.73, 3: 0.71, 4: 0.75, 5: 0.72}
HIGH = {1: 0.72, 2: 0.74, 3: 0.74, 4: 0.77, 5: 0.73}


def arm(folder: Path, scores: dict[int, float], rate: float) -> Path:
    for seed, score in scores.items():
        rows = [row(2, 2, val_loss=1 - score, val_accuracy=score)]
        make_run(folder / f"seed-{seed}", rows=rows, config={"seed_everything": seed, "rate": rate}, seed=seed)
    return folder


def test_with_equal_seeds_the_differences_decide_and_statsmodels_agrees(tmp_path):
    paths = [arm(tmp_path / "low", LOW, 0.1), arm(tmp_path / "high", HIGH, 0.2)]
    [answer] = seeds_for_difference(paths, 0.01).pairs
    deviation = np.std([HIGH[seed] - LOW[seed] for seed in LOW], ddof=1)
    assert (answer.label, answer.paired, answer.num) == ("rate=0.2 against rate=0.1", True, 5)
    assert answer.deviation == pytest.approx(deviation)
    bounds = [deviation * (4 / scipy.stats.chi2.ppf(share, 4)) ** 0.5 for share in (0.975, 0.025)]
    assert answer.interval == pytest.approx(bounds)
    needed = [np.ceil(TTestPower().solve_power(0.01 / each, alpha=0.05, power=0.8)) for each in (deviation, *bounds)]
    assert [answer.needed, *answer.needed_interval] == needed
    assert answer.power_now == pytest.approx(TTestPower().power(0.01 / deviation, 5, 0.05))
    assert answer.detectable == pytest.approx(
        deviation * TTestPower().solve_power(nobs=5, alpha=0.05, power=0.8), rel=1e-6
    )


def test_paths_that_lead_to_the_same_runs_count_once(tmp_path):
    paths = [arm(tmp_path / "low", LOW, 0.1), arm(tmp_path / "high", HIGH, 0.2)]
    once, twice = (seeds_for_difference(given, 0.01) for given in (paths, [*paths, tmp_path, paths[0]]))
    assert once == twice


def test_a_study_that_is_given_twice_counts_once(tmp_path):
    runs = []
    for name, scores in (("low", LOW), ("high", HIGH)):
        for seed, score in scores.items():
            rows = [row(2, 2, val_accuracy=score)]
            make_run(tmp_path / f"runs/{name}-{seed}", rows=rows, config={"seed_everything": seed}, seed=seed)
            directory = f"runs/{name}-{seed}"
            runs.append(RecordedRun("only", name, {}, seed, directory, state="finished"))
    record = StudyRecord(
        study="s", question="", file="", version="0", stages=("only",), runs=tuple(runs),
        compare=Compare(("val/accuracy",)),
    )  # fmt: skip
    record.write(tmp_path)
    once, twice = (seeds_for_difference(given, 0.01) for given in ([tmp_path], [tmp_path, tmp_path]))
    assert len(once.pairs) == 1
    assert once == twice


def test_with_other_seeds_the_runs_of_both_arms_decide(tmp_path):
    other = {seed + 10: score for seed, score in HIGH.items() if seed < 5}
    paths = [arm(tmp_path / "low", LOW, 0.1), arm(tmp_path / "high", other, 0.2)]
    [answer] = seeds_for_difference(paths, 0.03, power=0.9, alpha=0.01).pairs
    squares = [np.var([*scores.values()], ddof=1) * (len(scores) - 1) for scores in (LOW, other)]
    deviation = (sum(squares) / (len(LOW) + len(other) - 2)) ** 0.5
    assert (answer.paired, answer.num) == (False, 4)
    assert answer.deviation == pytest.approx(deviation)
    assert answer.interval[1] == pytest.approx(deviation * (7 / scipy.stats.chi2.ppf(0.025, 7)) ** 0.5)
    assert answer.needed == np.ceil(TTestIndPower().solve_power(0.03 / deviation, alpha=0.01, power=0.9))


def test_pairs_also_say_what_arms_with_other_seeds_would_need(tmp_path):
    paths = [arm(tmp_path / "low", LOW, 0.1), arm(tmp_path / "high", HIGH, 0.2)]
    found = seeds_for_difference(paths, 0.01)
    deviation = np.mean([np.var([*scores.values()], ddof=1) for scores in (LOW, HIGH)]) ** 0.5
    apart = np.ceil(TTestIndPower().solve_power(0.01 / deviation, alpha=0.05, power=0.8))
    assert found.pairs[0].needed_apart == apart
    assert found.pairs[0].needed < apart


def test_a_single_arm_is_answered_by_its_own_spread(tmp_path, capsys):
    assert main(["power", str(arm(tmp_path / "low", LOW, 0.1)), "--difference", "0.02"]) == 0
    out = capsys.readouterr().out
    deviation = np.std([*LOW.values()], ddof=1)
    needed = np.ceil(TTestIndPower().solve_power(0.02 / deviation, alpha=0.05, power=0.8))
    assert f"To find the difference, {needed:.0f} seeds per arm" in out
    assert f"is {deviation:.4g}, with a 95 % interval" in out
    assert "The scores of these runs lie between 0.7 and 0.75." in out


def test_a_study_gives_arms_metric_and_baseline_and_options_change_them(tmp_path, capsys):
    runs = []
    for name, scores in (("new", HIGH), ("old", LOW)):
        arm(tmp_path / "runs" / name, scores, 0.1)
        # Seeds of a later stage start from other checkpoints, so their settings differ.
        for seed in scores:
            path = tmp_path / f"runs/{name}/seed-{seed}/config.yaml"
            path.write_text(path.read_text() + f"start: {seed}\n")
            runs.append(replace(recorded(f"runs/{name}/seed-{seed}", "finished"), arm=name, seed=seed))
    compare = Compare(metric=("val/loss",), baseline="old")
    StudyRecord("s", "?", "", "0", ("one",), tuple(runs), compare).write(tmp_path)
    found = seeds_for_difference([tmp_path], 0.01)
    assert found.question.metric == "val/loss"
    assert [answer.label for answer in found.pairs] == ["new against old"]
    found = seeds_for_difference([tmp_path], 0.01, metric="val/accuracy", baseline="new")
    assert [answer.label for answer in found.pairs] == ["old against new"]
    assert main(["power", str(tmp_path), "--difference", "0.01", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["question"]["metric"], values["pairs"][0]["num"]) == ("val/loss", 5)


def test_arms_are_compared_within_their_stage_and_compared_stages_within_their_arm(tmp_path):
    runs = []
    for stage in ("one", "two"):
        for name, scores in (("a", LOW), ("b", HIGH)):
            arm(tmp_path / f"runs/{stage}-{name}", scores, 0.1)
            for seed in scores:
                entry = recorded(f"runs/{stage}-{name}/seed-{seed}", "finished")
                runs.append(replace(entry, stage=stage, arm=name, seed=seed))

    def pairs(**compare):
        StudyRecord("s", "?", "", "0", ("one", "two"), tuple(runs), Compare(**compare)).write(tmp_path)
        return [answer.label for answer in seeds_for_difference([tmp_path], 0.01).pairs]

    assert pairs() == ["one/b against one/a", "two/b against two/a"]
    assert pairs(baseline="b") == ["one/a against one/b", "two/a against two/b"]
    assert pairs(stages=("one", "two")) == ["two/a against one/a", "two/b against one/b"]
    assert pairs(stages=("one", "two"), baseline="two") == ["one/a against two/a", "one/b against two/b"]
    found = seeds_for_difference([tmp_path], 0.01, baseline="one/a").pairs
    assert [answer.label for answer in found] == ["one/b against two/b", "two/a against one/a"]


def test_without_a_metric_of_a_study_the_first_score_that_is_no_loss_counts(tmp_path):
    assert seeds_for_difference([arm(tmp_path, LOW, 0.1)], 0.01).question.metric == "val/accuracy"


def test_arms_without_spread_and_single_runs_say_that_nothing_follows(tmp_path, capsys):
    paths = [arm(tmp_path / "low", LOW, 0.1), arm(tmp_path / "one", {1: 0.7}, 0.2)]
    paths.append(arm(tmp_path / "equal", {seed: score + 0.1 for seed, score in LOW.items()}, 0.3))
    assert main(["power", *map(str, paths), "--difference", "0.02"]) == 0
    out = capsys.readouterr().out
    assert "rate=0.3 against rate=0.1: 5 pairs. There is no standard deviation to compute with: all values are" in out
    assert "rate=0.2 against rate=0.1: 1 seed." in out
    assert "rate=0.1: 5 seeds." in out


def test_runs_that_do_not_count_are_named(tmp_path, capsys):
    arm(tmp_path, LOW, 0.1)
    make_run(tmp_path / "failed", "failed", [row(1, 1, val_accuracy=0.1)], config={"seed_everything": 9})
    make_run(tmp_path / "damaged", rows=[row(1, 1, val_accuracy="high")])
    nan = make_run(tmp_path / "nan", rows=[row(1, 1, val_accuracy=None)], config={"seed_everything": 8, "rate": 0.1})
    assert main(["power", str(tmp_path), "--difference", "0.02"]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / 'failed'} is left out: its state is failed." in out
    assert f"{tmp_path / 'damaged'} is left out:" in out
    assert ": 5 seeds." in out
    assert nan.is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--difference", "0"], "--difference is 0.0; it must be more than 0"),
        (["--difference", "nan"], "--difference is nan"),
        (["--difference", "-1"], "--difference is -1.0"),
        (["--difference", "1", "--power", "1"], "--power is 1.0"),
        (["--difference", "1", "--level", "0"], "--level is 0.0"),
        (["--difference", "1", "--power", "0.01"], "--power is 0.01; it must be more than --level (0.05)"),
        (["--difference", "1", "--metric", "val/acuracy"], "did you mean 'val/accuracy'?"),
        (["--difference", "1", "--baseline", "x"], "no arm is called 'x'"),
    ],
)
def test_a_wrong_option_is_one_message(tmp_path, capsys, arguments, message):
    assert main(["power", str(arm(tmp_path, LOW, 0.1)), *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_paths_without_two_seeds_are_one_message(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    arm(tmp_path / "single", {1: 0.5}, 0.1)
    for name, message in (
        ("missing", "does not exist"),
        ("empty", "holds neither a run directory nor a study.json"),
        ("single", "no arm has two"),
    ):
        assert main(["power", str(tmp_path / name), "--difference", "1"]) == 2
        assert message in capsys.readouterr().err
