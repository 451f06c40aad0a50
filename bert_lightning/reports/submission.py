"""The files of a GLUE submission out of the runs that predicted them."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from bert_lightning.checkpoints.files import write_atomically
from bert_lightning.checkpoints.listing import matches
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory

# gluebenchmark.com, "How do I submit": exactly these, at the top of the archive -> the examples of each test set.
FILES = {
    "AX": 1104,
    "CoLA": 1063,
    "MNLI-m": 9796,
    "MNLI-mm": 9847,
    "MRPC": 1725,
    "QNLI": 5463,
    "QQP": 390965,
    "RTE": 3000,
    "SST-2": 1821,
    "STS-B": 1379,
    "WNLI": 146,
}


def write_submission(runs: Sequence[Path], output: Path) -> list[Path]:
    """Zip the `.tsv` files that `test` wrote; where each came from, in the order of `FILES`.

    Raises:
        InputError: a task has no file, two runs have one, or one has not a line for each example.
    """
    if output.suffix != ".zip":
        raise InputError(f"--output {output}: a submission ends in .zip")
    found: dict[str, Path] = {}
    for run in runs:
        directory = RunDirectory(run)
        directory.read_config()
        for path in matches("*/*.tsv", directory.predictions):
            if path.stem in FILES:
                if path.stem in found:
                    raise InputError(f"{path.stem}.tsv is there twice: {found[path.stem]} and {path}")
                found[path.stem] = path
    missing = [name for name in FILES if name not in found]
    if missing:
        raise InputError(
            f"the submission lacks {', '.join(f'{name}.tsv' for name in missing)}: run `bert-lightning test` on the "
            "test sets of these tasks (AX with the MNLI run and --data.dataset glue/ax)"
        )
    for name, size in FILES.items():
        lines = found[name].read_text(encoding="utf-8").splitlines()
        if len(lines) != size + 1:
            raise InputError(f"{found[name]}: {len(lines) - 1:,} predictions, but the test set has {size:,} examples")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in FILES:
            # A fixed date, so that equal predictions make equal archives.
            archive.writestr(zipfile.ZipInfo(f"{name}.tsv", (1980, 1, 1, 0, 0, 0)), found[name].read_bytes())
    write_atomically(output, lambda file: file.write(buffer.getvalue()))
    return [found[name] for name in FILES]
