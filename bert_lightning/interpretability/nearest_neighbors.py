"""Nearest neighbours of word-piece embeddings, of words in their context, and of texts."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from bert_lightning.checks import RefusedValue, nearest
from bert_lightning.errors import InputError
from bert_lightning.interpretability.features import FeatureExtractor
from bert_lightning.interpretability.text_vectors import (
    TextVectors,
    Unit,
    refuse_single_text,
    require_unit,
    shared_length,
    text_vectors,
    words_of,
)
from bert_lightning.runs.inference_device import InferencePrecision

NUMBER = 10
"""Neighbours of a query."""
_MARKED = re.compile(r"\*([^*]+)\*")
# Entries that no text has become: their embeddings were hardly trained.
_UNUSED = re.compile(r"\[unused\d+\]")
# Rows of the embedding table that are compared at a time.
_BLOCK = 8192
# Words on each side of a neighbour that are shown.
_CONTEXT = 10


@dataclass(frozen=True)
class Neighbor:
    """A neighbour of a query.

    Attributes:
        name: the word piece, word or text.
        cosine: cosine of its vector and that of the query.
        context: for a word, its text, in which the word is between asterisks. If the text is long, only the words
            around it are shown.
    """

    name: str
    cosine: float
    context: str = ""


@dataclass(frozen=True)
class Neighborhood:
    """The nearest neighbours of one query in one layer.

    Attributes:
        query: as it was given.
        layer: 0 is the embeddings.
        neighbors: the nearest one first.
        mean: mean cosine of the query and all candidates. In contextual layers it may be far above 0. Then a high
            cosine alone says little (Ethayarajh 2019, How Contextual are Contextualized Word Representations?).
        deviation: standard deviation of these cosines.
    """

    query: str
    layer: int
    neighbors: Sequence[Neighbor]
    mean: float
    deviation: float


@dataclass(frozen=True)
class NeighborsReport:
    """The neighbours of all queries.

    Attributes:
        checkpoint: the model.
        vectors: what has a vector: pieces, words or texts.
        num_candidates: vectors that were compared with each query.
        neighborhoods: query by query, and layer by layer.
    """

    checkpoint: str
    vectors: Unit
    num_candidates: int
    neighborhoods: Sequence[Neighborhood]

    def to_dict(self) -> dict[str, object]:
        """Return plain values, as the command writes them as JSON."""
        return asdict(self)


@dataclass
class _Nearest:
    """The nearest candidates so far of queries in layers, and sums over all candidates."""

    queries: Tensor
    """(layers, Q, H) of length 1"""
    number: int
    num_candidates: int = 0
    sums: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    best: dict[tuple[int, int], list[Neighbor]] = field(default_factory=dict)

    def add(
        self,
        vectors: Tensor,
        names: Sequence[str],
        skipped: Tensor,
        context: Callable[[int], str] = lambda number: "",
    ) -> None:
        """Compare candidates, (layers, n, H). `skipped` (Q, n) are those that are the query itself."""
        cosines = self.queries @ _unit_length(vectors).mT
        self.num_candidates += len(names)
        self.sums, self.squares = self.sums + cosines.sum(2), self.squares + cosines.square().sum(2)
        cosines = cosines.masked_fill(skipped, -torch.inf)
        for layer, of_layer in enumerate(cosines):
            # A stable order: of equal cosines, the first candidate comes first.
            values, order = of_layer.sort(dim=1, descending=True, stable=True)
            for query in range(len(of_layer)):
                found = zip(values[query, : self.number].tolist(), order[query].tolist(), strict=False)
                new = [Neighbor(names[n], value, context(n)) for value, n in found if value > -torch.inf]
                both = [*self.best.get((query, layer), ()), *new]
                self.best[query, layer] = sorted(both, key=lambda each: -each.cosine)[: self.number]


def neighbors(
    checkpoint: str | Path,
    queries: Sequence[str],
    texts: Iterable[str] | None = None,
    *,
    vectors: Unit = "pieces",
    layers: Sequence[int] = (-1,),
    number: int = NUMBER,
    max_seq_length: int | None = None,
    device: str | None = None,
    precision: InferencePrecision = "32",
    base: str | Path | None = None,
    allow_modules: Sequence[str] = (),
) -> NeighborsReport:
    """Find what a model represents most like each query, by cosine. Equal queries and layers count once.

    Args:
        checkpoint: any checkpoint with a vocabulary.
        queries: with `pieces`, entries of the vocabulary, such as `river` or `##ing`. With `words`, a text with one
            word between asterisks, such as `the *bank* of the river`, or a word alone. With `texts`, texts.
        texts: the candidates of `words` and `texts`; of `pieces`, the candidates are the whole vocabulary.
        vectors: `pieces` compares rows of the embedding table, `words` compares words in their context, and `texts`
            whole texts (the mean over all tokens).
        layers: of words and texts, as numbers: 0 is the embeddings, -1 the last block.
        number: neighbours of each query.
        max_seq_length: longest sequence; by default all positions of the model.
        device: as for `load`.
        precision: as for `load`.
        base: the base of a checkpoint that holds only what was trained, if it has moved.
        allow_modules: your modules that may be imported.

    Raises:
        InputError: a query is no entry of the vocabulary or has no marked word, there is no such layer, or there are
            texts for pieces or none for the others.

    Example:
        ::

            neighbors("bert-base-uncased", ["river"]).neighborhoods[0].neighbors
            neighbors("runs/sst2", ["a *dull* film"], open("reviews.txt"), vectors="words", layers=[4, 12])
    """
    _check(queries, texts, vectors, number)
    extractor = FeatureExtractor.open(checkpoint, device, precision=precision, base=base, allow_modules=allow_modules)
    queries = list(dict.fromkeys(queries))
    if texts is None:
        return _of_pieces(str(checkpoint), extractor, queries, number)
    return _of_texts(str(checkpoint), extractor, queries, texts, vectors, layers, number, max_seq_length)


def _check(queries: Sequence[str], texts: Iterable[str] | None, vectors: Unit, number: int) -> None:
    """Check what needs no model.

    Raises:
        InputError: a setting is not allowed, or texts and kind of vectors do not fit.
    """
    require_unit(vectors)
    if number < 1:
        raise RefusedValue("number", number, "be at least 1")
    refuse_single_text("queries", queries)
    refuse_single_text("texts", texts)
    if not queries:
        raise InputError("there is no query")
    if (texts is None) != (vectors == "pieces"):
        raise InputError(
            "vectors is pieces, whose neighbours are in the vocabulary: texts would do nothing"
            if texts is not None
            else f"vectors is {vectors}, whose neighbours are in texts: give some"
        )


def _of_texts(
    checkpoint: str,
    extractor: FeatureExtractor,
    queries: Sequence[str],
    texts: Iterable[str],
    unit: Unit,
    layers: Sequence[int],
    number: int,
    max_seq_length: int | None,
) -> NeighborsReport:
    """Compare words in their context, or whole texts, block by block."""
    numbers = list(dict.fromkeys(extractor.layers(layers)))
    limit = shared_length([extractor], max_seq_length)
    found = _Nearest(_query_vectors(extractor, queries, unit, numbers, limit), number)
    marked = [_split(query) if unit == "words" else ((), query.strip(), ()) for query in queries]
    own = [(" ".join([*before, word, *after]), len(before)) for before, word, after in marked]
    for block in text_vectors(extractor, (stripped for text in texts if (stripped := text.strip())), unit, limit):
        words = {text: words_of(text) for text in {*block.texts}} if unit == "words" else {}
        places = list(zip(block.texts, block.positions, strict=True))
        joined = {text: " ".join(words.get(text, [text])) for text in block.texts}
        skipped = [[(joined[text], position) == query for text, position in places] for query in own]

        def context(number: int, words: dict[str, list[str]] = words, block: TextVectors = block) -> str:
            return _context(words[block.texts[number]], block.positions[number]) if words else ""

        found.add(block.vectors[numbers], block.names, torch.tensor(skipped), context)
    if not found.num_candidates:
        raise InputError(f"the texts have no {unit}, so there is no neighbour")
    return NeighborsReport(checkpoint, unit, found.num_candidates, _neighborhoods(found, queries, numbers))


def _of_pieces(checkpoint: str, extractor: FeatureExtractor, queries: Sequence[str], number: int) -> NeighborsReport:
    """Compare rows of the embedding table, except those of special tokens and of entries that are never used."""
    tokenizer = extractor.tokenizer
    ids = [_entry(extractor, query) for query in queries]
    special = {*tokenizer.special_ids}
    candidates = [n for n in tokenizer.entry_ids if n not in special and not _UNUSED.fullmatch(tokenizer.entries[n])]
    table = extractor.encoder.embeddings.word.weight.detach().cpu()
    found = _Nearest(_unit_length(table[ids])[None], number)
    for start in range(0, len(candidates), _BLOCK):
        block = torch.tensor(candidates[start : start + _BLOCK])
        names = [tokenizer.entries[n] for n in block.tolist()]
        found.add(table[block][None], names, block == torch.tensor(ids)[:, None])
    return NeighborsReport(checkpoint, "pieces", found.num_candidates, _neighborhoods(found, queries, [0]))


def _entry(extractor: FeatureExtractor, query: str) -> int:
    """Return the id of an entry of the vocabulary.

    Raises:
        InputError: the query is none; the message has its pieces, or the nearest entry.
    """
    tokenizer = extractor.tokenizer
    if query and query in tokenizer.entries:
        return tokenizer.entries.index(query)
    [pieces] = tokenizer.encode_batch([query])
    if len(pieces) == 1 and pieces[0] != tokenizer.unknown_id:
        return pieces[0]
    if len(pieces) > 1:
        names = " ".join(tokenizer.entries[n] for n in pieces)
        raise InputError(
            f"{query!r} is no entry of the vocabulary. It becomes {names}: name one of these, or use words"
        )
    near = nearest(query, [entry for entry in tokenizer.entries if entry])
    raise InputError(f"{query!r} is no entry of the vocabulary{near if near.endswith('?') else ''}")


def _split(query: str) -> tuple[Sequence[str], str, Sequence[str]]:
    """Return the words before the marked word of a query, the word, and those after it.

    Raises:
        InputError: not exactly one word is marked.

    >>> _split("the *bank* of the river")
    (['the'], 'bank', ['of', 'the', 'river'])
    """
    marks = list(_MARKED.finditer(query))
    if not marks and len(words_of(query)) == 1:
        return (), words_of(query)[0], ()
    if len(marks) != 1 or len(words_of(marks[0][1])) != 1:
        raise InputError(f"the query {query!r} needs one word between asterisks, as in 'the *bank* of the river'")
    mark = marks[0]
    return words_of(query[: mark.start()]), words_of(mark[1])[0], words_of(query[mark.end() :])


def _query_vectors(
    extractor: FeatureExtractor, queries: Sequence[str], unit: Unit, layers: Sequence[int], limit: int
) -> Tensor:
    """Return the vectors of queries in the chosen layers, (layers, Q, H), of length 1."""
    found = []
    for query in queries:
        if not query.strip():
            raise InputError("a query is empty")
        place, text = 0, query
        if unit == "words":
            before, word, after = _split(query)
            place, text = len(before), " ".join([*before, word, *after])
        blocks = text_vectors(extractor, [text], unit, limit)
        found.append(torch.cat([block.vectors for block in blocks], 1)[list(layers), place])
    return _unit_length(torch.stack(found, 1))


def _unit_length(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors.double(), dim=-1)


def _context(words: Sequence[str], position: int) -> str:
    """Return the words around a word, which is between asterisks.

    >>> _context(["a", "bank", "of", "sand"], 1)
    'a *bank* of sand'
    """
    start, stop = max(0, position - _CONTEXT), position + 1 + _CONTEXT
    before, after = ["…"] * (start > 0), ["…"] * (stop < len(words))
    return " ".join([*before, *words[start:position], f"*{words[position]}*", *words[position + 1 : stop], *after])


def _neighborhoods(found: _Nearest, queries: Sequence[str], layers: Sequence[int]) -> list[Neighborhood]:
    mean = torch.as_tensor(found.sums) / found.num_candidates
    deviation = (torch.as_tensor(found.squares) / found.num_candidates - mean.square()).clamp(min=0).sqrt()
    return [
        Neighborhood(
            text,
            number,
            found.best.get((query, layer), []),
            float(mean[layer, query]),
            float(deviation[layer, query]),
        )
        for query, text in enumerate(queries)
        for layer, number in enumerate(layers)
    ]
