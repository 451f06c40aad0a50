"""Settings of tokenizer files: each gives the ids of transformers, or is refused by its name."""

import json
import re
import shutil
import tempfile
from pathlib import Path

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tokenizers.tokenizer_files import (
    Vocabulary,
    read_vocabulary,
    with_casing,
    write_vocabulary,
)
from bert_lightning.errors import InputError
from bert_lightning.model import BertConfig, BertEncoder
from bert_lightning.text.encoding import CachingEncoder
from bert_lightning.text.wordpiece import SPECIAL_TOKENS, WordPieceTokenizer, load_tokenizer

_PIECES = "the boat ##s É é e été ete 中 国 中国 a ##a [ ] mask river ##t"
WORDS = (*SPECIAL_TOKENS, *_PIECES.split())
TEXTS = (
    "The Été [MASK] ete 中国 boats É",
    "a\0 ri\u200bver x[MASK]y [mask] [MA\0SK] the\u00adboat \ufffd",
    f"{'a' * 100} {'a' * 101} {'a' * 150}",
    "river RIVERS riverbank the\triver\r\nboats e\u0301 the\u2028boat",
    "[PAD][CLS] [SEP]a [UNK]s [NEW] .",
)
BERT, FAST = "BertTokenizer", "PreTrainedTokenizerFast"


def token(content: str, **changes) -> dict:
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    return {"id": WORDS.index(content) if content in WORDS else len(WORDS), "content": content, **flags, **changes}


def described(content: str, **changes) -> dict:
    """Describe a token as `tokenizer_config.json` does."""
    value = {"__type": "AddedToken", **token(content, **changes)}
    return {key: value[key] for key in value if key not in ("id", "special")}


def decoder(*tokens: dict) -> dict:
    return {str(each["id"]): {key: each[key] for key in each if key != "id"} for each in tokens}


def template(*pair: tuple[str, int]) -> dict:
    def piece(name: str, segment: int) -> dict:
        kind = "Sequence" if len(name) == 1 else "SpecialToken"
        return {kind: {"id": name, "type_id": segment}}

    special = {name: {"id": name, "ids": [WORDS.index(name)], "tokens": [name]} for name, _ in pair if len(name) > 1}
    pieces = [piece(*each) for each in pair]
    return {"type": "TemplateProcessing", "single": pieces[:3], "pair": pieces, "special_tokens": special}


FRAME = template(("[CLS]", 0), ("A", 0), ("[SEP]", 0), ("B", 1), ("[SEP]", 1))
SPECIAL = [token(each) for each in SPECIAL_TOKENS]
NORMALIZER = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}


def serialized(**changes) -> dict:
    """Make a `tokenizer.json` of BERT; changes of `normalizer` or `model` without a type change single values."""
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": SPECIAL,
        "normalizer": NORMALIZER,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": FRAME,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: number for number, word in enumerate(WORDS)},
        },
    }
    for key, value in changes.items():
        inner = isinstance(value, dict) and key in ("normalizer", "model") and "type" not in value
        content[key] = {**content[key], **value} if inner else value
    return content


def folder_of(folder: Path, files: dict[str, dict | bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def lines(words=WORDS) -> bytes:
    return "".join(f"{word}\n" for word in words).encode()


def ours(folder: Path) -> WordPieceTokenizer:
    return WordPieceTokenizer(with_casing(read_vocabulary(folder), folder))


def assert_ids_of_transformers(folder: Path) -> None:
    tokenizer, theirs = ours(folder), transformers.AutoTokenizer.from_pretrained(str(folder))
    expected = [theirs.encode(text, add_special_tokens=False) for text in TEXTS]
    assert tokenizer.encode_batch(TEXTS) == expected
    assert CachingEncoder(tokenizer).encode(TEXTS)[0].tolist() == [i for ids in expected for i in ids]


def config(**values) -> dict:
    return {"do_lower_case": True, **values}


# -- the settings, one by one ------------------------------------------------------------------------------------

# name -> tokenizer.json, tokenizer_config.json; the ids must be those of transformers.
OBEYED = {
    "BERT's own": (serialized(), config()),
    "no setting": (serialized(), {}),
    "lowercase of the settings": (serialized(), config(do_lower_case=False)),
    "lowercase of the file": (serialized(normalizer={"lowercase": False}), config(tokenizer_class=FAST)),
    "strip_accents of the settings": (serialized(), config(strip_accents=False)),
    "strip_accents of the file": (serialized(normalizer={"strip_accents": False}), {"tokenizer_class": FAST}),
    "strip_accents that do not count": (serialized(normalizer={"strip_accents": False}), config()),
    "Chinese characters of the settings": (serialized(), config(tokenize_chinese_chars=False)),
    "Chinese characters of the file": (
        serialized(normalizer={"handle_chinese_chars": False}),
        {"tokenizer_class": "TokenizersBackend", "do_lower_case": True},
    ),
    "Chinese characters that do not count": (serialized(normalizer={"handle_chinese_chars": False}), config()),
    "settings that do not count": (
        serialized(),
        {
            "tokenizer_class": FAST,
            "do_lower_case": False,
            "strip_accents": False,
            "tokenize_chinese_chars": False,
        },
    ),
    "clean_text that does not count": (serialized(normalizer={"clean_text": False}), config()),
    "longest word that does not count": (serialized(model={"max_input_chars_per_word": 200}), config()),
    "a frame that does not count": (
        serialized(post_processor=template(("[SEP]", 0), ("A", 0), ("[CLS]", 0), ("B", 1), ("[CLS]", 1))),
        config(),
    ),
    "one normalizer in a sequence": (
        serialized(normalizer={"type": "Sequence", "normalizers": [{**NORMALIZER, "lowercase": False}]}),
        {"tokenizer_class": FAST},
    ),
    "one pre-tokenizer in a sequence": (
        serialized(pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "BertPreTokenizer"}]}),
        {"tokenizer_class": FAST},
    ),
    "BertProcessing": (
        serialized(post_processor={"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}),
        {"tokenizer_class": FAST},
    ),
    "truncation and padding": (
        serialized(
            truncation={"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
            padding={
                "strategy": {"Fixed": 128},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "[PAD]",
            },
        ),
        config(),
    ),
    "decoder": (serialized(decoder=None), {"tokenizer_class": FAST}),
    "a special token beside BERT's": (serialized(added_tokens=[*SPECIAL, token("river")]), {"tokenizer_class": FAST}),
    "a token that is whole, but not special": (
        serialized(added_tokens=[*SPECIAL, token("river", special=False)]),
        config(),
    ),
    "additional_special_tokens": (serialized(), config(additional_special_tokens=["river"])),
    "extra_special_tokens in place of them": (
        serialized(),
        config(additional_special_tokens=["river"], extra_special_tokens=["boat"]),
    ),
    "extra_special_tokens by name": (serialized(), config(extra_special_tokens={"place_token": "river"})),
    "a role that BERT does not have": (serialized(), config(bos_token="river", place_token="boat")),
    "added_tokens_decoder": (serialized(), config(added_tokens_decoder=decoder(*SPECIAL, token("river")))),
    "lstrip and rstrip": (serialized(), config(mask_token=described("[MASK]", lstrip=True, rstrip=True))),
    "never_split": (serialized(), config(never_split=["boats"], do_basic_tokenize=False)),
    "lengths and sides": (
        serialized(),
        config(model_max_length=4, padding_side="left", truncation_side="left", model_input_names=["input_ids"]),
    ),
    "class of older versions": (serialized(), config(tokenizer_class="BertTokenizerFast")),
    "class of ELECTRA": (
        serialized(normalizer={"lowercase": False}),
        config(tokenizer_class="ElectraTokenizer", do_lower_case=True),
    ),
    "class of MobileBERT": (serialized(), config(tokenizer_class="MobileBertTokenizerFast", do_lower_case=False)),
}
# name -> tokenizer.json, tokenizer_config.json, words of the message.
REFUSED = {
    "clean_text": (serialized(normalizer={"clean_text": False}), {"tokenizer_class": FAST}, "clean_text is False"),
    "longest word": (
        serialized(model={"max_input_chars_per_word": 200}),
        {"tokenizer_class": FAST},
        "max_input_chars_per_word is 200",
    ),
    "unknown token": (serialized(model={"unk_token": "the"}), {"tokenizer_class": FAST}, "unk_token is 'the'"),
    "prefix": (serialized(model={"continuing_subword_prefix": "@@"}), {}, "continuing_subword_prefix is '@@'"),
    "two normalizers": (
        serialized(normalizer={"type": "Sequence", "normalizers": [{"type": "NFKC"}, NORMALIZER]}),
        {"tokenizer_class": FAST},
        "normalizer is 'Sequence'",
    ),
    "pre-tokenizer": (
        serialized(pre_tokenizer={"type": "Whitespace"}),
        {"tokenizer_class": FAST},
        "pre_tokenizer is 'Whitespace'",
    ),
    "frame": (
        serialized(post_processor=template(("[SEP]", 0), ("A", 0), ("[CLS]", 0), ("B", 1), ("[CLS]", 1))),
        {"tokenizer_class": FAST},
        r"post_processor is '\[SEP\] A \[CLS\] B:1 \[CLS\]:1'",
    ),
    "segments": (
        serialized(post_processor=template(("[CLS]", 0), ("A", 0), ("[SEP]", 0), ("B", 0), ("[SEP]", 0))),
        {"tokenizer_class": FAST},
        r"post_processor is '\[CLS\] A \[SEP\] B \[SEP\]'",
    ),
    "ids of the frame": (
        serialized(post_processor={"type": "BertProcessing", "sep": ["[SEP]", 5], "cls": ["[CLS]", 2]}),
        {"tokenizer_class": FAST},
        r"post_processor is '\[SEP\] with the id 5'",
    ),
    "normalized token": (
        serialized(added_tokens=[*SPECIAL, token("river", normalized=True, special=False)]),
        {"tokenizer_class": FAST},
        "'river' has single_word or normalized set",
    ),
    "normalized role": (
        serialized(added_tokens=[]),
        config(mask_token=described("[MASK]", normalized=True)),
        r"'\[MASK\]' has single_word or normalized set",
    ),
    "single_word in the settings": (
        serialized(),
        config(added_tokens_decoder=decoder(token("[MASK]", single_word=True))),
        r"'\[MASK\]' has single_word or normalized set",
    ),
    "no special tokens": (
        serialized(added_tokens=SPECIAL[:4]),
        {"tokenizer_class": FAST},
        r"'\[MASK\]' is not among its special tokens",
    ),
    "no mask token": (serialized(), config(mask_token=None), "mask_token is None"),
    "new token": (serialized(added_tokens=[*SPECIAL, token("[NEW]")]), {}, r"'\[NEW\]' was added"),
    "new token in the settings": (serialized(), config(bos_token="<s>"), r"adds tokens to the vocabulary: '<s>'"),
    "split_special_tokens": (serialized(), config(split_special_tokens=True), "split_special_tokens is True"),
    "code": (serialized(), config(auto_map={"AutoTokenizer": ["a.B", None]}), "auto_map names custom code"),
    "another file": (serialized(), config(fast_tokenizer_files=["tokenizer.4.0.json"]), "fast_tokenizer_files"),
    "class": (serialized(), config(tokenizer_class="BertJapaneseTokenizer"), "class is 'BertJapaneseTokenizer'"),
    "ids": (serialized(model={"vocab": {**dict.fromkeys(WORDS, 7), "the": 8}}), {}, "the ids in tokenizer.json"),
}


@pytest.mark.parametrize("name", OBEYED)
def test_a_setting_gives_the_ids_that_it_gives_in_transformers(tmp_path, name):
    content, values = OBEYED[name]
    files = {"tokenizer.json": content, "tokenizer_config.json": values}
    assert_ids_of_transformers(folder_of(tmp_path / "folder", files))


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_that_our_tokenizer_cannot_follow_is_refused_by_its_name(tmp_path, name):
    content, values, message = REFUSED[name]
    folder = folder_of(tmp_path / "folder", {"tokenizer.json": content, "tokenizer_config.json": values})
    with pytest.raises(InputError, match=message):
        ours(folder)


# -- the settings, together --------------------------------------------------------------------------------------


def often(usual, *others) -> st.SearchStrategy:
    return st.one_of(st.just(usual), st.just(usual), st.sampled_from([usual, *others]))


def without_absent(values: dict) -> dict:
    return {key: value for key, value in values.items() if value != "absent"}


SERIALIZED = st.fixed_dictionaries(
    {
        "normalizer": st.fixed_dictionaries(
            {
                "clean_text": often(True, False),
                "handle_chinese_chars": st.booleans(),
                "strip_accents": st.sampled_from([None, True, False]),
                "lowercase": st.booleans(),
            }
        ),
        "model": st.fixed_dictionaries({"max_input_chars_per_word": often(100, 200, 5)}),
        "post_processor": often(FRAME, {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}),
        "added_tokens": often(
            SPECIAL,
            [],
            [*SPECIAL, token("river")],
            [*SPECIAL, token("river", special=False, lstrip=True)],
            [*SPECIAL, token("river", normalized=True, special=False)],
            [*SPECIAL[:4], token("[MASK]", single_word=True)],
        ),
    }
)
SETTINGS_VALUES = st.fixed_dictionaries(
    {
        "tokenizer_class": st.sampled_from(["absent", BERT, FAST, "TokenizersBackend"]),
        "do_lower_case": st.booleans(),
        "strip_accents": st.sampled_from(["absent", None, True, False]),
        "tokenize_chinese_chars": st.sampled_from(["absent", True, False]),
        "mask_token": often(
            "absent", "[MASK]", None, described("[MASK]", lstrip=True), described("[MASK]", normalized=True)
        ),
        "bos_token": often("absent", "boat", "<s>"),
        "additional_special_tokens": often("absent", ["river"], [], ["[NEW]"]),
        "extra_special_tokens": often("absent", ["boat"], [], {"place_token": "river"}),
        "added_tokens_decoder": often(
            "absent", decoder(*SPECIAL), {}, decoder(token("river")), decoder(token("[MASK]", single_word=True))
        ),
        "split_special_tokens": often("absent", False, True),
    }
)
MAPS = often(None, {"mask_token": "[MASK]"}, {"additional_special_tokens": ["river"]}, {"bos_token": "the"})


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(changes=st.none() | SERIALIZED, values=SETTINGS_VALUES, special_map=MAPS, added=often(None, {"river": 21}))
def test_any_settings_together_give_the_ids_of_transformers_or_are_refused(changes, values, special_map, added):
    files: dict = {"tokenizer_config.json": without_absent(values)}
    # Without the file that the class needs, transformers refuses it.
    if changes is None and values["tokenizer_class"] in (FAST, "TokenizersBackend"):
        files["tokenizer_config.json"]["tokenizer_class"] = BERT
    if changes is None:
        files["vocab.txt"] = lines()
    else:
        files["tokenizer.json"] = serialized(**changes)
    if special_map is not None:
        files["special_tokens_map.json"] = special_map
    if added is not None:
        files["added_tokens.json"] = added
    with tempfile.TemporaryDirectory() as name:
        folder = folder_of(Path(name), files)
        try:
            ours(folder)
        except InputError:
            return
        assert_ids_of_transformers(folder)


@pytest.mark.parametrize(
    ("content", "values", "message"),
    [
        (serialized(normalizer={"clean_text": False}), config(), "clean_text is False"),
        (serialized(normalizer={"lowercase": False}), config(), r"lowercase in tokenizer.json \(False\)"),
        (serialized(), {"tokenizer_class": FAST, "do_lower_case": False}, r"do_lower_case \(False\)"),
        (serialized(), config(never_split=["boats"]), r"never_split \(\['boats'\]\)"),
        (serialized(post_processor=None), {"tokenizer_class": FAST}, "neither \\[CLS\\] nor \\[SEP\\]"),
    ],
)
def test_a_setting_that_is_not_used_is_warned_about(tmp_path, caplog, content, values, message):
    folder = folder_of(tmp_path / "folder", {"tokenizer.json": content, "tokenizer_config.json": values})
    assert_ids_of_transformers(folder)
    [record] = caplog.records
    assert re.search(message, record.getMessage())


def test_tokenizer_json_counts_if_vocab_txt_differs(tmp_path, caplog):
    files = {"tokenizer.json": serialized(), "vocab.txt": lines(reversed(WORDS)), "tokenizer_config.json": config()}
    assert_ids_of_transformers(folder_of(tmp_path / "folder", files))
    assert "vocab.txt differs from tokenizer.json, which is used" in caplog.text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"special_tokens_map.json": {"unk_token": "the"}}, "unk_token is 'the'"),
        ({"special_tokens_map.json": {"mask_token": described("[MASK]", single_word=True)}}, "single_word"),
        ({"added_tokens.json": {"[NEW]": 23}}, r"added_tokens.json adds tokens to the vocabulary: '\[NEW\]'"),
        (
            {"config.json": {"model_type": "bert", "tokenizer_class": "BertJapaneseTokenizer"}},
            "BertJapaneseTokenizer",
        ),
    ],
)
def test_the_files_beside_the_settings_are_read_too(tmp_path, files, message):
    folder = folder_of(tmp_path / "folder", {"vocab.txt": lines(), "tokenizer_config.json": config(), **files})
    with pytest.raises(InputError, match=message):
        ours(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"}),
        ("config.json", {"model_type": "bert", "tokenizer_class": "BertJapaneseTokenizer"}),
        ("tokenizer_config.json", {"cls_token": "<s>"}),
        ("special_tokens_map.json", {"cls_token": "<s>"}),
        ("tokenizer_config.json", {"split_special_tokens": True}),
    ],
)
def test_a_refusal_names_the_folder_and_the_file_of_the_setting(tmp_path, file, content):
    folder = folder_of(tmp_path / "folder", {"tokenizer.json": serialized(), file: json.dumps(content).encode()})
    key = [*content][-1]
    with pytest.raises(InputError, match=rf"/folder: .*: in {file} its {key} is"):
        load_tokenizer(folder)


def test_a_tokenizer_json_without_a_table_of_entries_is_reported_as_damaged(tmp_path):
    folder = folder_of(tmp_path / "folder", {"tokenizer.json": serialized(model={"vocab": ["the", "a"]})})
    with pytest.raises(InputError, match=r"tokenizer\.json: .*its vocab is not an object of entries and ids"):
        load_tokenizer(folder)


def test_a_special_token_of_the_map_counts_only_if_transformers_reads_the_map(tmp_path):
    files = {
        "vocab.txt": lines(),
        "tokenizer_config.json": config(),
        "special_tokens_map.json": {"additional_special_tokens": ["river"]},
    }
    assert_ids_of_transformers(folder_of(tmp_path / "read", files))
    files["tokenizer_config.json"] = config(added_tokens_decoder=decoder(*SPECIAL))
    assert_ids_of_transformers(folder_of(tmp_path / "not read", files))


def test_the_order_of_special_tokens_does_not_depend_on_the_file_read(tmp_path):
    tokenizer = WordPieceTokenizer(Vocabulary(WORDS, lowercase=True, special_tokens=("river", "boat")))
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
    assert load_tokenizer(tmp_path / "vocab.txt").fingerprint == tokenizer.fingerprint


def test_the_class_of_config_json_survives_a_copy_of_the_folder(tmp_path):
    BertEncoder(BertConfig.preset("tiny", vocab_size=len(WORDS))).save_pretrained(tmp_path / "model")
    values = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps({**values, "tokenizer_class": "BertJapaneseTokenizer"}))
    (tmp_path / "model/vocab.txt").write_bytes(lines())
    BertEncoder.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "again")
    assert "BertJapaneseTokenizer" in read_checkpoint(tmp_path / "again").vocabulary.obstacle


# -- casing that no file states -----------------------------------------------------------------------------------


def test_a_cased_vocabulary_without_settings_keeps_the_case_with_a_warning(tmp_path, caplog):
    folder = folder_of(tmp_path / "folder", {"vocab.txt": lines()})
    assert ours(folder).vocabulary.lowercase is False
    assert "('É'). Text keeps its case" in caplog.text
    assert "transformers would lower-case it" in caplog.text
    assert load_tokenizer(folder).fingerprint == ours(folder).fingerprint
    assert load_tokenizer(folder / "vocab.txt").fingerprint == ours(folder).fingerprint


def test_an_uncased_vocabulary_without_settings_is_lower_cased_silently(tmp_path, caplog):
    words = [word for word in WORDS if word != "É"]
    assert_ids_of_transformers(folder_of(tmp_path / "folder", {"vocab.txt": lines(words)}))
    assert not caplog.records


def test_entries_unlike_any_word_do_not_make_a_vocabulary_cased(tmp_path, caplog):
    # The uncased Chinese BERT holds the first two right after [MASK].
    words = [*SPECIAL_TOKENS, "<S>", "<T>", *(word for word in WORDS if word not in (*SPECIAL_TOKENS, "É"))]
    assert_ids_of_transformers(
        folder_of(tmp_path / "folder", {"vocab.txt": lines(words), "tokenizer_config.json": {}})
    )
    assert not caplog.records
    assert not Vocabulary((*SPECIAL_TOKENS, "<S>", "##<T>", "a")).looks_cased()
    assert Vocabulary((*SPECIAL_TOKENS, "<S>", "##A")).looks_cased()


def test_rare_capital_letters_do_not_make_a_vocabulary_cased():
    words = [f"word{number}" for number in range(200)]
    assert not Vocabulary((*SPECIAL_TOKENS, "Ꭰ", *words)).looks_cased()
    assert Vocabulary((*SPECIAL_TOKENS, "A", *words)).looks_cased()
    assert Vocabulary((*SPECIAL_TOKENS, "Ж", "И", "Я", *words)).looks_cased()
    many = [f"{word}{number}" for number in range(15) for word in words]
    assert not Vocabulary((*SPECIAL_TOKENS, "URL", "NUM", *many)).looks_cased()
    assert Vocabulary((*SPECIAL_TOKENS, *"ABCD", *many)).looks_cased()
    assert not Vocabulary((*SPECIAL_TOKENS, "@USER", *words), special_tokens=("@USER",)).looks_cased()


def test_a_serialized_tokenizer_keeps_case_without_settings_with_a_warning(tmp_path, caplog):
    files = {"tokenizer.json": serialized(normalizer={"lowercase": False}), "tokenizer_config.json": {}}
    assert ours(folder_of(tmp_path / "folder", files)).vocabulary.lowercase is False
    assert "BertTokenizer would lower-case it" in caplog.text


def test_a_bare_vocabulary_with_capital_letters_is_lower_cased_with_a_warning(tmp_path, caplog):
    (tmp_path / "vocab.txt").write_bytes(lines())
    assert load_tokenizer(tmp_path / "vocab.txt").vocabulary.lowercase is True
    assert "Is --cased (data.cased) missing?" in caplog.text


# -- lines of a vocabulary file ----------------------------------------------------------------------------------

# name -> the file, the number of its entries
FILES = {
    "an entry twice": (lines([*WORDS, "boat", "zz"]), len(WORDS) + 2),
    "an entry three times": (lines(["a", *WORDS, "a", "zz"]), len(WORDS) + 3),
    "blank lines at the end": (lines() + b"\n\n \n", len(WORDS)),
    "blank lines in between": (lines([*WORDS[:7], "", "", *WORDS[7:]]), len(WORDS) + 2),
    "CRLF": (lines().replace(b"\n", b"\r\n"), len(WORDS)),
    "no line end at the end": (lines()[:-1], len(WORDS)),
    "blanks at the end of lines": (lines([*WORDS, "boat \t", "zz\u3000", "yy\x85"]), len(WORDS) + 3),
    "blanks before an entry, and in one": (lines([*WORDS, " zz", "the boat"]), len(WORDS) + 2),
    "what is no blank": (lines([*WORDS, "boat\x1c", "the\u200b"]), len(WORDS) + 2),
}


@pytest.mark.parametrize("name", FILES)
def test_the_lines_of_a_vocabulary_give_the_ids_that_they_give_in_transformers(tmp_path, name):
    content, size = FILES[name]
    folder = folder_of(tmp_path / "folder", {"vocab.txt": content, "tokenizer_config.json": config()})
    assert_ids_of_transformers(folder)
    vocabulary = ours(folder).vocabulary
    assert len(vocabulary.entries) == size
    # The files that we write give the same again, here and in transformers.
    write_vocabulary(vocabulary, folder)
    assert read_vocabulary(folder) == vocabulary
    assert_ids_of_transformers(folder)
    WordPieceTokenizer(vocabulary).save(folder)
    assert load_tokenizer(folder).fingerprint == WordPieceTokenizer(vocabulary).fingerprint


def test_a_repeated_entry_is_named_with_its_lines(tmp_path, caplog):
    (tmp_path / "vocab.txt").write_bytes(lines([*SPECIAL_TOKENS, "a", "b", "a", "c", "b", "a"]))
    tokenizer = load_tokenizer(tmp_path)
    assert "'a' in lines 6 and 8 and 11, 'b' in lines 7 and 10" in caplog.text
    assert tokenizer.entry_ids == [0, 1, 2, 3, 4, 8, 9, 10]
    assert tokenizer.encode_batch(["a b c"]) == [[10, 9, 8]]


def test_a_byte_order_mark_does_not_belong_to_the_first_entry(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + lines())
    assert load_tokenizer(tmp_path).entries == WORDS


def test_a_vocabulary_with_cr_as_line_end_is_read_line_by_line(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(lines().replace(b"\n", b"\r"))
    assert load_tokenizer(tmp_path).entries == WORDS


def test_ids_missing_in_tokenizer_json_belong_to_no_entry(tmp_path):
    vocab = {**{word: number for number, word in enumerate(WORDS)}, "zz": len(WORDS) + 2, "the\n": len(WORDS) + 1}
    files = {"tokenizer.json": serialized(model={"vocab": vocab}), "tokenizer_config.json": config()}
    folder = folder_of(tmp_path / "folder", files)
    assert_ids_of_transformers(folder)
    assert ours(folder).entries == (*WORDS, "", "", "zz")


def test_more_entries_than_rows_are_refused_of_tensorflow_too(tmp_path):
    released = shutil.copytree(Path(__file__).parent / "tensorflow1/released", tmp_path / "released")
    size = read_checkpoint(released).config["vocab_size"]
    words = (released / "vocab.txt").read_text().splitlines()
    more = [f"more{number}" for number in range(size - len(words) + 1)]
    (released / "vocab.txt").write_text("\n".join([*words, *more]))
    with pytest.raises(CheckpointError, match=f"has {size + 1} entries, more than the vocab_size {size}"):
        read_checkpoint(released)
    (released / "vocab.txt").write_text("\n".join(words[:-1]))
    assert len(read_checkpoint(released).vocabulary.entries) == len(words) - 1


def test_more_entries_than_rows_are_refused_unless_the_tokenizer_is_not_used(tmp_path):
    BertEncoder(BertConfig.preset("tiny", vocab_size=len(WORDS))).save_pretrained(
        tmp_path, Vocabulary((*WORDS, "more"))
    )
    with pytest.raises(CheckpointError, match="the tokenizer has 24 entries, more than the vocab_size 23"):
        read_checkpoint(tmp_path)
    # An unused tokenizer uses no ids.
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertJapaneseTokenizer"}')
    assert read_checkpoint(tmp_path).vocabulary.obstacle
