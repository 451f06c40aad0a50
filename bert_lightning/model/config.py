"""The architecture of a BERT model, and the published sizes."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bert_lightning.checks import RefusedValue, nearest, require_below_one, require_between
from bert_lightning.model.layers.activations import ACTIVATIONS
from bert_lightning.model.layers.attention import ATTENTIONS, PUBLISHED_ATTENTION
from bert_lightning.model.layers.block import NORM_PLACEMENTS
from bert_lightning.model.layers.embeddings import POSITION_EMBEDDINGS
from bert_lightning.model.parts import PartTable

# No model is larger than this in any dimension. A larger value comes from a damaged file.
_LARGEST = 2**31 - 1
PARTS: dict[str, PartTable[Any]] = {
    "hidden_act": ACTIVATIONS,
    "attention": ATTENTIONS,
    "position_embeddings": POSITION_EMBEDDINGS,
    "norm_placement": NORM_PLACEMENTS,
}
"""Fields of `BertConfig` that name an exchangeable part -> its table."""


@dataclass(frozen=True)
class BertConfig:
    """Shape and arithmetic of a BERT model. Fields that transformers has too have the same names.

    The defaults are BERT-base uncased as published (Devlin et al. 2018, arXiv 1810.04805; `modeling.py` of
    google-research/bert).

    Attributes:
        vocab_size: V, the number of entries in the word embedding table.
        hidden_size: H, the width of the hidden states.
        num_hidden_layers: the number of Transformer blocks.
        num_attention_heads: N; H must be a multiple of it.
        intermediate_size: width of the feed-forward layer, 4 H in all published sizes.
        hidden_act: `gelu_new` is the original code's tanh form, `gelu` the erf form that transformers' BERT uses;
            also `relu`, `silu` and `gelu_pytorch_tanh`, the same function as `gelu_new`, which can be differentiated
            twice on a processor too. A custom part is given by its name (`register_activation`).
        hidden_dropout_prob: dropout after embeddings, attention output and feed-forward output.
        attention_probs_dropout_prob: dropout on the attention probabilities.
        classifier_dropout: dropout before a task's head; None means `hidden_dropout_prob`.
        max_position_embeddings: the length of the longest possible sequence.
        type_vocab_size: the number of segment ids.
        initializer_range: the standard deviation of the truncated normal distribution of initial weights.
        layer_norm_eps: a constant that LayerNorm adds to the variance.
        pad_token_id: the id of [PAD].
        tie_word_embeddings: True if the MLM head uses the word embedding matrix, False if it has its own matrix.
        embedding_size: E, the width of the embeddings, if it differs from H. Embeddings are then factorised as in
            ALBERT (arXiv 1909.11942, section 3.1): a matrix E x H follows their LayerNorm, and the MLM head ends in
            width E.
        position_embeddings: `learned` as published, `sinusoidal` (Vaswani et al. 2017, section 3.5), `none`, or the
            name of a custom part (`register_position_embedding`).
        pre_layer_norm: True if `norm_placement` is `pre`; either field sets the other.
        pooling: the vector of a sequence: its first token (`cls`), or the `mean` or `max` over its tokens.
        pooler: apply the dense tanh layer to that vector.
        norm_placement: `post` applies LayerNorm after each sum, as published. `pre` applies it inside the residual
            branches and once after the last block (Xiong et al. 2020, arXiv 2002.04745). Or the name of a
            custom part (`register_norm_placement`).
        attention: `dot_product` as published, or the name of a custom part (`register_attention`).
        init_args: arguments of custom parts by field, such as {"attention": {"width": 16}}.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu_new"
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
    position_embeddings: str = "learned"
    pre_layer_norm: bool = False
    pooling: Literal["cls", "mean", "max"] = "cls"
    pooler: bool = True
    norm_placement: str = "post"
    attention: str = PUBLISHED_ATTENTION
    init_args: dict[str, dict[str, Any]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(BertConfig).items():
            _check_type(name, getattr(self, name), hint)
        self._settle_norm_placement()
        self._check_parts()
        sizes = (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "type_vocab_size",
            "embedding_size",
        )
        require_between(self, 1, _LARGEST, *sizes)
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id is {self.pad_token_id}, outside the vocabulary (0 to {self.vocab_size - 1})"
            )
        for name in ("initializer_range", "layer_norm_eps"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise RefusedValue(name, value, "be a finite number of at least 0")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        require_below_one(self, "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")

    def _settle_norm_placement(self) -> None:
        """Make the two fields for the placement of LayerNorm agree."""
        if self.pre_layer_norm and self.norm_placement not in ("post", "pre"):
            raise ValueError(f"pre_layer_norm is True, which contradicts norm_placement {self.norm_placement!r}")
        if self.pre_layer_norm:
            object.__setattr__(self, "norm_placement", "pre")
        object.__setattr__(self, "pre_layer_norm", self.norm_placement == "pre")

    def _check_parts(self) -> None:
        for name, table in PARTS.items():
            if getattr(self, name) != PUBLISHED_ATTENTION or name != "attention":
                table.require(name, getattr(self, name))
        for name, arguments in self.init_args.items():
            if name not in PARTS:
                raise ValueError(f"init_args has the unknown key {name!r}{nearest(name, PARTS)}")
            if not isinstance(arguments, dict) or not all(isinstance(key, str) for key in arguments):
                raise ValueError(f"init_args.{name} is {arguments!r}; expected names and values")
            if arguments and getattr(self, name) in {*PARTS[name].published, PUBLISHED_ATTENTION}:
                raise ValueError(
                    f"init_args.{name} is {arguments!r}, but {name} is {getattr(self, name)!r}; only a custom part "
                    "takes arguments"
                )

    def arguments_of(self, name: str) -> dict[str, Any]:
        """Return the arguments of the part that a field names."""
        return self.init_args.get(name, {})

    @property
    def has_own_attention(self) -> bool:
        """True if the attention is a custom one instead of the published one."""
        return self.attention != PUBLISHED_ATTENTION

    @property
    def own_parts(self) -> list[str]:
        """The fields that name a part which did not come with this package."""
        return [
            name
            for name, table in PARTS.items()
            if getattr(self, name) not in {*table.published, PUBLISHED_ATTENTION}
        ]

    @property
    def embedding_width(self) -> int:
        """E, the width of the word embeddings. It is H unless they are factorised."""
        return self.embedding_size or self.hidden_size

    @property
    def head_dropout_prob(self) -> float:
        """The dropout probability before a task's head."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @classmethod
    def preset(cls, size: str, **overrides: object) -> "BertConfig":
        """Return a published size (see the README of google-research/bert) with some fields changed.

        Raises:
            ValueError: the size or a field is unknown, or values do not fit together.

        >>> config = BertConfig.preset("tiny", vocab_size=1000)
        >>> config.num_hidden_layers, config.hidden_size, config.vocab_size
        (2, 128, 1000)
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
        return cls(**{**shape, **_checked(overrides)})

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "BertConfig":
        """Build the configuration from the known keys of a dictionary, and ignore the others.

        Raises:
            ValueError: a value is not allowed.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**_checked({key: value for key, value in values.items() if key in names}))

    def replace(self, **changes: object) -> "BertConfig":
        """Return a copy with some fields changed.

        Raises:
            ValueError: a field is unknown, or values do not fit together.
        """
        # One of the two fields for the placement of LayerNorm decides the other.
        if "norm_placement" in changes:
            changes = {"pre_layer_norm": False, **changes}
        elif "pre_layer_norm" in changes:
            changes = {"norm_placement": "post", **changes}
        return dataclasses.replace(self, **_checked(changes))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _checked(values: Mapping[str, object]) -> dict[str, Any]:
    """Refuse unknown fields. The values are checked when a configuration is built."""
    names = [field.name for field in dataclasses.fields(BertConfig)]
    for key in values:
        if key not in names:
            raise ValueError(f"unknown key {key!r}{nearest(key, names)}")
    return dict(values)


def _check_type(name: str, value: object, hint: type) -> None:
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise ValueError(f"{name} is {value!r}; known: {', '.join(typing.get_args(hint))}")
        return
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{name} is {value!r}; expected names and values")
        return
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    # Unlike in Python, a bool is not an int here, and an int counts as a float.
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
