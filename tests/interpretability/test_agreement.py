"""Agreement of the values of two methods, and the script that measures it over a data set."""

import json

import agreement as script
import numpy as np
import pytest
from scipy import stats

from bert_lightning.errors import InputError
from bert_lightning.interpretability import agreement


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(size=(2, 30))


def test_correlations_are_those_of_scipy_over_the_words_that_both_methods_read(values):
    ours, baseline = (np.insert(each, [0, 7], np.nan) for each in values)
    found = agreement(ours, baseline)
    assert found.signed == pytest.approx(stats.spearmanr(*values).statistic)
    assert found.size == pytest.approx(stats.spearmanr(*abs(values)).statistic)


def test_a_method_agrees_with_itself_and_its_negative_only_in_size(values):
    same, opposite = agreement(values[0], values[0]), agreement(-values[0], values[0])
    assert (same.signed, same.size, same.overlap) == pytest.approx((1, 1, 1))
    assert (opposite.signed, opposite.size, opposite.overlap) == pytest.approx((-1, 1, 1))


def test_random_orders_share_what_chance_says():
    generator = np.random.default_rng(1)
    found = [agreement(*generator.normal(size=(2, 20))) for _ in range(400)]
    assert found[0].chance == 0.25
    assert np.mean([each.overlap for each in found]) == pytest.approx(0.25, abs=0.02)
    assert np.mean([each.signed for each in found]) == pytest.approx(0, abs=0.03)


def test_the_top_is_at_most_half_of_the_words_and_three_words_say_nothing():
    found = agreement([4, 3, 2, 1, 0], [0, 1, 2, 3, 4], top=5)
    assert (found.overlap, found.chance) == (0, 0.4)
    assert agreement([1, 2, 3, np.nan], [1, 2, 3, np.nan]) is None


def test_equal_values_have_no_correlation():
    assert np.isnan(agreement([1, 1, 1, 1], [1, 2, 3, 4]).signed)


def test_values_of_different_words_are_refused(values):
    with pytest.raises(InputError, match="different words"):
        agreement(values[0], values[1][:-1])
    with pytest.raises(InputError, match="different words"):
        agreement([1, np.nan, 2, 3, 4], [1, 2, 3, 4, np.nan])
    with pytest.raises(InputError, match="must be at least 1"):
        agreement(*values, top=0)


@pytest.mark.slow
def test_the_script_compares_every_method_with_occlusion_on_a_run(classifier, tables, tmp_path, capsys):
    output = tmp_path / "agreement.json"
    options = ["--checkpoint", str(classifier), "--input", str(tables["test"]), "--examples", "6"]
    script.main([*options, "--output", str(output)])
    lines = capsys.readouterr().out.splitlines()
    assert [line[:22].strip() for line in lines[1:]] == [*script.COMPARED, "random"]
    numbers = json.loads(output.read_text())
    assert {len(each) for each in numbers.values()} == {6}
    mean = np.mean([each["overlap"] for each in numbers["rollout"]])
    assert f"{mean:.3f} [" in next(line for line in lines if line.startswith("rollout"))
    # The same words are hidden by another token, so this row agrees best.
    best = max(numbers, key=lambda name: np.mean([each["size"] for each in numbers[name]]))
    assert best in (script.BY_PAD, "integrated-gradients")
