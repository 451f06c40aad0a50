"""`search` from the study file to the record: kills, failures, fresh seeds, arms and refusals."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import bert_lightning
from bert_lightning.cli import main
from bert_lightning.config.experiment import load_experiment
from bert_lightning.config.nested import at
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.studies.ablation import record_in
from bert_lightning.studies.launchers import Job
from bert_lightning.studies.plan import plan_runs
from bert_lightning.studies.record import StudyRecord
from bert_lightning.studies.search import searching
from bert_lightning.studies.search.progress import SearchProgress
from bert_lightning.studies.search.searching import dry_run, is_complete, search
from bert_lightning.studies.study_file import read_study
from bert_lightning.training import metrics_file
from tests.support.studies import InProcess
from tests.support.task_data import tiny_classification

SEARCH = {
    "trials": 4,
    "metric": "val/accuracy",
    "sampler": {"name": "tpe", "startup_trials": 2},
    "confirm_seeds": 2,
    "space": {
        "optimizer.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
        "data.batch_size": {"low": 4, "high": 12, "step": 4},
    },
}


@pytest.fixture
def values(tables, tokenizer, tmp_path, monkeypatch) -> dict[str, Any]:
    """The experiment, written as `base.yaml` in the working directory."""
    monkeypatch.chdir(tmp_path)
    values = tiny_classification(tables, tokenizer, tmp_path)
    Path("base.yaml").write_text(yaml.safe_dump(values))
    return values


def study(searched: dict[str, Any] | None = None, **changed: Any) -> Path:
    values = {"study": "rates", "base": "base.yaml", "search": {**SEARCH, **(searched or {})}, **changed}
    Path("study.yaml").write_text("# Which rate?\n" + yaml.safe_dump(values, sort_keys=False))
    return Path("study.yaml")


def formula(job: Job, change: Callable[[dict[str, Any]], float | str | None] = lambda values: None) -> int:
    """Write the run directory that a training would leave, whose score is a formula of its settings.

    Args:
        job: the training.
        change: returns another score, or why the training fails, for the settings of a run.
    """
    words = list(job.arguments)
    files = [word for word in words[words.index("--config") + 1 :] if not word.startswith("--")]
    experiment = load_experiment(files, [word for word in words if word.startswith("--") and "=" in word])
    values = experiment.to_dict()
    rate, size, seed = (at(values, key) for key in ("optimizer.learning_rate", "data.batch_size", "seed_everything"))
    score = change(values)
    run = RunDirectory(job.directory)
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_config(values)
    if isinstance(score, str):
        run.update_manifest(ended="failed", sessions=[{"error": score}])
        job.log.write_text(f"bert-lightning: {score}\n")
        return 1
    if score is None:
        score = 1 - abs(rate - 0.01) - 0.01 * size + 0.002 * (seed % 5)
    run.metrics.unlink(missing_ok=True)
    metrics_file.append(run.metrics, {"step": 2, "val/accuracy": score, "val/loss": 1.0})
    run.update_manifest(ended="finished", sessions=[])
    return 0


def searched(path: Path, launcher: InProcess | None = None, **options: Any) -> StudyRecord:
    return search(path, launcher=launcher or InProcess(formula), **options)


def found(record: StudyRecord, arm: str = "searched") -> dict[str, Any]:
    return record.search["arms"][arm]


def test_a_search_trains_its_trials_and_its_best_one_with_fresh_seeds(values, capsys):
    path = study({"trials": 2, "confirm_seeds": 1})
    assert main(["search", str(path), "--dry-run"]) == 0
    assert not Path("studies").exists()
    capsys.readouterr()
    launcher = InProcess()
    record = searched(path, launcher)
    assert launcher.started == [*(f"training, trial {n}, seed 1" for n in range(2)), "training, searched, seed 2"]
    assert StudyRecord.read(Path("studies/rates")) == record
    assert [run.state for run in record.runs] == ["finished"] * 3
    assert [(run.arm, run.seed, run.trial) for run in record.runs] == [
        ("trial 0", 1, 0),
        ("trial 1", 1, 1),
        ("searched", 2, None),
    ]
    trials, best = found(record)["trials"], found(record)["best"]
    for trial in trials:
        overrides = {**trial["values"], "seed_everything": 1}
        alone = bert_lightning.fit("base.yaml", overrides, run_directory=f"alone-{trial['trial']}")
        assert trial["score"] == alone.metrics["val/accuracy"]
    assert best["score"] == max(trial["score"] for trial in trials)
    fresh = bert_lightning.fit("base.yaml", {**best["values"], "seed_everything": 2}, run_directory="fresh")
    assert found(record)["confirmation"]["score"] == fresh.metrics["val/accuracy"]
    output = capsys.readouterr().out
    assert re.search(r"with fresh seeds 2: val/accuracy \d\.\d{4}, which is \d\.\d{4} ", output)
    again = InProcess()
    assert searched(path, again) == record
    assert again.started == []


@pytest.mark.slow
def test_a_search_that_is_stopped_again_and_again_has_the_outcome_of_one_that_is_not(values):
    path = study({"trials": 4, "seeds": 2})
    whole = searched(path, directory="whole")
    assert len(whole.runs) == 4 * 2 + 2
    num_stops = 0
    while True:
        launcher = InProcess()

        def third_stops(job: Job, launcher: InProcess = launcher) -> int:
            if len(launcher.started) == 3:
                raise KeyboardInterrupt
            return formula(job)

        launcher._instead = third_stops
        try:
            record = searched(path, launcher, directory="stopped")
            break
        except KeyboardInterrupt:
            num_stops += 1
            assert num_stops < 9
    assert num_stops > 2
    assert record.search["arms"] == whole.search["arms"]
    assert [(run.arm, run.seed, run.trial, run.directory, run.state) for run in record.runs] == [
        (run.arm, run.seed, run.trial, run.directory, run.state) for run in whole.runs
    ]


def test_a_lost_database_is_rebuilt_from_the_runs_without_training(values):
    path = study()
    whole = searched(path)
    Path("studies/rates/search.db").unlink()
    launcher = InProcess(formula)
    assert searched(path, launcher).search["arms"] == whole.search["arms"]
    assert launcher.started == []


def test_failed_trials_are_named_and_the_search_goes_on(values, capsys):
    path = study({"trials": 7})

    def change(values: dict[str, Any]) -> float | str | None:
        size = values["data"]["batch_size"]
        return {4: "exploded", 8: float("nan")}.get(size)

    record = searched(path, InProcess(lambda job: formula(job, change)))
    by_size = {trial["values"]["data.batch_size"]: trial for trial in found(record)["trials"]}
    assert by_size[4]["state"] == by_size[8]["state"] == "failed"
    assert by_size[4]["message"] == "seed 1: exploded"
    assert by_size[8]["message"] == "seed 1: val/accuracy is nan"
    assert found(record)["best"]["values"]["data.batch_size"] == 12
    assert is_complete(record)
    assert f"trial {by_size[4]['trial']} failed: seed 1: exploded" in capsys.readouterr().out


def test_a_failed_run_with_a_fresh_seed_trains_again_only_if_it_is_asked_for(values):
    path = study({"trials": 2, "confirm_seeds": [8, 9]})

    launcher = InProcess()
    # The first trial fails, and so does one of the fresh seeds.
    launcher._instead = lambda job: formula(
        job, lambda values: "exploded" if len(launcher.started) == 1 or values["seed_everything"] == 9 else None
    )
    record = searched(path, launcher)
    states = {(run.trial, run.seed): run.state for run in record.runs}
    assert states == {(0, 1): "failed", (1, 1): "finished", (None, 8): "finished", (None, 9): "failed"}
    again = InProcess(formula)
    assert searched(path, again) == record
    assert again.started == []
    retried = searched(path, again, retry_failed=True)
    assert again.started == ["training, searched, seed 9"]
    assert {(run.trial, run.seed): run.state for run in retried.runs} == {**states, (None, 9): "finished"}
    assert found(retried)["trials"] == found(record)["trials"]


def test_a_search_without_a_complete_trial_has_no_best_one(values, monkeypatch):
    path = study({"trials": 2})
    record = searched(path, InProcess(lambda job: formula(job, lambda values: "exploded")))
    assert found(record)["best"] is None
    assert not is_complete(record)
    monkeypatch.setattr(searching, "search", lambda *arguments, **options: record)
    assert main(["search", str(path)]) == 1


@pytest.mark.slow
def test_values_that_the_experiment_refuses_together_fail_their_trial_alone(values):
    space = {
        "model.config.hidden_size": {"choices": [16, 24]},
        "model.config.num_attention_heads": {"choices": [2, 16]},
    }
    record = searched(study({"space": space, "sampler": "random", "trials": 10}))
    states = {tuple(trial["values"].values()): trial["state"] for trial in found(record)["trials"]}
    assert {values: state for values, state in states.items() if state == "failed"} == {(24, 16): "failed"}
    assert states[16, 16] == "complete"
    assert len(found(record)["trials"]) == 10


def test_a_run_that_is_killed_twice_at_one_step_fails_its_trial(values):
    path = study({"trials": 1, "confirm_seeds": 0})
    launcher = InProcess(lambda job: -9)
    record = searched(path, launcher)
    assert len(launcher.started) == 2
    assert "killed by SIGKILL, twice at step 0" in found(record)["trials"][0]["message"]


@pytest.mark.slow
def test_more_trials_continue_and_a_new_winner_replaces_the_fresh_runs(values):
    first = searched(study({"trials": 3}))
    more = searched(study({"trials": 7}))
    assert found(more)["trials"][:3] == found(first)["trials"]
    assert found(more)["best"]["score"] >= found(first)["best"]["score"]
    fresh = [run for run in more.runs if run.trial is None]
    assert len(fresh) == 2
    for run in fresh:
        config = RunDirectory(Path("studies/rates") / run.directory).read_config()
        assert config["optimizer"]["learning_rate"] == found(more)["best"]["values"]["optimizer.learning_rate"]


def test_each_arm_is_searched_with_the_same_budget(values):
    path = study({"trials": 3}, arms={"adamw": {}, "sgd": {"optimizer.name": "sgd"}})
    record = searched(path)
    assert list(record.search["arms"]) == ["adamw, searched", "sgd, searched"]
    for arm in ("adamw", "sgd"):
        assert len(found(record, f"{arm}, searched")["trials"]) == 3
        trials = [run for run in record.runs if run.arm.startswith(f"{arm}, trial")]
        assert [run.trial for run in trials] == [0, 1, 2]
        names = {
            RunDirectory(Path("studies/rates") / run.directory).read_config()["optimizer"]["name"] for run in trials
        }
        assert names == {arm}


def test_runs_of_arms_and_of_the_search_stay_apart_in_one_record(values):
    path = study({"trials": 1, "confirm_seeds": 1}, seeds=[1, 2])
    bert_lightning.ablate(path, launcher=InProcess(formula))
    record = searched(path)
    assert [run.arm for run in record.of_arms] == ["base", "base"]
    assert [run.arm for run in record.of_searches] == ["trial 0", "searched"]
    again = bert_lightning.ablate(path, launcher=InProcess(formula))
    assert again.of_searches == record.of_searches
    assert again.search == record.search


def changed_space(**bounds: Any) -> dict[str, Any]:
    rate = {**SEARCH["space"]["optimizer.learning_rate"], **bounds}
    return {"space": {**SEARCH["space"], "optimizer.learning_rate": rate}}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"searched": changed_space(high=0.2)}, "search.space.optimizer.learning_rate.high was 0.1"),
        ({"searched": {"seeds": 2}}, r"search.seeds was \[1\]"),
        ({"searched": {"sampler": "random"}}, "search.sampler.name was tpe"),
        ({"searched": {"at_once": 3}}, "search.at_once was 1"),
        ({"searched": {"metric": "val/loss"}}, "search.metric was val/accuracy"),
        ({"overrides": {"trainer.max_steps": 3}}, "trainer.max_steps was 2"),
    ],
)
def test_a_search_with_other_settings_is_refused_with_the_key(values, changes, key):
    searched(study({"trials": 1}))
    changes = {"searched": {}, **changes}
    with pytest.raises(InputError, match=key):
        searched(study({"trials": 2, **changes.pop("searched")}, **changes))


def test_a_wrong_metric_ends_the_search_with_its_nearest_name_and_can_be_corrected(values):
    with pytest.raises(InputError, match=r"val/acuracy.*did you mean 'val/accuracy'"):
        searched(study({"metric": "val/acuracy"}))
    launcher = InProcess(formula)
    record = searched(study(), launcher)
    assert found(record)["trials"][0]["state"] == "complete"
    # The first draw is the same, so its run is there.
    assert "training, trial 0, seed 1" not in launcher.started


def test_a_database_elsewhere_serves_one_folder(values):
    url = f"sqlite:///{Path.cwd() / 'other.db'}"
    path = study({"trials": 2})
    searched(path, directory="one", storage=url)
    assert not Path("one/search.db").exists()
    with pytest.raises(InputError, match="search 'rates' of another folder"):
        searched(path, directory="two", storage=url)
    Path("one").rename("moved")
    launcher = InProcess(formula)
    searched(path, launcher, directory="moved", storage=url)
    assert launcher.started == []


@pytest.mark.parametrize(
    ("searched_keys", "changed", "words"),
    [
        ({"space": {"optimizer.rate": {"low": 1, "high": 2}}}, {}, "unknown key 'optimizer.rate'"),
        ({}, {"axes": [{"optimizer.learning_rate": [0.1, 0.2]}]}, "which the arms of the study set too"),
        ({"stage": "nosuch"}, {}, "search.stage is 'nosuch'"),
        ({}, {"stages": {"one": {}, "two": {"from": "one"}}}, "name the one to search with search.stage"),
        (None, {"search": None}, "no section search"),
    ],
)
def test_a_study_that_cannot_be_searched_is_refused_before_anything_is_written(values, searched_keys, changed, words):
    path = study(searched_keys, **changed)
    with pytest.raises(InputError, match=r"study\.yaml") as error:
        searched(path)
    assert words in str(error.value)
    assert not Path("studies").exists()


def test_options_that_cannot_work_are_refused(values, capsys):
    assert main(["search", str(study()), "--retry-failed", "--dry-run"]) == 2
    assert "--retry-failed does nothing with --dry-run" in capsys.readouterr().err
    path = study()
    for options, words in (
        (["--jobs", "0"], "--jobs is 0"),
        (["--storage", ""], "--storage is empty"),
        (["--storage", "sqlite://"], "is in memory"),
    ):
        assert main(["search", str(path), *options]) == 2
        assert words in capsys.readouterr().err
    assert not Path("studies").exists()


def test_without_the_extra_one_message_names_it(values, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"search needs optuna.*bert_lightning\[studies\]"):
        dry_run(study(), None, 1)


@pytest.mark.slow
def test_the_number_of_jobs_at_the_first_call_decides_the_draws_and_later_ones_do_not(values):
    class Wide(InProcess):
        num_jobs = 4

    wide = searched(study({"trials": 6}), Wide(formula), jobs=4, directory="wide")
    assert wide.search["at_once"] == 4
    assert searched(study({"trials": 6}), directory="wide").search["at_once"] == 4
    assert searched(study({"trials": 6, "at_once": 4}), directory="named").search["arms"] == wide.search["arms"]
    assert searched(study({"trials": 6}), directory="narrow").search["arms"] != wide.search["arms"]


def test_a_run_that_another_trial_needs_too_is_not_stopped(values, monkeypatch):
    described = read_study(study({"trials": 2}))
    [first], [second] = (plan_runs(dataclasses.replace(described, seeds=(1,))) for _ in range(2))
    assert first is not second
    progress = SearchProgress(Path("studies/rates"), None, "val/accuracy")
    progress.add([first], 0)
    progress.add([second], 1)
    progress.courses = [SimpleNamespace(step=lambda: [second])]
    for run in (first, second):
        progress.runs[run] = dataclasses.replace(progress.runs[run], state="running")
    stopped = []
    monkeypatch.setattr("bert_lightning.studies.search.progress.signal_run", lambda path, _: stopped.append(path))
    progress.startable()
    assert stopped == []
    progress.courses = [SimpleNamespace(step=list)]
    progress.startable()
    assert {path.name for path in stopped} == {Path(progress.directory(first)).name}


def test_searched_arms_share_their_upstream_runs(values):
    after = {"from": "before", "overrides": {"model.size": None}, "axes": [{"optimizer.name": ["adamw", "sgd"]}]}
    searched_keys = {"trials": 1, "confirm_seeds": 1, "stage": "after"}
    record = searched(study(searched_keys, stages={"before": {}, "after": after}))
    directories = [run.directory for run in record.runs if run.stage == "before"]
    assert directories
    assert len(directories) == len(set(directories))


def test_a_study_whose_record_is_lost_goes_on_beside_the_files_of_our_commands(values):
    path = study({"trials": 1, "confirm_seeds": 1})
    searched(path)
    folder = Path("studies/rates")
    (folder / "study.json").rename(folder / "study.json.damaged")
    (folder / "submitit").mkdir()
    (folder / "sweep.yaml").touch()
    assert record_in(folder, read_study(path)) is None
