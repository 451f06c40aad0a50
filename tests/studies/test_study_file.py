"""The study file is read strictly, and a message names file, line and key."""

from pathlib import Path

import pytest

from bert_lightning.errors import InputError
from bert_lightning.studies.stages import Axis
from bert_lightning.studies.study_file import read_study

COMPLETE = """\
# Does next-sentence prediction help?
# And when?
#
# Two arms.
study: nsp
base: base.yaml
overrides: {trainer.max_steps: 20}
axes:
  - data.objective: [next-sentence, sentence-order]
  - {optimizer.name: [adamw, muon], optimizer.learning_rate: [1.5e-3, 6.0e-3]}
seeds: [1, 2]
stages:
  rte: {base: rte.yaml, from: pretraining}
  pretraining: {}
compare: {metric: val/accuracy, equivalence: 0.005}
published: {base: [{metric: val/accuracy, value: 0.7, tolerance: 0.01, source: a paper}]}
"""


@pytest.fixture(autouse=True)
def bases(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("base.yaml", "rte.yaml"):
        Path(name).touch()


def read(text: str):
    Path("study.yaml").write_text(text)
    return read_study("study.yaml")


def test_a_complete_file_is_read_and_stages_come_after_those_they_start_from():
    study = read(COMPLETE)
    assert (study.name, study.seeds, study.text) == ("nsp", (1, 2), COMPLETE)
    assert study.question == "Does next-sentence prediction help? And when?"
    assert [stage.name for stage in study.stages] == ["pretraining", "rte"]
    pretraining, rte = study.stages
    assert (pretraining.base, pretraining.overrides) == ((Path("base.yaml"),), {"trainer.max_steps": 20})
    # A stage with another base has settings of its own.
    assert (rte.base, rte.overrides) == ((Path("rte.yaml"),), {})
    assert rte.upstreams == {"model.pretrained": "pretraining"}
    pairs = Axis(("optimizer.name", "optimizer.learning_rate"), (("adamw", 1.5e-3), ("muon", 6e-3)))
    assert study.varied.axes == (Axis(("data.objective",), (("next-sentence",), ("sentence-order",))), pairs)
    assert (study.compare.metric, study.compare.baseline, study.compare.equivalence) == (
        ("val/accuracy",),
        None,
        0.005,
    )
    assert study.published["base"][0].value == 0.7


def test_a_base_is_found_beside_the_study_file_if_the_working_directory_has_none(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    Path("study.yaml").write_text("study: a\nbase: [base.yaml, rte.yaml]\nseeds: [1]\n")
    monkeypatch.chdir(tmp_path / "here")
    Path("rte.yaml").touch()
    [stage] = read_study("../study.yaml").stages
    assert stage.base == (Path("../base.yaml"), Path("rte.yaml"))


def test_an_upstream_may_get_into_another_key():
    stages = "stages:\n  a: {}\n  b: {from: {distillation.teacher: a}}\n"
    assert read("study: a\nbase: base.yaml\nseeds: [1]\n" + stages).stages[1].upstreams == {
        "distillation.teacher": "a"
    }


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("study: nsp", "study: n/s", 5, "study is 'n/s'"),
        ("study: nsp\n", "", None, "study is missing"),
        ("axes:", "axis:", 8, "unknown key 'axis'; did you mean 'axes'?"),
        ("base: base.yaml", "base: other.yaml", 6, "there is no experiment file other.yaml"),
        ("base: base.yaml\n", "", 13, "the stage pretraining has no base"),
        ("[next-sentence, sentence-order]", "[]", 9, "the axis data.objective has no values"),
        ("[next-sentence, sentence-order]", "next-sentence", 9, "the axis data.objective needs a list"),
        ("[next-sentence, sentence-order]", "[1, 2, 1]", 9, "has the value 1 twice"),
        (
            "[1.5e-3, 6.0e-3]",
            "[1.5e-3]",
            10,
            "the same number of values (optimizer.name 2, optimizer.learning_rate 1)",
        ),
        ("optimizer.name:", "data.objective:", 10, "data.objective is set twice, by the axis 1 and by the axis 2"),
        ("seeds: [1, 2]", "seeds: [1, 1]", 11, "seeds names 1 twice"),
        ("seeds: [1, 2]", "seeds: 2", 11, "seeds is a list"),
        ("seeds: [1, 2]", "seeds: [-1]", 11, "seeds holds -1"),
        ("trainer.max_steps: 20", "seed_everything: 2", 7, "seed_everything cannot vary between arms"),
        ("from: pretraining", "from: pretrainin", 13, "unknown stage 'pretrainin'; did you mean 'pretraining'?"),
        (
            "pretraining: {}",
            "pretraining: {from: rte}",
            13,
            "the stage rte starts from itself: rte from pretraining from rte",
        ),
        (
            "from: pretraining",
            "form: pretraining",
            13,
            "unknown key 'stages.rte.form'; did you mean 'stages.rte.from'?",
        ),
        (
            "from: pretraining",
            "from: pretraining, overrides: {model.pretrained: x}",
            13,
            "from and overrides both set",
        ),
        ("equivalence: 0.005", "stages: [rte]", 15, "stages is a list of at least two stages"),
        ("equivalence: 0.005", "stages: [rte, rte]", 15, "stages names 'rte' twice"),
        ("equivalence: 0.005", "stages: [rte, rt]", 15, "stages names the unknown stage 'rt'; did you mean 'rte'?"),
        ("equivalence: 0.005", "equivalence: 0", 15, "equivalence is 0; it must be more than 0"),
        (
            "value: 0.7",
            "values: 0.7",
            16,
            "unknown key 'published.base.0.values'; did you mean 'published.base.0.value'?",
        ),
        ("axes:", "arms: {}\naxes:", 8, "arms is empty"),
        ("axes:", "arms: {a: {data.objective: x}}\naxes:", 10, "set twice, by the arm a and by the axis 1"),
    ],
)
def test_a_fault_is_one_message_with_its_line(old, new, line, message):
    assert old in COMPLETE
    with pytest.raises(InputError) as error:
        read(COMPLETE.replace(old, new, 1))
    assert message in str(error.value)
    assert str(error.value).startswith("study.yaml: " + (f"line {line}: " if line else ""))
