"""Tuned runs: checkpoints hold what was trained, and every command reads them with their base."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

import bert_lightning
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.native import load_native
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.cli import main
from bert_lightning.model import BertEncoder, BertForPreTraining
from bert_lightning.model.architectures import model_of
from bert_lightning.model.tuning import TUNINGS
from bert_lightning.tasks.catalogue import TASKS
from bert_lightning.tasks.rebuilding import task_of
from tests.support.runs import fit, logged, weights
from tests.support.task_data import RAW
from tests.support.tuned import write_experiment

TUNED = [name for name in TUNINGS if name != "full"]
LORA = ["--tuning.name", "lora"]


@pytest.fixture
def experiment(request, store, validation_store, tables, tmp_path, base):
    """Write an experiment of a task on top of the base, text classification by default; return its file."""
    return write_experiment(
        getattr(request, "param", "text-classification"), tmp_path, base, store, validation_store, tables
    )


# LoRA adds parameters to layers, BitFit adds none, and a prefix is in front of every sequence.
ALWAYS = [("lora", task) for task in TASKS] + [(name, "text-classification") for name in ("bitfit", "prefix")]
EVERY = [
    pytest.param(task, name, marks=[] if (name, task) in ALWAYS else pytest.mark.slow)
    for name in TUNED
    for task in TASKS
]


@pytest.mark.parametrize(("experiment", "name"), EVERY, indirect=["experiment"])
def test_a_tuned_run_of_every_task_trains_resumes_bit_for_bit_scores_and_predicts(
    experiment, base, tmp_path, name, capsys
):
    run, again = tmp_path / "run", tmp_path / "again"
    assert fit(experiment, run, "--tuning.name", name) == 0
    out = capsys.readouterr().out
    saved, whole = weights(run), read_checkpoint(run / "checkpoints/last.ckpt")
    manifest = json.loads((run / "manifest.json").read_text())
    assert f"({manifest['trained_parameters']:,} trained, " in out
    # The table that has new rows for entity markers is frozen, but no longer that of the base.
    trained = {key: tensor for key, tensor in saved.items() if not key.endswith("embeddings.word.weight")}
    assert manifest["trained_parameters"] == sum(tensor.numel() for tensor in trained.values())
    frozen = read_checkpoint(base).tensors
    # What the checkpoint leaves out is the base, bit for bit, and the rest is there.
    left_out = [tensor for tensor in whole.tensors if f"model.{tensor}" not in saved]
    assert {"encoder.embeddings.position.weight", "encoder.layers.0.output.weight"} <= {*left_out}
    assert all(torch.equal(whole.tensors[tensor], frozen[tensor]) for tensor in left_out)
    assert whole.provenance.digest == manifest["weights"]
    # A run that is cut off and resumed ends the same.
    assert fit(experiment, again, "--tuning.name", name, "--resume", run / "checkpoints/step-000000002.ckpt") == 0
    assert weights(again).keys() == saved.keys()
    assert all(torch.equal(tensor, saved[key]) for key, tensor in weights(again).items())
    capsys.readouterr()
    # Scoring gives the same numbers as the last validation of training.
    assert main(["validate", "--checkpoint", str(run / "checkpoints/last.ckpt")]) == 0
    last, scored = logged(run)[-2:]
    assert {key: value for key, value in scored.items() if key.startswith("val/")} == {
        key: value for key, value in last.items() if key.startswith("val/")
    }
    items = RAW[whole.task]
    predictions = bert_lightning.load(run / "checkpoints/last.ckpt", "cpu").predict(items)
    assert len(predictions) == len(items)


@pytest.fixture(scope="module")
def run(tmp_path_factory, store, validation_store, tables, base):
    """A run of LoRA with dropout, whose base may not be changed."""
    folder = tmp_path_factory.mktemp("tuned")
    experiment = write_experiment("text-classification", folder, base, store, validation_store, tables)
    assert fit(experiment, folder / "run", *LORA, "--tuning.dropout", 0.2, "--tuning.targets", "[key, output]") == 0
    return folder / "run"


def last(run):
    return run / "checkpoints/last.ckpt"


def refusal(capsys, *command):
    """Return the message of a command that is refused."""
    capsys.readouterr()
    assert main([*map(str, command)]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert len(error.splitlines()) == 1
    return error


def copied(run, folder, new_base=None):
    """Copy a run whose base is gone from its place; put the base elsewhere."""
    moved = folder / "moved"
    shutil.copytree(run, moved, symlinks=True)
    content = load_native(last(moved).resolve())
    content["bert_lightning"]["base"] |= {"path": str(folder / "gone"), "name": "gone/too"}
    from bert_lightning.checkpoints.files import write_with_checksum

    write_with_checksum(last(moved).resolve(), lambda file: torch.save(content, file))
    return moved


def test_a_checkpoint_of_a_tuned_run_is_small_and_names_its_base(run, base):
    content = load_native(last(run).resolve())
    assert content["bert_lightning"]["tuning"] == {
        "name": "lora",
        "rank": 8,
        "alpha": 16.0,
        "dropout": 0.2,
        "targets": ["key", "output"],
    }
    saved = content["bert_lightning"]["base"]
    assert (saved["path"], saved["name"]) == (str(base), str(base))
    assert saved["digest"] == read_checkpoint(base).provenance.digest
    factors = {
        f"model.encoder.layers.{n}.{layer}.lora_{x}"
        for n in (0, 1)
        for layer in ("query_key_value", "output")
        for x in "ab"
    }
    assert content["state_dict"].keys() == factors | {"model.classifier.weight", "model.classifier.bias"}
    # The optimiser has moments of just these.
    assert len(content["optimizer_states"][0]["state"]) == len(content["state_dict"])


def test_without_pretrained_weights_a_checkpoint_has_everything(experiment, tmp_path, base):
    for number, options in enumerate((["--model.weights", "random"], ["--tuning.name", "full"])):
        assert fit(experiment, tmp_path / str(number), *LORA, *options, "--trainer.max_steps", 1) == 0
        saved = weights(tmp_path / str(number))
        assert {name.removeprefix("model.encoder.") for name in saved} > {"embeddings.word.weight", "pooler.weight"}
        assert load_native(last(tmp_path / str(number)).resolve())["bert_lightning"].get("base") is None
    assert "tuning" not in load_native(last(tmp_path / "1").resolve())["bert_lightning"]


def test_a_moved_base_is_found_by_an_option_of_every_command_that_reads_a_checkpoint(run, base, tmp_path, capsys):
    moved = copied(run, tmp_path)
    raw = tmp_path / "raw.txt"
    raw.write_text("The old cat sees.\n")
    commands = {
        "validate": [],
        "predict": ["--input", raw, "--output", tmp_path / "out.jsonl"],
        "features": ["--input", raw, "--output", tmp_path / "out.safetensors"],
        "export": ["--format", "huggingface", "--output", tmp_path / "exported"],
    }
    for command, options in commands.items():
        error = refusal(capsys, command, "--checkpoint", last(moved), *options)
        assert "holds only what was trained" in error
        assert "gone/too" in error
        assert "--base" in error
        assert main([*map(str, [command, "--checkpoint", last(moved), *options, "--base", base])]) == 0
    items = RAW["text-classification"]
    assert bert_lightning.load(last(moved), "cpu", base=base).predict(items) == bert_lightning.load(
        last(run), "cpu"
    ).predict(items)
    assert BertEncoder.from_pretrained(last(moved), base=base).loading_report.missing == []


def test_a_changed_or_wrong_base_is_refused_by_name(run, base, tmp_path, capsys):
    moved = copied(run, tmp_path)
    other = tmp_path / "other"
    model = BertForPreTraining.from_pretrained(base)
    model.encoder.layers[0].output.bias.data[0] += 1e-6
    model.save_pretrained(other)
    error = refusal(capsys, "validate", "--checkpoint", last(moved), "--base", other)
    assert f"{other} has other weights (SHA-256 " in error
    with pytest.raises(CheckpointError, match="needs no base"):
        bert_lightning.load(base, base=other)


def test_a_run_resumes_after_its_base_has_moved_but_not_with_another_base(experiment, base, tmp_path, capsys):
    moved, other, run = tmp_path / "moved", tmp_path / "other", tmp_path / "run"
    assert fit(experiment, run, *LORA) == 0
    expected = weights(run)
    shutil.copytree(base, moved)
    model = BertForPreTraining.from_pretrained(base)
    model.encoder.pooler.bias.data[0] += 1e-6
    model.save_pretrained(other, read_checkpoint(base).vocabulary)
    middle = run / "checkpoints/step-000000002.ckpt"
    for resume in ("auto", middle):
        command = ["fit", "--config", experiment, "--run-directory", run, *LORA, "--model.pretrained", other]
        assert "the model to start from" in refusal(capsys, *command, "--resume", resume)
    elsewhere = ["fit", "--config", experiment, "--run-directory", tmp_path / "new", *LORA, "--resume", middle]
    assert "which was trained on top of" in refusal(capsys, *elsewhere, "--model.pretrained", other).replace(
        "it holds what", "which"
    )
    last(run).unlink()
    (run / "checkpoints/step-000000004.ckpt").unlink()
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"ended": "SIGTERM"}))
    assert fit(experiment, run, *LORA, "--model.pretrained", moved) == 0
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(run).items())
    assert json.loads((run / "manifest.json").read_text())["weights"] == manifest["weights"]


def test_another_tuning_does_not_resume_and_the_message_names_the_keys(experiment, run, tmp_path, capsys):
    command = ["fit", "--config", experiment, "--run-directory", tmp_path / "new", "--resume", last(run)]
    error = refusal(capsys, *command, *LORA, "--tuning.dropout", 0.2, "--tuning.targets", "[output]")
    assert "tuning.targets is ['key', 'output'] there and ['output'] here" in error
    assert "tuning.name is lora there and full here" in refusal(capsys, *command)
    error = refusal(capsys, "fit", "--config", experiment, "--run-directory", run, *LORA)
    assert "other settings (tuning.dropout, tuning.targets)" in error


def test_an_exported_run_is_a_plain_model_that_transformers_computes_alike(run, tmp_path):
    assert (
        main(["export", "--checkpoint", str(last(run)), "--format", "huggingface", "--output", str(tmp_path / "hf")])
        == 0
    )
    theirs, report = transformers.BertForSequenceClassification.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ours = task_of(read_checkpoint(last(run))).model.eval()
    ids = torch.arange(5, 35).reshape(2, 15)
    with torch.inference_mode():
        # Merging rounds each weight once to float32, and sums have another order.
        torch.testing.assert_close(theirs.eval()(ids).logits, ours(ids), rtol=0, atol=2e-6)
        exact = ours.double()(ids)
        merged = ours.to_checkpoint(Path("x")).tensors
        plain = model_of(read_checkpoint(last(run))).double().eval()
        plain.load_state_dict(merged)
        torch.testing.assert_close(plain(ids), exact, rtol=0, atol=1e-12)
    assert "The tuning lora is merged" in (tmp_path / "hf/README.md").read_text()


def test_a_run_that_starts_from_a_tuned_run_keeps_the_first_base(experiment, run, base, tmp_path):
    start = ["--model.pretrained", last(run)]
    assert fit(experiment, tmp_path / "bitfit", "--tuning.name", "bitfit", *start) == 0
    content = load_native(last(tmp_path / "bitfit").resolve())
    saved = content["bert_lightning"]["base"]
    assert saved["path"] == str(base)
    # The merged matrices are no longer those of the base, so they are in the checkpoint.
    merged = {f"encoder.layers.{n}.{layer}.weight" for n in (0, 1) for layer in ("query_key_value", "output")}
    assert merged.isdisjoint(saved["names"])
    assert {f"model.{name}" for name in merged} <= content["state_dict"].keys()
    whole = read_checkpoint(last(tmp_path / "bitfit"))
    started = model_of(read_checkpoint(last(run))).state_dict()
    assert all(torch.equal(whole.tensors[name], started[name]) for name in merged)
    assert whole.provenance.digest == json.loads((tmp_path / "bitfit/manifest.json").read_text())["weights"]
    # Full fine-tuning on top writes everything.
    assert fit(experiment, tmp_path / "full", *start, "--trainer.max_steps", 1) == 0
    assert "base" not in load_native(last(tmp_path / "full").resolve())["bert_lightning"]


def test_a_tuned_run_is_reproduced(run, tmp_path, capsys):
    assert main(["reproduce", str(run), "--output", str(tmp_path / "again")]) == 0
    assert "final weights: equal" in capsys.readouterr().out


def test_weights_in_bfloat16_are_those_of_the_base_rounded(experiment, base, tmp_path):
    assert fit(experiment, tmp_path / "run", *LORA, "--trainer.precision", "bf16-true") == 0
    whole, original = read_checkpoint(last(tmp_path / "run")).tensors, read_checkpoint(base).tensors
    assert {tensor.dtype for tensor in whole.values()} == {torch.bfloat16}
    name = "encoder.layers.0.output.weight"
    assert torch.equal(whole[name], original[name].bfloat16())
    assert f"model.{name}" not in weights(tmp_path / "run")
    assert main(["validate", "--checkpoint", str(last(tmp_path / "run"))]) == 0
    scored, trained = logged(tmp_path / "run")[-1], logged(tmp_path / "run")[-2]
    assert scored["val/loss"] == trained["val/loss"]


def test_added_vocabulary_and_new_parameters_are_kept_in_the_checkpoint(
    tmp_path, tokenizer, tables, store, validation_store, base, capsys
):
    experiment = write_experiment("relation-classification", tmp_path, base, store, validation_store, tables)
    assert fit(experiment, tmp_path / "run", *LORA) == 0
    assert (
        "tuning.name lora leaves the random embeddings of 4 new vocabulary rows as they are"
        in capsys.readouterr().out
    )
    assert "model.encoder.embeddings.word.weight" in weights(tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*LORA, "--freeze.encoder", "true"], "tuning does nothing with freeze.encoder"),
        (
            [*LORA, "--model.reinitialize_layers", "1"],
            "tuning.name lora would freeze layers that model.reinitialize_layers",
        ),
        ([*LORA, "--optimizer", "muon"], "optimizer.name muon has no matrix to update with tuning.name lora"),
        ([*LORA, "--tuning.rank", "33"], "tuning.rank is 33, but a matrix of 32 x 32"),
        ([*LORA, "--tuning.rank", "0"], "tuning.rank is 0"),
        ([*LORA, "--tuning.targets", "[pooler]"], "tuning.targets"),
        ([*LORA, "--tuning.ranks", "4"], "did you mean 'tuning.rank'?"),
        (["--tuning.name", "loar"], "did you mean 'lora'?"),
        (["--tuning.class_path", "nowhere.Own"], "--allow-module nowhere"),
    ],
)
def test_impossible_settings_are_one_message(experiment, tmp_path, capsys, options, message):
    command = ["fit", "--config", experiment, "--run-directory", tmp_path / "run", *options]
    assert message in refusal(capsys, *command)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["pretraining"], indirect=True)
@pytest.mark.parametrize("name", TUNED)
def test_every_tuning_combines_with_packed_batches_perturbations_and_a_tuned_teacher(experiment, tmp_path, name):
    teacher = tmp_path / "teacher"
    assert fit(experiment, teacher, "--tuning.name", name) == 0
    options = ["--tuning.name", name, "--data.batching", "packed", "--adversarial.name", "fgm"]
    options += ["--distillation.teacher", teacher]
    assert fit(experiment, tmp_path / "whole", *options) == 0
    middle = tmp_path / "whole/checkpoints/step-000000002.ckpt"
    assert fit(experiment, tmp_path / "again", *options, "--resume", middle) == 0
    whole, again = weights(tmp_path / "whole"), weights(tmp_path / "again")
    assert all(torch.equal(tensor, again[key]) for key, tensor in whole.items())
    # The losses of the teacher and of the perturbed pass are there, so both were computed.
    logged_names = {key for row in logged(tmp_path / "whole") for key in row}
    for start in ("train/adversarial_", "train/distillation_"):
        assert any(name.startswith(start) for name in logged_names)


@pytest.mark.slow
@pytest.mark.parametrize("name", TUNED)
def test_every_tuning_trains_in_unfrozen_layers_alone_and_with_muon_if_matrices_train(
    experiment, base, tmp_path, capsys, name
):
    options = ["--tuning.name", name, "--freeze.layers", 1, "--freeze.embeddings", "true"]
    assert fit(experiment, tmp_path / "frozen", *options) == 0
    moved = {key for key in weights(tmp_path / "frozen") if "encoder.layers.0." in key or "embeddings" in key}
    start = read_checkpoint(base).tensors
    # What is added there stays as it began: it is in the checkpoint, but not of the base.
    assert not {key for key in moved if key.removeprefix("model.") in start}
    muon = ["fit", "--config", experiment, "--run-directory", tmp_path / "muon", "--tuning.name", name]
    muon += ["--optimizer", "muon"]
    if name in ("adapter", "top-layers"):
        assert main([*map(str, muon)]) == 0
    else:
        assert f"optimizer.name muon has no matrix to update with tuning.name {name}" in refusal(capsys, *muon)


def test_lora_trains_layer_by_layer_from_the_top_and_in_the_top_layers_alone(experiment, base, tmp_path):
    options = ["--trainer.max_steps", 3, "--trainer.val_check_interval", 1, "--checkpoint.keep_last", 9]
    assert fit(experiment, tmp_path / "gradual", *LORA, *options, "--freeze.unfreeze_every", 1) == 0
    steps = [weights(tmp_path / "gradual", f"step-00000000{number}.ckpt") for number in (1, 2, 3)]
    moved = [
        [bool(step[f"model.encoder.layers.{layer}.query_key_value.lora_b"].any()) for layer in (0, 1)]
        for step in steps
    ]
    assert moved == [[False, False], [False, True], [True, True]]
    assert fit(experiment, tmp_path / "top", *LORA, *options, "--freeze.layers", 1) == 0
    saved = weights(tmp_path / "top")
    assert not saved["model.encoder.layers.0.query_key_value.lora_b"].any()
    assert saved["model.encoder.layers.1.query_key_value.lora_b"].any()


OWN = '''
from dataclasses import dataclass
import torch
from torch import nn
from bert_lightning.model.tuning import Tuning


class Scaled(nn.Linear):
    def __init__(self, base, start):
        super().__init__(base.in_features, base.out_features, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scale = nn.Parameter(base.weight.new_full((base.out_features,), start))

    def forward(self, hidden):
        return super().forward(hidden) * self.scale


@dataclass(frozen=True)
class Scales(Tuning):
    """Factors on the outputs of the feed-forward network, like IA3."""

    start: float = 1.0

    def apply(self, encoder):
        for block in encoder.layers:
            block.output = Scaled(block.output, self.start)

    def merged(self, tensors):
        plain = {name: tensor for name, tensor in tensors.items() if not name.endswith(".scale")}
        for name in tensors:
            if name.endswith(".scale"):
                layer, scale = name.removesuffix(".scale"), tensors[name]
                plain[f"{layer}.weight"] = plain[f"{layer}.weight"] * scale[:, None]
                plain[f"{layer}.bias"] = plain[f"{layer}.bias"] * scale
        return plain
'''


def test_a_tuning_of_the_users_trains_resumes_scores_and_merges(experiment, base, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_tunings.py").write_text(OWN)
    own = ["--tuning.class_path", "my_tunings.Scales"]
    error = refusal(capsys, "fit", "--config", experiment, "--run-directory", tmp_path / "run", *own)
    assert "--allow-module my_tunings" in error
    allow = ["--allow-module", "my_tunings"]
    assert fit(experiment, tmp_path / "run", *own, *allow) == 0
    content = load_native(last(tmp_path / "run").resolve())
    assert content["bert_lightning"]["tuning"] == {"name": "my_tunings.Scales", "start": 1.0}
    assert {name for name in content["state_dict"] if "encoder" in name} == {
        f"model.encoder.layers.{n}.output.scale" for n in (0, 1)
    }
    middle = tmp_path / "run/checkpoints/step-000000002.ckpt"
    assert fit(experiment, tmp_path / "again", *own, *allow, "--resume", middle) == 0
    assert all(
        torch.equal(tensor, weights(tmp_path / "run")[name]) for name, tensor in weights(tmp_path / "again").items()
    )
    assert main(["validate", "--checkpoint", str(last(tmp_path / "run")), *allow]) == 0
    scored, trained = logged(tmp_path / "run")[-1], logged(tmp_path / "run")[-2]
    assert scored["val/loss"] == trained["val/loss"]
    # A process that has not imported the class refuses the checkpoint, and names the module.
    with monkeypatch.context() as fresh:
        fresh.setattr("bert_lightning.model.tuning.table._OWN", {})
        with pytest.raises(CheckpointError, match=r"was tuned by my_tunings\.Scales.*--allow-module my_tunings"):
            bert_lightning.load(last(tmp_path / "run"))
    loaded = task_of(read_checkpoint(last(tmp_path / "run"))).model.eval()
    plain = model_of(read_checkpoint(last(tmp_path / "run"))).eval()
    ids = torch.arange(5, 35).reshape(2, 15)
    torch.testing.assert_close(plain(ids), loaded(ids), rtol=0, atol=2e-6)
