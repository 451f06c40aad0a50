from pathlib import Path

import pytest

from bert_lightning.checkpoints.listing import entries, files_below, is_leftover, matches
from bert_lightning.checkpoints.tensorflow import find_tensorflow
from bert_lightning.runs.directory import RunDirectory

LEFT_BEHIND = (
    *(".DS_Store", "._a.txt", ".ipynb_checkpoints", ".git", ".a.txt.swp", "__MACOSX", "Thumbs.db", "thumbs.db"),
    *("desktop.ini", "Desktop.ini", "a.txt~", "~$a.txt", "#a.txt#", "a.txt.bak", "a.txt.orig", "Icon\r"),
)
DATA = ("a.txt", "_a.txt", "__init__.txt", "Icon", "icon", "#", "##", "#1", "c#", "a~b", "bak", "orig.txt", "MACOSX")


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_files_that_programs_leave_are_distinguished_from_data_by_their_names(name):
    assert is_leftover(name)


@pytest.mark.parametrize("name", DATA)
def test_names_that_only_look_alike_are_data(name):
    assert not is_leftover(name)


def tree(folder: Path) -> Path:
    """Make two files of data among others, below a folder whose own path has a dot."""
    root = folder / ".cache" / "__MACOSX" / "corpus"
    for name in ("b.txt", "sub/a.txt", ".c.txt", "sub/._a.txt", ".d/a.txt", "__MACOSX/a.txt", "sub/desktop.ini"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("text")
    return root


def test_only_names_below_the_folder_count_when_it_is_listed(tmp_path: Path):
    root = tree(tmp_path)
    assert [path.name for path in entries(root)] == ["b.txt", "sub"]
    assert [path.relative_to(root).as_posix() for path in files_below(root)] == ["b.txt", "sub/a.txt"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", ["b.txt", "sub"]),
        ("**/*.txt", ["b.txt", "sub/a.txt"]),
        ("*/*.txt", ["sub/a.txt"]),
        ("__MACOSX/*", ["__MACOSX/a.txt"]),
        (".d/*.txt", [".d/a.txt"]),
        ("*/.*", ["sub/._a.txt"]),
        (".c.txt", [".c.txt"]),
    ],
)
def test_a_glob_leaves_out_hidden_files_that_it_does_not_name(tmp_path: Path, monkeypatch, pattern, found):
    root = tree(tmp_path)
    assert [path.relative_to(root).as_posix() for path in matches(pattern, root)] == found
    assert [path.relative_to(root).as_posix() for path in matches(root / pattern)] == found
    monkeypatch.chdir(root)
    assert [path.as_posix() for path in matches(pattern)] == found


def test_a_glob_in_a_folder_whose_name_has_a_wildcard_is_expanded_there(tmp_path: Path):
    root = tree(tmp_path / "[x]*")
    assert [path.name for path in matches("*.txt", root)] == ["b.txt"]


def test_a_hidden_copy_of_macos_is_no_tensorflow_checkpoint(tmp_path: Path):
    (tmp_path / "bert_config.json").write_text("{}")
    for name in ("bert_model.ckpt.index", "._model.ckpt-9.index", "model.ckpt-9.index~"):
        (tmp_path / name).write_bytes(b"")
    assert find_tensorflow(tmp_path) == tmp_path / "bert_model.ckpt"


def test_a_run_can_start_in_a_folder_with_nothing_but_hidden_files(tmp_path: Path):
    (tmp_path / ".DS_Store").touch()
    assert RunDirectory(tmp_path).is_free
    (tmp_path / "notes.txt").touch()
    assert not RunDirectory(tmp_path).is_free
