"""Runs of a sequence of tasks with every method of continual learning."""

import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import bert_lightning
from bert_lightning.checkpoints.digests import weights_digest
from bert_lightning.cli import main
from bert_lightning.config.experiment import load_experiment
from bert_lightning.methods.continual import CONTINUAL_METHODS, ContinualMethod
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.python import recorded_metrics
from tests.support.methods import NO_DROPOUT
from tests.support.runs import logged, weights
from tests.support.sequences import TASKS, after, fit_task, values_of, write_tasks
from tests.test_strategies import bitwise, difference

OPTIONS = {
    "none": [],
    "replay": ["--continual.size=20"],
    "ewc": ["--continual.strength=50", "--continual.samples=20"],
    "l2-sp": ["--continual.alpha=0.5"],
    "lwf": ["--continual.weight=2"],
}
WITHOUT_STRENGTH = {
    "ewc": ["--continual.strength=0"],
    "l2-sp": ["--continual.alpha=0", "--continual.beta=0"],
    "lwf": ["--continual.weight=0"],
}


def named(method: str) -> list[str]:
    """Return the options of a method."""
    return [f"--continual.name={method}", *OPTIONS[method]]


def test_these_tests_are_of_every_method():
    assert OPTIONS.keys() == CONTINUAL_METHODS.keys()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sequence")


@pytest.fixture(scope="module")
def data(folder, tokenizer):
    return write_tasks(folder, tokenizer)


@pytest.fixture(scope="module")
def fit(folder, data):
    """A function that trains a task in a directory, and returns it."""

    def train(task, run, *options):
        assert fit_task(folder, task, data, run, *options) == 0
        return run

    return train


@pytest.fixture(scope="module")
def firsts(fit, folder):
    """A function from a method to a finished run of the first task with it."""
    known = {}

    def first(method="ewc"):
        if method not in known:
            known[method] = fit("topics", folder / f"first-{method}", *named(method))
        return known[method]

    return first


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name != "ewc")) for name in OPTIONS])
def method(request):
    """Each method in turn."""
    return request.param


def test_a_run_in_the_middle_of_a_sequence_resumes_bit_for_bit(fit, firsts, method, tmp_path):
    first = firsts("ewc" if method == "ewc" else "none")
    options = [*named(method), *after(first), "--trainer.log_every_n_steps=4"]
    whole = fit("sizes", tmp_path / "whole", *options)
    point = whole / "checkpoints/step-000000002.ckpt"
    resumed = fit("sizes", tmp_path / "resumed", *options, "--resume", point)
    assert bitwise(weights(whole), weights(resumed))
    assert logged(whole)[-1] == logged(resumed)[-1]
    for name in ("sequence.json", "information.safetensors"):
        assert (whole / name).exists() == (method == "ewc" or name == "sequence.json")
        if (whole / name).exists():
            assert (whole / name).read_bytes() == (resumed / name).read_bytes()


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[pytest.mark.slow] * (name != "ewc")) for name in WITHOUT_STRENGTH]
)
def test_without_strength_a_method_is_plain_fine_tuning_bit_for_bit(fit, firsts, method, tmp_path):
    first = firsts("ewc")
    plain = fit("sizes", tmp_path / "plain", *after(first))
    other = fit("sizes", tmp_path / "other", *named(method), *WITHOUT_STRENGTH[method], *after(first))
    assert bitwise(weights(plain), weights(other))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ewc", "l2-sp", "lwf"])
def test_a_method_keeps_the_weights_or_outputs_nearer_to_those_before(fit, method, tmp_path):
    # A narrow model learns only with larger weights at the start than BERT has.
    lengths = ["--trainer.max_steps=30", "--checkpoint.every_n_steps=30", "--optimizer.learning_rate=1e-2"]
    wide = ["--model.config.initializer_range=0.2", *lengths]
    first = fit("topics", tmp_path / "first", *named("ewc"), *wide, *NO_DROPOUT)
    shared = [*after(first), *NO_DROPOUT, *lengths]
    plain = fit("sizes", tmp_path / "plain", *shared)
    options = {
        "ewc": ["--continual.strength=1e6"],
        "l2-sp": ["--continual.alpha=50"],
        "lwf": ["--continual.weight=50"],
    }
    other = fit("sizes", tmp_path / "other", *named(method), *options[method], *shared)
    texts = [line.split("\t")[0] for line in Path(table_of(first)).read_text(encoding="utf-8").splitlines()[1:]]

    def outputs(run):
        rows = bert_lightning.load(run).predict(texts)
        found = np.array([list(row["probabilities"].values())[:3] for row in rows])
        return found / found.sum(1, keepdims=True)

    before = outputs(first)
    kept, forgotten = (np.abs(outputs(run) - before).mean() for run in (other, plain))
    assert kept < 0.7 * forgotten


def table_of(run):
    return RunDirectory(run).read_config()["data"]["validation"]


def test_a_finished_run_of_a_sequence_has_the_scores_of_its_validation_and_of_its_tasks(firsts):
    metrics = recorded_metrics(RunDirectory(firsts()))
    assert metrics["val/accuracy"] == metrics["val/topics/accuracy"]
    assert {"val/loss", "val/sizes/accuracy"} <= metrics.keys()


def test_a_session_killed_after_the_scores_of_a_sequence_does_not_write_them_twice(fit, firsts):
    run = firsts()
    RunDirectory(run).update_manifest(ended=None)
    fit("topics", run, *named("ewc"))
    assert RunDirectory(run).read_manifest()["ended"] == "finished"
    assert len([row for row in logged(run) if "val/topics/accuracy" in row]) == 1


@pytest.mark.slow
def test_learning_without_forgetting_begins_with_the_outputs_before(fit, firsts, tmp_path):
    run = fit("sizes", tmp_path / "run", *named("lwf"), *after(firsts("none")), *NO_DROPOUT)
    losses = [row["train/remembered_loss"] for row in logged(run) if "train/remembered_loss" in row]
    assert losses[0] == 0
    assert losses[-1] > 0


@pytest.mark.parametrize("task", ["sizes", pytest.param("pairs", marks=pytest.mark.slow)])
def test_a_buffer_of_all_examples_is_joint_training(fit, firsts, data, task, folder, tmp_path):
    options = ["--sequence.labels=shared", "--model.pretrained", firsts("none")]
    replayed = fit(task, tmp_path / "replayed", "--continual.name=replay", "--continual.size=all", *options)
    earlier = TASKS[: TASKS.index(task)]
    rows = [row for name in (task, *earlier) for row in _rows(data[name]["train"])]
    joint = tmp_path / "joint.jsonl"
    joint.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if task == "pairs":
        # A table has a second text in every row or in none, so the split as a whole is compared.
        lengths = _training_lengths(replayed)
        assert len(lengths) == len(rows)
        assert lengths[: len(_rows(data[task]["train"]))].min() > 5
        return
    plain = fit(task, tmp_path / "plain", f"--data.train={joint}", *options)
    assert bitwise(weights(replayed), weights(plain))


def _rows(table):
    header, *lines = (line.split("\t") for line in Path(table).read_text(encoding="utf-8").splitlines())
    return [dict(zip(header, line, strict=True)) for line in lines]


def _training_lengths(run):
    from bert_lightning.runs.building import build_training
    from bert_lightning.runs.starting_point import start_checkpoint

    experiment = RunDirectory(run).read_experiment()
    return build_training(experiment, start_checkpoint(experiment.model)).data.splits["train"].lengths


@pytest.mark.slow
def test_single_texts_among_pairs_have_no_second_separator_and_pairs_among_single_texts_have_one(
    fit, firsts, tokenizer, tmp_path
):
    from bert_lightning.runs.building import build_training
    from bert_lightning.runs.starting_point import start_checkpoint

    run = fit(
        "pairs",
        tmp_path / "run",
        "--continual.name=replay",
        "--continual.size=all",
        "--model.pretrained",
        firsts("none"),
    )
    experiment = RunDirectory(run).read_experiment()
    split = build_training(experiment, start_checkpoint(experiment.model)).data.splits["train"]
    batch = split.batch(np.arange(len(split.lengths)))
    separators = (batch["input_ids"] == tokenizer.sep_id).sum(1)
    own = torch.tensor([example.text_pair is not None for example in split.examples])
    assert own.sum() == 48
    assert torch.equal(separators, torch.where(own, 2, 1))
    assert torch.equal(batch["token_type_ids"].any(1), own)


def test_the_scores_are_those_that_predictions_give_with_and_without_the_task(fit, firsts, data, tmp_path):
    run = fit("sizes", tmp_path / "run", *after(firsts("none")))
    found = json.loads((run / "sequence.json").read_text())["scores"]
    model = bert_lightning.load(run)
    for task in ("topics", "sizes"):
        rows = _rows(data[task]["validation"])
        predictions = model.predict([row["text"] for row in rows])
        right = known = 0
        for row, prediction in zip(rows, predictions, strict=True):
            gold, probabilities = f"{task}:{row['label']}", prediction["probabilities"]
            own = {label: p for label, p in probabilities.items() if label.startswith(f"{task}:")}
            right += max(probabilities, key=probabilities.get) == gold
            known += max(own, key=own.get) == gold
        assert found[task]["accuracy"] == pytest.approx(right / len(rows), abs=1e-9)
        assert found[task]["known_task_accuracy"] == pytest.approx(known / len(rows), abs=1e-9)
    last = logged(run)[-1]
    assert last["val/sizes/accuracy"] == found["sizes"]["accuracy"]
    assert (
        next(row["val/accuracy"] for row in reversed(logged(run)) if "val/accuracy" in row)
        == last["val/sizes/accuracy"]
    )


@pytest.mark.slow
def test_only_the_first_run_scores_the_untrained_model(firsts, fit, tmp_path):
    assert set(json.loads((firsts("none") / "sequence.json").read_text())["untrained"]) == {*TASKS}
    run = fit("sizes", tmp_path / "run", *after(firsts("none")))
    assert json.loads((run / "sequence.json").read_text())["untrained"] is None


@pytest.mark.slow
def test_a_model_per_task_keeps_the_scores_of_the_runs_before(fit, tmp_path):
    options = ["--sequence.models=per-task"]
    first = fit("topics", tmp_path / "first", *options)
    second = fit("sizes", tmp_path / "second", *options, f"--sequence.previous={first}")
    before, now = (json.loads((run / "sequence.json").read_text())["scores"] for run in (first, second))
    assert list(before) == ["topics"]
    assert list(now) == ["topics", "sizes"]
    assert now["topics"] == before["topics"]


@pytest.mark.slow
def test_a_damaged_or_missing_file_of_scores_is_computed_again(fit, firsts, tmp_path, capsys):
    run = fit("sizes", tmp_path / "run", *after(firsts("none")))
    scores = (run / "sequence.json").read_bytes()
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "ended": None}))
    (run / "sequence.json").unlink()
    fit("sizes", run, *after(firsts("none")))
    assert (run / "sequence.json").read_bytes() == scores


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_it_trains_in_bfloat16(fit, firsts, method, precision, tmp_path):
    option = f"--trainer.precision={precision}"
    first = fit("topics", tmp_path / "first", *named(method), option, "--trainer.max_steps=2")
    run = fit("sizes", tmp_path / "run", *named(method), *after(first), option, "--trainer.max_steps=2")
    assert all(tensor.isfinite().all() for tensor in weights(run).values())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ewc", "lwf", "l2-sp"])
def test_micro_batches_change_nothing(fit, firsts, method, tmp_path):
    options = [*named(method), *after(firsts("ewc")), *NO_DROPOUT]
    one = fit("sizes", tmp_path / "one", *options)
    four = fit("sizes", tmp_path / "four", *options, "--trainer.accumulate_grad_batches=4")
    assert difference(weights(one), weights(four)) <= 5e-5


@pytest.mark.slow
def test_a_penalty_is_logged(fit, firsts, tmp_path):
    run = fit("sizes", tmp_path / "run", *named("ewc"), *after(firsts("ewc")))
    values = [row["train/penalty"] for row in logged(run) if "train/penalty" in row]
    assert len(values) == 4
    assert 0 < values[0] < values[-1]


# -- refusals ----------------------------------------------------------------------------------------------------


REFUSED = [
    (["--continual.name=ewcc"], "continual.name is 'ewcc'; did you mean 'ewc'?"),
    (["--continual.temperature=2"], "unknown key 'continual.temperature': it is a key of continual.name lwf"),
    (["--sequence.task=size"], "sequence.task is 'size'; did you mean 'sizes'?"),
    (["--sequence.task=topics", "--sequence.previous=x"], "topics is the first task, which continues no other"),
    (["--sequence.previous=nowhere"], "sequence.previous is nowhere, which is not a run directory"),
    (["--continual.name=lwf"], "sequence.previous is not set: continual.name lwf needs the run of the task topics"),
    (["--sequence.models=per-task"], "sequence.previous is not set: sequence.models per-task needs the run"),
    (
        ["--sequence.models=per-task", "--continual.name=ewc"],
        "sequence.models is per-task, but continual.name ewc keeps one model as it was after earlier tasks",
    ),
    (
        ["--sequence=null", "--continual.name=l2-sp"],
        "continual.alpha pulls the weights to those of a checkpoint, but",
    ),
    (
        ["--continual.name=replay", "--continual.size=97"],
        "continual.size is 97, but the tasks before the last one have 96",
    ),
    (
        ["--sequence.tasks=[{name: topics, data: {trian: x}}, {name: sizes}]"],
        "unknown key 'sequence.tasks.0.data.trian'",
    ),
    (
        ["--sequence.tasks=[{name: topics, data: {train: x}}, {name: sizes}]"],
        "sequence.tasks: topics has no data.validation, on which every run is scored",
    ),
    (["--sequence.tasks=[{name: sizes}, {name: sizes}]"], "sequence.tasks has 'sizes' twice"),
    (["--sequence=null", "--continual.name=replay"], "continual.name replay does nothing without sequence"),
]


@pytest.mark.parametrize(
    ("options", "message"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_settings_are_refused_with_one_message(folder, data, options, message, tmp_path, capsys):
    assert fit_task(folder, "sizes", data, tmp_path / "run", *options) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_not_of_the_task_before_is_refused(folder, data, fit, firsts, tmp_path, capsys):
    first = firsts("none")
    assert fit_task(folder, "pairs", data, tmp_path / "run", *after(first)) == 2
    assert "whose task is topics, but the task before pairs is sizes" in capsys.readouterr().err
    assert fit_task(folder, "sizes", data, tmp_path / "run", "--continual.name=ewc", *after(first)) == 2
    assert (
        "has no information.safetensors: the run of the task before must be trained with" in capsys.readouterr().err
    )


def test_ewc_with_parameters_that_did_not_train_before_is_refused(folder, data, fit, tmp_path, capsys):
    options = [*named("ewc"), *after(fit("topics", tmp_path / "first", *named("ewc"), "--tuning.name=bitfit"))]
    assert fit_task(folder, "sizes", data, tmp_path / "run", *options) == 2
    assert "continual.name is ewc, but the run before has no Fisher information of" in capsys.readouterr().err


@pytest.mark.parametrize("tuning", ["lora", "ia3"])
def test_ewc_with_parameters_that_begin_anew_in_each_task_is_refused(folder, data, firsts, tuning, tmp_path, capsys):
    # The next task merges them into the weights, and begins with others of the same names and shapes.
    options = [*named("ewc"), f"--tuning.name={tuning}", "--model.pretrained", firsts("none")]
    assert fit_task(folder, "topics", data, tmp_path / "first", *options) == 2
    assert "the tuning adds parameters, such as" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.reinitialize_layers=1"], "begins with new values, so it cannot be held where the run before"),
        (["--model.pretrained={other}"], "but the training starts from {other}"),
    ],
)
def test_ewc_holds_only_what_continues_the_run_before(folder, data, fit, firsts, options, message, tmp_path, capsys):
    other = fit("topics", tmp_path / "other", "--seed_everything=2")
    given = [*named("ewc"), *after(firsts("ewc")), *(each.format(other=other) for each in options)]
    assert fit_task(folder, "sizes", data, tmp_path / "run", *given) == 2
    assert message.format(other=other) in capsys.readouterr().err


def test_ewc_continues_a_tuning_that_adds_nothing(fit, firsts, tmp_path):
    options = [*named("ewc"), "--tuning.name=bitfit"]
    first = fit("topics", tmp_path / "first", *options, "--model.pretrained", firsts("none"))
    run = fit("sizes", tmp_path / "run", *options, *after(first))
    values = [row["train/penalty"] for row in logged(run) if "train/penalty" in row]
    assert values[-1] > 0


def test_a_model_per_task_needs_the_scores_of_the_run_before(folder, data, fit, tmp_path, capsys):
    first = fit("topics", tmp_path / "first", "--sequence.models=per-task")
    (first / "sequence.json").unlink()
    options = ["--sequence.models=per-task", f"--sequence.previous={first}"]
    assert fit_task(folder, "sizes", data, tmp_path / "run", *options) == 2
    assert "has no sequence.json: its training has not ended" in capsys.readouterr().err


@dataclass(frozen=True)
class Own(ContinualMethod):
    """A method of a user: it replays the first example of each task, and keeps a number for the next run."""

    number: float = 1.0

    def replayed(self, num_examples, names, seed, num_own):
        return [[0] for _ in names]

    def information(self, end):
        [sample] = end.samples(1)
        assert len(sample["input_ids"]) == 1
        before = end.before["number"] if end.before is not None else torch.zeros(1)
        return {"number": before + self.number}

    def penalty(self, start):
        assert start.information is None or start.information["number"] == 1
        return


@dataclass(frozen=True)
class Beyond(ContinualMethod):
    """A method of a user with a mistake: it replays an example that does not exist, or lists of no task."""

    number: int = 48

    def replayed(self, num_examples, names, seed, num_own):
        return [[self.number] for _ in names] if self.number else []


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (48, "Beyond.replayed returned the number 48 for topics, which has 48 training examples, numbered from 0"),
        (0, "Beyond.replayed returned 0 lists for 1 earlier task: it needs one list for each"),
    ],
)
def test_examples_that_do_not_exist_cannot_be_replayed(folder, data, firsts, number, message, tmp_path, capsys):
    options = [f"--continual.class_path={__name__}.Beyond", f"--continual.init_args.number={number}"]
    options += ["--allow-module", __name__, *after(firsts("none"))]
    assert fit_task(folder, "sizes", data, tmp_path / "run", *options) == 2
    assert message in capsys.readouterr().err


def test_a_method_of_ones_own_does_what_it_overrides(fit, tmp_path, capsys):
    options = [f"--continual.class_path={__name__}.Own", "--allow-module", __name__]
    first = fit("topics", tmp_path / "first", *options)
    assert load_file(first / "information.safetensors")["number"] == 1
    second = fit("sizes", tmp_path / "second", *options, *after(first))
    assert load_file(second / "information.safetensors")["number"] == 2
    # Its own 48 samples and a replayed one.
    assert "49 training samples" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sequence_that_waits_for_itself_is_refused(folder, data, fit, firsts, tmp_path, capsys):
    run = fit("sizes", tmp_path / "run", *after(firsts("none")))
    assert fit_task(folder, "sizes", data, run, "--model.pretrained", firsts("none"), "--sequence.previous", run) == 2
    assert "the run itself: it would wait for itself" in capsys.readouterr().err


def test_information_of_other_weights_is_refused(folder, data, firsts, tmp_path, capsys):
    run = shutil.copytree(firsts(), tmp_path / "run", symlinks=True)
    tensors = load_file(run / "information.safetensors")
    save_file(tensors, run / "information.safetensors", {"digest": weights_digest(tensors), "weights": "0" * 64})
    assert fit_task(folder, "sizes", data, tmp_path / "next", *named("ewc"), *after(run)) == 2
    assert "information.safetensors was made of other weights than those of" in capsys.readouterr().err


def test_two_models_to_imitate_are_refused_with_the_first_task(folder, data, firsts, tmp_path, capsys):
    options = [*named("lwf"), f"--distillation.teacher={firsts()}"]
    assert fit_task(folder, "topics", data, tmp_path / "run", *options) == 2
    assert "continual.name lwf and distillation both train on the predictions of another" in capsys.readouterr().err


def test_a_few_shot_sequence_may_take_its_validation_from_the_training_file(data):
    few = {**data["topics"], "examples_per_class": 2, "validation_per_class": 2, "validation": None}
    tasks = [{"name": name, "data": few} for name in ("one", "two")]
    values = {**values_of("topics", {"topics": few}), "sequence": {"task": "one", "tasks": tasks}}
    assert load_experiment([], [], values).sequence.names == ["one", "two"]


@pytest.mark.slow
def test_damaged_information_is_refused(folder, data, fit, tmp_path, capsys):
    first = fit("topics", tmp_path / "first", *named("ewc"))
    file = first / "information.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert fit_task(folder, "sizes", data, tmp_path / "run", *named("ewc"), *after(first)) == 2
    assert "information.safetensors: damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_a_resume_with_another_run_before_is_refused(folder, data, fit, firsts, tmp_path, capsys):
    run = fit("sizes", tmp_path / "run", *named("lwf"), *after(firsts("none")))
    other = fit("topics", tmp_path / "other", "--seed_everything=2")
    options = [*named("lwf"), "--model.pretrained", firsts("none"), "--sequence.previous", other]
    assert fit_task(folder, "sizes", data, run, *options) == 2
    assert "the run of the previous task changed since" in capsys.readouterr().err


def test_lwf_and_distillation_together_are_refused(folder, data, firsts, tmp_path, capsys):
    first = firsts("none")
    options = [*named("lwf"), *after(first), f"--distillation.teacher={first}"]
    assert fit_task(folder, "sizes", data, tmp_path / "run", *options) == 2
    assert "continual.name lwf and distillation both train on the predictions of another" in capsys.readouterr().err


def test_pretraining_in_a_sequence_is_refused_and_names_what_mixes_text(store, tmp_path, capsys):
    values = {
        "experiment": "e",
        "task": "pretraining",
        "model": {"size": "tiny"},
        "data": {"train": str(store)},
        "trainer": {"max_steps": 1},
        "sequence": {"task": "a", "tasks": [{"name": "a"}]},
    }
    with pytest.raises(
        bert_lightning.errors.InputError, match="sequence is for labelled tasks, not for pretraining: mix"
    ):
        bert_lightning.fit(values, run_directory=tmp_path / "run")


# -- together with other methods ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "other"),
    # EWC refuses the new parameters of LoRA.
    [("ewc", "fgm"), *itertools.product(["replay", "l2-sp", "lwf"], ["lora", "fgm"])],
)
def test_methods_combine_with_tuning_and_adversarial_training(fit, firsts, method, other, tmp_path):
    options = {"lora": ["--tuning.name=lora", "--tuning.rank=2"], "fgm": ["--adversarial.name=fgm"]}[other]
    run = fit("sizes", tmp_path / "run", *named(method), *options, *after(firsts("ewc")))
    third = fit("pairs", tmp_path / "third", *named(method), *options, *after(run))
    assert all(tensor.isfinite().all() for tensor in weights(third).values())


@pytest.mark.slow
def test_validate_scores_a_run_of_a_sequence_as_it_scored_itself(fit, firsts, tmp_path, capsys):
    run = fit("sizes", tmp_path / "run", *after(firsts("none")))
    expected = json.loads((run / "sequence.json").read_text())["scores"]["sizes"]["accuracy"]
    assert main(["validate", "--checkpoint", str(run)]) == 0
    assert logged(run)[-1]["val/accuracy"] == pytest.approx(expected, abs=1e-9)
