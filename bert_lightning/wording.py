"""Wording that messages share."""

from collections.abc import Sequence


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says.

    >>> first_line(ValueError("no rows\\nin the file")), first_line(ValueError())
    ('no rows', 'no message')
    """
    return str(error).splitlines()[0] if str(error) else "no message"


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1.

    >>> count(1, "file"), count(2000, "file")
    ('1 file', '2,000 files')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def one_of(names: Sequence[str]) -> str:
    """Return names as alternatives.

    >>> one_of(["a"]), one_of(["a", "b", "c"])
    ('a', 'a, b or c')
    """
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def duration(seconds: float) -> str:
    """Return a time in its two largest units.

    >>> [duration(seconds) for seconds in (0.4, 42, 61, 3725, 200_000)]
    ['0.4 s', '42 s', '1 min 1 s', '1 h 2 min', '2 d 7 h']
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller, part in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {part}"
    return f"{whole} s"
