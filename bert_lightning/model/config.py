"""The architecture of a BERT model, and the published sizes."""

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class BertConfig:
    """What fixes the shape and the arithmetic of a BERT model; names as in transformers.

    Defaults are BERT-base uncased as published (Devlin et al. 2018, arXiv 1810.04805; `modeling.py` of
    google-research/bert).

    Attributes:
        vocab_size: V, entries of the word embedding table.
        hidden_size: H.
        num_hidden_layers: number of Transformer blocks.
        num_attention_heads: N; must divide H.
        intermediate_size: width of the feed-forward layer, 4 H in all published sizes.
        hidden_act: `gelu_new` is the original code's tanh form, `gelu` the erf form that transformers' BERT uses.
        hidden_dropout_prob: after embeddings, attention output and feed-forward output.
        attention_probs_dropout_prob: on the attention probabilities.
        max_position_embeddings: longest sequence.
        type_vocab_size: number of segment ids.
        initializer_range: standard deviation of the truncated normal that draws all weights.
        layer_norm_eps: added to the variance in LayerNorm.
        pad_token_id: id of [PAD].
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: Literal["gelu_new", "gelu"] = "gelu_new"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if kind is not str and (isinstance(value, bool) or not isinstance(value, (int, kind))):
                raise ValueError(f"{field.name} is {value!r}; expected {kind.__name__}")
        if self.type_vocab_size < 2:
            raise ValueError(f"type_vocab_size is {self.type_vocab_size}; a pair needs 2")
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        if self.hidden_act not in ("gelu_new", "gelu"):
            raise ValueError(f"hidden_act is {self.hidden_act!r}; known: gelu_new (tanh form), gelu (erf form)")

    @classmethod
    def preset(cls, size: str, **overrides: Any) -> "BertConfig":
        """A published size (section 'Released sizes' of the google-research/bert README) with some fields changed.

        Raises:
            ValueError: an unknown size or field, or values that do not fit together.
        """
        if size not in PRESETS:
            raise ValueError(f"size is {size!r}; known: {', '.join(PRESETS)}")
        known = [field.name for field in dataclasses.fields(cls)]
        for key in overrides:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                raise ValueError(f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        layers, hidden, heads = PRESETS[size]
        shape = {
            "num_hidden_layers": layers,
            "hidden_size": hidden,
            "num_attention_heads": heads,
        }
        width = overrides.get("hidden_size", hidden)
        shape["intermediate_size"] = 4 * width if isinstance(width, int) else hidden
        return cls(**{**shape, **overrides})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "BertConfig":
        """Take the known keys of a plain dictionary, such as transformers' `config.json`.

        transformers' `gelu_pytorch_tanh` is the same function as `gelu_new`.

        Raises:
            ValueError: a value does not fit.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        taken = {key: value for key, value in values.items() if key in known}
        # transformers' default, where a file leaves it out, is the erf form.
        taken.setdefault("hidden_act", "gelu")
        if taken["hidden_act"] == "gelu_pytorch_tanh":
            taken["hidden_act"] = "gelu_new"
        return cls(**taken)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return dataclasses.asdict(self)


# size -> (num_hidden_layers, hidden_size, num_attention_heads): google-research/bert README.
PRESETS = {
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}
