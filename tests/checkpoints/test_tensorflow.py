"""TensorFlow 1 checkpoints. TensorFlow's own saver wrote `tensorflow1/released/`, with `tensorflow1/make.py`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tensorflow1.make import CONFIG, WORDS, shapes, value, write

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.names import to_huggingface
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tensorflow import read_bundle
from bert_lightning.model import BertEncoder, BertForPreTraining
from tests.support.tensorflow_bundles import write_bundle

HERE = Path(__file__).parent / "tensorflow1"
INDEX, DATA = "bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"


@pytest.fixture
def released(tmp_path: Path) -> Path:
    return Path(shutil.copytree(HERE / "released", tmp_path / "released"))


def assert_holds_the_variables(folder: Path, config: dict) -> None:
    """Check every variable, under transformers' name, in transformers' orientation."""
    theirs = to_huggingface(read_checkpoint(folder).tensors)
    for name, shape in shapes(config).items():
        expected = value(name, shape)
        for ours, original in {
            "layer.": "layer_",
            ".weight": "/kernel",
            "LayerNorm.weight": "LayerNorm/gamma",
            "LayerNorm.bias": "LayerNorm/beta",
            "seq_relationship.weight": "seq_relationship/output_weights",
            "seq_relationship.bias": "seq_relationship/output_bias",
            "predictions.bias": "predictions/output_bias",
            "_embeddings.weight": "_embeddings",
        }.items():
            name = name.replace(original, ours) if not name.endswith(".weight") else name
        if name.endswith("dense.weight") or ".self/" in name or "/self/" in name:
            expected = expected.T if expected.ndim == 2 else expected
        actual = theirs.pop(name.replace("/", "."))
        assert np.array_equal(actual.numpy(), expected), name
    assert not theirs


def test_every_variable_that_tensorflow_wrote_is_read(released):
    assert_holds_the_variables(released, CONFIG)


def test_gelu_in_a_released_config_is_the_tanh_form(released):
    config = BertForPreTraining.from_pretrained(released).config
    assert config.hidden_act == "gelu_new"
    assert {name: getattr(config, name) for name in CONFIG if name != "hidden_act"} == {
        name: v for name, v in CONFIG.items() if name != "hidden_act"
    }


@pytest.mark.parametrize("path", ["released", f"released/{INDEX}", "released/bert_model.ckpt"])
def test_a_folder_a_prefix_and_an_index_are_the_same_checkpoint(released, path):
    model = BertForPreTraining.from_pretrained(released.parent / path)
    assert model.loading_report.missing == model.loading_report.unused == []
    assert model.vocabulary.entries == tuple(WORDS)


def test_the_model_equals_transformers_with_the_same_variables(released, tmp_path):
    # transformers' own layout, filled by hand without our mapping of names.
    theirs = transformers.BertForPreTraining(transformers.BertConfig(**{**CONFIG, "hidden_act": "gelu_new"})).eval()
    state = {}
    for name, shape in shapes(CONFIG).items():
        tensor = torch.from_numpy(value(name, shape))
        components = name.split("/")
        *path, last = [component.replace("layer_", "layer.") for component in components]
        if last in ("kernel", "gamma", "output_weights"):
            last = "weight"
        elif last in ("beta", "output_bias"):
            last = "bias"
        elif last.endswith("_embeddings"):
            last += ".weight"
        state[".".join([*path, last])] = tensor.T if components[-1] == "kernel" else tensor
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert {name.rsplit(".", 1)[0] for name in missing} <= {"cls.predictions.decoder", "bert.embeddings"}
    theirs.tie_weights()
    ids = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 3, 0, 0]])
    segments, mask = (torch.arange(5) >= 3).long().repeat(2, 1), (ids > 0).long()
    ours = BertForPreTraining.from_pretrained(released).double().eval()(ids, segments, mask)
    expected = theirs.double()(ids, token_type_ids=segments, attention_mask=mask)
    real = mask.bool()
    torch.testing.assert_close(ours.prediction_logits[real], expected.prediction_logits[real], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.seq_relationship_logits, expected.seq_relationship_logits, rtol=1e-10, atol=1e-10)


def test_casing_is_taken_from_the_vocabulary(released):
    assert read_checkpoint(released).vocabulary.lowercase is False
    (released / "vocab.txt").write_text("".join(f"{word.lower() if word[0] != '[' else word}\n" for word in WORDS))
    assert read_checkpoint(released).vocabulary.lowercase is True


def test_the_highest_of_several_steps_is_read(released):
    for step in (9, 10):
        for name in (INDEX, DATA):
            (released / name.replace("bert_model.ckpt", f"model.ckpt-{step}")).write_bytes(
                (released / name).read_bytes()
            )
    assert read_checkpoint(released).path.name == "bert_model.ckpt"
    for name in (INDEX, DATA):
        (released / name).unlink()
    assert read_checkpoint(released).path.name == "model.ckpt-10"


def failure(prefix: Path) -> str | None:
    try:
        read_bundle(prefix)
    except CheckpointError as error:
        return str(error)
    return None


def test_any_flipped_bit_is_noticed_and_named(released):
    original = read_bundle(released / "bert_model.ckpt")
    for name in (INDEX, DATA):
        whole = (released / name).read_bytes()
        # Every 97th bit reaches every section of the files.
        for bit in range(0, 8 * len(whole), 97 if name == INDEX else 971):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            (released / name).write_bytes(damaged)
            message = failure(released / "bert_model.ckpt")
            if message is None:
                # The metaindex, which is empty, and the padding of the footer: nothing is read from them.
                assert name == INDEX
                read = read_bundle(released / "bert_model.ckpt")
                assert all(torch.equal(read[variable], tensor) for variable, tensor in original.items())
            else:
                assert "bert_model.ckpt" in message
        (released / name).write_bytes(whole)


@pytest.mark.parametrize("name", [INDEX, DATA])
@pytest.mark.parametrize("size", [0, 1, 500, -1])
def test_a_truncated_file_is_named(released, name, size):
    content = (released / name).read_bytes()
    (released / name).write_bytes(content[:size])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        read_checkpoint(released)


def test_missing_files_of_a_checkpoint_are_named(released):
    (released / DATA).unlink()
    with pytest.raises(CheckpointError, match=rf"{DATA} is missing"):
        read_checkpoint(released)
    (released / INDEX).unlink()
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        read_checkpoint(released)


def test_a_config_with_a_wrong_shape_is_an_error_that_names_the_tensor(released):
    (released / "bert_config.json").write_text(json.dumps({**CONFIG, "intermediate_size": 64}))
    with pytest.raises(CheckpointError, match=r"layers\.0\.intermediate\.bias has shape \(32,\), expected \(64,\)"):
        BertEncoder.from_pretrained(released)
    (released / "bert_config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 1}))
    with pytest.raises(CheckpointError, match=r"has a tensor encoder\.layers\.1\..*does not exist"):
        BertEncoder.from_pretrained(released)


# -- files of an independent writer --------------------------------------------------------------------------------


@pytest.mark.parametrize("num_shards", [1, 3])
def test_bundles_of_several_shards_blocks_and_types_are_read(tmp_path, num_shards):
    generator = np.random.default_rng(0)
    tensors = {f"v{i}": generator.normal(size=(i, 3)).astype(t) for i, t in enumerate(("f4", "f8", "f2", "f4") * 4)}
    tensors |= {"step": np.array(7, dtype="i8"), "small": np.arange(3, dtype="i4")}
    dtypes = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}
    write_bundle(tmp_path / "m.ckpt", tensors, dtypes, num_shards)
    read = read_bundle(tmp_path / "m.ckpt")
    assert read.keys() == tensors.keys()
    for name, expected in tensors.items():
        assert read[name].shape == expected.shape
        assert np.array_equal(read[name].numpy(), expected)


@pytest.mark.slow
def test_a_checkpoint_of_base_size_by_current_tensorflow_is_read(tmp_path):
    pytest.importorskip("tensorflow", reason="tensorflow is not installed: `pip install tensorflow-cpu`")
    config = {**CONFIG, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "vocab_size": 30522}
    write(tmp_path, config)
    assert_holds_the_variables(tmp_path, config)


def test_the_checkpoint_records_its_origin(released):
    checkpoint = read_checkpoint(released)
    assert checkpoint.path == released / "bert_model.ckpt"
    assert (checkpoint.provenance.source, checkpoint.provenance.revision) == ("bert_model.ckpt", None)
