"""The database of a search: what it keeps, and the one message about one that cannot be used."""

import sqlite3
from pathlib import Path

import optuna
import pytest

from bert_lightning.errors import InputError
from bert_lightning.studies.search import database as module
from bert_lightning.studies.search.database import DIRECTORIES, REASON, VALUES, Database, default_url
from bert_lightning.studies.search.drawing import draw
from tests.studies.search.synthetic import SPACE, settings


def begun(folder: Path) -> Database:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    database = Database(default_url(folder), "try")
    database.begin({"trials": 3}, "maximize")
    return database


def test_a_trial_is_complete_in_the_database_before_it_is_trained(tmp_path):
    database = begun(tmp_path)
    drawn = draw(settings(), SPACE, "try", [])
    database.start(drawn, ["runs/a", "runs/b"])
    [trial] = Database(default_url(tmp_path), "try").trials
    assert trial.state.name == "RUNNING"
    assert trial.params == drawn.trial.params
    assert trial.user_attrs == {DIRECTORIES: ["runs/a", "runs/b"], VALUES: drawn.values}


def test_outcomes_and_settings_are_there_for_the_next_session(tmp_path):
    database = begun(tmp_path)
    for outcome in (0.5, "seed 1: exploded", None):
        database.start(draw(settings(), SPACE, "try", database.trials), [])
        database.end(len(database.trials) - 1, None, outcome)
    again = Database(default_url(tmp_path), "try")
    assert again.settings == {"trials": 3}
    assert [trial.state.name for trial in again.trials] == ["COMPLETE", "FAIL", "PRUNED"]
    assert again.trials[0].value == 0.5
    assert again.trials[1].user_attrs[REASON] == "seed 1: exploded"
    assert Database(default_url(tmp_path), "another").settings is None


def damaged(path: Path) -> None:
    begun(path.parent)
    (path.parent / module.DATABASE).rename(path)
    content = bytearray(path.read_bytes())
    content[5000:60000] = b"\7" * 55000
    path.write_bytes(content)


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text("not a database" * 99), "file is not a database"),
        (damaged, "is damaged"),
        (lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(80)), "damaged or no database"),
        (foreign, "database of another program"),
        (lambda path: path.mkdir(), "is a folder"),
    ],
    ids=["text", "damaged", "cut", "foreign", "folder"],
)
def test_a_file_that_is_no_database_of_a_search_is_refused_and_left_alone(tmp_path, make, words):
    path = tmp_path / "x.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(InputError, match=str(path)) as error:
        Database(f"sqlite:///{path}", "try")
    assert words in str(error.value)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_locked_database_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    begun(tmp_path)
    other = sqlite3.connect(tmp_path / module.DATABASE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(InputError, match="locked by another program"):
        Database(default_url(tmp_path), "try")
    other.close()
    assert Database(default_url(tmp_path), "try").settings == {"trials": 3}


def test_a_search_of_another_program_in_the_same_database_is_refused(tmp_path):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = optuna.create_study(storage=default_url(tmp_path), study_name="try")
    assert Database(default_url(tmp_path), "try", is_own=True).settings is None, "as after a kill at the beginning"
    with pytest.raises(InputError, match="search 'try' of another program"):
        _ = Database(default_url(tmp_path), "try").settings
    made.enqueue_trial({"rate": 0.1})
    with pytest.raises(InputError, match="search 'try' of another program"):
        _ = Database(default_url(tmp_path), "try", is_own=True).settings


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("search.db", "is not the URL of a database"),
        ("nosuch://host/db", "is not the URL of a database"),
        ("postgresql+nosuch://me:secret@host/db", "is not the URL of a database"),
        ("sqlite:////nosuch/folder/x.db", "no folder /nosuch/folder"),
    ],
)
def test_a_url_that_names_no_database_is_refused_without_its_password(url, words):
    with pytest.raises(InputError) as error:
        Database(url, "try")
    assert words in str(error.value)
    assert "secret" not in str(error.value)


def test_a_network_file_system_is_refused_before_a_file_is_made(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    shared = tmp_path / "my share"
    (shared / "local").mkdir(parents=True)
    monkeypatch.setattr(module, "_MOUNTS", mounts)
    lines = ["/dev/sda / ext4 rw 0 0", f"server:/x {str(shared).replace(' ', chr(92) + '040')} nfs4 rw 0 0"]
    lines.append(f"/dev/sdb {str(shared / 'local').replace(' ', chr(92) + '040')} ext4 rw 0 0")
    mounts.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"network file system \(nfs4\).*--storage"):
        Database(f"sqlite:///{shared / 'x.db'}", "try")
    assert not (shared / "x.db").exists()
    Database(f"sqlite:///{shared / 'local' / 'x.db'}", "try")
    assert module.file_system_of(tmp_path / "my shareholder") == "ext4"
