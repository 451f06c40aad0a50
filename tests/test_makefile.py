"""Every target that `make help` lists does its work."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Target -> the variables that make it short, and a text of its output.
TARGETS: dict[str, tuple[dict[str, str], str]] = {
    "help": ({}, "list the targets"),
    "setup": ({}, ""),
    "demo": ({}, "Held-out documents"),
    "test": ({"TESTS": "tests/text/test_encoding.py"}, " passed"),
    "test-slow": ({"TESTS": "tests/text/test_encoding.py"}, " passed"),
    "test-gpu": ({}, "test session starts"),
    "lint": ({}, "0 broken"),
    "format": ({}, "All checks passed"),
    "docs": ({}, ""),
    "bench": ({"SHORT": "1"}, "squad_f1"),
    "clean": ({}, ""),
}


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in a checkout without changing the installed packages."""
    # Make may run these tests, and its settings must not reach the inner make.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    environment |= {"PYTHONPATH": str(folder), "WANDB_MODE": "disabled"}
    command = ["make", "--old-file", ".venv/.installed", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the files that git tracks, with a link to the environment of these tests."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def test_the_list_of_targets_is_that_of_make_help():
    lines = make(ROOT, "help").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(TARGETS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_works(checkout, target):
    variables, expected = TARGETS[target]
    ended = make(checkout, target, *(f"{name}={value}" for name, value in variables.items()))
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    assert expected in ended.stdout + ended.stderr
    if target == "docs":
        assert (checkout / "docs/_build/index.html").is_file()
    if target == "clean":
        assert not (checkout / ".venv").exists()


@pytest.mark.slow
def test_formatting_does_not_change_the_code(checkout):
    before = {path: path.read_bytes() for path in checkout.rglob("*.py") if ".venv" not in path.parts}
    assert make(checkout, "format").returncode == 0
    assert {path: path.read_bytes() for path in before} == before
