"""Strategies from the shell: several processes train like one, and each resumes checkpoints of the others."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from bert_lightning.checkpoints.native import load_native
from bert_lightning.cli import main
from tests.support.ranks import Ranks, free_port, started
from tests.support.runs import weights
from tests.support.task_data import task_data

NO_DROPOUT = ["--model.config.hidden_dropout_prob", "0", "--model.config.attention_probs_dropout_prob", "0"]
SHORT = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "2"]
TENSOR_PARALLEL = ["--trainer.tensor_parallel_size", "2"]
DDP, FSDP = (["--trainer.strategy", name] for name in ("ddp", "fsdp"))
SHARDED = [*FSDP, "--checkpoint.sharded", "true"]
TWO = ["--trainer.devices", "2"]
SBATCH = Path(__file__).parents[1] / "experiments/slurm/pretraining.sbatch"


def bitwise(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def difference(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def start(command, environment=None):
    # An earlier run in this process left there a value for its own processes.
    inherited = {name: value for name, value in os.environ.items() if name != "BERT_LIGHTNING_RUN_DIRECTORY"}
    return subprocess.Popen(
        command,
        env={**inherited, "WANDB_MODE": "disabled", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process, status=0):
    """Return the output of a command; kill it with all its processes if it hangs."""
    try:
        output, errors = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == status, errors
    return output


@pytest.fixture(scope="module")
def on_four():
    """Four ranks."""
    with started(4) as ranks:
        yield ranks


def fit(home, run, *options, ranks: Ranks | None = None):
    """Train on `ranks`, or in this process if there are none."""
    command = ["fit", "--config", str(home / "pretraining.yaml"), *SHORT, *options, "--run-directory", str(run)]
    number = len(ranks.processes) if ranks is not None else 1
    command += ["--trainer.devices", str(number)]
    assert {*(ranks.run(command) if ranks is not None else [main(command)])} == {0}
    return run


@pytest.fixture(scope="module")
def sharded_run(home, two_ranks, tmp_path_factory):
    """A run of two sharded processes with dropout and sharded checkpoints."""
    run = tmp_path_factory.mktemp("strategies") / "shards"
    return fit(home, run, *SHARDED, ranks=two_ranks)


def test_sharded_training_draws_dropout_per_rank_and_equals_unsharded_training(
    home, sharded_run, two_ranks, tmp_path
):
    ddp = fit(home, tmp_path / "ddp", *DDP, ranks=two_ranks)
    # With rank 0's masks, rank 1 would differ by 1e-3; the gradient norm is summed in another order.
    assert difference(weights(ddp), weights(sharded_run)) <= 2e-6


def test_a_sharded_checkpoint_resumes_bit_for_bit(home, sharded_run, two_ranks, tmp_path):
    checkpoint = sharded_run / "checkpoints/step-000000002.ckpt"
    assert sorted(path.name for path in checkpoint.iterdir()) == ["manifest.json", "part-00000.pt", "part-00001.pt"]
    resumed = fit(home, tmp_path / "resumed", *SHARDED, "--resume", str(checkpoint), ranks=two_ranks)
    assert bitwise(weights(sharded_run), weights(resumed))


def test_every_command_reads_a_sharded_checkpoint_like_a_file(home, sharded_run, tmp_path, capsys):
    export = ["export", "--checkpoint", str(sharded_run), "--format", "huggingface", "--output"]
    assert main([*export, str(tmp_path / "exported")]) == 0
    one = ["--trainer.devices", "1", "--trainer.strategy", "auto", "--checkpoint.sharded", "false"]
    assert main(["validate", "--checkpoint", str(sharded_run), *one]) == 0
    assert "val/mlm_loss" in capsys.readouterr().out
    (tmp_path / "raw.txt").write_text("The old [MASK] sees.\n")
    command = ["predict", "--checkpoint", str(sharded_run / "checkpoints/step-000000004.ckpt")]
    assert main([*command, "--input", str(tmp_path / "raw.txt"), "--output", str(tmp_path / "out.jsonl")]) == 0
    # One process without a strategy resumes the checkpoint of two.
    command = ["fit", "--config", str(home / "pretraining.yaml"), *SHORT, "--run-directory", str(tmp_path / "one")]
    assert main([*command, "--resume", str(sharded_run / "checkpoints/step-000000002.ckpt")]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.precision", "16-mixed"], "needs CUDA"),
        (["--trainer.precision", "16-mixed", "--trainer.accelerator", "auto"], "needs CUDA"),
        (["--trainer.precision", "16-mixed", "--trainer.accelerator", "gpu", *FSDP], "precision is 16-mixed"),
        ([*FSDP, "--trainer.accumulate_grad_batches", "auto"], "accumulate_grad_batches is auto"),
        ([*TWO, *FSDP, *TENSOR_PARALLEL, "--trainer.compile", "true"], "compile is true"),
        (["--checkpoint.sharded", "true"], "checkpoint.sharded does nothing"),
        (["--trainer.tensor_parallel_size", "2"], "tensor_parallel_size does nothing without trainer.strategy fsdp"),
        ([*TWO, *FSDP, "--trainer.tensor_parallel_size", "3"], "does not divide the 2 process(es)"),
        (
            ["--trainer.devices", "3", *FSDP, "--trainer.tensor_parallel_size", "3"],
            "does not divide the model's num_attention_heads (2)",
        ),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without CUDA")
def test_an_impossible_strategy_is_one_message(home, tmp_path, capsys, options, message):
    command = ["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", str(tmp_path / "run")]
    assert main([*command, *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_weights_in_bfloat16_train_and_do_not_resume_in_another_precision(home, tmp_path, capsys):
    command = ["fit", "--config", str(home / "pretraining.yaml"), *SHORT, "--run-directory"]
    assert main([*command, str(tmp_path / "true"), "--trainer.precision", "bf16-true"]) == 0
    saved = load_native(tmp_path / "true/checkpoints/step-000000004.ckpt")
    assert {tensor.dtype for tensor in saved["state_dict"].values()} == {torch.bfloat16}
    moments = [state["v"].dtype for state in saved["optimizer_states"][0]["state"].values()]
    assert {*moments} == {torch.float32}
    assert main([*command, str(tmp_path / "other"), "--resume", str(tmp_path / "true")]) == 2
    assert "bf16-true and other precisions" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "requeued"), [(143, True), (0, False), (2, False)])
def test_the_job_script_requeues_only_jobs_that_a_signal_stopped(tmp_path, status, requeued):
    for name, line in {"srun": f"exit {status}", "scontrol": f'echo "$@" > {tmp_path}/requeued'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SLURM_JOB_ID": "4711", "SLURM_NNODES": "1"}
    done = subprocess.run(["bash", str(SBATCH)], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == (0 if requeued else status), done.stderr
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 4711\n"


def test_one_process_and_two_of_either_strategy_agree(home, two_ranks, tmp_path, monkeypatch):
    # One thread, as in each of the two.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    one = fit(home, tmp_path / "one", *NO_DROPOUT, "--trainer.accumulate_grad_batches", "2")
    for name, strategy in (("ddp", DDP), ("fsdp", FSDP)):
        two = fit(home, tmp_path / name, *NO_DROPOUT, *strategy, ranks=two_ranks)
        assert difference(weights(one), weights(two)) <= 1e-6
    assert bitwise(weights(one), weights(tmp_path / "ddp"))


@pytest.mark.slow
def test_sharding_works_with_one_process(home, tmp_path):
    one = fit(home, tmp_path / "one", *NO_DROPOUT)
    # Not in this process, because its process group would remain for later tests.
    with started(1) as ranks:
        alone = fit(home, tmp_path / "alone", *NO_DROPOUT, *FSDP, ranks=ranks)
    assert difference(weights(one), weights(alone)) <= 1e-6


@pytest.mark.parametrize("strategy", [DDP, FSDP], ids=["ddp", "fsdp"])
def test_two_processes_resume_bit_for_bit_from_a_file(home, two_ranks, tmp_path, strategy):
    whole = fit(home, tmp_path / "whole", *strategy, ranks=two_ranks)
    for step in (1, 3):
        middle = ["--resume", str(whole / f"checkpoints/step-{step:09d}.ckpt")]
        resumed = fit(home, tmp_path / f"from-{step}", *strategy, *middle, ranks=two_ranks)
        assert bitwise(weights(whole), weights(resumed))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [FSDP, SHARDED], ids=["file", "shards"])
def test_two_sharded_processes_resume_bit_for_bit_from_eight_checkpoints(home, two_ranks, tmp_path, strategy):
    options = [*strategy, "--trainer.max_steps", "9"]
    whole = fit(home, tmp_path / "whole", *options, ranks=two_ranks)
    for step in range(1, 9):
        middle = ["--resume", str(whole / f"checkpoints/step-{step:09d}.ckpt")]
        resumed = fit(home, tmp_path / f"from-{step}", *options, *middle, ranks=two_ranks)
        assert bitwise(weights(whole), weights(resumed))


def test_a_run_of_two_processes_continues_on_one_and_on_two_again(home, two_ranks, tmp_path):
    whole = fit(home, tmp_path / "whole", *NO_DROPOUT, *SHARDED, ranks=two_ranks)
    first = ["--resume", str(whole / "checkpoints/step-000000001.ckpt")]
    one = fit(home, tmp_path / "one", *NO_DROPOUT, *first)
    second = ["--resume", str(one / "checkpoints/step-000000002.ckpt")]
    two = fit(home, tmp_path / "two", *NO_DROPOUT, *DDP, *second, ranks=two_ranks)
    assert difference(weights(whole), weights(two)) <= 1e-6


@pytest.fixture(params=["two_ranks", pytest.param("on_four", marks=pytest.mark.slow)])
def ranks(request):
    """Two tensor-parallel processes, or four that also shard the model."""
    return request.getfixturevalue(request.param)


def test_tensor_parallel_processes_train_what_one_process_trains(home, ranks, tmp_path):
    one = fit(home, tmp_path / "one", *NO_DROPOUT)
    several = fit(home, tmp_path / "several", *NO_DROPOUT, *FSDP, *TENSOR_PARALLEL, ranks=ranks)
    assert difference(weights(one), weights(several)) <= 1e-6
    # The same samples, counted once.
    rows = [json.loads(line) for line in (several / "metrics.jsonl").read_text().splitlines()]
    alone = [json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()]
    for name in ("train/loss", "train/mlm_accuracy", "val/mlm_loss"):
        assert [row.get(name) for row in rows] == pytest.approx([row.get(name) for row in alone], abs=1e-6)


def test_tensor_parallel_processes_resume_bit_for_bit_from_a_file_and_from_shards(home, ranks, tmp_path):
    whole = fit(home, tmp_path / "whole", *FSDP, *TENSOR_PARALLEL, ranks=ranks)
    sharded = fit(home, tmp_path / "shards", *SHARDED, *TENSOR_PARALLEL, ranks=ranks)
    assert bitwise(weights(whole), weights(sharded))
    for run, name, then in ((sharded, "shards", FSDP), (whole, "file", SHARDED)):
        middle = ["--resume", str(run / "checkpoints/step-000000002.ckpt")]
        resumed = fit(home, tmp_path / f"from-{name}", *then, *TENSOR_PARALLEL, *middle, ranks=ranks)
        assert bitwise(weights(whole), weights(resumed))


def test_one_process_resumes_a_tensor_parallel_checkpoint_and_the_other_way_round(home, two_ranks, tmp_path):
    whole = fit(home, tmp_path / "whole", *NO_DROPOUT)
    shared = [*NO_DROPOUT, *SHARDED, *TENSOR_PARALLEL]
    first = fit(home, tmp_path / "first", *shared, ranks=two_ranks)
    one = fit(home, tmp_path / "one", *NO_DROPOUT, "--resume", str(first / "checkpoints/step-000000001.ckpt"))
    second = ["--resume", str(one / "checkpoints/step-000000002.ckpt")]
    two = fit(home, tmp_path / "two", *shared, *second, ranks=two_ranks)
    assert difference(weights(whole), weights(two)) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("strategy", [DDP, FSDP, [*FSDP, *TENSOR_PARALLEL]], ids=["ddp", "fsdp", "heads"])
def test_sixteen_bit_precision_trains_on_two_processes_and_resumes(home, two_ranks, tmp_path, precision, strategy):
    options = [*strategy, "--trainer.precision", precision, "--model.activation_checkpointing", "true"]
    whole = fit(home, tmp_path / "whole", *options, ranks=two_ranks)
    middle = ["--resume", str(whole / "checkpoints/step-000000002.ckpt")]
    resumed = fit(home, tmp_path / "resumed", *options, *middle, ranks=two_ranks)
    assert bitwise(weights(whole), weights(resumed))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiled_sharded_blocks_train_like_plain_ones_and_resume_bit_for_bit(home, two_ranks, tmp_path):
    compiled = [*SHARDED, "--trainer.compile", "true"]
    whole = fit(home, tmp_path / "whole", *NO_DROPOUT, *compiled, ranks=two_ranks)
    plain = fit(home, tmp_path / "plain", *NO_DROPOUT, *SHARDED, ranks=two_ranks)
    assert 0 < difference(weights(plain), weights(whole)) <= 2e-6
    middle = ["--resume", str(whole / "checkpoints/step-000000002.ckpt")]
    resumed = fit(home, tmp_path / "resumed", *NO_DROPOUT, *compiled, *middle, ranks=two_ranks)
    assert bitwise(weights(whole), weights(resumed))


@pytest.mark.slow
def test_a_crf_is_trained_and_decoded_under_fsdp(home, two_ranks, tmp_path):
    values = {
        "experiment": "tags",
        "task": "token-classification",
        "model": {"pretrained": str(home / "runs/whole"), "head": {"crf": True}},
        "data": {**task_data("token-classification", {}, tmp_path), "max_seq_length": 40, "batch_size": 8},
        "trainer": {"max_steps": 4, "accelerator": "cpu", "precision": "32"},
    }
    (tmp_path / "pretraining.yaml").write_text(yaml.safe_dump(values))
    runs = [
        fit(tmp_path, tmp_path / name, *strategy, ranks=two_ranks)
        for name, strategy in (("ddp", DDP), ("fsdp", FSDP))
    ]
    assert difference(*map(weights, runs)) <= 2e-6
    ddp, fsdp = ((run / "predictions/validation.jsonl").read_text() for run in runs)
    assert ddp == fsdp
    shared = fit(tmp_path, tmp_path / "shared", *FSDP, *TENSOR_PARALLEL, ranks=two_ranks)
    assert len((shared / "predictions/validation.jsonl").read_text().splitlines()) == len(ddp.splitlines())


@pytest.mark.slow
def test_torchrun_and_srun_start_the_same_training(home, sharded_run, tmp_path):
    arguments = ["-m", "bert_lightning", "fit", "--config", str(home / "pretraining.yaml"), *SHORT, *TWO, *FSDP]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    finish(start([*launcher, *arguments, "--run-directory", str(tmp_path / "torchrun")]))
    assert bitwise(weights(sharded_run), weights(tmp_path / "torchrun"))
    shared = {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "pretraining",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    command = [sys.executable, *arguments, "--run-directory", str(tmp_path / "srun")]
    ranks = [start(command, {**shared, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}) for rank in range(2)]
    outputs = [finish(process) for process in ranks]
    assert [output.count("run directory") for output in outputs] == [1, 0]
    assert bitwise(weights(sharded_run), weights(tmp_path / "srun"))
    shutil.rmtree(tmp_path / "srun")


@pytest.mark.slow
def test_all_process_groups_have_the_timeout_of_the_run(home, tmp_path):
    with started(2) as ranks:
        fit(home, tmp_path / "run", *FSDP, *TENSOR_PARALLEL, "--trainer.timeout_seconds", "77", ranks=ranks)
        code = """
import torch
groups = torch.distributed.distributed_c10d._world.pg_map
answer = [group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups]
"""
        for timeouts in ranks.execute(code):
            assert {*timeouts} == {77.0}


def test_markers_of_relations_are_initialised_from_the_seed(home, two_ranks, tmp_path):
    values = {
        "experiment": "relations",
        "task": "relation-classification",
        "model": {"pretrained": str(home / "runs/whole")},
        "data": {**task_data("relation-classification", {}, tmp_path), "max_seq_length": 40, "batch_size": 8},
        "trainer": {"max_steps": 4, "accelerator": "cpu", "precision": "32"},
    }
    (tmp_path / "pretraining.yaml").write_text(yaml.safe_dump(values))
    torch.manual_seed(1)
    one = fit(tmp_path, tmp_path / "one", *NO_DROPOUT)
    torch.manual_seed(2)
    assert bitwise(weights(one), weights(fit(tmp_path, tmp_path / "again", *NO_DROPOUT)))
    # Tensors that are not split are the same on all processes.
    two_ranks.execute("import os, torch; torch.manual_seed(int(os.environ['RANK']))")
    shared = fit(tmp_path, tmp_path / "shared", *NO_DROPOUT, *FSDP, *TENSOR_PARALLEL, ranks=two_ranks)
    assert difference(weights(one), weights(shared)) <= 1e-6
