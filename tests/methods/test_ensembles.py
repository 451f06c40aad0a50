"""Several teachers that read examples in forms of their own, as in PET."""

import json

import numpy as np
import pytest
import torch
import yaml

from bert_lightning.checkpoints.native import load_native
from bert_lightning.cli import main
from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.errors import InputError
from bert_lightning.methods.distillation.ensemble import EnsembleLogits
from bert_lightning.runs.building import build
from bert_lightning.runs.predictor import load
from tests.support.methods import NO_DROPOUT, first_batch, maker
from tests.support.task_data import tiny_classification

PATTERNS = {"one": "{text} The {mask}.", "two": "{mask}: {text}"}
WORDS = {"animals": "cat", "nature": ["river", "tree"], "places": "house"}


@pytest.fixture(scope="module")
def values(tables, tokenizer, tmp_path_factory):
    """The values of a small classifier."""
    made = tiny_classification(tables, tokenizer, tmp_path_factory.mktemp("values"))
    made["data"] |= {"max_seq_length": 32, "examples_per_class": 8}
    return made


@pytest.fixture(scope="module")
def teachers(values, tmp_path_factory):
    """Two clozes with patterns of their own, and a classifier whose labels have another order: name -> run."""
    folder, runs = tmp_path_factory.mktemp("teachers"), {}
    for name in ("one", "two", "three"):
        own = {**values, "task": "text-classification" if name == "three" else "cloze", "data": {**values["data"]}}
        own["data"] |= (
            {"labels": ["places", "nature", "animals"]}
            if name == "three"
            else {"pattern": PATTERNS[name], "verbalizer": WORDS}
        )
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(own))
        options = ["--run-directory", str(folder / name), "--optimizer.learning_rate=1e-2"]
        assert main(["fit", "--config", str(folder / f"{name}.yaml"), *options]) == 0
        runs[name] = folder / name
    return runs


def named(teachers, *names):
    return [f"--distillation.teachers.{name}={teachers[name]}" for name in names]


def predicted(run, examples, labels):
    """Return the logarithms of the probabilities that a run predicts by itself, (n, L)."""
    rows = load(run, "cpu").predict([{"sentence": each.text} for each in examples])
    return torch.tensor([[row["probabilities"][label] for label in labels] for row in rows]).log()


@pytest.mark.parametrize("names", [("one",), ("three",), ("one", "two", "three")])
def test_the_logits_are_the_mean_of_what_each_teacher_says_by_itself(values, teachers, names):
    student = build(maker(values)("--distillation.alpha=1", *named(teachers, *names)), None)
    examples = student.data.splits["train"].examples
    mean = student.task.step_method.losses.cache
    expected = [predicted(teachers[name], examples, student.task.labels) for name in names]
    found = mean.logits(torch.device("cpu"))
    if len(names) == 1:
        # An ensemble of one is its teacher, so its probabilities are the predicted ones.
        torch.testing.assert_close(found.softmax(1), expected[0].exp(), rtol=0, atol=2e-6)
    own = [
        each.logits(torch.device("cpu"))
        for each in (EnsembleLogits([t], mean.labels, mean.split) for t in mean.teachers)
    ]
    torch.testing.assert_close(found, torch.stack(own).mean(0), rtol=0, atol=1e-6)
    for mine, theirs in zip(own, expected, strict=True):
        torch.testing.assert_close(mine.log_softmax(1), theirs, rtol=0, atol=1e-3)


def test_an_ensemble_of_one_pattern_is_that_pattern_bit_for_bit(values, teachers):
    task = load(teachers["one"], "cpu").task
    examples = [LabelledText("", text, None, None, "") for text in ("The old cat.", "The red house sees.")]
    split = task.encode(examples)
    alone = torch.from_numpy(np.stack(task.outputs_for(split, 32)))
    assert torch.equal(EnsembleLogits([task], task.labels, split).logits(torch.device("cpu")), alone)


def test_the_loss_is_the_divergence_from_the_mean_with_the_temperature_of_both(values, teachers):
    options = ["--distillation.alpha=1", "--distillation.temperature=3", *named(teachers, "one", "two"), *NO_DROPOUT]
    task, batch = first_batch(maker(values)(*options))
    method = task.step_method
    assert list(method.loss_factors) == [0.0, 1.0]
    mean = method.losses.cache.logits(torch.device("cpu"))[batch["numbers"]] / 3
    with torch.no_grad():
        sums, mine = method.losses.sums(batch), task.compute(batch) / 3
    expected = 9 * (mean.softmax(1) * (mean.log_softmax(1) - mine.log_softmax(1))).sum()
    torch.testing.assert_close(sums[1], expected, rtol=1e-4, atol=1e-6)


def test_a_student_of_several_teachers_resumes_bit_for_bit_however_the_batch_is_cut(values, teachers, tmp_path):
    own = {**values, "checkpoint": {"every_n_steps": 1, "keep_last": 9}}
    own["trainer"] = {**values["trainer"], "max_steps": 4}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(own))
    command = [
        "fit",
        "--config",
        str(tmp_path / "e.yaml"),
        "--distillation.alpha=1",
        *named(teachers, "one", "three"),
    ]

    def weights(name, *options):
        assert main([*command, *options, "--run-directory", str(tmp_path / name)]) == 0
        states = load_native((tmp_path / name / "checkpoints/last.ckpt").resolve())["state_dict"]
        return torch.cat([states[key].flatten() for key in sorted(states)])

    whole = weights("whole")
    assert torch.equal(whole, weights("resumed", "--resume", str(tmp_path / "whole/checkpoints/step-000000002.ckpt")))
    cut = ["--trainer.accumulate_grad_batches=2"]
    torch.testing.assert_close(weights("a", *NO_DROPOUT), weights("b", *NO_DROPOUT, *cut), rtol=1e-4, atol=2e-6)
    manifest = json.loads((tmp_path / "whole/manifest.json").read_text())
    assert {"teacher one", "teacher three"} <= manifest["data"].keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--distillation.teachers.x=nowhere"], r"^distillation\.teachers\.x: .*nowhere"),
        (
            ["--distillation.teachers.one={one}", "--distillation.teacher={one}"],
            "teacher or teachers must be set, and",
        ),
        (["--distillation.alpha=1"], "distillation.teacher or teachers must be set"),
        (["--distillation.teachers.one={one}", "--distillation.hidden={layers: uniform}"], "hidden compares inner"),
        (["--distillation.teachers.one={one}", "--distillation.cache=x"], "cache keeps the logits of one teacher"),
        (["--distillation.teachers.one={one}", "--distillation.alpha=0"], "teachers have no effect with alpha 0"),
        (
            ["--distillation.teachers.one={one}", "--data.labels=[animals, nature, places, other]"],
            r"distillation\.teachers\.one .* cannot teach this student: its labels are animals, nature, places, not",
        ),
    ],
)
def test_teachers_that_cannot_teach_are_refused_with_their_key(values, teachers, options, message):
    with pytest.raises(InputError, match=message):
        build(maker(values)(*(each.replace("{one}", str(teachers["one"])) for each in options)), None)
