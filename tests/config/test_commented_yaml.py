"""`fit --print-config`: the resolved experiment as a file, with comments or without, and the files of `init`."""

from pathlib import Path

import pytest
import yaml

from bert_lightning.cli import main
from bert_lightning.config.commented_yaml import Entry, commented_yaml, entries_of
from bert_lightning.config.experiment import load_experiment
from bert_lightning.config.yaml_files import flow_yaml, read_yaml, yaml_value

ROOT = Path(__file__).parents[2]
# The files of studies are not experiments.
FILES = sorted(path for path in (ROOT / "experiments").rglob("*.yaml") if path.parent.name != "studies")
# Environment variables in these files.
FOLDERS = {"BERT_LIGHTNING_DATA": "/data", "BERT_ENCODER": "/encoder", "BERT_MLM_ENCODER": "/mlm-encoder"}


def with_folders(monkeypatch):
    for name, folder in FOLDERS.items():
        monkeypatch.setenv(name, folder)


@pytest.mark.parametrize(
    ("path", "form"),
    # The form with comments holds what the plain one does.
    [*((path, "comments") for path in FILES), *((path, "plain") for path in FILES[::8])],
    ids=lambda each: each if isinstance(each, str) else each.stem,
)
def test_a_printed_experiment_reads_back_to_the_same_values(path, form, monkeypatch, capsys, tmp_path):
    with_folders(monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", str(path), f"--print-config={form}"]) == 0
    assert list(tmp_path.iterdir()) == []
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    for name in FOLDERS:
        monkeypatch.delenv(name)
    again, expected = load_experiment([printed]), read_yaml(printed)
    assert again.to_dict() == expected
    with_folders(monkeypatch)
    assert again == load_experiment([path])


VALUES = {
    "experiment": "odd",
    "task": "text-classification",
    "model": {"size": "tiny", "config": {"layer_norm_eps": 1e-12}},
    "data": {
        "train": "a, b: [c] #d.tsv",
        "label_separator": "|",
        "problem": "multi-label",
        "column_names": ["a, b", "no", "3", "ü\u2028"],
        "text_column": "a, b",
        "label_column": "$${NAME}",
    },
    "optimizer": {"name": "lamb", "betas": [0.9, 0.98]},
    "schedule": {"name": "phases", "phases": [{}, {"from_step": 5, "power": 0.5}]},
    "trainer": {"max_epochs": 1.5, "precision": "32"},
    "published": [{"metric": "val/f1", "value": 0.5, "tolerance": 1e-3, "source": "a paper, p. 3: 'x'"}],
    "loss_weights": {"loss": 2.0},
    "wandb": {"mode": "disabled", "tags": ["yes", "1e3"]},
}


def test_odd_names_numbers_and_texts_keep_their_values_and_types(tmp_path):
    experiment = load_experiment([], below=VALUES)
    file = tmp_path / "a.yaml"
    file.write_text(commented_yaml(list(entries_of(experiment.to_dict())), experiment.task))
    assert load_experiment([file]) == experiment
    assert experiment.data.label_column == "${NAME}"


@pytest.mark.parametrize(
    "value", [[1e-6, 2.0, 1e300], "a, b", "1e3", "~", None, True, [], {}, {"a": [1]}, (1, 2), "-x"]
)
def test_a_value_in_one_line_reads_back(value):
    text = flow_yaml(value)
    assert "\n" not in text
    assert yaml_value(text, "key") == (list(value) if isinstance(value, tuple) else value)


def test_overrides_and_later_files_decide_the_printed_values(tmp_path, capsys):
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text(
        "experiment: x\ntask: pretraining\nmodel: {size: tiny}\ndata: {train: s, batch_size: 2}\n"
        "trainer: {max_steps: 1}\n"
    )
    second.write_text("data: {batch_size: 3, num_workers: 0}\n")
    command = ["fit", "--config", str(first), str(second), "--print-config", "--trainer.max_steps", "7"]
    assert main([*command, "--schedule", "constant", "--deterministic"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["data"]["batch_size"], printed["data"]["num_workers"], printed["trainer"]["max_steps"]) == (
        3,
        0,
        7,
    )
    assert printed["schedule"]["name"] == "constant"
    assert printed["trainer"]["deterministic"] is True


def test_printing_contradicts_several_seeds_and_a_wrong_key_is_still_an_error(tmp_path, capsys):
    file = tmp_path / "a.yaml"
    file.write_text(
        "experiment: x\ntask: pretraining\nmodel: {size: tiny}\ndata: {train: s}\ntrainer: {max_stps: 1}\n"
    )
    assert main(["fit", "--config", str(file), "--print-config"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "did you mean 'trainer.max_steps'" in output.err
    assert main(["fit", "--config", str(file), "--print-config", "--seeds", "1", "2"]) == 2
    assert "--print-config and --seeds contradict each other" in capsys.readouterr().err


def test_an_option_is_set_by_removing_its_mark():
    entries = [
        Entry("experiment", "x"),
        Entry("task", "pretraining"),
        Entry("trainer.max_steps", 5),
        Entry("trainer.precision", "auto", is_set=False),
        Entry("data.masking.name", "span", is_set=False),
        Entry("data.masking.max_span", 4, is_set=False),
        Entry("data.num_workers", 0, is_set=False),
    ]
    text = commented_yaml(entries, "pretraining")
    assert yaml.safe_load(text) == {"experiment": "x", "task": "pretraining", "trainer": {"max_steps": 5}}
    marked = [line for line in text.splitlines() if line.lstrip().startswith("#") and line.lstrip()[1] != " "]
    assert len(marked) == 6
    for line in marked:
        text = text.replace(line, line.replace("#", "", 1))
    assert yaml.safe_load(text)["data"] == {"masking": {"name": "span", "max_span": 4}, "num_workers": 0}
    # The description is that of the choice that is named.
    assert "# Longest span in words; longer draws are drawn again" in text
