"""The command `runs`: the state of each run, from its directory, its lock and the record of its study."""

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path

import pytest

from bert_lightning.cli import main
from bert_lightning.cli.run_rows import LOG_LINES, watched_lines
from bert_lightning.runs import status as status_of_runs
from bert_lightning.runs.lock import DirectoryLock
from bert_lightning.runs.log_file import last_lines
from bert_lightning.runs.status import read_status
from bert_lightning.studies.overview import Overview, overview
from tests.support.made_runs import BEGAN, make_run, make_study, recorded, row


def states(found: Overview) -> dict[str, str]:
    return {run.directory.name: run.state for run in found.runs}


@pytest.fixture
def hold():
    """A function that locks a folder as a training does, in a process of its own."""
    processes = []

    def start(folder: Path) -> subprocess.Popen:
        code = (
            "import sys; from pathlib import Path; from bert_lightning.runs.lock import DirectoryLock\n"
            "lock = DirectoryLock(Path(sys.argv[1])); lock.take(); print('held', flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-c", code, str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "held\n"
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_the_end_in_the_manifest_and_the_lock_decide_the_state(tmp_path, hold):
    for name, ended in (
        ("done", "finished"),
        ("broken", "failed"),
        ("stopped", "stopped by SIGTERM"),
        ("interrupted", "interrupted"),
        ("gone", None),
        ("busy", None),
        ("resumed", "stopped by SIGTERM"),
    ):
        make_run(tmp_path / name, ended)
    # A killed process left its lock file.
    (tmp_path / "gone/.lock").write_text("process 1 on elsewhere\n")
    holder = hold(tmp_path / "busy")
    hold(tmp_path / "resumed")
    expected = {
        "broken": "failed",
        "busy": "running",
        "done": "finished",
        "gone": "killed",
        "interrupted": "interrupted",
        "resumed": "running",
        "stopped": "interrupted",
    }
    assert states(overview([tmp_path])) == expected
    holder.kill()
    holder.wait()
    assert states(overview([tmp_path])) == expected | {"busy": "killed"}


def test_looking_at_runs_does_not_release_the_lock_of_this_process(tmp_path):
    lock = DirectoryLock(make_run(tmp_path / "run", None))
    lock.take()
    for _ in range(2):
        assert read_status(lock.path.parent).state == "running"
    lock.close()
    assert read_status(lock.path.parent).state == "killed"


def test_a_file_system_that_cannot_lock_leaves_only_runs_without_an_end_unknown(tmp_path, monkeypatch):
    def refused(folder):
        raise OSError("no locks available")

    monkeypatch.setattr(status_of_runs, "lock_holder", refused)
    assert read_status(make_run(tmp_path / "open", None)).state == "unknown"
    assert read_status(make_run(tmp_path / "failed", "failed")).state == "failed"


def test_step_speed_and_time_left_are_those_of_the_last_session(tmp_path):
    rows = [row(10, -5000, train_loss=9.0), row(20, -4000, train_loss=8.0)]
    rows += [
        row(step, 2 * (step - 30), train_loss=7.0, train_tokens_per_second=1000.0 + step) for step in (40, 50, 60)
    ]
    run = make_run(tmp_path / "run", None, rows)
    lock = DirectoryLock(run)
    lock.take()
    status = read_status(run)
    lock.close()
    assert (status.step, status.num_steps, status.tokens_per_second) == (60, 100, 1060.0)
    assert status.steps_per_second == pytest.approx(0.5)
    assert status.seconds_left == pytest.approx(80)
    assert status.updated == BEGAN + 60
    # Nothing is left of a run that does not train.
    assert read_status(run).seconds_left is None


def test_the_last_scores_are_found_in_a_long_file_of_which_only_the_end_is_read(tmp_path, monkeypatch):
    rows = [row(1, 1, val_accuracy=0.1, val_mlm_unigram_loss=3.0)]
    rows += [row(step, step, train_loss=1.0) for step in range(2, 20_000)]
    rows += [row(20_000, 20_000, val_accuracy=0.75, val_f1=None)]
    rows += [row(step, step, train_loss=1.0) for step in range(20_001, 21_000)]
    rows += [{**row(21_000, 21_000, test_accuracy=0.5), "checkpoint": "x"}]
    path = make_run(tmp_path / "run", None, rows) / "metrics.jsonl"
    with open(path, "a") as file:
        file.write('{"time": 1, "step": 99999, "val/acc')
    size = path.stat().st_size
    before = status_of_runs.read_last
    lengths = []
    monkeypatch.setattr(status_of_runs, "read_last", lambda path, num: lengths.append(num) or before(path, num))
    status = read_status(path.parent)
    assert sum(lengths) < size / 3
    assert status.scores["val/accuracy"] == 0.75
    assert status.scores["test/accuracy"] == 0.5
    assert status.scores["val/f1"] != status.scores["val/f1"]
    assert not any("unigram" in name for name in status.scores)
    assert status.step == 20_999


def test_a_real_run_has_all_its_steps(home):
    status = read_status(home / "runs/whole")
    assert (status.state, status.step, status.num_steps, status.seed) == ("finished", 12, 12, 1)
    assert status.scores["val/mlm_loss"] > 0


DAMAGE = {
    "empty manifest": ("manifest.json", b""),
    "half a manifest": ("manifest.json", b'{"ended": "fini'),
    "a list": ("manifest.json", b"[]"),
    "bytes": ("manifest.json", b"\xff\xfe\x00"),
    "sessions of another type": ("manifest.json", b'{"sessions": 3}'),
    "a session of another type": ("manifest.json", b'{"sessions": ["x"]}'),
    "a time of another type": ("manifest.json", b'{"sessions": [{"started": "yesterday"}]}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_is_named_and_the_others_are_shown(tmp_path, damage, capsys):
    make_run(tmp_path / "good")
    name, content = DAMAGE[damage]
    (make_run(tmp_path / "bad") / name).write_bytes(content)
    assert main(["runs", str(tmp_path), "--failed", "--json"]) == 0
    [bad] = json.loads(capsys.readouterr().out)
    assert (Path(bad["directory"]).name, bad["state"]) == ("bad", "damaged")
    assert bad["message"]
    assert states(overview([tmp_path]))["good"] == "finished"


def test_half_written_directories_are_runs_and_folders_of_data_are_not(tmp_path):
    # Killed after its configuration was written.
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/config.yaml").write_text("experiment: e\n")
    make_run(tmp_path / "lost")
    (tmp_path / "lost/checkpoints").mkdir()
    (tmp_path / "lost/config.yaml").unlink()
    # A token store has a manifest, too.
    (tmp_path / "store").mkdir()
    (tmp_path / "store/manifest.json").write_text("{}")
    (tmp_path / "begun-to-lock").mkdir()
    (tmp_path / "begun-to-lock/.lock").touch()
    assert states(overview([tmp_path])) == {"begun": "killed", "lost": "damaged"}


@pytest.mark.parametrize(
    "values", [{"step": "x"}, {"time": None}, {"step": True, "time": []}, {"val/accuracy": "high"}]
)
def test_strange_rows_are_passed_over(tmp_path, values):
    run = make_run(tmp_path / "run", None, [row(3, 3, val_accuracy=0.5), {**row(4, 4), **values}])
    assert read_status(run).scores == {"val/accuracy": 0.5}


def test_runs_of_a_study_have_what_their_directories_say_and_else_what_its_record_says(tmp_path, hold):
    study = make_study(
        tmp_path / "study",
        recorded("runs/new", "waiting"),
        recorded("runs/pruned", "pruned", message="worse than the median"),
        recorded("runs/blocked", "blocked", message="one, a, seed 7 did not finish"),
        recorded("runs/done", "running"),
        recorded("runs/crashed", "failed", message="status -11"),
        recorded("runs/never", "failed", message="no such file", status=2),
        recorded("runs/starting", "running"),
        recorded("runs/removed", "finished"),
    )
    make_run(study / "runs/done")
    make_run(study / "runs/pruned", "stopped by SIGUSR1")
    make_run(study / "runs/crashed", None)
    (study / "runs/never.log").write_text("why\n")
    expected = {
        "new": "waiting",
        "pruned": "pruned",
        "blocked": "blocked",
        "done": "finished",
        "crashed": "failed",
        "never": "failed",
        "starting": "killed",
        "removed": "damaged",
    }
    found = overview([tmp_path, study])
    assert states(found) == expected
    assert {run.arm for run in found.runs} == {"a"}
    assert {run.seed for run in found.runs} == {7}
    assert {run.directory.name: run.message for run in found.runs}["crashed"] == "status -11"
    assert next(run.log for run in found.runs if run.directory.name == "never") == study / "runs/never.log"
    hold(study)
    assert states(overview([study])) == expected | {"starting": "running"}


def test_a_study_whose_runs_wait_is_over_unless_a_process_works_on_it(tmp_path, hold):
    study = make_study(tmp_path / "study", recorded("runs/new", "waiting"))
    assert overview([study]).is_over
    (study / "sweep.yaml").touch()
    assert not overview([study]).is_over, "an agent may train it"
    (study / "sweep.yaml").unlink()
    hold(study)
    assert not overview([study]).is_over


def test_a_damaged_record_of_a_study_is_named_and_its_runs_are_shown(tmp_path, capsys, caplog):
    study = make_study(tmp_path / "study")
    make_run(study / "runs/e/1")
    (study / "study.json").write_text("{")
    assert main(["runs", str(tmp_path)]) == 0
    assert "finished" in capsys.readouterr().out
    assert str(study / "study.json") in caplog.text


def test_links_that_lead_in_circles_end(tmp_path):
    make_run(tmp_path / "a/run")
    (tmp_path / "a/circle").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "other-name").symlink_to(tmp_path / "a/run")
    assert len(overview([tmp_path]).runs) == 1


def test_failed_runs_are_shown_with_their_error_and_the_end_of_their_log(tmp_path, capsys):
    make_run(tmp_path / "good")
    make_run(tmp_path / "bad", "failed", session={"error": "step 3: the loss is not finite"}, step=3)
    make_run(tmp_path / "killed", None)
    (tmp_path / "bad.log").write_text("".join(f"line {n}\n" for n in range(500)) + "bar 1\rbar 2\r\n\n\x1b[31mend")
    assert main(["runs", str(tmp_path), "--failed"]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / 'bad'}: failed at step 3, seed 1" in out
    assert "step 3: the loss is not finite" in out
    assert "    line 499\n    bar 2\n" in out
    assert "bar 1" not in out
    assert "line 480" not in out
    assert "\x1b" not in out
    assert f"{tmp_path / 'killed'}: killed" in out
    assert "2 of 3 failed" in out
    assert last_lines(tmp_path / "bad.log", LOG_LINES)[-2:] == ["bar 2", "\x1b[31mend"]


def test_wrong_arguments_are_one_message(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 0
    assert "there are no runs" in capsys.readouterr().out
    (tmp_path / "file").touch()
    for arguments, message in (
        (["missing"], "missing does not exist"),
        (["file"], "file is a file"),
        (["--watch", "--failed"], "--watch and --failed"),
    ):
        assert main(["runs", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_the_command_imports_neither_torch_nor_numpy(tmp_path):
    make_study(tmp_path / "studies/s", recorded("runs/new", "waiting"))
    make_run(tmp_path / "runs/e/1")
    code = (
        "import sys; from bert_lightning.cli import main; main(['runs']); print({'torch', 'numpy'} & {*sys.modules})"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment, check=True
    )
    header, *rows, totals, modules = done.stdout.splitlines()
    assert header.split() == ["run", "state", "seed", "arm", "changed"]
    assert [line.split()[:2] for line in rows] == [["runs/e/1", "finished"], ["studies/s/runs/new", "waiting"]]
    assert totals == "2 runs: 1 waiting, 1 finished"
    assert modules == "set()"


def test_without_a_terminal_watching_prints_each_change_once_and_ends_with_the_last_run(tmp_path):
    run = make_run(tmp_path / "run", "failed", [row(1, 1, val_accuracy=0.5)])
    done = make_run(tmp_path / "done")
    running, other = (read_status(folder) for folder in (run, done))
    seen = [
        [("running", {"val/accuracy": 0.5}), ("finished", {})],
        [("running", {"val/accuracy": 0.5}), ("finished", {})],
        [("running", {"val/accuracy": 0.6}), ("finished", {})],
        [("finished", {"val/accuracy": 0.6}), ("finished", {})],
    ]

    def read() -> Overview:
        now = [
            replace(each, state=state, scores=scores)
            for each, (state, scores) in zip((running, other), seen.pop(0), strict=True)
        ]
        return Overview(now, [], all(each.state == "finished" for each in now))

    lines = list(watched_lines(read, lambda: True))
    assert [line.split()[1] for line in lines] == ["running", "finished", "running", "finished", "runs:"]
    assert not seen


@pytest.mark.parametrize("ending", [b"q", b"\x03"])
def test_watching_in_a_terminal_ends_with_q_or_ctrl_c_and_leaves_the_terminal_as_it_was(tmp_path, ending):
    make_run(tmp_path / "a-run", None, [row(1, 1)])
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    command = [sys.executable, "-m", "bert_lightning", "runs", str(tmp_path), "--watch"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    shown = b""

    def read_until(text: bytes) -> None:
        nonlocal shown
        while text not in shown:
            if select.select([ours], [], [], 1)[0]:
                shown += os.read(ours, 65536)
            else:
                assert process.poll() is None, shown

    read_until(b"q ends this view")
    if ending == b"q":
        os.write(ours, ending)
    else:
        process.send_signal(2)
    assert process.wait(60) == 0
    assert b"killed" in shown
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_hundreds_of_runs_read_only_the_ends_of_their_files(tmp_path, monkeypatch):
    rows = [row(step, step, train_loss=1.0, val_accuracy=0.5) for step in range(1000)]
    first = make_run(tmp_path / "0", None, rows)
    for number in range(1, 200):
        shutil.copytree(first, tmp_path / str(number), copy_function=os.link)
    lengths = []
    before = status_of_runs.read_last
    monkeypatch.setattr(status_of_runs, "read_last", lambda path, num: lengths.append(num) or before(path, num))
    assert [run.directory.name for run in overview([tmp_path]).runs] == [str(number) for number in range(200)]
    assert lengths == [1 << 14] * 200
