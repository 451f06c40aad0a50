"""Benchmark of pre-training: `fit`, our bare step, transformers' `BertForPreTraining`, and the best matrix product.

Every contender draws the same fresh batches, one per step, as `fit` does; only `ours_repeated` repeats two. A step is
forward, loss, backward, clipping and optimiser step, with dropout 0.1 and 15 % of the tokens masked. Contenders take
turns within one run. Figures are real tokens per second.

    fit                     the command's whole loop: loader, loggers, callbacks
    fit_compiled            the same with trainer.compile
    ours, ours_compiled     the Trainer of `fit` on batches that were made before
    ours_repeated           the same on two batches over and over; what fresh shapes cost is `shape_cost`
    transformers            a bare loop with SDPA and AdamW, padded to the longest of a batch
    transformers_fused      the same with fused AdamW
    transformers_compiled   the same, compiled, and padded to a multiple of 64

    python experiments/benchmarks/pretraining_step.py --size base --batch-size 16 --sequence-length 128

The text is that of the novels of the folder that BERT_LIGHTNING_DATA names, or generated if it is not set. With
`--limit SECONDS` it ends after about that time. It first measures the contenders that are not compiled and writes
their figures, and then adds a compiled one at a time. After the limit, each group still takes one round.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers
from generated import store_of_corpus
from measuring import SHAPE_COST_LIMIT, Contender, in_turn, machine, ratio, spread, with_allocation_of, write_json
from pretraining_contenders import NUM_REPEATED, NUM_STEPS, Setting, lengths_of

from bert_lightning.config.experiment import Experiment, load_experiment
from bert_lightning.model.operations import forward_operations
from bert_lightning.runs.auto_settings import has_fast_bfloat16
from bert_lightning.runs.trainer import quiet
from bert_lightning.training.throughput import best_product

# Name -> how a contender is made.
CONTENDERS: dict[str, Callable[[Setting], Contender]] = {
    "fit": lambda setting: setting.fit(),
    "fit_compiled": lambda setting: setting.fit(compiled=True),
    "ours": lambda setting: setting.step(),
    "ours_repeated": lambda setting: setting.step(repeated=True),
    "ours_compiled": lambda setting: setting.step(compiled=True),
    "transformers": lambda setting: setting.transformers(),
    "transformers_fused": lambda setting: setting.transformers(fused=True),
    "transformers_compiled": lambda setting: setting.transformers(fused=True, compiled=True),
}
# Megabytes of text: an epoch of some hundred batches of a processor.
MEGABYTES = 2.0
# The work of a step is the mean over this many batches.
NUM_COUNTED = 16


def short_share(longest: int, mean: int | None) -> float:
    """Return the share of sequences that are cut to a random length, for a mean length.

    Without a mean it is the published one, `create_pretraining_data.py --short_seq_prob`. Lengths that are cut are
    drawn evenly up to the longest.

    Raises:
        ValueError: the mean cannot be reached.

    >>> short_share(512, 257), short_share(128, None)
    (1.0, 0.1)
    """
    if mean is None:
        return 0.1
    if not longest // 2 <= mean <= longest:
        raise ValueError(f"--mean-length is {mean}; it must be {longest // 2} to {longest}")
    return min(1.0, (longest - mean) / (longest / 2 - 1))


def experiment_of(options: argparse.Namespace, store: Path) -> Experiment:
    """Return the pre-training that `fit` runs. Everything that is not named has its default."""
    packed = options.device == "cuda"
    # A packed batch is counted in bins, which are full; it is to hold as many tokens as a batch of the others.
    filled = (options.mean_length or options.sequence_length) / options.sequence_length if packed else 1
    return load_experiment(
        [],
        below={
            "experiment": "benchmark",
            "task": "pretraining",
            "model": {"size": options.size},
            "data": {
                "train": str(store),
                "max_seq_length": options.sequence_length,
                "short_sequence_probability": short_share(options.sequence_length, options.mean_length),
                "batch_size": max(1, round(options.batch_size * filled)),
                "batching": "packed" if packed else "padded",
            },
            "trainer": {
                "max_steps": NUM_STEPS,
                "accelerator": "gpu" if packed else "cpu",
                "precision": options.precision,
            },
        },
    )


class Work(NamedTuple):
    """The work of a step: means over the batches."""

    num_tokens: float
    mean_length: float
    operations: float
    shapes: list[tuple[int, int, int]]
    """the products of the model, (m, k, n)"""

    @property
    def operations_per_token(self) -> float:
        """Floating-point operations per real token."""
        return self.operations / self.num_tokens


def work_of(setting: Setting) -> Work:
    """Count the work of the first batches."""
    batches, config = setting.stream.first(NUM_COUNTED), setting.config
    lengths = np.concatenate([lengths_of(batch) for batch in batches])
    num_masked = sum(len(batch["masked_labels"]) for batch in batches)
    of_forward = forward_operations(config, int(lengths.sum()), int((lengths**2).sum()), len(lengths), num_masked)
    # The backward pass takes twice as many.
    operations = 3 * of_forward / len(batches)
    tokens, hidden, inner = float(lengths.sum()) / len(batches), config.hidden_size, config.intermediate_size
    shapes = [(int(tokens), hidden, 3 * hidden), (int(tokens), hidden, inner), (int(tokens), inner, hidden)]
    shapes.append((num_masked // len(batches), hidden, config.vocab_size))
    return Work(tokens, float(lengths.mean()), operations, shapes)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="mini", help="tiny, mini, small, medium, base or large")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--mean-length", type=int, help="cut sequences to random lengths with this mean")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    # Where bfloat16 is emulated, nobody trains with it.
    precision = "bf16-mixed" if has_fast_bfloat16() else "32"
    parser.add_argument("--precision", default=precision, choices=("32", "bf16-mixed"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps of a turn; the first turn is not timed")
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="time after which a group takes one round")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    try:
        short_share(options.sequence_length, options.mean_length)
    except ValueError as error:
        parser.error(str(error))
    return options


def main() -> None:
    """Measure and print the figures."""
    began = time.perf_counter()
    options = parse()
    quiet()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        experiment = experiment_of(options, store_of_corpus(Path(folder), MEGABYTES))
        setting = Setting(experiment, options.steps, torch.device(options.device), options.batch_size)
        measure(options, setting, began)


def measure(options: argparse.Namespace, setting: Setting, began: float) -> None:
    """Measure the contenders, and report after each group of them."""
    work = work_of(setting)
    print(
        f"{options.size} (L{setting.config.num_hidden_layers} H{setting.config.hidden_size}), {options.batch_size} x "
        f"{options.sequence_length}, mean length {work.mean_length:.0f}, {options.precision} on {options.device}: "
        f"{work.num_tokens:,.0f} real tokens and {work.operations / 1e9:,.0f} G operations per step"
    )
    dtype = torch.bfloat16 if options.precision == "bf16-mixed" else torch.float32
    ceiling = best_product(work.shapes, dtype, setting.device, repeats=7)
    until = float("inf") if options.limit is None else began + options.limit
    contenders: dict[str, Contender] = {}
    for names in groups(options):
        for name in names:
            contenders[name] = with_allocation_of(name, CONTENDERS[name](setting))
            # The first turn compiles and allocates memory, so it is not timed.
            for _ in range(-(-NUM_REPEATED // options.steps) if name == "ours_repeated" else 1):
                contenders[name]()
        rates = in_turn(contenders, options.rounds, until)
        ceiling = max(ceiling, best_product(work.shapes, dtype, setting.device, repeats=7))
        report(options, rates, work, ceiling)


def groups(options: argparse.Namespace) -> list[list[str]]:
    """Return the groups of contenders that begin together. With a limit, each that is compiled begins by itself."""
    every: list[str] = options.contenders
    if options.limit is None:
        return [every]
    plain = [name for name in every if not name.endswith("compiled")]
    return [*([plain] if plain else []), *([name] for name in every if name.endswith("compiled"))]


def report(options: argparse.Namespace, rates: dict[str, list[float]], work: Work, ceiling: float) -> None:
    """Print the table and write the JSON file."""
    speeds = {name: spread(values) for name, values in rates.items()}
    others = [name for name in rates if name.startswith("transformers")]
    # Users run `fit`, so it is compared if it was measured. Otherwise the fastest of ours is, or the fastest of all.
    mine = max([name for name in rates if name not in others] or others, key=lambda name: rank(name, speeds))
    faster = {name: ratio(rates[mine], rates[name]) for name in rates if rates[mine]}
    share = {name: speed["median"] * work.operations_per_token / ceiling for name, speed in speeds.items()}
    print(f"\n{'':24}{'tokens/s':>10}{'middle half':>20}{mine + ' faster by':>24}{'of the ceiling':>16}")
    for name, speed in speeds.items():
        print(
            f"{name:24}{speed['median']:10,.0f}{speed['low']:10,.0f}-{speed['high']:9,.0f}"
            f"{faster[name]['median']:23.2f}x{share[name]:15.1%}"
        )
    at = machine()
    print(f"ceiling: {ceiling / 1e9:,.0f} G operations per second; {at['processor']}, {at['gpu'] or 'no GPU'}")
    ratios = {name: faster[name]["median"] for name in others}
    content: dict[str, object] = {
        "contenders": {
            name: {
                "tokens_per_second": speed["median"],
                "spread": [speed["low"], speed["high"]],
                "num": speed["num"],
                "ceiling_share": share[name],
            }
            for name, speed in speeds.items()
        },
        # These are still to come. If time runs out before, they are missing in the results.
        "missing": [name for name in options.contenders if name not in speeds],
        "compared": mine,
        "ratios": ratios,
        "ratio_spread": {name: [faster[name]["low"], faster[name]["high"]] for name in others},
        "ceiling": ceiling,
        "ceiling_share": share[mine],
        "num_tokens": work.num_tokens,
        "settings": {name: value for name, value in vars(options).items() if name != "json"},
    }
    if others:
        ratios["transformers_best"] = min(ratios.values())
    if {"ours", "ours_repeated"} <= rates.keys():
        cost = spread([1 - a / b for a, b in zip(rates["ours"], rates["ours_repeated"], strict=True)])
        print(f"fresh shapes cost {cost['median']:.1%} ({cost['low']:.1%} to {cost['high']:.1%}) of repeated ones")
        content["shape_cost"] = cost
        content["limits"] = {"shape_cost": {"value": cost["median"], "limit": SHAPE_COST_LIMIT}}
    write_json(options.json, content)


def rank(name: str, speeds: dict[str, dict[str, float]]) -> tuple[bool, bool, float]:
    """Order our contenders: `fit` before bare steps, fresh before repeated batches, then by speed."""
    return name.startswith("fit"), name != "ours_repeated", speeds[name]["median"]


if __name__ == "__main__":
    main()
