"""Tools that show what happens inside a model: its hidden states, and what its layers hold."""

from typing import TYPE_CHECKING

from bert_lightning.lazy import exports

if TYPE_CHECKING:
    from bert_lightning.interpretability.linear_probe import LinearProbe, fit_linear_probe
    from bert_lightning.interpretability.probing import Interval, LayerScores, ProbingReport, probe

__all__ = ["Interval", "LayerScores", "LinearProbe", "ProbingReport", "fit_linear_probe", "probe"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = exports(__name__, __file__)
