"""A search draws the same trials however often it is stopped, and whichever of its trials ends first."""

from collections.abc import Callable
from dataclasses import replace

import optuna
import pytest

from bert_lightning.studies.search import database as database_module
from bert_lightning.studies.search.settings import (
    Asha,
    Hyperband,
    Median,
    PairedT,
    QuasiRandom,
    Random,
    SearchSettings,
    Tpe,
)
from tests.studies.search.synthetic import NUM_ROWS, Disk, Stopped, SyntheticTrainings, search, settings

# TPE begins early, so that almost all draws depend on what came before.
TPE = Tpe(startup_trials=3)
KINDS = {
    "tpe": settings(sampler=TPE),
    "random": settings(sampler=Random()),
    "quasi-random": settings(sampler=QuasiRandom(), at_once=2),
    "three at once": settings(sampler=TPE, at_once=3),
    "seeds": settings(sampler=TPE, seeds=2, at_once=2),
    "median": settings(sampler=TPE, pruner=Median(startup_trials=2)),
    "median, two at once": settings(sampler=TPE, pruner=Median(startup_trials=2), at_once=2, seeds=2),
    "asha": settings(sampler=TPE, pruner=Asha(min_steps=10, reduction_factor=2)),
    "hyperband": settings(sampler=TPE, pruner=Hyperband(min_steps=10, reduction_factor=2), at_once=2),
    "paired": settings(sampler=TPE, pruner=PairedT(p=0.2), seeds=4),
}


class Stopping:
    """Counter of everything that a search leaves behind, which stops it at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.at = 0, -1
        storage = optuna.storages.RDBStorage
        for owner, names in (
            (database_module.Database, ("start", "end")),
            (
                storage,
                (
                    "create_new_trial",
                    "set_trial_intermediate_value",
                    "set_trial_system_attr",
                    "set_trial_user_attr",
                    "set_trial_state_values",
                ),
            ),
            (SyntheticTrainings, ("train",)),
        ):
            for name in names:
                monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, original: Callable) -> Callable:
        def call(*arguments, **keywords):
            self._stop()
            result = original(*arguments, **keywords)
            self._stop()
            return result

        return call

    def _stop(self) -> None:
        self.count += 1
        if self.count == self.at:
            raise Stopped


def stopped_searches(chosen: SearchSettings, stopping: Stopping, places: range) -> None:
    """Compare a search that nothing stops with one that is stopped at each of some places in turn."""
    whole = search(Disk(), chosen, room=2)
    total = stopping.count
    assert len(whole) == chosen.trials
    for place in range(places.start, min(places.stop, total), places.step):
        disk = Disk()
        stopping.count, stopping.at = 0, place
        with pytest.raises(Stopped):
            search(disk, chosen, room=2)
        stopping.at = -1
        assert search(disk, chosen, room=2) == whole, f"stopped at {place}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_search_that_is_stopped_at_any_place_draws_the_trials_of_one_that_is_not(monkeypatch, kind):
    stopped_searches(KINDS[kind], Stopping(monkeypatch), range(1, 10**9, 7))


def test_a_search_that_is_stopped_draws_the_trials_of_one_that_is_not(monkeypatch):
    chosen = replace(KINDS["hyperband"], trials=8)
    stopped_searches(chosen, Stopping(monkeypatch), range(31, 10**9, 61))


@pytest.mark.parametrize("kind", ["three at once", "median, two at once"])
def test_draws_do_not_depend_on_how_many_train_at_once_and_which_ends_first(kind):
    speeds = [(1, [1]), (2, [1, 3]), (6, [2, 1, 4]), (6, [NUM_ROWS])]
    results = [search(Disk(), replace(KINDS[kind], trials=8), room, pace=pace) for room, pace in speeds]
    assert all(result == results[0] for result in results)


def test_a_longer_search_begins_with_the_trials_of_a_shorter_one():
    kind = {"sampler": TPE, "at_once": 3, "pruner": Median(startup_trials=2)}
    whole = search(Disk(), settings(trials=9, **kind))
    disk = Disk()
    assert search(disk, settings(trials=5, **kind)) == whole[:5]
    assert search(disk, settings(trials=9, **kind)) == whole


def test_a_failed_trial_is_told_as_failed_and_the_search_goes_on():
    [(params, *_)] = search(Disk(), settings(sampler=TPE, trials=1))
    whole = search(Disk(), settings(sampler=TPE, trials=8), failing=params["layers"])
    assert len(whole) == 8
    assert {state for each, state, _, _ in whole if each["layers"] == params["layers"]} == {"FAIL"}
    assert "COMPLETE" in [state for _, state, _, _ in whole]
