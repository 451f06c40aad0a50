"""A corpus of real English in every installation: docstrings of the standard library and installed packages."""

import ast
import hashlib
import inspect
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

MIN_CHARACTERS = 120
# The limit keeps any package from dominating the corpus. It also keeps the time for gathering at a few seconds.
MAX_CHARACTERS_PER_PACKAGE = 1 << 20
# Larger files are usually generated tables.
MAX_FILE_BYTES = 2 << 20
STANDARD_LIBRARY = "standard library"
_SKIPPED_FOLDERS = {"test", "tests", "idlelib", "site-packages", "dist-packages", "__pycache__", "lib2to3"}


class Docstring(NamedTuple):
    """A docstring and its package."""

    package: str
    text: str


def gather() -> list[Docstring]:
    """Return the long docstrings of this installation, each once.

    The standard library comes first, then packages by name, and within a package files by path. Files are parsed,
    never imported.
    """
    paths = sysconfig.get_paths()
    site = {Path(paths["purelib"]), Path(paths["platlib"])}
    packages = {child.name: child for folder in site for child in folder.iterdir() if _is_package(child)}
    roots = [(STANDARD_LIBRARY, Path(paths["stdlib"])), *sorted(packages.items())]
    with ProcessPoolExecutor() as pool:
        texts = pool.map(_texts_of, [root for _, root in roots])
    seen: set[str] = set()
    docstrings = []
    for (package, _), package_texts in zip(roots, texts, strict=True):
        for text in package_texts:
            key = re.sub(r"\W+", " ", text).casefold().strip()
            if key not in seen:
                seen.add(key)
                docstrings.append(Docstring(package, text))
    return docstrings


def _texts_of(root: Path) -> list[str]:
    texts: list[str] = []
    room = MAX_CHARACTERS_PER_PACKAGE
    for file in sorted(root.rglob("*.py")):
        if _SKIPPED_FOLDERS & set(file.relative_to(root).parts[:-1]) or file.stat().st_size > MAX_FILE_BYTES:
            continue
        for text in _docstrings(file):
            if len(text) >= MIN_CHARACTERS:
                texts.append(text)
                room -= len(text)
        if room <= 0:
            break
    return texts


def fingerprint(docstrings: list[Docstring]) -> str:
    """Return the SHA-256 of all texts in order, which changes with the installed packages."""
    digest = hashlib.sha256()
    for docstring in docstrings:
        digest.update(repr(tuple(docstring)).encode())
    return digest.hexdigest()


def without_name(text: str, names: set[str], abbreviations: Sequence[str]) -> str:
    """Return the text without words that contain a name, in any case, or an abbreviation as a whole word.

    >>> without_name("Call numpy.dot or np.dot.", {"numpy"}, ["np"]).split()
    ['Call', 'or']
    """
    # Longer names come first, because a name may begin with another one.
    whole = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    short = "|".join(abbreviations)
    return re.sub(rf"\S*(?:{whole}|\b(?:{short})\b)\S*", " ", text, flags=re.IGNORECASE)


def _is_package(path: Path) -> bool:
    return path.is_dir() and (path / "__init__.py").is_file() and path.name.isidentifier()


def _docstrings(file: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text:
                # Some contain lone surrogates, which UTF-8 cannot encode.
                yield inspect.cleandoc(text).encode("utf-8", "ignore").decode()


if __name__ == "__main__":
    texts = gather()
    print(
        f"{len(texts):,} docstrings, {sum(len(d.text) for d in texts):,} characters, {fingerprint(texts)[:16]}",
        file=sys.stderr,
    )
