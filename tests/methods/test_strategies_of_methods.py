"""Step methods on several processes, compiled, and resumed there."""

import pytest
import torch
import yaml

from bert_lightning.cli import main
from tests.support.methods import FGM, L2_SP, LARGER, NO_DROPOUT, experiment_of, maker, train
from tests.support.ranks import Ranks
from tests.support.runs import weights
from tests.test_strategies import bitwise, difference

pytestmark = pytest.mark.slow
STRATEGIES = {
    "ddp": ["--trainer.strategy=ddp"],
    "fsdp": ["--trainer.strategy=fsdp"],
    "tensor-parallel": ["--trainer.strategy=fsdp", "--trainer.tensor_parallel_size=2"],
}


@pytest.fixture(scope="module", params=["pretraining", "text-classification"])
def command(request, store, validation_store, tables, tokenizer, tmp_path_factory):
    """A function that fits with every method in a directory, and returns it."""
    sources = {"store": store, "validation_store": validation_store, "tables": tables, "tokenizer": tokenizer}
    folder = tmp_path_factory.mktemp(request.param)
    values = experiment_of(request.param, sources, folder)
    train(maker(values)(*LARGER, "--trainer.max_steps=2", "--optimizer.learning_rate=1e-2"), folder / "teacher")
    values["checkpoint"] = {"every_n_steps": 1, "keep_last": 9}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(values))
    options = [*FGM, *L2_SP, f"--distillation.teacher={folder / 'teacher/last.ckpt'}"]

    def fit(run, *more, ranks: Ranks | None = None):
        number = len(ranks.processes) if ranks is not None else 1
        arguments = ["fit", "--config", str(folder / "experiment.yaml"), *options, *more]
        arguments += ["--run-directory", str(run), f"--trainer.devices={number}"]
        assert {*(ranks.run(arguments) if ranks is not None else [main(arguments)])} == {0}
        return run

    return fit


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_train_like_one(command, strategy, two_ranks, tmp_path):
    options = [*NO_DROPOUT, "--trainer.max_steps=2"]
    one = command(tmp_path / "one", *options)
    two = command(tmp_path / "two", *options, *STRATEGIES[strategy], ranks=two_ranks)
    assert difference(weights(one), weights(two)) <= 5e-6


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_resume_bit_for_bit(command, strategy, two_ranks, tmp_path):
    options = STRATEGIES[strategy]
    whole = command(tmp_path / "whole", *options, ranks=two_ranks)
    point = whole / "checkpoints/step-000000002.ckpt"
    resumed = command(tmp_path / "resumed", *options, "--resume", str(point), ranks=two_ranks)
    assert bitwise(weights(whole), weights(resumed))


# Pre-training compiles for minutes.
@pytest.mark.parametrize("command", ["text-classification"], indirect=True)
def test_a_compiled_run_trains_like_a_plain_one_and_resumes_bit_for_bit(command, tmp_path):
    plain = command(tmp_path / "plain", *NO_DROPOUT, "--trainer.max_steps=2")
    compiled = command(tmp_path / "compiled", *NO_DROPOUT, "--trainer.max_steps=2", "--trainer.compile=true")
    assert difference(weights(plain), weights(compiled)) <= 5e-5
    torch._dynamo.reset()
    point = compiled / "checkpoints/step-000000001.ckpt"
    options = [*NO_DROPOUT, "--trainer.max_steps=2", "--trainer.compile=true", "--resume", str(point)]
    assert bitwise(weights(compiled), weights(command(tmp_path / "resumed", *options)))


def test_it_trains_in_bfloat16_on_two_sharded_processes(command, two_ranks, tmp_path):
    for precision in ("bf16-mixed", "bf16-true"):
        command(tmp_path / precision, f"--trainer.precision={precision}", *STRATEGIES["fsdp"], ranks=two_ranks)
        assert all(tensor.isfinite().all() for tensor in weights(tmp_path / precision).values())
