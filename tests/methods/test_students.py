"""Runs of students that learn inner states, and the cache of a teacher's logits."""

import json

import pytest
import torch
import yaml

from bert_lightning.checkpoints.digests import weights_digest
from bert_lightning.checkpoints.native import load_native
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.cli import main
from bert_lightning.errors import InputError
from bert_lightning.methods.distillation.term import Rows
from bert_lightning.model import BertEncoder
from bert_lightning.model.tuning import TUNINGS
from bert_lightning.runs.building import build_training
from bert_lightning.runs.starting_point import start_checkpoint
from bert_lightning.runs.trainer import build_trainer, training_callbacks
from bert_lightning.tasks.catalogue import TASKS
from bert_lightning.tasks.distributions import divergence
from tests.support.methods import ALL_INNER, INNER, first_batch, maker, same, train

TEXTS = "text-classification"
FINE_TUNING = [task for task in TASKS if task != "pretraining"]


@pytest.fixture(scope="module")
def make(experiments):
    return maker(experiments[TEXTS])


@pytest.fixture(scope="module")
def teacher(teachers):
    return f"--distillation.teacher={teachers(TEXTS)}"


def test_labels_logits_and_inner_states_have_the_weights_of_the_settings(make, teacher):
    options = [*ALL_INNER, "--distillation.labels=2", "--distillation.alpha=5", "--distillation.hidden.weight=3"]
    student, batch = first_batch(make(teacher, *options))
    method = student.step_method
    names = ["task_loss", "distillation_loss", "distillation_hidden_loss", "distillation_attention_loss"]
    names += ["distillation_query_key_loss", "distillation_value_value_loss"]
    assert list(method.loss_names)[: method.num_losses] == names
    assert list(method.loss_factors) == [2, 5, 3, 1, 1, 1]
    tokens = batch["num_tokens"]
    assert method.counts(batch)[:6].tolist() == [8, 8, tokens, tokens, tokens, tokens]
    without = first_batch(make(teacher, *ALL_INNER, "--distillation.alpha=0"))[0].step_method
    assert list(without.loss_names)[: without.num_losses] == ["task_loss", *names[2:]]
    assert list(without.loss_factors) == [1, 1, 1, 1, 1]


def test_the_tokens_that_a_loss_counts_are_those_that_it_sums_over(experiments, task):
    # A loss that is 1 per token, or per sequence, sums to its count.
    _, batch = first_batch(maker(experiments[task])())
    rows, ids = Rows.of(batch), batch["input_ids"]
    values = torch.ones(ids.shape if "packing" in batch else ids.flatten(0, -2).shape)
    assert rows.sum_over_tokens(values) == batch["num_tokens"]
    assert rows.sum_over_sequences(rows.firsts(values)) == batch["num_sequences"]


def test_projections_train_and_only_checkpoints_hold_them(make, teacher, tmp_path):
    values = make(teacher, *INNER["hidden"], "--checkpoint.every_n_steps=1", "--checkpoint.keep_last=9").to_dict()
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(values))
    run = tmp_path / "run"
    assert main(["fit", "--config", str(tmp_path / "e.yaml"), "--run-directory", str(run)]) == 0
    states = [
        load_native((run / "checkpoints" / name).resolve())["state_dict"]
        for name in ("step-000000001.ckpt", "last.ckpt")
    ]
    beside = [name for name in states[0] if not name.startswith("model.")]
    assert sorted(beside) == sorted(
        f"beside_model.hidden.{number}.{kind}" for number in range(3) for kind in ("weight", "bias")
    )
    assert states[0]["beside_model.hidden.1.weight"].shape == (48, 32)
    assert not any(torch.equal(states[0][name], states[1][name]) for name in beside)
    tensors = read_checkpoint((run / "checkpoints/last.ckpt").resolve()).tensors
    assert not [name for name in tensors if "beside" in name]
    assert json.loads((run / "manifest.json").read_text())["weights"] == weights_digest(tensors)
    assert main(["validate", "--checkpoint", str(run)]) == 0
    export = ["export", "--checkpoint", str(run), "--format", "huggingface", "--output", str(tmp_path / "hf")]
    assert main(export) == 0
    assert read_checkpoint(tmp_path / "hf").tensors.keys() == tensors.keys()
    # A task that does not learn from a teacher loads such a checkpoint too.
    setup = build_training(make(), None)
    trainer = build_trainer(make(), tmp_path, [])
    trainer.validate(setup.task, setup.data, ckpt_path=(run / "checkpoints/last.ckpt").resolve(), verbose=False)
    assert torch.equal(setup.task.model.state_dict()["encoder.pooler.bias"], states[1]["model.encoder.pooler.bias"])


def test_projections_change_no_other_random_number(make, teacher):
    found = []
    for options in ([], [teacher, *INNER["hidden"]]):
        task = build_training(make(*options), None).task
        found.append([*task.model.parameters(), torch.random.get_rng_state()])
    assert same(*found)


@pytest.mark.parametrize("kind", ["another-task", "huggingface"])
def test_inner_states_alone_need_no_head_and_no_task_of_the_teacher(make, teachers, tmp_path, kind):
    path = teachers("token-classification")
    if kind == "huggingface":
        model = BertEncoder.from_pretrained(path)
        model.save_pretrained(tmp_path / "encoder")
        path = tmp_path / "encoder"
    options = ["--distillation.alpha=0", *ALL_INNER]
    student, batch = first_batch(make(f"--distillation.teacher={path}", *options))
    assert isinstance(student.step_method.losses.teacher, BertEncoder)
    losses = student.step_method.losses.sums(batch)[1:5]
    assert (losses > 0).all()
    with pytest.raises(InputError, match=r"cannot teach this student|lacks parameters of the task.*alpha 0"):
        build_training(make(f"--distillation.teacher={path}", *ALL_INNER), None)


def test_a_crf_learns_inner_states(experiments, teachers, tmp_path):
    teacher = f"--distillation.teacher={teachers('token-classification')}"
    options = ["--model.head.crf=true", "--distillation.alpha=0", *ALL_INNER, "--trainer.max_steps=2"]
    trained = train(maker(experiments["token-classification"])(teacher, *options), tmp_path)
    assert trained.training_metrics["train/distillation_hidden_loss"] > 0


def test_packed_samples_have_the_losses_of_padded_ones(experiments, teachers):
    make, found = maker(experiments["pretraining"]), []
    options = [f"--distillation.teacher={teachers('pretraining')}", *ALL_INNER, "--data.batching=packed"]
    student, batch = first_batch(make(*options))
    student.eval().double()
    packing, losses = batch["packing"], student.step_method.losses
    losses.teacher.double()
    lengths = packing.lengths.tolist()
    width = max(lengths)
    padded = {**batch, "attention_mask": torch.arange(width) < packing.lengths[:, None]}
    del padded["packing"]
    for name in ("input_ids", "token_type_ids"):
        padded[name] = torch.nn.utils.rnn.pad_sequence(list(batch[name].split(lengths)), batch_first=True)
    numbers = packing.sequence_numbers(len(batch["input_ids"]))[batch["masked_positions"]]
    padded["masked_positions"] = batch["masked_positions"] - packing.firsts[numbers] + numbers * width
    for arranged in (batch, padded):
        found.append(losses.sums(arranged).detach()[: losses.num_losses])
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--distillation.hiden.weight=1"], "did you mean 'distillation.hidden'"),
        (["--distillation.hidden.layer=top"], "did you mean 'distillation.hidden.layers'"),
        (
            ["--distillation.hidden.layers=middle"],
            "distillation.hidden.layers: expected one of uniform, skip, last, top",
        ),
        (["--distillation.hidden.metric=mae"], "distillation.hidden.metric: expected one of mse"),
        (
            ["--distillation.hidden={}"],
            "distillation.hidden.layers is uniform, which needs a teacher with a multiple",
        ),
        (
            ["--distillation.attention.layers=[0, 5]"],
            "distillation.attention.layers names block 5, but the teacher has",
        ),
        (["--distillation.relations.heads=5"], "distillation.relations.heads is 5, which does not divide"),
        (["--distillation.relations.of=[query-valu]"], "distillation.relations.of"),
        (["--distillation.labels=0", "--distillation.alpha=0"], "labels is 0 and so is alpha"),
        (["--distillation.labels=-1"], "distillation.labels is -1.*at least 0"),
        (
            ["--distillation.cache=x", *INNER["hidden"]],
            "cache keeps the teacher's logits alone, but distillation.hidden",
        ),
        (["--distillation.cache=x", "--distillation.alpha=0"], "cache keeps the teacher's logits, which alpha 0"),
        (["--distillation.cache="], "distillation.cache is empty"),
        (
            [
                *INNER["relations"],
                "--trainer.strategy=fsdp",
                "--trainer.devices=2",
                "--trainer.tensor_parallel_size=2",
            ],
            "distillation.relations cannot be combined with trainer.tensor_parallel_size",
        ),
        (
            ["--distillation.hidden.projection=never", *INNER["hidden"]],
            "hidden.projection is never, but the student has",
        ),
    ],
)
def test_a_setting_that_does_not_fit_is_one_message_with_its_key(make, teacher, overrides, message):
    with pytest.raises(InputError, match=message):
        build_training(make(teacher, *overrides), None)


def test_a_section_of_defaults_is_another_experiment(make, teacher):
    alone = make(teacher)
    assert make(teacher, "--distillation.hidden={}").identity != alone.identity
    assert (
        make(teacher, "--distillation.hidden.weight=1").identity == make(teacher, "--distillation.hidden={}").identity
    )
    assert make(teacher, "--distillation.hidden=null").identity == alone.identity
    experiment = make(teacher, *ALL_INNER)
    assert maker(yaml.safe_load(yaml.safe_dump(experiment.to_dict())))() == experiment


# -- the cache of logits -------------------------------------------------------------------------------------------


def test_a_run_that_fills_the_cache_one_that_reads_it_and_one_that_resumes_are_equal_bit_for_bit(
    make, teacher, tmp_path, monkeypatch
):
    cached = [teacher, f"--distillation.cache={tmp_path / 'cache'}", "--checkpoint.every_n_steps=1"]
    # An epoch has three steps.
    cached += ["--data.batch_size=32", "--trainer.max_steps=5", "--checkpoint.keep_last=9"]
    filled = train(make(*cached), tmp_path / "filled")
    [file] = (tmp_path / "cache").iterdir()
    written = file.stat().st_mtime_ns
    losses = filled.step_method.losses

    def live(*_):
        raise AssertionError("the teacher computed")

    monkeypatch.setattr(type(losses.cache), "_computed", live)
    read = train(make(*cached), tmp_path / "read")
    resumed = train(make(*cached), tmp_path / "resumed", tmp_path / "filled/step-000000002.ckpt")
    for other in (read, resumed):
        assert same(list(filled.state_dict().values()), list(other.state_dict().values()))
        assert filled.training_metrics["train/distillation_loss"] == other.training_metrics["train/distillation_loss"]
    assert file.stat().st_mtime_ns == written


@pytest.mark.parametrize("fine_tuning", FINE_TUNING)
def test_cached_logits_give_the_losses_of_live_ones(experiments, teachers, tmp_path, fine_tuning):
    make, teacher = maker(experiments[fine_tuning]), f"--distillation.teacher={teachers(fine_tuning)}"
    found = []
    for options in ([], [f"--distillation.cache={tmp_path}"]):
        student, batch = first_batch(make(teacher, *options))
        losses = student.eval().step_method.losses
        with torch.no_grad():
            mine = student.distributions(student.compute(batch), batch)
            found.append([divergence(*pair, 2.0) for pair in zip(mine, losses._taught(batch, mine), strict=True)])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_another_teacher_or_other_data_never_read_the_file_and_a_damaged_one_is_refused(
    make, teacher, teachers, tmp_path
):
    def losses(*options):
        student, batch = first_batch(make(*options, f"--distillation.cache={tmp_path}"))
        student.step_method.losses.sums(batch)
        return student.step_method.losses

    path = losses(teacher).cache.path
    weights = torch.load(teachers(TEXTS), weights_only=True)
    weights["state_dict"]["model.encoder.pooler.bias"] += 1
    torch.save(weights, tmp_path / "other.ckpt")
    others = [
        losses(f"--distillation.teacher={tmp_path / 'other.ckpt'}"),
        losses(teacher, "--data.max_seq_length=8"),
    ]
    assert len({path, *(each.cache.path for each in others)}) == 3
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged: delete it"):
        losses(teacher)
    path.write_bytes(content[:100])
    with pytest.raises(InputError, match=r"cannot be read .*: delete it"):
        losses(teacher)


def test_the_answers_of_a_cloze_decide_which_cache_is_read(experiments, teachers, tmp_path):
    cloze = maker(experiments["cloze"])
    options = [f"--distillation.teacher={teachers('cloze')}", f"--distillation.cache={tmp_path}"]
    labels = first_batch(cloze())[0].labels
    paths = {
        first_batch(cloze(*options, f"--data.verbalizer.{labels[0]}={word}"))[0].step_method.losses.cache.path
        for word in ("cat", "dog")
    }
    assert len(paths) == 2


def test_demonstrations_have_no_cache_because_they_change(experiments, teachers, tmp_path):
    options = [f"--distillation.teacher={teachers('cloze')}", f"--distillation.cache={tmp_path}"]
    options += ["--data.demonstrations=true", "--data.examples_per_class=2"]
    with pytest.raises(
        InputError, match=r"distillation\.cache cannot be used with data\.demonstrations: they are drawn"
    ):
        build_training(maker(experiments["cloze"])(*options), None)


INNER_ALONE = ["--distillation.alpha=0", "--distillation.labels=0", *INNER["hidden"]]


def test_a_student_of_inner_states_alone_has_no_best_checkpoint(experiments, teacher, tmp_path):
    # Its head does not train, so no score tells which checkpoint is better.
    make = maker(experiments[TEXTS])
    options = [teacher, *INNER_ALONE, "--trainer.val_check_interval=1"]
    train(make(*options), tmp_path / "alone")
    assert (tmp_path / "alone/last.ckpt").exists()
    assert not (tmp_path / "alone/best.ckpt").is_symlink()
    train(make(*options, "--distillation.labels=1"), tmp_path / "labels")
    assert (tmp_path / "labels/best.ckpt").is_symlink()
    assert any("the last one is the result" in note for note in build_training(make(*options), None).notes)


def test_weights_of_losses_decide_too_whether_a_head_learns(make, teacher, tmp_path):
    options = [teacher, "--distillation.alpha=0", *INNER["hidden"], "--loss_weights={task_loss: 0}"]
    train(make(*options), tmp_path)
    assert not (tmp_path / "best.ckpt").is_symlink()


def test_a_student_that_has_a_trained_head_is_judged_by_its_scores(experiments, teacher, tmp_path):
    values = experiments[TEXTS]
    train(maker(values)("--trainer.max_steps=1"), tmp_path / "base")
    experiment = maker({**values, "model": {"pretrained": str(tmp_path / "base/last.ckpt")}})(teacher, *INNER_ALONE)
    setup = build_training(experiment, start_checkpoint(experiment.model))
    callbacks = training_callbacks(experiment, setup.task, tmp_path, 2, validates=True)
    assert callbacks[-1].monitor == "val/accuracy"
    assert not any("untrained head" in note for note in setup.notes)


def test_a_calibrated_student_of_a_calibrated_teacher_is_refused(experiments, tmp_path):
    make = maker(experiments["cloze"])
    calibrated = '--data.calibration=["[MASK]"]'
    train(make(calibrated, "--trainer.max_steps=1"), tmp_path)
    options = [f"--distillation.teachers.one={tmp_path / 'last.ckpt'}"]
    with pytest.raises(InputError, match=r"data\.calibration would be applied twice: the teacher one is calibrated"):
        build_training(make(calibrated, *options), None)
    build_training(make(*options), None)


@pytest.mark.parametrize("key", ["checkpoint.monitor=val/loss", "checkpoint.mode=min", "early_stopping.patience=2"])
def test_a_student_of_inner_states_alone_cannot_be_judged_by_scores(make, teacher, key, tmp_path):
    with pytest.raises(
        InputError, match=f"{key.partition('=')[0]} cannot be used here: the student learns only inner"
    ):
        train(make(teacher, *INNER_ALONE, f"--{key}"), tmp_path)


def test_pre_training_has_no_cache_because_masks_change(experiments, teachers, tmp_path):
    options = [f"--distillation.teacher={teachers('pretraining')}", f"--distillation.cache={tmp_path}"]
    with pytest.raises(InputError, match=r"distillation\.cache cannot be used in pre-training: masks are drawn anew"):
        build_training(maker(experiments["pretraining"])(*options), None)


# -- together with tuning ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("tuning", [name for name in TUNINGS if name != "full"])
def test_a_tuned_student_learns_inner_states_and_resumes_bit_for_bit(experiments, teacher, tmp_path, tuning):
    values = experiments[TEXTS]
    train(maker(values)("--trainer.max_steps=1"), tmp_path / "base")
    tuned = {**values, "model": {"pretrained": str(tmp_path / "base/last.ckpt")}}
    options = [teacher, *ALL_INNER, f"--tuning.name={tuning}", "--checkpoint.every_n_steps=1"]
    experiment = maker(tuned)(*options, "--checkpoint.keep_last=9", "--optimizer.learning_rate=1e-3")

    def trained(folder, resume=None):
        setup = build_training(experiment, start_checkpoint(experiment.model))
        steps = setup.data.plan.num_steps
        callbacks = training_callbacks(experiment, setup.task, folder, steps, validates=True)
        trainer = build_trainer(experiment, folder, [], steps=steps, callbacks=callbacks)
        trainer.fit(setup.task, setup.data, ckpt_path=resume)
        return setup.task

    whole = trained(tmp_path / "whole")
    resumed = trained(tmp_path / "resumed", tmp_path / "whole/step-000000002.ckpt")
    assert whole.training_metrics["train/distillation_attention_loss"] > 0
    assert same(list(whole.state_dict().values()), list(resumed.state_dict().values()))
