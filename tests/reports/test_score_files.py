"""`score` from the shell: the output of the official scorers, and one message for each mistake."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from bert_lightning.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def score(capsys, *arguments: str):
    """Return the output of a successful command, read as JSON: nothing else may be on standard output."""
    status = main(["score", *arguments])
    out, error = capsys.readouterr()
    assert status == 0, error
    return json.loads(out)


def conll(capsys, gold: str | bytes, predicted: str | bytes, *options: str):
    write("gold.conll", gold)
    write("predicted.conll", predicted)
    return score(capsys, "conll", "--gold", "gold.conll", "--predictions", "predicted.conll", *options)


def write(name: str, content: str | bytes) -> None:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())


GOLD = "The O\nNew B-LOC\nYork I-LOC\nman O\n\nAnn B-PER\n"
PREDICTED = "The O\nNew I-LOC\nYork I-LOC\nman B-PER\n\nAnn B-LOC\n"


def test_conll_prints_what_conlleval_prints(folder, capsys):
    assert conll(capsys, GOLD, PREDICTED) == {
        "precision": 33.33,
        "recall": 50.0,
        "f1": 40.0,
        "accuracy": 40.0,
        "per_type": {
            "LOC": {"precision": 50.0, "recall": 100.0, "f1": 66.67},
            "PER": {"precision": 0.0, "recall": 0.0, "f1": 0.0},
        },
    }


def test_strict_counts_well_formed_entities_alone(folder, capsys):
    scores = conll(capsys, GOLD, PREDICTED, "--scheme", "strict")
    assert (scores["precision"], scores["recall"], scores["f1"]) == (0.0, 0.0, 0.0)
    assert scores["accuracy"] == 40.0
    assert conll(capsys, GOLD, GOLD, "--scheme", "strict")["f1"] == 100.0


@pytest.mark.parametrize(
    "changed",
    [
        GOLD.replace("\n", "\r\n"),
        GOLD.replace(" ", "\t"),
        GOLD.replace(" ", "  \t "),
        GOLD.replace("\n", " \t\n"),
        GOLD.rstrip("\n"),
        "\n\n" + GOLD.replace("\n\n", "\n \n\t\r\n\n"),
        "\ufeff" + GOLD,
        GOLD.replace(" ", " NN x "),
        GOLD.replace("\n\n", "\n-X- O O\n"),
        "".join(line.split()[-1] + "\n" if line else "\n" for line in GOLD.splitlines()),
    ],
)
def test_real_files_differ_in_line_ends_blanks_and_columns(folder, capsys, changed):
    assert conll(capsys, changed, PREDICTED) == conll(capsys, GOLD, PREDICTED)


def test_a_document_start_is_a_token_and_a_sentence_as_in_conlleval(folder, capsys):
    start = "-DOCSTART- O\n\n"
    # Three correct tags of six, not two of five.
    assert conll(capsys, start + GOLD, start + PREDICTED)["accuracy"] == 50.0


def test_spaces_of_unicode_are_tokens(folder, capsys):
    text = "x\tO\n\u00a0\tB-X\n\u2028\tI-X\n\x85\tO\n\tO\n"
    assert conll(capsys, text, text)["f1"] == 100.0


@pytest.mark.parametrize(("last", "single"), [("E", "S"), ("L", "U")])
def test_tags_of_other_schemes_give_the_same_entities_in_conlleval_mode(folder, capsys, last, single):
    changed = GOLD.replace("I-LOC", f"{last}-LOC").replace("B-PER", f"{single}-PER")
    scores = conll(capsys, GOLD, changed)
    assert (scores["f1"], scores["accuracy"]) == (100.0, 60.0)


def test_a_compressed_file_is_read(folder, capsys):
    import gzip

    Path("gold.gz").write_bytes(gzip.compress(GOLD.encode()))
    assert score(capsys, "conll", "--gold", "gold.gz", "--predictions", "gold.gz")["f1"] == 100.0


@pytest.mark.parametrize(
    ("gold", "predicted", "options", "message"),
    [
        (
            GOLD,
            GOLD.replace("B-PER", "X-PER"),
            "",
            "predicted.conll: line 6: the tag 'X-PER' is neither O nor one of B I E S L U [ ] . with",
        ),
        (GOLD.replace("B-PER", "PER"), GOLD, "", "gold.conll: line 6: the tag 'PER'"),
        (GOLD, GOLD.replace("B-PER", "S-PER"), "--scheme strict", "predicted.conll: line 6: the tag 'S-PER' is not"),
        (
            GOLD,
            GOLD.replace("Ann", "Bob"),
            "",
            "predicted.conll: line 6: the token is 'Bob', but 'Ann' in gold.conll: ",
        ),
        (
            GOLD,
            GOLD.replace("man O\n", ""),
            "",
            "predicted.conll: line 3: sentence 1 ends after 3 tokens, but continues in gold.conll: line 4",
        ),
        (
            GOLD,
            GOLD.replace("\n\n", "\n"),
            "",
            "gold.conll: line 4: sentence 1 ends after 4 tokens, but continues in pred",
        ),
        (
            GOLD,
            "The O\nNew O\nYork O\nman O\n",
            "",
            "the file ends after 1 sentence, but the next begins in gold.conll: ",
        ),
        (
            GOLD,
            GOLD + "\nx O\n",
            "",
            "gold.conll: the file ends after 2 sentences, but the next begins in predicted.conll",
        ),
        (
            GOLD,
            GOLD.replace("man O", "I"),
            "",
            "predicted.conll: line 4: a single column, but the lines before have a",
        ),
        ("O\nB-X\nx O\n", "O\nO\nO\n", "", "gold.conll: line 3: 2 columns, but the lines before have only a tag"),
        (GOLD, "", "", "predicted.conll: the file ends after 0 sentences, but the next begins in gold.conll: line 1"),
        ("\n \n", GOLD, "", "gold.conll: no token in this file"),
        (GOLD, b"x\xff O\n", "", "predicted.conll: line 1: byte 1 (0xff) is not UTF-8"),
    ],
)
def test_a_mistake_in_columns_is_named_with_file_and_line(folder, capsys, gold, predicted, options, message):
    write("gold.conll", gold)
    write("predicted.conll", predicted)
    command = f"score conll --gold gold.conll --predictions predicted.conll {options}"
    assert_bad_input(capsys, command, message)


def assert_bad_input(capsys, command: str, message: str) -> None:
    try:
        status = main(command.split())
    except SystemExit as stop:
        status = stop.code
    out, error = capsys.readouterr()
    assert (status, out) == (2, "")
    assert message in error
    assert "Traceback" not in error


def test_gold_without_entities_is_warned_about_and_scores_zero(folder, capsys, caplog):
    assert conll(capsys, "a O\n", "a O\n") == {
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "accuracy": 100.0,
        "per_type": {},
    }
    assert "gold.conll: no entity" in caplog.text


def test_types_in_one_file_alone_are_warned_about(folder, capsys, caplog):
    assert conll(capsys, "a B\nb O\n", "a B-X\nb O\n")["f1"] == 0
    assert "gold.conll: the tags have no types, but those of predicted.conll have types, so no entity" in caplog.text
    assert conll(capsys, "a B-X\nb O\n", "a B\nb O\n")["f1"] == 0
    assert "gold.conll: the tags have types, but those of predicted.conll have no types, so no entity" in caplog.text
    caplog.clear()
    assert conll(capsys, "a B-X\nb O\n", "a O\nb O\n")["f1"] == 0
    assert not caplog.records


def dataset(**answers: list[str]) -> str:
    questions = [
        {"id": question, "question": "?", "answers": [{"text": text, "answer_start": 0} for text in texts]}
        for question, texts in answers.items()
    ]
    return json.dumps({"version": "x", "data": [{"title": "t", "paragraphs": [{"context": "c", "qas": questions}]}]})


V1 = ["squad-v1.1", "--gold", "gold.json", "--predictions", "predicted.json"]
V2 = ["squad-v2.0", "--gold", "gold.json", "--predictions", "predicted.json"]


def test_squad_v1_scores_missing_answers_0_and_ignores_unknown_ones_with_a_warning(folder, capsys, caplog):
    write("gold.json", dataset(a=["cat"], b=["dog"]))
    write("predicted.json", json.dumps({"a": "the cat", "c": "x", "d": "y"}))
    with caplog.at_level(logging.WARNING):
        assert score(capsys, *V1) == {"exact_match": 50.0, "f1": 50.0}
    assert "predicted.json: a prediction is missing for 1 of 2 questions; the first of them is 'b'" in caplog.text
    assert "ignored 2 values for questions that the data set does not have; the first of them is 'c'" in caplog.text


def test_warnings_are_on_standard_error_and_only_json_on_standard_output(folder):
    write("gold.json", dataset(a=["cat"], b=["dog"]))
    write("predicted.json", json.dumps({"a": "the cat"}))
    command = [sys.executable, "-m", "bert_lightning", "score", *V1]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"exact_match": 50.0, "f1": 50.0}
    assert done.stderr.startswith("WARNING: predicted.json: a prediction is missing for 1 of 2 questions")


def test_squad_v2_reports_best_thresholds_with_probabilities_only(folder, capsys):
    write("gold.json", dataset(a=["cat"], b=[]))
    write("predicted.json", json.dumps({"a": "cat", "b": "dog"}))
    write("odds.json", json.dumps({"a": -2.5, "b": 0.5}))
    assert "best_f1" not in score(capsys, *V2)
    report = score(capsys, *V2, "--no-answer-probability", "odds.json", "--no-answer-threshold", "0.25")
    assert (report["exact"], report["NoAns_f1"], report["best_exact"]) == (100.0, 100.0, 100.0)
    assert (report["best_exact_thresh"], report["best_f1_thresh"]) == (-2.5, -2.5)


GOOD = {
    "gold.json": dataset(a=["cat"], b=["dog"]),
    "predicted.json": '{"a": "x", "b": "y"}',
    "odds.json": '{"a": 0, "b": 0}',
}


@pytest.mark.parametrize(
    ("command", "file", "content", "message"),
    [
        (V1, "predicted.json", '{"a": "x",\n "b"}', "predicted.json: line 2: not JSON: "),
        (V1, "predicted.json", "", "predicted.json: line 1: not JSON"),
        (V1, "predicted.json", '["x"]', "an object of question id and prediction is expected, not a list"),
        (V1, "predicted.json", '{"a": null}', "predicted.json: the prediction of 'a' is null; text is expected"),
        (V1, "predicted.json", '{"a": ["x"]}', "the prediction of 'a' is a list; text is expected"),
        (V1, "predicted.json", '{"a": 3}', "the prediction of 'a' is 3; text is expected"),
        (V1, "predicted.json", '{"a": "x", "a": "y"}', "predicted.json: the key 'a' occurs twice"),
        (V1, "predicted.json", "[" * 100_000, "predicted.json: not JSON"),
        (
            V1,
            "gold.json",
            dataset(a=["x"], b=[]),
            "gold.json: the question 'b' has no answer, which v1.1 does not allow",
        ),
        (V1, "gold.json", dataset(), "gold.json: no question in this data set"),
        (V1, "gold.json", '{"data": []}', "gold.json: no question in this data set"),
        (V1, "gold.json", '{"a": "x"}', "gold.json: this is not a SQuAD data set: it has no 'data'"),
        (
            V1,
            "gold.json",
            "[]",
            "gold.json: this is not a SQuAD data set: an object with 'data' is expected, not a list",
        ),
        (V1, "gold.json", '{"data": [{"title": "t"}]}', "gold.json: data[0]: it has no 'paragraphs'"),
        (
            V1,
            "gold.json",
            '{"data": [{"paragraphs": [{"qas": [{"id": 7}]}]}]}',
            "gold.json: data[0].paragraphs[0].qas[0]: 'id' is 7; text is expected",
        ),
        (
            V1,
            "gold.json",
            '{"data": [{"paragraphs": [{"qas": [{"id": "q", "answers": ["cat"]}]}]}]}',
            "gold.json: the question 'q': an answer: an object with 'text' is expected, not text",
        ),
        (
            V1,
            "gold.json",
            dataset(a=["cat"], b=["dog"]).replace('"b"', '"a"'),
            "gold.json: the question 'a': its id occurs twice",
        ),
        (
            V2,
            "predicted.json",
            '{"b": "x"}',
            "predicted.json: a prediction is missing for 1 of 2 questions; the first of them",
        ),
        (V2, "odds.json", '{"a": 0}', "odds.json: a no-answer probability is missing for 1 of 2"),
        (V2, "odds.json", '{"a": NaN, "b": 0}', "odds.json: the no-answer probability of 'a' is nan; a finite"),
        (V2, "odds.json", '{"a": "0.5", "b": 0}', "the no-answer probability of 'a' is text; a finite number"),
        (V2, "odds.json", '{"a": true, "b": 0}', "the no-answer probability of 'a' is True; a finite number"),
        (V2, "odds.json", f'{{"a": 1{"0" * 400}, "b": 0}}', "the no-answer probability of 'a' is 1000"),
        ([*V2, "--no-answer-threshold", "nan"], "odds.json", "{}", "--no-answer-threshold is nan"),
        ([*V1, "--scheme", "strict"], "odds.json", "{}", "unexpected argument '--scheme'"),
        (["squad-v1.1", "--gold", "none.json", "--predictions", "x"], "odds.json", "{}", "none.json: no such file"),
        (["squad-v1.1", "--gold", ".", "--predictions", "x"], "odds.json", "{}", ".: cannot be read"),
        (["squad"], "odds.json", "{}", "invalid choice: 'squad'"),
    ],
)
def test_a_mistake_in_squad_files_is_named(folder, capsys, command, file, content, message):
    for name, text in {**GOOD, file: content}.items():
        write(name, text)
    more = ["--no-answer-probability", "odds.json"] if command[:5] == V2 else []
    assert_bad_input(capsys, " ".join(["score", *command, *more]), message)


@pytest.mark.real_data
def test_the_commands_print_what_the_official_scorers_do(folder, capsys, real_data):
    golden = json.loads((real_data / "golden/ner_conlleval.json").read_text())
    files = [
        "\n".join("".join(f"{n}\t{tag}\n" for n, tag in enumerate(s[side])) for s in golden["sentences"])
        for side in ("gold", "pred")
    ]
    scores = conll(capsys, *files)
    _, overall, *rows = golden["conlleval_report"].splitlines()
    printed = [float(word.rstrip("%;")) for word in overall.split()[1::2]]
    assert [scores[key] for key in ("accuracy", "precision", "recall", "f1")] == printed
    for (kind, values), row in zip(scores["per_type"].items(), rows, strict=True):
        name, figures = row.strip().split(":", 1)
        assert kind == name
        assert list(values.values()) == [float(word.rstrip("%;")) for word in figures.split()[1:6:2]]

    for version, command in (("1.1", V1), ("2.0", V2)):
        golden = json.loads((real_data / f"golden/squad_v{version}_scores.json").read_text())
        write("gold.json", json.dumps(golden["dataset"]))
        write("predicted.json", json.dumps(golden["predictions"]))
        more = []
        if "no_answer_probability" in golden:
            write("odds.json", json.dumps(golden["no_answer_probability"]))
            more = ["--no-answer-probability", "odds.json"]
        assert score(capsys, *command, *more) == golden["expected"]
