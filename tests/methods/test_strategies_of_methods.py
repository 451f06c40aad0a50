"""Step methods on several processes, compiled, and resumed there."""

import pytest
import torch
import yaml

from bert_lightning.cli import main
from tests.support.methods import (
    ADVERSARIAL,
    ALL_INNER,
    INNER,
    L2_SP,
    LARGER,
    NO_DROPOUT,
    experiment_of,
    maker,
    train,
)
from tests.support.ranks import Ranks
from tests.support.runs import weights
from tests.test_strategies import bitwise, difference

pytestmark = pytest.mark.slow
STRATEGIES = {
    "ddp": ["--trainer.strategy=ddp"],
    "fsdp": ["--trainer.strategy=fsdp"],
    "tensor-parallel": ["--trainer.strategy=fsdp", "--trainer.tensor_parallel_size=2"],
}


# Every adversary on texts, and in pre-training those that differ in what a step computes.
CASES = [("text-classification", name) for name in ADVERSARIAL]
CASES += [("pretraining", name) for name in ("fgm", "smart", "r-drop")]


def inner(strategy):
    """Return the losses on inner states: all, or with tensor parallelism those that need no whole set of heads."""
    return INNER["hidden"] if strategy == "tensor-parallel" else ALL_INNER


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def command(request, store, validation_store, tables, tokenizer, tmp_path_factory):
    """A function that fits with an adversary and distillation in a directory, and returns it."""
    sources = {"store": store, "validation_store": validation_store, "tables": tables, "tokenizer": tokenizer}
    task, adversary = request.param
    folder = tmp_path_factory.mktemp(task)
    values = experiment_of(task, sources, folder)
    train(maker(values)(*LARGER, "--trainer.max_steps=2", "--optimizer.learning_rate=1e-2"), folder / "teacher")
    values["checkpoint"] = {"every_n_steps": 1, "keep_last": 9}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(values))
    options = [*ADVERSARIAL[adversary], *L2_SP, f"--distillation.teacher={folder / 'teacher/last.ckpt'}"]

    def fit(run, *more, ranks: Ranks | None = None):
        number = len(ranks.processes) if ranks is not None else 1
        arguments = ["fit", "--config", str(folder / "experiment.yaml"), *options, *more]
        arguments += ["--run-directory", str(run), f"--trainer.devices={number}"]
        assert {*(ranks.run(arguments) if ranks is not None else [main(arguments)])} == {0}
        return run

    return fit


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_train_like_one(command, strategy, two_ranks, tmp_path):
    options = [*NO_DROPOUT, *inner(strategy), "--trainer.max_steps=2"]
    one = command(tmp_path / "one", *options)
    two = command(tmp_path / "two", *options, *STRATEGIES[strategy], ranks=two_ranks)
    assert difference(weights(one), weights(two)) <= 5e-6


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_resume_bit_for_bit(command, strategy, two_ranks, tmp_path):
    options = [*STRATEGIES[strategy], *inner(strategy)]
    whole = command(tmp_path / "whole", *options, ranks=two_ranks)
    point = whole / "checkpoints/step-000000002.ckpt"
    resumed = command(tmp_path / "resumed", *options, "--resume", str(point), ranks=two_ranks)
    assert bitwise(weights(whole), weights(resumed))


# Pre-training compiles for minutes.
@pytest.mark.parametrize("command", [case for case in CASES if case[0] != "pretraining"], ids="-".join, indirect=True)
def test_a_compiled_run_trains_like_a_plain_one_and_resumes_bit_for_bit(command, tmp_path):
    options = [*NO_DROPOUT, *ALL_INNER, "--trainer.max_steps=2"]
    plain = command(tmp_path / "plain", *options)
    compiled = command(tmp_path / "compiled", *options, "--trainer.compile=true")
    assert difference(weights(plain), weights(compiled)) <= 5e-5
    torch._dynamo.reset()
    point = compiled / "checkpoints/step-000000001.ckpt"
    options += ["--trainer.compile=true", "--resume", str(point)]
    assert bitwise(weights(compiled), weights(command(tmp_path / "resumed", *options)))


def test_it_trains_in_bfloat16_on_two_sharded_processes(command, two_ranks, tmp_path):
    for precision in ("bf16-mixed", "bf16-true"):
        options = [f"--trainer.precision={precision}", *STRATEGIES["fsdp"], *ALL_INNER]
        command(tmp_path / precision, *options, ranks=two_ranks)
        assert all(tensor.isfinite().all() for tensor in weights(tmp_path / precision).values())
