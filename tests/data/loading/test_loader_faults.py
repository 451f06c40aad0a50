"""Faults of the processes that make batches."""

import logging
import os
import signal
import threading

import pytest

from bert_lightning.data.loading import stalls
from bert_lightning.data.loading.loader import StepLoader


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_workers_ignore_the_signals_that_end_training_and_end_with_it(number):
    loader = StepLoader(lambda step: (step, os.getpid()), 40, 2, pin_memory=False)
    items = iter(loader)
    received = [next(items)]
    workers = {received[0][1]}
    received.append(next(items))
    workers.add(received[1][1])
    assert len(workers) == 2
    for worker in workers:
        assert worker != os.getpid()
        os.kill(worker, number)
    received += items
    assert [step for step, _ in received] == list(range(40))
    assert {worker for _, worker in received} == workers
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_a_worker_that_hangs_is_killed_with_its_loader(tmp_path):
    """Torch sends it SIGTERM, which it ignores, so Python would wait for it at the end for ever."""
    pipe = tmp_path / "never-written"
    os.mkfifo(pipe)
    started, tell = os.pipe()

    def make(step):
        if step:
            os.write(tell, str(os.getpid()).encode())
            pipe.read_text()
        return step

    loader = StepLoader(make, 3, 1, pin_memory=False)
    items = iter(loader)
    assert next(items) == 0
    worker = int(os.read(started, 20))
    items.close()
    del items
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


class Seen(logging.Handler):
    """Log handler that keeps warnings and sets an event at each."""

    def __init__(self):
        super().__init__()
        self.messages = []
        self.received = threading.Event()

    def emit(self, record):
        self.messages.append(record.getMessage())
        self.received.set()


@pytest.fixture
def seen(monkeypatch):
    monkeypatch.setattr(stalls, "SECONDS", 0.04)
    handler = Seen()
    stalls.log.addHandler(handler)
    yield handler
    stalls.log.removeHandler(handler)


def test_a_late_batch_is_reported_once_with_its_step(seen, monkeypatch):
    looks = threading.Semaphore(0)
    wait = threading.Event.wait

    def counted(event, timeout=None):
        if threading.current_thread().name == "stall-watch":
            looks.release()
        return wait(event, timeout)

    def make(step):
        if step == 2:
            assert seen.received.wait(60)
            # The watch looks at the same stall several more times.
            while looks.acquire(blocking=False):
                pass
            for _ in range(5):
                assert looks.acquire(timeout=60)
        return step

    monkeypatch.setattr(threading.Event, "wait", counted)
    assert list(StepLoader(make, 4, 0, pin_memory=False)) == [0, 1, 2, 3]
    [message] = seen.messages
    assert message.startswith("step 3: its data has not arrived after 0 seconds")


def test_the_watch_of_a_loader_ends_with_it_and_blocks_no_process(seen):
    before = set(threading.enumerate())
    items = iter(StepLoader(lambda step: step, 4, 0, pin_memory=False))
    assert next(items) == 0
    [watch] = set(threading.enumerate()) - before
    assert watch.daemon
    items.close()
    watch.join(60)
    assert not watch.is_alive()
    assert not seen.messages


def test_batches_in_time_are_not_reported():
    handler = Seen()
    stalls.log.addHandler(handler)
    try:
        assert len(list(StepLoader(lambda step: step, 500, 0, pin_memory=False))) == 500
    finally:
        stalls.log.removeHandler(handler)
    assert not handler.messages
