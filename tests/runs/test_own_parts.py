"""Runs with custom callbacks, loggers, tasks and data sets."""

import csv
import json
import logging
import sys
from pathlib import Path

import pytest
import torch
import yaml

from bert_lightning.cli import main
from bert_lightning.data.datasets.catalogue import STANDARD_SETS
from bert_lightning.tasks.catalogue import OWNERS, TASKS
from tests.support.kills import Killed, kill_at
from tests.support.runs import logged, weights

MODULE = """
import os
from dataclasses import dataclass
from pathlib import Path
import numpy
import torch
from lightning import Callback
from lightning.pytorch.loggers import Logger
from bert_lightning.tasks.step_method import PlainStep

class Counter(Callback):
    '''Counts steps, and adds the count to one weight.'''

    def __init__(self, fail_at: int | None = None, hook: str = "on_train_batch_end") -> None:
        if fail_at == 0:
            raise ValueError("fail_at is 0")
        self.count, self.fail_at, self.hook = 0, fail_at, hook

    def fail(self, trainer, hook):
        if trainer.global_step == self.fail_at and hook == self.hook:
            raise RuntimeError("the reason")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.count += 1
        with torch.no_grad():
            next(module.parameters()).view(-1)[0] += self.count / 64
        self.fail(trainer, "on_train_batch_end")

    def on_train_batch_start(self, trainer, *_):
        self.fail(trainer, "on_train_batch_start")

    def on_validation_end(self, trainer, *_):
        self.fail(trainer, "on_validation_end")

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]

class Leaving(Callback):
    def on_train_batch_start(self, trainer, *_):
        if os.environ.get("FAILS") == "by leaving a hook" and trainer.global_step == 4:
            raise SystemExit(0)

class FailingStep(PlainStep):
    def sums(self, batch, backward):
        sums = super().sums(batch, backward)
        if os.environ.get("FAILS") == "by leaving a step" and self.losses.trainer.global_step == 4:
            raise SystemExit(0)
        if os.environ.get("FAILS") == "in the step" and self.losses.trainer.global_step == 4:
            raise RuntimeError("the reason")
        return sums

class Unsteady(Callback):
    def on_train_batch_start(self, trainer, *_):
        if os.environ.get("FAILS") == "in a hook" and trainer.global_step == 4:
            raise RuntimeError("the reason")

@dataclass(frozen=True)
class Failing:
    def build(self, losses):
        if os.environ.get("FAILS") == "before":
            raise RuntimeError("the reason")
        return FailingStep(losses)

class Unreadable(Callback):
    def state_dict(self):
        return {"array": numpy.zeros(2)}

class Lines(Logger):
    def __init__(self, save_dir: str, fails: bool = False) -> None:
        super().__init__()
        self.file, self.fails = Path(save_dir) / "lines.txt", fails

    name, version = "lines", ""

    def log_metrics(self, metrics, step=None):
        if self.fails:
            raise OSError("no line left")
        with self.file.open("a") as file:
            print(step, *sorted(metrics), file=file)

    def log_hyperparams(self, params, *args, **kwargs):
        self.settings = params
"""
TASK = """
import dataclasses
import bert_lightning
from bert_lightning.tasks.text_classification.spec import TEXT_CLASSIFICATION
from bert_lightning.tasks.text_classification.task import TextClassificationTask
from pathlib import Path

Path("imported").touch()

class Moods(TextClassificationTask):
    name = "moods"

def examples():
    return [{"text": "the dog sees a cat " * (n % 3 + 1), "label": "ab"[n % 2]} for n in range(16)]

bert_lightning.register_task(dataclasses.replace(TEXT_CLASSIFICATION, name="moods", task=Moods))
bert_lightning.register_dataset("my-moods", "text-classification", {"train": examples, "validation": examples})
"""
COUNTER = {"class_path": "parts_here.Counter"}
ALLOWED = ["--allow-module", "parts_here"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The user's modules in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for registry in (TASKS, OWNERS, STANDARD_SETS):
        for name in ("moods", "my-moods"):
            registry.pop(name, None)
    Path("parts_here.py").write_text(MODULE)
    Path("tasks_here.py").write_text(TASK)
    yield
    for name in ("parts_here", "tasks_here"):
        sys.modules.pop(name, None)


@pytest.fixture
def fit(home):
    """Trains the small experiment with other values, in this process."""

    def run(directory, values=None, *overrides):
        base = yaml.safe_load((home / "pretraining.yaml").read_text())
        base["checkpoint"]["every_n_steps"] = 3
        Path("own.yaml").write_text(yaml.safe_dump({**base, **(values or {})}))
        return main(["fit", "--config", "own.yaml", "--run-directory", directory, *ALLOWED, *overrides])

    return run


@pytest.fixture
def fit_until_killed(fit, monkeypatch):
    """Trains as `fit` does, and dies in the seventh step."""

    def run(directory, values):
        with monkeypatch.context() as patch:
            kill_at(patch, 7)
            with pytest.raises(Killed):
                fit(directory, values)

    return run


def session(directory):
    return json.loads(Path(directory, "manifest.json").read_text())["sessions"][-1]


def test_a_killed_run_with_an_own_callback_resumes_bit_for_bit(fit, fit_until_killed):
    values = {"callbacks": [COUNTER, "LearningRateMonitor"], "loggers": ["csv"]}
    assert fit("whole", values) == 0
    fit_until_killed("killed", values)
    assert fit("killed", values) == 0
    whole, killed = weights(Path("whole")), weights(Path("killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert logged(Path("whole")) == logged(Path("killed"))
    texts = [Path(run, "csv/metrics.csv").read_text().splitlines() for run in ("whole", "killed")]
    tables = [list(csv.DictReader(lines)) for lines in texts]
    columns = ("step", "train/mlm_loss", "val/mlm_loss")
    assert [[row[name] for name in columns] for row in tables[0]] == [
        [row[name] for name in columns] for row in tables[1]
    ]
    assert len(tables[0]) == len(logged(Path("whole")))
    assert session("killed")["own_modules"]["parts_here"]["classes"] == ["Counter"]


@pytest.mark.parametrize(
    ("hook", "step", "newest"),
    [
        ("on_train_batch_end", 4, 4),
        ("on_train_batch_start", 4, 4),
        # Validation follows this step, and the checkpoint comes after it.
        ("on_train_batch_end", 5, 5),
        ("on_validation_end", 5, 5),
        ("on_validation_end", 12, 12),
    ],
)
def test_an_error_in_a_hook_ends_the_run_with_its_message_and_a_checkpoint(fit, hook, step, newest, capsys):
    callback = {**COUNTER, "init_args": {"fail_at": step, "hook": hook}}
    assert fit("run", {"callbacks": [callback]}) == 1
    message = f"callbacks.0 (parts_here.Counter) raised in {hook}: RuntimeError: the reason"
    assert f"bert-lightning: {message}" in capsys.readouterr().err
    checkpoints = sorted(Path("run/checkpoints").glob("step-*.ckpt"))
    assert int(checkpoints[-1].name[5:14]) == newest
    assert torch.load(checkpoints[-1], weights_only=True)["callbacks"]["Counter"] == {"count": newest}
    assert (session("run")["ended"], session("run")["error"]) == ("failed", message)


def test_an_error_before_training_in_a_part_is_one_message_that_names_its_key(fit, monkeypatch, capsys):
    monkeypatch.setenv("FAILS", "before")
    assert fit("early", {"step_method": {"class_path": "parts_here.Failing"}}) == 2
    assert "step_method (parts_here.Failing.build) raised RuntimeError in parts_here.py" in capsys.readouterr().err
    assert not Path("early").exists()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("in the step", "step_method (parts_here.FailingStep.sums) raised RuntimeError in parts_here.py, line "),
        ("in a hook", "callbacks.0 (parts_here.Unsteady) raised in on_train_batch_start: "),
    ],
)
def test_after_an_error_within_a_step_the_mended_run_resumes_bit_for_bit(fit, monkeypatch, capsys, where, message):
    values = {"step_method": {"class_path": "parts_here.Failing"}, "callbacks": ["parts_here.Unsteady"]}
    assert fit("whole", values) == 0
    monkeypatch.setenv("FAILS", where)
    assert fit("run", values) == 1
    shown = capsys.readouterr().err.splitlines()[-1].removeprefix("bert-lightning: ")
    assert message in shown
    assert shown.endswith("the reason")
    assert (session("run")["ended"], session("run")["error"]) == ("failed", shown)
    assert Path("run/checkpoints/last.ckpt").resolve().name == "step-000000004.ckpt"
    monkeypatch.delenv("FAILS")
    assert fit("run", values) == 0
    whole, mended = weights(Path("whole")), weights(Path("run"))
    assert all(torch.equal(whole[name], mended[name]) for name in whole)
    assert logged(Path("whole")) == logged(Path("run"))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("a step", "step_method (parts_here.FailingStep.sums) raised SystemExit in parts_here.py, line "),
        ("a hook", "callbacks.0 (parts_here.Leaving) raised in on_train_batch_start: SystemExit: 0"),
    ],
)
def test_an_own_part_that_leaves_the_program_with_status_0_has_failed(fit, monkeypatch, capsys, where, message):
    monkeypatch.setenv("FAILS", f"by leaving {where}")
    values = {"step_method": {"class_path": "parts_here.Failing"}, "callbacks": ["parts_here.Leaving"]}
    assert fit("run", values) == 1
    assert message in capsys.readouterr().err
    assert (session("run")["ended"], message in session("run")["error"]) == ("failed", True)
    assert Path("run/checkpoints/last.ckpt").resolve().name == "step-000000004.ckpt"


@pytest.mark.parametrize(
    ("values", "status", "message"),
    [
        (
            {"callbacks": [{**COUNTER, "init_args": {"fail_at": 0}}]},
            2,
            "callbacks.0.init_args: Counter refuses them: ",
        ),
        (
            {"callbacks": [COUNTER, {**COUNTER, "init_args": {"fail_at": 9}}]},
            2,
            "callbacks.0 and callbacks.1 have the",
        ),
        ({"callbacks": ["parts_here.Unreadable"]}, 1, "(parts_here.Unreadable).state_dict holds a numpy.ndarray"),
        (
            {"loggers": [{"class_path": "parts_here.Lines", "init_args": {"fails": True}}]},
            1,
            "loggers.0 (parts_here.Lines) raised in log_metrics: OSError: no line left",
        ),
        ({"loggers": ["tensorbord"]}, 2, "loggers.0 is 'tensorbord'; did you mean 'tensorboard'?"),
        ({"loggers": ["CSVLogger", "lightning.pytorch.loggers.CSVLogger"]}, 2, "loggers.0 is 'CSVLogger'"),
    ],
)
def test_an_unusable_part_is_one_message(fit, values, status, message, capsys):
    assert fit("run", values) == status
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bert-lightning: ")]
    assert message in line


def test_an_own_logger_gets_each_value_with_the_step_of_the_optimiser(fit):
    assert fit("run", {"loggers": [{"class_path": "parts_here.Lines"}]}) == 0
    steps = [int(line.split()[0]) for line in Path("run/lines.txt").read_text().splitlines()]
    assert steps == [row["step"] for row in logged(Path("run"))]


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_logger_without_its_package_names_the_extra(fit, name, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARDX_AVAILABLE", False)
    assert fit("run", {"loggers": [name]}) == 2
    assert f"loggers.0 is {name}, whose package is not installed: pip install" in capsys.readouterr().err
    assert not Path("run").exists()


def test_loggers_may_change_on_resume_and_callbacks_may_not(fit, fit_until_killed, capsys):
    fit_until_killed("run", {"callbacks": [COUNTER], "loggers": []})
    assert fit("run", {"loggers": ["csv"]}) == 2
    assert "holds a run with other settings (callbacks)" in capsys.readouterr().err
    assert fit("run", {"callbacks": [COUNTER], "loggers": ["csv"]}) == 0


def test_a_changed_module_is_warned_about_by_name_on_resume(fit, fit_until_killed, caplog):
    fit_until_killed("run", {"callbacks": [COUNTER]})
    Path("parts_here.py").write_text(MODULE + "\n# changed\n")
    with caplog.at_level(logging.WARNING):
        assert fit("run", {"callbacks": [COUNTER]}) == 0
    assert any("the module parts_here has changed" in record.getMessage() for record in caplog.records)


def test_every_command_asks_for_consent_to_the_module_of_a_task(home, capsys):
    values = {
        "experiment": "moods",
        "task": "moods",
        "modules": ["tasks_here"],
        "model": {"pretrained": str(home / "runs/whole")},
        "data": {"dataset": "my-moods", "batch_size": 8, "max_seq_length": 24},
        "trainer": {"max_steps": 2, "accelerator": "cpu", "precision": "32"},
    }
    Path("moods.yaml").write_text(yaml.safe_dump(values))
    Path("texts.txt").write_text("a dog\n")
    allowed = ["--allow-module", "tasks_here"]
    assert main(["fit", "--config", "moods.yaml", "--run-directory", "run"]) == 2
    assert not Path("imported").exists()
    assert main(["fit", "--config", "moods.yaml", "--run-directory", "run", *allowed]) == 0
    assert session("run")["own_modules"]["tasks_here"]["classes"] == []
    for command in (
        ["predict", "--checkpoint", "run", "--input", "texts.txt"],
        ["validate", "--checkpoint", "run"],
        ["reproduce", "run"],
        ["fit", "--config", "run/config.yaml", "--run-directory", "run"],
    ):
        Path("imported").unlink(missing_ok=True)
        sys.modules.pop("tasks_here", None)
        for registry in (TASKS, OWNERS, STANDARD_SETS):
            for name in ("moods", "my-moods"):
                registry.pop(name, None)
        capsys.readouterr()
        assert main(command) == 2
        assert "--allow-module tasks_here" in capsys.readouterr().err
        assert not Path("imported").exists()
        assert main([*command, *allowed]) == 0
    # These read nothing but the encoder and the records.
    for registry in (TASKS, OWNERS, STANDARD_SETS):
        registry.pop("moods", None)
        registry.pop("my-moods", None)
    assert main(["report", "run", "--output", "page.md"]) == 0
    assert main(["export", "--checkpoint", "run", "--format", "huggingface", "--output", "exported"]) == 0


def test_two_modules_that_register_one_name_are_one_message():
    Path("more_tasks.py").write_text(TASK)
    Path("own.yaml").write_text("modules: [tasks_here, more_tasks]\n")
    assert main(["fit", "--config", "own.yaml", *(f"--allow-module={n}" for n in ("tasks_here", "more_tasks"))]) == 2
    # What the second one registered is taken back, what the first one registered stays.
    assert OWNERS["moods"] == "tasks_here"
    sys.modules.pop("more_tasks", None)
