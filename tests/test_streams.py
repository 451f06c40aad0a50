"""Unreadable messages never end the work that they report; a lost result is a failure."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading

import pytest

from bert_lightning import cli
from bert_lightning.cli.streams import STANDARD_OUTPUT, Descriptor

# A command in a light process. Its output is longer than a buffer, so that it is written before the end.
COMMAND = """
import logging, os, signal, sys, warnings
from bert_lightning import cli
from bert_lightning.cli import prediction, training
logging.getLogger("another library").addHandler(logging.StreamHandler())
def command(options):
    for _ in range(3):
        print("m" * 100_000)
        print("a line", file=sys.stderr, flush=True)
        sys.stdout.buffer.write(b"bytes")
        sys.stdout.flush()
        logging.getLogger("another library").warning("of another library")
        warnings.warn("a warning")
    {more}
    with open({done!r}, "w") as file:
        file.write(f"{{file.fileno()}} {{sys.stdin.read() if {reads} else ''}}")
    return 0
training._fit = prediction._predict = command
cli.console()
"""
ARGUMENTS = {"fit": ["fit", "--config", "x"], "predict": ["predict", "--checkpoint", "x"]}


def run(tmp_path, command, redirection, more="pass", reads=False):
    """Return the exit status, the content of the command's output file, and standard error if it is open."""
    done = tmp_path / "done"
    script = COMMAND.format(done=str(done), more=more, reads=reads)
    shell = f'"$@" {redirection}; echo $? >{tmp_path}/status'
    whole = ["bash", "-c", shell, "-", sys.executable, "-c", script, *ARGUMENTS[command]]
    ended = subprocess.run(whole, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    status = int((tmp_path / "status").read_text())
    return status, done.read_text() if done.exists() else None, ended.stderr


LEFT = [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", "> >(true)", "2> >(true)", "&> >(head -c 1)"]


@pytest.mark.parametrize("redirection", LEFT)
def test_training_succeeds_with_any_state_of_its_streams(tmp_path, redirection):
    status, done, _ = run(tmp_path, "fit", redirection)
    assert status == 0
    # A file that is opened does not become one of the standard streams.
    assert int(done.split()[0]) > 2


@pytest.mark.parametrize(
    ("redirection", "status", "message"),
    [
        (">/dev/full", 1, "bert-lightning: standard output: No space left on device"),
        (">&-", 1, "bert-lightning: standard output: Bad file descriptor"),
        ("> >(head -c 1)", 0, ""),
        ("2>/dev/full", 0, ""),
        ("2>&-", 0, ""),
    ],
)
def test_a_command_fails_if_its_output_is_its_result_and_is_lost(tmp_path, redirection, status, message):
    ended, done, errors = run(tmp_path, "predict", redirection)
    assert (ended, done is not None) == (status, redirection.startswith("2"))
    assert [line for line in errors.splitlines() if line.startswith("bert-lightning")] == (
        [message] if message else []
    )
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


def test_a_result_still_buffered_at_the_end_is_a_failure_on_a_full_disk(monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    script = "from bert_lightning import cli\nfrom bert_lightning.cli import scoring\n"
    script += "scoring._score_conll = lambda options: print('{}') or 0\ncli.console()"
    command = [sys.executable, "-c", script, "score", "conll", "--gold", "x", "--predictions", "x"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr.splitlines()) == (
        1,
        ["bert-lightning: standard output: No space left on device"],
    )


@pytest.mark.parametrize("variable", ["1", ""])
@pytest.mark.parametrize(
    ("redirection", "status", "message"),
    [(">/dev/full", 1, "No space left on device"), (">&-", 1, "Bad file descriptor"), ("> >(true)", 0, None)],
)
def test_lost_help_is_a_failure_unless_its_reader_left(monkeypatch, variable, redirection, status, message):
    monkeypatch.setenv("PYTHONUNBUFFERED", variable)
    whole = ["bash", "-c", f'"$@" {redirection}', "-", sys.executable, "-m", "bert_lightning", "fit", "--help"]
    ended = subprocess.run(whole, capture_output=True, text=True)
    lines = [f"bert-lightning: standard output: {message}"] if message else []
    assert (ended.returncode, ended.stderr.splitlines()) == (status, lines)


@pytest.mark.parametrize(("variable", "lines"), [("1", True), ("", False)])
def test_lines_are_written_at_once_if_python_is_unbuffered(variable, lines):
    script = "from bert_lightning.cli import streams; streams.keep_standard_streams(); print('a line')\n"
    script += "import os; os._exit(0)"
    environment = {**os.environ, "PYTHONUNBUFFERED": variable}
    ended = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    assert ended.stdout == ("a line\n" if lines else "")


def test_a_message_holds_no_control_characters(capsys):
    assert cli._complain("a\x1b[31m\x00b\nc", 2) == 2
    assert capsys.readouterr().err == "bert-lightning: a\\x1b[31m\\x00b c\n"


def test_a_closed_standard_input_is_an_empty_one(tmp_path):
    status, done, _ = run(tmp_path, "fit", "<&-", reads=True)
    assert (status, done.split()) == (0, ["3"])


def test_characters_that_the_terminal_lacks_are_escaped(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    status, _, errors = run(tmp_path, "predict", ">/dev/null", more="print('日'); print('日', file=sys.stderr)")
    assert (status, "\\u65e5" in errors) == (0, True)


def test_training_continues_when_its_terminal_goes_away(tmp_path):
    """Imitate a broken connection: SIGHUP to the whole group, and a terminal that takes no more output."""
    master, terminal = pty.openpty()
    done = tmp_path / "done"
    script = COMMAND.format(done=str(done), more="print('gone' * 1000, flush=True)", reads=False)
    waits = "print('ready', flush=True); signal.sigwait({signal.SIGUSR2})"
    script = script.replace(
        "    for _", f"    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); {waits}\n    for _"
    )
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
    process = subprocess.Popen([sys.executable, "-c", script, *ARGUMENTS["fit"]], start_new_session=True, **streams)
    os.close(terminal)
    assert b"ready" in os.read(master, 100)
    os.close(master)
    os.killpg(process.pid, signal.SIGHUP)
    os.kill(process.pid, signal.SIGUSR2)
    assert process.wait(60) == 0
    assert done.exists()


def test_a_descriptor_drops_unwritable_output_and_returns_its_size():
    reader, writer = os.pipe()
    os.close(reader)
    raw = Descriptor(writer, was_closed=False)
    assert raw.write(b"lost") == 4
    os.close(writer)
    assert raw.write(memoryview(b"lost")) == 4


def test_a_slow_reader_of_a_non_blocking_descriptor_gets_everything():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    received = []
    raw = Descriptor(writer, was_closed=False)
    size = 1 << 18
    thread = threading.Thread(
        target=lambda: received.append(sum(len(os.read(reader, 4096)) for _ in range(size // 4096)))
    )
    left = memoryview(b"x" * size)
    left = left[raw.write(left) :]
    thread.start()
    while left:
        left = left[raw.write(left) :]
    thread.join(60)
    assert received == [size]
    os.close(reader)
    os.close(writer)


def test_an_error_of_standard_output_names_it():
    with open("/dev/full", "w") as full:
        saved = os.dup(1)
        try:
            os.dup2(full.fileno(), 1)
            raw = Descriptor(1, was_closed=False)
            raw.drops = False
            with pytest.raises(OSError, match="No space left") as caught:
                raw.write(b"x")
        finally:
            os.dup2(saved, 1)
            os.close(saved)
    assert caught.value.filename == STANDARD_OUTPUT


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [[], ["--trainer.devices", "2"], ["--data.num_workers", "2"], ["--wandb.mode", "offline"]]
)
@pytest.mark.parametrize("redirection", ["&> >(true)", "<&- >&- 2>&-", "&>/dev/full"])
def test_every_process_of_a_training_continues_without_its_streams(
    home, tmp_path, monkeypatch, arguments, redirection
):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "bert_lightning", "fit", "--config", str(home / "pretraining.yaml")]
    command += ["--trainer.max_steps", "3", "--run-directory", str(folder), "--wandb.mode", "disabled", *arguments]
    assert subprocess.run(["bash", "-c", f'"$@" {redirection}', "-", *command]).returncode == 0
    assert json.loads((folder / "manifest.json").read_text())["ended"] == "finished"


@pytest.mark.slow
def test_the_progress_bar_survives_the_loss_of_its_terminal(home, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "bert_lightning", "fit", "--config", str(home / "pretraining.yaml")]
    command += ["--trainer.max_steps", "200", "--run-directory", str(folder), "--trainer.devices", "2"]
    master, terminal = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
    process = subprocess.Popen(command, start_new_session=True, **streams)
    os.close(terminal)
    shown = b""
    while b"validation at step" not in shown:
        shown += os.read(master, 4096)
    os.close(master)
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(120) == 0
    assert json.loads((folder / "manifest.json").read_text())["ended"] == "finished"
