"""Names that a package offers, and imports only when they are used. This module imports nothing heavy."""

import ast
import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def without_collections(*, freeze: bool = False) -> Iterator[None]:
    """Import without searching for garbage.

    Torch and Lightning make more than a million objects that stay. Python would look through all of them again and
    again, which takes a fifth of the time of the imports.

    Args:
        freeze: whether later searches leave out all objects that exist at the end. A command does this, because it
            made nothing before that could become garbage.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
        if freeze:
            gc.freeze()


def exports(package: str, file: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package that imports what it offers only when it is used.

    The names are those that the file of the package imports under `if TYPE_CHECKING:`. So type checkers and editors,
    which read these imports, know the same names.

    Args:
        package: the full name of the package.
        file: its `__init__.py`.
    """
    modules = _imported_for_type_checkers(Path(file))

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = modules[name]
        with without_collections():
            if module == package:
                return importlib.import_module(f"{package}.{name}")
            value: object = getattr(importlib.import_module(module), name)
        # The next access finds it without this function.
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return get, names


def imported(module: str, name: str) -> Any:
    """Return a name of a module, which is imported now.

    A method may offer what a package above its own computes, such as `Predictor.explain` (docs/architecture.md). It
    imports that by name when it is called, so that no package needs one above it to be loaded.
    """
    return getattr(importlib.import_module(module), name)


def _imported_for_type_checkers(file: Path) -> dict[str, str]:
    """Return the names that a file imports under `if TYPE_CHECKING:`, each with its module."""
    blocks = [
        statement
        for statement in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"
    ]
    return {
        alias.name: str(imported.module)
        for block in blocks
        for imported in block.body
        if isinstance(imported, ast.ImportFrom)
        for alias in imported.names
    }
