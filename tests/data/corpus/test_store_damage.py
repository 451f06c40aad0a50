"""Nothing damaged in a token store is ever used, and nothing that is whole is refused."""

import json
import os
import shutil
import stat

import numpy as np
import pytest

from bert_lightning.data.corpus import section_jobs, sections, shard_files
from bert_lightning.data.corpus.preparation import prepare
from bert_lightning.data.corpus.sections import Section
from bert_lightning.data.corpus.shard_files import read_shard
from bert_lightning.data.corpus.token_store import TokenStore
from bert_lightning.errors import InputError
from tests.support.small_corpus import write_corpus

FRAME = 64


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus, tokenizer):
    """A store of several shards of several sections of several frames."""
    before = section_jobs.CHARACTERS_PER_SECTION, shard_files.SECTIONS_PER_SHARD, sections.FRAME
    section_jobs.CHARACTERS_PER_SECTION, shard_files.SECTIONS_PER_SHARD, sections.FRAME = 2000, 2, FRAME
    try:
        path = tmp_path_factory.mktemp("whole") / "s"
        summary = prepare([str(corpus)], tokenizer, path, num_workers=1)
        assert (summary.num_sections, summary.num_shards) == (6, 3)
        yield path
    finally:
        section_jobs.CHARACTERS_PER_SECTION, shard_files.SECTIONS_PER_SHARD, sections.FRAME = before


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "s")
    return tmp_path / "s"


def content(store: TokenStore) -> list[list[int]]:
    """Return everything that can be read from a store."""
    read = [store.chunk_counts(10).tolist(), store.token_counts().tolist(), store.single_counts().tolist()]
    for number in range(store.num_sections):
        section = store.section(number)
        read += [section.read(0, section.num_tokens).tolist(), section.sentences.tolist()]
        read += [section.documents.ravel().tolist()]
    return read


def flip(path, position: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    with open(path, "r+b") as file:
        file.seek(position)
        [byte] = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


def test_a_flipped_bit_in_any_byte_of_a_section_is_an_error_that_names_the_shard(copy):
    path = copy / "shard-00001.tokens"
    start = read_shard(path)[0].place.offset
    size = path.stat().st_size
    for position in {*range(start, size, 97), start, size - 1}:
        flip(path, position, position % 8)
        store = TokenStore(copy)
        with pytest.raises(InputError, match=r"shard-00001\.tokens is damaged: the SHA-256"):
            content(store)
        with pytest.raises(InputError, match=r"shard-00001\.tokens is damaged: the SHA-256"):
            store.verify()
        flip(path, position, position % 8)
    TokenStore(copy).verify()


@pytest.mark.parametrize("name", ["sections.npy", "token_counts.npy", "manifest.json"])
def test_a_flipped_bit_in_a_table_is_an_error_or_changes_nothing(copy, whole, name):
    expected = content(TokenStore(whole))
    path = copy / name
    size = path.stat().st_size
    refused: list[str] = []
    for position in range(0, size, max(1, size // 60)):
        flip(path, position, position % 8)
        try:
            assert content(TokenStore(copy)) == expected
        except InputError as error:
            refused.append(str(error))
        flip(path, position, position % 8)
    # The manifest also holds settings and counts, which reading does not use.
    assert len(refused) > (20 if name == "manifest.json" else 55)
    assert all(str(copy) in message for message in refused)


def test_a_flipped_bit_in_the_chunk_counts_is_an_error_when_its_row_is_used(copy):
    path = copy / "chunk_counts.bin"
    flip(path, path.stat().st_size - 1)
    store = TokenStore(copy)
    store.chunk_counts(10)
    with pytest.raises(InputError, match=r"chunk_counts\.bin is missing or damaged"):
        store.verify()
    flip(path, 0)
    with pytest.raises(InputError, match=r"chunk_counts\.bin is missing or damaged"):
        store.chunk_counts(11)


@pytest.mark.parametrize("name", ["shard-00001.tokens", "sections.npy", "chunk_counts.bin"])
def test_a_file_that_is_cut_or_missing_is_named_when_the_store_opens(copy, name):
    path = copy / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"{name} is damaged"):
        TokenStore(copy)
    path.unlink()
    with pytest.raises(InputError, match=rf"{name} is missing"):
        TokenStore(copy)


def test_damaged_token_counts_are_noticed(copy):
    (copy / "token_counts.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"token_counts\.npy is missing or damaged"):
        TokenStore(copy).token_counts()


def test_swapped_shards_are_noticed(copy):
    for old, new in (("shard-00000", "x"), ("shard-00001", "shard-00000"), ("x", "shard-00001")):
        (copy / f"{old}.tokens").rename(copy / f"{new}.tokens")
    with pytest.raises(InputError, match="is damaged"):
        TokenStore(copy).verify()


def test_tables_of_another_store_are_noticed(copy, tmp_path, documents, tokenizer):
    other = write_corpus(tmp_path / "other.txt", documents[::-1])
    prepare([str(other)], tokenizer, tmp_path / "other", num_workers=1)
    for name in ("sections.npy", "chunk_counts.bin"):
        kept = (copy / name).read_bytes()
        shutil.copy(tmp_path / "other" / name, copy / name)
        with pytest.raises(InputError, match=rf"{name} is (missing or )?damaged"):
            TokenStore(copy).chunk_counts(10)
        (copy / name).write_bytes(kept)


def test_a_shard_that_is_cut_or_removed_while_it_is_open_is_an_error(copy):
    store = TokenStore(copy)
    section = store.section(2)
    section.read(0, 5)
    path = copy / "shard-00001.tokens"
    os.truncate(path, 3000)
    with pytest.raises(InputError, match=r"shard-00001\.tokens is damaged: it ends before byte"):
        store.section(3).read(0, section.num_tokens)
    path.unlink()
    with pytest.raises(InputError, match=r"shard-00001\.tokens is missing"):
        section.read(FRAME, section.num_tokens)
    # What was verified stays.
    assert section.read(0, 5).tolist() == section.read(0, FRAME)[:5].tolist()


def test_reads_verify_only_the_frames_that_they_need(copy):
    [first, _] = read_shard(copy / "shard-00000.tokens")
    assert first.place.num_frames > 3
    flip(first.place.path, first.place.offset + first.place.num_bytes - 1)
    flip(first.place.path, first.place.offset + first.place.head_bytes)
    section = Section(first.place)
    middle = section.read(FRAME + 3, 2 * FRAME + 5)
    assert len(middle) == FRAME + 2
    for start, stop in ((FRAME - 1, FRAME + 1), (section.num_tokens - 1, section.num_tokens)):
        with pytest.raises(InputError, match="is damaged"):
            section.read(start, stop)
    assert section.read(FRAME + 3, 2 * FRAME + 5).tolist() == middle.tolist()


def test_any_stretch_is_that_of_the_whole(whole):
    [_, placed] = read_shard(whole / "shard-00002.tokens")
    tokens = Section(placed.place).read(0, placed.place.num_tokens)
    generator = np.random.default_rng(0)
    section = Section(placed.place)
    for _ in range(100):
        start, stop = sorted(generator.integers(0, len(tokens) + 1, 2).tolist())
        assert section.read(start, stop).tolist() == tokens[start:stop].tolist()
    with pytest.raises(ValueError, match="read-only"):
        section.read(0, 2)[0] = 1


def test_a_store_can_be_moved_and_read_only(copy, whole, tmp_path):
    moved = tmp_path / "elsewhere"
    copy.rename(moved)
    for path in (*moved.iterdir(), moved):
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    store = TokenStore(moved)
    store.verify()
    assert store.fingerprint == TokenStore(whole).fingerprint
    moved.chmod(0o755)


def test_the_fingerprint_changes_with_a_sentence_boundary(copy, tmp_path, documents, tokenizer):
    text = "\n".join(documents[0])
    fingerprints = set()
    for number, joined in enumerate((text, text.replace(".\n", ". ", 1))):
        (tmp_path / f"{number}.txt").write_text(joined)
        prepare([str(tmp_path / f"{number}.txt")], tokenizer, tmp_path / f"s{number}", num_workers=1)
        fingerprints.add(TokenStore(tmp_path / f"s{number}").fingerprint)
    assert len(fingerprints) == 2


def test_a_manifest_with_the_tables_of_another_store_is_refused(copy):
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "sections_sha256": "0" * 64}))
    with pytest.raises(InputError, match=r"manifest\.json: damaged"):
        TokenStore(copy)


@pytest.mark.parametrize("number", [1, 4, "3", None, [3]])
def test_a_store_of_an_unknown_format_says_what_can_be_read(copy, number):
    path = copy / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": number}))
    with pytest.raises(InputError, match="reads the formats 2 and 3: run prepare again"):
        TokenStore(copy)
