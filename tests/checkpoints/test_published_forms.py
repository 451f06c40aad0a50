"""A tiny model for each form in which BERT families are released, opened unchanged and compared with transformers.

Files, tensor names, types and keys of the configurations are those of the releases; the sizes are tiny and the values
random. `docs/checkpoints.md` has the same table in words.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from safetensors.torch import save_file
from test_tensorflow import write_bundle

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.model import BertEncoder, BertForPreTraining
from bert_lightning.model.architectures import model_of
from bert_lightning.model.encoder import ACTIVATIONS
from bert_lightning.model.pretrained import config_of

Tensors = dict[str, torch.Tensor]

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a", "boat", "river", "film", "good", "bad", "##s", "."]
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 16,
}
# Keys of `bert_config.json` of 2018 other than the sizes, which every later config has too.
PLAIN = {
    **SIZES,
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "type_vocab_size": 2,
}
# Keys of Google's Chinese and multilingual models, which no BERT reads.
POOLER_KEYS = {
    "directionality": "bidi",
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
}
# Keys that transformers 2 wrote for every model.
VERSION_2 = {
    **PLAIN,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_ids": 0,
    "finetuning_task": None,
    "is_decoder": False,
    "num_beams": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_past": True,
    "pruned_heads": {},
    "torchscript": False,
    "use_bfloat16": False,
}
VERSION_4 = {
    **PLAIN,
    "model_type": "bert",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "gradient_checkpointing": False,
    "transformers_version": "4.8.2",
    "use_cache": True,
}
VERSION_4_31 = {
    **{key: value for key, value in VERSION_4.items() if key != "gradient_checkpointing"},
    "classifier_dropout": None,
    "torch_dtype": "float32",
    "transformers_version": "4.31.0",
}
VERSION_5 = {
    **PLAIN,
    "model_type": "bert",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "add_cross_attention": False,
    "is_decoder": False,
    "classifier_dropout": None,
    "dtype": "float32",
    "tie_word_embeddings": True,
    "transformers_version": "5.0.0",
    "use_cache": True,
}


# -- tensors and files -------------------------------------------------------------------------------------------


@functools.cache
def pretrained() -> Tensors:
    """Make the tensors of an encoder with both heads of pre-training, under `bert.` and `cls.`."""
    torch.manual_seed(0)
    model = transformers.BertForPreTraining(transformers.BertConfig(**SIZES, initializer_range=0.5))
    # LayerNorm weights and biases start at 1 and 0, which would hide an exchange.
    return {name: torch.randn_like(t) if t.ndim == 1 else t.clone() for name, t in model.state_dict().items()}


def tied(tensors: Tensors) -> Tensors:
    """Add the copies that the decoder holds in pickled files."""
    copies = {
        "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
    }
    return tensors | {name: tensor.clone() for name, tensor in copies.items()}


def without(tensors: Tensors, *starts: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(starts)}


def untied(tensors: Tensors) -> Tensors:
    return without(tensors, "cls.predictions.decoder")


def of_2018(tensors: Tensors) -> Tensors:
    """Use TensorFlow's names of LayerNorm's parameters, and a decoder without its own bias."""
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    old = {}
    for name, tensor in without(tied(tensors), "cls.predictions.decoder.bias").items():
        for new, former in names.items():
            name = name.replace(new, former)
        old[name] = tensor
    return old


def bare(tensors: Tensors) -> Tensors:
    return {name.removeprefix("bert."): t for name, t in tensors.items() if name.startswith("bert.")}


def with_positions(tensors: Tensors) -> Tensors:
    prefix = "bert." if any(name.startswith("bert.") for name in tensors) else ""
    return tensors | {f"{prefix}embeddings.position_ids": torch.arange(SIZES["max_position_embeddings"])[None]}


def with_head(labels: int, tensors: Tensors) -> Tensors:
    head = {"classifier.weight": torch.randn(labels, SIZES["hidden_size"]), "classifier.bias": torch.randn(labels)}
    return without(tensors, "cls.") | head


def cast(dtype: torch.dtype, tensors: Tensors) -> Tensors:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def safetensors(tensors: Tensors, folder: Path) -> None:
    # A safetensors file cannot share one tensor under two names.
    contiguous = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})


def pickled(tensors: Tensors, folder: Path) -> None:
    torch.save(tensors, folder / "pytorch_model.bin")


def pickled_before_zip(tensors: Tensors, folder: Path) -> None:
    # torch's own format before 1.6.
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def in_shards(save: Callable[[Tensors, Path], None], name: str, suffix: str, tensors: Tensors, folder: Path) -> None:
    places = {key: f"{name}-0000{1 + n % 2}-of-00002.{suffix}" for n, key in enumerate(tensors)}
    for file in set(places.values()):
        save({key: tensors[key].contiguous() for key in tensors if places[key] == file}, folder / file)
    (folder / f"{name}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def safetensors_in_shards(tensors: Tensors, folder: Path) -> None:
    def save(part: Tensors, path: Path) -> None:
        save_file(part, path, metadata={"format": "pt"})

    in_shards(save, "model", "safetensors", tensors, folder)


def pickled_in_shards(tensors: Tensors, folder: Path) -> None:
    in_shards(torch.save, "pytorch_model", "bin", tensors, folder)


# -- the table ---------------------------------------------------------------------------------------------------


class Form(NamedTuple):
    """The form in which a family is released: its config, its tensors, their file, and other files by name."""

    config: dict[str, Any]
    tensors: Callable[[Tensors], Tensors]
    write: Callable[[Tensors, Path], None]
    files: dict[str, Any] = {}  # noqa: RUF012
    has_pooler: bool = True


CASED = {"tokenizer_config.json": {"do_lower_case": False}}
STEPS = {
    "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}],
    "1_Pooling/config.json": {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True},
    "sentence_bert_config.json": {"max_seq_length": 8, "do_lower_case": False},
}
FORMS = {
    "google-bert, safetensors": Form(
        {**VERSION_4, "architectures": ["BertForMaskedLM"]},
        lambda t: without(of_2018(t), "cls.predictions.decoder"),
        safetensors,
    ),
    "google-bert, pickled": Form(VERSION_4 | {"architectures": ["BertForMaskedLM"]}, of_2018, pickled_before_zip),
    "whole-word masking": Form(VERSION_4 | {"architectures": ["BertForMaskedLM"]}, tied, pickled),
    "question answering": Form(
        VERSION_4 | {"architectures": ["BertForQuestionAnswering"]},
        lambda t: without(t, "cls.") | {"qa_outputs.weight": torch.randn(2, 24), "qa_outputs.bias": torch.randn(2)},
        safetensors,
    ),
    "Chinese and multilingual": Form(
        {**PLAIN, **POOLER_KEYS, "architectures": ["BertForMaskedLM"], "model_type": "bert", "layer_norm_eps": 1e-12},
        of_2018,
        pickled_before_zip,
        CASED,
    ),
    "Google's miniatures": Form(PLAIN, tied, pickled_before_zip),
    "sentence-transformers MiniLM": Form(
        VERSION_4 | {"architectures": ["BertModel"]}, lambda t: with_positions(bare(t)), safetensors, STEPS
    ),
    "cross-encoder MiniLM": Form(
        VERSION_4
        | {
            "architectures": ["BertForSequenceClassification"],
            "id2label": {"0": "LABEL_0"},
            "label2id": {"LABEL_0": 0},
            "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
        },
        lambda t: with_positions(with_head(1, t)),
        safetensors,
    ),
    "microsoft MiniLM": Form(
        PLAIN | {"layer_norm_eps": 1e-12, "model_type": "bert"}, lambda t: without(t, "cls."), pickled
    ),
    "SciBERT": Form(PLAIN | {"model_type": "bert"}, of_2018, pickled_before_zip),
    "BioBERT of Hugging Face": Form(PLAIN | {"architectures": ["BertModel"]}, bare, pickled, CASED),
    "ClinicalBERT": Form(PLAIN | {"model_type": "bert"}, of_2018, pickled_before_zip, {"graph.pbtxt": {}}),
    "LegalBERT": Form(
        VERSION_2 | {"architectures": ["BertForPreTraining"], "model_type": "bert"} | POOLER_KEYS, tied, pickled
    ),
    "FinBERT": Form(
        VERSION_2
        | {
            "architectures": ["BertForSequenceClassification"],
            "_num_labels": 3,
            "num_labels": 3,
            "id2label": {"0": "positive", "1": "negative", "2": "neutral"},
            "label2id": {"positive": 0, "negative": 1, "neutral": 2},
        },
        lambda t: with_positions(with_head(3, t)),
        pickled,
    ),
    "TinyBERT": Form(
        PLAIN | {"cell": {}, "emb_size": 24, "pre_trained": "", "structure": [], "model_type": "bert"},
        lambda t: tied(t) | {f"fit_denses.{n}.{k}": torch.randn(24) for n in range(3) for k in ("weight", "bias")},
        pickled,
    ),
    "KLUE": Form(
        VERSION_4 | {"architectures": ["BertForPreTraining"], "tokenizer_class": "BertTokenizer"},
        lambda t: with_positions(tied(t)),
        pickled,
        CASED,
    ),
    "German": Form(
        VERSION_2 | {"architectures": ["BertForMaskedLM"], "model_type": "bert"}, tied, pickled_before_zip, CASED
    ),
    "Japanese": Form(
        VERSION_4 | {"architectures": ["BertForMaskedLM"], "tokenizer_class": "BertJapaneseTokenizer"},
        lambda t: with_positions(tied(t)),
        pickled,
        {"tokenizer_config.json": {"do_lower_case": False, "word_tokenizer_type": "mecab"}},
    ),
    "named entities": Form(
        VERSION_4_31
        | {"architectures": ["BertForTokenClassification"], "id2label": {str(n): f"tag {n}" for n in range(5)}},
        lambda t: without(with_head(5, t), "bert.pooler."),
        safetensors,
        has_pooler=False,
    ),
    "masked language model without a pooler": Form(
        VERSION_4_31 | {"architectures": ["BertForMaskedLM"]},
        lambda t: without(untied(t), "bert.pooler.", "cls.seq"),
        safetensors,
        has_pooler=False,
    ),
    "retrieval with a head of its own": Form(
        VERSION_4 | {"architectures": ["HF_ColBERT"]},
        lambda t: with_positions(without(t, "cls.") | {"linear.weight": torch.randn(4, 24)}),
        pickled,
    ),
    "transformers 2 without model_type": Form(VERSION_2, tied, pickled_before_zip),
    "transformers 4.31": Form(VERSION_4_31 | {"architectures": ["BertModel"]}, bare, safetensors),
    "transformers 5": Form(VERSION_5 | {"architectures": ["BertForPreTraining"]}, untied, safetensors),
    "float16": Form(
        VERSION_4_31 | {"torch_dtype": "float16"}, lambda t: cast(torch.float16, bare(with_positions(t))), safetensors
    ),
    "bfloat16": Form(VERSION_5 | {"dtype": "bfloat16"}, lambda t: cast(torch.bfloat16, untied(t)), safetensors),
    "safetensors in shards": Form(
        VERSION_4_31 | {"architectures": ["BertModel"]}, lambda t: with_positions(bare(t)), safetensors_in_shards
    ),
    "pickled in shards": Form(VERSION_4, lambda t: with_positions(tied(t)), pickled_in_shards),
    # transformers' BERT ignores these settings, but their names have a meaning in our own folders.
    "keys of other programs": Form(
        VERSION_4 | {"pooling": "mean", "pooler": False, "embedding_size": 8, "pre_layer_norm": True},
        untied,
        safetensors,
    ),
    "other settings": Form(
        VERSION_4 | {"hidden_act": "gelu_new", "layer_norm_eps": 0.1, "tie_word_embeddings": False}, tied, safetensors
    ),
    "few settings": Form(SIZES, untied, safetensors),
}


def write_form(form: Form, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(form.config))
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    for name, content in form.files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    form.write(form.tensors(pretrained()), folder)
    return folder


def assert_equal(ours: BertEncoder, theirs: transformers.BertModel, has_pooler: bool = True) -> None:
    """Compute every hidden state and the pooled output in float64."""
    ids = torch.tensor([[2, 5, 7, 12, 9, 3], [2, 6, 8, 3, 0, 0]])
    segments, mask = torch.tensor([[0, 0, 0, 1, 1, 1]]).repeat(2, 1), (ids > 0).long()
    with torch.no_grad():
        actual = ours.double().eval()(ids, segments, mask, output_hidden_states=True)
        expected = theirs.double().eval()(
            ids, token_type_ids=segments, attention_mask=mask, output_hidden_states=True
        )
    real = mask.bool()
    for mine, other in zip(actual.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine[real], other[real], rtol=1e-10, atol=1e-10)
    if has_pooler:
        torch.testing.assert_close(actual.pooler_output, expected.pooler_output, rtol=1e-10, atol=1e-10)


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


def variables(tensors: Tensors, optimizer: bool) -> dict[str, Any]:
    """Rename tensors as in google-research/bert, and add the variables that a training run leaves."""
    found = {}
    for name, tensor in without(tensors, "cls.predictions.decoder").items():
        if name.endswith("weight") and ("dense" in name or ".self." in name):
            name, tensor = name.replace("weight", "kernel"), tensor.T
        for ours, original in {
            "layer.": "layer_",
            "_embeddings.weight": "_embeddings",
            "LayerNorm.weight": "LayerNorm.gamma",
            "LayerNorm.bias": "LayerNorm.beta",
            "seq_relationship.weight": "seq_relationship.output_weights",
            "seq_relationship.bias": "seq_relationship.output_bias",
            "predictions.bias": "predictions.output_bias",
        }.items():
            name = name.replace(ours, original)
        found[name.replace(".", "/")] = tensor.contiguous().numpy()
    if optimizer:
        slots = {f"{name}/{slot}": array for name, array in found.items() for slot in ("adam_m", "adam_v", "lamb_m")}
        found |= slots | {"global_step": torch.tensor(1000000).numpy(), "beta1_power": torch.tensor(0.9).numpy()}
    return found


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
    with pytest.raises(CheckpointError, match=r"head\.weight is no plain .* \(sparse_coo of float32 on cpu\)"):
        BertEncoder.from_pretrained(write_form(form, tmp_path))


@pytest.mark.parametrize("places", [None, ["a"], {"embeddings.LayerNorm.bias": None}])
def test_an_index_that_names_no_files_is_refused_by_its_key(tmp_path: Path, places: object):
    folder = write_form(Form(VERSION_4, bare, safetensors_in_shards), tmp_path)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CheckpointError, match=r"index\.json has no weight_map from tensors to files"):
        BertEncoder.from_pretrained(folder)


@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("keep_bert", [True, False])
def test_a_decoder_that_contradicts_its_tying_loses_only_the_head(tmp_path: Path, part: str, keep_bert: bool):
    name = f"cls.predictions.decoder.{part}"

    def contradictory(tensors: Tensors) -> Tensors:
        found = tied(tensors) | {name: torch.randn(tied(tensors)[name].shape)}
        return found if keep_bert else {key.removeprefix("bert."): tensor for key, tensor in found.items()}

    folder = write_form(Form(VERSION_4, contradictory, pickled), tmp_path)
    encoder = BertEncoder.from_pretrained(folder)
    assert_equal(encoder, transformers.BertModel.from_pretrained(folder, local_files_only=True))
    assert encoder.loading_report.missing == []
    with pytest.raises(CheckpointError, match=rf"decoder\.{part} differs from .*tie_word_embeddings makes them one"):
        BertForPreTraining.from_pretrained(folder)
    with pytest.raises(CheckpointError, match=rf"decoder\.{part} differs from"):
        model_of(read_checkpoint(folder))
