"""The command `bert-lightning`: from arguments to an exit status, and what faults and signals make of it.

A command is a parser and a thin function, side by side in the file of its family; what is heavy is imported inside.
"""

import argparse
import errno
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from bert_lightning.checkpoints.plain_text import printable
from bert_lightning.cli import corpora, prediction, publishing, scoring, training
from bert_lightning.cli.parsing import Commands
from bert_lightning.cli.statuses import BAD_INPUT, FAILURE, INTERRUPTED, OK, TERMINATED
from bert_lightning.cli.streams import STANDARD_OUTPUT, drop_output, keep_standard_streams
from bert_lightning.errors import InputError, Interrupted, SharedWorkError, WorkError
from bert_lightning.runs.processes import is_first_process, is_killed_after_hang_up
from bert_lightning.version import __version__

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_TRAINING = ("fit", "reproduce")
# Commands whose result is what they print, unless --output names a file.
_PRINTING = ("instances", "validate", "test", "score", "predict", "doctor")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status: 0 success, 1 failure, 2 bad input, 143 and 130 on signals."""
    return _heeding_signals(arguments, {number: signal.getsignal(number) for number in (*_SIGNALS, signal.SIGHUP)})


def console() -> None:
    """The entry point of the installed command."""
    keep_standard_streams()
    # Behind the command a signal has nothing left to end, but may tear the exit.
    leave(_heeding_signals(None, dict.fromkeys((*_SIGNALS, signal.SIGHUP), signal.SIG_IGN)))


def leave(status: int) -> NoReturn:
    """End the process; one that trained with others without taking torch's threads down.

    Taking them down sometimes aborts the process (gloo, torch 2.13: "terminate called without an active exception").
    torchrun then ends the others while the first may still be writing.
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
    # No name of a file can hold it.
    return "\0" not in argument


class _Terminated(BaseException):
    """A signal asked this process to end."""


class _Heed:
    """Ends the command by an exception, so that what was begun is tidied up; a second SIGINT does not wait."""

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


def _heeding_signals(arguments: Sequence[str] | None, behind: dict[signal.Signals, Any]) -> int:
    """Run one command; training, while it runs, takes the signals over. `behind` handles them afterwards."""
    heed = _Heed()
    try:
        try:
            for number in _SIGNALS:
                signal.signal(number, heed)
            return _guarded(arguments)
        finally:
            # What comes behind the command, or while it is said how it ended, tears nothing.
            heed.is_running = False
    except _Terminated:
        return _complain("terminated", TERMINATED)
    except Interrupted:
        return _complain("interrupted", INTERRUPTED)
    finally:
        for number, handler in behind.items():
            signal.signal(number, handler)


def _guarded(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    broken = next((argument for argument in given if not _is_text(argument)), None)
    if broken is not None:
        parser.error(f"the argument {broken!r} is not {sys.getfilesystemencoding().upper()} or holds a zero byte")
    options, rest = _parsed(parser, given)
    if rest and not getattr(options, "takes_overrides", False):
        # A value may be a secret.
        shown = rest[0].partition("=")[0]
        options.parser.error(f"unexpected argument {shown!r}; see `bert-lightning {options.command} --help`")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    options.overrides = rest
    drop_output(options.command not in _PRINTING or getattr(options, "output", None) is not None)
    if options.command in _TRAINING:
        # A training must not end with the terminal that started it, except where it would be killed soon after.
        ends = signal.getsignal(signal.SIGTERM) if is_killed_after_hang_up() else signal.SIG_IGN
        signal.signal(signal.SIGHUP, ends)
    # Said outright, or the tokenizers library warns whenever a loader forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD") and options.command != "doctor":
            raise InputError("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, with which files can run code: unset it")
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
        if error.filename == STANDARD_OUTPUT or options.command not in (*_TRAINING, "prepare"):
            # The reader of our output closed the pipe, as `head` does.
            return OK
        return _complain("a pipe broke", FAILURE)
    except OSError as error:
        drop_output(True)
        wrong_path = isinstance(error, NotADirectoryError | IsADirectoryError | FileExistsError | PermissionError)
        wrong_path |= error.errno in (errno.EROFS, errno.ENAMETOOLONG, errno.ENOENT, errno.ELOOP)
        status = BAD_INPUT if wrong_path else FAILURE
        place = error.filename or getattr(options, "output", None) or "input or output"
        reason = "this is a file; a folder is expected" if isinstance(error, FileExistsError) else error.strerror
        return _complain(f"{place}: {reason or error}", status)
    except Exception as error:
        return _by_class(error)


def _parsed(parser: argparse.ArgumentParser, given: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse the arguments; what --help and --version print is a result, so its loss is an error."""
    drop_output(False)
    try:
        try:
            return parser.parse_known_args(given)
        except SystemExit:
            sys.stdout.flush()
            raise
    except BrokenPipeError:
        drop_output(True)
        raise SystemExit(OK) from None
    except OSError as error:
        drop_output(True)
        raise SystemExit(_complain(f"{error.filename}: {error.strerror}", FAILURE)) from None


def _by_class(error: Exception) -> int:
    """Endings whose classes live in heavy modules, which are loaded by now if one of them was raised."""
    from bert_lightning.checkpoints.errors import CheckpointError
    from bert_lightning.training.signals import EXIT_STATUS, StoppedBySignal

    if isinstance(error, CheckpointError):
        return _complain(str(error), BAD_INPUT)
    if isinstance(error, StoppedBySignal):
        status = EXIT_STATUS[error.signal]
        if is_first_process():
            return _complain(f"{error}; the checkpoint is written, and the same command goes on", status)
        # torchrun ends the first process, which may still be writing, as soon as another one has failed.
        return OK if os.environ.get("LOCAL_RANK", "0") != "0" else status
    raise error


def _complain(message: str, status: int) -> int:
    if status in (INTERRUPTED, TERMINATED) and not is_first_process():
        # The first process says it for all.
        return status
    # Names of files and values may hold control characters of the terminal.
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
    for family in (corpora, training, scoring, prediction, publishing):
        family.add(commands)
    commands.add("doctor", _doctor, "show versions, devices, threads and what is missing")
    return parser
