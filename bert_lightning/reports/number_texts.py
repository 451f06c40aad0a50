"""Numbers of a table as text, the same in each form of report."""

import math

from bert_lightning.reports.cells import ALPHA
from bert_lightning.reports.results import MetricCell, Overall, OverallArm

# Decimals of a number, and the most decimals of a small number, which keeps three digits.
_DECIMALS, _MOST_DECIMALS = 4, 8
_SMALL = 0.001
_SMALLEST_P = 0.0001


def number(value: float) -> str:
    """Return a score as text: with four decimals, or with three digits if it is below 0.001.

    >>> number(0.81234), number(0.000437), number(1.234e-9), number(float("nan"))
    ('0.8123', '0.000437', '1.23e-09', 'nan')
    """
    if value == 0 or not abs(value) < _SMALL:
        return f"{value:.{_DECIMALS}f}"
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{decimals}f}" if decimals <= _MOST_DECIMALS else f"{value:.2e}"


def signed(value: float) -> str:
    """Return a difference as text, with its sign.

    >>> signed(0.0123), signed(-0.5)
    ('+0.0123', '-0.5000')
    """
    return ("+" if value >= 0 else "") + number(value)


def interval_text(interval: tuple[float, float] | None) -> str:
    """Return an interval as text; empty if there is none.

    >>> interval_text((-0.1, 0.25))
    '[-0.1000, +0.2500]'
    """
    return f"[{signed(interval[0])}, {signed(interval[1])}]" if interval is not None else ""


def p_text(p: float | None) -> str:
    """Return a p-value as text; empty if there is none.

    >>> p_text(0.0421), p_text(0.00000123), p_text(None)
    ('0.0421', '< 0.0001', '')
    """
    if p is None:
        return ""
    return f"{p:.4f}" if p >= _SMALLEST_P else f"< {_SMALLEST_P:.4f}"


def mean_text(cell: MetricCell) -> str:
    """Return mean and standard deviation as text, or why there is no mean."""
    if cell.mean is None:
        return "not finite"
    return number(cell.mean) + (f" ± {number(cell.sd)}" if cell.sd is not None else "")


def is_significant(cell: MetricCell) -> bool:
    """Return whether the adjusted p-value of the difference to the baseline is below `ALPHA`."""
    return cell.p_adjusted is not None and cell.p_adjusted < ALPHA


def n_text(cell: MetricCell, num_runs: int) -> str:
    """Return the number of seeds with this metric as text, if it is not the number of runs of the arm."""
    return f" (n {cell.n})" if cell.n != num_runs else ""


def overall_rows(overall: Overall) -> list[tuple[OverallArm, dict[str, str]]]:
    """Return each arm with its comparison over several tasks as texts: heading -> text."""
    with_exact = any(arm.cell.exact_p is not None for arm in overall.arms)
    with_margin = any(arm.cell.equivalent is not None for arm in overall.arms)
    return [(arm, _overall_fields(arm, with_exact, with_margin)) for arm in overall.arms]


def _overall_fields(arm: OverallArm, with_exact: bool, with_margin: bool) -> dict[str, str]:
    cell = arm.cell
    return {
        "n": str(cell.n),
        "average": (mean_text(cell) if cell.values else "") + ("*" if is_significant(cell) else ""),
        "difference": signed(cell.difference) if cell.difference is not None else "",
        "95 % interval": interval_text(cell.interval),
        "p": p_text(cell.p),
        "p (Holm)": p_text(cell.p_adjusted),
        **({"exact p": p_text(cell.exact_p)} if with_exact else {}),
        **({"equivalent": equivalence_text(cell.equivalent)} if with_margin else {}),
        "tasks better, equal, worse": ", ".join(map(str, arm.tasks)) if arm.tasks is not None else "",
    }


def equivalence_text(equivalent: bool | None) -> str:
    """Return as text whether equivalence is shown; empty without a margin."""
    return {True: "equivalent", False: "not shown", None: ""}[equivalent]
