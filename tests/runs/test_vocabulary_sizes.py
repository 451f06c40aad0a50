"""Models with more embeddings than vocabulary entries, as in published models, and models of single texts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml

from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.cli import main
from bert_lightning.config.experiment import load_experiment
from bert_lightning.data.corpus.preparation import prepare
from bert_lightning.data.loading.module import TrainingPlan
from bert_lightning.data.pretraining.masking import TokenMasking
from bert_lightning.data.pretraining.module import PretrainingDataModule
from bert_lightning.data.pretraining.settings import PretrainingData
from bert_lightning.data.reading.tables import Row
from bert_lightning.errors import InputError
from bert_lightning.model import BertConfig, BertForMaskedLM, BertForPreTraining
from bert_lightning.model.architectures import model_of
from bert_lightning.model.onnx_export import export_onnx
from bert_lightning.runs.building import Setup, build_training
from bert_lightning.runs.starting_point import start_checkpoint
from bert_lightning.tasks.catalogue import TASKS
from bert_lightning.tasks.pretraining.task import NUM_CANDIDATES, PretrainingTask
from bert_lightning.tasks.relation_classification.data import MARKERS
from bert_lightning.text.wordpiece import SPECIAL_TOKENS, WordPieceTokenizer, load_tokenizer
from tests.support.task_data import RAW, task_data

ROWS = 128
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
}


def padded(tokenizer: WordPieceTokenizer, folder: Path, **changes) -> Path:
    """A model with 128 embeddings for the 120 entries of the vocabulary."""
    torch.manual_seed(0)
    config = BertConfig(**{"vocab_size": ROWS, **SHAPE, **changes})
    BertForPreTraining(config).save_pretrained(folder, tokenizer.vocabulary)
    return folder


def values_of(task: str, start: Path, tables, stores, folder: Path) -> dict:
    data = {"max_seq_length": 40, "batch_size": 8}
    if task == "pretraining":
        data |= {"train": str(stores[0]), "validation": str(stores[1]), "num_workers": 0}
    else:
        data |= task_data(task, tables, folder)
    return {
        "experiment": "padded",
        "task": task,
        "model": {"pretrained": str(start)},
        "trainer": {"max_steps": 2, "accelerator": "cpu", "precision": "32"},
        "wandb": {"mode": "disabled"},
        "data": data,
    }


def built(values: dict) -> Setup:
    experiment = load_experiment([], [], values)
    return build_training(experiment, start_checkpoint(experiment.model))


def predicted(setup: Setup, rows: list[dict]) -> list[dict]:
    with torch.inference_mode():
        return setup.task.eval().predict_rows([Row("row", row) for row in rows], 2)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_starts_from_a_model_with_a_rounded_up_vocabulary(
    task, tokenizer, tables, store, validation_store, tmp_path
):
    assert len(tokenizer) == 120
    values = values_of(task, padded(tokenizer, tmp_path / "start"), tables, (store, validation_store), tmp_path)
    setup = built(values)
    [batch] = setup.data.training_batches(0, TrainingPlan(1, 1, 1), 0, 1)
    assert torch.isfinite(setup.task.sums(batch)).all()
    # Markers of entities are new entries, so the checkpoint is fitted to the vocabulary.
    added = len(MARKERS) if task == "relation-classification" else None
    assert setup.task.config.vocab_size == (ROWS if added is None else 120 + added)
    assert len(predicted(setup, RAW[task])) == len(RAW[task])
    setup.task.model.save_pretrained(tmp_path / "exported", setup.task.tokenizer.vocabulary)
    again = read_checkpoint(tmp_path / "exported")
    assert again.vocabulary.entries == setup.task.tokenizer.entries
    assert model_of(again).config.vocab_size == setup.task.config.vocab_size
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert theirs.encode("the old cat", add_special_tokens=False) == tokenizer.encode_batch(["the old cat"])[0]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_command_takes_a_model_with_a_rounded_up_vocabulary(
    task, tokenizer, tables, store, validation_store, tmp_path, capsys
):
    values = values_of(task, padded(tokenizer, tmp_path / "start"), tables, (store, validation_store), tmp_path)
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in RAW[task]))
    (tmp_path / "texts.txt").write_text("the old cat\n")
    run = ["--checkpoint", str(tmp_path / "run")]
    assert main(["fit", "--config", str(tmp_path / "e.yaml"), "--run-directory", str(tmp_path / "run")]) == 0
    assert main(["validate", *run]) == 0
    capsys.readouterr()
    assert main(["predict", *run, "--input", str(tmp_path / "rows.jsonl")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(RAW[task])
    features = ["--input", str(tmp_path / "texts.txt"), "--output", str(tmp_path / "f.safetensors")]
    assert main(["features", *run, *features]) == 0
    if task == "relation-classification":
        # Neither format can hold the positions of entities.
        return
    for form in ("huggingface", "onnx"):
        assert main(["export", *run, "--format", form, "--output", str(tmp_path / form)]) == 0
    values["model"]["pretrained"] = str(tmp_path / "huggingface")
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(values))
    assert main(["fit", "--config", str(tmp_path / "e.yaml"), "--run-directory", str(tmp_path / "again")]) == 0


@pytest.mark.parametrize("model_class", [BertForPreTraining, BertForMaskedLM])
def test_a_mask_is_filled_with_real_entries_only(model_class):
    torch.manual_seed(0)
    # A repeated entry leaves an id that no text gets.
    entries = (*SPECIAL_TOKENS, "a", "", "b", "c")
    model = model_class(BertConfig(vocab_size=16, **SHAPE)).eval()
    with torch.no_grad():
        model.mlm_head.bias[9:] = 50.0
        model.mlm_head.bias[6] = 50.0
    objective = "next-sentence" if model_class is BertForPreTraining else "full-sentences"
    task = PretrainingTask(
        model, model.config, WordPieceTokenizer(Vocabulary(entries)), max_seq_length=16, objective=objective
    )
    texts = ["a [MASK] [MASK]", "[MASK] b"]
    with torch.inference_mode():
        rows = task.predict_rows([Row("row", {"text": text}) for text in texts], 2)
        ids = torch.tensor([[2, 4, 7, 3]])
        output = model(ids)
        logits = (output.prediction_logits if model_class is BertForPreTraining else output)[0, 1]
    assert [len(row["masks"]) for row in rows] == [2, 1]
    real = [number for number, entry in enumerate(entries) if entry]
    expected = dict(zip((entries[i] for i in real), logits[real].softmax(0).tolist(), strict=True))
    found = {candidate["token"]: candidate["probability"] for candidate in rows[1]["masks"][0]}
    assert len(found) == NUM_CANDIDATES
    assert found == pytest.approx({token: expected[token] for token in found}, abs=1e-5)
    assert min(found.values()) >= sorted(expected.values())[-NUM_CANDIDATES] - 1e-5


def test_an_id_without_entry_never_replaces_a_token(tmp_path):
    words = [f"word{number}" for number in range(20)]
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, *words, *words[:10]]) + "\n")
    tokenizer = load_tokenizer(tmp_path / "vocab.txt")
    generator = np.random.default_rng(0)
    documents = ["\n".join(" ".join(generator.choice(words, 8)) for _ in range(8)) for _ in range(10)]
    (tmp_path / "corpus.txt").write_text("\n\n".join(documents) + "\n")
    prepare([str(tmp_path / "corpus.txt")], tokenizer, tmp_path / "store", num_workers=1)
    for name in ("ordinary", "all"):
        masking = TokenMasking(rate=0.9, mask_share=0.0, random_share=1.0, random_tokens=name)
        store, objective = str(tmp_path / "store"), "full-sentences"
        data = PretrainingDataModule(
            PretrainingData(store, max_seq_length=40, batch_size=60, masking=masking, objective=objective)
        )
        [batch] = data.training_batches(0, TrainingPlan(1, 1, seed=1), 0, 1)
        found = set(batch["input_ids"].flatten()[batch["masked_positions"]].tolist())
        expected = set(tokenizer.entry_ids) - (set() if name == "all" else set(tokenizer.special_ids))
        assert found == expected


def test_a_rounded_up_model_is_resized_by_its_entries_in_both_directions(tokenizer, tmp_path):
    start = padded(tokenizer, tmp_path / "start")
    rows = read_checkpoint(start).tensors["encoder.embeddings.word.weight"]
    exact = BertForPreTraining.from_pretrained(start, resize_vocabulary=len(tokenizer))
    assert torch.equal(exact.encoder.embeddings.word.weight, rows[:120])
    assert exact.vocabulary.entries == tokenizer.entries
    exact.save_pretrained(tmp_path / "exact")
    wider = BertForPreTraining.from_pretrained(tmp_path / "exact", resize_vocabulary=192)
    assert wider.encoder.embeddings.word.weight.shape[0] == 192
    assert wider.vocabulary.entries == tokenizer.entries
    other = Vocabulary((*tokenizer.entries[:60], "", "new", *reversed(tokenizer.entries[60:])), lowercase=True)
    fitted = BertForPreTraining.from_pretrained(start, resize_vocabulary=other)
    assert torch.equal(fitted.encoder.embeddings.word.weight[62:], rows[60:120].flip(0))


# -- models of single texts --------------------------------------------------------------------------------------

PAIRS = ("pretraining", "question-answering", "multiple-choice")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("scratch", [False, True])
def test_a_model_with_one_segment_takes_single_texts_and_refuses_pairs(
    task, scratch, tokenizer, tables, store, validation_store, tmp_path
):
    start = padded(tokenizer, tmp_path / "start", type_vocab_size=1)
    values = values_of(task, start, tables, (store, validation_store), tmp_path)
    if scratch:
        values["model"] = {"size": "tiny", "config": {"type_vocab_size": 1, "max_position_embeddings": 48}}
        if task != "pretraining":
            values["data"]["tokenizer"] = str(start)
    if task in PAIRS:
        with pytest.raises(InputError, match="type_vocab_size is 1, for single texts, but the data are pairs"):
            built(values)
    if task == "pretraining":
        values["data"]["objective"] = "full-sentences"
    if task in PAIRS[1:]:
        return
    setup = built(values)
    [batch] = setup.data.training_batches(0, TrainingPlan(1, 1, 1), 0, 1)
    assert torch.isfinite(setup.task.sums(batch)).all()
    assert predicted(setup, RAW[task])


def test_a_pair_column_is_refused_with_a_model_of_one_segment(tokenizer, tables, tmp_path):
    start = padded(tokenizer, tmp_path / "start", type_vocab_size=1)
    values = values_of("text-classification", start, tables, (), tmp_path)
    (tmp_path / "pairs.tsv").write_text("sentence\tother\ttopic\nThe cat.\tThe dog.\ta\nThe dog.\tThe cat.\tb\n")
    values["data"] |= {"train": str(tmp_path / "pairs.tsv"), "text_pair_column": "other"}
    with pytest.raises(InputError, match="for single texts, but the data are pairs"):
        built(values)


@pytest.mark.slow
def test_a_model_with_one_segment_goes_to_onnx(tmp_path):
    model = BertForMaskedLM(BertConfig(vocab_size=16, type_vocab_size=1, **SHAPE)).eval()
    assert max(export_onnx(model, tmp_path / "model.onnx").values()) < 1e-5
