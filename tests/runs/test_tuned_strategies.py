"""Tuned runs of several processes train what one process trains, and leave the base out of their checkpoints."""

import pytest
import torch

from bert_lightning.checkpoints.native import load_native
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.cli import main
from bert_lightning.model.tuning import TUNINGS
from tests.support.runs import weights
from tests.support.tuned import write_experiment

NO_DROPOUT = ["--model.config.hidden_dropout_prob", "0", "--model.config.attention_probs_dropout_prob", "0"]
EVERY_TARGET = "[query, key, value, attention_output, intermediate, output]"
LORA = ["--tuning.name", "lora", "--tuning.targets", EVERY_TARGET]
TUNED = [name for name in TUNINGS if name != "full"]
DDP, FSDP = (["--trainer.strategy", name] for name in ("ddp", "fsdp"))
SHARDS = [*FSDP, "--checkpoint.sharded", "true"]
HEADS = [*FSDP, "--trainer.tensor_parallel_size", "2"]
# What gives each tuning the most that it can have, with a rate at which rounding stays rounding.
MOST = {
    "lora": ["--tuning.targets", EVERY_TARGET],
    "dora": ["--tuning.targets", EVERY_TARGET],
    "adapter": ["--tuning.placement", "houlsby"],
}
STRATEGIES = {"ddp": DDP, "fsdp": FSDP, "shards": SHARDS, "heads": HEADS, "heads-shards": [*SHARDS, *HEADS]}


@pytest.fixture
def train(base, store, validation_store, tables, tmp_path):
    """A function that trains a tagger with a CRF in a folder, in this process or on ranks; returns the run."""
    experiment = write_experiment("token-classification", tmp_path, base, store, validation_store, tables)

    def train(name, *options, ranks=None):
        number = len(ranks.processes) if ranks is not None else 1
        command = ["fit", "--config", experiment, "--run-directory", tmp_path / name, "--trainer.devices", number]
        command = [*map(str, command), "--model.head.crf", "true", *map(str, options)]
        assert {*(ranks.run(command) if ranks is not None else [main(command)])} == {0}
        return tmp_path / name

    return train


def difference(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def bitwise(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if "-" in name or name == "fsdp" else []) for name in STRATEGIES],
)
def test_processes_tune_what_one_process_tunes_and_resume_bit_for_bit(train, two_ranks, name):
    one = train("one", *LORA, *NO_DROPOUT)
    several = train("several", *LORA, *NO_DROPOUT, *STRATEGIES[name], ranks=two_ranks)
    # Sums have another order; Adam with a rate of 0.01 scales up gradients that are only rounding.
    assert difference(weights(one), weights(several)) <= 2e-5
    base = [
        load_native((run / "checkpoints/last.ckpt").resolve())["bert_lightning"]["base"] for run in (one, several)
    ]
    assert base[0] == base[1]
    middle = ["--resume", several / "checkpoints/step-000000002.ckpt"]
    resumed = train("resumed", *LORA, *NO_DROPOUT, *STRATEGIES[name], *middle, ranks=two_ranks)
    assert bitwise(weights(several), weights(resumed))
    # One process reads it, and continues it.
    assert (
        main(
            [
                "validate",
                "--checkpoint",
                str(several),
                "--trainer.devices",
                "1",
                "--trainer.strategy",
                "auto",
                "--checkpoint.sharded",
                "false",
                "--trainer.tensor_parallel_size",
                "1",
            ]
        )
        == 0
    )
    alone = train("alone", *LORA, *NO_DROPOUT, *middle)
    assert difference(weights(one), weights(alone)) <= 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("tuning", [name for name in TUNED if name != "lora"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_tuning_trains_in_processes_what_one_process_trains(train, two_ranks, name, tuning):
    options = ["--tuning.name", tuning, *MOST.get(tuning, []), *NO_DROPOUT]
    options += ["--tuning.dropout", "0"] if tuning == "prefix" else []
    one = train("one", *options)
    several = train("several", *options, *STRATEGIES[name], ranks=two_ranks)
    # As for LoRA above. Adam moves a weight whose gradient is only rounding, such as the bias of the keys.
    saved = [
        {key: tensor for key, tensor in weights(run).items() if "query_key_value.bias" not in key}
        for run in (one, several)
    ]
    assert difference(*saved) <= 2e-5
    base = [
        load_native((run / "checkpoints/last.ckpt").resolve())["bert_lightning"]["base"] for run in (one, several)
    ]
    assert base[0] == base[1]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("tuning", TUNED)
@pytest.mark.parametrize("name", STRATEGIES)
def test_sixteen_bit_precision_with_dropout_resumes_bit_for_bit(train, two_ranks, name, tuning, precision, base):
    options = ["--tuning.name", tuning, "--trainer.precision", precision, *STRATEGIES[name]]
    options += ["--model.activation_checkpointing", "true", "--trainer.accumulate_grad_batches", "2"]
    options += MOST.get(tuning, [])
    options += ["--tuning.dropout", "0.1"] if tuning in ("lora", "dora", "prefix") else []
    whole = train("whole", *options, ranks=two_ranks)
    resumed = train("resumed", *options, "--resume", whole / "checkpoints/step-000000002.ckpt", ranks=two_ranks)
    assert bitwise(weights(whole), weights(resumed))
    original, dtype = read_checkpoint(base).tensors, torch.bfloat16 if precision == "bf16-true" else torch.float32
    tensors = read_checkpoint(whole / "checkpoints/last.ckpt").tensors
    name = "encoder.layers.0.query_key_value.weight"
    assert torch.equal(tensors[name], original[name].to(dtype))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", [[], FSDP], ids=["one", "fsdp"])
@pytest.mark.parametrize("tuning", ["lora", "dora", "ia3", "adapter", "prefix", "prompt"])
def test_a_compiled_tuned_run_trains_like_a_plain_one_and_resumes_bit_for_bit(train, two_ranks, strategy, tuning):
    ranks = two_ranks if strategy else None
    options = ["--tuning.name", tuning, *MOST.get(tuning, []), *NO_DROPOUT, *strategy]
    options += ["--tuning.dropout", "0"] if tuning == "prefix" else []
    compiled = [*options, "--trainer.compile", "true"]
    plain = train("plain", *options, ranks=ranks)
    whole = train("whole", *compiled, ranks=ranks)
    assert difference(weights(plain), weights(whole)) <= 2e-5
    resumed = train("resumed", *compiled, "--resume", whole / "checkpoints/step-000000002.ckpt", ranks=ranks)
    assert bitwise(weights(whole), weights(resumed))
