"""Scores of every fine-tuning task, for perfect outputs and compared with independent counts."""

import json
import random
from collections import Counter

import numpy as np
import pytest
import torch
import yaml

from bert_lightning.cli import main
from bert_lightning.config.experiment import load_experiment
from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.model import (
    BertConfig,
    BertForQuestionAnswering,
    BertForRelationClassification,
    BertForSequenceClassification,
)
from bert_lightning.runs.building import build_training
from bert_lightning.tasks.catalogue import TASKS
from bert_lightning.tasks.fine_tuning.splits import Subset
from bert_lightning.tasks.question_answering.decoding import WindowScores
from bert_lightning.tasks.question_answering.settings import QuestionAnsweringData
from bert_lightning.tasks.question_answering.task import QuestionAnsweringTask
from bert_lightning.tasks.relation_classification.settings import RelationClassificationData
from bert_lightning.tasks.relation_classification.task import RelationClassificationTask
from bert_lightning.tasks.text_classification.data import EncodedTexts
from bert_lightning.tasks.text_classification.settings import TextClassificationData
from bert_lightning.tasks.text_classification.task import TextClassificationTask
from tests.support.task_data import squad, task_data

FULL = {"accuracy": 1, "macro_f1": 1, "micro_f1": 1, "matthews": 1, "entity_f1": 1, "entity_precision": 1}
FULL |= {"entity_recall": 1, "squad_exact": 100, "squad_f1": 100}


def perfect(split, task):
    """Make the output for each sequence that agrees with its gold labels."""
    if task == "token-classification":
        batch = split.batch(np.arange(len(split.windows)))
        rows = zip(batch["labels"].numpy(), batch["word_mask"].numpy(), strict=True)
        return [np.eye(len(split.labels), dtype=np.float32)[labels[mask]] * 9 for labels, mask in rows]
    if task == "question-answering":
        outputs = []
        for window in split.windows:
            example = split.examples[window.example]
            offsets = split.contexts[window.example].offsets[window.start : window.start + window.length]
            start, end = example.answers[0].start, example.answers[0].start + len(example.answers[0].text)
            first, last = np.flatnonzero(offsets[:, 0] == start), np.flatnonzero(offsets[:, 1] == end)
            score = np.array([5.0 if len(first) and len(last) else 0.0], dtype=np.float32)
            pair = (first, last) if score[0] else (np.array([0]), np.array([0]))
            outputs.append(WindowScores(pair[0], score, pair[1], score, 0.0))
        return outputs
    if task == "multiple-choice":
        return [np.eye(len(example.choices))[example.label] for example in split.examples]
    return list(np.eye(split.labels.max() + 1)[split.labels])


@pytest.fixture(params=[name for name in TASKS if name != "pretraining"])
def setup(request, tables, tokenizer, tmp_path):
    """The data module and the task of each fine-tuning task."""
    tokenizer.save(tmp_path / "tokenizer")
    values = {
        "experiment": "scores",
        "task": request.param,
        "model": {"size": "tiny", "config": {"max_position_embeddings": 48}},
        "trainer": {"max_steps": 4, "accelerator": "cpu", "precision": "32"},
        "data": task_data(request.param, tables, tmp_path)
        | {"tokenizer": str(tmp_path / "tokenizer"), "max_seq_length": 24},
    }
    return build_training(load_experiment([], [], values), None)


def test_perfect_outputs_score_full_marks(setup):
    split = setup.data.splits["validation"]
    outputs = perfect(split, setup.task.name)
    scores = setup.task.scores(split, outputs, split.subsets[0])
    assert scores == {name: pytest.approx(FULL[name]) for name in scores}
    assert set(setup.task.validation_metrics) - {"loss"} == set(scores)


def test_a_right_answer_of_nothing_is_right_in_the_report(tokenizer, tmp_path):
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(squad(random.Random(1), 6, no_answer=True)))
    tokenizer.save(tmp_path / "tokenizer")
    values = {
        "experiment": "answers",
        "task": "question-answering",
        "model": {"size": "tiny"},
        "trainer": {"max_steps": 1, "accelerator": "cpu", "precision": "32"},
        "data": {"train": str(path), "validation": str(path), "tokenizer": str(tmp_path / "tokenizer")},
    }
    task, data = build_training(load_experiment([], [], values), None)[1::-1]
    split = data.splits["validation"]
    nothing = np.array([0])
    outputs = [
        WindowScores(nothing, np.array([-9.0], dtype=np.float32), nothing, np.array([-9.0], dtype=np.float32), 9.0)
        for _ in split.windows
    ]
    assert "squad_best_f1" in task.scores(split, outputs, split.subsets[0]), "without a Trainer"
    columns, rows = task.report(split, outputs).tables["questions"]
    shown = {row[columns.index("gold")]: (row[columns.index("exact")], row[columns.index("f1")]) for row in rows}
    assert shown.pop("") == (1.0, 1.0)
    assert set(shown.values()) == {(0.0, 0.0)}


def test_any_outputs_give_predictions_files_and_a_report(setup):
    split = setup.data.splits["validation"]
    with torch.inference_mode():
        outputs = setup.task.eval().outputs_for(split, 7)
    rows = setup.task.predictions(split, outputs)
    assert len(rows) == len(split.examples)
    assert all("gold" in row for row in rows)
    json.dumps(rows)
    assert all(isinstance(text, str) for text in setup.task.files(split, outputs).values())
    report = setup.task.report(split, outputs)
    assert report.text
    for columns, table in report.tables.values():
        assert all(len(row) == len(columns) for row in table)
        json.dumps(table)


def test_the_loss_is_finite_when_no_label_counts(setup):
    split = setup.data.splits["train"]
    batch = split.batch(np.arange(3))
    if setup.task.name == "token-classification":
        batch["labels"].fill_(-100)
    elif setup.task.name == "question-answering":
        # Like a window that holds no answer.
        batch["start_positions"].fill_(0)
        batch["end_positions"].fill_(0)
    else:
        batch = split.batch(np.arange(0))
    sums = setup.task.sums(batch)
    assert torch.isfinite(sums).all()
    sums[0].backward()
    assert all(torch.isfinite(p.grad).all() for p in setup.task.model.parameters() if p.grad is not None)


def text_task(tokenizer, labels, problem, **changes):
    settings = TextClassificationData(problem=problem, **changes)
    config = BertConfig.preset("tiny", vocab_size=len(tokenizer))
    kind = {"single-label": "single_label", "multi-label": "multi_label"}.get(problem)
    problem_type = f"{kind}_classification" if kind else "regression"
    model = BertForSequenceClassification(config, labels=labels, problem_type=problem_type)
    return TextClassificationTask(model, config, tokenizer, settings, labels, changes.get("weights"))


def test_several_labels_are_scored_label_by_label(tokenizer):
    labels = ["a", "b", "c"]
    task = text_task(tokenizer, labels, "multi-label", threshold=0.6)
    gold = [("a", "b"), (), ("c",), ("a",)]
    split = EncodedTexts([LabelledText("", "x", None, each, "") for each in gold], tokenizer, task.settings, labels)
    # Probability 0.5 is below the threshold.
    outputs = [np.array(each) for each in ([3.0, 0.0, -3.0], [-3, -3, 3], [-3, -3, 3], [3, -3, -3])]
    scores = task.scores(split, outputs, split.subsets[0])
    # a: 2 of 2; b: missed; c: one right, one too many.
    assert scores["micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert scores["macro_f1"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert scores["accuracy"] == 0.5
    assert [row["labels"] for row in task.predictions(split, outputs)] == [["a"], ["c"], ["c"], ["a"]]


def test_constant_gold_numbers_have_no_correlation_and_are_warned_about(tokenizer, caplog):
    task = text_task(tokenizer, ["score"], "regression")
    examples = [LabelledText("", "x", None, 2.5, "")] * 3
    split = EncodedTexts(examples, tokenizer, task.settings, ["score"])
    scores = task.scores(split, [np.array([guess]) for guess in (1.0, 2.0, 4.0)], split.subsets[0])
    assert (scores["pearson"], scores["spearman"]) == (0, 0)
    assert "every gold number of a split is 2.5; correlations are counted as 0" in caplog.text


def test_constant_predictions_have_no_correlation_and_are_warned_about(tokenizer, caplog):
    task = text_task(tokenizer, ["0", "1"], "single-label")
    split = EncodedTexts(
        [LabelledText("", "x", None, label, "") for label in "0110"], tokenizer, task.settings, ["0", "1"]
    )
    scores = task.scores(split, [np.array([1.0, 0.0])] * 4, split.subsets[0])
    assert scores["matthews"] == 0
    assert scores["accuracy"] == 0.5
    assert "every prediction of a split is the same" in caplog.text
    task = text_task(tokenizer, ["score"], "regression")
    split = EncodedTexts(
        [LabelledText("", "x", None, v, "") for v in (0.5, 2.0, 4.0)], tokenizer, task.settings, ["score"]
    )
    scores = task.scores(split, [np.array([1.0])] * 3, split.subsets[0])
    assert (scores["pearson"], scores["spearman"]) == (0, 0)


def test_class_weights_weight_the_mean_as_in_torch(tokenizer):
    weights = [0.5, 2.0, 1.0]
    task = text_task(tokenizer, ["a", "b", "c"], "single-label")
    task.class_weights = torch.tensor(weights)
    logits, labels = torch.randn(8, 3), torch.tensor([0, 1, 2, 1, 0, 0, 1, 2])
    batch = {"labels": labels}
    loss = task.sums_of(logits, batch)[0] / task.counts(batch)[0]
    expected = torch.nn.functional.cross_entropy(logits, labels, weight=torch.tensor(weights))
    torch.testing.assert_close(loss, expected)


def test_relations_are_scored_as_semeval_does(tokenizer):
    labels = ["Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Message-Topic(e1,e2)", "Other"]
    generator = np.random.default_rng(0)
    gold, guess = generator.integers(0, 4, 200), generator.integers(0, 4, 200)

    class Split:
        labels = gold

    # The data set defines which label stands for none.
    settings = RelationClassificationData(dataset="semeval2010-task8")
    config = BertConfig.preset("tiny", vocab_size=len(tokenizer))
    task = RelationClassificationTask(
        BertForRelationClassification(config, labels=labels), config, tokenizer, settings, labels
    )
    scores = task.scores(Split, list(np.eye(4)[guess]), Subset("", 0, 200))
    f1 = []
    for name in ("Cause-Effect", "Message-Topic"):
        right = sum(labels[g] == labels[p] and labels[g].startswith(name) for g, p in zip(gold, guess, strict=True))
        wanted, found = (Counter(labels[x].split("(")[0] for x in side)[name] for side in (gold, guess))
        f1.append(2 * right / (wanted + found))
    assert scores["macro_f1"] == pytest.approx(np.mean(f1))


def test_two_processes_score_a_split_as_one_does(two_ranks, tables, tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    values = {
        "experiment": "tags",
        "task": "token-classification",
        "model": {"size": "tiny", "config": {"max_position_embeddings": 48}},
        "data": task_data("token-classification", tables, tmp_path)
        | {
            "tokenizer": str(tmp_path / "tokenizer"),
            "max_seq_length": 24,
            "evaluation_batch_size": 4,
            "batch_size": 8,
        },
        "trainer": {"max_steps": 30, "accelerator": "cpu", "precision": "32"},
        "optimizer": {"learning_rate": 3e-3},
        "wandb": {"mode": "disabled"},
    }
    (tmp_path / "tags.yaml").write_text(yaml.safe_dump(values))
    run = tmp_path / "run"
    assert main(["fit", "--config", str(tmp_path / "tags.yaml"), "--run-directory", str(run)]) == 0
    texts, reports = [], []
    command = ["test", "--checkpoint", str(run)]
    for score in (
        lambda: [main(command)],
        lambda: two_ranks.run([*command, "--trainer.devices", "2", "--trainer.strategy", "ddp"]),
    ):
        assert {*score()} == {0}
        texts.append((run / "predictions/test.jsonl").read_text())
        row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        reports.append({name: value for name, value in row.items() if "test/" in name and "loss" not in name})
    assert texts[0] == texts[1]
    assert reports[0] == reports[1]
    assert reports[0]["test/entity_f1"] > 0.2


def test_class_weights_and_thresholds_come_from_the_checkpoint(tables, tokenizer, tmp_path, capsys):
    tokenizer.save(tmp_path / "tokenizer")
    values = {
        "experiment": "weights",
        "task": "text-classification",
        "model": {"size": "tiny", "config": {"max_position_embeddings": 48}},
        "data": task_data("text-classification", tables, tmp_path)
        | {
            "tokenizer": str(tmp_path / "tokenizer"),
            "max_seq_length": 24,
            "class_weights": {"animals": 0.1, "nature": 5.0},
        },
        "trainer": {"max_steps": 2, "accelerator": "cpu", "precision": "32", "val_check_interval": 2},
        "wandb": {"mode": "disabled"},
    }
    (tmp_path / "weights.yaml").write_text(yaml.safe_dump(values))
    run = tmp_path / "run"
    losses = []
    for command in (
        ["fit", "--config", str(tmp_path / "weights.yaml"), "--run-directory", str(run)],
        ["validate", "--checkpoint", str(run)],
    ):
        assert main(command) == 0
        lines = capsys.readouterr().out.splitlines()
        losses.append(next(line.split()[1] for line in lines if line.strip().startswith("val/loss")))
    assert losses[0] == losses[1]


def test_a_resumed_run_keeps_the_null_threshold(tokenizer):
    settings = QuestionAnsweringData(max_seq_length=20, max_question_length=6)
    config = BertConfig.preset("tiny", vocab_size=len(tokenizer))
    tasks = [QuestionAnsweringTask(BertForQuestionAnswering(config), config, tokenizer, settings, True) for _ in "ab"]
    tasks[0].null_threshold = -1.5
    entry = {"bert_lightning": tasks[0].checkpoint_entry(), "log_window": None, "log_window_seconds": 0.0}
    tasks[1].on_load_checkpoint(entry)
    assert tasks[1].null_threshold == -1.5
