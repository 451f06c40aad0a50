"""The content of a W&B file, read without W&B's server: a log of protocol buffers in LevelDB's format."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

# https://github.com/google/leveldb/blob/main/doc/log_format.md, after the 7 bytes of W&B's own header.
_BLOCK, _HEADER, _FULL, _LAST = 32768, 7, 1, 4


def records(path: Path) -> Iterator[Record]:
    """Yield the records of a .wandb file."""
    data, at, part = path.read_bytes(), _HEADER, b""
    assert data.startswith(b":W&B")
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + _HEADER])
        at += _HEADER
        part += data[at : at + length]
        at += length
        if kind in (_FULL, _LAST):
            record = Record()
            record.ParseFromString(part)
            part = b""
            yield record


@dataclass
class WandbRun:
    """An offline W&B run.

    Attributes:
        id: and name, project, group, job_type and tags, as W&B has them.
        config: the configuration.
        rows: the history, a mapping per step.
        summary: the last value of each metric.
        exit_code: that of the run; None if it did not end.
        folder: the run's folder.
    """

    id: str
    name: str
    project: str
    group: str
    job_type: str
    tags: list[str]
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    exit_code: int | None
    folder: Path

    def table(self, name: str) -> tuple[list[str], list[list[Any]]]:
        """Return columns and rows of a table that was logged under a name."""
        [value] = [row[name] for row in self.rows if name in row]
        table = json.loads((self.folder / "files" / value["path"]).read_text())
        return table["columns"], table["data"]

    def scalars(self) -> list[dict[str, Any]]:
        """Return the rows without W&B's own entries, and without the rows of tables and pictures."""
        rows = [{name: value for name, value in row.items() if not name.startswith("_")} for row in self.rows]
        return [row for row in rows if not any(isinstance(value, dict) for value in row.values())]


def read_wandb(folder: Path) -> WandbRun:
    """Read an offline W&B run from its folder."""
    [path] = folder.glob("run-*.wandb")
    run, rows, summary, exit_code = None, [], {}, None
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
        elif kind == "history":
            rows.append(_items(record.history.item))
        elif kind == "summary":
            summary |= _items(record.summary.update)
        elif kind == "exit":
            exit_code = record.exit.exit_code
    assert run is not None
    config = {item.key: json.loads(item.value_json) for item in run.config.update if item.key != "_wandb"}
    return WandbRun(
        run.run_id,
        run.display_name,
        run.project,
        run.run_group,
        run.job_type,
        list(run.tags),
        config,
        rows,
        summary,
        exit_code,
        folder,
    )


def _items(items: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items:
        *parents, last = item.nested_key or [item.key]
        inside = values
        for parent in parents:
            inside = inside.setdefault(parent, {})
        inside[last] = json.loads(item.value_json)
    return values
