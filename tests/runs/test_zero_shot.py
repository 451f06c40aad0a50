"""Classification by labels that a model was not trained for, compared with transformers."""

import json
from math import log

import pytest
import torch
import transformers

import bert_lightning
from bert_lightning.cli import main
from bert_lightning.errors import InputError
from bert_lightning.model import BertEncoder, BertForPreTraining, BertForSequenceClassification
from tests.support.task_data import tiny_classification

TEXTS = ["The old cat sees the young dog.", "The red house.", "The river follows the cloud " * 20, ""]
LABELS = ["animals", "nature", "places"]
WORDS = {"animals": "cat", "nature": ["river", "tree"], "places": "house"}


@pytest.fixture(scope="module")
def pre_trained(base):
    return bert_lightning.zero_shot(base, "cpu")


@pytest.fixture(scope="module")
def entailing(base, tmp_path_factory):
    """A classifier of pairs, as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("entailing") / "model"
    torch.manual_seed(5)
    names = ["contradiction", "neutral", "entailment"]
    model = BertForSequenceClassification.from_pretrained(base, labels=names, new_head=True)
    with torch.no_grad():
        model.classifier.weight.normal_()
    model.save_pretrained(folder, model.vocabulary)
    return folder


def probabilities(rows):
    return torch.tensor([[row["probabilities"][label] for label in LABELS] for row in rows])


def test_masked_words_are_those_of_the_cloze_task(pre_trained, base, tables, tokenizer, tmp_path):
    values = tiny_classification(tables, tokenizer, tmp_path)
    values |= {"task": "cloze", "model": {"pretrained": str(base)}, "optimizer": {"learning_rate": 0.0}}
    values["data"] |= {"pattern": "{text} The {mask}.", "verbalizer": WORDS, "max_seq_length": 48}
    bert_lightning.fit(values, {"trainer.max_steps": 1}, run_directory=tmp_path / "run")
    run = bert_lightning.load(tmp_path / "run", "cpu")
    expected = probabilities(run.predict(TEXTS))
    for model in (pre_trained, run):
        rows = model.classify(TEXTS, LABELS, pattern="{text} The {mask}.", verbalizer=WORDS)
        torch.testing.assert_close(probabilities(rows), expected, rtol=0, atol=2e-6)
    calibrated = pre_trained.classify(["[MASK]"], LABELS, verbalizer=WORDS, calibration=["[MASK]"])
    torch.testing.assert_close(probabilities(calibrated), torch.full((1, 3), 1 / 3), rtol=0, atol=1e-5)


def test_next_sentences_are_those_that_transformers_scores(pre_trained, base):
    theirs = transformers.BertForNextSentencePrediction.from_pretrained(base).eval()
    tokenizer = transformers.BertTokenizer.from_pretrained(base)
    rows = pre_trained.classify(TEXTS[:2], LABELS, by="nsp", pattern="The {label}.", verbalizer={"animals": "cat"})
    for text, row in zip(TEXTS, rows, strict=False):
        inputs = tokenizer([text] * 3, ["The cat.", "The nature.", "The places."], padding=True, return_tensors="pt")
        with torch.no_grad():
            is_next = theirs(**inputs).logits.softmax(-1)[:, 0]
        torch.testing.assert_close(probabilities([row])[0], is_next / is_next.sum(), rtol=0, atol=2e-6)


def test_entailment_is_that_of_the_pipeline_of_transformers(entailing):
    theirs = transformers.pipeline("zero-shot-classification", model=str(entailing), device="cpu")
    rows = bert_lightning.zero_shot(entailing, "cpu").classify(TEXTS[:2], LABELS, pattern="The {label} sees.")
    for text, row in zip(TEXTS, rows, strict=False):
        found = theirs(text, LABELS, hypothesis_template="The {} sees.")
        by_label = dict(zip(found["labels"], found["scores"], strict=True))
        assert row["probabilities"] == pytest.approx(by_label, abs=2e-6)


def test_bfloat16_changes_probabilities_by_its_rounding_alone(pre_trained, base):
    rounded = bert_lightning.zero_shot(base, "cpu", precision="bf16-mixed")
    words = {"animals": "cat", "nature": "tree", "places": "house"}
    for by in ("masked-words", "nsp"):
        one = probabilities(pre_trained.classify(TEXTS, LABELS, by=by, verbalizer=words))
        # Labels may come from a generator.
        other = rounded.classify(TEXTS, iter(LABELS), by=by, verbalizer=words)
        assert 0 < (one - probabilities(other)).abs().max() < 0.05
    with pytest.raises(InputError, match="precision is '16'; it must be one of"):
        bert_lightning.zero_shot(base, "cpu", precision="16")


@pytest.mark.parametrize("by", ["masked-words", "nsp", "entailment"])
def test_the_order_of_labels_and_texts_and_the_size_of_batches_are_irrelevant(pre_trained, entailing, by):
    model = bert_lightning.zero_shot(entailing, "cpu") if by == "entailment" else pre_trained
    words = WORDS if by == "masked-words" else {}
    one = model.classify(TEXTS, LABELS, by=by, verbalizer=words)
    other = model.classify(TEXTS[::-1], LABELS[::-1], by=by, verbalizer=words, batch_size=1)[::-1]
    torch.testing.assert_close(probabilities(one), probabilities(other), rtol=0, atol=5e-6)
    # A text without words is classified too.
    assert len(one) == len(TEXTS)


def test_the_way_is_the_first_that_the_model_has(pre_trained, entailing, base, tmp_path):
    assert pre_trained.ways == ["masked-words", "nsp"]
    assert bert_lightning.zero_shot(entailing, "cpu").ways == ["entailment"]
    encoder = BertEncoder.from_pretrained(base)
    encoder.save_pretrained(tmp_path / "encoder", encoder.vocabulary)
    alone = bert_lightning.zero_shot(tmp_path / "encoder", "cpu")
    with pytest.raises(InputError, match="encoder cannot classify: that needs a head for masked words or"):
        alone.classify(TEXTS, LABELS)
    with pytest.raises(InputError, match=r"by entailment: .* it can be asked by masked-words or nsp"):
        pre_trained.classify(TEXTS, LABELS, by="entailment")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["one"]}, r"labels is \['one'\]; at least two are needed"),
        ({"labels": "two"}, "labels is 'two'; at least two are needed"),
        ({"labels": ["cat", "cat"]}, "labels has 'cat' twice"),
        ({"labels": ["cat", ""]}, "labels has ''; each must be a text"),
        ({"by": "nps"}, "by is 'nps'; did you mean 'nsp'"),
        ({"labels": ["cat", 3]}, "labels has 3; each must be a text"),
        ({"pattern": ""}, "^pattern is ''; it must be a text, or left out for the default"),
        (
            {"pattern": "{text} {mask} " + "cat " * 60, "verbalizer": WORDS},
            "pattern is too long for the 48 positions of the model",
        ),
        ({"verbalizer": {"animals": 3}}, "verbalizer.animals is 3; it must be a word, or a list of words"),
        ({"by": "nsp", "verbalizer": {"animals": ""}}, "verbalizer.animals is ''; it must be a word"),
        ({"by": "nsp", "verbalizer": {"animals": 3}}, "verbalizer.animals is 3; it must be a word"),
        ({"verbalizer": "animals"}, "verbalizer is 'animals'; it must be a mapping from labels to words"),
        ({"verbalizer": {0: "cat"}}, "verbalizer has the label 0, which the data do not have"),
        ({"calibration": "N/A"}, "calibration is 'N/A'; it must be a list of texts"),
        ({"calibration": [None]}, r"calibration is \[None\]; it must be a list of texts"),
        ({"by": "nsp", "pattern": "It was {label!z}."}, "{label} takes no options, and no conversion such as !r"),
        ({"by": "nsp", "pattern": "It was {label:zz}."}, "{label} takes no options, and no conversion such as !r"),
        ({"pattern": "{text} The cat."}, "^pattern is .* has no {mask}"),
        ({"verbalizer": {"animal": "cat"}}, "verbalizer has the label 'animal', which the data do not have; did you"),
        (
            {"verbalizer": {**WORDS, "nature": "cat"}},
            "^verbalizer.animals is 'cat', the same word as that of nature",
        ),
        ({"verbalizer": {"animals": "日"}}, "^verbalizer.animals is '日', which is outside the vocabulary"),
        ({"by": "nsp", "pattern": "{text} {label}"}, "it must be a sentence that has {label} once"),
        ({"by": "nsp", "pattern": "The {label"}, "cannot be read"),
        ({"by": "nsp", "pattern": "The {label} " * 60}, "has {label} once"),
        ({"by": "nsp", "pattern": "The {label} " + "cat " * 60}, "pattern is too long for the 48 positions"),
        ({"by": "nsp", "verbalizer": {"animals": ["a", "b"]}}, "several words per label need masked-words"),
        ({"by": "nsp", "verbalizer": {"animals": "nature"}}, "gives two labels the same sentence, 'It was nature.'"),
        ({"by": "nsp", "verbalizer": {"nat": "x"}}, "verbalizer has 'nat', which is no label; did you mean 'nature'"),
        ({"by": "nsp", "calibration": ["x"]}, "calibration is for masked-words, and the labels are asked for by nsp"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"texts": "a text"}, "a list of texts is expected, not one text"),
        ({"texts": ["a", None], "verbalizer": WORDS}, "item 2"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_its_name(pre_trained, changes, message):
    arguments = {"texts": TEXTS, "labels": LABELS} | changes
    with pytest.raises(InputError, match=message):
        pre_trained.classify(arguments.pop("texts"), arguments.pop("labels"), **arguments)


def test_the_command_writes_what_python_returns(pre_trained, base, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("".join(f"{text.strip()}\n" for text in TEXTS[:3]))
    (tmp_path / "texts.tsv").write_text("review\n" + "".join(f"{text.strip()}\n" for text in TEXTS[:3]))
    labels = ["animals=cat", "nature=river,tree", "places=house"]
    command = ["classify", "--checkpoint", str(base), "--labels", *labels, "--pattern", "{text} The {mask}."]
    expected = pre_trained.classify(
        [text.strip() for text in TEXTS[:3]], LABELS, pattern="{text} The {mask}.", verbalizer=WORDS
    )
    assert main([*command, "--input", str(tmp_path / "texts.txt")]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == expected
    table = ["--input", str(tmp_path / "texts.tsv"), "--text-column", "review", "--output", str(tmp_path / "o.jsonl")]
    assert main([*command, *table]) == 0
    assert capsys.readouterr().out.startswith("3 predictions, ")
    assert [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()] == expected


def test_the_command_refuses_with_one_line_and_leaves_no_file(base, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("The cat.\n")
    command = ["classify", "--checkpoint", str(base), "--input", str(tmp_path / "texts.txt")]
    output = ["--output", str(tmp_path / "out.jsonl")]
    for options, message in (
        (["--labels", "cat"], "--labels is ['cat']; at least two are needed"),
        (["--labels", "cat", "dog", "--pattern", "{text}"], "--pattern is '{text}', which has no {mask}"),
        (["--labels", "cat", "dog", "--pattern", ""], "--pattern is ''; it must be a text"),
        (["--labels", "cat", "dog", "--by", "nsp", "--calibration", "x"], "--calibration is for masked-words"),
        (["--labels", "cat", "dog=", "--by", "nsp"], "--labels: the word of dog is ''; it must be a word"),
        (["--labels", "cat", "dog=cat", "--by", "nsp"], "--labels gives two labels the same sentence"),
        (["--labels", "cat,dog", "river"], "--labels has 'cat,dog': separate labels by spaces"),
    ):
        assert main([*command, *options, *output]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert message in line
    assert main([*command[:3], "--input", "verbalizer.txt", "--labels", "cat", "dog", *output]) == 2
    assert ": verbalizer.txt: " in capsys.readouterr().err
    (tmp_path / "texts.txt").write_text("")
    assert main([*command, "--labels", "cat", "dog", *output]) == 2
    assert "the input holds no text" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_probabilities_of_words_are_relative_to_the_labels_alone(base, pre_trained):
    model = BertForPreTraining.from_pretrained(base).eval()
    ids = torch.tensor([[pre_trained.tokenizer.cls_id, pre_trained.tokenizer.mask_id, pre_trained.tokenizer.sep_id]])
    with torch.no_grad():
        logits = model(ids).prediction_logits[0, 1]
    entries = [entry for entry in pre_trained.tokenizer.entries if entry in ("c", "d")]
    assert entries == ["c", "d"]
    [row] = pre_trained.classify([""], entries, pattern="{text}{mask}")
    one, other = (logits[pre_trained.tokenizer.entries.index(entry)].item() for entry in entries)
    assert log(row["probabilities"]["c"] / row["probabilities"]["d"]) == pytest.approx(one - other, abs=1e-4)
