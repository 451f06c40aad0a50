"""A pre-trained checkpoint is scored by a cloze as it is, and refused by tasks that need a head of their own."""

import json

import pytest
import yaml

import bert_lightning
from bert_lightning.cli import main
from bert_lightning.model import BertEncoder, BertForMaskedLM
from tests.support.task_data import task_data


@pytest.fixture
def cloze(tables, tmp_path):
    """The file of an experiment without training data."""
    data = task_data("cloze", tables, tmp_path) | {"max_seq_length": 40}
    del data["train"]
    values = {
        "experiment": "zero-shot",
        "task": "cloze",
        "model": {"size": "tiny"},
        "data": data,
        "trainer": {"max_steps": 1, "accelerator": "cpu", "precision": "32"},
    }
    (tmp_path / "cloze.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "cloze.yaml"


def accuracy_of(text):
    return next(float(line.split()[1]) for line in text.splitlines() if line.strip().startswith("val/accuracy"))


def test_a_pre_trained_run_is_scored_without_training_and_stays_as_it_is(home, cloze, tmp_path, capsys):
    run = home / "runs/whole"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert main(["validate", "--checkpoint", str(run), "--config", str(cloze)]) == 0
    of_run = accuracy_of(capsys.readouterr().out)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before
    # Without `trainer.precision`, it is the fastest one of this device.
    values = yaml.safe_load(cloze.read_text())
    del values["trainer"]["precision"]
    (tmp_path / "auto.yaml").write_text(yaml.safe_dump(values))
    assert main(["validate", "--checkpoint", str(run), "--config", str(tmp_path / "auto.yaml")]) == 0
    assert accuracy_of(capsys.readouterr().out) == pytest.approx(of_run, abs=0.1)
    # The same weights as a Hugging Face folder, which no run wrote.
    assert (
        main(["export", "--checkpoint", str(run), "--format", "huggingface", "--output", str(tmp_path / "hf")]) == 0
    )
    assert main(["validate", "--checkpoint", str(tmp_path / "hf"), "--config", str(cloze)]) == 0
    assert accuracy_of(capsys.readouterr().out) == of_run


def test_one_step_with_rate_0_is_a_run_of_the_same_scores(home, cloze, tables, tmp_path, capsys):
    run = home / "runs/whole"
    assert main(["validate", "--checkpoint", str(run), "--config", str(cloze)]) == 0
    expected = accuracy_of(capsys.readouterr().out)
    options = [
        "--model.size=null",
        f"--model.pretrained={run}",
        "--optimizer.learning_rate=0",
        "--wandb.mode=disabled",
    ]
    options += [f"--data.train={tables['train']}", "--run-directory", str(tmp_path / "run")]
    assert main(["fit", "--config", str(cloze), *options]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert next(row["val/accuracy"] for row in rows if "val/accuracy" in row) == pytest.approx(expected, abs=1e-4)
    [row] = bert_lightning.load(tmp_path / "run").predict(["The old cat sees the young dog."])
    assert row["probabilities"].keys() == {"animals", "nature", "places"}
    assert BertForMaskedLM.from_pretrained(tmp_path / "run").loading_report is not None


def test_an_encoder_without_the_head_and_a_task_with_another_one_are_refused(
    home, cloze, base, tables, tmp_path, capsys
):
    encoder = BertEncoder.from_pretrained(base)
    encoder.save_pretrained(tmp_path / "encoder", encoder.vocabulary)
    assert main(["validate", "--checkpoint", str(tmp_path / "encoder"), "--config", str(cloze)]) == 2
    assert "does not have all parameters of the model: mlm_head.bias" in capsys.readouterr().err
    options = [f"--data.train={tables['train']}", "--wandb.mode=disabled", "--model.size=null"]
    fit = ["fit", "--config", str(cloze), *options, f"--model.pretrained={tmp_path / 'encoder'}"]
    assert main(fit) == 2
    assert "encoder, which lacks the head that the task cloze needs: mlm_head.bias" in capsys.readouterr().err
    assert main([*fit, "--model.weights=random", "--run-directory", str(tmp_path / "random")]) == 0
    values = yaml.safe_load(cloze.read_text())
    values["task"] = "text-classification"
    del values["data"]["pattern"], values["data"]["verbalizer"]
    cloze.write_text(yaml.safe_dump(values))
    assert main(["validate", "--checkpoint", str(home / "runs/whole"), "--config", str(cloze)]) == 2
    assert "was trained for pretraining, but the configuration is for text-classification" in capsys.readouterr().err
