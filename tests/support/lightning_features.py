"""The features of Lightning that users try, each with what it does to our tasks: it works, or it is refused.

`python -m tests.support.lightning_features` prints the table of docs/lightning.md.
"""

import importlib.util
import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lightning.pytorch import callbacks
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader

import bert_lightning
from bert_lightning.data.reading.tables import Row
from bert_lightning.tasks.text_classification.task import TextClassificationTask
from bert_lightning.training.checkpointing import VerifiedCheckpointIO
from tests.support.plain_lightning import NUM_STEPS, Plain, trainer
from tests.support.task_data import RAW


class Feature(NamedTuple):
    """A feature, and the test of what it does."""

    name: str
    """as in the table of docs/lightning.md"""
    use: str | None
    """the setting that the refusal names; None for a feature that works"""
    test: Callable[[Plain], object]
    slow: bool = False
    every_task: bool = False
    """the test runs with each task"""


FEATURES: list[Feature] = []


def works(
    name: str, *, slow: bool = False, every_task: bool = False
) -> Callable[[Callable[[Plain], object]], Callable[[Plain], object]]:
    """Add a feature that works; the test asserts how."""

    def add(test: Callable[[Plain], object]) -> Callable[[Plain], object]:
        FEATURES.append(Feature(name, None, test, slow, every_task))
        return test

    return add


def refused(name: str, use: str) -> Callable[[Callable[[Plain], object]], Callable[[Plain], object]]:
    """Add a feature that is refused; the test triggers the refusal, which names `use`."""

    def add(test: Callable[[Plain], object]) -> Callable[[Plain], object]:
        FEATURES.append(Feature(name, use, test))
        return test

    return add


def finished(plain: Plain, **flags: Any) -> None:
    """Train with flags, and check that the whole plan was trained and validated."""
    task, fitted = plain.fit(**flags)
    assert fitted.global_step == NUM_STEPS
    assert task.monitor in fitted.callback_metrics


# -- with every task -------------------------------------------------------------------------------------------------


@works("`num_sanity_val_steps` (2 by default, -1 for all): nothing is scored or logged", every_task=True)
def _(plain: Plain) -> None:
    for number in (2, -1):
        assert [step for step, values in _logged(plain, num_sanity_val_steps=number, limit_train_batches=1)] == [1, 1]


@works(
    "`fast_dev_run`, `limit_val_batches`, `overfit_batches`: scores of the part, with one warning", every_task=True
)
def _(plain: Plain) -> None:
    for flags in (
        {"fast_dev_run": True},
        {"limit_val_batches": 2},
        {"limit_val_batches": 0.7},
        {"overfit_batches": 2},
    ):
        task, fitted = plain.fit(**flags)
        assert task.monitor in fitted.callback_metrics
        [warning] = [each for each in task.warned if "because of" in each]
        assert f"Trainer({next(iter(flags))}=" in warning


@works("`limit_test_batches`: scores of the part, with one warning", every_task=True)
def _(plain: Plain) -> None:
    task, data = plain.make()
    scored = trainer(limit_test_batches=2)
    assert scored.test(task, data, verbose=False)[0]
    assert scored.test(task, data, verbose=False)[0]
    [warning] = [each for each in task.warned if "because of" in each]
    assert "Trainer(limit_test_batches=2)" in warning


@works("`validate` and `test` return and print the scores, also with the data module of training", every_task=True)
def _(plain: Plain) -> None:
    task, data = plain.make()
    scoring = trainer()
    [validation], [test] = scoring.validate(task, data), scoring.test(task, data)
    assert task.monitor in validation
    assert task.monitor.replace("val/", "test/") in test
    assert {name: float(value) for name, value in scoring.logged_metrics.items()} == test


@works("`predict` returns what `task.predict_rows` and `load` give", every_task=True)
def _(plain: Plain) -> None:
    task, data = plain.make()
    if plain.name == "pretraining":
        data.inputs = [values["text"] for values in RAW[plain.name]]
    else:
        predictions = [row for batch in trainer().predict(task, data) for row in batch]
        assert len(predictions) == data.num_examples_to_predict
        assert "gold" not in predictions[0]
        data.inputs = RAW[plain.name]
    rows = [Row(str(number), values) for number, values in enumerate(RAW[plain.name])]
    [predictions] = trainer().predict(task, data)
    assert predictions == task.predict_rows(rows, 64)


@works("`load_from_checkpoint(path)`, and `bert_lightning.load(path)` after a warning", every_task=True)
def _(plain: Plain) -> None:
    task, fitted = plain.fit(limit_train_batches=1, limit_val_batches=0)
    fitted.save_checkpoint(plain.folder / "a.ckpt")
    rows = [Row(str(number), values) for number, values in enumerate(RAW[plain.name])]
    expected = task.predict_rows(rows, 64)
    assert type(task).load_from_checkpoint(plain.folder / "a.ckpt").predict_rows(rows, 64) == expected
    assert bert_lightning.load(plain.folder / "a.ckpt").predict(RAW[plain.name]) == expected


@works("`fit(ckpt_path=...)`: bitwise, from every step of a plain `ModelCheckpoint`", every_task=True)
def _(plain: Plain) -> None:
    each = callbacks.ModelCheckpoint(plain.folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    whole, _ = plain.fit(callbacks=[each], enable_checkpointing=True, limit_val_batches=0)
    for path in sorted(plain.folder.glob("step=*.ckpt"))[1:3]:
        task, data = plain.make()
        trainer(limit_val_batches=0).fit(task, data, ckpt_path=path, weights_only=True)
        assert all(map(torch.equal, whole.parameters(), task.parameters())), path


# -- flags ---------------------------------------------------------------------------------------------------------


@works("`limit_val_batches=0`")
def _(plain: Plain) -> None:
    _, fitted = plain.fit(limit_val_batches=0)
    assert not [name for name in fitted.callback_metrics if name.startswith("val/")]


@works("`limit_train_batches` (a number or a share), also to divide the plan into several epochs")
def _(plain: Plain) -> None:
    assert plain.fit(limit_train_batches=2)[1].global_step == 2
    assert plain.fit(limit_train_batches=0.5)[1].global_step == 2
    assert plain.fit(limit_train_batches=2, max_epochs=2)[1].global_step == 4


@works("`max_steps`, `min_steps`, `max_time` within the plan")
def _(plain: Plain) -> None:
    assert plain.fit(max_steps=3)[1].global_step == 3
    assert plain.fit(max_steps=NUM_STEPS, max_epochs=-1)[1].global_step == NUM_STEPS
    finished(plain, min_steps=2, max_time={"hours": 1})


@works("`Trainer()` without a length: the planned steps, not Lightning's 1,000 epochs", every_task=True)
def _(plain: Plain) -> None:
    planned, fitted = plain.fit(max_epochs=None)
    once, _ = plain.fit(max_epochs=1)
    assert fitted.global_step == NUM_STEPS
    assert all(map(torch.equal, planned.parameters(), once.parameters()))


@works("`val_check_interval`, `check_val_every_n_epoch`, `reload_dataloaders_every_n_epochs`")
def _(plain: Plain) -> None:
    for flags in ({"val_check_interval": 2}, {"check_val_every_n_epoch": 1, "reload_dataloaders_every_n_epochs": 1}):
        finished(plain, **flags)


@works("`log_every_n_steps`, unless it is Lightning's default of 50; then `Optimization.log_every_n_steps` counts")
def _(plain: Plain) -> None:
    steps = [step for step, values in _logged(plain, log_every_n_steps=3) if "train/loss" in values]
    assert steps == [3, 4]
    assert [step for step, values in _logged(plain) if "train/loss" in values] == [1, 2, 3, 4]


@works("`profiler` (simple, advanced), `detect_anomaly`, `deterministic`, `benchmark`, `inference_mode=False`")
def _(plain: Plain) -> None:
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.ERROR)
    try:
        finished(plain, profiler="simple", deterministic=True)
    finally:
        torch.use_deterministic_algorithms(False)
    finished(plain, profiler="advanced", detect_anomaly=True, benchmark=False, inference_mode=False)


@works("`barebones`, without its validation metrics")
def _(plain: Plain) -> None:
    _, fitted = plain.fit(barebones=True, **dict.fromkeys(("logger", "enable_checkpointing"), None))
    assert fitted.global_step == NUM_STEPS


@works("`precision`: 32-true, 64-true, bf16-mixed, bf16-true")
def _(plain: Plain) -> None:
    for precision in ("64-true", "bf16-mixed", "bf16-true"):
        finished(plain, precision=precision)


@works("worker processes (`data.num_workers`)")
def _(plain: Plain) -> None:
    here, _ = plain.fit()
    task, data = plain.make(data__num_workers=2)
    trainer().fit(task, data)
    assert all(map(torch.equal, here.parameters(), task.parameters()))


@refused("`max_epochs` or `max_steps` beyond the plan", "`max_epochs=1`")
def _(plain: Plain) -> None:
    plain.fit(max_epochs=3)


@refused("`gradient_clip_val`", "`Optimization.gradient_clip_val`")
def _(plain: Plain) -> None:
    plain.fit(gradient_clip_val=1.0)


@refused("`accumulate_grad_batches`", "`TrainingLength(accumulate=...)`")
def _(plain: Plain) -> None:
    plain.fit(accumulate_grad_batches=2)


@refused('`strategy="fsdp"` (FSDP1), DeepSpeed', "`ShardedStrategy`")
def _(plain: Plain) -> None:
    task, _ = plain.make()
    fitted = trainer()
    plain.patch.setattr(fitted.strategy, "__class__", type("CPU", (FSDPStrategy,), {}))
    task.trainer = fitted
    fitted.state.fn = "fit"
    task.configure_callbacks()


@refused('`precision="16-mixed"` on CUDA without our plugin', "`ScaledFloat16`")
def _(plain: Plain) -> None:
    task, _ = plain.make()
    fitted = trainer()
    fitted.strategy.precision_plugin = MixedPrecision("16-mixed", "cuda", torch.amp.GradScaler("cpu"))
    task.trainer = fitted
    fitted.state.fn = "fit"
    task.configure_callbacks()


# -- data ----------------------------------------------------------------------------------------------------------


@works("the data module's own loaders in place of the data module")
def _(plain: Plain) -> None:
    whole, expected = plain.fit()
    task, data = plain.make()
    fitted = trainer()
    fitted.fit(task, data.train_dataloader(), data.val_dataloader())
    assert fitted.callback_metrics[task.monitor] == expected.callback_metrics[task.monitor]
    assert all(map(torch.equal, whole.parameters(), task.parameters()))


@works("a `DataLoader` of batches: each is a step of one micro-batch; validation means over batches")
def _(plain: Plain) -> None:
    task, data = plain.make()
    [batch] = [each for [each] in [next(iter(data.train_dataloader()))]]
    loader: Any = DataLoader([batch, batch], batch_size=None)
    fitted = trainer()
    fitted.fit(task, loader, loader)
    assert fitted.global_step == 2
    assert {name for name in fitted.callback_metrics if name.startswith("val/")} == {"val/loss", "val/accuracy"}


@works("`trainer.predict` with texts: `data.inputs`, or a `DataLoader` of them")
def _(plain: Plain) -> None:
    task, data = plain.make()
    texts: Any = ["The old cat sees.", "The red road.", "A tree"]
    rows = [task.row_of("row", text) for text in texts]
    expected = task.predict_rows(rows, 64)
    data.inputs = texts
    for source in (data, DataLoader(texts, batch_size=2)):
        assert [row for batch in trainer().predict(task, source) for row in batch] == expected


# -- callbacks and loggers -------------------------------------------------------------------------------------------


@works("`EarlyStopping` and `ModelCheckpoint` on `train/loss` and `val/*`, `save_top_k`, `save_last`")
def _(plain: Plain) -> None:
    for monitor in ("train/loss", "val/loss"):
        best = callbacks.ModelCheckpoint(plain.folder / monitor, monitor=monitor, save_top_k=2, save_last=True)
        stopping = callbacks.EarlyStopping(monitor, patience=0, min_delta=100, mode="min")
        flags: dict[str, Any] = {"val_check_interval": 2, "callbacks": [best, stopping]}
        _, fitted = plain.fit(steps=6, enable_checkpointing=True, **flags)
        assert fitted.global_step == 4
        assert math.isfinite(best.best_model_score)


@works("`LearningRateMonitor` (counts steps from 0, our `train/learning_rate` from 1)")
def _(plain: Plain) -> None:
    rows = _logged(plain, callbacks=[callbacks.LearningRateMonitor("step")], log_every_n_steps=1)
    theirs = [value for _, values in rows for name, value in values.items() if name.startswith("lr-")]
    ours = [values["train/learning_rate"] for _, values in rows if "train/learning_rate" in values]
    assert len(ours) == NUM_STEPS
    assert set(ours) <= set(theirs)


@works("`EMAWeightAveraging`")
def _(plain: Plain) -> None:
    average = callbacks.EMAWeightAveraging(decay=0.5)
    task, _ = plain.fit(callbacks=[average])
    other, _ = plain.fit()
    assert not all(map(torch.equal, task.parameters(), other.parameters()))


@works("`StochasticWeightAveraging` (its schedule moves with each step)")
def _(plain: Plain) -> None:
    average = callbacks.StochasticWeightAveraging(swa_lrs=5e-4, swa_epoch_start=1, annealing_epochs=1)
    task, fitted = plain.fit(callbacks=[average], max_epochs=2, limit_train_batches=2)
    assert fitted.global_step == 4
    assert task.training_metrics["train/learning_rate"] == 5e-4


@works(
    "`Timer`, `LambdaCallback`, `ModelSummary`, `DeviceStatsMonitor`, `ThroughputMonitor`, `OnExceptionCheckpoint`"
)
def _(plain: Plain) -> None:
    seen: list[float] = []
    finished(
        plain,
        logger=CSVLogger(plain.folder),
        log_every_n_steps=1,
        enable_checkpointing=True,
        callbacks=[
            callbacks.Timer(),
            callbacks.LambdaCallback(
                on_train_batch_end=lambda trainer, task, outputs, batch, number: seen.append(outputs["loss"].item())
            ),
            callbacks.ModelSummary(),
            callbacks.DeviceStatsMonitor(),
            callbacks.ThroughputMonitor(batch_size_fn=len),
            callbacks.OnExceptionCheckpoint(plain.folder),
        ],
    )
    assert len(seen) == NUM_STEPS


@works("`TQDMProgressBar` and `RichProgressBar`, with the training metrics")
def _(plain: Plain) -> None:
    shown: list[dict[str, Any]] = []

    class Bar(callbacks.TQDMProgressBar):
        def get_metrics(self, trainer, pl_module):
            shown.append(super().get_metrics(trainer, pl_module))
            return shown[-1]

    finished(plain, callbacks=[Bar()], enable_progress_bar=True)
    assert shown[-1]["train/loss"] > 0
    finished(plain, callbacks=[callbacks.RichProgressBar()], enable_progress_bar=True)


@works("`CSVLogger`, `WandbLogger`, `TensorBoardLogger`, several at once: each value once, at the optimiser's step")
def _(plain: Plain) -> None:
    loggers: list[Any] = [CSVLogger(plain.folder), WandbLogger(save_dir=plain.folder, mode="disabled")]
    if importlib.util.find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(plain.folder))
    finished(plain, logger=loggers)


@refused("`GradientAccumulationScheduler`", "`TrainingLength(accumulate=...)`")
def _(plain: Plain) -> None:
    plain.fit(callbacks=[callbacks.GradientAccumulationScheduler({0: 2})])


# -- tuners --------------------------------------------------------------------------------------------------------


@works("`Tuner.lr_find`, which sets `task.learning_rate`, and `LearningRateFinder`")
def _(plain: Plain) -> None:
    task, data = plain.make(trainer__max_steps=30)
    found = Tuner(trainer()).lr_find(task, data, num_training=20, min_lr=1e-5, max_lr=1e-1)
    assert len(found.results["loss"]) == 20
    assert all(map(math.isfinite, found.results["loss"]))
    assert task.learning_rate == task.optimization.optimizer.learning_rate == found.suggestion()


@works('`BatchSizeFinder(batch_arg_name="evaluation_batch_size")` in `validate`')
def _(plain: Plain) -> None:
    task, data = plain.make(data__evaluation_batch_size=2)
    finder = callbacks.BatchSizeFinder(batch_arg_name="evaluation_batch_size", max_trials=2, steps_per_trial=1)
    trainer(callbacks=[finder]).validate(task, data, verbose=False)
    assert data.evaluation_batch_size > 2


@refused("`BatchSizeFinder` and `Tuner.scale_batch_size` in `fit`", "`trainer.accumulate_grad_batches`")
def _(plain: Plain) -> None:
    Tuner(trainer()).scale_batch_size(*plain.make())


# -- task ----------------------------------------------------------------------------------------------------------


class ConstantRate(TextClassificationTask):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class TwoOptimizers(TextClassificationTask):
    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.model.encoder, self.model.classifier)]


class NoOptimizer(TextClassificationTask):
    def configure_optimizers(self):
        return None


class Plateau(TextClassificationTask):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/loss"}}


class Automatic(TextClassificationTask):
    def training_step(self, batch, batch_idx):
        [micro_batch] = batch
        loss = self.sums(micro_batch)[0] / self.counts(micro_batch)[0]
        self.log("train/loss", loss)
        return loss


@works("`configure_optimizers` of your own: an optimiser, with or without a schedule, which moves with each step")
def _(plain: Plain) -> None:
    task, fitted = plain.fit(ConstantRate)
    assert fitted.global_step == NUM_STEPS
    assert task.training_metrics["train/learning_rate"] == 0.1


@works("automatic optimisation in a subclass, then with Lightning's clipping and accumulation")
def _(plain: Plain) -> None:
    task, data = plain.make(Automatic)
    task.automatic_optimization = True
    fitted = trainer(gradient_clip_val=0.5, accumulate_grad_batches=2)
    fitted.fit(task, data)
    assert fitted.global_step == NUM_STEPS // 2


@works("`torch.compile(task)`", slow=True)
def _(plain: Plain) -> None:
    task, data = plain.make()
    fitted = trainer(max_steps=1, limit_val_batches=0)
    fitted.fit(torch.compile(task, backend="eager"), data)
    assert fitted.global_step == 1


@works("`task(input_ids, ...)`, `task(batch)`")
def _(plain: Plain) -> None:
    task, data = plain.make()
    batch = next(iter(data.val_dataloader()))
    task.eval()
    logits = task(batch["input_ids"], batch["token_type_ids"], batch["attention_mask"])
    assert torch.equal(logits, task(batch))


@refused("more than one optimiser", "groups of one optimiser")
def _(plain: Plain) -> None:
    plain.fit(TwoOptimizers)


@refused("`configure_optimizers` that returns nothing", "leave it out")
def _(plain: Plain) -> None:
    plain.fit(NoOptimizer)


@refused("`ReduceLROnPlateau`", "`on_validation_end`")
def _(plain: Plain) -> None:
    plain.fit(Plateau)


@refused("`task.model = torch.compile(task.model)`", "`torch.compile(task)`")
def _(plain: Plain) -> None:
    task, data = plain.make()
    task.model = torch.compile(task.model, backend="eager")
    trainer().fit(task, data)


@refused("a task without `optimization`", "`task.optimization`")
def _(plain: Plain) -> None:
    task, data = plain.make()
    task.optimization = None
    trainer().fit(task, data)


@refused("a data module without `length`", "`TrainingLength(max_steps=...)`")
def _(plain: Plain) -> None:
    task, data = plain.make()
    data.length = None
    trainer().fit(task, data)


@refused("`trainer.predict` with encoded batches", "raw inputs or the data module")
def _(plain: Plain) -> None:
    task, data = plain.make()
    trainer().predict(task, data.val_dataloader())


@refused("`test`, `validate` or `predict` of a split that is not set", "`data.test`")
def _(plain: Plain) -> None:
    task, data = plain.make(data__test=None)
    trainer().test(task, data)


# -- checkpoints -----------------------------------------------------------------------------------------------------


@works("`VerifiedCheckpointIO` as a plugin: checkpoints get a checksum and `load` does not warn")
def _(plain: Plain) -> None:
    _, fitted = plain.fit(plugins=[VerifiedCheckpointIO()])
    fitted.save_checkpoint(plain.folder / "a.ckpt")
    assert (plain.folder / "a.ckpt.sha256").exists()
    bert_lightning.load(plain.folder / "a.ckpt")


@works("`save_hyperparameters` of plain values in a subclass; `load_from_checkpoint` gives them back")
def _(plain: Plain) -> None:
    task, data = plain.make(WithHyperParameter)
    task.save_hyperparameters({"alpha": 3.0})
    fitted = trainer()
    fitted.fit(task, data)
    fitted.save_checkpoint(plain.folder / "a.ckpt")
    assert WithHyperParameter.load_from_checkpoint(plain.folder / "a.ckpt").alpha == 3.0


class WithHyperParameter(TextClassificationTask):
    def __init__(self, *arguments, alpha=1.0, **named):
        super().__init__(*arguments, **named)
        self.alpha = alpha


def _logged(plain: Plain, **flags: Any) -> list[tuple[int, dict[str, float]]]:
    """Train, and return the step and the values of each call of the logger."""
    rows: list[tuple[int, dict[str, float]]] = []
    logger = CSVLogger(plain.folder)
    plain.patch.setattr(logger, "log_metrics", lambda metrics, step: rows.append((step, dict(metrics))))
    plain.fit(logger=logger, **flags)
    return rows


def unmarked(text: str) -> str:
    """Return text without the marks of code."""
    return text.replace("`", "")


if __name__ == "__main__":
    for feature in FEATURES:
        print(f"| {feature.name} | {'works' if feature.use is None else f'refused: {feature.use}'} |")
