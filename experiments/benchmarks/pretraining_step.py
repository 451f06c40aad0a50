"""Benchmark of a pre-training step: ours, transformers' `BertForPreTraining`, and the best matrix product.

A step is forward, loss, backward, clipping and optimiser step on the same batches, with dropout 0.1 and 15 % of the
tokens masked. Ours is what `fit` runs, including Lightning's loop. Theirs is a bare loop with SDPA. Contenders take
turns within one run.

    python experiments/benchmarks/pretraining_step.py --size base --batch-size 16 --sequence-length 128

With `--limit` it ends after about so many seconds. It first measures the contenders that are not compiled and writes
their figures, then measures all together. No round begins when the time is up.
"""

import argparse
import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from lightning import Callback, Trainer
from measuring import in_turn, machine, spread, synchronize, write_json
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.data.loading.batching import Batch, to_batch, to_packed_batch
from bert_lightning.model import BertConfig, BertForPreTraining
from bert_lightning.model.operations import training_operations
from bert_lightning.optim.optimizers import AdamW
from bert_lightning.optim.schedules import Constant
from bert_lightning.runs.trainer import quiet
from bert_lightning.tasks.pretraining.task import PretrainingTask
from bert_lightning.tasks.task import Optimization
from bert_lightning.text.wordpiece import SPECIAL_TOKENS, WordPieceTokenizer
from bert_lightning.training.throughput import best_product

VOCAB_SIZE = 30522
MASKED_SHARE = 0.15
# Share of shorter sequences, as in the published data: `create_pretraining_data.py --short_seq_prob`.
SHORT_SHARE = 0.1
NUM_BATCHES = 8


class Sequences:
    """Sequences of one batch, before they are laid out for a contender."""

    def __init__(
        self, lengths: NDArray[np.int64], generator: np.random.Generator, vocab_size: int = VOCAB_SIZE
    ) -> None:
        self.lengths = lengths
        width = int(lengths.max())
        self.real = np.arange(width)[None, :] < lengths[:, None]
        self.input_ids = np.where(self.real, generator.integers(5, vocab_size, self.real.shape), 0)
        self.token_type_ids = (self.real & (np.arange(width)[None, :] >= lengths[:, None] // 2)).astype(np.int64)
        self.masked = self.real & (generator.random(self.real.shape) < MASKED_SHARE)
        self.labels = self.input_ids[self.masked]
        self.next_sentence = generator.integers(0, 2, len(lengths))

    def ours(self, packed: bool) -> Batch:
        """Return the micro-batch as our data modules lay it out."""
        labels = {"masked_labels": self.labels, "sentence_labels": self.next_sentence}
        if packed:
            positions = np.flatnonzero(self.masked[self.real])
            return to_packed_batch(
                self.input_ids, self.token_type_ids, self.lengths, masked_positions=positions, **labels
            )
        positions = np.flatnonzero(self.masked)
        return to_batch(self.input_ids, self.token_type_ids, self.lengths, masked_positions=positions, **labels)

    def theirs(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Return the inputs of transformers."""
        arrays = {
            "input_ids": self.input_ids,
            "token_type_ids": self.token_type_ids,
            "attention_mask": self.real.astype(np.int64),
            "labels": np.where(self.masked, self.input_ids, -100),
            "next_sentence_label": self.next_sentence,
        }
        return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def sequences(options: argparse.Namespace) -> list[Sequences]:
    """Return the batches of all contenders, drawn from a fixed seed."""
    generator = np.random.default_rng(0)
    longest, batches = options.sequence_length, []
    for _ in range(NUM_BATCHES):
        if options.mean_length is None:
            lengths = np.full(options.batch_size, longest)
            short = generator.random(options.batch_size) < SHORT_SHARE
            lengths[short] = generator.integers(8, longest + 1, int(short.sum()))
        else:
            # Draw evenly around the mean, as widely as the longest length allows.
            reach = min(options.mean_length - 8, longest - options.mean_length)
            lengths = generator.integers(
                options.mean_length - reach, options.mean_length + reach + 1, options.batch_size
            )
        batches.append(Sequences(lengths, generator))
    return batches


class StepTimes(Callback):
    """Callback that collects the seconds of each step except the first, from end to end."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.before: float | None = None

    def on_train_batch_end(self, *arguments: object) -> None:
        synchronize(self.device)
        now = time.perf_counter()
        if self.before is not None:
            self.seconds.append(now - self.before)
        self.before = now


def task_of(
    config: BertConfig, sequence_length: int, learning_rate: float, log_every_n_steps: int
) -> PretrainingTask:
    """Return our task with a model drawn from a fixed seed, and a constant learning rate."""
    torch.manual_seed(0)
    vocabulary = Vocabulary(SPECIAL_TOKENS)
    optimizer: Any = AdamW(learning_rate=learning_rate)
    return PretrainingTask(
        BertForPreTraining(config),
        config,
        WordPieceTokenizer(vocabulary),
        sequence_length,
        optimization=Optimization(optimizer, Constant(), 10**6, 1.0, 0, log_every_n_steps),
    )


def train(task: PretrainingTask, batches: list[Batch], device: str, precision: Any, callback: Callback) -> None:
    """Train one step per batch in Lightning's loop."""
    trainer = Trainer(
        accelerator=device,
        devices=1,
        precision=precision,
        max_steps=len(batches),
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    micro_batches: Any = [[batch] for batch in batches]
    trainer.fit(task, train_dataloaders=DataLoader(micro_batches, batch_size=None, collate_fn=lambda batch: batch))


def ours(
    config: BertConfig, batches: list[Batch], options: argparse.Namespace, *, compiled: bool
) -> Callable[[], list[float]]:
    """Return a contender that trains our task in Lightning's loop."""
    task = task_of(config, options.sequence_length, 1e-4, 10**6)
    if compiled:
        task.compile_training()
    stream = itertools.cycle(batches)

    def run() -> list[float]:
        times = StepTimes(torch.device(options.device))
        train(task, list(itertools.islice(stream, options.steps + 1)), options.device, options.precision, times)
        return times.seconds

    return run


def theirs(
    config: BertConfig, batches: list[Sequences], options: argparse.Namespace, *, fused: bool, compiled: bool
) -> Callable[[], list[float]]:
    """Return a contender that trains transformers' model in a bare loop."""
    device = torch.device(options.device)
    torch.manual_seed(0)
    model: Any = transformers.BertForPreTraining._from_config(
        transformers.BertConfig(**{k: v for k, v in config.to_dict().items() if k in SHARED}),
        attn_implementation="sdpa",
    )
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, eps=1e-6, weight_decay=0.01, fused=fused or None)
    call = torch.compile(model) if compiled else model
    stream: Iterator[dict[str, torch.Tensor]] = itertools.cycle([batch.theirs(device) for batch in batches])
    autocast = options.precision == "bf16-mixed"

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            loss = call(**next(stream)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def run() -> list[float]:
        seconds = []
        for number in range(options.steps + 1):
            synchronize(device)
            began = time.perf_counter()
            step()
            synchronize(device)
            if number:
                seconds.append(time.perf_counter() - began)
        return seconds

    return run


SHARED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
)


def contenders_of(
    config: BertConfig, batches: list[Sequences], options: argparse.Namespace, names: Sequence[str]
) -> dict[str, Callable[[], list[float]]]:
    """Return the contenders with the given names."""
    packed = options.device == "cuda"
    laid_out = [batch.ours(packed) for batch in batches]
    every: dict[str, Callable[[], Callable[[], list[float]]]] = {
        "ours": lambda: ours(config, laid_out, options, compiled=False),
        "ours_compiled": lambda: ours(config, laid_out, options, compiled=True),
        "transformers": lambda: theirs(config, batches, options, fused=False, compiled=False),
        "transformers_fused": lambda: theirs(config, batches, options, fused=True, compiled=False),
        "transformers_compiled": lambda: theirs(config, batches, options, fused=True, compiled=True),
    }
    return {name: every[name]() for name in names}


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="mini", help="tiny, mini, small, medium, base or large")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--mean-length", type=int, help="draw lengths evenly around this mean")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="bf16-mixed", choices=("32", "bf16-mixed"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="timed steps per round, after one that is not timed")
    names = ("ours", "ours_compiled", "transformers", "transformers_fused", "transformers_compiled")
    parser.add_argument("--contenders", nargs="+", default=list(names), choices=names)
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="time after which no round begins")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args()


def main() -> None:
    """Measure and print the figures."""
    began = time.perf_counter()
    options = parse()
    quiet()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    device = torch.device(options.device)
    config = BertConfig.preset(options.size, vocab_size=VOCAB_SIZE)
    batches = sequences(options)
    lengths = np.concatenate([batch.lengths for batch in batches])
    num_masked = sum(len(batch.labels) for batch in batches)
    operations = training_operations(
        config, int(lengths.sum()), int((lengths**2).sum()), len(lengths), num_masked
    ) / len(batches)
    tokens = float(lengths.sum()) / len(batches)
    print(
        f"{options.size} (L{config.num_hidden_layers} H{config.hidden_size}), {options.batch_size} x "
        f"{options.sequence_length}, mean length {lengths.mean():.0f}, {options.precision} on {options.device}: "
        f"{tokens:,.0f} real tokens and {operations / 1e9:,.0f} G operations per step"
    )
    num_tokens, hidden, inner = int(tokens), config.hidden_size, config.intermediate_size
    shapes = [(num_tokens, hidden, 3 * hidden), (num_tokens, hidden, inner), (num_tokens, inner, hidden)]
    shapes.append((num_masked // len(batches), hidden, VOCAB_SIZE))
    dtype = torch.bfloat16 if options.precision == "bf16-mixed" else torch.float32
    ceiling = best_product(shapes, dtype, device, repeats=7)
    until = float("inf") if options.limit is None else began + options.limit
    contenders: dict[str, Callable[[], Sequence[float]]] = {}
    for names in groups(options):
        fresh = [name for name in names if name not in contenders]
        contenders |= contenders_of(config, batches, options, fresh)
        for name in fresh:
            # The first call compiles and allocates memory, so it is not timed.
            contenders[name]()
        seconds = in_turn(contenders, options.rounds, until)
        ceiling = max(ceiling, best_product(shapes, dtype, device, repeats=7))
        speeds = {name: spread([tokens / each for each in times]) for name, times in seconds.items()}
        report(options, speeds, operations / tokens, ceiling)


def groups(options: argparse.Namespace) -> list[list[str]]:
    """Return the groups of contenders that take turns. With a limit, those that are not compiled come first."""
    every: list[str] = options.contenders
    plain = [name for name in every if not name.endswith("compiled")]
    return [plain, every] if options.limit is not None and 0 < len(plain) < len(every) else [every]


def report(
    options: argparse.Namespace, speeds: dict[str, dict[str, float]], operations_per_token: float, ceiling: float
) -> None:
    """Print the table and write the JSON file."""
    medians = {name: speed["median"] for name, speed in speeds.items()}
    mine = {name: value for name, value in medians.items() if name.startswith("ours")}
    others = {name: value for name, value in medians.items() if not name.startswith("ours")}
    best = max(mine.values(), default=float("nan"))
    print(f"\n{'':24}{'tokens/s':>10}{'middle half':>20}{'ours faster by':>16}{'of the ceiling':>16}")
    for name, speed in speeds.items():
        share = speed["median"] * operations_per_token / ceiling
        print(
            f"{name:24}{speed['median']:10,.0f}{speed['low']:10,.0f}-{speed['high']:9,.0f}"
            f"{best / speed['median']:15.2f}x{share:15.1%}"
        )
    at = machine()
    # These are still to come. If time runs out before, they are missing in the results.
    missing = [name for name in options.contenders if name not in speeds]
    print(f"ceiling: {ceiling / 1e9:,.0f} G operations per second; {at['processor']}, {at['gpu'] or 'no GPU'}")
    ratios = {name: best / value for name, value in others.items()}
    if others:
        ratios["transformers_best"] = best / max(others.values())
    content = {
        "contenders": {
            name: {"tokens_per_second": speed["median"], "spread": [speed["low"], speed["high"]], "num": speed["num"]}
            for name, speed in speeds.items()
        },
        "missing": missing,
        "ratios": ratios,
        "ceiling": ceiling,
        "ceiling_share": best * operations_per_token / ceiling,
        "settings": {k: v for k, v in vars(options).items() if k != "json"},
    }
    write_json(options.json, content)


if __name__ == "__main__":
    main()
