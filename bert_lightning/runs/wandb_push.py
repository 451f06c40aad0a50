"""The command `wandb-push`: build a W&B run from the files of a run, with each logged row exactly once.

What W&B wrote during training lacks the last rows of a session that was killed, and has the rows of repeated steps
twice. `metrics.jsonl` has each row once.
"""

import glob
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from bert_lightning.config.sections import WandbSettings
from bert_lightning.errors import InputError, WorkError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.evaluation_files import REPORT_VALUES
from bert_lightning.runs.lock import lock_holder
from bert_lightning.runs.record import FINISHED, WANDB
from bert_lightning.runs.wandb_tables import log_evaluation
from bert_lightning.runs.weights_and_biases import (
    STEP,
    Membership,
    chosen_mode,
    data_folder,
    has_api_key,
    init_run,
)

# Rows of `metrics.jsonl` with this key come from scoring a checkpoint after training.
_OF_SCORING = "checkpoint"
PushMode = Literal["online", "offline"]


@dataclass(frozen=True)
class Push:
    """Result of pushing one run.

    Attributes:
        run: the run directory.
        folder: the offline W&B run that was built from it.
        is_new: False if it was there already.
        uploaded: whether this command uploaded it.
    """

    run: Path
    folder: Path
    is_new: bool
    uploaded: bool


@dataclass(frozen=True)
class _Content:
    """The parts of a run directory that a W&B run is built from.

    Attributes:
        directory: the run directory.
        config: its configuration, as it was saved.
        manifest: its manifest.
        rows: the rows of `metrics.jsonl`.
        membership: group, type and tags.
        project: W&B's project.
    """

    directory: RunDirectory
    config: dict[str, Any]
    manifest: dict[str, Any]
    rows: list[dict[str, Any]]
    membership: Membership
    project: str

    @property
    def evaluations(self) -> list[str]:
        """The names of the evaluations in `predictions/`."""
        return sorted(path.stem for path in self.directory.predictions.glob("*.jsonl"))

    @cached_property
    def wandb_id(self) -> str:
        """W&B's id: that of the run, and a digest of all that is pushed, so that other content is another W&B run."""
        values = [self.project, self.membership.to_dict(), self.config, self.rows, self.manifest.get("ended")]
        digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
        for name in self.evaluations:
            for path in (f"{name}.jsonl", f"{name}/{REPORT_VALUES}"):
                file = self.directory.predictions / path
                digest.update(f"\0{path}\0".encode() + (file.read_bytes() if file.is_file() else b""))
        return f"{self.manifest.get('run_id', 'run')}-{digest.hexdigest()[:8]}"

    def existing(self, target: Path) -> Path | None:
        """Return the offline W&B run of this content in a folder, if there is one."""
        return next(target.glob(f"offline-run-*-{glob.escape(self.wandb_id)}"), None)


def push(
    runs: Sequence[Path], project: str | None = None, mode: PushMode | None = None, folder: Path | None = None
) -> list[Push]:
    """Build an offline W&B run from each run directory, and upload it if the mode is online.

    Its id is that of the run and a digest of its content. So the same content is pushed once, and a run that was
    trained further or scored since becomes another W&B run. The offline run is complete or absent, also after a kill.

    Args:
        runs: run directories.
        project: W&B's project; by default that of each run's settings.
        mode: online or offline; by default online if there is an API key.
        folder: where the folder `wandb` is; by default the current folder.

    Raises:
        InputError: a path is no run directory, is still training or has no metrics, the folder cannot be written, or
            there is no API key.
        WorkError: W&B could not upload a run.
    """
    mode = _chosen(mode)
    if project is not None:
        _check_project(project)
    contents = [_read(path, project) for path in dict.fromkeys(runs)]
    target = (folder or Path.cwd()).absolute() / "wandb"
    missing = {content.wandb_id: content for content in contents if content.existing(target) is None}
    if missing:
        try:
            _build(list(missing.values()), target)
        except OSError as error:
            raise InputError(f"{target}: cannot be written: {error.strerror or error}") from None
    pushes = []
    for content in contents:
        built = content.existing(target)
        assert built is not None, "it was built"
        uploads = mode == "online" and not any(built.glob("*.synced"))
        if uploads:
            _upload(built)
        pushes.append(Push(content.directory.path, built, content.wandb_id in missing, uploads))
    return pushes


def _chosen(mode: PushMode | None) -> PushMode:
    if mode == "online" and not has_api_key():
        raise InputError("--mode online needs an API key: run `wandb login`, or set WANDB_API_KEY")
    if mode is not None:
        return mode
    chosen = chosen_mode(WandbSettings())
    if chosen == "disabled":
        raise InputError("the environment variable WANDB_MODE is disabled: choose --mode offline or --mode online")
    return chosen


def _check_project(name: str) -> None:
    try:
        WandbSettings(project=name)
    except ValueError as error:
        raise InputError(f"--project: {error}") from None


def _read(path: Path, project: str | None) -> _Content:
    """Read a run directory.

    Raises:
        InputError: it is none, it is still training, or it has no metrics.
    """
    directory = RunDirectory(path)
    config = directory.read_config()
    holder = lock_holder(path)
    if holder is not None:
        # The id is a digest of the rows, so each further row would make another W&B run.
        raise InputError(f"{path}: {holder} is training there: push the run when it has ended")
    manifest, rows = directory.read_manifest(), directory.read_metrics()
    if not rows:
        raise InputError(f"{path}: {directory.metrics.name} is still empty")
    recorded = next((entry[WANDB] for entry in reversed(manifest.get("sessions", [])) if WANDB in entry), None)
    settings: dict[str, Any] = config.get("wandb") or {}
    membership = Membership.of(config["experiment"], config["task"], settings.get("tags", []), recorded)
    return _Content(
        directory, config, manifest, rows, membership, project or settings.get("project", WandbSettings().project)
    )


def _build(contents: Sequence[_Content], target: Path) -> None:
    """Build offline W&B runs in a hidden folder, and move them to `target` when all are complete."""
    import wandb

    target.mkdir(parents=True, exist_ok=True)
    os.environ["WANDB_SILENT"] = "true"
    with tempfile.TemporaryDirectory(prefix=".push-", dir=target) as hidden, data_folder(target):
        try:
            for content in contents:
                _log(content, Path(hidden))
        finally:
            # W&B's own process may still be writing. This waits for its end.
            wandb.teardown()
        for built in Path(hidden).glob("wandb/offline-run-*"):
            built.rename(target / built.name)


def _log(content: _Content, folder: Path) -> None:
    """Write the rows, the tables and the summary of one run as an offline W&B run."""
    run = init_run(content.config, folder, content.wandb_id, "offline", content.membership, content.project)
    trained: dict[str, object] = {}
    scored: set[str] = set()
    try:
        for row in content.rows:
            values = {name: value for name, value in row.items() if name not in ("step", "time")}
            run.log({STEP: row.get("step"), "_timestamp": row.get("time"), **values})
            if _OF_SCORING in row:
                scored |= {*values}
            else:
                trained |= values
        for name in content.evaluations:
            log_evaluation(run, content.directory.predictions, name)
        # The summary shows the last value of each metric, and that of training where a checkpoint was scored later.
        run.summary.update({name: value for name, value in trained.items() if name in scored})
        manifest = content.manifest
        run.summary.update({name: manifest[name] for name in ("run_id", "ended", "weights") if name in manifest})
    finally:
        run.finish(exit_code=0 if content.manifest.get("ended") == FINISHED else 1)


def _upload(folder: Path) -> None:
    """Upload an offline W&B run with W&B's own command, which notes there that it has done so.

    Raises:
        WorkError: it failed.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("WANDB_SILENT", "WANDB_MODE")}
    command = [sys.executable, "-m", "wandb", "sync", str(folder)]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).strip().splitlines() or ["no message"]
        raise WorkError(f"{folder}: W&B could not upload it: {lines[-1]}: give the same command again")
