"""Probing, similarity and neighbours as rows of text, the same in the terminal and on a page."""

from collections.abc import Iterator, Sequence
from math import isfinite, isnan
from statistics import fmean, stdev
from typing import NamedTuple

from bert_lightning.interpretability.nearest_neighbors import NeighborsReport
from bert_lightning.interpretability.probing import Interval, ProbingReport
from bert_lightning.interpretability.similarity import SimilarityReport
from bert_lightning.wording import count


class TextTable(NamedTuple):
    """A table of texts.

    Attributes:
        columns: the names of the columns, of which the first names the row.
        rows: their texts.
        of_numbers: whether the other columns are numbers, which are aligned to the right.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    of_numbers: bool = True

    def lines(self) -> Iterator[str]:
        """Yield the table as aligned lines.

        >>> print(*TextTable(["layer", "score"], [["embeddings", "0.5"], ["1", "0.75"]]).lines(), sep="\\n")
        layer       score
        embeddings    0.5
        1            0.75
        """
        everything = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*everything, strict=True)]
        for name, *values in everything:
            side = ">" if self.of_numbers else "<"
            cells = [f"{value:{side}{width}}" for value, width in zip(values, widths[1:], strict=True)]
            yield "  ".join([f"{name:<{widths[0]}}", *cells]).rstrip()


def layer_name(layer: int) -> str:
    """Return the name of a layer.

    >>> layer_name(0), layer_name(2)
    ('embeddings', '2')
    """
    return str(layer) if layer else "embeddings"


def probing_facts(report: ProbingReport) -> list[str]:
    """Return what was probed, how, and the majority baseline, as sentences."""
    sizes = [
        count(items, report.item) + (f" of {count(texts, 'text')}" if report.item == "word" else "")
        for items, texts in zip(report.num_items, report.num_texts, strict=True)
    ]
    pieces = "mean over the pieces" if report.pooling == "mean" else "first piece"
    return [
        f"{report.task}, {count(len(report.labels), 'label')}: {sizes[0]} to fit, {sizes[1]} to score.",
        f"Logistic regression with an L2 penalty of {report.l2:g} on the {pieces} of each {report.item}; "
        f"{count(len(report.seeds), 'seed')} of control tasks and of encoders with random weights.",
        f"Always {report.majority_label!r}: accuracy {report.majority:.4f}, macro F1 {report.majority_macro_f1:.4f}.",
    ]


def probing_table(report: ProbingReport) -> TextTable:
    """Return a row per layer."""
    columns = ("accuracy", "95 % interval", "macro F1", "control", "selectivity", "95 % interval", "memorised")
    rows = [
        (
            layer_name(layer.layer) + ("" if layer.converged else " (not converged)"),
            f"{layer.accuracy.value:.4f}",
            _interval(layer.accuracy),
            f"{layer.macro_f1:.4f}",
            _over_seeds(layer.control),
            f"{layer.selectivity.value:+.4f}",
            _interval(layer.selectivity, "+"),
            f"{layer.memorised:.4f}",
            _over_seeds(layer.random_encoder),
        )
        for layer in report.layers
    ]
    return TextTable(("layer", *columns, "random encoder"), rows)


def similarity_facts(report: SimilarityReport) -> list[str]:
    """Return what was compared, and how, as sentences."""
    estimate = "without bias" if report.debiased else "with the bias of wide layers (Kornblith et al. 2019)"
    names = {"words": "word", "texts": "text", "pieces": "word piece"}
    of_texts = "" if report.vectors == "texts" else f" of {count(report.num_texts, 'text')}"
    has_empty = any(isnan(value) for row in report.values for value in row)
    reason = "An empty cell has no value: in one of its layers, all vectors are equal, or too few to differ clearly."
    return [
        f"Rows: {report.a}. Columns: {report.b}.",
        f"Linear CKA of {count(report.num_vectors, names[report.vectors])}{of_texts}, estimated {estimate}, in "
        f"batches of {report.batch_size}.",
        *([reason] if has_empty else []),
    ]


def similarity_table(report: SimilarityReport) -> TextTable:
    """Return a row per layer of the first model, and a column per layer of the second."""
    columns = ("layer", *(str(layer) for layer in range(len(report.values[0]))))
    rows = [
        (layer_name(layer), *("" if isnan(value) else f"{value:.2f}" for value in row))
        for layer, row in enumerate(report.values)
    ]
    return TextTable(columns, rows)


def neighbors_facts(report: NeighborsReport) -> list[str]:
    """Return what was compared, as sentences."""
    names = {"words": "word in its context", "texts": "text", "pieces": "embedding of a word piece"}
    return [
        f"Each query is compared with {count(report.num_candidates, 'vector')}, each of one {names[report.vectors]}."
    ]


def neighbors_tables(report: NeighborsReport) -> Iterator[tuple[str, str, TextTable]]:
    """Yield a title, the cosines of all candidates, and a table for each query and layer."""
    with_context = report.vectors == "words"
    for each in report.neighborhoods:
        layer = "" if report.vectors == "pieces" else f", layer {each.layer}"
        everything = f"{each.mean:.3f} ± {each.deviation:.3f}"
        rows = [
            (f"{near.cosine:.4f}", near.name, *([near.context] if with_context else [])) for near in each.neighbors
        ]
        yield (
            f"{each.query}{layer}",
            everything,
            TextTable(("cosine", report.vectors[:-1], *(["context"] if with_context else [])), rows, False),
        )


def _interval(interval: Interval, sign: str = "") -> str:
    # One text has no interval.
    return f"[{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]" if isfinite(interval.low) else ""


def _over_seeds(values: Sequence[float]) -> str:
    """Return mean and standard deviation of several seeds.

    >>> _over_seeds([0.5]), _over_seeds([0.5, 0.7])
    ('0.5000', '0.6000 ± 0.1414')
    """
    return f"{fmean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")
