"""A linear-chain conditional random field over tag scores; Lafferty, McCallum and Pereira 2001."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from bert_lightning.model.losses import IGNORED
from bert_lightning.model.tag_schemes import Allowed

# What a forbidden step adds to a score: finite in training, so that gradients stay numbers, with a probability
# of 0 in float32; in decoding beyond any score.
_FORBIDDEN, _IMPOSSIBLE = -1e4, float("-inf")


class LinearChainCRF(nn.Module):
    """Scores of tag sequences: emissions at the tagged positions plus transitions between neighbours.

    Positions outside the mask, such as padding and word continuations, are passed over: the tags before and after
    them are neighbours. Everything is computed in float32 at least, under autocast too. Transitions start at 0, where
    the field is the same as a softmax at each position.

    Args:
        num_tags: L.
        allowed: forbids steps between tags; None allows all. A gold sequence with a forbidden step gets a loss of
            about 10,000 for each.

    Raises:
        ValueError: `allowed` is for another number of tags.
    """

    forbidden_starts: Tensor
    forbidden_transitions: Tensor
    forbidden_ends: Tensor

    def __init__(self, num_tags: int, allowed: Allowed | None = None) -> None:
        super().__init__()
        self.starts = nn.Parameter(torch.zeros(num_tags))
        self.transitions = nn.Parameter(torch.zeros(num_tags, num_tags))
        self.ends = nn.Parameter(torch.zeros(num_tags))
        if allowed is None:
            every = torch.ones(num_tags, dtype=torch.bool)
            allowed = Allowed(every, every.expand(num_tags, -1), every)
        for name, steps in allowed._asdict().items():
            expected = getattr(self, name).shape
            if steps.shape != expected:
                raise ValueError(f"allowed.{name} has shape {tuple(steps.shape)}; expected {tuple(expected)}")
            self.register_buffer(f"forbidden_{name}", ~steps, persistent=False)

    def log_likelihood(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """(B, S, L), (B, S), (B, S) -> (B,): log p(tags); 0 where the mask leaves no position.

        The mask may hide any position, the first one too. Tags outside the mask may be anything.

        Raises:
            ValueError: an argument has another shape; the message names it and both shapes.
        """
        self._check_shapes(emissions, tags=tags, mask=mask)
        with _without_autocast(emissions):
            starts, transitions, ends = self._steps(emissions, _FORBIDDEN)
            scores, order, valid = _compact(_widened(emissions), mask)
            tags = tags.gather(1, order).masked_fill(~valid, 0)
            path = self._path_score(scores, tags, valid, starts, transitions, ends)
            return (path - self._log_partition(scores, valid, starts, transitions, ends)) * valid[:, 0]

    def decode(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """(B, S, L), (B, S) -> (B, S): the likeliest tags (Viterbi), -100 outside the mask.

        Raises:
            ValueError: an argument has another shape; the message names it and both shapes.
        """
        self._check_shapes(emissions, mask=mask)
        with torch.no_grad(), _without_autocast(emissions):
            starts, transitions, ends = self._steps(emissions, _IMPOSSIBLE)
            scores, order, valid = _compact(_widened(emissions), mask)
            best, pointers = starts + scores[:, 0], []
            stay = torch.arange(scores.shape[2], device=scores.device).expand_as(best)
            for step in range(1, scores.shape[1]):
                reached, before = (best[:, :, None] + transitions).max(1)
                now = valid[:, step, None]
                best = torch.where(now, reached + scores[:, step], best)
                pointers.append(torch.where(now, before, stay))
            tag = (best + ends).argmax(1)
            path = [tag]
            for before in reversed(pointers):
                tag = before.gather(1, tag[:, None])[:, 0]
                path.append(tag)
            compact = torch.stack(path[::-1], dim=1).masked_fill(~valid, IGNORED)
            tags = torch.full(mask.shape, IGNORED, device=compact.device).scatter(1, order, compact)
            return tags.masked_fill(~mask.bool(), IGNORED)

    def decoding_scores(self) -> Allowed:
        """Return the scores that `decode` adds to the emissions, with minus infinity at a forbidden step.

        The tags t_1 ... t_n that `decode` returns have the largest sum
        starts[t_1] + sum of emissions[i, t_i] + sum of transitions[t_i, t_i+1] + ends[t_n].

        Returns:
            `starts` (L,), `transitions` (L, L), from row to column, and `ends` (L,).
        """
        return Allowed(*self._steps(self.starts, _IMPOSSIBLE))

    def _check_shapes(self, emissions: Tensor, **others: Tensor) -> None:
        num_tags = len(self.starts)
        shape = _shape(emissions)
        if shape is None or len(shape) != 3 or shape[1] == 0 or shape[2] != num_tags:
            found = "no tensor" if shape is None else f"of shape {shape}"
            raise ValueError(f"emissions is {found}; expected (B, S, {num_tags}) with S of 1 or more")
        for name, other in others.items():
            if _shape(other) != shape[:2]:
                found = f"of shape {_shape(other)}" if isinstance(other, Tensor) else f"{other!r}"
                raise ValueError(f"{name} is {found}; expected {shape[:2]}, since emissions is of shape {shape}")

    def _steps(self, emissions: Tensor, penalty: float) -> tuple[Tensor, Tensor, Tensor]:
        dtype = _widened(emissions).dtype

        def scores(steps: Tensor, forbidden: Tensor) -> Tensor:
            return steps.to(dtype) + forbidden.to(dtype).masked_fill(forbidden, penalty)

        return (
            scores(self.starts, self.forbidden_starts),
            scores(self.transitions, self.forbidden_transitions),
            scores(self.ends, self.forbidden_ends),
        )

    @staticmethod
    def _path_score(
        scores: Tensor, tags: Tensor, valid: Tensor, starts: Tensor, transitions: Tensor, ends: Tensor
    ) -> Tensor:
        emitted = (scores.gather(2, tags[:, :, None])[:, :, 0] * valid).sum(1)
        moved = (transitions[tags[:, :-1], tags[:, 1:]] * valid[:, 1:]).sum(1)
        last = tags.gather(1, (valid.sum(1, keepdim=True) - 1).clamp(min=0))[:, 0]
        return starts[tags[:, 0]] + emitted + moved + ends[last]

    @staticmethod
    def _log_partition(scores: Tensor, valid: Tensor, starts: Tensor, transitions: Tensor, ends: Tensor) -> Tensor:
        """The forward algorithm over all tags of all sequences at once, one step a position."""
        forward = starts + scores[:, 0]
        for step in range(1, scores.shape[1]):
            reached = (forward[:, :, None] + transitions).logsumexp(1) + scores[:, step]
            forward = torch.where(valid[:, step, None], reached, forward)
        return (forward + ends).logsumexp(1)


def _shape(value: object) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _without_autocast(emissions: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off on devices that have it; the meta device does not."""
    device = emissions.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _widened(emissions: Tensor) -> Tensor:
    return emissions.to(torch.promote_types(emissions.dtype, torch.float32))


def _compact(emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Masked-in positions first: emissions (B, C, L), the place that each came from (B, C), validity (B, C)."""
    mask = mask.bool()
    order = mask.logical_not().long().argsort(dim=1, stable=True)
    if mask.device.type == "cpu" and not torch.compiler.is_compiling() and mask.numel():
        # Elsewhere the longest would have to be waited for.
        order = order[:, : max(1, int(mask.sum(1).max()))]
    gathered = emissions.gather(1, order[:, :, None].expand(-1, -1, emissions.shape[2]))
    return gathered, order, mask.gather(1, order)
