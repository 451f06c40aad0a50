"""The command `bert-lightning`: parse the arguments, run one command, and turn errors and signals into exit statuses.

Each command is a parser and a thin function, side by side in the file of its family. The function imports heavy
modules itself, so that `--help` stays fast.
"""

import argparse
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from bert_lightning.checkpoints.plain_text import printable
from bert_lightning.cli import (
    corpora,
    experiments,
    interpretation,
    prediction,
    publishing,
    representations,
    scoring,
    studies,
    training,
    views,
)
from bert_lightning.cli.parsing import Commands
from bert_lightning.cli.statuses import BAD_INPUT, FAILURE, INTERRUPTED, OK, TERMINATED
from bert_lightning.cli.streams import STANDARD_OUTPUT, drop_output, keep_standard_streams
from bert_lightning.errors import InputError, Interrupted, SharedWorkError, WorkError
from bert_lightning.runs.processes import is_first_process, is_killed_after_hang_up
from bert_lightning.version import __version__

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
_TRAINING = ("fit", "reproduce", "ablate", "search")
# The result of these commands is their output, unless --output names a file.
_PRINTING = (
    *("instances", "keys", "validate", "test", "score", "predict", "classify", "doctor", "runs", "compare", "power"),
    *("probe", "cka", "neighbors"),
)

_Handler = Callable[[int, FrameType | None], object] | int | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Returns:
        0 for success, 1 for a failure, 2 for bad input, 143 and 130 after SIGTERM and SIGINT.
    """
    return _run_guarded(arguments, {number: signal.getsignal(number) for number in (*_SIGNALS, signal.SIGHUP)})


def console() -> None:
    """Run the installed command."""
    keep_standard_streams()
    # After the command there is nothing left to stop, and a signal could only disturb the exit.
    leave(_run_guarded(None, dict.fromkeys((*_SIGNALS, signal.SIGHUP), signal.SIG_IGN)))


def leave(status: int) -> NoReturn:
    """End the process. After distributed training, end it without shutting torch's threads down.

    Shutting them down sometimes aborts the process (gloo, torch 2.13: "terminate called without an active
    exception"). torchrun then ends the other processes while the first may still be writing.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        sys.exit(status)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    # No file name can hold a zero byte.
    return "\0" not in argument


class _Terminated(BaseException):
    """A request to end this process, sent by SIGTERM, SIGUSR1 or SIGUSR2."""


class _SignalGuard:
    """Signal handler that raises an exception, so that the command can clean up before it ends.

    A second SIGINT ends the process at once.
    """

    def __init__(self) -> None:
        self.is_running = True
        self._interrupted = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.is_running:
            return
        if number != signal.SIGINT:
            raise _Terminated
        if self._interrupted:
            os._exit(INTERRUPTED)
        self._interrupted = True
        raise Interrupted


def _run_guarded(arguments: Sequence[str] | None, afterwards: dict[signal.Signals, _Handler]) -> int:
    """Run one command under a signal guard, and install the handlers of `afterwards` at its end.

    While training runs, its handlers replace the guard.
    """
    guard = _SignalGuard()
    try:
        try:
            for number in _SIGNALS:
                signal.signal(number, guard)
            return _run(arguments)
        finally:
            # A signal after the command must not interrupt the message about its end.
            guard.is_running = False
    except _Terminated:
        return _complain("terminated", TERMINATED)
    except Interrupted:
        return _complain("interrupted", INTERRUPTED)
    finally:
        for number, handler in afterwards.items():
            signal.signal(number, handler)


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    broken = next((argument for argument in words if not _is_text(argument)), None)
    if broken is not None:
        parser.error(f"the argument {broken!r} is not {sys.getfilesystemencoding().upper()} or holds a zero byte")
    options, rest = _parse(parser, [part for word in words for part in _key_and_value(word)])
    if rest and not getattr(options, "takes_overrides", False):
        # Leave out the value, because it may be a secret.
        shown = rest[0].partition("=")[0]
        options.parser.error(f"unexpected argument {shown!r}; see `bert-lightning {options.command} --help`")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    options.overrides = rest
    prints = options.command in _PRINTING or getattr(options, "print_config", None) is not None
    prints |= getattr(options, "dry_run", False)
    drop_output(not prints or getattr(options, "output", None) is not None)
    if options.command in _TRAINING:
        # Training continues after its terminal closes, unless torchrun would kill it soon after.
        on_hang_up = signal.getsignal(signal.SIGTERM) if is_killed_after_hang_up() else signal.SIG_IGN
        signal.signal(signal.SIGHUP, on_hang_up)
    # Without this variable the tokenizers library warns whenever a loader forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD") and options.command != "doctor":
            raise InputError("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, which lets files run code: unset it")
        status = options.run(options)
        # Flush now, while a full disk can still change the exit status.
        sys.stdout.flush()
        return status
    except InputError as error:
        return _complain(str(error), BAD_INPUT)
    except SharedWorkError as error:
        return _complain(str(error), error.status) if is_first_process() else error.status
    except WorkError as error:
        return _complain(str(error), error.status)
    except BrokenPipeError as error:
        drop_output(True)
        if error.filename == STANDARD_OUTPUT or options.command not in (*_TRAINING, "prepare", "convert-store"):
            # The reader of our output closed the pipe, as `head` does.
            return OK
        return _complain("a pipe was closed by its reader", FAILURE)
    except OSError as error:
        drop_output(True)
        wrong_path = isinstance(error, NotADirectoryError | IsADirectoryError | FileExistsError | PermissionError)
        wrong_path |= error.errno in (errno.EROFS, errno.ENAMETOOLONG, errno.ENOENT, errno.ELOOP)
        status = BAD_INPUT if wrong_path else FAILURE
        path = error.filename or getattr(options, "output", None) or "input or output"
        reason = "this is a file; a folder is expected" if isinstance(error, FileExistsError) else error.strerror
        return _complain(f"{path}: {reason or error}", status)
    except (Exception, SystemExit) as error:
        return _report_by_class(error)


def _key_and_value(word: str) -> list[str]:
    """Split `--key=value` whose value has a space, because argparse does not read such a word as an option.

    >>> _key_and_value("--model.keep_layers=[0, 1]"), _key_and_value("--config=a.yaml"), _key_and_value("a = b")
    (['--model.keep_layers', '[0, 1]'], ['--config=a.yaml'], ['a = b'])
    """
    key, equals, value = word.partition("=")
    return [key, value] if equals and key.startswith("--") and " " in value and " " not in key else [word]


def _parse(parser: argparse.ArgumentParser, words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse the arguments. The output of --help and --version is a result, so losing it is an error."""
    drop_output(False)
    try:
        try:
            return parser.parse_known_args(words)
        except SystemExit:
            sys.stdout.flush()
            raise
    except BrokenPipeError:
        drop_output(True)
        raise SystemExit(OK) from None
    except OSError as error:
        drop_output(True)
        raise SystemExit(_complain(f"{error.filename}: {error.strerror}", FAILURE)) from None


def _report_by_class(error: Exception | SystemExit) -> int:
    """Report errors whose classes are in heavy modules. If one was raised, its module is loaded already."""
    from bert_lightning.checkpoints.errors import CheckpointError
    from bert_lightning.training.signals import EXIT_STATUS, StoppedBySignal

    if isinstance(error, CheckpointError):
        return _complain(str(error), BAD_INPUT)
    if isinstance(error, StoppedBySignal):
        status = EXIT_STATUS[error.signal]
        if is_first_process():
            return _complain(f"{error}; the checkpoint is written, and the same command resumes the run", status)
        # torchrun ends the first process as soon as another one has failed, even while the first is still writing.
        return OK if os.environ.get("LOCAL_RANK", "0") != "0" else status
    from bert_lightning.config.extensions import own_error

    message = own_error(error)
    if message is None:
        raise error
    return _complain(message, FAILURE)


def _complain(message: str, status: int) -> int:
    if status in (INTERRUPTED, TERMINATED) and not is_first_process():
        # The first process reports for all.
        return status
    # File names and values may hold control characters.
    print(f"bert-lightning: {printable(' '.join(message.splitlines()))}", file=sys.stderr)
    return status


def _doctor(options: argparse.Namespace) -> int:
    from bert_lightning.cli.doctor import report

    return OK if report() else FAILURE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bert-lightning",
        description="Pre-train, fine-tune, score and report BERT models.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = Commands(parser)
    looking = (interpretation, representations)
    for family in (corpora, experiments, training, studies, views, scoring, prediction, *looking, publishing):
        family.add(commands)
    commands.add("doctor", _doctor, "show versions, devices, threads and missing packages")
    return parser
