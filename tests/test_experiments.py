"""Every experiment file loads strictly, and everything that README and docs name exists."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from bert_lightning.cli import _parser
from bert_lightning.config.experiment import load_experiment
from bert_lightning.studies.plan import plan_runs
from bert_lightning.studies.search.settings import read_search
from bert_lightning.studies.study_file import read_study

ROOT = Path(__file__).parents[1]
STUDIES = sorted([*(ROOT / "experiments/studies").glob("*.yaml"), ROOT / "examples/study.yaml"])
FILES = sorted(set((ROOT / "experiments").rglob("*.yaml")) - set(STUDIES))
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "experiments/README.md")]
PAGES += sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)


def test_there_are_experiment_files():
    assert len(FILES) >= 4


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_experiment_file_loads_strictly(path, monkeypatch):
    monkeypatch.setenv("BERT_LIGHTNING_DATA", "/data")
    monkeypatch.setenv("BERT_ENCODER", "/encoder")
    monkeypatch.setenv("BERT_MLM_ENCODER", "/mlm-encoder")
    experiment = load_experiment([path])
    assert load_experiment([], below=experiment.to_dict()).identity == experiment.identity


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_every_ready_study_asks_a_question_and_each_of_its_runs_loads_strictly(path, monkeypatch):
    monkeypatch.setenv("BERT_LIGHTNING_DATA", "/data")
    monkeypatch.setenv("BERT_ENCODER", "/encoder")
    monkeypatch.setenv("BERT_MLM_ENCODER", "/mlm-encoder")
    study = read_study(path)
    assert study.question.endswith("?")
    if study.search is not None:
        search = read_search(study)
        study = replace(study, seeds=tuple(search.trial_seeds))
    # A study whose runs have the same settings, or that names an arm which it does not have, is refused.
    assert plan_runs(replace(study, seeds=study.seeds[:1]))
    command = re.search(r"^#   bert-lightning (ablate|search) (\S+)", study.text, flags=re.MULTILINE)
    assert command[1] == ("ablate" if study.search is None else "search")
    assert (ROOT / command[2] if "/" in command[2] else path.parent / command[2]) == path


def test_the_page_of_studies_lists_each_ready_study():
    text = (ROOT / "docs/studies.md").read_text()
    for path in STUDIES:
        assert f"`{path.name}`" in text or f"`{path.relative_to(ROOT)}`" in text, path.name


def commands(page: Path) -> list[str]:
    """Return the `bert-lightning` commands in the code blocks of a page, with continued lines joined."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = (
        "\n".join(block for language, block in fences if language in ("bash", "console"))
        .replace("\\\n", " ")
        .splitlines()
    )
    matches = (re.search(r"(?:^|\$ |\| )(bert-lightning .*)", line) for line in lines)
    return [match[1] for match in matches if match]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_shows_is_one_that_exists(page):
    for command in commands(page):
        words = shlex.split(command.split(" | ")[0].split(" > ")[0], comments=True)[1:]
        options, rest = _parser().parse_known_args(words)
        assert not rest or options.takes_overrides, command


def test_the_readme_shows_every_command():
    shown = {command.split()[1] for command in commands(ROOT / "README.md")}
    assert {"tokenizer", "prepare", "fit", "validate", "test", "predict", "score", "report", "doctor"} <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_and_target_that_a_page_names_exists(page):
    text = page.read_text()
    rooms = r"(?:bert_lightning|experiments|tests|docs|runs|tasks|data|model|text|metrics|training|checkpoints)"
    for path in re.findall(rf"`({rooms}/[\w/.-]*\w)`", text):
        candidates = [ROOT / path, ROOT / "bert_lightning" / path]
        generated = path.startswith(("runs/", "docs/_build"))
        assert generated or any(candidate.exists() for candidate in candidates), path
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for target in re.findall(r"`make ([a-z-]+)`", text):
        assert target in targets, target
