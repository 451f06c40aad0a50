"""Custom data sets, which experiments name with `data.dataset`."""

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any, get_args

from bert_lightning.checks import nearest
from bert_lightning.data.datasets.catalogue import STANDARD_SETS
from bert_lightning.data.datasets.examples import EXAMPLE_TYPES, UNLABELLED
from bert_lightning.data.datasets.standard_set import ProblemType, SplitFile, StandardSet
from bert_lightning.errors import InputError
from bert_lightning.wording import first_line

Examples = Callable[[], Iterable[object]]
"""A function that yields the examples of a split."""
PROGRAM = "__main__"
"""The module of a program or notebook, which may register a thing again after it was changed."""
OWNERS: dict[str, str] = {}
"""Name of a registered data set -> the module that registered it."""
SPLITS = ("train", "validation", "test")
# Task -> the field of its examples that names a label or several; elsewhere a number may be a number.
_LABELS = {"text-classification": "label", "relation-classification": "label", "token-classification": "tags"}


def register_dataset(
    name: str,
    task: str,
    splits: Mapping[str, str | Path | Examples],
    *,
    read: Callable[[str], Iterable[object]] | None = None,
    labels: Sequence[str] | None = None,
    problem_type: ProblemType | None = None,
    is_pair: bool = False,
    scheme: str | None = None,
    negative_label: str | None = None,
    monitor: str | None = None,
) -> None:
    """Add a data set, which experiments of its task can then name with the key `data.dataset`.

    An example is a named tuple of `bert_lightning.data`, or a dictionary of its fields. Of these, `id` and `location`
    may be left out, and so may fields with a default, such as `text_pair`. Labels that are numbers become text,
    except in a regression.

    Args:
        name: the value of `data.dataset`.
        task: the task of its examples.
        splits: name of a split (`train`, `validation` or `test`) -> a file, or a function that yields examples. A
            data set may lack a split.
        read: reads the examples of a file; by default a file is read as one that `data.train` names, with the same
            keys for its columns.
        labels: in the order of their ids; by default the training split decides.
        problem_type: of a text classification: `single-label`, `multi-label` or `regression`.
        is_pair: whether an example is a pair of texts.
        scheme: `none` if tags are plain labels that mark no spans.
        negative_label: the label for "no relation", which scores leave out.
        monitor: the metric that selects the best checkpoint, such as `f1`, if the task has it.

    Raises:
        ValueError: there is another data set of that name, or an argument is not allowed.

    >>> register_dataset("two-moods", "text-classification", {"train": lambda: [{"text": "Good!", "label": "happy"}]})
    >>> from bert_lightning.data.datasets.catalogue import STANDARD_SETS
    >>> next(STANDARD_SETS.pop("two-moods").read("two-moods:train", "train")).label
    'happy'
    """
    _check(name, splits, problem_type, read)
    if scheme not in (None, "none"):
        raise ValueError(f"{name}: scheme is {scheme!r}; it must be 'none', or left out: the tags then decide it")
    described = StandardSet(
        task=task,
        splits={split: (_split_file(name, split, source),) for split, source in splits.items()},
        read=_Reader(name, task, _functions(splits), read, numeric=problem_type == "regression"),
        monitor=monitor or "",
        source="",
        labels=tuple(map(_as_text, labels)) if labels is not None else None,
        problem_type=problem_type,
        is_pair=is_pair,
        scheme=scheme,
        negative_label=negative_label,
        registered=True,
        reads_columns=read is None and not _functions(splits),
    )
    _add(name, described, calling_module())


def _functions(splits: Mapping[str, str | Path | Examples]) -> tuple[tuple[str, Examples], ...]:
    """Return the splits whose examples a function yields, with that function."""
    return tuple((split, each) for split, each in splits.items() if callable(each))


def _add(name: str, described: StandardSet, module: str) -> None:
    """Add a data set to the table, unless another one has its name. A program may change its own."""
    if name in STANDARD_SETS and OWNERS.get(name) == module == PROGRAM:
        del STANDARD_SETS[name]
    OWNERS.setdefault(name, module)
    if STANDARD_SETS.setdefault(name, described) != described:
        raise ValueError(f"a data set is already called {name!r}: choose another name")


def calling_module() -> str:
    """Return the name of the module that called `register_dataset` or another function that calls this one."""
    return str(sys._getframe(2).f_globals.get("__name__", PROGRAM))


@dataclass(frozen=True)
class _Reader:
    """The reader of a registered data set: of its functions, and of the files that it or an experiment names."""

    name: str
    task: str
    functions: tuple[tuple[str, Examples], ...]
    read_file: Callable[[str], Iterable[object]] | None
    numeric: bool
    """the labels are numbers, not names"""

    def __call__(self, source: str, split: str) -> Iterator[object]:
        function = dict(self.functions).get(split)
        if function is not None and source == _source_of_function(self.name, split):
            examples = self._yielded(function, (), f"of the split {split}")
        elif self.read_file is not None:
            examples = self._yielded(self.read_file, (source,), f"that reads {source}")
        else:
            raise InputError(
                f"{source}: the data set {self.name} has functions that yield its examples, and reads no file"
            )
        for number, example in enumerate(examples):
            typed = _typed(example, self.task, split, f"{source}: example {number + 1}", number)
            yield typed if self.numeric else _with_names(typed, self.task)

    def _yielded(
        self, function: Callable[..., Iterable[object]], arguments: tuple[str, ...], purpose: str
    ) -> Iterator[object]:
        """Yield the examples of a function of the user's.

        Raises:
            InputError: it raises, or returns something else. The message names the data set and the function.
        """
        code = getattr(function, "__code__", None)
        what = f"data set {self.name}: the function {getattr(function, '__qualname__', repr(function))} {purpose}"
        try:
            examples = function(*arguments)
            if not isinstance(examples, Iterable):
                place = f" ({os.path.basename(code.co_filename)}, line {code.co_firstlineno})" if code else ""
                raise InputError(f"{what}{place} returned {examples!r}; it must yield examples")
            yield from examples
        except InputError:
            raise
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise InputError(
                f"{what} raised {type(error).__name__} in {os.path.basename(last.filename)}, line {last.lineno}: "
                f"{first_line(error)}"
            ) from error


def _as_text(label: object) -> Any:
    """Return a label that is a number as text; everything else as it is."""
    return str(label) if isinstance(label, Number) else label


def _with_names(example: Any, task: str) -> object:
    """Return an example whose labels are text, as those of a file are."""
    key = _LABELS.get(task)
    labels = getattr(example, key, None) if key is not None else None
    if isinstance(labels, list | tuple):
        return example._replace(**{str(key): type(labels)(map(_as_text, labels))})
    return example._replace(**{str(key): _as_text(labels)}) if isinstance(labels, Number) else example


def _typed(example: object, task: str, split: str, location: str, number: int) -> object:
    """Return an example of the task's type, with its location. Only a test split may lack labels.

    Raises:
        InputError: it has other fields; the message names its location.
    """
    if not isinstance(example, Mapping):
        if not hasattr(example, "_asdict") or not hasattr(example, "location"):
            raise InputError(
                f"{location}: a dictionary or a named tuple with a location is expected, not {example!r}"
            )
        return example
    # A custom task that has other examples takes named tuples.
    kind, defaults = EXAMPLE_TYPES.get(task, EXAMPLE_TYPES["text-classification"])
    unlabelled = UNLABELLED if split == "test" else {}
    values: dict[str, object] = {"location": location, "id": str(number), **unlabelled, **defaults, **example}
    values = {field: value for field, value in values.items() if field in kind._fields or field in example}
    for field in values:
        if field not in kind._fields:
            raise InputError(f"{location}: unknown field {field!r}{nearest(str(field), kind._fields)}")
    missing = [field for field in kind._fields if field not in values]
    if missing:
        raise InputError(
            f"{location}: {' and '.join(missing)} missing; a {kind.__name__} has {', '.join(kind._fields)}"
        )
    return kind(**values)


def _source_of_function(name: str, split: str) -> str:
    return f"{name}:{split}"


def _split_file(name: str, split: str, source: str | Path | Examples) -> SplitFile:
    if callable(source):
        return SplitFile("", (), None, own=_source_of_function(name, split))
    return SplitFile("", (Path(source).name,), None, own=str(source))


def _check(
    name: str, splits: Mapping[str, object], problem_type: str | None, read: Callable[[str], object] | None
) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of a data set is {name!r}; it must be text")
    if not splits:
        raise ValueError(f"{name}: a data set needs a split: {', '.join(SPLITS)}")
    for split, source in splits.items():
        if split not in SPLITS:
            raise ValueError(f"{name}: the split {split!r} does not exist{nearest(str(split), SPLITS)}")
        if not callable(source) and not (isinstance(source, str | Path) and str(source)):
            raise ValueError(
                f"{name}: the split {split} is a file, or a function that yields examples, not {source!r}"
            )
    if read is None and len({callable(source) for source in splits.values()}) == 2:
        raise ValueError(f"{name}: some splits are functions and others files, so the files need `read`")
    if problem_type is not None and problem_type not in get_args(ProblemType):
        raise ValueError(f"{name}: problem_type is {problem_type!r}{nearest(problem_type, get_args(ProblemType))}")
