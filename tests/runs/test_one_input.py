"""One input where a list of inputs is expected."""

from types import SimpleNamespace

import pytest

from bert_lightning.data.loading.module import StepDataModule
from bert_lightning.errors import InputError
from bert_lightning.runs.predictor import Predictor


@pytest.mark.parametrize("one", ["A text.", {"text": "A text."}])
def test_one_input_is_refused_rather_than_read_letter_by_letter_or_key_by_key(one):
    with pytest.raises(InputError, match="a list of inputs is expected"):
        Predictor.predict(object.__new__(Predictor), one)
    data = SimpleNamespace(inputs=one, evaluation_batch_size=2, _share=lambda: (0, 1))
    with pytest.raises(InputError, match=r"data\.inputs must be a list"):
        StepDataModule.predict_dataloader(data)
