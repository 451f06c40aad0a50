"""The files of an evaluation in `predictions/`: predictions, input files for official scorers, and the report."""

import json
from pathlib import Path

from bert_lightning.checkpoints.files import write_json, write_text
from bert_lightning.runs.figures import as_svg, confusion_figure, drawn
from bert_lightning.tasks.fine_tuning.report import Evaluation, Report
from bert_lightning.tasks.fine_tuning.task import FineTuningTask

REPORT = "report.txt"
REPORT_VALUES = "report.json"
# Entries of `report.json` besides its tables.
SCORES, CONFUSION = "scores", "confusion matrix"


def write_evaluation(
    folder: Path, name: str, task: FineTuningTask, evaluation: Evaluation, scores: dict[str, float]
) -> Report | None:
    """Write `<name>.jsonl` with a line per example, and in `<name>/` the files for official scorers and the report.

    Returns:
        The report; None if the split has no gold labels.
    """
    split, outputs = evaluation.split, evaluation.outputs
    rows = task.predictions(split, outputs)
    write_text(folder / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    for file, content in task.files(split, outputs).items():
        write_text(folder / name / file, content)
    if not split.is_labelled:
        return None
    report = task.report(split, outputs)
    width = max(map(len, scores), default=0)
    lines = [f"{metric:<{width}}  {scores[metric]:.4f}" for metric in sorted(scores)]
    write_text(folder / name / REPORT, "\n".join([*lines, "", report.text]) + "\n")
    tables = {
        title: [dict(zip(columns, row, strict=True)) for row in each]
        for title, (columns, each) in report.tables.items()
    }
    confusion = {}
    if report.confusion is not None:
        labels, counts = report.confusion
        confusion[CONFUSION] = {"labels": list(labels), "counts": counts.tolist()}
    write_json(folder / name / REPORT_VALUES, {SCORES: scores, **tables, **confusion})
    if report.confusion is not None:
        path = folder / name / "confusion.svg"
        picture = drawn(str(path), lambda: as_svg(confusion_figure(labels, counts)))
        if picture is None:
            # A picture of an earlier evaluation would look like that of this one.
            path.unlink(missing_ok=True)
        else:
            write_text(path, picture)
    return report
