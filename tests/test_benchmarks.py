"""Arithmetic and data of the benchmarks, and the GPU suite in its tiny form."""

import json
import subprocess
import sys
from pathlib import Path

import finetuning
import generated
import gpu_checks
import gpu_setting
import gpu_suite
import guard
import numpy as np
import pytest
import torch
import transformers
import transformers_encoding

from bert_lightning.tasks.question_answering.data import QuestionAnsweringDataModule
from bert_lightning.tasks.question_answering.settings import QuestionAnsweringData
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


def test_the_guard_does_not_pass_if_there_is_nothing_to_compare(tmp_path, monkeypatch):
    committed = write_results(tmp_path / "committed", steps={"a": 2.0})
    measured = write_results(tmp_path / "measured", others={"a": 2.0})
    monkeypatch.setattr(sys, "argv", ["guard.py", str(measured), "--against", str(committed)])
    assert guard.main() == 2


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
        finetuning.sample_squad(tmp_path, tmp_path / name, 0.5)
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


def test_without_cuda_the_suite_prints_one_line_and_exits_with_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_suite.py", "--out", str(tmp_path / "out")])
    assert gpu_suite.main() == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert "no CUDA device" in captured.err
    assert not (tmp_path / "out").exists()


def test_the_limits_of_the_suite_are_less_than_eight_minutes_together():
    # Ending the last process takes a moment.
    assert gpu_suite.BUDGET + 10 < 480
    assert gpu_suite.CHECKS_LIMIT + gpu_suite.TESTS_LIMIT < gpu_suite.BUDGET / 1.5
    assert set(gpu_suite.SHARES) == set(gpu_suite.ROWS) == set(gpu_suite.QUICK_ROWS)


@pytest.mark.slow
def test_the_suite_runs_in_its_tiny_form_on_a_cpu(tmp_path):
    command = [sys.executable, str(ROOT / "experiments/benchmarks/gpu_suite.py"), "--quick", "--device", "cpu"]
    ended = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["checks"]) == list(gpu_checks.CHECKS)
    assert {check["result"] for check in results["checks"].values()} == {"ok", "left out"}
    assert sum(check["result"] == "ok" for check in results["checks"].values()) >= 6
    for row in results["rows"].values():
        assert row["result"] == "ended"
        assert set(row["figures"]["contenders"]) == {"ours", "transformers", "transformers_fused"}
    assert results["failed"] == []
