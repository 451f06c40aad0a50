"""Runs with custom parts of the model, from configuration to prediction."""

import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import bert_lightning
from bert_lightning.cli import main
from bert_lightning.config.experiment import load_experiment
from bert_lightning.errors import InputError
from bert_lightning.model import register_activation, register_attention, register_head
from bert_lightning.model.config import PARTS
from bert_lightning.model.heads import HEADS
from bert_lightning.runs.building import build_training
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.tasks.text_classification.task import TextClassificationTask
from tests.support import own_parts
from tests.support.runs import fit, logged, weights
from tests.support.task_data import RAW, task_data, tiny_classification

MODULE = "tests.support.own_parts"
ALLOWED = ("--allow-module", MODULE)
HEADS_OF_TASKS = {
    "text-classification": {"class_path": f"{MODULE}.Attentive", "init_args": {"width": 4}},
    "token-classification": {"class_path": f"{MODULE}.PerToken", "crf": True},
    "question-answering": {"class_path": f"{MODULE}.PerToken", "answerability": True},
    "multiple-choice": {"class_path": f"{MODULE}.Attentive"},
    "relation-classification": {"class_path": f"{MODULE}.OfVector", "init_args": {"inputs": 32}},
}
OWN = {
    "attention": {"class_path": f"{MODULE}.RelativeBias", "init_args": {"max_distance": 3}},
    "config": {
        "hidden_act": f"{MODULE}.Swish",
        "position_embeddings": {"class_path": f"{MODULE}.Slope"},
        "norm_placement": {"class_path": f"{MODULE}.Sandwich", "init_args": {}},
    },
    "head": HEADS_OF_TASKS["text-classification"],
}


@pytest.fixture(autouse=True)
def _tables():
    """Give every test the tables as they are after an import of the package alone."""
    for table in (*PARTS.values(), HEADS):
        for name in [name for name in table if name not in table.published]:
            del table[name]


@pytest.fixture
def experiment(tables, tokenizer, tmp_path):
    """A function that writes an experiment with these keys under `model` and `trainer`, and returns its file."""

    def write(task="text-classification", trainer=None, **model):
        values = tiny_classification(tables, tokenizer, tmp_path)
        shared = {key: values["data"][key] for key in ("tokenizer", "batch_size")} | {"max_seq_length": 40}
        data = task_data(task, tables, tmp_path)
        values |= {"task": task, "data": data | shared}
        values["model"] |= model | {"config": values["model"]["config"] | model.get("config", {})}
        values["trainer"] |= trainer or {}
        path = tmp_path / f"{task}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.mark.parametrize("task", HEADS_OF_TASKS)
def test_every_task_trains_scores_and_predicts_with_a_head_of_the_users(experiment, tmp_path, task, capsys):
    run = tmp_path / "run"
    assert fit(experiment(task, head=HEADS_OF_TASKS[task]), run, *ALLOWED) == 0
    saved = yaml.safe_load((run / "config.yaml").read_text())["model"]["head"]
    assert saved["class_path"] == HEADS_OF_TASKS[task]["class_path"]
    assert all(saved[key] == value for key, value in HEADS_OF_TASKS[task].items())
    assert main(["validate", "--checkpoint", str(run), *ALLOWED]) == 0
    [*rows, last] = [row for row in logged(run) if "val/loss" in row or "val/squad_f1" in row]
    [in_training] = [row for row in rows if row["step"] == last["step"]]
    scores = {key: value for key, value in in_training.items() if key.startswith("val/")}
    assert {key: last[key] for key in scores} == pytest.approx(scores, rel=1e-5)
    assert len(bert_lightning.load(run).predict(RAW[task])) == len(RAW[task])


def test_a_run_with_own_parts_everywhere_is_recorded_and_resumes_bit_for_bit(experiment, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    trainer = {"max_steps": 6, "accumulate_grad_batches": 2, "precision": "bf16-mixed", "val_check_interval": 2}
    file = experiment(trainer=trainer, activation_checkpointing=True, **OWN)
    assert fit(file, tmp_path / "whole", *ALLOWED) == 0
    original = TextClassificationTask.sums

    def dying(task, batch):
        if task.training and task.trainer.global_step == 5:
            raise Killed
        return original(task, batch)

    with monkeypatch.context() as patch:
        patch.setattr(TextClassificationTask, "sums", dying)
        with pytest.raises(Killed):
            fit(file, tmp_path / "killed", *ALLOWED, "--checkpoint.every_n_steps=2")
    assert fit(file, tmp_path / "killed", *ALLOWED, "--checkpoint.every_n_steps=2") == 0
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    own = {"attention.bias.weight", "activation.b", "attention_end_norm.weight", "output_end_norm.bias"}
    assert {f"model.encoder.layers.1.{name}" for name in own} <= whole.keys()
    assert "model.encoder.embeddings.position.slope" in whole
    assert (
        RunDirectory(tmp_path / "whole").read_experiment([MODULE]).identity
        == load_experiment([file], [], None, [MODULE]).identity
    )


def test_the_parts_of_the_page_about_the_model_train(experiment, tmp_path, monkeypatch):
    page = Path(__file__).parents[2].joinpath("docs/model.md").read_text().partition("## Your own parts")[2]
    module, keys = (re.search(rf"^```{kind}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)[1] for kind in LANGUAGES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_parts", raising=False)
    Path("my_parts.py").write_text(module)
    Path("parts.yaml").write_text(keys.replace("  size: tiny\n", ""))
    file = experiment(trainer={"precision": "32"})
    files = ["--config", str(file), "--config", "parts.yaml"]
    assert main(["fit", *files, "--run-directory", "run", "--allow-module", "my_parts"]) == 0
    saved = yaml.safe_load(Path("run/config.yaml").read_text())
    written = yaml.safe_load(keys)
    assert saved["model"]["head"]["init_args"] == written["model"]["head"]["init_args"]
    assert saved["model"]["attention"] == written["model"]["attention"]
    assert saved["model"]["config"]["norm_placement"]["class_path"] == "my_parts.Sandwich"
    assert saved["loss"] == written["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_own_parts_like_one(experiment, tmp_path, two_ranks, strategy):
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    file = experiment(trainer={"precision": "32"}, **OWN | {"config": OWN["config"] | still})
    shared = ("--loss.name=focal", *ALLOWED)
    assert fit(file, tmp_path / "one", *shared) == 0
    command = ["fit", "--config", str(file), "--run-directory", str(tmp_path / "two"), "--trainer.devices=2"]
    assert {*two_ranks.run([*command, f"--trainer.strategy={strategy}", *shared])} == {0}
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"attention": OWN["attention"]},
            "combined with model.attention RelativeBias, which has parameters",
        ),
        ({"config": {"hidden_act": f"{MODULE}.Swish"}}, "cannot be combined with model.config.hidden_act Swish"),
    ],
)
def test_tensor_parallelism_refuses_parts_with_parameters(experiment, model, message):
    trainer = {"strategy": "fsdp", "devices": 2, "tensor_parallel_size": 2}
    read = load_experiment([experiment(trainer=trainer, **model)], [], None, [MODULE])
    with pytest.raises(InputError, match=message):
        build_training(read, None)


def test_fsdp_refuses_a_scalar_parameter(experiment):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(1.0))

        def forward(self, values):
            return self.factor * values

    register_activation("scaled", Scaled)
    file = experiment(trainer={"strategy": "fsdp"}, config={"hidden_act": "scaled"})
    with pytest.raises(InputError, match=r"cannot slice the scalar parameter encoder.* give it the shape \(1,\)"):
        build_training(load_experiment([file]), None)


@pytest.mark.slow
def test_pretraining_on_packed_batches_takes_own_parts_and_exports_them(home, tmp_path, capsys):
    values = yaml.safe_load((home / "pretraining.yaml").read_text())
    values["model"] |= {"attention": OWN["attention"]}
    values["model"]["config"] |= OWN["config"]
    values["data"] |= {"batching": "packed"}
    values["trainer"] |= {"max_steps": 4}
    file = tmp_path / "packed.yaml"
    file.write_text(yaml.safe_dump(values))
    assert fit(file, tmp_path / "run", *ALLOWED) == 0
    command = ["export", "--checkpoint", str(tmp_path / "run"), "--output", str(tmp_path / "exported")]
    assert main([*command, "--format", "huggingface"]) == 2
    named = "norm_placement, position_embeddings, hidden_act, attention"
    assert f"has {named}, which transformers" in capsys.readouterr().err


def test_a_registered_name_needs_no_class_path(experiment, tmp_path):
    register_head("attentive", own_parts.Attentive)
    register_attention("window", own_parts.window)
    model = {"head": {"name": "attentive"}, "attention": {"name": "window", "init_args": {"width": 1}}}
    read = load_experiment([experiment(**model)])
    assert (read.model.head.name, read.model.attention) == ("attentive", "window")
    assert read.model.architecture["init_args"] == {"attention": {"width": 1}}
    saved = tmp_path / "saved.yaml"
    saved.write_text(yaml.safe_dump(read.to_dict()))
    assert load_experiment([saved]) == read
    assert load_experiment([experiment(head={"name": "attentive"})], ["--model.attention=window"]).model.attention


def test_a_default_part_changes_no_identity_and_an_own_one_does(experiment):
    plain = load_experiment([experiment()])
    named = load_experiment([experiment(head={"name": "linear"}, attention="auto")])
    assert plain.identity == named.identity
    own = load_experiment([experiment(head=OWN["head"])], [], None, [MODULE])
    other = load_experiment([experiment(head=OWN["head"])], ["--model.head.init_args.width=5"], None, [MODULE])
    assert len({plain.identity, own.identity, other.identity}) == 3


def test_a_later_layer_replaces_a_part_with_its_arguments(experiment, tmp_path):
    above = tmp_path / "above.yaml"
    above.write_text(yaml.safe_dump({"model": {"head": {"class_path": f"{MODULE}.PerToken"}}}))
    files = [experiment("token-classification", head={**OWN["head"], "crf": True}), above]
    head = load_experiment(files, [], None, [MODULE]).model.head
    assert (head.name, head.init_args, head.crf) == (f"{MODULE}.PerToken", {}, True)
    above.write_text(yaml.safe_dump({"model": {"head": {"name": "linear"}, "attention": "sdpa"}}))
    files = [experiment(head=OWN["head"], attention=OWN["attention"]), above]
    model = load_experiment(files, [], None, [MODULE]).model
    assert (model.head.name, model.head.init_args, model.attention) == ("linear", {}, "sdpa")
    assert model.config.get("init_args", {}) == {}


LANGUAGES = ("python", "yaml")
SPY = "from pathlib import Path\nPath('imported').touch()\n"


@pytest.mark.parametrize(
    "model",
    [
        {"head": {"class_path": "spy.Head"}},
        {"head": {"name": "spy.Head"}},
        {"attention": {"class_path": "spy.attend"}},
        {"attention": "spy.attend"},
        {"config": {"hidden_act": "spy.act"}},
        {"config": {"position_embeddings": {"class_path": "spy.Positions"}}},
        {"config": {"norm_placement": {"class_path": "spy.Norm"}}},
    ],
)
def test_a_class_path_is_not_imported_unless_its_module_is_allowed(experiment, tmp_path, monkeypatch, capsys, model):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("spy.py").write_text(SPY)
    assert fit(experiment(**model), tmp_path / "run", "--allow-module", "other") == 2
    assert "--allow-module spy" in capsys.readouterr().err
    assert not Path("imported").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"head": {"name": "atentive"}}, "model.head.name is 'atentive'; known: linear"),
        ({"head": {"class_path": f"{MODULE}.Atentive"}}, r"has no Atentive; did you mean 'Attentive'\?"),
        ({"head": {"class_path": f"{MODULE}.window"}}, "must be a subclass of Module"),
        ({"head": {"class_path": f"{MODULE}.Slope", "name": "x"}}, "model.head has both name and class_path"),
        ({"head": {"class_path": f"{MODULE}.Attentive", "width": 3}}, "unknown key 'model.head.width'"),
        ({"head": {"init_args": {"width": 3}}}, "the linear head takes none"),
        ({"attention": "sdp"}, "model.attention: expected one of auto, eager, sdpa, varlen, got 'sdp'"),
        ({"attention": {"class_path": f"{MODULE}.window", "width": 3}}, "unknown key 'model.attention.width'"),
        ({"attention": {"init_args": {}}}, "model.attention: a name or class_path is expected"),
        ({"attention": {"class_path": f"{MODULE}.window", "init_args": 3}}, "model.attention.init_args: keys"),
        ({"attention": 3}, "model.attention: expected one of .*, got 3"),
        ({"config": {"hidden_act": "gelo"}}, r"model.config: hidden_act is 'gelo'; .*did you mean 'gelu'\?"),
        ({"config": {"hidden_act": None}}, "model.config.hidden_act: expected one of gelu_new, .*, got null"),
        ({"config": {"norm_placement": f"{MODULE}.Slope"}}, "must be a subclass of BertLayer"),
        ({"config": {"attention": "window"}}, "model.config.attention cannot be set: set model.attention"),
        ({"config": {"init_args": {"hidden_act": {"a": 1}}}}, "only a custom part takes arguments"),
    ],
)
def test_a_wrong_part_is_an_error_that_names_its_key(experiment, model, message):
    with pytest.raises(InputError, match=message):
        load_experiment([experiment(**model)], [], None, [MODULE])


def test_a_wrong_argument_of_a_part_names_its_key(experiment, tmp_path, capsys):
    for model, message in (
        ({"head": {**OWN["head"], "init_args": {"widht": 3}}}, "model.head: "),
        ({"attention": {**OWN["attention"], "init_args": {"widht": 3}}}, "model.attention: "),
        ({"config": {"hidden_act": {"class_path": f"{MODULE}.Swish", "init_args": {"widht": 3}}}}, "model.config"),
    ):
        assert fit(experiment(**model), tmp_path / "run", *ALLOWED) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "'widht'" in error


def test_pretraining_has_no_head_to_exchange(home):
    values = yaml.safe_load((home / "pretraining.yaml").read_text())
    values["model"]["head"] = OWN["head"]
    with pytest.raises(InputError, match=r"model\.head: this task has no head that another one could replace"):
        load_experiment([], [], values, [MODULE])


def test_a_checkpoint_with_own_parts_is_no_use_without_their_module(experiment, tmp_path, capsys):
    run = tmp_path / "run"
    assert fit(experiment(trainer={"max_steps": 1}, **OWN), run, *ALLOWED) == 0
    for table in (*PARTS.values(), HEADS):
        for name in [name for name in table if name.startswith(MODULE)]:
            del table[name]
    capsys.readouterr()
    assert main(["validate", "--checkpoint", str(run)]) == 2
    assert f"--allow-module {MODULE}" in capsys.readouterr().err
    assert main(["predict", "--checkpoint", str(run), "--input", "-"]) == 2
    assert f"--allow-module {MODULE}" in capsys.readouterr().err
    (tmp_path / "text.txt").write_text("The old cat.\n")
    features = ["features", "--checkpoint", str(run), "--input", str(tmp_path / "text.txt")]
    features += ["--output", str(tmp_path / "states.safetensors")]
    assert main(features) == 2
    assert f"--allow-module {MODULE}" in capsys.readouterr().err
    # Comparing runs reads configurations and imports nothing.
    saved = RunDirectory(run)
    from bert_lightning.config.saved import differences_from_saved, with_defaults

    assert with_defaults(saved.read_config(), saved.config)["model"]["head"]["class_path"] == f"{MODULE}.Attentive"
    differing = differences_from_saved(saved.read_config(), saved.config, load_experiment([experiment()]))
    assert {"model.head.class_path", "model.attention.class_path"} <= {each.key for each in differing}
    assert not [name for table in (*PARTS.values(), HEADS) for name in table if name.startswith(MODULE)]
    assert main([*features, *ALLOWED]) == 0


def test_a_checkpoint_with_another_head_is_not_resumed_and_the_message_names_the_key(experiment, tmp_path, capsys):
    run, new = tmp_path / "run", tmp_path / "new"
    assert fit(experiment(trainer={"max_steps": 1}, head=OWN["head"]), run, *ALLOWED) == 0
    last = ["--resume", run / "checkpoints/last.ckpt"]
    other = {**OWN["head"], "init_args": {"width": 5}}
    for head, shown in ((None, '{"name": "linear"} here'), (other, '"init_args": {"width": 5}} here')):
        assert fit(experiment(**({"head": head} if head else {})), new, *ALLOWED, *last) == 2
        error = capsys.readouterr().err
        assert "its head differs (model.head is " in error
        assert shown in error
    assert fit(experiment(head=OWN["head"]), new, *ALLOWED, *last) == 0


def test_a_teacher_may_have_parts_of_the_modules_of_the_experiment(experiment, tmp_path, capsys):
    assert fit(experiment(trainer={"max_steps": 1}, head=OWN["head"]), tmp_path / "teacher", *ALLOWED) == 0
    teacher = ["--distillation.teacher", tmp_path / "teacher"]
    for name in [name for name in HEADS if name.startswith(MODULE)]:
        del HEADS[name]
    capsys.readouterr()
    assert fit(experiment(), tmp_path / "run", *teacher) == 2
    assert "distillation.teacher " in (error := capsys.readouterr().err)
    assert f"--allow-module {MODULE}); name the module under modules too" in error
    assert fit(experiment(), tmp_path / "run", *teacher, *ALLOWED, "--modules", f"[{MODULE}]") == 0
