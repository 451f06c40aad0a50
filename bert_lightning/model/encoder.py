"""The encoder that all tasks share: embeddings, Transformer blocks and pooler."""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bert_lightning.model.config import BertConfig
from bert_lightning.model.encoder_output import EncoderOutput
from bert_lightning.model.initialization import initialize
from bert_lightning.model.layers.attention import (
    ATTENTIONS,
    AttentionName,
    Backend,
    Layout,
    choose_backend,
    eager,
    layout_of,
    takes_packed,
)
from bert_lightning.model.layers.block import NORM_PLACEMENTS
from bert_lightning.model.layers.embeddings import BertEmbeddings
from bert_lightning.model.layers.front import Front
from bert_lightning.model.layers.packing import (
    Packing,
    longest_of,
    order_by_length,
    real_tokens,
    round_size,
    with_rest,
)
from bert_lightning.model.layers.pooling import pool
from bert_lightning.model.observable_encoder import ObservableEncoder


class BertEncoder(ObservableEncoder):
    """BERT without a head.

    Attributes:
        attention: the attention backend: `eager`, `sdpa`, `varlen` or `auto` (`model/layers/attention.py`).
        activation_checkpointing: store only the input of each block for the backward pass, and recompute the rest.
        compiles_blocks: whether each block is compiled by itself. On a processor its attention then pads packed
            sequences, as every compiled attention does. So the encoder neither removes padding nor rounds shapes.

    >>> encoder = BertEncoder(BertConfig.preset("tiny", vocab_size=100))
    >>> ids = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]])
    >>> output = encoder(ids, attention_mask=ids != 0)
    >>> tuple(output.last_hidden_state.shape), tuple(output.pooler_output.shape)
    ((2, 4, 128), (2, 128))
    """

    architecture = "BertModel"
    prefix = "encoder."
    pooler: nn.Linear | None
    final_norm: nn.Module | None

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        hidden = config.hidden_size
        self.embeddings = BertEmbeddings(config)
        placement = config.norm_placement
        block, arguments = NORM_PLACEMENTS[placement], config.arguments_of("norm_placement")
        self.layers = nn.ModuleList(
            NORM_PLACEMENTS.make("norm_placement", placement, config, **arguments)
            for _ in range(config.num_hidden_layers)
        )
        self.final_norm = block.new_norm(config) if block.final_norm else None
        self.pooler = nn.Linear(hidden, hidden) if config.pooler else None
        self.attention: AttentionName = "auto"
        self.activation_checkpointing = False
        self.compiles_blocks = False
        self._frozen: list[nn.Module] = []
        initialize(self, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        packing: Packing | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        """Encode three inputs of (B, S) as (B, S, H) and (B, H), or two packed ones of (T,) as (T, H) and (n, H).

        `attention_mask` is nonzero at real tokens; None means that nothing is padded. The pooled vector is
        tanh(W h + b) with h from `pooling`, in the published models that of [CLS]. Without a pooler it is h itself.

        Padding may be anywhere: at the end, at the start, or between tokens. Positions count padding, as in
        transformers. `cls` pooling takes the first real token. transformers takes position 0 even if it is padding,
        so the two differ for padding at the start.

        Raises:
            ValueError: a sequence is longer than the position table; an id is outside its table; packed input has a
                mask or boundaries that do not fit; or the attention backend cannot run here.
        """
        self._check_shapes(input_ids, token_type_ids, attention_mask, packing)
        backend = self._backend(input_ids.device, packed=packing is not None, weights=output_attentions)
        if packing is None:
            order = self._order_of_sequences(attention_mask, backend)
            if backend.needs_packing or order is not None:
                mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
                inputs = (input_ids, token_type_ids, mask)
                return self._forward_unpadded(*inputs, backend, order, output_hidden_states)
        layout = layout_of(attention_mask, packing)
        if packing is None:
            hidden = self._perturbed(self.embed(input_ids, token_type_ids), input_ids)
            return self._blocks(hidden, layout, backend, output_hidden_states, output_attentions)
        num_tokens = len(input_ids)
        rest = (0, self._num_rows(num_tokens, backend, input_ids.device) - num_tokens)
        segments = F.pad(token_type_ids, rest) if token_type_ids is not None else None
        hidden = self.embed(F.pad(input_ids, rest), segments, F.pad(packing.positions(num_tokens), rest))
        hidden = self._perturbed(hidden, input_ids)
        return self._blocks(hidden, layout, backend, output_hidden_states, output_attentions, num_tokens)

    def embed(
        self, input_ids: Tensor, token_type_ids: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Embed (B, S) x 2 as (B, S, H), or packed (T,) x 2 as (T, H): the input of the first block.

        `positions` (T,) are those of packed tokens in their sequences. Without them, positions are counted from 0.

        Raises:
            ValueError: on a CPU, an id is not in its table; the message names its index and the id.

        >>> encoder = BertEncoder(BertConfig.preset("tiny", vocab_size=100)).eval()
        >>> ids = torch.tensor([[2, 5, 6, 3]])
        >>> hidden = encoder.embed(ids)
        >>> tuple(hidden.shape)
        (1, 4, 128)
        >>> torch.equal(encoder.encode(hidden, Layout()).pooler_output, encoder(ids).pooler_output)
        True
        """
        hidden: Tensor = self.embeddings(input_ids, token_type_ids, positions)
        return hidden

    def encode(
        self,
        hidden: Tensor,
        layout: Layout,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        """Encode embeddings, (B, S, H) as (B, S, H) and (B, H), or packed (T, H) as (T, H) and (n, H).

        `forward` is `embed` followed by this. Whatever changes the input of the first block, such as a perturbation
        or vectors that belong to no token, comes between the two. `layout_of` makes the layout of a mask or packing.

        Raises:
            ValueError: the attention backend cannot run here.
        """
        packed = layout.packing is not None
        backend = self._backend(hidden.device, packed=packed, weights=output_attentions)
        if backend.needs_packing and not packed:
            mask = hidden.new_ones(hidden.shape[:2]) if layout.mask is None else layout.mask[:, 0, 0]
            indices, packing = real_tokens(mask)
            unpadded = self.encode(
                hidden.flatten(0, 1)[indices], Layout(packing=packing), output_hidden_states=output_hidden_states
            )
            return self._padded(unpadded, indices, hidden.shape[:2], None)
        if not packed:
            return self._blocks(hidden, layout, backend, output_hidden_states, output_attentions)
        num_tokens = len(hidden)
        rest = self._num_rows(num_tokens, backend, hidden.device) - num_tokens
        hidden = F.pad(hidden, (0, 0, 0, rest))
        return self._blocks(hidden, layout, backend, output_hidden_states, output_attentions, num_tokens)

    def _blocks(
        self,
        hidden: Tensor,
        layout: Layout,
        backend: Backend,
        output_hidden_states: bool,
        output_attentions: bool = False,
        num_tokens: int | None = None,
    ) -> EncoderOutput:
        """Apply the blocks and the pooler.

        Packed tokens (T, H) may be followed by further rows, so that the number of rows is a rounded one. These rows
        attend to themselves or to nothing, and are removed from the result. The vectors of a prompt, which are in
        front of each sequence in all blocks, are removed from it too.
        """
        inner, prompt, front = layout, self.embeddings.prompt, None
        if num_tokens is not None and layout.packing is not None and backend.needs_packing:
            inner = Layout(packing=with_rest(layout.packing, num_tokens, len(hidden)))
        if prompt is not None:
            front = Front.of(hidden, inner, len(prompt))
            hidden, inner = front.join(prompt.expand(front.num_sequences, -1, -1), hidden), front.layout
        states, attentions = [hidden], []
        recompute = self.activation_checkpointing and torch.is_grad_enabled()
        recording = self._recording
        for layer in self.layers:
            if recompute:
                hidden, weights = checkpoint(layer, hidden, inner, backend, use_reentrant=False)
            else:
                hidden, weights = layer(hidden, inner, backend)
            if output_hidden_states or recording is not None:
                states.append(hidden)
            if output_attentions:
                if weights is None:
                    raise ValueError(f"the attention {self.config.attention!r} returns no attention weights")
                attentions.append(weights)
        if front is not None:
            hidden, states = front.remove(hidden), [front.remove(state) for state in states]
            attentions = [front.between_tokens(weights) for weights in attentions]
        if self.final_norm is not None:
            states[-1] = hidden = self.final_norm(hidden)
        if recording is not None:
            recording.take(states, self._projected(recording, front), num_tokens)
        if num_tokens is not None and num_tokens != len(hidden):
            hidden, states = hidden[:num_tokens], [state[:num_tokens] for state in states]
        pooled = pool(hidden, layout, self.config.pooling)
        if self.pooler is not None:
            pooled = torch.tanh(self.pooler(pooled))
        return EncoderOutput(
            hidden,
            pooled,
            tuple(states) if output_hidden_states else None,
            tuple(attentions) if output_attentions else None,
        )

    def _forward_unpadded(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        attention_mask: Tensor,
        backend: Backend,
        order: Tensor | None,
        output_hidden_states: bool,
    ) -> EncoderOutput:
        """Remove the padding before the embeddings, and put zeros at its positions after the last block."""
        indices, packing = real_tokens(attention_mask, order)
        num_tokens = len(indices)
        rows = F.pad(indices, (0, self._num_rows(num_tokens, backend, input_ids.device) - num_tokens))
        segments = token_type_ids.flatten()[rows] if token_type_ids is not None else None
        hidden = self.embed(input_ids.flatten()[rows], segments, rows % input_ids.shape[1])
        hidden = self._perturbed(hidden, input_ids, rows)
        layout = Layout(packing=packing)
        output = self._blocks(hidden, layout, backend, output_hidden_states, num_tokens=num_tokens)
        return self._padded(output, indices, input_ids.shape, order)

    def _padded(
        self, output: EncoderOutput, indices: Tensor, shape: torch.Size, order: Tensor | None
    ) -> EncoderOutput:
        """Pad the output of packed sequences and the states that were recorded."""
        if self._recording is not None:
            self._recording.pad(indices, shape)
        return output.padded(indices, shape, order)

    def _num_rows(self, num_tokens: int, backend: Backend, device: torch.device) -> int:
        """Return how many rows the blocks compute for packed tokens: a rounded number, so that shapes repeat.

        Custom attention gets the tokens alone. Under `torch.compile` the number is not rounded.
        """
        rounds = backend.needs_packing or (
            backend.groups_lengths and device.type == "cpu" and not self.compiles_blocks
        )
        if self.config.has_own_attention or not rounds or torch.compiler.is_compiling():
            return num_tokens
        return round_size(num_tokens)

    def _order_of_sequences(self, attention_mask: Tensor | None, backend: Backend) -> Tensor | None:
        """Return the order in which a CPU computes the sequences without padding; None to keep the padding.

        Attention then computes groups of sequences of about equal length. In training this is faster if there is much
        padding, if the model is wide, or if there are few groups.
        """
        if attention_mask is None or not backend.groups_lengths or torch.compiler.is_compiling():
            return None
        if self.compiles_blocks:
            return None
        trains = self.training and torch.is_grad_enabled()
        if attention_mask.device.type != "cpu" or not (trains or self._skips_padding):
            return None
        return order_by_length(attention_mask, self.config.hidden_size)

    def _backend(self, device: torch.device, *, packed: bool, weights: bool) -> Backend:
        if self.config.has_own_attention:
            backend = self._own_backend()
            if weights and backend.needs_packing:
                raise ValueError(f"the attention {self.config.attention!r} returns no attention weights")
            return backend
        dtype = self.embeddings.word.weight.dtype
        if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        head_width = self.config.hidden_size // self.config.num_attention_heads
        return choose_backend(self.attention, device, dtype, head_width, packed=packed, weights=weights)

    def _own_backend(self) -> Backend:
        """Return the layout for a custom attention; each block computes the attention itself."""
        if self.attention != "auto":
            raise ValueError(
                f"attention is {self.attention!r}, but the model's own attention {self.config.attention!r} has no "
                "backends: use 'auto'"
            )
        return Backend(eager, needs_packing=takes_packed(ATTENTIONS[self.config.attention]))

    def _check_shapes(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        attention_mask: Tensor | None,
        packing: Packing | None,
    ) -> None:
        if packing is not None and (input_ids.dim() != 1 or attention_mask is not None):
            raise ValueError("packed input must have shape (T,) and no attention mask")
        if packing is None and input_ids.dim() != 2:
            raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}; expected (B, S), or (T,) with a packing")
        for name, tensor in (("token_type_ids", token_type_ids), ("attention_mask", attention_mask)):
            if tensor is not None and tensor.shape != input_ids.shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}, but input_ids has shape {tuple(input_ids.shape)}"
                )
        longest = input_ids.shape[1] if packing is None else longest_of(packing, len(input_ids))
        if longest > self.config.max_position_embeddings:
            raise ValueError(
                f"a sequence of {longest} tokens is longer than the position table "
                f"({self.config.max_position_embeddings})"
            )

    def freeze(self, *, embeddings: bool = False, num_layers: int = 0, everything: bool = False) -> None:
        """Freeze the embeddings, the first `num_layers` blocks, or the whole encoder.

        Frozen modules get no gradients. They stay in evaluation mode even after `train()`, so they have no dropout.

        Raises:
            ValueError: the encoder has fewer blocks.
        """
        if not 0 <= num_layers <= len(self.layers):
            raise ValueError(f"{num_layers} layers cannot be frozen: the model has {len(self.layers)}")
        lowest = [*([self.embeddings] if embeddings else []), *self.layers[:num_layers]]
        self._frozen = list(self.children()) if everything else lowest
        for module in self._frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules except the frozen ones."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def reinitialize_top(self, num_layers: int) -> None:
        """Reinitialise the pooler and the last `num_layers` blocks; Zhang et al. 2021 (arXiv 2006.05987), section 4.

        If `num_layers` is 0, nothing is reinitialised, not even the pooler.

        Raises:
            ValueError: the encoder has fewer blocks.
        """
        if not 0 <= num_layers <= len(self.layers):
            raise ValueError(f"{num_layers} layers cannot be reinitialised: the model has {len(self.layers)}")
        if num_layers == 0:
            return
        for module in (*self.layers[len(self.layers) - num_layers :], self.pooler):
            if module is not None:
                initialize(module, self.config.initializer_range)
