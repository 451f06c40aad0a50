"""The arms of each stage: all combinations of named arms and axes of the stage and of the stages before it."""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bert_lightning.config.yaml_files import flow_yaml
from bert_lightning.studies.stages import Stage, Varied
from bert_lightning.studies.study_file import Study

# The arm of a stage in which nothing varies.
ONLY_ARM = "base"
# An owner is a section of the study file with axes or arms: the name of a stage, or this for the top of the file.
_TOP = ""


@dataclass(frozen=True)
class Arm:
    """One combination of settings in a stage, which is trained once per seed.

    Attributes:
        name: its name in the study file, or its settings in short, such as `objective=full-sentences`.
        values: dotted key -> value, including those of earlier stages, as in the record of the study.
        settings: dotted key -> value that the runs of this stage set.
        upstreams: dotted key -> (stage, arm) of the upstream run whose directory becomes its value.
    """

    name: str
    values: Mapping[str, object]
    settings: Mapping[str, object]
    upstreams: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class _Choice:
    """One combination of an owner's arms and axes."""

    arm: str | None
    axes: Mapping[str, object]
    settings: Mapping[str, object]


def num_arms(study: Study, stages: Collection[str] = ()) -> int:
    """Return an upper bound on the number of arms over some stages, without making them: a grid may have millions.

    Without stages, all of the study count.
    """
    counted = [stage for stage in study.stages if not stages or stage.name in stages]
    return sum(math.prod(varied.num for _, varied in _owners(study, stage)) for stage in counted)


def arms_of(study: Study) -> dict[str, list[Arm]]:
    """Return the arms of each stage. The first arm of a stage has the first value of each axis.

    Raises:
        InputError: two arms of a stage have the same name.
    """
    choices = {owner: _choices(varied) for owner, varied in _all_owners(study)}
    names = _Names(choices)
    return {stage.name: _arms_of_stage(study, stage, choices, names) for stage in study.stages}


def _all_owners(study: Study) -> list[tuple[str, Varied]]:
    return [(_TOP, study.varied), *((stage.name, stage.varied) for stage in study.stages)]


def _owners(study: Study, stage: Stage) -> list[tuple[str, Varied]]:
    """Return the owners whose axes and arms a stage combines: first those of its upstream stages, then the stage."""
    by_name = {each.name: each for each in study.stages}
    owners: dict[str, Varied] = {} if stage.upstreams else {_TOP: study.varied}
    for upstream in stage.upstreams.values():
        owners |= dict(_owners(study, by_name[upstream]))
    return list((owners | {stage.name: stage.varied}).items())


def _choices(varied: Varied) -> list[_Choice]:
    arms: list[tuple[str | None, Mapping[str, object]]] = [(None, {})]
    if varied.arms is not None:
        arms = list(varied.arms.items())
    choices = []
    for name, settings in arms:
        for values in itertools.product(*(axis.values for axis in varied.axes)):
            axes = {
                key: value
                for axis, setting in zip(varied.axes, values, strict=True)
                for key, value in zip(axis.keys, setting, strict=True)
            }
            choices.append(_Choice(name, axes, {**settings, **axes}))
    return choices


def _arms_of_stage(
    study: Study, stage: Stage, choices: Mapping[str, Sequence[_Choice]], names: "_Names"
) -> list[Arm]:
    by_name = {each.name: each for each in study.stages}
    owners = [owner for owner, _ in _owners(study, stage)]
    arms: dict[str, Arm] = {}
    chains: dict[str, dict[str, _Choice]] = {}
    for combination in itertools.product(*(choices[owner] for owner in owners)):
        own = combination[-1].settings
        if stage.in_sequence:
            own = {key: value for choice in combination for key, value in choice.settings.items()}
        # An arm that sets the key itself, such as `model.pretrained: null`, starts from no other stage.
        used = {key: by_name[name] for key, name in stage.upstreams.items() if key not in own}
        needed = {stage.name, *(owner for upstream in used.values() for owner, _ in _owners(study, upstream))}
        if not stage.upstreams:
            needed.add(_TOP)
        chosen = {owner: each for owner, each in zip(owners, combination, strict=True) if owner in needed}
        name = names.arm(chosen)
        if name in arms:
            if chains[name] != chosen:
                study.fail(f"the stage {stage.name} has two arms of the name {name!r}")
            continue
        chains[name] = chosen
        settings = {**(chosen[_TOP].settings if not stage.upstreams else {}), **own}
        upstreams = {key: (each.name, names.arm(_restricted(study, each, chosen))) for key, each in used.items()}
        arms[name] = Arm(name, names.values(chosen), settings, upstreams)
    return list(arms.values())


def _restricted(study: Study, stage: Stage, chosen: Mapping[str, _Choice]) -> dict[str, _Choice]:
    """Return the choices that concern an earlier stage of a chain."""
    return {owner: chosen[owner] for owner, _ in _owners(study, stage)}


class _Names:
    """Names of arms and keys, each as short as it can be and still be unique in the study."""

    def __init__(self, choices: Mapping[str, Sequence[_Choice]]) -> None:
        self._owners = {owner: {key for each in of for key in each.settings} for owner, of in choices.items()}
        varied = [(owner, key) for owner, of in choices.items() for key in of[0].axes]
        self._short = {(owner, key): self._shortest(owner, key, varied) for owner, key in varied}

    def arm(self, chosen: Mapping[str, _Choice]) -> str:
        """Return the name of the arm with these choices (owner -> choice)."""
        parts = []
        for owner, choice in chosen.items():
            if choice.arm is not None:
                parts.append(choice.arm)
            parts += [f"{self._short[owner, key]}={_text(value)}" for key, value in choice.axes.items()]
        return ", ".join(parts) or ONLY_ARM

    def values(self, chosen: Mapping[str, _Choice]) -> dict[str, object]:
        """Return dotted key -> value of these choices (owner -> choice)."""
        return {
            self._full(owner, key): value
            for owner, choice in chosen.items()
            for key, value in choice.settings.items()
        }

    def _full(self, owner: str, key: str) -> str:
        """Return a key, with its stage in front if several sections set it; keys at the top of the file have none."""
        several = sum(key in keys for keys in self._owners.values()) > 1
        return f"{owner}/{key}" if several and owner != _TOP else key

    def _shortest(self, owner: str, key: str, varied: Sequence[tuple[str, str]]) -> str:
        # `optimizer.name` is what users call the optimizer.
        steps = key.removesuffix(".name").split(".")
        for num in range(1, len(steps) + 1):
            end = ".".join(steps[-num:])
            same = [other for _, other in varied if f".{other.removesuffix('.name')}".endswith(f".{end}")]
            if all(other == key for other in same):
                several = len(same) > 1 and owner != _TOP
                return f"{owner}/{end}" if several else end
        return self._full(owner, key)


def _text(value: object) -> str:
    return value if isinstance(value, str) else flow_yaml(value)
