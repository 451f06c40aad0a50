"""The study file: a question, a base experiment, and the arms and axes of each stage."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from bert_lightning.checks import nearest
from bert_lightning.config.published import Published
from bert_lightning.config.settings import Fault, as_one_message, build
from bert_lightning.config.yaml_files import line_of, read_yaml
from bert_lightning.errors import InputError
from bert_lightning.studies.record import Compare
from bert_lightning.studies.stages import Axis, Stage, Varied

# The stage of a study that names none.
ONLY_STAGE = "training"
# The key that `from: STAGE` sets.
_START = "model.pretrained"
_SIZE = "model.size"
_SEED = "seed_everything"
_KEYS = (
    *("study", "base", "overrides", "axes", "arms", "seeds", "stages", "sequence", "compare", "published", "search"),
)
_STAGE_KEYS = ("base", "from", "overrides", "axes", "arms")
# What each run of a sequence sets: its task, and the run of the previous task.
TASK, PREVIOUS = "sequence.task", "sequence.previous"
_TASK_KEYS = ("task", "base", "overrides")
_COMPARE_KEYS = ("metric", "baseline", "equivalence", "stages")

Place = tuple[str | int, ...]
"""The keys and list indices that lead to a value of the study file."""


@dataclass(frozen=True)
class Study:
    """The content of a study file.

    Attributes:
        name: its name.
        question: the comment at the top of the file, up to its first empty line.
        path: the file.
        text: content of the file.
        stages: the stages, each after those that it starts from.
        varied: the arms and axes at the top of the file, which hold for stages that start from no other stage.
        seeds: values of `seed_everything`; empty if the file has none.
        compare: the metrics and the baseline of the comparison.
        published: arm -> published figures.
        search: the section `search`, as written; None without it.
    """

    name: str
    question: str
    path: Path
    text: str
    stages: tuple[Stage, ...]
    varied: Varied
    seeds: tuple[int, ...]
    compare: Compare
    published: dict[str, list[Published]]
    search: dict[str, Any] | None

    def fail(self, message: str, *place: str | int) -> NoReturn:
        """Raise an error about a value of the file. `place` holds the keys and list indices that lead to the value.

        Raises:
            InputError: always, with file, line and message.
        """
        _refuse(self.path, self.text, message, place)


def read_study(path: str | Path) -> Study:
    """Read a study file.

    Raises:
        InputError: the file is missing, or a key or value of it is not allowed. The message names file, line and key.
    """
    path = Path(path)
    return _Reader(path, read_yaml(path)).study()


class _Reader:
    """The reading of one study file."""

    def __init__(self, path: Path, values: Mapping[str, object]) -> None:
        self._path, self._values = path, values
        self._text = path.read_text(encoding="utf-8")

    def study(self) -> Study:
        values = self._values
        self._check_keys(values, _KEYS, ())
        name = values.get("study")
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*", name):
            found = "is missing" if name is None else f"is {name!r}"
            self._fail(
                f"study {found}; it names the study and its folder: letters, digits, '-', '_' and '.'", "study"
            )
        published = self._mapping(values.get("published"), ("published",))
        return Study(
            name=name,
            question=_question(self._text),
            path=self._path,
            text=self._text,
            stages=self._stages(),
            varied=self._varied(values, ()),
            seeds=self._seeds(values.get("seeds")),
            compare=self._compare(values.get("compare")),
            published={arm: self._published(arm, figures) for arm, figures in published.items()},
            search=dict(self._mapping(values["search"], ("search",))) if values.get("search") is not None else None,
        )

    def _stages(self) -> tuple[Stage, ...]:
        base = self._base(self._values.get("base"), ("base",)) if "base" in self._values else ()
        overrides = self._overrides(self._values.get("overrides"), ("overrides",))
        if self._values.get("sequence") is not None:
            if self._values.get("stages") is not None:
                self._fail(
                    "stages and sequence cannot be combined: model.pretrained names what a sequence starts from",
                    "sequence",
                )
            return tuple(self._sequence(self._values["sequence"], base, overrides))
        if self._values.get("stages") is None:
            if not base:
                self._fail("the key base is missing: it names the experiment file to start from")
            return (Stage(ONLY_STAGE, base, overrides),)
        sections = self._mapping(self._values["stages"], ("stages",))
        if not sections:
            self._fail("stages is empty: name at least one, or leave the key out", "stages")
        stages = {name: self._stage(name, section, base, overrides) for name, section in sections.items()}
        for stage in stages.values():
            for upstream in stage.upstreams.values():
                if upstream not in stages:
                    near = nearest(upstream, stages)
                    message = f"the stage {stage.name} starts from the unknown stage {upstream!r}{near}"
                    self._fail(message, "stages", stage.name, "from")
        return tuple(self._sorted(stages))

    def _sequence(self, entries: object, base: tuple[Path, ...], overrides: Mapping[str, object]) -> Iterable[Stage]:
        """Yield a stage for each task of a sequence, which starts from the one before."""
        if not isinstance(entries, list) or not entries:
            self._fail("sequence is a list of tasks, each an experiment file or keys with a task", "sequence")
        names: list[str] = []
        for number, entry in enumerate(entries):
            place: Place = ("sequence", number)
            values = {"base": entry} if isinstance(entry, str) else self._mapping(entry, place)
            self._check_keys(values, _TASK_KEYS, place)
            name = str(values.get("task", Path(str(values.get("base", ""))).stem))
            if name in names:
                self._fail(f"sequence has the task {name!r} twice: each needs a name of its own (task)", *place)
            section = {key: value for key, value in values.items() if key != "task"}
            start = dict.fromkeys((_START, PREVIOUS), names[-1]) if names else None
            stage = self._stage(name, {**section, "from": start}, base, overrides, place)
            names.append(name)
            # `model.size` is only for the first task: the others start from the model of the previous task.
            starts = {_SIZE: None} if start is not None else {}
            own = {**overrides, **starts, **stage.overrides, TASK: name}
            yield replace(stage, overrides=own, in_sequence=True)

    def _stage(
        self,
        name: str,
        section: object,
        base: tuple[Path, ...],
        overrides: Mapping[str, object],
        place: Place | None = None,
    ) -> Stage:
        place = place or ("stages", name)
        if not re.fullmatch(r"[\w-][\w.-]*", name):
            self._fail(f"the stage {name!r} must have a name of letters, digits, '-', '_' and '.'", *place)
        values = self._mapping(section, place)
        self._check_keys(values, _STAGE_KEYS, place)
        start = values.get("from")
        if start is None:
            upstreams: Mapping[str, object] = {}
        else:
            upstreams = {_START: start} if isinstance(start, str) else self._mapping(start, (*place, "from"))
        own_base = self._base(values["base"], (*place, "base")) if values.get("base") is not None else base
        if not own_base:
            self._fail(
                f"the stage {name} has no base, and there is none for all stages: name an experiment file", *place
            )
        own = self._overrides(values.get("overrides"), (*place, "overrides"))
        for key, upstream in upstreams.items():
            if not isinstance(upstream, str):
                self._fail(f"from names a stage, or for each key a stage, not {upstream!r}", *place, "from")
            if key in own:
                self._fail(f"from and overrides both set {key}: remove one of them", *place, "overrides", key)
        # The overrides of the study belong to its base, so a stage with its own base does not get them.
        shared = overrides if "base" not in values else {}
        return Stage(name, own_base, {**shared, **own}, dict(upstreams), self._varied(values, place))  # type: ignore[arg-type]

    def _sorted(self, stages: Mapping[str, Stage]) -> Iterable[Stage]:
        """Yield the stages in the order of the file, each after those that it starts from."""
        done: dict[str, Stage] = {}

        def visit(name: str, waiting: tuple[str, ...]) -> None:
            if name in waiting:
                circle = " from ".join([*waiting[waiting.index(name) :], name])
                self._fail(f"the stage {name} starts from itself: {circle}", "stages", name, "from")
            if name not in done:
                for upstream in stages[name].upstreams.values():
                    visit(upstream, (*waiting, name))
                done[name] = stages[name]

        for name in stages:
            visit(name, ())
        return done.values()

    def _varied(self, values: Mapping[str, object], place: Place) -> Varied:
        arms: dict[str, Mapping[str, object]] | None = None
        if values.get("arms") is not None:
            sections = self._mapping(values["arms"], (*place, "arms"))
            arms = {name: self._overrides(section, (*place, "arms", name)) for name, section in sections.items()}
            if not arms:
                self._fail("arms is empty: name at least one, or leave the key out", *place, "arms")
        entries = values.get("axes") if values.get("axes") is not None else []
        if not isinstance(entries, list):
            self._fail("axes is a list, whose entries map keys to lists of values", *place, "axes")
        axes = [self._axis(entry, (*place, "axes", number)) for number, entry in enumerate(entries)]
        owners: dict[str, str] = {key: f"the arm {name}" for name, arm in (arms or {}).items() for key in arm}
        for number, axis in enumerate(axes):
            for key in axis.keys:
                if key in owners:
                    self._fail(
                        f"{key} is set twice, by {owners[key]} and by the axis {number + 1}: remove one of them",
                        *(*place, "axes", number, key),
                    )
            owners.update(dict.fromkeys(axis.keys, f"the axis {number + 1}"))
        return Varied(arms, tuple(axes))

    def _axis(self, entry: object, place: Place) -> Axis:
        values = self._mapping(entry, place)
        if not values:
            self._fail("an axis maps at least one key to a list of values", *place)
        self._check_varied_keys(values, place)
        lists: list[list[object]] = []
        for key, settings in values.items():
            if not isinstance(settings, list):
                self._fail(f"the axis {key} needs a list of values, not {settings!r}", *place, key)
            if not settings:
                self._fail(f"the axis {key} has no values, so there would be no runs", *place, key)
            if len(values) == 1 and (twice := _repeated(settings)) is not None:
                self._fail(f"the axis {key} has the value {twice} twice", *place, key)
            lists.append(settings)
        if len({len(each) for each in lists}) > 1:
            lengths = ", ".join(f"{key} {len(each)}" for key, each in zip(values, lists, strict=True))
            self._fail(
                f"keys of one axis change together, so they need the same number of values ({lengths}); for all "
                "combinations, write each key as a separate entry of axes",
                *place,
            )
        return Axis(tuple(values), tuple(zip(*lists, strict=True)))

    def _overrides(self, section: object, place: Place) -> Mapping[str, object]:
        values = self._mapping(section, place)
        self._check_varied_keys(values, place)
        return values

    def _check_varied_keys(self, values: Mapping[str, object], place: Place) -> None:
        for key in values:
            if key == _SEED:
                self._fail(
                    f"{_SEED} cannot vary between arms: the key seeds lists the seeds of all arms", *place, key
                )

    def _base(self, value: object, place: Place) -> tuple[Path, ...]:
        names = value if isinstance(value, list) else [value]
        if not names or not all(isinstance(name, str) and name for name in names):
            self._fail(f"base is an experiment file or a list of them, not {value!r}", *place)
        return tuple(self._existing(str(name), place) for name in names)

    def _existing(self, name: str, place: Place) -> Path:
        path = Path(name).expanduser()
        beside = self._path.parent / path
        if not path.is_file() and not beside.is_file():
            self._fail(f"there is no experiment file {path}, and none at {beside}", *place)
        return path if path.is_file() else beside

    def _seeds(self, value: object) -> tuple[int, ...]:
        if value is None:
            return ()
        if not isinstance(value, list) or not value:
            self._fail(f"seeds is a list of whole numbers such as [1, 2, 3], not {value!r}", "seeds")
        for seed in value:
            if type(seed) is not int or not 0 <= seed < 2**32:
                self._fail(f"seeds holds {seed!r}; a seed is a whole number between 0 and {2**32 - 1}", "seeds")
        if (twice := _repeated(value)) is not None:
            self._fail(f"seeds names {twice} twice", "seeds")
        return tuple(value)

    def _compare(self, section: object) -> Compare:
        values = self._mapping(section, ("compare",))
        self._check_keys(values, _COMPARE_KEYS, ("compare",))
        metric, baseline, equivalence = (values.get(key) for key in ("metric", "baseline", "equivalence"))
        stages = self._compared_stages(values.get("stages"))
        names = [] if metric is None else metric if isinstance(metric, list) else [metric]
        if not all(isinstance(name, str) for name in names):
            self._fail(
                f"metric is a name such as val/accuracy, or a list of names, not {metric!r}", "compare", "metric"
            )
        if baseline is not None and not isinstance(baseline, str):
            self._fail(f"baseline is the name of an arm, not {baseline!r}", "compare", "baseline")
        if equivalence is None:
            return Compare(tuple(names), baseline, None, stages)
        if (
            isinstance(equivalence, bool)
            or not isinstance(equivalence, int | float)
            or not 0 < equivalence < math.inf
        ):
            self._fail(f"equivalence is {equivalence!r}; it must be more than 0", "compare", "equivalence")
        return Compare(tuple(names), baseline, float(equivalence), stages)

    def _compared_stages(self, names: object) -> tuple[str, ...]:
        """Return the stages that are compared as arms."""
        if names is None:
            return ()
        place = ("compare", "stages")
        if not isinstance(names, list) or len(names) < 2:
            self._fail(f"stages is a list of at least two stages to compare, not {names!r}", *place)
        sections = self._values.get("stages")
        known = [*sections] if isinstance(sections, dict) else []
        for name in names:
            if name not in known:
                self._fail(f"stages names the unknown stage {name!r}{nearest(str(name), known)}", *place)
        if (twice := _repeated(names)) is not None:
            self._fail(f"stages names {twice} twice", *place)
        return tuple(names)

    def _published(self, arm: str, figures: object) -> list[Published]:
        if not isinstance(figures, list):
            self._fail(
                f"the figures of {arm} are a list, whose entries have metric, value, tolerance and source",
                "published",
                arm,
            )
        faults: list[Fault] = []
        path = f"published.{arm}"
        built = [build(Published, entry, f"{path}.{number}", {}, faults) for number, entry in enumerate(figures)]
        if faults:
            self._fail(as_one_message([message for _, message in faults]), "published", arm)
        return built

    def _mapping(self, value: object, place: Place) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._fail(f"{'.'.join(map(str, place))}: keys and values are expected, not {value!r}", *place)
        for key in value:
            if not isinstance(key, str):
                self._fail(f"{key!r} is not a name: put it in quotes", *place)
        return value

    def _check_keys(self, values: Mapping[str, object], known: Sequence[str], place: Place) -> None:
        for key in values:
            if key not in known:
                section = ".".join(map(str, place))
                full = f"{section}.{key}" if section else key
                self._fail(f"unknown key {full!r}{nearest(key, known, section)}", *place, key)

    def _fail(self, message: str, *place: str | int) -> NoReturn:
        _refuse(self._path, self._text, message, place)


def _refuse(path: Path, text: str, message: str, place: Place) -> NoReturn:
    line = line_of(text, place) if place else None
    raise InputError(f"{path}: {f'line {line}: ' if line is not None else ''}{message}")


def _question(text: str) -> str:
    """Return the comment at the top of a file as one line, up to its first empty line.

    >>> _question("# Does it help,\\n# and when?\\n#\\n# Two arms.\\nstudy: nsp\\n")
    'Does it help, and when?'
    """
    words: list[str] = []
    for line in text.splitlines():
        comment = line.strip().removeprefix("#").strip()
        if line.strip() and not line.lstrip().startswith("#"):
            break
        if not comment and words:
            break
        words.append(comment)
    return " ".join(filter(None, words))


def _repeated(values: Sequence[object]) -> str | None:
    """Return the first repeated value of a list, in the form for a message; 1, 1.0 and true are different values.

    >>> _repeated([1, True, "1", [2], [2]])
    '[2]'
    """
    seen: set[str] = set()
    for text in map(repr, values):
        if text in seen:
            return text
        seen.add(text)
    return None
