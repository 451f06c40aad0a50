"""Every masking in the table, and the properties of each."""

import numpy as np
import pytest
from scipy import stats

from bert_lightning.data.loading.randomness import derive_key, random_bits
from bert_lightning.data.pretraining.masking import (
    MASKINGS,
    NgramMasking,
    Sequences,
    SpanMasking,
    TokenMasking,
    WholeWordMasking,
    apply_masks,
    word_starts,
)

B, S, MASK_ID, V = 400, 64, 4, 100
ORDINARY = np.arange(5, V)
# Entries that continue a word, like those with `##`.
CONTINUES = np.arange(V) >= 75
CLS, SEP, PAD = 2, 3, 0


@pytest.fixture(params=MASKINGS.values(), ids=MASKINGS)
def strategy(request):
    return request.param


def micro_batch(seed: int = 0, num_sequences: int = B):
    """Padded ids of all lengths with [CLS] and two [SEP], and the properties that a masking may use."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(5, S + 1, num_sequences)
    ids = generator.integers(5, V, (num_sequences, S))
    position = np.arange(S)[None, :]
    ids[:, 0] = CLS
    ids[np.arange(num_sequences), lengths // 2] = ids[np.arange(num_sequences), lengths - 1] = SEP
    ids[position >= lengths[:, None]] = PAD
    candidates = (ids > 4) & (position < lengths[:, None])
    keys = random_bits(derive_key(seed), np.arange(num_sequences))
    return ids, Sequences(candidates, word_starts(candidates, CONTINUES[ids]), lengths, keys)


def slice_of(sequences: Sequences, at) -> Sequences:
    return Sequences(*(array[at] for array in sequences))


def words_of(candidates, starts):
    """Return the words of one sequence as lists of positions, found by walking over it."""
    words: list[list[int]] = []
    for position in range(len(candidates)):
        if starts[position]:
            words.append([position])
        elif candidates[position]:
            words[-1].append(position)
    return words


def test_masking_never_selects_special_tokens_or_padding(strategy):
    _, sequences = micro_batch()
    assert not (strategy(rate=0.9).select(sequences).positions & ~sequences.candidates).any()


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_masking_holds_its_rate(strategy, rate):
    _, sequences = micro_batch()
    selection = strategy(rate=rate).select(sequences).positions
    assert selection.sum() / sequences.lengths.sum() == pytest.approx(rate, abs=0.02)
    assert (selection.sum(axis=1) <= np.maximum(1, np.rint(rate * sequences.lengths))).all()


def test_masking_repeats_under_a_key_and_differs_under_another(strategy):
    _, sequences = micro_batch()
    first = strategy().select(sequences).positions
    assert (strategy().select(sequences).positions == first).all()
    other = sequences._replace(keys=sequences.keys + np.uint64(1))
    assert (strategy().select(other).positions != first).any(axis=1).mean() > 0.9


def test_masking_of_a_sequence_does_not_depend_on_its_neighbours(strategy):
    _, sequences = micro_batch()
    whole = strategy().select(sequences)
    neighbours = strategy().select(slice_of(sequences, slice(7, 9)))
    assert (whole.positions[7:9] == neighbours.positions).all()
    assert (whole.units[7:9][neighbours.positions] == neighbours.units[neighbours.positions]).all()


def test_neither_a_fixed_number_nor_a_cap_is_exceeded(strategy):
    _, sequences = micro_batch()
    fixed = strategy(num_predictions=3).select(sequences).positions.sum(axis=1)
    assert fixed.max() == 3
    assert (fixed == np.minimum(3, sequences.candidates.sum(axis=1))).mean() > 0.9
    assert strategy(rate=0.5, max_predictions=4).select(sequences).positions.sum(axis=1).max() == 4


def test_the_rate_moves_from_first_to_last_over_training(strategy):
    _, sequences = micro_batch()
    shares = [
        strategy(rate=0.4, final_rate=0.1).select(sequences, progress).positions.sum() / sequences.lengths.sum()
        for progress in (0.0, 0.5, 1.0)
    ]
    assert shares == pytest.approx([0.4, 0.25, 0.1], abs=0.02)


def test_replacements_are_at_chosen_positions_and_from_the_given_entries(strategy):
    ids, sequences = micro_batch()
    selection = strategy().select(sequences)
    masked = apply_masks(
        ids, selection, strategy(mask_share=0.0, random_share=1.0), MASK_ID, ORDINARY, ~sequences.keys
    )
    assert (masked[~selection.positions] == ids[~selection.positions]).all()
    assert np.isin(masked[selection.positions], ORDINARY).all()


@pytest.mark.parametrize(("mask_share", "random_share"), [(1.0, 0.0), (0.0, 0.0)])
def test_shares_of_one_give_the_hand_written_output(strategy, mask_share, random_share):
    ids, sequences = micro_batch()
    masking = strategy(mask_share=mask_share, random_share=random_share)
    selection = masking.select(sequences)
    expected = np.where(selection.positions, MASK_ID, ids) if mask_share else ids
    assert (apply_masks(ids, selection, masking, MASK_ID, ORDINARY, ~sequences.keys) == expected).all()


def replaced(strategy, num_seeds: int = 10):
    """Return one token of every unit before and after masking."""
    pairs = []
    for seed in range(num_seeds):
        ids, sequences = micro_batch(seed)
        selection = strategy().select(sequences)
        after = apply_masks(ids, selection, strategy(), MASK_ID, ORDINARY, ~sequences.keys)
        sequence, position = np.nonzero(selection.positions)
        _, first = np.unique(sequence * 1000 + selection.units[sequence, position], return_index=True)
        pairs.append(np.stack([ids[sequence, position][first], after[sequence, position][first]]))
    return np.concatenate(pairs, axis=1)


def test_eighty_ten_ten_passes_a_chi_squared_test(strategy):
    before, after = replaced(strategy)
    counts = [(after == MASK_ID).sum(), ((after != MASK_ID) & (after != before)).sum(), (after == before).sum()]
    # One random token of that many is the original one.
    same = 0.1 / len(ORDINARY)
    expected = np.sum(counts) * np.array([0.8, 0.1 - same, 0.1 + same])
    assert stats.chisquare(counts, expected).pvalue > 1e-4


def test_random_tokens_are_spread_evenly_over_the_vocabulary(strategy):
    before, after = replaced(strategy, 40)
    drawn = after[(after != MASK_ID) & (after != before)]
    counts = np.bincount(drawn, minlength=V)[ORDINARY]
    # A random token equal to the original looks like a kept one, so each entry is counted a little less often.
    assert stats.chisquare(counts).pvalue > 1e-4


def test_every_candidate_is_chosen_equally_often_in_the_long_run():
    # Single tokens and whole words of equal length: no position is favoured.
    candidates = np.zeros((4000, 20), dtype=bool)
    candidates[:, 1:-1] = True
    lengths = np.full(4000, 20)
    for strategy in (TokenMasking, WholeWordMasking):
        keys = random_bits(derive_key(strategy.__name__), np.arange(4000))
        selection = strategy().select(Sequences(candidates, candidates, lengths, keys)).positions
        assert stats.chisquare(selection.sum(axis=0)[1:-1]).pvalue > 1e-4


def test_token_masking_chooses_as_many_as_the_original():
    # round(0.15 * length), half to even, at least one: create_pretraining_data.py.
    lengths = np.arange(5, 65)
    candidates = np.arange(64)[None, :] < (lengths - 3)[:, None]
    keys = random_bits(1, np.arange(len(lengths)))
    selection = TokenMasking().select(Sequences(candidates, candidates, lengths, keys)).positions
    assert selection.sum(axis=1).tolist() == [max(1, round(0.15 * n)) for n in lengths.tolist()]


@pytest.mark.parametrize("masking", [WholeWordMasking(), SpanMasking(), NgramMasking()], ids=repr)
def test_words_are_never_split_and_never_reach_over_a_separator(masking):
    ids, sequences = micro_batch()
    selection = masking.select(sequences).positions
    for sequence in range(B):
        for word in words_of(sequences.candidates[sequence], sequences.starts[sequence]):
            assert len(set(selection[sequence, word])) == 1
            assert not np.isin(ids[sequence, word[0] : word[-1] + 1], (CLS, SEP, PAD)).any()


def test_whole_words_are_chosen_while_one_fits():
    _, sequences = micro_batch()
    masking = WholeWordMasking()
    selection = masking.select(sequences).positions
    expected = masking.num_to_select(sequences, 0.0)
    for sequence in range(B):
        left = expected[sequence] - selection[sequence].sum()
        words = words_of(sequences.candidates[sequence], sequences.starts[sequence])
        assert all(len(word) > left for word in words if not selection[sequence, word[0]])


def spans_of(masking, num_sequences: int):
    """The selection in long sequences of words of one token."""
    candidates = np.zeros((num_sequences, 400), dtype=bool)
    candidates[:, 1:-1] = True
    keys = random_bits(derive_key("spans"), np.arange(num_sequences))
    return masking.select(Sequences(candidates, candidates, np.full(num_sequences, 400), keys))


def test_a_span_is_replaced_as_one_and_an_n_gram_token_by_token():
    for masking, alike in ((SpanMasking(rate=0.3), True), (NgramMasking(rate=0.3), False)):
        selection = spans_of(masking, 200)
        ids = np.full(selection.positions.shape, 50)
        keys = random_bits(7, np.arange(200))
        masked = apply_masks(ids, selection, masking, MASK_ID, ORDINARY, keys) == MASK_ID
        both = selection.positions[:, 1:] & selection.positions[:, :-1]
        if alike:
            both &= selection.units[:, 1:] == selection.units[:, :-1]
        neighbours = (masked[:, 1:] == masked[:, :-1])[both]
        assert neighbours.all() == alike


@pytest.mark.parametrize(
    ("masking", "mean"),
    # SpanBERT reports 3.8 for p = 0.2 clipped at 10; ALBERT's 1/n up to 3 has (1 + 1 + 1) / (1 + 1/2 + 1/3).
    [(SpanMasking(), 3.8), (NgramMasking(), 18 / 11)],
    ids=["span", "n-gram"],
)
def test_spans_are_drawn_with_the_published_mean_length(masking, mean):
    probabilities = masking.span_probabilities()
    assert probabilities @ np.arange(1, len(probabilities) + 1) == pytest.approx(mean, abs=0.02)
    assert probabilities.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "values",
    [
        {"rate": 0.0},
        {"rate": 1.0},
        {"final_rate": 1.0},
        {"mask_share": 0.9, "random_share": 0.2},
        {"num_predictions": 0},
    ],
)
def test_impossible_values_are_errors(strategy, values):
    with pytest.raises(ValueError, match="must be"):
        strategy(**values)
