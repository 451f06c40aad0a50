"""Commands react to signals from their first moment to their last, and never with a traceback."""

import json
import os
import signal
import subprocess
import sys

import pytest

from bert_lightning import cli
from bert_lightning.cli import training

STATUS = {"SIGTERM": 143, "SIGUSR1": 143, "SIGUSR2": 143, "SIGINT": 130}


def send(name, times=1):
    for _ in range(times):
        os.kill(os.getpid(), getattr(signal, name))


@pytest.fixture
def handlers():
    """Check that the signal handlers after a command are those from before it."""
    before = {name: signal.getsignal(getattr(signal, name)) for name in STATUS}
    yield
    assert {name: signal.getsignal(getattr(signal, name)) for name in STATUS} == before


@pytest.mark.parametrize("name", STATUS)
@pytest.mark.parametrize("function", ["_parser", "_doctor"])
def test_a_signal_before_or_in_a_command_gives_its_status_and_one_message(
    monkeypatch, capsys, handlers, name, function
):
    monkeypatch.setattr(cli, function, lambda *_: send(name))
    assert cli.main(["doctor"]) == STATUS[name]
    [message] = capsys.readouterr().err.splitlines()
    assert message == f"bert-lightning: {'interrupted' if name == 'SIGINT' else 'terminated'}"


@pytest.mark.parametrize(
    ("variables", "status"),
    [
        ({}, 0),
        ({"TORCHELASTIC_RUN_ID": "none"}, 143),
        ({"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT"}, 0),
    ],
)
def test_a_lost_terminal_ends_training_only_if_torchrun_would_kill_it(monkeypatch, handlers, variables, status):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(training, "_fit", lambda options: send("SIGHUP") or 0)
    assert cli.main(["fit", "--config", "x"]) == status


@pytest.mark.parametrize(("first", "second"), [("SIGTERM", "SIGTERM"), ("SIGTERM", "SIGINT"), ("SIGINT", "SIGTERM")])
def test_a_second_signal_does_not_interrupt_the_message_about_the_first(monkeypatch, capsys, handlers, first, second):
    complain = cli._complain

    def signalled(message, status):
        send(second, times=3)
        return complain(message, status)

    monkeypatch.setattr(cli, "_complain", signalled)
    monkeypatch.setattr(cli, "_doctor", lambda *_: send(first))
    assert cli.main(["doctor"]) == STATUS[first]
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_signal_during_an_error_message_decides_the_status(monkeypatch, handlers):
    def faulty(*_):
        raise cli.WorkError("a fault")

    complain = cli._complain
    monkeypatch.setattr(cli, "_doctor", faulty)
    monkeypatch.setattr(cli, "_complain", lambda *arguments: (send("SIGTERM"), complain(*arguments))[1])
    assert cli.main(["doctor"]) == 143


@pytest.mark.parametrize("name", STATUS)
def test_a_signal_after_the_command_does_not_change_its_end(name):
    script = f"""
import atexit, os, signal
from bert_lightning import cli
cli._doctor = lambda options: 0
atexit.register(lambda: [os.kill(os.getpid(), signal.{name}) for _ in range(3)])
cli.console()
"""
    done = subprocess.run([sys.executable, "-c", script, "doctor"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_second_interrupt_does_not_wait_for_the_clean_up():
    script = """
import os, signal
from bert_lightning import cli
def stuck(options):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
cli._doctor = stuck
cli.console()
"""
    done = subprocess.run([sys.executable, "-c", script, "doctor"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_during_scoring_gives_its_status(home, monkeypatch, handlers, name):
    from bert_lightning.tasks.pretraining.task import PretrainingTask

    monkeypatch.setattr(PretrainingTask, "validation_step", lambda *_: send(name))
    assert cli.main(["validate", "--checkpoint", str(home / "runs/whole")]) == STATUS[name]


@pytest.mark.slow
def test_training_continues_when_the_reader_of_its_output_has_left(home, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "bert_lightning", "fit", "--config", str(home / "pretraining.yaml")]
    command += ["--trainer.max_steps", "2", "--run-directory", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.wait() == 0, process.stderr.read()
    assert json.loads((run / "manifest.json").read_text())["ended"] == "finished"
