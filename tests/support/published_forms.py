"""Forms in which BERT families are released: configs, tensors and files, with tiny sizes and random values."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors.torch import save_file

from bert_lightning.model import BertEncoder

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
    files = {key: f"{name}-0000{1 + n % 2}-of-00002.{suffix}" for n, key in enumerate(tensors)}
    for file in set(files.values()):
        save({key: tensors[key].contiguous() for key in tensors if files[key] == file}, folder / file)
    (folder / f"{name}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def safetensors_in_shards(tensors: Tensors, folder: Path) -> None:
    def save(shard: Tensors, path: Path) -> None:
        save_file(shard, path, metadata={"format": "pt"})

    in_shards(save, "model", "safetensors", tensors, folder)


def pickled_in_shards(tensors: Tensors, folder: Path) -> None:
    in_shards(torch.save, "pytorch_model", "bin", tensors, folder)


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
