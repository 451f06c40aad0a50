"""The base of all tasks: their declarations, the training step, its logging, and the content of checkpoints."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from bert_lightning.checkpoints.checkpoint import Base
from bert_lightning.checkpoints.native import ENTRY, TRAINING_MODULES
from bert_lightning.data.loading.batching import Batch
from bert_lightning.distributed.collectives import data_rank
from bert_lightning.distributed.sharded import gather, shard, shard_layers
from bert_lightning.errors import InputError
from bert_lightning.model import BertConfig
from bert_lightning.model.operations import forward_operations, training_passes
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.tasks.checkpoint_entry import described_head, described_model, described_vocabulary
from bert_lightning.tasks.compilation import compile_blocks, prepare_compiler
from bert_lightning.tasks.distributions import PredictedLosses
from bert_lightning.tasks.inference import Inference
from bert_lightning.tasks.log_interval import LogInterval, Work
from bert_lightning.tasks.logged_task import LoggedTask
from bert_lightning.tasks.norms_and_rates import LoggedNorms, learning_rates
from bert_lightning.tasks.optimization import Optimization
from bert_lightning.tasks.penalty import Penalty
from bert_lightning.tasks.step import accumulate_gradients, loss_weights
from bert_lightning.tasks.step_method import PlainStep, StepMethod, StepPart
from bert_lightning.tasks.trainer_checks import (
    LIGHTNING_LOG_INTERVAL,
    beyond_plan,
    check_flags,
    check_training,
    use_planned_length,
)
from bert_lightning.tasks.update import loss_scaler, update_weights
from bert_lightning.text.wordpiece import WordPieceTokenizer
from bert_lightning.training.finite import FiniteSteps, GradientNorms, LossSpikes, limit_gradients
from bert_lightning.training.precision import product_type
from bert_lightning.training.throughput import peak_operations


class Task(LoggedTask, PredictedLosses, Inference):
    """A model whose training losses are sums over counted items.

    Each loss of a step is a sum divided by a count, such as the number of masked tokens. Both are over all
    micro-batches of all processes, so the loss does not depend on how the batch is cut. Lightning would average over
    micro-batches instead, so this class uses Lightning's manual optimisation.

    Dropout is seeded for each micro-batch from (seed, step, share of the batch, number of the micro-batch). So a
    resumed run draws what the uninterrupted one would have drawn.

    Attributes:
        optimization: None if the task only scores and predicts.
        step_method: turns a micro-batch into gradients.
        step_parts: its parts. Their `begin_step` is called at the start of each step.
        beside_model: modules that train together with the model and that training alone needs, such as the
            projections of distillation. Checkpoints hold them, so that a run resumes. Models, exports and the digest
            of the weights do not.
        penalty: what each step adds to the gradients of the whole batch; None if there is nothing.
        training_metrics: the training metrics that were logged last.
        gradient_norm: () the global norm of the gradients of this step, before they are clipped.
        gradient_norms: the norm of each of these gradients.
        is_computing_gradients: whether a step has begun and has not changed weights yet; also true after it failed.
    """

    name: ClassVar[str]
    module: str | None = None
    """The user's module that registers the task; None for the tasks of this package."""
    monitor: str
    """The validation metric that decides which checkpoint is the best."""
    monitor_mode: str
    validation_metrics: Sequence[str]
    """The metrics that validation logs, without `val/`."""
    loss_names: Sequence[str]
    """Names of the training sums: losses first, then other sums over the same counts."""
    num_losses: int
    """How many of the training sums are losses."""
    model_methods: Sequence[str] = ()
    """Methods of the model that a step calls in place of `forward`."""

    model: PretrainedModel
    base: Base | None = None
    """The checkpoint whose tensors this task's checkpoints leave out (`tasks/delta.py`)."""

    def __init__(
        self,
        model: PretrainedModel,
        config: BertConfig,
        tokenizer: WordPieceTokenizer,
        *,
        optimization: Optimization | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.config = config
        self.tokenizer = tokenizer
        self.optimization = optimization
        self.step_method: StepMethod = PlainStep(self)
        self.step_parts: list[StepPart] = []
        self.beside_model = torch.nn.ModuleDict()
        self.penalty: Penalty | None = None
        self.training_metrics: dict[str, float] = {}
        self.gradient_norm = torch.zeros(())
        self.gradient_norms = GradientNorms([], torch.zeros(0))
        self.is_computing_gradients = False
        self._without_optimizer: list[torch.nn.Parameter] = []
        self._interval = LogInterval()
        self._finite = FiniteSteps()
        self._passes: float | None = None
        self._spikes = LossSpikes()

    # -- declarations of a task ----------------------------------------------------------------------------------

    @abstractmethod
    def counts(self, batch: Batch) -> Tensor:
        """Return (K,) the divisor of each training sum for one micro-batch; computed without the model."""

    @abstractmethod
    def sums(self, batch: Batch) -> Tensor:
        """Return (K,) each training sum of one micro-batch; the losses among them carry gradients."""

    def num_scored(self, batch: Batch) -> int:
        """Return the number of tokens of a micro-batch that are scored against the vocabulary."""
        return 0

    @property
    def loss_factors(self) -> Sequence[float]:
        """(L,) the factor on each loss in the gradient: 1."""
        return (1.0,) * self.num_losses

    def operations(self, batch: Batch, num_passes: float = 1) -> float:
        """Return the floating-point operations of `num_passes` forward and backward passes over a micro-batch."""
        return num_passes * self.operations_of(batch, self.num_scored(batch))

    def operations_of(self, batch: Batch, num_scored: int) -> float:
        """Return the operations of one forward and backward pass in which `num_scored` tokens are scored."""
        tokens, pairs = batch["num_tokens"], batch["num_token_pairs"]
        of_forward = forward_operations(self.config, tokens, pairs, batch["num_sequences"], num_scored)
        if self._passes is None:
            self._passes = training_passes(self.model.backbone)
        return of_forward * self._passes

    @property
    def task_settings(self) -> dict[str, object]:
        """Plain values that prediction needs besides the weights; checkpoints hold them."""
        return {}

    # -- training ------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Split the model over processes, if the strategy is FSDP, and let the parts of the step method see it."""
        if self.device_mesh is not None:
            blocks = list(self.model.backbone.layers)
            precision = str(self.trainer.precision)
            shard(self.model, blocks, self.model_methods, self.device_mesh, precision)
            shard_layers(self.beside_model, self.device_mesh, precision)
        for part in self.step_parts:
            part.configure()

    def compile_training(self, *, blocks_alone: bool = False) -> None:
        """Compile the computation of a training step, in place: parameters keep their names.

        Args:
            blocks_alone: compile each block by itself, and only for training (`tasks/compilation.py`).
        """
        prepare_compiler()
        if blocks_alone:
            compile_blocks(self.model.backbone.layers)
            self.model.backbone.compiles_blocks = True
        else:
            self.compile_whole()

    def compile_whole(self) -> None:
        """Compile the model, which training and validation call, for shapes of any size (`tasks/compilation.py`)."""
        self.model.compile(dynamic=True)

    def training_step(self, batch: list[Batch] | Batch, batch_idx: int) -> dict[str, Tensor]:
        """Take one optimiser step over this process's micro-batches; a single batch is one micro-batch.

        Returns:
            `loss`: the mean over the processes is the loss of the step.

        Raises:
            InputError: all planned steps are done.
        """
        optimization, step, clock = self._optimization, self.trainer.global_step, self._interval.clock
        if step >= optimization.num_steps:
            raise InputError(f"step {step + 1} is one too many: {beyond_plan(optimization.num_steps)}")
        done, every = step + 1, self._log_every_n_steps
        is_logged = done == optimization.num_steps or (every > 0 and done % every == 0)
        # The schedule moves on at the end of the step.
        optimizer, rate = self.trainer.optimizers[0], optimization.optimizer.learning_rate
        rates = learning_rates(self.model, optimizer, rate) if is_logged else {}
        micro_batches = batch if isinstance(batch, list) else [batch]
        clock.begin_step(self.device)
        self.is_computing_gradients = True
        work = self._work(micro_batches)
        for part in self.step_parts:
            part.begin_step(step, optimization.num_steps, optimization.seed)
        result = accumulate_gradients(self, optimization, self.step_method, micro_batches, work)
        self.is_computing_gradients = False
        clock.begin_optimizer()
        for parameter in self._without_optimizer:
            parameter.grad = None
        losses = result.sums[: self.step_method.num_losses]
        finite = update_weights(self, optimization, self._finite, losses, result.sums, micro_batches)
        clock.end_step()
        self._interval.add(*result.only_if(finite), result.work)
        if is_logged:
            self._log_interval(done, rates)
        return {"loss": result.loss.detach()}

    @property
    def _log_every_n_steps(self) -> int:
        """The length of the log interval: the Trainer's, unless that is Lightning's default."""
        given: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return given if given != LIGHTNING_LOG_INTERVAL else self._optimization.log_every_n_steps

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Scale the gradients so that their global norm is at most `gradient_clip_val`.

        Lightning's own clipping would not see the slices of other processes.
        """
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        limit_gradients(parameters, self.gradient_norm, gradient_clip_val)

    def configure_optimizers(self) -> Any:
        """Build the optimiser over its parameter groups, and its schedule as a function of the step."""
        optimizer, scheduler = self._optimization.build(self.model, self.beside_model)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def trained_parameters(self) -> Iterator[torch.nn.Parameter]:
        """Yield the parameters of the model and of the modules beside it."""
        yield from self.model.parameters()
        yield from self.beside_model.parameters()

    @property
    def _optimization(self) -> Optimization:
        if self.optimization is None:
            raise InputError(
                "this task was built to score and predict: to train it, set task.optimization = Optimization("
                "optimizer, schedule, num_steps) of bert_lightning.tasks"
            )
        return self.optimization

    @property
    def learning_rate(self) -> float:
        """The optimiser's learning rate, which Lightning's `lr_find` reads and sets."""
        if self.optimization is None:
            raise AttributeError("a task without optimization has no learning rate")
        return self.optimization.optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        settings: Any = self._optimization.optimizer
        self.optimization = replace(self._optimization, optimizer=replace(settings, learning_rate=value))

    # -- hooks of Lightning --------------------------------------------------------------------------------------

    @property
    def trainer(self) -> Trainer:
        """The Trainer that runs the task."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        # Lightning attaches the Trainer before it replaces a missing length, and calls no hook in between.
        if isinstance(trainer, Trainer) and not self.automatic_optimization:
            use_planned_length(trainer)
        LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]

    def configure_callbacks(self) -> list[Callback]:
        """Refuse flags of the Trainer that the task cannot follow; Lightning calls this before its own checks."""
        check_flags(self, self.trainer)
        return []

    def on_train_start(self) -> None:
        self.is_computing_gradients = False
        if not self.automatic_optimization:
            self._without_optimizer = check_training(self, self._optimization)
        self._finite.folder = Path(self.trainer.default_root_dir)
        self._finite.skips = self._optimization.non_finite == "skip"
        # What trains may have changed since the last training. Counting it in each step would take too long.
        self._passes = None
        share, names = data_rank(self.trainer), self.step_method.loss_names
        self._interval.start(share, self.device, self._find_peak, names)

    def on_train_batch_end(self, *_: object) -> None:
        self._interval.clock.begin_waiting()

    def on_validation_start(self) -> None:
        self._show_open_interval()
        self._interval.pause()
        gather(self.model, gathered=True)

    def on_validation_end(self) -> None:
        if self.trainer.state.fn == "fit":
            gather(self.model, gathered=False)
        self._interval.resume()

    def on_test_start(self) -> None:
        gather(self.model, gathered=True)

    def on_predict_start(self) -> None:
        gather(self.model, gathered=True)

    def on_train_epoch_end(self) -> None:
        self._show_open_interval()

    def on_fit_end(self) -> None:
        # The first process alone writes predictions, which may need parameters, such as those of a CRF.
        gather(self.model, gathered=True)

    # -- logging -------------------------------------------------------------------------------------------------

    def _find_peak(self, seconds: float) -> float:
        """Return the FLOP/s that all devices together reach at most, given the seconds since the last call."""
        precision = product_type(str(self.trainer.precision))
        widths = self.config.hidden_size, self.config.intermediate_size
        return peak_operations(self.device, precision, *widths, seconds) * self.trainer.world_size

    def _work(self, batches: Sequence[Batch]) -> Work:
        operations = sum(self.step_method.operations(batch) for batch in batches)
        parts = [part for batch in batches for part in (batch, batch.get("unlabelled")) if part is not None]
        num_tokens = sum(each["num_tokens"] for each in parts)
        return Work(num_tokens, sum(each["num_sequences"] for each in parts), operations)

    def _log_interval(self, step: int, rates: Mapping[str, float]) -> None:
        """Log the log interval that ends with a step: means and speed, learning rates and norms of that step."""
        # Computed before the first value is read, so that the device is waited for once.
        norms = LoggedNorms(self.model, self.gradient_norms, self._optimization.log_norms)
        self._finite.read()
        values = self._interval.finish(data_rank(self.trainer).num_shares, self.device)
        logged = self._named_means(values.means)
        logged |= {**rates, **norms.read()}
        if self.penalty is not None:
            logged["train/penalty"] = float(self.penalty.value())
        self._spikes.add(step, logged["train/loss"])
        if (scaler := loss_scaler(self)) is not None:
            logged["train/loss_scale"] = scaler.get_scale()
        if self._finite.num_skipped:
            logged["train/skipped_steps"] = self._finite.num_skipped
        self.training_metrics = logged | values.throughput
        self.show(self.training_metrics)
        self.metrics_to_loggers(self.training_metrics, step)

    def _named_means(self, means: Sequence[float]) -> dict[str, float]:
        """Return the training metrics, given the (K,) means of the training sums."""
        named = {f"train/{name}": mean for name, mean in zip(self.step_method.loss_names, means, strict=True)}
        weights = loss_weights(self, self._optimization)
        named["train/loss"] = sum(mean * weight for mean, weight in zip(means, weights, strict=False))
        return named

    def _show_open_interval(self) -> None:
        """Show the means of the open log interval to callbacks if none has ended yet; called by all processes."""
        trainer = self.trainer
        if (
            trainer.state.fn != TrainerFn.FITTING
            or trainer.sanity_checking
            or "train/loss" in trainer.callback_metrics
        ):
            return
        means = self._interval.open_means(data_rank(self.trainer).num_shares)
        if means is not None:
            self.show(self._named_means(means))

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the entry that makes the file usable without its run, and the state of the open log interval."""
        checkpoint[ENTRY] = self.checkpoint_entry()
        # `read` counts the steps that the device has skipped.
        self._finite.read()
        checkpoint |= self._spikes.state() | self._finite.state()
        checkpoint |= self._interval.state(data_rank(self.trainer).num_shares)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue the log interval that was open. Modules beside the model are left out if this task has none."""
        state = checkpoint.get("state_dict", {})
        for name in [] if self.beside_model else [name for name in state if name.startswith("beside_model.")]:
            del state[name]
        self._spikes.load_state(checkpoint)
        self._finite.load_state(checkpoint)
        self._interval.load_state(checkpoint)

    def checkpoint_entry(self) -> dict[str, object]:
        """Return the plain values that make a checkpoint usable without its run."""
        modules = [name for part in self.step_parts for name in part.modules]
        return {
            "task": self.name,
            **({} if self.module is None else {"module": self.module}),
            **described_model(self.model, self.config),
            **described_vocabulary(self.tokenizer.vocabulary),
            "task_settings": {**described_head(self.model), **self.task_settings},
            "optimizer": self.optimization.optimizer_name if self.optimization is not None else None,
            **({} if self.base is None else {"base": asdict(self.base)}),
            **({TRAINING_MODULES: modules} if modules else {}),
        }
