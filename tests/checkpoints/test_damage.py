"""Damaged, foreign and malicious files: each gives one clear message, and nothing wrong is loaded."""

import json
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.files import write_with_checksum
from bert_lightning.checkpoints.native import ENTRY, find_native
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tensorflow import read_bundle
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.cli import main
from bert_lightning.errors import InputError
from bert_lightning.model import (
    BertConfig,
    BertEncoder,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
)
from bert_lightning.model.architectures import model_of
from bert_lightning.text.wordpiece import WordPieceTokenizer
from tests.support.tensorflow_bundles import block, masked, varint, write_bundle

CONFIG = BertConfig.preset("tiny", vocab_size=12, max_position_embeddings=16)
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "new", "n", "##e", "##w")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of transformers, without our own additions."""
    model = BertForSequenceClassification(CONFIG, labels=["bad", "good"])
    model.save_pretrained(tmp_path / "model", Vocabulary(WORDS, lowercase=True))
    change(tmp_path / "model", lambda tensors: tensors)
    return tmp_path / "model"


def change(folder: Path, edit) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file({name: tensor.contiguous() for name, tensor in edit(tensors).items()}, folder / "model.safetensors")


def reconfigure(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def export(checkpoint: object, output: Path, capsys) -> str:
    """Return the message of a refused export, which is one line, and leaves no output."""
    command = ["export", "--checkpoint", str(checkpoint), "--format", "huggingface", "--output", str(output)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("bert-lightning: ")
    assert not output.exists()
    return error


# -- weights -----------------------------------------------------------------------------------------------------

LAYER = "bert.encoder.layer.0.attention.self"
EDITS = {
    "integers": (
        lambda t: {n: v.to(torch.int8) for n, v in t.items()},
        "not a plain floating-point tensor .int8 on cpu",
    ),
    "one of booleans": (
        lambda t: t | {"classifier.bias": torch.tensor([True, False])},
        r"classifier\.bias is not a plain",
    ),
    "complex": (
        lambda t: t | {"classifier.bias": torch.zeros(2, dtype=torch.complex64)},
        r"classifier\.bias is not a plain",
    ),
    "eight bits": (
        lambda t: t | {"classifier.bias": torch.zeros(2).to(torch.float8_e4m3fn)},
        r"float8_e4m3fn on cpu",
    ),
    "unequal tensors": (
        lambda t: t | {f"{LAYER}.query.weight": torch.zeros(256, 128), f"{LAYER}.key.weight": torch.zeros(64, 128)},
        r"layers\.0\.query_key_value\.weight: the matrices have the shapes",
    ),
    "tensors without size": (
        lambda t: t | {f"{LAYER}.{module}.bias": torch.zeros(()) for module in ("query", "key", "value")},
        "the matrices have the shapes",
    ),
    "a tensor missing": (
        lambda t: {n: v for n, v in t.items() if n != f"{LAYER}.key.bias"},
        "the matrix 'key' is missing",
    ),
    "twice": (
        lambda t: t | {"bert.embeddings.LayerNorm.gamma": torch.zeros(128)},
        "LayerNorm.(gamma|weight) occurs twice",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_file_that_cannot_hold_the_weights_is_refused_by_name(folder, tmp_path, capsys, name):
    edit, message = EDITS[name]
    change(folder, edit)
    with pytest.raises(CheckpointError, match=message):
        model_of(read_checkpoint(folder))
    export(folder, tmp_path / "out", capsys)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000; it must be between 1"),
        ({"vocab_size": 10**9}, r"word\.weight has shape \(12, 128\), expected \(1000000000, 128\)"),
        ({"intermediate_size": 10**9}, "expected .1000000000"),
        ({"hidden_size": 10**30}, "hidden_size is 10"),
        ({"vocab_size": 11}, "the tokenizer has 12 entries, more than the vocab_size 11"),
        ({"hidden_act": ["gelu"]}, r"hidden_act is \['gelu'\]"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan; it must be a finite number of at least 0"),
        ({"initializer_range": -1.0}, "initializer_range is -1.0"),
        ({"pad_token_id": 99}, "pad_token_id is 99, outside the vocabulary"),
        ({"problem_type": "foo"}, "problem_type is 'foo'; known: single_label"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantization_config is"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "names 3 labels, but its head has 2"),
        ({"id2label": {"0": "a", "1": "a"}}, "id2label holds a label twice"),
        ({"id2label": {"0": "a", "1": "\ud800"}}, "not readable as JSON"),
        ({"architectures": ["BertForDancing"]}, "holds a BertForDancing; known: BertForPreTraining"),
    ],
)
def test_a_config_that_cannot_be_true_is_refused_by_key(folder, tmp_path, capsys, values, message):
    reconfigure(folder, **values)
    with pytest.raises(CheckpointError, match=message):
        model_of(read_checkpoint(folder))
    export(folder, tmp_path / "out", capsys)


def test_a_config_nested_too_deeply_is_refused(folder, tmp_path, capsys):
    (folder / "config.json").write_text("[" * 100_000)
    assert "not readable as JSON" in export(folder, tmp_path / "out", capsys)


def test_a_config_changed_beside_our_weights_is_reported(tmp_path, caplog):
    BertEncoder(CONFIG).save_pretrained(tmp_path)
    BertEncoder.from_pretrained(tmp_path)
    assert not caplog.text
    reconfigure(tmp_path, hidden_act="gelu")
    assert BertEncoder.from_pretrained(tmp_path).config.hidden_act == "gelu"
    assert "hidden_act is 'gelu', but the weights were written with 'gelu_new'" in caplog.text


def test_padding_without_an_id_and_one_segment_are_read(folder):
    change(folder, lambda t: t | {"bert.embeddings.token_type_embeddings.weight": torch.zeros(1, 128)})
    reconfigure(folder, pad_token_id=None, type_vocab_size=1)
    assert BertEncoder.from_pretrained(folder).config.type_vocab_size == 1


def to_pickled(folder: Path) -> Path:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def test_an_archive_entry_marked_as_a_folder_is_refused(folder):
    # torch would read uninitialised memory, and the checksum would still be right.
    path = to_pickled(folder)
    with zipfile.ZipFile(path) as archive:
        entries = [info.filename for info in archive.infolist() if "/data/" in info.filename]
    content = bytearray(path.read_bytes())
    at, marked = content.find(b"PK\x01\x02"), 0
    while at != -1:
        name_length = struct.unpack_from("<H", content, at + 28)[0]
        if bytes(content[at + 46 : at + 46 + name_length]).decode() == entries[3]:
            content[at + 38] ^= 0x10
            marked += 1
        at = content.find(b"PK\x01\x02", at + 4)
    assert marked == 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"pytorch_model\.bin is damaged: its entry {entries[3]}"):
        read_checkpoint(folder)


@pytest.mark.parametrize("content", [b"<html></html>", b"", b"\x80\x02"])
def test_the_error_for_a_file_without_weights_does_not_advise_to_execute_it(folder, tmp_path, capsys, content):
    to_pickled(folder).write_bytes(content)
    error = export(folder, tmp_path / "out", capsys)
    assert "pytorch_model.bin is damaged, or holds more than names and tensors, which is not executed" in error
    assert "weights_only" not in error


def test_truncated_and_flipped_pickles_of_the_old_format_never_end_in_a_traceback(folder):
    path = to_pickled(folder)
    tensors = torch.load(path)
    torch.save({"classifier.bias": tensors["classifier.bias"]}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            read_checkpoint(folder)
    for bit in range(0, 8 * 200, 11):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            read_checkpoint(folder)
        except CheckpointError:
            continue


# -- our own checkpoints -----------------------------------------------------------------------------------------


def native(path: Path, content: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_with_checksum(path, lambda file: torch.save(content, file))
    return path


def whole_content(bias: float = 0.0) -> dict:
    model = BertForSequenceClassification(CONFIG, labels=["bad", "good"])
    torch.nn.init.constant_(model.classifier.bias, bias)
    entry = {
        "config": CONFIG.to_dict(),
        "vocabulary": "\n".join(WORDS),
        "lowercase": True,
        "task": "text-classification",
        "architecture": model.architecture,
        "task_settings": {"labels": ["bad", "good"]},
    }
    return {ENTRY: entry, "state_dict": {f"model.{name}": t for name, t in model.state_dict().items()}}


def test_values_that_are_not_finite_do_not_leave_a_run(tmp_path, capsys):
    path = native(tmp_path / "a.ckpt", whole_content(bias=float("nan")))
    assert "classifier.bias holds values that are not finite" in export(path, tmp_path / "out", capsys)


@pytest.mark.parametrize("missing", ["config", "vocabulary", "task_settings", "state_dict"])
def test_an_incomplete_entry_is_not_taken_for_our_checkpoint(tmp_path, capsys, missing):
    content = whole_content()
    (content if missing == "state_dict" else content[ENTRY]).pop(missing)
    assert "is not a checkpoint of bert_lightning" in export(
        native(tmp_path / "a.ckpt", content), tmp_path / "out", capsys
    )


def test_a_name_that_only_looks_like_a_step_is_exported(tmp_path):
    path = native(tmp_path / "step-abc.ckpt", whole_content())
    command = ["export", "--checkpoint", str(path), "--format", "huggingface", "--output", str(tmp_path / "out")]
    assert main(command) == 0


def test_a_best_checkpoint_that_is_gone_is_not_replaced_by_another(tmp_path):
    native(tmp_path / "checkpoints/last.ckpt", whole_content())
    (tmp_path / "checkpoints/best.ckpt").symlink_to("step-9.ckpt")
    with pytest.raises(CheckpointError, match=r"best\.ckpt points to step-9\.ckpt, which is missing"):
        find_native(tmp_path)


def test_a_checksum_of_other_bytes_is_damage(tmp_path, capsys):
    path = native(tmp_path / "a.ckpt", whole_content())
    path.with_name("a.ckpt.sha256").write_bytes(b"\xff\xfe")
    assert "is damaged" in export(path, tmp_path / "out", capsys)


@pytest.mark.parametrize("path", [".", "/", "nothing" * 100])
def test_paths_without_a_checkpoint_are_one_message(tmp_path, capsys, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    export(path, tmp_path / "out", capsys)


# -- results and messages ----------------------------------------------------------------------------------------


def test_export_keeps_both_heads_of_a_model_that_calls_itself_a_masked_one(tmp_path):
    BertForPreTraining(CONFIG).save_pretrained(tmp_path)
    reconfigure(tmp_path, architectures=["BertForMaskedLM"])
    assert type(model_of(read_checkpoint(tmp_path))) is BertForPreTraining
    BertForMaskedLM(CONFIG).save_pretrained(tmp_path)
    assert type(model_of(read_checkpoint(tmp_path))) is BertForMaskedLM


def test_export_reports_what_it_leaves_out(folder, tmp_path, capsys):
    change(folder, lambda tensors: tensors | {"adapter.weight": torch.zeros(2)})
    command = ["export", "--checkpoint", str(folder), "--format", "huggingface", "--output", str(tmp_path / "out")]
    assert main(command) == 0
    assert "not used: adapter.weight" in capsys.readouterr().out


def test_a_double_model_stays_double_through_export(tmp_path):
    BertEncoder(CONFIG).double().save_pretrained(tmp_path)
    assert model_of(read_checkpoint(tmp_path)).pooler.weight.dtype == torch.float64


def test_the_number_of_labels_does_not_lose_their_names(folder):
    assert BertForSequenceClassification.from_pretrained(folder, num_labels=2).labels == ["bad", "good"]


def test_saving_over_a_folder_removes_its_earlier_tokenizer(tmp_path):
    WordPieceTokenizer(Vocabulary((*WORDS[:5], "cat", "the"), lowercase=True)).save(tmp_path)
    BertEncoder(CONFIG).save_pretrained(tmp_path, Vocabulary(WORDS, lowercase=True))
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)("the cat")["input_ids"] == [2, 5, 6, 3]


# -- tokenizers that are not BERT's ------------------------------------------------------------------------------


def edit_json(path: Path, **values) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **values}))


def with_new_token(folder: Path) -> None:
    # transformers 4 wrote the added token to a separate file.
    edit_json(folder / "added_tokens.json", **{"[NEW]": 12})


def without_lowercasing(folder: Path) -> None:
    WordPieceTokenizer(Vocabulary(WORDS, lowercase=True)).save(folder)
    edit_json(folder / "tokenizer.json", normalizer=None)


OTHERS = {
    "added": (with_new_token, "added_tokens.json adds tokens"),
    "normalizer": (without_lowercasing, "its normalizer is None, but BERT's is 'BertNormalizer'"),
    "class": (
        lambda f: edit_json(f / "tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer"),
        "BertJapanese",
    ),
    "special": (lambda f: edit_json(f / "tokenizer_config.json", unk_token="the"), "its unk_token is 'the'"),
    "byte pairs": (
        lambda f: (f / "tokenizer.json").write_text('{"model": {"type": "BPE"}}'),
        "holds a BPE tokenizer",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_files_of_another_tokenizer_are_copied_unchanged_and_not_used(folder, tmp_path, name):
    edit, message = OTHERS[name]
    edit(folder)
    ours = ("config.json", "model.safetensors", "README.md")
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ours}
    BertForSequenceClassification.from_pretrained(folder).save_pretrained(tmp_path / "out")
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert files.items() <= written.items()
    with pytest.raises(InputError, match=message):
        WordPieceTokenizer(read_checkpoint(folder).vocabulary)


@pytest.mark.parametrize(
    "content", ['{"model": "x"}', '{"model": {}}', '{"model": {"vocab": {}}, "added_tokens": [{}]}']
)
def test_a_tokenizer_file_of_another_shape_is_named(folder, tmp_path, capsys, content):
    (folder / "tokenizer.json").write_text(content)
    assert "tokenizer.json: not the file of a tokenizer" in export(folder, tmp_path / "out", capsys)


# -- crafted TensorFlow indices ----------------------------------------------------------------------------------


def index_of(tmp_path: Path, records: list[tuple[bytes, bytes]]) -> Path:
    """Build an index with correct checksums around any records."""
    table = block(records)
    handle = varint(0) + varint(len(table) - 5)
    metaindex, blocks = block([]), block([(records[-1][0], handle)])
    footer = varint(len(table)) + varint(len(metaindex) - 5)
    footer += varint(len(table) + len(metaindex)) + varint(len(blocks) - 5)
    content = table + metaindex + blocks + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    (tmp_path / "m.ckpt.index").write_bytes(content)
    return tmp_path / "m.ckpt"


def entry(shape: bytes, size: int) -> bytes:
    return (
        b"\x08\x01\x12"
        + varint(len(shape))
        + shape
        + b"\x28"
        + varint(size)
        + b"\x35"
        + struct.pack("<I", masked(b""))
    )


HEADER = (b"", b"\x08\x01")
HUGE = b"\x12\x0b\x08" + varint(2**63 + 1)
CRAFTED = {
    "more shards than files": (
        [(b"", b"\x08" + varint(2**40)), (b"v", entry(b"", 4))],
        "is missing or empty",
    ),
    "more values than bytes": ([HEADER, (b"v", entry(HUGE + HUGE, 0))], "0 bytes, which do not fill the shape"),
    "a number without end": ([HEADER, (b"v", b"\x08" + b"\xff" * 5000)], "is damaged or not the index"),
    "text where a number belongs": ([(b"", b"\x0a\x01a"), (b"v", entry(b"", 4))], "is damaged or not the index"),
    "a number where a shape belongs": ([HEADER, (b"v", b"\x08\x01\x10\x05")], "is damaged or not the index"),
    "no header": ([(b"v", entry(b"", 4))], "is damaged or not the index"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_index_is_refused_at_once(tmp_path, name):
    records, message = CRAFTED[name]
    (tmp_path / "m.ckpt.data-00000-of-00001").write_bytes(b"1234")
    with pytest.raises(CheckpointError, match=message):
        read_bundle(index_of(tmp_path, records))


def test_partitioned_variables_are_reported_as_such(tmp_path):
    write_bundle(
        tmp_path / "m.ckpt", {"v": torch.zeros(2).numpy(), "\0sliced": torch.zeros(2).numpy()}, {"float32": 1}, 1
    )
    with pytest.raises(CheckpointError, match="partitioned variables cannot be read"):
        read_bundle(tmp_path / "m.ckpt")


def test_an_intact_folder_passes_every_check(tmp_path):
    folder = Path(shutil.copytree(Path(__file__).parent / "tensorflow1/released", tmp_path / "released"))
    assert len(read_checkpoint(folder).tensors) == 38


@pytest.mark.parametrize("name", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
def test_settings_beside_a_lone_vocabulary_file_are_read(folder, name):
    edit_json(folder / "tokenizer_config.json", **{name: False})
    vocabulary = read_checkpoint(folder).vocabulary
    read = {
        "do_lower_case": vocabulary.lowercase,
        "strip_accents": vocabulary.strip_accents,
        "tokenize_chinese_chars": vocabulary.tokenize_chinese_chars,
    }
    assert read == {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True} | {name: False}


def test_a_setting_of_another_type_is_named(folder, tmp_path, capsys):
    edit_json(folder / "tokenizer_config.json", strip_accents="yes")
    assert "tokenizer_config.json: strip_accents is 'yes'" in export(folder, tmp_path / "out", capsys)
