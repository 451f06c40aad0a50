"""Objects by `class_path` and `init_args`: what is imported, and how their arguments are checked."""

import inspect
import sys
from contextlib import suppress
from pathlib import Path

import lightning.pytorch.callbacks
import lightning.pytorch.loggers
import pytest
import yaml

from bert_lightning.cli import main
from bert_lightning.config.experiment import CHOICES, load_experiment
from bert_lightning.config.kinds import CALLBACK, LOGGER, OBJECT_LISTS
from bert_lightning.config.model_parts import PART_PATHS
from bert_lightning.config.nested import copied, split
from bert_lightning.config.objects import read_objects
from bert_lightning.config.signatures import typed_arguments
from bert_lightning.errors import InputError

MODULE = """
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Callable, Literal
from lightning import Callback
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.callbacks import ModelCheckpoint

Path("imported").touch()

class Color(Enum):
    RED = 1

@dataclass
class Pair:
    left: int
    right: float = 0.5

class Counter(Callback):
    def __init__(
        self,
        every: int = 1,
        rate: float = 0.1,
        name: str = "",
        mode: Literal["min", "max"] = "min",
        sizes: list[int] | None = None,
        words: list[str] | None = None,
        options: dict[str, Any] | None = None,
        color: Color = Color.RED,
        pair: Pair | None = None,
        folder: Path = Path("."),
        function: Callable[[int], int] | None = None,
        device: "torch.device | str" = "cpu",
    ) -> None:
        self.arguments = dict(vars(), self=None)

class Needing(Callback):
    def __init__(self, monitor: str) -> None: ...

class Further(Needing):
    def __init__(self, more: int = 0, **kwargs) -> None:
        super().__init__(**kwargs)

class OwnCheckpoint(ModelCheckpoint): ...

class Half(Logger): ...
"""
VALUES = {
    "experiment": "own",
    "task": "pretraining",
    "model": {"size": "tiny"},
    "data": {"train": "store"},
    "trainer": {"max_steps": 4},
}
ALLOWED = ["objects_here"]


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """A user's module in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "objects_here", raising=False)
    Path("objects_here.py").write_text(MODULE)
    yield
    sys.modules.pop("objects_here", None)


def loaded(callbacks, allowed=ALLOWED):
    return load_experiment([], (), {**VALUES, "callbacks": callbacks}, allowed).callbacks


@pytest.mark.parametrize("key", OBJECT_LISTS)
@pytest.mark.parametrize("class_path", ["objects_here.Counter", "objects_here.inner.Counter", "objects_here"])
def test_no_class_is_imported_without_consent(key, class_path, capsys):
    Path("own.yaml").write_text(yaml.safe_dump({**VALUES, key: [{"class_path": class_path}]}))
    assert main(["fit", "--config", "own.yaml"]) == 2
    assert not Path("imported").exists()
    assert f"{key}.0" in capsys.readouterr().err


@pytest.mark.parametrize("path", [*CHOICES, *PART_PATHS])
def test_no_section_imports_its_class_without_consent(path, capsys):
    section_path, key = split(path)
    values, section = copied(VALUES, section_path)
    section[key] = {"class_path": "objects_here.Counter"}
    Path("own.yaml").write_text(yaml.safe_dump(values))
    assert main(["fit", "--config", "own.yaml"]) == 2
    assert not Path("imported").exists()
    assert path in capsys.readouterr().err


@pytest.mark.parametrize("kind", [CALLBACK, LOGGER], ids=lambda kind: kind.word)
def test_no_argument_of_lightnings_classes_imports_a_module(kind):
    """Neither text nor keys in the place of any argument name something to import."""
    package = sys.modules[kind.package]
    for name in package.__all__:
        cls = getattr(package, name)
        for value in ("objects_here.Counter", {"class_path": "objects_here.Counter"}, ["objects_here.Counter"]):
            for parameter in inspect.signature(cls).parameters:
                with suppress(InputError):
                    typed_arguments(cls, {parameter: value}, "init_args", kind.given)
                read_objects([{"class_path": name, "init_args": {parameter: value}}], "list", kind, [], [])
    assert not Path("imported").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"evry": 1}, "unknown key 'callbacks.0.init_args.evry'; did you mean 'callbacks.0.init_args.every'"),
        ({"every": "often"}, "callbacks.0.init_args.every: expected int, got 'often'"),
        ({"every": 1.5}, "callbacks.0.init_args.every: expected int, got 1.5"),
        ({"mode": "mix"}, "callbacks.0.init_args.mode: expected one of min, max, got 'mix'"),
        ({"sizes": [1, "x"]}, "callbacks.0.init_args.sizes: expected list of int or null"),
        ({"color": "BLUE"}, "callbacks.0.init_args.color is 'BLUE'; known: RED"),
        ({"pair": {"left": 1, "rigth": 2}}, "unknown key 'callbacks.0.init_args.pair.rigth'; did you mean"),
        ({"function": "os.system"}, "callbacks.0.init_args.function is .* which a configuration cannot give"),
        ({"name": "${HOME_OF_NOBODY}"}, "callbacks.0.init_args.name uses .* not set"),
        ({"name": "${MY_TOKEN}"}, "callbacks.0.init_args.name uses .* looks like a secret"),
        ({"every": "x", "rate": "y"}, "init_args.every: .*; callbacks.0.init_args.rate: "),
        ([1], r"callbacks.0.init_args: keys and values are expected, got \[1\]"),
    ],
)
def test_arguments_are_checked_against_the_signature(arguments, message):
    with pytest.raises(InputError, match=message):
        loaded([{"class_path": "objects_here.Counter", "init_args": arguments}])


def test_arguments_have_the_types_of_the_signature(monkeypatch):
    monkeypatch.setenv("PLACE", "here")
    values = {"rate": 1, "words": ["1", "null"], "options": {"a": "1e-3"}, "color": "RED", "pair": {"left": 2}}
    values |= {"folder": "x", "name": "in ${PLACE} $${PLACE}", "sizes": [1, 2], "device": "cpu"}
    [settings] = loaded([{"class_path": "objects_here.Counter", "init_args": values}])
    assert settings.init_args == {**values, "name": "in here ${PLACE}"}
    cls = sys.modules["objects_here"].Counter
    typed = typed_arguments(cls, settings.init_args, "init_args")
    assert typed["folder"] == Path("x")
    assert (typed["color"].name, typed["pair"].left, typed["pair"].right) == ("RED", 2, 0.5)
    assert (typed["words"], typed["options"]) == (["1", "null"], {"a": "1e-3"})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("objects_here.Missing", "callbacks.0.class_path: objects_here has no Missing"),
        ("objects_here.Countr", "did you mean 'Counter'"),
        ("objects_here.Pair", "objects_here.Pair is no callback: it must be a subclass of lightning.pytorch"),
        ("LearningRateMonitr", "did you mean 'LearningRateMonitor'"),
        ("pytorch_lightning.callbacks.LearningRateMonitor", "write lightning.pytorch.callbacks.LearningRateMonitor"),
        ("nowhere.Counter", "which is not imported unless you say so: --allow-module nowhere"),
        ("objects_here.OwnCheckpoint", "objects_here.OwnCheckpoint is not used here: set checkpoint"),
        ({"init_args": {}}, "the key callbacks.0.class_path is missing"),
        ({"class_paht": "x"}, "unknown key 'callbacks.0.class_paht'; did you mean 'callbacks.0.class_path'"),
        ({"class_path": "objects_here.Needing"}, "the key callbacks.0.init_args.monitor is missing"),
        ({"class_path": "objects_here.Further"}, "the key callbacks.0.init_args.monitor is missing"),
        (3, "callbacks.0: a class_path is expected, got 3"),
    ],
)
def test_an_unusable_entry_is_one_message_that_names_the_key(entry, message):
    with pytest.raises(InputError, match=message) as caught:
        loaded([entry])
    assert "\n" not in str(caught.value)


def test_arguments_of_the_inherited_constructor_are_taken_through_kwargs():
    [settings] = loaded([{"class_path": "objects_here.Further", "init_args": {"monitor": "loss", "more": 2}}])
    assert settings.init_args == {"monitor": "loss", "more": 2}
    with pytest.raises(InputError, match=r"did you mean 'callbacks.0.init_args.monitor'"):
        loaded([{"class_path": "objects_here.Further", "init_args": {"monitr": "loss"}}])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise KeyError('lost')", r"raised KeyError while it was imported \(broken_here.py, line 1\): 'lost'"),
        ("import sys\nsys.exit(3)", r"raised SystemExit while it was imported \(broken_here.py, line 2\): 3"),
        ("import missing_package", r"raised ModuleNotFoundError .*: No module named 'missing_package'"),
        ("def f(:", "raised SyntaxError while it was imported"),
    ],
)
def test_a_module_that_raises_while_it_is_imported_is_one_message(text, message):
    Path("broken_here.py").write_text(text)
    for key, value in (("callbacks", [{"class_path": "broken_here.Counter"}]), ("modules", ["broken_here"])):
        with pytest.raises(InputError, match=rf"{key}.0.* cannot be imported: .*{message}"):
            load_experiment([], (), {**VALUES, key: value}, ["broken_here"])


def test_a_list_names_nothing_twice():
    with pytest.raises(InputError, match=r"callbacks.1 is .*LearningRateMonitor, which callbacks.0 is already"):
        loaded(["LearningRateMonitor", "lightning.pytorch.callbacks.LearningRateMonitor"], [])
    with pytest.raises(InputError, match=r"loggers.1 is csv, which loggers.0 is already"):
        load_experiment([], ["--loggers", "[csv, csv]"], VALUES)
    with pytest.raises(InputError, match=r"modules.1 is objects_here, which modules.0 is already"):
        load_experiment([], ["--modules", "[objects_here, objects_here]"], VALUES, ALLOWED)


@pytest.mark.parametrize("name", lightning.pytorch.callbacks.__all__)
def test_every_callback_of_lightning_is_accepted_or_refused_with_a_setting_to_use(name):
    refused = CALLBACK.refused.get(name)
    if refused is None:
        assert loaded([name], [])[0].class_path == f"lightning.pytorch.callbacks.{name}"
    else:
        with pytest.raises(InputError, match=rf"callbacks.0.class_path lightning.pytorch.callbacks.{name} "):
            loaded([name], [])


def test_defaults_change_no_identity_and_lists_come_back_from_a_saved_configuration():
    plain = load_experiment([], (), VALUES)
    values = {"callbacks": [], "loggers": ["wandb"], "modules": []}
    assert load_experiment([], (), VALUES | values).identity == plain.identity
    own = [{"class_path": "objects_here.Counter", "init_args": {"every": 2}}]
    chosen = load_experiment([], (), {**VALUES, "callbacks": own, "loggers": [{"name": "csv"}]}, ALLOWED)
    assert chosen.identity != plain.identity
    assert (chosen.to_dict()["callbacks"], chosen.to_dict()["loggers"]) == (own, ["csv"])
    assert load_experiment([], (), chosen.to_dict(), ALLOWED) == chosen
