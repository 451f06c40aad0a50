"""A tuned run is exported as what was trained, merged, or for PEFT, and every form computes the same."""

import json

import pytest
import torch

import bert_lightning
from bert_lightning.checkpoints.native import load_native
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.cli import main
from bert_lightning.model.tuning import TUNINGS
from bert_lightning.tasks.rebuilding import task_of
from tests.support.runs import fit
from tests.support.task_data import RAW
from tests.support.tuned import write_experiment

TUNED = [name for name in TUNINGS if name != "full"]
ALWAYS = ("lora", "adapter")
EVERY = [pytest.param(name, marks=[] if name in ALWAYS else pytest.mark.slow) for name in TUNED]
PEFT = [name for name in TUNED if name in ("lora", "dora", "ia3")]
EVERY_TARGET = ["--tuning.targets", "[query, key, value, attention_output, intermediate, output]"]
IDS = torch.arange(5, 35).reshape(2, 15)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, store, validation_store, tables, base):
    """A function that returns a run of a tuning, trained once, of text classification unless a task is named."""
    done = {}

    def run(name, *options, task="text-classification"):
        key = (name, task, *options)
        if key not in done:
            folder = tmp_path_factory.mktemp("tuned")
            experiment = write_experiment(task, folder, base, store, validation_store, tables)
            assert fit(experiment, folder / "run", "--tuning.name", name, *options) == 0
            done[key] = folder / "run"
        return done[key]

    return run


def export(run, form, output, *options):
    return main([*map(str, ["export", "--checkpoint", run, "--format", form, "--output", output, *options])])


def refusal(capsys, *command):
    capsys.readouterr()
    assert main([*map(str, command)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error


def logits(checkpoint):
    with torch.inference_mode():
        return task_of(read_checkpoint(checkpoint)).model.eval()(IDS)


@pytest.mark.parametrize("name", EVERY)
def test_a_native_export_holds_what_was_trained_and_merged_a_complete_plain_model(name, runs, base, tmp_path, capsys):
    run = runs(name)
    assert export(run, "native", tmp_path / "delta") == 0
    trained, content = (
        load_native(path.resolve()) for path in (run / "checkpoints/last.ckpt", tmp_path / "delta/last.ckpt")
    )
    assert content["state_dict"].keys() == trained["state_dict"].keys()
    assert content["bert_lightning"] == trained["bert_lightning"]
    assert not {"optimizer_states", "lr_schedulers", "callbacks"} & content.keys()
    assert torch.equal(logits(tmp_path / "delta"), logits(run))
    assert f"The other weights are those of {base}" in capsys.readouterr().out
    merge = ["export", "--checkpoint", run, "--format", "native", "--output", tmp_path / "whole", "--merge"]
    if not TUNINGS[name].mergeable:
        assert f"tuned by {name}, which cannot be merged" in refusal(capsys, *merge)
        assert not (tmp_path / "whole").exists()
        return
    assert main([*map(str, merge)]) == 0
    whole = load_native(tmp_path / "whole/last.ckpt")
    assert not {"tuning", "base"} & whole["bert_lightning"].keys()
    assert {f"model.{key}" for key in read_checkpoint(base).tensors if "encoder" in key} <= whole["state_dict"].keys()
    # Merging rounds each weight once to float32, and sums have another order.
    torch.testing.assert_close(logits(tmp_path / "whole"), logits(run), rtol=0, atol=2e-6)
    items = RAW["text-classification"]
    assert len(bert_lightning.load(tmp_path / "whole", "cpu").predict(items)) == len(items)


@pytest.mark.parametrize("name", EVERY)
def test_a_plain_folder_is_merged_and_what_cannot_be_is_refused_with_what_works(name, runs, tmp_path, capsys):
    run = runs(name)
    if TUNINGS[name].mergeable:
        for option in ([], ["--merge"]):
            assert export(run, "huggingface", tmp_path / f"hf{len(option)}", *option) == 0
        files = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("hf0", "hf1")]
        assert files[0] == files[1]
        return
    error = refusal(capsys, "export", "--checkpoint", run, "--format", "huggingface", "--output", tmp_path / "hf")
    assert "use --format native without --merge or --format onnx" in error
    command = ["fit", "--config", run / "config.yaml", "--run-directory", tmp_path / "new", "--tuning.name", "bitfit"]
    error = refusal(capsys, *command, "--model.pretrained", run)
    assert f"model.pretrained is {run}, which was tuned by {name}" in error


@pytest.mark.slow
@pytest.mark.parametrize("name", TUNED)
def test_an_onnx_file_of_every_tuning_computes_the_same(name, runs, tmp_path, capsys):
    assert export(runs(name), "onnx", tmp_path / "onnx") == 0
    out = capsys.readouterr().out
    assert "in onnxruntime" in out
    assert (f"The tuning {name} is merged" in out) == TUNINGS[name].mergeable
    from onnxruntime import InferenceSession

    session = InferenceSession(str(tmp_path / "onnx/model.onnx"))
    mask = torch.ones_like(IDS)
    mask[1, 9:] = 0
    inputs = {"input_ids": IDS, "token_type_ids": torch.zeros_like(IDS), "attention_mask": mask}
    [theirs] = session.run(None, {key: value.numpy() for key, value in inputs.items()})
    with torch.inference_mode():
        ours = task_of(read_checkpoint(runs(name))).model.eval()(**inputs)
    torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "task", ["text-classification", "token-classification", "question-answering", "multiple-choice"]
)
@pytest.mark.parametrize("name", PEFT)
def test_a_folder_for_peft_opens_over_transformers_and_gives_the_same_logits(name, task, runs, base, tmp_path):
    import peft
    import transformers

    run = runs(name, *([] if name == "ia3" else EVERY_TARGET), task=task)
    assert export(run, "peft", tmp_path / "peft") == 0
    ours = task_of(read_checkpoint(run)).model.double().eval()
    cls = getattr(transformers, ours.architecture)
    labels = ours.classifier.out_features if hasattr(ours, "classifier") else 2
    theirs = cls.from_pretrained(
        base, **({} if task in ("question-answering", "multiple-choice") else {"num_labels": labels})
    )
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "peft").double().eval()
    ids = IDS[:, None].repeat(1, 3, 1) if task == "multiple-choice" else IDS
    with torch.inference_mode():
        mine, output = ours(ids), adapted(ids)
        if task == "question-answering":
            pairs = [(output.start_logits, mine.start_logits), (output.end_logits, mine.end_logits)]
        else:
            pairs = [(output.logits, mine)]
        # DoRA's magnitudes are rounded to float32 once more.
        for other, own in pairs:
            torch.testing.assert_close(other, own, rtol=0, atol=1e-6 if name == "dora" else 1e-12)
        merged = adapted.merge_and_unload()(ids)
        torch.testing.assert_close(next(iter(merged.values())), pairs[0][1], rtol=0, atol=1e-6)
    saved = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(base)


def test_exports_that_cannot_be_are_one_message(runs, base, tmp_path, capsys):
    lora, out = runs("lora"), tmp_path / "out"

    def error(source, form, *options):
        return refusal(capsys, "export", "--checkpoint", source, "--format", form, "--output", out, *options)

    assert "--merge does nothing" in error(base, "huggingface", "--merge")
    assert "--merge cannot be combined with --format peft" in error(lora, "peft", "--merge")
    assert "for checkpoints of bert_lightning, and" in error(base, "native")
    assert "--format peft is for the tunings lora, dora, ia3, and" in error(runs("adapter"), "peft")
    assert f"{base} has full" in error(base, "peft")
    assert not out.exists()
    assert export(lora, "native", out) == 0
    command = ["fit", "--config", lora / "config.yaml", "--run-directory", tmp_path / "new"]
    assert "it holds weights without the state of their training" in refusal(capsys, *command, "--resume", out)
