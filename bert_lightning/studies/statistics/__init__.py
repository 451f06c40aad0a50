"""Intervals and tests for few seeds: pure functions over numbers, whose results also note what cannot be shown."""

from typing import TYPE_CHECKING

from bert_lightning.lazy import exports

if TYPE_CHECKING:
    from bert_lightning.studies.statistics.aggregates import interquartile_mean, probability_of_improvement
    from bert_lightning.studies.statistics.corrections import holm
    from bert_lightning.studies.statistics.crossed import crossed_interval, multi_bootstrap
    from bert_lightning.studies.statistics.data_sets import (
        FriedmanTest,
        SignedRanks,
        critical_distance,
        friedman,
        signed_ranks,
    )
    from bert_lightning.studies.statistics.models import (
        approximate_randomisation,
        bootstrap_examples,
        compare_models,
        mcnemar,
    )
    from bert_lightning.studies.statistics.power import (
        detectable_difference,
        deviation_interval,
        noether,
        power_of_t,
        seeds_needed,
    )
    from bert_lightning.studies.statistics.proportions import fisher_failures, wilson
    from bert_lightning.studies.statistics.results import Difference, Estimate
    from bert_lightning.studies.statistics.scores import (
        ACCURACY,
        F1,
        MACRO_F1,
        MATTHEWS,
        MEAN,
        OfMeans,
        confusion_counts,
        item_counts,
    )
    from bert_lightning.studies.statistics.search import expected_maximum
    from bert_lightning.studies.statistics.seeds import compare_seeds, compare_tasks, mean_interval, tasks_won
    from bert_lightning.studies.statistics.sequential import stopping_levels

__all__ = [
    "ACCURACY",
    "F1",
    "MACRO_F1",
    "MATTHEWS",
    "MEAN",
    "Difference",
    "Estimate",
    "FriedmanTest",
    "OfMeans",
    "SignedRanks",
    "approximate_randomisation",
    "bootstrap_examples",
    "compare_models",
    "compare_seeds",
    "compare_tasks",
    "confusion_counts",
    "critical_distance",
    "crossed_interval",
    "detectable_difference",
    "deviation_interval",
    "expected_maximum",
    "fisher_failures",
    "friedman",
    "holm",
    "interquartile_mean",
    "item_counts",
    "mcnemar",
    "mean_interval",
    "multi_bootstrap",
    "noether",
    "power_of_t",
    "probability_of_improvement",
    "seeds_needed",
    "signed_ranks",
    "stopping_levels",
    "tasks_won",
    "wilson",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = exports(__name__, __file__)
