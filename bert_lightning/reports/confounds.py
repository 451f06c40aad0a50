"""Confounds: differences between arms besides their axis, in versions, commit, data, hardware, precision or steps.

A difference is a consequence if an axis or an earlier stage of the study explains it. For example, an axis of
vocabularies explains different data. All other differences are confounds: the scores may differ because of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from bert_lightning.reports.arms import STAGE, Arm, Layout
from bert_lightning.reports.results import Confound, MetricCell
from bert_lightning.runs.resuming import MAY_CHANGE
from bert_lightning.studies.comparison import Run, without_seed

# Prefixes of axes that explain differences in the data, the hardware, the number of steps, and the initial weights.
_CHANGES_DATA = tuple(
    f"data.{key}"
    for key in (
        "dataset", "folder", "train", "validation", "test", "tokenizer", "cased", "problem", "max_evaluation_samples",
        "text_column", "text_pair_column", "label_column", "column_names",
    )
)  # fmt: skip
# Those that explain only other training examples or texts. Replay, pseudo-labels and distillation add some.
_CHANGES_EXAMPLES: dict[str, tuple[str, ...]] = {
    "data: train": (
        *("data.max_train_samples", "data.examples_per_class", "data.examples_seed", "continual.", "pseudo_labels."),
        *("distillation.unlabelled", "distillation.max_samples"),
        *("distillation.teachers", "distillation.teacher_weights"),
    ),
    "data: masked words": (
        *("data.max_train_samples", "data.examples_per_class", "data.examples_seed", "data.validation_per_class"),
        *("masked_words.unlabelled", "masked_words.max_samples"),
    ),
}
_CHANGES_HARDWARE = tuple(
    f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy", "tensor_parallel_size")
)
_CHANGES_STEPS = (
    *("trainer.max_", "data.", "early_stopping.", "continual.", "pseudo_labels."),
    *("distillation.unlabelled", "distillation.max_samples"),
)
_CHANGES_MODEL = ("model.", "distillation.", "tuning.", "continual.", "sequence.")
# Keys whose values are paths, or their beginnings. The paths may differ between seeds because an earlier stage sets
# them.
_UPSTREAM = (
    *("model.pretrained", "distillation.teacher", "pseudo_labels.teachers.", "data.tokenizer", "sequence.previous"),
)
# Fingerprints of models in the manifest, or their beginnings.
_LABELLER = "data: labeller"
_MODELS = (*(f"data: {name}" for name in ("model", "teacher", "previous", "information")), _LABELLER)
_SHOWN_ELSEWHERE = ("trainer.precision", "task")
_HARDWARE = ("processor", "gpus", "threads")
_LONGEST_DIGEST = 12
# If an explained difference has at least this many values in an arm, such as one checkpoint per seed, the text gives
# their number only.
_MANY_VALUES = 3
_SETTING = "setting "


def confounds_of(layout: Layout, cells: Sequence[Mapping[str, MetricCell]]) -> list[Confound]:
    """Return the differences between the arms of a table besides their axes: confounds and consequences.

    Args:
        layout: the table.
        cells: for each metric, label of the arm -> cell, which records the checkpoint that was scored.
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
        # If older runs do not record a circumstance, it is unknown, not different.
        known = {each for each in values.values() if each != ("not recorded",)}
        if len(known) > 1:
            reason = _explanation(what, axes, arms, layout)
            # Settings that an axis explains are not reported, because they are its values.
            if reason is None or not what.startswith(_SETTING):
                found.append(Confound(what, values, reason))
    return found


def _axes(arms: Sequence[Arm]) -> list[str]:
    """Return the keys in which arms differ by design, without the stage that may be in front of a key."""
    keys = dict.fromkeys(key for arm in arms for key in arm.values)
    differing = [key for key in keys if len({repr(arm.values.get(key)) for arm in arms}) > 1]
    return [key.rpartition("/")[2] for key in differing]


def _recorded(arm: Arm, layout: Layout) -> dict[str, set[str]]:
    """Return the circumstances of an arm's runs: name -> values."""
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
    """Return the axis or the stage that explains a difference; None for a confound."""
    if STAGE in axes and what.startswith((_SETTING, *_CHANGES_EXAMPLES, *_MODELS, "steps done")):
        # Stages have experiment files of their own, but they are scored on the same data.
        return STAGE
    if what.startswith(_SETTING):
        key = what.removeprefix(_SETTING)
        section = key.rpartition(".")[0]
        # A choice such as `optimizer.name` changes the other keys of its section.
        related = next((axis for axis in axes if axis == key or _is_choice_of(axis, section)), None)
        return related or (_stage_before(arms, layout) if key.startswith(_UPSTREAM) else None)
    if what.startswith(_MODELS):
        changes = ("pseudo_labels.",) if what.startswith(_LABELLER) else _CHANGES_MODEL
        return _axis(axes, changes) or _stage_before(arms, layout)
    if what.startswith("data: "):
        return _axis(axes, _CHANGES_DATA) or _axis(axes, _CHANGES_EXAMPLES.get(what, ()))
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
    """Return the earlier stage whose runs these runs start from, as text; None if they do not start from a stage."""
    if layout.record is None:
        return None
    # The study may have been moved, so only the path within its folder is compared.
    stages = {PurePosixPath(run.directory).parts: run.stage for run in layout.record.runs}
    for arm in arms:
        for run in arm.runs:
            settings = without_seed(run.config)
            for key in filter(lambda key: key.startswith(_UPSTREAM), settings):
                parts = PurePosixPath(str(settings[key] or "")).parts
                for inside, stage in stages.items():
                    if parts[-len(inside) :] == inside:
                        return f"the stage {stage}"
    return None


def confound_text(confound: Confound) -> str:
    """Describe a difference in one line. If an axis explains many values, only their number is given.

    >>> confound_text(Confound("version of torch", {"a": ("2.12",), "b": ("2.12", "2.13"), "c": ("2.12",)}))
    'version of torch: 2.12 (a; c), 2.12 and 2.13 (b)'
    >>> confound_text(Confound("data: model", {"a": ("4f", "6c", "90"), "b": ("1b", "2d", "5a")}, "the stage mlm"))
    'data: model: 3 different values (a; b); a consequence of the stage mlm'
    """
    arms: dict[str, list[str]] = {}
    for label, values in confound.values.items():
        is_counted = confound.explained_by is not None and len(values) >= _MANY_VALUES
        text = f"{len(values)} different values" if is_counted else " and ".join(values)
        arms.setdefault(text, []).append(label)
    parts = [f"{text} ({'; '.join(labels)})" for text, labels in arms.items()]
    reason = f"; a consequence of {confound.explained_by}" if confound.explained_by else ""
    return f"{confound.what}: {', '.join(parts)}{reason}"
