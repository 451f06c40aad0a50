"""Prints the effect of each setting on a metric, from a study whose arms are a screening design.

    python experiments/studies/effects.py studies/screening --stage held-out --metric val/mlm_loss

A least-squares fit explains the scores by a constant and one term for each value that differs from the first run's.
So an effect is what a setting changes if effects add up. The fit does not find a setting that helps only together
with another one. Numbers of steps are left out, because they follow from the other settings.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bert_lightning.errors import InputError
from bert_lightning.studies.comparison import read_run
from bert_lightning.studies.record import StudyRecord

_FOLLOWS = ("trainer.max_steps",)


class Effect(NamedTuple):
    """The change of the metric with a setting, and the margin of its 95 % interval."""

    setting: str
    change: float
    margin: float


def main() -> None:
    """Read the runs of a study, and print the effects from the lowest to the highest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the study")
    parser.add_argument("--stage", required=True, help="the stage whose runs are scored")
    parser.add_argument("--metric", required=True, help="such as val/mlm_loss")
    arguments = parser.parse_args()
    try:
        record = StudyRecord.read(arguments.folder)
    except InputError as error:
        sys.exit(str(error))
    runs = [run for run in record.runs if run.stage == arguments.stage and run.state == "finished"]
    found = [read_run(arguments.folder / run.directory).scores() for run in runs]
    if not runs or any(arguments.metric not in each for each in found):
        sys.exit(f"{arguments.folder}: {arguments.stage} has no finished run, or one without {arguments.metric}")
    scores = [each[arguments.metric] for each in found]
    settings = [{key: value for key, value in run.values.items() if key not in _FOLLOWS} for run in runs]
    for run, score in sorted(zip(runs, scores, strict=True), key=lambda pair: pair[1]):
        print(f"{score:.4f}  {run.arm}, seed {run.seed}")
    for effect in sorted(effects(settings, scores), key=lambda each: each.change):
        print(f"{effect.change:+.4f} ± {effect.margin:.4f}  {effect.setting}")


def effects(settings: Sequence[Mapping[str, object]], scores: Sequence[float]) -> list[Effect]:
    """Return the effect of each setting with the margin of its 95 % interval.

    Args:
        settings: for each run the keys and values of its arm; the first run is the one that all effects refer to.
        scores: the metric of each run.

    >>> runs = [{}, {"a": 1}, {"b": 1}, {"a": 1, "b": 1}]
    >>> [(each.setting, round(each.change, 6)) for each in effects(runs, [1.0, 3.0, 0.5, 2.5])]
    [('a 1', 2.0), ('b 1', -0.5)]
    """
    from scipy.stats import t

    columns: dict[tuple[bool, ...], str] = {}
    for pair in dict.fromkeys((key, str(each[key])) for each in settings for key in each):
        if str(settings[0].get(pair[0])) == pair[1]:
            continue
        column = tuple(str(each.get(pair[0])) == pair[1] for each in settings)
        # Settings that always come together have one effect.
        columns[column] = ", ".join(filter(None, [columns.get(column), " ".join(pair)]))
    design = np.column_stack([np.ones(len(scores)), *np.array(list(columns), dtype=float)])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        sys.exit(f"{len(scores)} runs cannot tell the effects of {len(columns)} settings apart")
    inverse = np.linalg.inv(design.T @ design)
    fitted = inverse @ design.T @ np.array(scores)
    freedom = len(scores) - design.shape[1]
    rest = np.sum((np.array(scores) - design @ fitted) ** 2)
    scale = t.ppf(0.975, freedom) * np.sqrt(rest / freedom) if freedom else np.inf
    margins = scale * np.sqrt(np.diag(inverse))
    return [Effect(name, *pair) for name, *pair in zip(columns.values(), fitted[1:], margins[1:], strict=True)]


if __name__ == "__main__":
    main()
