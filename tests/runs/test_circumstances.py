"""Records of a manifest about the process that trains."""

import pytest

from bert_lightning.runs import directory


@pytest.mark.parametrize(
    ("program", "recorded"),
    [
        ("/usr/lib/python3/site-packages/bert_lightning/__main__.py", "bert-lightning fit --config 'my run.yaml'"),
        ("/home/me/.venv/bin/bert-lightning", "bert-lightning fit --config 'my run.yaml'"),
        ("train.py", "train.py fit --config 'my run.yaml'"),
        ("/home/me/other/__main__.py", "__main__.py fit --config 'my run.yaml'"),
    ],
)
def test_the_command_is_recorded_as_one_types_it_however_the_program_was_started(monkeypatch, program, recorded):
    monkeypatch.setattr("sys.argv", [program, "fit", "--config", "my run.yaml"])
    assert directory.circumstances()["command"] == recorded
