"""Curves of logged metrics as SVG."""

from collections.abc import Sequence

from bert_lightning.runs.figures import as_svg, plain_style, shown
from bert_lightning.studies.comparison import Group

_COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
# Characters that fit into the width of a figure.
_LONGEST_LABEL = 70


def draw(metric: str, groups: Sequence[Group]) -> str:
    """Draw a metric of several groups as SVG.

    Training curves are thin, validation curves have marks, and the score of guessing is a dashed line.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with plain_style(**{"font.size": 9}):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.subplots()
        lines, names = [], []
        for number, group in enumerate(groups):
            colour = _COLOURS[number % len(_COLOURS)]
            for run in group.runs:
                train, validation = run.series(f"train/{metric}"), run.series(f"val/{metric}")
                if train[0]:
                    axes.plot(*train, color=colour, linewidth=1, alpha=0.45 if validation[0] else 0.9)
                if validation[0]:
                    axes.plot(*validation, color=colour, marker="o", markersize=3, linewidth=1.4)
                if run is group.runs[0] and (train[0] or validation[0]):
                    lines.append(axes.lines[-1])
                    names.append(group.label)
                for baseline in BASELINES.get(metric, ()):
                    values = run.series(baseline)[1]
                    if values and run is group.runs[0]:
                        axes.axhline(values[-1], color="#6b7280", linestyle="--", linewidth=1)
        axes.set_title(shown(metric), loc="left", fontsize=10)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(groups) > 1 and lines:
            legend = axes.legend(lines, ["" for _ in lines], fontsize=7, frameon=False)
            # Set the names afterwards, because matplotlib drops a label that begins with "_".
            for text, name in zip(legend.get_texts(), names, strict=True):
                text.set_text(shown(name, _LONGEST_LABEL))
    return as_svg(figure, salt=metric, transparent=True)


# Metric -> the metrics that hold the score of guessing.
BASELINES = {
    "mlm_loss": ("val/mlm_unigram_loss",),
    "mlm_accuracy": ("val/mlm_unigram_accuracy",),
    "nsp_accuracy": ("val/nsp_majority_accuracy",),
}
