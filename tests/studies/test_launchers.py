"""Runs at the same time share the machine, have ports of their own, and outlive nobody who waits for them."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bert_lightning.cores import all_cores, usable_cores
from bert_lightning.errors import InputError
from bert_lightning.studies import launchers, processes
from bert_lightning.studies.launchers import Job, LocalLauncher, check_shares, visible_devices
from bert_lightning.studies.processes import Processes, running_process, with_cores


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in ("OMP_NUM_THREADS", "BERT_LIGHTNING_CORES", "CUDA_VISIBLE_DEVICES", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def environment(launcher: LocalLauncher, place: int = 0, **job) -> dict[str, str]:
    return launcher._environment(Job("a", [], Path("a"), Path("a.log"), **job), place)


def test_jobs_divide_the_cores_among_their_processes(monkeypatch):
    monkeypatch.setattr(launchers, "usable_cores", lambda: 8)
    alone = environment(LocalLauncher(1))
    assert "OMP_NUM_THREADS" not in alone
    assert "BERT_LIGHTNING_CORES" not in alone
    for num_jobs, num_processes, cores, threads in ((2, 1, "4", "4"), (2, 2, "4", "2"), (3, 4, "2", "1")):
        shared = environment(LocalLauncher(num_jobs), num_processes=num_processes)
        assert (shared["BERT_LIGHTNING_CORES"], shared["OMP_NUM_THREADS"]) == (cores, threads)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert environment(LocalLauncher(2))["OMP_NUM_THREADS"] == "7"


def test_a_run_that_was_given_a_share_of_the_cores_uses_no_more(monkeypatch):
    monkeypatch.setenv("BERT_LIGHTNING_CORES", "1")
    assert usable_cores() == 1
    monkeypatch.setenv("BERT_LIGHTNING_CORES", "1000000")
    assert usable_cores() == all_cores()
    for wrong in ("", "0", "many"):
        monkeypatch.setenv("BERT_LIGHTNING_CORES", wrong)
        assert usable_cores() == all_cores()
    assert with_cores({"BERT_LIGHTNING_CORES": "2"}, 1)["BERT_LIGHTNING_CORES"] == "2"


@pytest.mark.parametrize(
    ("devices", "num_jobs", "expected"),
    [("0123", 2, ["0,1", "2,3"]), ("012", 2, ["0", "1"]), ("57", 3, ["5", "7", "5"]), ("", 2, [None, None])],
)
def test_jobs_divide_the_devices(devices, num_jobs, expected):
    launcher = LocalLauncher(num_jobs, [*devices])
    shares = [environment(launcher, place, uses_gpu=True) for place in range(num_jobs)]
    assert [share.get("CUDA_VISIBLE_DEVICES") for share in shares] == expected
    assert "CUDA_VISIBLE_DEVICES" not in environment(launcher, uses_gpu=False)


def test_the_users_own_devices_are_those_that_are_divided(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert visible_devices() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,3")
    assert visible_devices() == ["6", "3"]


def test_more_processes_than_devices_are_refused():
    check_shares(2, ["0", "1", "2", "3"], 2)
    check_shares(8, ["0"], 1)
    check_shares(8, [], 4)
    with pytest.raises(InputError, match=r"--jobs is 3.*on 2 devices, but there are 4: at most 2 can"):
        check_shares(3, ["0", "1", "2", "3"], 2)


def test_runs_of_several_processes_have_ports_of_their_own(monkeypatch):
    launcher = LocalLauncher(2)
    ports = {environment(launcher, num_processes=2)["MASTER_PORT"] for _ in range(20)}
    assert len(ports) == 20
    assert "MASTER_PORT" not in environment(launcher)
    monkeypatch.setenv("MASTER_PORT", "4321")
    assert environment(LocalLauncher(1), num_processes=2)["MASTER_PORT"] == "4321"
    assert environment(launcher, num_processes=2)["MASTER_PORT"] != "4321"


POPEN = subprocess.Popen


def as_fit(monkeypatch, code: str) -> None:
    """Let a short program take the place of `fit`, also of one that took it before."""
    monkeypatch.setattr(
        processes.subprocess, "Popen", lambda command, **named: POPEN([sys.executable, "-c", code], **named)
    )


def test_a_process_that_outlived_its_parent_is_waited_for_and_named_once(tmp_path):
    job = Job("rte, base, seed 1", [], tmp_path / "run", tmp_path / "run.log")
    job.directory.mkdir()
    (job.directory / ".lock").write_text("process 17 on node3\n")
    # The parent locks the log and is killed at once; its child keeps the lock until its input ends.
    code = f"""
import os, subprocess, sys
from bert_lightning.studies.processes import lock_for_children
log = open({str(job.log)!r}, "ab")
lock_for_children(log)
subprocess.Popen([sys.executable, "-c", "input()"], stdout=log)
os.kill(os.getpid(), 9)
"""
    reader, writer = os.pipe()
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=reader)
    os.close(reader)
    assert parent.wait() == -signal.SIGKILL
    assert running_process(job.directory) == "process 17 on node3"
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        os.write(writer, b"\n")

    assert LocalLauncher().wait_for_earlier(job, say)
    assert said == ["rte, base, seed 1: process 17 on node3 still trains it: waiting for its end"]
    os.close(writer)
    assert running_process(job.directory) is None
    assert not LocalLauncher().wait_for_earlier(job, say)


def test_stop_ends_a_run_with_sigterm_and_lets_no_other_start(tmp_path, monkeypatch):
    as_fit(monkeypatch, "print('begun', flush=True); input()")
    launcher = LocalLauncher(2)
    job = Job("a", [], tmp_path / "run", tmp_path / "run.log")
    statuses: list[int | None] = []
    # Its standard input is closed, so a run never waits for the terminal.
    assert launcher.run(job) == 1
    assert "EOFError" in job.log.read_text()
    as_fit(monkeypatch, "import signal; print('begun', flush=True); signal.pause()")
    thread = threading.Thread(target=lambda: statuses.append(launcher.run(job)))
    thread.start()
    while job.log.read_text().count("begun") < 2:
        thread.join(0.01)
    launcher.stop()
    thread.join()
    assert statuses == [-signal.SIGTERM]
    assert launcher.run(job) is None


def test_what_a_run_leaves_in_its_session_is_ended(tmp_path, monkeypatch):
    left_behind = "[sys.executable, '-c', 'import signal; signal.pause()']"
    code = f"import subprocess, sys; print(subprocess.Popen({left_behind}).pid)"
    as_fit(monkeypatch, code)
    monkeypatch.setattr(processes, "_GRACE", 0.2)
    with open(tmp_path / "log", "w+b") as log:
        assert Processes().fit([], os.environ, log, own_session=True) == 0
        log.seek(0)
        left = int(log.read())
    status = Path(f"/proc/{left}/stat")
    assert not status.exists() or status.read_text().rsplit(") ", 1)[1].startswith("Z")
