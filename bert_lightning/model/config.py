"""The architecture of a BERT model, and the published sizes."""

import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from bert_lightning.checks import RefusedValue

# No table has more rows; what claims to is damaged.
_LIMIT = 2**31


@dataclass(frozen=True)
class BertConfig:
    """What fixes the shape and the arithmetic of a BERT model; names as in transformers where it has the thing.

    Defaults are BERT-base uncased as published (Devlin et al. 2018, arXiv 1810.04805; `modeling.py` of
    google-research/bert).

    Attributes:
        vocab_size: V, entries of the word embedding table.
        hidden_size: H.
        num_hidden_layers: number of Transformer blocks.
        num_attention_heads: N; must divide H.
        intermediate_size: width of the feed-forward layer, 4 H in all published sizes.
        hidden_act: `gelu_new` is the original code's tanh form, `gelu` the erf form that transformers' BERT uses;
            also `relu` and `silu`.
        hidden_dropout_prob: after embeddings, attention output and feed-forward output.
        attention_probs_dropout_prob: on the attention probabilities.
        classifier_dropout: in front of a task's head; None means `hidden_dropout_prob`.
        max_position_embeddings: longest sequence.
        type_vocab_size: number of segment ids.
        initializer_range: standard deviation of the truncated normal that draws all weights.
        layer_norm_eps: added to the variance in LayerNorm.
        pad_token_id: id of [PAD].
        tie_word_embeddings: the MLM head multiplies by the word embedding matrix; False gives it one of its own.
        embedding_size: width of the embeddings where it differs from H: factorised as in ALBERT (arXiv 1909.11942,
            section 3.1), E x H after the LayerNorm of the embeddings, and the MLM head ends in width E.
        position_embeddings: `learned` as published, `sinusoidal` (Vaswani et al. 2017, section 3.5) or `none`.
        pre_layer_norm: LayerNorm inside the residual branches and once after the last block (Xiong et al. 2020,
            arXiv 2002.04745), in place of after each sum.
        pooling: what stands for a sequence: the first token (`cls`), or `mean` or `max` over its tokens.
        pooler: put the dense tanh layer on that vector.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: Literal["gelu_new", "gelu", "relu", "silu"] = "gelu_new"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    tie_word_embeddings: bool = True
    embedding_size: int | None = None
    position_embeddings: Literal["learned", "sinusoidal", "none"] = "learned"
    pre_layer_norm: bool = False
    pooling: Literal["cls", "mean", "max"] = "cls"
    pooler: bool = True

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(BertConfig).items():
            _check_type(name, getattr(self, name), hint)
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "type_vocab_size",
            "embedding_size",
        ):
            value = getattr(self, name)
            if value is not None and not 1 <= value < _LIMIT:
                raise RefusedValue(name, value, f"be from 1 to {_LIMIT - 1}")
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id is {self.pad_token_id}, outside the vocabulary (0 to {self.vocab_size - 1})"
            )
        for name in ("initializer_range", "layer_norm_eps"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise RefusedValue(name, value, "be a number from 0")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            if not 0 <= (getattr(self, name) or 0.0) < 1:
                raise RefusedValue(name, getattr(self, name), "be in [0, 1)")

    @property
    def embedding_width(self) -> int:
        """E, the width of the word embeddings; H unless they are factorised."""
        return self.embedding_size or self.hidden_size

    @property
    def head_dropout_prob(self) -> float:
        """Dropout in front of a task's head."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @classmethod
    def preset(cls, size: str, **overrides: Any) -> "BertConfig":
        """A published size (section 'Released sizes' of the google-research/bert README) with some fields changed.

        Raises:
            ValueError: an unknown size or field, or values that do not fit together.
        """
        if size not in PRESETS:
            raise ValueError(f"size is {size!r}; known: {', '.join(PRESETS)}")
        layers, hidden, heads = PRESETS[size]
        width = overrides.get("hidden_size", hidden)
        shape = {
            "num_hidden_layers": layers,
            "hidden_size": hidden,
            "num_attention_heads": heads,
            "intermediate_size": 4 * width if isinstance(width, int) else hidden,
        }
        return cls(**{**shape, **_known(overrides)})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "BertConfig":
        """Take the known keys of a plain dictionary and leave the others.

        Raises:
            ValueError: a value does not fit.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    def replace(self, **changes: Any) -> "BertConfig":
        """The same with some fields changed.

        Raises:
            ValueError: an unknown field, or values that do not fit together.
        """
        return dataclasses.replace(self, **_known(changes))

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return dataclasses.asdict(self)


def _known(values: dict[str, Any]) -> dict[str, Any]:
    known = [field.name for field in dataclasses.fields(BertConfig)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ValueError(f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return values


def _check_type(name: str, value: Any, hint: Any) -> None:
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise ValueError(f"{name} is {value!r}; known: {', '.join(typing.get_args(hint))}")
        return
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    # In Python a bool is an int; here it is not, and an int is a float.
    fits = type(value) in kinds or (float in kinds and type(value) is int)
    if not fits:
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ValueError(f"{name} is {value!r}; expected {names}")


# size -> (num_hidden_layers, hidden_size, num_attention_heads): google-research/bert README.
PRESETS = {
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}
