import errno
import os
import shutil
import threading
from types import SimpleNamespace

import pytest
import torch

from bert_lightning.checkpoints import files
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.native import BEST, LAST, find_native, load_native, step_name
from bert_lightning.checkpoints.shards import write_shards
from bert_lightning.errors import WorkError
from bert_lightning.training import checkpointing
from bert_lightning.training.checkpoint_folder import newest_valid
from bert_lightning.training.checkpointing import Checkpointing, CheckpointSettings, VerifiedCheckpointIO
from tests.support.hostile import Evil


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
def test_damage_is_refused_by_name_and_the_earlier_checkpoint_is_used(tmp_path, caplog, how):
    good, bad = save(tmp_path, 5), save(tmp_path, 10)
    spoil(bad, how)
    with pytest.raises(CheckpointError, match=r"step-000000010\.ckpt is damaged"):
        VerifiedCheckpointIO().load_checkpoint(bad)
    assert newest_valid(tmp_path) == good
    assert "step-000000010" in caplog.text


def test_the_newest_checkpoint_is_that_of_the_highest_step(tmp_path):
    for step in (1000, 999, 1_000_000):
        save(tmp_path, step)
    assert newest_valid(tmp_path).name == step_name(1_000_000)


def test_training_does_not_start_over_if_no_checkpoint_is_intact(tmp_path):
    spoil(save(tmp_path, 5), "bit")
    with pytest.raises(CheckpointError, match="damaged: 1 checkpoint, and there is no other"):
        newest_valid(tmp_path)


@pytest.mark.parametrize("as_parts", [False, True])
def test_a_run_with_files_in_place_of_its_links_opens(tmp_path, as_parts):
    for step in (5, 10):
        if as_parts:
            write_shards(tmp_path / step_name(step), {"bert_lightning": {}}, step, 0, lambda value: [value])
        else:
            save(tmp_path, step)
    files.link_atomically(tmp_path / BEST, step_name(5))
    files.link_atomically(tmp_path / LAST, step_name(10))
    copy = shutil.copytree(tmp_path, tmp_path / "copy", symlinks=False)
    assert not (copy / BEST).is_symlink()
    for path in (copy, copy / BEST):
        assert find_native(path) == copy / step_name(5)
    assert find_native(copy, (LAST, BEST)) == copy / step_name(10)
    load_native(find_native(copy))
    files.link_atomically(copy / BEST, step_name(10))
    assert (copy / BEST).readlink().name == step_name(10)
    assert not list(copy.glob(".*"))


@pytest.mark.parametrize("spoiled", [BEST, step_name(5)])
def test_a_damaged_copy_of_a_link_is_not_opened(tmp_path, spoiled):
    shutil.copy(save(tmp_path, 5), tmp_path / BEST)
    spoil(tmp_path / spoiled, "bit")
    with pytest.raises(CheckpointError, match=r"best\.ckpt has no checksum|step-000000005\.ckpt is damaged"):
        load_native(find_native(tmp_path))


@pytest.mark.parametrize(("text", "expected"), [(step_name(5), step_name(5)), (step_name(7), BEST), ("", BEST)])
def test_a_link_that_became_the_text_of_its_target_is_followed(tmp_path, text, expected):
    save(tmp_path, 5)
    (tmp_path / BEST).write_text(text)
    assert find_native(tmp_path) == tmp_path / expected


def test_a_copy_without_its_links_names_a_checkpoint_that_can_be_given(tmp_path):
    path = save(tmp_path, 5)
    with pytest.raises(CheckpointError, match=rf"has no best\.ckpt or last\.ckpt.*name one.*{path.name}"):
        find_native(tmp_path)
    assert find_native(path) == path


def test_a_pickle_with_a_valid_checksum_is_still_not_executed(tmp_path):
    path = tmp_path / step_name(1)
    VerifiedCheckpointIO().save_checkpoint({"bert_lightning": Evil(tmp_path / "executed")}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of bert_lightning"):
        load_native(path)
    assert not (tmp_path / "executed").exists()


def test_nothing_is_loaded_while_the_protection_is_switched_off(tmp_path, monkeypatch):
    path = save(tmp_path, 1)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(CheckpointError, match="unset it"):
        load_native(path)


class Disk:
    """Disk that is full after a number of bytes, or on fsync."""

    def __init__(self, monkeypatch, at):
        self.full = False
        self.at = at
        fsync, opened = os.fsync, open

        def failing_fsync(descriptor):
            # There is still room for a checksum.
            if self.full and at == "fsync" and os.fstat(descriptor).st_size > 500:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        def failing_open(path, *arguments, **keywords):
            file = opened(path, *arguments, **keywords)
            if self.full and at != "fsync" and "b" in "".join(arguments) and ".tmp" in str(path):
                file = Full(file, at)
            return file

        monkeypatch.setattr(files.os, "fsync", failing_fsync)
        monkeypatch.setattr(files, "open", failing_open, raising=False)


class Full:
    def __init__(self, file, room):
        self.file, self.room, self.name = file, room, file.name

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        self.room -= len(content)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(content)

    def flush(self):
        self.file.flush()

    def fileno(self):
        return self.file.fileno()


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("at", [0, 100, "fsync"])
def test_a_full_disk_is_one_message_and_leaves_earlier_files(tmp_path, monkeypatch, at, asynchronous):
    io, disk = VerifiedCheckpointIO(asynchronous), Disk(monkeypatch, at)
    content = {"bert_lightning": {}, "weights": torch.arange(50.0)}
    good, same = tmp_path / step_name(5), tmp_path / step_name(6)
    for path in (good, same):
        io.save_checkpoint(content, path)
    io.wait()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    disk.full = True
    # A new file, and one that replaces an older one.
    for path in (tmp_path / step_name(7), same):
        linked = []

        def write(path=path, linked=linked):
            io.save_checkpoint({**content, "weights": torch.ones(50)}, path)
            io.do_after_writes(lambda: linked.append(1))
            io.wait()

        with pytest.raises(WorkError, match=rf"{path.name}: cannot be written: No space left on device") as caught:
            write()
        assert caught.value.status == 1
        assert not linked
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert newest_valid(tmp_path) == same


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "temporary"))

    monkeypatch.setattr(files, "open", refused, raising=False)
    with pytest.raises(WorkError, match=rf"{step_name(1)}: cannot be written: Permission denied"):
        save(tmp_path, 1)


def test_an_error_that_is_not_of_the_disk_is_not_changed(tmp_path):
    with pytest.raises(Exception, match="pickle") as caught:
        VerifiedCheckpointIO().save_checkpoint({"bert_lightning": lambda: None}, tmp_path / step_name(1))
    assert not isinstance(caught.value, WorkError)
    assert not list(tmp_path.iterdir())


def test_an_asynchronous_checkpoint_holds_the_state_of_its_step(tmp_path, monkeypatch):
    go, weights = threading.Event(), torch.zeros(5)
    write = checkpointing.write_with_checksum
    monkeypatch.setattr(checkpointing, "write_with_checksum", lambda *a: (go.wait(60), write(*a)))
    io = VerifiedCheckpointIO(asynchronous=True)
    given = torch.zeros(5)
    content = {"bert_lightning": {"a": [weights]}, "weights": weights, "given": [given]}
    io.save_checkpoint(content, tmp_path / step_name(1), ("given",))
    weights += 1
    # A state that nobody else uses is not copied again.
    given += 1
    assert not list(tmp_path.iterdir())
    go.set()
    io.wait()
    content = load_native(tmp_path / step_name(1))
    assert content["weights"].tolist() == content["bert_lightning"]["a"][0].tolist() == [0] * 5
    assert content["given"][0].tolist() == [1] * 5


@pytest.mark.parametrize("is_first", [True, False])
def test_only_the_first_process_links_the_earlier_best_checkpoint(tmp_path, is_first):
    save(tmp_path, 3)
    checkpointing = Checkpointing(tmp_path, CheckpointSettings(), "val/loss", "min", 1)
    checkpointing.setup(SimpleNamespace(is_global_zero=is_first), None, "fit")
    checkpointing.load_state_dict({"best_score": 1.0, "best_step": 3})
    assert (tmp_path / "best.ckpt").is_symlink() == is_first
    assert checkpointing.best_step == 3


@pytest.mark.parametrize("change", [{"every_n_steps": 0}, {"keep_every_n_steps": 0}, {"keep_last": 0}])
def test_settings_of_checkpoints_count_from_one(change):
    [name] = change
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
        CheckpointSettings(**change)


def test_a_resume_without_a_metric_that_tells_forgets_the_best_of_an_earlier_version(tmp_path):
    save(tmp_path, 5)
    (tmp_path / BEST).symlink_to(step_name(5))
    checkpointing = Checkpointing(tmp_path, CheckpointSettings(), None, "max", 1)
    checkpointing._writes = True
    checkpointing.load_state_dict({"best_score": 0.5, "best_step": 5})
    assert checkpointing.state_dict() == {"best_score": None, "best_step": None}
    assert not (tmp_path / BEST).is_symlink()
