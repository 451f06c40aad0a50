from bert_lightning.training import metrics_file
from bert_lightning.training.metrics_file import MetricsFile


def test_every_row_is_on_disk_at_once(tmp_path):
    logger = MetricsFile(tmp_path)
    for step in range(3):
        logger.log_metrics({"train/loss": step / 2, "epoch": 0}, step)
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == step + 1
    rows = metrics_file.read(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["train/loss"]) for row in rows] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert "epoch" not in rows[0]


def test_a_line_truncated_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "tra')
    assert metrics_file.read(path) == [{"step": 1}]


def test_rows_after_the_resumed_step_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        metrics_file.append(path, {"step": step})
    metrics_file.forget_after(path, 2)
    assert [row["step"] for row in metrics_file.read(path)] == [1, 2]


def test_a_damaged_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st\xff\xfe": 2}\n{"step": 3}\n')
    assert metrics_file.read(path) == [{"step": 1}, {"step": 3}]
