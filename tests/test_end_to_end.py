"""The main commands from the shell: vocabulary, store, pre-training, resuming, fine-tuning, test, predict, report."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import transformers
import wandb
import yaml

from bert_lightning.cli import main
from bert_lightning.runs.directory import RunDirectory
from tests.support.commands import shell
from tests.support.kills import Killed, kill_at
from tests.support.runs import logged, weights


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_leaves_the_documented_files(home):
    run = RunDirectory(home / "runs/whole")
    manifest = run.read_manifest()
    assert manifest["ended"] == "finished"
    assert manifest["step"] == 12
    assert set(manifest["data"]) == {"train", "validation"}
    [session] = manifest["sessions"]
    assert {"command", "versions", "hardware", "git", "started", "finished"} <= session.keys()
    names = {name for row in logged(run.path) for name in row}
    assert {"train/loss", "train/mlm_loss", "train/nsp_loss", "val/mlm_accuracy", "val/nsp_accuracy"} <= names
    assert [row["step"] for row in logged(run.path) if "val/mlm_loss" in row] == [5, 10, 12]
    assert (run.checkpoints / "last.ckpt").resolve().name == "step-000000012.ckpt"


def test_the_resolved_config_repeats_the_run_bit_for_bit(home, tmp_path):
    config = home / "runs/whole/config.yaml"
    assert main(["fit", "--config", str(config), "--run-directory", str(tmp_path / "again")]) == 0
    assert same(weights(home / "runs/whole"), weights(tmp_path / "again"))
    assert logged(home / "runs/whole") == logged(tmp_path / "again")


@pytest.mark.parametrize("step", [2, 4, 5, 8, 10])
def test_resuming_from_any_checkpoint_ends_in_the_same_weights_and_metrics(home, tmp_path, step):
    run = tmp_path / "resumed"
    shutil.copytree(home / "runs/whole", run, symlinks=True)
    for path in (run / "checkpoints").glob("step-*"):
        if int(path.name[5:14]) > step:
            path.unlink()
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "ended": None}))
    assert main(["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", str(run)]) == 0
    assert same(weights(home / "runs/whole"), weights(run))
    assert logged(home / "runs/whole") == logged(run)
    assert "resumed_from" in json.loads((run / "manifest.json").read_text())["sessions"][-1]


def test_the_best_checkpoint_stays_the_best_after_a_kill(home, tmp_path, monkeypatch):
    command = ["fit", "--config", str(home / "pretraining.yaml"), "--trainer.val_check_interval", "4"]
    command += ["--optimizer.learning_rate", "0.5", "--checkpoint.keep_last", "1", "--run-directory"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        kill_at(patch, 9)
        with pytest.raises(Killed):
            main([*command, str(tmp_path / "killed")])
    assert main([*command, str(tmp_path / "killed")]) == 0
    best = [(tmp_path / run / "checkpoints/best.ckpt").resolve().name for run in ("whole", "killed")]
    assert best[0] == best[1]
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert logged(tmp_path / "whole") == logged(tmp_path / "killed")


def test_resuming_from_an_earlier_checkpoint_sets_the_later_ones_aside(home, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(home / "runs/whole", run, symlinks=True)
    (run / "checkpoints/.step-000000012.ckpt.99.tmp").touch()
    command = ["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", str(run)]
    assert main([*command, "--resume", str(home / "runs/whole/checkpoints/step-000000006.ckpt")]) == 0
    assert (run / "checkpoints/set-aside/step-000000012.ckpt").exists()
    assert same(weights(home / "runs/whole"), weights(run))
    assert logged(home / "runs/whole") == logged(run)
    assert not list((run / "checkpoints").glob(".*"))


def test_a_checkpoint_of_another_task_or_size_cannot_be_resumed(home, classifier, tmp_path, capsys):
    command = ["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", str(tmp_path / "run")]
    for change, message in (
        (["--resume", str(classifier)], "its task differs"),
        (["--resume", str(home / "runs/whole"), "--model.config.hidden_size", "64"], "its architecture"),
        (["--resume", str(home / "runs/whole"), "--trainer.max_steps", "3"], "after the 3 steps of this training"),
    ):
        assert main([*command, *change]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_a_finished_run_whose_data_changed_is_not_reported_as_finished(home, classifier, tmp_path, tables, capsys):
    table = tmp_path / "train.tsv"
    table.write_bytes(tables["train"].read_bytes())
    command = ["fit", "--config", str(home / "topics.yaml"), "--data.train", str(table), "--trainer.max_steps", "2"]
    command += ["--trainer.max_epochs", "null", "--run-directory", str(tmp_path / "run")]
    assert main(command) == 0
    table.write_text(table.read_text() + "The old cat.\tanimals\n")
    assert main(command) == 2
    assert "changed since" in capsys.readouterr().err


def test_a_finished_run_is_reported_and_not_changed(home, capsys):
    before = (home / "runs/whole/manifest.json").read_bytes()
    assert main(["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", str(home / "runs/whole")]) == 0
    assert "finished before" in capsys.readouterr().out
    assert (home / "runs/whole/manifest.json").read_bytes() == before


def test_the_same_command_finds_its_own_run(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["fit", "--config", str(home / "pretraining.yaml"), "--trainer.max_steps", "2"]
    assert main(command) == 0
    [run] = (tmp_path / "runs/small").iterdir()
    assert main(command) == 0
    assert "finished before" in capsys.readouterr().out
    assert main([*command, "--resume", "never"]) == 0
    assert sorted(p.name for p in (tmp_path / "runs/small").iterdir()) == [run.name, f"{run.name}-2"]


def test_other_settings_in_the_same_directory_are_refused_by_name(home, capsys):
    command = ["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", str(home / "runs/whole")]
    assert main([*command, "--optimizer.learning_rate", "1"]) == 2
    assert "optimizer.learning_rate" in capsys.readouterr().err


def test_settings_of_splitting_and_saving_may_change_in_the_same_directory(home, tmp_path):
    shutil.copytree(home / "runs/whole", tmp_path / "run", symlinks=True)
    for path in (tmp_path / "run/checkpoints").glob("*.ckpt"):
        if path.name != "step-000000003.ckpt":
            path.unlink()
    RunDirectory(tmp_path / "run").update_manifest(ended=None)
    command = ["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", str(tmp_path / "run")]
    assert main([*command, "--trainer.accumulate_grad_batches", "4", "--checkpoint.keep_last", "3"]) == 0
    assert RunDirectory(tmp_path / "run").read_config()["trainer"]["accumulate_grad_batches"] == 4
    before, now = logged(home / "runs/whole"), logged(tmp_path / "run")
    assert [row["step"] for row in now] == [row["step"] for row in before]
    assert now[0] == before[0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGUSR1", 143), ("SIGUSR2", 143), ("SIGINT", 130)])
def test_a_signal_saves_a_checkpoint_and_gives_its_status(home, tmp_path, name, status):
    command = [sys.executable, "-m", "bert_lightning", "fit", "--config", str(home / "pretraining.yaml")]
    command += ["--run-directory", str(tmp_path / "run"), "--trainer.max_steps", "400"]
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 120
    while not RunDirectory(tmp_path / "run").read_metrics():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == status
    assert "Traceback" not in errors
    manifest = RunDirectory(tmp_path / "run").read_manifest()
    assert manifest["ended"] == f"stopped by {name}"
    assert (tmp_path / "run/checkpoints/last.ckpt").resolve().name == f"step-{manifest['step']:09d}.ckpt"


@pytest.mark.slow
def test_two_processes_train_like_one(home, tmp_path):
    no_dropout = ["--model.config.hidden_dropout_prob", "0", "--model.config.attention_probs_dropout_prob", "0"]
    base = ["fit", "--config", home / "pretraining.yaml", *no_dropout]
    two = shell(*base, "--run-directory", "two", "--trainer.devices", 2, "--trainer.strategy", "ddp", cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    one = shell(*base, "--run-directory", "one", cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    for name, expected in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], expected, rtol=1e-4, atol=2e-6, msg=name)
    for first, second in zip(logged(tmp_path / "one"), logged(tmp_path / "two"), strict=True):
        assert first == pytest.approx(second, rel=1e-4)
    assert two.stdout.count("run directory") == 1


def test_the_predictions_of_a_tested_run_give_its_score(classifier, tables, capsys):
    assert main(["test", "--checkpoint", str(classifier)]) == 0
    lines = capsys.readouterr().out.splitlines()
    printed = dict(line.split() for line in lines if line.strip().startswith("test/"))
    rows = [json.loads(line) for line in (classifier / "predictions/test.jsonl").read_text().splitlines()]
    lines = tables["test"].read_text().splitlines()[1:]
    assert [f"{row['sentence']}\t{row['gold']}" for row in rows] == lines
    accuracy = sum(row["gold"] == row["label"] for row in rows) / len(rows)
    assert float(printed["test/accuracy"]) == pytest.approx(accuracy, abs=1e-4)
    assert accuracy > 0.6


def test_a_test_file_without_labels_is_predicted_and_the_missing_scores_are_explained(classifier, tmp_path, capsys):
    path = tmp_path / "unlabelled.tsv"
    path.write_text("sentence\tclass\nThe old cat.\tanimals\n")
    assert main(["test", "--checkpoint", str(classifier), "--data.test", str(path)]) == 0
    assert "no scores, because the file has no labels\npredictions: " in capsys.readouterr().out
    (classifier / "predictions/test-unlabelled.jsonl").unlink()


def test_predict_on_raw_lines_agrees_with_test(classifier, tmp_path, capsys):
    assert main(["test", "--checkpoint", str(classifier)]) == 0
    tested = [json.loads(line) for line in (classifier / "predictions/test.jsonl").read_text().splitlines()]
    (tmp_path / "raw.txt").write_text("".join(row["sentence"] + "\n" for row in tested))
    output = tmp_path / "out.jsonl"
    command = [
        "predict",
        "--checkpoint",
        str(classifier),
        "--input",
        str(tmp_path / "raw.txt"),
        "--output",
        str(output),
    ]
    assert main(command) == 0
    predicted = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["label"] for row in predicted] == [row["label"] for row in tested]
    assert all(sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4) for row in predicted)


def test_predict_reads_standard_input_and_a_pretrained_run_fills_masks(home, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"The old [MASK] sees [MASK].\n")))
    assert main(["predict", "--checkpoint", str(home / "runs/whole")]) == 0
    [row] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(candidates) for candidates in row["masks"]] == [5, 5]


def test_validate_repeats_the_last_validation(home, capsys):
    assert main(["validate", "--checkpoint", str(home / "runs/whole/checkpoints/last.ckpt")]) == 0
    lines = capsys.readouterr().out.splitlines()
    printed = dict(line.split() for line in lines if line.strip().startswith("val/"))
    last = next(row for row in logged(home / "runs/whole") if "val/mlm_loss" in row and row["step"] == 12)
    assert float(printed["val/mlm_loss"]) == pytest.approx(last["val/mlm_loss"], abs=1e-4)
    assert float(printed["val/mlm_unigram_loss"]) == pytest.approx(last["val/mlm_unigram_loss"], abs=1e-4)


def test_a_report_holds_every_score_and_names_the_runs(home, classifier, tmp_path):
    runs = [str(home / "runs/whole"), str(classifier)]
    for name in ("report.html", "report.md"):
        assert main(["report", *runs, "--output", str(tmp_path / name)]) == 0
    html, markdown = ((tmp_path / name).read_text() for name in ("report.html", "report.md"))
    last = [row for row in logged(classifier) if "val/accuracy" in row][-1]
    for text in (html, markdown):
        assert f"{last['val/accuracy']:.4f}" in text
        assert all(run in text for run in runs)
    assert html.count("<svg") >= 5
    # The page must not point anywhere.
    assert "http" not in html.replace("http-equiv", "")


def test_the_trained_encoder_opens_in_transformers(home, tmp_path):
    from bert_lightning.model import BertForPreTraining

    model = BertForPreTraining.from_pretrained(home / "runs/whole").eval()
    model.save_pretrained(tmp_path)
    theirs = transformers.BertForPreTraining.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[2, 10, 11, 3]])
    torch.testing.assert_close(model(ids).prediction_logits, theirs(ids).prediction_logits, rtol=1e-5, atol=1e-5)


def test_scores_of_other_data_or_checkpoints_do_not_replace_the_runs_own(home, classifier, tables, tmp_path):
    assert main(["validate", "--checkpoint", str(classifier), "--data.validation", str(tables["test"])]) == 0
    assert main(["report", str(classifier), str(classifier), "--output", str(tmp_path / "r.md")]) == 0
    text = (tmp_path / "r.md").read_text()
    own = [row for row in logged(classifier) if "val/accuracy" in row and "checkpoint" not in row][-1]
    assert f"{own['val/accuracy']:.4f}" in text
    assert "±" not in text.split("\n", 5)[5], "the same run twice is one run"


def test_a_column_may_have_any_name(home, classifier, tables, tmp_path, capsys):
    table = tmp_path / "train.jsonl"
    lines = [line.split("\t") for line in tables["train"].read_text().splitlines()[1:]]
    table.write_text("".join(json.dumps({"place": text, "topic": topic}) + "\n" for text, topic in lines))
    command = [
        "fit",
        "--config",
        str(home / "topics.yaml"),
        "--data.train",
        str(table),
        "--data.text_column",
        "place",
    ]
    command += [
        "--data.validation",
        "null",
        "--early_stopping.patience",
        "null",
        "--trainer.max_epochs",
        "1",
        "--run-directory",
        str(tmp_path / "run"),
    ]
    assert main(command) == 0
    capsys.readouterr()
    assert main(["predict", "--checkpoint", str(tmp_path / "run"), "--input", str(table)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["place"] for row in rows] == [text for text, _ in lines]


def test_early_stopping_ends_training_before_the_last_step(home, classifier, tmp_path):
    command = ["fit", "--config", str(home / "topics.yaml"), "--run-directory", str(tmp_path / "run")]
    command += [
        "--early_stopping.patience",
        "1",
        "--optimizer.learning_rate",
        "0",
        "--trainer.val_check_interval",
        "2",
    ]
    assert main(command) == 0
    assert RunDirectory(tmp_path / "run").read_manifest()["step"] == 4


def test_wandb_online_without_a_key_is_refused_before_anything_is_written(home, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    command = ["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", str(tmp_path / "run")]
    assert main([*command, "--wandb.mode", "online"]) == 2
    assert "there is no API key" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_wandb_runs_offline_and_holds_the_metrics(home, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    command = ["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", str(tmp_path / "run")]
    assert main([*command, "--trainer.max_steps", "2", "--wandb.mode", "auto"]) == 0
    # W&B's own process may still be writing. This waits for its end.
    wandb.teardown()
    [log] = (tmp_path / "run/wandb").glob("offline-run-*/run-*.wandb")
    assert b"train/mlm_loss" in log.read_bytes()


def test_a_run_of_stages_packed_rows_and_a_mixture_resumes_bit_for_bit(home, store, validation_store, tmp_path):
    config = tmp_path / "staged.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                **yaml.safe_load((home / "pretraining.yaml").read_text()),
                "data": {
                    "train": {str(store): 0.7, str(validation_store): 0.3},
                    "validation": str(validation_store),
                    "max_seq_length": 24,
                    "batch_size": 8,
                    "batching": "packed",
                    "masking": {"name": "span", "rate": 0.3, "final_rate": 0.1},
                    "stages": [{"from_step": 6, "max_seq_length": 40, "batch_size": 4, "accumulate_grad_batches": 2}],
                },
            }
        )
    )
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    workers = ["--data.num_workers", "0"]
    assert main(["fit", "--config", str(config), "--run-directory", str(whole), *workers]) == 0
    for step in (5, 6, 7):
        shutil.copytree(whole, resumed)
        shutil.rmtree(resumed / "checkpoints")
        (resumed / "checkpoints").mkdir()
        for name in (f"step-{step:09}.ckpt", f"step-{step:09}.ckpt.sha256"):
            shutil.copy(whole / "checkpoints" / name, resumed / "checkpoints")
        manifest = RunDirectory(resumed)
        manifest.update_manifest(ended=None)
        assert main(["fit", "--config", str(config), "--run-directory", str(resumed), *workers]) == 0
        assert same(weights(whole), weights(resumed))
        assert logged(whole) == logged(resumed)
        shutil.rmtree(resumed)
