"""Probes: the fit against other solvers, control tasks, intervals, and the command on small data."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from bert_lightning.checks import RefusedValue
from bert_lightning.cli import _parser, main
from bert_lightning.errors import InputError
from bert_lightning.interpretability.features import FeatureExtractor
from bert_lightning.interpretability.labelled_items import PROBED_TASKS, read_probing_data
from bert_lightning.interpretability.linear_probe import fit_linear_probe
from bert_lightning.interpretability.pooled_states import Stretch, pooled_states
from bert_lightning.interpretability.probing import control_labels, mean_interval, probe
from bert_lightning.tasks.catalogue import OWNERS, TASKS
from tests.support.small_corpus import ADJECTIVES, NOUNS, VERBS
from tests.support.task_data import RAW, task_data, write_columns

QUICK = {"seeds": [1], "max_items": 100}
SHORT = {"max_seq_length": 40, "window_overlap": 8}


@pytest.fixture(scope="module")
def words(tables, tmp_path_factory):
    """Keys of tagged words."""
    settings = task_data("token-classification", tables, tmp_path_factory.mktemp("words"))
    return {"task": "token-classification", "data": {**settings, "max_seq_length": 40}}


@pytest.fixture(scope="module")
def texts(tables):
    """Keys of labelled texts."""
    return {
        "task": "text-classification",
        "data": {**task_data("text-classification", tables, None), "max_seq_length": 40},
    }


# -- the linear probe ------------------------------------------------------------------------------------------------


def objective(parameters, inputs, targets, l2):
    """The stated objective, written without torch."""
    standard = (inputs - inputs.mean(0)) / inputs.std(0)
    weight = parameters[:-3].reshape(inputs.shape[1], 3)
    scores = standard @ weight + parameters[-3:]
    losses = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(targets)), targets]
    return losses.mean() + l2 / 2 * (weight**2).sum()


@pytest.mark.parametrize("l2", [1e-3, 1.0])
def test_a_probe_is_at_the_minimum_that_another_solver_finds(l2):
    generator = np.random.default_rng(1)
    inputs, targets = generator.normal(size=(60, 4)) * [1, 5, 0.1, 1] + 3, generator.integers(0, 3, 60)
    probe = fit_linear_probe(torch.from_numpy(inputs), targets, l2)
    own = objective(np.concatenate([probe.weight.numpy().ravel(), probe.bias.numpy()]), inputs, targets, l2)
    other = minimize(objective, np.ones(15), (inputs, targets, l2), method="L-BFGS-B", options={"gtol": 1e-9}).fun
    assert probe.converged
    assert own == pytest.approx(other, abs=1e-9)


def test_the_order_of_the_examples_does_not_change_a_probe():
    generator = np.random.default_rng(2)
    inputs, targets = torch.from_numpy(generator.normal(size=(80, 5))), generator.integers(0, 4, 80)
    order = generator.permutation(80)
    one, other = fit_linear_probe(inputs, targets), fit_linear_probe(inputs[order], targets[order])
    assert torch.allclose(one.weight, other.weight, atol=1e-3)
    assert np.array_equal(one.predict(inputs), other.predict(inputs))


def test_a_constant_feature_and_a_label_without_examples_do_not_disturb_a_probe():
    inputs = torch.tensor([[0.0, 0.1], [1.0, 0.1], [9.0, 0.1], [10.0, 0.1]])
    probe = fit_linear_probe(inputs, np.array([3, 3, 7, 7]))
    assert probe.weight.isfinite().all()
    assert probe.weight[1].abs().max() == 0
    assert probe.predict(torch.tensor([[-5.0, 0.1], [20.0, 0.2]])).tolist() == [3, 7]
    only = fit_linear_probe(inputs, np.array([2, 2, 2, 2]))
    assert only.predict(inputs).tolist() == [2, 2, 2, 2]


# -- vectors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_the_vector_of_a_stretch_is_that_of_a_loop_over_its_pieces(pooling):
    states = torch.randn(3, 2, 7, 4, dtype=torch.float64)
    stretches = [Stretch(1, 2, 3), Stretch(0, 0, 7), Stretch(1, 5, 1)]
    vectors = pooled_states(states, stretches, pooling)
    for number, (row, start, length) in enumerate(stretches):
        pieces = states[:, row, start : start + length]
        expected = pieces.mean(1) if pooling == "mean" else pieces[:, 0]
        assert torch.allclose(vectors[:, number], expected, atol=1e-12)


def test_words_have_the_vectors_of_their_pieces_in_the_whole_sentence(base, words):
    extractor = FeatureExtractor.open(base)
    items = read_probing_data(base, extractor, words, {}, 30, [], 1).train
    vectors = items.vectors(extractor, "mean")
    example = items.split.examples[items.texts[0]]
    [features] = extractor.extract([" ".join(example.words)], range(extractor.num_layers))
    assert 30 <= len(items.labels) == vectors.shape[1] < 40
    num_words = int((items.texts == items.texts[0]).sum())
    for word in range(num_words):
        start = sum(items.places[before].num_pieces for before in range(word)) + 1
        pieces = features.states[:, start : start + items.places[word].num_pieces]
        assert items.types[word] == example.words[word].lower()
        assert np.allclose(vectors[:, word].numpy(), pieces.mean(1), atol=1e-5)


def test_each_word_of_a_sentence_longer_than_the_model_is_one_item(base, tmp_path):
    sentence = [(word, tag) for word in NOUNS for tag in ("B-x", "B-y")] * 2
    for name in ("train", "validation"):
        write_columns(tmp_path / f"{name}.conll", [sentence])
    data = {name: str(tmp_path / f"{name}.conll") for name in ("train", "validation")}
    keys = {"task": "token-classification", "data": {**data, "max_seq_length": 20, "window_overlap": 4}}
    extractor = FeatureExtractor.open(base)
    items = read_probing_data(base, extractor, keys, {}, 1000, [], 1).train
    assert len(items.split.windows) > 2
    assert items.types == [word.lower() for word, _ in sentence]
    assert items.vectors(extractor, "first").isfinite().all()
    keys["data"]["label_all_pieces"] = True
    of_pieces = read_probing_data(base, extractor, keys, {}, 1000, [], 1).train
    assert (of_pieces.types, of_pieces.labels.tolist()) == (items.types, items.labels.tolist())


def test_a_random_encoder_has_the_architecture_but_neither_the_weights_nor_the_callers_random_state(base):
    extractor = FeatureExtractor.open(base)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (extractor.with_random_weights(seed).encoder.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    trained = extractor.encoder.state_dict()
    name = "layers.0.intermediate.weight"
    assert {key: value.shape for key, value in one.items()} == {key: value.shape for key, value in trained.items()}
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])
    assert not torch.equal(one[name], trained[name])


# -- control tasks and intervals -------------------------------------------------------------------------------------


def test_a_control_task_gives_each_type_one_label_from_the_distribution_of_the_real_ones():
    labels = np.repeat([0, 1, 2, -1], [600, 300, 90, 10])
    types = [f"word{number}" for number in range(20_000)]
    train, validation = control_labels(labels, [types, [*reversed(types), "new"]], 1)
    assert train.tolist() == validation[:-1][::-1].tolist()
    assert np.bincount(train) / len(train) == pytest.approx([600 / 990, 300 / 990, 90 / 990], abs=0.01)
    assert (control_labels(labels, [types, []], 2)[0] != train).mean() > 0.3


def test_intervals_hold_the_mean_of_new_texts_as_often_as_they_say():
    generator = np.random.default_rng(3)
    held = 0
    for _ in range(1000):
        sizes = generator.integers(1, 15, 60)
        rates = generator.beta(4, 2, 60)
        texts = np.repeat(np.arange(60), sizes)
        interval = mean_interval((generator.random(len(texts)) < rates[texts]).astype(float), texts)
        held += interval.low <= 4 / 6 <= interval.high
    assert 0.92 < held / 1000 < 0.97


def test_an_interval_ends_where_no_mean_can_be():
    values, texts = np.array([1.0] * 9 + [0.0]), np.arange(10)
    assert mean_interval(values, texts).high == 1
    assert mean_interval(1 - values, texts).low == 0
    assert mean_interval(1 - values, texts, least=-1.0).low < 0
    assert mean_interval(-values, texts, least=-1.0).low == -1


def test_one_text_has_no_interval():
    assert np.isnan(mean_interval(np.array([1.0, 0.0]), np.array([0, 0])).low)


def random_words(folder, number):
    """Write sentences of random words whose tags are a random function of the word."""
    generator = random.Random(number)
    tags = {word: generator.choice("xyz") for word in (*NOUNS, *ADJECTIVES, *VERBS)}
    files = {}
    for name, size in {"train": 60, "validation": 60}.items():
        sentences = [[(word, tags[word]) for word in generator.choices([*tags], k=8)] for _ in range(size)]
        files[name] = str(write_columns(folder / f"{name}{number}.conll", sentences))
    return {"task": "token-classification", "data": {**files, "source_scheme": "none", **SHORT}}


def test_the_selectivity_of_labels_that_are_random_for_each_word_is_zero(base, tmp_path):
    values = []
    for number in range(4):
        report = probe(base, random_words(tmp_path, number), max_items=500, seeds=[*range(10, 14)], l2=1e-3)
        values += [layer.selectivity.value for layer in report.layers]
        assert report.layers[0].accuracy.value > 0.9
    assert abs(np.mean(values)) < 0.02


def test_the_selectivity_of_labels_that_are_random_for_each_text_is_zero(base, tmp_path):
    generator = random.Random(1)
    for name in ("train", "validation"):
        rows = [f"{' '.join(generator.choices(NOUNS, k=9))}\t{generator.choice('ab')}\n" for _ in range(150)]
        (tmp_path / f"{name}.tsv").write_text("text\tlabel\n" + "".join(rows))
    data = {name: str(tmp_path / f"{name}.tsv") for name in ("train", "validation")}
    report = probe(base, {"task": "text-classification", "data": {**data, "max_seq_length": 40}}, seeds=[1, 2, 3, 4])
    for layer in report.layers:
        assert layer.selectivity.low < 0 < layer.selectivity.high


# -- reports ---------------------------------------------------------------------------------------------------------


def test_a_topic_is_read_from_every_layer_far_above_majority_and_control(base, texts):
    report = probe(base, texts, seeds=[1, 2])
    assert [layer.layer for layer in report.layers] == [0, 1, 2]
    assert report.num_items == report.num_texts == (96, 30)
    assert report.majority == pytest.approx(1 / 3)
    for layer in report.layers:
        assert layer.accuracy.value > 0.9
        assert layer.selectivity.low > 0.2
        assert len(layer.control) == len(layer.random_encoder) == 2
        assert layer.selectivity.value == pytest.approx(layer.accuracy.value - np.mean(layer.control))


def test_a_probe_repeats_bit_for_bit(base, words):
    one = probe(base, words, **QUICK)
    torch.manual_seed(9)
    assert probe(base, [{"task": words["task"]}, {"data": words["data"]}], **QUICK) == one


def test_the_other_sections_of_an_ordinary_configuration_do_not_count_but_unknown_ones_do(base, texts, tmp_path):
    other = {
        "experiment": "fit",
        "model": {"pretrained": "nowhere", "head": {"class_path": "absent.Head"}},
        "trainer": {"max_epochs": 3},
        "tuning": {"name": "lora"},
        "schedule": "constant",
    }
    (tmp_path / "fit.yaml").write_text(json.dumps({**texts, **other}))
    assert probe(base, tmp_path / "fit.yaml", **QUICK) == probe(base, texts, **QUICK)
    with pytest.raises(InputError, match=r"^values: unknown key 'trianer'; did you mean 'trainer'\?$"):
        probe(base, {**texts, "trianer": {}}, **QUICK)


def test_fewer_than_two_labels_are_refused(base, tmp_path):
    for name in ("train", "validation"):
        rows = ["a\tx\n", "b\tx\n", "c\tx\n", "d\ty\n"]
        (tmp_path / f"{name}.tsv").write_text("text\tlabel\n" + "".join(rows))
    data = {name: str(tmp_path / f"{name}.tsv") for name in ("train", "validation")}
    keys = {"task": "text-classification", "data": {**data, "max_seq_length": 40}}
    with pytest.raises(RefusedValue, match=r"^max_items is 1; it must be larger: the texts .* have one label only$"):
        probe(base, keys, max_items=1)
    with pytest.raises(RefusedValue, match=r"^leave_out is y; it must leave 2 labels of data.train, not only 'x'$"):
        probe(base, keys, leave_out=["y"])
    with pytest.raises(InputError, match=r"^leave_out is one text; a list of texts is expected$"):
        probe(base, keys, leave_out="y")


def test_items_with_a_label_that_is_left_out_are_in_neither_split(base, words):
    report = probe(base, words, leave_out=["O"], **QUICK)
    assert "O" not in report.labels
    assert report.majority_label != "O"
    everything = probe(base, words, seeds=[1])
    left = probe(base, words, seeds=[1], leave_out=["O"])
    # Half of the words of a sentence, apart from "The" and ".", are in spans: 4 of 8.
    assert left.num_items[1] / everything.num_items[1] == pytest.approx(0.5)


def test_a_gold_label_that_training_lacks_counts_as_an_error(base, tmp_path):
    for name, tags in {"train": "xy", "validation": "xq"}.items():
        write_columns(tmp_path / f"{name}.conll", [[(NOUNS[0], tags[0]), (NOUNS[7], tags[1])]] * 5)
    data = {name: str(tmp_path / f"{name}.conll") for name in ("train", "validation")}
    keys = {"task": "token-classification", "data": {**data, "source_scheme": "none", **SHORT}}
    report = probe(base, keys, **QUICK)
    assert report.num_items == (10, 10)
    assert all(layer.accuracy.value == 0.5 for layer in report.layers)
    write_columns(tmp_path / "validation.conll", [[(NOUNS[0], "q"), (NOUNS[7], "q")]])
    with pytest.raises(InputError, match=r"^data\.validation has no word with a label of data\.train$"):
        probe(base, keys, **QUICK)


@pytest.mark.parametrize("task", [name for name in RAW if name in TASKS and name not in OWNERS])
def test_every_task_is_probed_or_refused_in_one_sentence_that_names_the_key(task, base, tables, store, tmp_path):
    data = {"train": str(store)} if task == "pretraining" else task_data(task, tables, tmp_path)
    keys = {"task": task, "data": {**data, "max_seq_length": 40}}
    if task in PROBED_TASKS:
        assert len(probe(base, keys, **QUICK).layers) == 3
    else:
        with pytest.raises(InputError, match=rf"^task is {task}; a probe needs one label per text or word"):
            probe(base, keys, **QUICK)


def test_the_battery_above_knows_every_task():
    assert RAW.keys() >= {name for name in TASKS if name not in OWNERS}


# -- the command -----------------------------------------------------------------------------------------------------


def arguments(keys, base):
    data = [part for key, value in keys["data"].items() for part in (f"--data.{key}", str(value))]
    return ["probe", "--checkpoint", str(base), "--task", keys["task"], *data, "--seeds", "1", "--max-items", "100"]


def test_the_command_prints_and_writes_what_the_function_returns(base, words, tmp_path, capsys):
    report = probe(str(base), words, **QUICK)
    assert main([*arguments(words, base), "--json", "--output", str(tmp_path / "probe.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(report.to_dict())) == json.loads((tmp_path / "probe.json").read_text())
    assert main([*arguments(words, base), "--output", str(tmp_path / "probe.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = lines[lines.index("") + 1 : -1]
    assert table[0].split()[:2] == ["layer", "accuracy"]
    assert [line.split()[:2] for line in table[1:]] == [
        [name, f"{layer.accuracy.value:.4f}"]
        for name, layer in zip(["embeddings", "1", "2"], report.layers, strict=True)
    ]
    assert f"Always {report.majority_label!r}: accuracy {report.majority:.4f}" in lines[2]
    assert lines[-1] == f"page: {tmp_path / 'probe.html'}"


def test_a_run_is_probed_on_its_own_data(classifier, capsys):
    assert main(["probe", "--checkpoint", str(classifier), "--seeds", "1"]) == 0
    assert capsys.readouterr().out.startswith("text-classification, 3 labels: 96 texts to fit, 30 texts to score.")


def test_keys_change_the_data_of_a_run(classifier, capsys):
    keys = ["--data.max_train_samples", "50"]
    assert main(["probe", "--checkpoint", str(classifier), *keys, "--seeds", "1"]) == 0
    assert capsys.readouterr().out.startswith("text-classification, 3 labels: 50 texts to fit, 30 texts to score.")


def test_the_few_examples_of_a_run_are_those_of_its_seed(classifier, capsys):
    keys = ["--data.examples_per_class", "5"]
    assert main(["probe", "--checkpoint", str(classifier), *keys, "--seeds", "1"]) == 0
    assert capsys.readouterr().out.startswith("text-classification, 3 labels: 15 texts to fit, 30 texts to score.")


def test_the_script_computes_what_is_missing_and_prints_a_table(base, words, tmp_path, monkeypatch, capsys):
    import probing as script

    report, commands = json.dumps(probe(base, words, **QUICK).to_dict()), []

    def run(command, **options):
        commands.append(command)
        return SimpleNamespace(stdout=report.encode())

    monkeypatch.setattr(script.subprocess, "run", run)
    monkeypatch.setenv("BERT_LIGHTNING_DATA", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["probing.py", "--encoder", f"tiny={base}", "--output", str(tmp_path / "out")])
    for _ in range(2):
        script.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| tiny")]
    assert len(commands) == 4
    assert len(rows) == 2 * 4 * 3
    layer = json.loads(report)["layers"][0]
    assert rows[0].startswith(f"| tiny | wnut17 | 0 | {layer['accuracy']['value']:.3f} [")
    # The commands are those of the program.
    for command in commands:
        assert _parser().parse_known_args(command[3:])[0].command == "probe"


def test_the_name_of_a_data_set_decides_the_task(base, tmp_path, capsys):
    write_columns(tmp_path / "train.conll", [[("Rome", "B-location"), ("is", "O")]])
    write_columns(tmp_path / "dev.conll", [[("Rome", "B-location"), ("is", "O")]])
    keys = ["--data.dataset", "wnut17", "--data.folder", str(tmp_path), "--data.max_seq_length", "40"]
    keys += ["--data.window_overlap", "8"]
    assert main(["probe", "--checkpoint", str(base), *keys, "--seeds", "1"]) == 0
    assert capsys.readouterr().out.startswith("token-classification, 3 labels: 2 words of 1 text to fit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--l2", "0"], "--l2 is 0.0; it must be more than 0"),
        (["--l2", "nan"], "--l2 is nan; it must be more than 0"),
        (["--seeds", "1", "1"], "--seeds is [1, 1]; it must name at least one seed, each once"),
        (["--seeds", "-1"], "--seeds is [-1]; it must hold numbers from 0"),
        (["--max-items", "0"], "--max-items is 0; it must be at least 1"),
        (
            ["--leave-out", "B-animal"],
            "--leave-out is B-animal; it must name labels of data.train; did you mean 'B-animals'?",
        ),
        (
            ["--leave-out", "O", *(f"{p}-{t}" for p in "BI" for t in ("animals", "nature", "places"))],
            "it must leave a word of data.train",
        ),
        (
            ["--leave-out", "O", "I-places", *(f"{p}-{t}" for p in "BI" for t in ("animals", "nature"))],
            "it must leave 2 labels of data.train, not only 'B-places'",
        ),
        (["--output", "x.pdf"], "--output is x.pdf; it must end in .html or .json"),
        (
            ["--trainer.max_steps", "3"],
            "probe reads the keys task, data, modules, seed_everything, and 'trainer' would do nothing",
        ),
        (["--data.trian", "x"], "unknown key 'data.trian'; did you mean 'data.train'?"),
        (["--data.max_seq_length", "4000"], "data.max_seq_length 4000 is more than the model's positions"),
        (["--task", "token-clasification"], "did you mean 'token-classification'?"),
    ],
)
def test_bad_input_to_probe_is_one_message_that_names_the_key(
    base, words, change, message, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments(words, base), *change]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_data_that_cannot_be_probed_are_named(base, texts, tables, store, capsys):
    with pytest.raises(InputError, match=r"^pooling is 'cls'; it must be one of mean, first"):
        probe(base, texts, pooling="cls")
    with pytest.raises(InputError, match=r"^no standard data set is called 'wnut71'; did you mean 'wnut17'\?$"):
        probe(base, overrides={"data.dataset": "wnut71"})
    with pytest.raises(InputError, match="is not part of a run directory: name the data"):
        probe(base)
    without = {"task": "text-classification", "data": {**texts["data"], "validation": None}}
    with pytest.raises(InputError, match=r"^data\.validation is not set"):
        probe(base, without)
    with pytest.raises(InputError, match=r"^data\.problem is multi-label; a probe predicts one label per text"):
        probe(base, texts, {"data.problem": "multi-label", "data.label_separator": ","})
