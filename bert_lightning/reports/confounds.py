"""Differences between arms besides their axis: versions, commit, data, hardware, precision, steps done.

A difference is known by its values per arm. It is a consequence if an axis or an earlier stage of the study explains
it, as a vocabulary explains other data. All others are confounds: the arms may differ because of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from bert_lightning.reports.arms import Arm, Layout
from bert_lightning.reports.results import Confound, MetricCell
from bert_lightning.runs.resuming import MAY_CHANGE
from bert_lightning.studies.comparison import Run, without_seed

# Prefixes of axes -> they explain these differences.
_CHANGES_DATA = tuple(
    f"data.{key}"
    for key in (
        "dataset", "folder", "train", "validation", "test", "tokenizer", "cased", "problem", "max_train_samples",
        "max_evaluation_samples", "text_column", "text_pair_column", "label_column", "column_names",
    )
)  # fmt: skip
_CHANGES_HARDWARE = tuple(
    f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy", "tensor_parallel_size")
)
# Replay adds training examples.
_CONTINUAL = "continual."
_CHANGES_STEPS = ("trainer.max_", "data.", "early_stopping.", _CONTINUAL)
_CHANGES_MODEL = ("model.", "distillation.", "tuning.", _CONTINUAL, "sequence.")
# Keys of a configuration that name places, which an earlier stage of a study sets anew for each seed.
_UPSTREAM = ("model.pretrained", "distillation.teacher", "data.tokenizer", "sequence.previous")
_SHOWN_ELSEWHERE = ("trainer.precision", "task")
_HARDWARE = ("processor", "gpus", "threads")
_LONGEST_DIGEST = 12
_SETTING = "setting "


def confounds_of(layout: Layout, cells: Sequence[Mapping[str, MetricCell]]) -> list[Confound]:
    """Return what the arms of a table differ in besides their axes.

    Args:
        layout: the arms.
        cells: the cells of each metric by the label of their arm, which say what checkpoint was scored.
    """
    arms = [arm for arm in layout.arms if arm.runs]
    recorded = {arm.label: _recorded(arm, layout) for arm in arms}
    for by_arm in cells:
        for label, cell in by_arm.items():
            if cell.scored is not None and label in recorded:
                what = f"checkpoint that {cell.metric.partition('/')[0]}/ metrics score"
                recorded[label].setdefault(what, set()).add(cell.scored)
    axes = _axes(arms)
    found = []
    for what in dict.fromkeys(what for values in recorded.values() for what in values):
        values = {label: tuple(sorted(of_arm.get(what, {"not recorded"}))) for label, of_arm in recorded.items()}
        # A circumstance that older runs do not record is unknown, not different.
        known = {each for each in values.values() if each != ("not recorded",)}
        if len(known) > 1:
            reason = _explanation(what, axes, arms, layout)
            # That an axis differs, and what its choices bring with them, needs no word.
            if reason is None or not what.startswith(_SETTING):
                found.append(Confound(what, values, reason))
    return found


def _axes(arms: Sequence[Arm]) -> list[str]:
    """Return the keys in which arms differ by design, without the name of a stage before them."""
    keys = dict.fromkeys(key for arm in arms for key in arm.values)
    differing = [key for key in keys if len({repr(arm.values.get(key)) for arm in arms}) > 1]
    return [key.rpartition("/")[2] for key in differing]


def _recorded(arm: Arm, layout: Layout) -> dict[str, set[str]]:
    """Return the circumstances of an arm's runs: what is recorded -> its values."""
    values: dict[str, set[str]] = {}
    for run in arm.runs:
        for what, value in _of_run(run):
            values.setdefault(what, set()).add(value)
        if layout.record is not None:
            for key, setting in without_seed(run.config).items():
                if key not in _SHOWN_ELSEWHERE and key not in MAY_CHANGE:
                    values.setdefault(f"{_SETTING}{key}", set()).add(str(setting))
    return values


def _of_run(run: Run) -> Iterator[tuple[str, str]]:
    for session in run.manifest.get("sessions", []):
        for name, version in session.get("versions", {}).items():
            yield f"version of {name}", str(version)
        hardware = session.get("hardware", {})
        for name in _HARDWARE:
            if name in hardware:
                yield name, _text(hardware[name])
        git = session.get("git") or {}
        if git.get("commit"):
            yield "commit", str(git["commit"])[:_LONGEST_DIGEST]
        if "modified" in git:
            yield "uncommitted changes", _changes(git)
    for split, fingerprint in run.manifest.get("data", {}).items():
        yield f"data: {split}", str(fingerprint)[:_LONGEST_DIGEST]
    if run.config.get("trainer", {}).get("precision") is not None:
        yield "precision", str(run.config["trainer"]["precision"])
    if "step" in run.manifest:
        yield "steps done", f"{run.manifest['step']:,}"


def _changes(git: Mapping[str, object]) -> str:
    patch = git.get("patch_sha256")
    if not git["modified"]:
        return "none"
    return f"patch {str(patch)[:_LONGEST_DIGEST]}" if patch else "some, not recorded"


def _text(value: object) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


def _explanation(what: str, axes: Sequence[str], arms: Sequence[Arm], layout: Layout) -> str | None:
    """Return the axis or the stage of which a difference is a consequence; None for a confound."""
    if what.startswith(_SETTING):
        key = what.removeprefix(_SETTING)
        section = key.rpartition(".")[0]
        # A choice such as `optimizer.name` changes the other keys of its section.
        related = next((axis for axis in axes if axis == key or _is_choice_of(axis, section)), None)
        return related or (_stage_before(arms, layout) if key in _UPSTREAM else None)
    if what in ("data: model", "data: teacher", "data: previous", "data: information"):
        return _axis(axes, _CHANGES_MODEL) or _stage_before(arms, layout)
    if what.startswith("data: "):
        return _axis(axes, _CHANGES_DATA) or (_axis(axes, (_CONTINUAL,)) if what == "data: train" else None)
    if what == "precision":
        return _axis(axes, ("trainer.precision",)) or _axis(axes, _CHANGES_HARDWARE)
    if what in _HARDWARE:
        return _axis(axes, _CHANGES_HARDWARE)
    if what == "steps done":
        stops = any(run.config.get("early_stopping", {}).get("patience") for arm in arms for run in arm.runs)
        return _axis(axes, _CHANGES_STEPS) or ("early_stopping.patience" if stops else None)
    return None


def _axis(axes: Sequence[str], prefixes: tuple[str, ...]) -> str | None:
    return next((axis for axis in axes if axis.startswith(prefixes)), None)


def _is_choice_of(axis: str, section: str) -> bool:
    return axis in (section, f"{section}.name") or section.startswith(f"{axis}.")


def _stage_before(arms: Sequence[Arm], layout: Layout) -> str | None:
    """Return a description of the earlier stage whose runs these runs start from; None if they start elsewhere."""
    if layout.record is None:
        return None
    # A study may have moved since, so only the place within it counts.
    stages = {PurePosixPath(run.directory).parts: run.stage for run in layout.record.runs}
    for arm in arms:
        for run in arm.runs:
            settings = without_seed(run.config)
            for key in _UPSTREAM:
                parts = PurePosixPath(str(settings.get(key) or "")).parts
                for inside, stage in stages.items():
                    if parts[-len(inside) :] == inside:
                        return f"the stage {stage}"
    return None


def confound_text(confound: Confound) -> str:
    """Describe a difference in one line.

    >>> confound_text(Confound("version of torch", {"a": ("2.12",), "b": ("2.12", "2.13"), "c": ("2.12",)}))
    'version of torch: 2.12 (a; c), 2.12 and 2.13 (b)'
    """
    arms: dict[tuple[str, ...], list[str]] = {}
    for label, values in confound.values.items():
        arms.setdefault(values, []).append(label)
    parts = [f"{' and '.join(values)} ({'; '.join(labels)})" for values, labels in arms.items()]
    reason = f"; a consequence of {confound.explained_by}" if confound.explained_by else ""
    return f"{confound.what}: {', '.join(parts)}{reason}"
