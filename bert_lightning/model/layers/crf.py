"""A linear-chain conditional random field over tag scores; Lafferty, McCallum and Pereira 2001."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bert_lightning.model.layers.autograd import without_autocast
from bert_lightning.model.losses import IGNORED
from bert_lightning.tags import BOUNDARY, TagScheme, check_scheme_name, may_follow, split_tag_of

# Added in training to the score of a forbidden start, transition or end. It is finite, so that gradients stay finite,
# and it makes the probability 0 in float32.
_FORBIDDEN = -1e4
# The same in decoding.
_IMPOSSIBLE = float("-inf")


class Allowed(NamedTuple):
    """The starts, transitions and ends of L tags: booleans (True if allowed), or scores.

    Attributes:
        starts: (L,) for each tag, that it begins a sentence.
        transitions: (L, L) that the tag of the column follows the tag of the row.
        ends: (L,) for each tag, that it ends a sentence.
    """

    starts: Tensor
    transitions: Tensor
    ends: Tensor


def allowed_by_scheme(labels: Sequence[str], scheme: TagScheme) -> Allowed:
    """Return the starts, transitions and ends of labels that a scheme of tags allows (`tags.may_follow`).

    Raises:
        ValueError: the scheme does not exist, or a label is not of it.

    >>> allowed_by_scheme(["O", "B-PER", "I-PER"], "IOB2").starts.tolist()
    [True, True, False]
    """
    check_scheme_name(scheme, "tag_scheme")
    tags = [split_tag_of(label, scheme) for label in labels]
    for label, tag in zip(labels, tags, strict=True):
        if "-" in label and not tag.type:
            raise ValueError(f"the label {label!r} has a hyphen, but no type after it")
    return Allowed(
        torch.tensor([may_follow(BOUNDARY, tag, scheme) for tag in tags]),
        torch.tensor([[may_follow(before, tag, scheme) for tag in tags] for before in tags]),
        torch.tensor([may_follow(tag, BOUNDARY, scheme) for tag in tags]),
    )


class LinearChainCRF(nn.Module):
    """Scores of tag sequences: emissions at the tagged positions plus transitions between neighbours.

    Positions outside the mask, such as padding and word continuations, are skipped: the tags before and after them
    are neighbours. Everything is computed in at least float32, also under autocast. Transitions are initialised to 0.
    With these, the CRF is the same as a softmax at each position.

    Args:
        num_tags: L.
        allowed: the allowed starts, transitions and ends; None allows all. Each forbidden one in a gold sequence adds
            about 10,000 to its loss.

    Raises:
        ValueError: the shapes in `allowed` do not fit `num_tags`.
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
            all_tags = torch.ones(num_tags, dtype=torch.bool)
            allowed = Allowed(all_tags, all_tags.expand(num_tags, -1), all_tags)
        for name, are_allowed in allowed._asdict().items():
            expected = getattr(self, name).shape
            if are_allowed.shape != expected:
                raise ValueError(f"allowed.{name} has shape {tuple(are_allowed.shape)}; expected {tuple(expected)}")
            self.register_buffer(f"forbidden_{name}", ~are_allowed, persistent=False)

    def log_likelihood(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Return log p(tags) of each sequence.

        Args:
            emissions: (B, S, L) scores.
            tags: (B, S) ids; any values outside the mask.
            mask: (B, S) True at tagged positions. It may hide any position, also the first one.

        Returns:
            (B,), 0 for a sequence without a tagged position.

        Raises:
            ValueError: an argument has a wrong shape; the message names it and both shapes.
        """
        self._check_shapes(emissions, tags=tags, mask=mask)
        with without_autocast(emissions):
            starts, transitions, ends = self._penalized(emissions, _FORBIDDEN)
            scores, order, valid = _compact(_widened(emissions), mask)
            tags = tags.gather(1, order).masked_fill(~valid, 0)
            path = self._path_score(scores, tags, valid, starts, transitions, ends)
            return (path - self._log_partition(scores, valid, starts, transitions, ends)) * valid[:, 0]

    def log_partition(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Return the logarithm of the summed exponentials of the scores of all sequences of tags.

        Args:
            emissions: (B, S, L) scores. An emission of -10,000 excludes its tag at that position.
            mask: (B, S) as in `log_likelihood`.

        Returns:
            (B,)

        Raises:
            ValueError: an argument has a wrong shape; the message names it and both shapes.
        """
        self._check_shapes(emissions, mask=mask)
        with without_autocast(emissions):
            starts, transitions, ends = self._penalized(emissions, _FORBIDDEN)
            scores, _, valid = _compact(_widened(emissions), mask)
            return self._log_partition(scores, valid, starts, transitions, ends)

    def decode(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Return the most likely tags, by the Viterbi algorithm.

        Args:
            emissions: (B, S, L) scores.
            mask: (B, S) as in `log_likelihood`.

        Returns:
            (B, S) ids, -100 outside the mask.

        Raises:
            ValueError: an argument has a wrong shape; the message names it and both shapes.
        """
        self._check_shapes(emissions, mask=mask)
        with torch.no_grad(), without_autocast(emissions):
            starts, transitions, ends = self._penalized(emissions, _IMPOSSIBLE)
            scores, order, valid = _compact(_widened(emissions), mask)
            best, pointers = starts + scores[:, 0], []
            stay = torch.arange(scores.shape[2], device=scores.device).expand_as(best)
            for position in range(1, scores.shape[1]):
                reached, before = (best[:, :, None] + transitions).max(1)
                is_tagged = valid[:, position, None]
                best = torch.where(is_tagged, reached + scores[:, position], best)
                pointers.append(torch.where(is_tagged, before, stay))
            tag = (best + ends).argmax(1)
            path = [tag]
            for before in reversed(pointers):
                tag = before.gather(1, tag[:, None])[:, 0]
                path.append(tag)
            compact = torch.stack(path[::-1], dim=1).masked_fill(~valid, IGNORED)
            tags = torch.full(mask.shape, IGNORED, device=compact.device).scatter(1, order, compact)
            return tags.masked_fill(~mask.bool(), IGNORED)

    def decoding_scores(self) -> Allowed:
        """Return the scores that `decode` adds to the emissions; forbidden ones are minus infinity.

        The tags t_1 ... t_n that `decode` returns have the largest sum
        starts[t_1] + sum of emissions[i, t_i] + sum of transitions[t_i, t_i+1] + ends[t_n].
        """
        return self._penalized(self.starts, _IMPOSSIBLE)

    def _check_shapes(self, emissions: Tensor, **arguments: Tensor) -> None:
        num_tags = len(self.starts)
        shape = _shape(emissions)
        if shape is None or len(shape) != 3 or shape[1] == 0 or shape[2] != num_tags:
            actual = "no tensor" if shape is None else f"of shape {shape}"
            raise ValueError(f"emissions is {actual}; expected (B, S, {num_tags}) with S of 1 or more")
        for name, argument in arguments.items():
            if _shape(argument) != shape[:2]:
                actual = f"of shape {_shape(argument)}" if isinstance(argument, Tensor) else f"{argument!r}"
                raise ValueError(f"{name} is {actual}; expected {shape[:2]}, since emissions is of shape {shape}")

    def _penalized(self, emissions: Tensor, penalty: float) -> Allowed:
        """Return the scores of starts, transitions and ends, with a penalty for those that are forbidden."""
        dtype = _widened(emissions).dtype

        def scores(parameter: Tensor, forbidden: Tensor) -> Tensor:
            return parameter.to(dtype) + forbidden.to(dtype).masked_fill(forbidden, penalty)

        return Allowed(
            scores(self.starts, self.forbidden_starts),
            scores(self.transitions, self.forbidden_transitions),
            scores(self.ends, self.forbidden_ends),
        )

    @staticmethod
    def _path_score(
        scores: Tensor, tags: Tensor, valid: Tensor, starts: Tensor, transitions: Tensor, ends: Tensor
    ) -> Tensor:
        emitted = (scores.gather(2, tags[:, :, None])[:, :, 0] * valid).sum(1)
        transitioned = (transitions[tags[:, :-1], tags[:, 1:]] * valid[:, 1:]).sum(1)
        last = tags.gather(1, (valid.sum(1, keepdim=True) - 1).clamp(min=0))[:, 0]
        return starts[tags[:, 0]] + emitted + transitioned + ends[last]

    @staticmethod
    def _log_partition(scores: Tensor, valid: Tensor, starts: Tensor, transitions: Tensor, ends: Tensor) -> Tensor:
        """Run the forward algorithm position by position, over all tags of all sequences at once."""
        forward = starts + scores[:, 0]
        for position in range(1, scores.shape[1]):
            reached = (forward[:, :, None] + transitions).logsumexp(1) + scores[:, position]
            forward = torch.where(valid[:, position, None], reached, forward)
        return (forward + ends).logsumexp(1)


def _shape(value: object) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _widened(emissions: Tensor) -> Tensor:
    return emissions.to(torch.promote_types(emissions.dtype, torch.float32))


def _compact(emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Move the tagged positions of each sequence to its front.

    Returns:
        The emissions (B, C, L), the position that each came from (B, C), and whether it is tagged (B, C).
    """
    mask = mask.bool()
    order = mask.logical_not().long().argsort(dim=1, stable=True)
    if mask.device.type == "cpu" and not torch.compiler.is_compiling() and mask.numel():
        # Only on a CPU, because reading the number of positions from an accelerator would mean waiting for it.
        order = order[:, : max(1, int(mask.sum(1).max()))]
    gathered = emissions.gather(1, order[:, :, None].expand(-1, -1, emissions.shape[2]))
    return gathered, order, mask.gather(1, order)
