"""The measures of a sequence in reports, from runs that were made up."""

import csv
import io
import json
import shutil

import pytest

from bert_lightning.metrics.continual import measures
from bert_lightning.reports.report import write_report
from bert_lightning.studies.record import Compare, RecordedRun, StudyRecord
from tests.support.made_runs import make_run, row

TASKS = ["one", "two", "three"]
# Arm -> seed -> rows of the matrix.
SCORES = {
    "plain": {
        1: [[0.9, 0.3, 0.2], [0.5, 0.8, 0.2], [0.4, 0.5, 0.7]],
        2: [[0.8, 0.4, 0.2], [0.6, 0.8, 0.3], [0.3, 0.5, 0.8]],
        3: [[0.9, 0.3, 0.1], [0.4, 0.7, 0.2], [0.4, 0.4, 0.7]],
    },
    "ewc": {
        1: [[0.9, 0.3, 0.2], [0.8, 0.7, 0.3], [0.8, 0.7, 0.6]],
        2: [[0.8, 0.4, 0.2], [0.8, 0.8, 0.3], [0.6, 0.7, 0.7]],
        3: [[0.9, 0.3, 0.1], [0.7, 0.7, 0.2], [0.7, 0.6, 0.5]],
    },
    "per-task": {seed: [[0.9, None, None], [0.9, 0.8, None], [0.9, 0.8, 0.7]] for seed in (1, 2, 3)},
}
UNTRAINED = [0.5, 0.25, 0.25]
KNOWN = 0.05


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "study"
    runs = []
    for stage, task in enumerate(TASKS):
        for arm, seeds in SCORES.items():
            for seed, matrix in seeds.items():
                directory = f"runs/e/{task}-{arm}-{seed}"
                runs.append(_run(folder, directory, arm, seed, stage, matrix))
    record = StudyRecord(
        study="made", question="Which?", file="", version="0", stages=tuple(TASKS), runs=tuple(runs),
        compare=Compare(("val/accuracy",)),
    )  # fmt: skip
    record.write(folder)
    return folder


def _run(folder, directory, arm, seed, stage, matrix):
    task, scored = TASKS[stage], matrix[stage]
    config = {
        "task": "text-classification",
        "seed_everything": seed,
        "data": {"validation": f"{task}.tsv"},
        "continual": {"name": arm},
        "sequence": {"task": task, "tasks": [{"name": name} for name in TASKS]},
    }
    make_run(folder / directory, rows=[row(10, 1, val_accuracy=scored[stage])], config=config, seed=seed, step=10)
    values = {
        "task": task,
        "tasks": TASKS,
        "weights": "0",
        "scores": _scores(scored),
        "untrained": _scores(UNTRAINED) if stage == 0 and arm != "per-task" else None,
    }
    (folder / directory / "sequence.json").write_text(json.dumps(values))
    return RecordedRun(task, arm, {"continual.name": arm}, seed, directory, state="finished")


def _scores(values):
    named = zip(TASKS, values, strict=True)
    return {
        task: {"accuracy": value, "known_task_accuracy": value + KNOWN} for task, value in named if value is not None
    }


def test_the_report_has_the_measures_of_every_arm_and_seed(study, tmp_path):
    write_report([study], tmp_path / "r.json")
    entries = json.loads((tmp_path / "r.json").read_text())
    found = {(each["table"], each["label"], each["metric"]): each for each in entries}
    title = "made: scores among the labels of all tasks"
    for arm, seeds in SCORES.items():
        for seed, matrix in seeds.items():
            expected = measures(matrix, UNTRAINED if arm != "per-task" else None)
            for name, value in expected.items():
                assert found[title, arm, name]["values"][str(seed)] == pytest.approx(value, abs=1e-12)
    assert found[title, "per-task", "forward transfer"]["n"] == 0
    assert found[title, "per-task", "forgetting"]["mean"] == 0
    known = found["made: scores if the task is known", "plain", "average accuracy"]
    assert known["mean"] == pytest.approx(found[title, "plain", "average accuracy"]["mean"] + KNOWN, abs=1e-12)
    assert found[title, "plain", "forgetting"]["better"] == "min"


def test_a_score_of_which_less_is_better_is_not_measured_as_forgetting(study, tmp_path):
    copy = shutil.copytree(study, tmp_path / "study")
    for path in copy.rglob("sequence.json"):
        values = json.loads(path.read_text())
        for scores in (values["scores"], values["untrained"] or {}):
            for task, of_task in scores.items():
                scores[task] = {"absolute_error": 1 - of_task["accuracy"], "macro_f1": of_task["accuracy"]}
        path.write_text(json.dumps(values))
    write_report([copy], tmp_path / "r.json")
    entries = json.loads((tmp_path / "r.json").read_text())
    [entry] = [
        each
        for each in entries
        if (each["table"], each["label"], each["metric"]) == ("made: scores over the sequence", "plain", "forgetting")
    ]
    assert entry["values"]["1"] == pytest.approx(measures(SCORES["plain"][1])["forgetting"])


def test_measures_are_compared_with_the_baseline_by_the_paired_t_test(study, tmp_path):
    from scipy import stats

    write_report([study], tmp_path / "r.json")
    entries = json.loads((tmp_path / "r.json").read_text())
    [entry] = [
        each
        for each in entries
        if (each["label"], each["metric"]) == ("ewc", "forgetting")
        and each["table"].endswith("among the labels of all tasks")
    ]
    ours, theirs = ([measures(SCORES[arm][seed])["forgetting"] for seed in (1, 2, 3)] for arm in ("ewc", "plain"))
    assert entry["baseline"] == "plain"
    assert entry["difference"] == pytest.approx(sum(ours) / 3 - sum(theirs) / 3)
    assert entry["p"] == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=1e-6)
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert entry["interval"] == pytest.approx([low, high], rel=1e-6)


def test_the_stages_of_a_sequence_are_not_averaged_as_separate_tasks(study, tmp_path):
    assert write_report([study], tmp_path / "r.json").overall == ()


def test_markdown_and_page_show_the_matrix_of_each_arm(study, tmp_path):
    write_report([study], tmp_path / "r.md")
    text = (tmp_path / "r.md").read_text()
    assert "| plain | three | 0.3667 ± 0.0577 | 0.4667 ± 0.0577 | 0.7333 ± 0.0577 |" in text
    assert "| per-task | one | 0.9000 ± 0.0000 |  |  |" in text
    write_report([study], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert page.count("Each task after each task") == 2
    assert "scores on two over the sequence of plain, ewc, per-task" in page
    assert page.count('class="plot"') >= 2 * len(TASKS)


def test_latex_and_csv_have_the_measures_too(study, tmp_path):
    write_report([study], tmp_path / "r.tex")
    assert "scores on every task after every task" in (tmp_path / "r.tex").read_text()
    write_report([study], tmp_path / "r.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    assert {"average accuracy", "forgetting", "backward transfer"} <= {each["metric"] for each in rows}


def test_a_seed_that_lacks_a_task_does_not_count(study, tmp_path):
    import shutil

    folder = tmp_path / "study"
    shutil.copytree(study, folder)
    (folder / "runs/e/three-plain-2/sequence.json").unlink()
    write_report([folder], tmp_path / "r.json")
    entries = json.loads((tmp_path / "r.json").read_text())
    found = next(each for each in entries if each["metric"] == "forgetting" and each["label"] == "plain")
    assert set(found["values"]) == {"1", "3"}
