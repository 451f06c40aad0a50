"""A plain Trainer keeps to Lightning's contracts of hooks, metrics and stages."""

import re
from itertools import islice
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import grad_norm

from bert_lightning.cli import main
from bert_lightning.errors import InputError
from bert_lightning.tasks.text_classification.task import TextClassificationTask
from tests.support.plain_lightning import NUM_STEPS, trainer
from tests.support.runs import weights

PAGE = Path(__file__).parents[2] / "docs/lightning.md"
pytestmark = pytest.mark.filterwarnings("ignore")


class Hooks(Callback):
    """Notes what the hooks of a step see."""

    def __init__(self):
        self.norms, self.zeroed, self.losses, self.rates = [], [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.norms.append(float(grad_norm(pl_module, 2)["grad_2.0_norm_total"]))

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.zeroed.append(float(grad_norm(pl_module, 2)["grad_2.0_norm_total"]))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))


def test_a_plain_trainer_trains_bitwise_what_the_command_trains(any_task):
    values, run = any_task.values[any_task.name], any_task.folder / "run"
    (any_task.folder / "experiment.yaml").write_text(yaml.safe_dump(values))
    assert main(["fit", "--config", "experiment.yaml", "--run-directory", str(run), "--wandb.mode=disabled"]) == 0
    task, _ = any_task.fit()
    theirs = weights(run)
    for name, tensor in task.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


def test_hooks_see_gradients_before_and_after_clipping(plain):
    hooks = Hooks()
    task, data = plain.make(trainer__gradient_clip_val=0.01)
    trainer(callbacks=[hooks]).fit(task, data)
    assert min(hooks.norms) > 0.02
    # torch's own clipping adds 1e-6 to the norm.
    assert hooks.zeroed == pytest.approx([0.01] * NUM_STEPS, rel=1e-4)
    assert float(task.gradient_norm) == pytest.approx(hooks.norms[-1], rel=1e-4)


def test_a_clipping_of_the_users_own_replaces_ours(plain):
    class Halved(TextClassificationTask):
        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad /= 2

    hooks = Hooks()
    task, data = plain.make(Halved)
    trainer(callbacks=[hooks]).fit(task, data)
    assert hooks.zeroed == pytest.approx([norm / 2 for norm in hooks.norms], rel=1e-4)


def test_the_logged_learning_rate_is_the_one_that_the_step_used(plain):
    hooks, rows = Hooks(), []
    logger = CSVLogger(plain.folder)
    plain.patch.setattr(logger, "log_metrics", lambda metrics, step: rows.append((step, metrics)))
    plain.fit(callbacks=[hooks], logger=logger, limit_val_batches=0)
    assert [metrics["train/learning_rate"] for _, metrics in rows] == hooks.rates
    assert [step for step, _ in rows] == [1, 2, 3, 4]


def test_with_layer_decay_the_learning_rate_is_that_of_the_undecayed_group(plain):
    task, data = plain.make(parameter_groups__layer_decay=0.5, schedule__name="constant")
    fitted = trainer()
    fitted.fit(task, data)
    assert min(group["lr"] for group in fitted.optimizers[0].param_groups) < 1e-3
    assert task.training_metrics["train/learning_rate"] == 1e-3


def test_the_loss_of_the_outputs_is_the_logged_loss(plain):
    hooks = Hooks()
    task, data = plain.make(trainer__accumulate_grad_batches=2)
    trainer(callbacks=[hooks]).fit(task, data)
    assert hooks.losses[-1] == pytest.approx(task.training_metrics["train/loss"], rel=1e-6)


def test_a_loader_that_loses_a_batch_of_a_split_stops_the_evaluation(plain):
    task, data = plain.make()
    loader = data.val_dataloader()

    class Losing:
        split = loader.split

        def __iter__(self):
            return islice(iter(loader), 1)

    with pytest.raises(InputError, match=r"^val: the loader returned \d+ of \d+ sequences, so the split cannot"):
        trainer().validate(task, Losing())


def test_each_value_reaches_the_loggers_once(plain):
    rows = []
    logger = CSVLogger(plain.folder)
    plain.patch.setattr(logger, "log_metrics", lambda metrics, step: rows.append((step, metrics)))
    task, data = plain.make()
    fitted = trainer(logger=logger, val_check_interval=2)
    fitted.fit(task, data)
    fitted.validate(task, data, verbose=False)
    validated = [step for step, metrics in rows if "val/loss" in metrics]
    assert validated == [2, 4, 4]


def test_callbacks_see_the_training_loss_before_the_first_interval_ends(plain):
    seen = []

    class Look(Callback):
        def on_validation_end(self, trainer, pl_module):
            seen.append(float(trainer.callback_metrics["train/loss"]))

    hooks = Hooks()
    plain.fit(log_every_n_steps=1000, val_check_interval=2, num_sanity_val_steps=0, callbacks=[hooks, Look()])
    assert seen[0] == pytest.approx(sum(hooks.losses[:2]) / 2, rel=1e-6)


def test_a_part_of_a_split_has_the_predictions_of_its_examples_in_the_whole(any_task):
    if any_task.name == "pretraining":
        pytest.skip("its metrics are means over batches")
    task, data = any_task.make(data__evaluation_batch_size=3)
    trainer(limit_test_batches=4).test(task, data, verbose=False)
    part, predicted = task.evaluation.split, task.predictions(task.evaluation.split, task.evaluation.outputs)
    trainer().test(task, data, verbose=False)
    whole = task.predictions(task.evaluation.split, task.evaluation.outputs)
    seen = {id(example) for example in part.examples}
    numbers = [number for number, example in enumerate(data.splits["test"].examples) if id(example) in seen]
    assert 0 < len(numbers) < len(whole)
    assert predicted == [whole[number] for number in numbers]


def test_the_epochs_of_a_divided_plan_see_every_step_once(plain):
    seen = {1: [], 2: []}

    class Note(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen[trainer.max_epochs] += [batch[0]["samples"].tolist()]

    plain.fit(callbacks=[Note()])
    plain.fit(callbacks=[Note()], max_epochs=2, limit_train_batches=2)
    assert seen[1] == seen[2]


def test_overfitting_repeats_the_first_batches(plain):
    seen = []

    class Note(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(batch[0]["samples"].tolist())

    plain.fit(callbacks=[Note()], max_epochs=2, overfit_batches=2)
    assert seen[:2] == seen[2:]
    assert seen[0] != seen[1]


def test_setup_reads_a_split_once(any_task):
    task, data = any_task.make()
    labels = getattr(data, "labels", None)
    assert not data.has_split("test")
    data.setup("test")
    held = data.splits["test"] if any_task.name != "pretraining" else data.stores["test"]
    data.setup("test")
    assert held is (data.splits["test"] if any_task.name != "pretraining" else data.stores["test"])
    assert getattr(data, "labels", None) == labels
    trainer().test(task, data, verbose=False)


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_a_split_that_is_not_set_is_an_error_that_names_it(any_task, stage):
    task, data = any_task.make(data__validation=None, data__test=None)
    split = "validation" if stage == "validate" else "test"
    with pytest.raises(InputError, match=f"data.{split} is not set"):
        getattr(trainer(), stage)(task, data)


def test_data_that_was_built_to_score_does_not_train(plain):
    task, data = plain.make()
    scored = type(data)(data.settings, data.tokenizer, labels=data.labels, split="test")
    with pytest.raises(InputError, match="without `split`"):
        trainer().fit(task, scored)
    assert trainer().validate(task, scored, verbose=False) == trainer().validate(task, data, verbose=False)


def test_a_flipped_bit_in_a_checkpoint_without_a_checksum_is_found(plain):
    from bert_lightning import load
    from bert_lightning.checkpoints.errors import CheckpointError

    _, fitted = plain.fit(limit_train_batches=1, limit_val_batches=0)
    path = plain.folder / "a.ckpt"
    fitted.save_checkpoint(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="CRC-32"):
        load(path)


def test_the_page_shows_code_that_runs(plain, tables, tokenizer):
    # The experiment and the tables are those of the page about Python.
    [experiment] = re.findall(
        r"```yaml\n(.*?)```", PAGE.with_name("python.md").read_text(encoding="utf-8"), re.DOTALL
    )
    Path("topics.yaml").write_text(experiment)
    for split, source in {"train": "train", "validation": "validation", "test": "validation"}.items():
        _, *rows = tables[source].read_text(encoding="utf-8").splitlines(keepends=True)
        Path(f"{split}.tsv").write_text("text\tlabel\n" + "".join(rows), encoding="utf-8")
    tokenizer.save(Path("tokenizer"))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        quick = block.replace("200", "4").replace("max_epochs=3", "max_steps=2")
        exec(quick.replace("Trainer(max_epochs=1)", 'Trainer(max_epochs=1, accelerator="cpu", logger=False)'), {})
