import dataclasses

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bert_lightning.config.experiment import CHOICES, load_experiment
from bert_lightning.config.layers import merge, parse_overrides
from bert_lightning.config.nested import at
from bert_lightning.config.settings import build, fill
from bert_lightning.config.yaml_files import read_yaml
from bert_lightning.data.pretraining.masking import TokenMasking
from bert_lightning.errors import InputError
from bert_lightning.runs.trainer import build_trainer

MINIMAL = {
    "experiment": "try",
    "task": "pretraining",
    "model": {"size": "tiny"},
    "data": {"train": "store"},
    "trainer": {"max_steps": 10},
}


def write(tmp_path, values, name="experiment.yaml"):
    path = tmp_path / name
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def test_overrides_win_over_files_and_later_files_over_earlier(tmp_path):
    first = write(tmp_path, {**MINIMAL, "optimizer": {"learning_rate": 0.1, "weight_decay": 0.5}})
    second = write(tmp_path, {"optimizer": {"learning_rate": 0.2}}, "second.yaml")
    assert load_experiment([first, second]).optimizer.learning_rate == 0.2
    loaded = load_experiment([first, second], ["--optimizer.learning_rate=3e-4", "--data.batch_size", "16"])
    assert (loaded.optimizer.learning_rate, loaded.optimizer.weight_decay, loaded.data.batch_size) == (3e-4, 0.5, 16)


def test_a_resolved_experiment_loads_back_to_itself(tmp_path):
    loaded = load_experiment(
        [write(tmp_path, MINIMAL)], ["--schedule.name", "constant", "--data.masking.rate", "0.3"]
    )
    again = load_experiment([write(tmp_path, loaded.to_dict(), "resolved.yaml")])
    assert again.to_dict() == loaded.to_dict()
    assert again.identity == loaded.identity


def test_a_leading_tilde_is_the_home_folder_in_every_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    values = {**MINIMAL, "data": {"train": "~/store", "validation": "~other/store"}}
    loaded = load_experiment([write(tmp_path, values)])
    assert (loaded.data.train, loaded.data.validation) == ("/home/ann/store", "~other/store")
    assert load_experiment([write(tmp_path, MINIMAL)], ["--data.train=~/store"]).data.train == "/home/ann/store"


def test_inconsistent_variables_of_slurm_are_one_message(tmp_path, monkeypatch):
    experiment = load_experiment([write(tmp_path, MINIMAL)], ["--trainer.precision", "32"])
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    with pytest.raises(InputError, match=r"trainer: .*--ntasks-per-node=4"):
        build_trainer(experiment, tmp_path, [])


def test_a_choice_given_by_name_alone_stays_under_overrides(tmp_path):
    loaded = load_experiment(
        [write(tmp_path, {**MINIMAL, "schedule": "constant"})], ["--schedule.warmup_share", "0.5"]
    )
    assert loaded.to_dict()["schedule"] == {"name": "constant", "warmup_share": 0.5, "warmup_steps": None}


@pytest.mark.parametrize(("one", "other"), [("0", "0.0"), ("1e-1", "0.1")])
def test_two_spellings_of_a_number_of_the_architecture_have_one_identity(tmp_path, one, other):
    path = write(tmp_path, MINIMAL)
    keys = [["--model.config.hidden_dropout_prob", value] for value in (one, other)]
    assert load_experiment([path], keys[0]).identity == load_experiment([path], keys[1]).identity


def test_any_changed_value_changes_the_identity(tmp_path):
    path = write(tmp_path, MINIMAL)
    identities = {
        load_experiment([path], change).identity
        for change in ([], ["--seed_everything", "2"], ["--data.masking.rate", "0.2"], ["--model.size", "mini"])
    }
    assert len(identities) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainr": {}}, "unknown key 'trainr'; did you mean 'trainer'"),
        ({"trainer": {"max_step": 3}}, "unknown key 'trainer.max_step'; did you mean 'trainer.max_steps'"),
        ({"data": {"masking": {"rat": 0.1}}}, "unknown key 'data.masking.rat'; did you mean 'data.masking.rate'"),
        ({"data": {"masking": {"name": "tokn"}}}, "data.masking.name is 'tokn'; did you mean 'token'"),
        ({"optimizer": {"name": "adam2"}}, "optimizer.name is 'adam2'; did you mean 'adamw'"),
        ({"trainer": {"max_steps": "many"}}, "trainer.max_steps: expected int or null, got 'many'"),
        ({"trainer": {"max_steps": 2.5}}, "trainer.max_steps: expected int or null, got 2.5"),
        (
            {"trainer": {"precision": "64"}},
            "trainer.precision: expected one of 32, bf16-mixed, bf16-true, 16-mixed, auto, got '64'",
        ),
        ({"trainer": {"max_steps": 3, "max_epochs": 2}}, "and not both"),
        ({"trainer": {"max_steps": 0}}, "trainer.max_steps is 0; it must be more than 0"),
        ({"trainer": "fast"}, "trainer: keys and values are expected, got 'fast'"),
        ({"data": {"masking": {"rate": 2.0}}}, "data.masking.rate is 2.0; it must be more than 0 and less than 1"),
        ({"task": "pretrain"}, "task is 'pretrain'; did you mean 'pretraining'"),
        ({"model": {"size": "tiny", "pretrained": "x"}}, "model.size or model.pretrained must be set, and not both"),
        ({"data": {"class_path": "os.system", "init_args": {}}}, "unknown key 'data.class_path'"),
        ({"optimizer": {"class_path": "os.system"}}, "optimizer.class_path os.system .* --allow-module os"),
        ({"optimizer": "os.system"}, "optimizer.name is 'os.system'"),
        ({"experiment": "../up"}, "it names a folder"),
        ({"data": {"train": "${NOT_SET_ANYWHERE}/x"}}, r"data\.train uses \$\{NOT_SET_ANYWHERE\}"),
        ({"data": {"batch_size_warmup": {"strt": 8}}}, "did you mean 'data.batch_size_warmup.start'"),
        (
            {"data": {"batch_size_warmup": {"start": 8}}},
            "data.batch_size_warmup.start needs data.batch_size_warmup.num_s",
        ),
        ({"data": {"batch_size_warmup": {"increment": 8}}}, "increment needs data.batch_size_warmup.start to be set"),
        (
            {"data": {"batch_size_warmup": {"start": 12, "num_steps": 5}}},
            "data.batch_size_warmup does not lead to batch_size 32 from 12 by increments of 12",
        ),
        (
            {"data": {"batch_size_warmup": {"start": 32, "num_steps": 5}}},
            "data.batch_size_warmup does not lead to batch_size 32 from 32",
        ),
        (
            {"data": {"batch_size_warmup": {"start": 4, "num_steps": 6}}},
            "data.batch_size_warmup.num_steps is 6; it must be at least 7, the number of smaller batch sizes",
        ),
        (
            {"data": {"batch_size_warmup": {"start": 16, "num_steps": 5}, "stages": [{"from_step": 5}]}},
            "data.stages.0.from_step is 5; it must be more than 5, the step at which batch_size_warmup ends",
        ),
        ({"model": {"size": None}}, "model.size or model.pretrained must be set"),
        ({"trainer": {"max_steps": 3, "devices": None}}, "trainer.devices: expected int, got null"),
        (
            {"model": {"size": "tiny", "attention": None}},
            "model.attention: expected one of auto, eager, sdpa, varlen",
        ),
        # Keys in a wrong section.
        ({"learning_rate": 1}, "unknown key 'learning_rate'; did you mean 'optimizer.learning_rate'?"),
        ({"trainer": {"batch_size": 1}}, "unknown key 'trainer.batch_size'; did you mean 'data.batch_size'?"),
        (
            {"trainer": {"seed_everything": 1}},
            "unknown key 'trainer.seed_everything'; did you mean 'seed_everything'?",
        ),
        ({"model": {"hidden_size": 1}}, "unknown key 'model.hidden_size'; did you mean 'model.config.hidden_size'?"),
        ({"data": {"tag_column": 1}}, "unknown key 'data.tag_column', which is of the task token-classification"),
        (
            {"wandb.mode": "disabled"},
            "unknown key 'wandb.mode': in a file, write nested keys, wandb: {mode:",
        ),
        ({"model": {"config": {"hidden_size": "big"}}}, "model.config: hidden_size is 'big'; expected int"),
        ({"loss_weights": {"nsp_loss": True}}, "loss_weights.nsp_loss is True; it must be 0 or more"),
    ],
)
def test_a_mistake_names_the_key_the_value_and_the_nearest_known(tmp_path, change, message):
    with pytest.raises(InputError, match=message) as caught:
        load_experiment([write(tmp_path, merge(MINIMAL, change))])
    assert "experiment.yaml" in str(caught.value)


def test_naming_a_class_never_imports_its_module(tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for change in ({"data": {"masking": "evil_module.X"}}, {"schedule": {"class_path": "evil_module.X"}}):
        with pytest.raises(InputError):
            load_experiment([write(tmp_path, merge(MINIMAL, change))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1\n", "line 3"),
        ("a: 1\na: 2\n", "line 2: the key 'a' is given twice"),
        ("- 1\n", "keys and values are expected"),
        ("", "keys and values are expected"),
        ("a: !!python/object/apply:os.system ['true']\n", "line 1"),
        ("a: 1\nb: \0\n", r"line 2: YAML has no character '\\x00'$"),
        ("a: " + "[" * 3000, "too many brackets inside each other$"),
    ],
)
def test_a_file_that_is_no_mapping_names_the_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_yaml(write(tmp_path, text))


def test_a_file_that_is_not_utf_8_names_the_line_and_the_byte(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("a: 1\nb: caf\xe9\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin.yaml: line 2: byte 11 \(0xe9\) is not UTF-8$"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lr", "3"], "unexpected argument 'lr'"),
        (["--a.b"], "--a.b has no value"),
        (["--a", "--b", "1"], "--a has no value"),
    ],
)
def test_a_malformed_override_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        parse_overrides(arguments)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,5}(\.[a-z]{6}){0,2}", fullmatch=True), st.from_regex(r"-?[0-9]{1,4}", fullmatch=True)
    )
)
def test_both_spellings_of_overrides_mean_the_same(values):
    spaced = [word for key, value in values.items() for word in (f"--{key}", value)]
    joined = [f"--{key}={value}" for key, value in values.items()]
    try:
        expected = parse_overrides(joined)
    except InputError:
        return
    assert parse_overrides(spaced) == expected


def test_numbers_written_with_an_exponent_alone_are_numbers(tmp_path):
    path = write(
        tmp_path,
        yaml.safe_dump(MINIMAL) + ["optimizer: {learning_rate: 1e-4}\n", ": {size: tiny}\n"][0],
    )
    assert load_experiment([path]).optimizer.learning_rate == 1e-4
    loaded = load_experiment([path], ["--model.config.hidden_dropout_prob", "1e-1"])
    assert loaded.model.config == {"hidden_dropout_prob": 0.1}


def test_another_choice_keeps_the_settings_that_it_shares_with_the_earlier_one(tmp_path):
    values = {**MINIMAL, "data": {"masking": {"name": "span", "rate": 0.3, "max_span": 3}}}
    masking = load_experiment([write(tmp_path, values)], ["--data.masking", "token"]).data.masking
    assert masking == TokenMasking(rate=0.3)
    same = load_experiment([write(tmp_path, values)], ["--data.masking", "span"]).data.masking
    assert same.max_span == 3


def faults(tmp_path, *contents, overrides=()):
    files = [write(tmp_path, content, f"{number}.yaml") for number, content in enumerate(contents)]
    with pytest.raises(InputError) as caught:
        load_experiment(files, overrides)
    message = str(caught.value).replace(f"{tmp_path}/", "")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("task", [None, "classify everything", ["pretraining"], 3])
def test_all_faults_are_reported_together_even_if_the_task_is_unknown(tmp_path, task):
    values = {"trainer": {"max_step": 3, "devices": "two"}, "data": {"trian": "x", "masking": {"rat": 0.1}}, "lr": 1}
    values["model"] = {"size": "tiny", "config": {"hiden_size": 3}}
    message = faults(tmp_path, values if task is None else {**values, "task": task})
    for words in (
        "the key task is missing; known: pretraining" if task is None else f"task is {task!r}",
        "unknown key 'trainer.max_step'; did you mean 'trainer.max_steps'?",
        "trainer.devices: expected int, got 'two'",
        "unknown key 'data.trian'; did you mean 'data.train'?",
        "unknown key 'data.masking.rat'; did you mean 'data.masking.rate'?",
        "unknown key 'model.config.hiden_size'; did you mean 'model.config.hidden_size'?",
        "unknown key 'lr'",
        "the key experiment is missing",
    ):
        assert f" 0.yaml: {words}" in message
    assert message.startswith("8 faults: (1) 0.yaml: ")


def test_a_key_of_another_task_is_no_fault_if_the_task_is_missing(tmp_path):
    values = {**MINIMAL, "data": {"train": "x", "doc_stride": 3, "text_column": "t", "source_scheme": "IOB2"}}
    del values["task"]
    assert faults(tmp_path, values).startswith("0.yaml: the key task is missing")


def test_each_fault_names_the_source_of_the_value_that_counts(tmp_path):
    first = {**MINIMAL, "trainer": {"max_steps": 3, "devices": "two", "acelerator": "cpu"}}
    second = {"data": {"batch_sise": 3}, "trainer": {"devices": "three"}}
    message = faults(tmp_path, first, second, overrides=["--trainer.lr", "4", "--data.max_seq_length=long"])
    for words in (
        "1.yaml: trainer.devices: expected int, got 'three'",
        "0.yaml: unknown key 'trainer.acelerator'; did you mean 'trainer.accelerator'?",
        "1.yaml: unknown key 'data.batch_sise'; did you mean 'data.batch_size'?",
        "command line: unknown key 'trainer.lr'",
        "command line: data.max_seq_length: expected int, got 'long'",
    ):
        assert words in message
    assert message.startswith("5 faults: ")


def test_every_refused_value_of_a_section_is_reported(tmp_path):
    change = {"trainer": {"max_steps": 0, "devices": 0, "log_every_n_steps": -1}, "data": {"batch_size": 0}}
    message = faults(tmp_path, merge(MINIMAL, change))
    assert message.startswith("4 faults: ")
    for words in ("max_steps is 0", "devices is 0", "log_every_n_steps is -1", "data.batch_size is 0"):
        assert words in message


def test_a_value_that_no_architecture_has_is_reported_with_the_other_faults(tmp_path):
    change = {"model": {"config": {"hidden_size": 33, "num_attention_heads": 2}}, "trainer": {"max_step": 3}}
    message = faults(tmp_path, merge(MINIMAL, change))
    assert message.startswith("2 faults: ")
    assert "0.yaml: model.config: hidden_size 33 is not a multiple of num_attention_heads 2" in message


def test_all_unreadable_files_are_reported_together(tmp_path):
    broken = write(tmp_path, "a: 1\na: 2\n", "broken.yaml")
    with pytest.raises(InputError) as caught:
        load_experiment([tmp_path / "none.yaml", broken], ["--x"])
    for words in ("none.yaml: no such file", "broken.yaml: line 2: the key 'a' is given twice", "--x has no value"):
        assert words in str(caught.value)


@pytest.mark.parametrize(("override", "fault"), [("--x", "--x has no value"), ("lr", "unexpected argument 'lr'")])
def test_unknown_keys_are_reported_with_unreadable_values(tmp_path, override, fault):
    good = write(tmp_path, {**MINIMAL, "trainer": {"max_step": 3, "devices": "two"}})
    broken = write(tmp_path, "a: 1\na: 2\n", "broken.yaml")
    with pytest.raises(InputError) as caught:
        load_experiment([good, broken], ["--lr", "1", override])
    message = str(caught.value)
    assert message.startswith(f"3 faults: (1) {broken}: line 2: the key 'a' is given twice  (2) {fault}")
    assert message.endswith(f"(3) {good}: unknown key 'trainer.max_step'; did you mean 'trainer.max_steps'?")


def test_all_missing_keys_are_reported_together(tmp_path):
    message = faults(tmp_path, {"task": "pretraining"})
    for key in ("experiment", "model", "trainer"):
        assert f"the key {key} is missing" in message


def test_a_key_that_yaml_reads_as_a_boolean_is_reported_as_such(tmp_path):
    assert "unless they are quoted" in faults(tmp_path, yaml.safe_dump(MINIMAL) + "yes: 1\n")
    assert "the key 1 is given twice" not in faults(tmp_path, yaml.safe_dump(MINIMAL) + "1: 1\ntrue: 1\n")


@pytest.mark.parametrize("name", ["a/b", "..", "a\n", "a\0b", "x" * 201, "日" * 67, "", "a b", ".hidden"])
def test_an_experiment_whose_name_cannot_be_a_folder_is_refused(tmp_path, name):
    assert "it names a folder" in faults(tmp_path, {**MINIMAL, "experiment": name})


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "key",
    [
        *("optimizer.learning_rate", "optimizer.weight_decay", "trainer.gradient_clip_val", "data.masking.rate"),
        *("loss_weights.nsp_loss", "model.config.hidden_dropout_prob"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_by_its_key(tmp_path, key, value):
    *parents, last = key.split(".")
    values = section = {
        **MINIMAL,
        "model": {"size": "tiny"},
        "trainer": {"max_steps": 10},
        "data": {"train": "store"},
    }
    for parent in parents:
        section = section.setdefault(parent, {})
    section[last] = float(value)
    with pytest.raises(InputError, match=rf"{key}: a finite number is expected, got {value}$"):
        load_experiment([write(tmp_path, values)])
    with pytest.raises(InputError, match=rf"{key}: (a finite number is|expected float)"):
        load_experiment([write(tmp_path, MINIMAL)], [f"--{key}", f"{value[:-3]}.{value[-3:]}"])


def test_every_share_of_a_mixture_is_a_finite_number(tmp_path):
    data = {"train": {"a": 0.5, "b": float("nan")}}
    with pytest.raises(InputError, match=r"data\.train: a finite number is expected, got nan"):
        load_experiment([write(tmp_path, {**MINIMAL, "data": data})])


def test_a_field_whose_default_is_none_accepts_null_whatever_its_type_says():
    cls = dataclasses.make_dataclass("Mine", [("factor", float, dataclasses.field(default=None))])
    found: list = []
    assert fill(cls, {"factor": None}, "optimizer", {}, found) == {"factor": None}
    assert not found


OTHER_KEYS = {
    "optimizer": ("lamb", "learning_rate", 0.5),
    "schedule": ("constant", "warmup_steps", 3),
    "data.masking": ("span", "rate", 0.25),
    "tuning": ("lora", "rank", 4),
    "loss": ("focal", "gamma", 3.0),
    "adversarial": ("fgm", "epsilon", 0.5),
}


@pytest.mark.parametrize("path", CHOICES)
@pytest.mark.parametrize("as_text", [True, False])
def test_a_choice_named_alone_takes_its_keys_beside_it_in_any_order(path, as_text):
    name, key, value = OTHER_KEYS.get(path, (next(iter(CHOICES[path])), "name", next(iter(CHOICES[path]))))
    pairs = {path: name, f"{path}.{key}": value}
    for written in (pairs, dict(reversed(pairs.items()))):
        overrides = [f"--{each}={given}" for each, given in written.items()] if as_text else written
        choice = at(load_experiment(MINIMAL, overrides).to_dict(), path)
        assert (choice["name"], choice[key]) == (name, value)


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        (["--model.config", "{hidden_dropout_prob: 0.2}"], "model.config.hidden_dropout_prob", 0.2),
        (["--loss_weights", "{mlm_loss: 2}"], "loss_weights.mlm_loss", 2),
        (["--trainer", "{max_steps: 7}", "--trainer.devices", "2"], "trainer.max_steps", 7),
        (["--tuning", "{name: lora, rank: 4}"], "tuning.rank", 4),
        ({"optimizer": "{learning_rate: 1e-3}"}, "optimizer.learning_rate", 0.001),
    ],
)
def test_a_mapping_given_as_text_is_merged_like_one_of_a_file(override, path, expected):
    read = load_experiment(MINIMAL, override).to_dict()
    assert at(read, path) == expected
    assert read["data"]["train"] == MINIMAL["data"]["train"]


def test_a_run_directory_in_place_of_an_experiment_file_is_told_from_another_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("task: pretraining\n")
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"run is a folder; .* did you mean .*run/config\.yaml"):
        load_experiment(tmp_path / "run")
    with pytest.raises(InputError, match=r"other is a folder; a YAML file is expected$"):
        load_experiment(tmp_path / "other")


@pytest.mark.parametrize("message", ["", " \n"])
def test_settings_that_are_refused_without_a_message_are_named(message):
    @dataclasses.dataclass(frozen=True)
    class Silent:
        rate: float = 1.0

        def __post_init__(self) -> None:
            raise ValueError(message)

    faults = []
    assert build(Silent, {}, "optimizer", {}, faults) is None
    assert faults == [("optimizer", "optimizer: Silent refuses its values without a message")]
