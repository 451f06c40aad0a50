"""Run directories and studies that hold what commands over several runs read, without any training."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import yaml

from bert_lightning.studies.record import RecordedRun, StudyRecord

BEGAN = 1_700_000_000


def make_run(
    folder: Path,
    ended: str | None = "finished",
    rows: Sequence[Mapping[str, object]] = (),
    *,
    config: Mapping[str, object] = {},
    predictions: Sequence[Mapping[str, object]] = (),
    **manifest: object,
) -> Path:
    """Write a run that began at BEGAN, with the rows of its metrics and of its last validation's predictions."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"experiment": "e", **config}))
    session = {
        "started": datetime.fromtimestamp(BEGAN, UTC).isoformat(),
        "versions": {},
        "hardware": {},
        "git": None,
        **manifest.pop("session", {}),  # type: ignore[dict-item]
    }
    values = {"experiment": "e", "seed": 1, "num_steps": 100, "ended": ended, "sessions": [session], **manifest}
    (folder / "manifest.json").write_text(json.dumps(values))
    (folder / "metrics.jsonl").write_text(_lines(rows))
    if predictions:
        (folder / "predictions").mkdir()
        (folder / "predictions/validation.jsonl").write_text(_lines(predictions))
    return folder


def _lines(rows: Sequence[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def row(step: int, seconds: float, **metrics: float) -> dict[str, object]:
    return {"time": BEGAN + seconds, "step": step, **{name.replace("_", "/", 1): v for name, v in metrics.items()}}


def make_study(folder: Path, *runs: RecordedRun) -> Path:
    folder.mkdir(parents=True)
    StudyRecord(study="s", question="?", file="", version="0", stages=("one",), runs=runs).write(folder)
    return folder


def recorded(directory: str, state: str, **values: object) -> RecordedRun:
    return RecordedRun(stage="one", arm="a", values={}, seed=7, directory=directory, state=state, **values)
