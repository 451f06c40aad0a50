"""A framework that pre-trains, fine-tunes, scores and reports BERT-style encoders on PyTorch Lightning.

- `fit` trains an experiment, as the command `bert-lightning fit` does, and returns the finished `Run`.
- `ablate` trains all runs of a study, as the command does, and returns its record.
- `search` searches the settings of a study, as the command does, and returns its record.
- `build` gives the task and the data of an experiment, for a `lightning.Trainer` of your own.
- `load` opens a trained run or checkpoint as a `Predictor` for raw input, several tuned runs as a `TunedPredictor`.
- `zero_shot` opens any pre-trained checkpoint, to sort texts into labels that it was not trained for.
- `export` writes a checkpoint for other tools, as the command does.
- `load_experiment` reads and checks an `Experiment`, from files or values.
- `register_task` adds a task, described by a `TaskSpec`, and `register_dataset` a data set with a name.

The packages `bert_lightning.tasks`, `.data`, `.model`, `.metrics` and `.optim` contain the parts to build on.
"""

from typing import TYPE_CHECKING

from bert_lightning.cores import let_waiting_threads_yield
from bert_lightning.lazy import exports
from bert_lightning.version import __version__

if TYPE_CHECKING:
    from bert_lightning import data, metrics, model, optim, tasks
    from bert_lightning.config.experiment import Experiment, load_experiment
    from bert_lightning.data.datasets.registration import register_dataset
    from bert_lightning.runs.export import export
    from bert_lightning.runs.predictor import Predictor, TunedPredictor, load
    from bert_lightning.runs.python import Run, build, fit
    from bert_lightning.runs.zero_shot import ZeroShot, zero_shot
    from bert_lightning.studies.ablation import ablate
    from bert_lightning.studies.search.searching import search
    from bert_lightning.tasks.catalogue import register_task
    from bert_lightning.tasks.spec import TaskSpec

__all__ = [
    "Experiment",
    "Predictor",
    "Run",
    "TaskSpec",
    "TunedPredictor",
    "ZeroShot",
    "__version__",
    "ablate",
    "build",
    "data",
    "export",
    "fit",
    "load",
    "load_experiment",
    "metrics",
    "model",
    "optim",
    "register_dataset",
    "register_task",
    "search",
    "tasks",
    "zero_shot",
]

# The OpenMP of torch reads how threads wait when torch is loaded, so set it before. The command imports this module
# first.
let_waiting_threads_yield()

if not TYPE_CHECKING:
    # Importing torch takes seconds, and `bert-lightning --help` does not need it.
    __getattr__, __dir__ = exports(__name__, __file__)
