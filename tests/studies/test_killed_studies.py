"""A study that is killed at any moment repeats no finished run, and ends with the same weights."""

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bert_lightning.runs.directory import RunDirectory
from bert_lightning.studies.record import StudyRecord
from tests.support.commands import shell
from tests.support.studies import write_experiments, write_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(autouse=True)
def experiments(tmp_path, monkeypatch, store, validation_store, tables):
    monkeypatch.chdir(tmp_path)
    write_experiments(tmp_path, store, validation_store, tables)


def lengthen(name: str, num_steps: int, **trainer: object) -> None:
    """Let an experiment have more steps, with a checkpoint at every tenth."""
    values = yaml.safe_load(Path(name).read_text())
    values["trainer"] |= {"max_steps": num_steps, "val_check_interval": num_steps, **trainer}
    values["checkpoint"] = {"every_n_steps": 10, "keep_last": 2}
    Path(name).write_text(yaml.safe_dump(values))


def weights(folder: str) -> dict[str, str]:
    """Return the SHA-256 of the weights of each run of a study."""
    runs = StudyRecord.read(Path(folder)).runs
    return {run.directory: RunDirectory(Path(folder) / run.directory).read_manifest()["weights"] for run in runs}


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bert_lightning", "ablate", "study.yaml", "--jobs", "2", *arguments]
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    with open("ablate.log", "a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, text=True)


def test_ten_kills_repeat_no_finished_run_and_change_no_weight(tmp_path):
    lengthen("pretraining.yaml", 120)
    lengthen("topics.yaml", 120)
    write_study(Path("study.yaml"), seeds=[1])
    assert start("--directory", "whole").wait() == 0
    generator = random.Random(7)
    num_kills, folders = 0, ["killed-1"]
    while num_kills < 10:
        study = start("--directory", folders[-1])
        try:
            status = study.wait(generator.uniform(1, 20))
        except subprocess.TimeoutExpired:
            number = generator.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
            study.send_signal(number)
            num_kills += 1
            expected = {signal.SIGKILL: {-9}, signal.SIGTERM: {143, -15, 0}, signal.SIGINT: {130, -2, 0}}
            assert study.wait() in expected[number]
            if number != signal.SIGKILL and StudyRecord.exists(Path(folders[-1])):
                assert not StudyRecord.read(Path(folders[-1])).of_state("running")
        else:
            # It ended before the kill, so the next kills meet another one.
            assert status == 0
            folders.append(f"killed-{len(folders) + 1}")
    for folder in folders:
        done = shell("ablate", "study.yaml", "--jobs", "2", "--directory", folder, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert weights(folder) == weights("whole")
        again = shell("ablate", "study.yaml", "--directory", folder, cwd=tmp_path)
        assert "4 finished" in again.stdout
        assert "started:" not in again.stdout
        for log in Path(folder).glob("runs/*/*.log"):
            # Each process begins its part of the log with a line. None began after the run had finished.
            parts = re.split(r"(?m)^=== ", log.read_text())[1:]
            assert ["run directory: " in part for part in parts] == [*([False] * (len(parts) - 1)), True]


def test_runs_of_two_processes_train_at_the_same_time_and_end_together():
    lengthen("pretraining.yaml", 20, devices=2)
    lengthen("topics.yaml", 20, devices=2)
    write_study(Path("study.yaml"), seeds=[1])
    study = start("--directory", "two")
    with pytest.raises(subprocess.TimeoutExpired):
        study.wait(15)
    study.send_signal(signal.SIGTERM)
    assert study.wait() == 143
    assert not StudyRecord.read(Path("two")).of_state("running", "failed")
    # No process of a run is left.
    folder = str(Path("two/runs"))
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert not [line for line in listed.splitlines() if f"--run-directory {folder}" in line]
    assert start("--directory", "two").wait() == 0
    ports = set()
    for run in StudyRecord.read(Path("two")).runs:
        assert run.state == "finished"
        ports.add(run.directory)
        assert RunDirectory(Path("two") / run.directory).read_manifest()["ended"] == "finished"
    assert len(ports) == 4
