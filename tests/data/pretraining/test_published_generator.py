import hashlib
import json
from pathlib import Path

import pytest

from bert_lightning.data.pretraining.published_generator import GoogleSettings, google_instances
from bert_lightning.data.reading.lines import Repairs
from bert_lightning.errors import InputError
from bert_lightning.text.original import OriginalEncoding

ORIGINAL = Path(__file__).parents[1] / "original"
CASES = json.loads((ORIGINAL / "instances.json").read_text())


def entries(name: str) -> tuple[str, ...]:
    return tuple((ORIGINAL / f"{name}.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n"))


def generate(texts, cased=False, **settings):
    vocabulary = entries("cased" if cased else "uncased")
    encoder = OriginalEncoding(vocabulary, lowercase=not cased)
    lines = google_instances([str(text) for text in texts], encoder, vocabulary, GoogleSettings(**settings))
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("case", CASES, ids=[f"{n}" for n in range(len(CASES))])
def test_every_setting_gives_what_the_original_code_gave(case):
    instances = generate([ORIGINAL / "first.txt", ORIGINAL / "second.txt"], case["cased"], **case["settings"])
    lines = [json.dumps(instance, ensure_ascii=False, sort_keys=True) for instance in instances]
    assert len(lines) == case["num_instances"]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == case["sha256"]


def test_a_corpus_of_one_document_has_its_own_random_seconds_as_in_the_original(tmp_path):
    (tmp_path / "c.txt").write_text("the old dog sees the cat\nthe red bird finds a tree\n")
    for instance in generate([tmp_path / "c.txt"], dupe_factor=20):
        first = instance["tokens"].index("[SEP]")
        assert instance["segment_ids"].index(1) == first + 1


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf\n\x00\n"])
def test_text_without_a_token_is_an_error(tmp_path, content):
    (tmp_path / "c.txt").write_bytes(content)
    with pytest.raises(InputError, match="the corpus is empty"):
        generate([tmp_path / "c.txt"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_seq_length": 4}, "--max-seq-length is 4"),
        ({"dupe_factor": 0}, "--dupe-factor is 0"),
        ({"short_seq_prob": 1.5}, "--short-seq-prob is 1.5"),
    ],
)
def test_impossible_settings_name_the_option(settings, message):
    with pytest.raises(InputError, match=message):
        GoogleSettings(**settings)


def test_undecodable_bytes_can_be_replaced_and_are_counted(tmp_path):
    (tmp_path / "c.txt").write_bytes(b"the \xff dog\nthe cat\n")
    vocabulary = entries("uncased")
    repairs = Repairs()
    encoder = OriginalEncoding(vocabulary, lowercase=True)
    settings = GoogleSettings()
    assert list(google_instances([str(tmp_path / "c.txt")], encoder, vocabulary, settings, "replace", repairs))
    assert repairs.num_replaced == 1
