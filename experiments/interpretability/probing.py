"""Probes every layer of several encoders on named entities, sentiment and acceptability, and prints one table.

    python experiments/interpretability/probing.py --encoder minilm=MODEL --encoder novels=runs/novels/pretraining \\
        --output probing

`BERT_LIGHTNING_DATA` names the folder of data. Each encoder is compared with three encoders of its architecture that
have random weights. For each encoder and each data set, `--output` gets the numbers and a page. What is there already
is not computed again. An L6 H384 encoder took 82 s of one core on wnut17-entities.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Name -> options of the command.
_DATA_SETS: dict[str, tuple[str, str, Sequence[str]]] = {
    "wnut17": ("wnut17", "ner/wnut17", ()),
    "wnut17-entities": ("wnut17", "ner/wnut17", ("--leave-out", "O")),
    "sst2": ("glue/sst2", "glue/SST-2", ()),
    "cola": ("glue/cola", "glue/CoLA", ()),
}


def main() -> None:
    """Probe what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", action="append", required=True, metavar="NAME=CHECKPOINT", help="repeatable")
    parser.add_argument("--data-set", nargs="+", choices=_DATA_SETS, default=list(_DATA_SETS), help="default: all")
    parser.add_argument("--max-items", type=int, default=5000, help="words or texts of each split (default: 5000)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="default: 1 2 3")
    parser.add_argument("--output", type=Path, required=True, help="folder for numbers and pages")
    parser.add_argument("--dry-run", action="store_true", help="print the commands that are missing")
    arguments = parser.parse_args()
    data = os.environ.get("BERT_LIGHTNING_DATA")
    if data is None:
        sys.exit("BERT_LIGHTNING_DATA is not set")
    arguments.output.mkdir(parents=True, exist_ok=True)
    reports: dict[tuple[str, str], Mapping[str, Any]] = {}
    for encoder in arguments.encoder:
        name, equals, checkpoint = encoder.partition("=")
        if not equals:
            sys.exit(f"--encoder is {encoder}; it must be NAME=CHECKPOINT")
        for data_set in arguments.data_set:
            file = arguments.output / f"{name}-{data_set}.json"
            command = command_of(checkpoint, data_set, data, arguments.max_items, arguments.seeds, file)
            if not file.exists():
                print("bert-lightning", *command[3:], flush=True)
                if arguments.dry_run:
                    continue
                printed = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
                file.write_bytes(printed)
            reports[name, data_set] = json.loads(file.read_text(encoding="utf-8"))
    print(*table(reports), sep="\n")


def command_of(
    checkpoint: str, data_set: str, data: str, max_items: int, seeds: Sequence[int], file: Path
) -> list[str]:
    """Return the command of one encoder and data set, which prints JSON and writes a page."""
    name, folder, options = _DATA_SETS[data_set]
    return [
        *(sys.executable, "-m", "bert_lightning", "probe", "--checkpoint", checkpoint),
        *("--data.dataset", name, "--data.folder", str(Path(data, folder)), *options),
        *("--max-items", str(max_items), "--seeds", *map(str, seeds)),
        *("--json", "--output", str(file.with_suffix(".html"))),
    ]


def table(reports: Mapping[tuple[str, str], Mapping[str, Any]]) -> Iterator[str]:
    """Yield a Markdown table: a row per encoder, data set and layer."""
    yield "| encoder | data | layer | accuracy [95 %] | macro F1 | selectivity [95 %] | random encoder | majority |"
    yield "|---|---|---|---|---|---|---|---|"
    for (encoder, data_set), report in reports.items():
        for layer in report["layers"]:
            random = layer["random_encoder"]
            cells = [
                encoder,
                data_set,
                str(layer["layer"]),
                _interval(layer["accuracy"]),
                f"{layer['macro_f1']:.3f}",
                _interval(layer["selectivity"]),
                f"{sum(random) / len(random):.3f}",
                f"{report['majority']:.3f}",
            ]
            yield f"| {' | '.join(cells)} |"


def _interval(values: Mapping[str, float]) -> str:
    return f"{values['value']:.3f} [{values['low']:.3f}, {values['high']:.3f}]"


if __name__ == "__main__":
    main()
