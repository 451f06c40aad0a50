"""Prompt tuning: trained vectors in the input of the first block."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from bert_lightning.checks import require_at_least
from bert_lightning.model.tuning.tuning import Tuning

if TYPE_CHECKING:
    from bert_lightning.model.encoder import BertEncoder


@dataclass(frozen=True)
class Prompt(Tuning):
    """Trained vectors that every sequence has in front of its tokens; Lester et al. 2021, arXiv 2104.08691.

    They enter after the embeddings, and are removed from the outputs, so heads and positions see the tokens alone.
    Each begins as the embedding of a random entry of the vocabulary (section 3.2 of the paper, which draws from the
    5,000 most frequent ones). So training does not begin with the outputs of the base.

    BERT-base has 15,360 of these parameters with a length of 20. They cannot be merged into the weights.

    Published: rate 0.3 with Adafactor, 30,000 steps of 32, length 100, for T5. There is no figure for BERT.

    Attributes:
        length: the number of vectors; 100 in the paper.
    """

    length: int = 20

    mergeable: ClassVar[bool] = False
    begins_as_base: ClassVar[bool] = False
    # The rate of the paper is for Adafactor. These are the figures of `prefix`.
    default_learning_rate: ClassVar[float | None] = 1e-2
    default_epochs: ClassVar[float | None] = 60

    def __post_init__(self) -> None:
        require_at_least(self, 1, "length")

    @torch.no_grad()
    def apply(self, encoder: "BertEncoder") -> None:
        embeddings = encoder.embeddings
        entries = torch.randint(encoder.config.vocab_size, (self.length,), device=embeddings.word.weight.device)
        was_training = embeddings.training
        # Without dropout, each as the first token of a sequence.
        vectors = embeddings.eval()(entries, None, torch.zeros_like(entries))
        embeddings.train(was_training)
        embeddings.prompt = nn.Parameter(vectors.clone())
