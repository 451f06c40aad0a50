import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_lightning.data.loading.randomness import permute
from bert_lightning.data.pretraining.mixture import BLOCK, Mixture, block_counts
from bert_lightning.errors import InputError


class Numbered:
    """Samples that are their own epoch and index."""

    def __init__(self, name: str, num_samples: int) -> None:
        self.name, self.num_samples = name, num_samples

    def shuffle(self, key, epoch, positions):
        return permute(key, self.num_samples, positions)

    def samples(self, epoch, indices):
        return [(self.name, epoch, int(index)) for index in indices]


def drawn(mixture, stop: int, seed: int = 1, start: int = 0):
    return mixture.samples(*mixture.draw(seed, start, stop))


def test_each_source_has_its_share_in_every_block():
    mixture = Mixture([Numbered("a", 70), Numbered("b", 5000), Numbered("c", 9)], [0.25, 0.7, 0.05])
    samples = drawn(mixture, 3 * BLOCK)
    for block in range(3):
        names = [name for name, _, _ in samples[block * BLOCK : (block + 1) * BLOCK]]
        assert [names.count(name) for name in "abc"] == [250, 700, 50]


def test_each_source_is_read_epoch_by_epoch():
    mixture = Mixture([Numbered("a", 70), Numbered("b", 110)], [1, 1])
    samples = drawn(mixture, 4 * BLOCK)
    for name, size in (("a", 70), ("b", 110)):
        own = [(epoch, index) for source, epoch, index in samples if source == name]
        assert len(set(own)) == len(own)
        for epoch in range(2000 // size):
            assert sorted(index for e, index in own if e == epoch) == list(range(size))


def test_with_a_dupe_factor_each_source_repeats_its_first_epochs():
    samples = drawn(Mixture([Numbered("a", 70), Numbered("b", 110)], [1, 1], dupe_factor=3), 4 * BLOCK)
    for name, size in (("a", 70), ("b", 110)):
        times = Counter((epoch, index) for source, epoch, index in samples if source == name)
        assert sorted(times) == list(itertools.product(range(3), range(size)))
        assert set(times.values()) == {2000 // size // 3, 2000 // size // 3 + 1}


@given(start=st.integers(0, 5000), length=st.integers(1, 40))
def test_any_sample_is_reached_at_once(start, length):
    mixture = Mixture([Numbered("a", 70), Numbered("b", 110)], [1, 2])
    whole = WHOLE[start : start + length]
    assert drawn(mixture, start + length, start=start) == whole


WHOLE = drawn(Mixture([Numbered("a", 70), Numbered("b", 110)], [1, 2]), 5100)


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8))
def test_shares_are_rounded_by_less_than_a_thousandth(weights):
    exact = np.array(weights) / sum(weights) * BLOCK
    if exact.min() < 1:
        return
    counts = block_counts(weights)
    assert counts.sum() == BLOCK
    assert (abs(counts - exact) < 1).all()


@pytest.mark.parametrize("weights", [[1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, 1e-5]])
def test_impossible_weights_are_errors(weights):
    with pytest.raises(InputError, match=r"data\.train"):
        block_counts(weights)
