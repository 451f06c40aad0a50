"""Tools that show what happens inside a model: what its layers hold, and how much each word counts."""

from typing import TYPE_CHECKING

from bert_lightning.lazy import exports

if TYPE_CHECKING:
    from bert_lightning.interpretability.attention import attention_weights, rollout
    from bert_lightning.interpretability.attribution import (
        gradient_x_input,
        integrated_gradients,
        occlusion,
    )
    from bert_lightning.interpretability.explaining import ExplanationSettings, explain
    from bert_lightning.interpretability.linear_probe import LinearProbe, fit_linear_probe
    from bert_lightning.interpretability.method_agreement import Agreement, agreement
    from bert_lightning.interpretability.nearest_neighbors import Neighbor, Neighborhood, NeighborsReport, neighbors
    from bert_lightning.interpretability.probing import Interval, LayerScores, ProbingReport, probe
    from bert_lightning.interpretability.similarity import SimilarityReport, cka, linear_cka

__all__ = [
    "Agreement",
    "ExplanationSettings",
    "Interval",
    "LayerScores",
    "LinearProbe",
    "Neighbor",
    "Neighborhood",
    "NeighborsReport",
    "ProbingReport",
    "SimilarityReport",
    "agreement",
    "attention_weights",
    "cka",
    "explain",
    "fit_linear_probe",
    "gradient_x_input",
    "integrated_gradients",
    "linear_cka",
    "neighbors",
    "occlusion",
    "probe",
    "rollout",
]

if not TYPE_CHECKING:
    # Importing torch takes seconds.
    __getattr__, __dir__ = exports(__name__, __file__)
