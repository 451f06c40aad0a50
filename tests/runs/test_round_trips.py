"""Files that we write: their consumers read them, even with odd words, labels and names."""

import json
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary, read_vocabulary, write_vocabulary
from bert_lightning.cli import main
from bert_lightning.config.experiment import load_experiment
from bert_lightning.config.yaml_files import dump_yaml
from bert_lightning.data.corpus.preparation import prepare
from bert_lightning.data.corpus.token_store import TokenStore
from bert_lightning.data.datasets.readers.tagged import as_column, read_tagged
from bert_lightning.data.pretraining.published_generator import GoogleSettings, google_instances
from bert_lightning.data.reading.tables import read_rows
from bert_lightning.model import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from bert_lightning.reports.report import write_report
from bert_lightning.reports.score_files import score_conll_files, score_squad_v1_files, score_squad_v2_files
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.resuming import may_change
from bert_lightning.studies.comparison import read_run
from bert_lightning.tasks.question_answering.data import QuestionAnsweringDataModule
from bert_lightning.tasks.question_answering.decoding import WindowScores
from bert_lightning.tasks.question_answering.settings import QuestionAnsweringData
from bert_lightning.tasks.question_answering.task import QuestionAnsweringTask
from bert_lightning.tasks.text_classification.data import TextClassificationDataModule
from bert_lightning.tasks.text_classification.settings import TextClassificationData
from bert_lightning.tasks.text_classification.task import TextClassificationTask
from bert_lightning.tasks.token_classification.data import TokenClassificationDataModule
from bert_lightning.tasks.token_classification.settings import TokenClassificationData
from bert_lightning.tasks.token_classification.task import TokenClassificationTask
from bert_lightning.text.original import OriginalEncoding
from bert_lightning.text.wordpiece import WordPieceTokenizer, load_tokenizer
from bert_lightning.training import metrics_file
from tests.support.task_data import squad, write_jsonl

# Line breaks of Unicode among them, which `str.splitlines` would cut at.
ODD = [
    "\u00a0", "a\u2028b", "a\u0085b", "\u3000", "\ufeffcat", "\u200bdog", "\U0001f600", "\u4eba\u540d", "#1", "#",
    "=", "|", "||", '"', "''", "\\", "\\n", "a|b", "a,b", "[x]", "{y}", "<b>&amp;", "$x$", "yes", "null", "1e3",
    "-X-", "-DOCSTART-", "${HOME}", "%d", "cafe\u0301",
]  # fmt: skip


def tiny(tokenizer) -> BertConfig:
    return BertConfig.preset("tiny", vocab_size=len(tokenizer), num_hidden_layers=1)


# -- tags --------------------------------------------------------------------------------------------------------


def tagged_run(path, tokenizer, folder, **settings):
    """Return the scores that a run would log, and write its files, for random outputs on a file."""
    data = TokenClassificationDataModule(
        TokenClassificationData(train=str(path), validation=str(path), **settings), tokenizer
    )
    with torch.device("meta"):
        model = BertForTokenClassification(tiny(tokenizer), labels=data.labels)
    task = TokenClassificationTask(model, model.config, tokenizer, data.settings, data.labels)
    split = data.splits["validation"]
    generator = np.random.default_rng(1)
    outputs = [generator.normal(size=(len(window.words), len(data.labels))) for window in split.windows]
    # Half of the tags are correct, so that entities are found.
    for window, output in zip(split.windows, outputs, strict=True):
        gold = task._gold(split)[window.sentence]
        for row, word in enumerate(window.words):
            output[row, data.labels.index(gold[word])] += 2.0
    for name, content in task.files(split, outputs).items():
        (folder / name).write_text(content, encoding="utf-8", newline="")
    write_jsonl(folder / "validation.jsonl", task.predictions(split, outputs))
    return task.scores(split, outputs, split.subsets[0]), task, split


GOLD_FILES = {
    "document starts": (
        ".conll",
        "-DOCSTART- -X- O O\n\nAnn NNP I-NP B-PER\nsold VBD O O\n\n-DOCSTART- O\nRome X Y B-LOC\n",
    ),
    "one line of a document start": (".conll", "-DOCSTART-\n\nAnn B-PER\nsold O\n\n-DOCSTART- O\n\nRome B-LOC\n"),
    "comments": (".conll", "# id a1\nAnn\tB-PER\nsold\tO\n\n# text = x\n# id a2\nRome\tB-LOC\n"),
    "a word that is a number sign": (".conll", "# B-PER\nsold O\n\nRome B-LOC\n#1 O\n# O\n"),
    "words with spaces": (".conll", "New York\tB-LOC\nwas\tO\n a  b \tO\n\nAnn\tB-PER\n"),
    "no-break spaces": (".conll", "Ann B-PER\n\u00a0 O\nsold\u00a0it O\n\u3000 O\n\nRome B-LOC\n"),
    "line breaks of Unicode": (".tsv", "Ann\tB-PER\na\u2028b\tO\na\u0085\tO\n\x0b\tO\n\nRome\tB-LOC\n"),
    "byte-order marks": (".conll", "\ufeff\ufeffAnn B-PER\n\ufeff O\n\nRome B-LOC\n"),
    "carriage returns": (".conll", "Ann B-PER\r\nsold O\r\n\r\nRome B-LOC\r\n"),
    "the boundary of conlleval as a word": (".conll", "Ann B-PER\n-X- O\nsold O\n\nRome B-LOC\n"),
    "blanks at line ends": (".conll", "Ann B-PER \nsold O\t\n \nRome B-LOC\n\n\n"),
    "IOB1": (".conll", "Ann I-PER\nBo B-PER\nCy I-PER\nsold O\n\nRome I-LOC\n"),
    "BIOES": (".conll", "Ann S-PER\nBo B-PER\nCy E-PER\nsold O\n\nRome S-LOC\nOslo S-LOC\n"),
    "BILOU": (".conll", "Ann U-PER\nBo B-PER\nCy L-PER\nsold O\n\nRome U-LOC\nOslo U-LOC\n"),
    "broken tags": (".conll", "Ann I-PER\nBo B-PER\nCy I-LOC\nsold O\n\nRome I-LOC\nOslo B-LOC\n"),
    "no types": (".conll", "Ann B\nBo B\nCy I\nsold O\n\nRome B\n"),
    "no types, BIOES": (".conll", "Ann S\nBo B\nCy E\nsold O\n\nRome S\n"),
    "types with blanks": (".tsv", "Ann\tB-creative work\nBo\tI-creative work\nsold\tO\n\nRome\tB-\u4eba \u540d\n"),
    "a type that is 0": (".conll", "Ann B-0\nBo I-0\nsold O\n\nRome B-1\n"),
    "CoNLL-U": (
        ".conllu",
        "# newdoc\n# text = a b\n1-2\tab\t_\t_\n1\ta a\t_\tNOUN\n2\tb\t_\tVERB\n2.1\tc\t_\tX\n\n"
        "1\t#\t_\tPUNCT\n2\t\u00a0\t_\tNOUN\n",
    ),
    "parts of speech": (".conll", "Ann NNP\n( -LRB-\nsold VBD\n\nRome NNP\n. .\n"),
    "plain labels with blanks": (".tsv", "Ann\ta name\nsold\tno name\n\nRome\ta name\n"),
    "JSONL": (
        ".jsonl",
        json.dumps({"tokens": ["-DOCSTART-", "New York", "\u00a0", "-X-"], "ner_tags": ["O", "B-LOC", "O", "O"]})
        + "\n"
        + json.dumps({"tokens": ["#", "a\tb", "c\nd"], "ner_tags": ["B-PER", "I-PER", "O"]}),
    ),
}


@pytest.mark.parametrize("name", GOLD_FILES)
def test_scoring_a_runs_predictions_against_any_gold_file_gives_the_runs_figures(tmp_path, tokenizer, name):
    suffix, text = GOLD_FILES[name]
    gold = tmp_path / f"gold{suffix}"
    gold.write_text(text, encoding="utf-8", newline="")
    logged, task, split = tagged_run(gold, tokenizer, tmp_path)
    scores = score_conll_files(str(gold), str(tmp_path / "predictions.conll"))
    assert scores["accuracy"] == pytest.approx(100 * logged["accuracy"], abs=0.005001)
    if task.spans:
        assert scores["f1"] == pytest.approx(100 * logged["entity_f1"], abs=0.005001)
        assert scores["recall"] == pytest.approx(100 * logged["entity_recall"], abs=0.005001)
    # Every line has the three columns that conlleval.pl needs; none is its sentence boundary.
    lines = (tmp_path / "predictions.conll").read_text(encoding="utf-8").split("\n")
    assert {len(line.split(" ")) for line in lines if line} == {3}
    assert not any(line.startswith("-X- ") for line in lines)
    assert sum(map(bool, lines)) == sum(len(example.words) for example in split.examples)
    # A file scored against itself is perfect, however it is read.
    assert score_conll_files(str(gold), str(gold))["accuracy"] == 100.0


def test_other_columns_of_the_gold_file_are_named(tmp_path, tokenizer, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = "1\tAnn\tB-PER\tO\n2\tBerg\tI-PER\tO\n\n1\tRome\tB-LOC\tB-PER\n"
    (tmp_path / "gold.tsv").write_text(text)
    logged, *_ = tagged_run("gold.tsv", tokenizer, tmp_path, token_column="1", tag_column="2")
    command = ["score", "conll", "--gold", "gold.tsv", "--predictions", "predictions.conll"]
    assert main(command) == 2
    assert "the token is 'Ann', but '1' in gold.tsv: line 1" in capsys.readouterr().err
    assert main([*command, "--token-column", "1", "--tag-column", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["f1"] == pytest.approx(100 * logged["entity_f1"], abs=0.005001)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"token_column": "1", "tag_column": "2"}, "1\tAnn\tB-PER\tO\n2\tBerg\tI-PER\tO\n\n1\tRome\tB-LOC\tB-PER\n"),
        ({"dataset": "conll2003-pos"}, "-DOCSTART- -X- O O\n\nAnn NNP I-NP B-PER\nsold VBD O O\n"),
    ],
)
def test_the_gold_file_of_predictions_in_a_run_directory_is_read_as_by_the_run(tmp_path, tokenizer, data, text):
    gold = tmp_path / "train.txt"
    gold.write_text(text)
    values = {
        "experiment": "e",
        "task": "token-classification",
        "model": {"size": "tiny"},
        "trainer": {"max_steps": 1},
    }
    directory = RunDirectory(tmp_path / "run")
    directory.write_config(load_experiment([], [], {**values, "data": {**data, "train": str(gold)}}).to_dict())
    folder = directory.predictions / "validation"
    folder.mkdir(parents=True)
    logged, *_ = tagged_run(gold, tokenizer, folder, **data)
    scores = score_conll_files(str(gold), str(folder / "predictions.conll"))
    assert scores["accuracy"] == pytest.approx(100 * logged["accuracy"], abs=0.005001)


def test_predicted_rows_are_read_as_data_and_as_raw_input(tmp_path, tokenizer):
    rows = [{"tokens": ODD, "tags": ["B-a: b", *["O"] * (len(ODD) - 1)]}, {"tokens": ["", "x"], "tags": ["O", "O"]}]
    rows[1]["tokens"][0] = "\u2028"
    path = write_jsonl(tmp_path / "gold.jsonl", rows)
    _, task, split = tagged_run(path, tokenizer, tmp_path)
    again = list(read_tagged(str(tmp_path / "validation.jsonl")))
    assert [each.words for each in again] == [row["tokens"] for row in rows]
    raw = [task.example_of(row) for row in read_rows(str(tmp_path / "validation.jsonl"))]
    assert [each.words for each in raw] == [each.words for each in split.examples]


def test_only_columns_with_blanks_are_changed(tmp_path):
    assert [as_column(word) for word in ("a b", "\u00a0", "\ufeffa", "-X-", " a\u2028 ")] == [
        "a_b",
        "_",
        "a",
        "_X_",
        "a",
    ]
    for word in ODD:
        assert len(as_column(word).split()) == 1
        if word.split() == [word] and "\ufeff" not in word and word != "-X-":
            assert as_column(word) == word


# -- questions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("no_answer", [False, True])
def test_scoring_a_runs_answers_gives_the_runs_figures(tmp_path, tokenizer, no_answer):
    gold = squad(random.Random(0), 9, no_answer)
    for number, paragraph in enumerate(gold["data"][0]["paragraphs"]):
        question = paragraph["qas"][0]
        question["id"] = ODD[number]
        paragraph["context"] += f' {ODD[-number]} "\u2028" \t \U0001f600'
    path = tmp_path / "gold.json"
    path.write_text(json.dumps(gold, ensure_ascii=False), encoding="utf-8")
    settings = QuestionAnsweringData(
        train=str(path), validation=str(path), max_seq_length=40, max_question_length=12, doc_stride=8
    )
    data = QuestionAnsweringDataModule(settings, tokenizer)
    with torch.device("meta"):
        model = BertForQuestionAnswering(tiny(tokenizer))
    task = QuestionAnsweringTask(model, model.config, tokenizer, settings, no_answer=data.no_answer)
    split = data.splits["validation"]
    generator = np.random.default_rng(0)
    outputs = []
    for window in split.windows:
        positions = np.sort(generator.choice(np.arange(window.length), min(5, window.length), replace=False))
        scores = generator.normal(size=(2, len(positions))).astype(np.float32)
        outputs.append(WindowScores(positions, scores[0], positions, scores[1], float(generator.normal())))
    for name, content in task.files(split, outputs).items():
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    task.trainer = SimpleNamespace(testing=False)
    logged = task.scores(split, outputs, split.subsets[0])
    predictions = str(tmp_path / "predictions.json")
    if not no_answer:
        scores = score_squad_v1_files(str(path), predictions)
        assert (scores["exact_match"], scores["f1"]) == pytest.approx((logged["squad_exact"], logged["squad_f1"]))
        return
    odds = str(tmp_path / "null_odds.json")
    scores = score_squad_v2_files(str(path), predictions, odds)
    assert scores["best_f1"] == pytest.approx(logged["squad_best_f1"])
    assert scores["best_exact"] == pytest.approx(logged["squad_best_exact"])


# -- texts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["text", "label", "probabilities", "gold", "a: b"])
def test_predicted_texts_are_read_as_raw_input(tmp_path, tokenizer, column):
    labels = ["yes", "null", "1e3", "a: b", "[x]", "on", "$a$", "a\u2028b"]
    rows = [{column: text, "class": labels[number % 8]} for number, text in enumerate(ODD)]
    path = str(write_jsonl(tmp_path / "gold.jsonl", rows))
    settings = TextClassificationData(train=path, validation=path, text_column=column, label_column="class")
    data = TextClassificationDataModule(settings, tokenizer)
    with torch.device("meta"):
        model = BertForSequenceClassification(tiny(tokenizer), labels=data.labels)
    task = TextClassificationTask(model, model.config, tokenizer, settings, data.labels)
    split = data.splits["validation"]
    predicted = task.predictions(split, list(np.eye(8)[split.labels]))
    written = list(read_rows(str(write_jsonl(tmp_path / "validation.jsonl", predicted))))
    assert [row.values["label"] for row in written] == [row.values["gold"] for row in written]
    assert {label for row in written for label in row.values["probabilities"]} == set(labels)
    # A text column with the name of a result is written as `text`.
    own = column in ("label", "probabilities", "gold")
    assert [row.values["text" if own else column] for row in written] == ODD
    if not own:
        assert [task.example_of(row).text for row in written] == ODD


# -- configuration and run directory -----------------------------------------------------------------------------

NAMES = [
    *ODD,
    "no", "on", "~", "1E5", "1_000", "0x1F", "0o17", "1:30", "12", "1.5", "true", "<<", "", "*a", "&a", "!x", "%x",
    "@x", "`x", ">", "-", "?", "2001-01-01", ".nan", ".inf", "+1", "1e", "a: b", "- a", "x #y", " lead", "trail ",
    "a\tb", "a\nb", "a\r\nb", "\x1b",
]  # fmt: skip


def experiment_of(texts: list[str], **data):
    values = {
        "experiment": "1e3",
        "task": "text-classification",
        "model": {"size": "tiny"},
        "data": {"train": "train.tsv", "tokenizer": "vocab.txt", "column_names": texts, **data},
        "trainer": {"max_steps": 3},
        "wandb": {"mode": "disabled", "tags": texts},
    }
    return load_experiment([], [], values)


def assert_reads_back(experiment, folder) -> None:
    directory = RunDirectory(folder)
    directory.write_config(experiment.to_dict())
    again = load_experiment([directory.config])
    assert again.to_dict() == experiment.to_dict()
    assert again.identity == experiment.identity
    assert load_experiment([], [], directory.read_config()).identity == experiment.identity


def test_a_resolved_configuration_reads_back_to_the_same_experiment(tmp_path):
    weights = {name: 2.0 for name in NAMES if "${" not in name}
    experiment = experiment_of(NAMES, class_weights=weights)
    assert experiment.data.column_names == experiment.wandb.tags == NAMES
    assert experiment.data.class_weights == weights
    assert_reads_back(experiment, tmp_path)


@pytest.mark.parametrize("name", ["1e3", "#x", "~", "a\u0085b", "${HOME}", "a: b"])
def test_a_variable_holds_any_text(tmp_path, monkeypatch, name):
    monkeypatch.setenv("ODD_NAME", name)
    experiment = experiment_of([name, "b"], text_column="${ODD_NAME}", validation="${ODD_NAME}")
    assert experiment.data.text_column == experiment.data.validation == name
    monkeypatch.delenv("ODD_NAME")
    assert_reads_back(experiment, tmp_path)


def test_a_dollar_before_a_variable_keeps_it_as_text(monkeypatch):
    monkeypatch.setenv("ODD_NAME", "x")
    values = {"experiment": "e", "task": "pretraining", "model": {"size": "tiny"}, "trainer": {"max_steps": 1}}
    experiment = load_experiment([], [], {**values, "data": {"train": "a$${ODD_NAME}/${ODD_NAME}/$$${ODD_NAME}"}})
    assert experiment.data.train == "a${ODD_NAME}/x/$${ODD_NAME}"


def test_metrics_manifest_and_reports_keep_odd_names(tmp_path):
    directory = RunDirectory(tmp_path / "<b>|run")
    directory.path.mkdir()
    directory.write_config(
        {"experiment": "e", "task": "text-classification", "data": {"train": "a|b\n<i>\u2028"}, "seed_everything": 1}
    )
    directory.update_manifest(ended="finished", sessions=[{"command": "fit '<script>|`\u2028", "git": None}])
    rows = [{"step": 1, "val/a\u2028b|<i>": 0.5, "val/nan": math.nan, "train/loss": 1e-300}]
    for row in rows:
        metrics_file.append(directory.metrics, row)
    [read] = directory.read_metrics()
    assert math.isnan(read.pop("val/nan"))
    assert {name: read[name] for name in rows[0] if name != "val/nan"} == {
        name: value for name, value in rows[0].items() if name != "val/nan"
    }
    assert directory.read_manifest()["sessions"][0]["command"] == "fit '<script>|`\u2028"
    assert read_run(directory.path).config == directory.read_config()
    write_report([directory.path], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>|" not in page
    assert "<i>" not in page
    write_report([directory.path], tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    tables = [line for line in text.split("\n") if "|" in line and not line.startswith("[^")]
    # Each row of a table has the same number of unescaped bars.
    assert all(line.startswith("| ") and line.endswith(" |") for line in tables)
    bars = [line.replace("\\|", "").count("|") for line in tables]
    assert len(set(bars)) <= 2


# -- tokenizer, instances and store ------------------------------------------------------------------------------


def odd_tokenizer(tokenizer) -> WordPieceTokenizer:
    # A line of vocab.txt loses blanks at its end, as in transformers; no text has a word of blanks alone.
    odd = (word for word in ODD if word == word.rstrip() and word not in tokenizer.entries)
    entries = [*tokenizer.entries, *odd, "##\u2028b"]
    return WordPieceTokenizer(Vocabulary(tuple(entries), lowercase=True))


def test_a_vocabulary_with_odd_entries_is_read_back_unchanged(tmp_path, tokenizer):
    odd = odd_tokenizer(tokenizer)
    odd.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.entries == odd.entries
    assert again.fingerprint == odd.fingerprint
    (tmp_path / "saved/vocab.txt").unlink()
    assert load_tokenizer(tmp_path / "saved").entries == odd.entries
    write_vocabulary(odd.vocabulary, tmp_path / "exported", max_length=16)
    vocabulary = read_vocabulary(tmp_path / "exported")
    assert vocabulary is not None
    assert vocabulary.entries == odd.entries


def test_instances_and_store_hold_the_words_of_odd_text(tmp_path, tokenizer):
    odd = odd_tokenizer(tokenizer)
    lines = [f"{word} cat {word} dog" for word in ODD]
    text = tmp_path / "corpus.txt"
    text.write_text("\n".join([*lines[:12], "", *lines[12:]]) + "\n", encoding="utf-8", newline="")
    settings = GoogleSettings(
        max_seq_length=24, max_predictions_per_seq=3, masked_lm_prob=0.15, dupe_factor=1, short_seq_prob=0.1,
        whole_word=False, seed=1,
    )  # fmt: skip
    written = list(google_instances([str(text)], OriginalEncoding(odd.entries, True), odd.entries, settings))
    path = tmp_path / "instances.jsonl"
    path.write_text("".join(line + "\n" for line in written), encoding="utf-8", newline="")
    instances = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert len(instances) == len(written)
    assert all({*each["tokens"], *each["masked_lm_labels"]} <= set(odd.entries) for each in instances)
    prepare([str(text)], odd, tmp_path / "store", num_workers=1)
    store = TokenStore(tmp_path / "store")
    store.verify()
    assert store.tokenizer.entries == odd.entries
    assert store.num_tokens == sum(map(len, odd.encode_batch(lines)))


# -- whole runs --------------------------------------------------------------------------------------------------


def configuration(folder, name, **values):
    folder.mkdir(parents=True, exist_ok=True)
    small = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    common = {
        "experiment": "1e3",
        "model": {"size": "tiny", "config": small},
        "trainer": {
            "max_steps": 3,
            "accelerator": "cpu",
            "precision": "32",
            "deterministic": True,
            "log_every_n_steps": 1,
        },
        "wandb": {"mode": "disabled"},
    }
    path = folder / name
    path.write_text(dump_yaml(common | values), encoding="utf-8")
    return str(path)


@pytest.mark.slow
def test_a_run_with_odd_names_is_repeated_exported_predicted_and_reported_from_its_own_files(
    tmp_path, tokenizer, capsys
):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "a b #1 é=x"
    odd = odd_tokenizer(tokenizer)
    odd.save(folder / "vocabulary: [x]")
    labels = ["yes", "null", "1e3", "a: b", "[x]", "on", "a|b", "a\u2028b"]
    rows = [{"a: b": f"{text} cat", "1e3": labels[number % 8]} for number, text in enumerate(ODD)]
    data = {"tokenizer": str(folder / "vocabulary: [x]"), "text_column": "a: b", "label_column": "1e3"}
    for split in ("train", "validation"):
        data[split] = str(write_jsonl(folder / f"{split}.jsonl", rows))
    data |= {"class_weights": dict.fromkeys(labels, 2.0), "max_seq_length": 16, "batch_size": 4}
    config = configuration(folder, "#.yaml", task="text-classification", data=data)
    run = folder / "run"
    assert main(["fit", "--config", config, "--run-directory", str(run)]) == 0
    # The resolved configuration belongs to the same run, which is finished.
    assert main(["fit", "--config", str(run / "config.yaml"), "--run-directory", str(run)]) == 0
    assert load_experiment([run / "config.yaml"]).identity == load_experiment([folder / "#.yaml"]).identity
    assert main(["reproduce", str(run), "--output", str(folder / "again")]) == 0
    assert main(["validate", "--checkpoint", str(run)]) == 0
    assert main(["report", str(run), "--output", str(folder / "report.html")]) == 0
    capsys.readouterr()

    written = run / "predictions/validation.jsonl"
    output = folder / "p.jsonl"
    assert main(["predict", "--checkpoint", str(run), "--input", str(written), "--output", str(output)]) == 0
    before, now = (list(read_rows(str(path))) for path in (written, output))
    assert [row.values["a: b"] for row in now] == [row["a: b"] for row in rows]
    assert [row.values["label"] for row in now] == [row.values["label"] for row in before]

    first, second = folder / "out", folder / "2"
    for source, output in ((run, first), (first, second)):
        assert main(["export", "--checkpoint", str(source), "--format", "huggingface", "--output", str(output)]) == 0
    model, again = map(transformers.AutoModelForSequenceClassification.from_pretrained, map(str, (first, second)))
    assert sorted(model.config.id2label.values()) == sorted(labels)
    assert load_tokenizer(first).entries == load_tokenizer(second).entries == odd.entries
    assert again.config.id2label == model.config.id2label
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())

    command = ["features", "--checkpoint", str(second), "--input", str(written), "--text-column", "a: b"]
    assert main([*command, "--form", "cls", "--output", str(folder / "f.parquet")]) == 0
    assert [row.values["text"] for row in read_rows(str(folder / "f.parquet"))] == [row["a: b"] for row in rows]
    assert main([*command, "--form", "cls", "--output", str(folder / "f.safetensors")]) == 0
    tensors = load_file(folder / "f.safetensors")
    assert len(tensors["states"]) == len(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["document starts", "comments", "words with spaces", "BIOES", "no types", "CoNLL-U", "JSONL"]
)
def test_a_tagging_run_is_scored_from_its_files_by_every_command(tmp_path, tokenizer, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    tokenizer.save(tmp_path / "tokenizer")
    suffix, text = GOLD_FILES[name]
    (tmp_path / f"gold{suffix}").write_text(text, encoding="utf-8", newline="")
    files = dict.fromkeys(("train", "validation", "test"), f"gold{suffix}")
    data = {**files, "tokenizer": "tokenizer", "max_seq_length": 16, "window_overlap": 4, "batch_size": 2}
    config = configuration(tmp_path, "experiment.yaml", task="token-classification", data=data)
    assert main(["fit", "--config", config, "--run-directory", "run"]) == 0
    for command, split in (("validate", "validation"), ("test", "test")):
        assert main([command, "--checkpoint", "run"]) == 0
        capsys.readouterr()
        predictions = f"run/predictions/{split}/predictions.conll"
        assert main(["score", "conll", "--gold", f"gold{suffix}", "--predictions", predictions]) == 0
        scores = json.loads(capsys.readouterr().out)
        report = json.loads((tmp_path / f"run/predictions/{split}/report.json").read_text())["scores"]
        stage = "val" if split == "validation" else "test"
        assert scores["accuracy"] == pytest.approx(100 * report[f"{stage}/accuracy"], abs=0.005001)
        if f"{stage}/entity_f1" in report:
            assert scores["f1"] == pytest.approx(100 * report[f"{stage}/entity_f1"], abs=0.005001)


@pytest.mark.slow
def test_a_run_that_took_letters_for_plain_labels_continues_if_the_scheme_is_named(
    tmp_path, tokenizer, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "gold.conll").write_text("cat B\ndog I\nthe O\n\nhouse B\n")
    data = {"train": "gold.conll", "validation": "gold.conll", "tokenizer": "tokenizer", "max_seq_length": 16}
    data |= {"window_overlap": 4, "batch_size": 2, "source_scheme": "none"}
    config = configuration(tmp_path, "experiment.yaml", task="token-classification", data=data)
    command = ["fit", "--config", config, "--run-directory", "run"]
    assert main(command) == 0

    # The state of a stopped run of an earlier version, which read such tags as labels without a setting.
    directory = RunDirectory(tmp_path / "run")
    values = directory.read_config()
    values["data"]["source_scheme"] = "auto"
    directory.write_config(values)
    directory.update_manifest(ended=None)
    command.append("--data.source_scheme")
    capsys.readouterr()
    assert main([*command, "auto"]) == 2
    assert "its labels differ; set data.source_scheme to none to read all tags as" in capsys.readouterr().err
    assert main([*command, "none"]) == 0
    assert directory.read_config()["data"]["source_scheme"] == "none"
    assert "val/macro_f1" in read_run(tmp_path / "run").rows[-1]
    # The other direction would be another training.
    assert main([*command, "auto"]) == 2


@pytest.mark.parametrize("old", ["auto", "none", "IOB2", "BIOES", None])
@pytest.mark.parametrize("new", ["auto", "none", "IOB2", "BIOES"])
def test_a_run_continues_with_another_scheme_only_if_plain_labels_are_named(old, new):
    assert may_change("data.source_scheme", old, new) is ((old, new) == ("auto", "none"))
