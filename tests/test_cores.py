"""How threads wait, how many cores a process may use, and what other processes take of them."""

import os
import subprocess
import sys
import threading

import pytest

from bert_lightning.cli import main
from bert_lightning.cores import WAITING, CoreTimes, cgroup_limit, core_times, sharing_note, used_by_others


def environment(**values: str) -> dict[str, str]:
    """Return the environment of these tests, in which nothing says how threads wait, with the values added."""
    return {**{name: value for name, value in os.environ.items() if name not in WAITING}, **values}


def run(code: str, **values: str) -> str:
    """Run code in a new process and return what it prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(**values), capture_output=True, text=True, check=True)
    return done.stdout.strip()


SHOWN = f"import os; print({{name: os.environ[name] for name in sorted(os.environ) if name in {WAITING!r}}})"


def test_importing_the_package_lets_waiting_threads_yield():
    assert run(f"import bert_lightning; {SHOWN}") == "{'GOMP_SPINCOUNT': '3000', 'KMP_BLOCKTIME': '1'}"


def test_the_command_line_lets_waiting_threads_yield():
    assert run(f"import bert_lightning.cli; {SHOWN}") == "{'GOMP_SPINCOUNT': '3000', 'KMP_BLOCKTIME': '1'}"


@pytest.mark.parametrize("name", WAITING)
def test_who_chose_how_threads_wait_keeps_it(name):
    assert run(f"import bert_lightning; {SHOWN}", **{name: "7"}) == f"{{'{name}': '7'}}"


def test_nothing_is_set_after_torch_was_imported_because_it_would_not_be_read():
    assert run(f"import sys; sys.modules['torch'] = None; import bert_lightning; {SHOWN}") == "{}"


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is the OpenMP of torch on Linux")
def test_openmp_reads_what_the_package_sets():
    # The library prints its settings when it is loaded, which is after the package has set them.
    code = "import bert_lightning, torch; torch.ones(9).sum()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(OMP_DISPLAY_ENV="verbose"), capture_output=True, text=True)
    assert "GOMP_SPINCOUNT = '3000'" in done.stderr


def test_the_limit_of_a_cgroup_is_the_smallest_on_the_way_to_the_root(tmp_path):
    inner = tmp_path / "root/outer/inner"
    inner.mkdir(parents=True)
    (tmp_path / "own").write_text("0::/outer/inner\n")
    assert cgroup_limit(tmp_path / "root", tmp_path / "own") is None
    (inner / "cpu.max").write_text("max 100000\n")
    assert cgroup_limit(tmp_path / "root", tmp_path / "own") is None
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    assert cgroup_limit(tmp_path / "root", tmp_path / "own") == 1.5
    (inner / "cpu.max").write_text("300000 100000\n")
    assert cgroup_limit(tmp_path / "root", tmp_path / "own") == 1.5


def test_the_limit_of_a_cgroup_of_version_1_is_read(tmp_path):
    group = tmp_path / "root/cpu/box"
    group.mkdir(parents=True)
    (tmp_path / "own").write_text("5:memory:/other\n4:cpu,cpuacct:/box\n")
    (group / "cpu.cfs_quota_us").write_text("-1\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    assert cgroup_limit(tmp_path / "root", tmp_path / "own") is None
    (group / "cpu.cfs_quota_us").write_text("250000\n")
    assert cgroup_limit(tmp_path / "root", tmp_path / "own") == 2.5


def test_times_are_those_of_the_cores_that_this_process_may_use(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1}, raising=False)
    monkeypatch.setattr(os, "nice", lambda _: 0)
    statistics = tmp_path / "stat"
    # user, nice, system, idle, iowait, irq, softirq, steal; a line for all cores comes first.
    statistics.write_text(
        "cpu 9 9 9 9 9 9 9 9 0 0\ncpu0 900 0 0 0 0 0 0 0 0 0\ncpu1 100 50 20 7 7 1 2 3 0 0\nintr 5\n"
    )
    times = core_times(statistics)
    assert times is not None
    assert times.used * os.sysconf("SC_CLK_TCK") == 126
    assert core_times(tmp_path / "missing") is None


def test_what_others_use_is_what_all_used_without_this_process():
    before = CoreTimes(clock=10.0, used=100.0, own=1.0)
    assert used_by_others(before, CoreTimes(clock=14.0, used=107.0, own=4.0)) == 1.0
    assert used_by_others(before, CoreTimes(clock=14.0, used=101.0, own=4.0)) == 0.0
    assert used_by_others(before, CoreTimes(clock=14.0, used=107.0, own=4.0), num_ranks=2) == 0.25
    # Too short a time says nothing, and some systems tell no times.
    assert used_by_others(before, CoreTimes(clock=10.1, used=107.0, own=1.0)) == 0.0
    assert used_by_others(None, before) == 0.0


@pytest.mark.parametrize(
    ("others", "cores", "threads", "expected"),
    [
        (0.3, 2, 2, None),
        (1.0, 2, 1, None),
        (3.0, 16, 8, None),
        (1.0, 2, 2, "=1"),
        (9.0, 8, 8, "=4"),
        (5.0, 8, 8, "=3"),
        (1.4, 2, 1, ""),
    ],
)
def test_shared_cores_are_told_if_they_are_too_few(others, cores, threads, expected):
    note = sharing_note(others, cores, threads, {"GOMP_SPINCOUNT": "3000"})
    assert (note is None) == (expected is None)
    if note is not None and expected is not None:
        # A process that has no more threads than its share can only wait.
        assert note.endswith(f"OMP_NUM_THREADS{expected}" if expected else "so this training is slower: let it wait")
        assert "GOMP_SPINCOUNT" not in note
        assert ("GOMP_SPINCOUNT=3000 before" in str(sharing_note(others, cores, threads, {}))) == bool(expected)


def test_fit_tells_once_that_cores_are_shared(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bert_lightning.runs.fit._TOLD", threading.Event())
    monkeypatch.setattr("bert_lightning.runs.fit.used_by_others", lambda **_: 7.0)
    monkeypatch.setattr("bert_lightning.runs.fit.all_cores", lambda: 2)
    for name in ("first", "second"):
        command = ["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", str(tmp_path / name)]
        assert main([*command, "--trainer.max_steps", "1", "--trainer.accelerator", "cpu"]) == 0
    assert capsys.readouterr().out.count("other processes use 2.0 of the 2 cores") == 1


def test_doctor_shows_how_threads_wait(monkeypatch, capsys):
    monkeypatch.setenv("GOMP_SPINCOUNT", "1234")
    assert main(["doctor"]) == 0
    assert "GOMP_SPINCOUNT=1234" in capsys.readouterr().out
