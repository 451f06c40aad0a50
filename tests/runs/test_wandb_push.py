"""Offline W&B runs are complete, and `wandb-push` rebuilds them from the run directory, exact to the row."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import wandb
import yaml

from bert_lightning.cli import main
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.lock import DirectoryLock
from bert_lightning.training.metrics_file import append
from tests.support.runs import fit, logged
from tests.support.wandb_files import WandbRun, read_wandb

STUDY = {"WANDB_RUN_GROUP": "nsp", "WANDB_JOB_TYPE": "topics", "WANDB_TAGS": "objective=none,rate=0.003"}


@pytest.fixture(scope="module")
def experiment(tables, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    tokenizer.save(folder / "tokenizer")
    values = {
        "experiment": "topics",
        "task": "text-classification",
        "model": {"size": "tiny", "config": {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}},
        "data": {
            **{split: str(tables["train"]) for split in ("train", "validation", "test")},
            "text_column": "sentence",
            "label_column": "topic",
            "tokenizer": str(folder / "tokenizer"),
            "max_seq_length": 16,
            "batch_size": 8,
        },
        "trainer": {
            "max_steps": 6,
            "val_check_interval": 3,
            "log_every_n_steps": 1,
            "accelerator": "cpu",
            "precision": "32",
        },
        "checkpoint": {"every_n_steps": 2, "keep_last": 9},
        "wandb": {"project": "rooms", "tags": ["of-the-file"]},
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def offline() -> Iterator[pytest.MonkeyPatch]:
    """W&B as on a machine without a key, and the study in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.delenv("WANDB_DATA_DIR", raising=False)
        for name, value in STUDY.items():
            patch.setenv(name, value)
        yield patch


@pytest.fixture(scope="module")
def run(experiment, offline, tmp_path_factory) -> Path:
    """A finished run with its offline W&B run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert fit(experiment, folder) == 0
    wandb.teardown()
    return folder


def of_metrics(run: Path) -> list[dict]:
    """Return the rows of metrics.jsonl under the names of W&B, except their time."""
    rows = RunDirectory(run).read_metrics()
    return [{"trainer/global_step" if k == "step" else k: v for k, v in row.items() if k != "time"} for row in rows]


def pushed(tmp_path: Path, *arguments: object) -> list[WandbRun]:
    command = ["wandb-push", *map(str, arguments), "--mode", "offline", "--directory", str(tmp_path / "pushed")]
    assert main(command) == 0
    return [read_wandb(folder) for folder in sorted((tmp_path / "pushed/wandb").glob("offline-run-*"))]


def check_tables(found: WandbRun, run: Path) -> None:
    """Check that predictions, report and confusion matrix of the validation are there, value by value."""
    predictions = [json.loads(line) for line in (run / "predictions/validation.jsonl").read_text().splitlines()]
    columns, rows = found.table("validation/predictions")
    assert len(rows) == len(predictions) > 10
    for row, prediction in zip(rows, predictions, strict=True):
        cells = dict(zip(columns, row, strict=True))
        assert {
            name: json.loads(cells[name]) if isinstance(value, dict | list) else cells[name]
            for name, value in prediction.items()
        } == prediction
    columns, rows = found.table("validation/confusion counts")
    assert columns == ["gold", "predicted", "count"]
    counts = {(gold, guess): count for gold, guess, count in rows}
    for (gold, guess), count in counts.items():
        assert count == sum(each["gold"] == gold and each["label"] == guess for each in predictions)
    assert sum(counts.values()) == len(predictions)
    [picture] = [row["validation/confusion matrix"] for row in found.rows if "validation/confusion matrix" in row]
    assert (found.folder / "files" / picture["path"]).read_bytes().startswith(b"\x89PNG")
    columns, rows = found.table("validation/classes")
    report = json.loads((run / "predictions/validation/report.json").read_text())["classes"]
    assert [dict(zip(columns, row, strict=True)) for row in rows] == report


def test_the_offline_run_of_a_training_holds_all_that_metrics_jsonl_holds(run):
    [folder] = (run / "wandb").glob("offline-run-*")
    found = read_wandb(folder)
    assert found.scalars() == of_metrics(run)
    assert {"train/gradient_norm", "train/learning_rate", "train/tokens_per_second"} <= found.scalars()[0].keys()
    assert (found.group, found.job_type, found.tags) == ("nsp", "topics", ["objective=none", "rate=0.003"])
    assert (found.project, found.id) == ("rooms", RunDirectory(run).read_manifest()["run_id"])
    assert found.config == RunDirectory(run).read_config()
    assert found.exit_code == 0
    check_tables(found, run)


def test_what_w_and_b_uploads_later_is_in_the_run_directory(run):
    [folder] = (run / "wandb").glob("offline-run-*")
    staged = [json.loads(path.read_bytes()) for path in (run / "wandb/artifacts/staging").iterdir()]
    tables = [json.loads(path.read_bytes()) for path in folder.glob("files/media/table/**/*.json")]
    assert len(tables) == 3
    for table in tables:
        assert table in [{name: each[name] for name in table} for each in staged]


def test_the_study_in_the_environment_changes_no_identity(run, experiment, offline, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        for name in STUDY:
            patch.delenv(name)
        patch.setenv("WANDB_MODE", "disabled")
        assert fit(experiment, tmp_path / "alone") == 0
    one, other = RunDirectory(run), RunDirectory(tmp_path / "alone")
    assert one.read_experiment().identity == other.read_experiment().identity
    assert one.config.read_text() == other.config.read_text()
    assert logged(run) == logged(other.path)
    # Without a study, a run is grouped by its experiment.
    [session] = other.read_manifest()["sessions"]
    assert session["wandb"] == {"group": "topics", "job_type": "text-classification", "tags": ["of-the-file"]}


def test_a_pushed_run_is_the_run_of_the_training(run, tmp_path):
    [found] = pushed(tmp_path, run)
    [live] = [read_wandb(folder) for folder in (run / "wandb").glob("offline-run-*")]
    assert found.scalars() == live.scalars() == of_metrics(run)
    times = [row["time"] for row in RunDirectory(run).read_metrics()]
    assert [row["_timestamp"] for row in found.rows][: len(times)] == times
    for name in ("group", "job_type", "tags", "project", "config", "exit_code"):
        assert getattr(found, name) == getattr(live, name), name
    manifest = RunDirectory(run).read_manifest()
    assert found.id.startswith(f"{manifest['run_id']}-")
    assert found.summary["run_id"] == manifest["run_id"]
    assert found.summary["weights"] == manifest["weights"]
    check_tables(found, run)
    assert not list((tmp_path / "pushed/wandb").glob(".push-*"))


def test_a_killed_and_resumed_run_is_pushed_without_a_lost_or_doubled_row(run, experiment, offline, tmp_path):
    killed = tmp_path / "killed"
    shutil.copytree(run, killed, symlinks=True)
    # A session that was killed after step 5, whose last checkpoint is that of step 4.
    for path in killed.glob("checkpoints/*"):
        if path.is_symlink() or "000005" in path.name or "000006" in path.name:
            path.unlink()
    rows = (killed / "metrics.jsonl").read_text().splitlines(keepends=True)
    last = next(number for number, row in enumerate(rows) if json.loads(row)["step"] == 5)
    (killed / "metrics.jsonl").write_text("".join(rows[: last + 1]) + rows[last + 1][:20])
    RunDirectory(killed).update_manifest(ended=None)
    assert fit(experiment, killed) == 0
    wandb.teardown()
    # W&B has one run in two files, and in them the rows of step 5 twice.
    sessions = [read_wandb(folder) for folder in sorted((killed / "wandb").glob("offline-run-*"))]
    assert len({session.id for session in sessions}) == 1
    steps = [row["trainer/global_step"] for session in sessions for row in session.scalars() if "train/loss" in row]
    assert steps.count(5) == 2
    [found] = pushed(tmp_path, killed)
    names = logged(run)[0].keys() - {"step"}
    assert found.scalars() == of_metrics(killed)
    assert [{name: row.get(name) for name in names} for row in found.scalars()] == [
        {name: row.get(name) for name in names} for row in logged(run)
    ]
    assert [row["trainer/global_step"] for row in found.scalars()] == [1, 2, 3, 3, 4, 5, 6, 6]


def test_the_same_content_is_pushed_once_and_scored_runs_become_others(run, tmp_path, capsys):
    other = tmp_path / "scored"
    shutil.copytree(run, other, symlinks=True)
    [first] = pushed(tmp_path, other)
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    [again] = pushed(tmp_path, other, other)
    assert "pushed already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in again.folder.rglob("*")} == before
    scored = {
        "step": 4,
        "checkpoint": "step-000000004.ckpt",
        "data": "else.tsv",
        "val/accuracy": 0.125,
        "test/f1": 0.5,
    }
    append(other / "metrics.jsonl", scored)
    found = {each.id: each for each in pushed(tmp_path, other)}
    [new] = found.keys() - {first.id}
    assert found[new].scalars()[-1] == {"trainer/global_step": 4, **{k: v for k, v in scored.items() if k != "step"}}
    # The summary keeps what the training ended with.
    assert found[new].summary["val/accuracy"] == first.summary["val/accuracy"]
    assert found[new].summary["test/f1"] == 0.5


def test_values_that_are_no_numbers_and_runs_that_did_not_end_are_pushed_as_they_are(run, tmp_path):
    other = tmp_path / "diverged"
    shutil.copytree(run, other, symlinks=True)
    shutil.rmtree(other / "predictions")
    append(other / "metrics.jsonl", {"step": 7, "train/loss": math.nan, "train/gradient_norm": math.inf})
    RunDirectory(other).update_manifest(ended="stopped by SIGTERM")
    [found] = pushed(tmp_path, other, "--project", "elsewhere")
    last = found.scalars()[-1]
    assert math.isnan(last["train/loss"])
    assert math.isnan(last["train/gradient_norm"])
    assert found.exit_code == 1
    assert found.summary["ended"] == "stopped by SIGTERM"
    assert found.project == "elsewhere"


def test_the_environment_wins_over_what_the_run_recorded(run, offline, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_RUN_GROUP", "another study")
        patch.delenv("WANDB_TAGS")
        patch.setenv("WANDB_JOB_TYPE", "")
        [found] = pushed(tmp_path, run)
    assert (found.group, found.job_type, found.tags) == ("another study", "topics", ["objective=none", "rate=0.003"])


def test_an_upload_is_w_and_bs_own_and_happens_once(run, tmp_path, monkeypatch, capsys):
    calls, run_command = [], subprocess.run

    def sync(command, **options):
        # W&B looks for a git repository.
        if "sync" not in command:
            return run_command(command, **options)
        calls.append(command)
        if len(calls) > 1:
            Path(command[-1], "run-x.wandb.synced").touch()
        return subprocess.CompletedProcess(command, int(len(calls) == 1), "", "wandb: ERROR no network")

    monkeypatch.setattr(subprocess, "run", sync)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    command = ["wandb-push", str(run), "--mode", "online", "--directory", str(tmp_path)]
    assert main(command) == 1
    assert "no network: give the same command again" in capsys.readouterr().err
    assert main(command) == 0
    assert "uploaded" in capsys.readouterr().out
    assert main(command) == 0
    assert "pushed already" in capsys.readouterr().out
    [folder] = (tmp_path / "wandb").glob("offline-run-*")
    assert calls == [[sys.executable, "-m", "wandb", "sync", str(folder)]] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "missing is not a run directory"),
        (["{run}", "missing"], "missing is not a run directory"),
        (["{run}", "--project", "a/b"], "--project: project is 'a/b'; it must have 1 to 128 characters"),
        (["{run}", "--mode", "online"], "--mode online needs an API key"),
        (["{empty}"], "metrics.jsonl is still empty"),
        (["{run}", "--directory", "{run}/config.yaml"], "cannot be written"),
    ],
)
def test_bad_input_is_one_message_and_nothing_is_written(run, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    shutil.copy(run / "config.yaml", tmp_path / "empty")
    filled = [each.format(run=run, empty="empty") for each in arguments]
    assert main(["wandb-push", *filled]) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"empty"}


@pytest.mark.parametrize("file", ["validation.jsonl", "validation/report.json"])
def test_a_damaged_file_of_predictions_is_one_message(run, tmp_path, capsys, file):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "predictions" / file).write_text("{")
    assert main(["wandb-push", str(copy)]) == 2
    error = capsys.readouterr().err
    assert f"{copy / 'predictions' / file}: damaged" in error
    assert "Traceback" not in error


def test_a_run_that_still_trains_is_refused(run, tmp_path, capsys):
    training = tmp_path / "training"
    shutil.copytree(run, training, symlinks=True)
    with closing(DirectoryLock(training)) as lock:
        lock.take()
        assert main(["wandb-push", str(training), "--mode", "offline", "--directory", str(tmp_path)]) == 2
    assert "is training there: push the run when it has ended" in capsys.readouterr().err


def test_a_deleted_and_repeated_run_is_another_one_in_w_and_b(run, experiment, offline, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        assert fit(experiment, tmp_path / "run", "--trainer.max_steps=2") == 0
        first = RunDirectory(tmp_path / "run").read_manifest()["run_id"]
        # A run that moves stays the same one.
        (tmp_path / "run").rename(tmp_path / "moved")
        RunDirectory(tmp_path / "moved").update_manifest(ended=None)
        assert fit(experiment, tmp_path / "moved", "--trainer.max_steps=2") == 0
        assert RunDirectory(tmp_path / "moved").read_manifest()["run_id"] == first
        assert fit(experiment, tmp_path / "run", "--trainer.max_steps=2") == 0
        second = RunDirectory(tmp_path / "run").read_manifest()["run_id"]
    assert first != second
    assert first.rpartition("-")[0] == second.rpartition("-")[0]
