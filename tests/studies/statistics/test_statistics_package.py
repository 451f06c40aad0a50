"""The package of statistics: its imports, and what it raises without scipy."""

import subprocess
import sys

import pytest

from bert_lightning.errors import InputError
from bert_lightning.studies import statistics


def test_importing_the_package_and_a_mean_without_spread_need_no_scipy():
    code = (
        "import sys; from bert_lightning.studies.statistics import compare_seeds, holm;"
        "assert compare_seeds({1: 0.5}, {1: 0.4}).p is None; holm([0.1]);"
        "assert not any(name.split('.')[0] in ('scipy', 'torch') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "compute",
    [
        lambda: statistics.compare_seeds({1: 0.5, 2: 0.6}, {1: 0.4, 2: 0.55}),
        lambda: statistics.stopping_levels([5, 10]),
        lambda: statistics.probability_of_improvement([0.5, 0.6], [0.4, 0.55]),
        lambda: statistics.detectable_difference(5, 0.1),
        lambda: statistics.mcnemar([1, 0], [0, 0]),
    ],
)
def test_without_scipy_the_message_names_the_extra(compute, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(InputError, match=r"pip install 'bert_lightning\[studies\]'"):
        compute()


def test_every_public_name_can_be_imported():
    for name in statistics.__all__:
        assert getattr(statistics, name) is not None
