"""Seeded text for benchmarks where no real data is named: words as frequent as Zipf has them, lengths as published.

Every word is an entry of the vocabulary, which has as many as the released uncased one, so that lengths in words are
lengths in word pieces.
"""

import itertools
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.text.wordpiece import SPECIAL_TOKENS, WordPieceTokenizer

VOCAB_SIZE = 30522
_CONSONANTS, _VOWELS = "bdfghklmnprstvz", "aeiou"


@cache
def words() -> tuple[str, ...]:
    """All of them, the most frequent first: two syllables, then three."""
    syllables = ["".join(pair) for pair in itertools.product(_CONSONANTS, _VOWELS)]
    made = itertools.chain(itertools.product(syllables, repeat=2), itertools.product(syllables, repeat=3))
    return tuple("".join(parts) for parts in itertools.islice(made, VOCAB_SIZE - len(SPECIAL_TOKENS) - 2))


@cache
def vocabulary() -> Vocabulary:
    """BERT's special tokens, two marks and the words."""
    return Vocabulary((*SPECIAL_TOKENS, ".", "?", *words()), lowercase=True)


def running_text(generator: np.random.Generator, lengths: NDArray[np.int64], end: str = ".") -> list[str]:
    """A sentence of so many words each, the closing mark one of them."""
    every = words()
    # A word's frequency goes as one over its rank.
    ranks = np.exp(generator.random(int(lengths.sum())) * np.log(len(every))).astype(np.int64) - 1
    pieces = iter(ranks.tolist())
    return [" ".join(every[rank] for rank in itertools.islice(pieces, int(n) - 1)) + f" {end}" for n in lengths]


def documents(seed: int, num_documents: int, num_sentences: int) -> list[list[str]]:
    """Documents of sentences of 6 to 31 words."""
    generator = np.random.default_rng(seed)
    return [running_text(generator, generator.integers(6, 32, num_sentences)) for _ in range(num_documents)]


def write_corpus(path: Path, texts: Sequence[Sequence[str]]) -> Path:
    """A sentence a line and a blank line between documents, as the original generator reads them."""
    path.write_text("\n\n".join("\n".join(document) for document in texts) + "\n", encoding="utf-8")
    return path


def store(folder: Path, num_documents: int, num_sentences: int = 200) -> Path:
    """A token store of generated documents, made in this folder."""
    from bert_lightning.data.corpus.preparation import prepare

    text = write_corpus(folder / "corpus.txt", documents(1, num_documents, num_sentences))
    prepare([str(text)], WordPieceTokenizer(vocabulary()), folder / "store", num_workers=1)
    return folder / "store"


def write_sst2(folder: Path, num_train: int, num_validation: int) -> None:
    """`train.tsv` and `dev.tsv` in GLUE's layout; the label is which of two words the phrase begins with.

    Lengths are those of SST-2's training phrases, 11.3 word pieces on average with a deviation of 9.5 and 64 at most
    (counted with the uncased vocabulary), from a gamma distribution of that mean and deviation; with [CLS] and [SEP]
    the mean is 13.
    """
    generator = np.random.default_rng(2)
    for name, number in (("train", num_train), ("dev", num_validation)):
        lengths = np.clip(generator.gamma(1.16, 8.9, number).round(), 1, 63).astype(np.int64)
        labels = generator.integers(0, 2, number)
        texts = running_text(generator, lengths)
        rows = [f"{words()[label]} {text}\t{label}" for text, label in zip(texts, labels.tolist(), strict=True)]
        (folder / f"{name}.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n", encoding="utf-8")


def write_squad(folder: Path, num_train: int, num_validation: int) -> None:
    """`train-v1.1.json` and `dev-v1.1.json`: so many paragraphs of five questions each, answered by a stretch of it.

    Lengths are those of SQuAD v1.1's training set, counted with the uncased vocabulary: paragraphs log-normal around
    143 word pieces, from 25 to 853; questions around 12, answers of 1 to 5 words. A question's first words are those
    in front of its answer.
    """
    generator = np.random.default_rng(3)
    for name, number in (("train", num_train), ("dev", num_validation)):
        lengths = np.clip(generator.lognormal(4.965, 0.416, number), 25, 853).astype(np.int64)
        paragraphs: list[Any] = []
        for text in running_text(generator, lengths):
            pieces = text.split()
            questions: list[Any] = []
            asked = running_text(generator, np.clip(generator.normal(9, 4, 5).round(), 2, 50).astype(np.int64), "?")
            for rest in asked:
                start = int(generator.integers(3, len(pieces) - 6))
                answer = " ".join(pieces[start : start + int(generator.integers(1, 6))])
                questions.append(
                    {
                        "id": f"{name}-{len(paragraphs)}-{len(questions)}",
                        "question": " ".join([*pieces[start - 3 : start], rest]),
                        "answers": [{"text": answer, "answer_start": len(" ".join(pieces[:start])) + 1}],
                    }
                )
            paragraphs.append({"context": text, "qas": questions})
        content = {"version": "1.1", "data": [{"title": "generated", "paragraphs": paragraphs}]}
        (folder / f"{name}-v1.1.json").write_text(json.dumps(content), encoding="utf-8")
