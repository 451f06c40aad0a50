"""Signals, dead processes and full disks, with real processes."""

import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bert_lightning.checkpoints.files import damage
from bert_lightning.checkpoints.native import load_native
from bert_lightning.runs.directory import RunDirectory

TWO_RANKS = ["--trainer.devices", "2"]
WORKERS = ["--data.num_workers", "2"]
# More than a process needs to start and to end, less than the timeouts of gloo.
LIMIT = 120


class Fit:
    """A long `fit` in its own process group."""

    def __init__(self, home, folder, *arguments, **keywords):
        self.run = RunDirectory(folder / "run")
        command = [sys.executable, "-m", "bert_lightning", "fit", "--config", str(home / "pretraining.yaml")]
        command += ["--trainer.max_steps", "20000", "--trainer.val_check_interval", "5000", "--run-directory"]
        command += [str(self.run.path), "--checkpoint.every_n_steps", "5000", *arguments]
        environment = {**os.environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), environment.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
            **keywords,
        )

    def begun(self, rows=1):
        return self.until(lambda: len(self.run.read_metrics()) >= rows)

    def starts(self):
        """Return whether the first row comes before the process ends."""
        deadline = time.monotonic() + LIMIT
        while self.process.poll() is None and time.monotonic() < deadline:
            if self.run.read_metrics():
                return True
            time.sleep(0.05)
        return False

    def until(self, holds):
        deadline = time.monotonic() + LIMIT
        while not holds():
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.stderr.read()
            time.sleep(0.05)
        return self

    def to_group(self, number):
        os.killpg(self.process.pid, number)

    def ranks(self):
        """Return the process ids of rank 0, 1, ..."""
        others = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == self.process.pid:
                    others.append(int(stat.parent.name))
            except OSError:
                continue
        return [self.process.pid, *sorted(others)]

    def end(self):
        """Return exit status and lines on standard error; no process of the group may be left."""
        try:
            _, errors = self.process.communicate(timeout=LIMIT)
        finally:
            left = self._left()
        assert not left, f"these outlive the first: {left}"
        assert "Traceback" not in errors
        return self.process.returncode, errors.splitlines()

    def _left(self):
        """Kill the processes left of the group after a moment, and return them. Zombies do not count."""
        deadline = time.monotonic() + 4
        while (left := self._members()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for process, _ in left:
            os.kill(process, signal.SIGKILL)
        return left

    def _members(self):
        members = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, group = stat.read_text().rsplit(")", 1)[1].split()[:3]
            except OSError:
                continue
            if int(group) == self.process.pid and state != "Z":
                members.append((int(stat.parent.name), (stat.parent / "cmdline").read_text().replace("\0", " ")))
        return members

    def assert_saved(self, name):
        manifest = self.run.read_manifest()
        assert manifest["ended"] == f"stopped by {name}"
        assert load_native((self.run.checkpoints / "last.ckpt").resolve())["global_step"] == manifest["step"] > 0


def test_a_signal_to_the_whole_group_saves_while_workers_run(home, tmp_path):
    fit = Fit(home, tmp_path, *WORKERS).begun()
    fit.to_group(signal.SIGTERM)
    status, errors = fit.end()
    assert (status, len(errors)) == (143, 1), errors
    fit.assert_saved("SIGTERM")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGUSR1", 143), ("SIGINT", 130)])
@pytest.mark.parametrize("arguments", [WORKERS, TWO_RANKS, [*TWO_RANKS, "--data.num_workers", "1"]])
def test_each_signal_to_the_whole_group_saves_and_is_one_message(home, tmp_path, name, status, arguments):
    fit = Fit(home, tmp_path, *arguments).begun()
    fit.to_group(getattr(signal, name))
    assert (fit.end()[0]) == status
    fit.assert_saved(name)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_of_two_ranks_saves_on_both_at_the_same_step(home, tmp_path, rank):
    fit = Fit(home, tmp_path, *TWO_RANKS).begun()
    os.kill(fit.ranks()[rank], signal.SIGTERM)
    status, errors = fit.end()
    assert (status, len(errors)) == (143, 1), errors
    fit.assert_saved("SIGTERM")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_repeated_signals_neither_hang_nor_interrupt_the_end(home, tmp_path, name, status):
    fit = Fit(home, tmp_path, *TWO_RANKS, "--data.num_workers", "1").begun()
    while fit.process.poll() is None:
        fit.to_group(getattr(signal, name))
        time.sleep(0.05)
    assert fit.end()[0] == status


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("seconds", [0.5, 3, 5, 7])
def test_a_signal_before_the_first_step_ends_all_ranks(home, tmp_path, name, seconds):
    fit = Fit(home, tmp_path, *TWO_RANKS)
    time.sleep(seconds)
    fit.to_group(getattr(signal, name))
    # Until Python has started, nobody handles signals.
    number = getattr(signal, name)
    assert fit.end()[0] in (143 if name == "SIGTERM" else 130, -number)


def test_the_other_ranks_end_soon_after_a_rank_is_killed(home, tmp_path):
    fit = Fit(home, tmp_path, *TWO_RANKS).begun()
    [_, other] = fit.ranks()
    os.kill(other, signal.SIGKILL)
    began = time.monotonic()
    status, [message] = fit.end()
    assert time.monotonic() - began < 60
    assert status == 1
    assert f"rank 1 (process {other}) was killed by SIGKILL" in message
    assert fit.run.read_manifest()["ended"] == "failed"


@pytest.mark.slow
def test_the_other_ranks_end_soon_after_the_first_is_killed(home, tmp_path):
    fit = Fit(home, tmp_path, *TWO_RANKS).begun()
    [first, other] = fit.ranks()
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{other}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    status, [message] = fit.end()
    assert status == -signal.SIGKILL
    assert f"rank 0 (process {first}) is gone" in message


@pytest.mark.slow
def test_a_stopped_rank_ends_the_others_after_the_timeout(home, tmp_path):
    # The ranks also wait this long for each other at their start, which can take longer on a busy machine.
    for seconds in (10, 40, 90):
        folder = tmp_path / str(seconds)
        folder.mkdir()
        fit = Fit(home, folder, *TWO_RANKS, "--trainer.timeout_seconds", str(seconds))
        if fit.starts():
            break
        fit.end()
    else:
        pytest.fail("the ranks did not start in time")
    os.kill(fit.ranks()[1], signal.SIGSTOP)
    status, [message] = fit.end()
    assert status == 1
    assert "did not answer in time (trainer.timeout_seconds)" in message


@pytest.mark.slow
@pytest.mark.parametrize("skips", [False, True])
def test_a_non_finite_loss_on_two_ranks_is_one_message_and_one_file_with_the_samples_of_both(home, tmp_path, skips):
    arguments = ["--optimizer.learning_rate", "1e30", "--trainer.non_finite", "skip" if skips else "stop"]
    fit = Fit(home, tmp_path, *TWO_RANKS, *arguments)
    status, errors = fit.end()
    assert status == 1
    # One message per skipped step, and the one that ends training.
    assert len(errors) == (10 if skips else 1), errors
    assert ("has diverged" if skips else "is not finite") in errors[-1]
    reports = sorted(fit.run.path.glob("non-finite-*"))
    assert len(reports) == len(errors)
    for report, message in zip(reports, errors, strict=True):
        assert str(report) in message
        first, second = ([tuple(each) for each in one] for one in (samples(report, 0), samples(report, 1)))
        assert len(first) == len(second) == 4
        assert len({*first, *second}) == 8


def samples(report, rank):
    return [each for batch in json.loads(report.read_text())["processes"][rank]["samples"] for each in batch]


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_a_second_command_in_a_run_directory_changes_nothing_and_a_restart_after_a_kill_continues(home, tmp_path):
    arguments = ["--checkpoint.every_n_steps", "3", *WORKERS]
    fit = Fit(home, tmp_path, *arguments).begun()
    # Stopped, it writes nothing during the comparison.
    os.kill(fit.process.pid, signal.SIGSTOP)
    before = contents(fit.run.path)
    status, [message] = Fit(home, tmp_path, *arguments).end()
    assert status == 2
    assert f"{fit.run.path}: process {fit.process.pid} on {socket.gethostname()} is training there" in message
    assert contents(fit.run.path) == before
    fit.process.kill()
    fit.process.wait()
    again = Fit(home, tmp_path, *arguments).until(lambda: len(fit.run.read_manifest()["sessions"]) == 2)
    again.process.kill()
    assert again.end()[0] == -signal.SIGKILL


def limited(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--checkpoint.asynchronous", "true"],
        pytest.param([], marks=pytest.mark.slow()),
        pytest.param(TWO_RANKS, marks=pytest.mark.slow()),
    ],
)
def test_a_disk_without_room_for_a_checkpoint_is_one_message_that_names_it(home, tmp_path, arguments):
    """Let the system refuse files of more than 64 kilobytes, like a full disk or a quota."""
    fit = Fit(home, tmp_path, "--checkpoint.every_n_steps", "3", *arguments, preexec_fn=limited(1 << 16))
    status, errors = fit.end()
    assert status == 1, errors
    [message] = errors
    assert "run/checkpoints/step-000000003.ckpt: cannot be written: File too large" in message
    assert not list(fit.run.checkpoints.glob("*"))
    assert fit.run.read_manifest()["ended"] == "failed"


@pytest.mark.slow
def test_a_shard_that_cannot_be_written_is_one_message_of_all_ranks(home, tmp_path):
    arguments = ["--trainer.strategy", "fsdp", "--checkpoint.sharded", "true", "--checkpoint.every_n_steps", "3"]
    fit = Fit(home, tmp_path, *TWO_RANKS, *arguments, preexec_fn=limited(1 << 16))
    status, errors = fit.end()
    assert status == 1
    [message] = errors
    assert "step-000000003.ckpt cannot be written (process 0): " in message
    assert "File too large" in message
    assert not list(fit.run.checkpoints.glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("round_number", range(6))
def test_a_kill_after_an_asynchronous_save_leaves_the_earlier_checkpoint_complete(home, tmp_path, round_number):
    fit = Fit(home, tmp_path, "--checkpoint.every_n_steps", "1", "--checkpoint.asynchronous", "true")
    fit.begun(2)
    time.sleep(0.013 * round_number)
    fit.process.kill()
    fit.process.communicate(timeout=LIMIT)
    last = fit.run.checkpoints / "last.ckpt"
    assert damage(last.resolve()) is None
    assert load_native(last.resolve())["global_step"] >= 1


def test_checkpoints_written_asynchronously_hold_the_weights_of_their_step(home, tmp_path):
    from bert_lightning.checkpoints.digests import weights_digest
    from bert_lightning.checkpoints.native import read_native
    from bert_lightning.cli import main

    command = ["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", str(tmp_path / "run")]
    command += ["--checkpoint.asynchronous", "true", "--checkpoint.keep_last", "1"]
    assert main([*command, "--checkpoint.keep_every_n_steps", "4"]) == 0
    kept = {path.name for path in (tmp_path / "run/checkpoints").glob("step-*.ckpt")}
    best = (tmp_path / "run/checkpoints/best.ckpt").resolve().name
    assert kept == {f"step-{step:09d}.ckpt" for step in (4, 8, 12)} | {best}
    for name in kept:
        whole = home / "runs/whole/checkpoints" / name
        saved = tmp_path / "run/checkpoints" / name
        assert weights_digest(read_native(saved).tensors) == weights_digest(read_native(whole).tensors)
    assert (tmp_path / "run/checkpoints/last.ckpt").resolve().name == "step-000000012.ckpt"


def test_a_signal_in_the_last_validation_changes_nothing(home, tmp_path, monkeypatch):
    from bert_lightning.cli import main
    from bert_lightning.tasks.pretraining.task import PretrainingTask

    original = PretrainingTask.validation_step

    def signalled(self, batch, number):
        if self.trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, number)

    monkeypatch.setattr(PretrainingTask, "validation_step", signalled)
    command = ["fit", "--config", str(home / "pretraining.yaml"), "--trainer.max_steps", "4"]
    before = signal.getsignal(signal.SIGTERM)
    assert main([*command, "--run-directory", str(tmp_path / "run")]) == 0
    assert signal.getsignal(signal.SIGTERM) == before
    assert RunDirectory(tmp_path / "run").read_manifest()["ended"] == "finished"


def test_a_signal_while_a_finished_training_is_torn_down_changes_nothing(home, tmp_path, monkeypatch):
    from bert_lightning.cli import main
    from bert_lightning.training.checkpointing import Checkpointing

    def signalled(self, *_, **__):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            os.kill(os.getpid(), number)

    # The last of the callbacks.
    monkeypatch.setattr(Checkpointing, "teardown", signalled)
    command = ["fit", "--config", str(home / "pretraining.yaml"), "--trainer.max_steps", "1"]
    assert main([*command, "--run-directory", str(tmp_path / "run")]) == 0
    assert RunDirectory(tmp_path / "run").read_manifest()["ended"] == "finished"


def test_a_signal_in_the_last_step_of_a_training_without_validation_changes_nothing(home, tmp_path, monkeypatch):
    from bert_lightning.cli import main
    from bert_lightning.tasks.pretraining.task import PretrainingTask

    original = PretrainingTask.training_step

    def signalled(self, batches, number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batches, number)

    monkeypatch.setattr(PretrainingTask, "training_step", signalled)
    command = ["fit", "--config", str(home / "pretraining.yaml"), "--trainer.max_steps", "4"]
    command += ["--data.validation", "null"]
    assert main([*command, "--run-directory", str(tmp_path / "run")]) == 0
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert (manifest["ended"], manifest["step"]) == ("finished", 4)


def test_a_run_directory_that_cannot_be_written_is_one_message(home, tmp_path, monkeypatch, capsys):
    from bert_lightning.checkpoints import files
    from bert_lightning.cli import main

    def refused(path, mode):
        if "w" in mode:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return open(path, mode)

    monkeypatch.setattr(files, "open", refused, raising=False)
    command = ["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", str(tmp_path / "run")]
    assert main(command) == 1
    assert f"{tmp_path / 'run'}: cannot be written: Read-only file system" in capsys.readouterr().err
