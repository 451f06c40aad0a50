"""Finished runs that keep their weights and not the state of their training."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml

from bert_lightning.checkpoints.files import damage
from bert_lightning.checkpoints.native import load_native
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.cli import main
from bert_lightning.errors import InputError
from bert_lightning.runs.building import build_training
from bert_lightning.runs.trainer import build_trainer
from bert_lightning.training import checkpoint_folder
from bert_lightning.training.checkpointing import CheckpointSettings
from tests.support.methods import maker
from tests.support.task_data import tiny_classification

ALONE = "--checkpoint.keep_training_state=false"


@pytest.fixture
def values(tables, tokenizer, tmp_path):
    """The values of a small classifier with a validation after each step."""
    made = tiny_classification(tables, tokenizer, tmp_path)
    made["trainer"] |= {"max_steps": 4, "val_check_interval": 1}
    return made


@pytest.fixture
def fit(values, tmp_path):
    """A function that trains in a directory and returns it."""
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(values))

    def train(name, *options, status=0):
        run = tmp_path / name
        command = ["fit", "--config", str(tmp_path / "e.yaml"), "--run-directory", str(run), *options]
        assert main(command) == status
        return run

    return train


def steps(run):
    return sorted(path.name for path in (run / "checkpoints").glob("step-*.ckpt"))


def content(run, name="last.ckpt"):
    return load_native((run / "checkpoints" / name).resolve())


def test_a_finished_run_keeps_the_weights_of_its_last_and_best_checkpoint_and_nothing_else(fit):
    whole, alone = fit("whole"), fit("alone", ALONE)
    links = [(alone / "checkpoints" / name).resolve() for name in ("last.ckpt", "best.ckpt")]
    assert steps(alone) == sorted({link.name for link in links})
    assert len(steps(whole)) >= 2
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = content(alone, name), content(whole, name)
        assert not {"optimizer_states", "lr_schedulers", "loops", "callbacks"} & ours.keys()
        assert ours["global_step"] == theirs["global_step"]
        assert ours["state_dict"].keys() == theirs["state_dict"].keys()
        assert all(torch.equal(ours["state_dict"][key], theirs["state_dict"][key]) for key in ours["state_dict"])
    # AdamW keeps two numbers per weight.
    sizes = [sum(tensor.nbytes for tensor in content(run)["state_dict"].values()) for run in (alone, whole)]
    files = [(run / "checkpoints/last.ckpt").resolve().stat().st_size for run in (alone, whole)]
    assert sizes[0] == sizes[1]
    assert files[1] - files[0] >= 1.9 * sizes[0]
    assert all(damage(link) is None for link in links)


def test_modules_that_only_training_needs_are_in_no_published_file(fit, tmp_path):
    teacher = fit("teacher")
    options = [f"--distillation.teacher={teacher}", "--distillation.hidden.projection=always"]
    options += ["--adversarial.name=smart", "--adversarial.proximal=1"]
    whole, alone = fit("whole", *options), fit("alone", *options, ALONE)
    prefixes = {name.partition(".")[0] for name in content(whole)["state_dict"]}
    assert prefixes == {"model", "beside_model", "momentum_weights"}
    export = ["export", "--checkpoint", str(whole), "--format", "native", "--output"]
    assert main([*export, str(tmp_path / "plain")]) == 0
    for found in (content(alone), load_native(tmp_path / "plain/last.ckpt")):
        assert {name.partition(".")[0] for name in found["state_dict"]} == {"model"}


def test_everything_but_resuming_works_from_weights_alone(fit, values, capsys):
    run = fit("alone", ALONE)
    before = {path: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    assert main(["validate", "--checkpoint", str(run)]) == 0
    assert main(["runs", str(run)]) == 0
    assert "finished" in capsys.readouterr().out
    setup = build_training(maker({**values, "model": {"pretrained": str(run)}})(), read_checkpoint(run))
    assert torch.equal(
        setup.task.model.state_dict()["encoder.pooler.bias"],
        content(run, "best.ckpt")["state_dict"]["model.encoder.pooler.bias"],
    )
    # The same command has nothing to do.
    fit("alone", ALONE)
    assert {path: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before
    fit("other", "--resume", str(run), status=2)
    assert "it holds weights without the state of their training" in capsys.readouterr().err
    manifest = json.loads((run / "manifest.json").read_text())
    assert read_checkpoint(run / "checkpoints/last.ckpt").provenance.digest == manifest["weights"]


@pytest.mark.parametrize("moment", ["before the file", "before its sums", "at the second file"])
def test_the_command_given_again_reduces_a_run_whose_reduction_was_killed(fit, monkeypatch, moment):
    run = fit("run", "--checkpoint.keep_every_n_steps=1")
    assert len(steps(run)) == 4
    replace, replaced = os.replace, []

    def killed(source, target):
        name = Path(target).name
        is_sums = name.endswith(".sha256")
        if moment == "before the file" and not is_sums:
            raise KeyboardInterrupt
        if moment == "before its sums" and is_sums and replaced:
            raise KeyboardInterrupt
        if moment == "at the second file" and not is_sums and replaced:
            raise KeyboardInterrupt
        replace(source, target)
        if not is_sums:
            replaced.append(name)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        settings = CheckpointSettings(keep_every_n_steps=1)
        with pytest.raises(KeyboardInterrupt):
            checkpoint_folder.keep_weights_alone(run / "checkpoints", settings)
    assert len(replaced) == (moment != "before the file")
    assert all(damage(run / "checkpoints" / name) is None for name in steps(run))
    fit("run", ALONE, "--checkpoint.keep_every_n_steps=1")
    assert all("optimizer_states" not in content(run, name) for name in steps(run))
    assert not [*(run / "checkpoints").glob(".*.tmp")]


def test_a_reduction_that_fails_changes_nothing_and_is_no_failure_of_the_training(fit, caplog):
    run = fit("run", "--checkpoint.keep_every_n_steps=1")
    damaged = run / "checkpoints/step-000000001.ckpt"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    before = {path: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    fit("run", ALONE, "--checkpoint.keep_every_n_steps=1")
    assert "the run has finished, but its checkpoints keep the state of training" in caplog.text
    assert {path: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before


def test_a_plain_trainer_scores_and_predicts_from_weights_alone(fit, values, tmp_path):
    run = fit("alone", ALONE)
    setup = build_training(maker(values)(), None)
    trainer = build_trainer(maker(values)(), tmp_path, [])
    path = (run / "checkpoints/last.ckpt").resolve()
    [scores] = trainer.validate(setup.task, setup.data, ckpt_path=path, verbose=False)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert scores["val/loss"] == pytest.approx([row["val/loss"] for row in rows if "val/loss" in row][-1])
    with pytest.raises(KeyError, match="contains only the model"):
        build_trainer(maker(values)(), tmp_path, []).fit(setup.task, setup.data, ckpt_path=path)


def test_chosen_steps_stay_and_a_copied_folder_is_not_touched(fit, tmp_path):
    run = fit("alone", ALONE, "--checkpoint.keep_every_n_steps=2")
    assert {"step-000000002.ckpt", "step-000000004.ckpt"} <= {*steps(run)}
    assert "optimizer_states" not in content(run, "step-000000002.ckpt")
    whole = fit("whole")
    for name in ("last.ckpt", "best.ckpt"):
        link = whole / "checkpoints" / name
        copied = link.read_bytes()
        link.unlink()
        link.write_bytes(copied)
    before = {path: path.read_bytes() for path in (whole / "checkpoints").iterdir()}
    fit("whole", ALONE)
    assert {path: path.read_bytes() for path in (whole / "checkpoints").iterdir()} == before


def test_shards_are_not_reduced(fit, values):
    run = fit("run")
    (run / "checkpoints/step-000000009.ckpt").mkdir()
    before = {path: path.is_dir() or path.read_bytes() for path in (run / "checkpoints").iterdir()}
    checkpoint_folder.keep_weights_alone(run / "checkpoints", CheckpointSettings())
    assert {path: path.is_dir() or path.read_bytes() for path in (run / "checkpoints").iterdir()} == before
    options = [ALONE, "--checkpoint.sharded=true", "--trainer.strategy=fsdp"]
    with pytest.raises(InputError, match=r"keep_training_state must be true with checkpoint\.sharded"):
        maker(values)(*options)
