"""What a buffer holds."""

import pytest

from bert_lightning.methods.continual.replay import Replay

COUNTS, NAMES = [40, 60, 50], ["a", "b", "c"]


def stored(replay, counts=COUNTS, names=NAMES, seed=1, num_own=100):
    return {
        (name, number)
        for name, numbers in zip(names, replay.replayed(counts, names, seed, num_own), strict=True)
        for number in numbers
    }


def test_a_buffer_holds_its_size_and_depends_on_seed_task_and_size_alone():
    buffer = stored(Replay(size=30))
    assert len(buffer) == 30
    assert buffer == stored(Replay(size=30), num_own=7)
    assert buffer != stored(Replay(size=30), seed=2)


def test_a_smaller_buffer_is_a_part_of_a_larger_one():
    assert stored(Replay(size=10)) < stored(Replay(size=30)) < stored(Replay(size="all"))


def test_a_later_buffer_holds_nothing_that_an_earlier_one_dropped():
    earlier = stored(Replay(size=30), COUNTS[:2], NAMES[:2])
    later = stored(Replay(size=30))
    assert {each for each in later if each[0] != "c"} <= earlier


def test_a_buffer_is_a_uniform_sample_of_all_earlier_examples():
    counts = {"a": 0, "b": 0, "c": 0}
    for seed in range(200):
        for name, _ in stored(Replay(size=30), seed=seed):
            counts[name] += 1
    for name, number in zip(NAMES, COUNTS, strict=True):
        expected = 200 * 30 * number / 150
        assert abs(counts[name] - expected) < 5 * expected**0.5


def test_a_buffer_of_all_or_more_holds_every_earlier_example_once():
    everything = {(name, number) for name, count in zip(NAMES, COUNTS, strict=True) for number in range(count)}
    assert stored(Replay(size="all")) == everything == stored(Replay(size=150)) == stored(Replay(size=10_000))


def test_a_share_repeats_or_leaves_out_stored_examples():
    for size, share in ((10, 0.5), (150, 0.2)):
        numbers = Replay(size=size, share=share).replayed(COUNTS, NAMES, 1, 100)
        drawn = sum(map(len, numbers))
        assert drawn / (100 + drawn) == pytest.approx(share, abs=0.01)
        assert len({(task, each) for task, of in enumerate(numbers) for each in of}) == min(size, drawn)


def test_the_first_task_replays_nothing():
    assert Replay().replayed([], [], 1, 100) == []


def test_a_buffer_that_the_sequence_cannot_fill_is_refused():
    Replay(size=90).check_size([40, 50, 1000])
    Replay(size="all").check_size([40, 50, 1000])
    with pytest.raises(ValueError, match="size is 91, but the tasks before the last one have 90 training examples"):
        Replay(size=91).check_size([40, 50, 1000])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "size is 0; it must be at least 1, or all"),
        ({"share": 0}, "share is 0; it must be more than 0"),
        ({"share": 1}, r"share is 1; it must be in \[0, 1\)"),
    ],
)
def test_settings_that_are_not_allowed_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Replay(**values)
