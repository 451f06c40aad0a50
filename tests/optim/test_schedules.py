"""Tests of every schedule in the table, and of each against its closed form."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_lightning.optim.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Linear,
    Phase,
    Phases,
    Polynomial,
    WarmupStableDecay,
)

# A single phase over the whole training is a polynomial.
MADE = {**SCHEDULES, "phases": lambda **warm_up: Phases([Phase(**warm_up)])}


@pytest.fixture(params=MADE.values(), ids=MADE)
def schedule(request):
    return request.param


def test_every_schedule_is_in_the_battery():
    assert MADE.keys() == SCHEDULES.keys()


@pytest.mark.parametrize("warmup_share", [0.0, 0.1, 0.5])
def test_a_schedule_starts_at_zero_peaks_after_the_warm_up_and_stays_in_range(schedule, warmup_share):
    factors = [schedule(warmup_share=warmup_share).factor(step, 1000) for step in range(1001)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[0] == (0 if warmup_share else 1)
    assert max(factors) == pytest.approx(1, abs=0.51 if warmup_share == 0.5 else 0.11)


def test_a_warm_up_in_steps_equals_that_of_the_same_share(schedule):
    steps, share = schedule(warmup_steps=250), schedule(warmup_share=0.25)
    assert [steps.factor(step, 1000) for step in range(1001)] == [share.factor(step, 1000) for step in range(1001)]
    # In a training of another length, the number of steps stays the same.
    assert [steps.factor(step, 2000) for step in (125, 249)] == [0.5, 0.996]


def test_a_warm_up_of_all_steps_is_an_error(schedule):
    with pytest.raises(ValueError, match="warmup_share is 1"):
        schedule(warmup_share=1.0)
    schedule(warmup_steps=99).check(200)
    with pytest.raises(ValueError, match=r"warmup_steps is 99; it must be less than the 99 steps of training"):
        schedule(warmup_steps=99).check(99)


def test_a_warm_up_in_steps_and_as_a_share_is_an_error(schedule):
    with pytest.raises(ValueError, match=r"warmup_steps is 0 and warmup_share 0.0: set one of them to null"):
        schedule(warmup_share=0.0, warmup_steps=0)


def test_the_default_warm_up_is_a_tenth_and_none_for_constant():
    assert (Linear().warmup_share, Cosine().warmup_share, Constant().warmup_share) == (0.1, 0.1, 0.0)
    assert Linear(warmup_steps=3).warmup_share is None


def test_linear_is_the_originals_schedule():
    # optimization.py: s / W in the warm-up, then 1 - s / T, counted from the start.
    linear = Linear(warmup_share=0.1)
    assert [linear.factor(step, 100) for step in (0, 5, 9, 10, 50, 100)] == [0, 0.5, 0.9, 0.9, 0.5, 0]


@given(st.floats(0.1, 3), st.floats(0, 1), st.integers(20, 100))
def test_polynomial_follows_its_closed_form(power, end, step):
    # tf.train.polynomial_decay from 1 to end over 100 steps.
    expected = (1 - end) * (1 - step / 100) ** power + end
    assert Polynomial(0.2, power=power, end_factor=end).factor(step, 100) == pytest.approx(expected, rel=1e-12)


def test_polynomial_of_power_one_is_linear():
    pairs = [(Polynomial(0.1).factor(step, 70), Linear(0.1).factor(step, 70)) for step in range(71)]
    assert all(ours == pytest.approx(other, abs=1e-15) for ours, other in pairs)


@given(st.floats(0, 1), st.integers(20, 100))
def test_cosine_follows_its_closed_form(end, step):
    expected = end + (1 - end) * math.cos(math.pi / 2 * (step - 20) / 80) ** 2
    assert Cosine(0.2, end_factor=end).factor(step, 100) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("shape", "halfway", "quarter"),
    [
        ("sqrt", 1 - 0.5**0.5, 0.5),
        ("linear", 0.5, 0.75),
        ("exponential", 0.0, 0.0),
    ],
)
@pytest.mark.parametrize("end", [0.01, 0.25])
def test_wsd_is_constant_then_decays_in_its_last_share(shape, halfway, quarter, end):
    wsd = WarmupStableDecay(0.1, decay_share=0.4, decay_shape=shape, end_factor=end)
    assert [wsd.factor(step, 100) for step in (5, 10, 40, 60)] == [0.5, 1, 1, 1]
    expected = [end**0.25, end**0.5] if shape == "exponential" else [end + (1 - end) * x for x in (quarter, halfway)]
    assert [wsd.factor(step, 100) for step in (70, 80)] == pytest.approx(expected, rel=1e-12)
    assert wsd.factor(100, 100) == pytest.approx(end, rel=1e-12)


def test_phases_reproduce_the_published_recipe_of_large_batches():
    # PolyWarmUpScheduler in two trainings of 7,038 and 1,563 steps; the warm-ups are 2,000 and 200 of them.
    phases = Phases(
        [
            Phase(warmup_share=0.2843, power=0.5, learning_rate_factor=6),
            Phase(warmup_share=0.128, power=0.5, learning_rate_factor=4, from_step=7038),
        ]
    )
    phases.check(8601)

    def rate(step):
        return phases.factor(step, 8601)

    assert (rate(0), rate(1000), rate(7038), rate(7138), rate(8601)) == (0, 3, 0, 2, 0)
    assert rate(2000) == pytest.approx(6 * (1 - 2000 / 7038) ** 0.5, rel=1e-12)
    assert rate(7037) == pytest.approx(6 * (1 / 7038) ** 0.5, rel=1e-9)
    assert rate(7238) == pytest.approx(4 * (1 - 200 / 1563) ** 0.5, rel=1e-12)
    assert rate(8600) == pytest.approx(4 * (1 / 1563) ** 0.5, rel=1e-9)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=4), st.data())
def test_a_phase_is_its_own_polynomial_over_its_own_steps(lengths, data):
    starts = [sum(lengths[:n]) for n in range(len(lengths))]
    factors = [data.draw(st.floats(0.5, 9)) for _ in lengths]
    phases = Phases(
        [Phase(0.3, power=2, from_step=s, learning_rate_factor=f) for s, f in zip(starts, factors, strict=True)]
    )
    number = data.draw(st.integers(0, len(lengths) - 1))
    step = data.draw(st.integers(0, lengths[number] - 1))
    expected = factors[number] * Polynomial(0.3, power=2).factor(step, lengths[number])
    assert phases.factor(starts[number] + step, sum(lengths)) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Polynomial(power=0), "power is 0; it must be more than 0"),
        (lambda: Cosine(end_factor=1.5), "end_factor is 1.5; it must be between 0 and 1"),
        (lambda: Cosine(warmup_steps=-1), "warmup_steps is -1; it must be at least 0"),
        (lambda: WarmupStableDecay(decay_share=0), "decay_share is 0; it must be more than 0"),
        (lambda: WarmupStableDecay(0.5, decay_share=0.6), "decay_share is 0.6 and warmup_share 0.5"),
        (
            lambda: WarmupStableDecay(decay_shape="exponential"),
            "end_factor is 0, which an exponential decay never reaches",
        ),
        (lambda: WarmupStableDecay(warmup_steps=9).check(10), "warmup_steps is 9, but the decay begins at step 8"),
        (lambda: Phases([]), r"phases begin at the steps \[\]; the first must begin at 0"),
        (lambda: Phases([Phase(from_step=3)]), r"phases begin at the steps \[3\]"),
        (lambda: Phases([Phase(), Phase(from_step=9), Phase(from_step=9)]), r"the steps \[0, 9, 9\]"),
        (lambda: Phase(learning_rate_factor=0), "learning_rate_factor is 0; it must be more than 0"),
        (lambda: Phases([Phase(), Phase(from_step=9)]).check(9), "phases.1.from_step 9 is never reached"),
        (
            lambda: Phases([Phase(warmup_steps=9), Phase(from_step=9)]).check(20),
            "phases.0.warmup_steps is 9; it must be less than the 9 steps of training",
        ),
    ],
)
def test_impossible_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
