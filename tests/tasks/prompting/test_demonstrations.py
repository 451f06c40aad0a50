"""Demonstrations of the cloze task: what is appended, and that it is a function of step and text alone."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch

from bert_lightning.config.experiment import load_experiment
from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.loading.module import TrainingPlan
from bert_lightning.data.reading.tables import Row
from bert_lightning.errors import InputError
from bert_lightning.runs.building import build_scoring, build_training
from bert_lightning.tasks.prompting.demonstrations import Demonstrations, keys_of_step
from bert_lightning.tasks.prompting.settings import ClozeData
from tests.support.methods import train
from tests.support.task_data import tiny_classification

WORDS = {"animals": "cat", "nature": ["river", "tree"], "places": "house"}


@pytest.fixture
def make(tables, tokenizer, tmp_path):
    """A function from overrides to an experiment with demonstrations."""
    values = tiny_classification(tables, tokenizer, tmp_path) | {"task": "cloze"}
    values["model"]["config"]["max_position_embeddings"] = 128
    more = {"pattern": "{text} The {mask}.", "verbalizer": WORDS, "demonstrations": True, "examples_per_class": 4}
    values["data"] |= more | {"max_seq_length": 128}
    return lambda *overrides: load_experiment([], overrides, values)


def test_every_class_is_shown_once_after_the_text_and_never_the_text_itself(make, tokenizer):
    data = build_training(make(), None).data
    split = data.splits["train"]
    pieces = {tuple(each): number for number, each in enumerate(split.demonstrations.pieces)}
    assert len(pieces) == 12
    seen = set()
    for step in range(60):
        batch = split.training_batch(np.arange(12), 1, step)
        for number, ids in enumerate(batch["input_ids"].tolist()):
            ends = [place for place, each in enumerate(ids) if each == tokenizer.sep_id]
            shown = [pieces[tuple(ids[one + 1 : other])] for one, other in pairwise(ends)]
            assert [split.examples[each].label for each in shown] == ["animals", "nature", "places"]
            assert number not in shown
            seen |= {(number, each) for each in shown}
            # The answer is in the place of the mask.
            assert all(tokenizer.mask_id not in split.demonstrations.pieces[each] for each in shown)
        masks = batch["input_ids"].flatten() == tokenizer.mask_id
        assert masks.nonzero().flatten().tolist() == batch["masked_positions"].tolist()
    # All others of its class, and all of the other classes.
    assert len(seen) == 12 * 11


def test_draws_depend_on_the_step_and_not_on_how_it_is_divided(make):
    data = build_training(make(), None).data
    whole = data.training_batches(3, TrainingPlan(9, 1, 1), 0, 1)
    halves = data.training_batches(3, TrainingPlan(9, 2, 1), 0, 1)
    width = max(each["input_ids"].shape[1] for each in halves)
    rows = [torch.nn.functional.pad(each["input_ids"], (0, width - each["input_ids"].shape[1])) for each in halves]
    found = torch.cat(rows)
    for number, ids in zip(whole[0]["numbers"].tolist(), whole[0]["input_ids"], strict=True):
        place = torch.cat([each["numbers"] for each in halves]).tolist().index(number)
        length = int((ids != 0).sum())
        assert torch.equal(ids[:length], found[place, :length])
    assert keys_of_step(1, 3, [5]) == keys_of_step(1, 3, [4, 5])[1:]
    assert keys_of_step(1, 3, [5]) != keys_of_step(1, 4, [5])


def test_a_checkpoint_alone_predicts_with_the_examples_of_its_training(make, tmp_path):
    setup = build_training(make(), None)
    task = setup.task.eval()
    checkpoint = dataclasses.replace(
        task.model.to_checkpoint(tmp_path, task.tokenizer.vocabulary),
        task=task.name,
        task_settings=task.task_settings,
    )
    rows = [Row("", {"sentence": text}) for text in ("The old cat.", "The red house sees.")]
    one, other = task.predict_rows(rows, 8), task.predict_rows(rows[::-1], 1)[::-1]
    for mine, theirs in zip(one, other, strict=True):
        assert mine["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-5)
    scored = build_scoring(make(), checkpoint, "validation")
    assert scored.task.predict_rows(rows, 8) == one
    batch = setup.data.splits["validation"].batch(np.arange(5))
    assert torch.equal(batch["input_ids"], scored.data.splits["validation"].batch(np.arange(5))["input_ids"])
    del checkpoint.task_settings["demonstrations"]
    with pytest.raises(InputError, match="demonstrations needs the examples of a training, and this checkpoint has"):
        build_scoring(make(), checkpoint, "validation")


def test_the_score_of_a_text_is_the_mean_over_its_draws_and_the_first_draw_is_that_of_a_single_one(make):
    task = build_training(make(), None).task.eval()
    several = build_training(make("--data.demonstration_draws=3", "--data.examples_seed=1"), None)
    with torch.no_grad():
        # Small weights would make all draws the same.
        for parameter in task.model.parameters():
            parameter.mul_(4)
    several.task.model.load_state_dict(task.model.state_dict())
    several.task.eval()
    split = several.data.splits["validation"]
    numbers = np.array([4, 0, 2])
    batch = split.batch(numbers)
    assert (len(batch["input_ids"]), len(batch["labels"]), batch["numbers"].tolist()) == (9, 3, [4, 0, 2])
    with torch.no_grad():
        found = several.task.compute(batch)
        rows = []
        for number in range(9):
            length = int(batch["attention_mask"][number].sum())
            one = {name: batch[name][number : number + 1, :length] for name in ("input_ids", "token_type_ids")}
            one["attention_mask"] = torch.ones(1, length, dtype=batch["attention_mask"].dtype)
            one["masked_positions"] = (one["input_ids"][0] == task.tokenizer.mask_id).nonzero().flatten()
            rows.append(task.log_probabilities(one)[0])
    expected = torch.stack([torch.stack(rows[start : start + 3]).mean(0) for start in (0, 3, 6)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    # More than rounding could explain.
    assert (torch.stack(rows[:3]).std(0) > 1e-3).any()
    first = split.batch_of_draws(numbers, 1)["input_ids"]
    width = min(first.shape[1], batch["input_ids"].shape[1])
    assert torch.equal(first[:, :width], batch["input_ids"][::3, :width])
    empty = np.zeros(0, dtype=np.int64)
    assert several.task.compute(split.batch(empty)).shape == (0, 3)
    # Training takes one draw per step.
    assert len(several.data.splits["train"].training_batch(np.arange(4), 1, 0)["input_ids"]) == 4


def test_several_draws_train_validate_predict_and_explain(make, tmp_path):
    several = make("--data.demonstration_draws=4")
    task = train(several, tmp_path).eval()
    split = build_training(several, None).data.splits["validation"]
    outputs = task.outputs_for(split, 8)
    assert len(outputs) == len(split.examples)
    scores = task.scores(split, outputs, split.subsets[0])
    assert float(task.trainer.callback_metrics["val/accuracy"]) == pytest.approx(scores["accuracy"])
    [one] = task.explained(Row("", {"sentence": "The old cat."}), None)
    assert len(one.batch["input_ids"]) == 1
    alone = task.predict_rows([Row("", {"sentence": "The old cat."})], 1)[0]
    beside = task.predict_rows([Row("", {"sentence": text}) for text in ("The red house sees.", "The old cat.")], 8)[
        1
    ]
    assert alone["probabilities"] == pytest.approx(beside["probabilities"], abs=1e-5)


def test_what_cannot_be_shown_is_refused_with_its_key(make):
    for changes, message in (
        (
            {"demonstrations": True},
            "demonstrations are few examples that a checkpoint keeps: set data.examples_per_c",
        ),
        ({"demonstrations": True, "examples_per_class": 4, "calibration": ["x"]}, "calibration is not defined with"),
        ({"demonstration_draws": 16}, "demonstration_draws does nothing without data.demonstrations"),
        (
            {"demonstrations": True, "examples_per_class": 4, "demonstration_draws": 0},
            "demonstration_draws is 0.*at least 1",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            ClozeData(train="x", **changes)
    with pytest.raises(
        InputError, match=r"^data.max_seq_length is 24, of which the text gets 6 and each of 3 demonstrations 6, but"
    ):
        build_training(make("--data.max_seq_length=24", "--data.pattern={text} {mask} cat cat cat"), None)
    few = [LabelledText("", "x", None, label, "") for label in "aab"]
    with pytest.raises(InputError, match="needs two examples of each class, and there is 1 of 'b'"):
        Demonstrations(few, ["a", "b"], [[1], [2], [3]])


def test_replayed_examples_are_refused_with_the_first_task(make):
    values = make("--continual.name=replay", "--continual.size=4").to_dict()
    data = {key: value for key, value in values["data"].items() if value is not None}
    tasks = [{"name": name, "data": data} for name in ("first", "second")]
    values |= {"sequence": {"task": "first", "tasks": tasks, "labels": "shared"}}
    with pytest.raises(InputError, match=r"^continual\.name replay replays examples .* with data\.demonstrations$"):
        build_training(load_experiment([], [], values), None)
