"""The lock that allows one training at a time in a run directory."""

import errno
import fcntl
import os
import shutil
import socket
import subprocess
import sys

import pytest

from bert_lightning.cli import main
from bert_lightning.errors import InputError
from bert_lightning.runs import fit as training
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.lock import DirectoryLock, lock_holder

HOLD = """
import os, sys
from pathlib import Path
from bert_lightning.runs.lock import DirectoryLock
lock = DirectoryLock(Path(sys.argv[1]))
lock.take()
if os.fork():
    print("held", flush=True)
sys.stdin.read()
"""

LOOK = """
import sys
from pathlib import Path
from bert_lightning.runs.lock import lock_holder
print(lock_holder(Path(sys.argv[1])))
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds the folder. A process that it forked, like those of a loader, outlives it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    # The other process ends at this line.
    process.stdin.close()
    process.wait()


def test_a_lock_lasts_until_its_process_ends_in_any_way(tmp_path, holder):
    named = f"{tmp_path}: process {holder.pid} on {socket.gethostname()} is training there"
    for _ in range(2):
        # The refused process closes the file, but the lock of the other remains.
        with pytest.raises(InputError, match=named):
            DirectoryLock(tmp_path).take()
    holder.kill()
    holder.wait()
    lock = DirectoryLock(tmp_path)
    lock.take()
    assert lock.path.read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
    lock.close()


def test_looking_at_a_lock_names_its_holder_and_leaves_the_lock_as_it_is(tmp_path, holder):
    for _ in range(2):
        assert lock_holder(tmp_path) == f"process {holder.pid} on {socket.gethostname()}"
    holder.kill()
    holder.wait()
    # The file still names the process, and a process that it forked still has the file open.
    assert lock_holder(tmp_path) is None
    lock = DirectoryLock(tmp_path)
    lock.take()
    lock.close()
    assert lock_holder(tmp_path) is None
    assert lock_holder(tmp_path / "missing") is None


def test_the_process_that_holds_a_lock_can_look_at_it_without_losing_it(tmp_path):
    lock = DirectoryLock(tmp_path)
    lock.take()
    other_name = tmp_path.parent / "other-name"
    other_name.symlink_to(tmp_path)
    assert lock_holder(other_name) == f"process {os.getpid()} on {socket.gethostname()}"
    seen = subprocess.run([sys.executable, "-c", LOOK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert seen.stdout == f"process {os.getpid()} on {socket.gethostname()}\n"
    lock.close()
    assert lock_holder(tmp_path) is None


@pytest.mark.parametrize("begun", [False, True])
def test_a_second_command_in_a_run_directory_is_one_message_and_changes_nothing(
    home, tmp_path, holder, capsys, begun
):
    if begun:
        own = shutil.ignore_patterns(".lock")
        shutil.copytree(home / "runs/whole", tmp_path, symlinks=True, ignore=own, dirs_exist_ok=True)
        RunDirectory(tmp_path).update_manifest(ended=None)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    command = ["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", str(tmp_path)]
    assert main(command) == 2
    [message] = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}: process {holder.pid} on" in message
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_lock_is_a_warning(tmp_path, monkeypatch, caplog, number):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refused)
    DirectoryLock(tmp_path / "run").take()
    [record] = caplog.records
    assert f"{tmp_path / 'run'}" in record.getMessage()
    assert os.strerror(number) in record.getMessage()


def test_a_command_killed_at_its_start_leaves_a_free_directory(tmp_path):
    DirectoryLock(tmp_path).take()
    assert RunDirectory(tmp_path).is_free


def test_a_run_finished_by_another_command_meanwhile_is_not_started_again(home, tmp_path, monkeypatch, capsys):
    run, build = RunDirectory(tmp_path / "run"), training.build_training

    def beaten(experiment, start):
        run.path.mkdir()
        run.write_config({"of": "another"})
        return build(experiment, start)

    monkeypatch.setattr(training, "build_training", beaten)
    command = ["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", str(run.path)]
    assert main(command) == 2
    assert f"{run.path}: another command has just begun a run there" in capsys.readouterr().err
    assert run.read_config() == {"of": "another"}
    assert not run.manifest.exists()
