"""The origin of a checkpoint: its source, its run, and the scores of its step."""

import json
from pathlib import Path

import pytest
import torch

from bert_lightning.checkpoints.provenance import provenance_of
from bert_lightning.checkpoints.run_files import MANIFEST, METRICS, SETTINGS

TENSORS = {"weight": torch.ones(2)}
ROWS = [
    {"step": 4, "val/loss": 3.0},
    {"step": 8, "train/loss": 2.0, "val/loss": 1.0, "val/f1": 0.5},
    {"step": 8, "val/loss": 0.5, "test/f1": 0.25, "test/file": "a.tsv"},
    {"step": 80, "val/loss": 9.0},
]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    run = tmp_path / "my run"
    (run / "checkpoints").mkdir(parents=True)
    (run / MANIFEST).write_text('{"step": 8}')
    (run / SETTINGS).write_text("task: pretraining\n")
    (run / METRICS).write_text("".join(json.dumps(row) + "\n" for row in ROWS) + '[8]\n{"step": 8, "val/lo')
    return run / "checkpoints/step-000000008.ckpt"


def test_a_checkpoint_of_a_run_names_the_run_and_the_latest_scores_of_its_step(checkpoint):
    origin = provenance_of(checkpoint, TENSORS, None, "given")
    assert origin.source == "my run, step-000000008.ckpt"
    assert (origin.manifest, origin.settings) == ({"step": 8}, "task: pretraining\n")
    assert origin.scores == {"val/loss": 0.5, "val/f1": 0.5, "test/f1": 0.25}


@pytest.mark.parametrize("name", ["last.ckpt", "step-000000005.ckpt"])
def test_a_checkpoint_without_a_scored_step_has_no_scores(checkpoint, name):
    assert provenance_of(checkpoint.with_name(name), TENSORS, None, "given").scores == {}


@pytest.mark.parametrize("manifest", [None, b"{", b"\xff"])
def test_a_checkpoint_without_a_readable_manifest_names_only_its_file(checkpoint, manifest):
    path = checkpoint.parents[1] / MANIFEST
    path.unlink() if manifest is None else path.write_bytes(manifest)
    origin = provenance_of(checkpoint, TENSORS, None, "given")
    assert origin.source == "step-000000008.ckpt"
    assert (origin.manifest, origin.settings, origin.scores) == (None, "", {})


def test_a_file_outside_a_folder_of_checkpoints_belongs_to_no_run(checkpoint):
    assert provenance_of(checkpoint.parents[1] / "other/x.ckpt", TENSORS, None, "given").manifest is None


def test_a_hub_model_is_named_as_given_with_its_commit(tmp_path):
    origin = provenance_of(tmp_path / "snapshots/abc", TENSORS, "abc", "hub:someone/model")
    assert (origin.source, origin.revision) == ("hub:someone/model", "abc")


def test_the_digest_is_that_of_the_weights(tmp_path):
    one, other = (
        provenance_of(tmp_path / "x", {"weight": torch.full((2,), value)}, None, "x") for value in (1.0, 2.0)
    )
    assert one.digest == provenance_of(tmp_path / "y", TENSORS, None, "y").digest != other.digest
