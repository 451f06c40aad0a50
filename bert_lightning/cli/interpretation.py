"""Commands that look inside a model: `explain`."""

import argparse
from pathlib import Path

from bert_lightning.cli.parsing import (
    Commands,
    base_option,
    checked_options,
    input_option,
    module_option,
    path_argument,
    path_text,
    refuse_own_input,
    whole_number,
)
from bert_lightning.cli.statuses import OK
from bert_lightning.cli.terminal import item_progress
from bert_lightning.lazy import without_collections

# The names of `interpretability/explaining.py: METHODS`, which `--help` prints without importing torch.
METHODS = ("attention", "rollout", "gradient-x-input", "integrated-gradients", "occlusion")


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    parser = commands.add(
        "explain",
        _explain,
        "show how much each word counts for a prediction",
        "Writes a page that opens without a network, or JSON.",
    )
    parser.add_argument(
        "--checkpoint",
        type=path_text,
        required=True,
        metavar="RUN_OR_CKPT",
        help="run directory or checkpoint file",
    )
    base_option(parser)
    module_option(parser)
    input_option(parser, "what predict reads: lines of text, or a table")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="integrated-gradients",
        help="how words get their values (default: integrated-gradients)",
    )
    parser.add_argument(
        "--target",
        metavar="TARGET",
        help="what is explained: a label, a relation, the number of a choice, an answer, a word by its number (3, or "
        "3=B-LOC), an entry of the vocabulary (default: the prediction)",
    )
    parser.add_argument(
        "--points",
        type=whole_number,
        metavar="N",
        help="integrated gradients: points of the path, doubled up to 1024 while the values miss more than 5 %% of "
        "the difference of scores (default: 64)",
    )
    parser.add_argument(
        "--replacement",
        metavar="TOKEN",
        help="integrated gradients and occlusion: [MASK], [PAD] or [UNK], which stands for an absent word (default: "
        "[MASK])",
    )
    parser.add_argument(
        "--output", type=path_argument, required=True, metavar="FILE", help="the file; ends in .html or .json"
    )


def _explain(options: argparse.Namespace) -> int:
    with without_collections(freeze=True):
        from bert_lightning.reports.explanation_report import write_explanations

    refuse_own_input([options.input], options.output)
    output: Path = options.output
    with checked_options(num_points="points"), item_progress("explaining", True) as counted:
        lines = write_explanations(
            options.checkpoint,
            options.input,
            output,
            method=options.method,
            target=options.target,
            num_points=options.points,
            replacement=options.replacement,
            base=options.base,
            allow_modules=options.allow_module,
            progress=counted,
        )
    print(*lines, sep="\n")
    return OK
