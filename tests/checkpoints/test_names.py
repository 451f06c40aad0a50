"""Names in weights of other systems: buffers, heads, parameters of the encoder, and names that are refused."""

import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.names import from_huggingface, to_huggingface
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.cli import main
from bert_lightning.config.sections import ModelSettings
from bert_lightning.interpretability.features import FeatureExtractor
from bert_lightning.model import BertConfig, BertEncoder, BertForPreTraining
from bert_lightning.runs.starting_point import model_config, start_checkpoint
from tests.support.published_forms import (
    FORMS,
    PLAIN,
    SIZES,
    VERSION_4,
    WORDS,
    Form,
    assert_equal,
    bare,
    pickled,
    pretrained,
    safetensors,
    safetensors_in_shards,
    untied,
    variables,
    without,
    write_form,
)
from tests.support.tensorflow_bundles import write_bundle

ONE = torch.ones(3)
PREFIXES = {"bert.": untied, "": lambda t: bare(t)}


def under(wrapper: str, tensors: dict) -> dict:
    return {f"{wrapper}{name}": tensor for name, tensor in tensors.items()}


# -- buffers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["bert.", "", "module.bert.", "0.auto_model.", "head."])
@pytest.mark.parametrize(
    "name",
    [
        "embeddings.position_ids",
        "embeddings.token_type_ids",
        "norm.num_batches_tracked",
        "n_averaged",
        "_extra_state",
    ],
)
def test_a_known_buffer_is_dropped_by_its_name_under_any_prefix(prefix: str, name: str):
    tensors = untied(pretrained()) if "bert" in prefix or prefix == "head." else bare(pretrained())
    expected = from_huggingface(tensors)
    read = from_huggingface(tensors | {f"{prefix}{name}": torch.arange(4)})
    assert read.keys() == expected.keys()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float16, torch.complex64])
@pytest.mark.parametrize("write", [safetensors, pickled])
def test_a_known_buffer_is_dropped_whatever_its_type(tmp_path: Path, dtype: torch.dtype, write):
    if write is safetensors and dtype is torch.complex64:
        dtype = torch.int16
    buffer = {"embeddings.position_ids": torch.arange(16)[None].to(dtype)}
    folder = write_form(Form(VERSION_4, lambda t: bare(t) | buffer, write), tmp_path)
    assert BertEncoder.from_pretrained(folder).loading_report.unused == []


def test_a_model_that_torch_averaged_is_read_as_it_is(tmp_path: Path):
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**SIZES))
    averaged = torch.optim.swa_utils.AveragedModel(model).state_dict()
    assert averaged["n_averaged"].dtype is torch.int64
    encoder = BertEncoder.from_pretrained(write_form(Form(VERSION_4, lambda _: averaged, pickled), tmp_path))
    assert encoder.loading_report == (encoder.loading_report.path, [], [])
    assert_equal(encoder, model)


def test_values_of_a_buffer_do_not_matter(tmp_path: Path):
    buffer = {"bert.embeddings.position_ids": torch.full((1, 16), float("nan"))}
    folder = write_form(Form(VERSION_4, lambda t: untied(t) | buffer, safetensors), tmp_path)
    assert BertEncoder.from_pretrained(folder).loading_report.missing == []


@pytest.mark.parametrize(
    ("write", "file"),
    [
        (safetensors, "model.safetensors"),
        (pickled, "pytorch_model.bin"),
        (safetensors_in_shards, "model-00001-of-00002.safetensors"),
    ],
)
@pytest.mark.parametrize("name", ["bert.embeddings.offsets", "head.table"])
def test_an_unknown_tensor_of_integers_is_refused_by_file_and_name(tmp_path: Path, write, file: str, name: str):
    folder = write_form(Form(VERSION_4, lambda t: {name: torch.arange(4)} | untied(t), write), tmp_path)
    with pytest.raises(
        CheckpointError, match=rf"{re.escape(file)}: {name} is not a plain floating-point tensor .int64"
    ):
        BertEncoder.from_pretrained(folder)


def test_a_buffer_that_only_the_index_names_is_not_missed(tmp_path: Path):
    folder = write_form(Form(VERSION_4, bare, safetensors_in_shards), tmp_path)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["embeddings.position_ids"] = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert BertEncoder.from_pretrained(folder).loading_report.missing == []


# -- what changes the encoder ------------------------------------------------------------------------------------

IN_THE_ENCODER = [
    "encoder.layer.0.output.adapters.t.adapter_down.0.weight",
    "encoder.layer.1.attention.output.adapter.up_project.bias",
    "encoder.layer.0.attention.self.query.lora_A.default.weight",
    "encoder.layer.0.attention.self.value.lora_B.weight",
    "encoder.layer.0.attention.self.query.base_layer.weight",
    "encoder.layer.0.attention.self.key.ia3_l.default",
    "encoder.layer.0.intermediate.dense.weight_mask",
    "encoder.layer.0.attention.self.distance_embedding.weight",
    "encoder.layer.0.attention.self.rotary_emb.inv_freq",
    "encoder.layer.1.crossattention.self.query.weight",
    "encoder.layer.0.crossattention.output.LayerNorm.gamma",
    "encoder.layer.0.attention.ln.weight",
    "encoder.layer.0.output.dense.scale",
    "encoder.layer.0.attention.self.relative.weight",
    "encoder.layer.x.output.dense.weight",
    "encoder.relative_attention_bias.weight",
    "encoder.rel_embeddings.weight",
    "encoder.ln.weight",
    "encoder.embedding_hidden_mapping_in.weight",
    "embeddings.LayerNorm2.weight",
    "embeddings.task_type_embeddings.weight",
    "embeddings.word_embeddings.lora_embedding_A",
    "embeddings.x_position_embeddings.weight",
    "embeddings.norm",
    "pooler.dense.lora_A.weight",
]


@pytest.mark.parametrize("prefix", ["bert.", "", "module.bert.", "base_model.model.bert.", "0.auto_model.", "model."])
def test_a_tensor_that_changes_the_encoder_is_refused_by_its_name(prefix: str):
    tensors = under(prefix, bare(pretrained()))
    assert from_huggingface(tensors)
    for name in IN_THE_ENCODER:
        with pytest.raises(
            ValueError, match=rf"^{re.escape(prefix + name)} is in the encoder, but is not a parameter of BERT"
        ):
            from_huggingface(tensors | {f"{prefix}{name}": ONE})


@pytest.mark.parametrize("prefix", ["bert.", ""])
@pytest.mark.parametrize(
    "other", ["base_model.model.bert.", "base_model.model.", "module.", "model.bert.", "_orig_mod."]
)
def test_an_adapter_under_another_prefix_than_the_encoder_is_refused_too(prefix: str, other: str):
    tensors = under(prefix, bare(pretrained()))
    name = f"{other}encoder.layer.0.attention.self.query.lora_A.weight"
    with pytest.raises(ValueError, match=f"^{re.escape(name)} is in the encoder"):
        from_huggingface(tensors | {name: ONE})


@pytest.mark.parametrize(
    "name",
    [
        "prefix_encoder.embedding.weight",
        "base_model.prefix_encoder.embedding.weight",
        "prompt_encoder.default.embedding.weight",
        "prompt_embeddings",
        "soft_prompt.weight",
        "invertible_adapters.t.F.0.weight",
        "shared_parameters.t.W",
        "prefix_tuning.prefix_tunings.t.wte.weight",
        "rel_pos_bias.weight",
        "relative_attention_bias.weight",
        "task_type_embeddings.weight",
        "embeddings_project.weight",
        "x_position_embeddings.weight",
    ],
)
@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_prompts_and_the_like_beside_the_encoder_are_refused_by_name(prefix: str, name: str):
    with pytest.raises(ValueError, match=f"^{re.escape(name)} changes what the encoder computes"):
        from_huggingface(under(prefix, bare(pretrained())) | {name: ONE})


def test_every_entrance_refuses_a_left_over_tensor_of_the_encoder(tmp_path: Path, capsys):
    name = "bert.encoder.layer.0.output.adapters.t.adapter_down.0.weight"
    form = FORMS["google-bert, safetensors"]
    folder = write_form(form._replace(tensors=lambda t: untied(t) | {name: torch.ones(4, 24)}), tmp_path / "model")
    message = rf"model\.safetensors: {re.escape(name)} is in the encoder"
    (tmp_path / "texts.txt").write_text("the boat\n")
    for enter in (
        BertEncoder.from_pretrained,
        BertForPreTraining.from_pretrained,
        lambda path: FeatureExtractor(read_checkpoint(path)),
        lambda path: start_checkpoint(ModelSettings(pretrained=str(path))),
    ):
        with pytest.raises(CheckpointError, match=message):
            enter(folder)
    command = ["export", "--checkpoint", str(folder), "--format", "huggingface", "--output", str(tmp_path / "out")]
    assert main(command) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_further_layers_are_refused_with_both_of_their_names(tmp_path: Path):
    layer = {name.replace(".1.", ".2."): t for name, t in pretrained().items() if ".layer.1." in name}
    folder = write_form(Form(VERSION_4, lambda t: untied(t) | layer, safetensors), tmp_path)
    message = r"has a tensor encoder\.layers\.2\.\S+, which .* \(for transformers: bert\.encoder\.layer\.2\."
    with pytest.raises(CheckpointError, match=message):
        BertEncoder.from_pretrained(folder)
    start = start_checkpoint(ModelSettings(pretrained=str(folder)))
    with pytest.raises(CheckpointError, match=message):
        model_config(ModelSettings(pretrained=str(folder)), start, len(WORDS), num_segments=1)


@pytest.mark.parametrize(
    "name",
    [
        *("linear.weight", "dense.weight", "regressor.bias", "crf.transitions", "pre_classifier.weight"),
        *(
            "fit_dense.weight",
            "loss_fct.weight",
            "temperature",
            "logit_scale",
            "2.linear.weight",
            "classifier.1.bias",
        ),
        *("cls.predictions.transform.dense.lora_A.weight", "size_embeddings.weight", "bilstm.weight_ih_l0"),
        *("adapter.weight", "position_head.weight", "attention.weight", "layer.weight"),
    ],
)
@pytest.mark.parametrize("wrapper", ["", "module."])
@pytest.mark.parametrize("is_bare", [False, True])
def test_an_unused_head_is_only_reported(wrapper: str, is_bare: bool, name: str):
    tensors = under(wrapper, bare(pretrained()) if is_bare else without(pretrained(), "cls."))
    read = from_huggingface(tensors | {f"{wrapper}{name}": ONE})
    assert [left for left in read if not left.startswith("encoder.")] == [name]


def test_a_head_under_one_of_our_names_does_not_replace_a_parameter():
    with pytest.raises(ValueError, match=r"encoder\.layers\.0\.output\.bias occurs twice"):
        from_huggingface(untied(pretrained()) | {"encoder.layers.0.output.bias": ONE})


def test_half_a_pooler_is_not_completed(tmp_path: Path):
    folder = write_form(Form(VERSION_4, lambda t: without(bare(t), "pooler.dense.bias"), safetensors), tmp_path)
    with pytest.raises(CheckpointError, match=r"no tensor for encoder\.pooler\.bias .*bert\.pooler\.dense\.bias"):
        BertEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("bert.embeddings.word_embeddings.weight", {"resize_vocabulary": 20}),
        ("cls.predictions.bias", {"resize_vocabulary": 20}),
        ("bert.embeddings.position_embeddings.weight", {"interpolate_positions": 32}),
    ],
)
def test_a_table_that_belies_the_config_is_refused_before_it_is_fitted(tmp_path: Path, name: str, change: dict):
    folder = write_form(Form(VERSION_4, lambda t: untied(t) | {name: t[name][:-1]}, safetensors), tmp_path)
    [ours] = from_huggingface({name: ONE})
    with pytest.raises(CheckpointError, match=rf"{re.escape(ours)} has shape .*expected 1[46] rows"):
        BertForPreTraining.from_pretrained(folder, **change)


# -- prefixes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrapper",
    [
        *("module.", "model.", "_orig_mod.", "_forward_module.", "0.auto_model.", "0.", "base_model.model."),
        *(
            "module._orig_mod.",
            "model.encoder.",
            "encoder.",
            "backbone.",
            "_fsdp_wrapped_module.module.",
            "bert_model.",
        ),
    ],
)
@pytest.mark.parametrize("inner", ["bert.", ""])
def test_a_wrapper_in_front_of_every_name_changes_nothing(wrapper: str, inner: str):
    plain = untied(pretrained()) if inner else bare(pretrained())
    expected, read = from_huggingface(plain), from_huggingface(under(wrapper, plain))
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"])
def test_a_wrapper_around_each_layer_changes_nothing(wrapper: str):
    plain = untied(pretrained())
    wrapped = {re.sub(r"(layer\.\d+)", rf"\1.{wrapper}", name): tensor for name, tensor in plain.items()}
    assert from_huggingface(wrapped).keys() == from_huggingface(plain).keys()


@pytest.mark.parametrize(
    "prefix", ["roberta.", "electra.", "distilbert.", "model.roberta.", "student.bert.", "bert2."]
)
def test_an_encoder_under_an_unknown_prefix_is_refused_by_it(prefix: str):
    with pytest.raises(ValueError, match=rf"^{re.escape(prefix)}embeddings\.word_embeddings\.weight: the encoder is"):
        from_huggingface(under(prefix, bare(pretrained())))


@pytest.mark.parametrize(
    ("first", "second"),
    [("bert.", ""), ("question.", "context."), ("bert.", "ema.bert."), ("bert.", "decoder.bert.")],
)
def test_two_encoders_in_one_file_are_refused_by_name(first: str, second: str):
    tensors = bare(pretrained())
    with pytest.raises(ValueError, match=rf"{first}embed\S+ and {second}embed\S+ belong to two encoders"):
        from_huggingface(under(first, tensors) | under(second, tensors))


def test_parameters_that_only_our_models_have_survive_export_and_import():
    config = BertConfig(**{**PLAIN, "hidden_act": "gelu"}, embedding_size=8, pre_layer_norm=True)
    tensors = BertForPreTraining(config).state_dict()
    assert from_huggingface(to_huggingface(tensors)).keys() == tensors.keys()


def test_a_wrapped_model_is_read_from_a_folder_with_its_head(tmp_path: Path):
    form = FORMS["FinBERT"]
    wrapped = form._replace(tensors=lambda t: under("module.", form.tensors(t)))
    plain, other = (read_checkpoint(write_form(f, tmp_path / str(n))) for n, f in enumerate((form, wrapped)))
    assert {"classifier.weight", "classifier.bias"} < other.tensors.keys() == plain.tensors.keys()


# -- adapters beside the weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("with_model", [False, True])
def test_a_folder_with_an_adapter_is_refused_with_the_way_to_merge_it(tmp_path: Path, with_model: bool):
    if with_model:
        write_form(FORMS["google-bert, safetensors"], tmp_path)
    save_file({"base_model.model.bert.encoder.layer.0.lora_A.weight": ONE}, tmp_path / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "base_model_name_or_path": "bert-base-uncased"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: .* adapter of 'bert-base-uncased'.*merge"):
        read_checkpoint(tmp_path)


def test_a_pickled_file_with_more_than_tensors_names_the_entry(tmp_path: Path):
    folder = write_form(Form(VERSION_4, lambda t: untied(t) | {"epoch": 3}, pickled), tmp_path)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is not .*: epoch is of type int, not a tensor"):
        read_checkpoint(folder)


# -- TensorFlow --------------------------------------------------------------------------------------------------


def tensorflow_folder(folder: Path, **more: torch.Tensor) -> Path:
    (folder / "bert_config.json").write_text(json.dumps(PLAIN))
    arrays = variables(pretrained(), True) | {name: tensor.numpy() for name, tensor in more.items()}
    write_bundle(folder / "bert_model.ckpt", arrays, {"float32": 1, "int32": 3, "int64": 9}, 1)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "bert/encoder/layer_0/attention/output/adapter-down/kernel",
        "bert/encoder/layer_0/output/adapter/feedforward_up/w",
        "bert/encoder/transformer/group_0/inner_group_0/kernel",
        "bert/embeddings/task_type_embeddings",
        "bert/embeddings/position_embeddings_2/table",
        "prefix_encoder/embedding",
    ],
)
def test_a_variable_that_changes_the_encoder_is_refused_by_its_name(tmp_path: Path, name: str):
    with pytest.raises(CheckpointError, match=rf"bert_model\.ckpt: {name} (is in|changes what) the encoder"):
        read_checkpoint(tensorflow_folder(tmp_path, **{name: ONE}))


def test_further_heads_of_a_tensorflow_release_are_only_reported(tmp_path: Path):
    more = {"crf_loss/transitions": torch.ones(3, 3), "crf_loss/transitions/adam_m": torch.ones(3, 3)}
    folder = tensorflow_folder(tmp_path, **more, counter=torch.tensor(3))
    assert BertForPreTraining.from_pretrained(folder).loading_report.unused == ["crf_loss/transitions"]


def test_a_buffer_in_a_release_of_tensorflow_is_dropped_by_its_name(tmp_path: Path):
    folder = tensorflow_folder(tmp_path, **{"bert/embeddings/position_ids": torch.arange(16, dtype=torch.int32)})
    assert BertForPreTraining.from_pretrained(folder).loading_report.unused == []


def test_a_vocabulary_beyond_the_word_embeddings_of_tensorflow_is_refused(tmp_path: Path):
    folder = tensorflow_folder(tmp_path)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in [*WORDS, "more"]))
    with pytest.raises(CheckpointError, match=r"tokenizer has 15 entries, more than the vocab_size 14"):
        read_checkpoint(folder)


def test_integers_inside_the_encoder_of_tensorflow_are_refused_by_name(tmp_path: Path):
    name = "bert/pooler/dense/bias"
    with pytest.raises(
        CheckpointError, match=r"bert\.pooler\.dense\.bias is not a plain floating-point tensor .int64"
    ):
        read_checkpoint(tensorflow_folder(tmp_path, **{name: torch.arange(24)}))


def test_a_checkpoint_of_tensorflow_2_is_reported_as_such(tmp_path: Path):
    arrays = {"encoder/layer-0/kernel/.ATTRIBUTES/VARIABLE_VALUE": ONE.numpy()}
    (tmp_path / "bert_config.json").write_text(json.dumps(PLAIN))
    write_bundle(tmp_path / "bert_model.ckpt", arrays, {"float32": 1}, 1)
    with pytest.raises(CheckpointError, match=r"index holds no BERT: .*TensorFlow 2 wrote it"):
        read_checkpoint(tmp_path)
