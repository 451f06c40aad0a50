"""The patch of uncommitted files in a run directory: with the recorded commit it gives the code of the run."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bert_lightning.cli import main
from bert_lightning.runs import git_state
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.git_state import LARGEST_FILE, LARGEST_PATCH, recorded_git_state

AUTHOR = {f"GIT_{role}_{part}": "x@y.z" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}


def git(folder: Path, *arguments: object) -> str:
    command = ["git", "-C", str(folder), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **AUTHOR})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a commit, which is the working directory, and a folder `run` beside it."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (tmp_path / "run").mkdir()
    git(folder, "init", "-qb", "main")
    for name in ("kept.py", "changed.py", "removed.py", "mode.sh", "moved.py", "link"):
        (folder / name).write_text(f"# {name}\n" * 3)
    (folder / "picture.bin").write_bytes(bytes(range(256)))
    (folder / "inner").mkdir()
    (folder / "inner/deep.py").write_text("x = 1")
    (folder / ".gitignore").write_text("ignored.txt\n*.secret\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    monkeypatch.chdir(folder)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    return folder


def contents(folder: Path) -> dict[str, tuple[object, bool]]:
    """Return what git would see of a folder: name -> link target or bytes, and whether it is executable."""
    names = git(folder, "ls-files", "-co", "--exclude-standard", "-z").split("\0")
    paths = [folder / name for name in names if name and os.path.lexists(folder / name)]
    return {
        str(path.relative_to(folder)): (os.readlink(path), False)
        if path.is_symlink()
        else (path.read_bytes(), os.access(path, os.X_OK))
        for path in paths
    }


def applied(repository: Path, entry: dict[str, object]) -> Path:
    """Clone the recorded commit, apply the recorded patch, and return the clone."""
    clone = repository.parent / "clone"
    git(repository.parent, "clone", "-q", repository, clone)
    git(clone, "checkout", "-q", entry["commit"])
    git(clone, "apply", repository.parent / "run" / entry["patch"])
    return clone


def test_commit_and_patch_give_every_file_of_the_run_again(repository):
    (repository / "changed.py").write_text("# one\n\x0c# two without an end")
    (repository / "removed.py").unlink()
    (repository / "mode.sh").chmod(0o755)
    (repository / "moved.py").rename(repository / "inner/moved.py")
    (repository / "picture.bin").write_bytes(bytes(reversed(range(256))) * 3)
    (repository / "link").unlink()
    (repository / "link").symlink_to("kept.py")
    (repository / "inner/deep.py").write_text("x = 2")
    (repository / "staged.py").write_text("diff --git a/x b/x\n")
    git(repository, "add", "staged.py", "inner/deep.py")
    (repository / "inner/deep.py").write_text("x = 3")
    for name in (
        "plain.py",
        "with space.py",
        'quo"te\\.py',
        "tab\there.py",
        "über ☃.txt",
        "-dash",
        "new/folder/a.yaml",
    ):
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\r\n\n--- a/x\n+++ b/x")
    (repository / "empty.py").touch()
    (repository / "newline.txt").write_text("\n")
    (repository / "run.sh").write_text("#!/bin/sh\n")
    (repository / "run.sh").chmod(0o755)
    (repository / "new-link").symlink_to("nowhere at all")
    entry = recorded_git_state(repository.parent / "run")
    assert entry["modified"] is True
    assert "not_in_patch" not in entry
    assert contents(applied(repository, entry)) == contents(repository)


@pytest.mark.parametrize(
    "settings",
    [{"diff.noprefix": "true"}, {"diff.mnemonicPrefix": "true"}, {"color.ui": "always"}, {"diff.external": "false"}],
)
def test_the_user_s_settings_of_git_do_not_change_the_patch(repository, settings, monkeypatch):
    for name, value in settings.items():
        git(repository, "config", name, value)
    (repository / "changed.py").write_text("changed\n")
    # A run may start in a folder of the repository.
    monkeypatch.chdir(repository / "inner")
    entry = recorded_git_state(repository.parent / "run")
    assert contents(applied(repository, entry)) == contents(repository)


def test_the_manifest_names_the_patch_by_its_digest_and_a_clean_repository_has_none(repository):
    run = repository.parent / "run"
    commit = git(repository, "rev-parse", "HEAD").strip()
    assert recorded_git_state(run) == {"commit": commit, "modified": False, "patch": None}
    (repository / "changed.py").write_text("1\n")
    first = recorded_git_state(run)
    assert recorded_git_state(run) == first
    (repository / "changed.py").write_text("2\n")
    second = recorded_git_state(run)
    assert sorted(path.name for path in run.iterdir()) == sorted([first["patch"], second["patch"]])
    digest = subprocess.run(["sha256sum", run / second["patch"]], capture_output=True, text=True).stdout.split()[0]
    assert second["patch_sha256"] == digest
    assert second["patch"] == f"uncommitted-{digest[:12]}.patch"


def test_each_session_of_a_run_has_the_patch_of_its_code(home, repository):
    run = RunDirectory(repository.parent / "run")
    command = ["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", str(run.path)]
    for text in ("one", "two"):
        (repository / "changed.py").write_text(text)
        assert main([*command, "--trainer.max_steps", "1"]) == 0
        run.update_manifest(ended="killed")
    first, second = (session["git"] for session in run.read_manifest()["sessions"])
    assert "+one\n" in (run.path / first["patch"]).read_text()
    assert contents(applied(repository, second)) == contents(repository)


def test_ignored_files_secrets_and_outputs_of_runs_are_not_in_the_patch(repository, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "not-to-be-found")
    (repository / "changed.py").write_text("changed\n")
    (repository / "ignored.txt").write_text("ignored content\n")
    (repository / "own.secret").write_text("ignored content\n")
    (repository / "settings.py").write_text("key = 'not-to-be-found'\n")
    for run in ("runs/a/0123456789ab", "elsewhere/seed-1"):
        (repository / run / "predictions").mkdir(parents=True)
        for name in ("config.yaml", ".lock", "metrics.jsonl", "predictions/test.jsonl"):
            (repository / run / name).write_text("output\n")
        (repository / f"{run}.log").write_text("output\n")
    (repository / "studies/nsp/runs").mkdir(parents=True)
    (repository / "studies/nsp/study.json").write_text('"output"\n')
    (repository / "studies/nsp/runs/a.txt").write_text("output\n")
    entry = recorded_git_state(repository.parent / "run")
    patch = (repository.parent / "run" / entry["patch"]).read_text()
    assert "+changed" in patch
    assert not any(word in patch for word in ("not-to-be-found", "ignored content", "output"))
    assert entry["not_in_patch"] == {"settings.py": "it holds a secret of the environment"}


def test_outputs_of_runs_do_not_make_a_repository_modified(repository):
    (repository / "runs/a").mkdir(parents=True)
    (repository / "runs/a/config.yaml").touch()
    (repository / "runs/a/manifest.json").touch()
    assert recorded_git_state(repository.parent / "run")["modified"] is False


def test_a_patch_is_bounded_and_names_what_it_lacks(repository):
    (repository / "changed.py").write_text("changed\n")
    (repository / "kept.py").write_text("x" * (LARGEST_PATCH + 1))
    (repository / "large.txt").write_text("x" * (LARGEST_FILE + 1))
    (repository / "image.png").write_bytes(b"\x89PNG\0")
    for number in range(12):
        (repository / f"part-{number:02}.txt").write_text(f"{number:02}\n" * (LARGEST_FILE // 3))
    entry = recorded_git_state(repository.parent / "run")
    assert (repository.parent / "run" / entry["patch"]).stat().st_size <= LARGEST_PATCH
    lacking = entry["not_in_patch"]
    assert {"kept.py", "large.txt", "image.png"} < lacking.keys()
    assert "more than" in lacking["kept.py"]
    assert "not text" in lacking["image.png"]
    assert entry["num_not_in_patch"] == len(lacking)
    clone = contents(applied(repository, entry))
    assert clone["changed.py"] == (b"changed\n", False)
    # What is in the patch is whole.
    assert {name for name in contents(repository) if clone.get(name) != contents(repository)[name]} == set(lacking)
    json.dumps(entry)


def test_a_patch_that_git_does_not_finish_in_time_keeps_whole_files(repository, monkeypatch):
    def cut(*_, **__):
        text, _ = whole(*arguments, folder=repository)
        return text[:-5], False

    whole, arguments = git_state._bounded, ("diff", "HEAD", "--binary")
    monkeypatch.setattr(git_state, "_bounded", cut)
    (repository / "changed.py").write_text("changed\n")
    (repository / "kept.py").write_text("changed\n")
    entry = recorded_git_state(repository.parent / "run")
    assert entry["not_in_patch"] == {"kept.py": "git gave no patch of it"}
    assert contents(applied(repository, entry))["changed.py"] == (b"changed\n", False)


def test_a_conflict_of_a_merge_is_in_the_patch_as_it_stands(repository):
    git(repository, "checkout", "-qb", "other")
    for branch, text in (("other", "theirs\n"), ("main", "ours\n")):
        git(repository, "checkout", "-q", branch)
        (repository / "changed.py").write_text(text)
        git(repository, "commit", "-qam", text)
    with pytest.raises(AssertionError):
        git(repository, "merge", "other")
    assert "<<<<<<<" in (repository / "changed.py").read_text()
    entry = recorded_git_state(repository.parent / "run")
    assert contents(applied(repository, entry)) == contents(repository)


def test_outside_a_repository_without_a_commit_and_without_git_nothing_is_recorded(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert recorded_git_state(tmp_path / "run") is None
    git(tmp_path, "init", "-q")
    assert recorded_git_state(tmp_path / "run") is None
    shutil.rmtree(tmp_path / ".git")
    monkeypatch.setenv("PATH", "")
    assert recorded_git_state(tmp_path / "run") is None
    assert not list((tmp_path / "run").iterdir())
