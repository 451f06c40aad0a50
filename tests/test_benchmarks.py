"""Arithmetic and data of the benchmarks, and the GPU suite in its tiny form."""

import dataclasses
import json
import mmap
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import finetuning
import finetuning_data
import generated
import gpu_checks
import gpu_setting
import guard
import measuring
import memory
import numpy as np
import pretraining_contenders
import pretraining_step
import pytest
import tables
import torch
import transformers
import transformers_encoding

from bert_lightning.tasks.question_answering.data import QuestionAnsweringDataModule
from bert_lightning.tasks.question_answering.settings import QuestionAnsweringData
from bert_lightning.tasks.text_classification.data import TextClassificationDataModule
from bert_lightning.tasks.text_classification.settings import TextClassificationData
from bert_lightning.text.wordpiece import WordPieceTokenizer

ROOT = Path(__file__).parents[1]


# -- guard.py ----------------------------------------------------------------------------------------------------


def write_results(folder, **files):
    folder.mkdir()
    for name, ratios in files.items():
        (folder / f"{name}.json").write_text(json.dumps({"ratios": ratios, "seconds": {"ours": 1.0}}))
    return folder


@pytest.mark.parametrize(
    ("now", "tolerance", "num_lines"),
    [
        ({"a": 2.0, "b": 1.0}, "0.2", 0),
        ({"a": 1.61, "b": 9.0, "new": 0.1}, "0.2", 0),
        ({"a": 1.59, "b": 1.0}, "0.2", 1),
        ({"a": 1.59, "b": 1.0}, "0.3", 0),
        ({"a": 1.0, "b": 0.5}, "0.2", 2),
        ({"b": 1.0}, "0.2", 1),
        ({"a": float("nan"), "b": 1.0}, "0.2", 1),
    ],
)
def test_the_guard_fails_with_a_line_for_each_ratio_that_fell_by_more_than_the_tolerance(
    tmp_path, monkeypatch, capsys, now, tolerance, num_lines
):
    committed = write_results(tmp_path / "committed", steps={"a": 2.0, "b": 1.0}, other={"c": 3.0})
    measured = write_results(tmp_path / "measured", steps=now)
    monkeypatch.setattr(
        sys, "argv", ["guard.py", str(measured), "--against", str(committed), "--tolerance", tolerance]
    )
    assert guard.main() == (1 if num_lines else 0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == num_lines + 1
    assert all(line.startswith("steps.json: ") for line in lines[:-1])
    assert lines[-1].startswith(f"{num_lines} of 2 ratios in 1 files")


@pytest.mark.parametrize(("cost", "status"), [(0.08, 0), (-0.02, 0), (0.081, 1), (float("nan"), 1)])
def test_the_guard_fails_if_fresh_shapes_cost_more_than_the_limit_whatever_was_committed(
    tmp_path, monkeypatch, capsys, cost, status
):
    committed = write_results(tmp_path / "committed", steps={"a": 2.0})
    measured = write_results(tmp_path / "measured", steps={"a": 2.0})
    limits = {"shape_cost": {"value": cost, "limit": measuring.SHAPE_COST_LIMIT}}
    (measured / "steps.json").write_text(json.dumps({"ratios": {"a": 2.0}, "limits": limits}))
    monkeypatch.setattr(sys, "argv", ["guard.py", str(measured), "--against", str(committed)])
    assert guard.main() == status
    assert capsys.readouterr().out.startswith("steps.json: shape_cost: ") == bool(status)


def test_the_guard_does_not_pass_if_there_is_nothing_to_compare(tmp_path, monkeypatch):
    committed = write_results(tmp_path / "committed", steps={"a": 2.0})
    measured = write_results(tmp_path / "measured", others={"a": 2.0})
    monkeypatch.setattr(sys, "argv", ["guard.py", str(measured), "--against", str(committed)])
    assert guard.main() == 2


# -- contenders --------------------------------------------------------------------------------------------------


class FakeTraining:
    """A training that counts its steps, of ten tokens each."""

    def __init__(self, num_steps):
        self.num_steps, self.taken = num_steps, 0

    def __call__(self, callback):
        for _ in range(self.num_steps):
            self.taken += 1
            callback.on_train_batch_end(None, None, None, [{"num_tokens": 4}, {"num_tokens": 6}], 0)


def test_a_paused_training_takes_as_many_steps_as_a_turn_has_and_then_stands_still():
    training = FakeTraining(100)
    paused = measuring.PausedTraining(training, 3, torch.device("cpu"))
    for turn in range(1, 4):
        [rate] = paused()
        assert rate > 0
        assert training.taken == 3 * turn


def test_a_paused_training_leaves_other_contenders_without_its_deterministic_algorithms():
    seen = []

    def train(callback):
        torch.set_deterministic_debug_mode("warn")
        for _ in range(2):
            callback.on_train_batch_end(None, None, None, [{"num_tokens": 1}], 0)
            seen.append(torch.get_deterministic_debug_mode())

    paused = measuring.PausedTraining(train, 1, torch.device("cpu"))
    try:
        paused()
        assert torch.get_deterministic_debug_mode() == 0
        paused()
        assert seen == [1]
        assert torch.get_deterministic_debug_mode() == 0
    finally:
        torch.set_deterministic_debug_mode("default")


def test_a_training_that_ends_before_its_last_turn_or_fails_is_an_error():
    paused = measuring.PausedTraining(FakeTraining(4), 3, torch.device("cpu"))
    paused()
    with pytest.raises(RuntimeError, match="ended before its last turn"):
        paused()

    def fail(callback):
        raise ValueError("no memory")

    with pytest.raises(ValueError, match="no memory"):
        measuring.PausedTraining(fail, 3, torch.device("cpu"))()


@pytest.fixture
def setting(store, monkeypatch, tmp_path):
    """A tiny pre-training on the small corpus."""
    monkeypatch.setattr(pretraining_contenders.tempfile, "tempdir", str(tmp_path))
    options = SimpleNamespace(
        size="tiny", device="cpu", batch_size=4, sequence_length=32, mean_length=24, precision="32"
    )
    experiment = pretraining_step.experiment_of(options, store)
    # A process with as many threads as that of the tests cannot always be forked from one of them.
    data = dataclasses.replace(experiment.data, num_workers=0)
    experiment = dataclasses.replace(experiment, data=data)
    return pretraining_contenders.Setting(experiment, 2, torch.device("cpu"), options.batch_size)


def test_fit_and_the_bare_step_train_on_the_same_batches_and_no_batch_comes_twice(setting, monkeypatch):
    seen = {}

    def note(self, trainer, task, outputs, batch, number):
        [micro_batch] = batch
        seen.setdefault(self, []).append(micro_batch["input_ids"])
        count(self, trainer, task, outputs, batch, number)

    count = measuring.PausedTraining.on_train_batch_end
    monkeypatch.setattr(measuring.PausedTraining, "on_train_batch_end", note)
    for contender in (setting.fit(), setting.step(), setting.step(repeated=True)):
        for _ in range(2):
            contender()
    fit, fresh, repeated = seen.values()
    assert len(fit) == len(fresh) == len(repeated) == 4
    for step, (a, b) in enumerate(zip(fit, fresh, strict=True)):
        assert torch.equal(a, b)
        assert torch.equal(a, setting.stream[step]["input_ids"])
    assert not any(torch.equal(fit[a], fit[b]) for a in range(4) for b in range(a))
    assert [torch.equal(repeated[0], batch) for batch in repeated] == [True, False, True, False]


@pytest.mark.parametrize("multiple", [1, 64])
def test_transformers_gets_the_tokens_masks_and_labels_of_our_batch(setting, multiple):
    batch = setting.stream[0]
    theirs = pretraining_contenders.inputs_of_transformers(batch, multiple)
    lengths = pretraining_contenders.lengths_of(batch)
    assert int(lengths.sum()) == batch["num_tokens"] < batch["input_ids"].numel()
    assert {tensor.shape for name, tensor in theirs.items() if name != "next_sentence_label"} == {
        (4, 64 if multiple == 64 else int(lengths.max()))
    }
    labels = dict(zip(batch["masked_positions"].tolist(), batch["masked_labels"].tolist(), strict=True))
    width = batch["input_ids"].shape[1]
    for row, length in enumerate(lengths.tolist()):
        assert theirs["input_ids"][row, :length].tolist() == batch["input_ids"][row, :length].tolist()
        assert theirs["token_type_ids"][row, :length].tolist() == batch["token_type_ids"][row, :length].tolist()
        assert theirs["attention_mask"][row].tolist() == [int(n < length) for n in range(theirs["labels"].shape[1])]
        expected = [labels.get(row * width + n, -100) for n in range(length)]
        assert theirs["labels"][row].tolist() == expected + [-100] * (theirs["labels"].shape[1] - length)
    assert theirs["next_sentence_label"].tolist() == batch["sentence_labels"].tolist()


def test_the_packed_form_has_the_same_tokens_and_masked_positions_end_to_end(setting):
    batch = setting.stream[0]
    packed, width = pretraining_contenders.in_packed_form(batch), batch["input_ids"].shape[1]
    lengths = pretraining_contenders.lengths_of(batch)
    real = [row * width + n for row, length in enumerate(lengths.tolist()) for n in range(length)]
    assert packed["input_ids"].tolist() == [batch["input_ids"].flatten()[place] for place in real]
    assert packed["packing"].lengths.tolist() == lengths.tolist()
    assert [real[place] for place in packed["masked_positions"].tolist()] == batch["masked_positions"].tolist()
    assert packed["masked_labels"].tolist() == batch["masked_labels"].tolist()


@pytest.mark.parametrize(("longest", "mean"), [(512, 257), (512, 400), (128, 100)])
def test_a_mean_length_is_reached_by_cutting_a_share_of_the_sequences_evenly_up_to_the_longest(longest, mean):
    share = pretraining_step.short_share(longest, mean)
    cut = sum(range(2, longest + 1)) / (longest - 1)
    assert (1 - share) * longest + share * cut == pytest.approx(mean)


@pytest.mark.parametrize("mean", [255, 513])
def test_a_mean_length_that_cutting_cannot_reach_is_refused(mean):
    with pytest.raises(ValueError, match="it must be 256 to 512"):
        pretraining_step.short_share(512, mean)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, [["a", "b_compiled", "c", "d_compiled"]]), (9.0, [["a", "c"], ["b_compiled"], ["d_compiled"]])],
)
def test_with_a_limit_each_compiled_contender_begins_by_itself_after_the_others(limit, expected):
    options = SimpleNamespace(contenders=["a", "b_compiled", "c", "d_compiled"], limit=limit)
    assert pretraining_step.groups(options) == expected


def test_a_ratio_is_that_of_each_round_and_fit_is_compared_before_bare_steps():
    rates = {"ours": [9.0, 9.0], "ours_repeated": [10.0, 10.0], "fit": [8.0, 4.0], "transformers_fused": [4.0, 1.0]}
    speeds = {name: measuring.spread(values) for name, values in rates.items()}
    assert max(["ours", "ours_repeated", "fit"], key=lambda name: pretraining_step.rank(name, speeds)) == "fit"
    assert max(["ours", "ours_repeated"], key=lambda name: pretraining_step.rank(name, speeds)) == "ours"
    assert measuring.ratio(rates["fit"], rates["transformers_fused"])["median"] == 3.0


# -- the tables of the page --------------------------------------------------------------------------------------


def test_the_tables_of_the_page_are_those_of_the_committed_results():
    page = tables.PAGE.read_text(encoding="utf-8")
    assert re.findall("<!-- table: (.*) -->", page) == list(tables.TABLES)
    assert page.count("<!-- end of table -->") == len(tables.TABLES)
    assert tables.filled(page, tables.Results(tables.RESULTS)) == page


def test_a_figure_of_the_results_is_in_its_row_and_column_and_a_dash_stands_for_one_that_is_missing(tmp_path):
    (tmp_path / "compiled").mkdir()
    base = {
        "contenders": {"fit": {"tokens_per_second": 498.6}},
        "ceiling_share": 0.6349,
        "ratios": {"transformers_fused": 2.14},
        "ratio_spread": {"transformers_fused": [2.06, 2.2]},
        "shape_cost": {"median": 0.021},
    }
    (tmp_path / "pretraining_step-base.json").write_text(json.dumps(base))
    (tmp_path / "compiled/pretraining_step-base.json").write_text(
        json.dumps({"ratios": {"transformers_fused": 9.0, "transformers_compiled": 1.53}})
    )
    (tmp_path / "memory.json").write_text(
        json.dumps({"models": {"demo": {"gigabytes": {"50": {"resident": 0.61, "peak": 0.7}}}}})
    )
    page = "".join(f"<!-- table: {name} -->\nold\n<!-- end of table -->\n" for name in ("pretraining", "memory"))
    filled = tables.filled(page, tables.Results(tmp_path))
    assert "old" not in filled
    cells = {row[0]: row[-1] for line in filled.splitlines() if (row := line.strip("| ").split(" | "))}
    assert cells["`fit`, real tokens/s"] == "499"
    assert cells["share of the ceiling"] == "63 %"
    assert cells["the same, transformers with fused AdamW"] == "2.1 (2.1–2.2)"
    assert cells["the same, also compiled and padded to 64"] == "1.5"
    assert cells["times as fast as transformers"] == "–"
    assert cells["what fresh shapes cost"] == "2.1 %"
    assert "| demo | 50 | 0.61 | 0.70 |" in filled
    assert "| mini | – | – | – |" in filled


# -- memory ------------------------------------------------------------------------------------------------------


def test_memory_is_noted_after_the_steps_that_were_asked_for_and_its_peak_never_falls():
    noted = memory.MemoryAtSteps([2, 4])
    for step in range(1, 5):
        if step == 3:
            # Not an array, whose memory may be some that the process has kept.
            with mmap.mmap(-1, 400_000_000) as block:
                for start in range(0, len(block), mmap.PAGESIZE):
                    block[start] = 1
        noted.on_train_batch_end(SimpleNamespace(global_step=step), None, None, None, step)
    assert list(noted.noted) == [2, 4]
    assert noted.noted[4]["peak"] >= noted.noted[2]["resident"] + 0.3
    assert memory.growth(noted.noted)["peak"] > 0


# -- generated data ----------------------------------------------------------------------------------------------


def test_generated_text_has_no_unknown_word_and_the_lengths_of_sst2(tmp_path):
    generated.write_sst2(tmp_path, 5000, 10)
    tokenizer = WordPieceTokenizer(generated.vocabulary())
    assert len(tokenizer) == len(set(tokenizer.entries)) == 30522
    texts = [line.split("\t")[0] for line in (tmp_path / "train.tsv").read_text().splitlines()[1:]]
    encoded = tokenizer.encode_batch(texts)
    assert not any(tokenizer.unknown_id in ids for ids in encoded)
    lengths = np.array([len(ids) for ids in encoded])
    # Of the 67,349 published phrases: 11.3 on average, 2, 4, 8, 16 and 25 at these quantiles, and 64 at most.
    assert lengths.mean() == pytest.approx(11.3, abs=0.5)
    assert np.abs(np.quantile(lengths, [0.1, 0.25, 0.5, 0.75, 0.9]) - [2, 4, 8, 16, 25]).max() <= 2
    assert lengths.max() <= 64


def test_both_contenders_of_mrpc_train_on_the_same_pairs_and_labels(tmp_path):
    generated.write_mrpc(tmp_path, 300, 1)
    vocabulary = generated.vocabulary()
    settings = TextClassificationData(dataset="glue/mrpc", folder=str(tmp_path), max_seq_length=128)
    data = TextClassificationDataModule(settings, WordPieceTokenizer(vocabulary))
    ours = data.splits["train"]
    WordPieceTokenizer(vocabulary).save(tmp_path / "tokenizer")
    theirs = transformers_encoding.text_features(
        transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer"), 128, ours.examples
    )
    assert len(theirs) == len(ours.lengths) == 300
    for number, feature in enumerate(theirs):
        batch = ours.batch(np.array([number]))
        size = batch["num_tokens"]
        assert batch["input_ids"][0, :size].tolist() == feature["input_ids"]
        assert batch["token_type_ids"][0, :size].tolist() == feature["token_type_ids"]
        assert data.labels[int(batch["labels"][0])] == str(feature["label"])
    firsts = np.array([len(example.text.split()) for example in ours.examples])
    seconds = np.array([len(example.text_pair.split()) - 1 for example in ours.examples])
    assert firsts.mean() == pytest.approx(26, abs=1.5)
    assert (seconds / firsts).min() > 0.6
    assert (firsts / seconds).min() > 0.6
    same = [example.text.split()[0] == example.text_pair.split()[0] for example in ours.examples]
    assert same == [example.label == "1" for example in ours.examples]


def test_times_of_fit_are_those_from_its_first_step_to_its_last():
    times, trainer, task = finetuning.StepTimes(), SimpleNamespace(global_step=0, max_steps=3), SimpleNamespace()
    task.device = torch.device("cpu")
    for step in range(1, 4):
        times.on_train_batch_start(trainer, task, None, step)
        trainer.global_step = step
        times.on_train_batch_end(trainer, task, None, None, step)
        assert (times.seconds > 0) == (step == 3)


@pytest.mark.parametrize("length", [64, 384])
def test_both_contenders_of_squad_train_on_the_same_windows_and_answers(tmp_path, length):
    generated.write_squad(tmp_path, 30, 1)
    vocabulary = generated.vocabulary()
    settings = QuestionAnsweringData(
        dataset="squad-v1.1",
        folder=str(tmp_path),
        max_seq_length=length,
        doc_overlap=12,
        max_question_length=length // 2,
    )
    ours = QuestionAnsweringDataModule(settings, WordPieceTokenizer(vocabulary)).splits["train"]
    WordPieceTokenizer(vocabulary).save(tmp_path / "tokenizer")
    theirs = transformers_encoding.window_features(
        transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer"), length, 12, ours.examples
    )
    assert len(theirs) == len(ours.lengths) >= 150
    for number, feature in enumerate(theirs):
        batch = ours.batch(np.array([number]))
        size = int(ours.lengths[number])
        assert batch["input_ids"][0, :size].tolist() == feature["input_ids"]
        assert batch["token_type_ids"][0, :size].tolist() == feature["token_type_ids"]
        assert int(batch["start_positions"][0]) == feature["start_positions"]
        assert int(batch["end_positions"][0]) == feature["end_positions"]


def test_a_share_of_squad_is_whole_paragraphs_and_always_the_same(tmp_path):
    generated.write_squad(tmp_path, 40, 1)
    kept = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        finetuning_data.sample_squad(tmp_path, tmp_path / name, 0.5)
        kept.append(json.loads((tmp_path / name / "train-v1.1.json").read_text())["data"][0]["paragraphs"])
    whole = json.loads((tmp_path / "train-v1.1.json").read_text())["data"][0]["paragraphs"]
    assert kept[0] == kept[1]
    assert 5 < len(kept[0]) < 35
    assert all(paragraph in whole for paragraph in kept[0])


# -- the suite for a GPU -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"a": gpu_setting.Measured(1.0, 1.0)}, "ok"),
        ({"a": gpu_setting.Measured(0.0, 1.0), "b": gpu_setting.Measured(1.1, 1.0)}, "failed"),
        ({"a": gpu_setting.Measured(float("nan"), 1.0)}, "failed"),
        (gpu_setting.UnsuitableError("no"), "left out"),
        (RuntimeError("no"), "failed"),
    ],
)
def test_a_check_fails_by_its_figures_or_an_error(monkeypatch, figures, expected):
    def check(setting):
        if isinstance(figures, Exception):
            raise figures
        return figures

    monkeypatch.setitem(gpu_checks.CHECKS, "check", check)
    assert gpu_checks.outcome("check", gpu_setting.Setting(torch.device("cpu")))["result"] == expected


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_the_checks_notice_a_backend_that_is_wrong(monkeypatch, backend):
    from bert_lightning.model.layers import attention

    def a_tenth_too_large(query_key_value, layout, num_heads, dropout):
        context, weights = right(query_key_value, layout, num_heads, dropout)
        return attention.AttentionOutput(context * 1.1, weights)

    right = attention._BACKENDS[backend].attend
    monkeypatch.setitem(attention._BACKENDS, backend, attention.Backend(a_tenth_too_large))
    setting = gpu_setting.Setting(torch.device("cpu"), quick=True)
    for name in ("every_backend_and_form_agrees_with_float64", "every_backend_has_the_gradients_of_eager"):
        assert gpu_checks.outcome(name, setting)["result"] == "failed"
