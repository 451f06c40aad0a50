"""Guard against slower code: compare the ratios in a folder of results with the committed ones, and check its limits.

    make bench RESULTS=FOLDER
    python experiments/benchmarks/guard.py FOLDER [--against FOLDER] [--tolerance 0.2]

Only ratios are compared, never times, because ratios are similar on similar machines. A ratio is larger if ours is
faster. Files that the folder lacks are skipped, but a ratio that is missing in a file counts as fallen. A limit needs
no committed value, such as 8 % for what fresh shapes cost against repeated ones. The exit status is 1 if a ratio fell
by more than the tolerance or a value is over its limit, and each is printed.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from bert_lightning.checkpoints.listing import files_below

COMMITTED = Path(__file__).resolve().parent / "results"


def results_of(folder: Path, key: str) -> dict[str, dict[str, Any]]:
    """Return file -> what stands under a key, for all results in a folder and its subfolders that have it."""
    results = {}
    for path in files_below(folder):
        if path.suffix != ".json":
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            results[path.relative_to(folder).as_posix()] = content[key]
    return results


def fallen(
    measured: dict[str, dict[str, float]], committed: dict[str, dict[str, float]], tolerance: float
) -> list[str]:
    """Return a line for each ratio below 1 - `tolerance` of the committed one, missing, or not a number."""
    lines = []
    for file in sorted(measured.keys() & committed.keys()):
        for name, before in committed[file].items():
            now = measured[file].get(name)
            if now is None:
                lines.append(f"{file}: {name}: {before:.2f} before, missing now")
            elif math.isnan(now) or now < (1 - tolerance) * before:
                lines.append(f"{file}: {name}: {before:.2f} before, {now:.2f} now ({now / before - 1:+.0%})")
    return lines


def exceeded(limits: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """Return a line for each value above its limit, or not a number."""
    return [
        f"{file}: {name}: {each['value']:.3g}, which is more than {each['limit']:.3g}"
        for file, of_file in sorted(limits.items())
        for name, each in of_file.items()
        if not each["value"] <= each["limit"]
    ]


def main() -> int:
    """Compare, and return the exit status: 0, 1 if something is worse, 2 if there is nothing to compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", type=Path, default=COMMITTED, metavar="FOLDER")
    parser.add_argument("--tolerance", type=float, default=0.2, metavar="SHARE")
    options = parser.parse_args()
    measured, committed = results_of(options.folder, "ratios"), results_of(options.against, "ratios")
    common = measured.keys() & committed.keys()
    if not common:
        print(f"guard.py: {options.folder} and {options.against} have no results in common", file=sys.stderr)
        return 2
    lines = fallen(measured, committed, options.tolerance)
    limits = results_of(options.folder, "limits")
    over = exceeded(limits)
    for line in (*lines, *over):
        print(line)
    num_ratios, num_limits = sum(len(committed[file]) for file in common), sum(map(len, limits.values()))
    print(
        f"{len(lines)} of {num_ratios} ratios in {len(common)} files fell by more than {options.tolerance:.0%}, and "
        f"{len(over)} of {num_limits} values are over their limits"
    )
    return int(bool(lines or over))


if __name__ == "__main__":
    raise SystemExit(main())
