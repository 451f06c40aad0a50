"""Tuned runs: checkpoints hold what was trained, and every command reads them with their base."""

import json

import pytest
import torch
import yaml

import bert_lightning
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.cli import main
from bert_lightning.model import BertConfig, BertForPreTraining
from bert_lightning.model.tuning import TUNINGS
from bert_lightning.tasks.catalogue import TASKS
from tests.support.runs import fit, logged, weights
from tests.support.small_corpus import SMALL_MODEL
from tests.support.task_data import RAW, task_data

TUNED = [name for name in TUNINGS if name != "full"]
LORA = ["--tuning.name", "lora"]


@pytest.fixture(scope="session")
def base(tmp_path_factory, tokenizer):
    """A pre-trained model of transformers' form, with values that no initialisation gives."""
    torch.manual_seed(3)
    config = BertConfig.preset("tiny", vocab_size=len(tokenizer), **SMALL_MODEL["config"])
    model = BertForPreTraining(config)
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.02
    folder = tmp_path_factory.mktemp("base") / "model"
    model.save_pretrained(folder, tokenizer.vocabulary)
    return folder


@pytest.fixture
def experiment(request, store, validation_store, tables, tmp_path, base):
    """Write an experiment of a task on top of the base, text classification by default; return its file."""
    return write_experiment(
        getattr(request, "param", "text-classification"), tmp_path, base, store, validation_store, tables
    )


def write_experiment(task, folder, base, store, validation_store, tables):
    values = {
        "experiment": "tuned",
        "task": task,
        "model": {"pretrained": str(base)},
        "optimizer": {"learning_rate": 1e-2},
        "trainer": {"max_steps": 4, "val_check_interval": 2, "accelerator": "cpu"},
        "wandb": {"mode": "disabled"},
        "data": {"max_seq_length": 40, "batch_size": 8},
    }
    if task == "pretraining":
        values["data"] |= {"train": str(store), "validation": str(validation_store), "num_workers": 0}
    else:
        values["data"] |= task_data(task, tables, folder)
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize("experiment", TASKS, indirect=True)
def test_a_tuned_run_of_every_task_trains_resumes_bit_for_bit_scores_and_predicts(
    experiment, base, tmp_path, name, capsys
):
    run, again = tmp_path / "run", tmp_path / "again"
    assert fit(experiment, run, "--tuning.name", name) == 0
    assert " %)" in capsys.readouterr().out
    saved, whole = weights(run), read_checkpoint(run / "checkpoints/last.ckpt")
    frozen = read_checkpoint(base).tensors
    # What the checkpoint leaves out is the base, bit for bit, and the rest is there.
    left_out = [tensor for tensor in whole.tensors if f"model.{tensor}" not in saved]
    assert {"encoder.embeddings.position.weight", "encoder.layers.0.output.weight"} <= {*left_out}
    assert all(torch.equal(whole.tensors[tensor], frozen[tensor]) for tensor in left_out)
    assert whole.provenance.digest == json.loads((run / "manifest.json").read_text())["weights"]
    # A run that is cut off and resumed ends the same.
    assert fit(experiment, again, "--tuning.name", name, "--resume", run / "checkpoints/step-000000002.ckpt") == 0
    assert weights(again).keys() == saved.keys()
    assert all(torch.equal(tensor, saved[key]) for key, tensor in weights(again).items())
    capsys.readouterr()
    # Scoring gives the same numbers as the last validation of training.
    assert main(["validate", "--checkpoint", str(run / "checkpoints/last.ckpt")]) == 0
    last, scored = logged(run)[-2:]
    assert {key: value for key, value in scored.items() if key.startswith("val/")} == {
        key: value for key, value in last.items() if key.startswith("val/")
    }
    items = RAW[whole.task]
    predictions = bert_lightning.load(run / "checkpoints/last.ckpt", "cpu").predict(items)
    assert len(predictions) == len(items)
