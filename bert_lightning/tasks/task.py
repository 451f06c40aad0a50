"""What every task shares: one optimiser step over micro-batches, its logging, and what a checkpoint carries."""

import time
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor

from bert_lightning.checkpoints.native import ENTRY
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.randomness import derive_key
from bert_lightning.data.reading.tables import Row
from bert_lightning.distributed.sharded import gather, shard
from bert_lightning.distributed.tensor_parallel import data_rank
from bert_lightning.model import BertConfig
from bert_lightning.model.operations import training_operations
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.optim.freezing import drop_gradients
from bert_lightning.optim.optimizers import OptimizerSettings
from bert_lightning.optim.parameter_groups import ParameterGroupSettings, parameter_groups
from bert_lightning.optim.schedules import Schedule
from bert_lightning.text.wordpiece import WordPieceTokenizer
from bert_lightning.training.finite import FiniteSteps, LossSpikes, clip_gradients
from bert_lightning.training.throughput import StepClock, peak_memory, peak_operations


@dataclass(frozen=True)
class Optimization:
    """All that one optimiser step needs to know.

    Attributes:
        optimizer: the optimiser's settings.
        schedule: the factor on its learning rate.
        num_steps: length of the whole training.
        gradient_clip_val: largest global norm of the gradients, or None.
        seed: of dropout.
        non_finite: what becomes of a step whose loss or gradients are not finite: training stops, or goes on without.
        log_every_n_steps: training metrics are averaged over so many steps.
        loss_weights: factor on each loss by name; 1 where none is given, as published.
        parameter_groups: rates and weight decay by parameter.
        releases: the first step at which a parameter moves, by its name in the model; 0 where none is given.
    """

    optimizer: OptimizerSettings
    schedule: Schedule
    num_steps: int
    gradient_clip_val: float | None
    seed: int
    log_every_n_steps: int
    non_finite: Literal["stop", "skip"] = "stop"
    loss_weights: dict[str, float] = field(default_factory=dict)
    parameter_groups: ParameterGroupSettings = field(default_factory=ParameterGroupSettings)
    releases: dict[str, int] = field(default_factory=dict)


class Task(LightningModule):
    """A model with losses that are sums over counted things.

    The loss of a step is, for each of the task's losses, its sum over all micro-batches of all ranks divided by the
    count over all of them (masked tokens, say), so it does not depend on how the batch is split up. Optimisation is
    manual in Lightning's sense because Lightning averages over micro-batches.

    Dropout is seeded anew for each micro-batch from (seed, step, rank, number): a resumed run draws what the
    uninterrupted one would have.

    Attributes:
        optimization: None if the task only scores and predicts.
        training_metrics: what was logged last.
    """

    name: ClassVar[str]
    monitor: str
    """The validation metric that decides which checkpoint is the best."""
    monitor_mode: str
    shown: Sequence[tuple[str, str, str]]
    """Metrics in the progress bar: name, label, format."""
    validation_metrics: Sequence[str]
    """What validation logs, without `val/`."""
    loss_names: Sequence[str]
    """Names of the training sums: losses first, then other sums over the same counts."""
    num_losses: int
    """How many of them are losses."""

    model: PretrainedModel

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
        self.training_metrics: dict[str, float] = {}
        self._clock = StepClock()
        self._finite = FiniteSteps()
        self._spikes = LossSpikes()
        self._peak = float("inf")
        self._reset_window()

    # -- what a task says of itself ------------------------------------------------------------------------------

    @abstractmethod
    def counts(self, batch: Batch) -> Tensor:
        """(K,) what each training sum is divided by, for one micro-batch; known without the model."""

    @abstractmethod
    def sums(self, batch: Batch) -> Tensor:
        """(K,) each training sum of one micro-batch; the losses among them carry gradients."""

    def num_scored(self, batch: Batch) -> int:
        """Tokens of a micro-batch that are scored against the vocabulary."""
        return 0

    @property
    def task_settings(self) -> dict[str, Any]:
        """Plain values that a checkpoint needs beside the weights to predict."""
        return {}

    @abstractmethod
    def predict_rows(self, rows: list[Row], batch_size: int) -> list[dict[str, Any]]:
        """Raw input to predictions, one a row.

        Raises:
            InputError: a row lacks what the model needs; the message names its location.
        """

    # -- training ------------------------------------------------------------------------------------------------

    model_methods: Sequence[str] = ()
    """Methods of the model that a step calls in place of `forward`."""

    def configure_model(self) -> None:
        """Share the model out over processes, where the strategy is the one that does."""
        if self.device_mesh is not None:
            blocks = self.model.backbone.layers
            shard(self.model, blocks, self.model_methods, self.device_mesh, str(self.trainer.precision))

    def compile_training(self, *, blocks_alone: bool = False) -> None:
        """Compile what training computes, in place: parameters keep their names.

        Dynamic from the start: otherwise the kernels, and so the last bits, depend on which shapes came first.

        Args:
            blocks_alone: each by itself, inside of what gathers its parameters where processes share them.
        """
        if blocks_alone:
            for block in self.model.backbone.layers:
                block.forward = torch.compile(block.forward, dynamic=True)
        else:
            self.compile_whole()

    def compile_whole(self) -> None:
        """Compile the model, which is what training and validation call."""
        self.model.compile(dynamic=True)

    def training_step(self, micro_batches: list[Batch], batch_idx: int) -> None:
        """One optimiser step over this rank's micro-batches."""
        optimization = self._optimization
        step = self.trainer.global_step
        self._clock.begin_step(self.device)
        counts = torch.stack([self.counts(batch) for batch in micro_batches]).sum(0).float().to(self.device)
        local_counts = counts
        counts = self._summed_over_ranks(counts)
        divisors = counts[: self.num_losses].clamp(min=1)
        weights = torch.tensor(self._loss_weights, device=self.device)
        totals = torch.zeros_like(counts)
        rank, num_shares = data_rank(self.trainer)
        for number, batch in enumerate(micro_batches):
            seed = derive_key(optimization.seed, "dropout", step, rank, number)
            torch.manual_seed(seed)
            is_last = number == len(micro_batches) - 1
            with nullcontext() if is_last else self._without_gradient_exchange():
                sums = self.sums(batch)
                # Gradients are averaged over ranks, hence the factor.
                self.manual_backward((sums[: self.num_losses] / divisors * weights).sum() * num_shares)
            totals += sums.detach()
        self._clock.begin_optimizer()
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        drop_gradients(self.model, optimization.releases, step)
        scaler = self._scaler
        if scaler is not None:
            scaler.unscale_(optimizer.optimizer)
        norm = clip_gradients(self.model.parameters(), optimization.gradient_clip_val)
        finite = self._on_all_ranks(norm.isfinite() & totals.isfinite().all())
        losses = totals[: self.num_losses]
        if scaler is not None and self._overflows(scaler, finite, losses):
            optimizer.zero_grad()
        elif not self._finite.admits(step + 1, finite, losses, optimizer.optimizer, micro_batches, self.model):
            # A step without gradients moves nothing, but counts.
            optimizer.zero_grad()
        totals, local_counts = (torch.where(finite, each, 0) for each in (totals, local_counts))
        optimizer.step()
        optimizer.zero_grad()
        scheduler = self.lr_schedulers()
        assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
        scheduler.step()
        self._clock.end_step()
        learning_rate = optimization.optimizer.learning_rate * optimization.schedule.factor(
            step, optimization.num_steps
        )
        self._log_training(step + 1, totals, local_counts, micro_batches, learning_rate)

    @property
    def _scaler(self) -> torch.amp.GradScaler | None:
        """What scales the loss, with 16-mixed."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def _overflows(self, scaler: torch.amp.GradScaler, finite: Tensor, losses: Tensor) -> bool:
        """Whether gradients are not finite for being scaled too much, which halves the scale.

        It begins too high and is doubled every so often, so this step is left out and nothing is wrong. With a scale
        below 1, or where the loss itself is not finite, the scale is not to blame.
        """
        scale = scaler.get_scale()
        scaler.update()
        return not finite and scale >= 1 and bool(self._on_all_ranks(losses.isfinite().all()))

    def _without_gradient_exchange(self) -> Any:
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()

    def _summed_over_ranks(self, values: Tensor) -> Tensor:
        """The sum over all shares of a batch, each of which counts once."""
        if self.trainer.world_size == 1:
            return values
        values = values.clone() if self.global_rank % self._ranks_a_share == 0 else torch.zeros_like(values)
        torch.distributed.all_reduce(values)
        return values

    def _of_all_ranks(self, values: Tensor) -> Tensor:
        """(R, ...) the values of every share of a batch."""
        if self.trainer.world_size == 1:
            return values[None]
        gathered = [torch.empty_like(values) for _ in range(self.trainer.world_size)]
        torch.distributed.all_gather(gathered, values)
        return torch.stack(gathered[:: self._ranks_a_share])

    @property
    def _ranks_a_share(self) -> int:
        """Processes that compute the same share of a batch."""
        return self.trainer.world_size // data_rank(self.trainer)[1]

    def _on_all_ranks(self, holds: Tensor) -> Tensor:
        """() bool: whether it holds on every rank."""
        if self.trainer.world_size == 1:
            return holds
        every = holds.float()
        torch.distributed.all_reduce(every, op=torch.distributed.ReduceOp.MIN)
        return every > 0

    def configure_optimizers(self) -> Any:
        """The configured optimiser over its groups, and its schedule as a function of the step."""
        optimization = self._optimization
        settings, schedule = optimization.optimizer, optimization.schedule
        groups = parameter_groups(
            self.model,
            self.model.depths(),
            settings.learning_rate,
            settings.weight_decay,
            optimization.parameter_groups,
            self.model.hidden_matrices() if settings.matrices_apart else None,
        )
        optimizer = settings.build(groups)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: schedule.factor(step, optimization.num_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    @property
    def _loss_weights(self) -> list[float]:
        """The factor on each loss."""
        given = self._optimization.loss_weights
        return [given.get(name, 1.0) for name in self.loss_names[: self.num_losses]]

    @property
    def _optimization(self) -> Optimization:
        assert self.optimization is not None, "this task was built without an optimisation, to score and predict"
        return self.optimization

    # -- logging -------------------------------------------------------------------------------------------------

    def _reset_window(self) -> None:
        self._window: Tensor | None = None
        self._seconds_before = 0.0
        self._window_started = time.perf_counter()

    def on_train_start(self) -> None:
        """The clock of the first window starts here."""
        self._peak = self._find_peak()
        self._finite.folder = Path(self.trainer.default_root_dir)
        self._finite.skips = self._optimization.non_finite == "skip"
        self._window_started = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        """What comes now is waiting for data."""
        self._clock.begin_waiting()

    def on_validation_start(self) -> None:
        """Validation does not count as training time."""
        self._clock.forget_waiting()
        gather(self.model, gathered=True)
        self._validation_started = time.perf_counter()

    def on_validation_end(self) -> None:
        """Validation does not count as training time."""
        if self.trainer.state.fn == "fit":
            gather(self.model, gathered=False)
        self._window_started += time.perf_counter() - self._validation_started

    def on_test_start(self) -> None:
        """As in validation."""
        gather(self.model, gathered=True)

    def on_fit_end(self) -> None:
        """The first process alone writes predictions, which may need parameters (of a CRF)."""
        gather(self.model, gathered=True)

    def _find_peak(self) -> float:
        """Operations a second that all devices together reach at most."""
        types = {"bf16": torch.bfloat16, "16": torch.float16}
        precision = types.get(str(self.trainer.precision).split("-")[0], torch.float32)
        peak = peak_operations(self.device, precision, self.config.hidden_size, self.config.intermediate_size)
        return peak * self.trainer.world_size

    def _operations(self, batch: Batch) -> float:
        return training_operations(
            self.config, batch["num_tokens"], batch["num_token_pairs"], batch["num_sequences"], self.num_scored(batch)
        )

    def _window_seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._window_started

    def _log_training(
        self, step: int, totals: Tensor, counts: Tensor, batches: list[Batch], learning_rate: float
    ) -> None:
        """Gather sums, counts and work; every `log_every_n_steps` log their means over ranks and steps."""
        work = [
            float(sum(batch["num_tokens"] for batch in batches)),
            float(sum(batch["num_sequences"] for batch in batches)),
            sum(self._operations(batch) for batch in batches),
        ]
        row = torch.cat([totals, counts, torch.tensor(work, dtype=totals.dtype, device=totals.device)])
        self._window = row if self._window is None else self._window + row
        if step % self._optimization.log_every_n_steps and step != self._optimization.num_steps:
            return
        self._finite.read()
        window = self._summed_over_ranks(self._window).tolist()
        seconds = self._window_seconds()
        num_sums = len(self.loss_names)
        means = [window[k] / max(window[num_sums + k], 1) for k in range(num_sums)]
        logged = {f"train/{name}": mean for name, mean in zip(self.loss_names, means, strict=True)}
        logged["train/loss"] = sum(m * w for m, w in zip(means, self._loss_weights, strict=False))
        logged["train/learning_rate"] = learning_rate
        self._spikes.add(step, logged["train/loss"])
        if self._scaler is not None:
            logged["train/loss_scale"] = self._scaler.get_scale()
        if self._finite.num_skipped:
            logged["train/skipped_steps"] = self._finite.num_skipped
        tokens, sequences, operations = window[-3:]
        logged |= self._throughput(tokens, sequences, operations, seconds)
        self._reset_window()
        self.training_metrics = logged
        self._metrics_to_loggers(logged, step)

    def _throughput(self, tokens: float, sequences: float, operations: float, seconds: float) -> dict[str, float]:
        """Of the window, over all ranks; the phases are this rank's."""
        speed = {
            "train/tokens_per_second": tokens / seconds,
            "train/sequences_per_second": sequences / seconds,
            "train/mfu": operations / seconds / self._peak,
            "train/peak_memory_gb": peak_memory(self.device) / 1e9,
        }
        # Of what this session of the run timed itself.
        own = max(time.perf_counter() - self._window_started, 1e-9)
        return speed | {f"train/{phase}_share": min(took / own, 1.0) for phase, took in self._clock.read().items()}

    def log_split(self, values: dict[str, Tensor]) -> None:
        """Log the scores of a whole split, already reduced over ranks, at the current step."""
        self.log_dict(values, logger=False)
        self._metrics_to_loggers({name: float(value) for name, value in values.items()}, self.trainer.global_step)

    def _metrics_to_loggers(self, metrics: dict[str, float], step: int) -> None:
        # Straight to the loggers: what `self.log` hands on carries a step of Lightning's own counting.
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics, step)

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what makes the file usable alone, and the sums of the log window that is open."""
        checkpoint[ENTRY] = self.checkpoint_entry()
        self._finite.read()
        window = self._window
        checkpoint["loss_windows"] = list(self._spikes.windows)
        checkpoint["skipped_steps"] = self._finite.num_skipped
        checkpoint["skipped_in_a_row"] = self._finite.num_in_a_row
        checkpoint["log_window"] = None if window is None else self._of_all_ranks(window).cpu()
        checkpoint["log_window_seconds"] = self._window_seconds()

    def checkpoint_entry(self) -> dict[str, Any]:
        """Plain values that make a checkpoint usable without its run."""
        vocabulary = self.tokenizer.vocabulary
        return {
            "task": self.name,
            "architecture": self.model.architecture,
            "config": self.config.to_dict(),
            "vocabulary": "\n".join(vocabulary.entries),
            "lowercase": vocabulary.lowercase,
            "strip_accents": vocabulary.strip_accents,
            "tokenize_chinese_chars": vocabulary.tokenize_chinese_chars,
            "special_tokens": list(vocabulary.special_tokens),
            "task_settings": self.task_settings,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the open log window: each rank with its own sums, or the first with all where ranks changed."""
        window = checkpoint["log_window"]
        self._spikes.windows.extend(checkpoint.get("loss_windows", ()))
        self._finite.num_skipped = checkpoint.get("skipped_steps", 0)
        self._finite.num_in_a_row = checkpoint.get("skipped_in_a_row", 0)
        self._window = None
        self._seconds_before = checkpoint["log_window_seconds"]
        if window is not None:
            # Before there was a row for each rank, it held the sum of all.
            window = window if window.ndim == 2 else window[None]
            rank, num_shares = data_rank(self.trainer)
            if len(window) == num_shares:
                self._window = window[rank].to(self.device)
            else:
                self._window = (window.sum(0) if rank == 0 else torch.zeros_like(window[0])).to(self.device)
