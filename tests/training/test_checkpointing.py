import os

import pytest
import torch

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.native import load_native, step_name
from bert_lightning.training.checkpointing import VerifiedCheckpointIO, newest_valid


def save(folder, step):
    path = folder / step_name(step)
    VerifiedCheckpointIO().save_checkpoint({"bert_lightning": {}, "weights": torch.arange(50.0) + step}, path)
    return path


def spoil(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        damaged = {
            "empty": b"",
            "text": b"not a checkpoint",
            "half": content[: len(content) // 2],
            "bit": content[:700] + bytes([content[700] ^ 4]) + content[701:],
            "zeros": content[:600] + bytes(64) + content[664:],
        }
        path.write_bytes(damaged[how])


@pytest.mark.parametrize("how", ["empty", "text", "half", "bit", "zeros"])
def test_damage_is_refused_by_name_and_the_one_before_is_used(tmp_path, caplog, how):
    good, bad = save(tmp_path, 5), save(tmp_path, 10)
    spoil(bad, how)
    with pytest.raises(CheckpointError, match=r"step-000000010\.ckpt is damaged"):
        VerifiedCheckpointIO().load_checkpoint(bad)
    assert newest_valid(tmp_path) == good
    assert "step-000000010" in caplog.text


def test_the_newest_is_the_one_of_the_highest_step(tmp_path):
    for step in (1000, 999, 1_000_000):
        save(tmp_path, step)
    assert newest_valid(tmp_path).name == step_name(1_000_000)


def test_nothing_starts_over_when_no_checkpoint_is_whole(tmp_path):
    spoil(save(tmp_path, 5), "bit")
    with pytest.raises(CheckpointError, match="none of its 1 checkpoints is whole"):
        newest_valid(tmp_path)


def test_a_pickle_with_a_valid_checksum_is_still_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    path = tmp_path / step_name(1)
    VerifiedCheckpointIO().save_checkpoint({"bert_lightning": Evil()}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of ours"):
        load_native(path)
    assert not (tmp_path / "executed").exists()


def test_nothing_is_loaded_while_the_protection_is_switched_off(tmp_path, monkeypatch):
    path = save(tmp_path, 1)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(CheckpointError, match="unset it"):
        load_native(path)
