"""The pages of probe, cka and neighbors: what they hold, and how they look in a browser."""

from dataclasses import replace

import pytest

from bert_lightning.interpretability.nearest_neighbors import Neighbor, Neighborhood, NeighborsReport
from bert_lightning.interpretability.probing import Interval, LayerScores, ProbingReport
from bert_lightning.interpretability.similarity import SimilarityReport
from bert_lightning.reports.representation_pages import neighbors_page, probing_page, similarity_page
from tests.support.pages import WIDER, Parsed

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;\u2028\ud800"


def layer(number, converged=True):
    accuracy = 0.5 + 0.1 * (number % 4)
    return LayerScores(
        number,
        Interval(accuracy, accuracy - 0.02, accuracy + 0.02),
        accuracy / 2,
        [0.4, 0.42],
        Interval(accuracy - 0.41, accuracy - 0.44, accuracy - 0.38),
        0.9,
        [0.45, 0.47],
        converged,
    )


def probing(num_layers=13, name="runs/sst2"):
    layers = [layer(number) for number in range(num_layers)]
    sizes = ((10_000, 5_000), (800, 400))
    return ProbingReport(
        name, "token-classification", "word", "mean", ["O", "B-x"], *sizes, 0.01, [1, 2], "O", 0.52, 0.3, layers
    )


def similarity(num_layers=13, name="runs/one"):
    values = [[1 - abs(row - column) / 30 for column in range(num_layers)] for row in range(num_layers + 4)]
    values[2][1] = float("nan")
    return SimilarityReport(name, "runs/other", "words", 5_000, 200, True, 256, values)


def near(num=3, name="river", context="by the *river* of words " * 8):
    found = [Neighbor(name, 0.9, context), Neighbor("lake", 0.25, context)]
    return NeighborsReport("runs/one", "words", 500, [Neighborhood(name, n, found, 0.1, 0.05) for n in range(num)])


PAGES = {
    "probing": lambda: probing_page(probing()),
    "one layer": lambda: probing_page(probing(1)),
    "similarity": lambda: similarity_page(similarity()),
    "large similarity": lambda: similarity_page(similarity(25, "a/very/long/name/of/a/run" * 6)),
    "neighbors": lambda: neighbors_page(near()),
    "hostile probing": lambda: probing_page(probing(name=HOSTILE)),
    "hostile similarity": lambda: similarity_page(similarity(3, HOSTILE)),
    "hostile neighbors": lambda: neighbors_page(near(name=HOSTILE, context=HOSTILE)),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_loads_nothing_and_runs_nothing_but_its_own(name):
    source = PAGES[name]()
    page = Parsed(source)
    assert len(source) < 500_000
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    for attribute in ("src", "href", "style", "onerror", "onclick"):
        assert page.with_attribute(attribute) == []
    [policy] = [content for tag, content in page.with_attribute("content") if "default-src" in content]
    assert "default-src 'none'" in policy


def test_the_page_of_a_probe_has_the_table_and_both_curves():
    report = probing()
    page = Parsed(probing_page(report))
    text = page.text("table")
    for each in report.layers:
        assert f"{each.accuracy.value:.4f}" in text
        assert f"{each.selectivity.value:+.4f}" in text
    assert "embeddings" in text
    titles = [data for around, data in page.texts if around[-1:] == ("title",) and ", layer" in data]
    assert len(titles) == 4 * len(report.layers)
    assert "accuracy, layer 3: 0.8000" in titles


def test_a_layer_whose_fit_did_not_end_is_marked():
    report = replace(probing(2), layers=[layer(0), layer(1, converged=False)])
    assert "1 (not converged)" in Parsed(probing_page(report)).text("table")


def test_the_map_has_a_cell_for_each_pair_with_its_value_as_colour():
    report = similarity(3)
    page = Parsed(similarity_page(report))
    cells = [attributes for tag, attributes in page.tags if tag == "rect"]
    assert len(cells) == 3 * 7 - 1
    assert [float(cell["fill-opacity"]) for cell in cells[:3]] == pytest.approx(report.values[0], abs=1e-3)
    # The first row is at the bottom.
    assert float(cells[0]["y"]) > float(cells[-1]["y"])
    assert "layers 2 and 1: not known" in page.text("svg")


def test_a_page_with_too_many_tables_says_how_many_are_missing():
    page = Parsed(neighbors_page(near(203)))
    assert "3 tables more did not fit on this page; JSON has all of them." in page.text("main")
    assert sum(tag == "table" for tag, _ in page.tags) == 200


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("representations")
    for number, draw in enumerate(PAGES.values()):
        (folder / f"{number}.html").write_text(draw(), encoding="utf-8")
    return {name: folder / f"{number}.html" for number, name in enumerate(PAGES)}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_the_window_and_the_browser_complains_about_nothing(browser, files, name, width, dark):
    browser.problems.clear()
    browser.open(files[name], width=width, dark=dark)
    assert browser.evaluate(WIDER % width) == []
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(24, 24, 27)" if dark else "rgb(255, 255, 255)")
    assert browser.problems == []
