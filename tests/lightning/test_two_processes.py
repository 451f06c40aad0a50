"""A plain Trainer with DDP trains, scores a part of a split, and predicts as one process does."""

import pytest

TRAINING = """
import warnings
import bert_lightning
from lightning import Trainer
from tests.support.plain_lightning import QUIET

warnings.simplefilter("ignore")
no_dropout = {{"model.config.hidden_dropout_prob": 0.0, "model.config.attention_probs_dropout_prob": 0.0}}
task, data = bert_lightning.build({values!r}, no_dropout)
flags = QUIET | {flags!r} | {{"max_epochs": 1, "log_every_n_steps": 1000}}
trainer = Trainer(**flags)
trainer.fit(task, data)
metrics = {{name: float(value) for name, value in trainer.callback_metrics.items()}}
predictions = trainer.predict(task, data)
answer = [
    metrics["val/loss"],
    metrics["train/loss"],
    sum(float(parameter.detach().double().abs().sum()) for parameter in task.parameters()),
    len(predictions),
    sum(map(len, predictions)),
]
"""


@pytest.mark.slow
def test_two_processes_train_score_and_predict_as_one(experiments, two_ranks):
    values = experiments["text-classification"]
    names: dict = {}
    exec(TRAINING.format(values=values, flags={"limit_val_batches": 2}), names)
    one = names["answer"]
    flags = {"limit_val_batches": 1, "devices": 2, "strategy": "ddp"}
    answers = two_ranks.execute(TRAINING.format(values=values, flags=flags))
    for loss, training_loss, total, *_ in answers:
        assert loss == pytest.approx(one[0], rel=1e-5)
        assert training_loss == pytest.approx(one[1], rel=1e-5)
        assert total == pytest.approx(one[2], rel=1e-6)
    assert sum(number for *_, number in answers) == one[-1]
