"""Commands that publish results: `submission`, `export`, `report`, `wandb-push`."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bert_lightning.cli.parsing import Commands, base_option, module_option, path_argument, path_text
from bert_lightning.cli.statuses import FAILURE, OK
from bert_lightning.lazy import without_collections
from bert_lightning.wording import count

if TYPE_CHECKING:
    from bert_lightning.reports.results import NotInTable

# Runs of a study in these states have nothing to say yet.
_NOT_YET = ("waiting", "blocked")
FORMATS = ("huggingface", "onnx", "peft", "native")


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    submission = commands.add(
        "submission", _submission, "zip a GLUE submission", "Collects the eleven files that `test` wrote in the runs."
    )
    submission.add_argument("runs", nargs="+", type=path_argument, metavar="RUN_DIR", help="run directories")
    submission.add_argument(
        "--output", type=path_argument, required=True, metavar="FILE", help="the archive; ends in .zip"
    )

    export = commands.add(
        "export",
        _export,
        "write a checkpoint for other tools",
        "Reads runs, checkpoint files, Hugging Face folders, TensorFlow 1 checkpoints and hub names. Rounded weights "
        "are measured on the validation data of the run, or on others that --data.validation FILE names.",
        overrides=True,
    )
    export.add_argument(
        "--checkpoint", type=path_text, required=True, metavar="CHECKPOINT", help="any checkpoint that can be read"
    )
    base_option(export)
    module_option(export)
    export.add_argument(
        "--format",
        required=True,
        choices=FORMATS,
        help="huggingface: a folder that transformers can open; onnx: an ONNX file (needs the extra onnx); peft: "
        "what lora, dora or ia3 added, as PEFT reads it; native: our own checkpoint without the state of training",
    )
    export.add_argument(
        "--merge",
        action="store_true",
        help="merge a tuning into the weights; huggingface and onnx do so in any case, and native writes a complete "
        "plain checkpoint instead of what was trained",
    )
    export.add_argument(
        "--dtype",
        choices=("bfloat16",),
        help="for huggingface: write weights in bfloat16, half the size, and measure the loss of score",
    )
    export.add_argument(
        "--quantize",
        choices=("int8",),
        help="for onnx: weights of eight bits. Score, time and size are measured and written into the model card",
    )
    export.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="the share of the validation score that rounded weights may lose; beyond it nothing is written "
        "(default: 0.01)",
    )
    export.add_argument("--output", type=path_argument, required=True, metavar="DIR", help="a new folder")

    _add_report(commands)
    _add_push(commands)


def _add_report(commands: Commands) -> None:
    report = commands.add(
        "report",
        _report,
        "write tables, statistics and curves of runs and studies",
        "Takes run directories, folders that hold some, such as that of `fit --seeds`, and folders of studies. Runs "
        "that differ only in their seed are one arm. Every number leads to its runs and to their commands.",
    )
    report.add_argument("paths", nargs="+", type=path_argument, metavar="PATH", help="runs and studies")
    report.add_argument(
        "--output",
        type=path_argument,
        required=True,
        metavar="FILE",
        help="the report; ends in .html, .md, .tex (for booktabs), .csv or .json",
    )
    report.add_argument(
        "--baseline",
        metavar="ARM",
        help="compare the others with this arm (default: that of the study; none for runs outside studies)",
    )
    report.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="a column, such as val/accuracy; repeatable (default: those that the study compares, or all)",
    )
    report.add_argument(
        "--range", action="store_true", help="also show median, smallest and largest value, and the values by seed"
    )
    report.add_argument(
        "--checklist", action="store_true", help="add the reproducibility checklist of Dodge et al. 2019"
    )
    report.add_argument(
        "--strict",
        action="store_true",
        help="exit with status 1 if arms differ in versions, commit, data, hardware, precision or steps, besides "
        "their axis",
    )


def _add_push(commands: Commands) -> None:
    push = commands.add(
        "wandb-push",
        _wandb_push,
        "build exact W&B runs from run directories",
        "Each row of metrics.jsonl is there once, with its time. So are the configuration, predictions and "
        "reports. What W&B wrote during training lacks the last rows of a session that was killed. A run that was "
        "pushed and has not changed since is not pushed again.",
    )
    push.add_argument("runs", nargs="+", type=path_argument, metavar="RUN_DIR", help="run directories")
    push.add_argument("--project", metavar="NAME", help="W&B's project (default: wandb.project of each run)")
    push.add_argument(
        "--mode",
        choices=("offline", "online"),
        help="online uploads the runs too (default: online if there is an API key, otherwise offline)",
    )
    push.add_argument(
        "--directory",
        type=path_argument,
        metavar="DIR",
        help="the folder in which the folder `wandb` is made (default: the current folder)",
    )


def _submission(options: argparse.Namespace) -> int:
    from bert_lightning.reports.submission import write_submission

    for path in write_submission(options.runs, options.output):
        print(f"{path.name:<12} {path}")
    print(f"submission: {options.output}")
    return OK


def _export(options: argparse.Namespace) -> int:
    with without_collections(freeze=True):
        from bert_lightning.runs.export import export

    what = options.checkpoint, options.format, options.output, options.base, options.allow_module
    lines = export(
        *what,
        merge=options.merge,
        dtype=options.dtype,
        quantize=options.quantize,
        tolerance=options.tolerance,
        overrides=options.overrides,
    )
    print(*lines, sep="\n")
    return OK


def _report(options: argparse.Namespace) -> int:
    from bert_lightning.checkpoints.plain_text import printable
    from bert_lightning.reports.confounds import confound_text
    from bert_lightning.reports.report import write_report

    results = write_report(
        options.paths,
        options.output,
        options.baseline,
        options.metric,
        checklist=options.checklist,
        ranges=options.range,
    )
    for table in results.tables:
        for confound in table.confounds:
            if confound.explained_by is None:
                print(printable(f"{table.title}: the arms also differ in {confound_text(confound)}"), file=sys.stderr)
        for line in _missing_lines(table.missing):
            print(printable(f"{table.title}: not in the table: {line}"))
    num_runs = len({run.name for table in results.tables for arm in table.arms for run in arm.runs})
    print(f"report of {count(num_runs, 'run')}: {options.output}")
    return FAILURE if options.strict and results.unexplained else OK


def _missing_lines(missing: Sequence["NotInTable"]) -> Iterator[str]:
    """Yield a line per run without a place in a table that says why, and one for all that have not trained yet."""
    not_yet = Counter(each.state for each in missing if each.state in _NOT_YET)
    if not_yet:
        yield ", ".join(f"{count(num, 'run')} {state}" for state, num in not_yet.items())
    for each in missing:
        if each.state not in _NOT_YET:
            reason = f" ({each.message})" if each.message else ""
            yield f"{each.directory} {each.state}{reason}"


def _wandb_push(options: argparse.Namespace) -> int:
    with without_collections(freeze=True):
        from bert_lightning.runs.wandb_push import push

    for pushed in push(options.runs, options.project, options.mode, options.directory):
        done = "uploaded" if pushed.uploaded else "written" if pushed.is_new else "pushed already"
        print(f"{pushed.run}: {done}: {pushed.folder}")
    return OK
