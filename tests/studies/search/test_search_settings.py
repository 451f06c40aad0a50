"""The section `search` of a study file."""

from pathlib import Path

import pytest
import yaml

from bert_lightning.errors import InputError
from bert_lightning.studies.search.settings import (
    Hyperband,
    NoPruner,
    SearchSettings,
    Tpe,
    Wilcoxon,
    read_search,
)
from bert_lightning.studies.study_file import read_study

SECTION = {
    "trials": 20,
    "metric": "val/accuracy",
    "space": {"optimizer.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}},
}


def read(tmp_path: Path, compare: dict | None = None, **section) -> SearchSettings:
    (tmp_path / "base.yaml").write_text("experiment: try\n")
    values = {"study": "try", "base": "base.yaml", "compare": compare, "search": {**SECTION, **section}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return read_search(read_study(tmp_path / "study.yaml"))


def test_a_search_needs_little_and_says_the_rest_by_itself(tmp_path):
    settings = read(tmp_path)
    assert (settings.direction, settings.sampler, settings.pruner) == ("maximize", Tpe(), NoPruner())
    assert settings.trial_seeds == [1]
    assert settings.fresh_seeds == [2, 3, 4]
    assert read(tmp_path, metric="val/mlm_loss").direction == "minimize"
    assert read(tmp_path, metric="val/mlm_loss", direction="maximize").direction == "maximize"
    assert read(tmp_path, {"metric": ["val/f1", "val/loss"]}, metric=None).metric == "val/f1"


def test_fresh_seeds_are_none_of_the_trials(tmp_path):
    settings = read(tmp_path, seeds=[7, 3], confirm_seeds=2)
    assert settings.trial_seeds == [7, 3]
    assert settings.fresh_seeds == [8, 9]
    assert read(tmp_path, confirm_seeds=0).fresh_seeds == []
    with pytest.raises(InputError, match=r"3 is in search\.seeds"):
        read(tmp_path, seeds=3, confirm_seeds=[4, 3])


def test_samplers_and_pruners_have_a_name_or_keys_of_their_own(tmp_path):
    settings = read(tmp_path, sampler={"name": "tpe", "startup_trials": 4}, pruner="hyperband")
    assert settings.sampler == Tpe(startup_trials=4)
    assert settings.pruner == Hyperband()


@pytest.mark.parametrize(
    ("section", "line", "words"),
    [
        ({"trials": 0}, 5, "search.trials is 0"),
        ({"trials": "many"}, 5, "search.trials: expected int"),
        ({"metric": "test/accuracy"}, 6, "leaves no test data for the report"),
        ({"timeout": 5}, 12, "did you mean 'search.timeout_seconds'?"),
        ({"sampler": "cma-es"}, 12, "keeps a state"),
        ({"sampler": "tpee"}, 12, "did you mean 'tpe'?"),
        ({"pruner": {"name": "median", "warmup": 3}}, 14, "search.pruner.warmup_steps"),
        ({"seeds": [1, 1]}, 12, "1 is there twice"),
        ({"seeds": 0}, 12, "at least 1"),
        ({"direction": "up"}, 12, "one of minimize, maximize"),
        ({"space": {}}, 7, "search.space is empty"),
        ({"at_once": 0}, 12, "search.at_once is 0"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line(tmp_path, section, line, words):
    with pytest.raises(InputError, match=rf"study.yaml: line {line}: ") as error:
        read(tmp_path, **section)
    assert words in str(error.value)


def test_a_study_without_a_search_is_refused(tmp_path):
    (tmp_path / "base.yaml").write_text("experiment: try\n")
    (tmp_path / "study.yaml").write_text("study: try\nbase: base.yaml\n")
    with pytest.raises(InputError, match="no section search"):
        read_search(read_study(tmp_path / "study.yaml"))


def test_a_pruner_over_seeds_needs_enough_of_them_to_stop_any_trial(tmp_path):
    # The least one-sided p of exact signed ranks over n pairs is 2^-n.
    from scipy.stats import wilcoxon

    for p in (0.25, 0.1, 0.05, 0.01):
        least = Wilcoxon(p=p).least_seeds
        assert wilcoxon([-1.0 - n for n in range(least)], alternative="less").pvalue < p
        assert least == 2 or wilcoxon([-1.0 - n for n in range(least - 1)], alternative="less").pvalue >= p
    assert read(tmp_path, pruner="wilcoxon", seeds=5).pruner == Wilcoxon()
    with pytest.raises(InputError, match=r"cannot stop a trial of 4 seeds at p 0\.1: it needs 5"):
        read(tmp_path, pruner="wilcoxon", seeds=4)
    with pytest.raises(InputError, match="paired-t cannot stop a trial of 2 seeds"):
        read(tmp_path, pruner="paired-t", seeds=2)
