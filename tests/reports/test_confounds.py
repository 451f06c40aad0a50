"""Confounds: arms that differ in something besides their axis are named, and consequences of the axis are not."""

import json

import pytest

from bert_lightning.cli import main
from bert_lightning.reports.confounds import confound_text
from bert_lightning.reports.tabulation import tabulate
from bert_lightning.studies.found_runs import find_runs
from bert_lightning.studies.record import Compare, RecordedRun, StudyRecord
from tests.support.run_directories import HARDWARE, VERSIONS, write_run

GIT = {"commit": "0123456789abcdef", "modified": False}


def pair(folder, key="optimizer.name", values=("a", "b"), task="text-classification", **options):
    """Write a run per value of a key. An option is a pair, of which each run gets one, or the same for both."""
    section, _, name = key.rpartition(".")
    for number, value in enumerate(values):
        own = {k: v[number] if isinstance(v, tuple) else v for k, v in options.items()}
        config = json.loads(json.dumps(own.pop("config", {})))
        config.setdefault(section, {})[name] = value
        write_run(folder / str(number), 1, config=config, task=task, **own)
    return folder


def confounds(folder):
    [table] = tabulate(find_runs([folder])).tables
    unexplained = {each.what for each in table.confounds if each.explained_by is None}
    return unexplained, {each.what: each.explained_by for each in table.confounds if each.explained_by is not None}


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("version of torch", {"versions": (VERSIONS, {**VERSIONS, "torch": "2.12.0"})}),
        ("commit", {"git": (GIT, {**GIT, "commit": "fedcba"})}),
        ("uncommitted changes", {"git": (GIT, {**GIT, "modified": True})}),
        (
            "uncommitted changes",
            {"git": ({**GIT, "modified": True, "patch_sha256": "a"}, {**GIT, "modified": True, "patch_sha256": "b"})},
        ),
        ("processor", {"hardware": (HARDWARE, {**HARDWARE, "processor": "Xeon"})}),
        ("gpus", {"hardware": (HARDWARE, {**HARDWARE, "gpus": ["H100"]})}),
        ("threads", {"hardware": (HARDWARE, {**HARDWARE, "threads": 2})}),
        ("data: train", {"data": ({"train": "0"}, {"train": "1"})}),
        ("steps done", {"step": (40, 60)}),
    ],
)
def test_each_circumstance_in_which_arms_differ_is_a_confound(tmp_path, what, options):
    assert confounds(pair(tmp_path, **options)) == ({what}, {})


def test_arms_that_differ_in_their_axis_alone_have_no_confound(tmp_path):
    assert confounds(pair(tmp_path, git=GIT, data={"train": "0"})) == (set(), {})


@pytest.mark.parametrize(
    ("key", "what", "options"),
    [
        ("data.train", "data: train", {"data": ({"train": "0"}, {"train": "1"}), "task": "pretraining"}),
        ("data.max_train_samples", "data: train", {"data": ({"train": "0"}, {"train": "1"}), "values": (10, 20)}),
        ("trainer.max_steps", "steps done", {"step": (40, 60), "values": (40, 60)}),
        ("data.batch_size", "steps done", {"step": (40, 60), "values": (8, 16)}),
        ("trainer.precision", "precision", {"values": ("32", "bf16-mixed")}),
        ("trainer.devices", "threads", {"hardware": (HARDWARE, {**HARDWARE, "threads": 2}), "values": (1, 2)}),
        ("model.pretrained", "data: model", {"data": ({"model": "0"}, {"model": "1"})}),
        ("masked_words.max_samples", "data: masked words", {"data": ({"masked words": "0"}, {"masked words": "1"})}),
    ],
)
def test_a_consequence_of_the_axis_is_no_confound(tmp_path, key, what, options):
    assert confounds(pair(tmp_path, key, **options)) == (set(), {what: key})


def test_other_training_examples_are_no_reason_for_other_validation_data(tmp_path):
    data = ({"train": "0", "validation": "0"}, {"train": "1", "validation": "1"})
    for number, key in enumerate(("data.examples_per_class", "data.max_train_samples", "pseudo_labels.per_class")):
        found = confounds(pair(tmp_path / str(number), key, data=data, values=(4, 8), task="pretraining"))
        assert found == ({"data: validation"}, {"data: train": key})


def test_early_stopping_explains_other_steps_and_the_axis_alone_explains_no_version(tmp_path):
    config = {"early_stopping": {"patience": 3}}
    options = {"versions": (VERSIONS, {**VERSIONS, "torch": "2.12.0"}), "step": (40, 60)}
    found = confounds(pair(tmp_path, config=config, **options))
    assert found == ({"version of torch"}, {"steps done": "early_stopping.patience"})


def test_what_an_older_run_does_not_record_is_unknown_and_no_difference(tmp_path):
    assert confounds(pair(tmp_path, git=(None, GIT), data=({}, {"train": "0"}))) == (set(), {})


def test_a_mixture_within_an_arm_that_is_the_same_in_the_other_arm_is_no_confound(tmp_path):
    for arm in ("a", "b"):
        for seed, torch in ((1, "2.12.0"), (2, "2.13.0")):
            config = {"optimizer": {"name": arm}}
            write_run(tmp_path / f"{arm}-{seed}", seed, config=config, versions={**VERSIONS, "torch": torch})
    assert confounds(tmp_path) == (set(), {})


def chain(folder, directory=None, **config):
    """Write a study of two stages, in which each run of the second starts from one of the first."""
    runs = []
    for arm in ("short", "long"):
        for seed in (1, 2):
            values = {"trainer.max_steps": arm}
            for stage in ("pretraining", "rte"):
                place = f"runs/{stage}/{arm}-{seed}"
                runs.append(RecordedRun(stage, arm, values, seed, place, "finished", 0))
                if stage == "pretraining":
                    write_run(folder / place, seed, {"val/mlm_loss": 2.0}, task="pretraining")
                else:
                    start = f"{directory or folder}/runs/pretraining/{arm}-{seed}"
                    own = config.get(arm, {}) | {"model": {"pretrained": start}}
                    write_run(folder / place, seed, config=own, data={"train": "0", "model": f"{arm}{seed}"})
    record = StudyRecord("chain", "", "", "0.1.0", ("pretraining", "rte"), tuple(runs))
    record.write(folder)
    return folder


@pytest.mark.parametrize("directory", [None, "/elsewhere/before/it/moved"])
def test_the_weights_of_the_stage_before_are_a_consequence_of_that_stage(tmp_path, directory):
    tables = tabulate(find_runs([chain(tmp_path, directory)])).tables
    assert [table.title for table in tables] == ["chain: pretraining", "chain: rte"]
    assert [(each.what, each.explained_by) for each in tables[1].confounds] == [
        ("data: model", "the stage pretraining")
    ]


def test_a_setting_of_a_study_that_differs_besides_the_axis_is_a_confound(tmp_path):
    study = chain(
        tmp_path, **{arm: {"optimizer": {"learning_rate": x}} for arm, x in (("short", 1e-3), ("long", 1e-4))}
    )
    rte = tabulate(find_runs([study])).tables[1]
    [confound] = [each for each in rte.confounds if each.explained_by is None]
    assert confound_text(confound).startswith("setting optimizer.learning_rate: 0.001 (short), ")


def test_arms_scored_with_different_checkpoints_are_confounded(tmp_path):
    rows = tuple(
        [{"step": step, "checkpoint": f"step-{step}.ckpt", "data": "t", "test/f1": 0.5}] for step in (20, 40)
    )
    pair(tmp_path, config={"data": {"test": "t"}}, rows=rows)
    unexplained, _ = confounds(tmp_path)
    assert unexplained == {"checkpoint that test/ metrics score"}


def test_strict_writes_the_report_and_exits_with_status_1_for_confounds_alone(tmp_path, capsys):
    pair(tmp_path / "runs", step=(40, 60))
    command = ["report", str(tmp_path / "runs"), "--output", str(tmp_path / "r.md")]
    assert main(command) == 0
    assert "steps done: 40 (optimizer.name=a), 60 (optimizer.name=b)" in capsys.readouterr().err
    assert main([*command, "--strict"]) == 1
    assert "**Confounds.**" in (tmp_path / "r.md").read_text()
    pair(tmp_path / "equal")
    assert main(["report", str(tmp_path / "equal"), "--output", str(tmp_path / "r.md"), "--strict"]) == 0


def test_models_that_several_keys_name_are_a_consequence_of_their_stages(tmp_path):
    runs = []
    for arm in ("few", "many"):
        place = f"runs/cloze/{arm}"
        write_run(tmp_path / place, 1)
        runs.append(RecordedRun("cloze", arm, {"data.examples_per_class": arm}, 1, place, "finished", 0))
        own = {
            "data": {"validation": "dev.tsv", "examples_per_class": arm},
            "distillation": {"teachers": {"first": str(tmp_path / place)}},
            "pseudo_labels": {"teachers": {"second": str(tmp_path / place)}},
        }
        data = {"train": arm, "teacher first": arm, "labeller second": arm}
        write_run(tmp_path / f"runs/pet/{arm}", 1, config=own, data=data)
        runs.append(RecordedRun("pet", arm, {"data.examples_per_class": arm}, 1, f"runs/pet/{arm}", "finished", 0))
    StudyRecord("patterns", "", "", "0.1.0", ("cloze", "pet"), tuple(runs)).write(tmp_path)
    _, pet = tabulate(find_runs([tmp_path])).tables
    assert {each.what: each.explained_by for each in pet.confounds} == {
        "data: train": "data.examples_per_class",
        "data: teacher first": "the stage cloze",
        "data: labeller second": "the stage cloze",
    }


def ways(folder, **options):
    """Write a study of three stages, two of which it compares, and report it; options are those of a stage."""
    runs = []
    for stage in ("old", "new", "other"):
        for arm in ("a", "b"):
            for seed in (1, 2):
                place, values = f"runs/{stage}/{arm}-{seed}", {"data.examples_per_class": arm}
                config = {"data": {"validation": "dev.tsv", "examples_per_class": arm, "pattern": stage}}
                score = {"val/accuracy": 0.5 + 0.1 * (stage == "new") + 0.01 * seed * (arm == "b")}
                own = {"config": config, "data": {"train": stage, "validation": "0"}, **options.get(stage, {})}
                write_run(folder / place, seed, score, task=f"task-{stage}", **own)
                runs.append(RecordedRun(stage, arm, values, seed, place, "finished", 0))
    runs.append(RecordedRun("new", "b", {"data.examples_per_class": "b"}, 3, "runs/new/b-3", "waiting"))
    compare = Compare(stages=("old", "new"), **options.get("compare", {}))
    StudyRecord("ways", "", "", "0.1.0", ("old", "new", "other"), tuple(runs), compare).write(folder)
    return tabulate(find_runs([folder])).tables


def test_stages_that_a_study_compares_are_the_rows_of_a_table_for_each_arm(tmp_path):
    first, second, rest = ways(tmp_path)
    assert [table.title for table in (first, second, rest)] == ["ways: a", "ways: b", "ways: other"]
    assert [arm.label for arm in first.arms] == ["old", "new"]
    assert [arm.label for arm in rest.arms] == ["a", "b"]
    cell = second.arms[1].cells["val/accuracy"]
    assert (second.baseline, cell.n, round(cell.difference, 9)) == ("old", 2, 0.1)
    assert [each.seed for each in second.missing] == [3]
    # What the stages do in another way is their purpose.
    assert {each.what: each.explained_by for each in first.confounds} == {"data: train": "stage"}


def test_compared_stages_must_be_scored_on_the_same_data_and_may_name_their_baseline(tmp_path):
    other = {"data": {"train": "0", "validation": "1"}, "versions": {**VERSIONS, "torch": "2.12.0"}}
    first, *_ = ways(tmp_path, new=other, compare={"baseline": "new"})
    assert first.baseline == "new"
    unexplained = {each.what for each in first.confounds if each.explained_by is None}
    assert unexplained == {"data: validation", "version of torch"}
