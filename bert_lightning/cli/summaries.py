"""Output of the commands on text: the summary of a token store, and instances with their masks in colour."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

from rich.text import Text

from bert_lightning.data.corpus.preparation import PreparationSummary
from bert_lightning.text.wordpiece import MASK
from bert_lightning.wording import count

_BAR = 40
# Kind of replacement of a masked token -> its style in the terminal.
_STYLES = {"masked": "bold white on red", "random": "bold white on magenta", "kept": "bold white on blue"}


class InstanceRecord(TypedDict):
    """Pre-training instance as the command writes it."""

    tokens: list[str]
    segment_ids: list[int]
    masked_lm_positions: list[int]
    masked_lm_labels: list[str]
    is_random_next: NotRequired[bool]
    is_swapped: NotRequired[bool]


def summary_lines(summary: PreparationSummary, output: Path) -> Iterator[str]:
    """Yield the lines that describe a token store."""
    layouts = ", ".join(f"{name} ({count(number, 'file')})" for name, number in summary.layouts.items())
    if layouts:
        yield f"layout: {layouts}"
    if summary.repairs.num_replaced:
        yield f"{count(summary.repairs.num_replaced, 'undecodable byte')} replaced"
    if summary.repairs.num_cut:
        yield f"{count(summary.repairs.num_cut, 'line')} too long for memory, cut at spaces"
    yield from _histogram("tokens per sentence", summary.sentence_lengths)
    yield from _histogram("tokens per document", summary.document_lengths)
    frequent = "  ".join(f"{piece} {number / summary.num_tokens:.1%}" for piece, number in summary.frequent)
    yield f"most frequent: {frequent}"
    yield (
        f"{count(summary.num_documents, 'document')}, {count(summary.num_sentences, 'sentence')}, "
        f"{count(summary.num_tokens, 'token')} "
        f"({summary.num_unknown / summary.num_tokens:.2%} unknown) in {count(summary.num_shards, 'shard')} of "
        f"{count(summary.num_sections, 'section')}"
        + (f", {summary.num_kept_sections} of them kept from an earlier run" if summary.num_kept_sections else "")
        + f": {output}"
    )


def _histogram(title: str, counts: Sequence[int]) -> Iterator[str]:
    """Yield one bar per bin; the upper ends of the bins are 1, 2, 4, ..."""
    first = next((k for k, number in enumerate(counts) if number), 0)
    yield f"{title}:"
    for k in range(first, len(counts)):
        low = (1 << k - 1) + 1 if k else 1
        span = f"{low:,}" if low == 1 << k else f"{low:,}-{1 << k:,}"
        bar = "█" * round(_BAR * counts[k] / max(counts))
        yield f"  {span:>21}  {counts[k]:>11,}  {bar}"


def render_instance(number: int, instance: InstanceRecord) -> Text:
    """Return an instance as coloured text: words joined, and each predicted token beside the original one."""
    relation = []
    if "is_random_next" in instance:
        relation.append("B is random" if instance["is_random_next"] else "B follows A")
    if "is_swapped" in instance:
        relation.append("swapped" if instance["is_swapped"] else "in order")
    labels = dict(zip(instance["masked_lm_positions"], instance["masked_lm_labels"], strict=True))
    heading = ", ".join([*relation, count(len(instance["tokens"]), "token"), f"{len(labels)} predicted"])
    text = Text(f"{number}  {heading}\n", style="dim")
    body = Text()
    for position, token in enumerate(instance["tokens"]):
        continues = token.startswith("##")
        if position and not continues:
            body.append(" ")
        if position in labels:
            label = labels[position]
            kind = "masked" if token == MASK else "kept" if token == label else "random"
            shown = label if kind == "kept" else f"{token}→{label}"
            body.append(shown.removeprefix("##") if kind == "kept" and continues else shown, _STYLES[kind])
        else:
            style = "cyan" if instance["segment_ids"][position] else ""
            body.append(token.removeprefix("##") if continues else token, style)
    text.append_text(body)
    text.append("\n")
    return text
