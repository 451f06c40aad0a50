"""The section `search` of a study file as typed settings."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from bert_lightning.checks import RefusedValue, nearest, require_at_least, require_fraction
from bert_lightning.config.settings import Fault, Tables, as_one_message, build
from bert_lightning.studies.study_file import Study

_SECTION = "search"


@dataclass(frozen=True)
class Tpe:
    """Tree-structured Parzen estimator (Bergstra et al. 2011).

    Attributes:
        startup_trials: trials that are drawn at random before the estimator begins.
        multivariate: whether all keys are drawn jointly, so that interactions between them count.
    """

    startup_trials: int = 10
    multivariate: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, 1, "startup_trials")


@dataclass(frozen=True)
class Random:
    """Independent random draws, as the estimators of expected validation performance assume."""


@dataclass(frozen=True)
class QuasiRandom:
    """Draws that are spread evenly over the space: the Halton sequence with a random shift.

    Random draws leave gaps. If there are only a few trials, the best region may be in one of them. See Bousquet et
    al. 2017, "Critical hyper-parameters: no random, no cry", arXiv 1706.03200.
    """


@dataclass(frozen=True)
class GaussianProcess:
    """Gaussian process with expected improvement.

    Attributes:
        startup_trials: trials that are drawn at random before the process is fitted.
    """

    startup_trials: int = 10

    def __post_init__(self) -> None:
        require_at_least(self, 1, "startup_trials")


@dataclass(frozen=True)
class NoPruner:
    """No early stops: every trial is trained to its end."""

    over: ClassVar[Literal["steps", "seeds"] | None] = None


@dataclass(frozen=True)
class Median:
    """Early stop of a trial if its best value up to a step is worse than the median of earlier trials at that step.

    Attributes:
        startup_trials: trials that must have ended before one is stopped.
        warmup_steps: steps of training before which no trial is stopped.
    """

    startup_trials: int = 5
    warmup_steps: int = 0
    over: ClassVar[Literal["steps", "seeds"] | None] = "steps"

    def __post_init__(self) -> None:
        require_at_least(self, 1, "startup_trials")
        require_at_least(self, 0, "warmup_steps")


@dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving (Li et al. 2020): from each rung, the best 1 / `reduction_factor` continues.

    Attributes:
        min_steps: steps of training at the first rung.
        reduction_factor: ratio of the steps of two successive rungs, and of the trials that reach them.
    """

    min_steps: int = 1
    reduction_factor: int = 3
    over: ClassVar[Literal["steps", "seeds"] | None] = "steps"

    def __post_init__(self) -> None:
        require_at_least(self, 1, "min_steps")
        require_at_least(self, 2, "reduction_factor")


@dataclass(frozen=True)
class Hyperband(Asha):
    """Successive halving with several first rungs (Li et al. 2018), to which trials are assigned by their number.

    Attributes:
        min_steps: steps of training at the lowest first rung.
        reduction_factor: ratio of the steps of two successive rungs, and of the trials that reach them.
        max_steps: steps of a complete training; None for those of the first complete trial.
    """

    max_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, self.min_steps, "max_steps")


@dataclass(frozen=True)
class Wilcoxon:
    """Training of a trial's seeds one by one, until Wilcoxon's signed ranks find them worse than the best trial's.

    Attributes:
        p: the p-value below which a trial is stopped.
    """

    p: float = 0.1
    over: ClassVar[Literal["steps", "seeds"] | None] = "seeds"

    def __post_init__(self) -> None:
        require_fraction(self, "p")

    @property
    def least_seeds(self) -> int:
        """The fewest seeds after which the one-sided exact p-value, at least 2^-n for n seeds, can be below `p`."""
        return max(2, math.floor(-math.log2(self.p)) + 1)


@dataclass(frozen=True)
class PairedT:
    """Training of a trial's seeds one by one, until a paired t test finds them worse than the best trial's.

    Attributes:
        p: the one-sided p-value below which a trial is stopped.
    """

    p: float = 0.05
    over: ClassVar[Literal["steps", "seeds"] | None] = "seeds"
    least_seeds: ClassVar[int] = 2

    def __post_init__(self) -> None:
        require_fraction(self, "p")


Sampler = Tpe | Random | QuasiRandom | GaussianProcess
Pruner = NoPruner | Median | Asha | Hyperband | Wilcoxon | PairedT
SAMPLERS: dict[str, type] = {"tpe": Tpe, "random": Random, "quasi-random": QuasiRandom, "gp": GaussianProcess}
PRUNERS: dict[str, type] = {
    "none": NoPruner,
    "median": Median,
    "asha": Asha,
    "hyperband": Hyperband,
    "wilcoxon": Wilcoxon,
    "paired-t": PairedT,
}
TABLES: Tables = {f"{_SECTION}.sampler": SAMPLERS, f"{_SECTION}.pruner": PRUNERS}
_STATEFUL = ("cma-es", "cmaes", "nsga", "nsgaii", "nsgaiii", "qmc", "sobol")


@dataclass(frozen=True)
class SearchSettings:
    """The settings of a search.

    Attributes:
        trials: number of trials; a larger number continues a search that has ended.
        space: key -> range or choices, see `Space`.
        metric: the validation metric that decides, such as val/accuracy, by its last value in training.
        direction: whether the metric is minimised or maximised.
        seeds: seeds of each trial, whose mean score counts; a number n means 1 to n.
        sampler: how trials are drawn.
        pruner: which trials are stopped early.
        confirm_seeds: fresh seeds for the best trial, which had no part in choosing it; a number n means the n seeds
            that follow those of the trials.
        at_once: how many trials are drawn before the first of them has ended. The draws depend on this number, but
            not on --jobs. None for the number that keeps the --jobs of the first call busy.
        timeout_seconds: seconds after which a call of the command draws no further trial.
        seed: the seed of the draws.
        stage: the stage whose runs are trials; needed if there are several.
    """

    trials: int
    space: dict[str, Any]
    metric: str
    direction: Literal["minimize", "maximize"]
    seeds: int | list[int] = 1
    sampler: Sampler = field(default_factory=Tpe)
    pruner: Pruner = field(default_factory=NoPruner)
    confirm_seeds: int | list[int] = 3
    at_once: int | None = None
    timeout_seconds: float | None = None
    seed: int = 1
    stage: str | None = None

    def __post_init__(self) -> None:
        require_at_least(self, 1, "trials", "at_once")
        require_at_least(self, 0, "timeout_seconds", "seed")
        if not self.space:
            raise ValueError("space is empty: name the keys to search, each with low and high or choices")
        if not str(self.metric).startswith("val/"):
            reason = (
                "a search that selects by test scores leaves no test data for the report"
                if str(self.metric).startswith("test/")
                else ""
            )
            allowed = "be a metric of validation, such as val/accuracy"
            raise RefusedValue("metric", self.metric, allowed + (f": {reason}" if reason else ""))
        for name, least in (("seeds", 1), ("confirm_seeds", 0)):
            _check_seeds(name, getattr(self, name), least)
        shared = sorted({*self.trial_seeds} & {*self.fresh_seeds})
        if shared:
            raise RefusedValue(
                "confirm_seeds",
                self.confirm_seeds,
                f"not have a seed of the trials, because these chose the winner; {shared[0]} is in search.seeds",
            )
        self._check_pruner()

    @property
    def trial_seeds(self) -> list[int]:
        """Seeds of each trial.

        >>> space = {"optimizer.learning_rate": {"low": 1e-5, "high": 1e-3}}
        >>> settings = SearchSettings(8, space, "val/accuracy", "maximize", seeds=2, confirm_seeds=3)
        >>> settings.trial_seeds, settings.fresh_seeds
        ([1, 2], [3, 4, 5])
        """
        return list(range(1, self.seeds + 1)) if isinstance(self.seeds, int) else self.seeds

    @property
    def fresh_seeds(self) -> list[int]:
        """Seeds with which the best trial is trained again."""
        if isinstance(self.confirm_seeds, list):
            return self.confirm_seeds
        first = max(self.trial_seeds) + 1
        return list(range(first, first + self.confirm_seeds))

    def _check_pruner(self) -> None:
        if not isinstance(self.pruner, Wilcoxon | PairedT):
            return
        needed, given = self.pruner.least_seeds + 1, len(self.trial_seeds)
        if given < needed:
            name = "wilcoxon" if isinstance(self.pruner, Wilcoxon) else "paired-t"
            raise ValueError(
                f"pruner {name} cannot stop a trial of {given} seeds at p {self.pruner.p:g}: it needs {needed} or "
                f"more in search.seeds, because it can decide only after the first {self.pruner.least_seeds}"
            )


def _check_seeds(name: str, seeds: int | list[int], least: int) -> None:
    if isinstance(seeds, int):
        if seeds < least:
            raise RefusedValue(name, seeds, f"be at least {least}")
        return
    if len(seeds) < least:
        raise RefusedValue(name, seeds, "name a seed")
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise RefusedValue(name, seed, f"be between 0 and {2**32 - 1}")
        if seeds.count(seed) > 1:
            raise RefusedValue(name, seeds, f"name each seed once; {seed} is there twice")


def read_search(study: Study) -> SearchSettings:
    """Read the section `search` of a study file.

    The default of `metric` is the first metric that the study compares. The default of `direction` is the usual one.

    Raises:
        InputError: there is no such section, a key is unknown or missing, or a value is not allowed.
    """
    if study.search is None:
        study.fail("the study has no section search, which lists the keys to search: see docs/studies.md")
    values = {key: value for key, value in study.search.items() if value is not None}
    if study.compare.metric:
        values.setdefault("metric", study.compare.metric[0])
    if isinstance(metric := values.get("metric"), str):
        values.setdefault("direction", usual_direction(metric))
    for name in ("sampler", "pruner"):
        if name in values:
            values[name] = _as_choice(values[name], name, study)
    faults: list[Fault] = []
    settings = build(SearchSettings, values, _SECTION, TABLES, faults)
    if faults:
        keys = {key for key, _ in faults}
        message = as_one_message([message for _, message in faults])
        study.fail(message, *(keys.pop().split(".") if len(keys) == 1 else [_SECTION]))
    assert isinstance(settings, SearchSettings)
    return settings


def usual_direction(metric: str) -> Literal["minimize", "maximize"]:
    """Return the direction in which a metric is better: losses, perplexities and errors are minimised.

    >>> usual_direction("val/mlm_loss"), usual_direction("val/accuracy")
    ('minimize', 'maximize')
    """
    quantity = metric.rpartition("/")[2]
    return "minimize" if any(word in quantity for word in ("loss", "perplexity", "error")) else "maximize"


def _as_choice(value: object, name: str, study: Study) -> object:
    """Return a sampler or pruner as a mapping, also if only its name is given."""
    table = TABLES[f"{_SECTION}.{name}"]
    chosen = value.get("name") if isinstance(value, Mapping) else value
    if name == "sampler" and isinstance(chosen, str) and chosen.lower() in _STATEFUL:
        study.fail(
            f"search.sampler {chosen} is not offered: it keeps a state between trials, so its draws could not be "
            f"repeated after a kill; known: {', '.join(SAMPLERS)}",
            _SECTION,
            name,
        )
    if isinstance(chosen, str) and chosen not in table:
        study.fail(f"search.{name} is {chosen!r}{nearest(chosen, table)}", _SECTION, name)
    return {"name": value} if isinstance(value, str) else value
