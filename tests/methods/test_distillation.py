"""Distillation on every task: exact properties, and teachers that cannot teach."""

import json

import pytest
import torch
import yaml

from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.cli import main
from bert_lightning.errors import InputError
from bert_lightning.methods.distillation import DistillationSettings, DistilledLosses
from bert_lightning.runs.building import build_training
from bert_lightning.tasks.distributions import divergence
from bert_lightning.tasks.step_method import PlainStep
from tests.support.methods import LARGER, NO_DROPOUT, experiment_of, first_batch, gradients, maker, same, train


@pytest.fixture
def taught(task, make, teachers):
    """A function from overrides to a student with a teacher, and its first batch."""
    teacher = f"--distillation.teacher={teachers(task)}"
    return lambda *overrides: first_batch(make(teacher, *overrides))


def distilled(student) -> DistilledLosses:
    return student.step_method.losses


def test_the_losses_are_those_of_the_labels_and_of_the_teacher(taught):
    student, batch = taught("--distillation.alpha=0.25", *NO_DROPOUT)
    method, number = student.step_method, student.num_losses
    assert method.num_losses == 2 * number
    assert method.loss_factors == [0.75] * number + [0.25] * number
    assert [name.startswith("distillation_") for name in method.loss_names[: 2 * number]] == [False] * number + [
        True
    ] * number
    assert "loss" not in method.loss_names
    sums, counts, plain = distilled(student).sums(batch), method.counts(batch), student.sums(batch)
    assert len(sums) == len(counts) == len(method.loss_names)
    labels = [*range(number), *range(2 * number, len(sums))]
    torch.testing.assert_close(sums[labels], plain, rtol=1e-5, atol=1e-6)
    assert counts[labels].tolist() == student.counts(batch).tolist()
    teacher, batch_counts = distilled(student).teacher, student.distribution_counts(batch)
    expected = [
        divergence(mine, theirs, 2.0)
        for mine, theirs in zip(*(t.distributions(t.compute(batch), batch) for t in (student, teacher)), strict=True)
    ]
    torch.testing.assert_close(sums[number : 2 * number], torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert counts[number : 2 * number].tolist() == batch_counts.tolist()


def test_the_gradient_is_the_weighted_sum_of_both(taught):
    student, batch = taught("--distillation.alpha=0.25", *NO_DROPOUT)
    student.model.double()
    parts = [
        gradients(student, batch, method=PlainStep(DistilledLosses(student, distilled(student).teacher, settings)))
        for settings in (DistillationSettings("x", alpha=0.0), DistillationSettings("x", alpha=1.0))
    ]
    plain = gradients(student, batch, method=PlainStep(student))
    together = gradients(student, batch)
    for found, labels, teacher, expected in zip(together, *parts, plain, strict=True):
        # Logits are in float32, and so is the difference of two probabilities in the gradient.
        torch.testing.assert_close(found, 0.75 * labels + 0.25 * teacher, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(labels, expected, rtol=1e-4, atol=1e-7)


def test_a_student_that_equals_its_teacher_has_nothing_to_learn(task, make, teachers):
    student, batch = first_batch(make(*LARGER, f"--distillation.teacher={teachers(task)}", "--distillation.alpha=1"))
    student.model.load_state_dict(distilled(student).teacher.model.state_dict())
    student.eval()
    number = student.num_losses
    with torch.no_grad():
        sums = distilled(student).sums(batch)
    assert (sums[number : 2 * number] == 0).all()


def test_without_weight_training_is_bit_for_bit_that_without_a_teacher(task, make, teachers, tmp_path):
    plain = train(make("--trainer.max_steps=2"), tmp_path / "plain")
    teacher = [f"--distillation.teacher={teachers(task)}", "--distillation.alpha=0"]
    taught = train(make("--trainer.max_steps=2", *teacher), tmp_path / "taught")
    assert same(list(plain.model.state_dict().values()), list(taught.model.state_dict().values()))
    assert {*plain.training_metrics} == {*taught.training_metrics}


def test_the_teacher_is_no_part_of_the_task_and_does_not_change(task, make, teachers, tmp_path):
    before = read_checkpoint(teachers(task)).tensors
    trained = train(make(f"--distillation.teacher={teachers(task)}", "--trainer.max_steps=2"), tmp_path)
    plain = build_training(make(), None).task
    assert [*trained.state_dict()] == [*plain.state_dict()]
    assert len(list(trained.parameters())) == len(list(plain.parameters()))
    teacher = distilled(trained).teacher
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    after = teacher.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after)
    saved = read_checkpoint(tmp_path / "last.ckpt")
    assert saved.tensors.keys() == plain.model.to_checkpoint(tmp_path, None).tensors.keys()


def test_the_teacher_computes_each_micro_batch_once_for_all_passes(taught, monkeypatch):
    student, batch = taught("--adversarial.name=fgm")
    teacher = student.step_method.method.losses.teacher
    calls, compute = [], type(teacher).compute
    monkeypatch.setattr(type(teacher), "compute", lambda self, batch: calls.append(self) or compute(self, batch))
    for _ in range(2):
        gradients(student, batch)
    assert calls.count(teacher) == 1
    gradients(student, dict(batch))
    assert calls.count(teacher) == 2


def test_the_weights_at_the_start_do_not_depend_on_the_teacher(make, taught):
    student, _ = taught()
    plain, _ = first_batch(make())
    assert same(list(plain.model.parameters()), list(student.model.parameters()))


# -- teachers that do not fit --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts(store, validation_store, tables, tokenizer, tmp_path_factory):
    """A function from overrides to an experiment of text classification, and a folder."""
    sources = {"store": store, "validation_store": validation_store, "tables": tables, "tokenizer": tokenizer}
    folder = tmp_path_factory.mktemp("texts")
    return maker(experiment_of("text-classification", sources, folder)), folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["places", "nature", "animals"]}, r"its labels is places, nature, animals, not animals, nature"),
        ({"positions": 16}, "it has 16 positions, fewer than data.max_seq_length"),
        ({"vocabulary": 90}, "its vocabulary .* is not that of the data"),
        ({"task": "multiple-choice"}, "it was trained for multiple-choice, not text-classification"),
    ],
)
def test_a_teacher_that_does_not_fit_is_one_message(texts, teachers, tmp_path, changes, message, monkeypatch):
    import dataclasses

    checkpoint = read_checkpoint(teachers("text-classification"))
    if "labels" in changes:
        settings = checkpoint.task_settings | {"labels": changes["labels"]}
        checkpoint = dataclasses.replace(checkpoint, task_settings=settings)
    if "positions" in changes:
        checkpoint.config["max_position_embeddings"] = changes["positions"]
    if "vocabulary" in changes:
        vocabulary = checkpoint.vocabulary
        fewer = dataclasses.replace(vocabulary, entries=vocabulary.entries[: changes["vocabulary"]])
        checkpoint = dataclasses.replace(checkpoint, vocabulary=fewer)
    if "task" in changes:
        checkpoint = dataclasses.replace(checkpoint, task=changes["task"])
    monkeypatch.setattr("bert_lightning.runs.teacher.read_checkpoint", lambda path: checkpoint)
    with pytest.raises(InputError, match=rf"^distillation\.teacher .* cannot teach this student: {message}"):
        build_training(texts[0]("--distillation.teacher=anything"), None)


def test_a_crf_is_not_distilled(experiments, teachers):
    make = maker(experiments["token-classification"])
    teacher = f"--distillation.teacher={teachers('token-classification')}"
    with pytest.raises(InputError, match="not defined for the task token-classification with a CRF"):
        build_training(make(teacher, "--model.head.crf=true"), None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--distillation.alpha=0.5"], "distillation.teacher or teachers must be set"),
        (["--distillation.teacher=x", "--distillation.alpha=1.5"], "distillation.alpha is 1.5; it must be"),
        (["--distillation.teacher=x", "--distillation.temperature=0"], "distillation.temperature is 0"),
        (
            ["--distillation.teacher=x", "--distillation.alpha=0", "--distillation.labels=0.5"],
            "distillation.labels is 0.5, which weighs the labels against the teacher",
        ),
        (["--distillation.teacher=x", "--distillation.temprature=1"], "did you mean 'distillation.temperature'"),
        (["--distillation.teacher="], "distillation.teacher"),
        (["--adversarial=fmg"], "adversarial.name is 'fmg'.* did you mean 'fgm'"),
        (["--adversarial.name=fgm", "--adversarial.epsilon=-1"], "adversarial.epsilon is -1"),
        (["--adversarial.epsilon=1"], "adversarial.epsilon"),
        (["--step_method.name=plian"], "did you mean 'plain'"),
        (["--step_method.class_path=pathlib.Path"], "--allow-module pathlib"),
    ],
)
def test_a_wrong_setting_names_its_key(texts, overrides, message):
    with pytest.raises(InputError, match=message):
        texts[0](*overrides)


def test_a_teacher_that_cannot_be_read_is_named_with_its_key(texts, tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=f"^distillation.teacher: {tmp_path}"):
        build_training(texts[0](f"--distillation.teacher={tmp_path}"), None)


def test_settings_by_default_change_no_identity_and_are_read_back(texts):
    make, _ = texts
    assert make().identity == make("--adversarial=none", "--step_method=plain", "--distillation=null").identity
    assert make().identity != make("--adversarial=fgm").identity
    experiment = make("--adversarial=fgm", "--distillation.teacher=x")
    values = yaml.safe_load(yaml.safe_dump(experiment.to_dict()))
    assert maker(values)() == experiment
    assert maker(values)("--distillation=null").distillation is None
    assert make().to_dict()["distillation"] is None


# -- commands ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(texts, teachers):
    """A run that was distilled and trained against perturbations, and its command."""
    make, folder = texts
    values = make("--adversarial=fgm", f"--distillation.teacher={teachers('text-classification')}").to_dict()
    (folder / "experiment.yaml").write_text(yaml.safe_dump(values))
    command = ["fit", "--config", str(folder / "experiment.yaml"), "--run-directory"]
    assert main([*command, str(folder / "run")]) == 0
    return folder / "run", command


def test_the_manifest_names_the_teacher_and_another_one_is_refused(run, teachers, tmp_path, capsys, monkeypatch):
    directory, command = run
    manifest = json.loads((directory / "manifest.json").read_text())
    digest = read_checkpoint(teachers("text-classification")).provenance.digest
    assert manifest["data"]["teacher"] == digest
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    logged = {name for row in rows for name in row}
    names = ("task_loss", "distillation_loss", "adversarial_task_loss", "adversarial_distillation_loss", "loss")
    assert {f"train/{name}" for name in names} <= logged
    # A run that is not finished, whose teacher is another one now.
    manifest["data"]["teacher"], manifest["ended"] = "0" * 64, "interrupted"
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        (copy / name).write_bytes((directory / name).read_bytes())
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert main([*command, str(copy)]) == 2
    assert "the teacher changed since" in capsys.readouterr().err


def test_scoring_predicting_and_exporting_need_no_teacher(run, tmp_path, monkeypatch, capsys):
    directory, _ = run

    def gone(path):
        raise AssertionError("the teacher was read")

    monkeypatch.setattr("bert_lightning.runs.teacher.read_checkpoint", gone)
    assert main(["validate", "--checkpoint", str(directory)]) == 0
    (tmp_path / "texts.txt").write_text("The old cat sees the dog.\n")
    command = ["predict", "--checkpoint", str(directory), "--input", str(tmp_path / "texts.txt")]
    assert main([*command, "--output", str(tmp_path / "out.jsonl")]) == 0
    export = ["export", "--checkpoint", str(directory), "--format", "huggingface"]
    assert main([*export, "--output", str(tmp_path / "exported")]) == 0


def test_an_exported_teacher_teaches_like_its_checkpoint(texts, teachers, tmp_path):
    make, _ = texts
    teacher = teachers("text-classification")
    export = ["export", "--checkpoint", str(teacher), "--format", "huggingface", "--output", str(tmp_path / "hf")]
    assert main(export) == 0
    found = [first_batch(make(f"--distillation.teacher={path}", *NO_DROPOUT)) for path in (teacher, tmp_path / "hf")]
    assert same(*[gradients(student, batch) for student, batch in found])


@pytest.mark.slow
def test_a_run_with_a_teacher_is_reproduced_bit_for_bit(run, tmp_path, capsys):
    assert main(["reproduce", str(run[0]), "--output", str(tmp_path / "again")]) == 0
