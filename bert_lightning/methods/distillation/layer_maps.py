"""Layer maps: from which block of the teacher each block of the student learns. Blocks are numbered from 0."""

from typing import Literal

LayerMap = Literal["uniform", "skip", "last", "top"] | list[int | None]
"""A rule, or the number of the teacher's block for each block of the student; null leaves a block out."""


def check_layer_map(layers: LayerMap) -> None:
    """Check what can be checked of a layer map without the two models.

    Raises:
        ValueError: a list is empty or names no block.
    """
    if not isinstance(layers, str) and all(number is None for number in layers):
        raise ValueError("layers names no block: give the teacher's block for at least one block of the student")


def pairs_of(layers: LayerMap, num_student: int, num_teacher: int) -> dict[int, int]:
    """Return block of the student -> block of the teacher.

    With L blocks of the student and r L of the teacher:

    - `uniform`: k -> r (k + 1) - 1, as in TinyBERT (Jiao et al. 2020, arXiv 1909.10351, section 3.1; its
      `task_distill.py`). The last block learns from the last.
    - `skip`: the same without the last block, as PKD-Skip (Sun et al. 2019, arXiv 1908.09355, section 3.1).
    - `last`: the last blocks of the teacher before its very last, as PKD-Last: k -> r L - L + k for k < L - 1.
    - `top`: only the last block learns, from the last one, as in DistilBERT and MiniLM.

    Raises:
        ValueError: the numbers of blocks do not fit the rule, or a list has another length or a block that does not
            exist. The message begins with the name of the field.

    >>> pairs_of("uniform", 4, 12), pairs_of("skip", 4, 12)
    ({0: 2, 1: 5, 2: 8, 3: 11}, {0: 2, 1: 5, 2: 8})
    >>> pairs_of("last", 4, 12), pairs_of("top", 4, 12)
    ({0: 8, 1: 9, 2: 10}, {3: 11})
    >>> pairs_of([None, 0], 2, 6)
    {1: 0}
    """
    if not isinstance(layers, str):
        return _written(layers, num_student, num_teacher)
    if layers == "top":
        return {num_student - 1: num_teacher - 1}
    if layers == "last":
        if num_teacher < num_student:
            raise ValueError(
                f"layers is last, but the teacher has {num_teacher} blocks and the student {num_student}"
            )
        pairs = {number: num_teacher - num_student + number for number in range(num_student - 1)}
    else:
        ratio, rest = divmod(num_teacher, num_student)
        if rest or not ratio:
            raise ValueError(
                f"layers is {layers}, which needs a teacher with a multiple of the student's {num_student} blocks, "
                f"but it has {num_teacher}: write a list with the teacher's block for each block of the student"
            )
        last = num_student - (layers == "skip")
        pairs = {number: ratio * (number + 1) - 1 for number in range(last)}
    if not pairs:
        raise ValueError(f"layers is {layers}, which leaves the last block out, but the student has only one")
    return pairs


def _written(layers: list[int | None], num_student: int, num_teacher: int) -> dict[int, int]:
    if len(layers) != num_student:
        raise ValueError(
            f"layers is {layers}; it must have one entry for each of the student's {num_student} blocks: the number "
            "of the teacher's block, or null"
        )
    pairs = {student: teacher for student, teacher in enumerate(layers) if teacher is not None}
    for teacher in pairs.values():
        if not 0 <= teacher < num_teacher:
            raise ValueError(f"layers names block {teacher}, but the teacher has blocks 0 to {num_teacher - 1}")
    return pairs
