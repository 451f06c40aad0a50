"""`bert-lightning init`: for every task the file loads, explains its keys, and trains on the data it was made for."""

import json
import random
import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.cli import main
from bert_lightning.config.experiment import load_experiment
from bert_lightning.config.keys import all_sections
from bert_lightning.config.yaml_files import read_yaml
from bert_lightning.data.corpus.token_store import TokenStore
from bert_lightning.runs.starting_file import _OPTIONS
from bert_lightning.tasks.catalogue import TASKS
from bert_lightning.tasks.rebuilding import checkpoint_tokenizer
from bert_lightning.text.wordpiece import load_tokenizer
from tests.support.task_data import task_data

SHORT = """
model: {config: {hidden_size: 16, num_attention_heads: 2, intermediate_size: 16}}
trainer: {max_epochs: null, max_steps: 1, accelerator: cpu, precision: 32}
wandb: {mode: disabled}
"""


def train(file: str) -> int:
    """Train the experiment of a file for one step, with a small model."""
    Path("short.yaml").write_text(SHORT)
    return main(["fit", "--config", file, "short.yaml", "--run-directory", "run"])


@pytest.fixture
def sources(tmp_path, monkeypatch, tables, corpus):
    """Working folder, and a function from a task to its training and validation data."""
    monkeypatch.chdir(tmp_path)

    def files(task: str) -> tuple[str, str]:
        if task == "pretraining":
            return str(corpus), str(corpus)
        folder = tmp_path / "files"
        folder.mkdir()
        settings = task_data(task, tables, folder)
        return settings["train"], settings["validation"]

    return files


def options_of(text: str) -> list[str]:
    """Return the lines of options that are not set."""
    return [line for line in text.splitlines() if re.match(r" *#[^ #]", line)]


@pytest.mark.parametrize("task", TASKS)
def test_the_file_that_init_writes_for_data_trains(sources, task, capsys):
    source, validation = sources(task)
    assert main(["init", task, "--data", source, "--validation", validation, "--output", "first.yaml"]) == 0
    assert "run `bert-lightning fit --config first.yaml`" in capsys.readouterr().out
    assert train("first.yaml") == 0
    assert "val/" in capsys.readouterr().out
    assert Path("run/checkpoints/last.ckpt").exists()


@pytest.mark.parametrize("task", TASKS)
def test_a_file_without_data_loads_and_says_what_to_fill_in(sources, task, capsys):
    assert main(["init", task]) == 0
    assert "fill in what says path/to" in capsys.readouterr().out
    experiment = load_experiment([f"{task}.yaml"])
    assert experiment.task == task
    assert "path/to/train" in Path(f"{task}.yaml").read_text()


@pytest.mark.parametrize("task", TASKS)
def test_every_option_of_a_file_can_be_set(sources, task):
    assert main(["init", task]) == 0
    text = Path(f"{task}.yaml").read_text()
    sections = [line for line in options_of(text) if line.endswith(":")]
    for line in options_of(text):
        if line in sections or "pretrained" in line or "dataset" in line:
            continue
        chosen = text.replace(f"\n{line}\n", f"\n{line.replace('#', '', 1)}\n")
        # The section that holds it.
        before = text[: text.index(f"\n{line}\n")].splitlines()
        parents = {}
        for each in before:
            if re.match(r" *#?\w+:$", each):
                indent = len(each) - len(each.lstrip())
                parents = {depth: name for depth, name in parents.items() if depth < indent} | {indent: each}
        for depth, parent in parents.items():
            if "#" in parent and depth < len(line) - len(line.lstrip()):
                chosen = chosen.replace(f"\n{parent}\n", f"\n{parent.replace('#', '', 1)}\n")
        Path("chosen.yaml").write_text(chosen)
        load_experiment(["chosen.yaml"])
        key = line.replace("#", "").partition(":")[0].strip()
        assert f"{key}:" in str(yaml.safe_load(chosen)).replace("'", ""), line


def test_every_option_that_files_suggest_is_a_key_of_some_task():
    assert set(_OPTIONS) <= {key.path for section in all_sections() for key in section.keys}


@pytest.mark.parametrize("task", TASKS)
def test_every_key_of_a_file_has_a_comment(sources, task):
    assert main(["init", task]) == 0
    lines = Path(f"{task}.yaml").read_text().splitlines()
    for before, line in pairwise(lines):
        if re.match(r" *#?\w+: ", line):
            assert re.match(r" *# ", before), line


def test_the_file_names_columns_labels_and_lengths_of_the_data(sources, tables):
    source, _ = sources("text-classification")
    assert main(["init", "text-classification", "--data", source]) == 0
    text, data = Path("text-classification.yaml").read_text(), read_yaml(Path("text-classification.yaml"))["data"]
    assert (data["text_column"], data["label_column"], data["train"]) == ("sentence", "topic", source)
    flat = " ".join(text.replace("#", " ").split())
    assert "Found 96 examples with 3 labels: animals, nature, places." in flat
    tokenizer = load_tokenizer(data["tokenizer"])
    rows = [line.split("\t")[0] for line in Path(source).read_text().splitlines()[1:]]
    lengths = sorted(len(ids) + 2 for ids in tokenizer.encode_batch(rows))
    assert f"the longest {lengths[-1]}." in flat
    assert data["max_seq_length"] >= lengths[-1]
    assert tokenizer.vocabulary.lowercase is True


def test_long_texts_get_a_length_that_covers_99_of_100(sources):
    generator = random.Random(1)
    lengths = [generator.randrange(20, 90) for _ in range(300)] + [400]
    rows = [{"text": " ".join(["word"] * n), "label": "ab"[n % 2]} for n in lengths]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["init", "text-classification", "--data", "a.jsonl"]) == 0
    longest = read_yaml(Path("text-classification.yaml"))["data"]["max_seq_length"]
    assert longest % 8 == 0
    assert sorted(lengths)[-4] + 2 <= longest < 104


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"text": f"a {n}", "label": n / 3} for n in range(30)], "regression"),
        ([{"text": f"a {n}", "label": ["x", "y"][: n % 3]} for n in range(30)], "multi-label"),
    ],
)
def test_the_kind_of_problem_is_set_and_trains(sources, rows, problem, capsys):
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["init", "text-classification", "--data", "a.jsonl", "--output", "b.yaml"]) == 0
    assert read_yaml(Path("b.yaml"))["data"]["problem"] == problem
    assert train("b.yaml") == 0


def test_a_file_that_starts_from_a_checkpoint_uses_its_vocabulary(sources, tables, home, capsys):
    command = ["init", "text-classification", "--data", str(tables["train"]), "--output", "b.yaml"]
    assert main([*command, "--pretrained", str(home / "runs/whole")]) == 0
    values = read_yaml(Path("b.yaml"))
    assert values["model"] == {"pretrained": str(home / "runs/whole")}
    assert "tokenizer" not in values["data"]
    assert not Path("b-data").exists()
    command = ["fit", "--config", "b.yaml", "--run-directory", "run", "--wandb.mode", "disabled"]
    assert main([*command, "--trainer.accelerator", "cpu"]) == 0


def test_text_for_a_checkpoint_is_encoded_with_its_vocabulary(sources, corpus, home):
    command = ["init", "pretraining", "--data", str(corpus), "--output", "b.yaml"]
    assert main([*command, "--pretrained", str(home / "runs/whole")]) == 0
    values = read_yaml(Path("b.yaml"))
    vocabulary = checkpoint_tokenizer(read_checkpoint(home / "runs/whole")).fingerprint
    assert TokenStore(values["data"]["train"]).tokenizer.fingerprint == vocabulary
    assert not Path("b-data/vocabulary").exists()
    command = ["fit", "--config", "b.yaml", "--run-directory", "run", "--wandb.mode", "disabled"]
    assert (
        main([*command, "--trainer.accelerator", "cpu", "--trainer.max_epochs", "null", "--trainer.max_steps", "1"])
        == 0
    )


def test_a_length_is_not_more_than_the_positions_of_the_checkpoint(sources, home):
    Path("a.jsonl").write_text("".join(f'{{"text": "{"The cat. " * 90}", "label": {n % 2}}}\n' for n in range(9)))
    command = ["init", "text-classification", "--data", "a.jsonl", "--pretrained", str(home / "runs/whole")]
    assert main(command) == 0
    values = read_yaml(Path("text-classification.yaml"))
    positions = load_experiment([home / "pretraining.yaml"]).model.config["max_position_embeddings"]
    assert values["data"]["max_seq_length"] == positions


def test_a_token_store_is_used_as_it_is(sources, store):
    assert main(["init", "pretraining", "--data", str(store), "--output", "b.yaml"]) == 0
    assert read_yaml(Path("b.yaml"))["data"]["train"] == str(store)
    assert not Path("b-data").exists()


def test_validation_text_is_encoded_with_the_vocabulary_of_the_store(sources, store, corpus):
    command = ["init", "pretraining", "--data", str(store), "--validation", str(corpus), "--output", "b.yaml"]
    assert main(command) == 0
    values = read_yaml(Path("b.yaml"))["data"]
    fingerprints = [TokenStore(values[split]).tokenizer.fingerprint for split in ("train", "validation")]
    assert fingerprints[0] == fingerprints[1]


OWN_TASK = """
import dataclasses

from bert_lightning.tasks.catalogue import TASKS, register_task
from bert_lightning.tasks.text_classification.settings import TextClassificationData
from bert_lightning.tasks.text_classification.task import TextClassificationTask


@dataclasses.dataclass(frozen=True)
class StanceData(TextClassificationData):
    \"\"\"Data of stances.

    Attributes:
        neutral: the label of texts without a stance.
    \"\"\"

    neutral: str = "none"


class StanceTask(TextClassificationTask):
    name = "stance"


register_task(
    dataclasses.replace(TASKS["text-classification"], name="stance", data_settings=StanceData, task=StanceTask)
)
"""


def test_a_task_of_a_users_module_has_a_file_and_a_list_of_keys(sources, tables, capsys):
    Path("my_stances.py").write_text(OWN_TASK)
    command = ["init", "stance", "--data", str(tables["train"]), "--validation", str(tables["validation"])]
    assert main(command) == 2
    assert "task is 'stance'" in capsys.readouterr().err
    try:
        assert main([*command, "--allow-module", "my_stances"]) == 0
        assert "fit --config stance.yaml --allow-module my_stances" in capsys.readouterr().out
        assert read_yaml(Path("stance.yaml"))["modules"] == ["my_stances"]
        assert "#neutral: none" in Path("stance.yaml").read_text()
        assert main(["keys", "data.neutral", "--allow-module", "my_stances"]) == 0
        assert "the label of texts without a stance." in capsys.readouterr().out
        Path("short.yaml").write_text(SHORT)
        fit = ["fit", "--config", "stance.yaml", "short.yaml", "--run-directory", "run"]
        assert main([*fit, "--allow-module", "my_stances"]) == 0
    finally:
        TASKS.pop("stance", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("text-clasification", "did you mean 'text-classification'"),
        ("text-classification --data none.tsv", "none.tsv: no such file"),
        ("text-classification --data bytes.tsv", "bytes.tsv: line 2: byte"),
        ("text-classification --data ragged.tsv", "ragged.tsv: line 3: this line has 1 columns"),
        ("text-classification --data one.tsv", "every row has the label 'x'"),
        ("text-classification --data empty.tsv", "empty.tsv: there are no examples"),
        ("text-classification --data file.xlsx", "expected a file that ends in .tsv"),
        ("text-classification --data good.tsv --validation none.tsv", "none.tsv: no such file"),
        ("text-classification --data good.tsv --validation other.tsv", "other.tsv: line 2: the label 'z' does not"),
        ("text-classification --data good.tsv --pretrained nothing", "nothing does not exist"),
        ("text-classification --data good.tsv --output there.yaml", "there.yaml exists and is not overwritten"),
        ("text-classification --data good.tsv --output vocabulary.yaml", "vocabulary-data exists and is not"),
        ("text-classification --data good.tsv --output good.tsv/a.yaml", "good.tsv"),
        ("text-classification --output .", ". exists and is not overwritten"),
        ("text-classification --data=", "the name is empty"),
        ("text-classification --validation good.tsv", "--validation does nothing without --data"),
        ("text-classification --data good.tsv --labels 3", "unexpected argument '--labels'"),
        ("token-classification --data good.conll", "good.conll: line 1: 'word' and 'tag' are names of columns"),
        ("text-classification --allow-module no_such", "--allow-module no_such cannot be imported"),
        ("question-answering --data good.tsv", "good.tsv: line 2"),
        ("question-answering --data broken.json", "broken.json"),
        ("pretraining --data none.txt", "none.txt: no such file"),
        ("pretraining --data blank.txt", "there is no text to train on in blank.txt"),
        ("pretraining --data good.tsv.zip", "good.tsv.zip"),
    ],
)
def test_a_mistake_gives_one_message_status_two_and_no_file(sources, arguments, message, capsys):
    Path("good.tsv").write_text("text\tlabel\n" + "a b\tx\nc d\ty\n" * 8)
    Path("other.tsv").write_text("text\tlabel\na\tz\n")
    Path("one.tsv").write_text("text\tlabel\na\tx\nb\tx\n")
    Path("empty.tsv").write_text("text\tlabel\n")
    Path("ragged.tsv").write_text("text\tlabel\na\tx\nb\n")
    Path("bytes.tsv").write_bytes(b"text\tlabel\n\xff\tx\n")
    Path("there.yaml").write_text("mine")
    Path("vocabulary-data").mkdir()
    Path("good.conll").write_text("word tag\nAnn B-PER\n")
    Path("broken.json").write_text('{"data": [')
    Path("blank.txt").write_text(" \n")
    before = sorted(map(str, Path().rglob("*")))
    try:
        status = main(["init", *arguments.split()])
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert "Traceback" not in error
    assert sorted(map(str, Path().rglob("*"))) == before
    assert Path("there.yaml").read_text() == "mine"
