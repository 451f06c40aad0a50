"""The scripts beside the ready studies, and what the screening design promises."""

import itertools
import json
import os
from pathlib import Path

import calibrate
import effects
import numpy as np
import pytest
import statsmodels.api

from bert_lightning.studies.study_file import read_study

ROOT = Path(__file__).parents[2]
SCREENING = ROOT / "experiments/studies/screening.yaml"
STEPS = "trainer.max_steps"


@pytest.fixture(scope="module")
def screening():
    return read_study(SCREENING)


def settings(study) -> list[dict[str, object]]:
    return [{key: value for key, value in arm.items() if key != STEPS} for arm in study.varied.arms.values()]


def test_each_setting_of_the_screening_is_in_half_of_the_runs_and_each_pair_in_a_quarter(screening):
    runs = [set(each) for each in settings(screening)]
    # Settings that come together are one, and the optimiser has three values.
    together = {"model.config.attention_probs_dropout_prob", "optimizer.learning_rate", "optimizer.name"}
    keys = set().union(*runs) - together
    assert len(runs) == 12
    assert len(keys) == 7
    assert all(sum(key in run for run in runs) == 6 for key in keys)
    assert all(sum({*pair} <= run for run in runs) == 3 for pair in itertools.combinations(keys, 2))
    optimisers = [each.get("optimizer.name", "adamw") for each in settings(screening)]
    assert [optimisers.count(name) for name in ("adamw", "muon", "lamb")] == [3, 6, 3]
    for key, name in itertools.product(keys, ("muon", "lamb")):
        of_name = [key in run for run, own in zip(runs, optimisers, strict=True) if own == name]
        assert sum(of_name) == pytest.approx(len(of_name) / 2, abs=0.5)


def test_effects_that_add_up_are_recovered_from_the_screening(screening):
    known = {"data.batch_size": 0.3, "data.max_seq_length": -0.7, "model.config.pre_layer_norm": -0.2}
    optimisers = {"muon": -0.5, "lamb": 0.25}
    scores = [
        5.0 + sum(known.get(key, 0) for key in each) + optimisers.get(each.get("optimizer.name"), 0)
        for each in settings(screening)
    ]
    found = {effect.setting: effect for effect in effects.effects(settings(screening), scores)}
    assert len(found) == 9
    for setting, effect in found.items():
        key, _, value = setting.split(",")[0].partition(" ")
        assert effect.change == pytest.approx(known.get(key, optimisers.get(value, 0.0)), abs=1e-12)
        assert effect.margin < 1e-12


def test_the_margin_of_an_effect_is_that_of_ordinary_least_squares(screening):
    runs = settings(screening)
    scores = np.random.default_rng(0).normal(5, 0.1, len(runs))
    pairs = list(dict.fromkeys((key, str(run[key])) for run in runs for key in run))
    columns = list(dict.fromkeys(tuple(str(run.get(key)) == value for run in runs) for key, value in pairs))
    fitted = statsmodels.api.OLS(scores, statsmodels.api.add_constant(np.array(columns, dtype=float).T)).fit()
    found = effects.effects(runs, scores.tolist())
    np.testing.assert_allclose([effect.change for effect in found], fitted.params[1:])
    low, high = fitted.conf_int().T
    np.testing.assert_allclose([effect.margin for effect in found], (high - low)[1:] / 2)


def test_settings_that_the_runs_cannot_tell_apart_are_refused():
    with pytest.raises(SystemExit, match="3 runs cannot tell the effects of 3 settings apart"):
        effects.effects([{}, {"a": 1, "b": 1}, {"b": 1, "c": 1}], [1.0, 2.0, 3.0])


@pytest.fixture
def script_arguments(monkeypatch):
    return lambda script, *words: monkeypatch.setattr("sys.argv", [script, *map(str, words)])


def test_effects_of_a_study_are_printed_with_the_best_run_first(tmp_path, script_arguments, capsys):
    from bert_lightning.studies.record import RecordedRun, StudyRecord

    runs = []
    for number, (values, score) in enumerate([({}, 4.0), ({"data.batch_size": 16, STEPS: 9}, 3.5)]):
        runs.append(RecordedRun("held-out", f"run-{number}", values, 1, f"runs/{number}", "finished"))
        folder = tmp_path / "runs" / str(number)
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("experiment: e\ntask: pretraining\n")
        (folder / "manifest.json").write_text("{}")
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "val/mlm_loss": score}) + "\n")
    record = {"study": "s", "question": "", "file": "", "version": "1", "stages": ["held-out"]}
    StudyRecord(**record, runs=runs).write(tmp_path)
    script_arguments("effects.py", tmp_path, "--stage", "held-out", "--metric", "val/mlm_loss")
    effects.main()
    assert capsys.readouterr().out.splitlines() == [
        "3.5000  run-1, seed 1",
        "4.0000  run-0, seed 1",
        "-0.5000 ± inf  data.batch_size 16",
    ]


def test_calibration_gives_all_arms_the_same_time_and_changes_nothing_else_in_the_file(
    tmp_path, monkeypatch, script_arguments, screening
):
    seconds = {arm: 0.1 + 0.02 * number for number, arm in enumerate(screening.varied.arms)}
    arms = {json.dumps({**values, STEPS: 0}): arm for arm, values in screening.varied.arms.items()}

    def processor_seconds(files, values):
        own = {key: value for key, value in values.items() if key not in screening.stages[0].overrides}
        # The start takes 7 seconds.
        return 7 + seconds[arms[json.dumps({**own, STEPS: 0})]] * values[STEPS]

    monkeypatch.setattr(calibrate, "processor_seconds", processor_seconds)
    path = tmp_path / "screening.yaml"
    path.write_text(screening.text.replace("../", f"{ROOT}/experiments/"))
    before = path.read_text()
    script_arguments("calibrate.py", path, "--core-seconds", 1200)
    calibrate.main()
    changed = read_study(path)
    for arm, values in changed.varied.arms.items():
        assert values[STEPS] == pytest.approx(1200 / seconds[arm], abs=5.1)
    lines = zip(before.splitlines(), path.read_text().splitlines(), strict=True)
    assert all(old == new or STEPS in old for old, new in lines)


def test_the_processor_time_of_a_training_that_fails_is_an_error_with_its_output(monkeypatch):
    monkeypatch.setattr("sys.executable", "false")
    with pytest.raises(SystemExit, match="failed"):
        calibrate.processor_seconds((), {})


def test_the_processor_time_of_children_counts(monkeypatch, tmp_path):
    script = tmp_path / "busy"
    script.write_text("#!/bin/sh\n( i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done )\n")
    script.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(script))
    before = os.times()
    seconds = calibrate.processor_seconds((), {})
    after = os.times()
    assert seconds == pytest.approx(
        after.children_user + after.children_system - before.children_user - before.children_system, abs=0.02
    )
    assert seconds > 0
