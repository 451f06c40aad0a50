"""The directory of a run, and the manifest that records how its results came about."""

import functools
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.plugins.environments import SLURMEnvironment

from bert_lightning.checkpoints import hub
from bert_lightning.checkpoints.files import write_json, write_text
from bert_lightning.checkpoints.listing import entries
from bert_lightning.checkpoints.run_files import MANIFEST, METRICS, SETTINGS
from bert_lightning.config.experiment import Experiment
from bert_lightning.config.migrations import migrate
from bert_lightning.config.nested import at
from bert_lightning.config.saved import Difference, differences_from_saved, read_saved
from bert_lightning.config.variables import with_literal_variables
from bert_lightning.config.yaml_files import dump_yaml, read_yaml
from bert_lightning.errors import InputError
from bert_lightning.runs.processes import is_first_process
from bert_lightning.training.metric_rows import read
from bert_lightning.version import __version__

# The names of default directories: twelve hexadecimal digits.
_HASH = "[0-9a-f]" * 12
# Packages whose version may change a result.
VERSIONED = (
    "torch",
    "lightning",
    "torchmetrics",
    "tokenizers",
    "sentencex",
    "datasets",
    "wandb",
    "safetensors",
)


# The first process sets this variable, so that the processes that Lightning starts use the same directory.
DIRECTORY_VARIABLE = "BERT_LIGHTNING_RUN_DIRECTORY"
# The user's variable of the folder for all runs without a directory of their own.
RUNS_VARIABLE = "BERT_LIGHTNING_RUNS"


class RunDirectory:
    """Paths and records of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / SETTINGS
        self.manifest = self.path / MANIFEST
        self.metrics = self.path / METRICS
        self.checkpoints = self.path / "checkpoints"
        self.predictions = self.path / "predictions"

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @property
    def exists(self) -> bool:
        """True if a run was started here."""
        return self.config.is_file()

    @property
    def is_free(self) -> bool:
        """True if a run can start here: the folder is missing or holds only hidden and temporary files."""
        return not self.path.exists() or (self.path.is_dir() and not entries(self.path))

    def remove_leftovers(self) -> None:
        """Remove half-written files of killed processes, except in `checkpoints/`, which `Checkpointing` cleans."""
        for path in (*self.path.glob(".*.tmp"), *self.predictions.rglob(".*.tmp")):
            path.unlink()

    def read_config(self) -> dict[str, Any]:
        """Read the resolved configuration as plain values, with renamed keys under their new names.

        Raises:
            InputError: the configuration is missing or damaged.
        """
        if not self.exists:
            raise InputError(f"{self.path} is not a run directory: it has no {self.config.name}")
        return migrate(read_yaml(self.config))

    def read_experiment(self, allowed: Sequence[str] = ()) -> Experiment:
        """Read the resolved configuration as an experiment; keys that are newer than the run have their defaults.

        Args:
            allowed: modules that a `class_path` may name.

        Raises:
            InputError: there is no configuration, or this version cannot read it.
        """
        return read_saved(self.read_config(), self.config, allowed)

    def differences(self, experiment: Experiment) -> list[Difference]:
        """Compare the experiment that was saved here with another one, key by key.

        Raises:
            InputError: there is no configuration, or this version cannot read it.
        """
        return differences_from_saved(self.read_config(), self.config, experiment)

    def write_config(self, values: Mapping[str, object]) -> None:
        """Write the resolved configuration; `fit --config` on it repeats the run."""
        write_text(self.config, dump_yaml(with_literal_variables(values)))

    def read_manifest(self) -> dict[str, Any]:
        """Read the manifest; return an empty one if there is none yet.

        Raises:
            InputError: it is damaged.
        """
        if not self.manifest.is_file():
            return {}
        try:
            manifest = json.loads(self.manifest.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{self.manifest}: damaged: {error}") from None
        if not isinstance(manifest, dict):
            raise InputError(f"{self.manifest}: damaged: a JSON object is expected")
        sessions = manifest.get("sessions", [])
        if not isinstance(sessions, list) or not all(isinstance(each, dict) for each in sessions):
            raise InputError(f"{self.manifest}: damaged: sessions must be a list of objects")
        return manifest

    def update_manifest(self, **values: object) -> None:
        """Replace some of the manifest's entries."""
        write_json(self.manifest, {**self.read_manifest(), **values})

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read all entries of `metrics.jsonl`."""
        return read(self.metrics)


def choose_directory(experiment: Experiment, path: Path | None, resume: str) -> RunDirectory:
    """Return the directory of a run: `path` if it is given, otherwise one named after the configuration.

    If `resume` is `never`, that name gets a number if needed, so that the directory holds no run.

    Raises:
        InputError: `resume` is `never` and `path` holds a run, or `path` holds other files.
    """
    if DIRECTORY_VARIABLE in os.environ and not is_first_process() and experiment.trainer.num_processes > 1:
        return RunDirectory(os.environ[DIRECTORY_VARIABLE])
    base = default_directory(experiment)
    if not is_first_process():
        # torchrun and srun start all processes at once: the first one checks, the others follow.
        return RunDirectory(path or base)
    if resume == "never" and path is None and ("TORCHELASTIC_RUN_ID" in os.environ or SLURMEnvironment.detect()):
        raise InputError(
            "`--resume never` needs --run-directory under torchrun and srun, so that all processes use the same one"
        )
    if path is not None:
        directory = RunDirectory(path)
        if directory.exists and resume == "never":
            raise InputError(f"{path} holds a run already: `--resume never` needs another --run-directory")
        if not directory.exists and not directory.is_free:
            raise InputError(f"{path} is not empty and is not a run directory: choose another --run-directory")
        return directory
    directory = RunDirectory(base)
    number = 2
    while resume == "never" and directory.exists:
        directory = RunDirectory(base.with_name(f"{base.name}-{number}"))
        number += 1
    return directory


@contextmanager
def shared_directory(path: Path) -> Iterator[None]:
    """Let the processes that Lightning starts meanwhile use this directory. A later run has its own."""
    os.environ[DIRECTORY_VARIABLE] = str(path)
    try:
        yield
    finally:
        os.environ.pop(DIRECTORY_VARIABLE, None)


def default_directory(experiment: Experiment) -> Path:
    """Return `runs/EXPERIMENT/HASH`, or the directory in which an earlier version ran the same experiment.

    The variable BERT_LIGHTNING_RUNS names another folder than `runs`.

    Earlier versions may have computed the hash in another way. So if no run has the hash of this version, the result
    is a directory whose saved experiment is equal, key by key.
    """
    folder = Path(os.environ.get(RUNS_VARIABLE) or "runs")
    path = folder / experiment.experiment / experiment.identity
    if RunDirectory(path).exists:
        return path
    run = equal_run(named_by_hash(path.parent), experiment)
    return path if run is None else run.path


def named_by_hash(folder: Path) -> list[RunDirectory]:
    """Return the runs of a folder whose directories have names as `fit` gives them."""
    return [run for run in map(RunDirectory, folder.glob(_HASH)) if run.exists]


def equal_run(
    runs: Iterable[RunDirectory], experiment: Experiment, may_differ: Callable[[Difference], bool] | None = None
) -> RunDirectory | None:
    """Return the newest of the runs that were started with this experiment; None if there is none.

    Args:
        runs: run directories.
        experiment: the settings.
        may_differ: as in `is_run_of`.
    """
    values = experiment.to_dict()
    equal = [run for run in runs if _may_equal(run, values) and is_run_of(run, experiment, may_differ)]
    return max(equal, key=lambda run: run.config.stat().st_mtime) if equal else None


def _may_equal(run: RunDirectory, values: Mapping[str, object]) -> bool:
    """Return False for most runs with other settings. This is quick, because a study may have hundreds of runs."""
    try:
        saved = _quickly_read(run.config, run.config.stat().st_mtime_ns)
    except OSError:
        return False
    keys = ("seed_everything", "task", "optimizer.learning_rate", "data.batch_size", "trainer.max_steps")
    return all(at(saved, key) in (None, at(values, key)) for key in keys)


@functools.lru_cache(maxsize=1024)
def _quickly_read(path: Path, modified: int) -> object:
    """Return the content of a YAML file; None if it is damaged. `modified` lets the cache notice changes."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (ValueError, yaml.YAMLError):
        return None


def is_run_of(
    run: RunDirectory, experiment: Experiment, may_differ: Callable[[Difference], bool] | None = None
) -> bool:
    """Return whether a run was started with this experiment, whose precision and hub revision it may have settled.

    Args:
        run: the directory of a run.
        experiment: the settings.
        may_differ: tells which other differences, from the saved settings to these, do not count.
    """
    try:
        values = run.read_config()
        differing = differences_from_saved(values, run.config, experiment)
    except InputError:
        return False
    settled = set()
    if experiment.trainer.precision == "auto":
        settled.add("trainer.precision")
    name, saved_name = experiment.model.pretrained, at(values, "model.pretrained")
    if name is not None and isinstance(saved_name, str) and hub.is_pinned_form(name, saved_name):
        settled.add("model.pretrained")
    counting = (difference for difference in differing if difference.key not in settled)
    return all(may_differ is not None and may_differ(difference) for difference in counting)


def now() -> str:
    """Return the time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def circumstances() -> dict[str, object]:
    """Return the command, versions and hardware. Results depend on them, the code and the configuration."""
    import torch

    versions = {"bert_lightning": __version__, "python": platform.python_version()}
    for name in VERSIONED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "command": command_line(),
        "versions": versions,
        "hardware": {
            "platform": platform.platform(),
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


def command_line() -> str:
    """Return the command of this process as one types it, also if it was started as `python -m bert_lightning`."""
    path = Path(sys.argv[0])
    # `python -m` puts the file of the package there, which no shell would find.
    name = "bert-lightning" if path.parts[-2:] == ("bert_lightning", "__main__.py") else path.name
    return shlex.join([name, *sys.argv[1:]])


def processor_name() -> str:
    """Return the name that the system gives the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
