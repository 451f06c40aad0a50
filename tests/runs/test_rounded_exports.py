"""`export` with rounded weights, bfloat16 and int8: what is lost and gained is measured, or the export refused."""

import dataclasses
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file

from bert_lightning import export
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.cli import main
from bert_lightning.data.reading.tables import read_rows
from bert_lightning.errors import InputError, WorkError
from bert_lightning.model import BertConfig, BertForQuestionAnswering, BertForSequenceClassification
from bert_lightning.model.architectures import MODELS, model_of
from bert_lightning.model.onnx_export import INPUTS, export_onnx, sample_inputs
from bert_lightning.model.quantization import QUANTIZATIONS, OnnxForward, computed_by, quantize
from bert_lightning.runs import rounded_export
from bert_lightning.runs.measured_forms import Cost, Form, FormRow, ValidationData, differences
from bert_lightning.runs.rounded_export import Rounding
from bert_lightning.tasks.catalogue import TASKS
from tests.support.task_data import short_experiment


@pytest.fixture(scope="module")
def int8(classifier, tmp_path_factory):
    """The classifier as an int8 file, exported from the shell."""
    folder = tmp_path_factory.mktemp("int8") / "out"
    command = ["export", "--checkpoint", str(classifier), "--format", "onnx", "--quantize", "int8"]
    assert main([*command, "--tolerance", "0.2", "--output", str(folder)]) == 0
    return folder


def logits_of(folder, texts):
    """Compute the logits of texts in one batch with onnxruntime and the tokenizer of transformers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(texts, padding=True, return_tensors="np", max_length=40, truncation=True)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return session.run(["logits"], {name: inputs[name].astype(np.int64) for name in INPUTS})[0]


def rows_of_card(folder):
    """Return the rows of the table in a model card: the name of a form -> its cells."""
    section = (folder / "README.md").read_text().partition("## Rounded weights")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    return {row[0]: row[1:] for row in rows[2:]}


def test_an_int8_file_has_the_score_that_its_card_states(int8, tables):
    rows = list(read_rows(str(tables["validation"])))
    # All rows are one batch of validation too, so the activations have the same scales.
    guesses = logits_of(int8, [row.values["sentence"] for row in rows]).argmax(1)
    labels = transformers.AutoConfig.from_pretrained(int8).id2label
    accuracy = np.mean([labels[guess] == row.values["topic"] for guess, row in zip(guesses, rows, strict=True)])
    cells = rows_of_card(int8)
    [kept] = [cells[name] for name in cells if "int8" in name and cells[name][0] != "not scored"]
    assert kept[0] == f"{accuracy:.4f}"
    assert {"float32, PyTorch", "float32, onnxruntime"} < cells.keys()
    assert len([name for name in cells if "int8" in name]) == len(QUANTIZATIONS) == 4


def test_a_card_has_no_rows_of_settings_that_are_empty(int8):
    card = (int8 / "README.md").read_text()
    assert "| hidden_size | " in card.replace("\\_", "_")
    assert "\\{\\}" not in card
    assert "init_args" not in card.replace("\\_", "_").partition("##")[0]


def test_an_int8_folder_holds_one_file_of_integers_and_what_an_onnx_folder_holds(int8):
    names = {path.name for path in int8.iterdir()}
    assert names == {"model.onnx", "config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "README.md"}
    operations = [node.op_type for node in onnx.load(int8 / "model.onnx").graph.node]
    # Products of weights are of integers; those of attention, which has no weights, are not.
    assert operations.count("MatMulInteger") >= 2 * 4 + 1
    # The file names no folder of the machine that wrote it.
    assert b".py" not in (int8 / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "huggingface", "quantize": "int8"}, "--quantize int8 needs --format onnx, not huggingface"),
        ({"form": "onnx", "dtype": "bfloat16"}, "--dtype bfloat16 needs --format huggingface, not onnx: onnxruntime"),
        ({"form": "onnx", "quantize": "int4"}, "--quantize is 'int4'; it must be int8"),
        ({"form": "onnx", "quantize": "int8", "tolerance": -1}, "--tolerance is -1; it must be between 0 and 1"),
        ({"form": "onnx", "quantize": "int8", "tolerance": float("nan")}, "--tolerance is nan; it must be"),
        ({"form": "onnx", "tolerance": 0.1}, "--tolerance does nothing without --quantize int8 or --dtype bfloat16"),
        ({"form": "onnx", "overrides": ["--data.x=1"]}, "--data.x does nothing without --quantize"),
        (
            {"form": "onnx", "quantize": "int8", "overrides": ["--optimizer.learning_rate", "3"]},
            "export reads the keys data, modules, checkpoint.monitor, checkpoint.mode, and 'optimizer' would",
        ),
        (
            {"form": "onnx", "quantize": "int8", "overrides": ["--checkpoint.mode=max", "--checkpoint.keep=3"]},
            "'checkpoint.keep' would do nothing",
        ),
        (
            {"form": "onnx", "quantize": "int8", "overrides": ["--data.validatoin", "x"]},
            "did you mean 'data.validation'",
        ),
        (
            {"form": "onnx", "quantize": "int8", "overrides": ["--data.validation", "gone.tsv"]},
            "gone.tsv: no such file",
        ),
    ],
)
def test_rounding_that_cannot_be_done_or_measured_is_refused_and_leaves_nothing(
    classifier, tmp_path, arguments, message
):
    with pytest.raises(InputError, match=re.escape(message)):
        export(str(classifier), output=tmp_path / "out", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", ["pretraining", "cloze"])
def test_a_task_without_int8_is_refused_before_its_data_are_missed(task, classifier, tmp_path):
    checkpoint = dataclasses.replace(read_checkpoint(classifier), task=task)
    with pytest.raises(InputError, match=f"{task} gives its model more than ids, segments and a mask"):
        rounded_export.data_for_int8(str(tmp_path / "gone"), checkpoint, Rounding())


def report_of(score, num_sequences):
    """Return what is reported of an int8 file that takes a fifth of the time of float32 and has this score."""
    data = SimpleNamespace(metric="val/accuracy", mode="max", num_sequences=num_sequences)
    names, times = ("float32, PyTorch", "float32, onnxruntime", "signed int8, onnxruntime"), (10.0, 4.0, 2.0)
    rows = [
        FormRow(Form(name, 10**6), Cost(0.0, 0.0, time), value)
        for name, time, value in zip(names, times, (0.8, 0.8, score), strict=True)
    ]
    return rounded_export._report(data, Rounding(), rows, rows[-1])


def test_the_printed_speed_is_that_of_the_card():
    report = report_of(0.8, 1000)
    assert "signed int8, onnxruntime: 5.00 times as fast as float32, PyTorch, 1.0 MB" in report.lines[-1]
    [row] = [line for line in report.card if line.startswith("| signed int8")]
    assert "| 5.00 |" in row


def test_a_better_score_is_a_gain_and_no_negative_loss():
    assert "0.0333 is gained, and a loss of 0.0080 is allowed" in report_of(0.8333, 1000).lines[0]
    assert "0.0050 is lost, and 0.0080 is allowed" in report_of(0.795, 1000).lines[0]
    assert ": 0.0000 is lost" in report_of(0.800001, 1000).lines[0]


def test_a_score_of_so_few_sequences_that_one_outweighs_the_tolerance_is_warned_about():
    few = report_of(0.8, 99)
    assert few.lines[1].startswith("only 99 sequences of validation data")
    assert any(line.startswith("Only 99 sequences of validation data") for line in few.card)
    assert "only" not in " ".join(report_of(0.8, 100).lines)


def blind(source, target, quantization):
    """Write a quantised file of a model that always predicts the same label."""
    model = onnx.load(str(source))
    for tensor in model.graph.initializer:
        if tensor.name.endswith("classifier.weight"):
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(np.zeros_like(onnx.numpy_helper.to_array(tensor)), tensor.name)
            )
    onnx.save(model, str(target.with_suffix(".float")))
    quantize(target.with_suffix(".float"), target, quantization)
    target.with_suffix(".float").unlink()


@pytest.mark.slow
def test_an_int8_file_that_loses_too_much_is_refused_and_nothing_is_left(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(rounded_export, "quantize", blind)
    with pytest.raises(
        WorkError, match=r"val/\w+ is 0\.\d+ in signed int8 per .* is lost, and 0\.\d+ is allowed"
    ) as raised:
        export(str(classifier), "onnx", tmp_path / "new/out", quantize="int8")
    assert "nothing is written; a larger --tolerance allows it" in str(raised.value)
    assert not list(tmp_path.rglob("*out*"))


@pytest.mark.slow
def test_the_nearest_file_within_tolerance_is_kept(classifier, tmp_path, monkeypatch):
    scored = []

    def score(self, form):
        # The two that are nearest lose too much.
        scored.append(form.name)
        return 0.5 if 0 < sum("int8" in name for name in scored) <= 2 else 1.0

    monkeypatch.setattr(ValidationData, "score", score)
    export(str(classifier), "onnx", tmp_path / "out", quantize="int8")
    tried = [name for name in scored if "int8" in name]
    differences = {name: float(cells[1].split(",")[0]) for name, cells in rows_of_card(tmp_path / "out").items()}
    assert len(tried) == 3
    assert [differences[name] for name in tried] == sorted(differences[name] for name in tried)
    assert (tmp_path / "out/README.md").read_text().count("not scored") == 1
    kinds = {each.name: each for each in onnx.load(tmp_path / "out/model.onnx").graph.initializer}
    signed = {onnx.TensorProto.INT8: True, onnx.TensorProto.UINT8: False}
    found = {signed[each.data_type] for name, each in kinds.items() if name.endswith("classifier.weight_quantized")}
    assert found == {not tried[-1].startswith("unsigned")}


@pytest.fixture
def run_of(request, store, validation_store, tables, tokenizer, tmp_path):
    """A function that trains a run of a task for four steps."""

    def train(task):
        tokenizer.save(tmp_path / "tokenizer")
        values = short_experiment(task, (store, validation_store), tables, tmp_path)
        values["model"] = {"size": "tiny"}
        if task != "pretraining":
            values["data"]["tokenizer"] = str(tmp_path / "tokenizer")
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
        run = tmp_path / "run"
        assert main(["fit", "--config", str(tmp_path / "run.yaml"), "--run-directory", str(run)]) == 0
        return run

    return train


# Task -> why its score in int8 cannot be measured.
WITHOUT_INT8 = {
    "pretraining": "pretraining gives its model more than ids, segments and a mask",
    "cloze": "cloze gives its model more than ids, segments and a mask",
    "relation-classification": "has entity markers",
}
WITHOUT_BFLOAT16 = {"relation-classification": "has entity markers"}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_measured_in_both_roundings_or_refused(run_of, task, tmp_path):
    run = run_of(task)
    for name, arguments, refused in (
        ("int8", {"form": "onnx", "quantize": "int8"}, WITHOUT_INT8),
        ("bfloat16", {"form": "huggingface", "dtype": "bfloat16"}, WITHOUT_BFLOAT16),
    ):
        if task in refused:
            with pytest.raises(InputError, match=refused[task]):
                export(str(run), output=tmp_path / name, tolerance=1.0, **arguments)
            assert not (tmp_path / name).exists()
            continue
        export(str(run), output=tmp_path / name, tolerance=1.0, **arguments)
        cells = rows_of_card(tmp_path / name)
        data = ValidationData(run, read_checkpoint(run))
        assert cells["float32, PyTorch"][:2] == [f"{data.score(Form('plain', 0)):.4f}", "0.0000, 0.0000"]
        assert any(float(row[1].split(", ")[1]) > 0 for each, row in cells.items() if name in each)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [name for name in MODELS if "Relation" not in name])
def test_a_model_whose_forward_onnxruntime_computes_gives_the_same_outputs(architecture, tmp_path):
    torch.manual_seed(0)
    model = MODELS[architecture](BertConfig.preset("tiny", vocab_size=40, max_position_embeddings=16)).eval()
    export_onnx(model, tmp_path / "model.onnx")
    sample = sample_inputs(model, 3, 9)
    with torch.no_grad():
        expected = model(*sample)
        with computed_by(model, OnnxForward(tmp_path / "model.onnx", model, 1)):
            found = model(*sample)
            with pytest.raises(ValueError, match="the task gives its model more"):
                model(*sample, torch.zeros(1))
        again = model(*sample)
    assert type(found) is type(expected)
    as_tuple = [(each,) if isinstance(each, torch.Tensor) else each for each in (expected, found, again)]
    for ours, theirs, last in zip(*as_tuple, strict=True):
        if ours is None:
            assert theirs is None
            continue
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-5)
        assert torch.equal(ours, last)


def test_a_bfloat16_folder_is_the_model_rounded_and_transformers_computes_in_bfloat16(classifier, tmp_path):
    export(str(classifier), "huggingface", tmp_path / "out", dtype="bfloat16", tolerance=0.2)
    exact = model_of(read_checkpoint(classifier)).to_checkpoint(tmp_path).tensors
    written = read_checkpoint(tmp_path / "out").tensors
    assert all(torch.equal(written[name].float(), exact[name].bfloat16().float()) for name in exact)
    assert {tensor.dtype for tensor in load_file(tmp_path / "out/model.safetensors").values()} == {torch.bfloat16}
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert theirs.dtype == torch.bfloat16
    # Earlier versions of transformers do not look at the weights.
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    assert "bfloat16, PyTorch" in rows_of_card(tmp_path / "out")


def test_the_loss_of_a_folder_without_a_run_is_not_measured_and_the_card_says_so(classifier, tmp_path):
    plain = BertForSequenceClassification.from_pretrained(classifier)
    plain.save_pretrained(tmp_path / "plain")
    lines = export(str(tmp_path / "plain"), "huggingface", tmp_path / "out", dtype="bfloat16")
    assert "the loss of bfloat16 is not measured" in lines[0]
    assert "is not part of a run directory" in (tmp_path / "out/README.md").read_text()
    with pytest.raises(InputError, match="is not part of a run directory, so there are no validation data"):
        export(str(tmp_path / "plain"), "onnx", tmp_path / "int8", quantize="int8")
    assert not (tmp_path / "int8").exists()


def test_a_run_without_validation_data_cannot_measure(classifier, tmp_path):
    run = shutil.copytree(classifier, tmp_path / "run", symlinks=True)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["validation"] = None
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=r"data\.validation"):
        export(str(run), "onnx", tmp_path / "out", quantize="int8")


def test_outputs_at_padding_are_not_compared():
    config = BertConfig.preset("tiny", vocab_size=40, max_position_embeddings=16)
    starts = (
        BertForQuestionAnswering(config).eval()(*sample_inputs(BertForQuestionAnswering(config), 2, 6)).start_logits
    )
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2]).bool()
    other = starts.detach() + torch.tensor([[0.0] * 6, [0.5] * 4 + [9.0] * 2])
    found = differences({"attention_mask": mask}, starts.detach(), other)
    assert sorted(np.round(found, 5)) == [0.0] * 6 + [0.5] * 4
