"""The origin of a checkpoint: its source, and the run that made it."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from bert_lightning.checkpoints.digests import weights_digest
from bert_lightning.checkpoints.run_files import MANIFEST, METRICS, SETTINGS


@dataclass(frozen=True)
class Provenance:
    """The origin of weights that were read.

    Attributes:
        source: the name of the file, folder or hub model.
        digest: SHA-256 of the weights, as `weights_digest` gives it.
        name: path or hub name that the user gave.
        revision: commit of the hub model.
        manifest: manifest of the run that made them, if a run did.
        settings: the resolved configuration of that run, as YAML.
        scores: validation and test scores that the run logged at this checkpoint's step.
    """

    source: str
    digest: str
    name: str
    revision: str | None = None
    manifest: dict[str, Any] | None = None
    settings: str = ""
    scores: dict[str, float] = field(default_factory=dict)


def provenance_of(path: Path, tensors: dict[str, Tensor], revision: str | None, name: str) -> Provenance:
    """Return the provenance of a checkpoint.

    Args:
        path: file or folder that it was read from.
        tensors: its weights.
        revision: commit of the hub model.
        name: path or hub name that the user gave.
    """
    digest = weights_digest(tensors)
    source = path.name if revision is None else name
    run = path.parent.parent
    if path.parent.name != "checkpoints" or not (run / MANIFEST).is_file():
        return Provenance(source, digest, name, revision)
    try:
        manifest = json.loads((run / MANIFEST).read_text(encoding="utf-8"))
    except (ValueError, OSError):
        # The weights can be used without the manifest.
        return Provenance(source, digest, name, revision)
    settings = run / SETTINGS
    text = settings.read_text(encoding="utf-8", errors="replace") if settings.is_file() else ""
    manifest = manifest if isinstance(manifest, dict) else None
    return Provenance(f"{run.name}, {source}", digest, name, revision, manifest, text, _scores(run / METRICS, path))


def _scores(metrics: Path, checkpoint: Path) -> dict[str, float]:
    """Return the latest of each validation and test score that was logged at the checkpoint's step."""
    number = re.fullmatch(r"step-(\d+)", checkpoint.stem)
    scores: dict[str, float] = {}
    if number is None or not metrics.is_file():
        return scores
    for line in metrics.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("step") == int(number[1]):
            scores |= {n: v for n, v in row.items() if n.startswith(("val/", "test/")) and isinstance(v, int | float)}
    return scores
