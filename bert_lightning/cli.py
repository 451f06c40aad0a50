"""The command `bert-lightning`: one thin function a command; what is heavy is imported inside them."""

import argparse
import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from bert_lightning.errors import InputError, Interrupted, SharedWorkError, WorkError
from bert_lightning.version import __version__

OK, FAILURE, BAD_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
FORMATS = ("huggingface", "onnx")
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
LAYOUTS = ("auto", "sentences", "paragraphs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status: 0 success, 1 failure, 2 bad input, 143 and 130 on signals."""
    return _heeding_signals(arguments, {number: signal.getsignal(number) for number in _SIGNALS})


def console() -> None:
    """The entry point of the installed command."""
    # Behind the command a signal has nothing left to end, but may tear the exit.
    sys.exit(_heeding_signals(None, dict.fromkeys(_SIGNALS, signal.SIG_IGN)))


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


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
        parser.error(f"the argument {broken!r} is not UTF-8")
    options, rest = parser.parse_known_args(given)
    if rest and not getattr(options, "takes_overrides", False):
        # A value may be a secret.
        shown = rest[0].partition("=")[0]
        options.parser.error(f"unexpected argument {shown!r}; see `bert-lightning {options.command} --help`")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    options.overrides = rest
    # Said outright, or the tokenizers library warns whenever a loader forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD") and options.command != "doctor":
            raise InputError("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, with which files can run code: unset it")
        return options.run(options)
    except InputError as error:
        return _complain(str(error), BAD_INPUT)
    except SharedWorkError as error:
        from bert_lightning.runs.training import is_first_process

        return _complain(str(error), error.status) if is_first_process() else error.status
    except WorkError as error:
        return _complain(str(error), error.status)
    except BrokenPipeError:
        # The reader of our output went away, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        wrong_path = isinstance(error, NotADirectoryError | IsADirectoryError | FileExistsError | PermissionError)
        wrong_path |= error.errno in (errno.EROFS, errno.ENAMETOOLONG, errno.ENOENT)
        status = BAD_INPUT if wrong_path else FAILURE
        return _complain(f"{error.filename or 'input or output'}: {error.strerror or error}", status)
    except Exception as error:
        return _by_class(error)


def _by_class(error: Exception) -> int:
    """Endings whose classes live in heavy modules, which are loaded by now if one of them was raised."""
    from bert_lightning.checkpoints.errors import CheckpointError
    from bert_lightning.training.signals import EXIT_STATUS, StoppedBySignal

    if isinstance(error, CheckpointError):
        return _complain(str(error), BAD_INPUT)
    if isinstance(error, StoppedBySignal):
        if os.environ.get("LOCAL_RANK", "0") != "0":
            # The first process says how it ended. Lightning kills that one as soon as another has failed.
            return OK
        return _complain(
            f"{error}; the checkpoint is written, and the same command goes on", EXIT_STATUS[error.signal]
        )
    raise error


def _complain(message: str, status: int) -> int:
    if status in (INTERRUPTED, TERMINATED) and os.environ.get("LOCAL_RANK", "0") != "0":
        # The first process says it for all.
        return status
    print(f"bert-lightning: {' '.join(message.splitlines())}", file=sys.stderr)
    return status


# -- commands ----------------------------------------------------------------------------------------------------


def _tokenizer(options: argparse.Namespace) -> int:
    from bert_lightning.data.documents import read_passages
    from bert_lightning.data.lines import Repairs
    from bert_lightning.runs.corpora import count
    from bert_lightning.text.vocabulary import train_wordpiece
    from bert_lightning.text.wordpiece import TOKENIZER_FILES, load_tokenizer

    if options.min_frequency < 1:
        raise InputError(f"--min-frequency is {options.min_frequency}; it must be at least 1")
    sources, corpus = _sources(options), _corpus_format(options)
    output = options.output
    if output.exists() and (not output.is_dir() or {p.name for p in output.iterdir()} - {*TOKENIZER_FILES}):
        raise InputError(f"{output} exists and holds something else: choose another --output")
    repairs = Repairs()

    def texts() -> Any:
        with _text_progress(sources, "counting words") as done:
            for source in sources:
                for passage in read_passages(source, corpus, repairs):
                    yield from passage.segments
                    done(sum(map(len, passage.segments)))

    tokenizer = train_wordpiece(
        texts(), options.vocab_size, not options.cased, options.min_frequency, options.special_tokens
    )
    if output.exists() and any(output.iterdir()):
        try:
            same = load_tokenizer(output).fingerprint == tokenizer.fingerprint
        except InputError:
            same = False
        if not same:
            raise InputError(f"{output} holds another vocabulary: choose another --output")
    try:
        tokenizer.save(output)
    except OSError as error:
        raise InputError(f"{output}: cannot be written: {error.strerror or error}") from None
    size = len(tokenizer)
    casing = "cased" if options.cased else "uncased"
    if repairs.num_replaced:
        print(f"{count(repairs.num_replaced, 'undecodable byte')} replaced")
    print(f"{size:,} entries, {casing}, from {count(len(sources), 'source')}: {output}")
    if size < options.vocab_size:
        print(
            f"The text has no more than {size:,} pieces that occur {options.min_frequency} times; "
            f"{options.vocab_size:,} were asked for."
        )
    return OK


def _prepare(options: argparse.Namespace) -> int:
    from bert_lightning.data.preparation import prepare
    from bert_lightning.runs.corpora import summary_lines
    from bert_lightning.text.wordpiece import load_tokenizer

    if options.scheduler is not None and options.workers is not None:
        raise InputError(
            "--workers counts processes of this machine: with --scheduler the cluster's workers are used"
        )
    sources = _sources(options)
    tokenizer = load_tokenizer(options.tokenizer, options.cased or None)
    _check_casing(tokenizer)
    with _text_progress(sources, "encoding") as done:
        summary = prepare(
            sources,
            tokenizer,
            options.output,
            corpus=_corpus_format(options),
            num_workers=options.workers,
            scheduler=options.scheduler,
            progress=done,
        )
    print(*summary_lines(summary, options.output), sep="\n")
    return OK


def _instances(options: argparse.Namespace) -> int:
    import json
    from itertools import islice

    from bert_lightning.checkpoints.files import write_atomically
    from bert_lightning.runs.corpora import Terminal, count, shown_instance
    from bert_lightning.runs.instances import instances

    if options.output is not None and options.output.is_dir():
        raise InputError(f"--output {options.output} is a folder; a file is expected")
    number = 0
    lines = instances(options, _sources(options), _corpus_format(options), _console())
    if options.output is None:
        console = Terminal(highlight=False)
        for number, line in enumerate(islice(lines, options.show)):
            console.print(shown_instance(number, json.loads(line)))
        return OK

    def write(file: Any) -> None:
        nonlocal number
        for line in lines:
            file.write(line.encode())
            number += 1

    write_atomically(options.output, write)
    print(f"{count(number, 'instance')}: {options.output}")
    return OK


def _fit(options: argparse.Namespace) -> int:
    if options.deterministic:
        options.overrides += ["--trainer.deterministic", "true"]
    if options.seeds is not None:
        if options.profile:
            raise InputError("--profile is of one run: leave --seeds out")
        return _fit_seeds(options)
    from bert_lightning.runs.experiment import load_experiment

    files = [Path(file) for file in options.config]
    experiment = load_experiment(files, options.overrides, None, options.allow_module)

    from bert_lightning.runs.training import choose_directory, fit, is_first_process

    directory = choose_directory(experiment, options.run_directory, options.resume)
    metrics = fit(experiment, directory, options.resume, profile=options.profile)
    if metrics is None:
        print(f"finished before: {directory.path} (a new one: --resume never)")
    elif is_first_process():
        from bert_lightning.runs.published import compared

        _print_metrics(metrics)
        print(*compared(experiment.published, metrics), f"run directory: {directory.path}", sep="\n")
    return OK


def _reproduce(options: argparse.Namespace) -> int:
    from bert_lightning.runs.reproduction import reproduce

    comparison = reproduce(options.run_directory, options.output, options.allow_module)
    if comparison is None:
        return OK
    print(*comparison.lines(), sep="\n")
    return OK if comparison.equal else FAILURE


def _fit_seeds(options: argparse.Namespace) -> int:
    from bert_lightning.runs.seeds import exit_status, fit_seeds, summary_lines

    own = (options.overrides, options.seeds, options.run_directory, options.resume, options.allow_module)
    runs = fit_seeds(options.config, *own)
    print(*summary_lines(runs, len(options.seeds)), sep="\n")
    return exit_status(runs)


def _score(options: argparse.Namespace) -> int:
    from bert_lightning.runs.scoring import score

    files = [Path(file) for file in options.config or ()]
    scored = score(options.checkpoint, options.command, files, options.overrides, options.allow_module)
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return OK
    if scored.report:
        print(scored.report, end="\n\n")
    _print_metrics(scored.metrics)
    if scored.predictions is not None:
        print(f"predictions: {os.path.relpath(scored.predictions)}")
    return OK


def _predict(options: argparse.Namespace) -> int:
    import json

    from bert_lightning.runs.predictor import load

    predictor = load(options.checkpoint)
    with _row_progress("predicting", options.output is not None) as advance:
        lines = (
            json.dumps(row, ensure_ascii=False) + "\n"
            for row in advance(predictor.predict_rows(predictor.read(options.input)))
        )
        _write_lines(lines, options.output)
    return OK


def _features(options: argparse.Namespace) -> int:
    from bert_lightning.runs.features import write_features

    with _row_progress("encoding", True) as advance:
        line = write_features(
            options.checkpoint,
            options.input,
            options.output,
            layers=options.layers,
            form=options.form,
            text_column=options.text_column,
            max_seq_length=options.max_seq_length,
            progress=advance,
        )
    print(line)
    return OK


def _submission(options: argparse.Namespace) -> int:
    from bert_lightning.runs.submission import write_submission

    for path in write_submission(options.runs, options.output):
        print(f"{path.name:<12} {path}")
    print(f"submission: {options.output}")
    return OK


def _score_conll(options: argparse.Namespace) -> int:
    from bert_lightning.runs.score_files import score_conll_files

    return _print_json(score_conll_files(options.gold, options.predictions, options.scheme))


def _score_squad_v1(options: argparse.Namespace) -> int:
    from bert_lightning.runs.score_files import score_squad_v1_files

    return _print_json(score_squad_v1_files(options.gold, options.predictions))


def _score_squad_v2(options: argparse.Namespace) -> int:
    from bert_lightning.runs.score_files import score_squad_v2_files

    return _print_json(
        score_squad_v2_files(
            options.gold, options.predictions, options.no_answer_probability, options.no_answer_threshold
        )
    )


def _export(options: argparse.Namespace) -> int:
    from bert_lightning.runs.export import export

    print(*export(options.checkpoint, options.format, options.output), sep="\n")
    return OK


def _report(options: argparse.Namespace) -> int:
    from bert_lightning.runs.corpora import count
    from bert_lightning.runs.report import write_report

    write_report(options.runs, options.output)
    print(f"report of {count(len(options.runs), 'run')}: {options.output}")
    return OK


def _doctor(options: argparse.Namespace) -> int:
    from bert_lightning.runs.doctor import report

    return OK if report() else FAILURE


# -- the parser --------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bert-lightning",
        description="Pre-train, fine-tune, score and report BERT models.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str, details: str = "", overrides: bool = False) -> Any:
        sub = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}. {details}", allow_abbrev=False
        )
        sub.set_defaults(run=run, parser=sub, takes_overrides=overrides)
        return sub

    tokenizer = command("tokenizer", _tokenizer, "train a WordPiece vocabulary")
    _corpus_options(tokenizer)
    tokenizer.set_defaults(language="en")
    tokenizer.add_argument("--vocab-size", type=_whole_number, required=True, metavar="N", help="number of entries")
    tokenizer.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="gets vocab.txt and tokenizer.json"
    )
    tokenizer.add_argument("--cased", action="store_true", help="keep case and accents")
    tokenizer.add_argument(
        "--min-frequency", type=_whole_number, default=2, metavar="N", help="a piece must occur so often (default: 2)"
    )
    tokenizer.add_argument(
        "--special-tokens",
        nargs="+",
        default=[],
        metavar="TOKEN",
        help="further entries, such as [E1], that are never split and never masked",
    )

    prepare = command(
        "prepare", _prepare, "encode a corpus into a token store", "Restartable: finished shards are kept."
    )
    _corpus_options(prepare)
    prepare.add_argument(
        "--tokenizer",
        required=True,
        metavar="DIR_OR_VOCAB",
        help="folder with vocab.txt, or a vocabulary file",
    )
    prepare.add_argument("--output", type=Path, required=True, metavar="DIR", help="the token store")
    prepare.add_argument("--workers", type=_whole_number, metavar="N", help="processes (default: one a core)")
    prepare.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that does the work instead")
    prepare.add_argument("--cased", action="store_true", help="the vocabulary file is cased")
    _language_option(prepare)

    instances = command(
        "instances",
        _instances,
        "look at pre-training instances",
        "Shows them, or writes them all as JSON lines. google: the published generator, draw for draw; input lines "
        "are segments, and blank lines end documents. dynamic: what training draws.",
    )
    _corpus_options(instances)
    instances.add_argument(
        "--tokenizer", required=True, metavar="DIR_OR_VOCAB", help="folder with vocab.txt, or a vocabulary file"
    )
    instances.add_argument("--cased", action="store_true", help="the vocabulary file is cased")
    _language_option(instances)
    instances.add_argument("--algorithm", choices=("google", "dynamic"), default="dynamic", help="default: dynamic")
    instances.add_argument("--max-seq-length", type=_whole_number, default=128, metavar="N", help="default: 128")
    instances.add_argument(
        "--max-predictions-per-seq", type=_whole_number, default=20, metavar="N", help="default: 20"
    )
    instances.add_argument("--masked-lm-prob", type=float, default=0.15, metavar="P", help="default: 0.15")
    instances.add_argument(
        "--dupe-factor", type=_whole_number, metavar="N", help="passes over the text; google only, default 10"
    )
    instances.add_argument("--short-seq-prob", type=float, default=0.1, metavar="P", help="default: 0.1")
    instances.add_argument("--whole-word", action="store_true", help="mask whole words")
    instances.add_argument("--masking", metavar="NAME", help="dynamic only: token, whole-word, span, n-gram")
    instances.add_argument("--objective", metavar="NAME", help="dynamic only: next-sentence, sentence-order, ...")
    instances.add_argument(
        "--epoch", type=_whole_number, metavar="N", help="dynamic only: which pass over the text, from 0"
    )
    instances.add_argument("--seed", type=int, default=12345, metavar="N", help="default: 12345")
    instances.add_argument(
        "--show", type=_whole_number, default=10, metavar="N", help="how many to show without --output (default: 10)"
    )
    instances.add_argument("--output", type=Path, metavar="FILE", help="gets all of them as JSON lines")

    fit = command(
        "fit",
        _fit,
        "train an experiment",
        "Keys of the experiment are set with --key.sub value.",
        overrides=True,
    )
    fit.add_argument(
        "--config",
        nargs="+",
        action="extend",
        required=True,
        metavar="FILE",
        help="experiment files; later ones win",
    )
    fit.add_argument(
        "--run-directory",
        type=Path,
        metavar="DIR",
        help="default: runs/<experiment>/<hash of the configuration>",
    )
    fit.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        metavar="N",
        help="train once for each seed, in DIR/seed-N where --run-directory is given, and print scores over them",
    )
    fit.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|PATH",
        help="go on from the newest checkpoint, start anew, or go on from PATH",
    )
    fit.add_argument(
        "--profile",
        action="store_true",
        help="record five steps into the run directory's profile/: trace.json for a browser, operators.txt",
    )

    fit.add_argument(
        "--deterministic",
        action="store_true",
        help="torch's deterministic algorithms alone (trainer.deterministic): the same bits on the same machine",
    )

    reproduce = command(
        "reproduce",
        _reproduce,
        "train a finished run again and compare",
        "Metrics step by step, and the hash of the final weights; exit status 1 if one differs.",
    )
    reproduce.add_argument("run_directory", type=Path, metavar="RUN_DIR", help="a finished run")
    reproduce.add_argument("--output", type=Path, metavar="DIR", help="where to train (default: RUN_DIR-reproduced)")
    _module_option(reproduce)

    _module_option(fit)

    for name in ("validate", "test"):
        sub = command(
            name,
            _score,
            f"score a checkpoint on the {'validation' if name == 'validate' else 'test'} split",
            "Keys of the run's configuration are set with --key.sub value.",
            overrides=True,
        )
        sub.add_argument(
            "--checkpoint",
            type=Path,
            required=True,
            metavar="RUN_OR_CKPT",
            help="run directory or checkpoint file",
        )
        sub.add_argument(
            "--config",
            nargs="+",
            action="extend",
            metavar="FILE",
            help="on top of the run's own configuration",
        )
        _module_option(sub)

    predict = command("predict", _predict, "predict raw input with a saved run", "Writes JSON lines.")
    predict.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="RUN_OR_CKPT",
        help="run directory or checkpoint file",
    )
    predict.add_argument(
        "--input", default="-", metavar="FILE|-", help="lines of text, or a table; default: standard input"
    )
    predict.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")

    _score_options(command("score", None, "score a file of predictions as its official scorer does", "Prints JSON."))
    features = command(
        "features",
        _features,
        "write hidden states of texts to a file",
        "Takes any checkpoint with a vocabulary: runs, Hugging Face folders, TensorFlow 1 checkpoints, hub names.",
    )
    features.add_argument("--checkpoint", required=True, metavar="CHECKPOINT", help="any checkpoint that can be read")
    features.add_argument(
        "--input", default="-", metavar="FILE|-", help="lines of text, or a table; default: standard input"
    )
    features.add_argument("--text-column", default="text", metavar="NAME", help="of tables (default: text)")
    features.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="ends in .safetensors or .parquet"
    )
    features.add_argument(
        "--layers",
        nargs="+",
        type=_whole_number,
        default=[-1],
        metavar="N",
        help="0 is the embeddings, 1 the first block, -1 the last (default); several are kept apart",
    )
    features.add_argument(
        "--form",
        choices=("tokens", "cls", "mean", "max", "pooler"),
        default="tokens",
        help="a vector a token (default), or one a text: its [CLS], mean, maximum, or the pooler's output",
    )
    features.add_argument("--max-seq-length", type=_whole_number, metavar="N", help="default: the model's positions")

    submission = command(
        "submission", _submission, "zip a GLUE submission", "Takes the runs whose `test` predicted the eleven files."
    )
    submission.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="run directories")
    submission.add_argument("--output", type=Path, required=True, metavar="FILE", help="ends in .zip")

    export = command(
        "export",
        _export,
        "write a checkpoint for other tools",
        "Reads runs, checkpoint files, Hugging Face folders, TensorFlow 1 checkpoints and hub names.",
    )
    export.add_argument("--checkpoint", required=True, metavar="CHECKPOINT", help="any checkpoint that can be read")
    export.add_argument(
        "--format",
        required=True,
        choices=FORMATS,
        help="a folder that transformers opens, or an ONNX file (needs the extra onnx)",
    )
    export.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")

    report = command("report", _report, "tables and curves over runs")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="run directories")
    report.add_argument("--output", type=Path, required=True, metavar="FILE", help="ends in .html or .md")

    command("doctor", _doctor, "show versions, devices, threads and what is missing")
    return parser


def _score_options(parser: argparse.ArgumentParser) -> None:
    scorers = parser.add_subparsers(dest="scorer", required=True, metavar="SCORER")

    def scorer(name: str, run: Any, text: str, gold: str, predictions: str) -> Any:
        sub = scorers.add_parser(name, help=text, description=f"{text}. Prints JSON.", allow_abbrev=False)
        sub.set_defaults(run=run, parser=sub)
        sub.add_argument("--gold", required=True, metavar="FILE", help=gold)
        sub.add_argument("--predictions", required=True, metavar="FILE", help=predictions)
        return sub

    conll = scorer(
        "conll",
        _score_conll,
        "Entities, in percent as conlleval prints",
        "columns, the tag last; an empty line ends a sentence",
        "the same sentences with predicted tags",
    )
    conll.add_argument(
        "--scheme",
        choices=("conlleval", "strict"),
        default="conlleval",
        help="what makes an entity: conlleval (default), or IOB2 as the strict mode of seqeval",
    )
    answers = "JSON object of question id and answer"
    scorer("squad-v1.1", _score_squad_v1, "Answers, as evaluate-v1.1.py", "the data set", answers)
    squad = scorer("squad-v2.0", _score_squad_v2, "Answers or none, as evaluate-v2.0.py", "the data set", answers)
    squad.add_argument(
        "--no-answer-probability", metavar="FILE", help="JSON object of question id and number; adds the best_* keys"
    )
    squad.add_argument(
        "--no-answer-threshold",
        type=float,
        default=1.0,
        metavar="X",
        help="an answer counts as empty where that number is above X (default: 1.0)",
    )


def _whole_number(text: str) -> int:
    """A whole number of a size that counts things."""
    value = int(text)
    if abs(value) >= 1 << 31:
        raise argparse.ArgumentTypeError(f"{text} is too large")
    return value


def _corpus_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="files, folders or globs of .txt, .jsonl, .csv, .parquet (also .gz, .xz, .zst), or "
        "hub:NAME[@REVISION][:CONFIG[:SPLIT]]",
    )
    parser.add_argument("--exclude", nargs="+", default=[], metavar="GLOB", help="leave out files that match")
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="auto",
        help="of plain text: one sentence a line, or running text; in a table a row is a document, or with sentences "
        "a line",
    )
    parser.add_argument("--text-column", default="text", metavar="NAME", help="of tables (default: text)")
    parser.add_argument(
        "--errors",
        choices=("strict", "replace"),
        default="strict",
        help="bytes that are not UTF-8: stop (default), or put U+FFFD there and count",
    )
    parser.add_argument(
        "--document-start", metavar="REGEX", help="a line with a match begins a document, and blank ones end none"
    )
    parser.add_argument(
        "--lines-per-document", type=_whole_number, metavar="N", help="begin a document after so many lines"
    )


def _module_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-module",
        action="append",
        default=[],
        metavar="NAME",
        help="import this module, or package, where a class_path of the configuration names it; repeatable",
    )


def _language_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--language", default="en", metavar="CODE", help="of the text, for sentence splitting (default: en)"
    )


def _check_casing(tokenizer: Any) -> None:
    cased, looks_cased = tokenizer.vocabulary.lowercase is False, tokenizer.vocabulary.looks_cased()
    if cased and not looks_cased:
        logging.warning("no entry of the vocabulary holds a capital letter, but --cased keeps them in the text")
    if not cased and looks_cased:
        logging.warning("the vocabulary holds capital letters, but the text is lower-cased: is --cased missing?")


def _sources(options: argparse.Namespace) -> list[str]:
    from bert_lightning.data.sources import CORPUS_SUFFIXES, find_sources

    return find_sources(options.input, CORPUS_SUFFIXES, options.exclude)


def _corpus_format(options: argparse.Namespace) -> Any:
    from bert_lightning.data.documents import CorpusFormat

    return CorpusFormat(
        layout=options.layout,
        text_column=options.text_column,
        language=options.language,
        errors=options.errors,
        document_start=options.document_start,
        lines_per_document=options.lines_per_document,
    )


# -- small things ------------------------------------------------------------------------------------------------


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def _text_progress(sources: Sequence[str], text: str) -> Iterator[Callable[[int], None]]:
    """A bar that is told the characters done; without an end where the sources do not say how many there are."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from bert_lightning.data.lines import COMPRESSIONS

    plain = all(os.path.isfile(source) and Path(source).suffix not in COMPRESSIONS for source in sources)
    total = sum(os.path.getsize(source) for source in sources) if plain else None
    amount = "{task.percentage:.0f} %" if plain else "{task.completed:,} characters"
    columns = (
        TextColumn(text),
        BarColumn(),
        TextColumn(amount),
        TimeRemainingColumn() if plain else TimeElapsedColumn(),
    )
    with Progress(*columns, transient=True, disable=not sys.stderr.isatty(), console=_console()) as progress:
        bar = progress.add_task("", total=total)
        yield lambda characters: progress.advance(bar, characters)


def _print_json(values: dict[str, Any]) -> int:
    import json

    print(json.dumps(values, indent=2))
    return OK


@contextmanager
def _row_progress(text: str, enabled: bool) -> Iterator[Callable[[Iterable[Any]], Iterator[Any]]]:
    """A count of the rows that went through, in a terminal."""
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(text), TextColumn("{task.completed:,} rows"), TimeElapsedColumn())
    shown = enabled and sys.stderr.isatty()
    with Progress(*columns, transient=True, disable=not shown, console=_console()) as progress:
        bar = progress.add_task("", total=None)

        def advance(rows: Iterable[Any]) -> Iterator[Any]:
            for row in rows:
                yield row
                progress.advance(bar)

        yield advance


def _write_lines(lines: Iterable[str], output: Path | None) -> None:
    """To a file, complete or not at all, or to standard output as they come."""
    from bert_lightning.checkpoints.files import write_atomically

    if output is not None:

        def write(file: Any) -> None:
            for line in lines:
                file.write(line.encode())

        write_atomically(output, write)
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    for line in lines:
        sys.stdout.write(line)
        sys.stdout.flush()


def _print_metrics(metrics: dict[str, float]) -> None:
    if not metrics:
        return
    width = max(map(len, metrics))
    for name in sorted(metrics):
        print(f"  {name:<{width}}  {metrics[name]:.4f}")
