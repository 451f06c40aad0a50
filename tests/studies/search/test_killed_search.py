"""A search whose process is killed at random moments has the outcome of one that is not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from bert_lightning.studies.record import StudyRecord
from tests.support.runs import logged
from tests.support.task_data import tiny_classification

SEARCH = {
    "trials": 4,
    "metric": "val/loss",
    "sampler": {"name": "tpe", "startup_trials": 2},
    "pruner": {"name": "median", "startup_trials": 1},
    "confirm_seeds": 1,
    "space": {"optimizer.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}},
}


def search(folder: Path, patience: float | None) -> int | None:
    """Run the command; return its status, or None if it was killed after some seconds."""
    command = [sys.executable, "-m", "bert_lightning", "search", "study.yaml", "--directory", str(folder)]
    environment = {**os.environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        return process.wait(patience)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_that_is_killed_again_and_again_trains_what_one_that_is_not_trains(
    tables, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    values = tiny_classification(tables, tokenizer, tmp_path)
    values["trainer"] |= {"max_steps": 40, "val_check_interval": 10}
    Path("base.yaml").write_text(yaml.safe_dump(values))
    Path("study.yaml").write_text(yaml.safe_dump({"study": "rates", "base": "base.yaml", "search": SEARCH}))
    began = time.monotonic()
    assert search(Path("whole"), None) == 0
    whole = time.monotonic() - began
    generator = random.Random(1)
    num_kills = 0
    while (status := search(Path("killed"), whole * generator.uniform(0.2, 0.5) if num_kills < 10 else None)) is None:
        num_kills += 1
    assert status == 0
    # Each of the first two has less time than half of the search takes.
    assert num_kills >= 2
    whole, killed = (StudyRecord.read(Path(name)) for name in ("whole", "killed"))
    assert killed.search["arms"] == whole.search["arms"]
    assert [(run.arm, run.trial, run.directory) for run in killed.runs] == [
        (run.arm, run.trial, run.directory) for run in whole.runs
    ]
    # A run that was stopped early may have trained on for some steps before the signal came.
    for run in (run for run in whole.runs if run.state == "finished" and run.trial is None):
        assert logged(Path("killed") / run.directory) == logged(Path("whole") / run.directory)
