"""Effect of the end of another process on this one."""

from types import SimpleNamespace

import pytest

from bert_lightning.training.ranks import RankWatch


@pytest.mark.parametrize(
    ("ended", "how", "status"),
    [
        (1, "ended with status 1", 1),
        # The process with bad input reports it; for the others it is a work error.
        (2, "ended with status 2", 1),
        (137, "ended with status 137", 1),
        (-9, "was killed by SIGKILL", 1),
        (-11, "was killed by SIGSEGV", 1),
        # A signal came before the first step, when each process ends on its own.
        (143, "ended with status 143", 143),
        (130, "ended with status 130", 130),
        (-15, "was killed by SIGTERM", 143),
        (-10, "was killed by SIGUSR1", 143),
        (-2, "was killed by SIGINT", 130),
    ],
)
def test_a_lost_rank_is_a_work_error_unless_a_signal_asked_it_to_end(ended, how, status):
    watch = RankWatch([])
    watch.stop()
    watch.others = [SimpleNamespace(poll=lambda: None, pid=6), SimpleNamespace(poll=lambda: ended, pid=7)]
    lost = watch.explain(RuntimeError("[gloo] Connection closed by peer"))
    assert f"rank 2 (process 7) {how};" in str(lost)
    assert lost.status == status
