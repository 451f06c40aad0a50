"""Changes that an experiment makes to the checkpoint it starts from, and the record of that checkpoint."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
import yaml

from bert_lightning.checkpoints import hub
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.cli import main
from tests.support.runs import fit
from tests.support.task_data import task_data

COMMIT = "c0ffee" * 6 + "beef"


def final(run: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(run / "checkpoints/last.ckpt").tensors


@pytest.fixture
def start(home: Path, tmp_path: Path) -> Path:
    """The pre-trained run exported as a folder for transformers."""
    output = tmp_path / "start"
    command = ["export", "--checkpoint", str(home / "runs/whole"), "--format", "huggingface", "--output", str(output)]
    assert main(command) == 0
    return output


SHORT = ["--trainer.max_steps", 2, "--checkpoint.every_n_steps", 1]
NOT_LEARNT = ["--optimizer.learning_rate", 1e-30, "--optimizer.weight_decay", 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"hidden_act": "gelu"}}, "its hidden_act is 'gelu_new', but the model's is 'gelu'"),
        ({"config": {"num_hidden_layers": 1}}, "its num_hidden_layers is 2, but the model's is 1"),
        ({"config": {"max_position_embeddings": 64}}, "interpolate_positions stretches"),
        ({"config": {"vocab_size": 64}}, "vocab_size cannot be set"),
        ({"interpolate_positions": True}, "needs model.config.max_position_embeddings"),
        ({"reinitialize_layers": 9}, "9 layers cannot be reinitialised"),
        ({"keep_layers": [0, 2]}, "has blocks 0 to 1, so there is no block 2"),
        ({"keep_layers": [-1]}, "keep_layers is [-1]; it must name one or more blocks, by numbers from 0"),
        ({"keep_layers": [0], "config": {"num_hidden_layers": 1}}, "keep_layers decides the number of blocks"),
        (
            {"pretrained": None, "size": "tiny", "keep_layers": [0]},
            "keep_layers does nothing without model.pretrained",
        ),
        ({"attention": "varlen"}, "model.attention is varlen, which cannot run here: its kernels are for CUDA"),
        ({"attention": "flash"}, "expected one of auto, eager, sdpa, varlen"),
        ({"pretrained": None, "size": "tiny", "resize_vocabulary": True}, "does nothing without model.pretrained"),
    ],
)
def test_a_setting_that_does_not_fit_the_checkpoint_is_named(home, tmp_path, capsys, change, message):
    values = yaml.safe_load((home / "pretraining.yaml").read_text())
    values["model"] = {"pretrained": str(home / "runs/whole"), **change}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(values))
    assert fit(tmp_path / "e.yaml", tmp_path / "run") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_positions_are_stretched_and_top_layers_reinitialised_before_training(home, tmp_path):
    values = yaml.safe_load((home / "pretraining.yaml").read_text())
    values["model"] = {
        "pretrained": str(home / "runs/whole/checkpoints/last.ckpt"),
        "config": {"max_position_embeddings": 96},
        "interpolate_positions": True,
        "reinitialize_layers": 1,
        "activation_checkpointing": True,
        "attention": "eager",
    }
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(values))
    assert fit(tmp_path / "e.yaml", tmp_path / "run", *SHORT, *NOT_LEARNT) == 0
    before, after = final(home / "runs/whole"), final(tmp_path / "run")
    position = "encoder.embeddings.position.weight"
    assert after[position].shape == (96, 32)
    torch.testing.assert_close(after[position][[0, -1]], before[position][[0, -1]])
    assert torch.equal(after["encoder.layers.0.output.weight"], before["encoder.layers.0.output.weight"])
    assert not torch.equal(after["encoder.layers.1.output.weight"], before["encoder.layers.1.output.weight"])
    # The trained checkpoint is scored unchanged: nothing is stretched or reinitialised.
    assert main(["validate", "--checkpoint", str(tmp_path / "run")]) == 0


def test_a_student_consists_of_the_named_blocks_of_the_checkpoint_in_their_order(home, tmp_path):
    values = yaml.safe_load((home / "pretraining.yaml").read_text())
    values["model"] = {"pretrained": str(home / "runs/whole"), "keep_layers": [1, 0]}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(values))
    before = final(home / "runs/whole")
    for kept in ([1, 0], [1]):
        run = tmp_path / str(len(kept))
        assert fit(tmp_path / "e.yaml", run, *SHORT, *NOT_LEARNT, f"--model.keep_layers={kept}") == 0
        after = final(run)
        swapped = {}
        for name, tensor in before.items():
            block = re.match(r"encoder\.layers\.(\d)\.", name)
            if block is None:
                swapped[name] = tensor
            elif int(block[1]) in kept:
                swapped[f"encoder.layers.{kept.index(int(block[1]))}.{name[block.end() :]}"] = tensor
        assert after.keys() == swapped.keys()
        assert all(torch.equal(after[name], tensor) for name, tensor in swapped.items())
        # The blocks are taken once, not again from what is scored.
        assert main(["validate", "--checkpoint", str(run)]) == 0


def test_a_head_other_than_that_of_the_checkpoint_is_refused(tables, tokenizer, tmp_path, capsys):
    tokenizer.save(tmp_path / "tokenizer")
    values = {
        "experiment": "tags",
        "task": "token-classification",
        "model": {"size": "tiny", "config": {"max_position_embeddings": 48}},
        "data": task_data("token-classification", tables, tmp_path)
        | {"tokenizer": str(tmp_path / "tokenizer"), "max_seq_length": 24, "batch_size": 8},
        "trainer": {"max_steps": 2, "accelerator": "cpu", "precision": "32"},
    }
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(values))
    run, crf = tmp_path / "run", ["--model.head.crf", "true"]
    assert fit(tmp_path / "e.yaml", run) == 0
    predictions = {path: path.read_bytes() for path in (run / "predictions").rglob("*") if path.is_file()}
    assert predictions
    for command in ("validate", "test"):
        for key in ("model.head.crf", "model.crf"):
            assert main([command, "--checkpoint", str(run), f"--{key}", "true"]) == 2
            assert "model.head.crf is true, but" in capsys.readouterr().err
    assert predictions == {path: path.read_bytes() for path in (run / "predictions").rglob("*") if path.is_file()}
    # Training may begin from it and add a CRF, but not resume from it.
    assert fit(tmp_path / "e.yaml", tmp_path / "other", *crf, "--resume", run / "checkpoints/last.ckpt") == 2
    message = "its head differs (model.head.crf is false there and true here)"
    assert message in capsys.readouterr().err


def test_a_setting_of_training_that_does_not_change_what_is_scored_is_warned_about(home, tmp_path, caplog):
    # Scoring adds to the run's metrics, and other tests share this run.
    shutil.copytree(home / "runs/whole", tmp_path / "run", symlinks=True)
    assert main(["validate", "--checkpoint", str(tmp_path / "run"), "--model.size", "mini"]) == 0
    message = "model.size has no effect on validate: the model of the checkpoint is scored"
    assert caplog.messages.count(message) == 1


def test_a_vocabulary_is_matched_by_entries_on_request(home, tmp_path, documents, tables, capsys):
    from bert_lightning.text.vocabulary import train_wordpiece

    other = train_wordpiece((text for document in documents for text in document), 90)
    other.save(tmp_path / "tokenizer")
    values = {
        "experiment": "resized",
        "task": "text-classification",
        "model": {"pretrained": str(home / "runs/whole/checkpoints/last.ckpt")},
        "data": {
            "train": str(tables["train"]),
            "validation": str(tables["validation"]),
            "text_column": "sentence",
            "label_column": "topic",
            "max_seq_length": 40,
            "batch_size": 8,
            "tokenizer": str(tmp_path / "tokenizer"),
        },
        "trainer": {"max_steps": 2, "accelerator": "cpu", "precision": "32"},
    }
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(values))
    assert fit(tmp_path / "e.yaml", tmp_path / "run") == 2
    assert "model.resize_vocabulary" in capsys.readouterr().err
    assert fit(tmp_path / "e.yaml", tmp_path / "run", "--model.resize_vocabulary", "true", *NOT_LEARNT) == 0
    old, new = read_checkpoint(home / "runs/whole/checkpoints/last.ckpt"), read_checkpoint(tmp_path / "run")
    assert new.vocabulary.entries == other.entries
    word = "encoder.embeddings.word.weight"
    both = set(other.entries) & set(old.vocabulary.entries)
    assert len(both) > 60
    for entry in both:
        row = new.tensors[word][other.entries.index(entry)]
        torch.testing.assert_close(row, old.tensors[word][old.vocabulary.entries.index(entry)])


def test_a_classifier_without_its_own_tokenizer_takes_longer_positions(home, tmp_path, tables, capsys):
    values = {
        "experiment": "longer",
        "task": "text-classification",
        "model": {
            "pretrained": str(home / "runs/whole"),
            "config": {"max_position_embeddings": 96},
            "interpolate_positions": True,
        },
        "data": {
            "train": str(tables["train"]),
            "text_column": "sentence",
            "label_column": "topic",
            "max_seq_length": 90,
            "batch_size": 8,
        },
        "trainer": {"max_steps": 1, "accelerator": "cpu", "precision": "32"},
    }
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(values))
    assert fit(tmp_path / "e.yaml", tmp_path / "run") == 0
    assert final(tmp_path / "run")["encoder.embeddings.position.weight"].shape == (96, 32)
    assert fit(tmp_path / "e.yaml", tmp_path / "other", "--model.resize_vocabulary", "true") == 2
    assert "model.resize_vocabulary does nothing without data.tokenizer" in capsys.readouterr().err


def test_a_hub_model_is_pinned_in_the_configuration_and_the_manifest(home, start, tmp_path, monkeypatch, capsys):
    asked = []

    def download(name: str) -> tuple[Path, str]:
        asked.append(name)
        return start, COMMIT

    monkeypatch.setattr(hub, "download", download)
    values = yaml.safe_load((home / "pretraining.yaml").read_text())
    values["model"] = {"pretrained": "someone/bert-tiny"}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(values))
    assert fit(tmp_path / "e.yaml", tmp_path / "run", *SHORT) == 0
    pin = f"hub:someone/bert-tiny@{COMMIT}"
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["model_revision"] == COMMIT
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["model"]["pretrained"] == pin
    # The same command finds its run, and continues from the commit that it started with.
    (tmp_path / "run/manifest.json").write_text(json.dumps({**manifest, "ended": None}))
    assert fit(tmp_path / "e.yaml", tmp_path / "run", *SHORT) == 0
    assert asked == ["someone/bert-tiny", pin]


def test_a_run_can_start_from_a_model_with_a_rounded_up_vocabulary(home, start, tables, tmp_path):
    from bert_lightning.model import BertForPreTraining

    model = BertForPreTraining.from_pretrained(start)
    vocabulary = model.vocabulary
    larger = BertForPreTraining.from_pretrained(start, resize_vocabulary=128)
    shutil.rmtree(start)
    larger.save_pretrained(start, vocabulary)
    values = yaml.safe_load((home / "pretraining.yaml").read_text())
    values["model"] = {"pretrained": str(start)}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(values))
    assert fit(tmp_path / "e.yaml", tmp_path / "run", *SHORT) == 0
    assert final(tmp_path / "run")["encoder.embeddings.word.weight"].shape[0] == 128


@pytest.mark.slow
def test_a_compiled_run_resumes_to_the_same_weights_under_clean_names(home, tmp_path):
    compiled = ["--trainer.compile", "true", "--checkpoint.every_n_steps", 2, "--trainer.max_steps", 6]
    assert fit(home / "pretraining.yaml", tmp_path / "whole", *compiled) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed", symlinks=True)
    for path in (tmp_path / "resumed/checkpoints").glob("step-00000000[456]*"):
        path.unlink()
    manifest = json.loads((tmp_path / "resumed/manifest.json").read_text())
    (tmp_path / "resumed/manifest.json").write_text(json.dumps({**manifest, "ended": None}))
    assert fit(home / "pretraining.yaml", tmp_path / "resumed", *compiled) == 0
    whole, resumed = final(tmp_path / "whole"), final(tmp_path / "resumed")
    assert whole.keys() == final(home / "runs/whole").keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_the_settings_of_computation_reach_the_model(home):
    from bert_lightning.config.experiment import load_experiment
    from bert_lightning.runs.building import build_training

    overrides = ["--model.attention", "eager", "--model.activation_checkpointing", "true"]
    encoder = build_training(load_experiment([home / "pretraining.yaml"], overrides), None).task.model.backbone
    assert (encoder.attention, encoder.activation_checkpointing) == ("eager", True)
    encoder = build_training(load_experiment([home / "pretraining.yaml"]), None).task.model.backbone
    assert (encoder.attention, encoder.activation_checkpointing) == ("auto", False)


def test_models_are_compiled_for_changing_shapes(home, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, **settings: asked.append(settings) or function)
    assert fit(home / "pretraining.yaml", tmp_path / "plain", *SHORT) == 0
    assert not asked
    assert fit(home / "pretraining.yaml", tmp_path / "compiled", *SHORT, "--trainer.compile", "true") == 0
    # The losses, and `forward`, which distillation calls.
    assert asked == [{"dynamic": True}] * 2


def test_reinitialising_layers_of_random_weights_is_not_silent(home, tmp_path, capsys):
    values = yaml.safe_load((home / "pretraining.yaml").read_text())
    values["model"] = {"pretrained": str(home / "runs/whole"), "weights": "random", "reinitialize_layers": 1}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(values))
    assert fit(tmp_path / "e.yaml", tmp_path / "run") == 2
    assert "reinitialize_layers does nothing if model.weights is random" in capsys.readouterr().err


@pytest.mark.parametrize(("labels", "is_left_out"), [(["neg", "pos"], False), (["pos", "neg"], True)])
def test_a_head_left_out_for_its_labels_is_reported(tmp_path, labels, is_left_out):
    from bert_lightning.config.experiment import load_experiment
    from bert_lightning.runs.building import build_training

    config = transformers.BertConfig(
        vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, num_labels=2
    )
    config.id2label, config.label2id = dict(enumerate(labels)), {label: n for n, label in enumerate(labels)}
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "start")
    (tmp_path / "start/vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"])
    )
    (tmp_path / "train.tsv").write_text("text\tlabel\ngood\tpos\nbad\tneg\n")
    values = {
        "experiment": "x",
        "task": "text-classification",
        "model": {"pretrained": str(tmp_path / "start")},
        "data": {"train": str(tmp_path / "train.tsv"), "batch_size": 2},
        "trainer": {"max_steps": 1},
    }
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(values))
    notes = build_training(load_experiment([tmp_path / "e.yaml"]), read_checkpoint(tmp_path / "start")).notes
    assert any("the head of" in note and "labels" in note for note in notes) == is_left_out
    assert any("classifier.weight" in note for note in notes) == is_left_out
