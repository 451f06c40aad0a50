"""The state of a run, read from its directory without importing torch. Of long files, only the end is read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from bert_lightning.checkpoints.run_files import MANIFEST, METRICS, SETTINGS
from bert_lightning.runs.lock import lock_holder
from bert_lightning.training.metric_rows import read_last
from bert_lightning.wording import first_line

State = Literal[
    "running", "finished", "failed", "interrupted", "killed", "damaged", "unknown", "waiting", "blocked", "pruned"
]
"""State of a run.

A failed run ended by an error, an interrupted one by a signal that it obeyed. A killed one has no end in its
manifest, and no process trains there. If the file system cannot lock, the state of a run without an end is unknown. A
damaged run cannot be read. In a study a run may also be waiting, blocked by one that it starts from, or pruned.
"""

Ending = Literal["finished", "failed", "interrupted"]
"""How a run ended."""

# Bytes of `metrics.jsonl` that usually hold many rows, and those that are read if no validation is among the first.
_TAIL, _LONG_TAIL = 1 << 14, 1 << 18
_SPEED = "train/tokens_per_second"
# Parts of the names of metrics that are scores of guessing.
_BASELINES = ("unigram", "majority")


@dataclass(frozen=True)
class RunStatus:
    """State of a run, as its directory has it.

    Attributes:
        directory: the directory.
        state: see `State`.
        message: why it has not finished, on one line; empty if nothing is recorded.
        experiment: name of the experiment.
        seed: value of `seed_everything`; None if unknown.
        step: last step that is recorded; None if there is none.
        num_steps: steps of the whole training; None if unknown.
        tokens_per_second: real tokens per second in the last log interval; None if not logged.
        steps_per_second: mean over the last rows of the last session.
        seconds_left: estimated time to the end, of a running run.
        scores: metrics of the last validation and test; baselines are left out.
        updated: time of the last row or of the end, in Unix seconds; None if unknown.
        stage: stage of a study.
        arm: arm of a study.
        log: the file of what it prints, if there is one.
    """

    directory: Path
    state: State
    message: str = ""
    experiment: str = ""
    seed: int | None = None
    step: int | None = None
    num_steps: int | None = None
    tokens_per_second: float | None = None
    steps_per_second: float | None = None
    seconds_left: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    updated: float | None = None
    stage: str = ""
    arm: str = ""
    log: Path | None = None


def read_status(directory: Path) -> RunStatus:
    """Read the state of the run in a directory. A damaged run is described, not refused."""
    log = directory.parent / f"{directory.name}.log"
    log_of_run = log if log.is_file() else None
    try:
        manifest = _read_manifest(directory / MANIFEST)
        state = _state(directory, manifest)
        rows = _last_rows(directory / METRICS)
        return _status(directory, state, manifest, rows, log_of_run)
    except (OSError, ValueError) as error:
        return RunStatus(directory, "damaged", first_line(error), log=log_of_run)
    except (TypeError, AttributeError, KeyError) as error:
        # Each entry of a file of unknown origin may have any type.
        message = f"{MANIFEST}: damaged: an entry has the wrong type ({first_line(error)})"
        return RunStatus(directory, "damaged", message, log=log_of_run)


def _read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest; an empty one if there is none yet."""
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        if not path.with_name(SETTINGS).is_file():
            raise ValueError(f"neither {SETTINGS} nor {MANIFEST} is there") from None
        return {}
    except ValueError as error:
        raise ValueError(f"{path.name}: damaged: {error}") from None
    if not isinstance(manifest, dict):
        raise ValueError(f"{path.name}: damaged: a JSON object is expected")
    if not path.with_name(SETTINGS).is_file():
        raise ValueError(f"{SETTINGS} is missing")
    return manifest


def _state(directory: Path, manifest: dict[str, Any]) -> State:
    ending = ending_of(manifest)
    if ending == "finished":
        return ending
    try:
        if lock_holder(directory) is not None:
            return "running"
    except OSError:
        if ending is None:
            return "unknown"
    return ending or "killed"


def ending_of(manifest: Mapping[str, Any]) -> Ending | None:
    """Return how a run ended; None if its manifest records no end, because it still trains or was killed."""
    ended = manifest.get("ended")
    if ended is None or ended == "finished" or ended == "failed":
        return ended
    # The manifest names the signal that ended the training.
    return "interrupted"


def _last_rows(path: Path) -> list[dict[str, Any]]:
    """Return the last rows of training and scoring, of a longer stretch if there is no validation in a short one."""
    rows = read_last(path, _TAIL)
    if not any(name.startswith("val/") for row in rows for name in row):
        rows = read_last(path, _LONG_TAIL)
    return rows


def _status(
    directory: Path, state: State, manifest: dict[str, Any], rows: list[dict[str, Any]], log: Path | None
) -> RunStatus:
    session = (manifest.get("sessions") or [{}])[-1]
    timed = [row for row in rows if _is_number(row.get("step")) and _is_number(row.get("time"))]
    training = [row for row in timed if "checkpoint" not in row]
    began = _unix(session.get("started"))
    # The manifest counts whole seconds.
    steps = [(int(row["step"]), row["time"]) for row in training if row["time"] >= (began or 0)]
    step = max((int(row["step"]) for row in training), default=None)
    if state != "running" and isinstance(manifest.get("step"), int):
        step = manifest["step"]
    num_steps = manifest.get("num_steps")
    rate = _rate(steps)
    left = None
    if state == "running" and rate and step is not None and num_steps is not None:
        left = max(0.0, (num_steps - step) / rate)
    ends = [_unix(session.get("finished")), *(row["time"] for row in timed[-1:]), began]
    return RunStatus(
        directory=directory,
        state=state,
        message=_message(state, manifest, session),
        experiment=str(manifest.get("experiment", "")),
        seed=manifest.get("seed"),
        step=step,
        num_steps=num_steps,
        tokens_per_second=next((row[_SPEED] for row in reversed(training) if _SPEED in row), None),
        steps_per_second=rate,
        seconds_left=left,
        scores=_scores(rows),
        updated=next((each for each in ends if each is not None), None),
        log=log,
    )


def _message(state: State, manifest: dict[str, Any], session: dict[str, Any]) -> str:
    if state == "failed":
        text = str(session.get("error") or "no message is recorded")
        return text.splitlines()[0]
    if state == "interrupted":
        return str(manifest["ended"])
    if state == "unknown":
        return "the file system cannot say whether a process trains there"
    if state == "killed":
        return "no end is recorded, and no process trains there"
    return ""


def _rate(steps: list[tuple[int, float]]) -> float | None:
    """Return steps per second over rows (step, time) of one session; None if they do not tell."""
    if len(steps) < 2:
        return None
    (first, began), (last, ended) = steps[0], steps[-1]
    return (last - first) / (ended - began) if last > first and ended > began else None


def _scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the last value of each validation and test metric, without those of guessing."""
    scores: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if is_score(name) and _is_number(value):
                scores[name] = float(value)
    return scores


def is_score(metric: str) -> bool:
    """Return whether a metric is a score of the model, not of guessing.

    >>> is_score("val/nsp_accuracy"), is_score("val/nsp_majority_accuracy"), is_score("train/loss")
    (True, False, False)
    """
    stage, _, quantity = metric.partition("/")
    return stage in ("val", "test") and not any(each in quantity for each in _BASELINES)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unix(text: object) -> float | None:
    return datetime.fromisoformat(text).timestamp() if isinstance(text, str) else None
