"""Mistakes of users: exit status 2, one message that names the location, no traceback, no partial output."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
import yaml

from bert_lightning.cli import main
from bert_lightning.data.pretraining.instances import dynamic_instances
from bert_lightning.data.pretraining.masking import TokenMasking
from bert_lightning.data.pretraining.module import PretrainingDataModule
from bert_lightning.data.pretraining.settings import PretrainingData
from bert_lightning.text.wordpiece import load_tokenizer

COMMANDS = (
    *(
        "tokenizer",
        "prepare",
        "convert-store",
        "instances",
        "keys",
        "init",
        "fit",
        "reproduce",
        *("ablate", "search", "runs", "compare", "power"),
        "validate",
        "test",
        "score",
        "predict",
    ),
    *(
        "features",
        "classify",
        "explain",
        "probe",
        "cka",
        "neighbors",
        "submission",
        "export",
        "report",
        "wandb-push",
        "doctor",
    ),
)


@pytest.fixture
def folder(tmp_path, monkeypatch, corpus, store, tables, tokenizer) -> Path:
    """Working folder with good and bad files under short names."""
    monkeypatch.chdir(tmp_path)
    Path("good.txt").write_bytes(corpus.read_bytes())
    Path("empty.txt").touch()
    Path("blank.txt").write_text("\n \n")
    Path("bytes.txt").write_bytes(b"One.\nTwo \xff.\n")
    Path("rows.ndjson").write_text('{"text": "One."}\n')
    Path("LOOP").symlink_to("LOOP")
    Path("train.tsv").write_bytes(tables["train"].read_bytes())
    Path("plain.yaml").write_text(
        f"experiment: x\ntask: pretraining\nmodel: {{size: tiny}}\ndata: {{train: {store}, num_workers: 0}}\n"
        "trainer: {max_steps: 2, accelerator: cpu, precision: 32}\n"
    )
    tokenizer.save(Path("tok"))
    Path("classify.yaml").write_text(
        "experiment: x\ntask: text-classification\nmodel: {size: tiny}\n"
        "data: {train: train.tsv, text_column: sentence, label_column: topic, tokenizer: tok}\n"
        "trainer: {max_steps: 2, accelerator: cpu, precision: 32}\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("tokenizer --input none.txt --vocab-size 99 --output out", "none.txt: no such file"),
        ("tokenizer --input empty.txt --vocab-size 99 --output out", "no text to train on in empty.txt"),
        (
            "tokenizer --input empty.txt blank.txt --vocab-size 99 --output out",
            "no text to train on in 2 inputs, the first of them empty.txt",
        ),
        ("tokenizer --input bytes.txt --vocab-size 99 --output out", "bytes.txt: line 2: byte 9 (0xff) is not UTF-8"),
        ("tokenizer --input EMPTY --vocab-size 99 --output out", "the name of an input is empty"),
        (
            "prepare --input good.txt rows.ndjson --tokenizer tok --output out",
            "rows.ndjson: .ndjson is not read as text",
        ),
        ("instances --input good.txt EMPTY --tokenizer tok", "the name of an input is empty"),
        ("instances --input good.txt --tokenizer tok --show -1", "--show is -1; it must be at least 1"),
        ("instances --input good.txt --tokenizer tok --show 0", "--show is 0; it must be at least 1"),
        ("instances --input good.txt --tokenizer tok --output blank.txt/x", "blank.txt: this is a file; a folder is"),
        ("report TWO\0PARTS --output r.html", "'TWO\\x00PARTS' is not UTF-8 or holds a zero byte"),
        ("instances --input good.txt --tokenizer tok --output LOOP", "LOOP: Too many levels of symbolic links"),
        ("fit --config classify.yaml --data.train=", "data.train is empty: name a file or folder"),
        ("fit --config plain.yaml --data.validation=", "data.validation is empty: name a file or folder"),
        ("fit --config bytes.txt", "bytes.txt: line 2: byte 9 (0xff) is not UTF-8"),
        ("report LOOP --output r.html", "LOOP is not a run directory"),
        ("reproduce LOOP", "LOOP is not a run directory"),
        ("fit --config plain.yaml --resume LOOP", "it must be auto, never or the path of a checkpoint"),
        ("tokenizer --input good.txt --vocab-size 9 --output out", "too small: the alphabet of good.txt"),
        ("tokenizer --input good.txt --vocab-size 99 --output .", "choose another --output"),
        ("prepare --input good.txt --tokenizer none --output out", "none does not exist"),
        ("prepare --input empty.txt --tokenizer tok --output out", "the corpus is empty: no text in empty.txt"),
        (
            "prepare --input empty.txt blank.txt --tokenizer tok --output out",
            "no text in 2 inputs, the first of them emp",
        ),
        ("prepare --input bytes.txt --tokenizer tok --output out", "bytes.txt: line 2: byte 9"),
        ("prepare --input good.txt --tokenizer tok --output tok", "choose another --output"),
        ("prepare --input good.txt --tokenizer tok --output out --cased", "uncased"),
        ("prepare --input good.txt --tokenizer tok --output good.txt/x", "good.txt/x: cannot be written"),
        ("prepare --input good.txt --tokenizer tok --output out --workers 0", "--workers is 0"),
        ("prepare --input good.txt --tokenizer tok --output out --document-start (", "must be a regular expression"),
        ("prepare --input good.txt --tokenizer tok --output out --workers 2 --scheduler x", "--workers counts"),
        ("prepare --input hub: --tokenizer tok --output out", "names no data set"),
        (
            "instances --input good.txt --tokenizer tok --output out --dupe-factor 2",
            "--dupe-factor is not an option of the dynamic",
        ),
        ("instances --input good.txt --tokenizer tok --output out --masking spam", "did you mean 'span'"),
        ("instances --input good.txt --tokenizer tok --output out --objective nxt-sentence", "'next-sentence'"),
        ("instances --input good.txt --tokenizer tok --output out --whole-word --masking span", "contradict"),
        ("instances --input good.txt --tokenizer tok --output out --masked-lm-prob 0", "--masked-lm-prob is 0.0"),
        (
            "instances --input good.txt --tokenizer tok --output out --algorithm google --epoch 1",
            "--epoch is not an option of",
        ),
        (
            "instances --input good.txt --tokenizer tok --output out --algorithm google --layout paragraphs",
            "one segment per line",
        ),
        ("instances --input train.tsv --tokenizer tok --output out --algorithm google", "reads plain text"),
        ("instances --input empty.txt --tokenizer tok --output out --algorithm google", "the corpus is empty"),
        ("instances --input bytes.txt --tokenizer tok --output out", "bytes.txt: line 2: byte 9"),
        ("fit --config none.yaml", "none.yaml: no such file"),
        ("fit --config plain.yaml --loss_weights.nps_loss 2", "did you mean 'loss_weights.nsp_loss'"),
        ("fit --config plain.yaml --loss_weights.nsp_loss -1", "loss_weights.nsp_loss is -1"),
        ("fit --config plain.yaml --data.objective order", "data.objective: expected one of"),
        ("fit --config plain.yaml --data.stages [{from_step:1,batch_size:4}]", "data.stages.0"),
        ("fit --config plain.yaml --data.stages 3", "data.stages: a list is expected"),
        ("fit --config plain.yaml --trainer.max_stps 3", "unknown key 'trainer.max_stps'; did you mean"),
        ("fit --config plain.yaml --trainer.max_steps lots", "trainer.max_steps: expected int or null, got 'lots'"),
        ("fit --config plain.yaml --data.train none", "none: no such folder"),
        ("fit --config plain.yaml --data.train tok", "tok has no manifest.json"),
        ("fit --config plain.yaml --data.batch_size 3 --trainer.accumulate_grad_batches 2", "multiple of 2"),
        ("fit --config plain.yaml --data.max_seq_length 4", "max_seq_length is 4"),
        ("fit --config plain.yaml --data.max_seq_length 600", "more than the model's positions (512)"),
        ("fit --config plain.yaml --model.config.hidden_sze 64", "did you mean 'model.config.hidden_size'"),
        (
            "fit --config plain.yaml --checkpoint.monitor val/x --data.validation STORE",
            "checkpoint.monitor is 'val/x'",
        ),
        ("fit --config plain.yaml --run-directory tok", "not empty and is not a run directory"),
        ("fit --config plain.yaml --resume nothing", "it must be auto, never or the path of a checkpoint"),
        ("fit --config classify.yaml --data.train none.tsv", "none.tsv: no such file"),
        ("fit --config classify.yaml --data.text_column text", "no column 'text'; the columns are: sentence, topic"),
        ("fit --config classify.yaml --data.tokenizer null", "data.tokenizer is not set"),
        ("fit --config classify.yaml --trainer.max_steps null --trainer.max_epochs 0.01", "less than one batch"),
        ("fit --config classify.yaml --model.size null --model.pretrained none", "none does not exist"),
        ("fit --config plain.yaml --checkpoint.monitor val/los --early_stopping.patience 1", "did you mean 'val/"),
        ("fit --config plain.yaml --data.batch_size 0", "data.batch_size is 0; it must be at least 1"),
        ("fit --config plain.yaml --data.max_evaluation_samples -3", "max_evaluation_samples is -3"),
        ("fit --config plain.yaml --seed_everything -1", "seed_everything is -1"),
        ("fit --config plain.yaml --optimizer.betas [2,3]", "optimizer.betas is [2.0, 3.0]"),
        ("fit --config plain.yaml --model.config.hidden_size 64.0", "hidden_size is 64.0; expected int"),
        ("fit --config plain.yaml --model.config.hidden_size abc", "hidden_size is 'abc'; expected int"),
        ("fit --config plain.yaml --model.config.hidden_size [1", "not readable as YAML"),
        ("fit --config plain.yaml --trainer.accelerator gpu", "trainer: "),
        ("fit --config plain.yaml --experiment ..", "it names a folder"),
        ("fit --config classify.yaml --data.max_seq_length 2", "max_seq_length is 2"),
        ("fit --config classify.yaml --data.max_train_samples -3", "max_train_samples is -3"),
        ("prepare --input good.txt --tokenizer tok --output out --workers -1", "--workers is -1"),
        ("prepare --input good.txt --tokenizer tok --output good.txt", "good.txt is a file"),
        ("tokenizer --input good.txt --vocab-size 60 --output tok", "tok holds another vocabulary"),
        ("fit plain.yaml", "--config"),
        ("test --checkpoint none", "none does not exist"),
        ("test --checkpoint tok", "tok is not a checkpoint"),
        ("predict --checkpoint tok", "tok is not a checkpoint"),
        ("predict --checkpoint=", "the name is empty"),
        ("instances --input *.txt --tokenizer tok --output good.txt", "--output good.txt is also an --input file"),
        ("predict --checkpoint tok --input good.txt --output good.txt", "--output good.txt is also an --input file"),
        ("features --checkpoint tok --input good.txt --output tok/../good.txt", "good.txt is also an --input file"),
        ("export --format onnx --checkpoint tok --output=", "the name is empty"),
        ("predict --checkpoint=~/no-run", f"{Path.home() / 'no-run'} does not exist"),
        ("fit --config=~/no-file.yaml", f"{Path.home() / 'no-file.yaml'}: no such file"),
        ("report none --output r.html", "none is not a run directory"),
        ("report none --output r.pdf", "ends in .html, .md, .tex, .csv or .json"),
        ("doctor --what", "--what"),
        ("tokenise", "invalid choice"),
    ],
)
def test_a_mistake_gives_one_message_status_two_and_no_output(folder, store, capsys, command, message):
    before = sorted(p.name for p in folder.rglob("*"))
    try:
        status = main([part.replace("EMPTY", "") for part in command.replace("STORE", str(store)).split()])
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert "Traceback" not in error
    assert sorted(p.name for p in folder.rglob("*")) == before


def test_a_warning_about_a_vocabulary_names_it(folder, caplog):
    Path("other.txt").write_bytes(Path("tok/vocab.txt").read_bytes())
    assert main(["prepare", "--input", "good.txt", "--tokenizer", "other.txt", "--output", "out", "--cased"]) == 0
    assert "other.txt has no entry with a capital letter" in caplog.text


def test_a_vocabulary_that_does_not_fit_the_store_is_named(folder, tmp_path, store, capsys):
    from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
    from bert_lightning.model import BertConfig, BertForPreTraining
    from bert_lightning.text.wordpiece import SPECIAL_TOKENS

    vocabulary = Vocabulary((*SPECIAL_TOKENS, "other"), lowercase=True)
    model = BertForPreTraining(BertConfig.preset("tiny", vocab_size=6))
    model.save_pretrained(tmp_path / "start", vocabulary)
    command = f"fit --config plain.yaml --model.size null --model.pretrained {tmp_path / 'start'}"
    assert main(command.split()) == 2
    assert "the vocabulary does not fit" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "usage: bert-lightning" in capsys.readouterr().out


def test_help_lists_the_commands_that_work_and_no_others(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    listed = [
        line.split()[0] for line in text.splitlines() if line.startswith("    ") and not line.startswith("     ")
    ]
    assert tuple(name for name in listed if name != "COMMAND") == COMMANDS


def test_importing_the_package_and_its_command_line_loads_nothing_heavy():
    heavy = "{'torch', 'lightning', 'numpy', 'wandb', 'datasets', 'rich', 'matplotlib', 'jsonargparse'}"
    code = f"import sys, bert_lightning.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tokenizer_and_prepare_do_not_wait_for_torch():
    modules = "sys, bert_lightning.data.corpus.preparation, bert_lightning.text.vocabulary"
    code = f"import {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_doctor_finds_nothing_missing_here(capsys):
    assert main(["doctor"]) == 0
    assert "Nothing is missing." in capsys.readouterr().out


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "bert_lightning", "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.count(".") == 2


def test_instances_are_written_in_the_documented_form(folder):
    for algorithm in ("google", "dynamic"):
        arguments = ["--input", "good.txt", "--tokenizer", "tok", "--algorithm", algorithm, "--output", "i.jsonl"]
        assert main(["instances", *arguments, "--max-seq-length", "32"]) == 0
        instances = [json.loads(line) for line in Path("i.jsonl").read_text().splitlines()]
        assert len(instances) > 20
        for instance in instances:
            assert list(instance) == [
                "tokens",
                "segment_ids",
                "is_random_next",
                "masked_lm_positions",
                "masked_lm_labels",
            ]
            assert len(instance["tokens"]) == len(instance["segment_ids"]) <= 32
            assert len(instance["masked_lm_positions"]) == len(instance["masked_lm_labels"]) >= 1
            assert instance["masked_lm_positions"] == sorted(instance["masked_lm_positions"])


def test_dynamic_instances_are_what_training_draws(folder):
    arguments = ["--input", "good.txt", "--tokenizer", "tok", "--max-seq-length", "40", "--seed", "1", "--output"]
    assert main(["prepare", "--input", "good.txt", "--tokenizer", "tok", "--output", "s"]) == 0
    data = PretrainingDataModule(
        PretrainingData("s", max_seq_length=40, batch_size=8, masking=TokenMasking(max_predictions=20))
    )
    for epoch in (0, 1):
        assert main(["instances", *arguments, "i.jsonl", "--epoch", str(epoch)]) == 0
        instances = [json.loads(line) for line in Path("i.jsonl").read_text().splitlines()]
        assert instances == list(dynamic_instances(data, 1, epoch))
        assert len(instances) == data.num_training_samples


def test_instances_are_shown_with_the_tokens_behind_the_masks(folder, capsys):
    assert main(["instances", "--input", "good.txt", "--tokenizer", "tok", "--show", "2", "--masking", "span"]) == 0
    shown = capsys.readouterr().out
    assert "[MASK]→" in shown
    assert shown.count("predicted") == 2


def test_special_tokens_of_a_vocabulary_are_kept_whole_and_never_masked(folder):
    Path("marked.txt").write_text(Path("good.txt").read_text().replace("The", "[E1] The"))
    arguments = ["--input", "marked.txt", "--vocab-size", "130", "--special-tokens", "[E1]"]
    assert main(["tokenizer", *arguments, "--output", "marked"]) == 0
    tokenizer = load_tokenizer("marked")
    assert tokenizer.entries[5] == "[E1]"
    assert tokenizer.encode_batch(["[E1] the cat"])[0][0] == 5
    assert not any(entry in ("e1", "##e1") for entry in tokenizer.entries)
    assert transformers.AutoTokenizer.from_pretrained("marked").tokenize("[E1] the")[0] == "[E1]"
    assert main(["instances", "--input", "marked.txt", "--tokenizer", "marked", "--output", "i.jsonl"]) == 0
    instances = [json.loads(line) for line in Path("i.jsonl").read_text().splitlines()]
    assert sum(instance["tokens"].count("[E1]") for instance in instances) > 50
    assert not any("[E1]" in instance["masked_lm_labels"] for instance in instances)


def test_output_goes_through_links_and_into_pipes(folder):
    os.mkfifo("pipe")
    Path("link.jsonl").symlink_to("target.jsonl")
    command = [sys.executable, "-m", "bert_lightning", "instances", "--algorithm", "google", "--input", "good.txt"]
    command += ["--tokenizer", "tok", "--max-seq-length", "32", "--output"]
    assert main([*command[3:], "link.jsonl"]) == 0
    assert Path("link.jsonl").is_symlink()
    writer = subprocess.Popen([*command, "pipe"], stdout=subprocess.DEVNULL)
    assert Path("pipe").read_text() == Path("target.jsonl").read_text()
    assert writer.wait() == 0


def test_a_value_with_spaces_belongs_to_its_key_also_right_after_the_experiment_files(tmp_path, capsys):
    values = {"experiment": "e", "task": "pretraining", "data": {"train": "s"}, "trainer": {"max_steps": 1}}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump({**values, "model": {"pretrained": "x"}}))
    command = ["fit", "--config", str(tmp_path / "e.yaml"), "--model.keep_layers=[0, 1]"]
    assert main([*command, "--optimizer={name: lamb, learning_rate: 0.5}", "--print-config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["keep_layers"] == [0, 1]
    assert printed["optimizer"]["name"] == "lamb"
