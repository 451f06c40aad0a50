"""Extensions: classes and modules of the user that a configuration names, by `class_path` or `modules`.

Importing a module runs its code. So a configuration alone cannot import one: the user allows it on the command line.
"""

import dataclasses
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Protocol, TypeVar

from bert_lightning.checks import nearest
from bert_lightning.config.nested import at, copied, section_at, split
from bert_lightning.config.settings import Fault, Ready, Tables
from bert_lightning.config.yaml_files import yaml_value
from bert_lightning.data.datasets.catalogue import STANDARD_SETS
from bert_lightning.data.datasets.registration import OWNERS as DATASET_OWNERS
from bert_lightning.errors import InputError, WorkError
from bert_lightning.methods.continual import ContinualMethod
from bert_lightning.model.architectures import OWN_MODELS
from bert_lightning.model.config import PARTS
from bert_lightning.model.heads import HEADS
from bert_lightning.model.losses import Loss
from bert_lightning.model.parts import ContractError
from bert_lightning.model.tuning import Tuning
from bert_lightning.optim.optimizers import OptimizerSettings
from bert_lightning.optim.schedules import Schedule
from bert_lightning.tasks.catalogue import OWNERS as TASK_OWNERS
from bert_lightning.tasks.catalogue import TASKS
from bert_lightning.wording import first_line

Entry = TypeVar("Entry")
OURS = ("bert_lightning",)
"""Modules that may be imported without consent."""
_VERSIONED = (*OURS, "lightning")
# The tables that an import can add names to.
_REGISTRIES: tuple[dict[str, Any], ...] = (
    *(TASKS, TASK_OWNERS, OWN_MODELS, STANDARD_SETS, DATASET_OWNERS, HEADS),
    *PARTS.values(),
)
# The user's module and class -> the key that named it last.
_NAMED: dict[tuple[str, str | None], str] = {}


def required_names(kind: type) -> list[str]:
    """Return the names of the attributes and methods that a protocol or a base class declares, in order.

    >>> required_names(Schedule)
    ['factor', 'check']
    """
    names: dict[str, None] = {}
    for cls in reversed(kind.__mro__):
        if cls not in (object, Protocol) and cls.__module__ not in ("abc", "typing"):
            names |= dict.fromkeys((*inspect.get_annotations(cls), *vars(cls)))
    return [name for name in names if not name.startswith("_")]


REQUIRED: dict[str, Sequence[str]] = {
    "optimizer": required_names(OptimizerSettings),
    "schedule": required_names(Schedule),
    "tuning": required_names(Tuning),
    "loss": required_names(Loss),
    "step_method": ("build",),
    "adversarial": ("wrap",),
    "continual": required_names(ContinualMethod),
    # `Masking` has more fields, which only its own methods use.
    "data.masking": ("rate", "mask_share", "random_share", "random_tokens", "select"),
}
"""Dotted path of a choice -> the attributes and methods that an extension must have there."""


def with_extensions(
    values: dict[str, object], tables: Tables, allowed: Sequence[str]
) -> tuple[dict[str, object], Tables]:
    """Write each `class_path` of a choice as the `name` of an entry, and add that entry to its table.

    Args:
        values: nested keys of an experiment.
        tables: dotted path of a choice -> name -> dataclass.
        allowed: modules that may be imported; a package allows all of its modules.

    Raises:
        InputError: a module is not allowed, and so not imported, or the class cannot be used there.
    """
    tables = dict(tables)
    for path, class_path in extensions_in(values, tables).items():
        for key in section_at(values, path):
            if key not in ("class_path", "init_args"):
                raise InputError(f"{path}.{key} stands beside class_path; keys of the class belong under init_args")
        arguments = at(values, f"{path}.init_args") or {}
        if not isinstance(arguments, dict):
            raise InputError(f"{path}.init_args: keys and values are expected, got {arguments!r}")
        tables[path] = {**tables[path], class_path: _load_settings_class(class_path, path, allowed)}
        section_path, key = split(path)
        values, section = copied(values, section_path)
        section[key] = {**arguments, "name": class_path}
    return values, tables


def extensions_in(values: dict[str, object], tables: Tables) -> dict[str, str]:
    """Return the choices that nested keys make by class: dotted path of the choice -> class path."""
    return {
        path: str(at(values, f"{path}.class_path")) for path in tables if "class_path" in section_at(values, path)
    }


def classes_in(values: object, path: str = "") -> dict[str, str]:
    """Return all classes that nested keys name outside of lists: dotted path of the section -> class path.

    >>> classes_in({"model": {"head": {"class_path": "my_heads.Attentive"}}})
    {'model.head': 'my_heads.Attentive'}
    """
    found: dict[str, str] = {}
    for name, value in values.items() if isinstance(values, dict) else ():
        if name == "class_path":
            found[path] = str(value)
        found |= classes_in(value, f"{path}.{name}" if path else str(name))
    return found


def without_sections(values: dict[str, object], paths: Iterable[str]) -> dict[str, object]:
    """Return nested keys without the sections at dotted paths."""
    for path in paths:
        section_path, key = split(path)
        values, section = copied(values, section_path)
        del section[key]
    return values


def import_class(class_path: str, path: str, allowed: Sequence[str]) -> type:
    """Import a class that a configuration names, if the user has allowed its module.

    Args:
        class_path: module and name, such as `my_package.models.Head`.
        path: the dotted key that names it, for messages.
        allowed: modules that may be imported; a package allows all of its modules.

    Raises:
        InputError: the module is not allowed, and so not imported, or it raises, or it has no such class.
    """
    cls = import_object(class_path, path, allowed)
    if not isinstance(cls, type):
        raise InputError(f"{path}.class_path: {class_path} is not a class")
    return cls


def import_object(class_path: str, path: str, allowed: Sequence[str]) -> Callable[..., Any]:
    """Import a class or function that a configuration names, if the user has allowed its module.

    The arguments and errors are those of `import_class`.
    """
    key = f"{path}.class_path"
    name, _, own_name = class_path.rpartition(".")
    module = import_module(name, key, allowed, class_path)
    found = getattr(module, own_name, None)
    if not callable(found):
        known = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise InputError(f"{key}: {name} has no {own_name}{nearest(own_name, known) if known else ''}")
    # The module may have imported it from one that is not allowed. Some objects do not say where they are from.
    _require_allowed(getattr(found, "__module__", None) or name, f"{key} {class_path}", allowed)
    return found


def import_module(name: str, key: str, allowed: Sequence[str], class_path: str | None = None) -> ModuleType:
    """Import a module that a configuration names, if the user has allowed it.

    Args:
        name: the module.
        key: the dotted key that names it, for messages.
        allowed: modules that may be imported; a package allows all of its modules.
        class_path: the class that is wanted from it, for messages.

    Raises:
        InputError: the module is not allowed, and so not imported, or there is none, or it raises.
    """
    what = f"{key} {class_path or name}"
    _require_allowed(name, what, allowed)
    before = [dict(registry) for registry in _REGISTRIES]
    # The user's modules lie in the current folder. It comes last, so that they replace no other module.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    # Finders remember the content of folders. The module may have been written since.
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        # Its registrations before the error would make the next attempt fail.
        for registry, content in zip(_REGISTRIES, before, strict=True):
            registry.clear()
            registry.update(content)
        raise _import_error(error, name, what) from None
    if not is_allowed(name, (*OURS, "lightning")):
        _NAMED[name, class_path.rpartition(".")[2] if class_path else None] = key.removesuffix(".class_path")
    return module


def own_error(error: BaseException) -> str | None:
    """Describe an error that the user's code raised, with the key that names it; None if no such code did.

    Such code is in a module that a configuration or a checkpoint named. It counts as the cause if no code of this
    package was called between it and the error; code of other packages may have been. A value that such code returned
    and this package refused counts too.
    """
    if isinstance(error, ContractError):
        return str(error)
    named = {module for module, _ in _NAMED}
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module, code = str(frame.f_globals.get("__name__")), frame.f_code
        if is_allowed(module, OURS):
            return None
        if not is_allowed(module, named):
            continue
        keys = _keys_of(module, code.co_qualname.partition(".")[0]) or _keys_of(module)
        owner = f"{' or '.join(keys)} ({module}.{code.co_qualname})" if keys else f"{module}.{code.co_qualname}"
        place = f"{os.path.basename(code.co_filename)}, line {line}"
        return f"{owner} raised {type(error).__name__} in {place}: {first_line(error)}"
    return None


def _keys_of(module: str, name: str | None = None) -> list[str]:
    """Return the keys that name a class, or anything of a module."""
    return sorted({key for (of, own), key in _NAMED.items() if of == module and name in (None, own)})


@contextmanager
def own_errors_as(kind: type[InputError | WorkError]) -> Iterator[None]:
    """Raise an error in the user's code as one message that names the key; the error is its cause.

    `SystemExit` counts as an error, because it would end the command with a status of the user's choice, such as 0.
    """
    try:
        yield
    except (InputError, WorkError):
        raise
    except (Exception, SystemExit) as error:
        message = own_error(error)
        if message is None:
            raise
        raise kind(message) from error


def _import_error(error: BaseException, name: str, what: str) -> BaseException:
    """Return the error to raise after importing a module raised one."""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        return InputError(f"{what} cannot be imported: {error}, neither in this folder nor installed")
    if isinstance(error, InputError):
        return InputError(f"{what} cannot be imported: {error}")
    if isinstance(error, Exception | SystemExit):
        return InputError(f"{what} cannot be imported: {_located(error, name)}")
    return error


def read_modules(values: object, path: str, allowed: Sequence[str], faults: list[Fault]) -> Ready:
    """Import a list of modules, so that they register what they define; add an entry to `faults` for each that fails.

    Args:
        values: the list, or its text.
        path: its key.
        allowed: modules that may be imported; a package allows all of its modules.
        faults: receives the key and a message per fault.
    """

    def read(name: object, key: str) -> str:
        if not isinstance(name, str):
            raise InputError(f"{key}: the name of a module is expected, got {name!r}")
        import_module(name, key, allowed)
        return name

    return Ready(read_list(values, path, read, faults))


def read_list(values: object, path: str, read: Callable[[object, str], Entry], faults: list[Fault]) -> list[Entry]:
    """Read a list whose entries differ; add an entry to `faults` for each that is not usable.

    Args:
        values: the list, or its text.
        path: its key.
        read: reads an entry, given its key.
        faults: receives the key of the list and a message per fault.
    """
    entries: list[Entry] = []
    try:
        written = yaml_value(values, path)
        if not isinstance(written, list):
            raise InputError(f"{path}: a list is expected, got {written!r}")
    except InputError as error:
        faults.append((path, str(error)))
        return []
    for number, value in enumerate(written):
        key = f"{path}.{number}"
        try:
            entry = read(value, key)
            if entry in entries:
                name = getattr(entry, "class_path", entry)
                raise InputError(f"{key} is {name}, which {path}.{entries.index(entry)} is already")
            entries.append(entry)
        except InputError as error:
            faults.append((path, str(error)))
    return entries


def own_modules(values: object) -> list[str]:
    """Return the modules that nested keys name and that need consent, in order.

    They are under `modules`, and in every `class_path` at any depth.

    >>> own_modules({"modules": ["my_tasks"], "optimizer": {"class_path": "my_parts.Lion", "init_args": {}}})
    ['my_tasks', 'my_parts']
    """
    return list(dict.fromkeys(module for module, _ in own_classes(values)))


def own_classes(values: object) -> Iterator[tuple[str, str | None]]:
    """Yield each module that nested keys name, and the class that is taken from it; None for those of `modules`."""
    modules = values.get("modules") if isinstance(values, dict) else None
    for module in modules if isinstance(modules, list | tuple) else ():
        yield str(module), None
    for class_path in _class_paths(values):
        module, _, name = class_path.rpartition(".")
        if module and is_own(module):
            yield module, name


def is_allowed(module: str, allowed: Iterable[str]) -> bool:
    """Return whether a module is allowed, or is in an allowed package.

    >>> is_allowed("my_parts.heads", ["my_parts"]), is_allowed("my_parts_too", ["my_parts"])
    (True, False)
    """
    return any(module == each or module.startswith(f"{each}.") for each in allowed)


def allowed_names(modules: str | Sequence[str]) -> list[str]:
    """Return the modules of an argument `allow_modules`, which may be one name or several.

    >>> allowed_names("my_parts"), allowed_names(["my_parts", "my_tasks"])
    (['my_parts'], ['my_parts', 'my_tasks'])
    """
    return [modules] if isinstance(modules, str) else list(modules)


def options_that_allow(modules: str | Sequence[str]) -> list[str]:
    """Return the options of a command that allow modules.

    >>> options_that_allow(["my_parts"])
    ['--allow-module', 'my_parts']
    """
    return [word for module in allowed_names(modules) for word in ("--allow-module", module)]


def is_own(module: str) -> bool:
    """Return whether a module is the user's: not of this package or Lightning, whose versions are recorded."""
    return not is_allowed(module, _VERSIONED)


def _class_paths(values: object) -> Iterator[str]:
    if isinstance(values, dict):
        if isinstance(class_path := values.get("class_path"), str):
            yield class_path
        values = list(values.values())
    for value in values if isinstance(values, list | tuple) else ():
        yield from _class_paths(value)


def _load_settings_class(class_path: str, path: str, allowed: Sequence[str]) -> type:
    cls = import_class(class_path, path, allowed)
    if cls.__qualname__ != cls.__name__ or not dataclasses.is_dataclass(cls):
        raise InputError(
            f"{path}.class_path {class_path} is no dataclass at the top level of its module; it must be one, because "
            "its fields are the keys"
        )
    fields = {field.name for field in dataclasses.fields(cls)}
    missing = [each for each in REQUIRED[path] if each not in fields and not hasattr(cls, each)]
    if missing := missing or abstract_methods(cls):
        raise InputError(f"{path}.class_path {class_path} lacks {', '.join(missing)}")
    return cls


def abstract_methods(cls: type) -> list[str]:
    """Return the names of the methods that a class leaves to its subclasses."""
    return sorted(getattr(cls, "__abstractmethods__", ()))


def _require_allowed(module: str, what: str, allowed: Sequence[str]) -> None:
    if not is_allowed(module, (*OURS, *allowed)):
        name = module or what.rpartition(" ")[2]
        owner = "" if what.endswith(f" {module}") and module else f"of the module {name!r}, which is "
        raise InputError(
            f"{what} is {owner}not imported unless you say so: "
            f"--allow-module {module or 'NAME'} (in Python: allow_modules)"
        )


def _located(error: BaseException, module: str) -> str:
    """Describe what a module raised while it was imported, with the last line of Python code outside `importlib`."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    location = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if len(frames) > 1 else ""
    return f"the module {module} raised {type(error).__name__} while it was imported{location}: {first_line(error)}"
