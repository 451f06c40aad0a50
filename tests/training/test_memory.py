import json
import subprocess
import sys

import pytest
import yaml

from bert_lightning.tasks.catalogue import TASKS
from tests.support.methods import experiment_of


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_memory_of_a_training_stays_what_it_was_after_fifty_steps(
    task, store, validation_store, tables, tokenizer, tmp_path
):
    sources = {"store": store, "validation_store": validation_store, "tables": tables, "tokenizer": tokenizer}
    values = experiment_of(task, sources, tmp_path / "data")
    values["trainer"] |= {
        "max_steps": 2000,
        "precision": "bf16-mixed",
        "log_every_n_steps": 50,
        "val_check_interval": 500,
    }
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "bert_lightning", "fit", "--config", tmp_path / "experiment.yaml"]
    subprocess.run([*command, "--run-directory", tmp_path / "run"], check=True, capture_output=True)
    rows = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    peaks = [row["train/peak_memory_gb"] for row in rows if "train/peak_memory_gb" in row]
    assert len(peaks) == 40
    assert peaks[-1] <= 1.1 * peaks[0]
