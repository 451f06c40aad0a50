"""Sharded checkpoints: complete or absent, and every fault is named."""

import shutil
import threading

import pytest
import torch

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.native import damage, load_native, step_name, step_of
from bert_lightning.checkpoints.shards import MANIFEST, TensorSlice, shard_name, write_shards
from bert_lightning.training.checkpoint_folder import newest_valid, set_aside
from bert_lightning.training.checkpointing import VerifiedCheckpointIO
from tests.support.hostile import Evil


def content(step):
    matrix = torch.arange(15.0).view(5, 3) + step
    rest = {"bert_lightning": {}, "global_step": step, "list": [1, {"x": torch.tensor(2.0)}], 3: "int key"}
    return {**rest, "state_dict": {"matrix": matrix, "row": torch.full((1, 2), float(step))}}


def write(folder, step, num_processes=2, failing=None):
    """Write with one thread per process, and return the messages that they raised."""
    barrier, shared, raised = threading.Barrier(num_processes), [None] * num_processes, []

    def process(rank):
        def exchange(value):
            shared[rank] = value
            barrier.wait()
            values = list(shared)
            barrier.wait()
            return values

        def rows(whole):
            pieces = whole.chunk(num_processes)
            return TensorSlice(pieces[rank] if rank < len(pieces) else whole[:0], tuple(whole.shape))

        own = content(step)
        own["state_dict"] = {name: rows(whole) for name, whole in own["state_dict"].items()}
        if rank == failing:
            own["state_dict"]["matrix"] = TensorSlice(Unwritable(), (5, 3))
        try:
            write_shards(folder / step_name(step), own, step, rank, exchange)
        except CheckpointError as error:
            raised.append(str(error))

    threads = [threading.Thread(target=process, args=[rank]) for rank in range(num_processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


class Unwritable:
    def __reduce__(self):
        raise OSError("no space left")


@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_a_sharded_checkpoint_is_read_as_a_whole(tmp_path, num_processes):
    assert not write(tmp_path, 7, num_processes)
    read, expected = load_native(tmp_path / step_name(7)), content(7)
    assert read.keys() == expected.keys()
    assert all(torch.equal(read["state_dict"][name], expected["state_dict"][name]) for name in ("matrix", "row"))
    assert (read["list"], read[3]) == (expected["list"], "int key")
    assert step_of(tmp_path / step_name(7)) == 7
    assert not list(tmp_path.glob(".*"))


def spoil(path, how):
    shard, manifest = path / shard_name(1), path / MANIFEST
    flipped = shard if how == "flipped" else manifest
    if how == "missing":
        shard.unlink()
    elif how == "torn":
        manifest.unlink()
    elif how == "truncated":
        shard.write_bytes(shard.read_bytes()[:-9])
    elif how == "mixed":
        shutil.copy(path.with_name(step_name(5)) / shard_name(1), shard)
    elif how == "manifest of another":
        shutil.copy(path.with_name(step_name(5)) / MANIFEST, manifest)
    else:
        whole = flipped.read_bytes()
        flipped.write_bytes(whole[:30] + bytes([whole[30] ^ 1]) + whole[31:])


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("missing", "part-00001.pt is missing"),
        ("torn", "no manifest.json"),
        ("truncated", "part-00001.pt has"),
        ("flipped", "part-00001.pt differs"),
        ("mixed", "part-00001.pt differs"),
        ("flipped manifest", "manifest.json differs"),
        ("manifest of another", "manifest.json differs"),
    ],
)
def test_a_fault_in_a_sharded_checkpoint_is_named_and_the_earlier_one_is_used(tmp_path, caplog, how, named):
    write(tmp_path, 5)
    write(tmp_path, 10)
    bad = tmp_path / step_name(10)
    spoil(bad, how)
    assert named in str(damage(bad))
    with pytest.raises(CheckpointError, match=named):
        load_native(bad)
    assert newest_valid(tmp_path) == tmp_path / step_name(5)
    assert step_name(10) in caplog.text


def test_all_processes_fail_and_leave_nothing_if_one_cannot_write(tmp_path):
    raised = write(tmp_path, 5, failing=1)
    assert len(raised) == 2
    assert all("process 1" in error and "no space left" in error for error in raised)
    assert not list(tmp_path.iterdir())


def test_a_sharded_checkpoint_is_moved_aside_and_removed_like_a_file(tmp_path):
    write(tmp_path, 5)
    write(tmp_path, 10)
    (tmp_path / f".{step_name(15)}.99.tmp").mkdir()
    # A kill interrupted the removal of an older one of the same name.
    (tmp_path / "set-aside" / f".{step_name(10)}.99.gone.tmp").mkdir(parents=True)
    set_aside(tmp_path, 5)
    assert not list((tmp_path / "set-aside").glob(".*"))
    assert damage(tmp_path / "set-aside" / step_name(10)) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["last.ckpt", "set-aside", step_name(5), f"{step_name(5)}.sha256"]
    )
    VerifiedCheckpointIO().remove_checkpoint(tmp_path / step_name(5))
    assert not list(tmp_path.glob("step-*"))


def test_a_pickle_in_a_shard_is_not_executed(tmp_path):
    write_shards(
        tmp_path / step_name(1), {"bert_lightning": Evil(tmp_path / "executed")}, 1, 0, lambda value: [value]
    )
    with pytest.raises(CheckpointError, match="not a checkpoint of bert_lightning"):
        load_native(tmp_path / step_name(1))
    assert not (tmp_path / "executed").exists()
