"""The list of keys: complete, correct and described, for every task and every choice."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bert_lightning.cli.key_lists import markdown_page
from bert_lightning.config.docstrings import descriptions_of, first_sentence, paragraphs_of
from bert_lightning.config.experiment import CHOICES, load_experiment
from bert_lightning.config.keys import all_sections, matching
from bert_lightning.config.method_defaults import method_defaults
from bert_lightning.config.yaml_files import flow_yaml
from bert_lightning.errors import InputError
from bert_lightning.tasks.catalogue import TASKS
from bert_lightning.tasks.fine_tuning.settings import FineTuningData

PAGE = Path(__file__).parents[2] / "docs/configuration.md"
SECTIONS = all_sections()
KEYS = [(section, key) for section in SECTIONS for key in section.keys]
# Keys that `smallest` sets.
SET = {"experiment", "task", "model.size", "trainer.max_steps"}


def smallest(task: str) -> dict[str, object]:
    """Return the values of an experiment that sets as few keys as possible."""
    return {"experiment": "try", "task": task, "model": {"size": "tiny"}, "trainer": {"max_steps": 9}}


def flat(values: dict[str, object], path: str = "") -> dict[str, object]:
    """Return dotted key -> value; a section is no value, but an empty section is."""
    result: dict[str, object] = {}
    for name, value in values.items():
        full = f"{path}.{name}" if path else name
        if isinstance(value, dict) and value:
            result |= flat(value, full)
        else:
            result[full] = value
    return result


def resolved(task: str, choice: tuple[str, str] | None = None) -> dict[str, object]:
    """Return every key of an experiment with its value."""
    values = smallest(task)
    if choice is not None:
        path, name = choice
        section = values
        for part in path.split("."):
            section = section.setdefault(part, {})
        section |= {"name": name, **({"phases": [{}]} if name == "phases" else {})}
    return flat(load_experiment([], below=values).to_dict())


def listed(task: str, choice: tuple[str, str]) -> dict[str, str | None]:
    """Return key -> default of the keys that the list has for a task, with one choice by name."""
    chosen = {(path, next(iter(table))) for path, table in CHOICES.items() if path != choice[0]} | {choice, None}
    return {key.path: key.default for section in all_sections(task) for key in section.keys if key.choice in chosen}


@pytest.mark.parametrize(("section", "key"), KEYS, ids=lambda each: getattr(each, "path", ""))
def test_every_key_has_a_type_and_a_description(section, key):
    assert key.type
    assert key.description.strip(), f"{section.title}: {key.path} is not described under `Attributes:`"
    assert key.description[-1] in ".)", key.description


def test_every_section_is_described():
    # The description of a choice is that of its key `name`.
    assert [s.title for s in SECTIONS if not s.paragraphs and s.path not in CHOICES] == []


CASES = [(task, (path, name)) for task in TASKS for path, table in CHOICES.items() for name in table]
CASES = [(task, (path, name)) for task, (path, name) in CASES if path != "data.masking" or task == "pretraining"]


@pytest.mark.parametrize(
    ("task", "choice"), CASES, ids=lambda case: "-".join(case) if isinstance(case, tuple) else case
)
def test_the_list_has_exactly_the_keys_of_a_resolved_experiment_and_their_defaults(task, choice):
    values, keys = resolved(task, choice), listed(task, choice)
    # Not among the values: keys of items of a list, those of an architecture or of a section that is null, and
    # custom classes.
    apart = (".0.", "model.config.", *(f"{path}.{name}" for path in CHOICES for name in ("class_path", "init_args")))
    apart += ("model.head.init_args",)
    apart += tuple(f"{key}." for key, value in values.items() if value is None)
    keys = {key: default for key, default in keys.items() if not any(part in key for part in apart)}
    without_head = {key: value for key, value in values.items() if not f"{key}.".endswith((".head.", ".init_args."))}
    assert keys.keys() == without_head.keys()
    # A method may have a rate of its own. The length is set here.
    of_method = method_defaults({choice[0]: CHOICES[choice[0]][choice[1]]}).keys() - {"trainer.max_epochs"}
    for key in keys.keys() - {*SET, "schedule.phases", *of_method}:
        named = key.removesuffix(".name") if key.endswith(".name") else ""
        default = next(iter(CHOICES[named])) if named in CHOICES else flow_yaml(values[key])
        assert keys[key] == default, key


@pytest.mark.parametrize("task", TASKS)
def test_a_value_outside_the_range_of_a_key_is_refused_in_the_same_words(task):
    sections = [section for section in all_sections(task) if section.choice is None and ".0" not in section.path]
    ranges = {key.path: key for section in sections for key in section.keys if key.allowed.startswith("at least ")}
    assert len(ranges) > 15
    for path, key in ranges.items():
        below = str(int(key.allowed.removeprefix("at least ")) - 1)
        needed = ["--distillation.teacher=x"] if path.startswith("distillation.") else []
        with pytest.raises(InputError, match=rf"{path} is .*; it must be {key.allowed}"):
            load_experiment([], [f"--{path}", below, *needed], smallest(task))


def test_the_keys_of_a_task_that_a_program_registers_are_listed(monkeypatch):
    @dataclass(frozen=True)
    class RankingData(FineTuningData):
        """Data of ranking.

        Attributes:
            num_negatives: wrong answers per question.
        """

        num_negatives: int = 4

    monkeypatch.setitem(
        TASKS, "ranking", replace(TASKS["multiple-choice"], name="ranking", data_settings=RankingData)
    )
    [section] = matching(all_sections(), "data.num_negatives")
    assert section.tasks == ("ranking",)
    assert [(key.path, key.default, key.description) for key in section.keys] == [
        ("data.num_negatives", "4", "wrong answers per question.")
    ]
    [shared] = matching(all_sections(), "data.tokenizer")
    assert "ranking" in shared.tasks


def test_the_page_of_all_keys_is_current():
    assert PAGE.read_text() == markdown_page(SECTIONS), "run `bert-lightning keys --markdown > docs/configuration.md`"


def test_every_link_of_the_page_leads_to_a_heading_of_it():
    import re

    text = PAGE.read_text()
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in text.splitlines()
        if line[:1] == "#"
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= headings


@pytest.mark.parametrize(
    ("prefix", "paths"),
    [
        ("trainer.precision", {"trainer.precision"}),
        ("--trainer.precision", {"trainer.precision"}),
        ("trainer.max", {"trainer.max_steps", "trainer.max_epochs"}),
        ("freeze", {"freeze.embeddings", "freeze.layers", "freeze.encoder", "freeze.unfreeze_every"}),
        ("schedule.phases.7.power", {"schedule.phases.0.power"}),
        ("published.2.metric", {"published.0.metric"}),
        ("model.config.pool", {"model.config.pooling", "model.config.pooler"}),
        ("data.objective", {"data.objective"}),
    ],
)
def test_a_prefix_selects_the_keys_that_begin_with_it(prefix, paths):
    assert {key.path for section in matching(SECTIONS, prefix) for key in section.keys} == paths


def test_a_whole_name_is_not_the_beginning_of_a_longer_one():
    sections = matching(SECTIONS, "model.pretrained")
    assert {key.path for section in sections for key in section.keys} == {"model.pretrained"}
    assert {key.path.split(".")[0] for section in matching(SECTIONS, "model") for key in section.keys} == {"model"}


@pytest.mark.parametrize(
    ("prefix", "hint"),
    [
        ("trainer.presicion", "did you mean 'trainer.precision'?"),
        ("learning_rate", "did you mean 'optimizer.learning_rate'?"),
        ("optimiser", "did you mean 'optimizer'?"),
        ("zzz", "sections: experiment, task, "),
    ],
)
def test_an_unknown_prefix_names_the_nearest_key(prefix, hint):
    with pytest.raises(InputError, match="no key begins with") as error:
        matching(SECTIONS, prefix)
    assert hint in str(error.value)


def test_descriptions_are_read_from_docstrings_with_several_lines_and_examples():
    class Plain:
        """The first paragraph
        in two lines.

        A second one.

        Attributes:
            name: a description
                in two lines: with a colon.
            other: short.

        >>> 1
        1
        """

    described = dataclass(Plain)
    assert paragraphs_of(described) == ["The first paragraph in two lines.", "A second one."]
    assert descriptions_of(described) == {"name": "a description in two lines: with a colon.", "other": "short."}


def test_a_sentence_does_not_end_at_a_number_or_an_abbreviation():
    assert first_sentence("0.95 in Sun et al. 2019, 1e-4. The rest.") == "0.95 in Sun et al. 2019, 1e-4."
