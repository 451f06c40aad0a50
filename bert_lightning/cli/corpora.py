"""Commands on text: `tokenizer`, `prepare`, `convert-store`, `instances`."""

import argparse
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from bert_lightning.checks import require_at_least
from bert_lightning.cli.parsing import (
    Commands,
    checked_options,
    path_argument,
    refuse_own_input,
    text_column_option,
    whole_number,
)
from bert_lightning.cli.statuses import OK
from bert_lightning.cli.terminal import console, text_progress
from bert_lightning.errors import InputError

if TYPE_CHECKING:
    from bert_lightning.data.corpus.documents import CorpusFormat

LAYOUTS = ("auto", "sentences", "paragraphs")


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    _add_tokenizer(commands)
    _add_prepare(commands)
    _add_convert_store(commands)
    _add_instances(commands)


def _add_tokenizer(commands: Commands) -> None:
    parser = commands.add("tokenizer", _tokenizer, "train a WordPiece vocabulary")
    _corpus_options(parser)
    parser.set_defaults(language="en")
    parser.add_argument(
        "--vocab-size", type=whole_number, required=True, metavar="N", help="number of vocabulary entries"
    )
    parser.add_argument(
        "--output",
        type=path_argument,
        required=True,
        metavar="DIR",
        help="folder for vocab.txt and tokenizer.json",
    )
    parser.add_argument("--cased", action="store_true", help="keep upper case and accents")
    parser.add_argument(
        "--min-frequency",
        type=whole_number,
        default=2,
        metavar="N",
        help="leave out word pieces that occur less often (default: 2)",
    )
    parser.add_argument(
        "--special-tokens",
        nargs="+",
        default=[],
        metavar="TOKEN",
        help="additional entries, such as [E1], that are never split and never masked",
    )


def _add_prepare(commands: Commands) -> None:
    parser = commands.add(
        "prepare",
        _prepare,
        "encode a corpus into a token store",
        "If it is interrupted, run the same command again: finished sections are kept.",
    )
    _corpus_options(parser)
    _tokenizer_options(parser)
    parser.add_argument(
        "--output", type=path_argument, required=True, metavar="DIR", help="folder for the token store"
    )
    _workers_option(parser)
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="address of a Dask cluster to use instead of local processes"
    )


def _add_convert_store(commands: Commands) -> None:
    parser = commands.add(
        "convert-store",
        _convert_store,
        "bring a token store of an earlier version into today's format",
        "Stores of an earlier version can still be read, but slowly if they are large. The new store has the same "
        "tokens. A run that has begun on the old store continues only there. If the command is interrupted, run it "
        "again: finished sections are kept.",
    )
    parser.add_argument("store", type=path_argument, metavar="STORE", help="folder of the earlier store")
    parser.add_argument(
        "--output", type=path_argument, required=True, metavar="DIR", help="folder for the new token store"
    )
    _workers_option(parser)


def _workers_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=whole_number, metavar="N", help="number of processes (default: one per core)"
    )


def _add_instances(commands: Commands) -> None:
    parser = commands.add(
        "instances",
        _instances,
        "show pre-training instances",
        "Shows instances in the terminal, or writes all of them as JSON lines. The google algorithm makes exactly "
        "the instances of the published generator. Its input has one segment per line, and blank lines end "
        "documents. The dynamic algorithm makes the instances that training draws.",
    )
    _corpus_options(parser)
    _tokenizer_options(parser)
    parser.add_argument(
        "--algorithm",
        choices=("google", "dynamic"),
        default="dynamic",
        help="how instances are made (default: dynamic)",
    )
    parser.add_argument(
        "--max-seq-length",
        type=whole_number,
        default=128,
        metavar="N",
        help="longest sequence, with [CLS] and [SEP] (default: 128)",
    )
    parser.add_argument(
        "--max-predictions-per-seq",
        type=whole_number,
        default=20,
        metavar="N",
        help="most masked tokens per sequence (default: 20)",
    )
    parser.add_argument(
        "--masked-lm-prob", type=float, default=0.15, metavar="P", help="fraction of masked tokens (default: 0.15)"
    )
    parser.add_argument(
        "--short-seq-prob",
        type=float,
        default=0.1,
        metavar="P",
        help="probability of making a sequence shorter on purpose (default: 0.1)",
    )
    parser.add_argument("--whole-word", action="store_true", help="mask whole words")
    _algorithm_options(parser)
    parser.add_argument(
        "--seed", type=int, default=12345, metavar="N", help="seed of the random choices (default: 12345)"
    )
    parser.add_argument(
        "--show",
        type=whole_number,
        default=10,
        metavar="N",
        help="number of instances to show without --output (default: 10)",
    )
    parser.add_argument("--output", type=path_argument, metavar="FILE", help="file for all instances as JSON lines")


def _algorithm_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dupe-factor",
        type=whole_number,
        metavar="N",
        help="google only: number of passes over the text (default: 10)",
    )
    parser.add_argument(
        "--masking", metavar="NAME", help="dynamic only: token, whole-word, span or n-gram (default: token)"
    )
    parser.add_argument(
        "--objective",
        metavar="NAME",
        help="dynamic only: next-sentence, sentence-order, ... (default: next-sentence)",
    )
    parser.add_argument(
        "--epoch",
        type=whole_number,
        metavar="N",
        help="dynamic only: number of the pass over the text, from 0 (default: 0)",
    )


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
        help="form of plain text: one sentence per line (sentences), running text (paragraphs), or detect it (auto, "
        "the default); in tables each row is a document; with sentences it is one line of a document",
    )
    text_column_option(parser)
    parser.add_argument(
        "--errors",
        choices=("strict", "replace"),
        default="strict",
        help="for bytes that are not UTF-8: stop (strict, the default), or put U+FFFD in their place and count them "
        "(replace)",
    )
    parser.add_argument(
        "--document-start",
        metavar="REGEX",
        help="begin a document at each line that matches; blank lines then no longer end documents",
    )
    parser.add_argument(
        "--lines-per-document", type=whole_number, metavar="N", help="begin a new document after every N lines"
    )


def _tokenizer_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tokenizer", required=True, metavar="DIR_OR_VOCAB", help="folder with vocab.txt, or a vocabulary file"
    )
    parser.add_argument("--cased", action="store_true", help="the vocabulary file is cased")
    parser.add_argument(
        "--language",
        default="en",
        metavar="CODE",
        help="language of the text, for sentence splitting (default: en)",
    )


def _tokenizer(options: argparse.Namespace) -> int:
    from bert_lightning.checkpoints.listing import entries
    from bert_lightning.data.corpus.documents import read_passages
    from bert_lightning.data.reading.lines import Repairs, named
    from bert_lightning.text.vocabulary import train_wordpiece
    from bert_lightning.text.wordpiece import TOKENIZER_FILES, load_tokenizer
    from bert_lightning.wording import count

    with checked_options():
        require_at_least(options, 1, "min_frequency")
    sources, corpus = _sources(options), _corpus_format(options)
    output = options.output
    if output.exists() and (not output.is_dir() or {p.name for p in entries(output)} - {*TOKENIZER_FILES}):
        raise InputError(f"{output} exists and holds other files: choose another --output")
    repairs = Repairs()

    def texts() -> Iterator[str]:
        with text_progress(sources, "counting words") as advance:
            for source in sources:
                for passage in read_passages(source, corpus, repairs):
                    yield from passage.segments
                    advance(sum(map(len, passage.segments)))

    tokenizer = train_wordpiece(
        texts(),
        options.vocab_size,
        not options.cased,
        options.min_frequency,
        options.special_tokens,
        named(sources),
    )
    if output.exists() and any(entries(output)):
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
            f"The vocabulary is smaller than --vocab-size {options.vocab_size:,}, because the text has no more word "
            f"pieces that occur at least {options.min_frequency} times."
        )
    return OK


def _prepare(options: argparse.Namespace) -> int:
    from bert_lightning.cli.summaries import summary_lines
    from bert_lightning.data.corpus.preparation import prepare
    from bert_lightning.text.wordpiece import load_tokenizer

    if options.scheduler is not None and options.workers is not None:
        raise InputError(
            "--workers and --scheduler contradict each other: --workers counts processes of this machine, but "
            "--scheduler uses the workers of a cluster"
        )
    sources = _sources(options)
    tokenizer = load_tokenizer(options.tokenizer, options.cased or None)
    with text_progress(sources, "encoding") as advance:
        summary = prepare(
            sources,
            tokenizer,
            options.output,
            corpus=_corpus_format(options),
            num_workers=options.workers,
            scheduler=options.scheduler,
            progress=advance,
        )
    print(*summary_lines(summary, options.output), sep="\n")
    return OK


def _convert_store(options: argparse.Namespace) -> int:
    from bert_lightning.cli.summaries import summary_lines
    from bert_lightning.data.corpus.conversion import convert

    summary = convert(options.store, options.output, num_workers=options.workers)
    print(*summary_lines(summary, options.output), sep="\n")
    return OK


def _instances(options: argparse.Namespace) -> int:
    import json
    from itertools import islice

    from bert_lightning.checkpoints.files import write_atomically
    from bert_lightning.cli.console import Terminal
    from bert_lightning.cli.instances import instance_lines
    from bert_lightning.cli.summaries import render_instance
    from bert_lightning.wording import count

    if options.output is not None and options.output.is_dir():
        raise InputError(f"--output {options.output} is a folder; a file is expected")
    with checked_options():
        require_at_least(options, 1, "show")
    number, sources = 0, _sources(options)
    refuse_own_input(sources, options.output)
    lines = instance_lines(options, sources, _corpus_format(options), console())
    if options.output is None:
        terminal = Terminal(highlight=False)
        for number, line in enumerate(islice(lines, options.show)):
            terminal.print(render_instance(number, json.loads(line)))
        return OK

    def write(file: IO[bytes]) -> None:
        nonlocal number
        for line in lines:
            file.write(line.encode())
            number += 1

    write_atomically(options.output, write)
    print(f"{count(number, 'instance')}: {options.output}")
    return OK


def _sources(options: argparse.Namespace) -> list[str]:
    from bert_lightning.data.reading.sources import CORPUS_SUFFIXES, find_sources

    return find_sources(options.input, CORPUS_SUFFIXES, options.exclude)


def _corpus_format(options: argparse.Namespace) -> "CorpusFormat":
    from bert_lightning.data.corpus.documents import CorpusFormat

    return CorpusFormat(
        layout=options.layout,
        text_column=options.text_column,
        language=options.language,
        errors=options.errors,
        document_start=options.document_start,
        lines_per_document=options.lines_per_document,
    )
