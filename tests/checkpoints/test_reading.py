import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.names import from_huggingface, to_huggingface
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tokenizer_files import Vocabulary
from bert_lightning.model import BertConfig, BertEncoder, BertForPreTraining, BertForSequenceClassification

CONFIG = BertConfig.preset("tiny", vocab_size=50, max_position_embeddings=32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    BertForPreTraining(CONFIG).save_pretrained(tmp_path / "model", Vocabulary(("[PAD]",), lowercase=True))
    return tmp_path / "model"


def test_names_and_values_survive_the_way_to_huggingface_and_back():
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


def test_a_head_that_the_file_lacks_is_drawn_anew_and_said_so(folder: Path, caplog):
    BertForSequenceClassification.from_pretrained(folder, num_labels=3)
    assert "classifier.weight, classifier.bias" in caplog.text


@pytest.mark.parametrize("cut", [0, 10, -10])
def test_a_truncated_weights_file_is_an_error_that_names_it(folder: Path, cut: int):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_checkpoint(folder)


class Evil:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


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


def test_a_config_that_lies_about_a_shape_names_the_tensor(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 51}))
    with pytest.raises(CheckpointError, match=r"encoder\.embeddings\.word\.weight has shape \(50, 128\)"):
        BertForPreTraining.from_pretrained(folder)


def test_a_path_without_a_checkpoint_says_what_was_looked_for(tmp_path: Path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="run directory"):
        read_checkpoint(tmp_path)
