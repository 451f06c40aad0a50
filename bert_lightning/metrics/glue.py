"""The three averages that are called a GLUE score. They differ by several points, so state which one you report.

A result is named by task and quantity: `figures["MRPC"]["f1"]`. MNLI is two tasks, `MNLI-m` and `MNLI-mm`.
"""

import math
from collections.abc import Mapping

from bert_lightning.checks import nearest
from bert_lightning.errors import InputError

# A column of an average: the mean of results, each named by (task, quantity).
Column = tuple[tuple[str, str], ...]

_COLA: Column = (("CoLA", "matthews"),)
_SST2: Column = (("SST-2", "accuracy"),)
_MATCHED: Column = (("MNLI-m", "accuracy"),)
_MISMATCHED: Column = (("MNLI-mm", "accuracy"),)
_QNLI: Column = (("QNLI", "accuracy"),)
_RTE: Column = (("RTE", "accuracy"),)
_WNLI: Column = (("WNLI", "accuracy"),)
_STSB_SPEARMAN: Column = (("STS-B", "spearman"),)

AVERAGES: dict[str, tuple[Column, ...]] = {
    # The score of the leaderboard (Wang et al. 2018), nine tasks. A task with two results counts as their mean. The
    # diagnostic set AX does not count. google-research/bert's table of small models uses this average.
    "leaderboard": (
        _COLA,
        _SST2,
        (("MRPC", "f1"), ("MRPC", "accuracy")),
        (("STS-B", "pearson"), ("STS-B", "spearman")),
        (("QQP", "f1"), ("QQP", "accuracy")),
        (*_MATCHED, *_MISMATCHED),
        _QNLI,
        _RTE,
        _WNLI,
    ),
    # The nine columns of table 1 of the BERT paper (Devlin et al. 2019), which leaves WNLI out.
    "paper": (
        _MATCHED,
        _MISMATCHED,
        (("QQP", "f1"),),
        _QNLI,
        _SST2,
        _COLA,
        _STSB_SPEARMAN,
        (("MRPC", "f1"),),
        _RTE,
    ),
    # On the development set, as MosaicBERT (Portes et al. 2023) and ModernBERT (Warner et al. 2024) report: one MNLI
    # column, no WNLI, one result per task. The papers do not say which result and which MNLI. Here it is MNLI
    # matched, and accuracy except for STS-B, which has Spearman's correlation.
    "eight-columns": (
        _COLA,
        _SST2,
        (("MRPC", "accuracy"),),
        _STSB_SPEARMAN,
        (("QQP", "accuracy"),),
        _MATCHED,
        _QNLI,
        _RTE,
    ),
}


def glue_average(figures: Mapping[str, Mapping[str, float]], rule: str) -> float:
    """Return the average of results by a rule, in the unit of the results.

    Args:
        figures: task -> quantity (`matthews`, `accuracy`, `f1`, `pearson`, `spearman`) -> result. Results that the
            rule does not need are ignored.
        rule: a key of `AVERAGES`: `leaderboard`, `paper` or `eight-columns`.

    Raises:
        InputError: the rule is unknown, or results are missing or nan. The message names them.
    """
    if rule not in AVERAGES:
        raise InputError(f"no GLUE average is called {rule!r}{nearest(rule, AVERAGES)}")
    columns = AVERAGES[rule]
    needed = [figure for column in columns for figure in column]
    missing = [f"{task} {quantity}" for task, quantity in needed if quantity not in figures.get(task, {})]
    if missing:
        raise InputError(f"the GLUE average {rule!r} also needs {', '.join(missing)}")
    undefined = [f"{task} {quantity}" for task, quantity in needed if math.isnan(figures[task][quantity])]
    if undefined:
        raise InputError(f"{', '.join(undefined)} is nan; count a collapsed run as 0, and report that you did")
    means = [math.fsum(figures[task][quantity] for task, quantity in column) / len(column) for column in columns]
    return math.fsum(means) / len(means)
