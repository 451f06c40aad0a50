"""Generated text for benchmarks without real data: word frequencies follow Zipf's law, lengths are as published.

Every word is a vocabulary entry, so that a length in words is a length in word pieces. The vocabulary is as large as
the released uncased one.
"""

import itertools
import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.listing import matches
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.text.wordpiece import SPECIAL_TOKENS, WordPieceTokenizer, load_tokenizer

VOCAB_SIZE = 30522
MOST_DOCUMENTS, SENTENCES_PER_DOCUMENT = 400, 200
# 200 sentences of 18 words, of 5.6 characters each with the space after it.
MEGABYTES_PER_DOCUMENT = 0.02
_CONSONANTS, _VOWELS = "bdfghklmnprstvz", "aeiou"


# Fields of the architecture that is small enough for a processor, and whose heads are 64 wide as published.
SMALL_MODEL: dict[str, Any] = {
    "num_hidden_layers": 6,
    "hidden_size": 384,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
}


@cache
def words() -> tuple[str, ...]:
    """Return all words, the most frequent first: words of two syllables, then of three."""
    syllables = ["".join(pair) for pair in itertools.product(_CONSONANTS, _VOWELS)]
    spellings = itertools.chain(itertools.product(syllables, repeat=2), itertools.product(syllables, repeat=3))
    return tuple("".join(spelling) for spelling in itertools.islice(spellings, VOCAB_SIZE - len(SPECIAL_TOKENS) - 2))


@cache
def vocabulary() -> Vocabulary:
    """Return a vocabulary of BERT's special tokens, two punctuation marks and the words."""
    return Vocabulary((*SPECIAL_TOKENS, ".", "?", *words()), lowercase=True)


def running_text(generator: np.random.Generator, lengths: NDArray[np.int64], end: str = ".") -> list[str]:
    """Return one sentence per length, which counts words and the closing mark."""
    every = words()
    # The frequency of a word is proportional to one over its rank.
    ranks = np.exp(generator.random(int(lengths.sum())) * np.log(len(every))).astype(np.int64) - 1
    pieces = iter(ranks.tolist())
    return [" ".join(every[rank] for rank in itertools.islice(pieces, int(n) - 1)) + f" {end}" for n in lengths]


def documents(seed: int, num_documents: int, num_sentences: int = SENTENCES_PER_DOCUMENT) -> list[list[str]]:
    """Return documents with sentences of 6 to 31 words."""
    generator = np.random.default_rng(seed)
    return [running_text(generator, generator.integers(6, 32, num_sentences)) for _ in range(num_documents)]


def write_corpus(path: Path, texts: Sequence[Sequence[str]]) -> Path:
    """Write one sentence per line and a blank line between documents, as the original generator reads them."""
    path.write_text("\n\n".join("\n".join(document) for document in texts) + "\n", encoding="utf-8")
    return path


def corpus(folder: Path, megabytes: float) -> tuple[list[str], WordPieceTokenizer]:
    """Return text files and a vocabulary for them.

    They are the first novels of the folder that BERT_LIGHTNING_DATA names, up to that much text, but at least two
    because pairs need two documents. If it is not set, they are generated.
    """
    data = os.environ.get("BERT_LIGHTNING_DATA")
    if data:
        novels = list(map(str, matches("novels/*.txt", Path(data))))
        sizes = itertools.accumulate(os.path.getsize(novel) / 1e6 for novel in novels)
        num_novels = sum(size <= megabytes for size in sizes)
        return novels[: max(2, num_novels)], load_tokenizer(f"{data}/vocab/bert-base-uncased.txt")
    num_documents = round(min(MOST_DOCUMENTS, max(8.0, megabytes / MEGABYTES_PER_DOCUMENT)))
    text = write_corpus(folder / "corpus.txt", documents(1, num_documents))
    return [str(text)], WordPieceTokenizer(vocabulary())


def store(folder: Path, num_documents: int, num_sentences: int = SENTENCES_PER_DOCUMENT) -> Path:
    """Write a token store of generated documents into a folder, and return its path."""
    text = write_corpus(folder / "corpus.txt", documents(1, num_documents, num_sentences))
    return _prepared([str(text)], WordPieceTokenizer(vocabulary()), folder)


def store_of_corpus(folder: Path, megabytes: float) -> Path:
    """Write a token store of the files of `corpus` into a folder, and return its path."""
    return _prepared(*corpus(folder, megabytes), folder)


def _prepared(files: list[str], tokenizer: WordPieceTokenizer, folder: Path) -> Path:
    from bert_lightning.data.corpus.preparation import prepare

    prepare(files, tokenizer, folder / "store", num_workers=1)
    return folder / "store"


def phrase_lengths(generator: np.random.Generator, number: int) -> NDArray[np.int64]:
    """Return lengths of SST-2's training phrases in word pieces, without special tokens.

    Counted with the uncased vocabulary they are 11.3 on average, with a deviation of 9.5, and 64 at most. These come
    from a gamma distribution with that mean and deviation.
    """
    return np.clip(generator.gamma(1.16, 8.9, number).round(), 1, 63).astype(np.int64)


def paragraph_lengths(generator: np.random.Generator, number: int) -> NDArray[np.int64]:
    """Return lengths of SQuAD's paragraphs in word pieces: log-normal around 143, from 25 to 853."""
    return np.clip(generator.lognormal(4.965, 0.416, number), 25, 853).astype(np.int64)


def write_sst2(folder: Path, num_train: int, num_validation: int) -> None:
    """Write `train.tsv` and `dev.tsv` in GLUE's layout. The first word of a phrase shows its label.

    Lengths are those of `phrase_lengths`. With [CLS] and [SEP] the mean is 13.
    """
    generator = np.random.default_rng(2)
    for name, number in (("train", num_train), ("dev", num_validation)):
        lengths = phrase_lengths(generator, number)
        labels = generator.integers(0, 2, number)
        texts = running_text(generator, lengths)
        rows = [f"{words()[label]} {text}\t{label}" for text, label in zip(texts, labels.tolist(), strict=True)]
        (folder / f"{name}.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n", encoding="utf-8")


def write_mrpc(folder: Path, num_train: int, num_validation: int) -> None:
    """Write `train.tsv` and `dev.tsv` in GLUE's layout. If the label is 1, both texts begin with the same word.

    The first texts have 26 word pieces on average, from 7 to 48. The second texts are two thirds to one and a half
    times as long, as the corpus was selected (Dolan and Brockett 2005: 5 to 40 words, lengths within two thirds).
    """
    generator = np.random.default_rng(4)
    for name, number in (("train", num_train), ("dev", num_validation)):
        firsts = np.clip(generator.normal(26, 7, number).round(), 7, 48).astype(np.int64)
        seconds = np.clip((firsts * generator.uniform(2 / 3, 3 / 2, number)).round(), 7, 48).astype(np.int64)
        labels = (generator.random(number) < 0.67).astype(np.int64)
        pairs = zip(running_text(generator, firsts), running_text(generator, seconds), labels.tolist(), strict=True)
        rows = [
            f"{label}\t{row}\t{row}\t{first}\t{first.split()[0] if label else words()[-1]} {second}"
            for row, (first, second, label) in enumerate(pairs)
        ]
        header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
        (folder / f"{name}.tsv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def write_squad(folder: Path, num_train: int, num_validation: int) -> None:
    """Write `train-v1.1.json` and `dev-v1.1.json`, with the given numbers of paragraphs and five questions each.

    Lengths are those of SQuAD v1.1's training set, counted with the uncased vocabulary. Those of paragraphs are in
    `paragraph_lengths`. Questions have about 12 word pieces, answers 1 to 5 words. A question
    begins with the words in front of its answer.
    """
    generator = np.random.default_rng(3)
    for name, number in (("train", num_train), ("dev", num_validation)):
        lengths = paragraph_lengths(generator, number)
        paragraphs: list[dict[str, object]] = []
        for text in running_text(generator, lengths):
            pieces = text.split()
            questions: list[dict[str, object]] = []
            endings = running_text(generator, np.clip(generator.normal(9, 4, 5).round(), 2, 50).astype(np.int64), "?")
            for ending in endings:
                start = int(generator.integers(3, len(pieces) - 6))
                answer = " ".join(pieces[start : start + int(generator.integers(1, 6))])
                questions.append(
                    {
                        "id": f"{name}-{len(paragraphs)}-{len(questions)}",
                        "question": " ".join([*pieces[start - 3 : start], ending]),
                        "answers": [{"text": answer, "answer_start": len(" ".join(pieces[:start])) + 1}],
                    }
                )
            paragraphs.append({"context": text, "qas": questions})
        content = {"version": "1.1", "data": [{"title": "generated", "paragraphs": paragraphs}]}
        (folder / f"{name}-v1.1.json").write_text(json.dumps(content), encoding="utf-8")
