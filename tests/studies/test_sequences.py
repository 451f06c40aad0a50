"""Sequences of tasks in a study file: stages that start from one another, and what is refused."""

import re

import pytest
import yaml

from bert_lightning.errors import InputError
from bert_lightning.studies.ablation import ablate
from bert_lightning.studies.plan import plan_runs
from bert_lightning.studies.study_file import read_study
from tests.support.sequences import TASKS, values_of, write_tasks
from tests.support.studies import InProcess

ARMS = {
    "plain": {},
    "replay": {"continual.name": "replay", "continual.size": 9},
    "per-task": {"sequence.models": "per-task", "model.pretrained": None, "model.size": "tiny"},
}


@pytest.fixture
def folder(tmp_path, tokenizer):
    data = write_tasks(tmp_path, tokenizer)
    for task in TASKS:
        values = {**values_of(task, data), "checkpoint": {}}
        del values["sequence"]
        (tmp_path / f"{task}.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def write(folder, sequence=tuple(f"{task}.yaml" for task in TASKS), **changed):
    values = {
        "study": "forget",
        "sequence": list(sequence) if isinstance(sequence, tuple) else sequence,
        "arms": ARMS,
        "seeds": [1],
        **changed,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def test_each_task_starts_from_the_one_before_and_has_the_settings_of_its_arm(folder):
    plan = plan_runs(read_study(write(folder)))
    assert [(run.stage, run.arm.name) for run in plan] == [(task, arm) for task in TASKS for arm in ARMS]
    by_place = {(run.stage, run.arm.name): run for run in plan}
    for number, task in enumerate(TASKS):
        for arm in ARMS:
            run = by_place[task, arm]
            assert run.experiment.sequence.task == task
            assert run.experiment.sequence.names == list(TASKS)
            keys = [] if number == 0 else ["sequence.previous"]
            keys += ["model.pretrained"] if number and arm != "per-task" else []
            assert {*run.upstreams} == {*keys}
            assert all(each is by_place[TASKS[number - 1], arm] for each in run.upstreams.values())
        assert by_place[task, "replay"].experiment.continual.size == 9
        assert by_place[task, "per-task"].experiment.sequence.models == "per-task"


def test_the_data_of_every_task_are_those_of_its_own_experiment(folder):
    plan = plan_runs(read_study(write(folder)))
    for run in plan:
        for task in run.experiment.sequence.tasks:
            assert task.data["train"] == str(folder / f"{task.name}-train.tsv")
        assert run.experiment.data.train == str(folder / f"{run.stage}-train.tsv")


def test_the_order_of_the_tasks_is_part_of_a_run(folder):
    def identities(order):
        plan = plan_runs(read_study(write(folder, [f"{task}.yaml" for task in order])))
        return {run.stage: run.experiment.identity for run in plan if run.arm.name == "plain"}

    one, other = identities(TASKS), identities((TASKS[0], TASKS[2], TASKS[1]))
    assert one.keys() == other.keys()
    assert not {*one.values()} & {*other.values()}


def test_overrides_of_the_study_hold_for_all_tasks_and_those_of_a_task_win(folder):
    sequence = ["topics.yaml", {"base": "sizes.yaml", "task": "named", "overrides": {"trainer.max_steps": 2}}]
    plan = plan_runs(read_study(write(folder, sequence, overrides={"trainer.max_steps": 3})))
    assert [(run.stage, run.experiment.trainer.max_steps) for run in plan if run.arm.name == "plain"] == [
        ("topics", 3),
        ("named", 2),
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sequence": ["topics.yaml", "topics.yaml"]}, "line 4: sequence has the task 'topics' twice: each needs"),
        (
            {"sequence": [{"task": 1, "base": "topics.yaml"}, {"task": "1", "base": "topics.yaml"}]},
            "sequence has the task '1' twice",
        ),
        ({"sequence": "topics.yaml"}, "sequence is a list of tasks, each an experiment file or keys with a task"),
        ({"sequence": []}, "sequence is a list of tasks"),
        (
            {"sequence": [{"tsak": "a", "base": "topics.yaml"}]},
            "unknown key 'sequence.0.tsak'; did you mean 'sequence.0.task'?",
        ),
        ({"sequence": ["topic.yaml"]}, "there is no experiment file topic.yaml"),
        ({"stages": {"a": {"base": "topics.yaml"}}}, "stages and sequence cannot be combined: model.pretrained"),
        ({"overrides": {"sequence.task": "topcs"}}, None),
        ({"arms": {"a": {"continual.name": "ewcc"}}}, "continual.name is 'ewcc'; did you mean 'ewc'?"),
        (
            {"arms": {"a": {"sequence.labls": "shared"}}},
            "unknown key 'sequence.labls'; did you mean 'sequence.labels'?",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_file_and_line(folder, changed, message):
    changed = {"sequence": [f"{task}.yaml" for task in TASKS], **changed}
    path = write(folder, **changed)
    if message is None:
        # The study itself names the task of each run.
        assert plan_runs(read_study(path))[0].experiment.sequence.task == "topics"
        return
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        plan_runs(read_study(path))
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.slow
def test_a_study_that_ends_in_the_middle_of_a_sequence_resumes_to_the_same_scores(folder):
    path = write(folder)
    whole = ablate(path, folder / "whole", launcher=InProcess())
    assert all(run.state == "finished" for run in whole.runs)
    stopped = InProcess(lambda job: 143 if job.name.startswith("pairs, replay") or "sizes, per" in job.name else None)
    half = ablate(path, folder / "half", launcher=stopped)
    assert {run.state for run in half.runs} == {"finished", "interrupted", "waiting"}
    again = InProcess()
    ablate(path, folder / "half", launcher=again)
    assert len(again.started) == sum(run.state != "finished" for run in half.runs) == 3
    for run in whole.runs:
        names = [folder / study / run.directory / "sequence.json" for study in ("whole", "half")]
        one, other = (name.read_bytes() for name in names)
        assert one == other
