"""Runs of a study as jobs of a cluster, with submitit's executor of this machine and an imitation of SLURM."""

import os
import signal
import stat
import sys
import threading
import time
from pathlib import Path

import pytest

from bert_lightning.errors import InputError, WorkError
from bert_lightning.studies import cluster
from bert_lightning.studies.cluster import SubmititLauncher, submitit_parameters
from bert_lightning.studies.launchers import Job

# A `fit` that takes its exit statuses from a file, one per process, and logs a step if the status is followed by +.
# It waits for a signal if the status is `wait`, and for the file `go` if it is `go`.
FIT = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--run-directory") + 1])
folder.mkdir(parents=True, exist_ok=True)
plan = folder.with_name("plan")
first, *rest = plan.read_text().split()
plan.write_text(" ".join(rest))
print("training", *sys.argv[1:], os.environ["WANDB_TAGS"], os.environ.get("SLURM_NTASKS"), flush=True)
if first in ("wait", "go"):
    def stopped(number, frame):
        print("stopped by", signal.Signals(number).name, flush=True)
        sys.exit(143)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, stopped)
    folder.with_name("task").write_text(str(os.getppid()))
    while first == "wait" or not folder.with_name("go").exists():
        time.sleep(0.01)
    first = "0"
with open(folder / "metrics.jsonl", "a") as file:
    if first.endswith("+"):
        file.write(json.dumps({"step": 10 - len(rest)}) + "\\n")
sys.exit(int(first.rstrip("+")))
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Return a function from the statuses of a run to its job."""
    monkeypatch.setattr(cluster, "_POLL", 0.05)
    monkeypatch.chdir(tmp_path)
    fake = tmp_path / "fake/bert_lightning"
    fake.mkdir(parents=True)
    (fake / "__main__.py").write_text(FIT)
    # The imitation is for the training alone: the job itself imports this package.
    monkeypatch.setenv("PYTHONPATH", str(Path(cluster.__file__).parents[2]))
    directory = tmp_path / "study/runs/rte/0123456789ab"

    def planned(*statuses):
        directory.parent.mkdir(parents=True)
        directory.with_name("plan").write_text(" ".join(statuses))
        environment = {"PYTHONPATH": str(tmp_path / "fake"), "WANDB_TAGS": "a=1,b=2"}
        return Job(
            "rte, seed 1",
            ["--run-directory", str(directory)],
            directory,
            Path(f"{directory}.log"),
            environment=environment,
        )

    return planned


def launcher(**parameters):
    return SubmititLauncher(2, {"cluster": "local", **parameters})


def submissions(job):
    return sorted(path.name for path in (job.directory.parents[2] / "submitit" / job.directory.name).iterdir())


def wait_for(path, seconds=60):
    deadline = time.monotonic() + seconds
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return path.read_text()


def in_thread(function, *arguments):
    found = []
    thread = threading.Thread(target=lambda: found.append(function(*arguments)))
    thread.start()
    return thread, found


@pytest.mark.parametrize("status", [0, 2])
def test_a_job_trains_with_fit_and_its_status_is_that_of_the_run(job, status):
    run = job(str(status))
    assert launcher().run(run) == status
    assert submissions(run) == ["1"]
    first, second = run.log.read_text().splitlines()
    assert first.endswith(f"bert-lightning fit --run-directory {run.directory}")
    assert second == f"training fit --run-directory {run.directory} a=1,b=2 None"


def test_a_stopped_run_is_submitted_again_as_long_as_it_logs_steps(job):
    run = job("143+", "130+", "0")
    assert launcher().run(run) == 0
    assert submissions(run) == ["1", "2", "3"]


@pytest.mark.slow
def test_a_run_that_is_stopped_again_and_again_without_a_new_step_is_left(job, monkeypatch):
    run = job("143", "143+", "143", "143", "143", "0")
    monkeypatch.setattr(cluster, "_MOST_WITHOUT_STEP", 2)
    assert launcher().run(run) == 143
    assert submissions(run) == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    "name", ["SIGUSR2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SIGUSR1", "SIGTERM"))]
)
def test_a_warning_of_the_cluster_ends_the_training_and_the_run_is_submitted_again(job, name):
    run = job("wait", "0")
    thread, found = in_thread(launcher().run, run)
    os.kill(int(wait_for(run.directory.with_name("task"))), getattr(signal, name))
    thread.join(60)
    assert found == [0]
    assert "stopped by SIGTERM" in run.log.read_text()
    assert submissions(run) == ["1", "2"]


@pytest.mark.slow
def test_a_job_that_is_killed_is_submitted_again(job):
    run = job("wait", "0")
    thread, found = in_thread(launcher().run, run)
    task = int(wait_for(run.directory.with_name("task")))
    [child] = Path(f"/proc/{task}/task/{task}/children").read_text().split()
    os.kill(task, signal.SIGKILL)
    os.kill(int(child), signal.SIGKILL)
    thread.join(60)
    assert found == [0]
    assert submissions(run) == ["1", "2"]


def test_a_later_command_waits_for_the_job_of_a_killed_one_and_submits_nothing(job):
    run, first = job("go"), launcher()
    thread, found = in_thread(first.run, run)
    wait_for(run.directory.with_name("task"))
    first.stop()
    thread.join(60)
    assert found == [None]
    said = []
    thread, found = in_thread(launcher().wait_for_earlier, run, said.append)
    while not said:
        time.sleep(0.01)
    assert "of an earlier command is still there: waiting for its end" in said[0]
    assert not found
    run.directory.with_name("go").write_text("go")
    thread.join(60)
    assert found == [True]
    assert submissions(run) == ["1"]
    # Its end is known to the command after that.
    assert launcher().wait_for_earlier(run, said.append) is False
    assert len(said) == 1


def test_after_stop_nothing_is_submitted(job):
    run, stopped = job("0"), launcher()
    stopped.stop()
    assert stopped.run(run) is None
    assert not (run.directory.parents[2] / "submitit").exists()


@pytest.mark.slow
def test_a_job_that_was_submitted_twice_waits_for_the_other_one(job):
    run = job("go", "0")
    one, first = in_thread(launcher().run, run)
    wait_for(run.directory.with_name("task"))
    two, second = in_thread(launcher().run, run)
    while len(submissions(run)) < 2:
        time.sleep(0.01)
    run.directory.with_name("go").write_text("go")
    one.join(60)
    two.join(60)
    assert first == second == [0]
    lines = run.log.read_text().splitlines()
    # The second one began after the end of the first.
    assert [line.split()[0] for line in lines] == ["===", "training", "===", "training"]


@pytest.mark.parametrize(
    ("words", "parameters"),
    [
        ([], {}),
        (["--submitit.timeout", "240", "--submitit.mem_gb=1.5"], {"timeout": 240, "mem_gb": 1.5}),
        (["--submitit.partition", "gpu", "--submitit.exclusive=true"], {"partition": "gpu", "exclusive": True}),
        (["--submitit.additional_parameters", "{requeue: true}"], {"additional_parameters": {"requeue": True}}),
        (["--submitit.time=1-12:00:00"], {"time": "1-12:00:00"}),
    ],
)
def test_parameters_are_read_from_the_command_line(words, parameters):
    assert submitit_parameters(words) == parameters


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optimizer.name", "adamw"], "unexpected argument '--optimizer.name'"),
        (["--submitit.timeout"], "--submitit.timeout has no value"),
        (["--submitit.timeout=1", "--submitit.timeout=2"], "is given twice"),
        (["--submitit.mem_gb={"], "is not YAML"),
    ],
)
def test_a_wrong_word_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        submitit_parameters(words)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"partiton": "gpu"}, "--submitit.partiton: submitit has no such parameter; did you mean 'partition'"),
        ({"timeout": "long"}, "timeout_min.*expected type"),
        ({"cluster": "pbs"}, "--submitit.cluster: .*pbs"),
        ({"cluster": "slurm"}, "srun"),
        ({"slurm_nonsense": 1}, "nonsense"),
        ({"tasks_per_node": 2}, "--submitit.tasks_per_node is 2; it must be 1"),
        ({"slurm_ntasks_per_node": 2}, "--submitit.slurm_ntasks_per_node is 2; it must be 1"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_is_submitted(monkeypatch, tmp_path, parameters, message):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=message):
        launcher(**parameters)


def test_a_queue_of_no_jobs_is_refused():
    with pytest.raises(InputError, match="--jobs is 0; it must be at least 1"):
        SubmititLauncher(0, {"cluster": "local"})


# SLURM as submitit uses it: a job runs at once, and `sacct` has its state from a file.
SLURM = {
    "sbatch": """
import os, pathlib, subprocess, sys
folder = pathlib.Path(os.environ["FAKE_SLURM"])
if (folder / "refuses").exists():
    sys.exit("sbatch: error: invalid partition specified: gpu")
number = str(len(list(folder.glob("*.sh"))) + 1)
(folder / f"{number}.sh").write_text(pathlib.Path(sys.argv[1]).read_text())
environment = {**os.environ, "SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
command = ["bash", folder / f"{number}.sh"]
quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
subprocess.Popen(command, env=environment, start_new_session=True, **quiet)
print("Submitted batch job", number)
""",
    "srun": """
import os, sys
[_, _, _, output, _, errors, *command] = sys.argv
for number, path in ((1, output), (2, errors)):
    path = path.replace("%j", os.environ["SLURM_JOB_ID"]).replace("%t", "0")
    os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), number)
os.execvp(command[0], command)
""",
    "sacct": """
import os, pathlib
folder = pathlib.Path(os.environ["FAKE_SLURM"])
print("JobID|State|NodeList")
for number, script in enumerate(folder.glob("*.sh"), 1):
    state = folder / f"{number}.state"
    print(f"{number}|{state.read_text() if state.exists() else 'RUNNING'}|here")
""",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    folder = tmp_path / "slurm"
    (folder / "bin").mkdir(parents=True)
    for name, script in SLURM.items():
        path = folder / "bin" / name
        path.write_text(f"#!{sys.executable}\n{script}")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(cluster, "_DELAY", 0.2)
    return folder


def test_a_job_of_slurm_has_its_parameters_and_is_never_requeued_by_slurm(job, slurm):
    run = job("143+", "0")
    assert SubmititLauncher(2, {"timeout": 30, "partition": "gpu", "gpus_per_node": 1}).run(run) == 0
    for number in (1, 2):
        script = (slurm / f"{number}.sh").read_text()
        lines = {line for line in script.splitlines() if line.startswith("#SBATCH")}
        assert {"#SBATCH --time=30", "#SBATCH --partition=gpu", "#SBATCH --no-requeue"} <= lines
        assert {"#SBATCH --gpus-per-node=1", "#SBATCH --cpus-per-task=1", "#SBATCH --signal=USR2@90"} <= lines
    # Lightning would take the task of the job for one of its ranks.
    assert "a=1,b=2 None" in run.log.read_text()


def test_a_job_that_the_user_cancels_is_not_submitted_again(job, slurm):
    run = job("wait", "0")
    thread, found = in_thread(SubmititLauncher(2).run, run)
    task = int(wait_for(run.directory.with_name("task")))
    (slurm / "1.state").write_text("CANCELLED by 1000")
    os.kill(task, signal.SIGTERM)
    thread.join(60)
    assert found == [143]
    assert submissions(run) == ["1"]


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("NODE_FAIL", 0),
        ("OUT_OF_MEMORY", 1),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("TIMEOUT", 0), ("FAILED", 1))),
    ],
)
def test_what_becomes_of_a_job_without_a_status_depends_on_its_state(job, slurm, state, status):
    run = job("wait", "0")
    thread, found = in_thread(SubmititLauncher(2).run, run)
    task = int(wait_for(run.directory.with_name("task")))
    [child] = Path(f"/proc/{task}/task/{task}/children").read_text().split()
    os.kill(task, signal.SIGKILL)
    os.kill(int(child), signal.SIGKILL)
    (slurm / "1.state").write_text(state)
    thread.join(60)
    assert found == [status]
    assert submissions(run) == (["1", "2"] if status == 0 else ["1"])
    assert (f"the job 1 ended with {state}" in run.log.read_text()) == bool(status)


def test_a_job_that_slurm_refuses_is_one_message(job, slurm):
    (slurm / "refuses").touch()
    with pytest.raises(
        WorkError, match=r"rte, seed 1: the cluster refuses the job: .*invalid partition specified: gpu"
    ):
        SubmititLauncher(2).run(job("0"))
