"""A sweep of W&B trains what `ablate` plans, run for run, in the same directories."""

from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps import utils as sweep_utils

from bert_lightning.cli import main
from bert_lightning.config.experiment import load_experiment
from bert_lightning.runs.directory import RunDirectory, default_directory
from bert_lightning.studies.plan import plan_runs
from bert_lightning.studies.record import StudyRecord
from bert_lightning.studies.study_file import read_study
from tests.support.studies import write_experiments, write_study

# Values that W&B itself would write so that `fit` reads something else: null and a list.
ARMS = {
    "plain": {},
    "no clipping": {"trainer.gradient_clip_val": None},
    "other moments": {"optimizer.betas": [0.9, 0.98]},
    "a name like a variable": {"wandb.project": "$${ODD}"},
}


@pytest.fixture
def study(tmp_path, monkeypatch, store, validation_store, tables):
    """Return a function that writes a study file."""
    monkeypatch.chdir(tmp_path)
    write_experiments(tmp_path, store, validation_store, tables)
    return lambda **changed: write_study(Path("study.yaml"), **changed)


def commands(definition):
    """Return the commands of a sweep's workers, as W&B's own agent makes them."""
    parameters = definition["parameters"]
    for config in parameters["config"]["values"]:
        for seed in parameters["seed_everything"]["values"]:
            values = {"config": {"value": config}, "seed_everything": {"value": seed}}
            made = sweep_utils.create_sweep_command_args({"args": values})
            made["env"] = ["/usr/bin/env"]
            words = sweep_utils.create_sweep_command(definition["command"])
            yield [each for word in words for each in (made[word[2:-1]] if word.startswith("${") else [word])]


def test_the_workers_train_exactly_the_runs_of_the_plan(study, monkeypatch):
    path = study(stages=None, axes=None, arms=ARMS, compare={"metric": "val/mlm_loss"})
    assert main(["ablate", str(path), "--launcher", "wandb"]) == 0
    definition = yaml.safe_load(Path("studies/nsp/sweep.yaml").read_text())
    assert (definition["name"], definition["method"]) == ("nsp", "grid")
    assert definition["metric"] == {"name": "val/mlm_loss", "goal": "minimize"}
    found = []
    for environment, *words in commands(definition):
        assert environment == "/usr/bin/env"
        variables = dict(word.split("=", 1) for word in words[: words.index("python")])
        assert variables["WANDB_RUN_GROUP"] == "nsp"
        assert variables["WANDB_JOB_TYPE"] == "training"
        monkeypatch.setenv("BERT_LIGHTNING_RUNS", variables["BERT_LIGHTNING_RUNS"])
        module, package, command, config, seed = words[words.index("python") + 1 :]
        assert (module, package, command) == ("-m", "bert_lightning", "fit")
        experiment = load_experiment(config.removeprefix("--config="), [seed])
        found.append(str(default_directory(experiment)))
    assert found == [f"studies/nsp/{run.directory}" for run in plan_runs(read_study(path))]
    assert len(set(found)) == 8


def test_ablate_takes_the_runs_of_workers_into_the_study(study, monkeypatch, capsys):
    path = study(stages=None, axes=None, seeds=[1])
    assert main(["ablate", str(path), "--launcher", "wandb"]) == 0
    out = capsys.readouterr().out
    assert "wandb sweep --project bert_lightning studies/nsp/sweep.yaml" in out
    assert "bert-lightning ablate study.yaml" in out
    [(_, *words)] = commands(yaml.safe_load(Path("studies/nsp/sweep.yaml").read_text()))
    for variable in words[: words.index("python")]:
        monkeypatch.setenv(*variable.split("=", 1))
    # W&B names the run of a worker.
    monkeypatch.setenv("WANDB_SWEEP_ID", "abcd1234")
    monkeypatch.setenv("WANDB_RUN_ID", "wxyz9876")
    assert main(words[words.index("fit") :]) == 0
    monkeypatch.delenv("WANDB_RUN_ID")
    assert main(["ablate", str(path)]) == 0
    [run] = StudyRecord.read(Path("studies/nsp")).runs
    assert (run.state, run.attempts) == ("finished", 0)
    manifest = RunDirectory(Path("studies/nsp") / run.directory).read_manifest()
    assert manifest["run_id"] == "wxyz9876"
    assert manifest["sessions"][0]["wandb"] == {"group": "nsp", "job_type": "training", "tags": []}
    assert len(manifest["sessions"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "study.yaml: line 11: a W&B sweep cannot make a stage wait for another one"),
        (["--jobs", "2"], "--jobs does nothing with --launcher wandb"),
        (["--retry-failed"], "--retry-failed does nothing with --launcher wandb, which trains nothing"),
        (["--retry-failed", "--dry-run"], "--retry-failed does nothing with --dry-run, which changes nothing"),
        (["--submitit.timeout", "3"], "--submitit.timeout does nothing without --launcher submitit"),
        (["--optimizer.name", "adamw"], "unexpected argument '--optimizer.name'"),
    ],
)
def test_what_a_sweep_cannot_say_is_one_message_and_nothing_is_written(study, capsys, words, message):
    path = study()
    assert main(["ablate", str(path), "--launcher", "wandb", *words]) == 2
    assert message in capsys.readouterr().err
    assert not Path("studies").exists()
