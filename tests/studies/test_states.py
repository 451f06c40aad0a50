"""The state of each run is read from its directory, so that nothing is lost with the process that ran the study."""

import dataclasses
import fcntl
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.studies.estimates import logged_step
from bert_lightning.studies.plan import plan_runs
from bert_lightning.studies.progress import Progress
from bert_lightning.studies.record import STALE, RecordedRun, StudyRecord
from bert_lightning.studies.states import after_process
from bert_lightning.studies.study_file import read_study
from tests.support.studies import write_experiments, write_study


@pytest.fixture(autouse=True)
def experiments(tmp_path, monkeypatch, store, validation_store, tables):
    monkeypatch.chdir(tmp_path)
    write_experiments(tmp_path, store, validation_store, tables)


def planned(**changed):
    return plan_runs(read_study(write_study(Path("study.yaml"), **changed)))


def begin(run, folder: Path = Path("studies/nsp"), name: str | None = None, **manifest) -> RunDirectory:
    """Write the records of a run that has begun, with the upstream's directory where its identity is planned."""
    experiment = run.experiment
    if run.upstreams:
        path = folder / run.upstreams["model.pretrained"].directory
        experiment = dataclasses.replace(
            experiment, model=dataclasses.replace(experiment.model, pretrained=str(path))
        )
    directory = RunDirectory((folder / run.directory).with_name(name or Path(run.directory).name))
    directory.path.mkdir(parents=True)
    directory.write_config(experiment.to_dict())
    directory.manifest.write_text(json.dumps(manifest))
    return directory


def record(runs, **changed) -> StudyRecord:
    """Return a record in which runs have some values."""
    recorded = tuple(dataclasses.replace(run.recorded(), **changed) for run in runs)
    return StudyRecord("nsp", "", "", "0", ("pretraining", "topics"), recorded)


def state(run, manifest: dict | None, **before) -> RecordedRun:
    """Return the first run of a study as it is found, given its manifest and what was recorded."""
    if manifest is not None:
        begin(run, **manifest)
    return Progress(Path("studies/nsp"), [run], record([run], **before) if before else None).runs[run]


@pytest.mark.parametrize(
    ("manifest", "before", "expected", "message"),
    [
        (None, {}, "waiting", None),
        (None, {"state": "running", "attempts": 1}, "interrupted", None),
        (None, {"state": "failed", "message": "no data", "attempts": 1}, "failed", "no data"),
        ({"ended": None}, {}, "interrupted", None),
        ({"ended": None}, {"state": "running", "attempts": 1}, "interrupted", None),
        ({"ended": None}, {"state": "failed", "message": "killed by SIGSEGV"}, "failed", "killed by SIGSEGV"),
        ({"ended": None}, {"state": "pruned"}, "pruned", None),
        ({"ended": "stopped by SIGTERM"}, {}, "interrupted", "stopped by SIGTERM"),
        ({"ended": "failed", "sessions": [{"error": "disk full"}]}, {}, "failed", "disk full"),
        ({"ended": "finished"}, {}, "finished", None),
        # What the directory says is newer than the record.
        ({"ended": "finished"}, {"state": "running", "attempts": 1}, "finished", None),
        ({"ended": "finished"}, {"state": "failed", "message": "no data"}, "finished", None),
    ],
)
def test_each_end_of_a_run_has_its_state(manifest, before, expected, message):
    found = state(planned()[0], manifest, **before)
    assert (found.state, found.message) == (expected, message)


def test_a_damaged_manifest_is_a_failure_with_the_name_of_the_file():
    run = planned()[0]
    begin(run).manifest.write_text("{")
    found = state(run, None)
    assert found.state == "failed"
    assert "manifest.json: damaged" in found.message


@pytest.mark.parametrize("lock", ["log", "directory"])
def test_a_run_whose_process_outlived_its_study_is_running(lock):
    run = planned()[0]
    directory = begin(run, ended=None)
    if lock == "log":
        # The lock belongs to the open file, which a process has from its parent.
        with open(f"{directory.path}.log", "wb") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=log)
    else:
        code = "from bert_lightning.runs.lock import DirectoryLock as L; from pathlib import Path\n"
        code += f"lock = L(Path({str(directory.path)!r})); lock.take(); print(flush=True); input()"
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdout.readline()
    assert state(run, None).state == "running"
    child.communicate(b"\n")
    assert state(run, None).state == "interrupted"


@pytest.mark.parametrize(
    ("found", "status", "expected", "message"),
    [
        ("finished", 0, "finished", None),
        # A signal after the end was recorded.
        ("finished", 143, "finished", None),
        ("interrupted", 143, "interrupted", "stopped by SIGTERM"),
        ("interrupted", 130, "interrupted", "stopped by SIGTERM"),
        ("interrupted", -9, "interrupted", "killed by SIGKILL"),
        ("interrupted", -11, "failed", "killed by SIGSEGV"),
        ("waiting", 2, "failed", "data.train is wrong"),
        ("failed", 1, "failed", "data.train is wrong"),
        # A process that ended well without having trained.
        ("waiting", 0, "failed", "data.train is wrong"),
    ],
)
def test_the_end_of_a_process_decides_the_state(found, status, expected, message):
    before = "stopped by SIGTERM" if found == "interrupted" else None
    recorded = RecordedRun("s", "a", {}, 1, "runs/x", state=found, message=before)
    ended = after_process(recorded, status, ["a warning", "bert-lightning: data.train is wrong"])
    assert (ended.state, ended.status, ended.message) == (expected, status, message)


def test_runs_that_start_from_a_failed_one_are_blocked_and_others_are_not():
    runs = planned()
    begin(runs[0], ended="failed", sessions=[{"error": "no"}])
    begin(runs[1], ended="finished")
    progress = Progress(Path("studies/nsp"), runs, None)
    by_name = {run.name: recorded for run, recorded in progress.runs.items()}
    assert by_name["topics, objective=next-sentence, seed 1"].state == "blocked"
    assert by_name["topics, objective=next-sentence, seed 1"].message == f"{runs[0].name} did not finish"
    assert by_name["topics, objective=full-sentences, seed 1"].state == "waiting"
    # The run of the finished upstream and those of the other arm can start.
    assert progress.startable() == [runs[2], runs[3], runs[5]]
    progress.retry_failed()
    assert {recorded.state for recorded in progress.runs.values()} == {"waiting", "finished"}


TIMES = {"started": "2026-01-01T12:00:00+00:00", "sessions": []}


def test_runs_whose_upstream_was_trained_again_with_other_weights_are_stale(home):
    runs = planned(seeds=[1], axes=None)
    upstream, run = runs
    weights = RunDirectory(home / "runs/whole").read_manifest()["weights"]
    folder = Path("studies/nsp")
    begin(upstream, ended="finished", weights=weights)
    (folder / upstream.directory / "checkpoints").symlink_to(home / "runs/whole/checkpoints")
    directory = begin(run, ended="finished", data={"model": weights}, **TIMES)
    assert Progress(folder, runs, None).runs[run].state == "finished"
    # The run may have begun with the best checkpoint: the weights themselves decide.
    RunDirectory(folder / upstream.directory).update_manifest(weights="of the last checkpoint")
    assert Progress(folder, runs, None).runs[run].state == "finished"
    directory.update_manifest(data={"model": "0" * 64})
    stale = Progress(folder, runs, None)
    found = stale.runs[run]
    assert (found.state, found.message) == ("failed", STALE)
    stale.retry_failed()
    assert stale.runs[run].state == "waiting"
    assert not directory.path.exists()
    assert RunDirectory(f"{directory.path}-aside-1").exists
    # As long as the upstream run has not finished, nothing can be compared.
    directory = begin(run, ended="finished", data={"model": "0" * 64}, **TIMES)
    own = RunDirectory(folder / upstream.directory)
    own.update_manifest(ended=None)
    record_now = StudyRecord("nsp", "", "", "0", (), (upstream.recorded(), found))
    assert Progress(folder, runs, record_now).runs[run].message == STALE
    own.update_manifest(ended="finished")
    shutil.rmtree(directory.path)
    # The command may be killed now, before it writes the record.
    before = StudyRecord("nsp", "", "", "0", (), (stale.recorded()[0], found))
    again = Progress(folder, runs, before)
    assert again.runs[run].state == "waiting"
    again.runs[run] = found
    again.retry_failed()
    assert again.runs[run].state == "waiting"
    # A run that failed after such a start could not resume either.
    directory = begin(run, ended="failed", data={"model": "0" * 64}, **TIMES)
    failed = Progress(folder, runs, None)
    assert failed.runs[run].state == "failed"
    failed.retry_failed()
    assert (failed.runs[run].state, directory.path.exists()) == ("waiting", False)


def test_a_stale_run_that_was_found_under_another_name_starts_over_in_its_own_directory():
    folder, [run] = Path("studies/nsp"), planned(seeds=[1], stages=None)[:1]
    found = begin(run, name="0123456789ab", ended="finished")
    progress = Progress(folder, [run], None)
    assert progress.directories.path(run) == found.path
    progress.runs[run] = dataclasses.replace(progress.runs[run], state="failed", message=STALE)
    progress.retry_failed()
    assert progress.runs[run].directory == run.directory
    assert progress.directories.path(run) == folder / run.directory


def test_a_run_of_an_earlier_version_is_found_by_its_settings_and_so_are_those_that_start_from_it():
    runs = planned(seeds=[1])
    folder = Path("studies/nsp")
    begin(runs[0], name="0123456789ab", ended="finished")
    directory = begin(runs[2], name="ba9876543210", ended="finished")
    values = directory.read_config()
    values["model"]["pretrained"] = "elsewhere/runs/small/0123456789ab"
    directory.write_config(values)
    progress = Progress(folder, runs, None)
    assert [recorded.directory for recorded in progress.runs.values()] == [
        "runs/small/0123456789ab",
        runs[1].directory,
        "runs/topics/ba9876543210",
        runs[3].directory,
    ]
    assert progress.directories.path(runs[0]) == folder / "runs/small/0123456789ab"


def test_a_setting_without_effect_on_the_result_repeats_no_run():
    before = planned(seeds=[1], stages=None)
    folder = Path("studies/nsp")
    for run in before:
        begin(run, ended="finished")
    figures = [{"metric": "val/mlm_loss", "value": 2.0, "tolerance": 0.1, "source": "a paper"}]
    changed = {"wandb.project": "other", "data.num_workers": 1, "published": figures}
    alone = {**changed, "checkpoint.keep_training_state": False}
    for settings, expected in (
        ({"overrides": alone}, "finished"),
        ({"axes": [{"data.num_workers": [1]}]}, "waiting"),
    ):
        runs = planned(**{"seeds": [1], "stages": None, **settings})
        assert not {run.directory for run in runs} & {run.directory for run in before}
        # Values that the study varies are runs of their own.
        assert {recorded.state for recorded in Progress(folder, runs, None).runs.values()} == {expected}
    values = yaml.safe_load(Path("pretraining.yaml").read_text())
    values |= {"wandb": {"project": "other"}, "published": figures}
    Path("pretraining.yaml").write_text(yaml.safe_dump(values))
    runs = planned(seeds=[1], stages=None)
    assert not {run.directory for run in runs} & {run.directory for run in before}
    progress = Progress(folder, runs, None)
    assert {recorded.state for recorded in progress.runs.values()} == {"finished"}
    assert [recorded.directory for recorded in progress.runs.values()] == [run.directory for run in before]
    values["optimizer"] = {"learning_rate": 1.0}
    Path("pretraining.yaml").write_text(yaml.safe_dump(values))
    assert {each.state for each in Progress(folder, planned(seeds=[1], stages=None), None).runs.values()} == {
        "waiting"
    }


def test_a_directory_with_other_settings_is_not_taken_for_the_run():
    run = planned()[0]
    values = run.experiment.to_dict()
    values["optimizer"]["learning_rate"] = 0.5
    begin(run, ended="finished").write_config(values)
    found = state(run, None)
    other = ("failed", "its directory holds a run with other settings")
    assert (found.state, found.message) == other
    again = state(run, None, state=found.state, message=found.message)
    assert (again.state, again.message) == other, "the second command takes it for the run"
    shutil.rmtree(Path("studies/nsp") / run.directory)
    assert state(run, None, state=found.state, message=found.message).state == "waiting"


def test_a_record_is_read_back_as_it_was_written_and_its_faults_are_named(tmp_path):
    written = record(planned(), state="finished", seconds=1.5)
    written.write(tmp_path)
    assert StudyRecord.read(tmp_path) == written
    path = tmp_path / "study.json"
    values = json.loads(path.read_text())
    values["runs"][0]["added_later"] = 1
    path.write_text(json.dumps(values))
    assert StudyRecord.read(tmp_path) == written
    for content, expected in (
        ({**values, "format": 2, "version": "9.0"}, "was written by version 9.0"),
        ({**values, "runs": [{}]}, "study.json: damaged"),
        ({**values, "runs": [{**values["runs"][0], "state": "lost"}]}, "has the state 'lost'"),
        ([], "study.json: damaged"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=expected):
            StudyRecord.read(tmp_path)
    with pytest.raises(InputError, match="holds no study"):
        StudyRecord.read(tmp_path / "none")


def test_the_logged_step_is_that_of_the_last_complete_row(tmp_path):
    assert logged_step(tmp_path) == 0
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "train/loss": 1.0}\n{"step": 20}\n{"step": 3')
    assert logged_step(tmp_path) == 20
