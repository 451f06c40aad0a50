"""Tools that show what happens inside a model: its hidden states, and what its layers hold."""

from typing import TYPE_CHECKING

from bert_lightning.lazy import exports

if TYPE_CHECKING:
    from bert_lightning.interpretability.linear_probe import LinearProbe, fit_linear_probe
    from bert_lightning.interpretability.neighbors import Neighbor, Neighborhood, NeighborsReport, neighbors
    from bert_lightning.interpretability.probing import Interval, LayerScores, ProbingReport, probe
    from bert_lightning.interpretability.similarity import SimilarityReport, cka, linear_cka

__all__ = [
    "Interval",
    "LayerScores",
    "LinearProbe",
    "Neighbor",
    "Neighborhood",
    "NeighborsReport",
    "ProbingReport",
    "SimilarityReport",
    "cka",
    "fit_linear_probe",
    "linear_cka",
    "neighbors",
    "probe",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = exports(__name__, __file__)
