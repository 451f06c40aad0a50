"""Commands that score: `validate`, `test`, `score`."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from bert_lightning.cli.parsing import Commands, base_option, module_option, path_argument, path_text
from bert_lightning.cli.statuses import OK
from bert_lightning.cli.terminal import print_json, print_metrics
from bert_lightning.lazy import without_collections
from bert_lightning.runs.processes import is_first_process


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    for name in ("validate", "test"):
        sub = commands.add(
            name,
            _score,
            f"score a checkpoint on the {'validation' if name == 'validate' else 'test'} split",
            "Any key of the run's configuration can be set with --key.sub value.",
            overrides=True,
        )
        sub.add_argument(
            "--checkpoint",
            type=path_argument,
            required=True,
            metavar="RUN_OR_CKPT",
            help="run directory or checkpoint file",
        )
        sub.add_argument(
            "--config",
            nargs="+",
            type=path_text,
            action="extend",
            metavar="FILE",
            help="configuration files that change the run's configuration; later files override earlier ones",
        )
        base_option(sub)
        module_option(sub)

    _score_options(
        commands.add("score", None, "score a file of predictions as its official scorer does", "Prints JSON.")
    )


def _score_options(parser: argparse.ArgumentParser) -> None:
    scorers = parser.add_subparsers(dest="scorer", required=True, metavar="SCORER")

    def scorer(
        name: str, run: Callable[[argparse.Namespace], int], text: str, gold: str, predictions: str
    ) -> argparse.ArgumentParser:
        sub = scorers.add_parser(name, help=text, description=f"{text}. Prints JSON.", allow_abbrev=False)
        sub.set_defaults(run=run, parser=sub)
        sub.add_argument("--gold", required=True, metavar="FILE", help=gold)
        sub.add_argument("--predictions", required=True, metavar="FILE", help=predictions)
        return sub

    conll = scorer(
        "conll",
        _score_conll,
        "Score entities in percent, like conlleval",
        "file with the correct tags: columns with the tag last and an empty line after each sentence, or any file of "
        "tags that fit reads",
        "file with the same sentences and predicted tags, such as predictions.conll of a run",
    )
    conll.add_argument(
        "--scheme",
        choices=("conlleval", "strict"),
        default="conlleval",
        help="how entities are counted: like conlleval.pl, with any tags (conlleval, the default), or like seqeval's "
        "strict mode, with IOB2 (strict)",
    )
    for column, meaning in (("token", "words"), ("tag", "tags")):
        conll.add_argument(
            f"--{column}-column",
            metavar="COLUMN",
            help=f"column of the gold file that holds the {meaning}, like data.{column}_column (default: the "
            f"{'first' if column == 'token' else 'last'})",
        )
    gold, answers = "the SQuAD data set", "JSON object: question id -> answer"
    scorer("squad-v1.1", _score_squad_v1, "Score answers like evaluate-v1.1.py", gold, answers)
    squad = scorer("squad-v2.0", _score_squad_v2, "Score answers like evaluate-v2.0.py", gold, answers)
    squad.add_argument(
        "--no-answer-probability",
        metavar="FILE",
        help="JSON object: question id -> probability that there is no answer; adds the best_* keys to the scores",
    )
    squad.add_argument(
        "--no-answer-threshold",
        type=float,
        default=1.0,
        metavar="X",
        help="an answer counts as empty if its no-answer probability is above X (default: 1.0)",
    )


def _score(options: argparse.Namespace) -> int:
    with without_collections(freeze=True):
        from bert_lightning.runs.scoring import score

    files = [Path(file) for file in options.config or ()]
    result = score(options.checkpoint, options.command, files, options.overrides, options.allow_module, options.base)
    if not is_first_process():
        return OK
    if result.report:
        print(result.report, end="\n\n")
    print_metrics(result.metrics)
    if not result.metrics:
        print("no scores, because the file has no labels")
    if result.predictions is not None:
        print(f"predictions: {os.path.relpath(result.predictions)}")
    return OK


def _score_conll(options: argparse.Namespace) -> int:
    from bert_lightning.reports.score_files import score_conll_files

    columns = (options.token_column, options.tag_column)
    print_json(score_conll_files(options.gold, options.predictions, options.scheme, *columns))
    return OK


def _score_squad_v1(options: argparse.Namespace) -> int:
    from bert_lightning.reports.score_files import score_squad_v1_files

    print_json(score_squad_v1_files(options.gold, options.predictions))
    return OK


def _score_squad_v2(options: argparse.Namespace) -> int:
    from bert_lightning.reports.score_files import score_squad_v2_files

    print_json(
        score_squad_v2_files(
            options.gold, options.predictions, options.no_answer_probability, options.no_answer_threshold
        )
    )
    return OK
