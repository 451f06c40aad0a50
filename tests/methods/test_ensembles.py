"""Several teachers that read examples in forms of their own, as in PET and iPET."""

import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from bert_lightning.checkpoints.native import load_native
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.cli import main
from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.errors import InputError
from bert_lightning.methods.distillation.ensemble import EnsembleLogits, mean_logits
from bert_lightning.methods.pseudo_labels import drawn_texts
from bert_lightning.runs.building import build_training
from bert_lightning.runs.ensemble_teachers import meaning_of
from bert_lightning.runs.predictor import load
from bert_lightning.runs.record import Inputs
from tests.support.methods import NO_DROPOUT, first_batch, maker
from tests.support.runs import weights
from tests.support.task_data import tiny_classification
from tests.test_strategies import bitwise, difference

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
        options = ["--run-directory", str(folder / name), "--optimizer.learning_rate=1e-2", "--trainer.max_steps=60"]
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
    student = build_training(maker(values)("--distillation.alpha=1", *named(teachers, *names)), None)
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


def test_a_teacher_counts_as_much_as_its_weight(values, teachers):
    weighed = ["--distillation.teacher_weights={two: 3, one: 1, three: 0.5}"]
    options = ["--distillation.alpha=1", *named(teachers, "one", "two", "three")]
    found, equal = (
        build_training(maker(values)(*options, *more), None).task.step_method.losses.cache for more in (weighed, [])
    )
    own = [EnsembleLogits([each], equal.labels, equal.split).logits(torch.device("cpu")) for each in equal.teachers]
    expected = (own[0] + 3 * own[1] + 0.5 * own[2]) / 4.5
    torch.testing.assert_close(found.logits(torch.device("cpu")), expected, rtol=0, atol=1e-5)


def test_a_student_learns_what_its_teachers_say_about_texts_of_a_file_without_labels(values, teachers, tmp_path):
    texts = [f"the {word} sees a red {other}" for word in ("cat", "dog", "river") for other in ("house", "tree")]
    (tmp_path / "texts.tsv").write_text("\n".join(["sentence", *texts]) + "\n")
    options = ["--distillation.alpha=1", *named(teachers, "one", "three"), "--data.examples_per_class=2"]
    unlabelled = f"--distillation.unlabelled={tmp_path / 'texts.tsv'}"
    alone, setup = (
        build_training(maker(values)(*options), None),
        build_training(maker(values)(*options, unlabelled), None),
    )
    examples, own = setup.data.splits["train"].examples, alone.data.splits["train"].examples
    assert [each.text for each in examples] == [*(each.text for each in own), *texts]
    mean = setup.task.step_method.losses.cache.logits(torch.device("cpu"))
    # What labelled the texts is not computed again.
    known = setup.task.step_method.losses.cache._known
    assert torch.equal(mean[len(own) :], known)
    alike = mean_logits(
        setup.task.step_method.losses.cache.teachers, setup.task.labels, examples[len(own) :], torch.device("cpu")
    )
    assert torch.equal(known, alike)
    likeliest = [setup.task.labels[number] for number in mean[len(own) :].argmax(1)]
    assert [each.label for each in examples[len(own) :]] == likeliest
    few = build_training(maker(values)(*options, unlabelled, "--distillation.max_samples=2"), None)
    assert [each.text for each in few.data.splits["train"].examples[len(own) :]] == texts[:2]
    assert alone.data.fingerprints["train"] != setup.data.fingerprints["train"]


def test_a_teacher_with_equal_weights_and_another_pattern_is_another_teacher(values, teachers, tmp_path, capsys):
    found = {}
    for name, pattern in (("same", PATTERNS["one"]), ("other", PATTERNS["two"])):
        own = {**values, "task": "cloze", "data": {**values["data"], "pattern": pattern, "verbalizer": WORDS}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(own))
        options = ["--trainer.max_steps=1", "--optimizer.learning_rate=0", "--run-directory", str(tmp_path / name)]
        assert main(["fit", "--config", str(tmp_path / f"{name}.yaml"), *options]) == 0
        options = ["--distillation.alpha=1", f"--distillation.teachers.one={tmp_path / name}"]
        found[name] = build_training(maker(values)(*options), None).fingerprints
    assert found["same"]["teacher one"] == found["other"]["teacher one"]
    assert found["same"]["teacher one: settings"] != found["other"]["teacher one: settings"]
    recorded = SimpleNamespace(read_manifest=lambda: {"data": found["same"]}, path=tmp_path)
    Inputs(found["same"], None).check(recorded, None)
    with pytest.raises(InputError, match=r"^the teacher one changed since"):
        Inputs(found["other"], None).check(recorded, None)
    earlier = {"teacher one": found["same"]["teacher one"]}
    Inputs(found["other"], None).check(SimpleNamespace(read_manifest=lambda: {"data": earlier}, path=tmp_path), None)


def test_what_a_teacher_computes_depends_on_its_architecture_too(teachers):
    checkpoint = read_checkpoint(teachers["three"])
    changed = dataclasses.replace(checkpoint, config={**checkpoint.config, "hidden_act": "relu"})
    one, other = (meaning_of(each, each.task_settings) for each in (checkpoint, changed))
    assert one != other
    assert meaning_of(checkpoint, {**checkpoint.task_settings, "class_weights": [1.0]}) == one


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
            ["--distillation.teachers.one={one}", "--distillation.teacher_weights={onee: 1}"],
            "distillation.teacher_weights.onee weighs no entry of teachers; did you mean 'one'",
        ),
        (
            ["--distillation.teachers={one: '{one}', two: '{one}'}", "--distillation.teacher_weights={one: 1}"],
            "distillation.teacher_weights has no weight for two",
        ),
        *(
            (
                ["--distillation.teachers.one={one}", f"--distillation.teacher_weights={{one: {weight}}}"],
                rf"distillation\.teacher_weights\.one.*{weight}",
            )
            for weight in ("0", "-1", "many", "True")
        ),
        (
            ["--distillation.teacher={one}", "--distillation.teacher_weights={one: 1}"],
            "distillation.teacher_weights.one weighs no entry of teachers, which is empty",
        ),
        (
            ["--distillation.teacher={one}", "--distillation.unlabelled=texts.tsv"],
            "distillation.unlabelled texts are labelled by teachers: set teachers",
        ),
        (["--distillation.teachers.one={one}", "--distillation.max_samples=2"], "max_samples limits the texts of"),
        (
            ["--distillation.teachers.one={one}", "--distillation.unlabelled=nowhere.tsv"],
            r"distillation\.unlabelled: .*nowhere\.tsv",
        ),
        (
            [
                "--distillation.teachers.one={one}",
                "--distillation.unlabelled=texts.tsv",
                "--task=cloze",
                "--data.verbalizer={animals: cat, nature: river, places: house}",
                "--data.demonstrations=true",
                "--data.max_seq_length=64",
            ],
            r"distillation\.unlabelled cannot be combined with data\.demonstrations",
        ),
        (
            ["--distillation.teachers.one={one}", "--data.labels=[animals, nature, places, other]"],
            r"distillation\.teachers\.one .* cannot teach this student: its labels are animals, nature, places, not",
        ),
    ],
)
def test_teachers_that_cannot_teach_are_refused_with_their_key(values, teachers, options, message):
    with pytest.raises(InputError, match=message):
        build_training(maker(values)(*(each.replace("{one}", str(teachers["one"])) for each in options)), None)


# -- pseudo-labels ---------------------------------------------------------------------------------------------------


def labelled_by(teachers, *names, per_class=5):
    return [
        f"--pseudo_labels.per_class={per_class}",
        *(f"--pseudo_labels.teachers.{name}={teachers[name]}" for name in names),
    ]


def added(values, *options):
    """Return the examples that pseudo-labels add to a training, and its own."""
    examples = list(build_training(maker(values)(*options), None).data.splits["train"].examples)
    own = 3 * values["data"]["examples_per_class"]
    return examples[own:], examples[:own]


def test_the_chance_of_a_text_is_that_of_draws_without_replacement_in_proportion_to_its_probability():
    own = np.array([0.9, 0.7, 0.55, 0.6])
    probabilities = np.column_stack([np.r_[own, 0.1], 1 - np.r_[own, 0.1]])
    # Brute force over the orders in which two of four are drawn.
    expected = dict.fromkeys(itertools.combinations(range(4), 2), 0.0)
    for first, second in itertools.permutations(range(4), 2):
        rest = own.sum() - own[first]
        expected[tuple(sorted((first, second)))] += own[first] / own.sum() * own[second] / rest
    number, found = 4000, dict.fromkeys(expected, 0)
    for seed in range(number):
        drawn = drawn_texts(probabilities, 2, seed)
        found[tuple(text for text, label in drawn if label == 0)] += 1
        # The only text with the other label is repeated.
        assert [each for each in drawn if each[1] == 1] == [(4, 1), (4, 1)]
    for pair, chance in expected.items():
        assert abs(found[pair] / number - chance) < 4.5 * (chance * (1 - chance) / number) ** 0.5


def test_pseudo_labels_weigh_their_teachers(values, teachers, monkeypatch):
    calls = []

    def recorded(tasks, labels, texts, device, weights):
        logits = mean_logits(tasks, labels, texts, device, weights)
        calls.append((tasks, labels, texts, logits))
        return logits

    monkeypatch.setattr("bert_lightning.runs.pseudo_labelling.mean_logits", recorded)
    weighed = ["--pseudo_labels.teacher_weights={three: 3, one: 1}", "--pseudo_labels.num_likeliest=20"]
    added(values, *labelled_by(teachers, "one", "three"), *weighed)
    [(tasks, labels, texts, found)] = calls
    first, third = (mean_logits([task], labels, texts, torch.device("cpu")) for task in tasks)
    assert [task.name for task in tasks] == ["cloze", "text-classification"]
    torch.testing.assert_close(found, (first + 3 * third) / 4, rtol=0, atol=1e-5)


def test_with_a_number_of_likeliest_texts_a_label_needs_to_be_the_likeliest_of_none():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    with pytest.raises(ValueError, match="1"):
        drawn_texts(probabilities, 2, seed=0)
    drawn = [drawn_texts(probabilities, 2, seed, num_likeliest=3) for seed in range(100)]
    assert {text for each in drawn for text, label in each if label == 1} == {1, 2, 3}
    assert {text for each in drawn for text, label in each if label == 0} == {0, 1, 2}


def test_a_run_trains_on_its_own_examples_and_on_texts_with_the_likeliest_label_of_its_teachers(values, teachers):
    new, own = added(values, *labelled_by(teachers, "one", "three"))
    alone = list(build_training(maker(values)(), None).data.splits["train"].examples)
    assert own == alone
    labels = ["animals", "nature", "places"]
    assert sorted(each.label for each in new) == sorted(labels * 5)
    assert not {each.location for each in new} & {each.location for each in own}
    # Softmax and mean of logits as a user would compute them from predictions.
    mean = torch.stack([predicted(teachers[name], new, labels) for name in ("one", "three")])
    sure = mean.mean(0).topk(2).values.diff().abs()[:, 0] > 1e-3
    for each, guess, is_sure in zip(new, mean.mean(0).argmax(1).tolist(), sure.tolist(), strict=True):
        assert not is_sure or each.label == labels[guess]


def test_labels_of_the_file_have_no_part_in_pseudo_labels_and_another_seed_draws_other_texts(
    values, teachers, tmp_path
):
    rows = [line.split("\t") for line in Path(values["data"]["train"]).read_text().splitlines()]
    text = rows[0].index("sentence")
    (tmp_path / "texts.tsv").write_text("".join(row[text] + "\n" for row in rows))
    (tmp_path / "wrong.tsv").write_text("sentence\ttopic\n" + "".join(f"{row[text]}\tnature\n" for row in rows[1:]))
    options = labelled_by(teachers, "one")
    found = [
        [
            each._replace(location="")
            for each in added(values, *options, f"--pseudo_labels.unlabelled={tmp_path / name}")[0]
        ]
        for name in ("texts.tsv", "wrong.tsv")
    ]
    assert found[0] == found[1]
    assert added(values, *options)[0] == added(values, *options)[0]
    seed = ["--seed_everything=2", "--data.examples_seed=1"]
    assert added(values, *options, *seed)[1] == added(values, *options)[1]
    assert added(values, *options, *seed)[0] != added(values, *options)[0]
    few = added(values, *options, "--pseudo_labels.max_samples=30", "--pseudo_labels.per_class=99")[0]
    assert len({each.location for each in few}) == 30


def test_a_run_with_pseudo_labels_resumes_bit_for_bit_and_refuses_other_models(values, teachers, tmp_path, capsys):
    own = {**values, "checkpoint": {"every_n_steps": 1, "keep_last": 9}}
    own["trainer"] = {**values["trainer"], "max_steps": 4}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(own))
    command = ["fit", "--config", str(tmp_path / "e.yaml"), "--pseudo_labels.num_likeliest=40"]

    def weights(name, *options):
        assert main([*command, *labelled_by(teachers, "one"), *options, "--run-directory", str(tmp_path / name)]) == 0
        return load_native((tmp_path / name / "checkpoints/last.ckpt").resolve())["state_dict"][
            "model.encoder.pooler.weight"
        ]

    whole = tmp_path / "whole"
    expected = weights("whole")
    assert "pseudo_labels: 15 of" in capsys.readouterr().out
    assert torch.equal(expected, weights("resumed", "--resume", str(whole / "checkpoints/step-000000002.ckpt")))
    manifest = json.loads((whole / "manifest.json").read_text())
    assert "labeller one" in manifest["data"]
    (whole / "manifest.json").write_text(json.dumps({**manifest, "ended": "interrupted"}))
    other = [f"--pseudo_labels.teachers.one={teachers['two']}", "--run-directory", str(whole)]
    assert main([*command, *labelled_by(teachers, "one"), *other]) == 2
    assert "the labeller one changed since" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pseudo_labels.per_class=5"], r"pseudo_labels\.teachers"),
        (["--pseudo_labels.teachers.one={one}"], r"pseudo_labels\.per_class"),
        (["--pseudo_labels.teachers.one={one}", "--pseudo_labels.per_class=0"], r"pseudo_labels\.per_class is 0"),
        (
            ["--pseudo_labels.teachers.one={one}", "--pseudo_labels.per_class=5", "--pseudo_labels.num_likeliest=4"],
            r"pseudo_labels\.num_likeliest is 4.*at least 5",
        ),
        (["--pseudo_labels.teachers={}", "--pseudo_labels.per_class=5"], "pseudo_labels.teachers is empty"),
        (
            ["--pseudo_labels.teachers.one={one}", "--pseudo_labels.per_clas=5"],
            "did you mean 'pseudo_labels.per_class'",
        ),
        (
            ["--pseudo_labels.teachers.x=nowhere", "--pseudo_labels.per_class=5"],
            r"^pseudo_labels\.teachers\.x: .*nowhere",
        ),
        (
            ["--pseudo_labels.teachers.one={one}", "--pseudo_labels.per_class=5", "--data.examples_per_class=null"],
            "pseudo_labels.unlabelled: it is not set, and the run trains or validates on all examples",
        ),
        (
            [
                "--pseudo_labels.teachers.one={one}",
                "--pseudo_labels.per_class=5",
                "--pseudo_labels.unlabelled=no.tsv",
            ],
            r"^pseudo_labels\.unlabelled: no\.tsv",
        ),
        (
            [
                "--pseudo_labels.teachers.one={one}",
                "--pseudo_labels.per_class=5",
                "--task=cloze",
                f"--data.verbalizer={json.dumps(WORDS)}",
                "--data.demonstrations=true",
                "--data.max_seq_length=64",
            ],
            r"pseudo_labels cannot be combined with data\.demonstrations",
        ),
        (
            ["--pseudo_labels.teachers.one={one}", "--pseudo_labels.per_class=5", "--pseudo_labels.max_samples=1"],
            r"pseudo_labels\.teachers say '\w+' about none of 1 texts",
        ),
        (
            [
                "--pseudo_labels.teachers.one={one}",
                "--pseudo_labels.per_class=5",
                "--data.labels=[animals, nature, places, other]",
            ],
            r"pseudo_labels\.teachers\.one .* cannot teach this student: its labels are animals, nature, places, not",
        ),
    ],
)
def test_pseudo_labels_that_cannot_be_made_are_one_message_with_their_key(values, teachers, options, message):
    with pytest.raises(InputError, match=message):
        build_training(maker(values)(*(each.replace("{one}", str(teachers["one"])) for each in options)), None)


# -- on two processes ------------------------------------------------------------------------------------------------

CLOZE = {"task": "cloze", "data": {"pattern": PATTERNS["one"], "verbalizer": WORDS, "demonstrations": True}}
LEARNING = {
    "teachers": ({}, ["--distillation.alpha=1", "--distillation.teachers.one={one}"]),
    "pseudo-labels": ({}, ["--pseudo_labels.teachers.one={one}", "--pseudo_labels.per_class=5"]),
    "demonstrations": (CLOZE, []),
    "masked-words": ({**CLOZE, "data": {**CLOZE["data"], "demonstrations": False}}, ["--masked_words.weight=0.3"]),
}


def learning_command(values, teachers, learning, folder):
    """Return the command that trains in one of the ways above, and keeps the checkpoint of every step."""
    changes, options = LEARNING[learning]
    own = {**values, **changes, "data": {**values["data"], **changes.get("data", {}), "max_seq_length": 64}}
    own |= {"checkpoint": {"every_n_steps": 1, "keep_last": 9}, "trainer": {**values["trainer"], "max_steps": 4}}
    (folder / "e.yaml").write_text(yaml.safe_dump(own))
    return [
        "fit",
        "--config",
        str(folder / "e.yaml"),
        *(each.replace("{one}", str(teachers["one"])) for each in options),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("learning", LEARNING)
def test_a_compiled_run_learns_like_a_plain_one_and_resumes_bit_for_bit(values, teachers, learning, tmp_path):
    command = [*learning_command(values, teachers, learning, tmp_path), *NO_DROPOUT]

    def fit(name, *options):
        assert main([*command, *options, "--run-directory", str(tmp_path / name)]) == 0
        return tmp_path / name

    plain, compiled = fit("plain"), fit("compiled", "--trainer.compile=true")
    assert difference(weights(plain), weights(compiled)) <= 5e-5
    point = ["--trainer.compile=true", "--resume", str(compiled / "checkpoints/step-000000002.ckpt")]
    assert bitwise(weights(compiled), weights(fit("resumed", *point)))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("learning", LEARNING)
def test_two_processes_learn_like_one_and_resume_bit_for_bit(
    values, teachers, learning, strategy, two_ranks, tmp_path
):
    command = [*learning_command(values, teachers, learning, tmp_path), f"--trainer.strategy={strategy}"]

    def fit(name, *more):
        arguments = [*command, *more, "--trainer.devices=2", "--run-directory", str(tmp_path / name)]
        assert {*two_ranks.run(arguments)} == {0}
        return tmp_path / name

    one = [*command, *NO_DROPOUT, "--trainer.strategy=auto", "--run-directory", str(tmp_path / "one")]
    assert main(one) == 0
    two = fit("two", *NO_DROPOUT)
    assert difference(weights(tmp_path / "one"), weights(two)) <= 5e-6
    data = [json.loads((tmp_path / name / "manifest.json").read_text())["data"] for name in ("one", "two")]
    assert data[0] == data[1]
    whole = fit("whole")
    resumed = fit("resumed", "--resume", str(whole / "checkpoints/step-000000002.ckpt"))
    assert bitwise(weights(whole), weights(resumed))
