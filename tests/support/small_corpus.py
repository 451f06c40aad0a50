"""Small documents about three topics, and an experiment that pre-trains on them in seconds."""

import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.corpus.token_store import TokenStore

NOUNS = ["cat", "dog", "bird", "fish", "horse", "river", "stone", "cloud", "tree", "house", "road", "garden"]
VERBS = ["sees", "finds", "likes", "follows", "leaves", "carries"]
ADJECTIVES = ["old", "young", "red", "quiet", "bright", "heavy"]


def sentence(generator: random.Random, topic: int) -> str:
    """Make a sentence about one of three topics, so that there is something to learn."""
    nouns = NOUNS[4 * topic : 4 * topic + 4]
    words = [generator.choice(ADJECTIVES), generator.choice(nouns), generator.choice(VERBS), "the"]
    return f"The {' '.join(words)} {generator.choice(ADJECTIVES)} {generator.choice(nouns)}."


def make_documents(seed: int, num_documents: int = 30, num_sentences: int = 12) -> list[list[str]]:
    """Make documents of one topic each."""
    generator = random.Random(seed)
    return [[sentence(generator, number % 3) for _ in range(num_sentences)] for number in range(num_documents)]


def write_corpus(path: Path, documents: list[list[str]]) -> Path:
    """Write the original format: one sentence per line, a blank line between documents."""
    path.write_text("\n\n".join("\n".join(document) for document in documents) + "\n", encoding="utf-8")
    return path


def sentence_ends(store: TokenStore, document: int) -> NDArray[np.int64]:
    """Return the end of each sentence of a document, in tokens from the document's start, (sentences,)."""
    section, first, last, start = store.locate(document)
    return section.sentences[first:last].astype(np.int64) - start


SMALL_MODEL = {
    "size": "tiny",
    "config": {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 48},
}
# A test adds the paths of the stores.
PRETRAINING = {
    "experiment": "small",
    "task": "pretraining",
    "model": SMALL_MODEL,
    "data": {"max_seq_length": 40, "batch_size": 8, "num_workers": 0},
    "optimizer": {"learning_rate": 1e-3},
    "trainer": {
        "max_steps": 12,
        "val_check_interval": 5,
        "log_every_n_steps": 2,
        "accelerator": "cpu",
        "precision": "32",
    },
    "checkpoint": {"every_n_steps": 1, "keep_last": 20},
}
