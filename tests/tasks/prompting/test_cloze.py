"""The scores of the cloze task, compared with the masked-language-model head and with closed forms."""

import dataclasses
from itertools import product

import numpy as np
import pytest
import torch
import transformers

from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.data.reading.tables import Row
from bert_lightning.model import BertConfig, BertForMaskedLM
from bert_lightning.tasks.prompting.settings import ClozeData
from bert_lightning.tasks.prompting.task import ClozeTask
from bert_lightning.tasks.prompting.verbalizers import log_probabilities
from bert_lightning.text.wordpiece import SPECIAL_TOKENS, WordPieceTokenizer

WORDS = ("it", "was", "a", "film", "great", "bad", "good", "##ness", "terri", "##ble", ".", "?", ",", "yes", "no")
TEXTS = ("a film.", "a bad, bad film?", "no film was it", "")


@pytest.fixture(scope="module")
def words():
    return WordPieceTokenizer(Vocabulary((*SPECIAL_TOKENS, *WORDS), lowercase=True))


@pytest.fixture(scope="module")
def model(words):
    torch.manual_seed(1)
    config = BertConfig.preset("tiny", vocab_size=len(words), hidden_size=32, num_attention_heads=2)
    model = BertForMaskedLM(config).double().eval()
    with torch.no_grad():
        model.mlm_head.bias.normal_(0, 2)
    return model


def cloze(model, words, verbalizer, **changes):
    settings = ClozeData(**{"pattern": "{text} It was {mask}.", "verbalizer": verbalizer, **changes})
    return ClozeTask(model, model.config, words, settings, sorted(verbalizer)).eval()


def scores(task, texts=TEXTS):
    """Return (n, L) the scores of texts, in float64."""
    split = task.encode([task.example_of(Row("", {"text": text})) for text in texts])
    # The loss computes with float32 or more.
    with torch.no_grad():
        return torch.cat([task.compute(split.batch(torch.tensor([number]).numpy())) for number in range(len(texts))])


def outputs(task, texts=TEXTS):
    """Return (n, L) the scores by which texts are evaluated and predicted, in float64."""
    split = task.encode([task.example_of(Row("", {"text": text})) for text in texts])
    return torch.from_numpy(np.stack(task.outputs_for(split, 1)))


@pytest.fixture(autouse=True)
def in_float64(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def test_an_answer_of_one_piece_has_the_logit_that_transformers_computes(model, words, tmp_path):
    model.float().save_pretrained(tmp_path / "model", words.vocabulary)
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path / "model").double().eval()
    model.double()
    found = scores(cloze(model, words, {"a": "great", "b": "bad", "c": "no"}))
    tokenizer = transformers.BertTokenizer.from_pretrained(tmp_path / "model")
    for text, mine in zip(TEXTS, found, strict=True):
        inputs = tokenizer(f"{text} It was [MASK].", return_tensors="pt")
        with torch.no_grad():
            logits = theirs(**inputs).logits[0, inputs["input_ids"][0] == tokenizer.mask_token_id].squeeze(0)
        expected = logits[tokenizer.convert_tokens_to_ids(["great", "bad", "no"])]
        torch.testing.assert_close(mine - mine[0], expected - expected[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(mine, expected - logits.logsumexp(0), rtol=0, atol=1e-12)


def test_an_answer_of_several_pieces_is_scored_whole(model, words):
    task = cloze(model, words, {"a": "terrible", "b": "bad"})
    assert task.verbalizer.num_masks == 2
    ids = words.encode_batch(["a film . it was [MASK] [MASK] ."])[0]
    ids = torch.tensor([[words.cls_id, *ids, words.sep_id]])
    with torch.no_grad():
        first, second = model(ids)[ids == words.mask_id].softmax(-1)
    expected = [
        first[words.entries.index("terri")] * second[words.entries.index("##ble")],
        first[words.entries.index("bad")],
    ]
    torch.testing.assert_close(scores(task, ["a film."])[0].exp(), torch.stack(expected), rtol=1e-12, atol=0)


def test_a_label_of_several_answers_has_the_sum_of_their_probabilities(model, words):
    apart = scores(cloze(model, words, {"a": "great", "b": "terrible", "c": "good"})).exp()
    together = scores(cloze(model, words, {"a": ["great", "good"], "b": "terrible"})).exp()
    torch.testing.assert_close(together[:, 0], apart[:, 0] + apart[:, 2], rtol=1e-12, atol=0)
    torch.testing.assert_close(together[:, 1], apart[:, 1], rtol=1e-12, atol=0)


def test_the_probabilities_of_answers_that_do_not_begin_alike_have_at_most_the_sum_one():
    torch.manual_seed(0)
    logits = 5 * torch.randn(20, 2, 4, dtype=torch.float64)
    # All answers of one and two pieces of which none begins another: 0, 1 alone; 2 and 3 with each piece.
    answers = [[0, 0], [1, 0], *([first, second] for first, second in product((2, 3), range(4)))]
    exist = torch.tensor([[True, number > 1] for number in range(len(answers))])
    found = log_probabilities(logits, torch.tensor(answers), exist, torch.eye(len(answers), dtype=torch.bool)).exp()
    # They are all that can happen at the two masks.
    torch.testing.assert_close(found.sum(1), torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_scores_of_all_labels_have_at_most_the_sum_one(model, words):
    every = {word: word for word in ("great", "bad", "goodness", "terrible", "it", "was")}
    assert (scores(cloze(model, words, every)).exp().sum(1) <= 1).all()


def test_the_order_of_the_classes_and_their_names_are_irrelevant(model, words):
    one = scores(cloze(model, words, {"a": "great", "b": "terrible", "c": ["no", "bad"]}))
    other = scores(cloze(model, words, {"z": "great", "y": ["bad", "no"], "x": "terrible"}))
    torch.testing.assert_close(one, other[:, [2, 0, 1]], rtol=0, atol=1e-14)


def test_calibration_leaves_a_text_without_content_uniform(model, words):
    verbalizer = {"a": "great", "b": "terrible", "c": "no"}
    task = cloze(model, words, verbalizer, calibration=["[MASK]"])
    found = outputs(task, ["[MASK]", *TEXTS])
    torch.testing.assert_close(found[0], found[0, :1].expand(3), rtol=0, atol=1e-12)
    assert (found[1:].max(1).values - found[1:].min(1).values > 1e-3).all()


def test_calibration_divides_by_the_mean_probabilities_of_the_texts_without_content(model, words):
    verbalizer, empty = {"a": "great", "b": "bad", "c": "no"}, ["a", "[MASK]", ""]
    plain = scores(cloze(model, words, verbalizer)).softmax(1)
    prior = scores(cloze(model, words, verbalizer), empty).softmax(1).mean(0)
    expected = plain / prior
    found = outputs(cloze(model, words, verbalizer, calibration=empty)).softmax(1)
    torch.testing.assert_close(found, expected / expected.sum(1, keepdim=True), rtol=1e-12, atol=0)


def test_outputs_that_a_gpu_copies_while_it_computes_others_are_calibrated_too(model, words, monkeypatch):
    # The values of a batch are then read later, on the host, when the model trains again.
    class Copied:
        def record(self):
            """Do nothing."""

        def query(self):
            return False

        def synchronize(self):
            """Do nothing."""

    task = cloze(model, words, {"a": "great", "b": "bad"}, calibration=["[MASK]"])
    expected = outputs(task)
    monkeypatch.setattr("bert_lightning.tasks.fine_tuning.outputs._copies_asynchronously", lambda tensor: True)
    monkeypatch.setattr(torch.cuda, "Event", Copied)
    calls, prior = [], ClozeTask.log_prior
    monkeypatch.setattr(ClozeTask, "log_prior", lambda self: calls.append(torch.is_grad_enabled()) or prior(self))
    assert torch.equal(outputs(task.train()), expected)
    assert calls == [False] * len(TEXTS)


def test_losses_and_distributions_are_not_calibrated_in_any_mode(model, words):
    # Otherwise a teacher, which evaluates, would differ from a student with the same weights, which trains.
    tasks = [cloze(model, words, {"a": "great", "b": "bad"}, calibration=each) for each in (None, ["[MASK]"])]
    for mode in (True, False):
        for task in tasks:
            task.train(mode)
            # Dropout would differ between the two.
            task.model.eval()
        torch.testing.assert_close(scores(tasks[0]), scores(tasks[1]), rtol=0, atol=0)
    assert not torch.allclose(outputs(tasks[1]), outputs(tasks[0]))


def test_the_loss_is_the_cross_entropy_over_the_logits_of_the_pieces(model, words):
    task = cloze(model, words, {"a": "great", "b": "bad"})
    found = scores(task)
    labels = torch.tensor([0, 1, 1, 0])
    loss = task.sums_of(found, {"labels": labels})[0]
    picked = found - found.logsumexp(1, keepdim=True)
    torch.testing.assert_close(loss, -picked[torch.arange(4), labels].sum(), rtol=1e-12, atol=0)


def test_predictions_hold_the_label_and_the_probabilities_of_all(model, words):
    task = cloze(model, words, {"negative": "bad", "positive": "great"})
    [row] = task.predict_rows([Row("", {"text": "a film."})], 1)
    assert row["text"] == "a film."
    assert row["probabilities"].keys() == {"negative", "positive"}
    assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_a_standard_set_of_pairs_has_the_published_pattern(words):
    settings = ClozeData(dataset="glue/rte", verbalizer={"entailment": "yes", "not_entailment": "no"})
    assert settings.cloze.text == "{text:open}? {mask}, {text_pair}"
    alone = settings.for_prediction().without_dataset()
    assert alone.labels == ["entailment", "not_entailment"]
    assert alone.cloze == settings.cloze == dataclasses.replace(settings, pattern=settings.cloze.text).cloze
