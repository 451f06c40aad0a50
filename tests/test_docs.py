"""The pages of the documentation: their form, what they name, and their generated parts."""

import ast
import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

from bert_lightning.cli import _parser
from bert_lightning.data.datasets.catalogue import STANDARD_SETS
from bert_lightning.tasks.catalogue import OWNERS as TASK_OWNERS
from bert_lightning.tasks.catalogue import TASKS
from docs.generated import commands_to_markdown, expand, help_of, script_to_markdown

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
TEXTS = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "experiments/README.md"))]


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def whole_text(page: Path) -> str:
    """Return a page as a reader sees it: included files and generated parts in place, without front matter."""
    text = re.sub(r"\A---\n.*?\n---\n", "", page.read_text(), flags=re.DOTALL)

    def included(fence: re.Match[str]) -> str:
        return (page.parent / fence[1]).read_text()

    text = re.sub(r"^```\{include\} (\S+)\n(?::.*\n)*```$", included, text, flags=re.MULTILINE)
    return expand(text, page.parent)


def without_code(text: str) -> str:
    text = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]+`", "`code`", text)


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_a_page_has_one_title_and_then_a_paragraph_that_says_what_it_is_for(page):
    text = without_code(whole_text(page)).strip()
    assert len(re.findall(r"^# \S", text, flags=re.MULTILINE)) == 1
    title, first = re.split(r"\n\s*\n", text)[:2]
    assert title.startswith("# ")
    assert re.match(r"[\w`]", first)
    assert len(first.split()) >= 8


def test_the_contents_list_every_page_once():
    listed = []
    for index in (DOCS / "index.md", DOCS / "reference" / "index.md"):
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```$", index.read_text(), flags=re.DOTALL | re.MULTILINE):
            entries = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed += [index.parent / (re.sub(r".*<(.*)>", r"\1", entry) + ".md") for entry in entries]
    assert sorted([*listed, DOCS / "index.md"]) == PAGES


@pytest.mark.parametrize("page", TEXTS, ids=names(TEXTS))
def test_every_link_to_a_file_has_its_file(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if not urlsplit(target).scheme and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", TEXTS, ids=names(TEXTS))
def test_no_page_holds_the_markers_of_an_unfinished_merge(page):
    assert not re.search(r"^(<{7}|={7}|>{7})( |$)", page.read_text(), flags=re.MULTILINE)


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", whole_text(page), flags=re.DOTALL | re.MULTILINE)


WITH_PYTHON = [page for page in TEXTS if python_blocks(page)]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=names(WITH_PYTHON))
def test_what_a_page_takes_from_the_package_is_there(page):
    for block in python_blocks(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bert_lightning"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "bert_lightning":
                assert hasattr(importlib.import_module("bert_lightning"), node.attr), node.attr


def test_the_landing_page_counts_tasks_and_data_sets_rightly():
    numbers = {"five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
    text = (DOCS / "index.md").read_text()
    kinds = re.search(r"(\w+) kinds of fine-tuning", text)
    sets = re.search(r"(\d+) standard data\s+sets", text)
    # Other tests register their own tasks and data sets.
    assert numbers[kinds[1]] == len(TASKS.keys() - TASK_OWNERS.keys()) - 1
    assert int(sets[1]) == sum(not each.registered for each in STANDARD_SETS.values())


ROOMS = sorted(path.stem for path in (DOCS / "reference").glob("*.md") if path.stem not in ("index", "commands"))


@pytest.mark.parametrize("room", ROOMS)
def test_the_reference_of_a_room_describes_each_of_its_public_names_once(room):
    module = importlib.import_module("bert_lightning" if room == "bert_lightning" else f"bert_lightning.{room}")
    text = (DOCS / "reference" / f"{room}.md").read_text()
    described = re.findall(r"^\.\. (?:auto)?(?:class|function|data|exception):: (\w+)$", text, flags=re.MULTILINE)
    described += re.findall(r"^- \{py:\w+\}`~[\w.]+\.(\w+)`", text, flags=re.MULTILINE)  # on the page of another room
    public = [name for name in module.__all__ if not isinstance(getattr(module, name), str | ModuleType)]
    assert sorted(described) == sorted(public)


def commands_below(*words: str) -> list[tuple[str, ...]]:
    below = [(*words, name) for name, _ in help_of(*words).commands]
    return [*below, *(command for words in below for command in commands_below(*words))]


def test_the_page_of_commands_has_each_command_with_all_of_its_options(capsys):
    text = commands_to_markdown()
    commands = commands_below()
    assert ("fit",) in commands
    assert ("score", "squad-v2.0") in commands
    for words in commands:
        section = re.search(rf"^#+ {re.escape(' '.join(words))}$(.*?)(?=^#|\Z)", text, re.DOTALL | re.MULTILINE)
        described = re.findall(r"^`(--[\w-]+)", section[1], flags=re.MULTILINE)
        with pytest.raises(SystemExit):
            _parser().parse_args([*words, "--help"])
        printed = re.findall(r"^  (?:-\w, )?(--[\w-]+)", capsys.readouterr().out, flags=re.MULTILINE)
        assert described == [option for option in printed if option != "--help"]


def test_a_script_becomes_text_and_code():
    text = "# %% [markdown]\n# # Sums\n#\n# Add *two*.\n\n"
    code = "# %%\nx = 1  # one\n\n\ny = 2\n\n# %%\nx + y\n"
    script = '"""For readers of the code."""\n\n' + text + code
    assert script_to_markdown(script) == (
        "# Sums\n\nAdd *two*.\n\n```python\nx = 1  # one\n\n\ny = 2\n```\n\n```python\nx + y\n```\n"
    )


def test_code_before_the_first_marker_of_a_script_is_kept():
    assert script_to_markdown('"""Text."""\nimport os\n# %%\nos.getcwd()\n') == (
        "```python\nimport os\n```\n\n```python\nos.getcwd()\n```\n"
    )


class Links(HTMLParser):
    """The links and the anchors of an HTML page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.links += [values[name] for name in ("href", "src") if values.get(name)]
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages of the built site by path."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--quiet", str(DOCS), str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=240)
    pages = {}
    for path in folder.rglob("*.html"):
        pages[path] = Links()
        pages[path].feed(path.read_text())
    return pages


@pytest.mark.slow
def test_every_link_of_the_built_site_leads_somewhere(site):
    assert len(site) > len(PAGES)
    for path, page in site.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            assert target.exists(), f"{path.name}: {link}"
            if url.fragment and target in site:
                assert unquote(url.fragment) in site[target].anchors, f"{path.name}: {link}"


@pytest.mark.slow
def test_a_page_that_a_text_names_by_its_path_is_a_link_on_the_site(site):
    changelog = next(path for path in site if path.name == "changelog.html")
    assert '<a class="reference external" href="tasks.html"><code' in changelog.read_text()


@pytest.mark.slow
def test_the_types_in_a_signature_are_whole_on_the_site(site):
    for path in site:
        if path.parent.name == "reference":
            assert not re.search(r"&lt;factory&gt;|~typing", path.read_text()), path.name
