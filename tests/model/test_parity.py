"""Numerical parity with transformers' BERT, which is an independent implementation of the same function."""

import pytest
import torch

from bert_lightning.model import PRESETS
from tests.support.parity import CASES, differences

# float32 sums in another order differ by its rounding; see `differences` for the output biases.
TOLERANCES = {torch.float64: (1e-10, 1e-10), torch.float32: (1e-5, 3e-5)}


def assert_equal(case, size, act, padded, dtype, **settings):
    tolerance, for_output_biases = TOLERANCES[dtype]
    for name, difference in differences(case, size, act, padded, dtype, **settings).items():
        assert difference <= (for_output_biases if name == "gradient of output bias" else tolerance), name


# The largest takes half of the time of all; `make test-slow` has it.
SIZES = [pytest.param(size, marks=[pytest.mark.slow] * (size == "large")) for size in PRESETS]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", ["BertModel", "BertForPreTraining"])
@pytest.mark.parametrize(("act", "padded"), [("gelu_new", True), ("gelu", False)])
def test_outputs_losses_and_every_gradient_equal_transformers_in_every_size(case, size, act, padded):
    assert_equal(case, size, act, padded, torch.float64)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_every_model_equals_transformers(case, dtype):
    assert_equal(case, "tiny", "gelu", True, dtype)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_attention_backend_equals_transformers(attention):
    assert_equal("BertForPreTraining", "tiny", "gelu_new", True, torch.float64, attention=attention)


@pytest.mark.parametrize("act", ["relu", "silu"])
def test_other_activation_functions_equal_transformers(act):
    assert_equal("BertForPreTraining", "tiny", act, True, torch.float64)


def test_an_untied_decoder_equals_transformers():
    assert_equal("BertForPreTraining", "tiny", "gelu_new", True, torch.float64, tie_word_embeddings=False)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("act", ["gelu", "gelu_new"])
@pytest.mark.parametrize("size", PRESETS)
@pytest.mark.parametrize("case", CASES)
def test_every_model_of_every_size_equals_transformers(case, size, act, padded, dtype):
    assert_equal(case, size, act, padded, dtype)
