"""Logging to Weights & Biases (W&B), which is offline without an API key. It never prompts, and never waits long."""

import netrc
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment

from bert_lightning.config.experiment import Experiment
from bert_lightning.config.sections import WandbSettings
from bert_lightning.errors import InputError
from bert_lightning.runs.processes import is_first_process
from bert_lightning.runs.wandb_tables import log_evaluation

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run

Mode = Literal["online", "offline", "disabled"]
# Values of the setting and of WANDB_MODE; `run` and `dryrun` are W&B's older names.
_MODES = {name: name for name in ("auto", "online", "offline", "disabled")} | {"run": "online", "dryrun": "offline"}
# A run waits no longer than this for a server, and then continues offline.
SECONDS_TO_CONNECT = 20
# The most characters that W&B allows in the name of a run, a group or a type, and in a tag.
_LONGEST_NAME, _LONGEST_TAG = 128, 64
# The variable of the folder for copies of tables, which W&B uploads later. By default it is in the home of the user.
_DATA_FOLDER = "WANDB_DATA_DIR"
# The metric that Lightning's logger logs the step under.
STEP = "trainer/global_step"


@dataclass(frozen=True)
class Membership:
    """The group, the type and the tags of a run in W&B.

    A study sets them in the environment and not in the settings, so that the identity of a run does not depend on it.

    Attributes:
        group: WANDB_RUN_GROUP, otherwise the name of the experiment.
        job_type: WANDB_JOB_TYPE, otherwise the task.
        tags: those of WANDB_TAGS, which commas separate, otherwise those of the settings.
    """

    group: str
    job_type: str
    tags: Sequence[str]

    @classmethod
    def of(
        cls, experiment: str, task: str, tags: Sequence[str], recorded: Mapping[str, object] | None = None
    ) -> "Membership":
        """Return the membership of a run; an empty variable counts as unset.

        Args:
            experiment: the name of its experiment.
            task: the name of its task.
            tags: the tags of its settings.
            recorded: the values of an earlier session in the manifest; only the environment overrides them.
        """
        given = os.environ.get("WANDB_TAGS", "")
        chosen = {
            "group": os.environ.get("WANDB_RUN_GROUP"),
            "job_type": os.environ.get("WANDB_JOB_TYPE"),
            "tags": [tag.strip() for tag in given.split(",") if tag.strip()],
        }
        before = {"group": experiment, "job_type": task, "tags": list(tags), **(recorded or {})}
        values: dict[str, Any] = {name: value or before[name] for name, value in chosen.items()}
        return cls(
            values["group"][:_LONGEST_NAME],
            values["job_type"][:_LONGEST_NAME],
            tuple(dict.fromkeys(tag[:_LONGEST_TAG] for tag in values["tags"])),
        )

    @classmethod
    def of_experiment(cls, experiment: Experiment) -> "Membership":
        """Return the membership of a run that begins now."""
        return cls.of(experiment.experiment, experiment.task, experiment.wandb.tags)

    def to_dict(self) -> dict[str, object]:
        """Return the entry of the manifest."""
        return asdict(self) | {"tags": list(self.tags)}


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
        name = "WANDB_MODE" if "WANDB_MODE" in os.environ else "wandb.mode"
        raise InputError(f"{name} is online, but there is no API key: run `wandb login`, or set WANDB_API_KEY")
    return "online" if mode != "offline" and has_api_key() else "offline"


class _LateLogger(WandbLogger):
    """A logger that opens its W&B run when training begins, so that building a trainer writes nothing.

    Args:
        open_run: starts the run and returns it.
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
        return init_run(
            experiment.to_dict(), folder, run_id, mode, Membership.of_experiment(experiment), experiment.wandb.project
        )

    try:
        run = start(mode)
    except wandb.Error as error:
        print(f"W&B does not answer ({error}); this run is logged offline", file=sys.stderr)
        # W&B's service still holds the name of the run.
        wandb.teardown()
        run = start("offline")
    return run


def init_run(
    config: Mapping[str, Any], folder: Path, run_id: str, mode: Mode, membership: Membership, project: str
) -> "Run":
    """Start a W&B run with `trainer/global_step` as its x axis, or continue the one with this id.

    Args:
        config: the resolved configuration.
        folder: where W&B makes its folder `wandb`.
        run_id: W&B's id of the run.
        mode: online or offline.
        membership: group, type and tags.
        project: W&B's project.
    """
    import wandb

    run = wandb.init(
        project=project,
        name=f"{config['experiment']}-{run_id}"[:_LONGEST_NAME],
        group=membership.group,
        job_type=membership.job_type,
        tags=membership.tags,
        id=run_id,
        resume="allow",
        dir=folder,
        mode=mode,
        config=dict(config),
        # The command line, code and machine stay out of W&B; the manifest has them.
        settings=wandb.Settings(
            x_disable_meta=True, save_code=False, console="off", silent=True, init_timeout=SECONDS_TO_CONNECT
        ),
    )
    # Lightning's logger logs the step under this name. Make it the x axis of all metrics.
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    return run


@contextmanager
def data_folder(folder: Path) -> Iterator[None]:
    """Let W&B keep its copies of tables beside its runs, so that they can be uploaded as long as these exist."""
    if os.environ.get(_DATA_FOLDER):
        yield
        return
    os.environ[_DATA_FOLDER] = str(folder.absolute())
    try:
        yield
    finally:
        del os.environ[_DATA_FOLDER]


def has_api_key() -> bool:
    """Return whether the environment or the user's netrc file holds an API key."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def log_last_validation(predictions: Path) -> None:
    """Log the tables of the last validation to the open W&B run, as they are in the run's `predictions/`."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        log_evaluation(wandb.run, predictions, "validation")


def finish(succeeded: bool) -> None:
    """Close the open W&B run. Lightning leaves it open, and the next run of this process would be logged into it."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=0 if succeeded else 1)
