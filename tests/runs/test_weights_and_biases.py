"""The mode of W&B, and where a run stands among others there, from settings and environment."""

import pytest
import wandb

from bert_lightning.config.sections import WandbSettings
from bert_lightning.errors import InputError
from bert_lightning.runs.wandb_tables import Table
from bert_lightning.runs.weights_and_biases import Membership, chosen_mode


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "")
    assert chosen_mode(WandbSettings(mode="offline")) == "offline"


@pytest.mark.parametrize(("value", "mode"), [("offline", "offline"), ("dryrun", "offline"), ("disabled", "disabled")])
def test_the_variable_overrides_the_settings(monkeypatch, value, mode):
    monkeypatch.setenv("WANDB_MODE", value)
    assert chosen_mode(WandbSettings(mode="online")) == mode


def test_an_unknown_value_of_the_variable_is_refused_by_its_name(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "bogus")
    with pytest.raises(InputError, match=r"WANDB_MODE is 'bogus'; it must be online, offline or disabled"):
        chosen_mode(WandbSettings(mode="offline"))


VARIABLES = ("WANDB_RUN_GROUP", "WANDB_JOB_TYPE", "WANDB_TAGS")


@pytest.fixture
def variables(monkeypatch):
    def given(*values):
        for name, value in zip(VARIABLES, values, strict=True):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)

    given(None, None, None)
    return given


def test_without_a_study_experiment_task_and_tags_of_the_settings_count(variables):
    assert Membership.of("rte", "text-classification", ["a"]) == Membership("rte", "text-classification", ("a",))


def test_the_environment_wins_over_the_record_and_the_record_over_the_settings(variables):
    recorded = {"group": "nsp", "job_type": "rte", "tags": ["seed=1"]}
    assert Membership.of("e", "t", ["a"], recorded) == Membership("nsp", "rte", ("seed=1",))
    variables("other", "stage", "x=1, y=2,,x=1")
    assert Membership.of("e", "t", ["a"], recorded) == Membership("other", "stage", ("x=1", "y=2"))


def test_an_empty_variable_of_the_study_counts_as_unset(variables):
    variables("", "", " , ")
    assert Membership.of("e", "t", ["a"]) == Membership("e", "t", ("a",))


def test_what_is_too_long_for_w_and_b_is_cut_and_not_refused_after_the_data_is_read(variables):
    variables("g" * 200, "j" * 200, "t" * 200)
    found = Membership.of("e", "t", [])
    assert (len(found.group), len(found.job_type), [len(tag) for tag in found.tags]) == (128, 128, [64])


@pytest.mark.parametrize(
    ("rows", "is_mixed"),
    [
        ([{"a": 1, "b": "x"}, {"a": 0.5, "b": None}, {"b": "y"}], False),
        ([{"a": 1}, {"a": "x"}], True),
        ([{"a": 1}, {"a": True}], True),
    ],
)
def test_a_table_with_columns_of_one_type_each_keeps_them(rows, is_mixed):
    table = Table.of(rows)
    assert table.is_mixed is is_mixed
    # W&B itself refuses a column of several types.
    make = wandb.Table
    if is_mixed:
        with pytest.raises(TypeError):
            make(columns=table.columns, data=table.rows, allow_mixed_types=False)
    else:
        make(columns=table.columns, data=table.rows, allow_mixed_types=False)


def test_a_list_in_a_prediction_becomes_json_and_a_missing_value_stays_empty():
    table = Table.of([{"tags": ["B", "O"]}, {"score": {"ä": 1}}])
    assert table == (["tags", "score"], [['["B", "O"]', None], [None, '{"ä": 1}']])
