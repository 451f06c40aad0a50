"""Arms are the product of named arms and axes down the chain of stages, and their names are short and unique."""

import itertools
from pathlib import Path

import pytest

from bert_lightning.errors import InputError
from bert_lightning.studies.arms import arms_of, num_arms
from bert_lightning.studies.study_file import read_study
from tests.support.studies import write_study


@pytest.fixture(autouse=True)
def bases(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pretraining.yaml", "topics.yaml"):
        Path(name).touch()


def study(**changed):
    return read_study(write_study(Path("study.yaml"), **changed))


def names(stage: str, **changed) -> list[str]:
    return [arm.name for arm in arms_of(study(**changed))[stage]]


def test_axes_are_a_product_and_keys_of_one_axis_go_in_pairs():
    objectives, pairs = ["a", "b", "c"], [("adamw", 0.1), ("muon", 0.2)]
    axes = [
        {"data.objective": objectives},
        {"optimizer.name": ["adamw", "muon"], "optimizer.learning_rate": [0.1, 0.2]},
    ]
    arms = arms_of(study(axes=axes, stages=None))["training"]
    expected = [
        {"data.objective": objective, "optimizer.name": name, "optimizer.learning_rate": rate}
        for objective, (name, rate) in itertools.product(objectives, pairs)
    ]
    assert [arm.values for arm in arms] == [arm.settings for arm in arms] == expected
    assert arms[0].name == "objective=a, optimizer=adamw, learning_rate=0.1"


def test_named_arms_are_multiplied_by_the_axes():
    axes = [{"data.objective": ["a", "b"]}]
    named = {"published": {}, "large": {"optimizer.learning_rate": 0.1}}
    expected = ["published, objective=a", "published, objective=b", "large, objective=a", "large, objective=b"]
    assert names("training", arms=named, axes=axes, stages=None) == expected
    assert names("training", arms=named, axes=None, stages=None) == ["published", "large"]
    assert names("training", axes=None, stages=None) == ["base"]


def test_arms_go_down_the_chain_and_those_of_a_stage_multiply_them():
    rates = [{"optimizer.learning_rate": [1, 2]}]
    stages = {"pretraining": {}, "topics": {"from": "pretraining", "axes": rates}, "more": {"from": "topics"}}
    arms = arms_of(study(stages=stages))
    assert [arm.name for arm in arms["pretraining"]] == ["objective=next-sentence", "objective=full-sentences"]
    one = arms["topics"][3]
    assert one.name == "objective=full-sentences, learning_rate=2"
    assert one.settings == {"optimizer.learning_rate": 2}
    assert one.upstreams == {"model.pretrained": ("pretraining", "objective=full-sentences")}
    assert one.values == {"data.objective": "full-sentences", "optimizer.learning_rate": 2}
    assert arms["more"][3].upstreams == {"model.pretrained": ("topics", one.name)}
    assert num_arms(study(stages=stages)) == 2 + 4 + 4 == sum(map(len, arms.values()))


def test_two_upstreams_of_one_chain_have_the_same_arm():
    both = {"model.pretrained": "pretraining", "distillation.teacher": "teacher"}
    stages = {"pretraining": {}, "teacher": {"from": "pretraining"}, "student": {"from": both}}
    arms = arms_of(study(stages=stages))["student"]
    assert [arm.name for arm in arms] == ["objective=next-sentence", "objective=full-sentences"]
    assert [arm.upstreams["distillation.teacher"][1] for arm in arms] == [arm.name for arm in arms]


def test_an_arm_that_sets_the_key_of_its_upstream_is_trained_once_and_starts_from_nothing():
    own = {"pretrained": {}, "random": {"model.pretrained": None, "model.size": "tiny"}}
    stages = {"pretraining": {}, "topics": {"from": "pretraining", "arms": own}}
    arms = {arm.name: arm for arm in arms_of(study(stages=stages))["topics"]}
    assert sorted(arms) == ["objective=full-sentences, pretrained", "objective=next-sentence, pretrained", "random"]
    assert arms["random"].upstreams == {}


def test_a_key_that_two_stages_vary_is_named_with_the_later_stage():
    rates = {"optimizer.learning_rate": [1, 2]}
    stages = {"pretraining": {}, "topics": {"from": "pretraining", "axes": [rates]}}
    arm = arms_of(study(axes=[rates], stages=stages))["topics"][1]
    assert arm.name == "learning_rate=1, topics/learning_rate=2"
    assert arm.values == {"optimizer.learning_rate": 1, "topics/optimizer.learning_rate": 2}


def test_keys_with_one_ending_get_as_much_of_their_path_as_they_need():
    axes = [{"trainer.max_steps": [1]}, {"a.x.size": [1]}, {"b.x.size": [1]}]
    assert names("training", axes=axes, stages=None) == ["max_steps=1, a.x.size=1, b.x.size=1"]


def test_a_grid_of_millions_is_counted_without_being_made():
    axes = [{f"data.key{number}": list(range(100))} for number in range(10)]
    assert num_arms(study(axes=axes, stages=None)) == 100**10


def test_two_arms_of_one_name_are_refused():
    with pytest.raises(InputError, match="two arms of the name 'objective=1'"):
        arms_of(study(axes=[{"data.objective": [1, "1"]}], stages=None))
