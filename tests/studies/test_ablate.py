"""`ablate` trains the runs of a study, repeats none that is finished, and leaves nothing else behind."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bert_lightning.checkpoints.files import write_json
from bert_lightning.checkpoints.native import has_training_state
from bert_lightning.cli import main
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.log_file import last_lines
from bert_lightning.studies.ablation import ablate
from bert_lightning.studies.launchers import LocalLauncher
from bert_lightning.studies.record import StudyRecord
from tests.support.studies import InProcess, write_experiments, write_study

FOLDER = Path("studies/nsp")


@pytest.fixture(autouse=True)
def experiments(tmp_path, monkeypatch, store, validation_store, tables):
    monkeypatch.chdir(tmp_path)
    write_experiments(tmp_path, store, validation_store, tables)


def file(**changed) -> Path:
    return write_study(Path("study.yaml"), **changed)


def failing(*names: str, status: int = 1):
    """Return what lets jobs of these names end with a status, after a line in their logs."""

    def instead(job):
        if job.name not in names:
            return None
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.write_text("a warning\n\nbert-lightning: data.train is wrong\n")
        return status

    return instead


def finished(job) -> int:
    """Imitate a run that finishes."""
    job.directory.mkdir(parents=True, exist_ok=True)
    # The study reads manifests meanwhile, in another thread.
    write_json(job.directory / "manifest.json", {"ended": "finished", "step": 4})
    return 0


def test_a_damaged_manifest_is_one_failed_run_and_does_not_end_the_study():
    [run, *_] = ablate(file(), launcher=InProcess(finished)).runs
    (FOLDER / run.directory / "manifest.json").write_text("")
    record = ablate(file(seeds=[1, 2, 3]), launcher=InProcess(finished))
    failed = [(each.directory, each.message) for each in record.runs if each.state == "failed"]
    assert [directory for directory, _ in failed] == [run.directory]
    assert "damaged" in str(failed[0][1])
    assert {each.state for each in record.runs if each.seed == 3} == {"finished"}


def test_a_manifest_that_is_damaged_while_the_study_runs_only_costs_an_estimate():
    [run, *_] = ablate(file(), launcher=InProcess(finished)).runs
    manifest = FOLDER / run.directory / "manifest.json"

    def finished_after_damage(job) -> int:
        manifest.write_text("")
        return finished(job)

    record = ablate(file(seeds=[1, 2, 3]), launcher=InProcess(finished_after_damage))
    assert {each.state for each in record.runs} == {"finished"}


def states(record: StudyRecord) -> dict[str, str]:
    return {f"{run.stage}, {run.arm}, seed {run.seed}": run.state for run in record.runs}


def test_a_study_of_two_stages_trains_each_run_once_and_shares_the_upstream_of_its_seed(capsys):
    launcher = InProcess()
    compared = file(compare={"metric": "val/accuracy"})
    record = ablate(compared, launcher=launcher)
    assert [run.state for run in record.runs] == ["finished"] * 8
    assert StudyRecord.read(FOLDER) == record
    assert (record.question, record.file, record.stages) == (
        "Does it help?",
        compared.read_text(),
        ("pretraining", "topics"),
    )
    for run in record.runs:
        directory = RunDirectory(FOLDER / run.directory)
        assert directory.read_config()["seed_everything"] == run.seed
        if run.stage == "topics":
            [upstream] = [other for other in record.runs[:4] if (other.arm, other.seed) == (run.arm, run.seed)]
            weights = RunDirectory(FOLDER / upstream.directory).read_manifest()["weights"]
            assert directory.read_manifest()["data"]["model"] == weights
        else:
            assert directory.read_config()["data"]["objective"] == run.values["data.objective"]
    output = capsys.readouterr().out
    assert output.count("started: ") == output.count("finished: ") == 8
    assert ", val/accuracy 0." in output
    assert output.endswith("8 of 8 runs finished\n")
    # Given again, nothing trains. More seeds and arms train alone.
    again = InProcess()
    assert ablate(compared, launcher=again) == record
    assert again.started == []
    more = InProcess(finished)
    objectives = ["next-sentence", "full-sentences", "sentence-order"]
    ablate(file(seeds=[1, 2, 3], axes=[{"data.objective": objectives}]), launcher=more)
    assert len(more.started) == 2 * (3 * 3 - 2 * 2)


def test_the_first_seed_is_complete_before_the_next_one_begins():
    launcher = InProcess(finished)
    ablate(file(seeds=[5, 2]), launcher=launcher)
    arms = ["objective=next-sentence", "objective=full-sentences"]
    stages = ["pretraining", "topics"]
    assert launcher.started == [f"{stage}, {arm}, seed {seed}" for seed in (5, 2) for stage in stages for arm in arms]


def test_a_chosen_stage_trains_with_those_that_it_starts_from_and_the_others_wait(capsys):
    stages = {
        "pretraining": {},
        "topics": {"base": "topics.yaml", "from": "pretraining"},
        "again": {"base": "topics.yaml", "from": "pretraining", "overrides": {"optimizer.learning_rate": 0.1}},
    }
    study = file(stages=stages, seeds=[1])
    assert main(["ablate", str(study), "--stage", "again", "--dry-run"]) == 0
    assert "  topics," not in capsys.readouterr().out
    launcher = InProcess(finished)
    record = ablate(study, launcher=launcher, stages=["again"])
    assert [name.split(",")[0] for name in launcher.started] == ["pretraining", "pretraining", "again", "again"]
    output = capsys.readouterr().out
    assert "4 runs in studies/nsp: 4 waiting\n2 runs are in other stages, which do not train now\n" in output
    assert "[4 of 4]" in output
    assert output.endswith("4 of 4 runs finished\n")
    assert [(run.stage, run.state) for run in record.runs if run.arm == "objective=next-sentence"] == [
        ("pretraining", "finished"),
        ("topics", "waiting"),
        ("again", "finished"),
    ]
    whole = InProcess(finished)
    ablate(study, launcher=whole)
    assert [name.split(",")[0] for name in whole.started] == ["topics", "topics"]
    assert main(["ablate", str(study), "--stage", "topic"]) == 2
    assert "study.yaml has no stage 'topic'; did you mean 'topics'?" in capsys.readouterr().err


def test_runs_that_left_the_study_stay_and_are_named(capsys):
    before = ablate(file(stages=None, axes=None), launcher=InProcess())
    capsys.readouterr()
    record = ablate(file(stages=None, axes=None, seeds=[2]), launcher=InProcess())
    assert record.runs == before.runs[1:]
    left = before.runs[0].directory
    assert f"1 run is no longer in the study, left on the disk: {left}\n" in capsys.readouterr().out
    assert (FOLDER / left / "config.yaml").is_file()


def test_a_failed_run_is_named_with_its_last_lines_and_only_blocks_what_starts_from_it(capsys):
    failed = "pretraining, objective=next-sentence, seed 1"
    study = file()

    def instead(job):
        return failing(failed)(job) or finished(job)

    launcher = InProcess(instead)
    record = ablate(study, launcher=launcher)
    assert states(record)[failed] == "failed"
    blocked = "topics, objective=next-sentence, seed 1"
    assert [name for name, state in states(record).items() if state == "blocked"] == [blocked]
    assert len(record.of_state("finished")) == 6
    [run] = record.of_state("failed")
    assert (run.status, run.message, run.attempts) == (1, "data.train is wrong", 1)
    output = capsys.readouterr().out
    log = FOLDER / run.log
    assert (
        f"failed: {failed} (status 1), output in {log}\n    a warning\n    bert-lightning: data.train is wrong\n"
        in output
    )
    assert f"failed: {failed}: data.train is wrong ({log})\n1 blocked" in output
    # The next call leaves it alone, and one with --retry-failed trains it and what was blocked.
    again = InProcess(finished)
    assert states(ablate(study, launcher=again)) == states(record)
    assert again.started == []
    retried = InProcess(finished)
    record = ablate(study, launcher=retried, retry_failed=True)
    assert retried.started == [failed, blocked]
    assert {run.state for run in record.runs} == {"finished"}
    assert {run.attempts for run in record.runs if run.stage == "pretraining"} == {1, 2}


def test_a_run_that_was_killed_is_not_started_again_in_the_same_call(capsys):
    killed = InProcess(lambda job: -9 if job.name.endswith("next-sentence, seed 1") else finished(job))
    record = ablate(file(), launcher=killed)
    assert len(killed.started) == 7
    name = "pretraining, objective=next-sentence, seed 1"
    assert (states(record)[name], states(record)["topics, objective=next-sentence, seed 1"]) == (
        "interrupted",
        "waiting",
    )
    assert f"interrupted: {name}: killed by SIGKILL" in capsys.readouterr().out
    again = InProcess(finished)
    ablate(file(), launcher=again)
    assert again.started == [name, "topics, objective=next-sentence, seed 1"]


def test_an_interrupt_stops_all_runs_and_the_record_has_their_states(monkeypatch):
    class Interrupting(InProcess):
        def run(self, job):
            if len(self.started) == 1:
                main_thread_wakes.append(job.name)
                self._stopped.wait(30)
                RunDirectory(job.directory).path.mkdir(parents=True)
                (job.directory / "manifest.json").write_text(json.dumps({"ended": "stopped by SIGTERM"}))
                return 143
            return super().run(job)

    main_thread_wakes: list[str] = []
    from bert_lightning.studies import runner

    waits = runner.wait

    def interrupted(*arguments, **named):
        if main_thread_wakes and "return_when" not in named:
            raise KeyboardInterrupt
        return waits(*arguments, **named)

    monkeypatch.setattr(runner, "wait", interrupted)
    monkeypatch.setattr(runner, "_REFRESH", 0.05)
    with pytest.raises(KeyboardInterrupt):
        ablate(file(stages=None), launcher=Interrupting(finished))
    record = StudyRecord.read(FOLDER)
    assert [run.state for run in record.runs] == ["finished", "waiting", "interrupted", "waiting"]
    assert (record.runs[2].status, record.runs[2].message) == (143, "stopped by SIGTERM")


def test_a_record_that_is_lost_is_written_again_from_the_run_directories():
    record = ablate(file(), launcher=InProcess(finished))
    (FOLDER / "study.json").unlink()
    again = InProcess()
    recovered = ablate(file(), launcher=again)
    assert again.started == []
    assert [(run.directory, run.state) for run in recovered.runs] == [
        (run.directory, run.state) for run in record.runs
    ]


def test_a_study_that_moved_goes_on():
    study = file(axes=None, seeds=[1])
    ablate(study, launcher=InProcess(lambda job: -9 if job.name.startswith("topics") else None))
    FOLDER.rename("moved")
    launcher = InProcess()
    record = ablate(study, "moved", launcher=launcher)
    assert launcher.started == ["topics, base, seed 1"]
    assert {run.state for run in record.runs} == {"finished"}


def test_runs_of_a_search_in_the_same_folder_stay_in_the_record():
    record = ablate(file(stages=None), launcher=InProcess(finished))
    trial = dataclasses.replace(record.runs[0], trial=7, directory="runs/small/0123456789ab")
    dataclasses.replace(record, runs=(*record.runs, trial), search={"arms": {}}).write(FOLDER)
    after = ablate(file(stages=None), launcher=InProcess())
    assert after.runs == (*record.runs, trial)
    assert after.search == {"arms": {}}


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (lambda: Path("studies").mkdir() or FOLDER.touch(), "is a file"),
        (lambda: FOLDER.mkdir(parents=True) or (FOLDER / "notes.txt").touch(), "holds no study (notes.txt)"),
        (lambda: FOLDER.mkdir(parents=True) or (FOLDER / "config.yaml").touch(), "is a run directory"),
        (lambda: StudyRecord("other", "", "", "0", ()).write(FOLDER), "holds the study 'other', not 'nsp'"),
    ],
)
def test_a_folder_that_is_not_the_studys_is_refused_and_left_as_it_is(prepare, expected):
    prepare()
    before = sorted(path.name for path in FOLDER.glob("*"))
    with pytest.raises(InputError) as error:
        ablate(file(), launcher=InProcess())
    assert expected in str(error.value)
    assert sorted(path.name for path in FOLDER.glob("*")) == before


def test_two_processes_in_one_folder_are_refused_with_the_name_of_the_first():
    FOLDER.mkdir(parents=True)
    code = "from bert_lightning.runs.lock import DirectoryLock as L; from pathlib import Path\n"
    code += f"lock = L(Path({str(FOLDER)!r})); lock.take(); print(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    with pytest.raises(InputError, match=f"process {child.pid} on .* runs a study there"):
        ablate(file(), launcher=InProcess())
    child.communicate(b"\n")
    assert child.returncode == 0
    assert not (FOLDER / "study.json").exists()


def test_the_dry_run_writes_nothing_and_estimates_from_finished_runs(capsys, monkeypatch):
    study = file()
    assert main(["ablate", str(study), "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "8 runs in studies/nsp: 8 waiting" in output
    assert "no estimate for 8 runs" in output
    assert not FOLDER.exists()
    record = ablate(study, launcher=InProcess(finished))
    # 10 s and 20 s for 4 steps of one arm, whose median is 3.75 s a step; two runs of another arm are missing.
    runs = [
        dataclasses.replace(run, seconds=10.0 * run.seed) if run.arm.endswith("next-sentence") else run
        for run in record.runs
    ]
    dataclasses.replace(record, runs=tuple(runs)).write(FOLDER)
    for run in record.runs:
        if run.arm.endswith("full-sentences") and run.stage == "pretraining":
            (FOLDER / run.directory / "manifest.json").unlink()
            (FOLDER / run.directory).rmdir()
    capsys.readouterr()
    dataclasses.replace(
        record,
        runs=tuple(run for run in runs if not (run.arm.endswith("full-sentences") and run.stage == "pretraining")),
    ).write(FOLDER)
    assert main(["ablate", str(study), "--dry-run", "--jobs", "2"]) == 0
    output = capsys.readouterr().out
    assert "pretraining, objective=next-sentence: 2 runs, 0 to train\n" in output
    assert "pretraining, objective=full-sentences: 2 runs, 2 to train, about 30 s\n" in output
    assert output.endswith("about 15 s with --jobs 2\n")
    # On a cluster, all of them train at the same time, and the devices of this machine do not count.
    assert main(["ablate", str(study), "--dry-run", "--launcher", "submitit"]) == 0
    assert capsys.readouterr().out.endswith(f"with --jobs {len(record.runs)}\n")


def test_more_than_a_hundred_runs_need_yes(capsys):
    study = file(seeds=list(range(26)))
    assert main(["ablate", str(study)]) == 2
    error = capsys.readouterr().err
    assert "study.yaml: the study has 104 runs, and more than 100 are started only with --yes" in error
    assert not FOLDER.exists()
    assert main(["ablate", str(study), "--dry-run"]) == 0
    assert "more than 100 runs need --yes" in capsys.readouterr().out


def test_only_the_runs_of_the_stages_that_train_need_yes(monkeypatch, capsys):
    monkeypatch.setattr(LocalLauncher, "run", lambda launcher, job: finished(job))
    study = file(seeds=list(range(26)))
    assert main(["ablate", str(study), "--stage", "pretraining", "--dry-run"]) == 0
    assert "need --yes" not in capsys.readouterr().out
    assert main(["ablate", str(study), "--stage", "pretraining"]) == 0
    study = file(seeds=list(range(60)))
    assert main(["ablate", str(study), "--stage", "pretraining"]) == 2
    assert "--stage names pretraining with 120 runs, and more than 100" in capsys.readouterr().err


def test_the_exit_status_says_whether_all_runs_finished(monkeypatch):
    monkeypatch.setattr(LocalLauncher, "run", lambda launcher, job: finished(job))
    study = file(stages=None)
    assert main(["ablate", str(study), "--jobs", "3"]) == 0
    assert main(["ablate", str(study)]) == 0
    monkeypatch.setattr(LocalLauncher, "run", lambda launcher, job: 1)
    study = file(stages=None, seeds=[1, 2, 3])
    assert main(["ablate", str(study)]) == 1
    # A failed run is left alone, and the status stays.
    assert main(["ablate", str(study)]) == 1
    monkeypatch.setattr(LocalLauncher, "run", lambda launcher, job: finished(job))
    assert main(["ablate", str(study), "--retry-failed"]) == 0


@pytest.mark.parametrize(
    "arguments", [["--jobs", "0"], ["--jobs", "-1", "--dry-run"], ["--directory", ""], ["--unknown"]]
)
def test_a_wrong_option_is_refused(arguments, capsys):
    try:
        status = main(["ablate", str(file()), *arguments])
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    assert arguments[0] in capsys.readouterr().err
    assert not FOLDER.exists()


def test_each_run_knows_its_study_from_the_environment_alone():
    launcher = InProcess(finished)
    record = ablate(file(), launcher=launcher)
    job = launcher.jobs[-1]
    assert job.environment == {
        "WANDB_RUN_GROUP": "nsp",
        "WANDB_JOB_TYPE": "topics",
        "WANDB_TAGS": "data.objective=full-sentences",
    }
    words = list(job.arguments)
    assert words[:2] == ["--run-directory", str(FOLDER / record.runs[-1].directory)]
    assert "nsp" not in " ".join(words).replace(str(FOLDER), "")


def test_an_arm_without_settings_has_no_variable_of_tags_because_wandb_refuses_an_empty_one():
    launcher = InProcess(finished)
    ablate(file(axes=None, arms={"plain": {}}), launcher=launcher)
    assert {"WANDB_TAGS" in job.environment for job in launcher.jobs} == {False}


def test_a_full_disk_ends_the_study_with_one_message(monkeypatch, capsys):
    monkeypatch.setattr(LocalLauncher, "run", lambda launcher, job: finished(job))

    def full(record, folder):
        raise OSError(28, "No space left on device", str(folder / "study.json"))

    monkeypatch.setattr(StudyRecord, "write", full)
    assert main(["ablate", str(file())]) == 1
    assert capsys.readouterr().err == "bert-lightning: studies/nsp/study.json: No space left on device\n"


def test_the_last_lines_of_a_log_leave_out_those_of_earlier_processes(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("=== started\nold\n")
    start = log.stat().st_size
    with open(log, "a") as file:
        file.write("=== started\n" + "".join(f"line {number}\n\n" for number in range(9)) + "bell \a\n")
    assert last_lines(log, 6, start) == [*(f"line {number}" for number in range(4, 9)), "bell \a"]
    assert last_lines(log, 20) == ["old", *(f"line {number}" for number in range(9)), "bell \a"]
    assert last_lines(tmp_path / "none.log", 6) == []


def test_finished_runs_are_reduced_to_their_weights_once_the_study_says_so(capsys):
    alone = {"seeds": [1], "axes": None, "stages": None}
    assert main(["ablate", str(file(**alone))]) == 0
    [run] = StudyRecord.read(FOLDER).runs
    last = (FOLDER / run.directory / "checkpoints/last.ckpt").resolve()
    assert has_training_state(last)
    capsys.readouterr()
    overrides = {"checkpoint.keep_training_state": False}
    assert main(["ablate", str(file(**alone, overrides=overrides))]) == 0
    assert "1 run in studies/nsp: 1 finished" in capsys.readouterr().out
    assert not has_training_state(last)


def test_a_real_process_trains_and_writes_its_log(capsys):
    study = file(stages=None, axes=None, seeds=[1])
    assert main(["ablate", str(study)]) == 0
    [run] = StudyRecord.read(FOLDER).runs
    assert (run.arm, run.status, run.attempts) == ("base", 0, 1)
    log = (FOLDER / run.log).read_text()
    assert log.startswith("=== ")
    assert "run directory: studies/nsp/runs/small/" in log
    assert RunDirectory(FOLDER / run.directory).read_manifest()["ended"] == "finished"
