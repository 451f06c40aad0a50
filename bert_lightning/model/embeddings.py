"""What enters the first block: word + segment + position, then LayerNorm and dropout."""

from torch import Tensor, nn

from bert_lightning.model.config import BertConfig


class BertEmbeddings(nn.Module):
    """(B, S) ids -> (B, S, H); `modeling.py: embedding_lookup, embedding_postprocessor`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """(B, S) x 2 -> (B, S, H).

        Raises:
            ValueError: the sequence is longer than the position table.
        """
        length = input_ids.shape[1]
        if length > self.position.num_embeddings:
            raise ValueError(
                f"a sequence of {length} tokens is longer than the position table ({self.position.num_embeddings})"
            )
        segments = self.token_type.weight[0] if token_type_ids is None else self.token_type(token_type_ids)
        hidden = self.word(input_ids) + segments + self.position.weight[:length]
        return self.dropout(self.layer_norm(hidden))
