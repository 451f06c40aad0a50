"""Odd names in a user's data and configuration: they are shown unchanged everywhere, and never cost a result."""

import json
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import markdown_it
import matplotlib
import numpy as np
import pytest

from bert_lightning.checkpoints.plain_text import markdown, markdown_block, markdown_code, printable, shortened
from bert_lightning.config.sections import WandbSettings
from bert_lightning.metrics.classification import classification_report
from bert_lightning.reports.report import write_report
from bert_lightning.runs import evaluation_files, weights_and_biases
from bert_lightning.runs.figures import as_svg, confusion_figure, drawn
from bert_lightning.tasks.fine_tuning.report import Evaluation, Report
from bert_lightning.training.progress import TrainingProgress

HOSTILE = [
    "$foo_$bar", "$HOME^$PATH", "a$b%c$d", "$x #1$", "$$", "$10_$20", "{$a}{$b}", "C:\\$a\\$b", "$10-$20",
    "US$ / AU$", "$a$ $b", "$\\frac{1}{0}$", "a_b^c{d}", "_hidden", "__all__", "*all*", "**", "`code`", "``",
    "a|b", "|", "\\", "\\|", "<script>alert(1)</script>", "</svg>", "-->", "]]>", "&amp;", "&", '"', "'",
    "a\nb", "a\r\nb", "a\tb", "a\x00b\x1b[31m", "a\u2028b", "\ud800", "日本語", "עברית", "العربية", "देवनागरी",
    "🙂", "é", "x" * 500, "日" * 300, "%s", "%(x)d", "{}", "{0}", "{", "}", "#1", "#", "~", "~~a~~", "[red]",
    "[/]", "[a](b)", ":smile:", "- a", "+ a", "..", "/", "", " ", "CON",
]  # fmt: skip


def texts(svg):
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("}text")]


def test_every_name_is_drawn_unchanged_and_without_a_warning(caplog):
    counts = np.eye(len(HOSTILE), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = drawn("picture", lambda: as_svg(confusion_figure(HOSTILE, counts)))
    assert not caplog.records
    expected = [shortened(printable(name), 40) for name in HOSTILE]
    # On both axes; an empty name leaves nothing to draw.
    for name in expected:
        assert not name.strip() or texts(svg).count(name) >= 2, name


def test_a_users_settings_of_matplotlib_do_not_turn_names_into_markup():
    with matplotlib.rc_context({"text.usetex": True, "text.parse_math": True, "svg.fonttype": "path"}):
        svg = as_svg(confusion_figure(["$a$", "b"], np.eye(2, dtype=np.int64)))
    assert texts(svg).count("$a$") == 2


def test_a_script_missing_in_the_font_is_one_warning_for_a_bitmap(tmp_path, caplog):
    figure = confusion_figure(["日本語の名前", "漢字"], np.eye(2, dtype=np.int64))
    assert drawn("the picture", lambda: figure.savefig(tmp_path / "a.png") or "done") == "done"
    [record] = caplog.records
    assert "the font lacks characters of some names" in record.message


def broken(*_):
    raise OverflowError("in\nmatplotlib")


def test_a_picture_that_cannot_be_drawn_is_only_a_warning(tmp_path, monkeypatch, caplog):
    task = SimpleNamespace(
        predictions=lambda *_: [{"label": "a"}],
        files=lambda *_: {},
        report=lambda *_: Report("text", {"classes": (["class"], [["a"]])}, (["a", "b"], np.eye(2, dtype=np.int64))),
    )
    evaluation = Evaluation(SimpleNamespace(is_labelled=True), [])
    evaluation_files.write_evaluation(tmp_path, "validation", task, evaluation, {"val/f1": 0.5})
    assert (tmp_path / "validation/confusion.svg").exists()
    monkeypatch.setattr(evaluation_files, "confusion_figure", broken)
    report = evaluation_files.write_evaluation(tmp_path, "validation", task, evaluation, {"val/f1": 0.25})
    assert report.text == "text"
    assert "confusion.svg could not be drawn: OverflowError: in\\nmatplotlib" in caplog.text
    # The earlier picture shows other scores.
    assert not (tmp_path / "validation/confusion.svg").exists()
    assert json.loads((tmp_path / "validation/report.json").read_text())["scores"] == {"val/f1": 0.25}

    logged = []
    run = SimpleNamespace(log=logged.append)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=run, Table=lambda **given: given, Image=broken))
    weights_and_biases.log_last_validation(tmp_path)
    assert [*logged[0], *logged[1], *logged[2]] == [
        f"validation/{title}" for title in ("predictions", "classes", "confusion counts")
    ]
    assert len(logged) == 3
    assert "the confusion matrix for W&B could not be drawn" in caplog.text


def rendered(source):
    """Render a document as CommonMark with tables, and return its text with code."""
    parser = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"])
    shown = []
    for token in parser.parse(source):
        if token.type == "inline":
            assert all(child.type in ("text", "code_inline", "text_special", "entity") for child in token.children), (
                token
            )
            shown.append("".join(child.content for child in token.children))
    return shown


@pytest.mark.parametrize("name", [name for name in HOSTILE if name.strip()])
def test_markdown_shows_every_name_unchanged(name):
    text = printable(name)
    table = f"| {markdown(name)} | {markdown_code(name, in_table=True)} |\n|---|---|\n| {markdown(name)} | b |\n"
    heading, code, cell, last = rendered(table)
    assert (heading, cell, last) == (text, text, "b")
    assert code.strip() == text.strip()
    assert rendered(f"# {markdown(name)}") == [text]
    assert rendered(f"- {markdown(name)}: more") == [f"{text}: more"]
    assert rendered(f"Run {markdown_code(name)}.") == [f"Run {text}."]
    [block] = markdown_it.MarkdownIt("commonmark").parse(markdown_block(f"{text}\n```\n", "yaml"))
    assert block.content == f"{text}\n```\n\n"


def test_a_report_holds_hostile_names_as_text_in_both_forms(tmp_path):
    for number, name in enumerate(["<script>alert(1)</script>", "a|b $x$ `c` *d*"]):
        folder = tmp_path / f"run-{number}|*{name[0] if name[0] != '<' else '`'}"
        folder.mkdir()
        (folder / "config.yaml").write_text(json.dumps({"experiment": "x", "task": "t", "data": {"train": name}}))
        (folder / "manifest.json").write_text(
            json.dumps({"ended": "finished", "sessions": [{"command": f"fit --data.train '{name}'"}]})
        )
        rows = [{"step": 1, "train/loss": 1.0, "val/$f_1$": 0.5, "val/a|b": 1}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folders = sorted(path for path in tmp_path.iterdir())
    write_report(folders, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    # The one that sorts tables.
    assert page.count("<script") == 1
    assert "&lt;script&gt;" in page
    assert "$f_1$" in page
    write_report(folders, tmp_path / "r.md")
    cells = rendered((tmp_path / "r.md").read_text())
    for text in ("data.train=a|b $x$ `c` *d*", "val/a|b", "val/$f_1$"):
        assert text in cells
    # A footnote names the run and its command.
    assert any(f"seed 0: {folders[0]}, 1 step," in cell and "fit --data.train" in cell for cell in cells)


def test_a_table_for_a_terminal_has_one_line_per_name():
    names = ["a\nb", "c\x1b[31md", "e"]
    lines = list(classification_report(np.eye(3, dtype=np.int64), names).lines())
    assert [line.split()[0] for line in lines[1:4]] == ["a\\nb", "c\\x1b[31md", "e"]


def test_the_line_of_a_validation_holds_names_that_rich_would_read_as_markup(capsys):
    metrics = {"val/[red]": 1.0, "val/[/]": 2.0, "val/:smile:": 3.0}
    trainer = SimpleNamespace(callback_metrics=metrics, global_step=5)
    TrainingProgress([]).on_validation_end(trainer, None)
    assert capsys.readouterr().err == "validation at step 5: [red] 1  [/] 2  :smile: 3\n"


@pytest.mark.parametrize(
    ("values", "message"),
    [({"project": "a/b"}, "project is"), ({"tags": ["x" * 65]}, "tags"), ({"tags": [""]}, "tags")],
)
def test_names_that_weights_and_biases_refuses_are_refused_before_training(values, message):
    with pytest.raises(ValueError, match=message):
        WandbSettings(**values)
    WandbSettings(mode="disabled", **values)
