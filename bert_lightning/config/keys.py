"""Every key of an experiment with its type, default, allowed values and description, read from the settings' classes.

No list is typed by hand. The keys come from `Experiment`, and the choices by name from `CHOICES`. The keys of each
task come from the catalogue of tasks, and the descriptions from the docstrings.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from bert_lightning.checks import RefusedValue, nearest
from bert_lightning.config.docstrings import descriptions_of, paragraphs_of
from bert_lightning.config.experiment import CHOICES, experiment_class
from bert_lightning.config.settings import default_of, has_default, type_name
from bert_lightning.config.yaml_files import flow_yaml
from bert_lightning.errors import InputError
from bert_lightning.model.config import PARTS, PRESETS, BertConfig
from bert_lightning.tasks.catalogue import TASKS, task_spec

# Values that a section needs before its class can be built, to ask it which values it refuses.
_NEEDED: dict[str, dict[str, object]] = {"trainer": {"max_steps": 1}, "model": {"size": "tiny"}}
# Values to try: a range that leaves out any number leaves out one of these.
_EXTREMES: dict[type, tuple[float, ...]] = {int: (-1, 0, 2**62), float: (-1.0, 0.0, 1e300)}
# Fields of `BertConfig` that no key under `model.config` sets: the vocabulary and `model.attention` decide them.
_NO_KEYS = ("model.config.vocab_size", "model.config.attention")
_CLASS_PATH = "a class of your own instead of a name, as module and name. Its module needs `--allow-module`."
_INIT_ARGS = "the keys of that class."


class Key(NamedTuple):
    """A key of an experiment.

    Attributes:
        path: its dotted path. An item of a list is number 0.
        type: the type in words, with the allowed values if they are few.
        default: the value without the key, as YAML; None if the key is required.
        description: whole sentences, from the docstring.
        allowed: the range of allowed numbers in words; empty if every number of the type is allowed.
        tasks: the tasks that have it; empty if all have it.
        choice: the choice that has it, such as `optimizer` and `lamb`; None if it belongs to no choice.
    """

    path: str
    type: str
    default: str | None
    description: str
    allowed: str = ""
    tasks: tuple[str, ...] = ()
    choice: tuple[str, str] | None = None


class Section(NamedTuple):
    """Keys that belong together, in the order of their class.

    Attributes:
        path: the dotted path of the section; empty at the top.
        choice: the choice whose keys these are; None if they belong to no choice.
        tasks: the tasks that have the section; empty if all have it.
        paragraphs: the description of the section, from the docstring of its class.
        keys: its keys, without those of the sections inside.
    """

    path: str
    choice: tuple[str, str] | None
    tasks: tuple[str, ...]
    paragraphs: tuple[str, ...]
    keys: tuple[Key, ...]

    @property
    def title(self) -> str:
        """The path, with the choice and the tasks that have it.

        >>> Section("optimizer", ("optimizer", "lamb"), (), (), ()).title
        'optimizer (name: lamb)'
        """
        notes = []
        if self.choice is not None:
            choice, name = self.choice
            notes.append(f"name: {name}" if choice == self.path else f"{choice}.name: {name}")
        if self.tasks:
            notes.append(f"{'task' if len(self.tasks) == 1 else 'tasks'}: {', '.join(self.tasks)}")
        return (self.path or "top level") + (f" ({'; '.join(notes)})" if notes else "")


def all_sections(task: str | None = None) -> list[Section]:
    """Return all sections, with the keys of one task or of all of them.

    Raises:
        InputError: there is no task of that name.
    """
    names = list(TASKS) if task is None else [task_spec(task).name]
    found: dict[tuple[str, tuple[str, str] | None], dict[str, _Found]] = {}
    for name in names:
        for each in _walk(experiment_class(TASKS[name]), "", None):
            found.setdefault((each.path, each.choice), {})[name] = each
    in_order = [section for by_task in found.values() for section in _merged(by_task, names)]
    return sorted(in_order, key=_order([path for path, _ in found]))


def matching(sections: Sequence[Section], prefix: str) -> list[Section]:
    """Return the sections and keys whose path begins with a prefix: whole names, or else any beginning.

    Raises:
        InputError: no section or key begins like this. The message names the nearest key.
    """
    # Lists count from 0, and every item has the same keys.
    pattern = re.sub(r"(?<=\.)\d+(?=\.|$)", "0", prefix.strip().removeprefix("--").rstrip("."))
    if not pattern:
        return list(sections)
    by_name = _selected(sections, lambda path: path == pattern or path.startswith(f"{pattern}."))
    chosen = by_name or _selected(sections, lambda path: path.startswith(pattern))
    if chosen:
        return chosen
    paths = list(
        dict.fromkeys(path for each in sections for path in (each.path, *(k.path for k in each.keys)) if path)
    )
    same_name = [path for path in paths if path.rpartition(".")[2] == pattern.rpartition(".")[2]]
    hint = f"; did you mean {same_name[0]!r}?" if same_name else nearest(pattern, paths)
    if "; known: " in hint:
        hint = f"; sections: {', '.join(dict.fromkeys(path.partition('.')[0] for path in paths))}"
    raise InputError(f"no key begins with {prefix!r}{hint}")


def _selected(sections: Iterable[Section], fits: typing.Callable[[str], bool]) -> list[Section]:
    selected = []
    for section in sections:
        keys = section.keys if section.path and fits(section.path) else tuple(k for k in section.keys if fits(k.path))
        if keys or (section.path and fits(section.path)):
            selected.append(section._replace(keys=keys))
    return selected


class _Found(NamedTuple):
    """A section of one task."""

    path: str
    choice: tuple[str, str] | None
    cls: type
    keys: tuple[tuple[Key, type], ...]
    """Each key and the class that declares it, which may be a base."""


def _walk(cls: type, path: str, choice: tuple[str, str] | None) -> Iterator[_Found]:
    """Yield the section of a dataclass, then the sections inside it."""
    hints, descriptions = typing.get_type_hints(cls), descriptions_of(cls)
    sample, defaults = _sample(cls, _NEEDED.get(path, {})), _derived_defaults(cls)
    keys: list[tuple[Key, type]] = []
    inside: list[Iterator[_Found]] = []
    for field in dataclasses.fields(cls):
        full = f"{path}.{field.name}" if path else field.name
        hint, description = hints[field.name], descriptions.get(field.name, "")
        if full in CHOICES:
            inside.append(_walk_choice(full, description, field))
            continue
        is_list = typing.get_origin(hint) is list
        inside += [_walk(each, f"{full}.0" if is_list else full, choice) for each in _dataclasses_in(hint)]
        if "keys" in field.metadata:
            inside.append(_walk(field.metadata["keys"], full, choice))
        if not dataclasses.is_dataclass(hint):
            default = flow_yaml(defaults[field.name]) if field.name in defaults else None
            allowed = _allowed(sample, field.name, hint)
            key = Key(full, _type_in_words(hint), default, description, allowed, choice=choice)
            keys.append((key, _owner(cls, field.name)))
    if cls is BertConfig:
        keys = [(_of_architecture(key), owner) for key, owner in keys if key.path not in _NO_KEYS]
    yield _Found(path, choice, cls, tuple(keys))
    for sections_inside in inside:
        yield from sections_inside


def _walk_choice(path: str, description: str, field: "dataclasses.Field[Any]") -> Iterator[_Found]:
    """Yield the section of a choice itself, then that of each of its names."""
    table = CHOICES[path]
    default = default_of(field) if has_default(field) else None
    name = next((name for name, cls in table.items() if type(default) is cls), next(iter(table)))
    keys = [Key(f"{path}.name", type_name(Literal[*table]), name, description)]
    keys.append(Key(f"{path}.class_path", "str", "null", _CLASS_PATH))
    keys.append(Key(f"{path}.init_args", "keys and values", "{}", _INIT_ARGS))
    yield _Found(path, None, _Choice, tuple((key, _Choice) for key in keys))
    for name, cls in table.items():
        yield from _walk(cls, path, (path, name))


class _Choice:
    # No docstring: the description of a choice is that of its key `name`.
    pass


def _merged(by_task: dict[str, _Found], all_tasks: Sequence[str]) -> Iterator[Section]:
    """Merge the sections of one path: into one if all tasks have the same keys, else into one per declaring class."""
    # A head without options is no section, but a choice without options is one.
    by_task = {task: found for task, found in by_task.items() if found.keys or found.choice is not None}
    if not by_task:
        return
    first = next(iter(by_task.values()))
    if all(each.keys == first.keys for each in by_task.values()):
        tasks = () if set(by_task) == set(all_tasks) else tuple(by_task)
        yield _section(first, first.cls, tasks, [key for key, _ in first.keys])
        return
    owners: dict[type, None] = {}
    for each in by_task.values():
        owners |= dict.fromkeys(base for base in reversed(each.cls.__mro__) if dataclasses.is_dataclass(base))
    for owner in owners:
        tasks = tuple(task for task, each in by_task.items() if issubclass(each.cls, owner))
        keys: dict[str, tuple[Key, list[str]]] = {}
        for task in tasks:
            for key, declaring in by_task[task].keys:
                if declaring is owner:
                    keys.setdefault(key.path, (key, []))[1].append(task)
        named = [key._replace(tasks=() if len(of) == len(tasks) else tuple(of)) for key, of in keys.values()]
        if named or paragraphs_of(owner):
            yield _section(first, owner, tasks, named)


def _section(found: _Found, cls: type, tasks: tuple[str, ...], keys: Iterable[Key]) -> Section:
    with_tasks = tuple(key._replace(tasks=key.tasks or tasks) for key in keys)
    return Section(found.path, found.choice, tasks, tuple(paragraphs_of(_documented(cls))), with_tasks)


def _documented(cls: type) -> type:
    """Return the nearest class with a docstring. The classes of a single task only add types to one that has it."""
    return next((base for base in cls.__mro__ if dataclasses.is_dataclass(base) and paragraphs_of(base)), cls)


def _order(paths: Sequence[str]) -> typing.Callable[[Section], list[int]]:
    """Return the sort key of sections: in the order of the classes, and each section before those inside it."""
    ranks: dict[str, int] = {}
    for path in paths:
        parts = path.split(".") if path else []
        for number in range(len(parts) + 1):
            ranks.setdefault(".".join(parts[:number]), len(ranks))

    def order(section: Section) -> list[int]:
        parts = section.path.split(".") if section.path else []
        return [ranks[".".join(parts[:number])] for number in range(1, len(parts) + 1)]

    return order


def _owner(cls: type, name: str) -> type:
    return next(base for base in cls.__mro__ if name in inspect.get_annotations(base))


def _dataclasses_in(hint: object) -> list[type]:
    """Return the dataclasses of a type: itself, or the items of a list or of a union."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [hint]
    return [cls for argument in typing.get_args(hint) for cls in _dataclasses_in(argument)]


def _type_in_words(hint: object) -> str:
    if hint is Any:
        return "any"
    if typing.get_origin(hint) is dict:
        return "keys and values"
    if _dataclasses_in(hint):
        if typing.get_origin(hint) is not list:
            return "section or null"
        [item] = typing.get_args(hint)
        return "list of sections" if isinstance(item, type) else "list of names and sections"
    return type_name(hint)


def _derived_defaults(cls: type) -> dict[str, object]:
    """Return the values that fields have if no key of the section is set; a class may derive some of them."""
    fields = [field for field in dataclasses.fields(cls) if has_default(field)]
    try:
        made = cls()
    except (TypeError, ValueError):
        return {field.name: default_of(field) for field in fields}
    return {field.name: getattr(made, field.name) for field in fields}


def _sample(cls: type, needed: dict[str, object]) -> object:
    """Return an instance with values that are allowed; None if none is found."""
    placeholders: dict[object, object] = {int: 1, float: 1.0, str: "x"}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if not has_default(field) and field.name not in needed:
            items = _dataclasses_in(hints[field.name])
            needed = {**needed, field.name: [_sample(items[0], {})] if items else placeholders.get(hints[field.name])}
    try:
        return cls(**needed)
    except (TypeError, ValueError, AttributeError, RuntimeError):
        return None


def _allowed(sample: Any, name: str, hint: object) -> str:
    """Return the range of a number in the words of the check that refuses others; empty if no check does."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kinds = [member for member in members if member in _EXTREMES]
    for value in _EXTREMES[kinds[0]] if kinds and sample is not None else ():
        try:
            dataclasses.replace(sample, **{name: value})
        except RefusedValue as error:
            if error.name == name:
                return error.allowed.removeprefix("be ")
        except (TypeError, ValueError, OverflowError):
            continue
    return ""


def _of_architecture(key: Key) -> Key:
    """Return a key of `model.config` with the names of its parts, and the size where that decides the default."""
    name = key.path.rpartition(".")[2]
    if name in PARTS:
        key = key._replace(type=f"{type_name(Literal[*PARTS[name]])} or a registered part")
    values = {repr(getattr(BertConfig.preset(size), name)) for size in PRESETS}
    return key._replace(default="that of model.size") if len(values) > 1 else key
