"""The default precision is that of the device, and a run that began with another one keeps it."""

import pytest
import yaml

from bert_lightning.cli import main
from bert_lightning.config.experiment import load_experiment
from bert_lightning.runs import auto_settings
from bert_lightning.runs.directory import RunDirectory

VALUES = {"experiment": "a", "task": "text-classification", "model": {"size": "tiny"}, "trainer": {"max_steps": 1}}


@pytest.mark.parametrize(("fast", "expected"), [(True, "bf16-mixed"), (False, "32")])
def test_without_a_setting_the_device_decides(monkeypatch, fast, expected):
    monkeypatch.setattr(auto_settings, "has_fast_bfloat16", lambda accelerator: fast)
    settled = auto_settings.settle_precision(load_experiment([], [], VALUES), None)
    assert settled.trainer.precision == expected


@pytest.mark.parametrize("saved", ["32", "bf16-true"])
def test_a_run_of_an_earlier_version_keeps_its_precision(monkeypatch, tmp_path, saved):
    monkeypatch.setattr(auto_settings, "has_fast_bfloat16", lambda accelerator: True)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**VALUES, "trainer": {"max_steps": 1, "precision": saved}}))
    settled = auto_settings.settle_precision(load_experiment([], [], VALUES), RunDirectory(tmp_path))
    assert settled.trainer.precision == saved


@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("fast", [True, False])
def test_fit_tells_that_bfloat16_is_emulated(home, tmp_path, monkeypatch, capsys, fast, precision):
    monkeypatch.setattr("bert_lightning.runs.fit.has_fast_bfloat16", lambda accelerator: fast)
    command = ["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", str(tmp_path / "run")]
    assert main([*command, "--trainer.max_steps", "1", "--trainer.precision", precision]) == 0
    assert ("emulates" in capsys.readouterr().out) == (not fast and precision != "32")
