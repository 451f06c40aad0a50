"""Delta checkpoints: the base is found in every form, verified, and a file cannot misuse its name."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from bert_lightning.checkpoints.checkpoint import Base
from bert_lightning.checkpoints.delta import base_of
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.files import write_with_checksum
from bert_lightning.checkpoints.reading import read_checkpoint
from tests.support.published_forms import FORMS, PLAIN, WORDS, pretrained, variables, write_form
from tests.support.tensorflow_bundles import write_bundle


def write_delta(path: Path, base: Base | dict, tensors: dict[str, torch.Tensor], config: dict) -> Path:
    """Write a checkpoint of ours that holds only these tensors."""
    entry = {
        "task": "text-classification",
        "architecture": "BertForSequenceClassification",
        "config": config,
        "vocabulary": "\n".join(WORDS),
        "lowercase": True,
        "task_settings": {},
        "base": base if isinstance(base, dict) else asdict(base),
    }
    state = {f"model.{name}": tensor for name, tensor in tensors.items()}
    content = {"state_dict": state, "global_step": 1, "bert_lightning": entry}
    write_with_checksum(path, lambda file: torch.save(content, file))
    return path


def write_tensorflow(folder: Path) -> Path:
    folder.mkdir()
    (folder / "bert_config.json").write_text(json.dumps(PLAIN))
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    write_bundle(folder / "bert_model.ckpt", variables(pretrained(), False), {"float32": 1, "int64": 9}, 1)
    return folder


BASES = {"tensorflow": write_tensorflow} | {
    name: lambda folder, form=form: write_form(form, folder) for name, form in FORMS.items()
}


@pytest.mark.parametrize("name", BASES)
def test_a_base_of_every_form_is_found_where_it_was_read(tmp_path, name):
    start = read_checkpoint(BASES[name](tmp_path / "base"))
    frozen = {tensor: value.float() for tensor, value in start.tensors.items() if tensor.startswith("encoder.")}
    base = base_of(start, frozen)
    assert base.names == list(frozen)
    head = {"classifier.bias": torch.tensor([1.0, 2.0])}
    delta = read_checkpoint(write_delta(tmp_path / "step-000000001.ckpt", base, head, start.config))
    assert delta.tensors.keys() == {*frozen, *head}
    assert all(torch.equal(delta.tensors[tensor], value) for tensor, value in {**frozen, **head}.items())


@pytest.fixture
def start(tmp_path):
    return read_checkpoint(write_form(FORMS["few settings"], tmp_path / "base"))


def test_only_tensors_that_equal_the_base_bit_for_bit_are_left_out(start):
    frozen = {name: tensor.clone() for name, tensor in start.tensors.items()}
    changed, resized, gone = list(frozen)[:3]
    frozen[changed].view(-1)[0] = frozen[changed].view(-1)[0].nextafter(torch.tensor(9.0))
    frozen[resized] = torch.cat([frozen[resized], frozen[resized]])
    del frozen[gone]
    frozen["encoder.new"] = torch.ones(2)
    names = base_of(start, frozen).names
    assert names == [name for name in start.tensors if name not in (changed, resized, gone)]
    assert base_of(start, {"encoder.new": torch.ones(2)}) is None
    assert base_of(start, {}) is None


def test_the_base_of_a_delta_is_its_own_base_and_another_type_of_weights_needs_none(start):
    frozen = dict(start.tensors)
    first = base_of(start, frozen)
    tuned = replace(start, path=Path("elsewhere"), base=replace(first, names=first.names[1:]))
    assert base_of(tuned, frozen) == tuned.base
    # Rounded twice, the tensors would not be those that the base gives.
    assert base_of(tuned, {name: tensor.bfloat16() for name, tensor in frozen.items()}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["encoder.none"]}, "has no tensor encoder.none"),
        ({"dtype": "Tensor"}, "its base has the type Tensor"),
        ({"dtype": "int64"}, "its base has the type int64"),
        ({"digest": "0" * 64}, "has other weights"),
        ({"path": "/nowhere", "name": "google-bert/bert-base-cased"}, "google-bert/bert-base-cased does not exist"),
        ({"path": "https://nowhere/model", "name": "x"}, "https://nowhere/model does not exist"),
        ({"more": 1}, "is not a checkpoint of bert_lightning"),
        ({"names": 3}, "is not a checkpoint of bert_lightning"),
        ({"path": 3}, "is not a checkpoint of bert_lightning"),
    ],
)
def test_a_base_that_a_file_misnames_is_one_error_and_no_download(start, tmp_path, changes, message):
    base = asdict(base_of(start, start.tensors)) | changes
    path = write_delta(tmp_path / "step-000000001.ckpt", base, {}, start.config)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_a_checkpoint_that_names_itself_or_another_delta_as_its_base_is_refused(start, tmp_path):
    path = tmp_path / "step-000000001.ckpt"
    base = replace(base_of(start, start.tensors), path=str(path), name=str(path))
    write_delta(path, base, {}, start.config)
    with pytest.raises(CheckpointError, match="holds only what was trained; a base must hold all weights"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match="holds only what was trained; a base must hold all weights"):
        read_checkpoint(path, base=path)
