"""Guard against slower code: compare the ratios in a folder of results with the committed ones.

    make bench RESULTS=FOLDER
    python experiments/benchmarks/guard.py FOLDER [--against FOLDER] [--tolerance 0.2]

Only ratios are compared, never times, because ratios are similar on similar machines. A ratio is larger if ours is
faster. Files that the folder lacks are skipped, but a ratio that is missing in a file counts as fallen. The exit
status is 1 if a ratio fell by more than the tolerance, and each such ratio is printed.
"""

import argparse
import json
import math
import sys
from pathlib import Path

from bert_lightning.checkpoints.listing import files_below

COMMITTED = Path(__file__).resolve().parent / "results"


def ratios_of(folder: Path) -> dict[str, dict[str, float]]:
    """Return file -> ratios, for all results in a folder and its subfolders."""
    ratios = {}
    for path in files_below(folder):
        if path.suffix != ".json":
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and isinstance(content.get("ratios"), dict):
            ratios[path.relative_to(folder).as_posix()] = content["ratios"]
    return ratios


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


def main() -> int:
    """Compare, and return the exit status: 0, 1 if a ratio fell, 2 if there is nothing to compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", type=Path, default=COMMITTED, metavar="FOLDER")
    parser.add_argument("--tolerance", type=float, default=0.2, metavar="SHARE")
    options = parser.parse_args()
    measured, committed = ratios_of(options.folder), ratios_of(options.against)
    common = measured.keys() & committed.keys()
    if not common:
        print(f"guard.py: {options.folder} and {options.against} have no results in common", file=sys.stderr)
        return 2
    lines = fallen(measured, committed, options.tolerance)
    print(*lines, sep="\n", end="\n" if lines else "")
    num_ratios = sum(len(committed[file]) for file in common)
    print(f"{len(lines)} of {num_ratios} ratios in {len(common)} files fell by more than {options.tolerance:.0%}")
    return int(bool(lines))


if __name__ == "__main__":
    raise SystemExit(main())
