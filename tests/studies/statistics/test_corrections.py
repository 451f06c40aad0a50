"""Holm's correction, compared with statsmodels and published examples."""

from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from bert_lightning.errors import InputError
from bert_lightning.studies.statistics import holm


def test_holm_gives_demsars_published_values():
    assert holm([0.016, 0.019, 0.607]) == pytest.approx([0.048, 0.048, 0.607])
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_that_of_statsmodels(p_values):
    # Each call collects garbage, which takes a quarter of a second.
    with mock.patch("gc.collect"):
        assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


def test_comparisons_without_a_test_stay_without_one_and_do_not_count():
    assert holm([0.03, None, 0.01]) == [0.03, None, 0.02]
    assert holm([None]) == [None]
    assert holm([]) == []


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_a_p_value_that_is_none_is_refused(p):
    with pytest.raises(InputError, match="between 0 and 1"):
        holm([0.5, p])
