"""`class_path` and `init_args`: the user's classes, from modules that the user allows."""

import sys
from pathlib import Path

import pytest
import yaml

from bert_lightning.cli import main
from bert_lightning.config.experiment import CHOICES, load_experiment
from bert_lightning.config.extensions import REQUIRED, import_module
from bert_lightning.data.datasets.catalogue import STANDARD_SETS
from bert_lightning.data.datasets.registration import OWNERS
from bert_lightning.errors import InputError
from bert_lightning.model.config import PARTS as MODEL_PARTS
from bert_lightning.model.heads import HEADS
from bert_lightning.optim.optimizers import AdamW
from bert_lightning.runs.directory import RunDirectory

MODULE = """
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
import torch
from bert_lightning.data.pretraining.masking import TokenMasking

Path("imported").touch()

@dataclass(frozen=True)
class Plain:
    learning_rate: float = 0.1
    weight_decay: float = 0.0
    momentum: float = 0.5
    matrices_apart: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.momentum < 0:
            raise ValueError(f"momentum is {self.momentum}; it must not be negative")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum)

@dataclass(frozen=True)
class Halves:
    every: int = 2

    def factor(self, step: int, num_steps: int) -> float:
        return 0.5 ** (step // self.every)

    def check(self, num_steps: int) -> None: ...

@dataclass(frozen=True)
class Fewer(TokenMasking):
    rate: float = 0.05

class Half:
    learning_rate = 0.1

@dataclass(frozen=True)
class Lacking:
    learning_rate: float = 0.1
"""
PARTS = {
    "optimizer": {"class_path": "extensions_here.Plain", "init_args": {"learning_rate": 0.01}},
    "schedule": {"class_path": "extensions_here.Halves"},
}


@pytest.fixture
def config(home, tmp_path, monkeypatch):
    """An experiment whose extensions are in a module in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "extensions_here", raising=False)
    Path("extensions_here.py").write_text(MODULE)
    values = yaml.safe_load((home / "pretraining.yaml").read_text())
    values |= PARTS
    values["data"]["masking"] = {"class_path": "extensions_here.Fewer"}
    values["trainer"]["max_steps"] = 4
    Path("own.yaml").write_text(yaml.safe_dump(values))
    return Path("own.yaml")


ALLOWED = ["--allow-module", "extensions_here"]


def test_a_run_with_extensions_repeats_from_its_own_config(config, monkeypatch, capsys):
    command = ["fit", "--config", str(config), "--run-directory", "run", *ALLOWED]
    monkeypatch.setattr(sys, "argv", ["bert-lightning", *command])
    assert main(command) == 0
    run = RunDirectory("run")
    written = run.read_config()
    assert written["optimizer"] == {
        "class_path": "extensions_here.Plain",
        "init_args": {"learning_rate": 0.01, "weight_decay": 0.0, "momentum": 0.5},
    }
    assert written["data"]["masking"]["class_path"] == "extensions_here.Fewer"
    assert "--allow-module extensions_here" in run.read_manifest()["sessions"][0]["command"]
    rates = [row["train/learning_rate"] for row in run.read_metrics() if "train/learning_rate" in row]
    assert rates == [0.01, 0.005]
    assert main(["reproduce", "run", *ALLOWED]) == 0
    assert main(["validate", "--checkpoint", "run", *ALLOWED]) == 0
    assert main(["fit", "--config", "run/config.yaml", "--run-directory", "run", *ALLOWED]) == 0
    assert "finished before" in capsys.readouterr().out
    Path("imported").unlink()
    sys.modules.pop("extensions_here")
    for command in (
        ["fit", "--config", "run/config.yaml", "--run-directory", "again"],
        ["validate", "--checkpoint", "run"],
        ["reproduce", "run"],
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "is of the module 'extensions_here'" in error
        assert "--allow-module extensions_here" in error
    assert not Path("imported").exists()
    assert "extensions_here" not in sys.modules


@pytest.mark.parametrize("allowed", [(), ("extensions",), ("extensions_here.inner",), ("os",)])
def test_only_allowed_modules_are_imported(config, allowed):
    with pytest.raises(InputError, match="--allow-module extensions_here"):
        load_experiment([config], allow_modules=allowed)
    assert not Path("imported").exists()


def test_a_package_is_allowed_with_its_modules(config):
    Path("own_package").mkdir()
    Path("own_package/__init__.py").touch()
    Path("own_package/inner.py").write_text(MODULE)
    change = ["--optimizer.class_path", "own_package.inner.Plain"]
    experiment = load_experiment([config], change, allow_modules=["own_package", "extensions_here"])
    assert experiment.to_dict()["optimizer"]["class_path"] == "own_package.inner.Plain"
    # Another class starts with its own defaults.
    assert experiment.optimizer.learning_rate == 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--optimizer.class_path", "extensions_here.Missing"], "extensions_here has no Missing"),
        (["--optimizer.class_path", "extensions_here.Half"], "Half is no dataclass"),
        (["--optimizer.class_path", "extensions_here.Lacking"], "lacks matrices_apart, weight_decay, build"),
        (
            ["--optimizer.class_path", "extensions_here.Halves"],
            "lacks matrices_apart, learning_rate, weight_decay, build",
        ),
        (["--optimizer.class_path", "extensions_here.torch.Tensor"], "cannot be imported"),
        (["--optimizer.class_path", "Plain"], "is of the module 'Plain'"),
        (["--optimizer.init_args.momentun", "0.1"], "did you mean 'optimizer.momentum'"),
        (["--optimizer.init_args.momentum", "-1"], "optimizer.momentum is -1.0; it must not be negative"),
        (["--optimizer.init_args.momentum", "much"], "optimizer.momentum: expected float, got 'much'"),
        (["--optimizer.momentum", "0.1"], "optimizer.momentum stands beside class_path"),
        (["--optimizer.init_args", "3"], "optimizer.init_args: keys and values are expected"),
        (["--data.class_path", "extensions_here.Plain"], "unknown key 'data.class_path'"),
        (["--model.class_path", "extensions_here.Plain"], "unknown key 'model.class_path'"),
    ],
)
def test_an_unsuitable_class_is_one_message(config, change, message):
    with pytest.raises(InputError, match=message):
        load_experiment([config], change, allow_modules=["extensions_here"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--optimizer.class_path", "extensions_here.Missing"], "optimizer.class_path: extensions_here has no"),
        (["--optimizer.momentum", "0.1"], "optimizer.momentum stands beside"),
        (["--optimizer.init_args.momentum", "-1"], "optimizer.momentum is -1.0"),
    ],
)
def test_a_faulty_class_of_an_override_is_reported_as_the_command_lines(config, change, message):
    with pytest.raises(InputError, match=f"^command line: {message}"):
        load_experiment([config], change, allow_modules=["extensions_here"])


def test_choices_by_name_and_by_class_replace_each_other(config):
    experiment = load_experiment([config], ["--optimizer", "adamw"], allow_modules=["extensions_here"])
    assert experiment.optimizer == AdamW()
    own = load_experiment([config], ["--optimizer.init_args.momentum", "0.25"], allow_modules=["extensions_here"])
    assert (own.optimizer.learning_rate, own.optimizer.momentum) == (0.01, 0.25)
    back = load_experiment(
        [config],
        ["--optimizer.class_path", "bert_lightning.optim.optimizers.AdamW"],
        allow_modules=["extensions_here"],
    )
    assert back.to_dict()["optimizer"]["name"] == "adamw"


REGISTERING = """
from torch import nn
from bert_lightning import register_dataset
from bert_lightning.model import register_activation, register_head
class Linear(nn.Linear):
    def __init__(self, config, num_outputs):
        super().__init__(config.hidden_size, num_outputs)
register_head("tried-twice", Linear)
register_activation("tried-twice", lambda values: values)
register_dataset("tried-twice", "text-classification", {"train": lambda: []})
"""


def test_a_module_that_raised_after_it_registered_its_parts_can_be_mended_and_imported_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "tried_twice.py"
    module.write_text(REGISTERING + "raise OSError('no disk')\n")
    with pytest.raises(InputError, match="raised OSError while it was imported"):
        import_module("tried_twice", "modules.0", ["tried_twice"])
    assert not {"tried-twice"} & {*HEADS, *MODEL_PARTS["hidden_act"], *STANDARD_SETS, *OWNERS}
    module.write_text(REGISTERING)
    for registry in (HEADS, MODEL_PARTS["hidden_act"], STANDARD_SETS, OWNERS):
        monkeypatch.setitem(registry, "tried-twice", None)
        registry.pop("tried-twice")
    import_module("tried_twice", "modules.0", ["tried_twice"])


def test_every_choice_can_be_a_class_of_ones_own():
    assert REQUIRED.keys() == CHOICES.keys()
