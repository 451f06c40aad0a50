"""The page of explanations: its texts and colours, what it leaves out, and its maps in a browser."""

import base64
import json
import zlib

import numpy as np
import pytest

from bert_lightning.cli import main
from bert_lightning.errors import InputError
from bert_lightning.interpretability.explaining import METHODS, ExplanationSettings
from bert_lightning.reports import explanation_page as of_page
from bert_lightning.reports.explanation_page import CAPTIONS, PageContent, explanation_page
from bert_lightning.runs.explanation import ExplainedWord
from tests.support.fake_explanations import fake_explanation
from tests.support.pages import OPEN_ALL, WIDER, Parsed, contrast, palettes

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;]]>\u2028\ud800"


def page_of(method, *explanations, left_out=()):
    content = PageContent("runs/sst2", ExplanationSettings(method))
    for explanation in explanations:
        assert content.add(explanation)
    return explanation_page(content, left_out)


def test_every_method_has_a_caption():
    assert CAPTIONS.keys() == METHODS.keys()


@pytest.mark.parametrize("method", METHODS)
def test_the_page_shows_the_whole_text_with_each_word_in_the_shade_of_its_value(method):
    explanation = fake_explanation(method)
    parsed = Parsed(page_of(method, explanation))
    [(_, text)] = explanation.texts
    shown = "".join(data for around, data in parsed.texts if "p" in around and around[-1] in ("p", "span"))
    assert text in shown
    words = [attributes for tag, attributes in parsed.tags if tag == "span" and "data-w" in attributes]
    assert [int(each["data-w"]) for each in words] == [*range(len(explanation.words))]
    largest = max(abs(word.value) for word in explanation.words)
    for word, attributes in zip(explanation.words, words, strict=True):
        shade = round(6 * abs(word.value) / largest)
        assert attributes["class"] == (f"w {'n' if word.value < 0 else 'p'}{shade}" if shade else "w z")
        assert float(attributes["title"]) == pytest.approx(word.value, rel=0.01)


def test_words_that_are_not_read_are_grey_and_a_long_rest_is_counted():
    explanation = fake_explanation("occlusion", num_words=500)
    words = [word if number < 30 else word._replace(value=None) for number, word in enumerate(explanation.words)]
    object.__setattr__(explanation, "words", words)
    source = page_of("occlusion", explanation)
    assert source.count('class="w unread"') == 20
    assert "450 more words are not read for this score." in source


def test_only_a_few_unread_words_stand_before_the_window_that_is_read():
    explanation = fake_explanation("occlusion", num_words=500)
    words = [word if number >= 480 else word._replace(value=None) for number, word in enumerate(explanation.words)]
    object.__setattr__(explanation, "words", words)
    source = page_of("occlusion", explanation)
    assert source.count('data-w="') == 40
    assert 'data-w="460"' in source
    assert "460 more words are not read for this score." in source


def test_an_explanation_of_more_words_than_a_page_bears_is_refused(monkeypatch):
    monkeypatch.setattr(of_page, "_MOST_WORDS", 39)
    with pytest.raises(InputError, match="item 1: 40 words are read, and a page can show 39"):
        page_of("occlusion", fake_explanation("occlusion"))


def test_maps_hold_the_weights_between_words_to_one_step():
    explanation = fake_explanation("attention", num_words=20, layers=3, heads=4)
    parsed = Parsed(page_of("attention", explanation))
    blocks = [data for around, data in parsed.texts if around and around[-1] == "script"]
    [values] = json.loads(blocks[0])
    [weights] = [each.weights for each in explanation.maps]
    assert (values["layers"], values["heads"], values["tokens"]) == (3, 4, list(explanation.maps[0].tokens))
    for block, expected in zip(blocks[1:4], weights, strict=True):
        found = np.frombuffer(zlib.decompress(base64.b64decode(block)), np.uint8).reshape(expected.shape)
        np.testing.assert_allclose(found / 63, np.sqrt(expected), atol=0.5 / 63 + 1e-6)


def test_hostile_texts_are_text_in_every_place():
    explanation = fake_explanation("attention", num_words=3, target=HOSTILE, location=HOSTILE)
    word = ExplainedWord(HOSTILE, 0, 0, len(HOSTILE), 0.5)
    of_words = explanation.maps[0]._replace(tokens=[HOSTILE] * 5)
    for name, value in {"words": [word], "texts": [(HOSTILE, HOSTILE)] * 2, "predicted": HOSTILE}.items():
        object.__setattr__(explanation, name, value)
    object.__setattr__(explanation, "maps", (of_words,))
    source = page_of("attention", explanation, left_out=[HOSTILE])
    # One script, the values of the map, and its two blocks.
    assert source.count("<script") == 4
    assert "<img" not in source
    parsed = Parsed(source)
    assert not [
        name for _, attributes in parsed.tags for name in attributes if name.startswith("on") or name == "style"
    ]
    source.encode()


def test_a_page_ends_before_it_has_too_many_explanations_or_words(monkeypatch):
    monkeypatch.setattr(of_page, "_MOST_EXPLANATIONS", 3)
    content = PageContent("runs/sst2", ExplanationSettings("occlusion"))
    assert [content.add(fake_explanation("occlusion", seed=seed)) for seed in range(4)] == [True, True, True, False]
    assert "the first 3 explanations" in explanation_page(content, [])
    monkeypatch.setattr(of_page, "_MOST_WORDS", 100)
    content = PageContent("runs/sst2", ExplanationSettings("occlusion"))
    assert [content.add(fake_explanation("occlusion", 45)) for _ in range(3)] == [True, True, False]
    assert "write .json for all of it" in content.limit


def test_maps_for_which_there_is_no_room_are_reduced_to_the_mean_of_their_heads_and_then_left_out(monkeypatch):
    def size(content):
        return sum(len(block) for view in content.views for blocks in view.maps for block in blocks)

    one = PageContent("runs/sst2", ExplanationSettings("attention"))
    one.add(fake_explanation("attention", 40, layers=1, heads=8))
    room = int(1.5 * size(one))
    monkeypatch.setattr(of_page, "_MOST_MAPS", room)
    content = PageContent("runs/sst2", ExplanationSettings("attention"))
    for seed in range(12):
        assert content.add(fake_explanation("attention", 40, seed, layers=1, heads=8))
    heads = [json.loads(view.map_values)[0]["heads"] if view.map_values else 0 for view in content.views]
    assert heads == sorted(heads, reverse=True)
    assert {*heads} == {8, 1, 0}
    assert size(content) <= room
    assert "have no maps" in content.limit


@pytest.mark.parametrize("number", [0, 1, 2])
def test_words_stand_out_from_the_strongest_shades(number):
    colours = palettes(page_of("occlusion", fake_explanation("occlusion")))[number]

    def mixed(name, share=0.54):
        parts = [[int(colours[each][place : place + 2], 16) for place in (1, 3, 5)] for each in (name, "page")]
        return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in zip(*parts, strict=True))

    for name in ("s1", "s2"):
        assert contrast(colours["ink"], mixed(name)) >= 4.5, name


# -- the command -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_writes_a_page_or_json_and_leaves_out_what_has_no_words(classifier, tmp_path, capsys):
    texts = tmp_path / "texts.tsv"
    texts.write_text("sentence\nThe old cat sees.\n \nThe young dog.\n")
    options = ["explain", "--checkpoint", str(classifier), "--input", str(texts)]
    assert main([*options, "--output", str(tmp_path / "a.json"), "--method", "integrated-gradients"]) == 0
    out = capsys.readouterr().out
    assert "2 explanations of 3 inputs by integrated-gradients" in out
    assert "completeness: the values miss" in out
    assert "line 3: the input has no words" in out
    written = json.loads((tmp_path / "a.json").read_text())
    assert [len(each["words"]) for each in written["explanations"]] == [5, 4]
    assert "line 3" in written["left_out"][0]
    for each in written["explanations"]:
        total = sum(word["value"] for word in each["words"])
        assert total == pytest.approx(each["score"] - each["baseline_score"], abs=1e-3)
    assert main([*options, "--output", str(tmp_path / "a.html"), "--method", "rollout"]) == 0
    assert "line 3: the input has no words" in (tmp_path / "a.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("lines", "options", "message"), [
    ("a\n", ["--output", "a.txt"], "explanations end in .html or .json"),
    ("a\n", ["--output", "a.html", "--target", "animal"], "did you mean 'animals'"),
    ("a\n", ["--output", "a.html", "--points", "0"], "--points is 0; it must be between 1 and 1024"),
    ("a\n", ["--output", "a.html", "--replacement", "mask"], "--replacement is mask; it must be [MASK], "),
    (" \n", ["--output", "a.html"], "the input has no words"),
    ("", ["--output", "a.html"], "holds nothing to explain"),
])  # fmt: skip
def test_bad_input_is_one_message_and_no_file(classifier, tmp_path, capsys, monkeypatch, lines, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text(lines)
    assert main(["explain", "--checkpoint", str(classifier), "--input", "texts.txt", *options]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]


# -- in a browser --------------------------------------------------------------------------------------------------

SHADES = 'Array.from(document.querySelectorAll(".w")).map((each) => each.className.split(" ")[1])'
SAID = 'document.querySelector(".said").textContent'


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explanations")
    sources = {
        "signed": page_of(
            "integrated-gradients", *(fake_explanation("integrated-gradients", seed=n) for n in (1, 2))
        ),
        "attention": page_of("attention", fake_explanation("attention", 60, layers=3, heads=4)),
        "rollout": page_of("rollout", fake_explanation("rollout", 60, layers=3)),
        "long": page_of("attention", fake_explanation("attention", 510, layers=12, heads=12)),
    }
    for name, source in sources.items():
        (folder / f"{name}.html").write_text(source, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in sources}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["signed", "attention", "rollout"])
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_nothing_is_wider_than_the_window_and_the_browser_complains_about_nothing(browser, pages, name, width, dark):
    browser.problems.clear()
    browser.open(pages[name], width=width, dark=dark)
    assert browser.evaluate(WIDER % width) == []
    browser.evaluate(OPEN_ALL)
    if name != "signed":
        browser.wait_until('document.querySelector(".matrix")?.width > 10')
    assert browser.evaluate(WIDER % width) == []
    assert browser.problems == []


@pytest.mark.slow
def test_a_click_on_a_word_shows_its_value(browser, pages):
    explanation = fake_explanation("integrated-gradients", seed=1)
    browser.open(pages["signed"])
    browser.click('.w[data-w="7"]')
    assert browser.evaluate(SAID) == f"{explanation.words[7].text} {explanation.words[7].value:+.3g}"


@pytest.mark.slow
def test_a_chosen_word_colours_the_text_by_what_it_attends_to_in_the_chosen_head(browser, pages):
    [of_words] = fake_explanation("attention", 60, layers=3, heads=4).maps
    browser.open(pages["attention"])
    original = browser.evaluate(SHADES)
    browser.click(".map summary")
    browser.wait_until('document.querySelectorAll(".heads canvas").length === 5')
    browser.evaluate('document.querySelectorAll(".heads button")[2].click()')
    browser.wait_until('document.querySelectorAll(".heads button")[2].getAttribute("aria-pressed") === "true"')
    browser.click('.w[data-w="9"]')
    # The last block is shown first, the mean over heads stands before the heads, and [CLS] before the words.
    row = np.rint(63 * np.sqrt(of_words.weights[2, 1, 10, 1:-1])) ** 2
    shades = np.floor(6 * row / row.max() + 0.5).astype(int)
    assert browser.evaluate(SHADES) == [f"p{shade}" if shade else "z" for shade in shades]
    assert browser.evaluate(SAID).startswith(of_words.tokens[10])
    browser.click(".map summary")
    browser.wait_until(f'{SAID} === ""')
    assert browser.evaluate(SHADES) == original


@pytest.mark.slow
def test_a_text_of_512_tokens_in_12_blocks_of_12_heads_opens_on_demand(browser, pages):
    assert pages["long"].stat().st_size < 26_000_000
    browser.open(pages["long"], width=390)
    assert browser.evaluate('document.querySelectorAll("canvas").length') == 0
    browser.click(".map summary")
    browser.wait_until('document.querySelector(".matrix")?.width === 512')
    assert browser.evaluate(WIDER % 390) == []
    browser.evaluate('(() => { const s = document.querySelector("select:last-of-type"); s.value = "0"; '
                     's.dispatchEvent(new Event("change")); })()')  # fmt: skip
    browser.wait_until('document.querySelector(".matrix")?.width === 512')


@pytest.mark.slow
def test_the_page_prints_with_its_colours_in_light(browser, pages):
    browser.open(pages["signed"], width=794, dark=True, media="print")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate('getComputedStyle(document.querySelector(".w")).printColorAdjust') == "exact"
    assert browser.evaluate(WIDER % 794) == []


@pytest.mark.slow
def test_texts_and_values_are_there_without_a_script(browser, pages):
    browser.open(pages["attention"], scripts=False)
    assert browser.evaluate('document.querySelectorAll(".w").length') == 60
    assert browser.evaluate('document.querySelector(".w").title.length') > 2
