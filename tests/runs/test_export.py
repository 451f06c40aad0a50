"""`export` from the shell: transformers and onnxruntime compute the same with its files as we do."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.files import write_with_checksum
from bert_lightning.checkpoints.huggingface import write_huggingface
from bert_lightning.checkpoints.native import ENTRY
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.cli import main
from bert_lightning.model import BertConfig
from bert_lightning.model.architectures import MODELS, OWN_MODELS, model_of
from bert_lightning.model.onnx_export import CRF_OUTPUTS, INPUTS, export_onnx
from bert_lightning.model.task_models import (
    BertForMultipleChoice,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from bert_lightning.runs.export import prediction_rule
from bert_lightning.runs.predictor import load
from bert_lightning.tasks.question_answering.settings import QuestionAnsweringData
from bert_lightning.tasks.question_answering.task import QuestionAnsweringTask
from bert_lightning.tasks.text_classification.settings import TextClassificationData
from bert_lightning.tasks.text_classification.task import TextClassificationTask

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s")


def export(checkpoint: Path, form: str, output: Path) -> int:
    return main(["export", "--checkpoint", str(checkpoint), "--format", form, "--output", str(output)])


def test_a_fine_tuned_run_predicts_the_same_in_transformers(classifier, tmp_path):
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


def test_the_model_card_names_its_run(classifier, tmp_path, capsys):
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


def test_the_card_of_changed_weights_names_the_original_weights(classifier, tmp_path):
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


def test_a_card_written_by_hand_is_not_changed(tmp_path):
    (tmp_path / "README.md").write_text("# My model")
    model = MODELS["BertModel"](BertConfig.preset("tiny", vocab_size=8))
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My model"


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"sessions": [{}]}'])
def test_a_damaged_manifest_does_not_prevent_export(classifier, tmp_path, damage):
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


# A model with two outputs and one with one; `make test-slow` tests the others.
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
            [expected]
            if isinstance(expected, torch.Tensor)
            else [tensor for tensor in expected if tensor is not None]
        )
        found = session.run(None, dict(zip(INPUTS, (t.numpy() for t in (ids, segments, mask)), strict=True)))
        for ours, theirs in zip(expected, found, strict=True):
            np.testing.assert_allclose(theirs, ours.detach().numpy(), rtol=1e-3, atol=1e-5)
    assert model.backbone.attention == "auto"


def test_an_onnx_folder_holds_labels_tokenizer_and_card(classifier, tmp_path, capsys):
    assert export(classifier, "onnx", tmp_path / "out") == 0
    # The file names no folder of the machine that wrote it.
    assert b".py" not in (tmp_path / "out/model.onnx").read_bytes()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.onnx", "config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert json.loads((tmp_path / "out/config.json").read_text())["id2label"]["0"] == "animals"
    assert re.search(r"logits: largest relative difference \d\.\de-0\d in onnxruntime", capsys.readouterr().out)


def viterbi(logits, starts, transitions, ends):
    """Find the best path over (n, L) logits by dynamic programming, with numpy only."""
    best, pointers = starts + logits[0], []
    for scores in logits[1:]:
        reached = best[:, None] + transitions
        pointers.append(reached.argmax(0))
        best = reached.max(0) + scores
    path = [int((best + ends).argmax())]
    for before in reversed(pointers):
        path.append(int(before[path[-1]]))
    return path[::-1]


def test_options_that_transformers_lacks_are_refused_by_name_but_exported_to_onnx(tmp_path, capsys):
    torch.manual_seed(0)
    config = BertConfig.preset("tiny", vocab_size=40, max_position_embeddings=16, pre_layer_norm=True)
    labels = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    tagger = BertForTokenClassification(config, labels=labels, crf=True, tag_scheme="IOB2").eval()
    for parameter in (*tagger.crf.parameters(), tagger.classifier.weight):
        torch.nn.init.normal_(parameter)
    tagger.save_pretrained(tmp_path / "saved")
    assert type(model_of(read_checkpoint(tmp_path / "saved"))) is BertForTokenClassification
    assert export(tmp_path / "saved", "huggingface", tmp_path / "out") == 2
    assert "has pre_layer_norm, crf, which transformers' BertForTokenClassification lacks" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert export(tmp_path / "saved", "onnx", tmp_path / "out") == 0
    assert "Tags come from a CRF, not from the largest logit" in capsys.readouterr().out
    assert "crf_transitions[t_i, t_i+1]" in (tmp_path / "out/README.md").read_text()
    # The file alone gives the tags of the model.
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx")
    ids = torch.randint(0, 40, (30, 12))
    given = (ids, torch.zeros_like(ids), torch.ones_like(ids))
    logits, *scores = session.run(
        ["logits", *CRF_OUTPUTS], dict(zip(INPUTS, (tensor.numpy() for tensor in given), strict=True))
    )
    firsts = torch.rand(30, 12) < 0.7
    decoded = tagger.crf.decode(tagger(*given), firsts)
    paths = [viterbi(row[real.numpy()], *scores) for row, real in zip(logits, firsts, strict=True)]
    assert paths == [row[real].tolist() for row, real in zip(decoded, firsts, strict=True)]
    assert paths != [row[real.numpy()].argmax(-1).tolist() for row, real in zip(logits, firsts, strict=True)]


def test_entity_markers_are_named_if_they_cannot_be_exported(tmp_path, capsys):
    config = BertConfig.preset("tiny", vocab_size=8, max_position_embeddings=16)
    model = OWN_MODELS["BertForRelationClassification"](config)
    model.save_pretrained(tmp_path / "saved")
    for form, message in (
        ("huggingface", "has entity markers, which transformers' BertForRelationClassification lacks"),
        ("onnx", "has entity markers, but the inputs of an ONNX file"),
    ):
        assert export(tmp_path / "saved", form, tmp_path / "out") == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="the model cannot be exported: it has entity markers"):
        export_onnx(model, tmp_path / "model.onnx")


SMALL = BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=24,
    initializer_range=0.3,
)
# Each way in which an architecture can differ from the published one.
SETTINGS = {
    "nothing": {},
    "pre_layer_norm": {"pre_layer_norm": True},
    "sinusoidal": {"position_embeddings": "sinusoidal"},
    "no positions": {"position_embeddings": "none"},
    "embedding_size": {"embedding_size": 8},
    "mean": {"pooling": "mean"},
    "max": {"pooling": "max"},
    "no pooler": {"pooler": False},
    "an MLM matrix of its own": {"tie_word_embeddings": False},
    "gelu": {"hidden_act": "gelu"},
    "relu": {"hidden_act": "relu"},
    "silu": {"hidden_act": "silu"},
    "three segments": {"type_vocab_size": 3},
    "another epsilon": {"layer_norm_eps": 0.1},
    "another padding": {"pad_token_id": 3},
}
TOGETHER = {
    "first": {**SETTINGS["pre_layer_norm"], **SETTINGS["sinusoidal"], **SETTINGS["mean"], **SETTINGS["relu"]},
    "second": {**SETTINGS["no positions"], **SETTINGS["max"], **SETTINGS["no pooler"], **SETTINGS["silu"]},
    "third": {**SETTINGS["embedding_size"], **SETTINGS["an MLM matrix of its own"], **SETTINGS["gelu"]},
}
THREE = {"labels": ["a", "b", "c"]}
HEADS = {
    **{name: (name, {}) for name in MODELS},
    "multi-label": ("BertForSequenceClassification", {**THREE, "problem_type": "multi_label_classification"}),
    "regression": ("BertForSequenceClassification", {"labels": ["x"], "problem_type": "regression"}),
    "crf": ("BertForTokenClassification", {**THREE, "crf": True}),
    "answerability": ("BertForQuestionAnswering", {"answerability": True}),
}


def built(head, settings):
    torch.manual_seed(0)
    architecture, arguments = HEADS[head]
    return MODELS[architecture](SMALL.replace(**settings), **arguments).eval()


def inputs_of(model, rows=5, length=9):
    """Make ids, segments and masks with padding at the end, in front and in the middle."""
    shape = (rows, 4, length) if isinstance(model, BertForMultipleChoice) else (rows, length)
    mask = torch.ones(shape, dtype=torch.long)
    mask[0, ..., -3:] = mask[1, ..., :2] = mask[2, ..., 4:6] = 0
    return torch.randint(0, 50, shape), torch.randint(0, 2, shape), mask


def outputs_of(output):
    return [output] if isinstance(output, torch.Tensor) else [tensor for tensor in output if tensor is not None]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "settings"),
    [
        *((head, "first") for head in HEADS),
        *((head, "second") for head in ("BertModel", "regression")),
        *((head, "third") for head in ("BertForPreTraining", "answerability")),
    ],
)
def test_every_head_and_setting_is_in_the_onnx_file(head, settings, tmp_path):
    model = built(head, TOGETHER[settings])
    assert max(export_onnx(model, tmp_path / "model.onnx").values()) < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    given = inputs_of(model)
    found = session.run(None, dict(zip(INPUTS, (tensor.numpy() for tensor in given), strict=True)))
    expected = outputs_of(model(*given))
    if head == "crf":
        expected += model.crf.decoding_scores()
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_allclose(theirs, ours.detach().numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "head", [pytest.param(name, marks=[pytest.mark.slow] * (name != "BertForTokenClassification")) for name in HEADS]
)
def test_deviations_are_exactly_the_settings_that_transformers_computes_differently(head, tmp_path):
    for name, settings in SETTINGS.items():
        model = built(head, settings)
        folder = tmp_path / name
        # Pretend that transformers has everything.
        write_huggingface(model.to_checkpoint(folder), model.architecture, folder, published=True)
        given = inputs_of(model)
        # transformers pools the first position.
        given[2][..., 0] = 1
        real = given[2].bool()
        try:
            theirs = getattr(transformers, model.architecture).from_pretrained(folder).eval()
            with torch.no_grad():
                found = theirs(given[0], token_type_ids=given[1], attention_mask=given[2], return_dict=False)
        except RuntimeError:
            equal = False
        else:
            expected = [each for each in outputs_of(model(*given)) if each.shape != (5,)]
            pairs = [
                (a[real], b[real]) if a.shape[: real.ndim] == real.shape else (a, b)
                for a, b in zip(expected, found, strict=True)
            ]
            equal = all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)
        # The weights of a head come after the logits.
        assert equal == (not set(model.deviations) - {"crf", "answerability"}), name
        own = [each for each in ("crf", "answerability") if each in HEADS[head][1]]
        assert set(model.deviations) >= set(own)


def bytes_of(folder):
    """Return name -> content of every file."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_equal_models_are_exported_as_equal_bytes_to_any_folder(tmp_path):
    model = built("multi-label", {})
    for number in range(6):
        model.save_pretrained(
            tmp_path / f"export{number}", Vocabulary((*WORDS, *map(str, range(42))), lowercase=True)
        )
    first, *others = [bytes_of(tmp_path / f"export{number}") for number in range(6)]
    assert len(first) == 5
    assert all(other == first for other in others)


def test_weights_with_metadata_in_any_order_are_read_and_verified(tmp_path):
    model = built("multi-label", {})
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = json.loads(path.read_bytes()[8:][: int.from_bytes(path.read_bytes()[:8], "little")])
    assert list(header["__metadata__"]) == ["config", "crc32", "format"]
    # The order in which safetensors itself writes them.
    path.write_bytes(save(tensors, metadata))
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 1
    path.write_bytes(save(tensors, metadata))
    with pytest.raises(CheckpointError, match=f"{name} differs from what was written"):
        BertForSequenceClassification.from_pretrained(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["huggingface", "onnx"])
def test_two_processes_export_a_run_as_equal_bytes(classifier, tmp_path, form):
    for number in (1, 2):
        command = ["export", "--checkpoint", str(classifier), "--format", form, "--output", f"out{number}"]
        # In different folders, so that a path in a file would make the two differ.
        (tmp_path / str(number)).mkdir()
        subprocess.run(
            [sys.executable, "-m", "bert_lightning", *command],
            cwd=tmp_path / str(number),
            env={**os.environ, "PYTHONHASHSEED": str(number), "PYTHONPATH": str(Path(__file__).parents[2])},
            check=True,
        )
    assert bytes_of(tmp_path / "1/out1") == bytes_of(tmp_path / "2/out2")


def write_run(task, path):
    """Write a checkpoint like that of a run of the task."""
    weights = {f"model.{name}": tensor for name, tensor in task.model.state_dict().items()}
    content = {"state_dict": weights, ENTRY: task.checkpoint_entry(), "global_step": 1}
    write_with_checksum(path, lambda file: torch.save(content, file))
    return path


def test_an_export_predicts_the_labels_of_its_run_with_the_threshold_that_it_names(tokenizer, tmp_path, capsys):
    settings = TextClassificationData(
        problem="multi-label", label_separator=",", text_column="sentence", threshold=0.8, max_seq_length=24
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        SMALL.replace(vocab_size=len(tokenizer)), **THREE, problem_type="multi_label_classification"
    )
    torch.nn.init.normal_(model.classifier.weight, std=0.3)
    task = TextClassificationTask(model, model.config, tokenizer, settings, THREE["labels"]).eval()
    run = write_run(task, tmp_path / "run.ckpt")
    assert export(run, "huggingface", tmp_path / "out") == 0
    assert "the sigmoid of its logit is at least 0.8 (threshold)" in capsys.readouterr().out
    assert "the sigmoid of its logit is at least 0.8 (threshold)" in (tmp_path / "out/README.md").read_text()
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    theirs_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    texts = ["The old cat sees the young dog.", "The river.", "A quiet stone follows the house.", "The tree finds."]
    expected, by_half = [], []
    for text in texts:
        with torch.no_grad():
            chances = theirs(**theirs_tokenizer(text, return_tensors="pt")).logits[0].sigmoid().tolist()
        expected.append([theirs.config.id2label[n] for n, p in enumerate(chances) if p >= theirs.config.threshold])
        by_half.append([theirs.config.id2label[n] for n, p in enumerate(chances) if p >= 0.5])
    assert [row["labels"] for row in load(run).predict(texts)] == expected
    assert expected != by_half


@pytest.mark.parametrize(
    ("answerability", "chosen", "tuned", "value"),
    [(False, None, -1.5, -1.5), (True, None, None, 0), (True, 2, -1.5, 2)],
)
def test_the_threshold_for_no_answer_is_exported(tokenizer, tmp_path, answerability, chosen, tuned, value):
    model = MODELS["BertForQuestionAnswering"](SMALL.replace(vocab_size=len(tokenizer)), answerability=answerability)
    settings = QuestionAnsweringData(null_threshold=chosen, max_seq_length=24, max_question_length=8, doc_stride=8)
    task = QuestionAnsweringTask(model, model.config, tokenizer, settings, no_answer=True, null_threshold=tuned)
    rule = prediction_rule(read_checkpoint(write_run(task, tmp_path / "run.ckpt")))
    assert (rule.key, rule.value) == ("null_threshold", value)
    assert ("answerable_logits" in rule.sentence) == answerability
    assert task.threshold == value


def test_an_output_folder_with_content_is_not_changed(home, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert export(home / "runs/whole", "huggingface", tmp_path) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_missing_package_is_named_with_what_to_install(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert export(home / "runs/whole", "onnx", tmp_path / "out") == 2
    assert "needs onnx, onnxscript, onnxruntime: pip install 'bert_lightning[onnx]'" in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), pytest.param(100.0, marks=pytest.mark.slow)])
def test_a_runtime_with_other_results_leaves_no_file(home, tmp_path, monkeypatch, capsys, value):
    original = onnxruntime.InferenceSession

    class Wrong(original):
        def run(self, names, given):
            return [np.full_like(output, value) for output in super().run(names, given)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    assert export(home / "runs/whole", "onnx", tmp_path / "out") == 1
    assert "onnxruntime gives another prediction_logits" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_nothing(home, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "README.md")

    monkeypatch.setattr("bert_lightning.checkpoints.huggingface.write_card", full)
    assert export(home / "runs/whole", "huggingface", tmp_path / "out") == 1
    assert "README.md: No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_dangling_link_is_refused_before_the_checkpoint_is_read(tmp_path, capsys):
    (tmp_path / "link").symlink_to("nowhere")
    assert export(tmp_path / "no checkpoint", "huggingface", tmp_path / "link") == 2
    assert "link exists and is not empty: choose another --output" in capsys.readouterr().err
