"""Tables of arms and metrics: their numbers against scipy, and what is honest about few and missing runs."""

import json
import math
from dataclasses import replace
from itertools import product

import pytest
from scipy import stats

from bert_lightning.config.published import Published
from bert_lightning.errors import InputError
from bert_lightning.reports.captions import whole_caption
from bert_lightning.reports.tabulation import tabulate
from bert_lightning.studies.found_runs import find_runs
from bert_lightning.studies.overview import overview
from bert_lightning.studies.record import OTHER_SETTINGS, STALE, Compare, StudyRecord
from bert_lightning.studies.sides import side_of
from tests.support.run_directories import write_arms, write_run, write_study

BASE = {1: 0.80, 2: 0.81, 3: 0.79, 4: 0.80, 5: 0.82}
OURS = {1: 0.83, 2: 0.84, 3: 0.81, 4: 0.84, 5: 0.83}
WORSE = {1: 0.70, 2: 0.72, 3: 0.71, 4: 0.69, 5: 0.70}
CLOSE = {1: 0.82, 2: 0.85, 3: 0.82, 4: 0.83, 5: 0.82}


def results_of(*paths, **options):
    return tabulate(find_runs([*paths]), **options)


def table_of(*paths, **options):
    [table] = results_of(*paths, **options).tables
    return table


def cells(table, metric="val/accuracy"):
    return {arm.label.removeprefix("optimizer.name="): arm.cells[metric] for arm in table.arms if metric in arm.cells}


def text_of(table):
    return whole_caption(table)


# -- statistics --------------------------------------------------------------------------------------------------


def test_the_difference_of_two_arms_with_equal_seeds_is_that_of_scipys_paired_t_test(tmp_path):
    table = table_of(write_study(tmp_path / "s", {"adamw": BASE, "muon": OURS}))
    cell = cells(table)["muon"]
    reference = stats.ttest_rel([*OURS.values()], [*BASE.values()])
    interval = reference.confidence_interval(0.95)
    assert table.baseline == "adamw"
    assert cell.difference == pytest.approx(0.026)
    assert cell.p == pytest.approx(reference.pvalue)
    assert cell.interval == pytest.approx((interval.low, interval.high))
    assert cell.test == "paired t test"
    assert "paired t test" in text_of(table)
    assert (cell.mean, cell.n, cell.median) == (pytest.approx(0.83), 5, 0.83)
    assert cell.sd == pytest.approx(stats.tstd([*OURS.values()]))
    mean = stats.t.interval(0.95, 4, 0.83, stats.sem([*OURS.values()]))
    assert cell.mean_interval == pytest.approx(mean)
    assert cells(table)["adamw"].difference is None


def test_arms_with_other_seeds_are_compared_by_welchs_test_and_the_caption_says_so(tmp_path):
    ours = {seed: value for seed, value in OURS.items() if seed != 2}
    table = table_of(write_study(tmp_path / "s", {"adamw": BASE, "muon": ours}))
    reference = stats.ttest_ind([*ours.values()], [*BASE.values()], equal_var=False)
    cell = cells(table)["muon"]
    assert cell.p == pytest.approx(reference.pvalue)
    assert "Welch's t test" in text_of(table)
    assert "n = 4 to 5" in text_of(table)


def test_six_seeds_also_have_the_exact_p_of_all_sign_flips(tmp_path):
    arms = {"adamw": {**BASE, 6: 0.80}, "muon": {**OURS, 6: 0.79}}
    differences = [arms["muon"][seed] - arms["adamw"][seed] for seed in arms["adamw"]]
    flipped = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in product((-1, 1), repeat=6)]
    expected = sum(abs(total) >= abs(sum(differences)) - 1e-12 for total in flipped) / 64
    table = table_of(write_study(tmp_path / "s", arms))
    assert cells(table)["muon"].exact_p == pytest.approx(expected)
    assert "exact sign-flip test" in text_of(table)
    assert "cannot reach" not in text_of(table)


def test_p_values_are_adjusted_over_the_arms_of_each_metric_by_holm(tmp_path):
    table = table_of(write_study(tmp_path / "s", {"adamw": BASE, "muon": OURS, "sgd": WORSE, "lamb": CLOSE}))
    found = cells(table)
    order = sorted(("muon", "sgd", "lamb"), key=lambda name: found[name].p)
    highest = 0.0
    for rank, name in enumerate(order):
        highest = max(highest, min(1.0, (3 - rank) * found[name].p))
        assert found[name].p_adjusted == pytest.approx(highest)
    assert "Holm's method over the 3 comparisons" in text_of(table)


def test_two_metrics_are_corrected_each_for_itself(tmp_path):
    study = write_study(tmp_path / "s", {"adamw": BASE, "muon": OURS})
    for run in study.glob("runs/*/*"):
        with open(run / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": 40, "val/loss": len(str(run)) * 1e-3 + int(run.name[-1])}) + "\n")
    table = table_of(study)
    assert [metric.better for metric in table.metrics] == ["max", "min"]
    assert all(arm.cells[name].p_adjusted == arm.cells[name].p for arm in table.arms for name in arm.cells)
    assert "needs no correction" in text_of(table)


def test_the_best_mean_is_marked_in_the_direction_of_the_metric_and_arms_that_are_not_shown_to_be_worse(tmp_path):
    arms = {"adamw": BASE, "muon": OURS, "sgd": WORSE, "lamb": CLOSE}
    found = cells(table_of(write_study(tmp_path / "s", arms)))
    assert [name for name, cell in found.items() if cell.best] == ["muon"]
    assert stats.ttest_rel([*CLOSE.values()], [*OURS.values()]).pvalue > 0.05
    assert [name for name, cell in found.items() if cell.not_worse] == ["lamb"]
    losses = cells(table_of(write_study(tmp_path / "t", arms, "val/loss")), "val/loss")
    assert [name for name, cell in losses.items() if cell.best] == ["sgd"]
    unknown = cells(table_of(write_study(tmp_path / "u", arms, "val/score")), "val/score")
    assert not any(cell.best or cell.not_worse for cell in unknown.values())


def test_equal_scores_everywhere_have_no_best_and_no_test(tmp_path):
    flat = dict.fromkeys(BASE, 0.5)
    table = table_of(write_study(tmp_path / "s", {"adamw": flat, "muon": flat}))
    assert not any(cell.best or cell.not_worse for cell in cells(table).values())
    cell = cells(table)["muon"]
    assert (cell.difference, cell.p, cell.interval) == (0.0, None, None)
    assert "Bold" not in text_of(table)


def test_the_monitored_direction_decides_about_a_metric_of_unknown_name(tmp_path):
    for arm, value in (("adamw", 1.0), ("muon", 2.0)):
        config = {"optimizer": {"name": arm}, "checkpoint": {"monitor": "val/score", "mode": "min"}}
        write_run(tmp_path / arm, 1, {"val/score": value}, config)
    found = cells(table_of(tmp_path), "val/score")
    assert [name for name, cell in found.items() if cell.best] == ["adamw"]


def test_equivalence_is_decided_by_the_90_percent_interval_of_the_difference(tmp_path):
    arms = {"adamw": BASE, "muon": {seed: value + 0.001 * (seed % 2) for seed, value in BASE.items()}, "sgd": WORSE}
    table = table_of(write_study(tmp_path / "s", arms, compare=Compare(equivalence=0.005)))
    found = cells(table)
    low, high = stats.ttest_rel([*arms["muon"].values()], [*BASE.values()]).confidence_interval(0.9)
    assert max(-low, high) < 0.005
    assert (found["muon"].equivalent, found["sgd"].equivalent) == (True, False)
    assert "±0.005" in text_of(table)


def test_the_interval_over_seeds_and_examples_is_there_if_all_predictions_are(tmp_path):
    right = {"adamw": {1: "1100", 2: "1010", 3: "1001"}, "muon": {1: "1101", 2: "1011", 3: "1111"}}
    arms = {arm: {seed: text.count("1") / 4 for seed, text in of.items()} for arm, of in right.items()}
    study = write_study(tmp_path / "s", arms)
    for arm, of in right.items():
        for seed, text in of.items():
            rows = [{"text": f"t{i}", "label": "a" if c == "1" else "b", "gold": "a"} for i, c in enumerate(text)]
            folder = study / f"runs/{arm}/seed-{seed}/predictions"
            folder.mkdir()
            (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    differences = [
        [int(a) - int(b) for a, b in zip(right["muon"][s], right["adamw"][s], strict=True)] for s in (1, 2, 3)
    ]
    # The formula of the variance of two crossed sources of chance, written out.
    n, e = 3, 4
    rows = [sum(row) / e for row in differences]
    columns = [sum(row[i] for row in differences) / n for i in range(e)]
    mean = sum(rows) / n
    of_seeds = sum((r - mean) ** 2 for r in rows) / (n - 1) / n
    of_examples = sum((c - mean) ** 2 for c in columns) / (e - 1) / e
    rest = sum((differences[i][j] - rows[i] - columns[j] + mean) ** 2 for i in range(n) for j in range(e))
    rest /= (n - 1) * (e - 1) * n * e
    variance = max(of_seeds + of_examples - rest, of_seeds, of_examples)
    free = variance**2 / (of_seeds**2 / (n - 1) + of_examples**2 / (e - 1) + rest**2 / ((n - 1) * (e - 1)))
    half = stats.t.ppf(0.975, free) * math.sqrt(variance)
    assert cells(table_of(study))["muon"].crossed_interval == pytest.approx((mean - half, mean + half))
    # The predictions of another checkpoint do not give the score of the table.
    path = study / "runs/muon/seed-2/predictions/validation.jsonl"
    path.write_text(path.read_text().replace('"label": "b"', '"label": "a"'))
    assert cells(table_of(study))["muon"].crossed_interval is None


# -- few, broken and missing runs --------------------------------------------------------------------------------


def test_single_runs_have_neither_spread_nor_test_and_the_caption_says_why(tmp_path):
    table = table_of(write_study(tmp_path / "s", {"adamw": {1: 0.8}, "muon": {1: 0.9}}))
    cell = cells(table)["muon"]
    assert (cell.sd, cell.p, cell.interval, cell.mean_interval, cell.not_worse) == (None, None, None, None, False)
    assert cell.difference == pytest.approx(0.1)
    assert "no difference in this table can be told from chance" in text_of(table)
    assert "±" not in text_of(table)


def test_five_seeds_are_said_to_be_too_few_for_the_exact_test(tmp_path):
    caption = text_of(table_of(write_study(tmp_path / "s", {"adamw": BASE, "muon": OURS})))
    assert "5 seeds cannot reach p 0.05" in caption


def test_a_score_that_is_not_finite_leaves_no_mean_and_is_named(tmp_path):
    table = table_of(write_study(tmp_path / "s", {"adamw": BASE, "muon": {**OURS, 3: None}, "sgd": WORSE}))
    cell = cells(table)["muon"]
    assert (cell.mean, cell.difference, cell.best, cell.n) == (None, None, False, 5)
    assert "val/accuracy of seed 3 is not finite" in text_of(table)
    assert cells(table)["sgd"].p_adjusted == cells(table)["sgd"].p
    assert [name for name, each in cells(table).items() if each.best] == ["adamw"]


def test_a_baseline_without_a_finished_run_is_said_to_have_none(tmp_path):
    study = write_study(
        tmp_path / "s", {"adamw": {}, "muon": OURS, "sgd": WORSE}, states={("adamw", 1): ("failed", "no memory")}
    )
    table = table_of(study)
    assert "The baseline adamw has no finished run, so there are no differences." in text_of(table)
    assert [arm.label for arm in table.arms] == ["adamw", "muon", "sgd"]
    assert not any(cell.difference for cell in cells(table).values())


def test_runs_of_a_study_that_have_not_finished_are_named_with_their_last_message(tmp_path):
    states = {
        ("muon", 5): ("failed", "Traceback\n  file\nRuntimeError: no memory\n"),
        ("sgd", 1): ("blocked", None),
        ("sgd", 2): ("pruned", "stopped at step 20"),
    }
    ours = {seed: OURS[seed] for seed in (1, 2, 3, 4)}
    study = write_study(tmp_path / "s", {"adamw": BASE, "muon": ours}, states=states)
    write_run(study / "runs/sgd/seed-2", 2, ended="SIGUSR1", step=20)
    (study / "runs/adamw/seed-4/config.yaml").unlink()
    missing = {(each.arm, each.seed): (each.state, each.message) for each in table_of(study).missing}
    assert missing == {
        ("adamw", 4): ("missing", f"{study}/runs/adamw/seed-4 is no longer there"),
        ("muon", 5): ("failed", "RuntimeError: no memory"),
        ("sgd", 1): ("blocked", ""),
        ("sgd", 2): ("pruned", "stopped at step 20"),
    }


@pytest.mark.parametrize("message", [STALE, OTHER_SETTINGS])
def test_a_run_whose_result_does_not_count_is_in_no_table_and_in_no_comparison(tmp_path, message):
    study = write_study(tmp_path / "s", {"adamw": BASE, "muon": OURS}, states={("muon", 2): ("failed", message)})
    table = table_of(study)
    [absent] = table.missing
    assert (absent.arm, absent.seed, absent.state) == ("muon", 2, "stale")
    assert absent.message == message.removeprefix("stale: ")
    assert cells(table)["muon"].n == len(OURS) - 1
    assert table.failures == {}, "it is no failure of its training"
    assert [run.seed for run in side_of(study / "muon").runs] == [seed for seed in OURS if seed != 2]
    assert [run.seed for run in overview([study]).failed()] == [2]


def test_folders_lead_to_their_runs_and_only_finished_ones_count(tmp_path):
    write_arms(tmp_path / "all", {"adamw": BASE})
    write_run(
        tmp_path / "all/adamw/seed-10", 10, {"val/accuracy": 0.99}, {"optimizer": {"name": "adamw"}}, ended=None
    )
    write_run(
        tmp_path / "all/x", 1, {"val/accuracy": 0.99}, {"optimizer": {"name": "x"}}, ended="failed", error="bad"
    )
    write_run(tmp_path / "all/y", 2, {"val/accuracy": 0.99}, {"optimizer": {"name": "x"}}, ended="SIGTERM", step=7)
    table = table_of(tmp_path / "all", tmp_path / "all/adamw/seed-1")
    [arm] = table.arms
    assert [run.seed for run in arm.runs] == [1, 2, 3, 4, 5]
    assert [(each.state, each.message) for each in table.missing] == [
        ("unfinished", "it still trains, or it was killed"),
        ("failed", "bad"),
        ("interrupted", "SIGTERM at step 7"),
    ]


def test_two_runs_with_one_seed_count_once(tmp_path):
    for name, value in (("a", 0.8), ("b", 0.8), ("c", 0.9)):
        write_run(tmp_path / name, 1, {"val/accuracy": value})
    table = table_of(tmp_path)
    assert [run.name for run in table.arms[0].runs] == [str(tmp_path / "a")]
    assert [(each.state, each.message.split(", ")[1]) for each in table.missing] == [
        ("repeated", "with equal scores"),
        ("repeated", "with other scores"),
    ]


# -- tables and arms ---------------------------------------------------------------------------------------------


def test_tasks_and_data_sets_have_tables_of_their_own(tmp_path):
    write_run(tmp_path / "a", task="pretraining", scores={"val/mlm_loss": 2.0})
    for name, data in (
        ("b", {"dataset": "glue/rte"}),
        ("c", {"dataset": "glue/sst2"}),
        ("d", {"dataset": "glue/sst2"}),
    ):
        write_run(tmp_path / name, len(name), config={"data": data, "optimizer": {"name": name}})
    titles = {table.title: [arm.label for arm in table.arms] for table in results_of(tmp_path).tables}
    assert titles == {
        "pretraining": ["example"],
        "text-classification: glue/rte": ["example"],
        "text-classification: glue/sst2": ["optimizer.name=c", "optimizer.name=d"],
    }


def test_the_same_data_under_two_paths_are_one_table(tmp_path):
    for name in ("a", "b"):
        config = {"data": {"validation": f"{name}.tsv"}}
        write_run(tmp_path / name, config=config, data={"validation": "0123", "train": name})
    assert [arm.label for arm in table_of(tmp_path).arms] == ["data.validation=a.tsv", "data.validation=b.tsv"]


def test_two_studies_with_equal_names_and_arms_are_kept_apart(tmp_path):
    for name in ("one", "two"):
        write_study(tmp_path / name, {"adamw": BASE, "muon": OURS})
    tables = results_of(tmp_path, baseline="muon").tables
    assert [table.title for table in tables] == [f"example ({tmp_path / name})" for name in ("one", "two")]
    assert [table.baseline for table in tables] == ["muon", "muon"]


@pytest.mark.parametrize("name", ["optimizer.name=muon", "name=muon"])
def test_a_baseline_may_be_named_by_its_value(tmp_path, name):
    write_arms(tmp_path, {"adamw": BASE, "muon": OURS})
    assert table_of(tmp_path).baseline is None
    assert table_of(tmp_path, baseline=name).baseline == "optimizer.name=muon"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "optimizer.name=muno"}, "did you mean 'optimizer.name=muon'?"),
        ({"metrics": ["val/acuracy"]}, "did you mean 'val/accuracy'?"),
    ],
)
def test_an_unknown_arm_or_metric_is_refused_with_the_nearest_one(tmp_path, options, message):
    write_arms(tmp_path, {"adamw": BASE, "muon": OURS})
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        results_of(tmp_path, **options)


def test_nothing_finished_no_run_and_a_file_are_each_one_message(tmp_path):
    run = write_run(tmp_path / "a", ended="failed", error="no memory")
    with pytest.raises(InputError, match=r"no run has finished.*a failed \(no memory\)"):
        results_of(tmp_path)
    with pytest.raises(InputError, match="is a file: name its folder"):
        results_of(run / "config.yaml")
    with pytest.raises(InputError, match="does not exist"):
        results_of(tmp_path / "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds neither a run directory nor"):
        results_of(tmp_path / "empty")


def test_a_damaged_run_in_a_folder_is_named_and_costs_no_other(tmp_path):
    write_run(tmp_path / "a", 1)
    run = write_run(tmp_path / "b", 2)
    (run / "metrics.jsonl").write_text('{"step": "x"}\n')
    [absent] = table_of(tmp_path).missing
    assert (absent.seed, absent.state) == (2, "damaged")
    assert "row 1 is damaged" in absent.message
    with pytest.raises(InputError, match="row 1 is damaged"):
        results_of(run)
    rows = [
        '{"step": 1, "time": 1, "val/accuracy": 0.5}',
        '{"step": 2, "time": 2, "val/acc\0racy": 0.9',
        '{"step": 2}',
    ]
    (run / "metrics.jsonl").write_text("\n".join(rows))
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 2 is damaged"):
        results_of(run)
    (run / "metrics.jsonl").write_text(f"{rows[0]}\n{rows[1]}")
    assert results_of(run).tables, "a kill may have cut the last line short"


def test_published_figures_stand_beside_the_mean_with_their_tolerance(tmp_path):
    figures = [Published("val/accuracy", 0.82, 0.02, "a paper"), Published("test/f1", 0.5, 0.1, "a paper")]
    study = write_study(tmp_path / "s", {"adamw": BASE, "muon": OURS}, published={"muon": figures})
    table = table_of(study)
    [figure] = cells(table)["muon"].published
    assert (figure.reached, figure.within) == (pytest.approx(0.83), True)
    [unmeasured] = table.arms[1].unmeasured
    assert unmeasured.figure.metric == "test/f1"
    assert cells(table)["adamw"].published == ()


def test_the_caption_names_the_checkpoint_that_was_scored(tmp_path):
    for seed in (1, 2):
        rows = [{"step": 20, "checkpoint": "step-000000020.ckpt", "data": "test.tsv", "test/accuracy": 0.7}]
        run = write_run(tmp_path / str(seed), seed, config={"data": {"test": "test.tsv"}}, rows=rows)
        (run / "checkpoints").mkdir()
        (run / "checkpoints/best.ckpt").symlink_to("step-000000020.ckpt")
    table = table_of(tmp_path)
    assert "(val/) are of the checkpoint after the last step" in text_of(table)
    assert "(test/) are of the best checkpoint" in text_of(table)


def test_the_metrics_of_a_study_are_those_that_it_compares_unless_others_are_named(tmp_path):
    study = write_study(tmp_path / "s", {"adamw": BASE}, compare=Compare(metric=("val/accuracy", "val/none")))
    for run in study.glob("runs/*/*"):
        with open(run / "metrics.jsonl", "a") as file:
            file.write('{"step": 40, "val/loss": 1}\n')
    assert [metric.name for metric in table_of(study).metrics] == ["val/accuracy"]
    assert [metric.name for metric in table_of(study, metrics=["val/loss"]).metrics] == ["val/loss"]
    wrong = write_study(tmp_path / "w", {"adamw": BASE}, compare=Compare(metric=("val/acuracy",)))
    with pytest.raises(InputError, match=r"w: compare\.metric is 'val/acuracy', but .*; did you mean 'val/accuracy'"):
        table_of(wrong)
    assert [metric.name for metric in table_of(wrong, metrics=["val/accuracy"]).metrics] == ["val/accuracy"]


def test_the_winner_of_a_search_stands_apart_from_the_trials_with_its_budget_and_its_optimism(tmp_path):
    study = write_study(tmp_path / "s", {"searched": {11: 0.80, 12: 0.82}, "trial 0": {1: 0.9}, "trial 1": {1: 0.7}})
    record = StudyRecord.read(study)
    trials = {"trial 0": 0, "trial 1": 1}
    confirmation = {"score": 0.81, "optimism": 0.09}
    replace(
        record,
        runs=tuple(replace(run, trial=trials.get(run.arm)) for run in record.runs),
        search={"seeds": [1], "arms": {"searched": {"trials": [{}, {}], "confirmation": confirmation}}},
    ).write(study)
    fresh, search = results_of(study).tables
    assert [arm.label for arm in fresh.arms] == ["searched"]
    promised = "searched is the best of 2 trials with 1 seed each of a search, and its score there was 0.0900 too"
    assert promised in text_of(fresh)
    assert search.title == "example: search"
    assert {arm.label: arm.trial for arm in search.arms} == trials
    assert search.baseline is None
    assert "too good by chance" in text_of(search)


def test_the_trials_of_searched_arms_have_the_budget_of_each_arm_in_their_caption_and_no_baseline(tmp_path):
    study = write_study(tmp_path / "s", {"a, trial 0": {1: 0.9, 2: 0.9}, "b, trial 0": {1: 0.7, 2: 0.6}})
    record = StudyRecord.read(study)
    arms = {"a": {"trials": [{}]}, "b": {"trials": [{}, {}, {}]}}
    runs = tuple(replace(run, arm=run.arm[0], trial=0) for run in record.runs)
    replace(record, runs=runs, search={"seeds": [1, 2], "arms": arms}).write(study)
    table = table_of(study)
    assert table.baseline is None
    assert not any(arm.is_baseline or arm.cells["val/accuracy"].difference for arm in table.arms)
    assert "The search had 1 trial with 2 seeds each for a; 3 trials with 2 seeds each for b." in text_of(table)


def test_a_run_without_its_configuration_is_named_as_damaged_and_leftovers_are_no_runs(tmp_path):
    for name in ("seed-1", "seed-2", "seed-3~"):
        write_run(tmp_path / name, 1)
    (tmp_path / "seed-2/config.yaml").unlink()
    (tmp_path / "seed-2/checkpoints").mkdir()
    table = table_of(tmp_path)
    assert [run.name for run in table.arms[0].runs] == [str(tmp_path / "seed-1")]
    assert [(each.directory.name, each.state) for each in table.missing] == [("seed-2", "damaged")]
