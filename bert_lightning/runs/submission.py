"""The files of a GLUE submission out of the runs that predicted them."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from bert_lightning.checkpoints.files import write_atomically
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory

# gluebenchmark.com, "How do I submit": exactly these, at the top of the archive.
FILES = ("AX", "CoLA", "MNLI-m", "MNLI-mm", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "STS-B", "WNLI")


def write_submission(runs: Sequence[Path], output: Path) -> list[Path]:
    """Zip the `.tsv` files that `test` wrote; where each came from, in the order of `FILES`.

    Raises:
        InputError: a task has no file, or two runs have one.
    """
    if output.suffix != ".zip":
        raise InputError(f"--output {output}: a submission ends in .zip")
    found: dict[str, Path] = {}
    for run in runs:
        directory = RunDirectory(run)
        directory.read_config()
        for path in sorted(directory.predictions.glob("*/*.tsv")):
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
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in FILES:
            # A fixed date, so that equal predictions make equal archives.
            archive.writestr(zipfile.ZipInfo(f"{name}.tsv", (1980, 1, 1, 0, 0, 0)), found[name].read_bytes())
    write_atomically(output, lambda file: file.write(buffer.getvalue()))
    return [found[name] for name in FILES]
