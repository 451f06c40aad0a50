"""Commands on raw input: `predict`, `features`."""

import argparse
import logging
import os
from collections.abc import Iterator
from typing import Any

from bert_lightning.cli.parsing import Commands, path_argument, path_text, whole_number
from bert_lightning.cli.statuses import OK
from bert_lightning.cli.terminal import row_progress, write_lines
from bert_lightning.errors import InputError


def add(commands: Commands) -> None:
    """The two commands."""
    predict = commands.add("predict", _predict, "predict raw input with a saved run", "Writes JSON lines.")
    predict.add_argument(
        "--checkpoint",
        type=path_argument,
        required=True,
        metavar="RUN_OR_CKPT",
        help="run directory or checkpoint file",
    )
    predict.add_argument(
        "--input",
        type=path_text,
        default="-",
        metavar="FILE|-",
        help="lines of text, or a table; default: standard input",
    )
    predict.add_argument("--output", type=path_argument, metavar="FILE", help="default: standard output")

    features = commands.add(
        "features",
        _features,
        "write hidden states of texts to a file",
        "Takes any checkpoint with a vocabulary: runs, Hugging Face folders, TensorFlow 1 checkpoints, hub names.",
    )
    features.add_argument(
        "--checkpoint", type=path_text, required=True, metavar="CHECKPOINT", help="any checkpoint that can be read"
    )
    features.add_argument(
        "--input",
        type=path_text,
        default="-",
        metavar="FILE|-",
        help="lines of text, or a table; default: standard input",
    )
    features.add_argument("--text-column", default="text", metavar="NAME", help="of tables (default: text)")
    features.add_argument(
        "--output", type=path_argument, required=True, metavar="FILE", help="ends in .safetensors or .parquet"
    )
    features.add_argument(
        "--layers",
        nargs="+",
        type=whole_number,
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
    features.add_argument("--max-seq-length", type=whole_number, metavar="N", help="default: the model's positions")


def _predict(options: argparse.Namespace) -> int:
    import json

    from bert_lightning.data.lines import named
    from bert_lightning.runs.predictor import load

    _refuse_own_input(options)
    predictor = load(options.checkpoint)
    is_empty = True

    def predictions() -> Iterator[dict[str, Any]]:
        nonlocal is_empty
        for row in predictor.predict_rows(predictor.read(options.input)):
            is_empty = False
            yield row

    with row_progress("predicting", options.output is not None) as advance:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in advance(predictions()))
        write_lines(lines, options.output)
    if is_empty:
        logging.warning("%s: nothing to predict in the input", named([options.input]))
    return OK


def _features(options: argparse.Namespace) -> int:
    from bert_lightning.runs.features import write_features

    _refuse_own_input(options)
    with row_progress("encoding", True) as advance:
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


def _refuse_own_input(options: argparse.Namespace) -> None:
    """Refuse an output that would replace the input.

    Raises:
        InputError: both are the same file, perhaps under two names.
    """
    source, output = options.input, options.output
    if output is not None and output.exists() and os.path.isfile(source) and os.path.samefile(source, output):
        raise InputError(f"--output {output} is the file of --input, which it would replace: choose another name")
