"""A saved run in Python and from the shell: predictions, hidden states, submissions."""

import json
import zipfile

import numpy as np
import pytest
import torch
import transformers
from pyarrow import parquet
from safetensors.numpy import load_file

from bert_lightning import load
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.cli import main
from bert_lightning.errors import InputError
from bert_lightning.interpretability.features import FeatureExtractor
from bert_lightning.model import BertEncoder
from bert_lightning.reports.submission import FILES
from bert_lightning.runs import inference_device

TEXTS = ["The old cat sees the young dog.", "", "The road.", "The river follows the quiet stone and the house."]


def test_a_loaded_run_predicts_what_the_command_does(classifier, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    assert main(["predict", "--checkpoint", str(classifier), "--input", str(tmp_path / "texts.txt")]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    predictor = load(classifier)
    assert predictor.predict(TEXTS) == printed
    assert predictor.predict([{"sentence": text} for text in TEXTS], batch_size=1)[0]["label"] == printed[0]["label"]
    assert predictor.predict([]) == []


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("The cat.", "a list of inputs is expected, not one"),
        ([1], r"item 1: this model takes sentence, or a dictionary of its columns, not 1"),
        (["x", {"text": "x"}], "item 2: .*no column 'sentence'"),
        ([("a", "b")], "item 1"),
    ],
)
def test_input_that_cannot_be_predicted_is_named(classifier, items, message):
    with pytest.raises(InputError, match=message):
        load(classifier).predict(items)


@pytest.mark.parametrize(
    ("precision", "fast", "expected"),
    [("32", True, False), ("bf16-mixed", False, True), ("auto", True, True), ("auto", False, False)],
)
def test_products_are_in_bfloat16_if_the_precision_says_so_or_auto_finds_hardware_for_it(
    classifier, monkeypatch, precision, fast, expected
):
    monkeypatch.setattr(inference_device, "has_fast_bfloat16", lambda accelerator: fast)
    types = []
    model = load(classifier, "cpu", precision=precision)
    block = model.task.model.backbone.layers[0]
    block.intermediate.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
    model.predict(TEXTS)
    assert types == [torch.bfloat16 if expected else torch.float32]


def test_predictions_and_features_in_bfloat16_are_within_its_rounding(classifier, folder):
    plain, rounded = load(classifier), load(classifier, precision="bf16-mixed")
    for a, b in zip(plain.predict(TEXTS), rounded.predict(TEXTS), strict=True):
        for label, probability in a["probabilities"].items():
            assert b["probabilities"][label] == pytest.approx(probability, abs=0.02)
    checkpoint = read_checkpoint(folder)
    exact = list(FeatureExtractor(checkpoint).extract(TEXTS, layers=[0, -1]))
    near = list(FeatureExtractor(checkpoint, precision="bf16-mixed").extract(TEXTS, layers=[0, -1]))
    for a, b in zip(exact, near, strict=True):
        # LayerNorm makes values of about 1, and every product rounds its operands to 8 bits.
        assert np.abs(a.states - b.states).max() < 0.1
        assert np.array_equal(a.states[0], b.states[0])
        assert not np.array_equal(a.states[1], b.states[1])


def test_a_batch_of_no_inputs_is_refused(classifier):
    with pytest.raises(InputError, match="batch_size is 0; it must be at least 1"):
        load(classifier).predict(["a text"], batch_size=0)


def test_a_task_that_is_called_with_texts_says_where_texts_are_predicted(classifier):
    with pytest.raises(InputError, match=r"bert_lightning\.load"):
        load(classifier).task(["a text"])


def test_an_unknown_precision_is_refused(classifier, folder):
    with pytest.raises(InputError, match="precision is 'bf16'; it must be one of 32, bf16-mixed, auto"):
        load(classifier, precision="bf16")
    with pytest.raises(InputError, match="precision is '16'"):
        FeatureExtractor(read_checkpoint(folder), precision="16")


def test_the_commands_take_a_precision(classifier, folder, tmp_path, capsys):
    source, output = tmp_path / "texts.txt", tmp_path / "features.safetensors"
    source.write_text("\n".join(TEXTS) + "\n")
    options = ["--input", str(source), "--precision", "bf16-mixed"]
    assert main(["predict", "--checkpoint", str(classifier), *options]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == load(classifier, precision="bf16-mixed").predict(TEXTS)
    assert main(["features", "--checkpoint", str(folder), *options, "--form", "mean", "--output", str(output)]) == 0
    expected = FeatureExtractor(read_checkpoint(folder), precision="bf16-mixed").extract(TEXTS, form="mean")
    assert np.array_equal(load_file(output)["states"], np.stack([each.states for each in expected]))


def test_masked_tokens_are_predicted_in_batches_of_similar_length_and_returned_in_order(home):
    model = load(home / "runs/whole")
    texts = ["the [MASK]", "the [MASK] sees the old dog and the [MASK] of the house", "[MASK] cat sees", "a [MASK]"]
    lengths = []
    model.task.model.register_forward_pre_hook(lambda module, inputs: lengths.append(inputs[2].sum(1).tolist()))
    together = model.predict(texts, batch_size=2)
    assert [each["text"] for each in together] == texts
    assert [len(each["masks"]) for each in together] == [1, 2, 1, 1]
    flat = [length for batch in lengths for length in batch]
    assert len(lengths) == 2
    assert flat == sorted(flat)
    for text, prediction in zip(texts, together, strict=True):
        [alone] = model.predict([text])
        for a, b in zip(alone["masks"], prediction["masks"], strict=True):
            assert [each["token"] for each in a] == [each["token"] for each in b]
            assert [each["probability"] for each in a] == pytest.approx([each["probability"] for each in b], abs=1e-5)


@pytest.fixture(scope="module")
def folder(home, tmp_path_factory):
    """The pre-trained encoder in a folder that transformers opens."""
    path = tmp_path_factory.mktemp("exported") / "model"
    assert (
        main(["export", "--checkpoint", str(home / "runs/whole"), "--format", "huggingface", "--output", str(path)])
        == 0
    )
    return path


@pytest.mark.parametrize("form", ["tokens", "cls", "mean", "max", "pooler"])
def test_features_are_transformers_hidden_states(folder, tmp_path, form):
    output, source = tmp_path / "features.safetensors", tmp_path / "texts.txt"
    source.write_text("\n".join(TEXTS) + "\n")
    command = ["features", "--checkpoint", str(folder), "--input", str(source), "--output", str(output)]
    assert main([*command, "--form", form, "--layers", "0", "-1"]) == 0
    tensors = load_file(output)
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder).eval()
    for number, text in enumerate(TEXTS):
        with torch.inference_mode():
            theirs = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        states = torch.stack([theirs.hidden_states[0][0], theirs.hidden_states[-1][0]], 1).numpy()
        expected = {
            "tokens": states,
            "cls": states[0],
            "mean": states.mean(0),
            "max": states.max(0),
            "pooler": theirs.pooler_output.numpy(),
        }[form]
        if form == "tokens":
            start, end = tensors["boundaries"][number : number + 2]
            ours = tensors["states"][start:end]
        else:
            ours = tensors["states"][number]
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_features_in_parquet_hold_text_tokens_and_one_column_per_layer(home, tmp_path):
    output = tmp_path / "features.parquet"
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"words": text}) + "\n" for text in TEXTS))
    command = ["features", "--checkpoint", str(home / "runs/whole"), "--input", str(source), "--text-column", "words"]
    assert main([*command, "--output", str(output), "--layers", "1", "2"]) == 0
    rows = parquet.read_table(output).to_pylist()
    assert [row["text"] for row in rows] == TEXTS
    width = BertEncoder.from_pretrained(home / "runs/whole").config.hidden_size
    for row in rows:
        assert row["tokens"][0] == "[CLS]"
        assert np.array(row["layer_1"]).shape == np.array(row["layer_2"]).shape == (len(row["tokens"]), width)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "9"], "has 0 (embeddings) to 2, or -3 to -1"),
        (["--output", "x.npy"], "features end in .safetensors or .parquet"),
        (["--max-seq-length", "99"], "max_seq_length is 99"),
        (["--max-seq-length", "0"], "max_seq_length is 0"),
        (["--input", "empty.txt"], "empty.txt: the input holds no text"),
        (["--input", "rows.json"], "rows.json: .json is not read as text; write it as JSON lines that end in .jsonl"),
    ],
)
def test_impossible_features_leave_no_file(home, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "rows.json").write_text('[{"text": "The cat."}]')
    (tmp_path / "texts.txt").write_text("The cat.\n")
    command = [
        "features",
        "--checkpoint",
        str(home / "runs/whole"),
        "--input",
        "texts.txt",
        "--output",
        "x.safetensors",
    ]
    assert main([*command, *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("x.*"))


def test_a_submission_holds_the_eleven_files_of_the_runs(tmp_path, capsys):
    runs = []
    for number, name in enumerate(FILES):
        run = tmp_path / f"run-{number}"
        (run / "predictions/test").mkdir(parents=True)
        (run / "config.yaml").write_text("experiment: x\n")
        lines = "".join(f"{index}\t{number}\n" for index in range(FILES[name]))
        (run / f"predictions/test/{name}.tsv").write_text(f"index\tprediction\n{lines}")
        runs.append(str(run))
    output = tmp_path / "submission.zip"
    assert main(["submission", *runs[1:], "--output", str(output)]) == 2
    assert "lacks AX.tsv" in capsys.readouterr().err
    assert main(["submission", *runs, runs[3], "--output", str(output)]) == 2
    assert "exists twice" in capsys.readouterr().err
    assert not output.exists()
    assert main(["submission", *runs, "--output", str(output)]) == 0
    with zipfile.ZipFile(output) as archive:
        assert archive.namelist() == [f"{name}.tsv" for name in FILES]
        assert archive.read("CoLA.tsv").startswith(b"index\tprediction\n0\t1\n1\t1\n")
    short = tmp_path / "run-1/predictions/test/CoLA.tsv"
    short.write_text("index\tprediction\n0\t1\n")
    assert main(["submission", *runs, "--output", str(output)]) == 2
    assert "CoLA.tsv: 1 predictions, but the test set has 1,063 examples" in capsys.readouterr().err


@pytest.mark.parametrize("output", [[], ["--output", "out.jsonl"]])
def test_an_empty_input_predicts_nothing_and_is_warned_about(home, tmp_path, monkeypatch, capsys, caplog, output):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    assert main(["predict", "--checkpoint", str(home / "runs/whole"), "--input", "empty.txt", *output]) == 0
    assert capsys.readouterr().out == ""
    assert "empty.txt: the input holds nothing to predict" in caplog.text


def test_a_mask_that_the_model_does_not_read_is_refused_with_its_item(home):
    predictor = load(home / "runs/whole")
    # 40 tokens, two of which are [CLS] and [SEP].
    [fits] = predictor.predict(["cat " * 36 + "[MASK] [MASK] cat"])
    assert len(fits["masks"]) == 2
    with pytest.raises(InputError, match=r"item 2: 2 of 3 \[MASK\] are beyond the 40 tokens that the model reads"):
        predictor.predict(["The [MASK].", "[MASK] " + "cat " * 37 + "[MASK] [MASK]"])


def test_json_lines_under_another_name_are_warned_about(home, tmp_path, capsys, caplog):
    (tmp_path / "rows.txt").write_text('{"text": "The [MASK]."}\n' * 2)
    source = str(tmp_path / "rows.txt")
    assert main(["predict", "--checkpoint", str(home / "runs/whole"), "--input", source]) == 0
    assert caplog.text.count("rows.txt: line 1: this JSON object is read as text") == 1
    caplog.clear()
    output = ["--output", str(tmp_path / "f.safetensors")]
    assert main(["features", "--checkpoint", str(home / "runs/whole"), "--input", source, *output]) == 0
    assert caplog.text.count("rows.txt: line 1: this JSON object is read as text") == 1
    capsys.readouterr()


@pytest.mark.parametrize("name", ["rows.json", "rows.ndjson.gz", "rows.xlsx", "rows.feather"])
def test_a_table_in_an_unsupported_format_is_not_predicted_as_text(home, tmp_path, capsys, name):
    (tmp_path / name).write_text('{"text": "The [MASK]."}\n')
    assert main(["predict", "--checkpoint", str(home / "runs/whole"), "--input", str(tmp_path / name)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"{name}: .{name.split('.')[1]} is not read as text; write it as " in shown.err
