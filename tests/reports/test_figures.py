"""Figures of a report: what they show is what the runs logged."""

import itertools
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from bert_lightning.reports.figures.curves import Learner, Learners, draw_curves, known_axes
from bert_lightning.reports.figures.lines import Line, band, thinned
from bert_lightning.reports.figures.points import Cost, SeedRow, draw_front, draw_seeds, front
from bert_lightning.reports.figures.progress import Progress
from bert_lightning.reports.figures.scales import Scale
from bert_lightning.reports.figures.search import (
    Trial,
    draw_expected,
    draw_history,
    draw_importance,
    draw_parallel,
)
from bert_lightning.reports.figures.svg import Style
from bert_lightning.reports.results import Metric, MetricCell
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.studies.comparison import Run
from tests.support.fake_results import fake_run

HOSTILE = [
    "<script>alert(1)</script>",
    "</svg>",
    "a&b\"c'",
    "]]>",
    "a\nb\x00\x1b[31m",
    "\ud800",
    "",
    "$x_1$",
    "日本" * 99,
]


def elements(svg, kind):
    """Return the elements of a figure that have a class."""
    return [node for node in ElementTree.fromstring(svg).iter() if kind in (node.get("class") or "").split()]


def titles(svg):
    return [node.text for node in ElementTree.fromstring(svg).iter() if node.tag == "title"]


def numbers(d):
    return [float(number) for number in re.findall(r"-?\d+\.?\d*", d)]


def points_of(d):
    """Return the places of a line, (N, 2)."""
    return np.array(numbers(d)).reshape(-1, 2)


def arm(name, runs, number=0):
    learners = [Learner(f"{name}, seed {run.seed}", f"run-{number}-{run.seed}", Progress(run)) for run in runs]
    return Learners(name, Style.of(number), learners)


def run_of(rows, config=None, sessions=()):
    return Run(RunDirectory("r"), config or {"task": "t"}, {"sessions": list(sessions)}, rows)


# -- scales ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize(
    "values", [[1e-5, 3e-3], [0.66, 0.67], [1, 2_000_000], [5, 5], [1e-300, 2e-300], [1e12, 3e12]]
)
def test_ticks_are_few_and_round_and_lie_within_the_scale(values, logarithmic):
    scale = Scale.over(values, 0, 300, logarithmic=logarithmic)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 8
    assert len({label for _, label in ticks}) == len(ticks)
    for value, label in ticks:
        assert -1e-6 <= scale.place(value) <= 300 + 1e-6
        assert len(label) <= 9


def test_equal_ratios_have_equal_lengths_on_a_logarithmic_scale():
    scale = Scale.over([1, 1000], 0, 300, logarithmic=True, margin=0)
    assert [round(scale.place(value), 6) for value in (1, 10, 100, 1000)] == [0, 100, 200, 300]


def test_a_scale_without_any_finite_value_still_draws():
    assert math.isfinite(Scale.over([math.nan, math.inf], 0, 100).place(0.5))
    assert Scale.over([], 0, 100).ticks()


ABSURD = [0.0, 1e308, -1e308, 1e-320, 1.0, -1.0, 1e17]


@pytest.mark.parametrize(("one", "other"), itertools.combinations_with_replacement(ABSURD, 2))
@pytest.mark.filterwarnings("error")
def test_absurd_values_of_a_run_that_diverged_are_drawn_outside_of_the_frame(one, other):
    for logarithmic in (False, True):
        scale = Scale.over([one, other], 0, 300, logarithmic=logarithmic)
        assert len(scale.ticks()) < 20
        assert all(math.isfinite(scale.place(value)) for value in (one, other))
    rows = [{"step": step, "train/loss": value} for step, value in enumerate([one, other, one])]
    svg = draw_curves("loss", [arm("a", [run_of(rows)])], "steps", 20)
    svg += draw_seeds("loss", [row("a", {1: one, 2: other})])
    points = [Cost("a", Style.of(0), abs(one), other, ""), Cost("b", Style.of(1), abs(other), one, "")]
    svg += draw_front(Metric("loss", "min"), points, "cost", str)
    assert not re.search(r"\bnan\b|\binf\b|\d{30}", re.sub(r"<title>.*?</title>|<text.*?</text>", "", svg))


# -- progress ----------------------------------------------------------------------------------------------------


def logged(tokens_per_step, sizes, every, *, with_seconds, random):
    """Return the rows that training logs, and the tokens before each."""
    rows, before = [], []
    for end in range(every, len(sizes) + 1, every):
        seconds = float(random.uniform(0.1, 3))
        tokens, sequences = sum(tokens_per_step[end - every : end]), sum(sizes[end - every : end])
        row = {"step": end, "time": 1e9 + end, "train/loss": 1.0}
        row |= {"train/tokens_per_second": tokens / seconds, "train/sequences_per_second": sequences / seconds}
        rows.append(row | ({"train/interval_seconds": seconds} if with_seconds else {}))
        before.append(sum(tokens_per_step[:end]))
    return rows, before


DATA = {"batch_size": 8, "max_seq_length": 16, "batching": "padded"}


@pytest.mark.parametrize(
    ("data", "sizes"),
    [
        (DATA, [8] * 60),
        (
            {**DATA, "batch_size_warmup": {"start": 2, "increment": 3, "num_steps": 20}},
            [2] * 10 + [5] * 10 + [8] * 40,
        ),
        ({**DATA, "stages": [{"from_step": 33, "batch_size": 4, "max_seq_length": 32}]}, [8] * 33 + [4] * 27),
    ],
)
def test_tokens_of_rows_without_their_time_follow_from_the_two_speeds_and_the_batch_sizes(data, sizes):
    random = np.random.default_rng(0)
    tokens = [int(sum(random.integers(2, 16, size))) for size in sizes]
    rows, before = logged(tokens, sizes, 6, with_seconds=False, random=random)
    progress = Progress(run_of(rows, {"task": "pretraining", "data": data}))
    np.testing.assert_allclose(progress.at["tokens"], before, rtol=1e-12)
    assert progress.total("tokens") == pytest.approx(sum(tokens), rel=1e-12)


def test_tokens_of_packed_rows_follow_from_speed_and_time_and_are_unknown_without_it():
    random = np.random.default_rng(1)
    tokens, sizes = random.integers(90, 128, 30).tolist(), random.integers(3, 9, 30).tolist()
    packed = {"task": "pretraining", "data": {**DATA, "batching": "packed"}}
    rows, before = logged(tokens, sizes, 5, with_seconds=True, random=random)
    np.testing.assert_allclose(Progress(run_of(rows, packed)).at["tokens"], before, rtol=1e-12)
    rows, _ = logged(tokens, sizes, 5, with_seconds=False, random=random)
    assert "tokens" not in Progress(run_of(rows, packed)).at
    assert Progress(run_of(rows, packed)).total("tokens") is None


def test_a_validation_has_the_tokens_of_the_steps_before_it():
    rows = [
        {"step": 10, "time": 1.0, "train/tokens_per_second": 50.0, "train/interval_seconds": 2.0},
        {"step": 10, "time": 2.0, "val/f1": 0.5},
        {"step": 20, "time": 3.0, "train/tokens_per_second": 30.0, "train/interval_seconds": 1.0},
        {"step": 20, "time": 4.0, "val/f1": 0.7},
        {"step": 20, "time": 9.0, "val/f1": 0.9, "checkpoint": "last"},
    ]
    x, y = Progress(run_of(rows)).series("val/f1", "tokens")
    assert (x.tolist(), y.tolist()) == ([100.0, 130.0], [0.5, 0.7])


def test_wall_clock_leaves_out_the_pause_between_two_sessions():
    start = 1_790_000_000.0
    sessions = [{"started": "2026-09-21T14:13:20+00:00"}, {"started": "2026-09-22T14:13:20+00:00"}]
    rows = [{"step": step, "time": start + seconds} for step, seconds in [(1, 10), (2, 20), (3, 86_405), (4, 86_415)]]
    assert Progress(run_of(rows, sessions=sessions)).at["seconds"].tolist() == [10, 20, 25, 35]
    # A session that logged nothing, and one whose start is not recorded, change nothing.
    more = [*sessions, {"started": "2026-09-23T14:13:20+00:00"}, {}]
    assert Progress(run_of(rows, sessions=more)).at["seconds"].tolist() == [10, 20, 25, 35]


def test_rows_without_a_time_have_no_wall_clock():
    assert "seconds" not in Progress(run_of([{"step": 1}, {"step": 2, "time": 5.0}])).at


# -- curves ------------------------------------------------------------------------------------------------------


def test_the_band_is_mean_and_range_of_the_seeds_at_each_step():
    random = np.random.default_rng(0)
    lines = [Line(np.arange(1.0, 41.0), random.normal(size=40)) for _ in range(5)]
    found = band(lines, 100)
    values = np.array([line.y for line in lines])
    np.testing.assert_allclose(found.mean, values.mean(0))
    np.testing.assert_allclose((found.low, found.high), (values.min(0), values.max(0)))


def test_the_band_ends_where_the_first_seed_ended_and_never_jumps_to_the_mean_of_fewer():
    short, long = Line(np.array([1.0, 2.0]), np.zeros(2)), Line(np.array([1.0, 2.0, 9.0]), np.array([0.0, 0.0, 5.0]))
    found = band([short, long], 50)
    assert found.x.max() == 2
    assert found.mean.max() == 0
    assert band([short, Line(np.array([7.0]), np.ones(1))], 50) is None
    assert band([], 50) is None


def test_a_band_over_unequal_places_compares_the_seeds_at_equal_ones():
    lines = [
        Line(np.array([0.0, 10.0]), np.array([0.0, 10.0])),
        Line(np.array([0.0, 4.0, 12.0]), np.array([1.0, 5.0, 13.0])),
    ]
    found = band(lines, 50)
    # Both are straight lines, one above the other by 1.
    np.testing.assert_allclose(found.high - found.low, 1.0)
    np.testing.assert_allclose(found.mean, found.x + 0.5)


@pytest.mark.parametrize("most", [3, 10, 100])
def test_a_thinned_line_keeps_its_ends_its_peak_and_at_most_so_many_of_its_points(most):
    random = np.random.default_rng(0)
    line = Line(np.arange(10_000.0), random.normal(size=10_000))
    line.y[7_321] = 500.0
    thin = thinned(line, most)
    assert len(thin.x) == most
    assert np.all(np.diff(thin.x) > 0)
    assert (thin.x[0], thin.x[-1]) == (0, 9_999)
    np.testing.assert_array_equal(line.y[thin.x.astype(int)], thin.y)
    assert 500.0 in thin.y


def test_a_short_line_is_not_thinned():
    line = Line(np.arange(5.0), np.ones(5))
    assert thinned(line, 5) is line


def test_a_curve_passes_through_the_means_of_its_seeds():
    runs = [fake_run("r", seed, steps=400, every=100, validate_every=100) for seed in (1, 2, 3)]
    svg = draw_curves("mlm_accuracy", [arm("a", runs)], "steps", 100)
    [mean] = [node for node in elements(svg, "line") if "mean" in node.get("class")]
    places = points_of(mean.get("d"))
    values = np.mean([run.series("val/mlm_accuracy")[1] for run in runs], axis=0)
    # Places are a straight function of values, to the rounding of a tenth of a unit.
    slope = (places[-1, 1] - places[0, 1]) / (values[-1] - values[0])
    np.testing.assert_allclose(places[:, 1] - places[0, 1], slope * (values - values[0]), atol=0.21)
    np.testing.assert_allclose(np.diff(places[:, 0]), np.diff(places[:, 0])[0], atol=0.21)
    assert slope < 0
    assert len(elements(svg, "single")) == 3


@pytest.mark.parametrize("axis", ["steps", "tokens", "seconds"])
def test_values_that_are_not_finite_leave_a_curve_of_the_others(axis):
    run = fake_run("r", 1, steps=200, every=20, validate_every=40)
    for row in run.rows[::3]:
        row.update({name: math.nan for name in row if name.endswith("loss")})
    svg = draw_curves("mlm_loss", [arm("a", [run, fake_run("r", 2, steps=200)])], axis, 50)
    assert "nan" not in svg.lower()
    run.rows[:] = [{"step": 1, "time": 1.0, "train/mlm_loss": math.nan}]
    assert "nan" not in draw_curves("mlm_loss", [arm("a", [run])], axis, 50).lower()


def test_the_steep_beginning_leaves_the_frame_instead_of_flattening_the_rest():
    steps = range(1, 101)
    rows = [{"step": step, "train/loss": 1000.0 if step < 5 else 1.0 + step % 2} for step in steps]
    svg = draw_curves("loss", [arm("a", [run_of(rows)])], "steps", 200)
    [line] = elements(svg, "mean")
    heights = points_of(line.get("d"))[:, 1]
    assert abs(heights[50] - heights[51]) > 100
    # What is drawn outside is cut by the frame, an SVG of its own.
    frame = next(node for node in ElementTree.fromstring(svg).iter() if node.tag == "svg" and node.get("x"))
    top = float(frame.get("y"))
    assert heights[0] < top < heights[50:].min()


def test_every_arm_of_up_to_eight_differs_from_the_others_without_colour():
    looks = [(Style.of(number).dashes, Style.of(number).mark(0, 0)) for number in range(8)]
    assert len(set(looks)) == 8
    assert len({mark for _, mark in looks}) == 8


def test_a_run_that_logged_no_time_is_drawn_against_steps_only():
    rows = [{"step": step, "train/loss": 1.0 / step} for step in (1, 2, 3)]
    assert known_axes([arm("a", [run_of(rows)])]) == ["steps"]


# -- points ------------------------------------------------------------------------------------------------------


def row(name, values, number=0, **settings):
    mean = sum(values.values()) / len(values)
    return SeedRow(name, Style.of(number), MetricCell("val/f1", values, mean, **settings), "run-{}".format)


def test_the_place_of_a_seed_is_its_value():
    values = dict(enumerate([0.5, 0.61, 0.55, 0.9], 1))
    svg = draw_seeds("val/f1", [row("a", values), row("b", {1: 0.2, 2: 0.7}, 1)])
    links = [node for node in ElementTree.fromstring(svg).iter() if node.tag == "a"]
    assert [node.get("href") for node in links] == ["#run-1", "#run-2", "#run-3", "#run-4", "#run-1", "#run-2"]
    # A circle begins at its left end.
    places = [numbers(node.find("path").get("d"))[0] for node in links[:4]]
    order = np.argsort(list(values.values()))
    assert np.argsort(places).tolist() == order.tolist()
    share = (places[1] - places[0]) / (places[3] - places[0])
    assert share == pytest.approx((0.61 - 0.5) / (0.9 - 0.5), abs=0.01)
    assert "a, seed 2: 0.6100" in titles(svg)


def test_a_very_wide_interval_is_cut_with_an_arrow_and_leaves_the_points_apart():
    values = {1: 0.6, 2: 0.7}
    svg = draw_seeds("val/f1", [row("a", values, mean_interval=(-5.0, 6.3))])
    places = [
        numbers(node.find("path").get("d"))[0] for node in ElementTree.fromstring(svg).iter() if node.tag == "a"
    ]
    assert places[1] - places[0] > 80
    assert "interval of the mean: -5.0000 to 6.3000" in titles(svg)


def brute_front(points, sign):
    return {
        point.name
        for point in points
        if not any(
            other.cost <= point.cost and sign * other.score >= sign * point.score
            and (other.cost, other.score) != (point.cost, point.score)
            for other in points
        )
    }  # fmt: skip


@pytest.mark.parametrize("better", ["max", "min"])
@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_no_other_arm_beats(seed, better):
    random = np.random.default_rng(seed)
    points = [
        Cost(str(number), Style.of(0), float(random.integers(9)), float(random.integers(9)), "")
        for number in range(12)
    ]
    places = [(point.cost, point.score) for point in points]
    distinct = [point for number, point in enumerate(points) if places[number] not in places[:number]]
    assert {point.name for point in front(distinct, better)} == brute_front(distinct, 1 if better == "max" else -1)


# -- searches ----------------------------------------------------------------------------------------------------


def trials(num, random=None):
    random = random or np.random.default_rng(0)
    found = []
    for number in range(num):
        values = {
            "rate": float(10 ** random.uniform(-5, -3)),
            "size": int(random.choice([8, 16])),
            "name": "ab"[number % 2],
        }
        score = None if number % 5 == 4 else -abs(math.log10(values["rate"]) + 4)
        found.append(Trial(number, values, score, "pruned", f"arm-0-{number}"))
    return found


def test_the_line_of_the_history_never_gets_worse_and_ends_at_the_best_trial():
    svg = draw_history("val/f1", trials(30), "max")
    [line] = elements(svg, "front")
    heights = [float(each) for each in re.findall(r"V([\d.]+)", line.get("d"))]
    assert heights == sorted(heights, reverse=True)
    marks = [numbers(node.get("d"))[1] for node in elements(svg, "trial")]
    assert heights[-1] == min(marks)
    assert len(marks) == 24
    assert len(elements(svg, "beaten")) == 6


def test_each_scored_trial_is_a_line_through_all_its_values_and_the_best_is_marked():
    given = trials(20)
    svg = draw_parallel("val/f1", given, "max")
    lines = elements(svg, "line")
    assert len(lines) == 16
    [best] = elements(svg, "best")
    top = max((trial for trial in given if trial.score is not None), key=lambda trial: trial.score)
    link = next(
        node
        for node in ElementTree.fromstring(svg).iter()
        if node.tag == "a" and node.find("path").get("d") == best.get("d")
    )
    assert link.get("href") == f"#{top.target}"
    assert len(points_of(best.get("d"))) == 4


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_every_figure_stays_well_formed_and_holds_names_as_text_only(name):
    run = fake_run("r", 1, steps=100, every=10, validate_every=20)
    run.rows.extend(
        [{"step": 10, "time": 1.8e9, f"val/{name}": 0.5}, {"step": 20, "time": 1.9e9, f"val/{name}": 0.7}]
    )
    cell = MetricCell(name, {1: 0.5, 2: 0.6}, 0.55, mean_interval=(0.1, 0.9))
    given = [Trial(number, {name: name, "x": number}, float(number), name, "t") for number in range(3)]
    figures = [
        draw_curves(name, [arm(name, [run])], "seconds", 20),
        draw_seeds(name, [SeedRow(name, Style.of(0), cell, lambda seed: name, is_baseline=True)]),
        draw_front(Metric(name, "max"), [Cost(name, Style.of(k), k + 1.0, k / 2, name) for k in (0, 1)], name, str),
        draw_history(name, given, "min"),
        draw_expected(name, [0.1, 0.2]),
        draw_parallel(name, given, "max"),
        draw_importance({name: 0.5, "x": 0.5}, {name: -0.25}),
    ]
    for svg in figures:
        assert ElementTree.fromstring(svg).tag == "svg"
        assert "<script" not in svg
        assert svg.count("<svg") == svg.count("</svg>") <= 2
        svg.encode()


def test_a_figure_has_no_colours_of_its_own():
    svg = draw_curves("mlm_loss", [arm("a", [fake_run("r", 1)]), arm("b", [fake_run("r", 2)], 1)], "steps", 20)
    assert not re.search(r'(fill|stroke|style)="', svg)


def test_arms_of_one_figure_are_named_for_those_who_cannot_see_it():
    svg = draw_curves(
        "mlm_loss", [arm("first", [fake_run("r", 1)]), arm("second", [fake_run("r", 2)], 1)], "steps", 20
    )
    label = ElementTree.fromstring(svg).get("aria-label")
    assert all(word in label for word in ("mlm_loss", "steps", "first", "second"))


def test_steps_of_a_scale_are_the_usual_ones():
    for low, high in itertools.product((0.0, 0.013, 95.0), (96.0, 1234.0, 7e6)):
        values = [value for value, _ in Scale(low, high, 0, 1).ticks()]
        step = values[1] - values[0]
        assert f"{step:.1e}"[:3] in ("1.0", "2.0", "2.5", "5.0")
