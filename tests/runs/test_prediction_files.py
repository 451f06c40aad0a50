"""Prediction from files into files: complete or absent, in order, in bounded memory, and checked before it begins."""

import json
import random
import re

import pytest

from bert_lightning import load
from bert_lightning.cli import main, terminal
from bert_lightning.data.loading.encoding import encode_texts, first_tokens
from bert_lightning.data.reading.tables import Row
from bert_lightning.errors import InputError
from bert_lightning.runs import blocks
from bert_lightning.runs.blocks import in_blocks
from tests.support.small_corpus import sentence


def texts_of(number):
    """Make texts of very different lengths."""
    generator = random.Random(3)
    return [" ".join(sentence(generator, n % 3) for _ in range(generator.randrange(1, 9))) for n in range(number)]


def test_a_file_is_predicted_in_order_although_blocks_are_sorted_by_length(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", 7)
    texts, model = texts_of(40), load(classifier)
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    assert model.predict_file(tmp_path / "texts.txt", tmp_path / "out.jsonl", batch_size=4) == 40
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [each["sentence"] for each in written] == texts
    for text, each in zip(texts, written, strict=True):
        [alone] = model.predict([text])
        assert each["label"] == alone["label"]
        assert each["probabilities"] == pytest.approx(alone["probabilities"], abs=2e-6)


def test_blocks_end_at_a_number_of_rows_or_of_characters(monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", 4)
    monkeypatch.setattr(blocks, "_BLOCK_CHARACTERS", 100)
    rows = [Row("x", {"tokens": ["a" * length], "other": 3}) for length in (1, 1, 1, 1, 1, 99, 1, 500, 2, 2)]
    assert [len(block) for block in in_blocks(rows)] == [4, 2, 2, 2]
    assert [row for block in in_blocks(rows) for row in block] == rows
    # No block holds more than its bound and one further text.
    assert all(sum(len(text) for text in block[:-1]) < 100 for block in in_blocks("b" * n for n in range(90)))


def test_wrong_lines_are_named_with_file_and_line_before_anything_is_computed(classifier, tmp_path, monkeypatch):
    rows = [{"sentence": text} for text in texts_of(30)]
    for number in (3, 9, 11, 12, 13, 20, 28):
        rows[number] = {"text": "The cat."}
    source, output = tmp_path / "rows.jsonl", tmp_path / "new/out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = load(classifier)
    monkeypatch.setattr(type(model.task), "predict_rows", lambda *_: pytest.fail("something was computed"))
    with pytest.raises(InputError) as raised:
        model.predict_file(source, output)
    fault = r"\({}\) \S*rows\.jsonl: line {}: there is no column 'sentence'.*"
    named = [fault.format(k, n) for k, n in enumerate((4, 10, 12, 13, 14), 1)]
    assert re.fullmatch(rf"7 faults: {'  '.join(named)}  and 2 more", str(raised.value))
    assert not output.parent.exists()


def test_a_line_that_cannot_be_read_is_named_after_the_wrong_lines_before_it(classifier, tmp_path):
    source = tmp_path / "bad.jsonl"
    source.write_text('{"sentence": "The cat."}\n{"text": "The cat."}\nThe cat.\n')
    with pytest.raises(InputError, match=r"2 faults: \(1\) .*line 2: there is no column .*\(2\) .*line 3: "):
        load(classifier).predict_file(source, tmp_path / "out.jsonl")


@pytest.mark.parametrize("link", [None, "symlink_to", "hardlink_to"])
def test_an_output_that_is_the_input_is_refused_and_the_input_stays(classifier, tmp_path, link):
    source = output = tmp_path / "texts.txt"
    source.write_text("The cat.\n")
    if link is not None:
        output = tmp_path / "link.txt"
        getattr(output, link)(source)
    with pytest.raises(InputError, match=r"\.txt is also the input, which it would replace: choose another name"):
        load(classifier).predict_file(source, output)
    assert source.read_text() == "The cat.\n"


def test_a_prediction_that_fails_leaves_the_file_of_before(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", 5)
    (tmp_path / "texts.txt").write_text("\n".join(texts_of(20)) + "\n")
    (tmp_path / "out.jsonl").write_text("before\n")
    model, done = load(classifier), []
    predict = model.task.predict_rows

    def fail(rows, batch_size):
        done.append(len(rows))
        if len(done) == 3:
            raise OSError("no more")
        return predict(rows, batch_size)

    monkeypatch.setattr(model.task, "predict_rows", fail)
    with pytest.raises(OSError, match="no more"):
        model.predict_file(tmp_path / "texts.txt", tmp_path / "out.jsonl")
    assert done == [5, 5, 5]
    assert (tmp_path / "out.jsonl").read_text() == "before\n"
    assert {path.name for path in tmp_path.iterdir()} == {"out.jsonl", "texts.txt"}


def test_the_command_writes_what_python_writes_and_prints_the_speed(classifier, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(terminal, "_SECONDS_BETWEEN_LINES", 0)
    (tmp_path / "texts.txt").write_text("\n".join(texts_of(6)) + "\n")
    load(classifier).predict_file(tmp_path / "texts.txt", tmp_path / "python.jsonl")
    capsys.readouterr()
    command = ["predict", "--checkpoint", str(classifier), "--input", str(tmp_path / "texts.txt")]
    assert main([*command, "--output", str(tmp_path / "shell.jsonl")]) == 0
    printed = capsys.readouterr()
    assert re.fullmatch(r"6 predictions, [\d,]+ per second: .*shell\.jsonl\n", printed.out)
    assert re.search(r"predicting: 4 of 6 examples, [\d,]+ per second, \d+ min left\n", printed.err)
    assert (tmp_path / "shell.jsonl").read_bytes() == (tmp_path / "python.jsonl").read_bytes()


def test_a_text_is_encoded_as_far_as_it_is_read_and_gets_the_same_ids(tokenizer, monkeypatch):
    generator = random.Random(5)
    texts = [
        "",
        "The old cat sees the young dog. " * 500,
        "catdog" * 900,
        " " * 4000 + "The cat." * 3,
        "The cat " + " " * 9000 + "sees the dog " * 400,
        *(
            " ".join(generator.choice(["the", "catéx", "犬猫", "[MASK]", "", "x" * 150]) for _ in range(n))
            for n in (5, 900)
        ),
    ]
    whole = tokenizer.encode_batch(texts)
    encoded = []
    encode = tokenizer.backend.encode_batch_fast
    monkeypatch.setattr(
        type(tokenizer),
        "encode_batch",
        lambda self, given: (encoded.extend(given), [e.ids for e in encode(given, add_special_tokens=False)])[1],
    )
    for limit in (3, 20, 64):
        found = first_tokens(tokenizer, texts, limit)
        assert [ids[:limit] for ids in found] == [ids[:limit] for ids in whole]
        firsts, _ = encode_texts(tokenizer, texts, None, limit)
        assert firsts == [ids[: limit - 2] for ids in whole]
    assert texts[1] not in encoded


def test_pairs_of_long_texts_are_cut_as_if_they_were_encoded_as_a_whole(tokenizer):
    long, short = "The old cat sees the young dog. " * 300, "The river finds a stone."
    for first, second in ((long, long), (long, short), (short, long), (short, short)):
        for limit in (8, 30):
            ids, others = (tokenizer.encode_batch([text])[0] for text in (first, second))
            while len(ids) + len(others) > limit - 3:
                # The original code: one token at a time leaves the longer text, or the second.
                (ids if len(ids) > len(others) else others).pop()
            assert encode_texts(tokenizer, [first], [second], limit) == ([ids], [others])
