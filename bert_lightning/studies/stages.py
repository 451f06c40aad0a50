"""The stages of a study, and what varies in each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Axis:
    """One entry of `axes`: keys whose values change together.

    Attributes:
        keys: dotted keys.
        values: one tuple for each setting of the axis, with a value for each key.
    """

    keys: tuple[str, ...]
    values: tuple[tuple[object, ...], ...]


@dataclass(frozen=True)
class Varied:
    """The arms and axes of a stage, which make all combinations of an arm and a value of each axis.

    Attributes:
        arms: name -> dotted keys and values; None if no arms are named.
        axes: the axes; empty if there are none.
    """

    arms: Mapping[str, Mapping[str, object]] | None = None
    axes: tuple[Axis, ...] = ()

    @property
    def num(self) -> int:
        """Number of combinations."""
        return math.prod([len(axis.values) for axis in self.axes]) * (1 if self.arms is None else len(self.arms))


@dataclass(frozen=True)
class Stage:
    """One training per arm and seed. It may start from the run of an earlier stage with the same seed.

    Attributes:
        name: its name.
        base: experiment files; later ones override earlier ones.
        overrides: dotted key -> value, in all runs of the stage.
        upstreams: dotted key -> name of the earlier stage whose run directory becomes its value.
        varied: the arms and axes that this stage adds.
        in_sequence: whether it is a task of a sequence. Then the settings that earlier stages vary apply to it too.
    """

    name: str
    base: tuple[Path, ...]
    overrides: Mapping[str, object] = field(default_factory=dict)
    upstreams: Mapping[str, str] = field(default_factory=dict)
    varied: Varied = field(default_factory=Varied)
    in_sequence: bool = False
