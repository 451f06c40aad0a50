"""Keys that moved, identities that new keys leave alone, and saved configurations compared by typed values."""

import dataclasses
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bert_lightning.config import migrations
from bert_lightning.config.experiment import CHOICES, load_experiment
from bert_lightning.config.saved import (
    Difference,
    differences,
    differences_from_saved,
    read_saved,
    value_differences,
    with_defaults,
)
from bert_lightning.config.settings import changed
from bert_lightning.errors import InputError

TAGGING = {
    "experiment": "try",
    "task": "token-classification",
    "model": {"size": "tiny"},
    "data": {"train": "words.conll", "tokenizer": "vocab.txt"},
    "trainer": {"max_steps": 10},
}
TEXTS = {**TAGGING, "task": "text-classification"}
EXTENSION = """
import dataclasses
from bert_lightning.optim.optimizers import AdamW

@dataclasses.dataclass(frozen=True)
class Mine(AdamW):
    factor: float = 2.0
"""


@pytest.fixture(autouse=True)
def unwarned(monkeypatch):
    monkeypatch.setenv(migrations.WARNED_VARIABLE, "")


def experiment_file(folder: Path, values: dict, name: str = "e.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(values))
    return path


def test_an_old_key_in_a_file_works_and_is_warned_about_once(tmp_path, caplog):
    path = experiment_file(tmp_path, {**TAGGING, "model": {"size": "tiny", "crf": True}})
    with caplog.at_level(logging.WARNING):
        assert load_experiment([path]).model.head.crf
        assert load_experiment([path]).model.head.crf
    assert caplog.messages == [f"{path}: model.crf is now called model.head.crf; the old name still works"]


def test_an_old_key_on_the_command_line_wins_over_the_new_one_in_a_file(tmp_path):
    path = experiment_file(tmp_path, {**TAGGING, "model": {"size": "tiny", "head": {"crf": True}}})
    assert not load_experiment([path], ["--model.crf", "false"]).model.head.crf


def test_the_old_and_the_new_key_in_one_file_are_refused(tmp_path):
    path = experiment_file(tmp_path, {**TAGGING, "model": {"size": "tiny", "crf": True, "head": {"crf": False}}})
    with pytest.raises(InputError, match=r"model\.crf is the old name of model\.head\.crf, and both are set"):
        load_experiment([path])


def test_an_old_key_of_another_task_may_hold_its_default_only(tmp_path, caplog):
    assert load_experiment([], ["--model.crf=false"], TEXTS) == load_experiment([], [], TEXTS)
    assert not caplog.messages
    for value in ("true", "0", "[1"):
        with pytest.raises(InputError, match=r"'model\.crf', which is of the task token-classification"):
            load_experiment([], [f"--model.crf={value}"], TEXTS)
    # Nothing was loaded, so nothing works under an old name.
    assert not caplog.messages


@pytest.mark.parametrize("head", ["x", [1, 2], 0])
def test_an_old_key_does_not_hide_a_head_that_is_no_section(tmp_path, head, caplog):
    path = experiment_file(tmp_path, {**TAGGING, "model": {"size": "tiny", "crf": True, "head": head}})
    with pytest.raises(InputError) as error:
        load_experiment([path])
    assert str(error.value) == f"{path}: model.head: keys and values are expected, got {head!r}"
    assert not caplog.messages


def test_a_fault_names_an_old_key_as_the_last_source_wrote_it(tmp_path):
    path = experiment_file(tmp_path, {**TAGGING, "model": {"size": "tiny", "crf": None}})
    for arguments, message in (
        ([], f"{path}: model.crf: expected bool, got null"),
        (["--model.crf", "null"], "command line: model.crf: expected bool, got 'null'"),
        (["--model.crf", "1"], "command line: model.crf: expected bool, got '1'"),
        (["--model.head.crf", "1"], "command line: model.head.crf: expected bool, got '1'"),
    ):
        with pytest.raises(InputError) as error:
            load_experiment([path], arguments)
        assert str(error.value) == message
    with pytest.raises(InputError, match=r"^model\.crf: expected bool, got 1"):
        load_experiment([], [], {**TAGGING, "model": {"size": "tiny", "crf": 1}})


def test_a_process_that_is_started_later_does_not_repeat_a_warning(tmp_path, caplog):
    load_experiment([], ["--model.crf", "true"], TAGGING)
    path = experiment_file(tmp_path, {**TAGGING, "model": {"size": "tiny", "crf": True}})
    code = "import sys; from bert_lightning.config.experiment import load_experiment; load_experiment(sys.argv[1:])"
    child = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert len(caplog.messages) == 1
    assert "the old name still works" not in child.stderr


def test_every_moved_key_is_a_current_key_with_its_earlier_default():
    tasks = {"model.head.crf": "token-classification", "model.head.answerability": "question-answering"}
    for moved in migrations.MOVED:
        experiment = load_experiment([], [], {**TAGGING, "task": tasks[moved.new]})
        assert getattr(experiment.model.head, moved.new.rpartition(".")[2]) == moved.default


def test_a_key_that_a_later_version_adds_does_not_change_the_identity():
    experiment = load_experiment([], ["--optimizer.learning_rate", "0.5"], TAGGING)
    fields = {field.name: getattr(experiment, field.name) for field in dataclasses.fields(experiment)}
    later = dataclasses.make_dataclass(
        "Experiment",
        [("added", int, 7), ("section", type(experiment.freeze), dataclasses.field(default=experiment.freeze))],
        bases=(type(experiment),),
        frozen=True,
        kw_only=True,
    )
    assert later(**fields).to_dict() != experiment.to_dict()
    assert later(**fields).identity == experiment.identity
    assert later(**fields, added=8).identity != experiment.identity


def test_an_identity_covers_required_keys_and_the_names_of_choices():
    values = changed(load_experiment([], [], TAGGING), "", CHOICES)
    assert values == {
        "experiment": "try",
        "task": "token-classification",
        "model": {"size": "tiny"},
        "data": {"train": "words.conll", "tokenizer": "vocab.txt"},
        "trainer": {"max_steps": 10},
        "optimizer": {"name": "adamw"},
        "schedule": {"name": "linear"},
    }
    # All keys of both have their defaults, and yet they differ.
    identities = {load_experiment([], ["--schedule", name], TAGGING).identity for name in ("linear", "constant")}
    assert len(identities) == 2


def test_a_default_that_is_written_out_is_the_same_experiment():
    written_out = load_experiment([], [], {**TAGGING, "optimizer": {"name": "adamw", "weight_decay": 0.01}})
    assert written_out.identity == load_experiment([], [], TAGGING).identity


def test_differences_are_dotted_keys_and_floats_differ_only_beyond_rounding():
    old = load_experiment([], ["--optimizer.learning_rate", "0.1"], TAGGING)
    assert differences(old, load_experiment([], ["--optimizer.learning_rate", "0.10000000000000002"], TAGGING)) == []
    new = load_experiment([], ["--optimizer.learning_rate", "0.2", "--model.head.crf", "true"], TAGGING)
    assert differences(old, new) == [("model.head.crf", False, True), ("optimizer.learning_rate", 0.1, 0.2)]


def test_keys_that_a_saved_configuration_does_not_have_are_no_difference():
    experiment = load_experiment([], [], TAGGING)
    values = experiment.to_dict()
    del values["freeze"], values["data"]["document_context"]
    assert differences_from_saved(values, Path("config.yaml"), experiment) == []
    values["trainer"]["max_steps"] = 11
    assert differences_from_saved(values, Path("config.yaml"), experiment) == [("trainer.max_steps", 11, 10)]


def test_keys_that_are_numbers_are_compared_with_keys_that_are_texts():
    assert list(value_differences({1: 2, "a": 3}, {1: 2, "a": 4, 5: 6})) == [("5", None, 6), ("a", 3, 4)]


def test_a_saved_configuration_with_an_unknown_key_names_its_file():
    with pytest.raises(InputError, match=r"run/config\.yaml: this version cannot read .*unknown key 'later'"):
        read_saved({**TAGGING, "later": 1}, Path("run/config.yaml"))


def test_an_extension_is_compared_and_only_imported_if_the_experiment_uses_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("an_extension.py").write_text(EXTENSION)
    own = {**TAGGING, "optimizer": {"class_path": "an_extension.Mine"}}
    experiment = load_experiment([], [], own, ["an_extension"])
    assert differences_from_saved(experiment.to_dict(), Path("c"), experiment) == []
    other = load_experiment([], ["--optimizer.init_args.factor", "3"], own, ["an_extension"])
    assert differences_from_saved(experiment.to_dict(), Path("c"), other) == [
        ("optimizer.init_args.factor", 2.0, 3.0)
    ]
    values = experiment.to_dict()
    del values["freeze"]
    assert with_defaults(values, Path("c")) == experiment.to_dict()
    unknown = {**experiment.to_dict(), "optimizer": {"class_path": "not_allowed.Mine", "init_args": {}}}
    expected = Difference("optimizer.class_path", "not_allowed.Mine", "an_extension.Mine")
    assert differences_from_saved(unknown, Path("c"), experiment) == [expected]
