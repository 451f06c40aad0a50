"""A finished run is repeated bit for bit, and every difference is reported."""

import json
import shutil

import pytest

from bert_lightning.cli import main
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.studies.reproduction import compare
from bert_lightning.studies.two_runs import circumstances_of
from tests.support.commands import shell


@pytest.fixture(scope="module")
def run(tmp_path_factory, store, validation_store):
    """A finished run of pre-training with dropout, made with --deterministic."""
    folder = tmp_path_factory.mktemp("reproduction")
    config = folder / "experiment.yaml"
    config.write_text(
        f"""
experiment: again
task: pretraining
model:
  size: tiny
  config: {{num_hidden_layers: 1, hidden_size: 16, num_attention_heads: 2, intermediate_size: 32}}
data: {{train: {store}, validation: {validation_store}, max_seq_length: 32, batch_size: 8}}
trainer: {{max_steps: 6, log_every_n_steps: 1, val_check_interval: 3, accelerator: cpu, precision: 32}}
wandb: {{mode: disabled}}
"""
    )
    assert main(["fit", "--config", str(config), "--run-directory", str(folder / "run"), "--deterministic"]) == 0
    return folder / "run"


def test_a_run_is_trained_again_with_bitwise_equal_results(run, tmp_path, capsys):
    assert main(["reproduce", str(run), "--output", str(tmp_path / "again")]) == 0
    out = capsys.readouterr().out
    num_values = sum(
        not name.endswith(("_share", "per_second", "mfu", "memory_gb", "interval_seconds"))
        and name not in ("time", "step")
        for row in RunDirectory(run).read_metrics()
        for name in row
    )
    assert f"metrics: all {num_values} equal, step by step" in out
    assert f"final weights: equal (SHA-256 {RunDirectory(run).read_manifest()['weights'][:16]})" in out
    assert RunDirectory(tmp_path / "again").read_config()["trainer"]["deterministic"] is True


def test_later_scores_are_not_compared(run, tmp_path, capsys):
    other = tmp_path / "scored"
    shutil.copytree(run, other, symlinks=True)
    assert main(["validate", "--checkpoint", str(other)]) == 0
    comparison = compare(RunDirectory(run), RunDirectory(other))
    assert comparison.equal


def test_a_session_that_recorded_nothing_has_no_circumstances():
    assert set(circumstances_of({}).values()) == {None}


@pytest.mark.parametrize("sessions", [{}, ["x"], "x"])
def test_a_manifest_whose_sessions_are_no_objects_is_damaged(sessions, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"sessions": sessions}))
    with pytest.raises(InputError, match="damaged: sessions must be a list of objects"):
        RunDirectory(tmp_path).read_manifest()


def test_a_change_between_the_sessions_of_a_run_is_named(run, tmp_path):
    other = RunDirectory(tmp_path / "other")
    shutil.copytree(run, other.path, symlinks=True)
    [session] = other.read_manifest()["sessions"]
    changed = {**session, "settings": {**session["settings"], "trainer.devices": 2}}
    other.update_manifest(sessions=[session, changed])
    assert "trainer.devices 1 -> 2" in compare(RunDirectory(run), other).circumstances


def test_another_patch_of_uncommitted_files_is_named_unless_an_earlier_version_recorded_none(run, tmp_path):
    other = RunDirectory(tmp_path / "other")
    shutil.copytree(run, other.path, symlinks=True)
    [session] = other.read_manifest()["sessions"]
    gits = [{"commit": "0" * 40, "modified": True, "patch": f"uncommitted-{n}.patch"} for n in (1, 2)]
    gits += [{"commit": "0" * 40, "modified": True}, gits[1]]
    other.update_manifest(sessions=[{**session, "git": git} for git in gits])
    changed = [text for text in compare(other, other).circumstances if "patch" in text]
    # The run is compared with itself, so its sessions come twice, and the first follows the last.
    assert changed == [
        "uncommitted patch uncommitted-1.patch -> uncommitted-2.patch",
        "uncommitted patch uncommitted-2.patch -> uncommitted-1.patch",
        "uncommitted patch uncommitted-1.patch -> uncommitted-2.patch",
    ]


def test_a_finished_run_is_not_compared_instead_of_a_new_training(run, tmp_path, capsys, monkeypatch):
    assert main(["reproduce", str(run), "--output", str(run)]) == 2
    assert "holds a finished run" in capsys.readouterr().err
    monkeypatch.chdir(run)
    again = run.with_name(f"{run.name}-reproduced")
    assert main(["reproduce", "."]) == 0
    assert again.is_dir()
    assert main(["reproduce", "."]) == 2


def test_a_different_metric_is_named_with_its_step(run, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(run, other, symlinks=True)
    rows = [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
    [changed, *_] = [row for row in rows if row["step"] == 4 and "train/loss" in row]
    changed["train/loss"] += 1e-6
    (other / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    comparison = compare(RunDirectory(run), RunDirectory(other))
    assert [(each.step, each.metric) for each in comparison.differences] == [(4, "train/loss")]
    assert not comparison.equal
    assert main(["reproduce", str(other), "--output", str(tmp_path / "again")]) == 1
    assert "1 of " in capsys.readouterr().out


def test_norms_that_an_earlier_version_did_not_log_are_no_difference(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other, symlinks=True)
    rows = [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
    assert any("train/gradient_norm" in row for row in rows)
    earlier = [{name: value for name, value in row.items() if "_norm" not in name} for row in rows]
    (other / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in earlier))
    assert compare(RunDirectory(other), RunDirectory(run)).equal
    # A single value that is missing is a difference.
    [first, *rest] = rows
    del first["train/gradient_norm"]
    (other / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [first, *rest]))
    [difference] = compare(RunDirectory(other), RunDirectory(run)).differences
    assert difference[:3] == (1, "train/gradient_norm", None)


def test_other_weights_differ_though_the_metrics_agree(run, tmp_path):
    other = RunDirectory(tmp_path / "other")
    shutil.copytree(run, other.path, symlinks=True)
    other.update_manifest(weights="0" * 64)
    comparison = compare(RunDirectory(run), other)
    assert not comparison.differences
    assert not comparison.equal


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ended": "stopped by SIGTERM"}, "has not finished"),
        ({"data": {"train": "0" * 64}}, "the train data, the validation data changed since the run"),
    ],
)
def test_a_run_that_cannot_be_repeated_is_refused_and_nothing_is_written(run, tmp_path, capsys, change, message):
    other = tmp_path / "other"
    shutil.copytree(run, other, symlinks=True)
    RunDirectory(other).update_manifest(**change)
    assert main(["reproduce", str(other)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "other-reproduced").exists()


@pytest.mark.slow
def test_a_run_of_two_processes_is_trained_again_by_two(run, tmp_path):
    config = run.parent / "experiment.yaml"
    two = ["--trainer.devices", 2, "--trainer.strategy", "ddp", "--run-directory", tmp_path / "two"]
    assert shell("fit", "--config", config, *two, cwd=tmp_path).returncode == 0
    again = shell("reproduce", tmp_path / "two", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("final weights: equal") == 1
