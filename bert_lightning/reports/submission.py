"""The command `submission`: zip the predictions of several runs for the GLUE leaderboard."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from bert_lightning.checkpoints.files import write_atomically
from bert_lightning.checkpoints.listing import matches
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory

# Name of each file -> number of examples in its test set. gluebenchmark.com, "How do I submit", asks for exactly
# these files, at the top of the archive.
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
    """Zip the `.tsv` files that the command `test` wrote in some runs.

    Args:
        runs: run directories, which together have all files of `FILES`.
        output: the zip file.

    Returns:
        The path of each file, in the order of `FILES`.

    Raises:
        InputError: the output does not end in .zip, or a file is missing, exists twice, or does not have one line per
            example.
    """
    if output.suffix != ".zip":
        raise InputError(f"--output is {output}; a submission ends in .zip")
    files: dict[str, Path] = {}
    for run in runs:
        directory = RunDirectory(run)
        directory.read_config()
        for path in matches("*/*.tsv", directory.predictions):
            if path.stem in FILES:
                if path.stem in files:
                    raise InputError(f"{path.stem}.tsv exists twice: {files[path.stem]} and {path}")
                files[path.stem] = path
    missing = [name for name in FILES if name not in files]
    if missing:
        raise InputError(
            f"the submission lacks {', '.join(f'{name}.tsv' for name in missing)}: run `bert-lightning test` on the "
            "test sets of these tasks (AX with the MNLI run and --data.dataset glue/ax)"
        )
    for name, size in FILES.items():
        lines = files[name].read_text(encoding="utf-8").splitlines()
        if len(lines) != size + 1:
            raise InputError(f"{files[name]}: {len(lines) - 1:,} predictions, but the test set has {size:,} examples")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in FILES:
            # The date is fixed, so that equal predictions make equal archives.
            archive.writestr(zipfile.ZipInfo(f"{name}.tsv", (1980, 1, 1, 0, 0, 0)), files[name].read_bytes())
    write_atomically(output, lambda file: file.write(buffer.getvalue()))
    return [files[name] for name in FILES]
