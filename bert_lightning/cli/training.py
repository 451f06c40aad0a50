"""Commands that train: `fit`, `reproduce`."""

import argparse
from typing import TYPE_CHECKING

from bert_lightning.allocation import ask_for_huge_pages
from bert_lightning.cli.parsing import Commands, module_option, path_argument, path_text
from bert_lightning.cli.statuses import FAILURE, OK
from bert_lightning.cli.terminal import print_metrics, write_lines
from bert_lightning.errors import InputError
from bert_lightning.lazy import without_collections
from bert_lightning.runs.processes import is_first_process

if TYPE_CHECKING:
    from bert_lightning.config.experiment import Experiment


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    _add_fit(commands)
    _add_reproduce(commands)


def _add_fit(commands: Commands) -> None:
    parser = commands.add(
        "fit",
        _fit,
        "train an experiment",
        "Any key of the experiment can be set with --key.sub value.",
        overrides=True,
    )
    parser.epilog = (
        "`bert-lightning keys` lists all keys, `bert-lightning keys optimizer` those of one section. "
        "`bert-lightning init` writes an experiment file to start from."
    )
    parser.add_argument(
        "--config",
        nargs="+",
        type=path_text,
        action="extend",
        required=True,
        metavar="FILE",
        help="experiment files; later ones win",
    )
    parser.add_argument(
        "--run-directory",
        type=path_argument,
        metavar="DIR",
        help="folder for the run (default: runs/<experiment>/<hash of the configuration>)",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        metavar="N",
        help="train once per seed and print the scores over them; with --run-directory DIR, runs are in DIR/seed-N",
    )
    parser.add_argument(
        "--at-once",
        type=int,
        default=1,
        metavar="N",
        help="with --seeds: train N seeds at the same time, which divide the cores (default: 1)",
    )
    parser.add_argument(
        "--resume",
        type=path_text,
        default="auto",
        metavar="auto|never|PATH",
        help="resume from the newest checkpoint (auto, the default), start a new run (never), or resume from PATH",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="record five steps in the run directory's profile/: trace.json for a browser, operators.txt",
    )
    parser.add_argument(
        "--print-config",
        nargs="?",
        const="plain",
        choices=("plain", "comments"),
        help="print the whole experiment as a file that --config reads, and do not train; comments describe each key",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="use only torch's deterministic algorithms (trainer.deterministic): the same bits on the same machine",
    )
    module_option(parser)


def _add_reproduce(commands: Commands) -> None:
    parser = commands.add(
        "reproduce",
        _reproduce,
        "train a finished run again and compare",
        "Compares the metrics of each step and the hash of the final weights. The exit status is 1 if any differs.",
    )
    parser.add_argument("run_directory", type=path_argument, metavar="RUN_DIR", help="a finished run")
    parser.add_argument(
        "--output",
        type=path_argument,
        metavar="DIR",
        help="folder for the repeated run (default: RUN_DIR-reproduced)",
    )
    module_option(parser)


def _fit(options: argparse.Namespace) -> int:
    if options.deterministic:
        options.overrides += ["--trainer.deterministic", "true"]
    if options.at_once < 1:
        raise InputError(f"--at-once is {options.at_once}; it must be at least 1")
    if options.at_once > 1 and options.seeds is None:
        raise InputError("--at-once is about several seeds: name them with --seeds")
    if options.seeds is not None:
        for name in ("profile", "print_config"):
            if getattr(options, name):
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option} and --seeds contradict each other: {option} is about a single run")
        return _fit_seeds(options)
    if options.print_config is not None:
        from bert_lightning.config.experiment import load_experiment

        experiment = load_experiment(options.config, options.overrides, allow_modules=options.allow_module)
        _print_config(experiment, with_comments=options.print_config == "comments")
        return OK

    ask_for_huge_pages()
    with without_collections(freeze=True):
        from bert_lightning.runs.python import fit

    run = fit(
        options.config,
        options.overrides,
        run_directory=options.run_directory,
        resume=options.resume,
        profile=options.profile,
        allow_modules=options.allow_module,
    )
    if run.was_finished:
        print(f"finished before: {run.directory} (add `--resume never` to start a new run)")
    elif is_first_process():
        from bert_lightning.config.published import compared

        print_metrics(run.metrics)
        print(*compared(run.experiment.published, run.metrics), f"run directory: {run.directory}", sep="\n")
    return OK


def _print_config(experiment: "Experiment", with_comments: bool) -> None:
    """Print an experiment as a file with every key, which reads back to the same experiment."""
    from bert_lightning.config.commented_yaml import commented_yaml, entries_of
    from bert_lightning.config.variables import with_literal_variables
    from bert_lightning.config.yaml_files import dump_yaml

    if not is_first_process():
        return
    values = experiment.to_dict()
    if with_comments:
        text = commented_yaml(list(entries_of(values)), experiment.task)
    else:
        text = dump_yaml(with_literal_variables(values))
    # YAML files are UTF-8, whatever the encoding of the terminal is.
    write_lines(text.splitlines(keepends=True), None)


def _fit_seeds(options: argparse.Namespace) -> int:
    with without_collections(freeze=True):
        from bert_lightning.studies.seeds import exit_status, fit_seeds, summary_lines

    runs = fit_seeds(
        options.config,
        options.overrides,
        options.seeds,
        options.run_directory,
        options.resume,
        options.allow_module,
        options.at_once,
    )
    print(*summary_lines(runs, len(options.seeds)), sep="\n")
    return exit_status(runs)


def _reproduce(options: argparse.Namespace) -> int:
    with without_collections(freeze=True):
        from bert_lightning.studies.reproduction import reproduce

    comparison = reproduce(options.run_directory, options.output, options.allow_module)
    if comparison is None:
        return OK
    print(*comparison.lines(), sep="\n")
    return OK if comparison.equal else FAILURE
