"""Messages about keys of a choice that another choice has."""

import pytest

from bert_lightning import load_experiment
from bert_lightning.errors import InputError

VALUES = {"experiment": "a", "task": "text-classification", "model": {"size": "tiny"}, "trainer": {"max_steps": 1}}


@pytest.mark.parametrize(
    ("key", "end"),
    [
        ("tuning.rank", "it is a key of tuning.name lora or dora"),
        ("adversarial.epsilon", "it is a key of adversarial.name fgm, pgd, freelb or smart"),
        ("tuning.nam", "known: name"),
    ],
)
def test_an_unknown_key_of_a_choice_names_the_choice_that_has_it(key, end):
    with pytest.raises(InputError, match=f"unknown key '{key}'.*{end}$"):
        load_experiment(VALUES, {key: 1})


def test_one_allowed_module_may_be_given_as_text():
    with pytest.raises(InputError, match="no_such_module cannot be imported"):
        load_experiment(VALUES | {"modules": ["no_such_module"]}, allow_modules="no_such_module")
