"""Several tuned runs over one base are loaded at once: they share its memory, and each predicts as it does alone."""

import pytest
import torch

import bert_lightning
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.errors import InputError
from bert_lightning.model import BertForPreTraining
from tests.support.runs import fit
from tests.support.task_data import RAW
from tests.support.tuned import write_experiment

# A run's name -> its task, and its tuning.
RUNS = {
    "texts": ("text-classification", "lora"),
    "tags": ("token-classification", "adapter"),
    "prefixes": ("text-classification", "prefix"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, store, validation_store, tables, base):
    folder = tmp_path_factory.mktemp("tuned")
    for name, (task, tuning) in RUNS.items():
        (folder / f"{name}-files").mkdir()
        experiment = write_experiment(task, folder / f"{name}-files", base, store, validation_store, tables)
        assert fit(experiment, folder / name, "--tuning.name", tuning) == 0
    return {name: folder / name for name in RUNS}


def items(name):
    return RAW[RUNS[name][0]]


def test_each_of_several_runs_predicts_as_alone_however_often_it_is_switched_to(runs, base):
    alone = {name: bert_lightning.load(run, "cpu").predict(items(name)) for name, run in runs.items()}
    model = bert_lightning.load(base, "cpu", tuning=list(runs.values()))
    assert model.names == list(RUNS)
    assert model.name == "texts"
    for name in ("texts", "tags", "prefixes", "tags", "texts"):
        model.switch(name)
        # Bit for bit: predictions hold scores.
        assert model.predict(items(name)) == alone[name]
        assert type(model.task).__name__ == {"tags": "TokenClassificationTask"}.get(name, "TextClassificationTask")
    assert model.predict(items("tags"), tuning="tags") == alone["tags"]
    assert model.name == "texts"
    assert model.predict(items("texts")) == alone["texts"]


def test_switching_there_and_back_gives_the_same_bits(runs, base):
    model = bert_lightning.load(base, "cpu", tuning=runs)
    ids = torch.arange(5, 35).reshape(2, 15)
    with torch.inference_mode():
        before = model.task.model(ids)
        model.switch("prefixes")
        assert not torch.equal(model.task.model(ids), before)
        model.switch("texts")
        assert torch.equal(model.task.model(ids), before)


def test_the_memory_of_the_base_is_there_once(runs, base):
    model = bert_lightning.load(base, "cpu", tuning=runs)
    places = []
    for name in model.names:
        model.switch(name)
        parameters = dict(model.task.model.named_parameters())
        places.append({key: parameter.data_ptr() for key, parameter in parameters.items()})
    shared = set(places[0].items()) & set(places[1].items()) & set(places[2].items())
    names = {name for name, _ in shared}
    assert "encoder.embeddings.word.weight" in names
    assert {f"encoder.layers.{n}.{layer}.weight" for n in (0, 1) for layer in ("query_key_value", "output")} <= names
    # What was trained is each run's own.
    assert not {name for name in names if "lora" in name or "adapter" in name or "classifier" in name}
    assert len({each["classifier.weight"] for each in places}) == 3


def test_runs_that_do_not_share_the_base_are_one_message(runs, base, tmp_path):
    other = tmp_path / "other"
    model = BertForPreTraining.from_pretrained(base)
    model.encoder.layers[0].output.bias.data[0] += 1e-6
    model.save_pretrained(other)
    with pytest.raises(CheckpointError, match=f"{other} has other weights"):
        bert_lightning.load(other, "cpu", tuning=[runs["texts"]])
    with pytest.raises(CheckpointError, match="has all of its weights, so it shares none"):
        bert_lightning.load(base, "cpu", tuning=[base])
    with pytest.raises(CheckpointError, match="a base must hold all weights"):
        bert_lightning.load(runs["texts"], "cpu", tuning=[runs["texts"]])
    with pytest.raises(InputError, match="two runs named texts: give a mapping"):
        bert_lightning.load(base, "cpu", tuning=[runs["texts"], runs["texts"]])
    with pytest.raises(InputError, match="tuning is empty"):
        bert_lightning.load(base, "cpu", tuning=[])
    with pytest.raises(InputError, match="the first argument names the base"):
        bert_lightning.load(base, "cpu", tuning=[runs["texts"]], base=base)
    several = bert_lightning.load(base, "cpu", tuning={"one": runs["texts"], "two": runs["texts"]})
    with pytest.raises(InputError, match="there is no tuned run 'tow'; did you mean 'two'"):
        several.switch("tow")
