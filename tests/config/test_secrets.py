"""Secrets: those of the environment are in no file that a run leaves, and a configuration cannot hold one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bert_lightning.cli import main
from bert_lightning.config.experiment import load_experiment
from bert_lightning.errors import InputError

PLANTED = {
    "WANDB_API_KEY": "f00dfeed" * 5,
    "HF_TOKEN": "hf_PlantedPlantedPlantedPlanted12",
    "OPENAI_API_KEY": "sk-planted-0123456789abcdefghij",
    "AWS_SECRET_ACCESS_KEY": "Planted/Secret+0123456789",
}


def test_no_file_of_a_run_holds_a_secret_of_the_environment(home, tmp_path):
    command = [sys.executable, "-m", "bert_lightning", "fit", "--config", str(home / "pretraining.yaml")]
    command += ["--run-directory", "run", "--trainer.max_steps", "2", "--wandb.project", "to-be-found"]
    # Files that a library keeps for itself are searched, too.
    environment = {**os.environ, **PLANTED, "HOME": str(tmp_path), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), environment.get("PYTHONPATH")]))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(path.suffix == ".wandb" and b"to-be-found" in content for path, content in written.items())
    assert any(path.suffix == ".ckpt" for path in written)
    for name, secret in PLANTED.items():
        hits = [str(path) for path, content in written.items() if secret.encode() in content]
        assert not hits, name
        assert secret not in done.stdout + done.stderr, name


SECTIONS = [
    "",
    "wandb.",
    "trainer.",
    "data.",
    "data.masking.",
    "model.",
    "model.config.",
    "optimizer.",
    "checkpoint.",
]


@pytest.mark.parametrize(
    ("section", "key"),
    [*((section, "api_key") for section in SECTIONS), *(("wandb.", key) for key in ("token", "password", "secret"))],
)
def test_a_secret_as_a_key_is_refused_without_showing_it(home, tmp_path, monkeypatch, capsys, key, section):
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((home / "pretraining.yaml").read_text())
    inner = values
    for name in section.split(".")[:-1]:
        inner = inner.setdefault(name, {})
    inner[key] = PLANTED["OPENAI_API_KEY"]
    Path("with.yaml").write_text(yaml.safe_dump(values))
    plain, run = ["fit", "--config", str(home / "pretraining.yaml")], ["--run-directory", "run"]
    for command in (
        ["fit", "--config", "with.yaml", *run],
        [*plain, *run, f"--{section}{key}", PLANTED["OPENAI_API_KEY"]],
        [*plain, *run, f"--{section}{key}={PLANTED['OPENAI_API_KEY']}"],
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert key in error
        assert PLANTED["OPENAI_API_KEY"] not in error
    assert not Path("run").exists()


def test_an_option_that_a_command_does_not_have_is_named_without_its_value(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "--checkpoint", "run", f"--token={PLANTED['HF_TOKEN']}"])
    error = capsys.readouterr().err
    assert "--token" in error
    assert PLANTED["HF_TOKEN"] not in error


@pytest.mark.parametrize(
    "name", [*PLANTED, "api_key", "DB_PASSWORD", "APIKEY", "PGPASSWORD", "API_KEYS", "GITHUB_PAT"]
)
def test_a_variable_that_names_a_secret_is_not_filled_in(home, monkeypatch, name):
    monkeypatch.setenv(name, "planted")
    with pytest.raises(InputError, match="which looks like a secret") as caught:
        load_experiment([home / "pretraining.yaml"], ["--wandb.project", f"${{{name}}}"])
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("name", ["TOKENIZER", "KEYBOARD", "DATA_HOME", "TOKENS"])
def test_other_variables_are_filled_in(home, monkeypatch, name):
    monkeypatch.setenv(name, "filled")
    experiment = load_experiment([home / "pretraining.yaml"], ["--wandb.project", f"${{{name}}}"])
    assert experiment.wandb.project == "filled"
