"""The space of a search: ranges of numbers and lists of choices, for any keys of an experiment.

An optuna trial suggests the values. Its parameters have the names of the keys. The name of a range inside a choice
also contains the choice, because optuna requires a fixed range for each name.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from bert_lightning.checks import nearest
from bert_lightning.config.nested import at
from bert_lightning.config.yaml_files import flow_yaml
from bert_lightning.errors import InputError

if TYPE_CHECKING:
    import optuna

_RANGE_KEYS = ("low", "high", "log", "step")
_SEED = "seed_everything"

Load = Callable[[Mapping[str, object]], Mapping[str, Any]]
"""Load the experiment with dotted keys set, and return all of its values as nested mappings; raise InputError."""
Fail = Callable[..., NoReturn]
"""Raise InputError with a message about a key of the study file."""


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, both included.

    Attributes:
        name: its name among the parameters of an optuna trial.
        key: the dotted key.
        low: the lowest value.
        high: the highest value. Both bounds are whole if the key requires whole numbers.
        log: whether values are drawn uniformly on the logarithmic scale.
        step: distance between two allowed values; None allows all.
    """

    name: str
    key: str
    low: float
    high: float
    log: bool = False
    step: float | None = None

    def suggest(self, trial: "optuna.Trial") -> dict[str, object]:
        """Return the key with the number that a trial suggests."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return {
                self.key: trial.suggest_int(self.name, self.low, self.high, step=int(self.step or 1), log=self.log)
            }
        return {self.key: trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)}

    def described(self) -> dict[str, object]:
        """Return the range as values for JSON, to compare it with that of an earlier session."""
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step}


@dataclass(frozen=True)
class Option:
    """One of several choices.

    Attributes:
        name: the choice as text.
        settings: dotted key -> value.
        ranges: ranges of further keys, which are drawn only with this choice.
    """

    name: str
    settings: Mapping[str, object]
    ranges: tuple[Range, ...] = ()


@dataclass(frozen=True)
class Choices:
    """A list of choices, one of which a trial takes.

    Attributes:
        name: its name among the parameters of a trial.
        options: the choices.
    """

    name: str
    options: tuple[Option, ...]

    def suggest(self, trial: "optuna.Trial") -> dict[str, object]:
        """Return the keys and values of the choice that a trial suggests, with the numbers of its ranges."""
        chosen = trial.suggest_categorical(self.name, [option.name for option in self.options])
        option = next(option for option in self.options if option.name == chosen)
        values = dict(option.settings)
        for each in option.ranges:
            values |= each.suggest(trial)
        return values

    def described(self) -> dict[str, object]:
        """Return the choices as values for JSON, to compare them with those of an earlier session."""
        options = []
        for option in self.options:
            ranges = {each.key: each.described() for each in option.ranges}
            options.append({**option.settings, **ranges})
        return {"choices": options}


@dataclass(frozen=True)
class Space:
    """All keys that a search varies, with their ranges and choices.

    Attributes:
        parts: ranges and choices, in the order in which they are drawn.
    """

    parts: tuple[Range | Choices, ...]

    def suggest(self, trial: "optuna.Trial") -> dict[str, object]:
        """Return dotted keys and the values that a trial suggests."""
        values: dict[str, object] = {}
        for part in self.parts:
            values |= part.suggest(trial)
        return values

    def described(self) -> dict[str, object]:
        """Return name -> part as values for JSON, to compare the space with that of an earlier session."""
        return {part.name: part.described() for part in self.parts}

    @property
    def keys(self) -> list[str]:
        """All keys that a trial may set."""
        found: dict[str, None] = {}
        for part in self.parts:
            found |= dict.fromkeys(_keys_of(part))
        return list(found)


def read_space(section: Mapping[str, object], load: Load, fail: Fail) -> Space:
    """Read the key `search.space`, and load the experiment once with every bound and every choice.

    Raises:
        InputError: an entry has a wrong form, two entries set the same key, or the experiment does not allow a value.
    """
    reader = _Reader(load, fail)
    parts: list[Range | Choices] = []
    owners: dict[str, str] = {}
    for name, entry in section.items():
        part = reader.part(name, entry)
        for key in _keys_of(part):
            if key in owners:
                fail(
                    f"search.space sets {key} in two entries, {owners[key]} and {name}: keep one",
                    "search",
                    "space",
                    name,
                )
            owners[key] = name
        parts.append(part)
    return Space(tuple(parts))


def _keys_of(part: Range | Choices) -> Iterator[str]:
    if isinstance(part, Range):
        yield part.key
        return
    found: dict[str, None] = {}
    for option in part.options:
        found |= dict.fromkeys([*option.settings, *(each.key for each in option.ranges)])
    yield from found


class _Reader:
    """The reading of one space."""

    def __init__(self, load: Load, fail: Fail) -> None:
        self._load, self._fail_at = load, fail

    def part(self, name: str, entry: object) -> Range | Choices:
        if isinstance(entry, list):
            entry = {"choices": entry}
        if not isinstance(entry, dict):
            self._fail(name, f"needs low and high, or choices, not {entry!r}")
        if "choices" not in entry:
            return self._range(name, name, entry, {}, name)
        for key in entry:
            if key != "choices":
                self._fail(name, f"has choices, so it cannot have {key} too")
        return self._choices(name, entry["choices"])

    def _choices(self, name: str, values: object) -> Choices:
        if not isinstance(values, list) or len(values) < 2:
            self._fail(name, f"needs a list of at least two choices, not {values!r}")
        # A choice may be a mapping too, such as {name: lora} for the key tuning. Its keys have no dots.
        sets_keys = any(isinstance(value, dict) and any("." in str(key) for key in value) for value in values)
        odd = next((value for value in values if sets_keys and not (isinstance(value, dict) and value)), None)
        if odd is not None:
            self._fail(name, f"mixes choices that set keys with the value {odd!r}: write each as keys and values")
        options = [self._option(name, value) if sets_keys else self._single(name, value) for value in values]
        names = [option.name for option in options]
        twice = next((each for each in names if names.count(each) > 1), None)
        if twice is not None:
            self._fail(name, f"has the choice {twice} twice")
        return Choices(name, tuple(options))

    def _single(self, key: str, value: object) -> Option:
        self._check_key(key, key)
        self._try({key: value}, key)
        return Option(flow_yaml(value), {key: value})

    def _option(self, name: str, entry: Mapping[str, object]) -> Option:
        settings = {key: value for key, value in entry.items() if not _is_range(value)}
        label = ", ".join(f"{key}={flow_yaml(value)}" for key, value in settings.items())
        if not label:
            self._fail(name, "has a choice that only has ranges: let it also set a key, to tell it from the others")
        for key in entry:
            self._check_key(name, key)
        self._try(settings, name)
        ranges = [
            self._range(f"{key} ({label})", key, value, settings, name)
            for key, value in entry.items()
            if isinstance(value, dict) and _is_range(value)
        ]
        return Option(label, settings, tuple(ranges))

    def _range(
        self, name: str, key: str, entry: Mapping[str, object], others: Mapping[str, object], owner: str
    ) -> Range:
        self._check_key(owner, key)
        for each in entry:
            if each not in _RANGE_KEYS:
                self._fail(owner, f"has the unknown key {each!r}{nearest(str(each), [*_RANGE_KEYS, 'choices'])}")
        bounds = []
        for bound in ("low", "high"):
            value = entry.get(bound)
            if isinstance(value, bool) or not isinstance(value, int | float):
                self._fail(
                    owner, f"needs {bound} as a number, not {value!r}" if bound in entry else f"has no {bound}"
                )
            bounds.append(self._as_the_key_has_it(key, value, others, owner))
        log, step = entry.get("log", False), entry.get("step")
        if not isinstance(log, bool):
            self._fail(owner, f"has log {log!r}; it must be true or false")
        low, high = bounds if all(isinstance(bound, int) for bound in bounds) else map(float, bounds)
        if not low < high:
            self._fail(owner, f"has low {low:g} and high {high:g}; low must be less")
        if log and low <= 0:
            self._fail(owner, f"has low {low:g}; with log it must be more than 0")
        return Range(name, key, low, high, log, self._step(step, low, high, log, owner))

    def _step(self, step: object, low: float, high: float, log: bool, owner: str) -> float | None:
        if step is None:
            return None
        if isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step <= high - low:
            self._fail(owner, f"has step {step!r}; it must be more than 0 and at most {high - low:g}")
        if log:
            self._fail(owner, "has both log and step; only one of them is allowed")
        if isinstance(low, int) and step != int(step):
            self._fail(owner, f"has step {step:g}, but its key requires whole numbers")
        steps = (high - low) / step
        if abs(steps - round(steps)) > 1e-9 * steps:
            last = low + step * int(steps)
            self._fail(owner, f"never reaches high {high:g} in steps of {step:g}: make it {last:g}")
        return int(step) if isinstance(low, int) else float(step)

    def _as_the_key_has_it(self, key: str, value: float, others: Mapping[str, object], owner: str) -> float:
        """Return a bound with the type of the key, such as 1.0 for a learning rate of 1."""
        typed = at(self._try({**others, key: value}, owner), key)
        if isinstance(typed, bool) or not isinstance(typed, int | float):
            self._fail(owner, f"has low and high, but {key} is not a number: list its choices")
        return typed

    def _try(self, values: Mapping[str, object], owner: str) -> Mapping[str, Any]:
        try:
            return self._load(values)
        except InputError as error:
            self._fail(owner, f"does not fit the experiment: {str(error).removeprefix('overrides: ')}")

    def _check_key(self, name: str, key: object) -> None:
        if key == _SEED:
            self._fail(name, f"cannot search {_SEED}: search.seeds lists the seeds of each trial")
        if not isinstance(key, str):
            self._fail(name, f"sets {key!r}, which is not a key")

    def _fail(self, name: str, message: str) -> NoReturn:
        self._fail_at(f"search.space: {name} {message}", "search", "space", name)


def _is_range(value: object) -> bool:
    return isinstance(value, dict) and "low" in value and "high" in value
