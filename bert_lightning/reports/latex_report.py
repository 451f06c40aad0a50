"""The report as LaTeX tables that need only the package booktabs. Comments lead from each row to its runs."""

import re
from collections.abc import Iterator, Sequence

from bert_lightning.reports.captions import whole_caption
from bert_lightning.reports.confounds import confound_text
from bert_lightning.reports.latex_text import comment, latex, latex_number
from bert_lightning.reports.number_texts import (
    equivalence_text,
    interval_text,
    is_significant,
    mean_text,
    n_text,
    number,
    overall_rows,
    p_text,
    signed,
)
from bert_lightning.reports.results import (
    ArmResult,
    MetricCell,
    Overall,
    Results,
    ResultTable,
    origin_text,
    published_lines,
    repetition_of,
)
from bert_lightning.version import __version__

# Widths in pt: a line of LaTeX's standard classes, a character in \footnotesize, and the gap between columns.
_LINE, _CHARACTER, _GAP = 345.0, 4.9, 8.0
# Longer labels (in characters) are broken into several lines, in a column with this share of the line width.
_LONGEST_LABEL, _LABEL_SHARE = 24, 0.3
_MOST_NAMED = 6


def as_latex(results: Results) -> str:
    """Return the results as a part of a LaTeX document."""
    lines = [
        comment(f"Written by bert-lightning {__version__}. The preamble needs \\usepackage{{booktabs}}."),
        comment("A comment such as [1] after a row names the entry below its table that lists the runs."),
    ]
    number_of_arms = 0
    for table in results.tables:
        lines += ["", *_tables(table, results.ranges, number_of_arms)]
        number_of_arms += len(table.arms)
    for overall in results.overall:
        lines += ["", *_overall(overall)]
    if results.checklist:
        rows = [
            [latex(item.question, breakable=True), latex(item.answer, breakable=True)] for item in results.checklist
        ]
        body = "".join(f"{question} & {answer} \\\\\n" for question, answer in rows)
        lines += [
            "",
            *_float("Reproducibility checklist.", "checklist", []),
            r"\begin{tabular}{p{0.28\linewidth}p{0.64\linewidth}}",
            rf"\toprule{chr(10)}{body}\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join([*lines, ""])


def _tables(table: ResultTable, ranges: bool, before: int) -> Iterator[str]:
    yield from (comment(line) for line in _remarks(table))
    if not table.arms:
        return
    caption = " ".join(
        [f"{table.title}.", table.question or "", whole_caption(table), _missing(table), *table.failures.values()]
    )
    confounds = [confound_text(each) for each in table.confounds if each.explained_by is None]
    yield from _float(caption, f"{table.title}", confounds)
    yield from _grid(*_scores(table), [f"[{before + number}]" for number in range(1, len(table.arms) + 1)])
    lines = [f"{arm.label}: {line}" for arm in table.arms for line in published_lines(arm)]
    if lines:
        yield from (r"\par\medskip", r"\raggedright", *(rf"{latex(line, breakable=True)}\par" for line in lines))
    yield r"\end{table}"
    for heading, header, rows in (_differences(table), _ranges(table) if ranges else ("", [], [])):
        if rows:
            yield from ("", *_float(f"{table.title}: {heading}.", f"{table.title} {heading}", []))
            yield from (*_grid(header, rows, []), r"\end{table}")
    if table.matrices:
        heading = f"{table.title}: scores on every task after every task"
        yield from ("", *_float(f"{heading}.", heading, []))
        header, rows = _matrices(table)
        yield from (*_grid(header, rows, []), r"\end{table}")
    for number_of_arm, arm in enumerate(table.arms, before + 1):
        for run in arm.runs:
            origin = f"{run.name}: {origin_text(run)}: {repetition_of(run)}"
            yield comment(f"[{number_of_arm}] {arm.label}, seed {run.seed}: {origin}")


def _matrices(table: ResultTable) -> tuple[list[str], list[list[str]]]:
    tasks = table.matrices[0].tasks
    rows = [
        [matrix.label, latex(learned), *("" if cell is None else latex_number(mean_text(cell)) for cell in cells)]
        for matrix in table.matrices
        for learned, cells in zip(tasks, matrix.cells, strict=True)
    ]
    return ["", "after", *map(latex, tasks)], rows


def _overall(overall: Overall) -> Iterator[str]:
    yield from _float(f"{overall.title}. {' '.join(overall.caption)}", overall.title, [])
    fields = overall_rows(overall)
    rows = [[arm.label, *map(latex_number, each.values())] for arm, each in fields]
    yield from _grid(["", *map(latex, fields[0][1])], rows, [])
    yield r"\end{table}"


def _remarks(table: ResultTable) -> Iterator[str]:
    """Yield the comments above a table: consequences of the axis, and runs that are not in the table."""
    for each in table.confounds:
        if each.explained_by is not None:
            yield f"{table.title}: {confound_text(each)}"
    for absent in table.missing:
        message = f": {absent.message}" if absent.message else ""
        yield f"Not in the table: {absent.arm}, seed {absent.seed}, {absent.directory}: {absent.state}{message}"


def _missing(table: ResultTable) -> str:
    shown = [f"{each.arm} seed {each.seed} ({each.state})" for each in table.missing[:_MOST_NAMED]]
    more = len(table.missing) - len(shown)
    return f"Not in the table: {', '.join(shown)}{f' and {more:,} more' if more else ''}." if shown else ""


def _float(caption: str, name: str, confounds: Sequence[str]) -> Iterator[str]:
    """Yield the beginning of a table: caption, label, and the confounds."""
    yield from (r"\begin{table}", r"\centering", r"\footnotesize", r"\setlength{\tabcolsep}{4pt}")
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    yield rf"\caption{{{latex(' '.join(caption.split()), breakable=True)}}}\label{{tab:{label}}}"
    if confounds:
        text = " ".join(f"{latex(each, breakable=True)}." for each in confounds)
        yield rf"\begin{{minipage}}{{\linewidth}}\raggedright\textbf{{Confounds.}} {text}\end{{minipage}}\par\medskip"


def _scores(table: ResultTable) -> tuple[list[str], list[list[str]]]:
    header = ["", "n", *(latex(metric.name) for metric in table.metrics)]
    rows = []
    for arm in table.arms:
        cells = [arm.cells.get(metric.name) for metric in table.metrics]
        rows.append([arm.label, str(len(arm.runs)), *(_cell(cell, arm) for cell in cells)])
    return header, rows


def _cell(cell: MetricCell | None, arm: ArmResult) -> str:
    if cell is None:
        return ""
    text = latex_number(mean_text(cell) + n_text(cell, len(arm.runs)))
    text = rf"\textbf{{{text}}}" if cell.best else text
    marks = (r"\dagger" if cell.not_worse else "") + ("*" if is_significant(cell) else "")
    return text + (f"$^{{{marks}}}$" if marks else "")


def _differences(table: ResultTable) -> tuple[str, list[str], list[list[str]]]:
    cells = [(arm, cell) for arm, cell in table.cells() if cell.difference is not None]
    with_margin = any(cell.equivalent is not None for _, cell in cells)
    with_exact = any(cell.exact_p is not None for _, cell in cells)
    with_examples = any(cell.crossed_interval is not None for _, cell in cells)
    header = ["", "metric", "difference", r"95 \% interval", "$p$", "$p$ (Holm)"]
    header += ["$p$ (exact)"] * with_exact + ["equivalent"] * with_margin + ["seeds and examples"] * with_examples
    rows = []
    for arm, cell in cells:
        assert cell.difference is not None, "rows without a difference were left out"
        numbers = [signed(cell.difference), interval_text(cell.interval), p_text(cell.p), p_text(cell.p_adjusted)]
        row = [arm.label, latex(cell.metric), *map(latex_number, numbers)]
        row += [latex_number(p_text(cell.exact_p))] * with_exact
        row += [latex(equivalence_text(cell.equivalent))] * with_margin
        row += [latex_number(interval_text(cell.crossed_interval))] * with_examples
        rows.append(row)
    return f"differences to {table.baseline}", *_without_single_metric(table, header, rows)


def _ranges(table: ResultTable) -> tuple[str, list[str], list[list[str]]]:
    rows = []
    for arm, cell in table.cells():
        numbers = [number(each) if each is not None else "" for each in (cell.median, cell.minimum, cell.maximum)]
        rows.append([arm.label, latex(cell.metric), str(cell.n), *map(latex_number, numbers)])
    header = ["", "metric", "n", "median", "min", "max"]
    return "median, smallest and largest value", *_without_single_metric(table, header, rows)


def _without_single_metric(
    table: ResultTable, header: list[str], rows: list[list[str]]
) -> tuple[list[str], list[list[str]]]:
    """If there is only one metric, drop the column with its name, and put the name into the first heading."""
    if len(table.metrics) != 1:
        return header, rows
    return [latex(table.metrics[0].name), *header[2:]], [[row[0], *row[2:]] for row in rows]


# -- tabulars ----------------------------------------------------------------------------------------------------


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]], ids: Sequence[str]) -> Iterator[str]:
    """Yield a tabular, or several one below the other if the columns are too wide for a line.

    Args:
        header: the headings of the columns, as LaTeX.
        rows: rows, each with its label as plain text and its fields as LaTeX.
        ids: comments for the ends of the rows; empty for none.
    """
    longest = max(len(header[0]), *(len(row[0]) for row in rows))
    broken = longest > _LONGEST_LABEL
    first = rf"p{{{_LABEL_SHARE}\linewidth}}" if broken else "l"
    used = (_LABEL_SHARE * _LINE if broken else longest * _CHARACTER) + _GAP
    for number_of_part, columns in enumerate(_parts(header, rows, _LINE - used)):
        if number_of_part:
            yield r"\par\medskip"
        yield rf"\begin{{tabular}}{{{first}{'r' * len(columns)}}}"
        yield r"\toprule"
        yield " & ".join([header[0], *(header[column] for column in columns)]) + r" \\"
        yield r"\midrule"
        for number_of_row, row in enumerate(rows):
            label = rf"\raggedright {latex(row[0], breakable=True)}" if broken else latex(row[0])
            end = f" {comment(ids[number_of_row])}" if ids else ""
            yield " & ".join([label, *(row[column] for column in columns)]) + rf" \\{end}"
        yield r"\bottomrule"
        yield r"\end{tabular}"


def _parts(header: Sequence[str], rows: Sequence[Sequence[str]], room: float) -> list[list[int]]:
    """Divide the columns after the first into parts of at most `room` pt. Each part has at least one column."""
    parts: list[list[int]] = [[]]
    used = 0.0
    for column in range(1, len(header)):
        longest = max(_length(row[column]) for row in (header, *rows))
        width = longest * _CHARACTER + _GAP
        if parts[-1] and used + width > room:
            parts.append([])
            used = 0.0
        parts[-1].append(column)
        used += width
    return parts


def _length(source: str) -> int:
    """Return about how many characters LaTeX prints for some source."""
    return len(re.sub(r"\\[a-z]+|[\\{}$^]", "", source.replace(r"\pm", "+")))
