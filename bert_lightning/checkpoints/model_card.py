"""The model card, `README.md`, which model hubs show: the model, and the run that made it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.digests import weights_digest
from bert_lightning.checkpoints.files import write_text
from bert_lightning.checkpoints.plain_text import markdown, markdown_block, markdown_code
from bert_lightning.checkpoints.provenance import Provenance

CARD = "README.md"
_MARK = "- bert_lightning"
# transformers class -> the hub's name of its task.
_PIPELINES = {
    "BertForPreTraining": "fill-mask",
    "BertForMaskedLM": "fill-mask",
    "BertForSequenceClassification": "text-classification",
    "BertForTokenClassification": "token-classification",
    "BertForQuestionAnswering": "question-answering",
    "BertForMultipleChoice": "multiple-choice",
    "BertModel": "feature-extraction",
}


def write_card(
    checkpoint: Checkpoint,
    architecture: str,
    folder: Path,
    *,
    published: bool,
    notes: Sequence[str] = (),
    measured: Sequence[str] = (),
) -> None:
    """Write the card of a model, unless the folder has a card that somebody else wrote.

    `notes` are sentences that explain how to compute predictions from the outputs. `measured` are lines about what
    rounded weights lose and gain. The card does not name the folder.
    """
    path = folder / CARD
    if path.is_file() and _MARK not in path.read_text(encoding="utf-8", errors="replace").splitlines():
        return
    text = "\n".join(_lines(checkpoint, architecture, published, notes, measured)) + "\n"
    # A path may hold bytes that are not Unicode.
    write_text(path, text.encode(errors="replace").decode())


def _lines(
    checkpoint: Checkpoint, architecture: str, published: bool, notes: Sequence[str], measured: Sequence[str]
) -> Iterable[str]:
    digest = weights_digest(checkpoint.tensors)
    yield "---"
    yield f"library_name: {'transformers' if published else 'bert_lightning'}"
    if published and architecture in _PIPELINES:
        yield f"pipeline_tag: {_PIPELINES[architecture]}"
    yield from ("tags:", "- bert", _MARK, "---", "", f"# {architecture}", "")
    num_parameters = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    yield f"{architecture} with {num_parameters:,} parameters, written by bert_lightning."
    yield ""
    config = {key: value for key, value in checkpoint.config.items() if value not in (None, {})}
    yield from _table(("setting", "value"), {"SHA-256 of the weights": digest, **config})
    labels = checkpoint.task_settings.get("labels")
    if labels is not None:
        yield from ("", f"Labels, in order: {', '.join(markdown(str(label)) for label in labels)}.")
    if notes:
        yield from ("", "## Predictions", "", *notes)
    if measured:
        yield from ("", "## Rounded weights", "", *measured)
    if checkpoint.provenance is not None:
        yield from _origin(checkpoint.provenance, unchanged=checkpoint.provenance.digest == digest)


def _origin(provenance: Provenance, *, unchanged: bool) -> Iterable[str]:
    """Yield lines about the run that made these weights, or about the weights that they were changed from."""
    if unchanged and provenance.scores:
        yield from ("", "## Scores", "")
        yield from _table(("metric", "value"), {name: f"{value:.4f}" for name, value in provenance.scores.items()})
    yield from ("", "## How it was made" if unchanged else "## What it was made from", "")
    revision = f", revision {provenance.revision}" if provenance.revision else ""
    yield f"{'Read' if unchanged else 'Changed'} from {markdown(str(provenance.source))}{revision}."
    if not unchanged:
        yield from ("", f"Those weights have the SHA-256 {provenance.digest}.")
    if provenance.manifest is not None:
        yield from _run(provenance.manifest)
    if provenance.settings:
        yield from ("", "The resolved configuration, which `bert-lightning fit --config` repeats:", "")
        yield markdown_block(provenance.settings.rstrip(), "yaml")


def _run(manifest: dict[str, Any]) -> Iterable[str]:
    about = {key: manifest.get(key, "unknown") for key in ("run_id", "experiment", "seed")}
    run, experiment = (markdown_code(str(about[key])) for key in ("run_id", "experiment"))
    yield from ("", f"Run {run} of the experiment {experiment}, seed {about['seed']}.", "")
    for session in manifest.get("sessions", []):
        hardware, git = session.get("hardware", {}), session.get("git")
        code = (
            f"commit {git.get('commit')}{' with changes' if git.get('modified') else ''}" if git else "no repository"
        )
        machine = ", ".join([str(hardware.get("processor", "unknown")), *hardware.get("gpus", [])])
        versions = ", ".join(f"{package} {version}" for package, version in session.get("versions", {}).items())
        command = markdown_code(str(session.get("command")))
        yield f"- {session.get('started')}: {command} on {machine}; {code}; {versions}"
    data = manifest.get("data", {})
    if data:
        yield from ("", "Fingerprints of what it was trained on:", "")
        yield from _table(("data", "SHA-256"), data)


def _table(head: tuple[str, str], rows: Mapping[str, object]) -> Iterable[str]:
    yield from (f"| {head[0]} | {head[1]} |", "|---|---|")
    yield from (f"| {markdown(str(key))} | {markdown(str(value))} |" for key, value in rows.items())
