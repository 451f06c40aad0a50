"""Tables of the exchangeable parts of a model, to which a program adds its own.

A part has a name, which the architecture and the checkpoint hold. Only registered parts are known. A checkpoint is
a file of unknown origin, so it must not choose what is called.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from bert_lightning.checks import nearest

Part = TypeVar("Part", bound=Callable[..., object])


class ContractError(ValueError):
    """A custom part, such as a head or a loss, returned a wrong type or shape. The message names its key."""


class PartTable(dict[str, Part]):
    """The parts of one kind by name.

    Attributes:
        kind: what they are, for messages.
        base: the class that a part must be a subclass of; None also allows functions.
        published: the names that came with this package.
    """

    def __init__(self, kind: str, base: type | None, parts: Mapping[str, Part]) -> None:
        super().__init__(parts)
        self.kind, self.base, self.published = kind, base, frozenset(parts)

    def register(self, name: str, part: Part) -> None:
        """Add a part, which configurations can then name.

        Raises:
            ValueError: there is another part of that name, or the part is of the wrong kind.
        """
        self.check(name, part)
        if self.setdefault(name, part) is not part:
            raise ValueError(f"{self.kind} {name!r} is registered already: choose another name")

    def check(self, name: str, part: object) -> None:
        """Check that a part can be one of this kind.

        Raises:
            ValueError: it cannot.
        """
        if self.base is not None and not (isinstance(part, type) and issubclass(part, self.base)):
            raise ValueError(f"{self.kind} {name!r} is {part!r}; it must be a subclass of {self.base.__name__}")
        is_module = isinstance(part, type) and issubclass(part, nn.Module)
        if not callable(part) or (isinstance(part, type) and not is_module):
            raise ValueError(f"{self.kind} {name!r} is {part!r}; it must be a function or a subclass of nn.Module")

    def require(self, key: str, name: str, *others: str) -> None:
        """Check that a part of that name exists. The message also lists `others`, which are not in the table.

        Raises:
            ValueError: it does not. The message begins with `key` and holds the nearest name.
        """
        if name in self:
            return
        module = name.rpartition(".")[0]
        if module:
            raise ValueError(
                f"{key} is {name!r}, which is not registered: its module {module} must be imported first "
                f"(--allow-module {module})"
            )
        known = [*others, *self]
        near = nearest(name, known)
        raise ValueError(f"{key} is {name!r}; known: {', '.join(known)}{'' if near.startswith('; known') else near}")

    def make(self, key: str, name: str, *positional: object, **arguments: object) -> Any:
        """Return a part as its users call it: an instance of a class, or a function with these keyword arguments.

        Args:
            key: the setting that names the part, for messages.
            name: its name.
            positional: the positional arguments of the constructor, if the part is a class.
            arguments: its own keyword arguments.

        Raises:
            ValueError: there is no such part, or it does not take these arguments.
        """
        self.require(key, name)
        part = self[name]
        if not isinstance(part, type):
            return _with_arguments(part, key, name, arguments)
        try:
            inspect.signature(part).bind(*positional, **arguments)
        except TypeError as error:
            raise ValueError(f"{key}: {name} cannot be built with {arguments or 'no arguments'}: {error}") from None
        return part(*positional, **arguments)


def _with_arguments(function: Callable[..., object], key: str, name: str, arguments: dict[str, object]) -> Any:
    if not arguments:
        return function
    try:
        inspect.signature(function).bind_partial(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key}: {name} does not take {', '.join(arguments)}: {error}") from None

    def bound(*positional: object) -> Any:
        return function(*positional, **arguments)

    return bound
