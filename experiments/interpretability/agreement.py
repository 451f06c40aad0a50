"""Prints how far each method of `explain` agrees with occlusion on the words of a data set.

    python experiments/interpretability/agreement.py --checkpoint RUN --input FILE --examples 200

Occlusion asks the model itself: it hides a word and reads the score again. It is no truth, because a text with a hole
may be unlike any text that the model has seen. But it needs no theory of gradients or attention, and a method that
disagrees with it describes something else than this change of the score.

For each example the words are ranked by the values of both methods. The table has the means over examples with 95 % t
intervals:

- `signed`: Spearman's correlation of the values. Attention and rollout have no signs.
- `size`: Spearman's correlation of the sizes of the values.
- `top`: the share of the words with the largest sizes that both methods name, and what a random order would share.

Two rows show what can be expected: `random` has random values, and `occlusion by [PAD]` hides words by another token.
200 sentences of SST-2 on a model with 6 blocks of 384 take about ten minutes of one core.
"""

import argparse
import json
import math
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bert_lightning import load
from bert_lightning.cli.terminal import item_progress
from bert_lightning.data.reading.tables import Row
from bert_lightning.errors import InputError
from bert_lightning.interpretability import Agreement, ExplanationSettings, agreement, explain
from bert_lightning.interpretability.explaining import METHODS, NotExplainedError
from bert_lightning.runs.predictor import Predictor
from bert_lightning.studies.statistics import mean_interval

BASELINE = "occlusion"
RANDOM, BY_PAD = "random", "occlusion by [PAD]"
COMPARED = {
    **{method: ExplanationSettings(method) for method in METHODS if method != BASELINE},
    BY_PAD: ExplanationSettings(BASELINE, replacement="[PAD]"),
}
"""Name in the table -> how the words get their values."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the methods on a sample of a file, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="run directory or checkpoint file")
    parser.add_argument("--input", required=True, help="what predict reads")
    parser.add_argument("--examples", type=int, default=200, help="how many rows are drawn (default: 200)")
    parser.add_argument("--top", type=int, default=5, help="how many of the largest values are compared (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample and of the random values")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers of each example")
    options = parser.parse_args(arguments)
    try:
        predictor = load(options.checkpoint)
        rows = list(predictor.read(options.input))
        sample = random.Random(options.seed).sample(rows, min(options.examples, len(rows)))
        found = compare(predictor, sample, options.top, options.seed)
    except InputError as error:
        sys.exit(str(error))
    for line in table(found, options.top):
        print(line)
    if options.output is not None:
        values = {name: [each._asdict() for each in of_method] for name, of_method in found.items()}
        options.output.write_text(json.dumps(values).replace("NaN", "null") + "\n", encoding="utf-8")


def compare(predictor: Predictor, rows: Sequence[Row], top: int, seed: int) -> dict[str, list[Agreement]]:
    """Return the agreement of each method with occlusion, one per explanation of at least four words.

    Raises:
        InputError: no row can be explained.
    """
    generator = np.random.default_rng(seed)
    found: dict[str, list[Agreement]] = {name: [] for name in (*COMPARED, RANDOM)}
    with item_progress("comparing", enabled=True) as counted:
        for row in counted(rows, len(rows)):
            try:
                baseline = _values(predictor, row, ExplanationSettings(BASELINE))
                of_methods = {name: _values(predictor, row, settings) for name, settings in COMPARED.items()}
            except NotExplainedError as error:
                print(f"left out: {error}", file=sys.stderr)
                continue
            for place, expected in enumerate(baseline):
                others = {name: values[place] for name, values in of_methods.items()}
                others[RANDOM] = np.where(np.isnan(expected), np.nan, generator.normal(size=len(expected)))
                for name, values in others.items():
                    one = agreement(values, expected, top)
                    if one is not None:
                        found[name].append(one)
    if not found[RANDOM]:
        raise InputError("no example has four words and can be explained")
    return found


def _values(predictor: Predictor, row: Row, settings: ExplanationSettings) -> list[NDArray[np.float64]]:
    return [explanation.values for explanation in explain(predictor.task, row, settings)]


def table(found: Mapping[str, Sequence[Agreement]], top: int) -> list[str]:
    """Return the lines of the table: means over examples with 95 % t intervals."""
    chance = float(np.mean([each.chance for each in found[RANDOM]]))
    lines = [f"{'method':<22}{'examples':>9}  {'signed':<24}{'size':<24}top {top} (by chance {chance:.2f})"]
    for name, of_method in found.items():
        signed = "-" if name in ("attention", "rollout") else _interval([each.signed for each in of_method])
        others = [_interval([getattr(each, field) for each in of_method]) for field in ("size", "overlap")]
        lines.append(f"{name:<22}{len(of_method):>9}  {signed:<24}{others[0]:<24}{others[1]}")
    return lines


def _interval(values: Sequence[float]) -> str:
    estimate = mean_interval([value for value in values if math.isfinite(value)])
    if estimate.value is None:
        return "-"
    if estimate.interval is None:
        return f"{estimate.value:.3f}"
    low, high = estimate.interval
    return f"{estimate.value:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
