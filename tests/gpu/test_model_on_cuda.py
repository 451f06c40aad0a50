"""Checks of the model and its training that need an accelerator; run by `make test-gpu`.

The checks are plain functions, so that `experiments/benchmarks/gpu_suite.py` can run them without pytest.
"""

import pytest
import torch
from gpu_checks import CHECKS
from gpu_setting import Setting, UnsuitableError

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("claim", CHECKS)
def test_the_checks_of_the_model_hold_on_cuda(claim):
    try:
        figures = CHECKS[claim](Setting(torch.device("cuda")))
    except UnsuitableError as error:
        pytest.skip(str(error))
    assert figures
    assert not {name: figure for name, figure in figures.items() if not figure.ok}
