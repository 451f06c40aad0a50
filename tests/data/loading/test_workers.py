"""Start of the processes that make batches."""

import os
import signal
from multiprocessing import popen_fork

from bert_lightning.data.loading import workers


def test_a_worker_that_hangs_at_its_fork_is_killed_and_forked_again(monkeypatch):
    fork, stuck = os.fork, []

    def fork_that_stands_still_twice():
        process = fork()
        if process == 0 and len(stuck) < 2:
            signal.pause()
        stuck.append(process)
        return process

    monkeypatch.setattr(popen_fork.os, "fork", fork_that_stands_still_twice)
    monkeypatch.setattr(workers, "_SECONDS_TO_START", 0.1)
    context = workers.WorkerContext()
    answers = context.SimpleQueue()
    process = context.Process(target=lambda: answers.put(os.getpid()))
    process.start()
    assert answers.get() == process.pid == stuck[-1]
    process.join()
    assert process.exitcode == 0
    assert len(stuck) >= 3
    for number in stuck[:-1]:
        assert not os.path.exists(f"/proc/{number}"), "it is gone"
