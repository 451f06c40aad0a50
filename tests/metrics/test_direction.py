"""The better direction of each metric that a task has."""

import pytest

from bert_lightning.metrics.direction import better
from bert_lightning.tasks.catalogue import TASKS


@pytest.mark.parametrize(
    "name", ["val/loss", "val/mlm_loss", "test/span_loss", "val/mean_squared_error", "val/perplexity"]
)
def test_less_of_a_loss_and_of_an_error_is_better(name):
    assert better(name) == "min"


@pytest.mark.parametrize(
    "name", ["val/accuracy", "test/mismatched_accuracy", "val/entity_f1", "val/squad_exact", "val/f1"]
)
def test_more_of_an_accuracy_and_of_f1_is_better(name):
    assert better(name) == "max"


@pytest.mark.parametrize(
    "name",
    [
        "val/mlm_unigram_loss",
        "val/mlm_unigram_accuracy",
        "val/nsp_majority_accuracy",
        "val/squad_best_f1_threshold",
        "val/x",
    ],
)
def test_a_value_that_describes_the_data_has_no_better_direction(name):
    assert better(name) is None


def test_the_direction_agrees_with_what_every_task_monitors():
    monitored = {
        (task.monitor, task.monitor_mode)
        for spec in TASKS.values()
        for task in [spec.task]
        if isinstance(getattr(task, "monitor", None), str)
    }
    assert len(monitored) >= 3
    for metric, mode in monitored:
        assert better(metric) == mode
