"""The mode of W&B from settings and environment."""

import pytest

from bert_lightning.config.sections import WandbSettings
from bert_lightning.errors import InputError
from bert_lightning.runs.weights_and_biases import chosen_mode


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "")
    assert chosen_mode(WandbSettings(mode="offline")) == "offline"


@pytest.mark.parametrize(("value", "mode"), [("offline", "offline"), ("dryrun", "offline"), ("disabled", "disabled")])
def test_the_variable_overrides_the_settings(monkeypatch, value, mode):
    monkeypatch.setenv("WANDB_MODE", value)
    assert chosen_mode(WandbSettings(mode="online")) == mode


def test_an_unknown_value_of_the_variable_is_refused_by_its_name(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "bogus")
    with pytest.raises(InputError, match=r"WANDB_MODE is 'bogus'; it must be online, offline or disabled"):
        chosen_mode(WandbSettings(mode="offline"))
