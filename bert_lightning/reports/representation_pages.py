"""Pages of `probe`, `cka` and `neighbors`: figures, tables, and what they mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from bert_lightning.interpretability.nearest_neighbors import NeighborsReport
from bert_lightning.interpretability.probing import ProbingReport
from bert_lightning.interpretability.similarity import SimilarityReport
from bert_lightning.reports.figures.layers import LayerCurve, curve_mark, draw_layer_curves, draw_layer_map
from bert_lightning.reports.figures.svg import Style
from bert_lightning.reports.representation_tables import (
    TextTable,
    neighbors_facts,
    neighbors_tables,
    probing_facts,
    probing_table,
    similarity_facts,
    similarity_table,
)
from bert_lightning.reports.self_contained_page import self_contained_page
from bert_lightning.wording import count

# Tables of a page, each of a query in a layer.
_MOST_TABLES = 200


@dataclass(frozen=True)
class Figure:
    """A figure of a page.

    Attributes:
        drawing: SVG.
        caption: whole sentences.
        legend: label and mark of each curve.
        is_map: whether it is a map, which may be wider than a curve.
    """

    drawing: str
    caption: str
    legend: Sequence[tuple[str, str]] = ()
    is_map: bool = False


@dataclass(frozen=True)
class TableSection:
    """A table of a page under a heading.

    Attributes:
        title: the heading.
        table: the texts.
        caption: whole sentences.
    """

    title: str
    table: TextTable
    caption: str = ""


def probing_page(report: ProbingReport) -> str:
    """Return the scores of all layers as an HTML page."""
    layers = report.layers
    curves = [
        LayerCurve(
            "accuracy",
            [layer.accuracy.value for layer in layers],
            [(layer.accuracy.low, layer.accuracy.high) for layer in layers],
            Style.of(1),
        ),
        _over_seeds("control task", [layer.control for layer in layers], Style.of(2)),
        _over_seeds("random encoder", [layer.random_encoder for layer in layers], Style.of(3)),
    ]
    selectivity = LayerCurve(
        "selectivity",
        [layer.selectivity.value for layer in layers],
        [(layer.selectivity.low, layer.selectivity.high) for layer in layers],
        Style.of(4),
    )
    legend = [(curve.name, curve_mark(curve.style)) for curve in curves]
    figures = [
        Figure(
            draw_layer_curves(curves, "accuracy", [report.majority]),
            "The band of the accuracy is its 95 % interval for new texts; the other bands go from the lowest to the "
            f"highest seed. The dashed line is the accuracy of always predicting {report.majority_label!r}. Layer 0 "
            "is the embeddings.",
            legend,
        ),
        Figure(
            draw_layer_curves([selectivity], "selectivity", [0.0]),
            "Selectivity is the accuracy minus the mean accuracy on the control tasks, with its 95 % interval.",
        ),
    ]
    caption = (
        f"In a control task, each {report.item} has a label that was drawn at random (Hewitt and Liang 2019). "
        "Memorised is the accuracy on the control tasks' own training data. ± is the standard deviation over seeds."
    )
    return _page(
        "Probing each layer",
        report.checkpoint,
        probing_facts(report),
        figures,
        [TableSection("Scores of each layer", probing_table(report), caption)],
    )


def similarity_page(report: SimilarityReport) -> str:
    """Return the map of all pairs of layers as an HTML page."""
    width = "" if report.debiased else " Wide layers look alike with this estimate."
    caption = (
        "The stronger the colour of a cell, the more alike two layers are: 1 if one is a rotation and a scale of the "
        f"other, about 0 for unrelated ones.{width} Layer 0 is the embeddings."
    )
    models, *facts = similarity_facts(report)
    return _page(
        "Similarity of layers",
        models,
        facts,
        [Figure(draw_layer_map(report.values, report.a, report.b), caption, is_map=True)],
        [TableSection("CKA of each pair of layers", similarity_table(report))],
    )


def neighbors_page(report: NeighborsReport) -> str:
    """Return the neighbours of all queries as an HTML page."""
    sections = [
        TableSection(title, table, f"The cosines of all candidates are {everything} (mean ± standard deviation).")
        for title, everything, table in neighbors_tables(report)
    ]
    left_out = len(sections) - _MOST_TABLES
    facts = neighbors_facts(report)
    if left_out > 0:
        facts.append(f"{count(left_out, 'table')} more did not fit on this page; JSON has all of them.")
    return _page("Nearest neighbours", report.checkpoint, facts, [], sections[:_MOST_TABLES])


def _over_seeds(name: str, values: Sequence[Sequence[float]], style: Style) -> LayerCurve:
    band = [(min(each), max(each)) for each in values]
    return LayerCurve(name, [fmean(each) for each in values], band, style)


def _page(
    heading: str, subject: str, facts: Sequence[str], figures: Sequence[Figure], sections: Sequence[TableSection]
) -> str:
    return self_contained_page(
        "representation_page.html.jinja",
        heading,
        styles=["page.css.jinja", "representation_page.css.jinja"],
        subject=subject,
        facts=facts,
        figures=figures,
        sections=sections,
    )
