"""The tables and the confusion matrix of an evaluation in W&B, as the files in `predictions/` have them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bert_lightning.errors import InputError
from bert_lightning.runs.evaluation_files import CONFUSION, REPORT_VALUES, SCORES
from bert_lightning.runs.figures import confusion_figure, drawn

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run

# As many as W&B shows of a table.
MOST_ROWS = 10_000
Cell = str | int | float | bool | None


class Table(NamedTuple):
    """A table for W&B."""

    columns: list[str]
    rows: list[list[Cell]]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, object]]) -> "Table":
        """Return the table of some rows. A list or mapping becomes JSON, and what a row lacks stays empty."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        return cls(columns, [[_cell(row.get(name)) for name in columns] for row in rows])

    @property
    def is_mixed(self) -> bool:
        """Whether a column has values of several types. W&B draws and sorts only columns of one type."""
        return any(
            len(
                {
                    float if isinstance(cell, int | float) and not isinstance(cell, bool) else type(cell)
                    for cell in column
                }
                - {type(None)}
            )
            > 1
            for column in zip(*self.rows, strict=True)
        )


def log_evaluation(run: "Run", predictions: Path, name: str) -> None:
    """Log the predictions, the tables of the report and the confusion matrix of an evaluation.

    Args:
        run: the W&B run.
        predictions: the run's folder `predictions/`.
        name: the name of the evaluation's files; that of each table begins with it.
    """
    import wandb

    for title, table in evaluation_tables(predictions, name).items():
        made = wandb.Table(columns=table.columns, data=table.rows, allow_mixed_types=table.is_mixed)
        run.log({f"{name}/{title}": made})
    confusion = _report(predictions, name).get(CONFUSION)
    if confusion is not None:
        labels, counts = confusion["labels"], np.array(confusion["counts"])
        picture = drawn("the confusion matrix for W&B", lambda: wandb.Image(confusion_figure(labels, counts)))
        if picture is not None:
            run.log({f"{name}/{CONFUSION}": picture})


def evaluation_tables(predictions: Path, name: str) -> dict[str, Table]:
    """Return the tables of an evaluation: `predictions`, those of its report, and `confusion counts`.

    The table of predictions has the first 10,000 rows.
    """
    path = predictions / f"{name}.jsonl"
    with _undamaged(path), open(path, encoding="utf-8") as file:
        tables = {"predictions": Table.of([json.loads(line) for line in islice(file, MOST_ROWS)])}
    report = _report(predictions, name)
    tables |= {title: Table.of(rows) for title, rows in report.items() if title not in (SCORES, CONFUSION)}
    if CONFUSION in report:
        labels, counts = report[CONFUSION]["labels"], report[CONFUSION]["counts"]
        pairs = [(gold, other) for gold in range(len(labels)) for other in range(len(labels))]
        rows = [
            {"gold": labels[gold], "predicted": labels[other], "count": counts[gold][other]} for gold, other in pairs
        ]
        tables["confusion counts"] = Table.of(rows)
    return {title: table for title, table in tables.items() if table.rows}


def _report(predictions: Path, name: str) -> dict[str, Any]:
    """Return the values of a report; none if the split has no gold labels."""
    path = predictions / name / REPORT_VALUES
    with _undamaged(path):
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if not isinstance(values, dict):
            raise ValueError("a JSON object is expected")
    return values


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InputError(f"{path}: damaged: {error}") from None


def _cell(value: object) -> Cell:
    return value if value is None or isinstance(value, Cell) else json.dumps(value, ensure_ascii=False)
