"""The plan loads every experiment of a study before anything starts, and names each run after its settings alone."""

import shlex
from pathlib import Path

import pytest
import yaml

from bert_lightning.config.experiment import load_experiment
from bert_lightning.errors import InputError
from bert_lightning.studies.plan import PlannedRun, count_runs, plan_runs
from bert_lightning.studies.study_file import read_study
from tests.support.studies import write_experiments, write_study


@pytest.fixture(autouse=True)
def experiments(tmp_path, monkeypatch, store, validation_store, tables):
    monkeypatch.chdir(tmp_path)
    write_experiments(tmp_path, store, validation_store, tables)


def plan(**changed) -> list[PlannedRun]:
    return plan_runs(read_study(write_study(Path("study.yaml"), **changed)))


def test_runs_come_stage_by_stage_and_start_from_the_run_of_the_same_arm_and_seed():
    runs = plan()
    assert [(run.stage, run.arm.name, run.seed) for run in runs] == [
        (stage, f"objective={objective}", seed)
        for stage in ("pretraining", "topics")
        for objective in ("next-sentence", "full-sentences")
        for seed in (1, 2)
    ]
    for run, upstream in zip(runs[4:], runs[:4], strict=True):
        assert run.upstreams == {"model.pretrained": upstream}
        assert run.experiment.model.pretrained == upstream.experiment.identity
        assert run.experiment.seed_everything == upstream.experiment.seed_everything == run.seed


def test_a_run_is_named_after_its_settings_and_not_after_the_study():
    names = {run.name: run.directory for run in plan()}
    assert len(set(names.values())) == 8
    base = load_experiment("pretraining.yaml", {"data.objective": "next-sentence", "seed_everything": 1})
    assert names["pretraining, objective=next-sentence, seed 1"] == f"runs/small/{base.identity}"
    # Another study with more seeds and arms has the same runs.
    more = {"study": "other", "seeds": [3, 1, 2], "axes": [{"data.objective": ["full-sentences", "sentence-order"]}]}
    others = {run.name: run.directory for run in plan(**more)}
    assert len(others) == 12
    assert [others[name] == names[name] for name in others if name in names] == [True] * 4


def test_a_changed_upstream_changes_the_names_of_the_runs_that_start_from_it():
    before = [run.directory for run in plan()[4:]]
    after = [run.directory for run in plan(overrides={"trainer.max_steps": 5})[4:]]
    assert not {*before} & {*after}


def test_fit_reads_the_arguments_of_a_run_as_the_plan_did():
    axes = [
        {
            "optimizer.betas": [[0.9, 0.98]],
            "data.masking": [{"name": "span", "stop_probability": 0.3}],
            "tuning": ["full"],
        }
    ]
    for run in plan(axes=axes):
        words = run.arguments(lambda upstream: Path(upstream.experiment.identity))
        files = [word for word in words[1:] if not word.startswith("--")]
        settings = [word for word in words[1:] if word.startswith("--")]
        read_again = load_experiment(files, shlex.split(shlex.join(settings)))
        assert read_again == run.experiment
        assert read_again.identity == run.experiment.identity
    assert run.upstreams["model.pretrained"].experiment.data.masking.stop_probability == 0.3


def refused(**changed) -> str:
    with pytest.raises(InputError) as error:
        plan(**changed)
    return str(error.value)


def test_an_unknown_key_is_named_with_file_line_arm_and_its_nearest_neighbour():
    message = refused(axes=[{"data.objectiv": ["next-sentence"]}], stages=None)
    assert message.startswith("study.yaml: line 5: the arm 'objectiv=next-sentence': unknown key 'data.objectiv'")
    assert "did you mean 'data.objective'?" in message


def test_a_fault_in_the_last_arm_of_a_later_stage_is_found():
    rates = [{"optimizer.learning_rate": [1e-3, "fast"]}]
    stages = {"pretraining": {}, "topics": {"base": "topics.yaml", "from": "pretraining", "axes": rates}}
    message = refused(stages=stages)
    assert "the stage topics, arm 'objective=next-sentence, learning_rate=fast': optimizer.learning_rate: " in message


def test_arms_of_equal_settings_are_refused():
    # The learning rate of the base is the same.
    message = refused(arms={"a": {}, "b": {"optimizer.learning_rate": 1e-3}}, axes=None, stages=None)
    assert "training, a, seed 1 and training, b, seed 1 are the same experiment" in message


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"seeds": None}, "the key seeds is missing"),
        (
            {"compare": {"baseline": "objective=next-sentense"}},
            "is not an arm; did you mean 'objective=next-sentence'?",
        ),
        (
            {"compare": {"stages": ["pretraining", "topics"], "baseline": "topic"}},
            "the baseline 'topic' is not a stage that is compared; did you mean 'topics'?",
        ),
        (
            {
                "stages": {
                    "pretraining": {},
                    "topics": {"base": "topics.yaml", "axes": [{"optimizer.learning_rate": [1e-3, 1e-4]}]},
                },
                "compare": {"stages": ["pretraining", "topics"]},
            },
            "the stages pretraining and topics have different arms, so they cannot be compared",
        ),
        (
            {"compare": {"stages": ["pretraining", "topics"]}, "published": {"objective=next-sentence": []}},
            "published names arms, and compare.stages makes stages the rows",
        ),
        ({"published": {"nothing": []}}, "published names 'nothing', which is not an arm"),
        ({"axes": [{"a.b": [*range(500)]}, {"a.c": [*range(500)]}]}, "the study has 1,000,000 runs, and at most"),
    ],
)
def test_names_and_numbers_that_no_plan_can_have_are_refused(changed, expected):
    assert expected in refused(**changed)


def test_runs_are_counted_without_loading_them():
    axes = [{f"data.key{number}": list(range(10))} for number in range(6)]
    study = read_study(write_study(Path("study.yaml"), axes=axes))
    assert count_runs(study) == 2 * 10**6 * 2


def test_a_base_of_several_files_is_merged_in_order():
    Path("short.yaml").write_text(yaml.safe_dump({"trainer": {"max_steps": 2}}))
    assert {
        run.experiment.trainer.max_steps for run in plan(base=["pretraining.yaml", "short.yaml"], stages=None)
    } == {2}
