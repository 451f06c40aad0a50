"""The page of a report: complete in itself, every number with its origin, and names that stay text."""

import base64
import hashlib
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from bert_lightning.reports.figures.progress import Progress
from bert_lightning.reports.page import page
from bert_lightning.reports.page_tables import table_view
from bert_lightning.reports.results import ChecklistItem, Confound, NotInTable, Results
from bert_lightning.runs.directory import RunDirectory
from tests.support.fake_results import fake_run, fake_search, fake_study
from tests.support.pages import OPEN_ALL, WIDER, Parsed, contrast, palettes

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;]]>\u2028\ud800"


@pytest.fixture(scope="module")
def study():
    return page(fake_study(steps=400))


@pytest.fixture(scope="module")
def search():
    return page(fake_search(trials=30, steps=400))


def test_question_and_study_stand_at_the_top_and_confounds_before_their_table(study):
    parsed = Parsed(study)
    assert parsed.text("h1").strip() == "Does next-sentence prediction help?"
    assert "nsp" in parsed.text("header", "strong")
    body = study[study.index('id="table-1"') :]
    assert body.index("The arms differ in more than the axis") < body.index("<table")
    assert "version of torch" in body[: body.index("<table")]
    first = study[study.index('id="table-0"') : study.index('id="table-1"')]
    assert "The arms differ" not in first


def test_every_link_leads_to_one_place_of_the_page(study, search):
    for source in (study, search):
        parsed = Parsed(source)
        targets = [value for _, value in parsed.with_attribute("id")]
        assert len(targets) == len(set(targets))
        links = [value for _, value in parsed.with_attribute("href")]
        assert len(links) > 50
        assert {link[0] for link in links} == {"#"}
        assert {link[1:] for link in links} <= set(targets)


def test_each_number_leads_to_its_runs_and_to_the_command_that_repeats_each(study):
    results = fake_study(steps=400)
    for number, table in enumerate(results.tables):
        for row, arm in enumerate(table.arms):
            assert f'href="#arm-{number}-{row}"' in study
            start = study.index(f'id="arm-{number}-{row}"')
            following = f'id="arm-{number}-{row + 1}"'
            block = study[start : study.index(following) if following in study else None]
            for run in arm.runs:
                assert f"bert-lightning reproduce {run.name}" in block
                assert f"--seed_everything={run.seed}" in block


def test_the_page_names_runs_that_are_not_in_the_table(study):
    words = Parsed(study).text("main")
    assert "WorkError: the loss is not finite" in words
    assert "studies/nsp/runs/rte/dead" in words
    assert words.count("missing") >= 1


def test_the_page_needs_nothing_from_elsewhere_and_allows_only_its_own_style_and_script(study):
    parsed = Parsed(study)
    assert not parsed.with_attribute("src")
    assert not [tag for tag, _ in parsed.tags if tag in ("link", "img", "iframe", "object", "embed", "form", "base")]
    assert not [
        name for _, attributes in parsed.tags for name in attributes if name.startswith("on") or name == "style"
    ]
    assert not re.search(r"url\(|@import", study)
    [policy] = [attributes["content"] for _, attributes in parsed.tags if "http-equiv" in attributes]
    assert policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        [content] = re.findall(f"<{tag}>(.*?)</{tag}>", study, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def hostile_results():
    """Return results in which every text is hostile."""
    results = fake_study(steps=200, labels=[HOSTILE, f"{HOSTILE}2", f"{HOSTILE}3"])
    run = fake_run(f"runs/{HOSTILE}", 1, steps=100)
    run.config.update({"experiment": HOSTILE, "task": HOSTILE})
    run.manifest["sessions"][0]["command"] = f"fit {HOSTILE}"
    run.manifest["ended"] = HOSTILE
    run.rows.append({"step": 5, "time": 1.8e9, f"val/{HOSTILE}": 0.5})
    first = results.tables[0]
    arm = replace(first.arms[0], runs=(run, *first.arms[0].runs))
    table = replace(
        first, title=HOSTILE, task=HOSTILE, study=HOSTILE, stage=HOSTILE, question=HOSTILE, caption=(HOSTILE,),
        arms=(arm, *first.arms[1:]), confounds=(Confound(HOSTILE, {HOSTILE: (HOSTILE,)}, HOSTILE),),
        missing=(NotInTable(HOSTILE, 1, HOSTILE, RunDirectory(HOSTILE).path, HOSTILE),),
    )  # fmt: skip
    return Results((table, *results.tables[1:]), (ChecklistItem(HOSTILE, HOSTILE),))


def test_hostile_names_are_text_in_every_place():
    source = page(hostile_results())
    assert source.count("<script") == 1
    assert "<img" not in source
    parsed = Parsed(source)
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert "alert(1)" in parsed.text("h1")
    # A lone surrogate cannot be written to a file.
    source.encode()


def test_scores_stand_against_trained_parameters_and_memory_where_arms_differ_in_them():
    results = fake_study(steps=200)
    for number, arm in enumerate(results.tables[1].arms, 1):
        for run in arm.runs:
            run.manifest["trained_parameters"] = 1000 * number
            run.rows[-1]["train/peak_memory_gb"] = 0.5 * number
    for cost in ("trained parameters", "GB of memory"):
        assert cost in page(results)
        assert cost not in page(fake_study(steps=200))


def test_a_page_shows_runs_that_belong_to_no_study_and_an_arm_without_runs():
    table = replace(
        fake_study(steps=200).tables[1], study=None, question=None, directory=None, stage=None, baseline=None
    )
    empty = replace(table.arms[2], runs=(), cells={})
    parsed = Parsed(page(Results((replace(table, arms=(*table.arms[:2], empty)),))))
    assert parsed.text("h1").strip() == "Report"
    assert "–" in parsed.text("td")


def test_several_studies_each_have_their_question():
    first, second = fake_study(steps=200).tables[0], fake_search(trials=3, steps=200).tables[0]
    parsed = Parsed(page(Results((first, second))))
    assert "Does next-sentence prediction help?" in parsed.text("main", "h1")
    assert "Which learning rate suits RTE?" in parsed.text("main", "h1")


def test_a_search_shows_history_expected_performance_parallel_coordinates_and_importance(search):
    labels = " ".join(value for _, value in Parsed(search).with_attribute("aria-label"))
    for words in ("of each trial, and the best so far", "expected best", "the values of each trial", "importance"):
        assert words in labels


def test_the_table_sorts_by_the_numbers_that_it_shows():
    table = fake_study(steps=400).tables[1]
    view = table_view(table, 0, {id(run): Progress(run) for arm in table.arms for run in arm.runs}, ranges=False)
    for arm, shown in zip(table.arms, view.arms, strict=True):
        [cell] = shown.cells
        values = list(arm.cells["val/accuracy"].values.values())
        assert float(cell.sort) == pytest.approx(np.mean(values))
        assert cell.score == f"{np.mean(values):.4f}"
        assert cell.spread == f"± {np.std(values, ddof=1):.4f}"


# -- colours -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 2])
def test_text_and_lines_stand_out_from_the_page_in_light_dark_and_print(study, number):
    colours = palettes(study)[number]
    for name in ("ink", "dim", "link", "warn"):
        assert contrast(colours[name], colours["page"]) >= 4.5, name
    assert contrast(colours["dim"], colours["soft"]) >= 4.5
    assert contrast(colours["warn"], colours["warn-soft"]) >= 4.5
    for name in [f"s{index}" for index in range(1, 8)] + ["best", "q2", "q3", "q4"]:
        assert contrast(colours[name], colours["page"]) >= 3, name
    shades = [contrast(colours[f"q{index}"], colours["page"]) for index in range(5)]
    assert shades == sorted(shades)


# How colours look without red-sensitive and without green-sensitive cones (Viénot, Brettel and Mollon 1999), on
# linear light.
_DICHROMATS = {
    "protan": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "deutan": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
}


@pytest.mark.parametrize("kind", list(_DICHROMATS))
@pytest.mark.parametrize("number", [0, 1])
def test_the_first_four_arms_differ_in_colour_for_the_colour_blind_too(study, number, kind):
    colours = palettes(study)[number]

    def seen(colour):
        parts = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        linear = np.clip(np.array(_DICHROMATS[kind]) @ linear, 0, 1)
        return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)

    looks = [seen(colours[name]) for name in ("ink", "s1", "s2", "s3")]
    for one, other in itertools.combinations(looks, 2):
        assert np.abs(one - other).max() > 0.15


# -- size --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hundred_runs_of_ten_thousand_rows_give_a_page_of_a_few_megabytes():
    results = fake_study(seeds=range(1, 18), steps=10_000, every=1, validate_every=100)
    assert sum(len(arm.runs) for table in results.tables for arm in table.arms) == 102
    assert len(page(results).encode()) < 4_000_000


# -- in a browser --------------------------------------------------------------------------------------------------

ORDER = 'Array.from(document.querySelector("tbody").rows).map((row) => row.cells[0].dataset.sort)'
SHOWN = """
(() => {
  const drawings = document.getElementById("axis-0-2-steps").parentElement.querySelectorAll(".drawing");
  return Array.from(drawings).filter((each) => each.offsetWidth).map((each) => each.className);
})()
"""


@pytest.fixture(scope="module")
def pages(study, search, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    sources = {"study": study, "search": search, "hostile": page(hostile_results())}
    for name, source in sources.items():
        (folder / f"{name}.html").write_text(source, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in sources}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["study", "search", "hostile"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_the_window_and_the_browser_complains_about_nothing(browser, pages, name, width, dark):
    browser.problems.clear()
    browser.open(pages[name], width=width, dark=dark)
    assert browser.evaluate(WIDER % width) == []
    browser.evaluate(OPEN_ALL)
    assert browser.evaluate(WIDER % width) == []
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(24, 24, 27)" if dark else "rgb(255, 255, 255)")
    assert browser.problems == []


@pytest.mark.slow
def test_a_click_on_a_heading_sorts_and_a_third_one_gives_back_the_order_of_the_study(browser, pages):
    browser.open(pages["search"])
    original = browser.evaluate(ORDER)
    scores = {
        arm.label: arm.cells["val/accuracy"].mean
        for arm in fake_search(trials=30, steps=400).tables[0].arms
        if arm.cells
    }
    click = 'document.querySelectorAll("thead th")[2].querySelector("button").click()'
    orders = []
    for _ in range(3):
        browser.evaluate(click)
        orders.append(browser.evaluate(ORDER))
    assert [label for label in orders[0] if label in scores] == sorted(scores, key=scores.get, reverse=True)
    assert [label for label in orders[1] if label in scores] == sorted(scores, key=scores.get)
    # Trials without a score come last both times.
    assert all(label not in scores for order in orders[:2] for label in order[len(scores) :])
    assert orders[2] == original
    browser.evaluate('document.querySelector("thead th button").click()')
    assert browser.evaluate(ORDER) == sorted(original, key=lambda label: -int(label.split()[1]))


@pytest.mark.slow
def test_the_switches_work_without_a_script(browser, pages):
    browser.open(pages["study"], scripts=False)
    assert browser.evaluate('document.querySelectorAll("th button").length') == 0
    for axis in ("tokens", "seconds", "steps"):
        browser.click(f'label[for="axis-0-2-{axis}"]')
        shown = browser.evaluate(SHOWN)
        assert len(shown) >= 2
        assert set(shown) == {f"drawing by-{axis}"}
    assert browser.evaluate('getComputedStyle(document.querySelector(".singles")).display') == "none"
    browser.click('label[for="runs-0-2"]')
    assert browser.evaluate('getComputedStyle(document.querySelector(".singles")).display') == "inline"


@pytest.mark.slow
def test_a_link_opens_the_folded_runs_of_its_number(browser, pages):
    browser.open(pages["study"])
    place = browser.evaluate('document.querySelector("td a.score").getAttribute("href")')
    browser.evaluate('document.querySelector("td a.score").click()')
    assert browser.evaluate(f'document.querySelector("{place}").checkVisibility()')


@pytest.mark.slow
def test_the_page_prints_in_light_colours_without_controls(browser, pages, tmp_path):
    browser.open(pages["study"], width=794, dark=True, media="print")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate(
        'Array.from(document.querySelectorAll(".pick + label")).every((each) => !each.offsetWidth)'
    )
    assert browser.evaluate(WIDER % 794) == []
