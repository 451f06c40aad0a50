"""The command `compare`: in what two runs or two arms differ, where their curves part, and which test fits."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from bert_lightning.cli import main
from bert_lightning.errors import InputError
from bert_lightning.metrics.entities import score_entities
from bert_lightning.metrics.squad import score_squad_v1
from bert_lightning.studies.comparison import read_run
from bert_lightning.studies.example_scores import PairedCounts, differences_by_seed, paired_counts
from bert_lightning.studies.side_differences import side_differences
from bert_lightning.studies.sides import side_of
from tests.support.made_runs import make_run, make_study, recorded, row

FORTY = "4" * 40


def made(folder: Path, seed: int, accuracy: float, rate: float = 0.1, **values) -> Path:
    """Write a finished run with one training row and one validation."""
    rows = [row(1, 1, train_loss=seed + rate), row(2, 2, val_accuracy=accuracy)]
    values = {"rows": rows, **values}
    return make_run(folder, config={"seed_everything": seed, "rate": rate}, seed=seed, step=2, **values)


def predicted(gold: str, labels: str) -> list[dict]:
    return [
        {"text": f"text {n}", "label": label, "gold": right}
        for n, (right, label) in enumerate(zip(gold, labels, strict=True))
    ]


def compared(first: Path, second: Path):
    return side_differences(side_of(first), side_of(second))


def test_a_run_equals_itself_and_its_copy(classifier, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(classifier, copy, symlinks=True)
    assert main(["compare", str(classifier), str(copy)]) == 0
    out = capsys.readouterr().out
    for line in ("configuration: equal", "versions, hardware and commit: equal", "data: equal"):
        assert line in out
    assert "that both logged are bitwise equal" in out
    assert "final weights: bitwise equal" in out
    assert "differ" not in out.replace("difference", "")


def test_the_predictions_of_a_real_run_give_each_of_its_scores(classifier):
    run = read_run(classifier)
    names = [name for name in run.scores() if name.startswith("val/") and not name.endswith("loss")]
    assert len(names) == 3
    for metric in names:
        counts = paired_counts(run, run, metric)
        assert isinstance(counts, PairedCounts), counts
        assert counts.score(counts.ours) == pytest.approx(run.scores()[metric], abs=1e-9)
    assert paired_counts(run, run, "val/loss") == "it is not computed from the predictions"


def test_keys_circumstances_data_and_weights_that_differ_are_named_with_both_values(tmp_path, capsys):
    session = {"versions": {"torch": "2.11"}, "hardware": {"cores": 2}, "git": {"commit": FORTY, "modified": False}}
    a = made(tmp_path / "a", 1, 0.5, session=session, data={"train": "0" * 64}, weights="1" * 64)
    other = {**session, "versions": {"torch": "2.12"}, "git": {"commit": "5" * 40, "modified": False}}
    b = made(tmp_path / "b", 2, 0.6, 0.2, session=other, data={"train": "9" * 64}, weights="2" * 64)
    found = compared(a, b)
    assert {each.key: (each.old, each.new) for each in found.configuration} == {
        "seed_everything": (1, 2),
        "rate": (0.1, 0.2),
    }
    assert found.circumstances == {
        "version of torch": (["2.11"], ["2.12"]),
        "commit": ([FORTY], ["5" * 40]),
    }
    assert found.data == {"train": (["0" * 64], ["9" * 64])}
    assert found.equal_weights == {(1, 2): False}
    (b / "checkpoints").mkdir(exist_ok=True)
    (b / "checkpoints/last.ckpt").write_bytes(b"damaged")
    assert compared(a, b).equal_weights == {(1, 2): None}
    assert main(["compare", str(a), str(b), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["configuration"]["rate"] == [0.1, 0.2]
    assert values["circumstances"]["version of torch"] == [["2.11"], ["2.12"]]


def test_the_diff_of_two_patches_is_shown_and_shortened(tmp_path, capsys):
    runs = []
    for name, lines in (("a", ["+one"]), ("b", ["+two", *(f"+line {n}" for n in range(50))])):
        git = {"commit": FORTY, "modified": True, "patch": f"uncommitted-{name}.patch"}
        runs.append(made(tmp_path / name, 1, 0.5, session={"git": git}))
        (runs[-1] / git["patch"]).write_text("\n".join(["@@ -0,0 +1 @@", *lines]) + "\n")
    assert main(["compare", *map(str, runs)]) == 0
    out = capsys.readouterr().out
    assert "uncommitted files: uncommitted-a.patch in A, uncommitted-b.patch in B" in out
    assert "\n  -+one\n  ++two\n" in out
    assert "line 40" not in out
    assert "more lines; the patches" in out
    assert main(["compare", str(runs[0]), str(runs[0])]) == 0
    assert "uncommitted files: the same patch" in capsys.readouterr().out
    assert compared(*runs).patch_diff[-1] == "++line 49"


def test_a_patch_that_an_earlier_version_did_not_record_is_no_difference(tmp_path, capsys):
    gits = [{"commit": FORTY, "modified": True}, {"commit": FORTY, "modified": True, "patch": "uncommitted-1.patch"}]
    runs = [made(tmp_path / str(n), 1, 0.5, session={"git": git}) for n, git in enumerate(gits)]
    assert main(["compare", *map(str, runs)]) == 0
    out = capsys.readouterr().out
    assert "not recorded by an earlier version of this package" in out
    assert "versions, hardware and commit: equal" in out


def test_curves_part_at_the_first_step_with_a_value_that_is_not_the_same_bit_for_bit(tmp_path):
    rows = [row(step, step, train_loss=1 / step, train_tokens_per_second=step) for step in range(1, 9)]
    changed = [dict(each) for each in rows]
    changed[4]["train/loss"] = float(np.nextafter(changed[4]["train/loss"], 1))
    changed[6]["train/loss"] += 1
    for each in changed:
        each["train/tokens_per_second"] += 5
    # A score of a later command, and steps that only one of them has.
    rows.append({**row(3, 9, train_loss=7.0), "checkpoint": "x"})
    changed += [row(10, 10, train_loss=3.0)]
    a, b = (
        made(tmp_path / name, 1, 0.5, rows=[*each, row(8, 9, val_accuracy=0.5)])
        for name, each in (("a", rows), ("b", changed))
    )
    [parting] = compared(a, b).partings
    assert parting.num_equal == 4
    [difference] = parting.differences
    assert (difference.step, difference.metric, difference.before) == (5, "train/loss", 0.2)
    assert difference.now - 0.2 == np.spacing(0.2)
    assert parting.last_steps == (8, 10)
    assert compared(a, a).partings[0].differences == []


def test_two_single_runs_are_compared_by_their_predictions_and_nothing_is_said_about_the_procedure(tmp_path, capsys):
    gold = "aabb" * 10
    a = "aaaa" * 10
    b = "aabb" * 9 + "bbaa"
    paths = [
        made(tmp_path / name, seed, accuracy, predictions=predicted(gold, labels))
        for name, seed, labels, accuracy in (("a", 1, a, 0.5), ("b", 2, b, 0.9))
    ]
    [score] = compared(*paths).scores
    # 18 examples are right in B alone and 2 in A alone.
    assert score.test.p == pytest.approx(scipy.stats.binomtest(2, 20).pvalue)
    assert score.test.difference == pytest.approx(0.4)
    assert main(["compare", *map(str, paths)]) == 0
    out = capsys.readouterr().out
    assert "McNemar" in out
    assert "says nothing about the procedures that trained them" in out


def test_several_seeds_are_compared_over_seeds_and_the_p_values_are_corrected(tmp_path, capsys):
    scores = {"a": [0.70, 0.72, 0.71, 0.69], "b": [0.72, 0.75, 0.72, 0.73]}
    for arm, values in scores.items():
        for seed, value in enumerate(values, 1):
            rows = [row(2, 2, val_accuracy=value, val_f1=value**2)]
            made(tmp_path / arm / f"seed-{seed}", seed, 0, 0.1 if arm == "a" else 0.2, rows=rows)
    found = compared(tmp_path / "a", tmp_path / "b")
    assert [each.key for each in found.configuration] == ["rate"]
    truth = [
        scipy.stats.ttest_rel(scores["b"], scores["a"]).pvalue,
        scipy.stats.ttest_rel(np.square(scores["b"]), np.square(scores["a"])).pvalue,
    ]
    assert [each.test.p for each in found.scores] == pytest.approx(truth)
    assert sorted(each.p_adjusted for each in found.scores) == pytest.approx(
        [2 * min(truth), max(2 * min(truth), max(truth))]
    )
    assert found.scores[0].ours - found.scores[0].baseline == pytest.approx(0.025)
    assert found.scores[0].test.difference == pytest.approx(0.025)
    assert [parting.seeds for parting in found.partings] == [(n, n) for n in (1, 2, 3, 4)]
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "cannot reach p 0.05 by the exact sign-flip test" in capsys.readouterr().out


def test_arms_of_a_study_are_named_by_paths(tmp_path):
    study = tmp_path / "study"
    runs = []
    for stage in ("one", "two"):
        for arm in ("low", "high=a/b"):
            for seed in (1, 2) if arm == "low" else (2, 3):
                directory = f"runs/{stage}-{arm.replace('/', '-')}-{seed}"
                made(study / directory, seed, 0.5, 0.1 if arm == "low" else 0.2)
                runs.append(replace(recorded(directory, "finished"), stage=stage, arm=arm, seed=seed))
    study.rename(tmp_path / "runs-of-study")
    make_study(study, *runs)
    (tmp_path / "runs-of-study/runs").rename(study / "runs")
    found = compared(study / "two/low", study / "two/high=a/b")
    assert [[run.seed for run in side.runs] for side in found.sides] == [[1, 2], [2, 3]]
    assert [parting.seeds for parting in found.partings] == [(2, 2)]
    assert [each.key for each in found.configuration] == ["rate"]
    for path, message in (
        ("", "is a study: name one of its arms: "),
        ("low", "several stages have the arm low"),
        ("two/lo", "has no arm 'two/lo'; did you mean 'two/low'"),
    ):
        with pytest.raises(InputError, match=message):
            side_of(study / path)


def test_what_is_no_run_no_seeds_and_no_arm_is_one_message(tmp_path, capsys):
    made(tmp_path / "mixed/a", 1, 0.5)
    made(tmp_path / "mixed/b", 1, 0.5, 0.2)
    make_run(tmp_path / "unfinished/a", None, [row(1, 1, train_loss=1.0)])
    make_run(tmp_path / "empty-metrics")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, message in (
        ("mixed", "differ in more than their seed"),
        ("unfinished", "no run has finished"),
        ("empty-metrics", "is still empty"),
        ("empty", "holds no run"),
        ("file", "is a file"),
        ("missing/arm", "does not exist"),
    ):
        assert main(["compare", str(tmp_path / name), str(tmp_path / "mixed/a")]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert message in line
    assert main(["compare", str(tmp_path / "mixed/a"), str(tmp_path / "mixed/a"), "--level", "0.05"]) == 2
    assert "--level is 0.05; it must be more than 0.5" in capsys.readouterr().err


def test_a_run_that_still_trains_can_be_compared_and_repeated_seeds_are_left_out(tmp_path):
    running = make_run(tmp_path / "running", None, [row(7, 1, train_loss=1.0)], config={"rate": 0.1})
    assert side_of(running).notes == [f"{running} has not finished: its last step is 7."]
    for name in ("x", "y"):
        made(tmp_path / "twice" / name, 3, 0.5)
    make_run(tmp_path / "twice/z", "failed", [row(1, 1, train_loss=1.0)])
    side = side_of(tmp_path / "twice")
    assert [run.name for run in side.runs] == [str(tmp_path / "twice/x")]
    assert [note.split(" is left out")[0] for note in side.notes] == [str(tmp_path / "twice" / n) for n in ("z", "y")]


# -- counts of other tasks ---------------------------------------------------------------------------------------


def pair(tmp_path: Path, metric: str, predictions: list[list[dict]], scores: list[float]):
    runs = []
    for name, rows, score in zip("ab", predictions, scores, strict=True):
        path = make_run(tmp_path / name, rows=[{"step": 1, "time": 1, metric: score}], predictions=rows)
        runs.append(read_run(path))
    return paired_counts(*runs, metric)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_line_separator_in_a_text_does_not_hide_the_predictions(tmp_path, separator):
    rows = [{"text": f"a{separator}b", "label": "x", "gold": "x"}, {"text": "c", "label": "x", "gold": "y"}]
    counts = pair(tmp_path, "val/accuracy", [rows, rows], [0.5, 0.5])
    assert isinstance(counts, PairedCounts), counts


def test_words_and_entities_count_as_the_scorer_counts_them(tmp_path):
    gold = [["B-PER", "I-PER", "O"], ["B-LOC", "O", "B-PER"], ["O", "O"]]
    tags = [[["B-PER", "I-PER", "O"], ["O", "O", "B-PER"], ["B-LOC", "O"]], [["B-PER", "O", "O"], *gold[1:]]]
    predictions = [
        [
            {"tokens": ["w"] * len(right), "tags": found, "gold": right}
            for right, found in zip(gold, each, strict=True)
        ]
        for each in tags
    ]
    f1s = [score_entities(gold, each).overall.f1 for each in tags]
    counts = pair(tmp_path / "f1", "val/entity_f1", predictions, f1s)
    assert [counts.score(counts.ours), counts.score(counts.baseline)] == pytest.approx(f1s)
    assert counts.ours.tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    counts = pair(tmp_path / "accuracy", "val/accuracy", predictions, [6 / 8, 7 / 8])
    assert counts.score(counts.ours) == 6 / 8


def test_answers_count_as_the_official_scorer_counts_them_in_percent(tmp_path):
    gold = {"1": ["the cat", "a dog"], "2": ["in Rome"], "3": ["1969"]}
    answers = [["cat", "Rome", "1970"], ["a big dog", "in Rome", "1969"]]
    predictions = [
        [{"id": n, "question": "?", "answer": each, "gold": gold[n]} for n, each in zip(gold, texts, strict=True)]
        for texts in answers
    ]
    official = [score_squad_v1(gold, dict(zip(gold, texts, strict=True))) for texts in answers]
    for metric, key in (("squad_exact", "exact_match"), ("squad_f1", "f1")):
        counts = pair(tmp_path / metric, f"val/{metric}", predictions, [each[key] for each in official])
        assert counts.scale == 100
        assert 100 * counts.score(counts.baseline) == pytest.approx(official[1][key])


def test_correlations_are_those_of_scipy(tmp_path):
    generator = np.random.default_rng(1)
    gold = generator.normal(3, 1, 40)
    guesses = [gold + generator.normal(0, sd, 40) for sd in (0.5, 1.0)]
    predictions = [
        [{"text": str(n), "score": x, "gold": y} for n, (x, y) in enumerate(zip(each, gold, strict=True))]
        for each in guesses
    ]
    for metric, truth in (("pearson", scipy.stats.pearsonr), ("spearman", scipy.stats.spearmanr)):
        scores = [truth(each, gold).statistic for each in guesses]
        counts = pair(tmp_path / metric, f"val/{metric}", predictions, scores)
        assert [counts.score(counts.ours), counts.score(counts.baseline)] == pytest.approx(scores)


def test_labels_that_only_one_run_predicts_do_not_shift_the_counts(tmp_path):
    predictions = [predicted("aabb", "aaab"), predicted("aabb", "cabb")]
    counts = pair(tmp_path, "val/accuracy", predictions, [0.75, 0.75])
    assert counts.ours[:, 0].tolist() == [1, 1, 0, 1]
    assert counts.baseline[:, 0].tolist() == [0, 1, 1, 1]
    # With the label c, macro F1 of the first run over three labels is not the recorded one over two.
    macro = pair(tmp_path / "macro", "val/macro_f1", predictions, [(0.8 + 2 / 3) / 2, 0.5])
    assert "do not give the recorded scores" in macro


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows[:-1], "did not predict the same examples"),
        (lambda rows: [{**each, "text": "other"} for each in rows], "did not predict the same examples"),
        (lambda rows: [{**each, "label": "b"} for each in rows], "do not give the recorded scores"),
        (lambda rows: [{k: v for k, v in each.items() if k != "gold"} for each in rows], "no predictions with gold"),
        (lambda rows: [{**each, "gold": ["x"]} for each in rows], "did not predict the same examples"),
    ],
)
def test_predictions_that_do_not_fit_give_the_reason_why_there_is_no_test(tmp_path, change, reason):
    rows = predicted("aabb", "aabb")
    assert reason in pair(tmp_path, "val/accuracy", [rows, change(rows)], [1.0, 1.0])


def test_answers_of_arms_with_the_same_seeds_differ_in_each_example_by_percent(tmp_path):
    arms = {"ours": ["a b", "c d"], "baseline": ["a", "x"]}
    runs = {}
    for arm, answers in arms.items():
        for seed in (1, 2):
            given = answers if seed == 1 else ["a b", "c"]
            rows = [
                {"id": str(i), "answer": answer, "gold": [gold]}
                for i, (answer, gold) in enumerate(zip(given, ["a b", "c d"], strict=True))
            ]
            f1 = 100 * np.mean([{"a b": 1, "c d": 1, "a": 0, "c": 2 / 3, "x": 0}[answer] for answer in given])
            scores = [{"step": 1, "time": 1, "val/f1": f1}]
            path = make_run(
                tmp_path / arm / str(seed), config={"seed_everything": seed}, rows=scores, predictions=rows
            )
            runs.setdefault(arm, []).append(read_run(path))
    found = differences_by_seed(runs["ours"], runs["baseline"], "val/f1")
    # "a" is an article, which the official scorer leaves out.
    assert found.tolist() == [[pytest.approx(100), pytest.approx(100)], [0, 0]]
    assert differences_by_seed(runs["ours"], runs["baseline"][::-1], "val/f1") is None
    assert differences_by_seed(runs["ours"], runs["baseline"][:1], "val/f1") is None
    assert differences_by_seed(runs["ours"], runs["baseline"], "val/loss") is None
