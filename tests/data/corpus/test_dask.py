"""The same store from a Dask cluster: a real scheduler and two real worker processes on loopback."""

import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from bert_lightning.data.corpus import section_jobs
from bert_lightning.data.corpus.executors import dask_executor
from bert_lightning.data.corpus.preparation import prepare
from bert_lightning.errors import InputError, WorkError
from tests.support.files import digest

distributed = pytest.importorskip("distributed")


@contextmanager
def cluster(folder):
    """The address of a scheduler, its process and those of its two workers."""
    address = folder / "scheduler.json"
    common = ["--scheduler-file", str(address)]
    python = [sys.executable, "-m", "distributed.cli"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    local = ["--host", "127.0.0.1", "--no-dashboard"]
    scheduler = subprocess.Popen(
        [*python[:2], "distributed.cli.dask_scheduler", *common, *local, "--port", "0"], **quiet
    )
    workers = [
        subprocess.Popen(
            [
                *python[:2],
                "distributed.cli.dask_worker",
                *common,
                *local,
                "--nthreads",
                "1",
                "--no-nanny",
                "--local-directory",
                str(folder),
            ],
            **quiet,
        )
        for _ in range(2)
    ]
    try:
        with distributed.Client(scheduler_file=str(address), timeout=60) as client:
            client.wait_for_workers(2, timeout=60)
            yield client.scheduler.address, scheduler, workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


def test_a_cluster_gives_the_same_bytes_though_a_worker_is_killed(tmp_path, corpus, tokenizer, monkeypatch):
    monkeypatch.setattr(section_jobs, "CHARACTERS_PER_SECTION", 1000)
    prepare([str(corpus)], tokenizer, tmp_path / "local", num_workers=1)
    done = []

    with cluster(tmp_path) as (address, _, workers):

        def kill_one(characters: int) -> None:
            done.append(characters)
            if len(done) == 2:
                workers[0].send_signal(signal.SIGKILL)

        prepare([str(corpus)], tokenizer, tmp_path / "cluster", scheduler=address, progress=kill_one)
        assert workers[0].wait(10) == -signal.SIGKILL
        assert workers[1].poll() is None
    assert len(done) > 6
    assert digest(tmp_path / "cluster") == digest(tmp_path / "local")


def test_a_cluster_that_dies_is_one_message_and_keeps_finished_work(tmp_path, corpus, tokenizer, monkeypatch):
    monkeypatch.setattr(section_jobs, "CHARACTERS_PER_SECTION", 1000)
    with cluster(tmp_path) as (address, scheduler, _):
        with pytest.raises(WorkError, match="the cluster gave up") as raised:
            prepare(
                [str(corpus)], tokenizer, tmp_path / "cluster", scheduler=address, progress=lambda _: scheduler.kill()
            )
        assert address in str(raised.value)
    assert list((tmp_path / "cluster").glob("section-*.tokens"))


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_one_message():
    with pytest.raises(InputError, match="no Dask scheduler answers"), dask_executor("tcp://127.0.0.1:9"):
        pass
