"""Floating-point operations of a model, for the fraction of the hardware's peak that a training reaches."""

from bert_lightning.model.config import BertConfig
from bert_lightning.model.encoder import BertEncoder


def forward_operations(
    config: BertConfig, num_tokens: int, num_token_pairs: int, num_sequences: int, num_scored: int
) -> float:
    """Return the multiplications and additions in the matrix products of one forward pass.

    A product of (m, k) and (k, n) counts 2 m k n. Element-wise operations, softmax and LayerNorm are not counted, as
    is usual for model FLOP/s utilization (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).

    Args:
        config: the architecture of the model.
        num_tokens: the number of real tokens T, without padding.
        num_token_pairs: the sum of the squared sequence lengths, which attention computes.
        num_sequences: the number of sequences that are pooled.
        num_scored: the number of tokens that are scored against the vocabulary.

    >>> tokens = 8 * 128
    >>> f"{forward_operations(BertConfig(), tokens, 8 * 128**2, 8, num_scored=tokens):.3g}"
    '2.28e+11'
    """
    hidden, width = config.hidden_size, config.embedding_width
    # Query, key, value and output have 4 H^2 weights; the feed-forward layers have 2 H I.
    weights = config.num_hidden_layers * (4 * hidden**2 + 2 * hidden * config.intermediate_size)
    if width != hidden:
        weights += width * hidden
    operations = 2.0 * num_tokens * weights
    # The attention scores and the weighted values.
    operations += config.num_hidden_layers * 2 * (2.0 * num_token_pairs * hidden)
    operations += 2.0 * num_sequences * hidden**2 if config.pooler else 0.0
    return operations + 2.0 * num_scored * (hidden * width + width * config.vocab_size)


def training_passes(encoder: BertEncoder) -> float:
    """Return the cost of a forward and a backward pass together, in forward passes; 3 if everything trains.

    The backward pass computes gradients of the activations, from the last block down to the lowest one with something
    to train, and gradients of the matrices that train. Each takes as many operations as the forward pass through the
    same blocks. Matrices that a tuning adds are counted as parts of their block.
    """
    blocks = list(encoder.layers)
    parts = [part for part in (*blocks, encoder.final_norm, encoder.pooler) if part is not None]
    after = {id(each) for part in parts for each in part.parameters()}
    below = any(each.requires_grad for each in encoder.parameters() if id(each) not in after)
    # Below the blocks, each block, and the head, which always trains.
    trains = [below, *(any(each.requires_grad for each in block.parameters()) for block in blocks), True]
    lowest = max(0, trains.index(True) - 1)
    matrices = [each for block in blocks for each in block.parameters() if each.dim() > 1]
    learned = sum(each.numel() for each in matrices if each.requires_grad)
    return 1 + (len(blocks) - lowest) / len(blocks) + learned / sum(each.numel() for each in matrices)
