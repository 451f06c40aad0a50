"""The forms of a report: JSON by its contract, CSV, Markdown with footnotes, LaTeX that compiles as pasted."""

import csv
import json
import re
import shutil
import subprocess

import pytest

from bert_lightning.cli import main
from bert_lightning.config.published import Published
from bert_lightning.reports.latex_text import latex
from bert_lightning.studies.record import Compare
from tests.runs.test_hostile_names import HOSTILE
from tests.support.run_directories import write_run, write_study

BASE = {1: 0.80, 2: 0.81, 3: 0.79, 4: 0.80, 5: 0.82}
OURS = {1: 0.83, 2: 0.84, 3: 0.81, 4: 0.84, 5: 0.83}
LOW = {1: 0.71, 2: 0.72}
# What checks outside the project read.
CONTRACT = ["arm", "metric", "values", "mean", "sd", "n", "difference", "interval", "p", "p_adjusted", "test", "runs"]


@pytest.fixture
def study(tmp_path):
    figures = [Published("val/accuracy", 0.9, 0.01, "a paper of 2019")]
    states = {("sgd", 3): ("failed", "RuntimeError: 50 % of a_b"), ("lamb", 1): ("blocked", None)}
    compare = Compare(("val/accuracy",), "adamw", 0.005)
    arms = {"adamw": BASE, "muon": OURS, "sgd": LOW, "lamb": {}}
    return write_study(tmp_path / "s", arms, compare=compare, published={"muon": figures}, states=states)


def report(path, form, *options):
    output = path.parent / f"report.{form}"
    assert main(["report", str(path), "--output", str(output), *options]) == 0
    return output.read_text()


def test_json_is_a_list_with_the_promised_keys_and_leads_to_the_runs(study):
    entries = json.loads(report(study, "json"))
    assert all(entry.keys() >= {*CONTRACT} for entry in entries)
    muon = next(entry for entry in entries if entry["arm"] == {"optimizer.name": "muon"})
    assert muon["values"] == {str(seed): value for seed, value in OURS.items()}
    assert (muon["metric"], muon["n"], muon["test"]) == ("val/accuracy", 5, "paired t test")
    assert muon["mean"] == pytest.approx(0.83)
    assert muon["difference"] == pytest.approx(0.026)
    assert muon["interval"][0] < 0.026 < muon["interval"][1]
    assert muon["p_adjusted"] >= muon["p"]
    assert muon["runs"] == [f"{study}/runs/muon/seed-{seed}" for seed in OURS]
    assert muon["commands"][0] == f"bert-lightning reproduce {study}/runs/muon/seed-1"
    assert muon["published"] == [{"value": 0.9, "tolerance": 0.01, "within": False, "source": "a paper of 2019"}]
    lamb = next(entry for entry in entries if entry["label"] == "lamb")
    assert (lamb["n"], lamb["mean"], lamb["not_in_table"][0]["state"]) == (0, None, "blocked")


def test_json_and_csv_hold_null_for_what_is_not_finite(tmp_path):
    write_study(tmp_path / "s", {"adamw": BASE, "muon": {**OURS, 2: None}})
    muon = json.loads(report(tmp_path / "s", "json"))[1]
    assert muon["values"]["2"] is None
    assert muon["mean"] is None
    assert "NaN" not in report(tmp_path / "s", "csv")


def test_csv_has_a_line_per_arm_and_metric_with_the_runs(study):
    report(study, "csv")
    with open(study.parent / "report.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["adamw", "muon", "sgd", "lamb"]
    assert float(rows[1]["mean"]) == pytest.approx(0.83)
    assert json.loads(rows[1]["runs"])[0] == f"{study}/runs/muon/seed-1"
    assert (rows[1]["published_value"], rows[1]["published_within"]) == ("0.9", "False")
    assert rows[0]["difference"] == ""


def test_csv_of_runs_without_scores_has_its_header(tmp_path):
    run = write_run(tmp_path / "a", scores={"train/loss": 0.1})
    assert report(run, "csv").startswith("study,stage,task,")
    assert json.loads(report(run, "json")) == []


def test_markdown_marks_differences_and_leads_from_each_arm_to_its_runs_by_a_footnote(study):
    text = report(study, "md", "--range", "--checklist")
    assert "Which optimiser?" in text
    assert r"| muon | 5 | **0.8300 ± 0.0122**\* | [^2] |" in text
    [footnote] = [line for line in text.split("\n") if line.startswith("[^2]: ")]
    for seed in OURS:
        run = f"{study}/runs/muon/seed-{seed}"
        assert f"seed {seed}: `{run}`, 40 steps, outside a repository" in footnote
        assert f"`bert-lightning reproduce {run}`" in footnote
    assert f"| sgd | 3 | failed | {study}/runs/sgd/seed-3 | RuntimeError: 50 % of a_b |" in text
    assert "| muon | val/accuracy | 5 | 0.8300 | 0.8100 | 0.8400 | 0.8148 to 0.8452 | 1: 0.8300," in text
    assert "- muon: published val/accuracy 0.9 ± 0.01 (a paper of 2019): 0.8300, off by -0.0700" in text
    assert "| Number of training runs | 12 of 14 finished and are in the tables |" in text
    assert "| Runtime of each run | 60 s on average (60 to 60), over 12 runs |" in text


def test_latex_leads_from_each_row_to_its_runs_by_comments(study):
    text = report(study, "tex")
    [row] = [line for line in text.split("\n") if line.startswith("muon & 5")]
    assert row == r"muon & 5 & \textbf{0.8300 $\pm$ 0.0122}$^{*}$ \\ % [2]"
    comments = [line for line in text.split("\n") if line.startswith("% [2] muon, seed ")]
    assert len(comments) == 5
    assert comments[0].endswith(f"bert-lightning reproduce {study}/runs/muon/seed-1")
    assert f"% Not in the table: sgd, seed 3, {study}/runs/sgd/seed-3: failed: RuntimeError: 50 % of a_b" in text


def test_a_form_that_does_not_exist_and_a_checklist_for_programs_are_refused(study, capsys):
    assert main(["report", str(study), "--output", "r.pdf"]) == 2
    assert ".html, .md, .tex, .csv or .json" in capsys.readouterr().err
    assert main(["report", str(study), "--output", "r.json", "--checklist"]) == 2
    assert "only .html, .md and .tex can contain it" in capsys.readouterr().err


# -- LaTeX -------------------------------------------------------------------------------------------------------


def test_latex_escapes_what_rows_and_rules_would_take_as_an_argument():
    assert latex("[1em]") == "{[}1em{]}"
    assert latex("*") == "{*}"
    assert latex("--key") == "-{}-key"
    assert latex("日é") == r"{[}U+65E5{]}\'{e}"


def compiled(folder, text):
    """Compile tables as pasted into an article, and return the log."""
    if shutil.which("pdflatex") is None or not installed("booktabs.sty"):
        pytest.skip("pdflatex or booktabs is not installed (texlive-latex-base, texlive-latex-recommended)")
    source = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n" + text + "\\end{document}\n"
    (folder / "paper.tex").write_text(source)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120)
    log = (folder / "paper.log").read_text(errors="replace")
    assert done.returncode == 0, "\n".join(line for line in log.split("\n") if line.startswith("!"))
    return log


def installed(name):
    return bool(subprocess.run(["kpsewhich", name], capture_output=True).stdout.strip())


def too_wide(log):
    """Return how many points each box is too wide by."""
    return [float(width) for width in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide", log)]


@pytest.mark.slow
def test_the_latex_of_a_study_compiles_as_pasted_and_fits_the_line(study):
    log = compiled(study.parent, report(study, "tex", "--range", "--checklist"))
    assert not too_wide(log)


@pytest.mark.slow
def test_wide_tables_are_divided_and_fit_the_line(tmp_path):
    scores = {
        f"val/{name}": 0.5 for name in ("accuracy", "macro_f1", "micro_f1", "matthews", "entity_precision", "loss")
    }
    label = "optimizer.learning_rate=0.00001,data.masking.whole_word=true,schedule.warmup_share"
    for seed in (1, 2, 3):
        for arm in ("one", "two", "three"):
            config = {"optimizer": {"name": f"{label}={arm}"}}
            values = {name: value + seed * len(arm) * 1e-3 for name, value in scores.items()}
            write_run(tmp_path / arm / str(seed), seed, values, config, step=40 + len(arm))
    baseline = f"optimizer.name={label}=one"
    log = compiled(tmp_path, report(tmp_path, "tex", "--range", "--baseline", baseline))
    assert not too_wide(log)


@pytest.mark.slow
def test_the_latex_of_hostile_names_compiles(tmp_path):
    names = [name for name in HOSTILE if "\ud800" not in name and len(name) < 100]
    for number, name in enumerate(names):
        config = {"optimizer": {"name": name}, "published": []}
        message = f"error in {name}"
        write_run(tmp_path / f"{number}", 1, {"val/accuracy": 0.5, f"val/{name}": 0.1}, config)
        write_run(tmp_path / f"{number}-failed", 2, config=config, ended="failed", error=message)
    compiled(tmp_path.parent, report(tmp_path, "tex", "--metric", "val/accuracy", "--metric", "val/$foo_$bar"))
    (tmp_path.parent / "report.tex").unlink()


def test_the_command_names_failed_runs_and_counts_those_that_have_not_trained(tmp_path, capsys):
    states = {("sgd", 3): ("failed", "out of memory")} | {("sgd", seed): ("waiting", None) for seed in (4, 5, 6)}
    study = write_study(tmp_path / "s", {"adamw": BASE, "sgd": LOW}, states=states | {("lamb", 1): ("blocked", None)})
    report(study, "csv")
    [*lines, last] = [
        line.partition("not in the table: ")[2] or line for line in capsys.readouterr().out.splitlines()
    ]
    assert lines == ["3 runs waiting, 1 run blocked", f"{study}/runs/sgd/seed-3 failed (out of memory)"]
    assert last == f"report of 7 runs: {tmp_path / 'report.csv'}"
