"""Imitation of a kill during training in the process of the tests."""

import pytest

from bert_lightning.tasks.pretraining.task import PretrainingTask


class Killed(BaseException):
    """Imitation of a kill: nothing is written any more."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let training die within a step, after its samples are drawn and before the weights change."""
    original = PretrainingTask.sums

    def dying(task, batch):
        if task.training and task.trainer.global_step == step:
            raise Killed
        return original(task, batch)

    monkeypatch.setattr(PretrainingTask, "sums", dying)
