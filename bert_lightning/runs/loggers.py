"""The loggers of a run: `metrics.jsonl`, and those that its experiment names. Their files lie in the run's directory.

A run that was killed repeats the steps after its last checkpoint. Their first values are dropped, so that each value
is logged once.
"""

import functools
import importlib
import logging
import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from bert_lightning.checks import class_path
from bert_lightning.config.experiment import Experiment
from bert_lightning.config.kinds import LOGGER
from bert_lightning.config.objects import ObjectSettings, build_object
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.processes import is_first_process
from bert_lightning.runs.weights_and_biases import wandb_loggers
from bert_lightning.training import metrics_file
from bert_lightning.training.guarded import guard_logger, marked
from bert_lightning.training.metrics_file import MetricsFile

# Entry of the manifest with the id that MLflow gave the run.
_MLFLOW_RUN = "mlflow_run"


class CsvFile(CSVLogger):
    """A logger that writes `csv/metrics.csv`, with the rows of `metrics.jsonl`.

    Lightning's own would delete the file of an earlier session, and keep up to a hundred rows in memory.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="csv", version="", flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer, opened on the first use."""
        is_new = self._experiment is None
        if is_new:
            Path(self.log_dir, ExperimentWriter.NAME_METRICS_FILE).unlink(missing_ok=True)
        writer: ExperimentWriter = super().experiment
        if is_new:
            rows = metrics_file.read(Path(self.save_dir) / metrics_file.NAME)
            # Rows with a checkpoint come from scoring, not from training.
            writer.metrics = [_without_time(row) for row in rows if "checkpoint" not in row]
            writer.save()
        return writer


class MlflowRun(Logger):
    """A logger to MLflow, which is opened on the first use.

    Args:
        open_run: starts the run, or continues it.
    """

    def __init__(self, open_run: Callable[[], MLFlowLogger]) -> None:
        super().__init__()
        self._open_run = open_run
        self._opened: MLFlowLogger | None = None

    @property
    def name(self) -> str:
        return "mlflow"

    @property
    def version(self) -> str:
        return ""

    @property
    def opened(self) -> MLFlowLogger:
        """Lightning's logger."""
        self._opened = self._opened or self._open_run()
        return self._opened

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """MLflow's client."""
        return self.opened.experiment

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.opened.log_metrics(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self.opened.log_hyperparams(params)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._opened is not None:
            self._opened.finalize(status)


def _open_mlflow(experiment: Experiment, directory: RunDirectory, run_id: str, *, resumes: bool) -> MLFlowLogger:
    """Start a run of MLflow, or continue the one that the manifest names."""
    folder = (directory.path / "mlflow").absolute()
    uri, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
    if uri is None:
        folder.mkdir(exist_ok=True)
        # MLflow no longer writes plain folders, so the default is a database. A server stores artifacts by itself.
        uri, artifacts = f"sqlite:///{folder / 'mlflow.db'}", folder.as_uri()
    known = directory.read_manifest().get(_MLFLOW_RUN) if resumes else None
    logger = MLFlowLogger(
        experiment.experiment, run_name=run_id, tracking_uri=uri, artifact_location=artifacts, run_id=known
    )
    directory.update_manifest(**{_MLFLOW_RUN: logger.run_id})
    return logger


def run_loggers(
    experiment: Experiment, directory: RunDirectory, run_id: str, step: int, given: Sequence[Logger] = ()
) -> list[Logger]:
    """Make the loggers of this process. Only those of the first process write, and not before training.

    Args:
        experiment: the settings.
        directory: the run's directory.
        run_id: the same for all sessions of a run.
        step: the step from which this session resumes, or 0.
        given: loggers that a program adds.

    Raises:
        InputError: a package is missing, a constructor refuses its arguments, two loggers are the same, or W&B is
            asked to log online without an API key.
    """
    loggers: list[Logger] = [MetricsFile(directory.path)]
    makers: dict[str, Callable[[], Sequence[Logger]]] = {
        "wandb": lambda: wandb_loggers(experiment, directory.path, run_id),
        "csv": lambda: [CsvFile(directory.path)],
        "tensorboard": lambda: [_tensorboard(directory.path, step)],
        "mlflow": lambda: [_mlflow(lambda: _open_mlflow(experiment, directory, run_id, resumes=step > 0))],
    }
    for number, entry in enumerate([*experiment.loggers, *given]):
        key = f"loggers.{number}"
        if isinstance(entry, str):
            try:
                made = makers[entry]()
            except ModuleNotFoundError:
                raise InputError(
                    f"{key} is {entry}, whose package is not installed: pip install 'bert_lightning[{entry}]'"
                ) from None
        else:
            made = [_own(entry, key, directory.path)]
        for logger in made:
            _refuse_repeated(logger, key, loggers)
            if entry != "wandb":
                guard_logger(logger, f"{key} ({class_path(type(logger))})")
        loggers += made
    if not is_first_process():
        return loggers[:1]
    _skip_repeated(loggers, directory, step)
    return loggers


def log_settings(experiment: Experiment, loggers: Sequence[Logger]) -> None:
    """Log the settings of a run that begins. They hold no secrets. W&B gets them when its run is opened."""
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            logger.log_hyperparams(experiment.to_dict())


def _mlflow(open_run: Callable[[], MLFlowLogger]) -> MlflowRun:
    importlib.import_module("mlflow")
    # MLflow logs a message for each table that it creates.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowRun(open_run)


def _tensorboard(folder: Path, step: int) -> TensorBoardLogger:
    # TensorBoard shows no event of an earlier session from the purged step on.
    purge_step = step + 1 if step else None
    return TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False, purge_step=purge_step)


def _own(entry: ObjectSettings | Logger, key: str, folder: Path) -> Logger:
    if isinstance(entry, ObjectSettings):
        logger: Logger = build_object(entry, key, LOGGER, {"save_dir": str(folder)})
        return logger
    if not isinstance(entry, Logger):
        raise InputError(f"{key} is {entry!r}; it must be a lightning.pytorch.loggers.Logger")
    return entry


def _refuse_repeated(logger: Logger, key: str, others: Sequence[Logger]) -> None:
    """Refuse two loggers that would write to the same files.

    Raises:
        InputError: two loggers have the same class, name, version and folder.
    """
    for other in others:
        if type(other) is type(logger) and _target(other) == _target(logger):
            raise InputError(
                f"{key} has the name {logger.name!r} and the version {logger.version!r} of another logger of its "
                "class: give it another name"
            )


def _target(logger: Logger) -> tuple[object, ...]:
    return logger.name, logger.version, logger.save_dir


def _skip_repeated(loggers: Sequence[Logger], directory: RunDirectory, step: int) -> None:
    """Make the loggers skip what the session before logged at the resumed step after its checkpoint.

    Callbacks such as `LearningRateMonitor` log at the start of the next step, under the number of the last one.
    """
    rows = directory.read_metrics() if step else []
    logged = {frozenset(_without_time(row)) for row in rows if row.get("step") == step and "checkpoint" not in row}
    for logger in loggers if logged else ():
        logger.log_metrics = _skipping(logger.log_metrics, step, logged)  # type: ignore[method-assign, assignment]


def _skipping(
    original: Callable[[dict[str, float], int | None], None], resumed: int, logged: set[frozenset[str]]
) -> Callable[[dict[str, float], int | None], None]:
    @functools.wraps(original)
    def log_metrics(metrics: dict[str, float], step: int | None = None) -> None:
        if step != resumed or frozenset({*metrics, "step"} - {"epoch"}) not in logged:
            original(metrics, step)

    return marked(log_metrics)


def _without_time(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "time"}
