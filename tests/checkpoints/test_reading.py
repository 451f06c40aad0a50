import json
import pickle
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.names import from_huggingface, to_huggingface
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.errors import InputError
from bert_lightning.model import BertConfig, BertEncoder, BertForPreTraining, BertForSequenceClassification
from bert_lightning.model.architectures import MODELS, model_of
from bert_lightning.text.wordpiece import WordPieceTokenizer, load_tokenizer
from tests.support.hostile import Evil

CONFIG = BertConfig.preset("tiny", vocab_size=50, max_position_embeddings=32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    BertForPreTraining(CONFIG).save_pretrained(tmp_path / "model", Vocabulary(("[PAD]",), lowercase=True))
    return tmp_path / "model"


def test_names_and_values_survive_conversion_to_huggingface_and_back():
    tensors = BertForPreTraining(CONFIG).state_dict()
    back = from_huggingface(to_huggingface(tensors))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_a_saved_model_reads_back_bit_for_bit_with_its_config_and_vocabulary(folder: Path):
    checkpoint = read_checkpoint(folder)
    model = BertForPreTraining.from_pretrained(folder)
    model.save_pretrained(folder.with_name("again"))
    again = read_checkpoint(folder.with_name("again"))
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in checkpoint.tensors.items())
    assert model.config == CONFIG
    assert checkpoint.vocabulary == Vocabulary(("[PAD]",), lowercase=True)


def test_old_gamma_and_beta_names_and_a_bare_encoder_are_read(tmp_path: Path):
    encoder = BertEncoder(CONFIG)
    theirs = to_huggingface({f"encoder.{name}": t for name, t in encoder.state_dict().items()})
    old = {
        name.removeprefix("bert.")
        .replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta"): tensor.clone()
        for name, tensor in theirs.items()
    }
    save_file(old, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    read = BertEncoder.from_pretrained(tmp_path)
    assert all(torch.equal(t, read.state_dict()[name]) for name, t in encoder.state_dict().items())


def test_a_head_that_the_file_lacks_is_initialised_and_reported(folder: Path, caplog):
    BertForSequenceClassification.from_pretrained(folder, num_labels=3)
    assert "classifier.weight, classifier.bias" in caplog.text


@pytest.mark.parametrize("cut", [0, 10, -10])
def test_a_truncated_weights_file_is_an_error_that_names_it(folder: Path, cut: int):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_checkpoint(folder)


def test_a_pickle_that_would_execute_code_is_refused_and_not_executed(folder: Path, tmp_path: Path):
    (folder / "model.safetensors").unlink()
    marker = tmp_path / "executed"
    with open(folder / "pytorch_model.bin", "wb") as file:
        torch.save({"x": Evil(marker)}, file)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        read_checkpoint(folder)
    with open(folder / "pytorch_model.bin", "wb") as file:
        pickle.dump(Evil(marker), file)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        read_checkpoint(folder)
    assert not marker.exists()


def test_a_plain_pickled_weights_file_is_read(folder: Path):
    tensors = to_huggingface(read_checkpoint(folder).tensors)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert read_checkpoint(folder).tensors.keys() == BertForPreTraining(CONFIG).state_dict().keys()


def test_another_model_family_is_refused_by_name(folder: Path):
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    with pytest.raises(CheckpointError, match="roberta"):
        read_checkpoint(folder)


def test_a_config_with_a_wrong_shape_is_an_error_that_names_the_tensor(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 51}))
    with pytest.raises(CheckpointError, match=r"encoder\.embeddings\.word\.weight has shape \(50, 128\)"):
        BertForPreTraining.from_pretrained(folder)


def test_the_error_for_a_path_without_a_checkpoint_lists_what_was_looked_for(tmp_path: Path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="run directory"):
        read_checkpoint(tmp_path)


# -- forms of Hugging Face folders -------------------------------------------------------------------------------


def shard(folder: Path, save, name: str, suffix: str) -> None:
    """Split a folder's weights over two files and an index, as transformers does for large models."""
    tensors = to_huggingface(read_checkpoint(folder).tensors)
    (folder / "model.safetensors").unlink()
    files = {key: f"{name}-0000{1 + n % 2}-of-00002.{suffix}" for n, key in enumerate(sorted(tensors))}
    for file in set(files.values()):
        save({key: tensors[key].clone() for key in tensors if files[key] == file}, folder / file)
    (folder / f"{name}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


SHARDED = pytest.mark.parametrize(
    ("save", "name", "suffix"),
    [(save_file, "model", "safetensors"), (torch.save, "pytorch_model", "bin")],
    ids=["safetensors", "pickled"],
)


@SHARDED
def test_weights_in_shards_are_read(folder: Path, save, name, suffix):
    expected = read_checkpoint(folder).tensors
    shard(folder, save, name, suffix)
    actual = read_checkpoint(folder).tensors
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[key], tensor) for key, tensor in expected.items())


@SHARDED
def test_a_shard_that_is_missing_or_lacks_a_tensor_is_named(folder: Path, save, name, suffix):
    shard(folder, save, name, suffix)
    first = folder / f"{name}-00001-of-00002.{suffix}"
    save({"bert.pooler.dense.bias": torch.zeros(128)}, first)
    with pytest.raises(CheckpointError, match=rf"00001-of-00002\.{suffix} lacks .*, which {name}.* lists"):
        read_checkpoint(folder)
    first.unlink()
    with pytest.raises(CheckpointError, match=f"00001-of-00002.{suffix}"):
        read_checkpoint(folder)


def test_a_tensor_in_two_shards_is_refused_by_file_and_name(folder: Path):
    shard(folder, save_file, "model", "safetensors")
    second = folder / "model-00002-of-00002.safetensors"
    save_file(load_file(second) | {"bert.embeddings.LayerNorm.bias": torch.zeros(128)}, second)
    with pytest.raises(
        CheckpointError, match=r"00002-of-00002.safetensors holds bert\.embeddings\.LayerNorm\.bias, wh"
    ):
        read_checkpoint(folder)


def test_an_index_cannot_reach_out_of_its_folder(folder: Path):
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    files = {"x": "../outside.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    with pytest.raises(CheckpointError, match=r"'\.\./outside\.safetensors', which is not a file in the same folder"):
        read_checkpoint(folder)


def test_any_flipped_bit_in_weights_that_we_wrote_is_noticed_and_named(folder: Path):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for bit in range(0, 8 * len(whole), len(whole) // 12 * 8 + 1):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        weights.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="model"):
            BertForPreTraining.from_pretrained(folder)
    damaged = bytearray(whole)
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged: \S+ differs from what was written"):
        read_checkpoint(folder)


def test_a_flipped_bit_in_a_pickled_file_is_noticed(folder: Path):
    tensors = to_huggingface(read_checkpoint(folder).tensors)
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    torch.save(tensors, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is damaged"):
        read_checkpoint(folder)


def test_values_that_are_not_finite_are_refused_by_name(folder: Path):
    tensors = to_huggingface(read_checkpoint(folder).tensors)
    tensors["bert.pooler.dense.bias"] = torch.full((128,), float("nan"))
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"bert\.pooler\.dense\.bias holds values that are not finite"):
        read_checkpoint(folder)


def test_layers_beyond_those_of_the_config_are_an_error(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(
        CheckpointError, match=r"has a tensor encoder\.layers\.1\.\S+, which does not exist in its configuration"
    ):
        BertEncoder.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"has no tensor for encoder\.layers\.2\."):
        BertEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"hidden_act": "tanh"}, "hidden_act is 'tanh'; known: gelu"),
        ({"hidden_size": "many"}, "hidden_size is 'many'; expected int"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label does not number the labels from 0"),
    ],
)
def test_a_config_that_is_not_berts_names_the_key(folder: Path, change, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match=message):
        BertEncoder.from_pretrained(folder)


@pytest.mark.parametrize(("theirs", "ours"), [("gelu_python", "gelu"), ("gelu_fast", "gelu_new"), (None, "gelu")])
def test_transformers_names_of_activation_functions_are_understood(folder: Path, theirs, ours):
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_act"]
    (folder / "config.json").write_text(json.dumps(config | ({"hidden_act": theirs} if theirs else {})))
    assert BertEncoder.from_pretrained(folder).config.hidden_act == ours


@pytest.mark.parametrize("architecture", MODELS)
def test_transformers_own_files_of_every_head_are_read(tmp_path: Path, architecture):
    theirs = getattr(transformers, architecture)(
        transformers.BertConfig(
            vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
        )
    )
    theirs.save_pretrained(tmp_path)
    model = MODELS[architecture].from_pretrained(tmp_path)
    assert model.loading_report.missing == []
    assert model.loading_report.unused == []
    written = to_huggingface({f"{model.prefix}{name}": t for name, t in model.state_dict().items()})
    for name, tensor in theirs.state_dict().items():
        ours = written.get(name, written.get(f"bert.{name}"))
        if ours is not None:
            assert torch.equal(ours, tensor), name
        else:
            assert "decoder" in name or "position_ids" in name, name


@pytest.mark.parametrize("architecture", MODELS)
def test_every_model_survives_export_and_import_bit_for_bit(tmp_path: Path, architecture):
    model = MODELS[architecture](CONFIG)
    model.save_pretrained(tmp_path)
    again = model_of(read_checkpoint(tmp_path))
    assert type(again) is type(model)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_float64_and_float16_files_lose_nothing(tmp_path: Path):
    model = BertEncoder(CONFIG).double()
    model.save_pretrained(tmp_path / "double")
    again = BertEncoder.from_pretrained(tmp_path / "double")
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in model.state_dict().items())
    model.half().save_pretrained(tmp_path / "half")
    again = BertEncoder.from_pretrained(tmp_path / "half")
    assert again.pooler.weight.dtype == torch.float32
    assert torch.equal(again.pooler.weight, model.pooler.weight.float())


def test_labels_and_problem_type_are_preserved(tmp_path: Path):
    BertForSequenceClassification(
        CONFIG, labels=["bad", "good"], problem_type="multi_label_classification"
    ).save_pretrained(tmp_path)
    model = BertForSequenceClassification.from_pretrained(tmp_path)
    assert (model.labels, model.problem_type) == (["bad", "good"], "multi_label_classification")
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (config.id2label, config.problem_type) == ({0: "bad", 1: "good"}, "multi_label_classification")
    other = BertForSequenceClassification.from_pretrained(tmp_path, num_labels=5, new_head=True)
    assert len(other.labels) == 5
    assert other.loading_report.missing == ["classifier.weight", "classifier.bias"]
    with pytest.raises(CheckpointError, match=r"classifier\.bias has shape \(2,\), expected \(3,\)"):
        BertForSequenceClassification.from_pretrained(tmp_path, num_labels=3)


def test_missing_and_unused_tensors_are_reported_by_name(folder: Path, caplog):
    model = BertForSequenceClassification.from_pretrained(folder)
    assert model.loading_report.missing == ["classifier.weight", "classifier.bias"]
    assert "mlm_head.dense.weight" in model.loading_report.unused
    assert "nsp_head.bias" in caplog.text


# -- tokenizer files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"do_lower_case": True},
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": True, "tokenize_chinese_chars": False},
    ],
)
def test_tokenizer_files_of_transformers_are_preserved(tmp_path: Path, settings):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "été", "ete", "É", "##t", "e", "中", "中国", "a", "##n"]
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    theirs = transformers.BertTokenizer(str(tmp_path / "vocab.txt"), **settings)
    theirs.save_pretrained(tmp_path / "model")
    config = BertConfig.preset("tiny", vocab_size=len(words), max_position_embeddings=32)
    BertEncoder(config).save_pretrained(tmp_path / "model")
    BertEncoder.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "again")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    ours = WordPieceTokenizer(read_checkpoint(tmp_path / "model").vocabulary)
    text = "Été ÉTÉ ete 中国 an [MASK]"
    expected = theirs(text)["input_ids"]
    assert again(text)["input_ids"] == expected
    assert ours.encode_batch([text])[0] == expected[1:-1]
    assert again.model_max_length == 32


def test_a_serialized_tokenizer_alone_is_read_and_another_kind_refused(tmp_path: Path):
    tokenizer = WordPieceTokenizer(Vocabulary(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "A"), lowercase=False))
    tokenizer.save(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["type"] = "BPE"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"tokenizer\.json holds a BPE tokenizer, but BERT's is WordPiece"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_that_we_save_frames_text_in_transformers_too(tmp_path: Path):
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a")
    WordPieceTokenizer(Vocabulary(words, lowercase=True)).save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("a", "A")["input_ids"] == [2, 5, 3, 5, 3]
    assert theirs("a", "A")["token_type_ids"] == [0, 0, 0, 1, 1]
