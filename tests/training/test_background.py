import threading

import pytest

from bert_lightning.training.background import Background


def test_background_jobs_run_in_order_beside_other_work():
    background, done, go = Background(), [], threading.Event()
    background.do(lambda: (go.wait(60), done.append(1)))
    background.do(lambda: done.append(2))
    assert done == []
    go.set()
    background.wait()
    assert done == [1, 2]


def test_a_failed_background_job_is_the_last_one_and_is_raised_once():
    background, done = Background(), []
    background.do(lambda: done.append(1))
    background.do(lambda: 1 / 0)
    background.do(lambda: done.append(2))
    with pytest.raises(ZeroDivisionError):
        background.wait()
    assert done == [1]
    background.wait()
    background.do(lambda: done.append(3))
    background.wait()
    assert done == [1, 3]
