"""The space of a search: ranges and choices over any keys, with the types that the keys have."""

from collections.abc import Mapping
from typing import Any, NoReturn

import optuna
import pytest

from bert_lightning.config.experiment import load_experiment
from bert_lightning.errors import InputError
from bert_lightning.studies.search.space import Space, read_space

EXPERIMENT = {
    "experiment": "try",
    "task": "pretraining",
    "model": {"size": "tiny"},
    "data": {"train": "store"},
    "trainer": {"max_steps": 10},
}


def load(values: Mapping[str, object]) -> Mapping[str, Any]:
    return load_experiment(EXPERIMENT, values).to_dict()


def fail(message: str, *place: str | int) -> NoReturn:
    raise InputError(message)


def read(section: dict[str, object]) -> Space:
    return read_space(section, load, fail)


def drawn(space: Space, num: int = 200) -> list[dict[str, Any]]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [space.suggest(study.ask()) for _ in range(num)]


def test_numbers_have_the_type_of_their_key_and_stay_within_their_bounds():
    space = read(
        {
            "optimizer.learning_rate": {"low": 1e-5, "high": 1, "log": True},
            "data.batch_size": {"low": 8, "high": 64, "step": 8},
            "trainer.gradient_clip_val": {"low": 1, "high": 3},
        }
    )
    values = drawn(space)
    assert {type(each["trainer.gradient_clip_val"]) for each in values} == {float}
    assert {type(each["data.batch_size"]) for each in values} == {int}
    assert {each["data.batch_size"] for each in values} == set(range(8, 65, 8))
    rates = [each["optimizer.learning_rate"] for each in values]
    assert all(1e-5 <= rate <= 1 for rate in rates)
    # Uniform in the logarithm: two of five decades are below.
    assert 60 < sum(rate < 1e-3 for rate in rates) < 100
    assert all(load(each) for each in values[:20])


def test_choices_set_one_key_or_several_in_pairs():
    space = read(
        {
            "model.config.pre_layer_norm": [True, False],
            "tuning": {"choices": [{"name": "full"}, {"name": "lora", "rank": 4}]},
            "recipe": [
                {"optimizer.name": "adamw", "optimizer.learning_rate": 1e-4},
                {"optimizer.name": "muon", "optimizer.learning_rate": 1e-2},
            ],
        }
    )
    assert space.keys == ["model.config.pre_layer_norm", "tuning", "optimizer.name", "optimizer.learning_rate"]
    assert {(each["optimizer.name"], each["optimizer.learning_rate"]) for each in drawn(space)} == {
        ("adamw", 1e-4),
        ("muon", 1e-2),
    }
    assert {each["model.config.pre_layer_norm"] for each in drawn(space)} == {True, False}
    assert {load(each)["tuning"]["name"] for each in drawn(space, 20)} == {"full", "lora"}


def test_a_range_inside_a_choice_is_drawn_with_that_choice_only():
    space = read(
        {
            "optimizer": [
                {"optimizer.name": "adamw", "optimizer.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}},
                {"optimizer.name": "muon", "optimizer.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}},
                {"optimizer.name": "sgd"},
            ]
        }
    )
    for each in drawn(space):
        rate = each.get("optimizer.learning_rate")
        assert {"adamw": rate and rate <= 1e-3, "muon": rate and rate >= 1e-3, "sgd": rate is None}[
            each["optimizer.name"]
        ]


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"optimizer.lr": {"low": 1, "high": 2}}, "unknown key 'optimizer.lr'"),
        ({"data.batch_size": {"low": 0.5, "high": 2}}, "data.batch_size: expected int"),
        ({"data.batch_size": {"low": 8, "high": 20, "step": 8}}, "make it 16"),
        ({"data.batch_size": {"low": 8, "high": 20, "step": 0.5}}, "whole numbers"),
        ({"seed_everything": {"low": 1, "high": 9}}, "cannot search seed_everything"),
        ({"model.size": {"low": 1, "high": 9}}, "does not fit"),
        ({"optimizer.learning_rate": {"low": 1}}, "has no high"),
        ({"optimizer.learning_rate": {"low": 2, "high": 1}}, "low must be less"),
        ({"optimizer.learning_rate": {"low": 1, "high": 1}}, "low must be less"),
        ({"optimizer.learning_rate": {"low": 0, "high": 1, "log": True}}, "more than 0"),
        ({"optimizer.learning_rate": {"low": 1, "high": 9, "log": True, "step": 1}}, "only one of them is allowed"),
        ({"optimizer.learning_rate": {"lo": 1, "high": 9}}, "did you mean 'low'?"),
        ({"optimizer.learning_rate": {"low": float("nan"), "high": 9}}, "finite"),
        ({"optimizer.learning_rate": {"low": True, "high": 9}}, "needs low as a number"),
        ({"optimizer.learning_rate": {"low": 1e-5, "high": 1e-3, "choices": [1]}}, "so it cannot have low too"),
        ({"optimizer.learning_rate": 5}, "needs low and high, or choices"),
        ({"optimizer.name": ["adamw"]}, "at least two choices"),
        ({"optimizer.name": ["adamw", "adamw"]}, "twice"),
        ({"optimizer.name": ["adamw", "adamwx"]}, "did you mean 'adamw'?"),
        ({"a": [{"optimizer.name": "adamw"}, "x"]}, "mixes choices"),
        ({"a": [{"optimizer.learning_rate": {"low": 1, "high": 2}}, {"optimizer.name": "sgd"}]}, "only has ranges"),
        ({"optimizer.name": ["adamw", "sgd"], "b": [{"optimizer.name": "lamb"}, {"optimizer.name": "muon"}]}, "two"),
    ],
)
def test_an_entry_that_cannot_be_searched_is_refused_with_its_name(section, words):
    with pytest.raises(InputError, match=r"search\.space") as error:
        read(section)
    assert words in str(error.value)
    assert list(section)[-1] in str(error.value)
