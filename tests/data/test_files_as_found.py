"""Files as other programs write them, beside the files that programs leave behind."""

import json
from pathlib import Path

import pytest

from bert_lightning.data.readers.choices import read_choices
from bert_lightning.data.readers.texts import read_labelled_texts
from bert_lightning.data.sources import CORPUS_SUFFIXES, find_sources
from bert_lightning.data.standard_sets import locate
from bert_lightning.errors import InputError

APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X\xff"


def write(path: Path, content: str | bytes) -> str:
    """The name of a file with this content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


# -- hidden files --------------------------------------------------------------------------------------------------


def leave_files_behind(folder: Path, name: str, content: bytes) -> None:
    """What Jupyter, macOS, Windows and an editor leave beside the file `name` of a folder."""
    stem, suffix = Path(name).stem, Path(name).suffix
    write(folder / ".ipynb_checkpoints" / f"{stem}-checkpoint{suffix}", content)
    write(folder / "__MACOSX" / f"._{name}", APPLE_DOUBLE)
    write(folder / f"._{name}", APPLE_DOUBLE)
    for other in (f".#{name}", "Thumbs.db", "desktop.ini", f"{name}~", f"#{name}#"):
        write(folder / other, APPLE_DOUBLE)


def test_a_folder_of_texts_has_no_hidden_classes_and_no_hidden_texts(tmp_path: Path):
    for label in ("neg", "pos"):
        write(tmp_path / label / "0.txt", label)
        leave_files_behind(tmp_path / label, "0.txt", b"copy")
    leave_files_behind(tmp_path, "0.txt", b"copy")
    examples = list(read_labelled_texts(str(tmp_path), "text", None, "label"))
    assert [(example.text, example.label) for example in examples] == [("neg", "neg"), ("pos", "pos")]


def test_a_folder_and_a_glob_of_a_corpus_leave_hidden_files_out_but_a_named_one_is_read(tmp_path: Path):
    write(tmp_path / "a.txt", "One.")
    leave_files_behind(tmp_path, "a.txt", b"One.")
    for source in (tmp_path, tmp_path / "*", tmp_path / "**" / "*.txt"):
        assert find_sources([str(source)], CORPUS_SUFFIXES) == [str(tmp_path / "a.txt")]
    named = str(tmp_path / ".ipynb_checkpoints" / "a-checkpoint.txt")
    assert find_sources([named], CORPUS_SUFFIXES) == [named]
    hidden = tmp_path / ".ipynb_checkpoints"
    assert find_sources([str(hidden)], CORPUS_SUFFIXES) == [named]
    assert find_sources([str(hidden / "*.txt")], CORPUS_SUFFIXES) == [named]


def test_a_folder_of_race_has_the_questions_of_its_visible_files(tmp_path: Path):
    content = json.dumps({"article": "A.", "questions": ["Q?"], "options": [["a", "b"]], "answers": ["A"]}).encode()
    write(tmp_path / "high" / "1.txt", content)
    leave_files_behind(tmp_path / "high", "1.txt", content)
    leave_files_behind(tmp_path, "1.txt", content)
    assert [question.id for question in read_choices(str(tmp_path))] == ["high/1-0"]


def test_a_standard_data_set_is_found_beside_hidden_copies_of_it(tmp_path: Path):
    file = write(tmp_path / "en_ewt-ud-train.conllu", "")
    leave_files_behind(tmp_path, "en_ewt-ud-train.conllu", b"")
    assert [source for _, source in locate("universal-dependencies-pos", "train", str(tmp_path))] == [file]
    with pytest.raises(InputError, match=r"the folder holds: en_ewt-ud-train\.conllu$"):
        locate("universal-dependencies-pos", "validation", str(tmp_path))
