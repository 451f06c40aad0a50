"""The log interval alone: sums of several processes, and sums from checkpoints of any version."""

import pytest
import torch

from bert_lightning.distributed.collectives import DataRank
from bert_lightning.tasks.log_interval import IntervalSums, LogInterval, Work

CPU = torch.device("cpu")


ALONE = DataRank(0, 1)


def started(share=ALONE, state=None, names=("loss",)):
    interval = LogInterval()
    if state is not None:
        interval.load_state(state)
    interval.start(share, CPU, lambda seconds: 100.0, names)
    return interval


def test_means_are_sums_divided_by_counts_over_all_steps():
    interval = started(names=("loss", "accuracy"))
    interval.add(torch.tensor([6.0, 2.0]), torch.tensor([2.0, 2.0]), torch.tensor(Work(10, 2, 50.0)))
    interval.add(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 0.0]), torch.tensor(Work(20, 4, 50.0)))
    values = interval.finish(1, CPU)
    assert values.means == [3.0, 1.0]
    speed = values.throughput
    assert speed["train/tokens_per_second"] / speed["train/sequences_per_second"] == pytest.approx(5.0)
    assert speed["train/mfu"] / speed["train/sequences_per_second"] == pytest.approx(100 / 6 / 100)
    assert interval.state(1)["log_window"] is None


def test_a_sum_without_counts_has_the_mean_zero():
    assert IntervalSums(torch.zeros(1), torch.zeros(1), torch.zeros(3)).means() == [0.0]


def test_a_count_below_one_divides_too():
    weighted = IntervalSums(torch.tensor([0.6]), torch.tensor([0.3]), torch.zeros(3))
    assert weighted.means() == pytest.approx([2.0])


def test_a_checkpoint_during_a_validation_leaves_its_time_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("bert_lightning.tasks.log_interval.time.perf_counter", lambda: now[0])
    interval = started()
    now[0] = 3.0
    interval.pause()
    now[0] = 103.0
    assert interval.state(1)["log_window_seconds"] == 3.0
    interval.resume()
    now[0] = 104.0
    assert interval.state(1)["log_window_seconds"] == 4.0


def test_values_of_the_flat_form_are_read_by_name():
    sums = IntervalSums(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), torch.tensor(Work(5.0, 6.0, 7.0)))
    assert sums.flat().tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert all(torch.equal(a, b) for a, b in zip(IntervalSums.from_flat(sums.flat()), sums, strict=True))


@pytest.mark.parametrize(
    ("written", "share", "expected"),
    [
        # As many processes as before: each continues with its own sums.
        ([[1.0, 1, 1, 1, 1], [2.0, 2, 2, 2, 2]], DataRank(1, 2), 2.0),
        # Another number of processes: the first one gets all sums.
        ([[1.0, 1, 1, 1, 1], [2.0, 2, 2, 2, 2]], DataRank(0, 4), 3.0),
        ([[1.0, 1, 1, 1, 1], [2.0, 2, 2, 2, 2]], DataRank(3, 4), 0.0),
        # The form of a version that wrote the sum over all.
        ([5.0, 5, 5, 5, 5], DataRank(0, 1), 5.0),
        ([5.0, 5, 5, 5, 5], DataRank(1, 2), 0.0),
    ],
)
def test_a_resumed_interval_continues_its_sums_and_its_time(written, share, expected):
    interval = started(share, {"log_window": torch.tensor(written), "log_window_seconds": 100.0})
    state = interval.state(1)
    assert state["log_window"].tolist() == [[expected] * 5]
    assert state["log_window_seconds"] == pytest.approx(100.0, abs=10.0)


def test_time_of_validation_does_not_count_as_training(monkeypatch):
    moments = iter([0.0, 0.0, 1.0, 51.0, 53.0])
    monkeypatch.setattr("bert_lightning.tasks.log_interval.time.perf_counter", lambda: next(moments))
    interval = started()
    interval.pause()
    interval.resume()
    assert interval.state(1)["log_window_seconds"] == 3.0


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        # Earlier versions wrote no names.
        (None, True),
        (["loss"], True),
        (["other_loss"], False),
        (["loss", "distillation_loss"], False),
    ],
)
def test_the_open_interval_of_other_losses_is_left_out_with_a_warning(caplog, names, kept):
    number = 1 if names is None else len(names)
    state = {"log_window": torch.full((1, 2 * number + 3), 4.0), "log_window_seconds": 100.0}
    interval = started(state=state if names is None else state | {"log_window_names": names})
    assert ("has other losses" in caplog.text) == (not kept)
    assert (interval.state(1)["log_window"] is not None) == kept
    assert (interval.state(1)["log_window_seconds"] > 50) == kept
    assert interval.state(1)["log_window_names"] == ["loss"]
