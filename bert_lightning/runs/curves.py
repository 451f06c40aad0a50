"""Curves of logged metrics as SVG."""

import io
from collections.abc import Sequence

from bert_lightning.runs.comparison import Group

_COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")


def draw(metric: str, groups: Sequence[Group]) -> str:
    """One quantity of several groups: training thin, validation with marks, what guessing reaches dashed."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    # Text stays text, and equal input gives equal bytes.
    style = {"svg.fonttype": "none", "svg.hashsalt": metric, "font.family": "sans-serif", "font.size": 9}
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(4.6, 2.9), layout="constrained")
        for number, group in enumerate(groups):
            colour = _COLOURS[number % len(_COLOURS)]
            for run in group.runs:
                label = group.label if run is group.runs[0] else None
                train, validation = run.series(f"train/{metric}"), run.series(f"val/{metric}")
                if train[0]:
                    axes.plot(*train, color=colour, linewidth=1, alpha=0.45 if validation[0] else 0.9)
                if validation[0]:
                    axes.plot(*validation, color=colour, marker="o", markersize=3, linewidth=1.4, label=label)
                elif train[0]:
                    axes.lines[-1].set_label(label)
                for baseline in BASELINES.get(metric, ()):
                    values = run.series(baseline)[1]
                    if values and run is group.runs[0]:
                        axes.axhline(values[-1], color="#6b7280", linestyle="--", linewidth=1)
        axes.set_title(metric, loc="left", fontsize=10)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(groups) > 1:
            axes.legend(fontsize=7, frameon=False)
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")), transparent=True
        )
        pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


# quantity -> metrics that say what guessing reaches
BASELINES = {
    "mlm_loss": ("val/mlm_unigram_loss",),
    "mlm_accuracy": ("val/mlm_unigram_accuracy",),
    "nsp_accuracy": ("val/nsp_majority_accuracy",),
}
