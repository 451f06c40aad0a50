"""Logging to Weights & Biases: offline unless an API key is at hand; never a prompt, never a wait for a network."""

import netrc
import os
import sys
from pathlib import Path
from typing import Any, Literal

from bert_lightning.config.experiment import Experiment
from bert_lightning.config.sections import WandbSettings
from bert_lightning.errors import InputError
from bert_lightning.runs.figures import confusion_figure, drawn
from bert_lightning.tasks.fine_tuning.task import Report

Mode = Literal["online", "offline", "disabled"]
# Longer than this no run waits for a server; it goes on offline.
SECONDS_TO_CONNECT = 20
# Of a run or a group, in characters.
_LONGEST_NAME = 128


def chosen_mode(settings: WandbSettings) -> Mode:
    """`online`, `offline` or `disabled`; the environment variable WANDB_MODE goes before the settings.

    Raises:
        InputError: online is asked for without an API key.
    """
    mode = os.environ.get("WANDB_MODE", settings.mode)
    if settings.mode == "disabled" or mode == "disabled":
        return "disabled"
    if mode == "online" and not has_api_key():
        raise InputError("wandb.mode is online, but there is no API key: run `wandb login`, or set WANDB_API_KEY")
    return "online" if mode != "offline" and has_api_key() else "offline"


def wandb_logger(experiment: Experiment, folder: Path, run_id: str) -> list[Any]:
    """The W&B logger, or none where it is disabled; offline where the server does not answer."""
    mode = chosen_mode(experiment.wandb)
    if mode == "disabled":
        return []
    os.environ["WANDB_SILENT"] = "true"
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    def start(mode: Mode) -> Any:
        return wandb.init(
            project=experiment.wandb.project,
            name=f"{experiment.experiment}-{run_id}"[:_LONGEST_NAME],
            group=experiment.experiment[:_LONGEST_NAME],
            id=run_id,
            resume="allow",
            tags=experiment.wandb.tags,
            dir=folder,
            mode=mode,
            config=experiment.to_dict(),
            # The command line, code and machine stay out of W&B; the manifest has them.
            settings=wandb.Settings(
                x_disable_meta=True, save_code=False, console="off", silent=True, init_timeout=SECONDS_TO_CONNECT
            ),
        )

    try:
        run = start(mode)
    except wandb.Error as error:
        print(f"W&B does not answer ({error}); this run is logged offline", file=sys.stderr)
        # Its service still holds the run's name.
        wandb.teardown()
        run = start("offline")
    # Lightning's name for the x axis, and its logger's for what it is given.
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return [WandbLogger(experiment=run)]


def has_api_key() -> bool:
    """Whether the environment or the user's netrc file holds one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def log_report(report: Report) -> None:
    """The tables of an evaluation, and its confusion matrix, in the open W&B run."""
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return
    for title, (columns, rows) in report.tables.items():
        wandb.run.log(
            {title: wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)}
        )
    if report.confusion is not None:
        labels, counts = report.confusion
        picture = drawn("the confusion matrix for W&B", lambda: wandb.Image(confusion_figure(labels, counts)))
        if picture is not None:
            wandb.run.log({"confusion matrix": picture})


def finish(succeeded: bool) -> None:
    """Close the open W&B run, which Lightning leaves open: a second run in this process would be logged into it."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=0 if succeeded else 1)
