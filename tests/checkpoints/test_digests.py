"""One SHA-256 of the weights: manifests, cards and `reproduce` agree, and earlier forms are recognised."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from bert_lightning.checkpoints.digests import current_form, weights_digest
from bert_lightning.checkpoints.native import read_native
from bert_lightning.cli import main
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.studies.reproduction import compare
from tests.support.files import SAVED_RUNS

TENSORS = {"b.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.bfloat16)}


def early_form(tensors: dict[str, torch.Tensor], prefix: str | None) -> str:
    """Return the digest as versions before computed it: described and with a prefix, or without both."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        described = f"{prefix}{name} {tensor.dtype} {list(tensor.shape)}\n"
        digest.update((name if prefix is None else described).encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Return the folder of a finished run and of one that starts from its last checkpoint."""
    folder = tmp_path_factory.mktemp("digests")
    shutil.copytree(SAVED_RUNS, folder, symlinks=True, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "--config", "texts.yaml", "--run-directory", "first"]) == 0
        values = {
            **yaml.safe_load(Path("texts.yaml").read_text()),
            "model": {"pretrained": "first/checkpoints/last.ckpt"},
        }
        Path("from-first.yaml").write_text(yaml.safe_dump(values))
        assert main(["fit", "--config", "from-first.yaml", "--run-directory", "second"]) == 0
        export = ["export", "--checkpoint", "first/checkpoints/last.ckpt", "--format", "huggingface"]
        assert main([*export, "--output", "exported"]) == 0
    return folder


def last_tensors(run: Path) -> dict[str, torch.Tensor]:
    return read_native((run / "checkpoints/last.ckpt").resolve()).tensors


def test_manifests_and_card_show_the_same_digest(runs):
    first, second = (RunDirectory(runs / name).read_manifest() for name in ("first", "second"))
    tensors = last_tensors(runs / "first")
    assert first["weights"] == weights_digest(tensors) == second["data"]["model"]
    assert first["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    assert f"| SHA-256 of the weights | {first['weights']} |" in (runs / "exported/README.md").read_text()


@pytest.mark.parametrize("change", ["name", "type", "shape", "value", "none"])
def test_the_digest_covers_name_type_shape_and_values(change):
    other = {
        "name": {**TENSORS, "c": TENSORS["a.bias"]},
        "type": {**TENSORS, "a.bias": TENSORS["a.bias"].view(torch.int16)},
        "shape": {**TENSORS, "b.weight": TENSORS["b.weight"].reshape(3, 2)},
        "value": {**TENSORS, "b.weight": TENSORS["b.weight"] + 1},
        "none": dict(reversed(TENSORS.items())),
    }[change]
    assert (weights_digest(other) == weights_digest(TENSORS)) == (change == "none")


@pytest.mark.parametrize("prefix", ["model.", "", None])
def test_earlier_forms_of_the_same_weights_are_recognised(prefix):
    recorded = early_form(TENSORS, prefix)
    assert current_form(recorded, TENSORS) == weights_digest(TENSORS)
    assert current_form(recorded, {"b.weight": TENSORS["b.weight"]}) == recorded


def test_a_run_whose_manifest_has_the_earlier_form_of_its_starting_point_continues(runs, monkeypatch):
    monkeypatch.chdir(runs)
    shutil.copytree("second", "earlier", symlinks=True)
    run = RunDirectory("earlier")
    data = {**run.read_manifest()["data"], "model": early_form(last_tensors(Path("first")), None)}
    run.update_manifest(ended=None, data=data)
    assert main(["fit", "--config", "earlier/config.yaml", "--run-directory", "earlier"]) == 0
    assert run.read_manifest()["data"]["model"] == RunDirectory("first").read_manifest()["weights"]


def test_reproduction_compares_with_the_earlier_form(runs, monkeypatch):
    monkeypatch.chdir(runs)
    earlier = shutil.copytree("first", "recorded-earlier", symlinks=True)
    RunDirectory(earlier).update_manifest(weights=early_form(last_tensors(Path("first")), "model."))
    assert compare(RunDirectory(earlier), RunDirectory("first")).equal
    RunDirectory(earlier).update_manifest(weights=early_form(last_tensors(Path("second")), "model."))
    assert not compare(RunDirectory(earlier), RunDirectory("first")).equal


def test_the_saved_run_recorded_the_earlier_form():
    [run] = (SAVED_RUNS / "runs/texts").iterdir()
    recorded = json.loads((run / "manifest.json").read_text())["weights"]
    assert recorded == early_form(last_tensors(run), "model.")
