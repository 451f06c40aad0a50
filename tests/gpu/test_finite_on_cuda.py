"""Non-finite steps on CUDA, which the fused optimiser skips without synchronisation."""

import pytest
import torch

from tests.support.poisoned_training import trained

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_a_non_finite_step_changes_no_weight_on_cuda(tmp_path):
    task, error = trained(tmp_path, poisoned=(3,), non_finite="skip", accelerator="gpu")
    assert error is None
    assert torch.equal(task.history[2], task.history[1])
    assert not torch.equal(task.history[3], task.history[2])
    assert task.training_metrics["train/skipped_steps"] == 1


def test_training_on_cuda_stops_with_finite_weights(tmp_path):
    task, error = trained(tmp_path, poisoned=(3,), accelerator="gpu")
    assert "step 3" in str(error)
    assert all(each.isfinite().all() for each in task.history)
