"""Commands that look at the representations of a model: `probe`, `cka`, `neighbors`."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bert_lightning.checkpoints.plain_text import printable
from bert_lightning.cli.parsing import (
    Commands,
    base_option,
    checked_options,
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
from bert_lightning.cli.terminal import item_progress, print_json, write_json, write_lines
from bert_lightning.errors import InputError
from bert_lightning.lazy import without_collections

if TYPE_CHECKING:
    from bert_lightning.interpretability.probing import ProbingReport

# The endings of --output.
_PAGE, _JSON = ".html", ".json"


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    _add_probe(commands)
    _add_cka(commands)
    _add_neighbors(commands)


def _add_probe(commands: Commands) -> None:
    parser = commands.add(
        "probe",
        _probe,
        "score what a linear classifier reads from each layer, with control tasks and baselines",
        "The data are given as for fit, by a configuration or with keys such as --data.dataset wnut17 --data.folder "
        "DIR; without any, they are those of the run.",
        overrides=True,
    )
    parser.add_argument(
        "--checkpoint", type=path_text, required=True, metavar="CHECKPOINT", help="any checkpoint that can be read"
    )
    parser.add_argument(
        "--config",
        nargs="+",
        type=path_text,
        action="extend",
        default=[],
        metavar="FILE",
        help="configuration files with task and data; other sections do not count",
    )
    parser.add_argument(
        "--pooling",
        choices=("mean", "first"),
        default="mean",
        help="the vector of a word or text: the mean over its pieces (mean, the default), or its first piece, which "
        "of a text is [CLS] (first)",
    )
    parser.add_argument(
        "--leave-out",
        nargs="+",
        default=[],
        metavar="LABEL",
        help="leave out the words or texts with these labels, such as O, which most words of entity tags have",
    )
    parser.add_argument(
        "--max-items",
        type=whole_number,
        default=10_000,
        metavar="N",
        help="at most about N words or texts of each split; whole texts are drawn (default: 10000)",
    )
    parser.add_argument(
        "--l2", type=float, default=0.01, metavar="X", help="penalty of the classifier (default: 0.01)"
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=whole_number,
        default=[1, 2, 3],
        metavar="N",
        help="seeds of the control tasks and of the encoders with random weights (default: 1 2 3)",
    )
    _output_options(parser)
    base_option(parser)


def _add_cka(commands: Commands) -> None:
    parser = commands.add(
        "cka",
        _cka,
        "compare every layer of one model with every layer of another on your texts",
        "Linear centred kernel alignment: 1 for layers that differ by a rotation and a scale, 0 for unrelated ones. "
        "The models may have different sizes and, for words and texts, different vocabularies.",
    )
    parser.add_argument("a", type=path_text, metavar="A", help="any checkpoint that can be read")
    parser.add_argument("b", type=path_text, metavar="B", help="the other checkpoint")
    _text_options(parser)
    parser.add_argument(
        "--vectors",
        choices=("words", "texts", "pieces"),
        default="words",
        help="compare words (the mean over their pieces; the default), texts (the mean over all tokens), or word "
        "pieces, for which both models need the same vocabulary",
    )
    parser.add_argument(
        "--biased", action="store_true", help="use the estimate of Kornblith et al. 2019, which grows with the width"
    )
    parser.add_argument(
        "--batch-size", type=whole_number, default=256, metavar="N", help="vectors of a batch (default: 256)"
    )
    _output_options(parser)


def _add_neighbors(commands: Commands) -> None:
    parser = commands.add(
        "neighbors",
        _neighbors,
        "list what a model represents most like a word piece, a word in its context, or a text",
        "Word pieces are compared with the whole vocabulary, words and texts with those of --input.",
    )
    parser.add_argument(
        "--checkpoint", type=path_text, required=True, metavar="CHECKPOINT", help="any checkpoint that can be read"
    )
    parser.add_argument(
        "--query",
        nargs="+",
        required=True,
        metavar="TEXT",
        help="word pieces such as river or ##ing; for words, a text with one word between asterisks, such as "
        "'the *bank* of the river', or a word alone; for texts, texts",
    )
    parser.add_argument(
        "--vectors",
        choices=("pieces", "words", "texts"),
        default="pieces",
        help="compare embeddings of word pieces (the default), words in their context, or whole texts",
    )
    _text_options(parser)
    parser.add_argument(
        "--layers",
        nargs="+",
        type=whole_number,
        default=[-1],
        metavar="N",
        help="for words and texts: one or more layers, where 0 is the embeddings and -1 the last block (default: -1)",
    )
    parser.add_argument(
        "--number", type=whole_number, default=10, metavar="N", help="neighbours of each query (default: 10)"
    )
    _output_options(parser)
    base_option(parser)


def _text_options(parser: argparse.ArgumentParser) -> None:
    input_option(parser)
    text_column_option(parser)
    parser.add_argument(
        "--max-texts", type=whole_number, metavar="N", help="use the first N texts (default: all of them)"
    )
    parser.add_argument(
        "--max-seq-length",
        type=whole_number,
        metavar="N",
        help="longest sequence (default: all positions of the model)",
    )


def _output_options(parser: argparse.ArgumentParser) -> None:
    precision_option(parser)
    parser.add_argument(
        "--output", type=path_argument, metavar="FILE", help="write a page (.html) or all numbers (.json)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of the table")
    module_option(parser)


def _check_output(output: Path | None) -> None:
    """Check the ending of a file before anything is computed.

    Raises:
        InputError: it is neither a page nor JSON.
    """
    if output is not None and output.suffix not in (_PAGE, _JSON):
        raise InputError(f"--output is {output}; it must end in {_PAGE} or {_JSON}")


def _show(
    options: argparse.Namespace,
    values: Mapping[str, object],
    lines: Callable[[], Iterable[str]],
    page: Callable[[], str],
) -> None:
    """Print the table or JSON, and write the file that is asked for."""
    if options.output is not None:
        if options.output.suffix == _PAGE:
            write_lines([page()], options.output)
        else:
            write_json(values, options.output)
    if options.json:
        print_json(values)
    else:
        for line in lines():
            print(printable(line))
    if options.output is not None and not options.json:
        print(f"{'page' if options.output.suffix == _PAGE else 'numbers'}: {options.output}")


def _probe(options: argparse.Namespace) -> int:
    _check_output(options.output)
    with without_collections(freeze=True):
        from bert_lightning.interpretability.probing import probe
        from bert_lightning.reports.representation_pages import probing_page
        from bert_lightning.reports.representation_tables import probing_facts, probing_table

    with checked_options(), item_progress("probing", True, "layers") as counted:
        report: ProbingReport = probe(
            options.checkpoint,
            options.config,
            options.overrides,
            pooling=options.pooling,
            l2=options.l2,
            seeds=options.seeds,
            max_items=options.max_items,
            leave_out=options.leave_out,
            precision=options.precision,
            base=options.base,
            allow_modules=options.allow_module,
            progress=counted,
        )
    _show(
        options,
        report.to_dict(),
        lambda: [*probing_facts(report), "", *probing_table(report).lines()],
        lambda: probing_page(report),
    )
    return OK


def _cka(options: argparse.Namespace) -> int:
    _check_output(options.output)
    with without_collections(freeze=True):
        from bert_lightning.interpretability.similarity import cka
        from bert_lightning.reports.representation_pages import similarity_page
        from bert_lightning.reports.representation_tables import similarity_facts, similarity_table

    with checked_options(), item_progress("comparing", True, "texts") as counted:
        report = cka(
            options.a,
            options.b,
            counted(_texts(options)),
            vectors=options.vectors,
            debiased=not options.biased,
            batch_size=options.batch_size,
            max_seq_length=options.max_seq_length,
            precision=options.precision,
            allow_modules=options.allow_module,
        )
    _show(
        options,
        report.to_dict(),
        lambda: [*similarity_facts(report), "", *similarity_table(report).lines()],
        lambda: similarity_page(report),
    )
    return OK


def _texts(options: argparse.Namespace) -> Iterator[str]:
    """Return the first texts of the input."""
    from itertools import islice

    from bert_lightning.checks import RefusedValue
    from bert_lightning.interpretability.feature_files import read_texts

    if options.max_texts is not None and options.max_texts < 1:
        raise RefusedValue("max_texts", options.max_texts, "be at least 1")
    refuse_own_input([options.input], options.output)
    return islice(read_texts(options.input, options.text_column), options.max_texts)


def _neighbors(options: argparse.Namespace) -> int:
    _check_output(options.output)
    if options.vectors == "pieces":
        for name in ("input", "text_column", "layers", "max_texts", "max_seq_length", "precision"):
            if getattr(options, name) != options.parser.get_default(name):
                option = f"--{name.replace('_', '-')}"
                raise InputError(
                    f"{option} does nothing with --vectors pieces, which are compared with the vocabulary"
                )
    with without_collections(freeze=True):
        from bert_lightning.interpretability.nearest_neighbors import neighbors
        from bert_lightning.reports.representation_pages import neighbors_page
        from bert_lightning.reports.representation_tables import neighbors_facts, neighbors_tables

    with checked_options(), item_progress("comparing", True, "texts") as counted:
        report = neighbors(
            options.checkpoint,
            options.query,
            counted(_texts(options)) if options.vectors != "pieces" else None,
            vectors=options.vectors,
            layers=options.layers,
            number=options.number,
            max_seq_length=options.max_seq_length,
            precision=options.precision,
            base=options.base,
            allow_modules=options.allow_module,
        )

    def lines() -> Iterator[str]:
        yield from neighbors_facts(report)
        for title, everything, table in neighbors_tables(report):
            yield from ("", f"{title} (all: {everything})", *table.lines())

    _show(options, report.to_dict(), lines, lambda: neighbors_page(report))
    return OK
