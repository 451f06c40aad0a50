import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bert_lightning.checkpoints.tokenizer_files import Vocabulary
from bert_lightning.data import preparation
from bert_lightning.data.preparation import prepare
from bert_lightning.data.token_store import TokenStore
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import SPECIAL_TOKENS, WordPieceTokenizer
from tests.conftest import make_documents, write_corpus


def digest(folder: Path) -> dict[str, str]:
    """Checksums of all files of a store."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(preparation, "CHARACTERS_PER_SHARD", 2000)


def test_the_store_holds_the_text(store, documents, tokenizer):
    opened = TokenStore(store)
    assert opened.num_documents == len(documents)
    for number, document in enumerate(documents):
        ids = tokenizer.encode_batch(document)
        assert opened.sentence_ends(number).tolist() == np.cumsum([len(s) for s in ids]).tolist()
        assert opened.tokens(number, 0, sum(map(len, ids))).tolist() == [t for s in ids for t in s]


def test_token_counts_are_those_of_the_tokens(store, documents, tokenizer):
    ids = [t for document in documents for s in tokenizer.encode_batch(document) for t in s]
    assert TokenStore(store).token_counts().tolist() == np.bincount(ids, minlength=len(tokenizer)).tolist()


def test_any_number_of_workers_gives_the_same_bytes(tmp_path, corpus, tokenizer, small_shards):
    stores = []
    for workers in (1, 2, 3):
        summary = prepare([str(corpus)], tokenizer, tmp_path / str(workers), num_workers=workers)
        assert summary.num_shards > 4
        stores.append(digest(tmp_path / str(workers)))
    assert stores[0] == stores[1] == stores[2]


def test_shards_do_not_change_what_is_stored(tmp_path, corpus, tokenizer, store, small_shards):
    prepare([str(corpus)], tokenizer, tmp_path / "s", num_workers=1)
    many, one = TokenStore(tmp_path / "s"), TokenStore(store)
    assert many.document_lengths.tolist() == one.document_lengths.tolist()
    for document in (0, 11, 29):
        assert many.sentence_ends(document).tolist() == one.sentence_ends(document).tolist()
        assert many.tokens(document, 3, 20).tolist() == one.tokens(document, 3, 20).tolist()


def test_a_killed_preparation_goes_on_and_keeps_its_finished_shards(tmp_path, corpus, tokenizer, small_shards):
    whole = tmp_path / "whole"
    num_shards = prepare([str(corpus)], tokenizer, whole, num_workers=1).num_shards
    tokenizer.save(tmp_path / "tokenizer")
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from bert_lightning.data import preparation\n"
        "from bert_lightning.text.wordpiece import load_tokenizer\n"
        "preparation.CHARACTERS_PER_SHARD = 2000\n"
        "def slow(done):\n    print('shard', flush=True)\n    time.sleep(0.3)\n"
        f"preparation.prepare([{str(corpus)!r}], load_tokenizer({str(tmp_path / 'tokenizer')!r}),"
        f" Path({str(tmp_path / 'killed')!r}), num_workers=1, progress=slow)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(InputError, match="did not finish"):
        TokenStore(tmp_path / "killed")
    summary = prepare([str(corpus)], tokenizer, tmp_path / "killed", num_workers=1)
    assert 0 < summary.num_kept_shards < num_shards
    assert digest(tmp_path / "killed") == digest(whole)


def test_preparing_again_keeps_everything(tmp_path, corpus, tokenizer):
    prepare([str(corpus)], tokenizer, tmp_path / "s")
    before = digest(tmp_path / "s")
    summary = prepare([str(corpus)], tokenizer, tmp_path / "s")
    assert summary.num_kept_shards == summary.num_shards
    assert digest(tmp_path / "s") == before


@pytest.mark.parametrize("name", ["tokens", "sentence_ends", "document_ends", "token_counts"])
def test_a_flipped_bit_anywhere_names_the_shard_and_file(tmp_path, corpus, tokenizer, name):
    prepare([str(corpus)], tokenizer, tmp_path / "s")
    path = tmp_path / "s" / "shard-00000" / f"{name}.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"shard-00000/{name}\.npy is damaged"):
        TokenStore(tmp_path / "s")


def test_a_changed_vocabulary_does_not_fit_the_store(tmp_path, corpus, tokenizer):
    prepare([str(corpus)], tokenizer, tmp_path / "s")
    (tmp_path / "s" / "vocab.txt").write_text("\n".join([*tokenizer.entries, "extra"]) + "\n")
    with pytest.raises(InputError, match="not the vocabulary"):
        TokenStore(tmp_path / "s")


def test_a_store_of_other_input_is_not_overwritten(tmp_path, corpus, tokenizer, documents):
    prepare([str(corpus)], tokenizer, tmp_path / "s")
    before = digest(tmp_path / "s")
    other = write_corpus(tmp_path / "other.txt", make_documents(9))
    with pytest.raises(InputError, match="choose another --output"):
        prepare([str(other)], tokenizer, tmp_path / "s")
    with pytest.raises(InputError, match="choose another --output"):
        prepare([str(corpus)], WordPieceTokenizer(Vocabulary((*SPECIAL_TOKENS, "x"))), tmp_path / "s")
    assert digest(tmp_path / "s") == before


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"\n\n  \n", "empty"), (b"fine.\n\xff\n", "line 2: byte 6"), (b"\x00\n\x07\n", "empty")],
)
def test_bad_input_leaves_no_output(tmp_path, tokenizer, content, message):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        prepare([str(tmp_path / "bad.txt")], tokenizer, tmp_path / "s", layout="sentences")
    assert not (tmp_path / "s").exists()


def test_bad_input_late_in_the_corpus_leaves_no_output(tmp_path, corpus, tokenizer, small_shards):
    (tmp_path / "bad.txt").write_bytes(b"\xff\n")
    for workers in (1, 2):
        with pytest.raises(InputError, match=r"bad\.txt: line 1"):
            prepare(
                [str(corpus), str(tmp_path / "bad.txt")],
                tokenizer,
                tmp_path / "s",
                num_workers=workers,
                layout="sentences",
            )
        assert not (tmp_path / "s").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path, corpus, tokenizer):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        prepare([str(corpus)], tokenizer, tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_manifest_that_is_no_json_is_named(tmp_path, corpus, tokenizer):
    prepare([str(corpus)], tokenizer, tmp_path / "s")
    (tmp_path / "s" / "manifest.json").write_text(json.dumps({})[:-1])
    with pytest.raises(InputError, match=r"manifest\.json: damaged"):
        TokenStore(tmp_path / "s")


def test_folders_of_the_users_own_are_never_touched(tmp_path, corpus, tokenizer):
    (tmp_path / "s/shard-photos").mkdir(parents=True)
    (tmp_path / "s/shard-photos/me.jpg").touch()
    with pytest.raises(InputError, match="shard-photos, which is no part of a token store"):
        prepare([str(corpus)], tokenizer, tmp_path / "s")
    assert (tmp_path / "s/shard-photos/me.jpg").exists()


def test_a_group_without_a_single_token_leaves_a_store_that_opens(tmp_path, corpus, tokenizer, small_shards):
    (tmp_path / "odd.txt").write_text("\u200b\u0001 " * 1500, encoding="utf-8")
    for inputs in ([tmp_path / "odd.txt", corpus], [corpus, tmp_path / "odd.txt", corpus]):
        output = tmp_path / str(len(inputs))
        summary = prepare([str(path) for path in inputs], tokenizer, output, layout="sentences", num_workers=1)
        assert TokenStore(output).num_documents == summary.num_documents


def test_a_store_killed_before_its_manifest_goes_on(tmp_path, corpus, tokenizer):
    prepare([str(corpus)], tokenizer, tmp_path / "s")
    before = digest(tmp_path / "s")
    (tmp_path / "s/manifest.json").unlink()
    assert prepare([str(corpus)], tokenizer, tmp_path / "s").num_kept_shards == 1
    assert digest(tmp_path / "s") == before


def test_a_manifest_that_leaves_out_a_shard_is_noticed(tmp_path, corpus, tokenizer, small_shards):
    prepare([str(corpus)], tokenizer, tmp_path / "s", num_workers=1)
    path = tmp_path / "s/manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "shards": manifest["shards"][:2]}))
    with pytest.raises(InputError, match=r"manifest\.json: damaged"):
        TokenStore(tmp_path / "s")
