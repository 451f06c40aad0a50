"""Stores of the format before today's: read as they are, with the order of samples that they had, or converted."""

import json
import shutil
from pathlib import Path

import pytest

from bert_lightning.data.corpus import documents, section_jobs
from bert_lightning.data.corpus.conversion import convert
from bert_lightning.data.corpus.preparation import prepare
from bert_lightning.data.corpus.token_store import TokenStore
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import load_tokenizer
from tests.support.drawn_batches import drawn_batches
from tests.support.files import digest

# A store that an earlier version made, its text, and the batches that this version drew from it.
STORES = Path(__file__).parents[1] / "stores"


@pytest.fixture
def earlier(tmp_path):
    shutil.copytree(STORES / "format_2", tmp_path / "earlier")
    return tmp_path / "earlier"


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """The store that `prepare` makes from the same text today."""
    monkeypatch.setattr(section_jobs, "CHARACTERS_PER_SECTION", 900)
    monkeypatch.setattr(documents, "PASSAGE", 300)
    monkeypatch.chdir(STORES)
    prepare(["text.txt"], load_tokenizer(STORES / "format_2/vocab.txt"), tmp_path / "prepared", num_workers=1)
    return tmp_path / "prepared"


def test_training_draws_the_same_batches_from_an_earlier_store_as_the_earlier_version(earlier):
    assert drawn_batches(earlier) == json.loads((STORES / "batches.json").read_text())


def test_a_small_store_of_today_gives_the_batches_of_the_earlier_one(prepared):
    assert drawn_batches(prepared) == json.loads((STORES / "batches.json").read_text())


def test_a_converted_store_has_the_bytes_of_one_that_prepare_makes(earlier, prepared, tmp_path):
    summary = convert(earlier, tmp_path / "converted", num_workers=1)
    assert digest(tmp_path / "converted") == digest(prepared)
    assert (summary.num_sections, summary.num_kept_sections) == (4, 0)
    assert digest(earlier) == digest(STORES / "format_2")


def test_a_conversion_continues_and_keeps_its_sections(earlier, prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "converted")
    (tmp_path / "converted/manifest.json").rename(tmp_path / "manifest.json")
    settings = json.loads((tmp_path / "manifest.json").read_text())["settings"]
    (tmp_path / "converted/unfinished.json").write_text(json.dumps(settings))
    assert convert(earlier, tmp_path / "converted", num_workers=1).num_kept_sections == 4
    assert digest(tmp_path / "converted") == digest(prepared)


def test_a_damaged_store_is_not_converted(earlier, tmp_path):
    path = earlier / "shard-00002/tokens.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"shard-00002/tokens\.npy is damaged"):
        convert(earlier, tmp_path / "converted", num_workers=1)
    assert not (tmp_path / "converted").exists()


def test_a_store_is_not_converted_into_itself(earlier):
    (earlier.parent / "link").symlink_to(earlier)
    for output in (earlier, earlier.parent / "link"):
        with pytest.raises(InputError, match=r"^--output is .*, the store itself, which stays as it is"):
            convert(earlier, output, num_workers=1)
    assert digest(earlier) == digest(STORES / "format_2")


def test_a_store_of_today_needs_no_conversion(prepared, tmp_path):
    with pytest.raises(InputError, match="there is nothing to convert"):
        convert(prepared, tmp_path / "converted")


def test_preparing_an_earlier_store_again_leaves_it_as_it_is(earlier, monkeypatch):
    monkeypatch.chdir(STORES)
    tokenizer = load_tokenizer(STORES / "format_2/vocab.txt")
    summary = prepare(["text.txt"], tokenizer, earlier, num_workers=1)
    assert (summary.num_documents, summary.num_tokens, summary.num_kept_sections) == (7, 1326, 4)
    assert digest(earlier) == digest(STORES / "format_2")


@pytest.mark.parametrize("name", ["tokens", "sentences", "documents"])
def test_a_damaged_array_of_an_earlier_store_is_never_used(earlier, name):
    path = earlier / f"shard-00001/{name}.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    opened = TokenStore(earlier)
    with pytest.raises(InputError, match=rf"shard-00001/{name}\.npy is damaged"):
        getattr(opened.section(1), name)
    with pytest.raises(InputError, match=rf"shard-00001/{name}\.npy is damaged"):
        opened.verify()
    path.write_bytes(content[:-1])
    with pytest.raises(InputError, match=rf"shard-00001/{name}\.npy is damaged: it has"):
        TokenStore(earlier)
    path.unlink()
    with pytest.raises(InputError, match=rf"shard-00001/{name}\.npy is missing"):
        TokenStore(earlier)


@pytest.mark.parametrize("change", [{"shards": [{}]}, {"shards": 3}, {"shards": []}])
def test_a_manifest_of_an_earlier_store_of_the_wrong_shape_is_named(earlier, change):
    path = earlier / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=r"manifest\.json: damaged"):
        TokenStore(earlier)
