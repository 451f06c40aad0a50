"""`fit --deterministic` on CUDA: every task trains twice to the same bits; run by `make test-gpu`."""

import pytest
import torch
import yaml

from bert_lightning.cli import main
from bert_lightning.tasks.catalogue import TASKS
from tests.support.runs import weights
from tests.support.small_corpus import SMALL_MODEL
from tests.support.task_data import short_experiment

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

FORMS = {
    **{name: (name, []) for name in TASKS},
    "tags by a CRF": ("token-classification", ["--model.head.crf", "true"]),
    "packed": ("pretraining", ["--data.batching", "packed"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_deterministic_run_repeats_bit_for_bit(form, store, validation_store, tables, tokenizer, tmp_path):
    name, options = FORMS[form]
    values = {**short_experiment(name, (store, validation_store), tables, tmp_path), "model": SMALL_MODEL}
    if name != "pretraining":
        tokenizer.save(tmp_path / "tokenizer")
        values["data"]["tokenizer"] = str(tmp_path / "tokenizer")
    values["trainer"] |= {"accelerator": "gpu", "precision": "bf16-mixed", "deterministic": True}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    runs = []
    for number in range(2):
        run = tmp_path / f"run{number}"
        assert main(["fit", "--config", str(tmp_path / "c.yaml"), "--run-directory", str(run), *options]) == 0
        runs.append(weights(run))
    assert all(torch.equal(tensor, runs[1][key]) for key, tensor in runs[0].items())
