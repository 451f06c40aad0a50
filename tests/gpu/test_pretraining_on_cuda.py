"""Pre-training end to end on an accelerator; run by `make test-gpu`."""

import math

import pytest
import torch
import yaml

from bert_lightning.cli import main
from bert_lightning.runs.directory import RunDirectory
from tests.support.small_corpus import PRETRAINING

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("batching", ["padded", "bucketed", "packed"])
def test_every_form_of_batch_trains_and_scores_in_bfloat16(store, validation_store, tmp_path, batching):
    values = {
        **PRETRAINING,
        "data": {
            **PRETRAINING["data"],
            "train": str(store),
            "validation": str(validation_store),
            "batching": batching,
            "num_workers": 1,
        },
        "trainer": {**PRETRAINING["trainer"], "accelerator": "gpu", "precision": "bf16-mixed"},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    assert main(["fit", "--config", str(tmp_path / "c.yaml"), "--run-directory", str(tmp_path / "run")]) == 0
    losses = [row["train/loss"] for row in RunDirectory(tmp_path / "run").read_metrics() if "train/loss" in row]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)
