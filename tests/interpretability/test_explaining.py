"""Explanations of every task by every method, against what the model computes from changed inputs."""

import copy
import json

import numpy as np
import pytest
import torch

import bert_lightning
from bert_lightning.checks import RefusedValue
from bert_lightning.cli import main
from bert_lightning.cli.interpretation import METHODS as COMMAND_METHODS
from bert_lightning.data.reading.tables import Row
from bert_lightning.errors import InputError
from bert_lightning.interpretability import explaining
from bert_lightning.interpretability.explaining import (
    METHODS,
    ExplanationSettings,
    NotExplainedError,
    ScoredExample,
    explain,
)
from bert_lightning.model.tuning import TUNINGS, Tuning, tune
from bert_lightning.runs.predictor import Predictor
from bert_lightning.tasks.catalogue import TASKS
from bert_lightning.tasks.inference import Inference, evaluating
from tests.support.task_data import RAW

CRF = ("--model.head.crf", "true")
EXPLAINED = [name for name, spec in TASKS.items() if spec.task.explained is not Inference.explained]
CALIBRATED = ("--data.calibration", '["N/A", "[MASK]"]')
SETUPS = [(name, ()) for name in EXPLAINED] + [("token-classification", CRF), ("cloze", CALIBRATED)]
LONG = {
    "token-classification": {"text": "The old cat sees the young dog . " * 9},
    "question-answering": RAW["question-answering"][1],
    "relation-classification": RAW["relation-classification"][1],
    "text-classification": {"sentence": "The old cat sees the young dog. " * 9},
    "multiple-choice": {"context": "The old cat. " * 20, "question": "What?", "choices": ["The dog.", "The road."]},
    "pretraining": {"text": "The old cat [MASK] the young dog. "},
}
"""Inputs of several windows, or longer than the model."""


@pytest.fixture(params=SETUPS, ids=lambda setup: "-".join((setup[0], *(setup[1][:1]))))
def task(request, untrained):
    name, overrides = request.param
    return untrained(name, *overrides)


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["short", "long"])
def example(request, task):
    """A raw input and a target. A long sentence has too many entities to explain all of them."""
    if not request.param:
        return RAW[task.name][0], None
    return LONG.get(task.name, RAW[task.name][0]), "1" if task.name == "token-classification" else None


def explained(task, row, method="occlusion", target=None, **settings):
    """Return the explanations of a row, with what they explain."""
    found = list(explain(task, Row("item 1", row), ExplanationSettings(method, target, **settings)))
    return found, task.explained(Row("item 1", row), target)


def score_of_ids(task, each, ids):
    """Compute the score of one set of ids by itself."""
    example = ScoredExample(task, each)
    with evaluating(task):
        return float(example.of_ids(ids[None])[0])


def test_the_command_names_every_method():
    assert tuple(METHODS) == COMMAND_METHODS


def test_occlusion_is_the_fall_of_the_score_when_all_pieces_of_a_word_are_masked(task, example):
    row, target = example
    for explanation, each in zip(*explained(task, row, target=target), strict=True):
        ids = each.batch["input_ids"]
        for number, word in list(enumerate(explanation.words))[::3]:
            changed = ids.clone()
            changed[torch.from_numpy(each.places == number)] = task.tokenizer.mask_id
            if word.value is None:
                assert torch.equal(changed, ids)
            else:
                fall = explanation.score - score_of_ids(task, each, changed)
                assert word.value == pytest.approx(fall, abs=5e-6)


def test_integrated_gradients_sum_to_the_difference_from_a_text_of_masks(task, example):
    row, target = example
    # A CRF sums the scores of all words in float32, and a cloze those of all entries.
    tolerance = 5e-6 if getattr(task.model, "crf", None) is not None or task.name == "cloze" else 1e-6
    for explanation, each in zip(*explained(task, row, "integrated-gradients", target), strict=True):
        masked = each.batch["input_ids"].clone()
        masked[torch.from_numpy(each.places >= 0)] = task.tokenizer.mask_id
        difference = explanation.score - score_of_ids(task, each, masked)
        assert np.nansum(explanation.values) == pytest.approx(difference, abs=tolerance)
        assert explanation.score - explanation.baseline_score == pytest.approx(difference, abs=tolerance)
        assert explanation.special_tokens == 0


@pytest.mark.parametrize("method", ["attention", "rollout"])
def test_the_values_of_attention_and_rollout_sum_to_one_with_special_tokens(task, example, method):
    row, target = example
    for explanation in explained(task, row, method, target, maps=True)[0]:
        assert np.nansum(explanation.values) + explanation.special_tokens == pytest.approx(1, abs=1e-5)
        for each in explanation.maps:
            np.testing.assert_allclose(each.weights.sum(-1), 1, atol=1e-5)
            size = len(each.tokens)
            assert each.weights.shape[2:] == (size, size) == (len(each.words), len(each.readout))
        assert sum(each.readout.sum() for each in explanation.maps) == pytest.approx(1)


def test_gradient_times_input_is_that_of_the_embeddings(task):
    [explanation, *_], [each, *_] = explained(task, RAW[task.name][0], "gradient-x-input")
    example = ScoredExample(task, each)
    ids = each.batch["input_ids"]
    step = 1e-4
    inputs = example.embeddings(ids)
    with evaluating(task):
        # The derivative along the inputs of one word, by central differences.
        for number, word in list(enumerate(explanation.words))[::3]:
            direction = inputs * torch.from_numpy(each.places == number)[:, :, None]
            ahead, behind = (
                float(example.of_embeddings((inputs + sign * step * direction)[None])[0]) for sign in (1, -1)
            )
            assert word.value == pytest.approx((ahead - behind) / (2 * step), abs=3e-3)


def test_words_are_those_of_the_texts_and_can_be_written_as_json(task, example):
    row, target = example
    explanation = explained(task, row, "attention", target)[0][0]
    for word in explanation.words:
        text = explanation.texts[word.part][1]
        assert text[word.start : word.end] == word.text
    assert [word for word in explanation.words if word.value is not None]
    json.dumps(explanation.as_dict(), allow_nan=False)


def test_the_positions_of_a_word_hold_its_pieces(task, example):
    row, target = example
    for each in explained(task, row, "attention", target)[1]:
        for number, word in enumerate(each.words):
            [pieces] = task.tokenizer.encode_batch([word.text])
            for ids, places in zip(each.batch["input_ids"].numpy(), each.places, strict=True):
                found = ids[places == number].tolist()
                # The last word that fits may be cut.
                assert found in ([], pieces) or found == pieces[: len(found)]
        others = each.batch["input_ids"].numpy()[each.places < 0]
        literals = task.settings.cloze.literals if task.name == "cloze" else []
        of_pattern = {piece for pieces in task.tokenizer.encode_batch(literals) for piece in pieces}
        assert {*others.tolist()} <= {*task.tokenizer.special_ids} | of_pattern
        assert ((each.places >= 0).sum(1) > 0).all()


def test_the_head_reads_where_the_task_says(task, example):
    row, target = example
    tokenizer = task.tokenizer
    for each in explained(task, row, "attention", target)[1]:
        read = each.readout > 0
        ids, words = each.batch["input_ids"].numpy()[read].tolist(), each.places[read].tolist()
        assert each.readout.sum() == pytest.approx(1)
        if task.name == "relation-classification":
            assert {tokenizer.entries[number] for number in ids} == {"[E1]", "[E2]"}
        elif task.name in ("pretraining", "cloze"):
            assert ids == [tokenizer.mask_id]
        elif task.name == "token-classification":
            text = each.target.partition(" → ")[0]
            assert " ".join(each.words[word].text for word in words) == text
            assert ids == [tokenizer.encode_batch([each.words[word].text])[0][0] for word in words]
        elif task.name == "question-answering":
            start, end = each.words[min(words)], each.words[max(words)]
            assert each.parts[1].text[start.start : end.end] == each.target
        else:
            assert ids == [tokenizer.cls_id]


@pytest.mark.parametrize("name", ["text-classification", "relation-classification", "multiple-choice"])
def test_the_scores_of_all_targets_are_those_of_the_prediction(untrained, name):
    task, row = untrained(name), Row("item 1", RAW[name][0])
    [prediction] = task.predict_rows([row], 1)
    probabilities = prediction["probabilities"]
    if name == "multiple-choice":
        probabilities = {str(number): each for number, each in enumerate(probabilities)}
    scores = {
        target: next(explain(task, row, ExplanationSettings("occlusion", target))).score for target in probabilities
    }
    total = sum(np.exp(score) for score in scores.values())
    for target, score in scores.items():
        assert np.exp(score) / total == pytest.approx(probabilities[target], abs=1e-3)
    [found] = explain(task, row, ExplanationSettings("occlusion"))
    assert found.score == max(scores.values())
    assert found.target == found.predicted


def test_the_score_of_an_answer_is_that_of_the_prediction(untrained):
    task = untrained("question-answering")
    for values in RAW["question-answering"]:
        row = Row("item 1", values)
        [prediction] = task.predict_rows([row], 1)
        for candidate in prediction["nbest"][:3]:
            [found] = explain(task, row, ExplanationSettings("attention", candidate["text"]))
            assert found.score == pytest.approx(candidate["score"], abs=1e-4)
        [found] = explain(task, row, ExplanationSettings("attention"))
        assert found.target == found.predicted == prediction["answer"]


def test_the_scores_of_entries_differ_as_the_logarithms_of_their_probabilities(untrained):
    task, row = untrained("pretraining"), Row("item 1", RAW["pretraining"][0])
    [prediction] = task.predict_rows([row], 1)
    for number, candidates in enumerate(prediction["masks"], 1):
        (first, p), (second, q) = ((each["token"], each["probability"]) for each in (candidates[0], candidates[3]))
        one, other = (
            next(explain(task, row, ExplanationSettings("attention", f"{number}={token}"))).score
            for token in (first, second)
        )
        assert one - other == pytest.approx(np.log(p / q), abs=1e-2)


def test_the_score_of_a_tag_under_a_crf_is_the_log_odds_of_all_sequences_written_out(untrained):
    task = untrained("token-classification", *CRF)
    task.model.crf.transitions.data.normal_(generator=torch.Generator().manual_seed(3))
    row = {"tokens": ["red", "house", "sees"]}
    split = task.encode([task.example_of(Row("item 1", row))])
    [emissions] = task.outputs_for(split, 1)
    crf, labels = task.model.crf, range(len(task.labels))
    allowed = crf.decoding_scores()
    for word, tag in ((0, 1), (1, 2), (2, 0)):
        with_tag, without = [], []
        for path in np.ndindex(*[len(labels)] * 3):
            score = allowed.starts[path[0]].item() + allowed.ends[path[-1]].item()
            score += sum(float(emissions[place][each]) for place, each in enumerate(path))
            score += sum(allowed.transitions[path[place], path[place + 1]].item() for place in range(2))
            (with_tag if path[word] == tag else without).append(score)
        expected = np.logaddexp.reduce(with_tag) - np.logaddexp.reduce(without)
        [found], _ = explained(task, row, target=f"{word + 1}={task.labels[tag]}")
        assert found.score == pytest.approx(expected, abs=1e-5)


def test_by_default_each_predicted_entity_is_explained_by_the_scores_of_its_tags(untrained):
    task = untrained("token-classification")
    row = Row("item 1", RAW["token-classification"][0])
    [prediction] = task.predict_rows([row], 1)
    found = list(explain(task, row, ExplanationSettings("occlusion")))
    assert [each.target for each in found] == [f"{e['text']} → {e['type']}" for e in prediction["entities"]]
    for each, entity in zip(found, prediction["entities"], strict=True):
        words = range(entity["start"] + 1, entity["end"] + 1)
        singles = [next(explain(task, row, ExplanationSettings("occlusion", str(word)))) for word in words]
        assert each.score == pytest.approx(sum(single.score for single in singles), abs=1e-5)


def test_only_the_window_of_an_answer_is_read_and_every_window_of_a_crf(untrained):
    [answer], _ = explained(untrained("question-answering"), LONG["question-answering"], "attention")
    values = answer.values
    assert np.isnan(values).any()
    assert not np.isnan(values).all()
    [tag], [each] = explained(
        untrained("token-classification", *CRF), LONG["token-classification"], "gradient-x-input", "1"
    )
    assert len(each.batch["input_ids"]) > 1
    assert not np.isnan(tag.values).any()
    [tag], [each] = explained(
        untrained("token-classification"), LONG["token-classification"], "gradient-x-input", "1"
    )
    assert len(each.batch["input_ids"]) == 1
    assert np.isnan(tag.values).any()


@pytest.mark.parametrize(
    ("name", "row", "target", "message"),
    [
        ("text-classification", {}, "animal", "did you mean 'animals'"),
        ("token-classification", {}, "9", "the words are 1 to 5"),
        ("token-classification", {}, "cat", "a word by its number from 1 is expected"),
        ("token-classification", {}, "1=B-animal", "did you mean 'B-animals'"),
        ("question-answering", {}, "the horse", "the context does not hold it"),
        ("question-answering", {}, "", "this model always gives one"),
        ("multiple-choice", {}, "7", "no choice of this model"),
        ("relation-classification", {}, "like", "did you mean 'likes'"),
        ("pretraining", {}, "qwertz", "no entry of this model"),
        ("pretraining", {}, "3=cat", "the masks are 1 to 2"),
    ],
)
def test_a_target_that_does_not_exist_is_named_with_its_nearest_neighbour(untrained, name, row, target, message):
    with pytest.raises(InputError, match=message):
        explained(untrained(name), RAW[name][0] | row, target=target)


@pytest.mark.parametrize(
    ("name", "target", "shown"),
    [
        ("text-classification", "nature", "nature"),
        ("token-classification", "2=O", "old → O"),
        ("question-answering", "the dog", "the dog"),
        ("multiple-choice", "2", "2: The tree."),
        ("multiple-choice", "The dog.", "0: The dog."),
        ("pretraining", "2=the", "mask 2 → the"),
    ],
)
def test_a_target_replaces_the_prediction(untrained, name, target, shown):
    found, _ = explained(untrained(name), RAW[name][0], target=target)
    assert [each.target for each in found] == [shown]


@pytest.mark.parametrize(("name", "row"), [
    ("text-classification", {"sentence": " \t\x01"}), ("token-classification", {"tokens": []}),
])  # fmt: skip
def test_a_text_without_words_is_refused_with_its_location(untrained, name, row):
    with pytest.raises(NotExplainedError, match="item 1: the input has no words"):
        explained(untrained(name), row)


@pytest.mark.parametrize(("settings", "message"), [
    ({"method": "occlusions"}, "did you mean 'occlusion'"), ({"num_points": 0}, "must be between 1 and 1024"),
    ({"num_points": 5000}, "num_points is 5000; it must be between 1 and 1024"), ({"method": 3}, "method is 3"),
    ({"replacement": "[CLS]"}, r"replacement is \[CLS\]; it must be \[MASK\], \[PAD\] or \[UNK\]"),
    ({"target": 1}, "target is 1, which is no text: write '1'"),
])  # fmt: skip
def test_settings_that_do_not_exist_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ExplanationSettings(**settings)


@pytest.mark.parametrize(
    ("method", "option"),
    [("attention", {"replacement": "[PAD]"}), ("occlusion", {"num_points": 3}), ("gradient-x-input", {"maps": True})],
)
def test_an_option_that_the_method_does_not_use_is_refused_in_python_too(untrained, method, option):
    predictor = Predictor(untrained("text-classification"))
    [name] = option
    with pytest.raises(RefusedValue, match=f"^{name} is .*; it must be left out with the method {method}: it bel"):
        predictor.explain(["The cat."], method, **option)


def test_a_target_unlike_every_entry_is_refused_without_the_whole_vocabulary(untrained):
    with pytest.raises(InputError, match=r"no entry of this model; known: .* more$") as refusal:
        explained(untrained("pretraining"), RAW["pretraining"][0], target="1234567890")
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(("options", "message"), [
    (["--method", "rollout", "--points", "5"], "--points is 5; it must be left out with the method rollout: it"),
    (["--method", "attention", "--replacement", "[PAD]"], "it belongs to integrated-gradients or occlusion"),
    (["--points", "2000"], "--points is 2000; it must be between 1 and 1024"),
    (["--replacement", "[CLS]"], "--replacement is [CLS]; it must be [MASK], [PAD] or [UNK]"),
])  # fmt: skip
def test_options_that_do_nothing_or_are_out_of_range_are_refused_before_the_model_is_read(options, message, capsys):
    assert main(["explain", "--checkpoint", "none", "--output", "a.html", *options]) == 2
    assert message in capsys.readouterr().err


def test_points_are_doubled_until_the_error_is_small_and_refused_if_it_stays_large(untrained, monkeypatch):
    task, row = untrained("text-classification"), RAW["text-classification"][0]
    exact, _ = explained(task, row, "integrated-gradients")
    monkeypatch.setattr(explaining, "LARGEST_ERROR", 1e-5)
    [found], _ = explained(task, row, "integrated-gradients", num_points=1)
    assert 1 < found.num_points < 1024
    assert found.completeness_error <= 1e-5
    np.testing.assert_allclose(found.values, exact[0].values, atol=1e-4)
    monkeypatch.setattr(explaining, "LARGEST_ERROR", 0.0)
    monkeypatch.setattr(explaining, "_MOST_POINTS", 4)
    with pytest.raises(NotExplainedError, match=r"item 1: integrated gradients miss .* with 4 points"):
        explained(task, row, "integrated-gradients", num_points=1)


def test_how_many_copies_are_computed_at_once_does_not_change_values(task, monkeypatch):
    row, target = RAW[task.name][0], "1" if task.name == "token-classification" else None
    methods = {"integrated-gradients": {"num_points": 8}, "occlusion": {}}
    whole = [explained(task, row, name, target, **settings)[0][0].values for name, settings in methods.items()]
    monkeypatch.setattr(explaining, "_MOST_TOKENS", 1)
    for (name, settings), values in zip(methods.items(), whole, strict=True):
        alone = explained(task, row, name, target, **settings)[0][0].values
        np.testing.assert_allclose(alone, values, atol=5e-6)


def test_explaining_leaves_the_model_as_it_was(task):
    task.train()
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    for method in METHODS:
        explained(task, RAW[task.name][0], method, num_points=2)
    assert task.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.state_dict().items())
    assert all(parameter.grad is None for parameter in task.parameters())
    task.eval()


ALWAYS = ("lora", "prefix", "prompt")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in ALWAYS else pytest.mark.slow) for name in TUNINGS if name != "full"],
)
def test_a_tuned_model_is_explained_completely(untrained, name):
    task = copy.deepcopy(untrained("text-classification"))
    tuning: Tuning = TUNINGS[name]()
    tune(task.model, tuning)
    task.double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in task.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    row = RAW["text-classification"][0]
    for method in METHODS:
        [found], [each] = explained(task, row, method)
        if method in ("attention", "rollout"):
            assert np.nansum(found.values) + found.special_tokens == pytest.approx(1, abs=1e-5)
        if method == "integrated-gradients":
            assert np.nansum(found.values) == pytest.approx(found.score - found.baseline_score, abs=1e-6)
        if method == "occlusion":
            changed = each.batch["input_ids"].clone()
            changed[torch.from_numpy(each.places == 2)] = task.tokenizer.mask_id
            assert found.words[2].value == pytest.approx(found.score - score_of_ids(task, each, changed), abs=1e-6)


def test_a_predictor_explains_items_as_the_functions_do(untrained):
    task = untrained("text-classification")
    predictor = Predictor(task, "cpu")
    found = predictor.explain([RAW["text-classification"][0]["sentence"]], "occlusion", target="nature")
    [expected] = explain(
        task, Row("item 1", RAW["text-classification"][0]), ExplanationSettings("occlusion", "nature")
    )
    assert found == [expected]
    with pytest.raises(InputError, match="a list of inputs is expected"):
        predictor.explain("text")
    assert bert_lightning.Predictor is Predictor


def test_every_published_task_is_explained_and_any_other_task_is_refused_by_name(untrained):
    assert {*EXPLAINED} >= {
        "pretraining", "text-classification", "token-classification", "question-answering", "multiple-choice",
        "relation-classification",
    }  # fmt: skip
    with pytest.raises(InputError, match="'text-classification' cannot be explained"):
        Inference.explained(untrained("text-classification"), Row("item 1", {}), None)


# -- branches that the experiments above do not reach ----------------------------------------------------------------

SENTENCES = ["The old cat sees the young dog.", "A red house.", "The river and the tree.", "The dog sees a tree."]


def of_texts(untrained, folder, kind, labels):
    """Build a classifier of another kind of problem on a file of its own."""
    lines = [f"{sentence}\t{label}\n" for sentence, label in zip(SENTENCES, labels, strict=True)]
    (folder / "texts.tsv").write_text("sentence\ttopic\n" + "".join(lines))
    separator = ("--data.label_separator", ",") if kind == "multi-label" else ()
    files = [each for name in ("train", "validation") for each in (f"--data.{name}", str(folder / "texts.tsv"))]
    return untrained("text-classification", "--data.problem", kind, *separator, *files)


@pytest.mark.parametrize("method", ["occlusion", "integrated-gradients"])
def test_a_regression_is_explained_by_its_number(untrained, tmp_path, method):
    task = of_texts(untrained, tmp_path, "regression", [0.5, 1.5, 2, 3])
    row = {"sentence": SENTENCES[0]}
    [prediction] = task.predict_rows([Row("", row)], 1)
    [[found], [each]] = explained(task, row, method)
    assert found.score == pytest.approx(prediction["score"], abs=1e-4)
    assert (found.target, float(found.predicted)) == ("topic", pytest.approx(prediction["score"], rel=1e-3))
    ids = each.batch["input_ids"]
    masked = ids.clone()
    for number, word in enumerate(found.words):
        one = ids.clone()
        one[torch.from_numpy(each.places == number)] = task.tokenizer.mask_id
        masked[torch.from_numpy(each.places == number)] = task.tokenizer.mask_id
        if method == "occlusion":
            assert word.value == pytest.approx(found.score - score_of_ids(task, each, one), abs=5e-6)
    if method == "integrated-gradients":
        fall = found.score - score_of_ids(task, each, masked)
        assert sum(word.value for word in found.words) == pytest.approx(fall, abs=1e-6)
    assert next(explain(task, Row("", row), ExplanationSettings(method, "topic"))).score == found.score
    with pytest.raises(InputError, match="the target is 'other', but this model gives one number, 'topic'"):
        list(explain(task, Row("", row), ExplanationSettings(method, "other")))


def test_each_of_several_labels_is_explained_by_its_own_logit(untrained, tmp_path):
    task = of_texts(untrained, tmp_path, "multi-label", ["a,b", "b", "c,a", "c"])
    row = Row("", {"sentence": SENTENCES[0]})
    [prediction] = task.predict_rows([row], 1)
    for label, probability in prediction["probabilities"].items():
        [found] = explain(task, row, ExplanationSettings("occlusion", label))
        assert 1 / (1 + np.exp(-found.score)) == pytest.approx(probability, abs=1e-4)
    [found] = explain(task, row, ExplanationSettings("occlusion"))
    assert found.target == max(prediction["probabilities"], key=prediction["probabilities"].get)


def test_no_answer_is_explained_by_its_score_and_only_if_the_model_knows_it(untrained):
    row = Row("item 1", RAW["question-answering"][0])
    with pytest.raises(InputError, match="which means no answer, but this model always gives one"):
        list(explain(untrained("question-answering"), row, ExplanationSettings("occlusion", "")))
    task = untrained("question-answering", "--data.no_answer", "true")
    [prediction] = task.predict_rows([row], 1)
    [[found], [each]] = explained(task, row.values, "occlusion", "")
    assert found.target == "no answer"
    [empty] = [candidate for candidate in prediction["nbest"] if candidate["text"] == ""]
    assert found.score == pytest.approx(empty["score"], abs=1e-4)
    # The start and the end of no answer are at [CLS].
    computed = task.compute(each.batch)
    at_first = computed.start_logits[0, 0] + computed.end_logits[0, 0]
    assert found.score == pytest.approx(float(at_first), abs=1e-6)
