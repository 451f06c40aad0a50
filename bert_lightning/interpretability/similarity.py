"""Centred kernel alignment: how alike the representations of two layers are, whatever their width and rotation.

Kornblith et al. 2019, Similarity of Neural Network Representations Revisited (arXiv 1905.00414): linear CKA is
HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = X X' and L = Y Y'. Their estimate of HSIC grows with the number of
features per example, so that independent vectors look alike. By default HSIC is estimated without bias (Song et al.
2012, Feature Selection via Dependence Maximization, equation 5) and averaged over batches, in constant memory (Nguyen
et al. 2021, Do Wide and Deep Networks Learn the Same Things?, arXiv 2010.15327, section 3).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import tee
from pathlib import Path

import torch
from torch import Tensor

from bert_lightning.checks import RefusedValue
from bert_lightning.errors import InputError
from bert_lightning.interpretability.features import FeatureExtractor
from bert_lightning.interpretability.text_vectors import (
    TextVectors,
    Unit,
    refuse_single_text,
    require_unit,
    shared_length,
    text_vectors,
)
from bert_lightning.runs.inference_device import InferencePrecision

BATCH_SIZE = 256
"""Vectors of a batch: the Gram matrices of all layers are in memory."""
# The unbiased estimate divides by n - 3.
_FEWEST = 4


def linear_cka(x: Tensor, y: Tensor, debiased: bool = True) -> float:
    """Return the linear CKA of two representations of the same n examples, (n, P) and (n, Q).

    It is 1 for representations that differ by a rotation, a scale and a shift, and with `debiased` about 0 for
    independent ones. NaN if a representation is constant.

    Raises:
        ValueError: the numbers of examples differ or are below 4.

    >>> x = torch.tensor([[0.0, 1], [2, 1], [1, 5], [4, 4], [3, 0]])
    >>> rotated = 3 * x @ torch.tensor([[0.6, -0.8], [0.8, 0.6]]) + 1
    >>> round(linear_cka(x, rotated), 6)
    1.0
    """
    if len(x) != len(y) or len(x) < _FEWEST:
        raise ValueError(
            f"there are {len(x)} and {len(y)} examples; both must be the same number, at least {_FEWEST}"
        )
    sums = AlignmentSums(debiased)
    sums.add(x[None], y[None])
    return float(sums.alignment()[0, 0])


class AlignmentSums:
    """Sums of HSIC over batches, for every pair of layers of two models.

    Args:
        debiased: whether HSIC is estimated without bias; otherwise it is estimated as in Kornblith et al. 2019.
    """

    def __init__(self, debiased: bool = True) -> None:
        self._debiased = debiased
        self._joint: Tensor | float = 0.0
        self._own: tuple[Tensor | float, Tensor | float] = (0.0, 0.0)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add a batch: the vectors of the same n items at the layers of both models, (A, n, P) and (B, n, Q)."""
        size = x.shape[1]
        one, other = (self._centred(each) for each in (x, y))
        # Batches count by their size, because the last one may be smaller.
        weight = size / (size * (size - 3) if self._debiased else (size - 1) ** 2)
        self._joint = self._joint + weight * one @ other.T
        self._own = (
            self._own[0] + weight * one.square().sum(1),
            self._own[1] + weight * other.square().sum(1),
        )

    def alignment(self) -> Tensor:
        """Return CKA, (A, B).

        It is NaN where a layer is constant, and where there are too few vectors to show that it depends on itself.
        """
        one, other = (torch.as_tensor(each).clamp(min=0) for each in self._own)
        scale = (one[:, None] * other).sqrt()
        return torch.where(scale > 0, torch.as_tensor(self._joint) / scale, torch.nan)

    def _centred(self, vectors: Tensor) -> Tensor:
        """Return centred Gram matrices as rows, (layers, n, H) -> (layers, n * n).

        Without bias, the diagonal counts as 0, and row and column sums are divided by n - 2 and their total by
        (n - 1)(n - 2) (Székely and Rizzo 2014, Partial Distance Correlation, definition 2). The inner product of two
        such matrices over n (n - 3) is equation 5 of Song et al. 2012.
        """
        vectors = vectors.double()
        # A shift of the vectors changes nothing but the rounding.
        vectors = vectors - vectors.mean(1, keepdim=True)
        gram = vectors @ vectors.mT
        if not self._debiased:
            return gram.flatten(1)
        size = gram.shape[1]
        diagonal = torch.eye(size, dtype=torch.bool)
        gram = gram.masked_fill(diagonal, 0)
        rows = gram.sum(2, keepdim=True) / (size - 2)
        total = gram.sum((1, 2), keepdim=True) / ((size - 1) * (size - 2))
        return (gram - rows - rows.mT + total).masked_fill(diagonal, 0).flatten(1)


@dataclass(frozen=True)
class SimilarityReport:
    """CKA of every layer of one model with every layer of another.

    Attributes:
        a: the first checkpoint.
        b: the second checkpoint.
        vectors: what has a vector: words, pieces or texts.
        num_vectors: how many were compared.
        num_texts: how many texts they are from.
        debiased: whether HSIC was estimated without bias.
        batch_size: vectors of a batch.
        values: a row per layer of `a`, a column per layer of `b`; layer 0 is the embeddings.
    """

    a: str
    b: str
    vectors: Unit
    num_vectors: int
    num_texts: int
    debiased: bool
    batch_size: int
    values: Sequence[Sequence[float]]

    def to_dict(self) -> dict[str, object]:
        """Return plain values, as the command writes them as JSON."""
        return asdict(self)


def cka(
    a: str | Path,
    b: str | Path,
    texts: Iterable[str],
    *,
    vectors: Unit = "words",
    debiased: bool = True,
    batch_size: int = BATCH_SIZE,
    max_seq_length: int | None = None,
    device: str | None = None,
    precision: InferencePrecision = "32",
    allow_modules: Sequence[str] = (),
) -> SimilarityReport:
    """Compare every layer of one model with every layer of another on the same texts.

    Args:
        a: any checkpoint with a vocabulary.
        b: another one, of any size; it may have another vocabulary unless `vectors` is `pieces`.
        texts: any number of texts; blank ones are left out.
        vectors: compare `words` (the mean over their pieces, so vocabularies may differ), `texts` (the mean over all
            tokens), or word `pieces`.
        debiased: whether HSIC is estimated without bias.
        batch_size: vectors of a batch.
        max_seq_length: longest sequence; by default as long as both models read.
        device: as for `load`.
        precision: as for `load`.
        allow_modules: your modules that may be imported.

    Raises:
        InputError: the vocabularies differ and `vectors` is `pieces`, or there are fewer than 4 vectors.

    Example:
        ::

            report = cka("bert-base-uncased", "runs/sst2", open("texts.txt"))
            report.values[12][12]
    """
    require_unit(vectors)
    refuse_single_text("texts", texts)
    if batch_size < _FEWEST:
        raise RefusedValue("batch_size", batch_size, f"be at least {_FEWEST}")
    one, other = (
        FeatureExtractor.open(path, device, precision=precision, allow_modules=allow_modules) for path in (a, b)
    )
    if vectors == "pieces" and one.tokenizer.fingerprint != other.tokenizer.fingerprint:
        raise InputError(
            f"{a} and {b} have different vocabularies ({len(one.tokenizer):,} and {len(other.tokenizer):,} "
            "entries): compare words or texts, not pieces"
        )
    limit = shared_length((one, other), max_seq_length)
    counted = _Counted(texts)
    sums, num_vectors = AlignmentSums(debiased), 0
    for x, y in _batches(one, other, counted, vectors, limit, batch_size):
        sums.add(x, y)
        num_vectors += x.shape[1]
    if not num_vectors:
        raise InputError(f"the input has fewer than {_FEWEST} {vectors}, which is too few to compare")
    values = sums.alignment().tolist()
    return SimilarityReport(str(a), str(b), vectors, num_vectors, counted.number, debiased, batch_size, values)


class _Counted:
    """Texts that are not blank, and their number so far."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts, self.number = texts, 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            if text.strip():
                self.number += 1
                yield text


def _batches(
    one: FeatureExtractor, other: FeatureExtractor, texts: Iterable[str], unit: Unit, limit: int, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the vectors of the same items in both models, (A, n, P) and (B, n, Q), for n items at a time."""
    # One model is at most a few texts ahead of the other, so that few are kept.
    first, second = tee(texts)
    streams = (text_vectors(one, first, unit, limit), text_vectors(other, second, unit, limit))
    yield from zip(*(_rebatched(stream, size) for stream in streams), strict=True)


def _rebatched(stream: Iterable[TextVectors], size: int) -> Iterator[Tensor]:
    """Yield vectors in batches of one size. The last one may be smaller; it is left out if it is below 4."""
    rest: Tensor | None = None
    for block in stream:
        rest = block.vectors if rest is None else torch.cat([rest, block.vectors], 1)
        while rest.shape[1] >= size:
            # A copy, so that the rest of the block can be freed.
            yield rest[:, :size]
            rest = rest[:, size:].clone()
    if rest is not None and rest.shape[1] >= _FEWEST:
        yield rest
