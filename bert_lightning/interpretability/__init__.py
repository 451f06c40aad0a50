"""Tools that show what happens inside a model: hidden states, attention, and how much each word counts."""

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
    from bert_lightning.interpretability.method_agreement import Agreement, agreement

__all__ = [
    "Agreement",
    "ExplanationSettings",
    "agreement",
    "attention_weights",
    "explain",
    "gradient_x_input",
    "integrated_gradients",
    "occlusion",
    "rollout",
]

if not TYPE_CHECKING:
    # Importing torch takes seconds.
    __getattr__, __dir__ = exports(__name__, __file__)
