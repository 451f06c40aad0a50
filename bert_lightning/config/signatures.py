"""Arguments of a constructor from plain values, checked against its signature before anything is built."""

import dataclasses
import enum
import functools
import inspect
import operator
import re
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from bert_lightning.checks import nearest
from bert_lightning.config.settings import Fault, build, type_name, typed_value, unknown_key
from bert_lightning.config.variables import with_variables
from bert_lightning.errors import InputError

_PLAIN = (bool, int, float, str, type(None), Path, dict, list, tuple, set, frozenset)
_COLLECTIONS = (list, tuple, set, frozenset, dict, Sequence, Mapping, Collection, Iterable)
# An argument of this name would be written to the run's files.
_SECRET = re.compile(r"(^|_)(api_?key|password|passwd|secret|credentials?|(access|auth|api)_token)$", re.IGNORECASE)


class _Parameters(NamedTuple):
    """The parameters that a constructor takes by name."""

    hints: dict[str, object]
    required: set[str]
    takes_any: bool
    """whether it takes other names too"""


def plain_arguments(values: object, path: str) -> dict[str, object]:
    """Return arguments with the variables `${NAME}` of their texts replaced.

    Raises:
        InputError: they are not keys and values, or a variable is not set or looks like a secret.
    """
    if not isinstance(values, dict):
        raise InputError(f"{path}: keys and values are expected, got {values!r}")
    return {str(key): _replaced(value, f"{path}.{key}") for key, value in values.items()}


def typed_arguments(
    cls: type, values: Mapping[str, object], path: str, given: Collection[str] = ()
) -> dict[str, object]:
    """Return the arguments of a constructor with the types that its signature asks for.

    Nothing is imported for a value: a parameter whose type is a class or function cannot be set.

    Args:
        cls: the class to build.
        values: names and plain values.
        path: the dotted key of the arguments, for messages.
        given: names that the caller adds.

    Raises:
        InputError: a name is unknown or missing, or a value has another type. One message has all of these.
    """
    parameters = _parameters(cls)
    faults: list[str] = []
    typed: dict[str, object] = {}
    for name, value in values.items():
        if _SECRET.search(name) and value is not None:
            faults.append(f"{path}.{name} looks like a secret: values are written to a run's files")
        elif name in parameters.hints:
            try:
                typed[name] = _typed(value, parameters.hints[name], f"{path}.{name}")
            except InputError as error:
                faults.append(str(error))
        elif parameters.takes_any:
            typed[name] = value
        elif parameters.hints:
            faults.append(unknown_key(name, parameters.hints, path))
        else:
            faults.append(f"unknown key '{path}.{name}': {cls.__name__} takes no arguments")
    missing = [name for name in parameters.hints if name in parameters.required - {*values, *given}]
    faults += [f"the key {path}.{name} is missing" for name in missing]
    if faults:
        raise InputError("; ".join(faults))
    return typed


def takes(cls: type, name: str) -> bool:
    """Return whether a constructor has a parameter of this name."""
    return name in _parameters(cls).hints


def _parameters(cls: type) -> _Parameters:
    """Return the parameters of a constructor; `**kwargs` stand for those of the next class that it inherits from."""
    hints: dict[str, object] = {}
    required: set[str] = set()
    for owner in cls.__mro__:
        # NamedTuples and some other classes are built by `__new__`.
        constructor = vars(owner).get("__init__")
        if constructor is None or owner is object:
            continue
        signature = list(inspect.signature(constructor).parameters.values())[1:]
        for parameter in signature:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                if parameter.name not in hints and parameter.default is parameter.empty:
                    required.add(parameter.name)
                hints.setdefault(parameter.name, _hint_of(parameter, constructor))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature):
            return _Parameters(hints, required, takes_any=False)
    # The last constructor took **kwargs, or no class has one of its own.
    has_constructor = any("__init__" in vars(owner) for owner in cls.__mro__ if owner is not object)
    return _Parameters(hints, required, takes_any=has_constructor)


def _hint_of(parameter: inspect.Parameter, constructor: object) -> object:
    """Return the type of a parameter; `Any` if it has none, or one that only type checkers know."""
    if parameter.annotation is parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        return typing.get_type_hints(holder, getattr(constructor, "__globals__", {}))[parameter.name]
    except (NameError, TypeError, AttributeError, SyntaxError):
        return Any


def _replaced(value: object, path: str) -> object:
    if isinstance(value, dict):
        return {key: _replaced(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        # As elsewhere, variables in the texts of a list are not replaced.
        return [_replaced(item, f"{path}.{n}") if isinstance(item, dict) else item for n, item in enumerate(value)]
    return with_variables(value, path) if isinstance(value, str) else value


def _typed(value: object, hint: object, path: str) -> object:
    if (settings := _dataclass_in(hint)) is not None and isinstance(value, dict):
        faults: list[Fault] = []
        built = build(settings, value, path, {}, faults)
        if faults:
            raise InputError("; ".join(message for _, message in faults))
        return built
    plain = _plain_hint(hint)
    if plain is None:
        raise InputError(f"{path} is {type_name(hint)}, which a configuration cannot give")
    members = get_args(plain) if get_origin(plain) in (Union, types.UnionType) else (plain,)
    if isinstance(value, str) and (str in members or Path in members):
        return value if str in members else Path(value)
    if plain is Any or (not isinstance(value, str) and _fits(value, members)):
        return value
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        if value not in plain.__members__:
            raise InputError(f"{path} is {value!r}{nearest(str(value), plain.__members__)}")
        return plain[str(value)]
    return typed_value(value, plain, path)


def _fits(value: object, members: Sequence[object]) -> bool:
    """Return whether a value is a collection that fits as it is, since jsonargparse would read the texts in it."""
    kinds = tuple(get_origin(member) or member for member in members)
    if isinstance(value, dict):
        return any(kind in (dict, Mapping) for kind in kinds) and all(isinstance(key, str) for key in value)
    return isinstance(value, list) and any(
        get_args(member) in ((), (Any,)) and kind in (list, Sequence, Collection, Iterable)
        for member, kind in zip(members, kinds, strict=True)
    )


def _plain_hint(hint: object) -> object:
    """Return a type without the classes and functions in it; None if nothing else is left.

    >>> _plain_hint(str | types.FunctionType), _plain_hint(types.FunctionType)
    (<class 'str'>, None)
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (Any, inspect.Parameter.empty) or isinstance(hint, typing.TypeVar) or hint in _PLAIN:
        return hint if not isinstance(hint, typing.TypeVar) and hint is not inspect.Parameter.empty else Any
    if hint is None:
        return type(None)
    if origin is Literal:
        return hint
    if origin is Annotated:
        return _plain_hint(arguments[0])
    if origin in (Union, types.UnionType):
        members = [plain for member in arguments if (plain := _plain_hint(member)) is not None]
        if Any in members:
            return Any
        # Nothing but null is left of an optional class.
        return functools.reduce(operator.or_, members) if members and members != [type(None)] else None
    if origin in _COLLECTIONS:
        inner = [argument for argument in arguments if argument is not Ellipsis]
        return hint if all(_plain_hint(argument) == argument for argument in inner) else None
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint
    return None


def _dataclass_in(hint: object) -> type | None:
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next(_dataclasses(members), None)


def _dataclasses(members: Iterable[object]) -> Iterator[type]:
    yield from (member for member in members if isinstance(member, type) and dataclasses.is_dataclass(member))
