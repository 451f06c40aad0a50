"""The examples: each is short, runs as its page says, and does what it claims."""

import json
import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

import bert_lightning
from bert_lightning.cli import main
from bert_lightning.data.datasets.catalogue import STANDARD_SETS
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.tasks.catalogue import TASKS
from tests.support.runs import weights

ROOT = Path(bert_lightning.__file__).parents[1]
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs/extending.md").read_text()
OWN = sorted(path.stem for path in EXAMPLES.glob("own_*.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The examples in a folder of their own, with their data."""
    path = tmp_path_factory.mktemp("examples") / "examples"
    shutil.copytree(EXAMPLES, path, ignore=shutil.ignore_patterns("reviews", "runs", "__pycache__"))
    runpy.run_path(str(path / "make_data.py"), run_name="__main__")
    return path


@pytest.fixture(autouse=True)
def in_examples(folder, monkeypatch):
    """Work in that folder, and forget afterwards what examples have registered."""
    monkeypatch.chdir(folder)
    before = [(table, dict(table)) for table in (STANDARD_SETS, TASKS)]
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for table, content in before:
        table.clear()
        table.update(content)
    for name in OWN:
        sys.modules.pop(name, None)


def fit(name, run, *more):
    command = ["fit", "--config", "base.yaml", f"{name}.yaml", "--allow-module", name, "--run-directory", str(run)]
    return main([*command, "--trainer.max_epochs", "1", *map(str, more)])


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_its_page_shows_it(path):
    assert len(path.read_text().splitlines()) < 60
    assert path.name in PAGE or path.name in (ROOT / "docs/walkthrough.md").read_text()


def test_the_page_has_the_command_of_each_example():
    commands = re.sub(r"\\\n *", "", PAGE)
    for name in OWN:
        command = (
            f"bert-lightning fit --config base.yaml {name}.yaml --allow-module {name} --run-directory runs/{name}"
        )
        assert command in commands
        assert f"--config base.yaml {name}.yaml --allow-module {name}" in (EXAMPLES / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", OWN)
def test_an_example_is_imported_only_if_it_is_allowed(name, tmp_path, capsys):
    command = ["fit", "--config", "base.yaml", f"{name}.yaml", "--run-directory", str(tmp_path / "run")]
    assert main(command) == 2
    assert f"--allow-module {name}" in capsys.readouterr().err
    assert name not in sys.modules


@pytest.mark.parametrize("name", OWN)
def test_an_example_trains_and_resumes_bit_for_bit(name, tmp_path):
    # Batches of 80 give four steps.
    steps = ("--data.batch_size", 80, "--trainer.val_check_interval", 2, "--checkpoint.every_n_steps", 1)
    assert fit(name, tmp_path / "whole", *steps, "--checkpoint.keep_last", 9) == 0
    middle = tmp_path / "whole/checkpoints/step-000000002.ckpt"
    assert fit(name, tmp_path / "resumed", *steps, "--resume", middle) == 0
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "resumed")
    assert all(whole[key].equal(resumed[key]) for key in whole)
    manifest = RunDirectory(tmp_path / "whole").read_manifest()
    assert manifest["ended"] == "finished"
    assert name in json.dumps(manifest["sessions"][0]), "the manifest names the module"


def test_the_own_task_learns_scores_and_predicts_grades(tmp_path, capsys):
    run = tmp_path / "run"
    assert fit("own_task", run, "--trainer.max_epochs", "9") == 0
    assert main(["test", "--checkpoint", str(run), "--allow-module", "own_task"]) == 0
    scores = RunDirectory(run).read_metrics()[-1]
    # The best constant grade is off by more than one in the mean.
    assert scores["test/absolute_error"] < 0.8
    texts = ["The soup was excellent.", "The soup was awful."]
    best, worst = (prediction["grade"] for prediction in bert_lightning.load(run).predict(texts))
    assert best > worst


def test_the_own_task_names_a_label_that_is_none(tmp_path, capsys):
    (tmp_path / "wrong.tsv").write_text("text\tgrade\nGood!\t4\nBad!\t7\n")
    assert fit("own_task", tmp_path / "run", "--data.train", tmp_path / "wrong.tsv") == 2
    assert "wrong.tsv: line 3: '7' is not a label of grading: grades are 1 to 5" in capsys.readouterr().err


def test_the_logger_writes_what_the_run_logs(tmp_path):
    assert fit("own_callback_and_logger", tmp_path / "run") == 0
    rows = RunDirectory(tmp_path / "run").read_metrics()
    expected = [f"| {row['step']} | {k} | {v:.4f} |" for row in rows for k, v in row.items() if k.startswith("val/")]
    assert (tmp_path / "run/metrics.md").read_text().splitlines() == expected
    assert [row["step"] for row in rows if "train/distance" in row] == [10, 20]


def test_the_data_set_reads_its_own_files_too(tmp_path):
    (tmp_path / "stars.txt").write_text("***** The soup was good.\n* The soup was bad.\n")
    overrides = {"data.train": tmp_path / "stars.txt", "data.batch_size": 2}
    _, data = bert_lightning.build(["base.yaml", "own_dataset.yaml"], overrides, allow_modules=["own_dataset"])
    assert [(each.text, each.label) for each in data.splits["train"].examples] == [
        ("The soup was good.", "good"),
        ("The soup was bad.", "bad"),
    ]


@pytest.mark.parametrize("name", ["plain_trainer", "walkthrough"])
def test_a_script_runs(name, folder, capsys):
    runpy.run_path(str(folder / f"{name}.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert "'label': 'good'" in out
    assert os.getcwd() == str(folder)
