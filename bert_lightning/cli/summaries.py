"""What the commands on text print: the summary of a token store, and instances with their masks in colour."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from bert_lightning.data.corpus.preparation import PreparationSummary
from bert_lightning.text.wordpiece import MASK
from bert_lightning.wording import count

_BAR = 40
# What became of a masked token -> how it is shown.
_STYLES = {"masked": "bold white on red", "random": "bold white on magenta", "kept": "bold white on blue"}


class Terminal(Console):
    """A console that leaves a broken pipe to the command line."""

    def on_broken_pipe(self) -> None:
        """Raise the error again; rich would end the process with status 1."""
        raise


def summary_lines(summary: PreparationSummary, output: str) -> Iterator[str]:
    """What a preparation found, line by line."""
    layouts = ", ".join(f"{name} ({count(number, 'file')})" for name, number in summary.layouts.items())
    if layouts:
        yield f"layout: {layouts}"
    if summary.repairs.num_replaced:
        yield f"{count(summary.repairs.num_replaced, 'undecodable byte')} replaced"
    if summary.repairs.num_cut:
        yield f"{count(summary.repairs.num_cut, 'line')} too long to be held at once, cut at spaces"
    yield from _histogram("tokens a sentence", summary.sentence_lengths)
    yield from _histogram("tokens a document", summary.document_lengths)
    frequent = "  ".join(f"{piece} {number / summary.num_tokens:.1%}" for piece, number in summary.frequent)
    yield f"most frequent: {frequent}"
    yield (
        f"{count(summary.num_documents, 'document')}, {count(summary.num_sentences, 'sentence')}, "
        f"{count(summary.num_tokens, 'token')} "
        f"({summary.num_unknown / summary.num_tokens:.2%} unknown) in {count(summary.num_shards, 'shard')}"
        + (f", {summary.num_kept_shards} of them kept from before" if summary.num_kept_shards else "")
        + f": {output}"
    )


def _histogram(title: str, counts: Sequence[int]) -> Iterator[str]:
    """Bars for bins whose upper ends are 1, 2, 4, ..."""
    first = next((k for k, number in enumerate(counts) if number), 0)
    yield f"{title}:"
    for k in range(first, len(counts)):
        low = (1 << k - 1) + 1 if k else 1
        span = f"{low:,}" if low == 1 << k else f"{low:,}-{1 << k:,}"
        bar = "█" * round(_BAR * counts[k] / max(counts))
        yield f"  {span:>21}  {counts[k]:>11,}  {bar}"


def shown_instance(number: int, instance: dict[str, Any]) -> Text:
    """One instance as a reader wants it: words joined, what is predicted in colour with what stood there."""
    kinds = {"is_random_next": ("B follows A", "B is random"), "is_swapped": ("in order", "swapped")}
    said = [names[instance[key]] for key, names in kinds.items() if key in instance]
    labels = dict(zip(instance["masked_lm_positions"], instance["masked_lm_labels"], strict=True))
    heading = ", ".join([*said, count(len(instance["tokens"]), "token"), f"{len(labels)} predicted"])
    text = Text(f"{number}  {heading}\n", style="dim")
    body = Text()
    for position, token in enumerate(instance["tokens"]):
        glued = token.startswith("##")
        if position and not glued:
            body.append(" ")
        if position in labels:
            label = labels[position]
            kind = "masked" if token == MASK else "kept" if token == label else "random"
            shown = label if kind == "kept" else f"{token}→{label}"
            body.append(shown.removeprefix("##") if kind == "kept" and glued else shown, _STYLES[kind])
        else:
            part = "cyan" if instance["segment_ids"][position] else ""
            body.append(token.removeprefix("##") if glued else token, part)
    text.append_text(body)
    text.append("\n")
    return text
