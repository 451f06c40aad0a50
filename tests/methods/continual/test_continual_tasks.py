"""Methods of continual learning on every labelled task, and on two processes."""

import pytest
import torch
import yaml

from bert_lightning.cli import main
from bert_lightning.tasks.catalogue import TASKS
from tests.support.methods import NO_DROPOUT, experiment_of
from tests.support.ranks import Ranks
from tests.support.runs import weights
from tests.support.sequences import after
from tests.test_strategies import bitwise, difference

pytestmark = pytest.mark.slow
METHODS = {
    "replay": ["--continual.name=replay", "--continual.size=5"],
    "ewc": ["--continual.name=ewc", "--continual.samples=5", "--continual.strength=100"],
    "lwf": ["--continual.name=lwf"],
}
LABELLED = [task for task in TASKS if task != "pretraining"]


@pytest.fixture(scope="module", params=LABELLED)
def command(request, store, validation_store, tables, tokenizer, tmp_path_factory):
    """A function that fits one of two tasks of a sequence with the same data, and returns the directory."""
    sources = {"store": store, "validation_store": validation_store, "tables": tables, "tokenizer": tokenizer}
    folder = tmp_path_factory.mktemp(request.param)
    values = experiment_of(request.param, sources, folder)
    values["checkpoint"], values["loggers"] = {"every_n_steps": 1, "keep_last": 9}, []
    # With one validation, the best checkpoint is the last one, in whichever directory a run resumes.
    values["trainer"]["val_check_interval"] = 99
    tasks = [{"name": name, "data": values["data"]} for name in ("first", "second")]
    known = {}

    def fit(name, run, *options, ranks: Ranks | None = None, status=0):
        own = {**values, "sequence": {"task": name, "tasks": tasks, "labels": "shared"}}
        if name == "second":
            own["model"] = {}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(own, sort_keys=False))
        arguments = ["fit", "--config", str(folder / f"{name}.yaml"), "--run-directory", str(run)]
        number = len(ranks.processes) if ranks is not None else 1
        arguments += [*map(str, options), f"--trainer.devices={number}"]
        assert {*(ranks.run(arguments) if ranks is not None else [main(arguments)])} == {status}
        return run

    def first():
        if not known:
            known["run"] = fit("first", folder / "run", *METHODS["ewc"], "--trainer.max_steps=2")
        return known["run"]

    fit.first = first
    return fit


@pytest.mark.parametrize("method", METHODS)
def test_every_task_trains_and_resumes_bit_for_bit_in_a_sequence(command, method, tmp_path):
    options = [*METHODS[method], *after(command.first())]
    whole = command("second", tmp_path / "whole", *options)
    assert all(tensor.isfinite().all() for tensor in weights(whole).values())
    point = whole / "checkpoints/step-000000002.ckpt"
    resumed = command("second", tmp_path / "resumed", *options, "--resume", point)
    assert bitwise(weights(whole), weights(resumed))
    assert (whole / "sequence.json").read_bytes() == (resumed / "sequence.json").read_bytes()


@pytest.mark.parametrize("command", ["token-classification"], indirect=True)
def test_a_crf_is_refused_where_a_method_needs_the_distribution_of_each_item(command, tmp_path, capsys):
    crf = ["--model.head.crf=true"]
    command("first", tmp_path / "run", *METHODS["ewc"], *crf, status=2)
    assert "continual.labels is model, which is not defined" in capsys.readouterr().err
    first = command("first", tmp_path / "first", *METHODS["ewc"], "--continual.labels=data", *crf)
    command("second", tmp_path / "lwf", *METHODS["lwf"], *after(first), *crf, status=2)
    assert "continual.name lwf is not defined for the task token-classification with a CRF" in capsys.readouterr().err
    command("second", tmp_path / "second", *METHODS["ewc"], "--continual.labels=data", *crf, *after(first))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("command", ["text-classification"], indirect=True)
@pytest.mark.parametrize("method", ["ewc", "lwf"])
def test_two_processes_train_like_one_and_the_first_one_scores(command, method, strategy, two_ranks, tmp_path):
    options = [*METHODS[method], *after(command.first()), *NO_DROPOUT, "--trainer.max_steps=2"]
    one = command("second", tmp_path / "one", *options)
    two = command("second", tmp_path / "two", *options, f"--trainer.strategy={strategy}", ranks=two_ranks)
    assert difference(weights(one), weights(two)) <= 5e-6
    assert (two / "sequence.json").is_file()
    if method == "ewc":
        from safetensors.torch import load_file

        found = [load_file(run / "information.safetensors") for run in (one, two)]
        assert all(torch.allclose(found[0][name], found[1][name], rtol=1e-2, atol=1e-5) for name in found[0])
