"""Explanations with made-up numbers, of any length."""

import random

import numpy as np

from bert_lightning.runs.explanation import ExplainedWord, Explanation, WeightMap
from tests.support.small_corpus import ADJECTIVES, NOUNS, VERBS


def fake_explanation(method, num_words=40, seed=0, layers=2, heads=2, target="positive", location="item 1"):
    """Explain a text of so many words; attention and rollout have a map with [CLS] and [SEP]."""
    generator, numbers = random.Random(seed), np.random.default_rng(seed)
    texts = [generator.choice((*ADJECTIVES, *NOUNS, *VERBS)) for _ in range(num_words)]
    weights = numbers.gamma(0.1, size=(layers, 1 if method == "rollout" else heads, num_words + 2, num_words + 2))
    weights = (weights / weights.sum(-1, keepdims=True)).astype(np.float32)
    has_maps = method in ("attention", "rollout")
    values = weights[:, :, 0].mean((0, 1))[1:-1] if has_maps else numbers.normal(size=num_words)
    words, start = [], 0
    for text, value in zip(texts, values.tolist(), strict=True):
        words.append(ExplainedWord(text, 0, start, start + len(text), value))
        start += len(text) + 1
    readout = np.zeros(num_words + 2)
    readout[0] = 1
    of_words = WeightMap([-1, *range(num_words), -1], ["[CLS]", *texts, "[SEP]"], weights, readout)
    return Explanation(
        location, method, target, "positive", 2.5, [("text", " ".join(texts))], words, 0.25,
        *((0.5, 1e-5, 64) if method == "integrated-gradients" else ()), maps=(of_words,) if has_maps else (),
    )  # fmt: skip
