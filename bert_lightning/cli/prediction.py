"""Commands on raw input: `predict`, `features`."""

import argparse
import logging
from collections.abc import Iterator
from typing import Any

from bert_lightning.cli.parsing import Commands, path_argument, path_text, refuse_own_input, whole_number
from bert_lightning.cli.statuses import OK
from bert_lightning.cli.terminal import row_progress, write_lines


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

    from bert_lightning.data.reading.lines import named
    from bert_lightning.runs.predictor import load

    refuse_own_input([options.input], options.output)
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
    from bert_lightning.interpretability.feature_files import write_features

    refuse_own_input([options.input], options.output)
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
