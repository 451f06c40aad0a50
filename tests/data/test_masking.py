"""One battery over every masking strategy in the table."""

import numpy as np
import pytest
from scipy import stats

from bert_lightning.data.masking import MASKINGS, TokenMasking, replace
from bert_lightning.data.randomness import derive_key, random_bits

B, S, MASK_ID, V = 400, 64, 4, 100
ORDINARY = np.arange(5, V)


@pytest.fixture(params=MASKINGS.values(), ids=MASKINGS)
def strategy(request):
    return request.param


def rows(seed: int = 0):
    """Ids with [CLS] (2) and [SEP] (3) in place, padded (0), of all lengths."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(5, S + 1, B)
    ids = generator.integers(5, V, (B, S))
    position = np.arange(S)[None, :]
    ids[:, 0] = 2
    ids[np.arange(B), lengths // 2] = ids[np.arange(B), lengths - 1] = 3
    ids[position >= lengths[:, None]] = 0
    candidates = (ids > 4) & (position < lengths[:, None])
    return ids, candidates, lengths, random_bits(derive_key(seed), np.arange(B))


def test_masking_never_selects_special_tokens_or_padding(strategy):
    _, candidates, lengths, keys = rows()
    assert not (strategy(rate=0.9).select(candidates, lengths, keys) & ~candidates).any()


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_masking_holds_its_rate(strategy, rate):
    _, candidates, lengths, keys = rows()
    chosen = strategy(rate=rate).select(candidates, lengths, keys)
    assert chosen.sum() / lengths.sum() == pytest.approx(rate, abs=0.01)
    assert (chosen.sum(axis=1) >= 1).all()


def test_masking_repeats_under_a_key_and_differs_under_another(strategy):
    _, candidates, lengths, keys = rows()
    first = strategy().select(candidates, lengths, keys)
    assert (strategy().select(candidates, lengths, keys) == first).all()
    assert (strategy().select(candidates, lengths, keys + np.uint64(1)) != first).any(axis=1).mean() > 0.9


def test_masking_of_a_row_does_not_depend_on_its_neighbours(strategy):
    _, candidates, lengths, keys = rows()
    whole = strategy().select(candidates, lengths, keys)
    part = strategy().select(candidates[7:9], lengths[7:9], keys[7:9])
    assert (whole[7:9] == part).all()


def test_replacements_stay_inside_the_ordinary_vocabulary_and_only_where_chosen(strategy):
    ids, candidates, lengths, keys = rows()
    chosen = strategy().select(candidates, lengths, keys)
    masked = replace(ids, chosen, strategy(mask_share=0.0, random_share=1.0), MASK_ID, ORDINARY, ~keys)
    assert (masked[~chosen] == ids[~chosen]).all()
    assert np.isin(masked[chosen], ORDINARY).all()


@pytest.mark.parametrize(("mask_share", "random_share"), [(1.0, 0.0), (0.0, 0.0)])
def test_shares_of_one_give_the_hand_written_output(strategy, mask_share, random_share):
    ids, candidates, lengths, keys = rows()
    masking = strategy(mask_share=mask_share, random_share=random_share)
    chosen = masking.select(candidates, lengths, keys)
    expected = np.where(chosen, MASK_ID, ids) if mask_share else ids
    assert (replace(ids, chosen, masking, MASK_ID, ORDINARY, ~keys) == expected).all()


def test_eighty_ten_ten_passes_a_chi_squared_test(strategy):
    counts = np.zeros(3)
    for seed in range(10):
        ids, candidates, lengths, keys = rows(seed)
        chosen = strategy().select(candidates, lengths, keys)
        after = replace(ids, chosen, strategy(), MASK_ID, ORDINARY, ~keys)[chosen]
        before = ids[chosen]
        counts += [(after == MASK_ID).sum(), ((after != MASK_ID) & (after != before)).sum(), (after == before).sum()]
    # A random token is the original one in one of so many draws.
    same = 0.1 / len(ORDINARY)
    expected = counts.sum() * np.array([0.8, 0.1 - same, 0.1 + same])
    assert stats.chisquare(counts, expected).pvalue > 1e-4


def test_token_masking_chooses_as_many_as_the_original():
    # round(0.15 * length), half to even, at least one: create_pretraining_data.py.
    lengths = np.arange(5, 65)
    candidates = np.arange(64)[None, :] < (lengths - 3)[:, None]
    keys = random_bits(1, np.arange(len(lengths)))
    chosen = TokenMasking().select(candidates, lengths, keys)
    assert chosen.sum(axis=1).tolist() == [max(1, round(0.15 * n)) for n in lengths.tolist()]


@pytest.mark.parametrize("values", [{"rate": 0.0}, {"rate": 1.0}, {"mask_share": 0.9, "random_share": 0.2}])
def test_impossible_shares_are_errors(strategy, values):
    with pytest.raises(ValueError, match="must be"):
        strategy(**values)
