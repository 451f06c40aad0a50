"""Logging to Weights & Biases: offline unless an API key is at hand; never a prompt, never a wait for a network."""

import netrc
import os
import sys
from pathlib import Path
from typing import Any

from bert_lightning.errors import InputError
from bert_lightning.runs.experiment import Experiment


def wandb_logger(experiment: Experiment, folder: Path, run_id: str) -> list[Any]:
    """The W&B logger, offline unless an API key is at hand; never a prompt, never a wait for a network."""
    settings = experiment.wandb
    if settings.mode == "disabled" or os.environ.get("WANDB_MODE") == "disabled":
        return []
    os.environ["WANDB_SILENT"] = "true"
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    mode = os.environ.get("WANDB_MODE", settings.mode)
    offline = mode == "offline" or (mode == "auto" and not has_api_key())
    if mode == "online" and not has_api_key():
        raise InputError("wandb.mode is online, but there is no API key: run `wandb login`, or set WANDB_API_KEY")
    return [
        WandbLogger(
            project=settings.project,
            name=f"{experiment.experiment}-{run_id}",
            group=experiment.experiment,
            id=run_id,
            resume="allow",
            tags=settings.tags,
            save_dir=folder,
            offline=offline,
            config=experiment.to_dict(),
            # The command line, code and machine stay out of W&B; the manifest has them.
            settings=wandb.Settings(x_disable_meta=True, save_code=False, console="off", silent=True),
        )
    ]


def has_api_key() -> bool:
    """Whether the environment or the user's netrc file holds one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def finish(succeeded: bool) -> None:
    """Close the open W&B run, which Lightning leaves open: a second run in this process would be logged into it."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=0 if succeeded else 1)
