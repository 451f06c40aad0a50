"""The auxiliary loss of PET: masked words of unlabelled texts beside the cloze task."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from bert_lightning.cli import main
from bert_lightning.errors import InputError
from bert_lightning.runs.building import build_training
from tests.support.methods import NO_DROPOUT, first_batch, gradients, maker, micro_batches
from tests.support.runs import weights
from tests.support.task_data import tiny_classification

WORDS = {"animals": "cat", "nature": "river", "places": "house"}
PAIRED = "The {mask} || {text}"


@pytest.fixture(scope="module")
def values(tables, tokenizer, tmp_path_factory):
    """The values of a small cloze with masked words."""
    made = tiny_classification(tables, tokenizer, tmp_path_factory.mktemp("values"))
    made["data"] |= {
        "max_seq_length": 32,
        "examples_per_class": 8,
        "pattern": "{text} The {mask}.",
        "verbalizer": WORDS,
    }
    return {**made, "task": "cloze", "masked_words": {"weight": 0.25}}


def without(values):
    return {name: each for name, each in values.items() if name != "masked_words"}


def written(values, folder):
    """Write an experiment file, and return the options that name it."""
    (folder / "e.yaml").write_text(yaml.safe_dump(values))
    return ["--config", str(folder / "e.yaml")]


@pytest.mark.parametrize("pattern", ["{text} The {mask}.", PAIRED])
def test_every_step_masks_words_of_as_many_other_texts_and_never_asks_for_the_mask_of_the_pattern(values, pattern):
    data = build_training(maker(values)(f"--data.pattern={pattern}", "--trainer.max_steps=40"), None).data
    trained = {each.text for each in data.splits["train"].examples}
    mask_id = data.tokenizer.mask_id
    texts = data.masked_texts.texts
    assert not trained & {each.text for each in texts.examples}
    seen, masks, changed = [], {}, 0
    for step in range(data.plan.num_steps):
        [batch] = data.training_batches(step, data.plan, 0, 1)
        masked = batch["unlabelled"]
        assert masked["num_sequences"] == data.batch_size == batch["num_sequences"]
        original = masked["input_ids"].flatten().clone()
        assert (masked["masked_labels"] != mask_id).all()
        original[masked["masked_positions"]] = masked["masked_labels"]
        changed += int((original != masked["input_ids"].flatten()).sum())
        whole = texts.batch(masked["samples"][:, 1])
        assert torch.equal(original.view_as(masked["input_ids"]), whole["input_ids"])
        assert torch.equal(masked["token_type_ids"], whole["token_type_ids"])
        lengths = texts.lengths[masked["samples"][:, 1]] + (3 if "||" in pattern else 2)
        assert len(masked["masked_labels"]) == np.maximum(1, np.rint(0.15 * lengths)).sum()
        seen += map(tuple, masked["samples"].tolist())
        width = masked["input_ids"].shape[1]
        for place in masked["masked_positions"].tolist():
            row, column = divmod(place, width)
            masks.setdefault(tuple(masked["samples"][row].tolist()), []).append(column)
    assert len({*seen}) == len(seen), "each epoch reads each text once"
    assert {number for epoch, number in seen if epoch == 0} == {*range(len(texts.examples))}
    again = [number for number in range(len(texts.examples)) if (1, number) in masks]
    assert sum(masks[0, number] != masks[1, number] for number in again) > len(again) / 2
    assert changed > sum(map(len, masks.values())) / 2


def test_a_step_reads_as_many_texts_for_each_example_as_the_settings_say(values):
    experiment = maker(values)("--masked_words.texts_per_example=3", "--masked_words.max_samples=5")
    data = build_training(experiment, None).data
    assert len(data.masked_texts.texts.examples) == 5
    [batch] = data.training_batches(0, data.plan, 0, 1)
    assert batch["unlabelled"]["num_sequences"] == 3 * data.batch_size
    _, parts = micro_batches(experiment, 2)
    assert [each["unlabelled"]["num_sequences"] for each in parts] == [3 * data.batch_size / 2] * 2


def test_the_texts_with_masked_words_do_not_depend_on_those_that_are_labelled(values, tmp_path):
    alone = build_training(maker(values)(), None).data
    assert main(["fit", "--run-directory", str(tmp_path / "run"), *written(without(values), tmp_path)]) == 0
    options = [f"--pseudo_labels.teachers.one={tmp_path / 'run'}", "--pseudo_labels.per_class=3"]
    options += ["--pseudo_labels.num_likeliest=9"]
    both = build_training(maker(values)(*options), None).data
    assert len(both.splits["train"].examples) > len(alone.splits["train"].examples)
    assert both.fingerprints["masked words"] == alone.fingerprints["masked words"]
    assert all(each.label is None for each in both.masked_texts.texts.examples)


def test_the_loss_is_the_weighed_mean_of_that_of_the_task_and_that_of_the_masked_words(values):
    task, batch = first_batch(maker(values)(*NO_DROPOUT))
    alone, own = first_batch(maker(without(values))(*NO_DROPOUT))
    assert torch.equal(batch["input_ids"], own["input_ids"])
    texts = batch["unlabelled"]
    logits = alone.model(texts["input_ids"], texts["token_type_ids"], texts["attention_mask"]).flatten(0, 1)
    at_masks = logits[texts["masked_positions"]]
    words = F.cross_entropy(at_masks, texts["masked_labels"])
    (0.75 * F.cross_entropy(alone.compute(own), own["labels"]) + 0.25 * words).backward()
    expected = [each.grad for each in alone.parameters()]
    for mine, theirs in zip(gradients(task, batch), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)
    with torch.no_grad():
        sums = dict(zip(task.step_method.loss_names, task.step_method.losses.sums(batch).tolist(), strict=True))
    counts = dict(zip(task.step_method.loss_names, task.step_method.counts(batch).tolist(), strict=True))
    assert [*sums] == ["task_loss", "mlm_loss", "accuracy", "mlm_accuracy"]
    assert sums["mlm_loss"] / counts["mlm_loss"] == pytest.approx(words.item(), rel=1e-5)
    assert sums["mlm_accuracy"] == (at_masks.argmax(-1) == texts["masked_labels"]).sum()


def test_micro_batches_and_processes_share_the_masked_texts_of_a_step(values):
    _, [whole] = micro_batches(maker(values)())
    _, parts = micro_batches(maker(values)(), 2)
    assert torch.equal(
        torch.cat([torch.from_numpy(each["unlabelled"]["samples"]) for each in parts]),
        torch.from_numpy(whole["unlabelled"]["samples"]),
    )
    data = build_training(maker(values)(), None).data
    shares = [data.training_batches(0, data.plan, share, 2)[0]["unlabelled"] for share in (0, 1)]
    labels = torch.cat([each["masked_labels"] for each in shares])
    assert torch.equal(labels, whole["unlabelled"]["masked_labels"])


def test_a_run_resumes_bit_for_bit_and_refuses_other_texts(values, tmp_path, capsys):
    own = {**values, "checkpoint": {"every_n_steps": 1, "keep_last": 9}}
    own["trainer"] = {**values["trainer"], "max_steps": 4}
    texts = [f"the {word} sees a red {other}" for word in ("cat", "dog", "river") for other in ("house", "tree")]
    (tmp_path / "texts.tsv").write_text("\n".join(["sentence", *texts]) + "\n")
    command = ["fit", *written(own, tmp_path), "--masked_words.unlabelled", str(tmp_path / "texts.tsv")]
    assert main([*command, "--run-directory", str(tmp_path / "whole")]) == 0
    middle = ["--resume", str(tmp_path / "whole/checkpoints/step-000000002.ckpt")]
    assert main([*command, *middle, "--run-directory", str(tmp_path / "resumed")]) == 0
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "resumed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    plain = ["fit", *written(without(own), tmp_path), "--run-directory", str(tmp_path / "plain")]
    assert main(plain) == 0
    assert not all(torch.equal(whole[name], each) for name, each in weights(tmp_path / "plain").items())
    written(own, tmp_path)
    (tmp_path / "texts.tsv").write_text("\n".join(["sentence", *texts[1:]]) + "\n")
    capsys.readouterr()
    assert main([*command, "--run-directory", str(tmp_path / "whole")]) == 2
    assert "the texts of masked_words" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--masked_words.weight=0"], r"masked_words\.weight is 0"),
        (["--masked_words.weigth=0.1"], r"masked_words\.weigth.*did you mean.*weight"),
        (
            ["--data.examples_per_class=null"],
            r"masked_words\.unlabelled: it is not set, and the run trains or validates on all examples",
        ),
        (["--masked_words.unlabelled=nowhere.tsv"], r"masked_words\.unlabelled: .*nowhere\.tsv"),
        (["--adversarial.name=fgm"], r"masked_words cannot be combined with adversarial"),
    ],
)
def test_what_cannot_be_read_or_combined_is_one_message_with_its_key(values, options, message):
    with pytest.raises(InputError, match=message):
        build_training(maker(values)(*options), None)


def test_a_task_that_predicts_no_words_is_refused(tables, tokenizer, tmp_path):
    made = tiny_classification(tables, tokenizer, tmp_path)
    with pytest.raises(InputError, match="masked_words needs the task cloze"):
        build_training(maker({**made, "masked_words": {}})(), None)
