"""Commands on raw input: `predict`, `features`, `classify`."""

import argparse
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bert_lightning.cli.parsing import (
    Commands,
    base_option,
    input_option,
    module_option,
    path_argument,
    path_text,
    precision_option,
    refuse_own_input,
    text_column_option,
    whole_number,
)
from bert_lightning.cli.statuses import OK
from bert_lightning.cli.terminal import item_progress, write_lines
from bert_lightning.errors import InputError
from bert_lightning.lazy import without_collections
from bert_lightning.wording import count


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    _add_predict(commands)
    _add_features(commands)
    _add_classify(commands)


def _add_predict(commands: Commands) -> None:
    parser = commands.add("predict", _predict, "predict from raw input with a saved run", "Writes JSON lines.")
    parser.add_argument(
        "--checkpoint",
        type=path_argument,
        required=True,
        metavar="RUN_OR_CKPT",
        help="run directory or checkpoint file",
    )
    base_option(parser)
    module_option(parser)
    input_option(parser)
    precision_option(parser)
    parser.add_argument(
        "--output", type=path_argument, metavar="FILE", help="file for the predictions (default: standard output)"
    )


def _add_features(commands: Commands) -> None:
    parser = commands.add(
        "features",
        _features,
        "write hidden states of texts to a file",
        "Reads any checkpoint with a vocabulary: runs, Hugging Face folders, TensorFlow 1 checkpoints, hub names.",
    )
    parser.add_argument(
        "--checkpoint", type=path_text, required=True, metavar="CHECKPOINT", help="any checkpoint that can be read"
    )
    base_option(parser)
    module_option(parser)
    input_option(parser)
    precision_option(parser)
    text_column_option(parser)
    parser.add_argument(
        "--output",
        type=path_argument,
        required=True,
        metavar="FILE",
        help="file for the features; ends in .safetensors or .parquet",
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        type=whole_number,
        default=[-1],
        metavar="N",
        help="one or more layers: 0 is the embeddings, 1 the first block, -1 the last block (default: -1)",
    )
    parser.add_argument(
        "--form",
        choices=("tokens", "cls", "mean", "max", "pooler"),
        default="tokens",
        help="one vector per token (tokens, the default), or one per text: its [CLS] vector, mean, maximum or pooler "
        "output",
    )
    parser.add_argument(
        "--max-seq-length",
        type=whole_number,
        metavar="N",
        help="longest sequence; longer texts are cut (default: all positions of the model)",
    )


def _add_classify(commands: Commands) -> None:
    parser = commands.add(
        "classify",
        _classify,
        "sort texts into labels that a model was not trained for",
        "Reads any checkpoint with a vocabulary, and writes JSON lines with a label and the probabilities of all.",
    )
    parser.add_argument(
        "--checkpoint", type=path_text, required=True, metavar="RUN_OR_CKPT", help="any checkpoint that can be read"
    )
    base_option(parser)
    module_option(parser)
    parser.add_argument(
        "--labels",
        nargs="+",
        required=True,
        metavar="LABEL",
        help="two labels or more; LABEL=WORD if another word stands for it, LABEL=WORD,WORD if several do",
    )
    parser.add_argument(
        "--by",
        choices=("masked-words", "nsp", "entailment"),
        help="ask by the masked-language-model head, the next-sentence head, or a classifier of pairs with a label "
        "entailment (default: the first of these that the model has: masked-words, entailment, nsp)",
    )
    parser.add_argument(
        "--pattern",
        metavar="TEXT",
        help="with masked-words a pattern such as '{text} It was {mask}.' (the default), otherwise the sentence of a "
        "label, such as 'This example is {label}.'",
    )
    parser.add_argument(
        "--calibration",
        nargs="+",
        metavar="TEXT",
        help="with masked-words: texts without content, such as 'N/A' '[MASK]' ''; the probabilities of all others "
        "are divided by theirs",
    )
    input_option(parser)
    precision_option(parser)
    text_column_option(parser)
    parser.add_argument(
        "--output", type=path_argument, metavar="FILE", help="file for the predictions (default: standard output)"
    )


def _predict(options: argparse.Namespace) -> int:
    from time import perf_counter

    from bert_lightning.data.reading.lines import named

    with without_collections(freeze=True):
        from bert_lightning.runs.predictor import json_line, load

    refuse_own_input([options.input], options.output)
    predictor = load(
        options.checkpoint, precision=options.precision, base=options.base, allow_modules=options.allow_module
    )
    number = 0
    if options.output is not None:
        began = perf_counter()
        with item_progress("predicting", True) as counted:
            number = predictor.predict_file(options.input, options.output, progress=counted)
        if number:
            _print_rate(number, began, options.output)
    else:

        def lines() -> Iterator[str]:
            nonlocal number
            _, rows = predictor.checked_rows(options.input)
            for prediction in predictor.predict_rows(rows):
                number += 1
                yield json_line(prediction)

        write_lines(lines(), None)
    if not number:
        logging.warning("%s: the input holds nothing to predict", named([options.input]))
    return OK


def _classify(options: argparse.Namespace) -> int:
    import json
    from time import perf_counter

    with without_collections(freeze=True):
        from bert_lightning.interpretability.feature_files import read_texts
        from bert_lightning.runs.zero_shot import zero_shot

    refuse_own_input([options.input], options.output)
    labels, words = _labels_and_words(options.labels)
    model = zero_shot(
        options.checkpoint, precision=options.precision, base=options.base, allow_modules=options.allow_module
    )
    number, began = 0, perf_counter()

    def line_of(prediction: dict[str, Any]) -> str:
        nonlocal number
        number += 1
        return json.dumps(prediction, ensure_ascii=False) + "\n"

    with _named_options(), item_progress("classifying", options.output is not None) as counted:
        found = model.classified(
            read_texts(options.input, options.text_column),
            labels,
            by=options.by,
            pattern=options.pattern,
            verbalizer=words,
            calibration=options.calibration,
        )
        write_lines(map(line_of, counted(found)), options.output)
    if options.output is not None:
        _print_rate(number, began, options.output)
    return OK


def _print_rate(number: int, began: float, output: Path) -> None:
    from time import perf_counter

    rate = number / (perf_counter() - began)
    print(f"{count(number, 'prediction')}, {rate:,.0f} per second: {output}")


@contextmanager
def _named_options() -> Iterator[None]:
    """Replace the Python arguments at the beginning of an error by the options that were typed.

    Raises:
        InputError: the labels, the pattern or the calibration cannot be used.

    >>> with _named_options():
    ...     raise InputError("verbalizer.good is ''; it must be a word")
    Traceback (most recent call last):
    bert_lightning.errors.InputError: --labels: the word of good is ''; it must be a word
    """
    try:
        yield
    except InputError as error:
        # A message about a file begins with its name and a colon.
        message = re.sub(r"^verbalizer\.([^:]+? is )", r"--labels: the word of \1", str(error))
        message = re.sub(r"^verbalizer ", "--labels ", message)
        raise InputError(re.sub(r"^(labels|pattern|calibration) ", r"--\1 ", message)) from None


def _labels_and_words(options: Sequence[str]) -> tuple[list[str], dict[str, list[str] | str]]:
    """Return the labels, and the words of those that have some.

    >>> _labels_and_words(["bad", "good=great", "other=neutral,plain"])
    (['bad', 'good', 'other'], {'good': 'great', 'other': ['neutral', 'plain']})

    Raises:
        InputError: labels are separated by a comma.
    """
    labels: list[str] = []
    words: dict[str, list[str] | str] = {}
    for option in options:
        label, has_words, of_label = option.partition("=")
        labels.append(label)
        if "," in label and not has_words:
            raise InputError(
                f"--labels has {label!r}: separate labels by spaces, or write LABEL=WORD if the comma belongs to "
                "the label"
            )
        if has_words:
            several = of_label.split(",")
            words[label] = several if len(several) > 1 else of_label
    return labels, words


def _features(options: argparse.Namespace) -> int:
    with without_collections(freeze=True):
        from bert_lightning.interpretability.feature_files import write_features

    refuse_own_input([options.input], options.output)
    with item_progress("encoding", True) as counted:
        line = write_features(
            options.checkpoint,
            options.input,
            options.output,
            layers=options.layers,
            form=options.form,
            text_column=options.text_column,
            max_seq_length=options.max_seq_length,
            progress=counted,
            base=options.base,
            allow_modules=options.allow_module,
            precision=options.precision,
        )
    print(line)
    return OK
