"""The reproducibility checklist of Dodge et al. 2019, filled in from the records of runs."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from bert_lightning.reports.arms import Layout
from bert_lightning.reports.cells import metrics_of
from bert_lightning.reports.results import ChecklistItem
from bert_lightning.runs.record import is_split
from bert_lightning.studies.comparison import Run
from bert_lightning.wording import count

_UNKNOWN = "not recorded"
_MOST_NAMED = 8


def checklist_of(layouts: Sequence[Layout]) -> Iterator[ChecklistItem]:
    """Yield the items of the checklist.

    The items are those for all experimental results and for hyper-parameter searches in Dodge et al. 2019, "Show Your
    Work", appendix B. If the records do not answer an item, it says `not recorded`, and the author fills it in.
    """
    runs = [run for layout in layouts for run in layout.runs]
    planned = len(runs) + sum(len(layout.missing) for layout in layouts)
    yield ChecklistItem("Number of training runs", f"{len(runs):,} of {planned:,} finished and are in the tables")
    yield ChecklistItem("Seeds", _listed(sorted({run.seed for run in runs})))
    yield ChecklistItem("Computing infrastructure", _listed(_hardware(runs)))
    yield ChecklistItem("Software", _listed(_versions(runs)))
    yield ChecklistItem("Code", _listed(_commits(runs)))
    yield ChecklistItem("Runtime of each run", _runtime(runs))
    yield ChecklistItem(
        "Steps of each run", _listed(_ordered(f"{run.manifest.get('step', _UNKNOWN)}" for run in runs))
    )
    yield ChecklistItem("Number of parameters", _listed(_sizes(runs)))
    for layout in layouts:
        names = ", ".join(metric.name for metric in metrics_of(layout.runs))
        yield ChecklistItem(f"Metrics of {layout.title}", names or "no run has finished")
    yield ChecklistItem("Validation score for each test score", _both_splits(runs))
    yield ChecklistItem("Data", _listed(_data(runs)))
    yield ChecklistItem("Settings of each run", "config.yaml in each run directory, complete with defaults")
    yield from _search(layouts)
    yield ChecklistItem("Command that repeats a run", "bert-lightning reproduce RUN, for each run of the report")


def _search(layouts: Sequence[Layout]) -> Iterator[ChecklistItem]:
    for layout in layouts:
        if layout.of_search and layout.record is not None and layout.record.search is not None:
            search = layout.record.search
            for name in ("space", "trials", "sampler", "metric"):
                yield ChecklistItem(f"Search of {layout.title}: {name}", str(search.get(name, _UNKNOWN)))
    if not any(layout.of_search for layout in layouts):
        yield ChecklistItem("Bounds and number of trials of a search", "no search is part of this report")


def _ordered(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _listed(items: Sequence[object]) -> str:
    shown = "; ".join(str(item) for item in items[:_MOST_NAMED])
    more = f"; and {len(items) - _MOST_NAMED:,} more" if len(items) > _MOST_NAMED else ""
    return (shown or _UNKNOWN) + more


def _sessions(runs: Sequence[Run]) -> Iterator[dict[str, object]]:
    for run in runs:
        yield from run.manifest.get("sessions", [])


def _sizes(runs: Sequence[Run]) -> list[str]:
    """Return the different numbers of parameters, and how many of them were trained if that is recorded."""
    found = set()
    for run in runs:
        total, trained = run.manifest.get("parameters"), run.manifest.get("trained_parameters")
        if isinstance(total, int):
            found.add((total, trained if isinstance(trained, int) and trained != total else None))
    return [
        f"{total:,}" + (f" ({trained:,} trained)" if trained is not None else "")
        for total, trained in sorted(found, key=str)
    ]


def _hardware(runs: Sequence[Run]) -> list[str]:
    texts = []
    for session in _sessions(runs):
        hardware = session.get("hardware")
        if isinstance(hardware, dict):
            gpus = hardware.get("gpus") or []
            devices = ", ".join(map(str, gpus)) if gpus else "no GPU"
            texts.append(
                f"{hardware.get('processor', _UNKNOWN)}, cores: {hardware.get('cores', '?')}, "
                f"threads: {hardware.get('threads', '?')}, {devices}, {hardware.get('platform', '')}"
            )
    return _ordered(texts)


def _versions(runs: Sequence[Run]) -> list[str]:
    texts = []
    for session in _sessions(runs):
        versions = session.get("versions")
        if isinstance(versions, dict):
            texts.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    return _ordered(texts)


def _commits(runs: Sequence[Run]) -> list[str]:
    texts = []
    for session in _sessions(runs):
        git = session.get("git")
        if isinstance(git, dict):
            patch = f", patch {git['patch']}" if git.get("patch") else ""
            texts.append(f"commit {git.get('commit')}{' with changed files' if git.get('modified') else ''}{patch}")
    return _ordered(texts)


def _runtime(runs: Sequence[Run]) -> str:
    seconds = [total for run in runs if (total := _seconds(run)) is not None]
    if not seconds:
        return _UNKNOWN
    mean = sum(seconds) / len(seconds)
    return f"{mean:,.0f} s on average ({min(seconds):,.0f} to {max(seconds):,.0f}), over {count(len(seconds), 'run')}"


def _seconds(run: Run) -> float | None:
    """Return the seconds that all sessions of a run took; None if the end of a session is not recorded."""
    total = 0.0
    for session in run.manifest.get("sessions", []):
        try:
            start, end = (datetime.fromisoformat(session[key]) for key in ("started", "finished"))
        except (KeyError, TypeError, ValueError):
            return None
        total += (end - start).total_seconds()
    return total or None


def _data(runs: Sequence[Run]) -> list[str]:
    return _ordered(
        f"{split} {_source(run, split)} (SHA-256 {str(fingerprint)[:12]})"
        for run in runs
        for split, fingerprint in run.manifest.get("data", {}).items()
        if is_split(split)
    )


def _source(run: Run, split: str) -> str:
    data = run.config.get("data", {})
    return str(data.get(split) or data.get("dataset") or data.get("folder") or "")


def _both_splits(runs: Sequence[Run]) -> str:
    names = [{name.partition("/")[0] for name in run.scores()} for run in runs]
    tested = sum("test" in each for each in names)
    if not tested:
        return "no run has test scores"
    both = sum({"test", "val"} <= each for each in names)
    return f"{both:,} of {count(tested, 'tested run')} also have validation scores, in the same tables"
