"""Content of the disk after a process dies while it writes: complete checkpoints and rows, or none."""

import json
import math
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import pytest
import torch

from bert_lightning.checkpoints.native import damage, step_checkpoints, step_name
from bert_lightning.checkpoints.shards import TensorSlice, write_shards
from bert_lightning.errors import WorkError
from bert_lightning.training import metrics_file
from bert_lightning.training.checkpoint_folder import newest_valid, set_aside
from bert_lightning.training.checkpointing import VerifiedCheckpointIO

FORK = multiprocessing.get_context("fork")


def save_again_and_again(form, folder, first, num_floats, temporary, rank=0, ends=()):
    """Save checkpoints of rising steps and remove the last but one, until this process or the other one is killed."""
    # A forked process does not have the threads of its parent.
    torch.set_num_threads(1)
    os.environ["TMPDIR"] = str(temporary)
    tempfile.tempdir = None
    for end in ends[:rank] + ends[rank + 1 :]:
        end.close()

    def exchange(value):
        ends[rank].send(value)
        other = ends[rank].recv()
        return [value, other] if rank == 0 else [other, value]

    io = VerifiedCheckpointIO(asynchronous=form == "asynchronous")
    for step in range(first, first + 1000):
        path, old = folder / step_name(step), folder / step_name(step - 2)
        weights = torch.full((num_floats,), float(step))
        if form == "shards":
            content = {"bert_lightning": {}, "weights": TensorSlice(weights.chunk(2)[rank], (num_floats,))}
            try:
                write_shards(path, content, step, rank, exchange)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                return
        else:
            io.save_checkpoint({"bert_lightning": {}, "weights": weights}, path)
        if rank == 0:
            io.do_after_writes(lambda old=old: io.remove_checkpoint(old))


def start_to_save(form, *arguments):
    """Start the processes that save: two that write a sharded checkpoint together, or one."""
    ends = FORK.Pipe() if form == "shards" else ()
    processes = [
        FORK.Process(target=save_again_and_again, args=(form, *arguments, rank, ends))
        for rank in range(len(ends) or 1)
    ]
    for process in processes:
        process.start()
    for end in ends:
        end.close()
    return processes


def half_written(folder: Path) -> set[str]:
    """Return the names of checkpoints that are being written, not of those that are being removed."""
    return {path.name[1:20] for path in folder.glob(".step-*.tmp") if not path.name.endswith(".gone.tmp")}


NEAR_AND_FAR = [
    pytest.param(form, kills, megabytes, far, marks=marks)
    for form, kills, megabytes, fars, marks in (
        ("file", 4, 16, (False, True), ()),
        ("shards", 2, 16, (True,), ()),
        ("file", 26, 48, (False, True), pytest.mark.slow),
        ("shards", 12, 48, (False, True), pytest.mark.slow),
        ("asynchronous", 12, 48, (False, True), pytest.mark.slow),
    )
    for far in fars
]


@pytest.fixture
def temporary(tmp_path, far):
    """Return a folder for temporary files, beside the checkpoints or on another file system."""
    memory = Path("/dev/shm")
    if far and not os.access(memory, os.W_OK):
        pytest.skip(f"{memory} is not there")
    with tempfile.TemporaryDirectory(dir=memory if far else tmp_path.parent) as name:
        yield Path(name)


@pytest.mark.parametrize(("form", "kills", "megabytes", "far"), NEAR_AND_FAR)
def test_a_kill_while_saving_leaves_one_complete_checkpoint_and_nothing_else(
    tmp_path, temporary, form, kills, megabytes, far
):
    generator = random.Random(0)
    hit, made, position = 0, 0, 0
    # Kills just after a checkpoint is complete do not count.
    while hit < kills:
        processes = start_to_save(form, tmp_path, position + 1, megabytes * 250_000, temporary)
        # Two are complete; the kill comes within one of the following.
        while len(step_checkpoints(tmp_path)) < 2 or step_checkpoints(tmp_path)[0].name <= step_name(position + 1):
            assert all(process.is_alive() for process in processes)
        until = time.monotonic() + generator.random() * megabytes / 400
        while time.monotonic() < until or not half_written(tmp_path):
            assert all(process.is_alive() for process in processes)
        # Either both of two processes are killed, or one, which the other one notices.
        for process in generator.choice([processes, *([each] for each in processes)]):
            process.kill()
        begun = half_written(tmp_path)
        for process in processes:
            process.join(60)
            assert process.exitcode is not None
        hit += bool((begun | half_written(tmp_path)) - {path.name for path in step_checkpoints(tmp_path)})
        made += 1
        newest = newest_valid(tmp_path)
        assert newest == step_checkpoints(tmp_path)[0], "none is there that is not whole"
        position = int(newest.name[5:14])
        set_aside(tmp_path, position)
        assert not list(tmp_path.rglob(".*"))
        assert all(damage(path) is None for path in step_checkpoints(tmp_path))
        assert len(list(tmp_path.glob("*.sha256"))) == len(step_checkpoints(tmp_path))
        assert made <= 4 * kills, "hardly any hits a checkpoint that is being written"
    assert not list(temporary.iterdir()), "nothing goes through TMPDIR"


def test_a_read_only_folder_is_an_error_that_names_it():
    def save_as_an_ordinary_user(folder, answer):
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            VerifiedCheckpointIO().save_checkpoint({"bert_lightning": {}}, folder / step_name(1))
        except WorkError as error:
            answer.send(str(error))
        answer.close()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        here, there = FORK.Pipe(duplex=False)
        process = FORK.Process(target=save_as_an_ordinary_user, args=(folder, there))
        process.start()
        there.close()
        message = here.recv()
        process.join()
        assert "Permission denied" in message
        assert name in message
        assert not list(folder.iterdir())


@pytest.mark.parametrize("num_rows", [50, 200, 2000])
def test_a_kill_leaves_every_row_that_was_logged(tmp_path, num_rows):
    def log(path):
        for step in range(num_rows):
            metrics_file.append(path, {"step": step, "train/loss": 1.0 / (step + 1)})
        os.kill(os.getpid(), signal.SIGKILL)

    process = FORK.Process(target=log, args=(tmp_path / "metrics.jsonl",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [row["step"] for row in metrics_file.read(tmp_path / "metrics.jsonl")] == list(range(num_rows))


def test_rows_kept_by_a_resume_are_still_plain_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        metrics_file.append(path, {"step": step, "val/pearson": math.nan})
    with open(path, "a") as file:
        file.write('{"step": 4, "val/pea')
    metrics_file.forget_after(path, 2)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    rows = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    assert [(row["step"], row["val/pearson"]) for row in rows] == [(1, None), (2, None)]
