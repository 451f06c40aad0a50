"""Logging to Weights & Biases (W&B), which is offline without an API key. It never prompts, and never waits long."""

import netrc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment

from bert_lightning.config.experiment import Experiment
from bert_lightning.config.sections import WandbSettings
from bert_lightning.errors import InputError
from bert_lightning.runs.figures import confusion_figure, drawn
from bert_lightning.runs.processes import is_first_process
from bert_lightning.tasks.fine_tuning.report import Report

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run

Mode = Literal["online", "offline", "disabled"]
# Values of the setting and of WANDB_MODE; `run` and `dryrun` are W&B's older names.
_MODES = {name: name for name in ("auto", "online", "offline", "disabled")} | {"run": "online", "dryrun": "offline"}
# A run waits no longer than this for a server, and then continues offline.
SECONDS_TO_CONNECT = 20
# The most characters that the name of a run or a group may have.
_LONGEST_NAME = 128


def chosen_mode(settings: WandbSettings) -> Mode:
    """Return the mode of W&B; the environment variable WANDB_MODE overrides the settings, except `disabled`.

    Raises:
        InputError: the mode is online, but there is no API key; or WANDB_MODE has an unknown value.
    """
    if os.environ.get("WANDB_MODE") == "":
        # W&B refuses an empty value; everywhere else an empty variable counts as unset.
        del os.environ["WANDB_MODE"]
    mode = os.environ.get("WANDB_MODE", settings.mode)
    if mode not in _MODES:
        raise InputError(f"the environment variable WANDB_MODE is {mode!r}; it must be online, offline or disabled")
    mode = _MODES[mode]
    if settings.mode == "disabled" or mode == "disabled":
        return "disabled"
    if mode == "online" and not has_api_key():
        raise InputError("wandb.mode is online, but there is no API key: run `wandb login`, or set WANDB_API_KEY")
    return "online" if mode != "offline" and has_api_key() else "offline"


class _LateLogger(WandbLogger):
    """A logger that opens its W&B run when training begins, so that building a trainer writes nothing.

    Args:
        open_run: start the run and return it.
    """

    def __init__(self, open_run: Callable[[], "Run"]) -> None:
        super().__init__()
        self._open_run = open_run

    @property
    @rank_zero_experiment
    def experiment(self) -> "Run":
        """The run, opened on the first use."""
        if self._experiment is None:
            self._experiment = self._open_run()
        return self._experiment


def wandb_loggers(experiment: Experiment, folder: Path, run_id: str) -> list[WandbLogger]:
    """Make the W&B logger of this process; there is none if W&B is disabled, or on processes after the first.

    Raises:
        InputError: `wandb.mode` is online, but there is no API key.
    """
    mode = chosen_mode(experiment.wandb)
    if mode == "disabled" or not is_first_process():
        return []
    os.environ["WANDB_SILENT"] = "true"
    return [_LateLogger(lambda: _open_run(experiment, folder, run_id, mode))]


def _open_run(experiment: Experiment, folder: Path, run_id: str, mode: Mode) -> "Run":
    """Start a W&B run, or continue it; offline if the server does not answer."""
    import wandb

    def start(mode: Mode) -> "Run":
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
        # W&B's service still holds the name of the run.
        wandb.teardown()
        run = start("offline")
    # Lightning's logger logs the step under this name. Make it the x axis of all metrics.
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return run


def has_api_key() -> bool:
    """Return whether the environment or the user's netrc file holds an API key."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def log_report(report: Report) -> None:
    """Log the tables of an evaluation, and its confusion matrix, to the open W&B run."""
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
    """Close the open W&B run. Lightning leaves it open, and the next run of this process would be logged into it."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=0 if succeeded else 1)
