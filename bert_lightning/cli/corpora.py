"""Commands on text: `tokenizer`, `prepare`, `instances`."""

import argparse
from typing import Any

from bert_lightning.cli.parsing import Commands, path_argument, refuse_own_input, whole_number
from bert_lightning.cli.statuses import OK
from bert_lightning.cli.terminal import console, text_progress
from bert_lightning.errors import InputError

LAYOUTS = ("auto", "sentences", "paragraphs")


def add(commands: Commands) -> None:
    """The three commands."""
    tokenizer = commands.add("tokenizer", _tokenizer, "train a WordPiece vocabulary")
    _corpus_options(tokenizer)
    tokenizer.set_defaults(language="en")
    tokenizer.add_argument("--vocab-size", type=whole_number, required=True, metavar="N", help="number of entries")
    tokenizer.add_argument(
        "--output", type=path_argument, required=True, metavar="DIR", help="gets vocab.txt and tokenizer.json"
    )
    tokenizer.add_argument("--cased", action="store_true", help="keep case and accents")
    tokenizer.add_argument(
        "--min-frequency", type=whole_number, default=2, metavar="N", help="a piece must occur so often (default: 2)"
    )
    tokenizer.add_argument(
        "--special-tokens",
        nargs="+",
        default=[],
        metavar="TOKEN",
        help="further entries, such as [E1], that are never split and never masked",
    )

    prepare = commands.add(
        "prepare", _prepare, "encode a corpus into a token store", "Restartable: finished shards are kept."
    )
    _corpus_options(prepare)
    prepare.add_argument(
        "--tokenizer",
        required=True,
        metavar="DIR_OR_VOCAB",
        help="folder with vocab.txt, or a vocabulary file",
    )
    prepare.add_argument("--output", type=path_argument, required=True, metavar="DIR", help="the token store")
    prepare.add_argument("--workers", type=whole_number, metavar="N", help="processes (default: one a core)")
    prepare.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that does the work instead")
    prepare.add_argument("--cased", action="store_true", help="the vocabulary file is cased")
    _language_option(prepare)

    instances = commands.add(
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
    instances.add_argument("--max-seq-length", type=whole_number, default=128, metavar="N", help="default: 128")
    instances.add_argument(
        "--max-predictions-per-seq", type=whole_number, default=20, metavar="N", help="default: 20"
    )
    instances.add_argument("--masked-lm-prob", type=float, default=0.15, metavar="P", help="default: 0.15")
    instances.add_argument(
        "--dupe-factor", type=whole_number, metavar="N", help="passes over the text; google only, default 10"
    )
    instances.add_argument("--short-seq-prob", type=float, default=0.1, metavar="P", help="default: 0.1")
    instances.add_argument("--whole-word", action="store_true", help="mask whole words")
    instances.add_argument("--masking", metavar="NAME", help="dynamic only: token, whole-word, span, n-gram")
    instances.add_argument("--objective", metavar="NAME", help="dynamic only: next-sentence, sentence-order, ...")
    instances.add_argument(
        "--epoch", type=whole_number, metavar="N", help="dynamic only: which pass over the text, from 0"
    )
    instances.add_argument("--seed", type=int, default=12345, metavar="N", help="default: 12345")
    instances.add_argument(
        "--show", type=whole_number, default=10, metavar="N", help="how many to show without --output (default: 10)"
    )
    instances.add_argument("--output", type=path_argument, metavar="FILE", help="gets all of them as JSON lines")


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
        "--lines-per-document", type=whole_number, metavar="N", help="begin a document after so many lines"
    )


def _language_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--language", default="en", metavar="CODE", help="of the text, for sentence splitting (default: en)"
    )


def _tokenizer(options: argparse.Namespace) -> int:
    from bert_lightning.checkpoints.listing import entries
    from bert_lightning.data.corpus.documents import read_passages
    from bert_lightning.data.reading.lines import Repairs, named
    from bert_lightning.text.vocabulary import train_wordpiece
    from bert_lightning.text.wordpiece import TOKENIZER_FILES, load_tokenizer
    from bert_lightning.wording import count

    if options.min_frequency < 1:
        raise InputError(f"--min-frequency is {options.min_frequency}; it must be at least 1")
    sources, corpus = _sources(options), _corpus_format(options)
    output = options.output
    if output.exists() and (not output.is_dir() or {p.name for p in entries(output)} - {*TOKENIZER_FILES}):
        raise InputError(f"{output} exists and holds something else: choose another --output")
    repairs = Repairs()

    def texts() -> Any:
        with text_progress(sources, "counting words") as done:
            for source in sources:
                for passage in read_passages(source, corpus, repairs):
                    yield from passage.segments
                    done(sum(map(len, passage.segments)))

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
            f"The text has no more than {size:,} pieces that occur {options.min_frequency} times; "
            f"{options.vocab_size:,} were asked for."
        )
    return OK


def _prepare(options: argparse.Namespace) -> int:
    from bert_lightning.cli.summaries import summary_lines
    from bert_lightning.data.corpus.preparation import prepare
    from bert_lightning.text.wordpiece import load_tokenizer

    if options.scheduler is not None and options.workers is not None:
        raise InputError(
            "--workers counts processes of this machine: with --scheduler the cluster's workers are used"
        )
    sources = _sources(options)
    tokenizer = load_tokenizer(options.tokenizer, options.cased or None)
    with text_progress(sources, "encoding") as done:
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
    from bert_lightning.cli.instances import instances
    from bert_lightning.cli.summaries import Terminal, shown_instance
    from bert_lightning.wording import count

    if options.output is not None and options.output.is_dir():
        raise InputError(f"--output {options.output} is a folder; a file is expected")
    if options.show < 1:
        raise InputError(f"--show is {options.show}; it must be at least 1")
    number, sources = 0, _sources(options)
    refuse_own_input(sources, options.output)
    lines = instances(options, sources, _corpus_format(options), console())
    if options.output is None:
        terminal = Terminal(highlight=False)
        for number, line in enumerate(islice(lines, options.show)):
            terminal.print(shown_instance(number, json.loads(line)))
        return OK

    def write(file: Any) -> None:
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


def _corpus_format(options: argparse.Namespace) -> Any:
    from bert_lightning.data.corpus.documents import CorpusFormat

    return CorpusFormat(
        layout=options.layout,
        text_column=options.text_column,
        language=options.language,
        errors=options.errors,
        document_start=options.document_start,
        lines_per_document=options.lines_per_document,
    )
