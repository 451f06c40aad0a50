"""Reports of speed, and settings that a run chooses by itself."""

import itertools
import json

import pytest
import torch
import yaml

import bert_lightning
from bert_lightning.cli import main
from bert_lightning.config.experiment import load_experiment
from bert_lightning.errors import InputError
from bert_lightning.runs import auto_settings
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.tasks.text_classification.task import TextClassificationTask
from bert_lightning.training import throughput
from bert_lightning.training.micro_batch import fewest_micro_batches
from bert_lightning.training.throughput import THROUGHPUT_METRICS, StepClock, best_product, peak_operations


@pytest.fixture
def config(tables, tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    values = {
        "experiment": "speed",
        "task": "text-classification",
        "model": {
            "size": "tiny",
            "config": {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32},
        },
        "data": {
            "train": str(tables["train"]),
            "text_column": "sentence",
            "label_column": "topic",
            "tokenizer": str(tmp_path / "tokenizer"),
            "max_seq_length": 16,
            "batch_size": 8,
        },
        "trainer": {"max_steps": 12, "accelerator": "cpu", "precision": "32", "log_every_n_steps": 2},
        "wandb": {"mode": "disabled"},
    }
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def fit(config, run, *more):
    assert main(["fit", "--config", str(config), "--run-directory", str(run), *more]) == 0
    return RunDirectory(run)


def test_every_training_row_holds_its_speed_and_the_time_of_each_section(config, tmp_path):
    rows = [row for row in fit(config, tmp_path / "run").read_metrics() if "train/loss" in row]
    assert len(rows) == 6
    for row in rows:
        assert set(THROUGHPUT_METRICS) <= set(row)
        assert all(row[name] >= 0 for name in THROUGHPUT_METRICS)
        assert 0 < row["train/mfu"] < 1
        assert row["train/tokens_per_second"] > row["train/sequences_per_second"]
        shares = [row[name] for name in THROUGHPUT_METRICS if name.endswith("_share")]
        assert sum(shares) <= 1 + 1e-6


def test_speed_and_time_of_the_intervals_give_the_tokens_that_were_read(config, tmp_path):
    rows = fit(config, tmp_path / "run").read_metrics()
    read = sum(row["train/tokens_per_second"] * row["train/interval_seconds"] for row in rows if "train/loss" in row)
    _, data = bert_lightning.build(config)
    [*batches] = (data.training_batches(step, data.plan, 0, 1) for step in range(12))
    assert round(read, 3) == sum(batch["num_tokens"] for micro_batches in batches for batch in micro_batches)


def test_the_clock_gives_each_section_its_own_time(monkeypatch):
    moments = itertools.accumulate([0.0, 3.0, 0.5, 9.0, 0.25, 0.0, 2.0, 1.0])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(moments))
    clock, device = StepClock(), torch.device("cpu")
    for _ in range(2):
        clock.begin_step(device)
        clock.begin_optimizer()
        clock.end_step()
        if _ == 0:
            clock.begin_waiting()
    assert clock.read() == {"data": 0.25, "forward_backward": 5.0, "optimizer": 1.5}
    assert clock.read() == dict.fromkeys(("data", "forward_backward", "optimizer"), 0.0)


def test_the_measured_peak_counts_two_operations_per_product(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: float(next(ticks)))
    # One second per measurement, with products of 10^9 operations in it.
    shape, cpu = (100, 200, 300), torch.device("cpu")
    operations = 2 * 100 * 200 * 300
    assert best_product([shape], torch.float32, cpu) == operations * round(1e9 / operations)


def test_the_highest_peak_counts_and_is_measured_again_where_that_takes_little_of_the_time(monkeypatch):
    # A measurement takes two seconds.
    ticks, speeds = itertools.count(step=2), iter([3e9, 1e9, 5e9])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(throughput, "best_product", lambda *_: next(speeds))
    monkeypatch.setattr(throughput, "_measured", {})
    cpu, passed = torch.device("cpu"), (0, 199, 200, 199, 201)
    assert [peak_operations(cpu, torch.float32, 8, 32, seconds) for seconds in passed] == [3e9, 3e9, 3e9, 3e9, 5e9]


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA A100X", 312e12),
        ("NVIDIA RTX A6000", 155e12),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_a_gpu_has_the_peak_of_its_vendor_only_under_its_whole_name(name, peak, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(throughput, "best_product", lambda *_: 7.0)
    monkeypatch.setattr(throughput, "_measured", {})
    assert peak_operations(torch.device("cuda"), torch.bfloat16, 8, 32, 0.0) == (peak or 7.0)


def test_a_profile_is_a_table_and_a_trace_for_a_browser(config, tmp_path):
    run = fit(config, tmp_path / "run", "--profile")
    trace = json.loads((run.path / "profile/trace.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"aten::addmm", "aten::embedding"} <= names
    assert "aten::addmm" in (run.path / "profile/operators.txt").read_text()


@pytest.mark.parametrize(
    ("steps", "said"),
    [(2, "no profile: the first 5 steps are not recorded, and this session had 2"), (7, "profile of 2 steps: ")],
)
def test_a_run_that_is_too_short_for_its_profile_says_so(config, tmp_path, capsys, steps, said):
    run = fit(config, tmp_path / "run", "--profile", "--trainer.max_epochs=null", f"--trainer.max_steps={steps}")
    assert said in capsys.readouterr().out
    assert (run.path / "profile").is_dir() == (steps > 5)


def test_the_fewest_micro_batches_that_fit_are_chosen():
    for most in (1, 2, 3, 5, 12):
        assert (
            fewest_micro_batches(12, lambda number, most=most: 12 // number <= most)
            == {
                1: 12,
                2: 6,
                3: 4,
                5: 3,
                12: 1,
            }[most]
        )
    assert fewest_micro_batches(12, lambda number: False) == 12


def test_a_batch_that_does_not_fit_is_split_into_micro_batches_that_a_resume_keeps(
    config, tmp_path, monkeypatch, capsys
):
    """Leave room for two samples at a time: eight make four micro-batches, with the same loss."""
    sizes, compute = [], TextClassificationTask.compute

    def small(task, batch):
        sizes.append(len(batch["labels"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("full")
        return compute(task, batch)

    no_dropout = [f"--model.config.{name}=0" for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")]
    whole = fit(config, tmp_path / "whole", *no_dropout)
    monkeypatch.setattr(TextClassificationTask, "compute", small)
    auto = ["--trainer.accumulate_grad_batches", "auto", *no_dropout]
    split = fit(config, tmp_path / "split", *auto, "--checkpoint.every_n_steps", "6", "--checkpoint.keep_last", "9")
    assert "micro-batches: 4 per step, of 2 samples" in capsys.readouterr().out
    assert split.read_manifest()["micro_batches"] == 4
    assert sizes[:2] == [8, 4]
    losses = [[row["train/loss"] for row in run.read_metrics() if "train/loss" in row] for run in (whole, split)]
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]))

    (tmp_path / "split/checkpoints/step-000000012.ckpt").unlink()
    split.update_manifest(ended=None)
    sizes.clear()
    fit(config, tmp_path / "split", *auto, "--checkpoint.every_n_steps", "6", "--checkpoint.keep_last", "9")
    assert set(sizes) == {2}


def test_precision_auto_is_the_types_of_the_device_and_a_run_keeps_it(config, tmp_path, monkeypatch):
    for fast, expected in ((True, "bf16-mixed"), (False, "32")):
        monkeypatch.setattr(auto_settings, "has_fast_bfloat16", lambda accelerator, fast=fast: fast)
        run = fit(config, tmp_path / expected, "--trainer.precision", "auto")
        assert run.read_config()["trainer"]["precision"] == expected
    # On another machine.
    experiment = load_experiment([config], ["--trainer.precision", "auto"])
    kept = auto_settings.settle_precision(experiment, RunDirectory(tmp_path / "bf16-mixed"))
    assert kept.trainer.precision == "bf16-mixed"


@pytest.mark.parametrize(
    ("value", "on_gpu", "steps", "expected"),
    [
        ("auto", True, 2000, True),
        ("auto", True, 1999, False),
        ("auto", False, 10**6, False),
        ("true", False, 1, True),
    ],
)
def test_compiling_is_chosen_for_long_runs_on_a_gpu(config, monkeypatch, value, on_gpu, steps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    monkeypatch.setattr(auto_settings.importlib.util, "find_spec", lambda name: object())
    experiment = load_experiment([config], ["--trainer.compile", value, "--trainer.accelerator", "auto"])
    assert auto_settings.compiles(experiment, steps) is expected


def test_profile_and_seeds_do_not_go_together(config, capsys):
    assert main(["fit", "--config", str(config), "--seeds", "1", "2", "--profile"]) == 2
    assert "--profile and --seeds contradict each other" in capsys.readouterr().err


def test_stages_have_their_own_micro_batches(config):
    class Staged:
        batch_shares = (("a", 1, None), ("b", 2, None))

    with pytest.raises(InputError, match=r"auto cannot be combined with data\.stages"):
        auto_settings.largest_micro_batch(load_experiment([config]), Staged(), RunDirectory(config.parent), None)


def test_processes_of_one_tensor_parallel_group_compute_the_same_micro_batches(config):
    class Data:
        batch_shares = (("a", 1, None),)
        batch_size = 8

    options = ["--trainer.devices=4", "--trainer.strategy=fsdp", "--trainer.tensor_parallel_size=2"]
    directory = RunDirectory(config.parent)
    search = auto_settings.largest_micro_batch(load_experiment([config], options), Data(), directory, 6)
    # Two shares of four samples; a share of the six micro-batches is three.
    assert (search.batch_size, search.known) == (4, 3)
