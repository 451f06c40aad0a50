"""`export` from the shell: what it writes, transformers and onnxruntime compute with as we do."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tokenizer_files import Vocabulary
from bert_lightning.cli import main
from bert_lightning.model import BertConfig
from bert_lightning.model.models import MODELS, model_of
from bert_lightning.model.onnx_export import INPUTS, export_onnx
from bert_lightning.model.task_models import (
    BertForMultipleChoice,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from bert_lightning.runs.predictor import load

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s")


def export(checkpoint: Path, form: str, output: Path) -> int:
    return main(["export", "--checkpoint", str(checkpoint), "--format", form, "--output", str(output)])


def test_a_fine_tuned_run_predicts_in_transformers_what_it_predicts_here(classifier, tmp_path):
    assert export(classifier, "huggingface", tmp_path / "out") == 0
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    texts = ["The old cat sees the young dog.", "The river finds a stone.", "zzz"]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    predictor = load(classifier)
    for row in predictor.predict_rows(predictor.read(str(tmp_path / "texts.txt"))):
        with torch.no_grad():
            scores = model(**tokenizer(row["sentence"], return_tensors="pt")).logits.softmax(-1)[0]
        theirs = {model.config.id2label[number]: score for number, score in enumerate(scores.tolist())}
        assert theirs == pytest.approx(row["probabilities"], abs=2e-6)


def test_a_pretrained_run_goes_through_transformers_and_back_bit_for_bit(home, tmp_path):
    assert export(home / "runs/whole", "huggingface", tmp_path / "out") == 0
    model = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "out")
    assert type(model).__name__ == "BertForPreTraining"
    model.save_pretrained(tmp_path / "theirs")
    ours, back = read_checkpoint(home / "runs/whole").tensors, read_checkpoint(tmp_path / "theirs").tensors
    assert ours.keys() == back.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in ours.items())


def test_the_card_leads_back_to_the_run(classifier, tmp_path, capsys):
    assert export(classifier, "huggingface", tmp_path / "out") == 0
    card = (tmp_path / "out/README.md").read_text()
    manifest = json.loads((classifier / "manifest.json").read_text())
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: text-classification\n")
    for fact in (
        manifest["run_id"],
        manifest["sessions"][0]["command"],
        *manifest["data"].values(),
        "animals, nature",
    ):
        assert fact in card
    assert (classifier / "config.yaml").read_text() in card
    assert re.search(r"\| val/accuracy \| [01]\.\d{4} \|", card)
    assert "BertForSequenceClassification as huggingface" in capsys.readouterr().out


def test_the_card_of_changed_weights_says_what_they_were_changed_from(classifier, tmp_path):
    model = BertForSequenceClassification.from_pretrained(classifier)
    model.save_pretrained(tmp_path / "same")
    card, manifest = (tmp_path / "same/README.md").read_text(), json.loads((classifier / "manifest.json").read_text())
    assert manifest["run_id"] in card
    assert "## Scores" in card
    assert "## How it was made" in card
    with torch.no_grad():
        model.classifier.bias.add_(1)
    model.save_pretrained(tmp_path / "changed")
    card = (tmp_path / "changed/README.md").read_text()
    assert "## Scores" not in card
    assert "## What it was made from" in card
    assert manifest["run_id"] in card


def test_a_card_written_by_hand_is_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("# My model")
    model = MODELS["BertModel"](BertConfig.preset("tiny", vocab_size=8))
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My model"


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"sessions": [{}]}'])
def test_a_damaged_manifest_does_not_keep_the_weights_back(classifier, tmp_path, damage):
    run = Path(shutil.copytree(classifier, tmp_path / "run", symlinks=True))
    (run / "manifest.json").write_text(damage)
    assert export(run, "huggingface", tmp_path / "out") == 0


def test_a_tensorflow_checkpoint_becomes_a_folder_for_transformers(tmp_path):
    released = Path(__file__).parents[1] / "checkpoints/tensorflow1/released"
    assert export(released, "huggingface", tmp_path / "out") == 0
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert model.config.hidden_act == "gelu_new"
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("cats Old")["input_ids"] == [2, 6, 7, 8, 3]


AUTO = {
    "BertModel": "AutoModel",
    "BertForPreTraining": "AutoModelForPreTraining",
    "BertForMaskedLM": "AutoModelForMaskedLM",
    "BertForNextSentencePrediction": "AutoModelForNextSentencePrediction",
    "BertForSequenceClassification": "AutoModelForSequenceClassification",
    "BertForTokenClassification": "AutoModelForTokenClassification",
    "BertForQuestionAnswering": "AutoModelForQuestionAnswering",
    "BertForMultipleChoice": "AutoModelForMultipleChoice",
}


@pytest.mark.parametrize("architecture", MODELS)
def test_the_auto_classes_open_every_model_without_missing_or_unexpected_weights(architecture, tmp_path):
    config = BertConfig.preset("tiny", vocab_size=len(WORDS), max_position_embeddings=16)
    MODELS[architecture](config).save_pretrained(tmp_path / "saved", Vocabulary(WORDS, lowercase=True))
    assert export(tmp_path / "saved", "huggingface", tmp_path / "out") == 0
    auto = getattr(transformers, AUTO[architecture])
    model, report = auto.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(model).__name__ == architecture
    assert not report["missing_keys"] - {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path / "out")) == len(WORDS)


# One with two outputs, one with one; `make test-slow` has the others.
QUICK = ("BertForPreTraining", "BertForSequenceClassification")


@pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in MODELS]
)
def test_onnxruntime_computes_what_we_compute_in_any_batch_and_length(architecture, tmp_path):
    torch.manual_seed(0)
    config = BertConfig.preset("tiny", vocab_size=50, max_position_embeddings=24)
    model = MODELS[architecture](config).eval()
    differences = export_onnx(model, tmp_path / "model.onnx")
    assert max(differences.values()) < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for shape in ((1, 24), (5, 3), (2, 17)):
        if isinstance(model, BertForMultipleChoice):
            shape = (shape[0], 4, shape[1])
        ids, segments = torch.randint(0, 50, shape), torch.randint(0, 2, shape)
        mask = (torch.arange(shape[-1]) < max(1, shape[-1] - 2)).long().expand(shape).contiguous()
        expected = model(ids, segments, mask)
        expected = (
            [expected] if isinstance(expected, torch.Tensor) else [part for part in expected if part is not None]
        )
        found = session.run(None, dict(zip(INPUTS, (t.numpy() for t in (ids, segments, mask)), strict=True)))
        for ours, theirs in zip(expected, found, strict=True):
            np.testing.assert_allclose(theirs, ours.detach().numpy(), rtol=1e-3, atol=1e-5)
    assert model.backbone.attention == "auto"


def test_an_onnx_folder_holds_labels_tokenizer_and_card(classifier, tmp_path, capsys):
    assert export(classifier, "onnx", tmp_path / "out") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.onnx", "config.json", "vocab.txt", "tokenizer_config.json", "README.md"}
    assert json.loads((tmp_path / "out/config.json").read_text())["id2label"]["0"] == "animals"
    assert re.search(r"logits: largest relative difference \d\.\de-0\d in onnxruntime", capsys.readouterr().out)


def test_what_transformers_does_not_have_is_refused_by_name_but_goes_to_onnx(tmp_path, capsys):
    config = BertConfig.preset("tiny", vocab_size=8, max_position_embeddings=16, pre_layer_norm=True)
    BertForTokenClassification(config, labels=["O", "B-X", "I-X"], crf=True).save_pretrained(tmp_path / "saved")
    assert type(model_of(read_checkpoint(tmp_path / "saved"))) is BertForTokenClassification
    assert export(tmp_path / "saved", "huggingface", tmp_path / "out") == 2
    assert "has pre_layer_norm, crf, which transformers' BertForTokenClassification lacks" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert export(tmp_path / "saved", "onnx", tmp_path / "out") == 0


def test_an_output_that_holds_something_is_left_alone(home, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert export(home / "runs/whole", "huggingface", tmp_path) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_missing_package_is_named_with_what_to_install(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert export(home / "runs/whole", "onnx", tmp_path / "out") == 2
    assert "needs onnx, onnxscript, onnxruntime: pip install 'bert_lightning[onnx]'" in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), 100.0])
def test_a_runtime_that_computes_something_else_leaves_no_file(home, tmp_path, monkeypatch, capsys, value):
    original = onnxruntime.InferenceSession

    class Wrong(original):
        def run(self, names, given):
            return [np.full_like(output, value) for output in super().run(names, given)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    assert export(home / "runs/whole", "onnx", tmp_path / "out") == 1
    assert "onnxruntime gives another prediction_logits" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_halfway_leaves_nothing(home, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "README.md")

    monkeypatch.setattr("bert_lightning.checkpoints.huggingface.write_card", full)
    assert export(home / "runs/whole", "huggingface", tmp_path / "out") == 1
    assert "README.md: No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
