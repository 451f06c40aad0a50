import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bert_lightning.data.loading.randomness import derive_key, permute, random_bits, uniforms


@given(key=st.integers(0, 2**64 - 1), length=st.integers(1, 400))
def test_permute_is_a_permutation_for_any_length(key: int, length: int):
    assert sorted(permute(key, length, np.arange(length))) == list(range(length))


@given(key=st.integers(0, 2**64 - 1), length=st.integers(1, 2**40), data=st.data())
def test_any_element_of_a_huge_permutation_is_reached_alone(key: int, length: int, data):
    position = data.draw(st.integers(0, length - 1))
    alone = permute(key, length, np.array([position]))[0]
    among = permute(key, length, np.array([position // 2, position, 0]))[1]
    assert alone == among
    assert 0 <= alone < length


def test_permutations_under_different_keys_differ():
    orders = {tuple(permute(derive_key(seed), 20, np.arange(20))) for seed in range(50)}
    assert len(orders) == 50


def test_bits_equal_splitmix64():
    # Reference output of SplitMix64 seeded with 1234567, as published with the xoshiro generators.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert random_bits(1234567, np.arange(4)).tolist() == expected


@pytest.mark.parametrize("stride", [1, 2, 1 << 20])
def test_uniforms_are_uniform_along_any_stride(stride: int):
    sample = uniforms(derive_key("test"), np.arange(20_000) * stride)
    assert stats.kstest(sample, "uniform").pvalue > 1e-4


def test_permutations_send_the_first_element_to_uniform_positions():
    positions = [permute(derive_key(seed), 10, np.array([0]))[0] for seed in range(3000)]
    assert stats.chisquare(np.bincount(positions, minlength=10)).pvalue > 1e-4
