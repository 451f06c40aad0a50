"""The plan of a search: the searched arms, their spaces, and the runs of trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bert_lightning.checks import nearest
from bert_lightning.config.experiment import CHOICES, load_experiment
from bert_lightning.config.settings import changed
from bert_lightning.studies.arms import ONLY_ARM, Arm, arms_of
from bert_lightning.studies.plan import PlannedRun, as_overrides, plan_run
from bert_lightning.studies.search.settings import SearchSettings
from bert_lightning.studies.search.space import Load, Space, read_space
from bert_lightning.studies.stages import Stage
from bert_lightning.studies.study_file import Study

# The name of the best trial among the arms of a study.
_SEARCHED = "searched"


def searched_arms(study: Study, settings: SearchSettings, allowed: Sequence[str] = ()) -> "list[SearchedArm]":
    """Return the arms that are searched: those of one stage. Each gets the full number of trials.

    Args:
        study: the study.
        settings: its search.
        allowed: modules that a `class_path` of an experiment may import.

    Raises:
        InputError: the study has several stages and the search names none, or an unknown one.
    """
    names = [stage.name for stage in study.stages]
    if any(stage.in_sequence for stage in study.stages):
        study.fail("a sequence cannot be searched: give each method equally many strengths as arms", "sequence")
    if settings.stage is None and len(names) > 1:
        study.fail(f"the study has the stages {', '.join(names)}: name the one to search with search.stage", "search")
    if settings.stage is not None and settings.stage not in names:
        study.fail(f"search.stage is {settings.stage!r}{nearest(settings.stage, names)}", "search", "stage")
    [stage] = [stage for stage in study.stages if stage.name == (settings.stage or names[0])]
    arms = arms_of(study)
    return [SearchedArm(study, stage, arm, arms, allowed) for arm in arms[stage.name]]


@dataclass(frozen=True)
class SearchedArm:
    """An arm whose settings are searched.

    Attributes:
        study: the study.
        stage: the stage whose runs are trials.
        arm: the arm.
        arms: all arms of the study by their stage.
        allowed: modules that a `class_path` of an experiment may import.
    """

    study: Study
    stage: Stage
    arm: Arm
    arms: Mapping[str, Sequence[Arm]]
    allowed: Sequence[str] = ()

    @property
    def label(self) -> str:
        """The name of its best trial among the arms of a report."""
        return _SEARCHED if self.arm.name == ONLY_ARM else f"{self.arm.name}, {_SEARCHED}"

    @property
    def name(self) -> str:
        """The name of its search in the database."""
        parts = [self.study.name, *([self.stage.name] if len(self.study.stages) > 1 else [])]
        return ", ".join([*parts, *([] if self.arm.name == ONLY_ARM else [self.arm.name])])

    def trial_name(self, number: int) -> str:
        """Return the name of a trial in messages and in the record."""
        return f"trial {number}" if self.arm.name == ONLY_ARM else f"{self.arm.name}, trial {number}"

    def space(self, settings: SearchSettings) -> Space:
        """Read the space, and load the experiment once with each bound and each choice.

        Raises:
            InputError: an entry has a fault, or a key is also set by the arms.
        """
        space = read_space(settings.space, self._load(settings.trial_seeds[0]), self.study.fail)
        for key in space.keys:
            if key in self.arm.settings or key in self.arm.upstreams:
                self.study.fail(
                    f"search.space sets {key}, which the arms of the study set too: remove one of them",
                    "search",
                    "space",
                )
        return space

    def _load(self, seed: int) -> Load:
        """Return a function that loads the experiment of this arm with further values."""
        above = {key: self._upstream(*other, seed, {}) for key, other in self.arm.upstreams.items()}
        identities = {key: run.experiment.identity for key, run in above.items()}
        shared = {**self.stage.overrides, **self.arm.settings, "seed_everything": seed, **identities}

        def load(values: Mapping[str, object]) -> Mapping[str, Any]:
            overrides = as_overrides({**shared, **values})
            return load_experiment(self.stage.base, overrides, None, self.allowed).to_dict()

        return load

    def fixed(self, settings: SearchSettings) -> dict[str, Any]:
        """Return the settings of all trials that differ from their defaults, as dotted keys in sections."""
        run = self.run(self.arm.name, {}, settings.trial_seeds[0], {})
        return dict(changed(run.experiment, "", CHOICES))

    def run(
        self, name: str, values: Mapping[str, object], seed: int, upstreams: dict[tuple[str, str, int], PlannedRun]
    ) -> PlannedRun:
        """Plan one run with given values.

        Args:
            name: the name of its arm in the record.
            values: dotted key -> value.
            seed: value of `seed_everything`.
            upstreams: cache of the runs of earlier stages by stage, arm and seed. Missing ones are added.

        Raises:
            InputError: the experiment does not allow the values.
        """
        settings = {**self.arm.settings, **values}
        arm = replace(self.arm, name=name, values={**self.arm.values, **values}, settings=settings)
        above = {key: self._upstream(*other, seed, upstreams) for key, other in self.arm.upstreams.items()}
        return plan_run(self.study, self.stage, arm, seed, above, self.allowed)

    def _upstream(
        self, stage: str, name: str, seed: int, planned: dict[tuple[str, str, int], PlannedRun]
    ) -> PlannedRun:
        if (stage, name, seed) not in planned:
            [described] = [each for each in self.study.stages if each.name == stage]
            [arm] = [each for each in self.arms[stage] if each.name == name]
            above = {key: self._upstream(*other, seed, planned) for key, other in arm.upstreams.items()}
            planned[stage, name, seed] = plan_run(self.study, described, arm, seed, above, self.allowed)
        return planned[stage, name, seed]
