"""Results of studies that were never run: curves and scores of a fixed generator, for tests of reports."""

import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np

from bert_lightning.config.published import Published
from bert_lightning.reports.results import (
    ArmResult,
    Confound,
    Metric,
    MetricCell,
    NotInTable,
    PublishedFigure,
    Results,
    ResultTable,
)
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.studies.comparison import Run
from bert_lightning.studies.statistics import compare_seeds, expected_maximum, mean_interval

START = 1_790_000_000.0


def fake_run(path, seed, *, steps=2000, every=20, validate_every=200, task="pretraining", level=4.0, speed=9000.0,
             changes=None, generator=None):  # fmt: skip
    """Return a run whose losses fall to `level`, with rows as training logs them."""
    random = generator or np.random.default_rng(seed)
    pretraining = task == "pretraining"
    rows, now, own = [], START, level + random.normal(0, 0.03)
    for step in range(every, steps + 1, every):
        now += every * 32 * 128 / speed * float(random.uniform(0.9, 1.15))
        loss = own + 5.5 * float(np.exp(-step / (steps / 6))) + float(random.normal(0, 0.08))
        name = "mlm_loss" if pretraining else "loss"
        tokens = speed * float(random.uniform(0.9, 1.1))
        rows.append({
            "time": now, "step": step, f"train/{name}": loss, "train/learning_rate": 1e-3 * (1 - step / steps),
            "train/tokens_per_second": tokens, "train/sequences_per_second": tokens / 120.0, "train/mfu": 0.3,
        })  # fmt: skip
        if step % validate_every == 0:
            now += 1.5
            held_out = loss - float(random.normal(0, 0.03)) + 0.05
            if pretraining:
                scores = {
                    "val/mlm_loss": held_out,
                    "val/mlm_accuracy": 0.9 - held_out / 7,
                    "val/mlm_unigram_loss": 6.4,
                }
            else:
                scores = {"val/loss": held_out, "val/accuracy": 1.0 - held_out / 8 + float(random.normal(0, 0.006))}
            rows.append({"time": now, "step": step, **scores})
    config = {"experiment": task, "task": task, "seed_everything": seed,
              "data": {"batch_size": 32, "max_seq_length": 128, "batching": "padded"}, **(changes or {})}  # fmt: skip
    manifest = {
        "ended": "finished", "step": steps, "started": "2026-09-21T14:13:20+00:00", "parameters": 11_200_000,
        "sessions": [{
            "started": "2026-09-21T14:13:20+00:00", "finished": "2026-09-21T14:40:00+00:00",
            "command": f"bert-lightning fit --config {task}.yaml --seed_everything={seed}",
            "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "modified": False},
            "hardware": {"processor": "AMD EPYC", "cores": 2, "gpus": []},
        }],
    }  # fmt: skip
    return Run(RunDirectory(Path(path)), config, manifest, rows)


def fake_cell(metric, runs, baseline=None, **marks):
    """Return a cell with the statistics of the last value of each run."""
    values = {run.seed: float(run.series(metric)[1][-1]) for run in runs}
    numbers = list(values.values())
    compared = {}
    if baseline is not None and len(numbers) > 1:
        found = compare_seeds(values, baseline.values)
        compared = {"difference": found.difference, "interval": found.interval, "p": found.p, "p_adjusted": found.p,
                    "test": found.test, "notes": tuple(found.notes)}  # fmt: skip
    several = len(numbers) > 1
    return MetricCell(
        metric, values, statistics.fmean(numbers), statistics.stdev(numbers) if several else None,
        statistics.median(numbers), min(numbers), max(numbers), mean_interval(numbers).interval if several else None,
        scored="last", **compared, **marks,
    )  # fmt: skip


def fake_table(stage, arms, seeds, metrics, **settings):
    """Return a table of arms (label -> level of the loss) over seeds."""
    task = "pretraining" if stage == "pretraining" else "text-classification"
    results, baseline = [], None
    for number, (label, level) in enumerate(arms.items()):
        runs = tuple(
            fake_run(f"studies/nsp/runs/{stage}/{number:03d}{seed:09d}", seed, task=task, level=level,
                     speed=9000.0 / (1 + number / 9), generator=np.random.default_rng([number, seed, len(stage)]),
                     **settings)
            for seed in seeds
        )  # fmt: skip
        cells = {name: fake_cell(name, runs, baseline and baseline[name]) for name in metrics}
        baseline = baseline or cells
        results.append(ArmResult(label, {"data.objective": label}, runs, cells, is_baseline=number == 0))
    columns = tuple(Metric(name, "min" if name.endswith("loss") else "max") for name in metrics)
    for metric in columns:
        means = [arm.cells[metric.name].mean for arm in results]
        best = means.index(max(means) if metric.better == "max" else min(means))
        for number, arm in enumerate(results):
            cell = replace(arm.cells[metric.name], best=number == best, not_worse=number == (best + 1) % len(results))
            results[number] = replace(arm, cells={**arm.cells, metric.name: cell})
    caption = (
        "Mean ± standard deviation (n - 1) over seeds, n = 5. The spread is over seeds and not over examples.",
        "Scores on validation data (val/) are of the checkpoint after the last step.",
        "Differences are to next-sentence, with 95% intervals by the paired t test over seeds.",
    )
    return ResultTable(
        f"nsp: {stage}", task, columns, tuple(results), "nsp", stage, "Does next-sentence prediction help?",
        Path("studies/nsp"), next(iter(arms)), caption,
    )  # fmt: skip


def fake_study(seeds=range(1, 6), labels=("next-sentence", "sentence-order", "full-sentences"), **settings):
    """Return the results of a study of three arms and two stages, with confounds and runs that failed."""
    first = fake_table(
        "pretraining", dict(zip(labels, (3.1, 2.95, 2.97), strict=True)), seeds, ["val/mlm_loss", "val/mlm_accuracy"],
        **settings,
    )  # fmt: skip
    second = fake_table("rte", dict(zip(labels, (2.9, 2.82, 2.6), strict=True)), seeds, ["val/accuracy"], **settings)
    figure = PublishedFigure(Published("val/accuracy", 0.664, 0.01, "Devlin et al. 2019, table 1"), 0.6367, False)
    arm = second.arms[0]
    cell = replace(arm.cells["val/accuracy"], published=(figure,))
    arm = replace(arm, cells={"val/accuracy": cell})
    missing = (
        NotInTable(labels[1], 6, "failed", Path("studies/nsp/runs/rte/dead"), "WorkError: the loss is not finite"),
        NotInTable(labels[2], 6, "missing", Path("studies/nsp/runs/rte/none")),
    )
    confounds = (
        Confound("version of torch", {labels[0]: ("2.12.0",), labels[1]: ("2.13.0",), labels[2]: ("2.13.0",)}),
        Confound("samples", {labels[0]: ("12,000",), labels[1]: ("11,400",)}, "data.objective"),
    )
    second = replace(second, arms=(arm, *second.arms[1:]), missing=missing, confounds=confounds)
    return Results((first, second))


def fake_search(trials=24, seeds=(1, 2), **settings):
    """Return the results of a search over four keys, some of whose trials were pruned."""
    random = np.random.default_rng(5)
    arms, missing = [], []
    for number in range(trials):
        values = {
            "optimizer.learning_rate": float(10 ** random.uniform(-5, -3)),
            "data.batch_size": int(2 ** random.integers(3, 7)),
            "optimizer.weight_decay": float(random.uniform(0, 0.1)),
            "schedule.name": str(random.choice(["linear", "cosine"])),
        }
        level = 2.6 + 0.5 * abs(np.log10(values["optimizer.learning_rate"]) + 4) + float(random.normal(0, 0.05))
        label = f"trial {number}"
        if number % 7 == 6:
            missing.append(NotInTable(label, 1, "pruned", Path(f"studies/s/runs/{number}"), "worse than the median"))
            arms.append(ArmResult(label, values, (), {}, missing=(missing[-1],), trial=number))
            continue
        runs = tuple(
            fake_run(f"studies/s/runs/{number}-{seed}", seed, task="text-classification", level=level,
                     generator=np.random.default_rng([number, seed]), speed=9000.0 / (1 + number % 3), **settings)
            for seed in seeds
        )  # fmt: skip
        arms.append(ArmResult(label, values, runs, {"val/accuracy": fake_cell("val/accuracy", runs)}, trial=number))
    table = ResultTable(
        "rates: search", "text-classification", (Metric("val/accuracy", "max"),), tuple(arms), "rates", None,
        "Which learning rate suits RTE?", Path("studies/rates"), None,
        ("Mean ± standard deviation (n − 1) over 2 seeds of each trial.",), (), tuple(missing), recorded_search(arms),
    )  # fmt: skip
    return Results((table,))


def recorded_search(arms):
    """Return what a search over these trials records."""
    cells = {arm.trial: arm.cells.get("val/accuracy") for arm in arms}
    trials = [
        {"trial": arm.trial, "values": dict(arm.values), "state": "complete" if cells[arm.trial] else "pruned",
         "score": cells[arm.trial].mean if cells[arm.trial] else None, "message": None, "runs": []}
        for arm in arms
    ]  # fmt: skip
    scores = [trial["score"] for trial in trials if trial["score"] is not None]
    scores += [min(scores)] * (len(trials) - len(scores))
    best = max((trial for trial in trials if trial["score"] is not None), key=lambda trial: trial["score"])
    found = {
        "trials": trials, "best": best,
        "confirmation": {"scores": {"11": 0.66, "12": 0.65}, "score": 0.655, "optimism": best["score"] - 0.655},
        "expected_performance": {
            "independent": False, "without_score": sum(trial["score"] is None for trial in trials),
            "tang": [expected_maximum(scores, n) for n in range(1, len(scores) + 1)],
        },
        "importance": {"method": "PED-ANOVA", "best_share": 0.25,
                       "values": {"optimizer.learning_rate": 0.83, "data.batch_size": 0.11, "schedule.name": 0.02}},
        "rank_correlation": {"optimizer.learning_rate": -0.12, "data.batch_size": 0.31},
    }  # fmt: skip
    space = {"optimizer.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}, "data.batch_size": [8, 16, 32, 64]}
    return {"metric": "val/accuracy", "direction": "maximize", "space": space, "arms": {"searched": found}}
