"""CKA: closed forms, its invariances, and the comparison of two models."""

import json
import math
from dataclasses import replace

import pytest
import torch

from bert_lightning.cli import main
from bert_lightning.errors import InputError
from bert_lightning.interpretability.features import FeatureExtractor
from bert_lightning.interpretability.similarity import AlignmentSums, cka, linear_cka
from bert_lightning.interpretability.text_vectors import text_vectors, words_of
from bert_lightning.model import BertConfig, BertForPreTraining
from bert_lightning.reports.representation_tables import similarity_facts
from bert_lightning.text.vocabulary import train_wordpiece

TEXTS = [
    "The old cat sees the young dog.",
    "",
    "The river follows the quiet stone and the house.",
    "A road, a tree; a house!",
    "The young dog sees the old cat and the red house near the river.",
]


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def other(documents, tmp_path_factory):
    """A model with another width, number of layers and vocabulary."""
    folder = tmp_path_factory.mktemp("other") / "model"
    tokenizer = train_wordpiece((text for document in documents[:5] for text in document), 70)
    torch.manual_seed(8)
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 4}
    config = BertConfig.preset("tiny", vocab_size=len(tokenizer), max_position_embeddings=32, **sizes)
    BertForPreTraining(config).save_pretrained(folder, tokenizer.vocabulary)
    return folder


def hsic(x, y):
    """Equation 5 of Song et al. 2012, as it is printed."""
    n, ones = len(x), torch.ones(len(x), 1, dtype=x.dtype)
    one, other = (gram - gram.diag().diag() for gram in (x @ x.T, y @ y.T))
    terms = (one @ other).trace() + (ones.T @ one @ ones * (ones.T @ other @ ones)).item() / ((n - 1) * (n - 2))
    return float(terms - 2 / (n - 2) * (ones.T @ one @ other @ ones).item()) / (n * (n - 3))


def test_vectors_that_are_read_in_turns_or_left_unread_leave_gradients_on(base):
    extractor = FeatureExtractor.open(base)
    one, two = (text_vectors(extractor, TEXTS * 80, "words", 16) for _ in range(2))
    for _ in zip(one, two, strict=True):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    next(text_vectors(extractor, TEXTS, "texts", 16))
    assert not torch.is_inference_mode_enabled()


def test_debiased_cka_is_made_of_the_printed_estimate_of_hsic():
    x, y = draws(20, 6) + 3, draws(20, 9, seed=1)
    y[:, :6] += x
    expected = hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))
    assert linear_cka(x, y) == pytest.approx(expected, abs=1e-12)


def test_biased_cka_is_that_of_the_feature_space():
    x, y = draws(20, 6), draws(20, 9, seed=1)
    a, b = x - x.mean(0), y - y.mean(0)
    expected = ((b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())).item()
    assert linear_cka(x, y, debiased=False) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_is_1_with_itself_and_invariant_to_rotation_scale_and_shift_but_not_to_other_maps(debiased):
    x, y = draws(40, 12), draws(40, 7, seed=1)
    y += x[:, :7]
    rotation, _ = torch.linalg.qr(draws(12, 12, seed=2))
    assert linear_cka(x, x, debiased) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, -3 * x @ rotation + 5, debiased) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x @ rotation * 0.1, y, debiased) == pytest.approx(linear_cka(x, y, debiased), abs=1e-12)
    assert linear_cka(x, y, debiased) == pytest.approx(linear_cka(y, x, debiased), abs=1e-12)
    assert linear_cka(x, x @ draws(12, 12, seed=3), debiased) < 0.95
    assert linear_cka(x, x.exp(), debiased) < 0.95


def test_independent_vectors_have_a_debiased_cka_of_0_and_a_biased_one_that_grows_with_the_width():
    pairs = [(draws(32, 768, seed=2 * n), draws(32, 768, seed=2 * n + 1)) for n in range(20)]
    values = torch.tensor([linear_cka(x, y) for x, y in pairs])
    assert abs(values.mean()) < 3 * values.std() / len(values) ** 0.5
    assert values.abs().max() < 0.2
    assert min(linear_cka(x, y, debiased=False) for x, y in pairs) > 0.9
    assert linear_cka(pairs[0][0][:, :8], pairs[0][1][:, :8], debiased=False) > 0.1


def test_batches_add_up_to_the_weighted_means_of_their_estimates():
    x, y = draws(2, 30, 5), draws(3, 30, 4, seed=1) + draws(1, 30, 1)
    sums = AlignmentSums()
    for batch in (slice(0, 20), slice(20, 30)):
        sums.add(x[:, batch], y[:, batch])
    found = sums.alignment()
    for row in range(2):
        for column in range(3):
            one, other = x[row], y[column]
            joint, first, second = (
                20 * hsic(a[:20], b[:20]) + 10 * hsic(a[20:], b[20:])
                for a, b in ((one, other), (one, one), (other, other))
            )
            assert found[row, column].item() == pytest.approx(joint / math.sqrt(first * second), abs=1e-12)


def test_a_constant_representation_has_no_cka():
    assert math.isnan(linear_cka(torch.ones(8, 3), draws(8, 3)))
    with pytest.raises(ValueError, match="both must be the same number, at least 4"):
        linear_cka(draws(3, 2), draws(3, 2))


# -- vectors of texts ------------------------------------------------------------------------------------------------


def test_words_have_the_means_of_their_pieces(base):
    extractor = FeatureExtractor.open(base)
    [found] = text_vectors(extractor, TEXTS, "words", 40)
    assert list(found.names) == [word for text in TEXTS for word in words_of(text)]
    words = words_of(TEXTS[4])
    [features] = extractor.extract([TEXTS[4]], range(extractor.num_layers))
    counts = [len(pieces) for pieces in extractor.tokenizer.encode_batch(words)]
    last = slice(1 + sum(counts[:-2]), 1 + sum(counts[:-1]))
    assert torch.allclose(found.vectors[:, -2], torch.from_numpy(features.states[:, last].mean(1)), atol=1e-5)


def test_word_pieces_have_their_own_hidden_states(base):
    extractor = FeatureExtractor.open(base)
    [found] = text_vectors(extractor, TEXTS[:1], "pieces", 40)
    [features] = extractor.extract(TEXTS[:1], range(extractor.num_layers))
    assert found.names == features.tokens[1:-1]
    assert torch.allclose(found.vectors, torch.from_numpy(features.states[:, 1:-1]), atol=1e-5)


def test_a_long_text_has_each_of_its_words_once_and_little_memory_at_a_time(base, monkeypatch):
    monkeypatch.setattr("bert_lightning.interpretability.text_vectors._MOST_TOKENS", 64)
    text = " ".join(TEXTS) * 10
    blocks = list(text_vectors(FeatureExtractor.open(base), [text, "road"], "words", 20))
    assert len(blocks) > 5
    assert max(block.vectors.shape[1] for block in blocks) < 64
    assert [name for block in blocks for name in block.names] == [*words_of(text), "road"]


@pytest.mark.parametrize("unit", ["words", "texts", "pieces"])
def test_a_model_compared_with_itself_has_1_on_the_diagonal_whatever_the_batches(base, unit):
    report = cka(base, base, TEXTS * 3, vectors=unit, batch_size=6)
    assert [report.values[layer][layer] for layer in range(3)] == pytest.approx([1, 1, 1], abs=1e-9)
    assert report.num_texts == 12
    assert cka(base, base, TEXTS * 3, vectors=unit).num_vectors - report.num_vectors in range(4)
    whole = cka(base, base, iter(TEXTS * 3), vectors=unit)
    assert (
        whole.num_vectors
        == {"words": 3 * sum(len(words_of(text)) for text in TEXTS), "texts": 12, "pieces": whole.num_vectors}[unit]
    )
    assert torch.tensor(whole.values).isfinite().all()


@pytest.mark.parametrize("unit", ["words", "texts"])
def test_models_of_other_sizes_and_vocabularies_are_compared_word_by_word_or_text_by_text(base, other, unit):
    report = cka(base, other, TEXTS * 4, vectors=unit, batch_size=8)
    values = torch.tensor(report.values)
    assert values.shape == (3, 5)
    assert values.isfinite().all()
    turned = torch.tensor(cka(other, base, TEXTS * 4, vectors=unit, batch_size=8).values)
    assert torch.allclose(values, turned.T, atol=1e-9)


def test_word_pieces_of_other_vocabularies_are_refused(base, other):
    with pytest.raises(InputError, match=r"have different vocabularies .*: compare words or texts, not pieces$"):
        cka(base, other, TEXTS, vectors="pieces")


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_and_writes_what_the_function_returns(base, other, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    command = ["cka", str(base), str(other), "--input", str(tmp_path / "texts.txt")]
    report = cka(str(base), str(other), TEXTS)
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(report.to_dict()))
    assert main([*command, "--output", str(tmp_path / "map.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split() == ["layer", "0", "1", "2", "3", "4"]
    assert [line.split()[1:] for line in lines[4:7]] == [[f"{value:.2f}" for value in row] for row in report.values]
    assert (tmp_path / "map.html").read_text().count('class="cell"') == 15


def test_an_empty_cell_has_its_reason_beside_the_table(base):
    report = cka(base, base, TEXTS)
    assert "empty" not in " ".join(similarity_facts(report))
    constant = replace(report, values=[[1.0, math.nan], [math.nan, math.nan]])
    assert similarity_facts(constant)[-1].startswith("An empty cell has no value: in one of its layers, all vectors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--batch-size", "3"], "--batch-size is 3; it must be at least 4"),
        (["--max-seq-length", "33"], "--max-seq-length is 33; it must be between 3 and 32"),
        (["--max-texts", "0"], "--max-texts is 0; it must be at least 1"),
        (
            ["--max-texts", "1", "--vectors", "texts"],
            "the input has fewer than 4 texts, which is too few to compare",
        ),
        (["--vectors", "pieces"], "have different vocabularies"),
        (["--input", "blank.txt"], "the input has fewer than 4 words, which is too few to compare"),
        (["--input", "none.txt"], "none.txt"),
        (["--output", "texts.txt"], "--output is texts.txt; it must end in .html or .json"),
    ],
)
def test_bad_input_to_cka_is_one_message(base, other, change, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    (tmp_path / "blank.txt").write_text(" \n\n")
    assert main(["cka", str(base), str(other), "--input", "texts.txt", *change]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
