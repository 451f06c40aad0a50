"""Wording that messages share."""


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
