import json
import os
import signal

import pytest

from bert_lightning.errors import WorkError
from bert_lightning.training import metrics_file
from bert_lightning.training.metrics_file import MetricsFile


@pytest.mark.parametrize("num_rows", [50, 200, 2000])
def test_rows_logged_before_a_kill_are_complete(tmp_path, num_rows):
    logged, tell = os.pipe()
    child = os.fork()
    if not child:
        try:
            file = MetricsFile(tmp_path)
            for step in range(1, num_rows + 1):
                file.log_metrics({"train/loss": 1 / step, "epoch": 0}, step)
            os.write(tell, b".")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(logged, 1) == b"."
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    os.close(logged), os.close(tell)
    rows = metrics_file.read(tmp_path / metrics_file.NAME)
    assert [row["step"] for row in rows] == list(range(1, num_rows + 1))
    assert all(row["train/loss"] == 1 / row["step"] for row in rows)


def test_a_row_truncated_by_a_kill_costs_no_other_row(tmp_path):
    path = tmp_path / metrics_file.NAME
    for step in (1, 2):
        metrics_file.append(path, {"step": step})
    path.write_bytes(path.read_bytes()[:-5])
    assert [row["step"] for row in metrics_file.read(path)] == [1]
    assert json.loads(path.read_text().splitlines()[0])["step"] == 1


def test_a_full_disk_is_one_message_that_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / metrics_file.NAME
    # A full disk writes a truncated row without an error.
    monkeypatch.setattr(metrics_file.os, "write", lambda descriptor, content: len(content) // 2)
    with pytest.raises(WorkError, match=r"metrics\.jsonl: cannot be written: No space left on device"):
        metrics_file.append(path, {"step": 1})
