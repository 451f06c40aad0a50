import errno
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.data.corpus import documents as documents_module
from bert_lightning.data.corpus import section_jobs, section_writer, shard_files, store_builder
from bert_lightning.data.corpus.documents import CorpusFormat
from bert_lightning.data.corpus.preparation import prepare
from bert_lightning.data.corpus.shard_files import write_shard
from bert_lightning.data.corpus.store_settings import UNFINISHED
from bert_lightning.data.corpus.token_store import TokenStore
from bert_lightning.data.pretraining.sentence_pairs import IS_NEXT, SentencePairs
from bert_lightning.errors import InputError, WorkError
from bert_lightning.text.wordpiece import SPECIAL_TOKENS, WordPieceTokenizer
from tests.support.files import digest
from tests.support.small_corpus import make_documents, sentence_ends, write_corpus

SENTENCES = CorpusFormat(layout="sentences")


def unfinish(folder: Path) -> None:
    """Bring a finished store into the state that a kill before its manifest leaves."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / UNFINISHED).write_text(json.dumps(manifest["settings"]))
    (folder / "manifest.json").unlink()


def kill_self(*_) -> None:
    """Die as after an out-of-memory kill."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def small_sections(monkeypatch):
    monkeypatch.setattr(section_jobs, "CHARACTERS_PER_SECTION", 2000)
    monkeypatch.setattr(shard_files, "SECTIONS_PER_SHARD", 3)


def test_the_store_holds_the_text(store, documents, tokenizer):
    opened = TokenStore(store)
    assert opened.num_documents == len(documents)
    for number, document in enumerate(documents):
        ids = tokenizer.encode_batch(document)
        assert sentence_ends(opened, number).tolist() == np.cumsum([len(s) for s in ids]).tolist()
        assert opened.tokens(number, 0, sum(map(len, ids))).tolist() == [t for s in ids for t in s]


def test_token_counts_are_those_of_the_tokens(store, documents, tokenizer):
    ids = [t for document in documents for s in tokenizer.encode_batch(document) for t in s]
    assert TokenStore(store).token_counts().tolist() == np.bincount(ids, minlength=len(tokenizer)).tolist()


def test_any_number_of_workers_gives_the_same_bytes(tmp_path, corpus, tokenizer, small_sections):
    stores = []
    for workers in (1, 2, 3):
        summary = prepare([str(corpus)], tokenizer, tmp_path / str(workers), num_workers=workers)
        assert summary.num_sections > 4
        assert summary.num_shards == -(-summary.num_sections // 3)
        stores.append(digest(tmp_path / str(workers)))
    assert stores[0] == stores[1] == stores[2]


def test_sections_and_shards_do_not_change_what_is_stored(tmp_path, corpus, tokenizer, store, small_sections):
    prepare([str(corpus)], tokenizer, tmp_path / "s", num_workers=1)
    many, one = TokenStore(tmp_path / "s"), TokenStore(store)
    assert many.num_documents == one.num_documents == 30
    for document in (0, 11, 29):
        assert sentence_ends(many, document).tolist() == sentence_ends(one, document).tolist()
        assert many.tokens(document, 3, 20).tolist() == one.tokens(document, 3, 20).tolist()


# Before the first shard is complete, and after it.
@pytest.mark.parametrize("kill_after", [2, 5])
def test_a_killed_preparation_continues_and_keeps_its_finished_sections(
    kill_after, tmp_path, corpus, tokenizer, small_sections, monkeypatch
):
    monkeypatch.setattr(section_jobs, "CHARACTERS_PER_SECTION", 1000)
    whole = tmp_path / "whole"
    num_sections = prepare([str(corpus)], tokenizer, whole, num_workers=1).num_sections
    tokenizer.save(tmp_path / "tokenizer")
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from bert_lightning.data.corpus import preparation, section_jobs, shard_files\n"
        "from bert_lightning.text.wordpiece import load_tokenizer\n"
        "section_jobs.CHARACTERS_PER_SECTION, shard_files.SECTIONS_PER_SHARD = 1000, 3\n"
        "def slow(done):\n    print('section', flush=True)\n    time.sleep(0.3)\n"
        f"preparation.prepare([{str(corpus)!r}], load_tokenizer({str(tmp_path / 'tokenizer')!r}),"
        f" Path({str(tmp_path / 'killed')!r}), num_workers=1, progress=slow)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for _ in range(kill_after):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "killed/shard-00000.tokens").exists() == (kill_after > 3)
    with pytest.raises(InputError, match="did not finish"):
        TokenStore(tmp_path / "killed")
    summary = prepare([str(corpus)], tokenizer, tmp_path / "killed", num_workers=1)
    assert 0 < summary.num_kept_sections < num_sections
    assert digest(tmp_path / "killed") == digest(whole)


def test_preparing_again_keeps_everything(tmp_path, corpus, tokenizer):
    prepare([str(corpus)], tokenizer, tmp_path / "s")
    before = digest(tmp_path / "s")
    summary = prepare([str(corpus)], tokenizer, tmp_path / "s")
    assert summary.num_kept_sections == summary.num_sections
    assert digest(tmp_path / "s") == before


@pytest.fixture(scope="module")
def long_document(tmp_path_factory, tokenizer, documents):
    """A store in which the second of three documents spans several sections, and the text of the three."""
    texts = [documents[0], [s for document in documents for s in document], documents[1]]
    folder = tmp_path_factory.mktemp("long")
    before = section_jobs.CHARACTERS_PER_SECTION, documents_module.PASSAGE
    section_jobs.CHARACTERS_PER_SECTION, documents_module.PASSAGE = 2000, 500
    try:
        summary = prepare([str(write_corpus(folder / "c.txt", texts))], tokenizer, folder / "s", num_workers=1)
    finally:
        section_jobs.CHARACTERS_PER_SECTION, documents_module.PASSAGE = before
    assert summary.num_documents == 3
    return TokenStore(folder / "s"), texts


def test_a_document_longer_than_a_section_keeps_its_text_and_its_extent(long_document, tokenizer):
    store, texts = long_document
    assert store.num_sections > 3
    stretches, document = [], 0
    while document < store.num_documents:
        stretches.append(store.same_document(document))
        assert stretches[-1][0] == document
        document = stretches[-1][1] + 1
    assert len(stretches) == 3
    assert stretches[1][1] - stretches[1][0] >= 2
    for (first, last), text in zip(stretches, texts, strict=True):
        stored: list[int] = []
        for number in range(first, last + 1):
            assert store.same_document(number) == (first, last)
            stored += store.tokens(number, 0, int(sentence_ends(store, number)[-1])).tolist()
        assert stored == [t for ids in tokenizer.encode_batch(text) for t in ids]


def samples_up_to(pairs):
    """Return the number of samples up to each document."""
    return np.cumsum(
        [-(-int(sentence_ends(pairs.store, n)[-1]) // pairs.room) for n in range(pairs.store.num_documents)]
    )


def holds(store, document, tokens) -> bool:
    """Return whether a document holds a run of tokens."""
    whole = store.tokens(document, 0, int(sentence_ends(store, document)[-1])).tolist()
    wanted = tokens.tolist()
    return any(whole[i : i + len(wanted)] == wanted for i in range(len(whole) - len(wanted) + 1))


def test_a_random_second_never_comes_from_the_same_document(long_document):
    store, _ = long_document
    first, last = store.same_document(1)
    pairs = SentencePairs(store, 40, 0.0, seed=1)
    labels = set()
    for epoch in range(3):
        for index, pair in enumerate(pairs.samples(epoch, np.arange(pairs.num_samples))):
            owner = next(n for n in range(store.num_documents) if index < samples_up_to(pairs)[n])
            second = {n for n in range(store.num_documents) if holds(store, n, pair.second)}
            if pair.label != IS_NEXT:
                assert not (first <= owner <= last and second and second <= set(range(first, last + 1)))
            labels.add(pair.label)
    assert labels == {0, 1}


def test_a_vocabulary_beyond_two_bytes_is_stored_as_it_is(tmp_path):
    words = [f"w{number}" for number in range(70_000)]
    large = WordPieceTokenizer(Vocabulary((*SPECIAL_TOKENS, *words)))
    (tmp_path / "c.txt").write_text("w3 w69999 w65531\n\nw65532 w0\n")
    prepare([str(tmp_path / "c.txt")], large, tmp_path / "s", corpus=SENTENCES)
    store = TokenStore(tmp_path / "s")
    assert [large.entries[id] for id in store.tokens(0, 0, 3).tolist()] == ["w3", "w69999", "w65531"]
    assert [large.entries[id] for id in store.tokens(1, 0, 2).tolist()] == ["w65532", "w0"]
    store.verify()


def test_a_sentence_longer_than_what_is_kept_whole_is_stored_in_pieces(tmp_path, tokenizer):
    (tmp_path / "c.txt").write_text(f"{'the cat ' * 700}\nthe dog\n", encoding="utf-8")
    summary = prepare([str(tmp_path / "c.txt")], tokenizer, tmp_path / "s", corpus=SENTENCES)
    assert sentence_ends(TokenStore(tmp_path / "s"), 0).tolist() == [512, 1024, 1400, 1402]
    assert (summary.num_sentences, summary.num_tokens) == (4, 1402)


def test_the_summary_counts_what_is_there(tmp_path, corpus, tokenizer, documents, small_sections):
    summary = prepare([str(corpus)], tokenizer, tmp_path / "s", num_workers=1)
    ids = [tokenizer.encode_batch(document) for document in documents]
    lengths = [len(sentence) for document in ids for sentence in document]
    bins = [sum(1 for n in lengths if (2 ** (k - 1) if k else 0) < n <= 2**k) for k in range(5)]
    assert summary.sentence_lengths == bins[: max(k for k, n in enumerate(bins) if n) + 1]
    assert sum(summary.document_lengths) == summary.num_documents == 30
    counts = Counter(token for document in ids for sentence in document for token in sentence)
    assert dict(summary.frequent) == {tokenizer.entries[i]: n for i, n in counts.most_common(10)} or (
        sorted(n for _, n in summary.frequent) == sorted(n for _, n in counts.most_common(10))
    )


def test_a_changed_source_is_named(tmp_path, documents, tokenizer):
    text = write_corpus(tmp_path / "c.txt", documents)
    prepare([str(text)], tokenizer, tmp_path / "s")
    write_corpus(text, documents[1:])
    with pytest.raises(InputError, match=r"c\.txt has changed since"):
        prepare([str(text)], tokenizer, tmp_path / "s")


def test_a_full_disk_names_the_path_and_keeps_finished_sections(
    tmp_path, corpus, tokenizer, small_sections, monkeypatch
):
    written = []

    def write(path, *content):
        if len(written) >= 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        write_shard(path, *content)

    monkeypatch.setattr(section_writer, "write_shard", write)
    with pytest.raises(WorkError, match=r"section-0000005\.tokens: cannot be written: No space left"):
        prepare([str(corpus)], tokenizer, tmp_path / "s", num_workers=1)
    monkeypatch.setattr(section_writer, "write_shard", write_shard)
    left = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert left == [*(f"section-000000{number}.tokens" for number in range(5)), "unfinished.json"]
    assert prepare([str(corpus)], tokenizer, tmp_path / "s", num_workers=1).num_kept_sections == 5


def test_a_disk_that_is_full_when_a_shard_is_joined_loses_nothing(
    tmp_path, corpus, tokenizer, small_sections, monkeypatch
):
    def fail(path, *content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_builder, "write_shard", fail)
    with pytest.raises(WorkError, match=r"shard-00000\.tokens: cannot be written: No space left"):
        prepare([str(corpus)], tokenizer, tmp_path / "s", num_workers=1)
    monkeypatch.setattr(store_builder, "write_shard", write_shard)
    assert prepare([str(corpus)], tokenizer, tmp_path / "s", num_workers=1).num_kept_sections == 6


def test_undecodable_bytes_are_counted_if_they_are_replaced(tmp_path, tokenizer):
    (tmp_path / "c.txt").write_bytes(b"the cat\xff sees\n\xc3\nthe dog\n")
    corpus = CorpusFormat(layout="sentences", errors="replace")
    summary = prepare([str(tmp_path / "c.txt")], tokenizer, tmp_path / "s", corpus=corpus)
    assert summary.repairs.num_replaced == 2
    assert summary.num_sentences == 2


def test_leftovers_of_a_killed_preparation_are_removed(tmp_path, corpus, tokenizer):
    prepare([str(corpus)], tokenizer, tmp_path / "s")
    before = digest(tmp_path / "s")
    unfinish(tmp_path / "s")
    (tmp_path / "s/.section-0000000.tokens.host.1.tmp").touch()
    (tmp_path / "s/.shard-00000.tokens.4711.tmp").touch()
    (tmp_path / "s/section-0000009.tokens").touch()
    # Of the earlier format.
    (tmp_path / "s/shard-00000").mkdir()
    (tmp_path / "s/.manifest.json.4711.tmp").touch()
    (tmp_path / "s/.vocab.txt.4711.tmp").touch()
    prepare([str(corpus)], tokenizer, tmp_path / "s")
    assert digest(tmp_path / "s") == before


def test_an_unfinished_store_of_another_corpus_is_left_alone(tmp_path, corpus, tokenizer):
    prepare([str(corpus)], tokenizer, tmp_path / "s")
    unfinish(tmp_path / "s")
    before = digest(tmp_path / "s")
    other = write_corpus(tmp_path / "other.txt", make_documents(9))
    with pytest.raises(InputError, match=r"other\.txt is new"):
        prepare([str(other)], tokenizer, tmp_path / "s")
    assert digest(tmp_path / "s") == before


def test_a_deleted_shard_is_made_again_in_the_way_the_error_names(tmp_path, corpus, tokenizer, small_sections):
    prepare([str(corpus)], tokenizer, tmp_path / "s", num_workers=1)
    before = digest(tmp_path / "s")
    (tmp_path / "s/shard-00001.tokens").unlink()
    with pytest.raises(InputError, match=r"shard-00001\.tokens is missing\. To repair the store, run the command"):
        TokenStore(tmp_path / "s")
    summary = prepare([str(corpus)], tokenizer, tmp_path / "s", num_workers=1)
    assert summary.num_kept_sections == summary.num_sections - 3
    assert digest(tmp_path / "s") == before


def test_only_the_damaged_section_of_a_shard_is_made_again(tmp_path, corpus, tokenizer, small_sections):
    prepare([str(corpus)], tokenizer, tmp_path / "s", num_workers=1)
    before = digest(tmp_path / "s")
    path = tmp_path / "s/shard-00000.tokens"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    summary = prepare([str(corpus)], tokenizer, tmp_path / "s", num_workers=1)
    assert summary.num_kept_sections == summary.num_sections - 1
    assert digest(tmp_path / "s") == before


def test_an_edited_list_of_a_shard_is_not_trusted(tmp_path, corpus, tokenizer):
    prepare([str(corpus)], tokenizer, tmp_path / "s")
    before = digest(tmp_path / "s")
    unfinish(tmp_path / "s")
    path = tmp_path / "s/shard-00000.tokens"
    path.write_bytes(path.read_bytes().replace(b'"num_documents":30', b'"num_documents":20'))
    assert prepare([str(corpus)], tokenizer, tmp_path / "s").num_kept_sections == 0
    assert digest(tmp_path / "s") == before


def test_the_same_text_in_another_folder_is_the_same_source(tmp_path, corpus, tokenizer, monkeypatch):
    prepare([str(corpus)], tokenizer, tmp_path / "s")
    monkeypatch.chdir(corpus.parent)
    assert prepare([corpus.name], tokenizer, tmp_path / "s").num_kept_sections == 1


@pytest.mark.parametrize(
    "change", [{"tokenizer": 5}, {"token_bytes": 3}, {"token_counts_sha256": None}, {"token_bytes": "2"}]
)
def test_a_manifest_of_the_wrong_shape_is_named(tmp_path, corpus, tokenizer, change):
    prepare([str(corpus)], tokenizer, tmp_path / "s")
    path = tmp_path / "s/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=r"manifest\.json: damaged"):
        TokenStore(tmp_path / "s")


def test_an_open_store_holds_no_file_open(tmp_path, corpus, tokenizer, small_sections):
    prepare([str(corpus)], tokenizer, tmp_path / "s", num_workers=1)
    store = TokenStore(tmp_path / "s")
    before = len(os.listdir("/proc/self/fd"))
    for number in range(store.num_sections):
        section = store.section(number)
        assert len(section.read(0, section.num_tokens)) == section.num_tokens
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_killed_worker_is_one_message(tmp_path, corpus, tokenizer, small_sections, monkeypatch):
    monkeypatch.setattr(section_jobs, "make_section", kill_self)
    with pytest.raises(WorkError, match="a worker process was killed"):
        prepare([str(corpus)], tokenizer, tmp_path / "s", num_workers=2)


def test_a_second_preparation_of_a_folder_is_refused_while_the_first_works(
    tmp_path, corpus, tokenizer, small_sections
):
    refused = []

    def prepare_again(done: int) -> None:
        with pytest.raises(InputError, match="another command is making this token store") as raised:
            prepare([str(corpus)], tokenizer, tmp_path / "s", num_workers=1)
        refused.append(str(raised.value))

    prepare([str(corpus)], tokenizer, tmp_path / "s", num_workers=1, progress=prepare_again)
    assert len(refused) == 6
    TokenStore(tmp_path / "s").verify()
    assert prepare([str(corpus)], tokenizer, tmp_path / "s", num_workers=1).num_kept_sections == 6


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
        prepare([str(tmp_path / "bad.txt")], tokenizer, tmp_path / "s", corpus=SENTENCES)
    assert not (tmp_path / "s").exists()


def test_bad_input_late_in_the_corpus_leaves_no_output(tmp_path, corpus, tokenizer, small_sections):
    (tmp_path / "bad.txt").write_bytes(b"\xff\n")
    for workers in (1, 2):
        with pytest.raises(InputError, match=r"bad\.txt: line 1"):
            prepare(
                [str(corpus), str(tmp_path / "bad.txt")],
                tokenizer,
                tmp_path / "s",
                num_workers=workers,
                corpus=SENTENCES,
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
    with pytest.raises(InputError, match="shard-photos, which does not belong to a token store"):
        prepare([str(corpus)], tokenizer, tmp_path / "s")
    assert (tmp_path / "s/shard-photos/me.jpg").exists()


def test_a_group_without_a_single_token_leaves_a_store_that_opens(tmp_path, corpus, tokenizer, small_sections):
    (tmp_path / "odd.txt").write_text("\u200b\u0001 " * 1500, encoding="utf-8")
    for inputs in ([tmp_path / "odd.txt", corpus], [corpus, tmp_path / "odd.txt", corpus]):
        output = tmp_path / str(len(inputs))
        summary = prepare([str(path) for path in inputs], tokenizer, output, corpus=SENTENCES, num_workers=1)
        assert TokenStore(output).num_documents == summary.num_documents


def test_a_preparation_killed_before_its_manifest_continues(tmp_path, corpus, tokenizer):
    prepare([str(corpus)], tokenizer, tmp_path / "s")
    before = digest(tmp_path / "s")
    unfinish(tmp_path / "s")
    assert prepare([str(corpus)], tokenizer, tmp_path / "s").num_kept_sections == 1
    assert digest(tmp_path / "s") == before
