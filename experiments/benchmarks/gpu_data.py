"""The data that the suite for a GPU needs, as one archive of some 30 MB.

In the archive is a folder like that which BERT_LIGHTNING_DATA names, with the folder `stores` in addition.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import generated
from gpu_jobs import ROOT

ARCHIVE, WHEELS = "data.tgz", "wheels"
# As in `experiments/novels/pretraining.yaml`.
HELD_OUT = ("Doyle_Hound*", "Woolf_Night*", "Cbronte_Jane*", "James_Amb*")
# Megabytes of novels from which the rows of the benchmark draw their batches.
TEXT = 2.5
COPIED = ("glue/SST-2/train.tsv", "glue/SST-2/dev.tsv", "squad/train-v1.1.json", "squad/dev-v1.1.json")
VOCABULARY = "vocab/bert-base-uncased.txt"
# Packages that machines with a GPU often lack. They are pure or small; everything else needs an index.
LACKING = ("jsonargparse", "sentencex")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def write_archive(out: Path, source: Path | None) -> None:
    """Write the archive.

    Args:
        out: the folder for it.
        source: the folder of the real data; None generates a tiny form.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if source is None:
            _generate(folder)
            novels = sorted((folder / "novels").iterdir())
            _prepare(folder, "train", novels)
            _prepare(folder, "validation", novels[:1])
        else:
            _copy(source, folder)
            held_out = sorted(path for pattern in HELD_OUT for path in (source / "novels").glob(f"{pattern}.txt"))
            novels = sorted(path for path in (source / "novels").glob("*.txt") if path not in held_out)
            _prepare(folder, "train", novels)
            _prepare(folder, "validation", held_out)
        with tarfile.open(out / ARCHIVE, "w:gz") as archive:
            archive.add(folder, ".")


def download_wheels(out: Path, python_version: str) -> None:
    """Download the packages that machines with a GPU often lack, as wheels for their version of Python."""
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.split("==")[0] in LACKING]
    platforms = [argument for name in PLATFORMS for argument in ("--platform", name)]
    command = ["pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--implementation", "cp", *platforms]
    _run([*command, "--python-version", python_version, "--dest", str(out / WHEELS), *pins])


def unpack(prepared: Path, folder: Path) -> None:
    """Unpack the archive, unless an earlier command of the suite has done it."""
    if not folder.exists():
        with tarfile.open(prepared / ARCHIVE) as archive:
            archive.extractall(folder, filter="data")


def install_wheels(prepared: Path, site: Path) -> None:
    """Install the downloaded wheels into a folder, without an index."""
    wheels = sorted(map(str, (prepared / WHEELS).glob("*.whl")))
    if wheels:
        command = ["pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade"]
        _run([*command, "--target", str(site), *wheels])


def _copy(source: Path, folder: Path) -> None:
    novels = sorted((source / "novels").glob("*.txt"))
    sizes = accumulate(path.stat().st_size / 1e6 for path in novels)
    some = [path for path, size in zip(novels, sizes, strict=True) if size <= TEXT]
    for path in [*(source / name for name in (*COPIED, VOCABULARY)), *some]:
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def _generate(folder: Path) -> None:
    for name in ("novels", "glue/SST-2", "squad", "vocab"):
        (folder / name).mkdir(parents=True)
    (folder / VOCABULARY).write_text("\n".join(generated.vocabulary().entries) + "\n", encoding="utf-8")
    for number in range(2):
        generated.write_corpus(folder / "novels" / f"{number}.txt", generated.documents(number, 6, 20))
    generated.write_sst2(folder / "glue/SST-2", 80, 20)
    generated.write_squad(folder / "squad", 8, 2)


def _prepare(folder: Path, split: str, novels: Sequence[Path]) -> None:
    command = ["bert_lightning", "prepare", "--input", *map(str, novels), "--tokenizer", str(folder / VOCABULARY)]
    _run([*command, "--output", str(folder / "stores" / split)])


def _run(module: Sequence[str]) -> None:
    subprocess.run([sys.executable, "-m", *module], check=True, cwd=ROOT)
