"""Nearest neighbours, compared with a search over all candidates at once."""

import importlib
import json

import pytest
import torch

from bert_lightning.cli import main
from bert_lightning.errors import InputError
from bert_lightning.interpretability import neighbors
from bert_lightning.interpretability.features import FeatureExtractor
from bert_lightning.interpretability.text_vectors import words_of
from bert_lightning.reports.representation_tables import neighbors_facts

TEXTS = [
    "The old cat sees the young dog.",
    " ",
    "The river follows the quiet stone and the house.",
    "The young dog sees the old cat and the red house near the river.",
    "The old cat sees the young dog.",
]


@pytest.fixture(scope="module")
def extractor(base):
    return FeatureExtractor.open(base)


def cosine(one, other):
    return float(torch.cosine_similarity(torch.as_tensor(one).double(), torch.as_tensor(other).double(), dim=0))


def test_neighbours_of_a_word_piece_are_those_of_the_whole_table(base, extractor):
    table, tokenizer = extractor.encoder.embeddings.word.weight.detach(), extractor.tokenizer
    [found] = neighbors(base, ["cat"], number=4).neighborhoods
    query = tokenizer.entries.index("cat")
    others = [n for n in tokenizer.entry_ids if n not in tokenizer.special_ids and n != query]
    expected = sorted(((cosine(table[query], table[n]), tokenizer.entries[n]) for n in others), reverse=True)
    assert [near.name for near in found.neighbors] == [name for _, name in expected[:4]]
    assert [near.cosine for near in found.neighbors] == pytest.approx([value for value, _ in expected[:4]])
    all_cosines = torch.tensor([value for value, _ in expected] + [1.0], dtype=torch.float64)
    assert found.mean == pytest.approx(float(all_cosines.mean()))
    assert found.deviation == pytest.approx(float(all_cosines.std(correction=0)))


def test_special_and_unused_entries_are_no_neighbours_and_a_capital_is_read_as_the_model_does(base, extractor):
    everything = neighbors(base, ["Cat"], number=10_000).neighborhoods[0].neighbors
    names = {near.name for near in everything}
    assert names == {*extractor.tokenizer.entries} - {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", ""}


@pytest.mark.parametrize("layer", [0, 2])
def test_neighbours_of_a_word_in_its_context_are_found_in_every_text(base, extractor, layer, monkeypatch):
    # Several blocks must give what one gives.
    monkeypatch.setattr("bert_lightning.interpretability.text_vectors._MOST_TOKENS", 16)
    report = neighbors(base, ["The old *cat* sees the young dog."], TEXTS, vectors="words", layers=[layer], number=5)
    [found] = report.neighborhoods
    states, names = [], []
    for text in TEXTS:
        if text.strip():
            [features] = extractor.extract([text], [layer])
            start = 1
            for word in words_of(text):
                [pieces] = extractor.tokenizer.encode_batch([word])
                states.append(features.states[0, start : start + len(pieces)].mean(0))
                names.append(word)
                start += len(pieces)
    assert report.num_candidates == len(names)
    query = 2
    assert names[query] == "cat"
    same = len(names) - len(words_of(TEXTS[0])) + 2
    expected = sorted(
        ((cosine(states[query], state), names[n]) for n, state in enumerate(states) if n not in (query, same)),
        reverse=True,
    )[:5]
    assert [near.cosine for near in found.neighbors] == pytest.approx([value for value, _ in expected], abs=1e-6)
    assert found.neighbors[0].name == expected[0][1]
    everything = neighbors(base, [f"The old *cat* {TEXTS[0][12:]}"], TEXTS, vectors="words", number=1000)
    assert len(everything.neighborhoods[0].neighbors) == len(names) - 2
    assert all(f"*{near.name}*" in near.context for near in found.neighbors)


def test_neighbours_of_a_text_are_whole_texts_by_the_mean_over_tokens(base, extractor):
    report = neighbors(base, ["The young dog."], TEXTS, vectors="texts", layers=[-1, 0], number=2)
    assert [found.layer for found in report.neighborhoods] == [2, 0]
    assert report.num_candidates == 4
    query, *others = (each.states for each in extractor.extract(["The young dog.", *TEXTS], [-1, 0], "mean"))
    for row, found in enumerate(report.neighborhoods):
        expected = max(cosine(query[row], other[row]) for n, other in enumerate(others) if n != 1)
        assert found.neighbors[0].cosine == pytest.approx(expected, abs=1e-6)


def test_a_text_that_is_the_query_is_not_its_own_neighbour(base):
    report = neighbors(base, [TEXTS[0]], TEXTS, vectors="texts")
    assert [near.name for near in report.neighborhoods[0].neighbors if near.name == TEXTS[0]] == []
    lines = neighbors(base, [f"{TEXTS[0]}\n"], [f"{text}\n" for text in TEXTS], vectors="texts")
    assert lines.neighborhoods[0].neighbors == report.neighborhoods[0].neighbors


def test_the_command_prints_and_writes_what_the_function_returns(base, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    command = ["neighbors", "--checkpoint", str(base), "--vectors", "words", "--query", "the *cat*", "house"]
    command += ["--input", str(tmp_path / "texts.txt"), "--number", "2", "--layers", "1", "-1"]
    report = neighbors(str(base), ["the *cat*", "house"], TEXTS, vectors="words", number=2, layers=[1, -1])
    assert main([*command, "--json", "--output", str(tmp_path / "near.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(report.to_dict())) == json.loads((tmp_path / "near.json").read_text())
    assert main([*command, "--output", str(tmp_path / "new" / "near.html")]) == 0
    assert (tmp_path / "new" / "near.html").is_file()
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if "(all:" in line]
    assert [title.partition(" (")[0] for title in titles] == [
        "the *cat*, layer 1", "the *cat*, layer 2", "house, layer 1", "house, layer 2"
    ]  # fmt: skip
    first = lines[lines.index(titles[0]) + 2].split()
    assert first[:2] == [
        f"{report.neighborhoods[0].neighbors[0].cosine:.4f}",
        report.neighborhoods[0].neighbors[0].name,
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--query", "hous"], "'hous' is no entry of the vocabulary"),
        (["--query", "riverstone"], "is no entry of the vocabulary. It becomes"),
        (["--query", "cat", "--input", "texts.txt"], "--input does nothing with --vectors pieces"),
        (["--query", "cat", "--text-column", "a"], "--text-column does nothing with --vectors pieces"),
        (["--query", "cat", "--precision", "bf16-mixed"], "--precision does nothing with --vectors pieces"),
        (["--query", "cat", "--layers", "1"], "--layers does nothing with --vectors pieces"),
        (["--query", "cat", "--number", "0"], "--number is 0; it must be at least 1"),
        (["--query", "the cat", "--vectors", "words"], "'the cat' needs one word between asterisks"),
        (["--query", "*the old* cat", "--vectors", "words"], "needs one word between asterisks"),
        (["--query", "*a* *b*", "--vectors", "words"], "needs one word between asterisks"),
        (["--query", "* *", "--vectors", "words"], "needs one word between asterisks"),
        (["--query", " ", "--vectors", "texts"], "a query is empty"),
        (["--query", "*cat*", "--vectors", "words", "--layers", "7"], "there is no layer 7: "),
        (["--query", "*cat*", "--vectors", "words", "--input", "blank.txt"], "the texts have no words"),
        (["--query", "*cat*" + " old" * 100, "--vectors", "words", "--max-seq-length", "2"], "--max-seq-length is 2"),
    ],
)
def test_bad_input_to_neighbors_is_one_message(base, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    (tmp_path / "blank.txt").write_text(" \n\n")
    if "--vectors" in arguments and "--input" not in arguments:
        arguments = [*arguments, "--input", "texts.txt"]
    assert main(["neighbors", "--checkpoint", str(base), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_equal_queries_and_layers_are_listed_once(base):
    report = neighbors(base, ["cat", "the *cat*", "cat"], TEXTS, vectors="words", layers=[2, -1, 0])
    found = [(each.query, each.layer) for each in report.neighborhoods]
    assert found == [("cat", 2), ("cat", 0), ("the *cat*", 2), ("the *cat*", 0)]


def test_one_candidate_is_one_vector(base):
    report = neighbors(base, ["a cat"], ["a dog"], vectors="texts")
    assert neighbors_facts(report) == ["Each query is compared with 1 vector, each of one text."]


def test_candidates_and_kind_of_vectors_must_fit(base):
    with pytest.raises(InputError, match=r"^vectors is pieces, whose neighbours are in the vocabulary"):
        neighbors(base, ["cat"], TEXTS)
    with pytest.raises(InputError, match=r"^vectors is words, whose neighbours are in texts: give some"):
        neighbors(base, ["cat"], vectors="words")
    with pytest.raises(InputError, match=r"^vectors is .sentences.; it must be one of words, pieces, texts"):
        neighbors(base, ["cat"], vectors="sentences")
    with pytest.raises(InputError, match=r"^queries is one text; a list of texts is expected"):
        neighbors(base, "cat")
    with pytest.raises(InputError, match=r"^there is no query"):
        neighbors(base, [])


def test_the_public_name_is_the_function_whatever_was_imported_before():
    module = importlib.import_module("bert_lightning.interpretability.nearest_neighbors")
    assert importlib.import_module("bert_lightning.interpretability").neighbors is module.neighbors
