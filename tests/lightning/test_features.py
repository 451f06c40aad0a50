"""Every feature of the table in docs/lightning.md does what the table says."""

import re
from pathlib import Path

import pytest

from bert_lightning.errors import InputError
from tests.support.lightning_features import FEATURES, unmarked

PAGE = Path(__file__).parents[2] / "docs/lightning.md"


def listed(*, every_task):
    return [
        pytest.param(each, marks=[pytest.mark.slow] if each.slow else [], id=unmarked(each.name)[:60])
        for each in FEATURES
        if each.every_task == every_task
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("feature", listed(every_task=False))
def test_a_feature_works_or_is_refused_in_one_sentence_that_names_the_setting(feature, plain):
    if feature.use is None:
        feature.test(plain)
        return
    with pytest.raises(InputError, match=re.escape(unmarked(feature.use))) as refusal:
        feature.test(plain)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 320


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("feature", listed(every_task=True))
def test_a_feature_works_with_every_task(feature, any_task):
    feature.test(any_task)


def test_the_page_lists_the_same_features():
    rows = re.findall(r"^\| (.+?) \| (works|refused: (.+?)) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    listed = [(name, use or None) for name, _, use in rows]
    assert listed == [(feature.name, feature.use) for feature in FEATURES]
