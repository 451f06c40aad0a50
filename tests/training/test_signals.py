"""Agreement of ranks on a signal."""

import os
import signal
from contextlib import nullcontext
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch

from bert_lightning.training.signals import StopOnSignal, StoppedBySignal, restore_signal_handlers


@pytest.fixture
def ranks(monkeypatch):
    """Record the groups that are made, and the device and group of each reduced tensor."""
    made, reduced = [], []

    def new_group(backend, timeout):
        made.append((backend, timeout))
        return "of processors"

    def all_reduce(tensor, op, group):
        assert op == torch.distributed.ReduceOp.MAX
        reduced.append((tensor.device.type, group))

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: 2)
    monkeypatch.setattr(torch.distributed, "new_group", new_group)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    return made, reduced


class Saves:
    def __init__(self):
        self.saved = 0

    def is_validated(self, step, last):
        return False

    def save(self, trainer):
        self.saved += 1

    def wait(self, trainer):
        pass


@pytest.mark.parametrize(("backend", "group"), [("nccl", "of processors"), ("gloo", None)])
def test_ranks_agree_through_the_cpu_on_every_device(ranks, monkeypatch, backend, group):
    made, reduced = ranks
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: backend)
    timeout = timedelta(seconds=7)
    trainer = SimpleNamespace(
        world_size=2, global_step=1, max_steps=5, strategy=SimpleNamespace(_timeout=timeout), should_stop=False
    )
    # No value can be read from this device.
    module = SimpleNamespace(device=torch.device("meta"))
    saves = Saves()
    stop = StopOnSignal(saves)
    with restore_signal_handlers():
        stop.on_train_start(trainer, module)
        for _ in range(2):
            stop.on_train_batch_end(trainer, module, None, None, 0)
        assert made == ([("gloo", timeout)] if backend == "nccl" else [])
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedBySignal, match="SIGTERM"):
            stop.on_train_batch_end(trainer, module, None, None, 0)
    assert reduced == [("cpu", group)] * 3
    assert saves.saved == 1


@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_lost_terminal_ends_training_with_a_checkpoint_unless_the_signal_is_ignored(before):
    trainer = SimpleNamespace(world_size=1, global_step=1, max_steps=5, should_stop=False)
    saves = Saves()
    stop = StopOnSignal(saves)
    with restore_signal_handlers():
        signal.signal(signal.SIGHUP, before)
        stop.on_train_start(trainer, None)
        os.kill(os.getpid(), signal.SIGHUP)
        with nullcontext() if before == signal.SIG_IGN else pytest.raises(StoppedBySignal, match="SIGHUP"):
            stop.on_train_batch_end(trainer, None, None, None, 0)
    assert saves.saved == (before != signal.SIG_IGN)
