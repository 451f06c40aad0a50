"""Pre-training instances as lines of JSON, for the command `instances`."""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from bert_lightning.checks import RefusedValue, nearest, require_at_least, require_between
from bert_lightning.cli.parsing import checked_options
from bert_lightning.data.corpus.documents import CorpusFormat
from bert_lightning.data.corpus.preparation import prepare
from bert_lightning.data.pretraining.masking import MASKINGS
from bert_lightning.data.pretraining.objectives import OBJECTIVES
from bert_lightning.data.pretraining.published_generator import GoogleSettings, google_instances
from bert_lightning.data.reading.lines import named
from bert_lightning.data.reading.tables import is_table
from bert_lightning.errors import InputError
from bert_lightning.text.original import OriginalEncoding
from bert_lightning.text.wordpiece import WordPieceTokenizer, load_tokenizer


def instance_lines(
    options: argparse.Namespace, sources: Sequence[str], corpus: CorpusFormat, console: Console
) -> Iterator[str]:
    """Yield the instances of `sources` under the options of the command, each as a line of JSON.

    Raises:
        InputError: an option does not belong to the algorithm, or a value is not allowed.
    """
    tokenizer = load_tokenizer(options.tokenizer, options.cased or None)
    if options.algorithm == "google":
        yield from _google(options, sources, corpus, tokenizer, console)
    else:
        yield from _dynamic(options, sources, corpus, tokenizer)


def _google(
    options: argparse.Namespace,
    sources: Sequence[str],
    corpus: CorpusFormat,
    tokenizer: WordPieceTokenizer,
    console: Console,
) -> Iterator[str]:
    for name in ("masking", "objective", "epoch", "document_start", "lines_per_document"):
        if getattr(options, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is not an option of the google algorithm")
    if corpus.layout == "paragraphs":
        raise InputError("the google algorithm has no --layout paragraphs: its input has one segment per line")
    table = next((source for source in sources if is_table(source)), None)
    if table is not None:
        raise InputError(f"{table} is a table, but the google algorithm reads plain text")
    settings = GoogleSettings(
        max_seq_length=options.max_seq_length,
        max_predictions_per_seq=options.max_predictions_per_seq,
        masked_lm_prob=options.masked_lm_prob,
        dupe_factor=GoogleSettings.dupe_factor if options.dupe_factor is None else options.dupe_factor,
        short_seq_prob=options.short_seq_prob,
        whole_word=options.whole_word,
        seed=options.seed,
    )
    encoder = OriginalEncoding(tokenizer.entries, tokenizer.vocabulary.lowercase is not False)
    with Progress(transient=True, disable=not console.is_terminal, console=console) as progress:
        bar = progress.add_task("documents")
        yield from google_instances(
            sources,
            encoder,
            tokenizer.entries,
            settings,
            corpus.errors,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )


def _dynamic(
    options: argparse.Namespace, sources: Sequence[str], corpus: CorpusFormat, tokenizer: WordPieceTokenizer
) -> Iterator[str]:
    # Torch takes a second to import, and the google algorithm does not need it.
    from bert_lightning.data.pretraining.instances import dynamic_instances
    from bert_lightning.data.pretraining.module import PretrainingDataModule
    from bert_lightning.data.pretraining.settings import PretrainingData

    if options.dupe_factor is not None:
        raise InputError("--dupe-factor is not an option of the dynamic algorithm: it draws new masks in each epoch")
    if options.whole_word and options.masking not in (None, "whole-word"):
        raise InputError(f"--whole-word and --masking {options.masking} contradict each other")
    masking = options.masking or ("whole-word" if options.whole_word else "token")
    objective = options.objective or "next-sentence"
    if masking not in MASKINGS:
        raise InputError(f"--masking {masking!r} does not exist{nearest(masking, MASKINGS)}")
    if objective not in OBJECTIVES:
        raise InputError(f"--objective {objective!r} does not exist{nearest(objective, OBJECTIVES)}")
    with checked_options():
        if not 0 < options.masked_lm_prob < 1:
            allowed = "be more than 0 and less than 1 in the dynamic algorithm"
            raise RefusedValue("masked_lm_prob", options.masked_lm_prob, allowed)
        require_at_least(options, 1, "max_predictions_per_seq")
        require_at_least(options, 5, "max_seq_length")
        require_between(options, 0, 1, "short_seq_prob")
        require_at_least(options, 0, "epoch")
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        settings = PretrainingData(
            train=str(store),
            objective=objective,
            max_seq_length=options.max_seq_length,
            short_sequence_probability=options.short_seq_prob,
            masking=MASKINGS[masking](rate=options.masked_lm_prob, max_predictions=options.max_predictions_per_seq),
            batch_size=64,
        )
        prepare(sources, tokenizer, store, corpus=corpus)
        try:
            data = PretrainingDataModule(settings)
            data.num_training_samples  # noqa: B018 - raises now if there is too little text
        except InputError as error:
            raise InputError(str(error).replace(str(store), named(sources))) from None
        for instance in dynamic_instances(data, options.seed, options.epoch or 0):
            yield json.dumps(instance, ensure_ascii=False) + "\n"
