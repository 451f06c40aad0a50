"""Tables of docs/performance.md, made from the results that `make bench` wrote, so that no figure is typed by hand.

    python experiments/benchmarks/tables.py            prints the tables
    python experiments/benchmarks/tables.py --write    puts them into the page

In the page, a table stands between `<!-- table: NAME -->` and `<!-- end of table -->`. A figure that the results lack
is a dash.
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results", HERE.parents[1] / "docs/performance.md"
MISSING = "–"
# File -> what its column is called.
SIZES = {"mini": "L4 H256, 32 × 128", "small": "L4 H512, 32 × 128", "base": "base, 16 × 128"}
TASKS = {"sst2": "SST-2", "mrpc": "MRPC", "squad": "SQuAD v1.1"}
PADDINGS = {"dynamic": "to the longest", "multiple": "to a multiple of 8", "maximum": "to the limit"}
_TABLE = re.compile(r"(?<=<!-- table: )(\w+)( -->\n).*?(?=<!-- end of table -->)", re.DOTALL)


class Results:
    """The results in a folder.

    Args:
        folder: the folder that `make bench` writes to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, name: str) -> dict[str, Any]:
        """Return the content of a file, given without `.json`; empty if there is none."""
        path = self._folder / f"{name}.json"
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return content


def value(content: object, *keys: str) -> Any:
    """Return what stands under nested keys, or None."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def cell(number: float | None, form: str = ".1f", unit: str = "") -> str:
    """Format a figure.

    >>> cell(3.14159), cell(1234.5, ",.0f"), cell(0.081, ".0%"), cell(None)
    ('3.1', '1,234', '8 %', '–')
    """
    return MISSING if number is None else f"{number:{form}}{unit}".replace("%", " %")


def with_spread(middle: float | None, between: Sequence[float] | None) -> str:
    """Format a ratio with its middle half.

    >>> with_spread(3.04, [2.9, 3.2]), with_spread(3.04, None)
    ('3.0 (2.9–3.2)', '3.0')
    """
    return cell(middle) + (f" ({between[0]:.1f}–{between[1]:.1f})" if between else "")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(results: Results) -> str:
    """Say on which machine and with which versions the pre-training of mini was measured."""
    at = results["pretraining_step-mini"].get("machine", {})
    versions = ", ".join(f"{name} {number}" for name, number in at.get("versions", {}).items())
    gpu = at.get("gpu") or "no GPU"
    return markdown(
        ["processor", "cores", "threads", "GPU", "Python", "versions"],
        [[*(str(at.get(name, MISSING)) for name in ("processor", "cores", "threads")), gpu, at["python"], versions]]
        if at
        else [[MISSING] * 6],
    )


def pretraining(results: Results) -> str:
    """Compare `fit` with transformers for each size of model."""
    plain = {size: results[f"pretraining_step-{size}"] for size in SIZES}
    # A compiled contender takes long to begin, and may have been measured apart.
    compiled = {
        size: each if value(each := results[f"compiled/pretraining_step-{size}"], "ratios") else plain[size]
        for size in SIZES
    }

    def row(name: str, of_size: Callable[[str], str]) -> list[str]:
        return [name, *(of_size(size) for size in SIZES)]

    def rate(contender: str) -> Callable[[str], str]:
        return lambda size: cell(value(plain[size], "contenders", contender, "tokens_per_second"), ",.0f")

    def times(contents: dict[str, dict[str, Any]], contender: str) -> Callable[[str], str]:
        def text(size: str) -> str:
            ratios = value(contents[size], "ratios", contender)
            return with_spread(ratios, value(contents[size], "ratio_spread", contender))

        return text

    return markdown(
        ["", *SIZES.values()],
        [
            row("`fit`, real tokens/s", rate("fit")),
            row("its step alone, real tokens/s", rate("ours")),
            row("share of the ceiling", lambda size: cell(value(plain[size], "ceiling_share"), ".0%")),
            row("times as fast as transformers", times(plain, "transformers")),
            row("the same, transformers with fused AdamW", times(plain, "transformers_fused")),
            row("the same, also compiled and padded to 64", times(compiled, "transformers_compiled")),
            row("what fresh shapes cost", lambda size: cell(value(plain[size], "shape_cost", "median"), ".1%")),
        ],
    )


def finetuning(results: Results) -> str:
    """Compare the fine-tuning of each task, from step to step and as a whole."""
    rows = []
    for task, name in TASKS.items():
        content = results[f"finetuning-{task}"]
        ratios = content.get("ratios", {})
        rows.append(
            [
                name,
                cell(value(content, "contenders", "ours", "training"), ".1f", " s"),
                *(cell(ratios.get(f"{padding}, training"), ".1f", " ×") for padding in PADDINGS),
                cell(value(content, "contenders", "ours", "whole"), ".1f", " s"),
                cell(ratios.get("dynamic, whole"), ".1f", " ×"),
            ]
        )
    header = ["", "ours, steps", *PADDINGS.values(), "ours, whole", "to the longest, whole"]
    return markdown(header, rows)


def inference(results: Results) -> str:
    """Compare `predict` and `features` with loops over transformers, in both precisions."""
    rows = []
    for precision, file in {"float32": "inference", "bfloat16": "inference-bf16"}.items():
        content = results[file]
        for operation in ("predict", "features"):
            for kind in ("phrases", "paragraphs"):
                row = f"{operation}, {kind}"
                rate = value(content, "texts_per_second", f"{row}, ours", "median")
                spreads = content.get("ratio_spread", {})
                ratios = [f"{row}, transformers", f"{row}, transformers_sorted"]
                rows.append(
                    [
                        f"`{operation}`, {kind}, {precision}",
                        cell(rate, ",.0f"),
                        *(with_spread(value(content, "ratios", name), spreads.get(name)) for name in ratios),
                    ]
                )
    return markdown(["", "texts/s", "times transformers", "times transformers, sorted by length"], rows)


def memory(results: Results) -> str:
    """Show the memory of a training at two steps."""
    content, rows = results["memory"], []
    for model in ("demo", "mini"):
        for step, noted in (value(content, "models", model, "gigabytes") or {MISSING: {}}).items():
            figures = [cell(noted.get(name), ".2f") for name in ("resident", "peak")]
            rows.append([model, f"{int(step):,}" if step != MISSING else step, *figures])
    return markdown(["model", "after step", "resident, GB", "peak, GB"], rows)


TABLES: dict[str, Callable[[Results], str]] = {
    "machine": machine,
    "pretraining": pretraining,
    "finetuning": finetuning,
    "inference": inference,
    "memory": memory,
}


def filled(page: str, results: Results) -> str:
    """Return a page with its tables made anew.

    Raises:
        KeyError: the page names a table that does not exist.
    """
    return _TABLE.sub(lambda found: f"{found[1]}{found[2]}\n{TABLES[found[1]](results)}\n\n", page)


def main() -> None:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into the page")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE")
    options = parser.parse_args()
    results = Results(options.results)
    if options.write:
        options.page.write_text(filled(options.page.read_text(encoding="utf-8"), results), encoding="utf-8")
        return
    for name, table in TABLES.items():
        print(f"{name}\n\n{table(results)}\n")


if __name__ == "__main__":
    main()
