"""Arms over several tasks: one number per seed, against scipy, and what may not be averaged."""

import csv
import json
from dataclasses import replace

import pytest
from scipy import stats

from bert_lightning.cli import main
from bert_lightning.reports.tabulation import tabulate
from bert_lightning.studies.found_runs import find_runs
from bert_lightning.studies.record import StudyRecord
from tests.support.run_directories import write_run, write_study

RTE = {"adamw": {1: 0.60, 2: 0.62, 3: 0.61}, "muon": {1: 0.64, 2: 0.65, 3: 0.66}, "sgd": {1: 0.5, 2: 0.53, 3: 0.5}}
SST = {"adamw": {1: 0.90, 2: 0.91, 3: 0.92}, "muon": {1: 0.89, 2: 0.91, 3: 0.92}, "sgd": {1: 0.9, 2: 0.91, 3: 0.92}}


def of_data(name):
    return {"data": {"dataset": name}}


def write_stages(folder, *, stages=(("rte", RTE), ("sst2", SST)), metric="val/accuracy", task="text-classification"):
    """Write a study of several stages with the same arms."""
    record = None
    for stage, arms in stages:
        write_study(folder / stage, arms, metric, name="glue", stage=stage)
        part = StudyRecord.read(folder / stage)
        (folder / stage / "study.json").unlink()
        runs = tuple(replace(run, directory=f"{stage}/{run.directory}") for run in part.runs)
        for run in runs:
            path = folder / run.directory / "config.yaml"
            path.write_text(json.dumps({**json.loads(path.read_text()), **of_data(stage), "task": task}))
        record = part if record is None else record
        before = () if record is part else record.runs
        record = replace(record, stages=tuple(dict.fromkeys([*record.stages, stage])), runs=(*before, *runs))
    record.write(folder)
    return folder


def overall_of(*paths, **options):
    return tabulate(find_runs([*paths]), **options).overall


def test_the_average_over_tasks_of_each_seed_is_compared_as_by_scipys_paired_t_test(tmp_path):
    [overall] = overall_of(write_stages(tmp_path / "s"))
    adamw, muon, sgd = overall.arms
    averages = {name: [(RTE[name][s] + SST[name][s]) / 2 for s in (1, 2, 3)] for name in RTE}
    expected = {name: stats.ttest_rel(averages[name], averages["adamw"]) for name in ("muon", "sgd")}
    assert overall.title == "Over all tasks"
    assert overall.tasks == {"glue: rte": "val/accuracy", "glue: sst2": "val/accuracy"}
    assert [*muon.cell.values.values()] == pytest.approx(averages["muon"])
    assert muon.cell.p == pytest.approx(expected["muon"].pvalue)
    interval = expected["muon"].confidence_interval(0.95)
    assert muon.cell.interval == pytest.approx((interval.low, interval.high))
    assert muon.cell.p_adjusted == pytest.approx(max(expected["muon"].pvalue, 2 * expected["sgd"].pvalue))
    assert (muon.tasks, sgd.tasks, adamw.tasks) == ((1, 0, 1), (0, 1, 1), None)
    assert adamw.is_baseline
    assert "paired t test of the average over tasks" in " ".join(overall.caption)


def test_with_enough_seeds_the_exact_test_of_the_averages_is_shown_too(tmp_path):
    arms = {"adamw": {seed: 0.6 + seed / 100 for seed in range(1, 8)}}
    # Each of the 2^7 signs of the differences is as likely as the others, and two have so large a sum.
    arms["muon"] = {seed: score + 0.01 + seed / 1000 for seed, score in arms["adamw"].items()}
    study = write_stages(tmp_path / "s", stages=(("rte", arms), ("sst2", arms)))
    [overall] = overall_of(study)
    assert overall.arms[1].cell.exact_p == pytest.approx(2 / 2**7)
    assert main(["report", str(study), "--output", str(tmp_path / "r.md")]) == 0
    section = (tmp_path / "r.md").read_text().partition("## Over all tasks")[2]
    assert "| exact p |" in section
    assert "0.016" in section


def test_the_margin_of_a_study_decides_about_the_average_over_tasks_too(tmp_path):
    study = write_stages(tmp_path / "s")
    record = StudyRecord.read(study)
    replace(record, compare=replace(record.compare, equivalence=0.03)).write(study)
    [overall] = overall_of(study)
    differences = {
        name: [(RTE[name][s] + SST[name][s] - RTE["adamw"][s] - SST["adamw"][s]) / 2 for s in (1, 2, 3)]
        for name in RTE
    }
    for arm in overall.arms[1:]:
        interval = stats.ttest_1samp(differences[arm.label], 0).confidence_interval(0.9)
        assert arm.cell.equivalent == (interval.low > -0.03 and interval.high < 0.03)
    assert [arm.cell.equivalent for arm in overall.arms] == [None, True, False]
    assert main(["report", str(study), "--output", str(tmp_path / "report.md")]) == 0
    lines = (tmp_path / "report.md").read_text().split("## Over all tasks")[1]
    assert "| equivalent | 1, 0, 1 |" in lines
    assert "within ±0.03" in lines


def test_losses_percentages_and_pretraining_are_not_averaged_with_accuracies(tmp_path):
    loss = {arm: dict.fromkeys(values, 0.5) for arm, values in RTE.items()}
    percent = {arm: {seed: 100 * value for seed, value in values.items()} for arm, values in RTE.items()}
    assert not overall_of(write_stages(tmp_path / "loss", stages=(("a", loss), ("b", loss)), metric="val/loss"))
    assert not overall_of(write_stages(tmp_path / "percent", stages=(("a", RTE), ("b", percent))))
    assert not overall_of(write_stages(tmp_path / "pretraining", task="pretraining"))


def test_other_arms_or_the_same_data_are_no_further_task(tmp_path):
    two = {arm: SST[arm] for arm in ("adamw", "muon")}
    assert not overall_of(write_stages(tmp_path / "arms", stages=(("rte", RTE), ("sst2", two))))
    for name in ("one", "two"):
        write_study(tmp_path / name, RTE)
    assert not overall_of(tmp_path / "one", tmp_path / "two")


def test_studies_with_one_task_each_and_loose_runs_are_compared_together(tmp_path):
    for name, arms in (("rte", RTE), ("sst2", SST)):
        study = write_study(tmp_path / name, arms, name=name)
        for path in study.glob("runs/*/*/config.yaml"):
            path.write_text(json.dumps({**json.loads(path.read_text()), **of_data(name)}))
    [overall] = overall_of(tmp_path / "rte", tmp_path / "sst2")
    assert [*overall.tasks] == ["rte", "sst2"]
    for name, arms in (("rte", RTE), ("sst2", SST)):
        for arm, values in arms.items():
            for seed, value in values.items():
                config = {**of_data(name), "optimizer": {"name": arm}}
                write_run(tmp_path / f"loose/{name}/{arm}/{seed}", seed, {"val/accuracy": value}, config)
    [loose] = overall_of(tmp_path / "loose", baseline="name=adamw")
    assert [arm.cell.difference for arm in loose.arms] == [arm.cell.difference for arm in overall.arms]
    assert not overall_of(tmp_path / "loose")


def test_a_seed_without_a_task_is_left_out_by_name_and_a_score_that_is_not_finite_leaves_no_average(tmp_path):
    sst = {**SST, "muon": {1: 0.89, 2: 0.91}, "sgd": {1: 0.9, 2: None, 3: 0.9}}
    [overall] = overall_of(write_stages(tmp_path / "s", stages=(("rte", RTE), ("sst2", sst))))
    _, muon, sgd = overall.arms
    assert [*muon.cell.values] == [1, 2]
    assert "seed 3" in " ".join(muon.cell.notes)
    assert "seed 3" in " ".join(overall.caption)
    assert (sgd.cell.mean, sgd.cell.difference) == (None, None)
    assert "sgd has a score of glue: sst2 that is not finite, so it has no average." in overall.caption


def test_every_form_shows_the_comparison_over_tasks(tmp_path):
    study = write_stages(tmp_path / "s")
    texts = {}
    for form in ("md", "tex", "html", "json", "csv"):
        output = tmp_path / f"report.{form}"
        assert main(["report", str(study), "--output", str(output)]) == 0
        texts[form] = output.read_text()
    row = [line for line in texts["md"].split("\n") if line.startswith("| muon |")][-1]
    assert row.endswith("| 1, 0, 1 |")
    assert "+0.0183" in row
    assert texts["md"].index("## Over all tasks") < texts["md"].index("[^1]: ")
    assert r"\label{tab:over-all-tasks}" in texts["tex"]
    section = texts["html"][texts["html"].index('id="overall-0"') :]
    assert "+0.0183" in section
    assert 'href="#overall-0"' in texts["html"]
    [first, second] = [each["over_tasks"] for each in json.loads(texts["json"]) if each["label"] == "muon"]
    assert first == second
    assert (first["difference"], first["tasks_better_equal_worse"]) == (pytest.approx(0.055 / 3), [1, 0, 1])
    rows = [row for row in csv.DictReader(texts["csv"].splitlines()) if row["label"] == "muon"]
    assert json.loads(rows[0]["over_tasks"]) == first
