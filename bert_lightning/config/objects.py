"""Objects that a configuration names by `class_path` and `init_args`: callbacks and loggers.

The class is imported and its arguments are checked while the configuration is read. The object is built when a run
begins. Classes of Lightning's own package need no consent; all others do.
"""

import importlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bert_lightning.checks import nearest
from bert_lightning.config.extensions import OURS, abstract_methods, import_class, is_allowed, read_list
from bert_lightning.config.settings import Fault, Ready, unknown_key
from bert_lightning.config.signatures import plain_arguments, takes, typed_arguments
from bert_lightning.errors import InputError
from bert_lightning.wording import first_line


@dataclass(frozen=True)
class ObjectSettings:
    """An object of a class.

    Attributes:
        class_path: module and name of the class.
        init_args: arguments of its constructor, as plain values.
    """

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """A kind of object that a configuration may name.

    Attributes:
        word: what messages call it.
        base: the class that it must be a subclass of, by module and name.
        package: whose classes need no consent, and may be named without it.
        refused: name of a class in the package -> the rest of a sentence about it: why it is refused, and what to use
            in its place. Subclasses are refused too, except those of this project.
        names: short names that stand for an object without a class.
        given: arguments that a run adds if the constructor has them.
    """

    word: str
    base: str
    package: str
    refused: Mapping[str, str] = field(default_factory=dict)
    names: Collection[str] = ()
    given: Collection[str] = ()


def read_objects(values: object, path: str, kind: Kind, allowed: Sequence[str] | None, faults: list[Fault]) -> Ready:
    """Read a list of objects; add an entry to `faults` for each that is not usable.

    Args:
        values: the list, or its text. Each entry is a short name, a class path, or keys and values.
        path: the key of the list.
        kind: the kind of the objects.
        allowed: modules that may be imported; None to read the list of a saved run without importing anything.
        faults: receives the key of the list and a message per fault.
    """
    return Ready(read_list(values, path, lambda entry, key: _read(entry, key, kind, allowed), faults))


def build_object(settings: ObjectSettings, path: str, kind: Kind, given: Mapping[str, object] | None = None) -> Any:
    """Build an object.

    Args:
        settings: its class, which is imported, and its arguments.
        path: the key of the object, for messages.
        kind: its kind.
        given: arguments that are added if the constructor takes them and the settings do not set them.

    Raises:
        InputError: its constructor refuses the arguments. The message names the key.
    """
    module, _, name = settings.class_path.rpartition(".")
    # It was imported with the user's consent when the configuration was read.
    cls = getattr(importlib.import_module(module), name)
    arguments = typed_arguments(cls, settings.init_args, f"{path}.init_args", kind.given)
    added = {key: value for key, value in (given or {}).items() if key not in arguments and takes(cls, key)}
    try:
        return cls(**added, **arguments)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{path}.init_args: {name} refuses them: {type(error).__name__}: {first_line(error)}"
        ) from None


def refusal(cls: type, kind: Kind) -> str | None:
    """Return why a class cannot be used here, and what to use in its place; None if it can."""
    if is_allowed(cls.__module__, OURS):
        return None
    package = importlib.import_module(kind.package)
    reasons = (reason for name, reason in kind.refused.items() if issubclass(cls, getattr(package, name)))
    return next(reasons, None)


def _read(entry: object, path: str, kind: Kind, allowed: Sequence[str] | None) -> str | ObjectSettings:
    if isinstance(entry, str):
        entry = {"name" if kind.names and "." not in entry else "class_path": entry}
    if not isinstance(entry, dict):
        raise InputError(f"{path}: a class_path is expected, got {entry!r}")
    known = ["class_path", "init_args", *(["name"] if kind.names else [])]
    for key in entry:
        if key not in known:
            raise InputError(unknown_key(key, known, path))
    if "name" in entry:
        return _short_name(entry, path, kind)
    if not isinstance(entry.get("class_path"), str):
        raise InputError(f"the key {path}.class_path is missing")
    arguments = plain_arguments(entry.get("init_args") or {}, f"{path}.init_args")
    if allowed is None:
        return ObjectSettings(entry["class_path"], arguments)
    class_path, cls = _class(entry["class_path"], path, kind, allowed)
    typed_arguments(cls, arguments, f"{path}.init_args", kind.given)
    return ObjectSettings(class_path, arguments)


def _short_name(entry: dict[str, object], path: str, kind: Kind) -> str:
    name, others = str(entry["name"]), [key for key in entry if key != "name"]
    if others:
        raise InputError(
            f"{path}.{others[0]} stands beside name: a {kind.word} is either named or built by its class"
        )
    if name not in kind.names:
        raise InputError(f"{path} is {name!r}{nearest(name, kind.names)}; or give the class_path of your own")
    return name


def _class(class_path: str, path: str, kind: Kind, allowed: Sequence[str]) -> tuple[str, type]:
    """Return the complete class path, and the class, of an object.

    Raises:
        InputError: there is no such class, its module is not allowed, or it is not of the kind, abstract or refused.
    """
    key = f"{path}.class_path"
    package = importlib.import_module(kind.package)
    if "." not in class_path:
        if class_path not in package.__all__:
            raise InputError(
                f"{key}: {kind.package} has no class {class_path}{nearest(class_path, package.__all__)}; your own "
                f"needs its module, such as my_module.{class_path}"
            )
        class_path = f"{kind.package}.{class_path}"
    if class_path.startswith("pytorch_lightning."):
        raise InputError(
            f"{key} {class_path} is of the package pytorch_lightning, whose classes do not work with "
            f"those of lightning: write lightning.pytorch.{class_path.partition('.')[2]}"
        )
    cls = import_class(class_path, path, (*allowed, kind.package))
    base_module, _, base_name = kind.base.rpartition(".")
    if not issubclass(cls, getattr(importlib.import_module(base_module), base_name)):
        raise InputError(f"{key} {class_path} is no {kind.word}: it must be a subclass of {kind.base}")
    reason = refusal(cls, kind)
    if reason is not None:
        raise InputError(f"{key} {class_path} {reason}")
    if missing := abstract_methods(cls):
        raise InputError(f"{key} {class_path} lacks {', '.join(missing)}")
    return class_path, cls
