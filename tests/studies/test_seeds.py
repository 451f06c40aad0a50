"""`fit --seeds` trains one run per seed, survives failed seeds, and summarises the scores."""

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from bert_lightning.cli import main
from bert_lightning.config.experiment import load_experiment
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.studies import processes, seeds
from tests.support.made_runs import make_run, row
from tests.support.task_data import tiny_classification


@pytest.fixture
def config(tables, tokenizer, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    values = {**tiny_classification(tables, tokenizer, tmp_path), "experiment": "seeds"}
    Path("experiment.yaml").write_text(yaml.safe_dump(values))
    return Path("experiment.yaml")


def test_a_summary_covers_seeds_whose_settings_without_effect_differ(tmp_path):
    runs = []
    for seed, workers in ((1, 0), (2, 3)):
        folder = tmp_path / str(seed)
        rows = [row(1, 1, val_accuracy=seed / 4)]
        make_run(folder, rows=rows, config={"seed_everything": seed, "data": {"num_workers": workers}}, seed=seed)
        runs.append(seeds.SeedRun(seed, RunDirectory(folder), 0))
    first, *_, last = seeds.summary_lines(runs, 2)
    assert first == "2 of 2 seeds finished"
    assert "0.3750" in last


@pytest.fixture
def statuses(monkeypatch):
    """Run `fit` in this process.

    Returns a dictionary of seeds that shall end with a status instead, and the list of started seeds.
    """
    failing: dict[int, int] = {}
    begun: list[int] = []

    def fit(processes, arguments, environment, output):
        seed = int(arguments[-1].removeprefix("--seed_everything="))
        begun.append(seed)
        return failing[seed] if seed in failing else main(["fit", *arguments])

    monkeypatch.setattr(processes.Processes, "fit", fit)
    return failing, begun


def last_score(run: Path, name: str) -> float:
    return [row for row in RunDirectory(run).read_metrics() if name in row][-1][name]


def test_each_seed_gives_the_run_of_that_seed_and_the_table_their_statistics(config, statuses, capsys):
    command = ["fit", "--config", "experiment.yaml", "--run-directory", "runs/all"]
    assert main([*command, "--seeds", "3", "1", "2"]) == 0
    table = capsys.readouterr().out.split("3 of 3 seeds finished\n")[1]
    runs = [Path(f"runs/all/seed-{seed}") for seed in (3, 1, 2)]
    assert [RunDirectory(run).read_config()["seed_everything"] for run in runs] == [3, 1, 2]
    for name in ("val/accuracy", "val/loss"):
        values = [last_score(run, name) for run in runs]
        mean, deviation = f"{statistics.mean(values):.4f}", f"{statistics.stdev(values):.4f}"
        line = next(line for line in table.splitlines() if name in line)
        assert line.split() == [name, mean, "±", deviation, "3", f"{min(values):.4f}", f"{max(values):.4f}"]
    assert len({last_score(run, "val/loss") for run in runs}) == 3


def test_default_directories_are_those_of_fit_and_finished_seeds_are_left_alone(config, statuses, capsys):
    assert main(["fit", "--config", "experiment.yaml", "--seed_everything", "2"]) == 0
    alone = load_experiment([config], ["--seed_everything", "2"]).identity
    assert main(["fit", "--config", "experiment.yaml", "--seeds", "1", "2"]) == 0
    output = capsys.readouterr().out
    assert f"finished before: runs/seeds/{alone}" in output
    assert "2 of 2 seeds finished" in output
    assert len(list(Path("runs/seeds").iterdir())) == 2
    assert main(["fit", "--config", "experiment.yaml", "--seeds", "2", "--resume", "never"]) == 0
    assert Path(f"runs/seeds/{alone}-2").is_dir()


def test_seeds_at_once_divide_the_cores_and_write_files_beside_their_runs(config, monkeypatch, capsys):
    started = []

    class Process:
        """A process that ends at once."""

        def __init__(self, command, env, stdout, **_):
            started.append((command[-1], env.get("OMP_NUM_THREADS"), Path(stdout.name)))

        def wait(self):
            return 1

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(seeds, "usable_cores", lambda: 7)
    monkeypatch.setattr(processes.subprocess, "Popen", Process)
    command = ["fit", "--config", "experiment.yaml", "--run-directory", "all", "--seeds", "3", "1", "2"]
    assert main([*command, "--at-once", "2"]) == 1
    assert sorted(started) == [(f"--seed_everything={n}", "3", Path(f"all/seed-{n}.log")) for n in (1, 2, 3)]
    assert "seed 3 failed (status 1)" in capsys.readouterr().out
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    main([*command, "--at-once", "3"])
    assert {threads for _, threads, _ in started[3:]} == {"5"}


@pytest.mark.parametrize("arguments", [["--at-once", "0", "--seeds", "1"], ["--at-once", "2"]])
def test_a_wrong_number_of_seeds_at_once_is_refused(config, arguments, capsys):
    assert main(["fit", "--config", "experiment.yaml", *arguments]) == 2
    assert "--at-once" in capsys.readouterr().err


def test_a_failed_seed_does_not_stop_the_others_and_changes_the_status(config, statuses, capsys):
    failing, begun = statuses
    failing[2] = -9
    assert main(["fit", "--config", "experiment.yaml", "--run-directory", "all", "--seeds", "1", "2", "3"]) == 1
    output = capsys.readouterr().out
    assert "2 of 3 seeds finished\nseed 2 failed (status -9): all/seed-2\n" in output
    assert re.search(r"val/accuracy +\S+ ± \S+ +2 ", output)
    failing.clear()
    begun.clear()
    assert main(["fit", "--config", "experiment.yaml", "--run-directory", "all", "--seeds", "1", "2", "3"]) == 0
    assert begun == [1, 2, 3]
    assert "3 of 3 seeds finished" in capsys.readouterr().out


@pytest.mark.parametrize("status", [2, 130, 143])
def test_bad_input_and_a_stop_signal_end_all_seeds(config, statuses, status):
    failing, begun = statuses
    failing[2] = status
    assert main(["fit", "--config", "experiment.yaml", "--run-directory", "all", "--seeds", "2", "3"]) == status
    assert begun == [2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--seeds 1 2 1", "--seeds names 1 twice"),
        ("--seeds 1 --seed_everything=2", "--seed_everything and --seeds contradict each other"),
        ("--seeds 1 --seed_everything 2", "--seed_everything and --seeds contradict each other"),
        ("--seeds 1 2 --resume some.ckpt", "--resume some.ckpt resumes one run"),
        ("--seeds 1 -2", "seed_everything is -2"),
        ("--seeds 1 --optimizer.lr 2", "unknown key 'optimizer.lr'"),
        ("--seeds 1 --run-directory tokenizer/vocab.txt", "vocab.txt is a file"),
    ],
)
def test_seeds_that_are_not_allowed_start_nothing(config, statuses, capsys, arguments, message):
    assert main(["fit", "--config", "experiment.yaml", *arguments.split()]) == 2
    assert message in capsys.readouterr().err
    assert statuses[1] == []
    assert not Path("runs").exists()


def test_a_run_directory_cannot_become_the_parent_of_other_runs(config, statuses, capsys):
    assert main(["fit", "--config", "experiment.yaml", "--run-directory", "run"]) == 0
    assert main(["fit", "--config", "experiment.yaml", "--run-directory", "run", "--seeds", "1"]) == 2
    assert "run is a run directory" in capsys.readouterr().err


def test_torchrun_is_refused(config, statuses, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert main(["fit", "--config", "experiment.yaml", "--run-directory", "all", "--seeds", "1"]) == 2
    assert "without torchrun" in capsys.readouterr().err


@pytest.mark.slow
def test_seeds_run_in_separate_processes_that_a_signal_reaches(config):
    command = [sys.executable, "-m", "bert_lightning", "fit", "--config", "experiment.yaml", "--run-directory", "all"]
    command += ["--seeds", "1", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 seeds finished" in done.stdout
    longer = [
        *command,
        "--run-directory",
        "longer",
        "--trainer.max_steps",
        "100000",
        "--trainer.val_check_interval=5000",
    ]
    process = subprocess.Popen(longer, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    run = RunDirectory("longer/seed-1")
    deadline = time.monotonic() + 120
    while not (run.exists and run.metrics.exists() and run.read_metrics()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "Traceback" not in errors
    assert run.read_manifest()["ended"] == "stopped by SIGTERM"
    assert not Path("longer/seed-2").exists()
