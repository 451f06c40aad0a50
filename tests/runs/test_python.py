"""Training from Python: `fit`, `build`, `load_experiment` and the data sets of a program's own."""

import json
import logging
import math
import os
import pydoc
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import lightning
import pytest
import torch
import yaml
from lightning import Callback
from lightning.pytorch.loggers.logger import DummyLogger

import bert_lightning
from bert_lightning.checkpoints.native import load_native
from bert_lightning.cli import main
from bert_lightning.data.datasets.catalogue import STANDARD_SETS
from bert_lightning.errors import InputError, WorkError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.tasks import TextTaskData
from bert_lightning.training.signals import StoppedBySignal
from tests.support.runs import logged, weights
from tests.support.task_data import tiny_classification

NAMES = ("Experiment", "TaskSpec", "build", "fit", "load", "load_experiment", "register_dataset", "register_task")


@pytest.fixture
def values(tables, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return {**tiny_classification(tables, tokenizer, tmp_path), "optimizer": {"learning_rate": 1e-2}}


@pytest.fixture
def config(values, tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "tiny.yaml"


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_fit_leaves_what_the_command_leaves(config, values, capsys):
    run = bert_lightning.fit(config, {"optimizer.learning_rate": 0.02})
    assert run.directory.parent == Path("runs/tiny")
    assert (run.was_finished, run.experiment.optimizer.learning_rate) == (False, 0.02)
    capsys.readouterr()
    command = ["fit", "--config", str(config), "--optimizer.learning_rate", "0.02"]
    assert main(command) == 0
    assert f"finished before: {run.directory} " in capsys.readouterr().out
    assert main([*command, "--run-directory", "by-command"]) == 0
    by_command = Path("by-command")
    assert logged(run.directory) == logged(by_command)
    assert equal(weights(run.directory), weights(by_command))
    for name in ("config.yaml", "predictions/validation.jsonl", "predictions/validation/report.txt"):
        assert (run.directory / name).read_bytes() == (by_command / name).read_bytes()
    keys = [set(RunDirectory(each).read_manifest()) for each in (run.directory, by_command)]
    assert keys[0] == keys[1]


def test_values_files_and_an_experiment_are_the_same_experiment(config, values):
    experiment = bert_lightning.load_experiment(values)
    split = {"trainer": values.pop("trainer")}
    same = [
        bert_lightning.load_experiment(config),
        bert_lightning.load_experiment(str(config)),
        bert_lightning.load_experiment([config]),
        bert_lightning.load_experiment([values, split]),
        bert_lightning.load_experiment(values, {"trainer": split["trainer"]}),
        bert_lightning.load_experiment(values, {f"trainer.{key}": value for key, value in split["trainer"].items()}),
        bert_lightning.load_experiment(experiment),
        bert_lightning.load_experiment(experiment, {"trainer.max_steps": 2}),
        bert_lightning.load_experiment(
            {**values, **split, "data": {**values["data"], "train": Path(values["data"]["train"])}}
        ),
    ]
    assert all(each == experiment for each in same)
    assert {each.identity for each in same} == {experiment.identity}


def test_a_finished_run_is_returned_at_once_with_its_metrics(values, monkeypatch):
    first = bert_lightning.fit(values, run_directory="run")
    # `validate` adds rows to the same file, perhaps of other data.
    assert main(["validate", "--checkpoint", "run", "--data.max_evaluation_samples", "3"]) == 0
    monkeypatch.setattr(lightning.Trainer, "fit", None)
    again = bert_lightning.fit(values, run_directory="run")
    assert (first.was_finished, again.was_finished) == (False, True)
    assert first.metrics == again.metrics
    assert set(first.metrics) >= {"val/loss", "val/accuracy"}
    assert equal(first.task.state_dict(), again.task.state_dict())


def test_the_task_of_a_run_has_the_weights_after_the_last_step(values):
    run = bert_lightning.fit(values, {"trainer.max_steps": 4, "trainer.val_check_interval": 2}, run_directory="run")
    last = {name: tensor for name, tensor in weights(run.directory).items() if name.startswith("model.")}
    assert equal({name: t for name, t in run.task.state_dict().items() if name.startswith("model.")}, last)
    assert not run.task.training
    [prediction] = run.predict(["The old cat sees the young dog."])
    assert prediction["label"] in run.task.labels
    assert math.isclose(sum(prediction["probabilities"].values()), 1, abs_tol=1e-5)


def test_build_gives_the_weights_and_batches_that_fit_begins_with(values):
    seen = {}

    class Beginning(Callback):
        def on_train_start(self, trainer, task):
            seen["weights"] = {name: tensor.clone() for name, tensor in task.state_dict().items()}

        def on_train_batch_start(self, trainer, task, batch, number):
            seen.setdefault("ids", batch[0]["input_ids"])

    bert_lightning.fit(values, callbacks=[Beginning()], run_directory="run")
    task, data = bert_lightning.build(values)
    assert equal(task.state_dict(), seen["weights"])
    [batch] = data.training_batches(0, data.plan, 0, 1)
    assert torch.equal(batch["input_ids"], seen["ids"])
    assert data.plan.num_steps == 2
    assert not Path("runs").exists(), "building writes nothing"


class Counting(Callback):
    """Count batches, change the weights by that count, and raise at a step."""

    def __init__(self, raises_at=None):
        self.count, self.raises_at = 0, raises_at

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]

    def on_train_batch_end(self, trainer, task, outputs, batch, number):
        self.count += 1
        with torch.no_grad():
            next(iter(task.parameters())).add_(1e-3 * self.count)
        if self.count == self.raises_at:
            raise ArithmeticError("the callback's own")


class Kept(DummyLogger):
    """A logger that keeps what it gets."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))


def test_a_run_resumes_bit_for_bit_after_a_callback_raised(values):
    options = {"trainer.max_steps": 6, "checkpoint.every_n_steps": 2, "trainer.log_every_n_steps": 1}
    whole = bert_lightning.fit(values, options, callbacks=[Counting()], run_directory="whole")
    with pytest.raises(WorkError, match=r"Counting.* raised in on_train_batch_end: .*the callback's own") as raised:
        bert_lightning.fit(values, options, callbacks=[Counting(raises_at=5)], run_directory="run")
    assert isinstance(raised.value.__cause__.__cause__, ArithmeticError), "its traceback leads to the line"
    assert RunDirectory("run").read_manifest()["ended"] == "failed"
    resumed = bert_lightning.fit(values, options, callbacks=[Counting()], run_directory="run")
    assert RunDirectory("run").read_manifest()["sessions"][1]["resumed_from"].endswith("step-000000005.ckpt")
    assert resumed.metrics == whole.metrics
    assert logged(resumed.directory) == logged(whole.directory)
    assert equal(weights(resumed.directory), weights(whole.directory))
    [state] = [
        s
        for name, s in load_native(Path("run/checkpoints/last.ckpt").resolve())["callbacks"].items()
        if "Counting" in name
    ]
    assert state == {"count": 6}


def test_own_loggers_get_the_steps_of_the_optimiser_and_the_manifest_names_them(values):
    logger = Kept()
    options = {"trainer.max_steps": 4, "trainer.accumulate_grad_batches": 2, "trainer.log_every_n_steps": 1}
    run = bert_lightning.fit(values, options, callbacks=[Counting()], loggers=[logger])
    own = {step: metrics["train/loss"] for step, metrics in logger.rows if "train/loss" in metrics}
    assert own == {row["step"]: row["train/loss"] for row in logged(run.directory) if "train/loss" in row}
    assert list(own) == [1, 2, 3, 4]
    [session] = RunDirectory(run.directory).read_manifest()["sessions"]
    assert session["given_in_python"] == {"callbacks": [f"{__name__}.Counting"], "loggers": [f"{__name__}.Kept"]}


def test_a_run_cannot_be_reproduced_silently_without_its_callbacks(values, caplog):
    bert_lightning.fit(values, callbacks=[Counting()], run_directory="run")
    with caplog.at_level(logging.WARNING):
        assert main(["reproduce", "run"]) == 1
    assert f"was trained with {__name__}.Counting" in caplog.text


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (
            {"trainer": {"max_step": 2}},
            {},
            r"^values: unknown key 'trainer.max_step'; did you mean 'trainer.max_steps'",
        ),
        ({"trainer": {"max_steps": "x"}}, {}, r"^values: trainer.max_steps: expected int or null, got 'x'"),
        (
            {},
            {"overrides": {"data.batch_sise": 3}},
            r"^overrides: unknown key 'data.batch_sise'; did you mean 'data.batch_size'",
        ),
        ({}, {"overrides": {"data": 3}}, r"^overrides: data: keys and values are expected, got 3"),
        (
            {},
            {"overrides": {"data": 3, "data.batch_size": 3}},
            "data.batch_size: an override before it gave data itself",
        ),
        ({}, {"overrides": {3: 3}}, "overrides: a key is text such as 'trainer.max_steps', not 3"),
        ({}, {"overrides": "trainer.max_steps"}, "overrides are keys and values"),
        ({}, {"overrides": 3}, "overrides are keys and values"),
        ({}, {"callbacks": [3]}, "callbacks.0 is 3; it must be a lightning.Callback"),
        ({}, {"callbacks": [Callback]}, r"it must be a lightning.Callback, such as Callback\(\)"),
        ({}, {"callbacks": Callback()}, "callbacks: a list is expected"),
        ({}, {"loggers": [Callback()]}, "loggers.1 is .*; it must be a lightning.pytorch.loggers.Logger"),
        ({}, {"resume": "sometimes"}, "resume is sometimes; it must be auto, never or the path"),
        ({"trainer": {"accelerator": "cpu", "precision": "32", "max_steps": 1, "devices": 2}}, {}, None),
    ],
)
def test_bad_input_is_one_message_and_writes_nothing(values, monkeypatch, change, arguments, message):
    if message is None:
        monkeypatch.delattr(sys.modules["__main__"], "__file__")
        message = "trains in 2 processes, and Lightning starts this program again for each"
    with pytest.raises(InputError, match=message):
        bert_lightning.fit({**values, **change}, **arguments)
    assert not Path("runs").exists()


@pytest.mark.parametrize("wrong", [3, None, [3], b"tiny.yaml", {"tiny.yaml"}])
def test_only_files_and_values_are_experiments(wrong):
    with pytest.raises(InputError, match="an experiment is a file, nested keys, or a list of these, not"):
        bert_lightning.load_experiment(wrong)


def test_a_second_training_of_the_same_process_is_refused_while_one_runs(values):
    class Nested(Callback):
        def on_train_start(self, trainer, task):
            bert_lightning.fit(values, run_directory="inner")

    with pytest.raises(WorkError, match="a training is already running in this process"):
        bert_lightning.fit(values, callbacks=[Nested()], run_directory="outer")
    assert not Path("inner").exists()
    assert bert_lightning.fit(values, run_directory="outer").metrics, "the next one trains"


def test_a_process_that_was_started_for_another_training_trains_no_single_one(values, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(InputError, match="this process was started to train with others"):
        bert_lightning.fit(values)


def test_fit_trains_outside_the_main_thread(values):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    runs = []
    thread = threading.Thread(target=lambda: runs.append(bert_lightning.fit(values, run_directory="thread")))
    thread.start()
    thread.join()
    run = bert_lightning.fit(values, run_directory="main")
    assert runs[0].metrics == run.metrics
    assert {number: signal.getsignal(number) for number in handlers} == handlers


class Sending(Callback):
    """Send this process signals at the first step."""

    def __init__(self, *numbers):
        self.numbers = numbers

    def on_train_batch_start(self, trainer, task, batch, number):
        for each in self.numbers:
            os.kill(os.getpid(), each)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_with_a_checkpoint_and_the_same_call_continues(values, number):
    whole = bert_lightning.fit(values, run_directory="whole")
    before = signal.getsignal(number)
    with pytest.raises(StoppedBySignal):
        bert_lightning.fit(values, callbacks=[Sending(number)], run_directory="run")
    assert signal.getsignal(number) is before
    assert bert_lightning.fit(values, run_directory="run").metrics == whole.metrics


@pytest.fixture
def interruptible():
    """Ctrl-C raises, as in a program of the foreground; a shell ignores it in those of the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_is_a_keyboard_interrupt(values, interruptible):
    with pytest.raises(KeyboardInterrupt):
        bert_lightning.fit(values, callbacks=[Sending(signal.SIGINT, signal.SIGINT)], run_directory="run")
    assert RunDirectory("run").read_manifest()["ended"] == "interrupted"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_before_training_is_a_keyboard_interrupt(values, interruptible, monkeypatch):
    monkeypatch.setattr("bert_lightning.runs.fit.settle", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        bert_lightning.fit(values)


SCRIPT = """
import os, sys, json
import bert_lightning
values = json.loads(open("values.json").read())
for directory in (None, "second"):
    run = bert_lightning.fit(values, {"trainer.devices": 2, "seed_everything": 7}, run_directory=directory)
    print(os.environ.get("LOCAL_RANK", "0"), run.directory, json.dumps(run.metrics), flush=True)
"""


@pytest.mark.slow
def test_a_script_trains_twice_on_two_processes(values, tmp_path):
    (tmp_path / "values.json").write_text(json.dumps(values))
    (tmp_path / "train.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "train.py"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 2) for line in done.stdout.splitlines() if line[:2] in ("0 ", "1 ")]
    assert sorted((rank, Path(folder).parts[0]) for rank, folder, _ in lines) == [
        ("0", "runs"), ("0", "second"), ("1", "runs"), ("1", "second")
    ]  # fmt: skip
    assert len({metrics for *_, metrics in lines}) == 1
    [one] = Path("runs/tiny").iterdir()
    assert equal(weights(one), weights(Path("second")))


# -- data sets -------------------------------------------------------------------------------------------------------


@pytest.fixture
def register():
    before = dict(STANDARD_SETS)
    yield bert_lightning.register_dataset
    STANDARD_SETS.clear()
    STANDARD_SETS.update(before)


def texts(path):
    for line in Path(path).read_text().splitlines()[1:]:
        text, topic = line.split("\t")
        yield {"text": text, "label": topic}


def without_files(values):
    keys = ("train", "validation", "text_column", "label_column")
    return {**values, "data": {key: value for key, value in values["data"].items() if key not in keys}}


@pytest.mark.parametrize("form", ["functions", "files with a reader", "files"])
def test_a_registered_data_set_trains_as_its_files_do(values, register, form):
    files = {split: values["data"][split] for split in ("train", "validation")}
    own = without_files(values)
    if form == "functions":
        register("own", "text-classification", {s: lambda p=path: texts(p) for s, path in files.items()})
    elif form == "files":
        register("own", "text-classification", files)
        own["data"] |= {"text_column": "sentence", "label_column": "topic"}
    else:
        register("own", "text-classification", files, read=texts)
    own["data"]["dataset"] = "own"
    run = bert_lightning.fit(own, run_directory="own")
    assert run.metrics == bert_lightning.fit(values, run_directory="files").metrics
    # Prediction needs the checkpoint alone.
    STANDARD_SETS.pop("own")
    assert bert_lightning.load("own").predict(["The old cat."])[0]["label"] in run.task.labels


def test_the_properties_of_a_registered_data_set_count(values, register):
    def pairs():
        return [{"text": "The cat.", "text_pair": "The dog.", "label": number / 8} for number in range(16)]

    register(
        "own", "text-classification", {"train": pairs, "validation": pairs}, problem_type="regression", is_pair=True
    )
    own = without_files(values)
    own["data"]["dataset"] = "own"
    task, data = bert_lightning.build(own)
    assert (task.kind, task.line_columns) == ("regression", ["text", "text_pair"])
    assert data.splits["train"].examples[3].location == "own:train: example 4"
    bert_lightning.fit(own, run_directory="own")
    STANDARD_SETS.pop("own")
    assert isinstance(bert_lightning.load("own").predict([("The cat.", "The dog.")])[0]["score"], float)


def test_a_custom_task_predicts_from_both_texts_of_a_registered_data_set_of_pairs(register):
    register("pairs", "own-pairs", {"train": "train.tsv"}, is_pair=True)
    settings = type("OwnPairs", (TextTaskData,), {"task": "own-pairs"})(dataset="pairs")
    assert (settings.is_pair, settings.for_prediction().is_pair) == (True, True)


def test_a_name_is_registered_once(register):
    def train():
        return []

    register("own", "text-classification", {"train": train})
    register("own", "text-classification", {"train": train})
    for name, splits in (("own", {"train": "other.tsv"}), ("imdb", {"train": train})):
        with pytest.raises(ValueError, match=f"a data set is already called '{name}'"):
            register(name, "text-classification", splits)


def test_a_scheme_of_tags_that_a_data_set_cannot_have_is_refused(register):
    with pytest.raises(ValueError, match=r"^x: scheme is 'BIOES'; it must be 'none', or left out"):
        register("x", "token-classification", {"train": "a"}, scheme="BIOES")
    assert "x" not in STANDARD_SETS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "t", {"train": "a"}), "the name of a data set is ''"),
        (("x", "t", {}), "x: a data set needs a split"),
        (("x", "t", {"training": "a"}), "x: the split 'training' does not exist; did you mean 'train'"),
        (("x", "t", {"train": 3}), "x: the split train is a file, or a function that yields examples, not 3"),
        (("x", "t", {"train": "a", "test": list}), "so the files need `read`"),
    ],
)
def test_bad_arguments_of_a_data_set_are_named(register, arguments, message):
    with pytest.raises(ValueError, match=message):
        register(*arguments)
    assert "x" not in STANDARD_SETS


@pytest.mark.parametrize(
    ("examples", "keys", "message"),
    [
        ([{"text": "a", "lable": "b"}], {}, "own:train: example 1: unknown field 'lable'; did you mean 'label'"),
        ([{"label": "b"}], {}, "own:train: example 1: text missing; a LabelledText has location, text"),
        (["a"], {}, "own:train: example 1: a dictionary or a named tuple with a location is expected, not 'a'"),
        ([{"text": "a"}], {}, "own:train: example 1: label missing; a LabelledText has location, text"),
        ([], {}, "own:train: there are no examples in this source"),
        ([], {"train": "a.tsv"}, "a.tsv: the data set own has functions that yield its examples, and reads no file"),
        ([], {"folder": "a"}, "data.folder does nothing: functions yield the examples of own:train"),
        ([], {"text_column": "a"}, "text_column does nothing with data.dataset, whose columns are fixed"),
        ([], {"dataset": "owm"}, "no standard data set is called 'owm'; did you mean 'own'"),
    ],
)  # fmt: skip
def test_bad_examples_and_keys_of_a_registered_data_set_are_named(values, register, examples, keys, message):
    register("own", "text-classification", {"train": lambda: examples})
    own = without_files(values)
    own["data"] |= {"dataset": "own", **keys}
    with pytest.raises(InputError, match=message):
        bert_lightning.build(own)


def test_labels_that_are_numbers_are_taken_as_text(values, register):
    def numbered():
        return [{"text": "The cat.", "label": number % 2} for number in range(16)]

    register("own", "text-classification", {"train": numbered, "validation": numbered}, labels=[1, 0])
    own = without_files(values)
    own["data"]["dataset"] = "own"
    task, data = bert_lightning.build(own)
    assert task.labels == ["1", "0"]
    assert data.splits["train"].labels.tolist() == [1, 0] * 8


def returns_nothing():
    pass


def raises_within():
    yield {"text": "a", "label": "b"}
    raise KeyError("topic")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (returns_nothing, r"function returns_nothing of the split train \(test_python.py, line \d+\) returned None"),
        (raises_within, r"raises_within of the split train raised KeyError in test_python.py, line \d+: 'topic'"),
    ],
)
@pytest.mark.parametrize("reads", [False, True])
def test_a_function_of_a_data_set_that_fails_is_one_message(values, register, function, message, reads):
    own = without_files(values)
    if reads:
        register("own", "text-classification", {"train": "a.tsv"}, read=lambda path: function())
        message = message.partition("split train")[2].replace(r"\(test_python.py, line \d+\) ", ".*")
        message = f"data set own: the function .*<lambda> that reads a.tsv.*{message.strip()}"
    else:
        register("own", "text-classification", {"train": function})
    own["data"]["dataset"] = "own"
    with pytest.raises(InputError, match=message):
        bert_lightning.build(own)


def test_a_data_set_of_an_unknown_task_is_refused_with_the_nearest_one(values, register):
    register("own", "text-clasification", {"train": list})
    own = without_files(values)
    own["data"]["dataset"] = "own"
    with pytest.raises(InputError, match=r"of the task text-clasification; did you mean 'text-classification'\?"):
        bert_lightning.build(own)


# -- what `import bert_lightning` shows ------------------------------------------------------------------------------


def test_help_and_dir_show_every_public_name():
    text = pydoc.render_doc(bert_lightning, renderer=pydoc.plaintext)
    for name in NAMES:
        assert name in dir(bert_lightning)
        assert name in bert_lightning.__all__
        assert f"{name}(" in text, name
        assert getattr(bert_lightning, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        bert_lightning.fitt  # noqa: B018


ROOMS = ("tasks", "data", "metrics", "model", "optim")


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_export_names_that_exist(room):
    module = getattr(bert_lightning, room)
    assert [name for name in module.__all__ if name not in dir(module) or getattr(module, name, None) is None] == []


def test_importing_the_package_and_its_rooms_is_cheap():
    code = """
import sys
import bert_lightning, bert_lightning.tasks, bert_lightning.data, bert_lightning.metrics, bert_lightning.optim
dir(bert_lightning.tasks)
assert not {"torch", "lightning", "numpy"} & {*sys.modules}
"""
    subprocess.run([sys.executable, "-c", code], check=True)


TYPED = """
from pathlib import Path
import bert_lightning
from bert_lightning import tasks
run = bert_lightning.fit(Path("a.yaml"), {"trainer.max_steps": 3}, run_directory="x", callbacks=[])
reveal_type(run.metrics)
reveal_type(bert_lightning.build([{}, "a.yaml"])[0])
reveal_type(tasks.FineTuningTask.name)
bert_lightning.fitt
tasks.Nothing
"""


@pytest.mark.slow
def test_a_type_checker_knows_the_public_names(tmp_path):
    (tmp_path / "own.py").write_text(TYPED)
    # The settings and the cache of the project, without which this takes minutes.
    command = [sys.executable, "-m", "mypy", "--no-error-summary", str(tmp_path / "own.py")]
    root = Path(bert_lightning.__file__).parents[1]
    out = subprocess.run(command, cwd=root, capture_output=True, text=True).stdout
    own = [line for line in out.splitlines() if "own.py:" in line]
    assert [line.split(": ", 2)[2].replace('; maybe "fit"?', "") for line in own] == [
        'Revealed type is "dict[str, float]"',
        'Revealed type is "bert_lightning.tasks.task.Task"',
        'Revealed type is "str"',
        'Module has no attribute "fitt"  [attr-defined]',
        'Module has no attribute "Nothing"  [attr-defined]',
    ]


def test_the_code_of_the_page_about_python_runs_in_order(values, register, tables, tmp_path, capsys):
    page = (Path(bert_lightning.__file__).parents[1] / "docs/python.md").read_text()
    for split in ("train", "validation"):
        _, *rows = tables[split].read_text().splitlines(keepends=True)
        (tmp_path / f"{split}.tsv").write_text("text\tlabel\n" + "".join(rows))
    [experiment] = re.findall(r"^```yaml\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "topics.yaml").write_text(experiment)
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE):
        exec(compile(block, "python.md", "exec"), names)
    assert "overrides: unknown key 'trainer.max_step'; did you mean 'trainer.max_steps'?" in capsys.readouterr().out
    assert {path.name for path in Path("runs").iterdir()} == {"first", "moods", "seeds", "topics", "with-callback"}
