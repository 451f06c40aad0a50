"""The best checkpoint and early stopping follow the task's metric in its direction, and survive a resume."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Trainer

from bert_lightning.cli import main
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.tasks.text_classification.task import TextClassificationTask
from bert_lightning.training.early_stopping import ResumableEarlyStopping
from tests.support.runs import weights
from tests.support.task_data import tiny_classification

# Validated every 2 steps. The best is the second one; patience 2 ends training at the fourth.
SCORES = [0.5, 0.7, 0.6, 0.7, 0.9]
BEST_STEP, STOP_STEP = 4, 8


@pytest.fixture
def command(tables, tokenizer, tmp_path) -> list[str]:
    values = {
        **tiny_classification(tables, tokenizer, tmp_path),
        "trainer": {"max_steps": 10, "accelerator": "cpu", "precision": "32", "val_check_interval": 2},
        "checkpoint": {"every_n_steps": 1, "keep_last": 99},
        "early_stopping": {"patience": 2},
    }
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(values))
    return ["fit", "--config", str(tmp_path / "experiment.yaml"), "--run-directory"]


@pytest.fixture(params=["max", "min"])
def scored(request, monkeypatch):
    """Make validation return the scores, as accuracy or, if negative, as a loss.

    The value is a function that sets a callback. The callback receives the step of each validation.
    """
    sign, name = (1.0, "accuracy") if request.param == "max" else (-1.0, "loss")
    listeners = []

    def scores(task, split, outputs, subset):
        step = task.trainer.global_step
        for listener in listeners:
            listener(step)
        return {name: sign * SCORES[step // 2 - 1]}

    monkeypatch.setattr(TextClassificationTask, "scores", scores)
    initialize = TextClassificationTask.__init__

    def initialize_without_monitor(task, *arguments, **options):
        initialize(task, *arguments, **options)
        del task.monitor, task.monitor_mode

    monkeypatch.setattr(TextClassificationTask, "__init__", initialize_without_monitor)
    monkeypatch.setattr(TextClassificationTask, "monitor", f"val/{name}", raising=False)
    monkeypatch.setattr(TextClassificationTask, "monitor_mode", request.param, raising=False)
    return listeners.append


def ended(run: Path) -> tuple[int, str, str]:
    """Return the last step, the best checkpoint, and how the run ended."""
    manifest = RunDirectory(run).read_manifest()
    return manifest["step"], (run / "checkpoints/best.ckpt").resolve().name, manifest["ended"]


EXPECTED = (STOP_STEP, f"step-{BEST_STEP:09}.ckpt", "finished")


def test_the_metric_of_the_task_decides_the_best_checkpoint_and_early_stopping(command, scored, tmp_path):
    assert main([*command, str(tmp_path / "run")]) == 0
    assert ended(tmp_path / "run") == EXPECTED


def test_patience_continues_after_a_kill(command, scored, tmp_path):
    whole = tmp_path / "whole"
    assert main([*command, str(whole)]) == 0
    # Before, at and after a validation, and at the one that stops training, before its end was recorded.
    for step in (5, 6, 7, STOP_STEP):
        killed = tmp_path / f"killed-{step}"
        shutil.copytree(whole, killed, symlinks=True)
        for path in (killed / "checkpoints").glob("step-*"):
            if int(path.name[5:14]) > step:
                path.unlink()
        RunDirectory(killed).update_manifest(ended=None, step=None)
        resumed = killed / f"checkpoints/step-{step:09}.ckpt"
        file = resumed.stat().st_ino if resumed.exists() else None
        assert main([*command, str(killed)]) == 0
        assert ended(killed) == EXPECTED, step
        # If it were written again, a kill could lose it.
        assert not resumed.exists() or resumed.stat().st_ino == file
        end = weights(killed)
        assert all(torch.equal(tensor, end[name]) for name, tensor in weights(whole).items())


@pytest.mark.parametrize("restored", ["before on_fit_start", "before on_train_start"])
def test_a_stopped_run_stays_stopped_under_every_strategy(restored):
    stopped, again = (ResumableEarlyStopping("val/loss", patience=1) for _ in range(2))
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False)
    for loss in (1.0, 2.0):
        trainer.callback_metrics["val/loss"] = torch.tensor(loss)
        stopped._run_early_stopping_check(trainer)
    assert trainer.should_stop
    trainer.should_stop = False
    for hook in ("on_fit_start", "on_train_start"):
        if hook in restored:
            again.load_state_dict(stopped.state_dict())
        getattr(again, hook)(trainer, None)
    assert trainer.should_stop


@pytest.mark.parametrize("step", [6, STOP_STEP])
def test_patience_continues_after_a_signal_during_validation(command, scored, tmp_path, step):
    """The checkpoint that a signal leaves holds the decision of early stopping in the same validation."""
    pending = [step]

    def interrupt(now):
        if now in pending:
            pending.remove(now)
            os.kill(os.getpid(), signal.SIGTERM)

    scored(interrupt)
    run = tmp_path / "run"
    # If training stops at that validation anyway, it is finished.
    assert main([*command, str(run)]) == (0 if step == STOP_STEP else 143)
    assert RunDirectory(run).read_manifest()["step"] == step
    assert main([*command, str(run)]) == 0
    assert ended(run) == EXPECTED


def test_another_metric_is_followed_in_the_given_direction(command, scored, tmp_path, monkeypatch):
    monitor = TextClassificationTask.monitor
    monkeypatch.setattr(TextClassificationTask, "monitor", "val/macro_f1")
    upwards = "max" if monitor == "val/accuracy" else "min"
    assert main([*command, str(tmp_path / "run"), "--checkpoint.monitor", monitor, "--checkpoint.mode", upwards]) == 0
    assert ended(tmp_path / "run") == EXPECTED


def test_patience_without_a_validation_set_is_refused_by_one_message(command, tmp_path, capsys):
    assert main([*command, str(tmp_path / "run"), "--data.validation", "null"]) == 2
    [message] = capsys.readouterr().err.splitlines()
    assert "early_stopping.patience does nothing without validation" in message
    assert not (tmp_path / "run").exists()
    assert (
        main([*command, str(tmp_path / "run"), "--data.validation", "null", "--early_stopping.patience", "null"]) == 0
    )
