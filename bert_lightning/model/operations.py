"""How many floating-point operations a model's products take, for what share of the hardware's peak a run reaches."""

from bert_lightning.model.config import BertConfig


def forward_operations(
    config: BertConfig, num_tokens: int, num_token_pairs: int, num_sequences: int, num_scored: int
) -> float:
    """Multiplications and additions of one forward pass's matrix products; a backward pass takes twice as many.

    A product of (m, k) and (k, n) counts 2 m k n. Element-wise work, softmax and LayerNorm count nothing, as is usual
    for the share of peak that models reach (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).

    Args:
        config: of the model.
        num_tokens: real tokens T; padding is no work worth counting.
        num_token_pairs: the squared lengths of the sequences, summed: what attention goes over.
        num_sequences: how many are pooled.
        num_scored: tokens that are scored against the vocabulary.
    """
    hidden, width = config.hidden_size, config.embedding_width
    # Query, key, value and output are 4 H^2; the feed-forward layers 2 H I.
    weights = config.num_hidden_layers * (4 * hidden**2 + 2 * hidden * config.intermediate_size)
    if width != hidden:
        weights += width * hidden
    operations = 2.0 * num_tokens * weights
    # Scores and weighted values.
    operations += config.num_hidden_layers * 2 * (2.0 * num_token_pairs * hidden)
    operations += 2.0 * num_sequences * hidden**2 if config.pooler else 0.0
    return operations + 2.0 * num_scored * (hidden * width + width * config.vocab_size)


def training_operations(
    config: BertConfig, num_tokens: int, num_token_pairs: int, num_sequences: int, num_scored: int
) -> float:
    """Of a forward and a backward pass."""
    return 3 * forward_operations(config, num_tokens, num_token_pairs, num_sequences, num_scored)
