"""A tiny model for each form in which BERT families are released, opened unchanged and compared with transformers.

Files, tensor names, types and keys of the configurations are those of the releases; the sizes are tiny and the values
random. `docs/checkpoints.md` has the same table in words.
"""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.model import BertEncoder, BertForPreTraining
from bert_lightning.model.architectures import model_of
from bert_lightning.model.layers.activations import ACTIVATIONS
from bert_lightning.model.pretrained import config_of
from tests.support.published_forms import (
    FORMS,
    PLAIN,
    POOLER_KEYS,
    SIZES,
    VERSION_4,
    WORDS,
    Form,
    Tensors,
    assert_equal,
    bare,
    of_2018,
    pickled,
    pickled_before_zip,
    pretrained,
    safetensors,
    safetensors_in_shards,
    tied,
    variables,
    with_positions,
    write_form,
)
from tests.support.tensorflow_bundles import write_bundle


@pytest.mark.parametrize("name", FORMS)
def test_a_released_form_computes_what_transformers_does(tmp_path: Path, name: str):
    form = FORMS[name]
    folder = write_form(form, tmp_path)
    encoder = BertEncoder.from_pretrained(folder)
    assert encoder.loading_report.missing == (
        [] if form.has_pooler else ["encoder.pooler.weight", "encoder.pooler.bias"]
    )
    theirs = transformers.BertModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    assert_equal(encoder, theirs, form.has_pooler)


@pytest.mark.parametrize("name", ["FinBERT", "TinyBERT", "named entities", "float16"])
def test_a_released_form_is_exported_with_the_same_encoder(tmp_path: Path, name: str):
    folder = write_form(FORMS[name], tmp_path / "released")
    model_of(read_checkpoint(folder)).save_pretrained(tmp_path / "out")
    before, after = read_checkpoint(folder).tensors, read_checkpoint(tmp_path / "out").tensors
    encoder = {key for key in before if key.startswith("encoder.")} - {"encoder.pooler.weight", "encoder.pooler.bias"}
    assert all(torch.equal(after[key], before[key].to(after[key].dtype)) for key in encoder)


def test_the_first_releases_for_pytorch_have_another_name_of_the_config(tmp_path: Path):
    # pytorch-pretrained-bert computed the erf form of GELU, as transformers does with the file renamed.
    folder = write_form(Form(PLAIN, of_2018, pickled_before_zip), tmp_path)
    theirs = transformers.BertModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    (folder / "config.json").rename(folder / "bert_config.json")
    assert_equal(BertEncoder.from_pretrained(folder), theirs)


def test_early_sentence_encoders_lie_in_a_folder_of_their_own(tmp_path: Path):
    inside = write_form(FORMS["sentence-transformers MiniLM"], tmp_path / "0_BERT")
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "0_BERT"}]))
    (tmp_path / "config.json").write_text('{"__version__": "0.2.0"}')
    theirs = transformers.BertModel.from_pretrained(inside, dtype=torch.float32, local_files_only=True)
    assert_equal(BertEncoder.from_pretrained(tmp_path), theirs)


# -- TensorFlow 1 ------------------------------------------------------------------------------------------------


TENSORFLOW = {
    "google-research/bert": ("bert_model.ckpt", POOLER_KEYS, False),
    "BioBERT 1.0": ("biobert_model.ckpt", {}, False),
    "BioBERT 1.1": ("model.ckpt-1000000", {}, True),
    # TensorFlow's BERT reads none of these keys.
    "keys of other programs": ("bert_model.ckpt", {"layer_norm_eps": 0.1, "pooling": "max", "pooler": False}, False),
}


@pytest.mark.parametrize("name", TENSORFLOW)
def test_a_tensorflow_release_computes_what_its_tensors_do(tmp_path: Path, name: str):
    prefix, keys, optimizer = TENSORFLOW[name]
    tensors = pretrained()
    (tmp_path / "bert_config.json").write_text(json.dumps(PLAIN | keys))
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    write_bundle(tmp_path / prefix, variables(tensors, optimizer), {"float32": 1, "int64": 9}, 1)
    # The original code computes the tanh form of GELU.
    theirs = transformers.BertModel(transformers.BertConfig(**PLAIN | {"hidden_act": "gelu_new"}))
    theirs.load_state_dict(bare(tensors))
    encoder = BertEncoder.from_pretrained(tmp_path)
    assert_equal(encoder, theirs)
    assert BertForPreTraining.from_pretrained(tmp_path).loading_report == (encoder.loading_report.path, [], [])


# -- settings of the config --------------------------------------------------------------------------------------


def test_an_activation_function_is_transformers_own_or_refused_by_name(tmp_path: Path):
    folder, x = write_form(FORMS["few settings"], tmp_path), torch.linspace(-4, 4, 101, dtype=torch.float64)
    refused = set()
    for name in transformers.activations.ACT2CLS:
        (folder / "config.json").write_text(json.dumps(SIZES | {"hidden_act": name}))
        try:
            ours = ACTIVATIONS[config_of(read_checkpoint(folder)).hidden_act](x)
        except CheckpointError as error:
            refused.add(str(error).partition("hidden_act is ")[2].partition(";")[0].strip("'"))
        else:
            torch.testing.assert_close(ours, transformers.activations.ACT2FN[name](x), rtol=1e-9, atol=1e-9)
    assert {name for name in transformers.activations.ACT2CLS if "lu" in name} - refused == {
        *("gelu", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"),
        *("relu", "silu"),
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is"),
        ({"position_embedding_type": "relative_key_query"}, "position_embedding_type is"),
        ({"architectures": ["RobertaForMaskedLM"]}, "architectures is .'RobertaForMaskedLM'. without a model_type"),
        ({"model_type": "ernie"}, "model_type is 'ernie'"),
    ],
)
def test_a_setting_that_means_another_model_is_refused_by_key(tmp_path: Path, values: dict, message: str):
    folder = write_form(FORMS["few settings"], tmp_path)
    (folder / "config.json").write_text(json.dumps(SIZES | values))
    with pytest.raises(CheckpointError, match=rf"config\.json: {message}"):
        BertEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    "values",
    [
        # MuRIL's config has this key, although BERT has no embeddings of another width.
        {"embedding_size": SIZES["hidden_size"]},
        {"embedding_size": None, "pooler": True},
    ],
)
def test_a_setting_without_an_effect_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture, values: dict):
    form = Form(VERSION_4 | {"architectures": ["BertModel"]} | values, bare, safetensors)
    encoder = BertEncoder.from_pretrained(write_form(form, tmp_path))
    assert encoder.loading_report == (encoder.loading_report.path, [], [])
    assert not caplog.records


def test_metadata_of_another_program_is_ignored(tmp_path: Path):
    folder = write_form(FORMS["transformers 4.31"], tmp_path)
    content = {"format": "pt", "config": "base, see the paper"}
    save_file(bare(pretrained()), folder / "model.safetensors", metadata=content)
    assert BertEncoder.from_pretrained(folder).loading_report.missing == []


@pytest.mark.parametrize("name", ["Contriever", "BertForCL"])
def test_an_encoder_whose_class_is_unknown_is_exported_as_an_encoder(tmp_path: Path, name: str):
    form = Form(VERSION_4 | {"architectures": [name]}, lambda t: with_positions(bare(t)), pickled)
    folder = write_form(form, tmp_path / "released")
    model_of(read_checkpoint(folder)).save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["architectures"] == ["BertModel"]
    theirs = transformers.BertModel.from_pretrained(tmp_path / "out", local_files_only=True)
    assert_equal(BertEncoder.from_pretrained(folder), theirs)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "vocab.txt", "config.json"])
def test_a_pointer_of_git_lfs_is_reported_as_such(tmp_path: Path, file: str):
    write = pickled if file == "pytorch_model.bin" else safetensors
    folder = write_form(Form(VERSION_4, bare, write), tmp_path)
    (folder / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 90868376\n")
    with pytest.raises(CheckpointError, match=rf"{file} is a pointer of Git LFS"):
        BertEncoder.from_pretrained(folder)


def test_a_sparse_tensor_is_refused_as_such(tmp_path: Path):
    form = Form(VERSION_4, lambda t: bare(t) | {"head.weight": torch.eye(3).to_sparse()}, pickled)
    with pytest.raises(CheckpointError, match=r"head\.weight is not a plain .* \(sparse_coo of float32 on cpu\)"):
        BertEncoder.from_pretrained(write_form(form, tmp_path))


@pytest.mark.parametrize("files", [None, ["a"], {"embeddings.LayerNorm.bias": None}])
def test_an_index_that_names_no_files_is_refused_by_its_key(tmp_path: Path, files: object):
    folder = write_form(Form(VERSION_4, bare, safetensors_in_shards), tmp_path)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    with pytest.raises(CheckpointError, match=r"index\.json has no weight_map from tensors to files"):
        BertEncoder.from_pretrained(folder)


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("keep_bert", [True, False])
def test_a_decoder_that_contradicts_its_tying_loses_only_the_head(tmp_path: Path, name: str, keep_bert: bool):
    full_name = f"cls.predictions.decoder.{name}"

    def contradictory(tensors: Tensors) -> Tensors:
        found = tied(tensors) | {full_name: torch.randn(tied(tensors)[full_name].shape)}
        return found if keep_bert else {key.removeprefix("bert."): tensor for key, tensor in found.items()}

    folder = write_form(Form(VERSION_4, contradictory, pickled), tmp_path)
    encoder = BertEncoder.from_pretrained(folder)
    assert_equal(encoder, transformers.BertModel.from_pretrained(folder, local_files_only=True))
    assert encoder.loading_report.missing == []
    with pytest.raises(
        CheckpointError, match=rf"decoder\.{name} differs from .*tie_word_embeddings makes them the same parameter"
    ):
        BertForPreTraining.from_pretrained(folder)
    with pytest.raises(CheckpointError, match=rf"decoder\.{name} differs from"):
        model_of(read_checkpoint(folder))
