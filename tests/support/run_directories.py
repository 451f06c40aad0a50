"""Run directories and studies on disk as training leaves them, without training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bert_lightning.studies.record import Compare, RecordedRun, StudyRecord

VERSIONS = {"bert_lightning": "0.1.0", "torch": "2.13.0"}
HARDWARE = {"processor": "AMD EPYC", "cores": 2, "threads": 1, "gpus": [], "platform": "Linux"}


def write_run(
    folder: Path,
    seed: int = 1,
    scores: Mapping[str, float | None] | None = None,
    config: Mapping[str, object] | None = None,
    *,
    task: str = "text-classification",
    ended: str | None = "finished",
    error: str | None = None,
    step: int = 40,
    versions: Mapping[str, str] = VERSIONS,
    hardware: Mapping[str, object] = HARDWARE,
    git: Mapping[str, object] | None = None,
    data: Mapping[str, str] | None = None,
    rows: Sequence[Mapping[str, object]] = (),
) -> Path:
    """Write a run directory.

    Args:
        folder: the new directory.
        seed: its seed.
        scores: metrics of its last validation; None is NaN, as in `metrics.jsonl`.
        config: keys beside `experiment`, `task` and the seed.
        task: name of the task.
        ended: how it ended, as the manifest says.
        error: what the manifest has as the error.
        step: the last step.
        versions: versions of packages.
        hardware: the hardware entry.
        git: the git entry.
        data: fingerprints.
        rows: rows after that of the last validation.
    """
    folder.mkdir(parents=True)
    settings = {"experiment": "example", "task": task, "data": {"validation": "dev.tsv"}, **(config or {})}
    (folder / "config.yaml").write_text(json.dumps({**settings, "seed_everything": seed}))
    session = {
        "command": f"bert-lightning fit --config example.yaml --seed_everything {seed}",
        "started": "2026-11-28T06:00:00+00:00",
        "finished": "2026-11-28T06:01:00+00:00",
        "versions": versions,
        "hardware": hardware,
        "git": git,
        "error": error,
    }
    manifest = {"ended": ended, "step": step, "seed": seed, "data": data or {}, "sessions": [session]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lines = [
        {"time": 1.0, "step": step // 2, "train/loss": 1.0, "train/tokens_per_second": 100.0},
        {"time": 2.0, "step": step, "train/loss": 0.5, **(scores or {"val/accuracy": 0.5})},
        *rows,
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_arms(
    folder: Path,
    arms: Mapping[str, Mapping[int, float | None]],
    metric: str = "val/accuracy",
    key: str = "optimizer.name",
    **options: object,
) -> list[Path]:
    """Write a run per arm and seed, whose configurations differ in one key; return the directories."""
    section, _, name = key.partition(".")
    return [
        write_run(folder / arm / f"seed-{seed}", seed, {metric: value}, {section: {name: arm}}, **options)  # type: ignore[arg-type]
        for arm, values in arms.items()
        for seed, value in values.items()
    ]


def write_study(
    folder: Path,
    arms: Mapping[str, Mapping[int, float | None]],
    metric: str = "val/accuracy",
    *,
    name: str = "example",
    stage: str = "training",
    compare: Compare | None = None,
    published: Mapping[str, list] | None = None,
    states: Mapping[tuple[str, int], tuple[str, str | None]] | None = None,
    **options: object,
) -> Path:
    """Write a study of one stage over `optimizer.name`.

    Args:
        folder: the new directory.
        arms: arm -> seed -> score.
        metric: the metric.
        name: name of the study.
        stage: name of its stage.
        compare: what it compares.
        published: arm -> published figures.
        states: (arm, seed) -> state and message, of runs that have no directory.
        options: for `write_run`.
    """
    write_arms(folder / "runs", arms, metric, **options)
    states = states or {}
    runs = []
    for arm in dict.fromkeys([*arms, *(arm for arm, _ in states)]):
        for seed in dict.fromkeys([*arms.get(arm, ()), *(seed for each, seed in states if each == arm)]):
            state, message = states.get((arm, seed), ("finished", None))
            place = f"runs/{arm}/seed-{seed}"
            runs.append(RecordedRun(stage, arm, {"optimizer.name": arm}, seed, place, state, 0, message))  # type: ignore[arg-type]
    record = StudyRecord(
        study=name,
        question="Which optimiser?",
        file="study: example\n",
        version="0.1.0",
        stages=(stage,),
        runs=tuple(runs),
        compare=compare or Compare(),
        published={arm: list(figures) for arm, figures in (published or {}).items()},
    )
    record.write(folder)
    return folder
