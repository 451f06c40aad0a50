"""The suite for a machine with a GPU: its limits, its jobs, and a rehearsal on a processor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gpu_checks
import gpu_suite
import gpu_training_checks
import pytest
import torch
from gpu_jobs import Job, Workplace
from pretraining_step import CONTENDERS

ROOT = Path(__file__).parents[1]
SCRIPT = str(ROOT / "experiments/benchmarks/gpu_suite.py")


@pytest.mark.parametrize("command", ["first", "second"])
def test_without_cuda_the_suite_prints_one_line_and_exits_with_2(tmp_path, monkeypatch, capsys, command):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_suite.py", command, "--out", str(tmp_path / "out")])
    assert gpu_suite.main() == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert "no CUDA device" in captured.err
    assert not (tmp_path / "out").exists()


def test_without_its_data_the_suite_names_the_command_that_collects_it(tmp_path, monkeypatch, capsys):
    command = [
        "gpu_suite.py",
        "first",
        "--device",
        "cpu",
        "--prepared",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr(sys, "argv", command)
    assert gpu_suite.main() == 2
    assert "run gpu_suite.py prepare" in capsys.readouterr().err


def test_the_limits_of_the_rows_leave_time_for_the_rest():
    seconds = {name: sum(limit for _, limit in rows.values()) for name, rows in gpu_suite.ROWS.items()}
    assert seconds["first"] <= gpu_suite.ROWS_OF_FIRST
    assert seconds["second"] <= gpu_suite.BUDGETS["second"] - gpu_suite.RUNS_OF_SECOND
    assert gpu_suite.BUDGETS == {"first": 450, "second": 400}
    # With a limit, plain contenders are reported before compiled ones. One of ours must be among them.
    for rows in gpu_suite.ROWS.values():
        for arguments, _ in rows.values():
            names = arguments.partition("--contenders ")[2].split()
            plain = [name for name in names if not name.endswith("compiled")] or names
            assert {*names} <= {*CONTENDERS}
            assert any(not name.startswith("transformers") for name in plain)


def test_a_job_ends_at_its_limit_with_all_its_processes_and_before_the_reserve(tmp_path):
    place = Workplace(tmp_path / "logs", 60.0, {"GREETING": "hello"})
    greet = Job("greet", ["-c", "import os; print(os.environ['GREETING'])"], 30)
    assert place.run(greet)["result"] == "ended"
    assert (tmp_path / "logs/greet.log").read_text() == "hello\n"
    failed = place.run(Job("fail", ["-c", "raise SystemExit('no data')"], 30))
    assert (failed["result"], failed["why"]) == ("failed", "no data")
    # A job whose own process starts another one, which would hold the log open.
    mark = f"marked-{tmp_path.name}"
    endless = "import signal; signal.pause()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {endless!r}, {mark!r}])"
    assert place.run(Job("endless", ["-c", code], 2))["result"] == "out of time"
    assert not subprocess.run(["pgrep", "-f", mark], capture_output=True, text=True, check=False).stdout
    assert place.run(greet, reserve=59.9) == {"result": "not run", "seconds": 0.0}


def test_lanes_run_side_by_side_and_the_jobs_of_a_lane_in_turn(tmp_path):
    place = Workplace(tmp_path / "logs", 60.0, {})
    # A pipe of which each end waits until the other one is opened.
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    wait, touch = "import sys; open(sys.argv[1])", "import sys; open(sys.argv[1], 'w')"
    # The first lane waits for the last job of the second one.
    lanes = [
        [Job("waits", ["-c", wait, path], 50)],
        [Job("one", ["-c", ""], 50), Job("two", ["-c", touch, path], 50)],
    ]
    outcomes = place.run_side_by_side(lanes)
    assert {name: outcome["result"] for name, outcome in outcomes.items()} == dict.fromkeys(
        ("waits", "one", "two"), "ended"
    )


def test_a_step_that_waits_is_noticed_with_the_sync_mode_of_the_step_alone(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    class Task:
        def training_step(self, fails):
            if modes[-1] == "error" and fails:
                raise RuntimeError("called a synchronizing CUDA operation")

    task = Task()
    errors = gpu_training_checks.watched(task)
    # The first step may wait, because it allocates.
    task.training_step(True)
    task.training_step(False)
    assert errors == []
    with pytest.raises(RuntimeError, match="synchronizing"):
        task.training_step(True)
    assert len(errors) == 1
    assert modes == ["default", "default", "error", "default", "error", "default"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The archive of the tiny form."""
    folder = tmp_path_factory.mktemp("gpu") / "prepared"
    subprocess.run([sys.executable, SCRIPT, "prepare", "--quick", "--prepared", str(folder)], check=True)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["first", "second"])
def test_each_command_is_rehearsed_on_a_processor(prepared, tmp_path, monkeypatch, name):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [sys.executable, SCRIPT, name, "--quick", "--device", "cpu", "--budget", "1100"]
    command += ["--prepared", str(prepared), "--out", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1150)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["failed"] == []
    assert {*results["rows"]} == {*gpu_suite.ROWS[name]}
    assert all(row["figures"]["contenders"] for row in results["rows"].values())
    assert {job["result"] for job in results["jobs"].values()} == {"ended"}
    runs = {job.removeprefix("fit-") for job in results["jobs"] if job.startswith("fit-")}
    assert {*results["metrics"]} == runs
    assert all(any(key.startswith("val/") for key in rows[-1]) for rows in results["metrics"].values())
    if name == "first":
        assert runs == {form for lane in gpu_suite.FITS for form in lane} - {"float16", "compiled"}
        assert {*results["checks"]} <= {*gpu_checks.CHECKS}
    else:
        assert runs == {"pretraining", "sst2", "squad"}
    assert len(list((tmp_path / "out/logs").iterdir())) == len(results["jobs"]) + len(results["rows"])
