"""Failure rates of arms: whether an arm fails more often than the baseline, which the means do not show."""

from collections.abc import Sequence

from bert_lightning.reports.cells import has_scipy
from bert_lightning.reports.number_texts import p_text
from bert_lightning.reports.results import ArmResult
from bert_lightning.studies.statistics import fisher_failures, holm
from bert_lightning.wording import count


def failures_of(arms: Sequence[ArmResult]) -> dict[str, str]:
    """Compare how often each arm and the baseline failed, if one of the two has failed runs: label -> sentence.

    Only runs that finished or failed count, not those that were interrupted or have not started.

    Args:
        arms: the arms of a table. Without a baseline among them, the result is empty.
    """
    baseline = next((arm for arm in arms if arm.is_baseline), None)
    if baseline is None or not has_scipy():
        return {}
    failed_baseline, num_baseline = _counts(baseline)
    tested = []
    for arm in arms:
        failed, num = _counts(arm)
        if arm is not baseline and failed + failed_baseline and num and num_baseline:
            p = fisher_failures(failed, num, failed_baseline, num_baseline).p
            tested.append((arm.label, failed, num, p))
    adjusted = holm([p for *_, p in tested])
    words = "p by Fisher's exact test" + (", adjusted by Holm's method," if len(tested) > 1 else "")
    sentences = {}
    for (label, failed, num, _), p in zip(tested, adjusted, strict=True):
        value = text if (text := p_text(p)).startswith("<") else f"is {text}"
        sentences[label] = (
            f"{label}: {failed} of {count(num, 'run')} failed, against {failed_baseline} of {num_baseline} of "
            f"{baseline.label}; {words} {value}."
        )
    return sentences


def _counts(arm: ArmResult) -> tuple[int, int]:
    """Return how many runs of an arm failed, and how many failed or finished."""
    failed = sum(each.state == "failed" for each in arm.missing)
    return failed, failed + len(arm.runs)
