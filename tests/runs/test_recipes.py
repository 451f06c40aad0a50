"""Fine-tuning recipes through a whole run: rates, freezing, gradual unfreezing, and resuming all of it."""

import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml

from bert_lightning.cli import main
from bert_lightning.config.experiment import load_experiment
from bert_lightning.errors import InputError
from bert_lightning.runs.building import build_training
from bert_lightning.runs.directory import RunDirectory
from tests.support.runs import logged

NO_DROPOUT = ["--model.config.hidden_dropout_prob", "0", "--model.config.attention_probs_dropout_prob", "0"]
LAYERS = 2
SMALL = {"num_hidden_layers": LAYERS, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
STEPS, EVERY = 8, 2
GRADUAL = ["--freeze.unfreeze_every", str(EVERY)]
OPTIMIZERS = {
    "adamw": ["--optimizer.name", "adamw"],
    "adamw as published": ["--optimizer.bias_correction", "false"],
    "sgd": ["--optimizer.name", "sgd"],
    "lamb": ["--optimizer.name", "lamb"],
    "muon": ["--optimizer.name", "muon"],
}


@pytest.fixture(scope="module")
def config(tmp_path_factory, tables, tokenizer) -> Path:
    """An experiment file that trains a tiny classifier for a few steps and keeps every checkpoint."""
    folder = tmp_path_factory.mktemp("recipes")
    tokenizer.save(folder / "tokenizer")
    values = {
        "experiment": "recipes",
        "task": "text-classification",
        "model": {"size": "tiny", "config": SMALL},
        "data": {
            "train": str(tables["train"]),
            "validation": str(tables["validation"]),
            "text_column": "sentence",
            "label_column": "topic",
            "tokenizer": str(folder / "tokenizer"),
            "max_seq_length": 16,
            "batch_size": 8,
        },
        "optimizer": {"learning_rate": 1e-2},
        "schedule": "constant",
        "trainer": {"max_steps": STEPS, "accelerator": "cpu", "precision": "32", "val_check_interval": 3},
        "checkpoint": {"every_n_steps": 1, "keep_last": 99},
        "wandb": {"mode": "disabled"},
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(values))
    return folder / "experiment.yaml"


def fit(config, run, *overrides):
    assert main(["fit", "--config", str(config), "--run-directory", str(run), *overrides]) == 0


def weights(run, step):
    content = torch.load(run / f"checkpoints/step-{step:09}.ckpt", weights_only=True)
    return {name.removeprefix("model."): tensor for name, tensor in content["state_dict"].items()}


def initial(config, *overrides):
    return build_training(load_experiment([config], overrides), None).task.model.state_dict()


def go_back(run, copy, step):
    """Copy a run to the state that a kill after a step leaves."""
    shutil.copytree(run, copy, symlinks=True)
    for path in (copy / "checkpoints").glob("step-*"):
        if int(path.name[5:14]) > step:
            path.unlink()
    RunDirectory(copy).update_manifest(ended=None)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_gradual_unfreezing_moves_each_layer_from_its_step_on_and_survives_a_kill(config, tmp_path, optimizer):
    run = tmp_path / "whole"
    fit(config, run, *GRADUAL, *optimizer, "--parameter_groups.layer_decay", "0.5")
    states = [initial(config), *(weights(run, step) for step in range(1, STEPS + 1))]
    starts = {"classifier.": 0, "encoder.pooler.": EVERY, "encoder.layers.1.": EVERY}
    starts |= {"encoder.layers.0.": 2 * EVERY, "encoder.embeddings.": 3 * EVERY}
    for name in dict(build_training(load_experiment([config]), None).task.model.named_parameters()):
        [first] = [step for start, step in starts.items() if name.startswith(start)]
        moved = [not torch.equal(before[name], after[name]) for before, after in pairwise(states)]
        assert moved == [step >= first for step in range(STEPS)], name
    for step in (1, 4, 5) if "adamw" in optimizer else (4, 5):
        resumed = tmp_path / f"from-{step}"
        go_back(run, resumed, step)
        fit(config, resumed, *GRADUAL, *optimizer, "--parameter_groups.layer_decay", "0.5")
        end = weights(resumed, STEPS)
        assert all(torch.equal(tensor, end[name]) for name, tensor in states[-1].items())
        assert logged(resumed) == logged(run)


def test_layers_that_are_still_frozen_do_not_count_in_the_gradient_norm(config, tmp_path):
    clipped = [*NO_DROPOUT, "--trainer.gradient_clip_val", "0.01", "--optimizer.name", "sgd"]
    fit(config, tmp_path / "gradual", *GRADUAL, *clipped)
    fit(config, tmp_path / "frozen", "--freeze.encoder", "true", *clipped)
    gradual, frozen = (weights(tmp_path / run, EVERY) for run in ("gradual", "frozen"))
    for name, tensor in initial(config).items():
        torch.testing.assert_close(gradual[name], frozen[name], rtol=1e-6, atol=1e-8)
        assert torch.equal(tensor, frozen[name]) != name.startswith("classifier.")


def test_frozen_layers_stay_bit_for_bit_and_all_others_train(config, tmp_path, capsys):
    fit(config, tmp_path / "run", "--freeze.embeddings", "true", "--freeze.layers", "1")
    before, after = initial(config), weights(tmp_path / "run", STEPS)
    frozen = ("encoder.embeddings.", "encoder.layers.0.")
    assert all(torch.equal(before[name], after[name]) == name.startswith(frozen) for name in before)
    trained = sum(tensor.numel() for name, tensor in before.items() if not name.startswith(frozen))
    total = sum(tensor.numel() for tensor in before.values())
    assert f"{total:,} parameters ({trained:,} trained, {100 * trained / total:.3g} %)," in capsys.readouterr().out
    optimizer = torch.load(tmp_path / f"run/checkpoints/step-{STEPS:09}.ckpt", weights_only=True)["optimizer_states"]
    assert len(optimizer[0]["state"]) == sum(not name.startswith(frozen) for name in before)


def test_fit_logs_how_many_parameters_train_and_from_which_step(config, tmp_path, capsys):
    fit(config, tmp_path / "whole")
    assert "trained" not in capsys.readouterr().out
    fit(config, tmp_path / "gradual", "--freeze.unfreeze_every", "3")
    assert "parameters (the head alone at first, 2 of 3 layers by step 6)," in capsys.readouterr().out


def test_layer_decay_and_the_heads_rate_scale_the_steps_of_sgd(config, tmp_path):
    plain = ["--optimizer.name", "sgd", "--optimizer.momentum", "0", "--trainer.max_steps", "1", *NO_DROPOUT]
    fit(config, tmp_path / "one", *plain)
    fit(
        config,
        tmp_path / "other",
        *plain,
        *("--parameter_groups.layer_decay", "0.5", "--parameter_groups.head_learning_rate", "0.03"),
    )
    before, one, other = initial(config), weights(tmp_path / "one", 1), weights(tmp_path / "other", 1)
    factors = {"classifier.": 3.0, "encoder.pooler.": 0.5, "encoder.layers.1.": 0.5}
    factors |= {"encoder.layers.0.": 0.25, "encoder.embeddings.": 0.125}
    for name, start in before.items():
        [factor] = [value for prefix, value in factors.items() if name.startswith(prefix)]
        torch.testing.assert_close(other[name] - start, factor * (one[name] - start), rtol=1e-3, atol=1e-7, msg=name)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--freeze.layers", "3"], "freeze.layers: 3 layers cannot be frozen: the model has 2"),
        (["--freeze.encoder", "true", "--freeze.layers", "1"], "freeze.layers does nothing together with"),
        (["--freeze.encoder", "true", *GRADUAL], "freeze.unfreeze_every contradicts freeze.encoder"),
        (["--freeze.unfreeze_every", "8"], "freeze.unfreeze_every is 8, but training ends after 8 steps"),
        (["--freeze.encoder", "true", "--parameter_groups.layer_decay", "0.9"], "parameter_groups.layer_decay does"),
        (
            ["--parameter_groups.no_decay", "[LayerNorm]"],
            "parameter_groups.no_decay: no parameter's name holds 'Laye",
        ),
        (["--parameter_groups.layer_decay", "2"], "parameter_groups.layer_decay is 2.0; it must be more than 0"),
        (["--freeze.layer", "2"], "unknown key 'freeze.layer'; did you mean 'freeze.layers'"),
        (
            ["--freeze.layers", "2", "--freeze.embeddings", "true", "--model.config.pooler", "false", *GRADUAL],
            "freeze.unfreeze_every has no effect: everything below the head is frozen for good",
        ),
        (["--optimizer.name", "sgd", "--optimizer.betas", "[0.9, 0.9]"], "unknown key 'optimizer.betas'"),
        (
            ["--optimizer.name", "lamb", "--optimizer.bias_corection", "false"],
            "did you mean 'optimizer.bias_correction",
        ),
        (["--optimizer.name", "muom"], "optimizer.name is 'muom'; did you mean 'muon'"),
        (["--schedule.name", "cosin"], "schedule.name is 'cosin'; did you mean 'cosine'"),
        (["--schedule.warmup_step", "3"], "unknown key 'schedule.warmup_step'; did you mean 'schedule.warmup_steps'"),
        (
            ["--schedule.warmup_steps", "3", "--schedule.warmup_share", "0.1"],
            "schedule.warmup_steps is 3 and warmup_share 0.1: set one of them to null",
        ),
        (["--schedule.warmup_steps", "8"], "schedule.warmup_steps is 8; it must be less than the 8 steps"),
        (["--schedule.name", "phases"], "the key schedule.phases is missing"),
        (
            ["--schedule.name", "phases", "--schedule.phases", "[{from_step: 0}, {from_step: 8}]"],
            "schedule.phases.1.from_step 8 is never reached: training ends after 8 steps",
        ),
        (
            ["--schedule.name", "phases", "--schedule.phases", "[{from_stp: 0}]"],
            "unknown key 'schedule.phases.0.from_stp'; did you mean 'schedule.phases.0.from_step'",
        ),
        (
            ["--checkpoint.monitor", "val/loss"],
            "checkpoint.mode is not set: set it to min or max, whichever is best for val/loss",
        ),
    ],
)
def test_settings_that_contradict_each_other_or_the_model_are_named(config, tmp_path, capsys, overrides, message):
    command = ["fit", "--config", str(config), "--run-directory", str(tmp_path / "run"), *overrides]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_reinitialised_layers_cannot_be_frozen(config, tmp_path, capsys):
    fit(config, tmp_path / "start", "--trainer.max_steps", "1")
    again = [
        "--model.size",
        "null",
        "--model.pretrained",
        str(tmp_path / "start"),
        "--model.reinitialize_layers",
        "1",
    ]
    for key, value in (("encoder", "true"), ("layers", "2")):
        command = ["fit", "--config", str(config), "--run-directory", str(tmp_path / "run"), *again]
        assert main([*command, f"--freeze.{key}", value]) == 2
        assert (
            f"freeze.{key} would freeze layers that model.reinitialize_layers reinitialises"
            in capsys.readouterr().err
        )
    fit(config, tmp_path / "run", *again, "--freeze.layers", "1")


def test_a_model_without_a_head_cannot_be_frozen_entirely(config):
    from bert_lightning.model import BertConfig, BertEncoder
    from bert_lightning.runs.starting_point import freeze

    with pytest.raises(InputError, match="freeze leaves nothing to train"):
        freeze(
            BertEncoder(BertConfig.preset("tiny", vocab_size=9)), load_experiment([config], ["--freeze.encoder=true"])
        )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--optimizer.name", "sgd"], "its optimiser differs"),
        (["--optimizer.bias_correction", "false"], "its optimiser differs"),
        (["--optimizer.name", "lamb"], "its optimiser differs"),
        (["--optimizer.name", "muon"], "its optimiser differs"),
        (["--parameter_groups.layer_decay", "0.9"], "its optimiser has other groups of parameters"),
        (["--freeze.encoder", "true"], "its optimiser has other groups of parameters"),
        (["--optimizer.learning_rate", "0.5"], "its optimiser has another initial_lr: 0.01, not 0.5"),
        (["--optimizer.betas", "[0.8, 0.999]"], "its optimiser has another betas"),
    ],
)
def test_a_checkpoint_of_another_optimizer_cannot_be_resumed(config, started, tmp_path, capsys, overrides, message):
    command = ["fit", "--config", str(config), "--run-directory", str(tmp_path / "run"), *overrides]
    assert main([*command, "--resume", str(started)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_lamb_cannot_be_resumed_with_the_published_adam(config, tmp_path, capsys):
    fit(config, tmp_path / "lamb", "--trainer.max_steps", "2", "--optimizer.name", "lamb")
    command = ["fit", "--config", str(config), "--run-directory", str(tmp_path / "run")]
    command += ["--optimizer.bias_correction", "false", "--resume", str(tmp_path / "lamb")]
    assert main(command) == 2
    assert "its optimiser differs" in capsys.readouterr().err


def test_muon_receives_the_matrices_of_the_blocks_and_lamb_the_exempt_parameters(config):
    def groups(name):
        task = build_training(load_experiment([config], [f"--optimizer.name={name}"]), None).task
        return task, task.configure_optimizers()["optimizer"].param_groups

    task, muon = groups("muon")
    matrices = {id(p): group["num_matrices"] for group in muon for p in group["params"] if group["num_matrices"]}
    named = dict(task.model.named_parameters())
    assert matrices == {id(named[name]): number for name, number in task.model.hidden_matrices().items()}
    assert sorted(set(matrices.values())) == [1, 3]
    _, lamb = groups("lamb")
    assert sorted((group["layer_adaptation"], group["weight_decay"]) for group in lamb) == [
        (False, 0.0),
        (True, 0.01),
    ]


def test_a_schedule_of_phases_reaches_every_step(config, tmp_path):
    phases = "[{from_step: 0, warmup_steps: 2, learning_rate_factor: 2, power: 0.5}, {from_step: 5, warmup_steps: 1}]"
    fit(
        config,
        tmp_path / "run",
        *("--schedule.name", "phases", "--schedule.phases", phases, "--trainer.log_every_n_steps", "1"),
    )
    rates = [row["train/learning_rate"] for row in logged(tmp_path / "run") if "train/learning_rate" in row]
    expected = [0, 1, 2 * 0.6**0.5, 2 * 0.4**0.5, 2 * 0.2**0.5, 0, 2 / 3, 1 / 3]
    assert rates == pytest.approx([0.01 * factor for factor in expected])


@pytest.fixture(scope="module")
def started(config, tmp_path_factory) -> Path:
    """A run of two steps."""
    run = tmp_path_factory.mktemp("started") / "run"
    fit(config, run, "--trainer.max_steps", "2")
    return run


def test_releases_and_groups_reach_the_optimizer_step(config):
    task = build_training(load_experiment([config], GRADUAL), None).task
    assert set(task.optimization.releases.values()) == {0, 2, 4, 6}
    assert build_training(load_experiment([config]), None).task.optimization.releases == {}


@pytest.mark.slow
def test_two_processes_unfreeze_like_one(config, tmp_path):
    overrides = [*NO_DROPOUT, *GRADUAL, "--freeze.embeddings", "true"]
    fit(config, tmp_path / "one", *overrides)
    command = [sys.executable, "-m", "bert_lightning", "fit", "--config", str(config), *overrides]
    command += ["--run-directory", str(tmp_path / "two"), "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    before = initial(config)
    for step in range(1, STEPS + 1):
        one, two = (weights(tmp_path / run, step) for run in ("one", "two"))
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
            assert torch.equal(two[name], before[name]) == torch.equal(tensor, before[name]), name
