"""Run directories of an earlier version: today's commands continue, score, report and reproduce them."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from bert_lightning.cli import main
from bert_lightning.config.experiment import load_experiment
from bert_lightning.runs.directory import RunDirectory, default_directory
from bert_lightning.studies.comparison import group_runs, read_run
from tests.support.files import SAVED_RUNS
from tests.support.runs import weights


@pytest.fixture
def saved(tmp_path, monkeypatch) -> Path:
    """Return a copy of the folder in which the earlier version ran; it is the current folder."""
    folder = tmp_path / "saved"
    shutil.copytree(SAVED_RUNS, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def interrupted(saved) -> Path:
    [path] = saved.glob("runs/tagging/*")
    return path


@pytest.fixture
def finished(saved) -> Path:
    [path] = saved.glob("runs/texts/*")
    return path


def test_the_command_of_an_interrupted_run_continues_it_in_its_directory(interrupted, capsys):
    # The first five steps were computed by another version, maybe on another processor. So both runs start there.
    shutil.copytree(interrupted, "copy", symlinks=True)
    assert main(["fit", "--config", "tagging.yaml"]) == 0
    assert "from step 5" in capsys.readouterr().out
    assert list(Path("runs/tagging").iterdir()) == [Path("runs/tagging") / interrupted.name]
    run = RunDirectory(interrupted)
    assert run.read_manifest()["ended"] == "finished"
    assert run.read_config()["model"]["head"]["crf"] is True
    # A run that this version starts from that checkpoint ends in the same bits.
    # The default of the earlier version was 32, which the continued run has kept.
    assert run.read_config()["trainer"]["precision"] == "32"
    anew = [
        "--resume",
        "copy/checkpoints/step-000000005.ckpt",
        "--run-directory",
        "anew",
        "--trainer.precision",
        "32",
    ]
    assert main(["fit", "--config", "tagging.yaml", "--model.crf", "true", *anew]) == 0
    continued, fresh = weights(interrupted), weights(Path("anew"))
    assert continued.keys() == fresh.keys()
    assert all(torch.equal(continued[name], fresh[name]) for name in fresh)


def test_a_continued_run_is_found_again_and_is_finished(interrupted, capsys):
    assert main(["fit", "--config", "tagging.yaml"]) == 0
    capsys.readouterr()
    assert main(["fit", "--config", "tagging.yaml"]) == 0
    assert f"finished before: runs/tagging/{interrupted.name}" in capsys.readouterr().out


def test_other_settings_get_another_directory(interrupted, finished):
    experiment = load_experiment([Path("tagging.yaml")])
    assert default_directory(experiment) == Path("runs/tagging") / interrupted.name
    for change in (["--seed_everything", "2"], ["--model.head.crf", "false"], ["--data.window_overlap", "9"]):
        other = load_experiment([Path("tagging.yaml")], change)
        assert default_directory(other) == Path("runs/tagging") / other.identity


def test_other_settings_in_the_directory_are_refused_by_name(interrupted, capsys):
    change = ["--run-directory", str(interrupted), "--model.head.crf", "false"]
    assert main(["fit", "--config", "tagging.yaml", *change]) == 2
    assert "other settings (model.head.crf)" in capsys.readouterr().err


def test_a_saved_key_that_this_version_does_not_know_is_one_message(interrupted, capsys):
    with (interrupted / "config.yaml").open("a") as file:
        file.write("a_later_section: {x: 1}\n")
    assert main(["fit", "--config", "tagging.yaml", "--run-directory", str(interrupted)]) == 2
    error = capsys.readouterr().err
    assert f"{interrupted}/config.yaml: this version cannot read the saved configuration" in error
    assert "unknown key 'a_later_section'" in error


@pytest.mark.parametrize("kind", ["interrupted", "finished"])
def test_validate_writes_the_scores_beside_the_runs_own(kind, request, capsys):
    run = request.getfixturevalue(kind)
    assert main(["validate", "--checkpoint", str(run)]) == 0
    assert "val/loss" in capsys.readouterr().out
    # The name says that data and settings are the run's own, although it knows fewer keys.
    assert (run / "predictions/validation.jsonl").is_file()
    assert not list((run / "predictions").glob("validation-*"))


def test_predict_reads_the_finished_run(finished):
    Path("raw.jsonl").write_text(json.dumps({"sentence": "The old cat sees the young dog."}) + "\n")
    assert (
        main(["predict", "--checkpoint", str(finished), "--input", "raw.jsonl", "--output", "predictions.jsonl"]) == 0
    )
    [prediction] = map(json.loads, Path("predictions.jsonl").read_text().splitlines())
    assert prediction["label"] in ("animals", "nature", "places")


def test_report_takes_an_earlier_and_a_new_run_for_two_seeds_of_one_experiment(finished):
    # The default of the earlier version.
    options = ["--seed_everything", "2", "--trainer.precision", "32"]
    assert main(["fit", "--config", "texts.yaml", "--run-directory", "now", *options]) == 0
    assert main(["report", str(finished), "now", "--output", "report.html"]) == 0
    assert Path("report.html").is_file()
    # Keys that only one of the two versions saved are no difference between them.
    [group] = group_runs([read_run(finished), read_run(Path("now"))])
    assert [run.seed for run in group.runs] == [1, 2]


def test_reproduce_trains_the_finished_run_again_and_compares_the_weights(finished, capsys):
    # Another processor rounds differently, so the status may be 1. The comparison itself must be there.
    assert main(["reproduce", str(finished), "--output", "again"]) in (0, 1)
    out = capsys.readouterr().out
    assert "metrics: " in out
    assert "final weights: " in out
    equal = [torch.equal(tensor, weights(finished)[name]) for name, tensor in weights(Path("again")).items()]
    assert ("final weights: equal" in out) == all(equal)


def test_the_saved_files_name_no_folder_of_their_machine():
    for path in SAVED_RUNS.rglob("*"):
        if path.is_file():
            # An absolute path of a text file, or of a string in a checkpoint.
            assert not re.search(rb"[\"' ]/[a-z]+/", path.read_bytes()), path
