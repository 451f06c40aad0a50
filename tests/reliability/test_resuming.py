"""Runs that were killed, damaged or stopped end bit for bit like uninterrupted ones: weights, optimiser, metrics."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml
from comparison import comparable, differences
from faults import damaged
from lineage import descent, drawn_twice, lost_and_repeated
from traced import identities

from bert_lightning.checkpoints.native import load_native
from bert_lightning.runs import weights_and_biases
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.tasks.pretraining.task import PretrainingTask
from bert_lightning.tasks.task import Task
from tests.support.kills import Killed, kill_at
from tests.support.ranks import Ranks, started
from tests.support.runs import fit, weights
from tests.support.small_corpus import PRETRAINING

STEPS = 12


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, store, validation_store) -> Path:
    """An experiment whose epochs mostly end inside a step, before the fourth. A log interval is two steps."""
    values = {
        **PRETRAINING,
        "data": {**PRETRAINING["data"], "train": str(validation_store), "validation": str(store), "batch_size": 16},
        "wandb": {"mode": "disabled"},
    }
    path = tmp_path_factory.mktemp("resuming") / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def assert_equal(one: Path, other: Path) -> None:
    assert not list(differences(comparable(one), comparable(other)))


def killed_after(whole: Path, step: int, run: Path) -> Path:
    """Copy a run to the state that a kill right after the checkpoint of a step leaves."""
    shutil.copytree(whole, run, symlinks=True)
    for path in (run / "checkpoints").glob("step-*"):
        if int(path.name[5:14]) > step:
            path.unlink()
    RunDirectory(run).update_manifest(ended=None, step=None)
    return run


@pytest.fixture
def taken(monkeypatch):
    """A list with one dictionary per session of training in this process: step -> its samples."""
    sessions = []
    untraced = Task.training_step

    def traced(task, micro_batches, number):
        if number == 0 or not sessions or task is not sessions[-1][0]:
            sessions.append((task, {}))
        step = task.trainer.global_step + 1
        sessions[-1][1][step] = [tuple(each) for batch in micro_batches for each in identities(batch)]
        untraced(task, micro_batches, number)

    monkeypatch.setattr(Task, "training_step", traced)
    return sessions


# -- 1: from every checkpoint ------------------------------------------------------------------------------------

FORMS = [
    pytest.param(workers, accumulate, steps, marks=marks)
    for workers, accumulate, steps, marks in (
        (2, 2, (3, 7), ()),
        *(
            (workers, accumulate, tuple(range(1, STEPS)), pytest.mark.slow)
            for workers, accumulate in itertools.product((0, 2), (1, 2))
        ),
    )
]


@pytest.mark.parametrize(("workers", "accumulate", "steps"), FORMS)
def test_a_run_resumes_bit_for_bit_with_workers_and_accumulation(experiment, tmp_path, workers, accumulate, steps):
    options = ["--data.num_workers", workers, "--trainer.accumulate_grad_batches", accumulate]
    whole = tmp_path / "whole"
    assert fit(experiment, whole, *options) == 0
    for step in steps:
        run = killed_after(whole, step, tmp_path / f"from-{step}")
        assert fit(experiment, run, *options) == 0
        assert_equal(whole, run)


# -- 3: which samples --------------------------------------------------------------------------------------------


def test_no_sample_is_lost_or_repeated_over_kills_epoch_ends_and_more_steps(experiment, tmp_path, taken, monkeypatch):
    whole, run = tmp_path / "whole", tmp_path / "run"
    options = ["--checkpoint.every_n_steps", "3", "--trainer.val_check_interval", "100"]
    assert fit(experiment, whole, *options, "--trainer.max_steps", STEPS + 6) == 0
    [(_, uninterrupted)] = taken
    taken.clear()
    for step in (2, 4, 10):
        with monkeypatch.context() as patch:
            kill_at(patch, step)
            with pytest.raises(Killed):
                fit(experiment, run, *options)
    assert fit(experiment, run, *options) == 0
    # A longer run with otherwise the same settings starts from the last checkpoint in a new directory.
    more = ["--trainer.max_steps", STEPS + 6, "--resume", run]
    assert fit(experiment, tmp_path / "more", *options, *more) == 0
    sessions = [steps for _, steps in taken]
    assert [min(steps) for steps in sessions] == [1, 1, 4, 10, 13]
    lineage = descent(sessions)
    assert lineage == uninterrupted
    assert lost_and_repeated(lineage, uninterrupted) == (0, 0)
    assert drawn_twice(lineage, []) == 0
    epochs = {epoch for samples in lineage.values() for epoch, *_ in samples}
    assert len(epochs) > 4, "epochs end on the way"


# -- 2 and 7: damage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["bit", "truncation", "zeros"])
def test_after_damage_the_earlier_checkpoint_leads_to_the_same_result(home, tmp_path, how, caplog):
    import random

    run = killed_after(home / "runs/whole", 9, tmp_path / "run")
    newest = run / "checkpoints/step-000000009.ckpt"
    newest.write_bytes(damaged(newest.read_bytes(), how, random.Random(0)))
    (run / "checkpoints/last.ckpt").unlink()
    assert fit(home / "pretraining.yaml", run) == 0
    assert "step-000000009.ckpt is damaged" in caplog.text
    assert (run / "checkpoints/set-aside/step-000000009.ckpt").exists()
    session = RunDirectory(run).read_manifest()["sessions"][-1]
    assert session["resumed_from"].endswith("step-000000008.ckpt")
    assert_equal(home / "runs/whole", run)


def test_a_run_keeps_an_earlier_checkpoint_by_default(experiment, tmp_path):
    values = yaml.safe_load(experiment.read_text())
    values["checkpoint"] = {"every_n_steps": 2}
    # The best checkpoint is the last one here, so it is not the one left.
    values["optimizer"] = {"learning_rate": 1e-3}
    config = tmp_path / "default.yaml"
    config.write_text(yaml.safe_dump(values))
    assert fit(config, tmp_path / "run", "--trainer.max_steps", "4", "--trainer.val_check_interval", "4") == 0
    assert len(list((tmp_path / "run/checkpoints").glob("step-*.ckpt"))) == 2


# -- killed between two writes -----------------------------------------------------------------------------------


def test_a_run_killed_after_its_last_checkpoint_ends_as_an_uninterrupted_one(home, classifier, tmp_path, capsys):
    run = killed_after(classifier, 10**6, tmp_path / "run")
    predictions = (run / "predictions/validation.jsonl").read_text()
    shutil.rmtree(run / "predictions")
    best = run / "checkpoints/best.ckpt"
    before = best.readlink()
    # The kill came before the link to the best was made.
    best.unlink()
    (run / "checkpoints/.best.ckpt.99.tmp").symlink_to("gone")
    (run / "checkpoints/step-000099999.ckpt.sha256").write_text("of a file that was never written")
    (run / ".manifest.json.99.tmp").write_text("{")
    (run / "predictions/validation").mkdir(parents=True)
    (run / "predictions/validation/.predictions.json.99.tmp").write_text("{")
    assert fit(home / "topics.yaml", run) == 0
    assert "val/accuracy" in capsys.readouterr().out
    assert (run / "predictions/validation.jsonl").read_text() == predictions
    assert best.readlink() == before
    assert_equal(classifier, run)
    assert not list(run.rglob(".*.tmp"))
    assert not list(run.rglob("step-000099999*"))


def test_a_run_killed_before_its_first_file_was_complete_starts_anew(experiment, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".config.yaml.99.tmp").write_text("experi")
    assert fit(experiment, run, "--trainer.max_steps", "1") == 0
    assert not list(run.glob(".*.tmp"))


def test_a_checkpoint_of_another_batch_size_resumes_with_a_warning(experiment, tmp_path, caplog):
    assert fit(experiment, tmp_path / "run", "--trainer.max_steps", "2") == 0
    resume = ["--resume", tmp_path / "run", "--trainer.max_steps", "3"]
    assert fit(experiment, tmp_path / "same", *resume) == 0
    assert "position in the data" not in caplog.text
    assert fit(experiment, tmp_path / "other", *resume, "--data.batch_size", "8") == 0
    assert "its run had data.batch_size 16, and this one has 8" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--trainer.devices", "3"], "3 process(es)"),
        (["--trainer.accelerator", "gpu"], "trainer: "),
        (["--wandb.mode", "online"], "there is no API key"),
    ],
)
def test_nothing_is_written_before_devices_shares_and_loggers_are_checked(
    experiment, tmp_path, monkeypatch, capsys, change, message
):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(weights_and_biases, "has_api_key", lambda: False)
    assert fit(experiment, tmp_path / "run", "--wandb.mode", "offline", *change) == 2
    assert message in capsys.readouterr().err
    monkeypatch.setenv("WANDB_MODE", "online")
    assert fit(experiment, tmp_path / "run", "--wandb.mode", "offline", *change) == 2
    assert "WANDB_MODE is online" in capsys.readouterr().err or change[0] != "--wandb.mode"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fails", [False, True])
def test_the_run_of_weights_and_biases_is_closed_in_every_end_of_training(experiment, tmp_path, monkeypatch, fails):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if fails:
        kill_at(monkeypatch, 1)
    with pytest.raises(Killed) if fails else nullcontext():
        fit(experiment, tmp_path / "run", "--trainer.max_steps", "2", "--wandb.mode", "offline")
    assert sys.modules["wandb"].run is None
    assert list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))
    assert RunDirectory(tmp_path / "run").read_manifest()["ended"] == ("failed" if fails else "finished")


# -- 8: signals --------------------------------------------------------------------------------------------------


def test_a_signal_within_an_accumulated_step_lets_the_step_finish(experiment, tmp_path, taken, monkeypatch):
    options = ["--trainer.accumulate_grad_batches", "2"]
    assert fit(experiment, tmp_path / "whole", *options) == 0
    [(_, uninterrupted)] = taken
    taken.clear()
    original = PretrainingTask.sums
    pending = {1, 2, 5, 8}

    def interrupted(task, batch):
        if task.training and task.trainer.global_step in pending:
            pending.remove(task.trainer.global_step)
            # Between the two halves of the step.
            os.kill(os.getpid(), signal.SIGTERM)
        return original(task, batch)

    monkeypatch.setattr(PretrainingTask, "sums", interrupted)
    run = tmp_path / "run"
    for step in sorted(pending):
        assert fit(experiment, run, *options) == 143
        assert RunDirectory(run).read_manifest()["step"] == step + 1
        assert (run / "checkpoints/last.ckpt").resolve().name == f"step-{step + 1:09d}.ckpt"
    assert fit(experiment, run, *options) == 0
    assert descent([steps for _, steps in taken]) == uninterrupted
    assert_equal(tmp_path / "whole", run)


# -- 4, 5 and 8: two ranks ---------------------------------------------------------------------------------------

# Records the seed of each rank's dropout, and sends a signal to one rank within a step.
WATCHED = """
import json, os, signal, torch
from bert_lightning.tasks.task import Task
original = Task.training_step
def watched(self, batches, number):
    rank, step = int(os.environ["WATCHED_RANK"]), int(os.environ["WATCHED_STEP"])
    if self.trainer.global_step == step and self.global_rank == rank:
        os.kill(os.getpid(), signal.SIGTERM)
    original(self, batches, number)
    with open(f"{os.environ['WATCHED_FOLDER']}/seeds-{self.global_rank}", "a") as file:
        print(self.trainer.global_step, torch.initial_seed(), file=file)
Task.training_step = watched
Task.unwatched_step = original
"""
UNWATCHED = """
from bert_lightning.tasks.task import Task
Task.training_step = Task.unwatched_step
"""


@pytest.fixture(scope="module")
def watched(two_ranks):
    """Two ranks that record their seeds and can send a signal."""
    two_ranks.execute(WATCHED)
    yield two_ranks
    two_ranks.execute(UNWATCHED)


def fit_on(ranks: Ranks, experiment: Path, run: Path, *options: object, rank: int = 0, step: int = -1) -> int:
    """Run `fit` on several ranks, with SIGTERM to `rank` in the step after `step`; return the status of the first."""
    run.parent.mkdir(exist_ok=True)
    command = ["fit", "--config", experiment, "--run-directory", run, "--trainer.devices", len(ranks.processes)]
    command += ["--trainer.strategy", "ddp", "--trainer.log_every_n_steps", STEPS, *options]
    watched = {"WATCHED_FOLDER": run.parent, "WATCHED_RANK": rank, "WATCHED_STEP": step}
    return ranks.run([*map(str, command)], **watched)[0]


@pytest.fixture(scope="module")
def on_two(watched, experiment, tmp_path_factory) -> Path:
    """An uninterrupted run on two ranks."""
    run = tmp_path_factory.mktemp("two") / "whole"
    assert fit_on(watched, experiment, run) == 0
    return run


def test_ranks_and_steps_draw_different_dropout(on_two):
    seeds = [re.findall(r"\d+ (\d+)", (on_two.parent / f"seeds-{rank}").read_text()) for rank in (0, 1)]
    assert [len(each) for each in seeds] == [STEPS, STEPS]
    assert len({*seeds[0], *seeds[1]}) == 2 * STEPS


def test_two_ranks_stop_on_a_signal_to_one_and_resume_bit_for_bit(watched, experiment, on_two, tmp_path):
    # The log interval is the whole training: each rank must continue with its own sums.
    assert fit_on(watched, experiment, tmp_path / "run", rank=1, step=6) == 143
    manifest = RunDirectory(tmp_path / "run").read_manifest()
    assert (manifest["step"], manifest["ended"]) == (7, "stopped by SIGTERM")
    # If summed over ranks, they would sometimes differ in the last bit.
    window = load_native(tmp_path / "run/checkpoints/step-000000007.ckpt")["log_window"]
    assert len(window) == 2
    assert not torch.equal(window[0], window[1])
    assert fit_on(watched, experiment, tmp_path / "run") == 0
    assert_equal(on_two, tmp_path / "run")


def test_two_ranks_resume_bit_for_bit_from_eight_checkpoints(watched, experiment, on_two, tmp_path):
    for step in range(2, 10):
        run = killed_after(on_two, step, tmp_path / f"from-{step}")
        assert fit_on(watched, experiment, run) == 0
        assert_equal(on_two, run)


def test_two_ranks_stop_on_every_signal_whichever_rank_it_reaches(watched, experiment, on_two, tmp_path):
    run = tmp_path / "run"
    for number, step in enumerate((0, 1, 2, 4, 6, 7, 9)):
        assert fit_on(watched, experiment, run, rank=number % 2, step=step) == 143
        assert RunDirectory(run).read_manifest()["step"] == step + 1
    assert fit_on(watched, experiment, run) == 0
    assert_equal(on_two, run)


@pytest.mark.slow
def test_three_ranks_sum_in_the_same_order_after_a_resume(experiment, tmp_path):
    # A resume is another session, so it needs new processes.
    with started(3) as ranks:
        ranks.execute(WATCHED)
        assert fit_on(ranks, experiment, tmp_path / "whole", "--data.batch_size", 12) == 0
    run = killed_after(tmp_path / "whole", 7, tmp_path / "run")
    with started(3) as ranks:
        ranks.execute(WATCHED)
        assert fit_on(ranks, experiment, run, "--data.batch_size", 12) == 0
    assert_equal(tmp_path / "whole", run)


def test_two_ranks_resumed_on_one_take_the_same_samples_to_nearly_the_same_weights(
    watched, experiment, tmp_path, taken
):
    options = ["--model.config.hidden_dropout_prob", "0", "--model.config.attention_probs_dropout_prob", "0"]
    assert fit_on(watched, experiment, tmp_path / "two", *options) == 0
    checkpoint = tmp_path / "two/checkpoints/step-000000006.ckpt"
    assert fit(experiment, tmp_path / "one", *options, "--resume", checkpoint) == 0
    assert fit(experiment, tmp_path / "whole", *options) == 0
    (_, resumed), (_, whole) = taken
    assert resumed == {step: samples for step, samples in whole.items() if step > 6}
    for name, expected in weights(tmp_path / "two").items():
        torch.testing.assert_close(weights(tmp_path / "one")[name], expected, rtol=0, atol=1e-6, msg=name)


# -- 2: all of it ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("processes", "kills"), [(1, 8), (2, 4)])
def test_a_run_survives_the_soak(processes, kills):
    script = Path(__file__).parents[2] / "experiments/reliability/soak.py"
    command = [sys.executable, str(script), "--minutes", "2", "--kills", str(kills), "--processes", str(processes)]
    done = subprocess.run(command, capture_output=True, text=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout
    assert figures == {"kills": kills, "rejected": figures["rejected"], "lost": 0, "repeated": 0, "equal": True}
    assert figures["rejected"] >= 1
