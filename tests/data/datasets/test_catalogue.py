"""Standard data sets, read from small files in their published layout and in that of the hub."""

import json
import logging
import re
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Features, List, Value

from bert_lightning.data.datasets.catalogue import STANDARD_SETS, locate, standard_set
from bert_lightning.data.datasets.examples import (
    ChoiceQuestion,
    LabelledText,
    Question,
    RelationExample,
    TaggedSentence,
)
from bert_lightning.data.reading.hub import HUB
from bert_lightning.errors import InputError

EXAMPLES = {
    "text-classification": LabelledText,
    "token-classification": TaggedSentence,
    "question-answering": Question,
    "multiple-choice": ChoiceQuestion,
    "relation-classification": RelationExample,
}


def tsv(*rows: str) -> str:
    """Return rows in which | stands for a tab."""
    return "".join(row.replace("|", "\t") + "\n" for row in rows)


MNLI_PARSES = "sentence1_binary_parse|sentence2_binary_parse|sentence1_parse|sentence2_parse"
MNLI = f"index|promptID|pairID|genre|{MNLI_PARSES}|sentence1|sentence2"
MNLI_ROW = "0|1n|1|fiction|( a )|( b )|(R a)|(R b)|A man.|Nobody."
MNLI_DEV = tsv(f"{MNLI}|label1|label2|label3|label4|label5|gold_label", f"{MNLI_ROW}|x|x|x|x|x|contradiction")
STSB = "index|genre|filename|year|old_index|source1|source2|sentence1|sentence2"
STSB_ROW = '0|g|f|2012|1|s|s|A "man.|A boy.'
CONLL = '-DOCSTART- -X- -X- O\n\nU.N. NNP I-NP I-ORG\nsays VBZ I-VP O\n\n" " O O\n'
UD = """# newdoc
1-2\tIts\t_\t_\t_\t_\t_\t_\t_\t_
1\tIt\tit\tPRON\tP\t_\t2\tx\t_\t_
2\tis\tbe\tAUX\tV\t_\t0\troot\t_\t_
"""
WNUT = "Empire\tB-location\r\nState\tI-location\r\n\t\r\nhi\tO\r\n"
SQUAD_QUESTION = {"id": "q", "question": "Who?", "answers": [{"text": "Ann", "answer_start": 0}]}
SQUAD_PARAGRAPH = {"context": "Ann left.", "qas": [SQUAD_QUESTION]}
SQUAD = json.dumps({"version": "1.1", "data": [{"title": "T", "paragraphs": [SQUAD_PARAGRAPH]}]})
IMPOSSIBLE = {"id": "q2", "question": "Why?", "answers": [], "plausible_answers": [], "is_impossible": True}
SQUAD2_QUESTIONS = [{**SQUAD_QUESTION, "is_impossible": False}, IMPOSSIBLE]
SQUAD2_PARAGRAPH = {**SQUAD_PARAGRAPH, "qas": SQUAD2_QUESTIONS}
SQUAD2 = json.dumps({"version": "v2.0", "data": [{"title": "T", "paragraphs": [SQUAD2_PARAGRAPH]}]})
SWAG = ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3"
DREAM_QUESTION = {"question": "Who?", "choice": ["Ann.", "Bob."], "answer": "Bob."}
DREAM = json.dumps([[["M: Hi.", "W: Ho."], [DREAM_QUESTION], "4-1"]])
RACE = json.dumps(
    {"article": "Text.", "questions": ["Q?"], "options": [["a", "b", "c", "d"]], "answers": ["C"], "id": "high3.txt"}
)
SEMEVAL = '1\t"An <e1>audit</e1> about <e2>waste</e2>."\r\nMessage-Topic(e1,e2)\r\nComment:\r\n\r\n'
TEXT_PAIR = ("A man.", "Nobody.")

# name and split -> its files and their content, and the first example of each file, without its location.
LAYOUTS = {
    "glue/cola": {
        "train": ({"train.tsv": tsv('gj04|0|*|They "drank.', "gj04|1||We ran.")}, [('They "drank.', None, "0", "0")]),
        "validation": ({"dev.tsv": tsv("gj04|1||We ran.")}, [("We ran.", None, "1", "0")]),
        "test": ({"test.tsv": tsv("index|sentence", "4|Bill.")}, [("Bill.", None, None, "4")]),
    },
    "glue/sst2": {
        "train": ({"SST-2/train.tsv": tsv("sentence|label", "good |1")}, [("good ", None, "1", "0")]),
        "validation": ({"SST-2/dev.tsv": tsv("sentence|label", "bad|0")}, [("bad", None, "0", "0")]),
        "test": ({"SST-2/test.tsv": tsv("index|sentence", "0|so so")}, [("so so", None, None, "0")]),
    },
    "glue/mrpc": {
        split: (
            {file: "\ufeff" + tsv("Quality|#1 ID|#2 ID|#1 String|#2 String", '1|7|8|He said "no.|No.')},
            [('He said "no.', "No.", label, "0")],
        )
        for split, file, label in (
            ("train", "train.tsv", "1"),
            ("validation", "dev.tsv", "1"),
            # The labels of the file as Microsoft publishes it are public.
            ("test", "msr_paraphrase_test.txt", "1"),
        )
    },
    "glue/stsb": {
        "train": ({"train.tsv": tsv(f"{STSB}|score", f"{STSB_ROW}|3.800")}, [('A "man.', "A boy.", 3.8, "0")]),
        "validation": ({"dev.tsv": tsv(f"{STSB}|score", f"{STSB_ROW}|5.000")}, [('A "man.', "A boy.", 5.0, "0")]),
        "test": ({"test.tsv": tsv(STSB, STSB_ROW)}, [('A "man.', "A boy.", None, "0")]),
    },
    "glue/qqp": {
        **{
            split: (
                {f: tsv("id|qid1|qid2|question1|question2|is_duplicate", "133273|213221|213222|Why?|How?|1")},
                [("Why?", "How?", "1", "133273")],
            )
            for split, f in (("train", "train.tsv"), ("validation", "dev.tsv"))
        },
        "test": ({"test.tsv": tsv("id|question1|question2", "0|Why?|How?")}, [("Why?", "How?", None, "0")]),
    },
    "glue/mnli": {
        "train": (
            {"train.tsv": tsv(f"{MNLI}|label1|gold_label", f"{MNLI_ROW}|x|neutral")},
            [(*TEXT_PAIR, "neutral", "0")],
        ),
        "validation": (
            {"dev_matched.tsv": MNLI_DEV, "dev_mismatched.tsv": MNLI_DEV.replace("Nobody", "Everybody")},
            [(*TEXT_PAIR, "contradiction", "0"), ("A man.", "Everybody.", "contradiction", "0")],
        ),
        "test": (
            {f"MNLI/test_{kind}.tsv": tsv(MNLI, MNLI_ROW) for kind in ("matched", "mismatched")},
            [(*TEXT_PAIR, None, "0")] * 2,
        ),
    },
    "glue/ax": {
        "test": ({"diagnostic.tsv": tsv("index|sentence1|sentence2", "5|A man.|Nobody.")}, [(*TEXT_PAIR, None, "5")])
    },
    **{
        f"glue/{name}": {
            **{
                split: ({f: tsv(f"{header}|label", f"3|A man.|Nobody.|{label}")}, [(*TEXT_PAIR, label, "3")])
                for split, f in (("train", "train.tsv"), ("validation", "dev.tsv"))
            },
            "test": ({"test.tsv": tsv(header, "3|A man.|Nobody.")}, [(*TEXT_PAIR, None, "3")]),
        }
        for name, header, label in (
            ("qnli", "index|question|sentence", "not_entailment"),
            ("rte", "index|sentence1|sentence2", "entailment"),
            ("wnli", "index|sentence1|sentence2", "0"),
        )
    },
    "conll2003-ner": {
        split: ({file: CONLL}, [(["U.N.", "says"], ["I-ORG", "O"], 1)])
        for split, file in (("train", "eng.train"), ("validation", "eng.testa"), ("test", "test.txt"))
    },
    "conll2003-pos": {
        split: ({file: CONLL}, [(["U.N.", "says"], ["NNP", "VBZ"], 1)])
        for split, file in (("train", "train.txt"), ("validation", "valid.txt"), ("test", "eng.testb"))
    },
    "conll2000-chunking": {
        split: ({f"{split}.txt": "Confidence NN B-NP\nin IN B-PP\n\n"}, [(["Confidence", "in"], ["B-NP", "B-PP"], 0)])
        for split in ("train", "test")
    },
    "wnut17": {
        split: ({file: WNUT}, [(["Empire", "State"], ["B-location", "I-location"], 0)])
        for split, file in (
            ("train", "wnut17train.conll"),
            ("validation", "emerging.dev.conll"),
            ("test", "emerging.test.annotated"),
        )
    },
    "universal-dependencies-pos": {
        split: ({f"en_ewt-ud-{file}.conllu": UD, "README.md": ""}, [(["It", "is"], ["PRON", "AUX"], 1)])
        for split, file in (("train", "train"), ("validation", "dev"), ("test", "test"))
    },
    **{
        f"squad-{version}": {
            split: ({f"{file}-{version}.json": content}, [("q", "Who?", "Ann left.", (("Ann", 0),), False, "T")])
            for split, file in (("train", "train"), ("validation", "dev"))
        }
        for version, content in (("v1.1", SQUAD), ("v2.0", SQUAD2))
    },
    "swag": {
        **{
            split: (
                {file: f'{SWAG},label\n0,v,1,x,He sits.,He,gold,a,"b, c",d,e,1\n'},
                [("0", "He sits.", "He", ("a", "b, c", "d", "e"), 1)],
            )
            for split, file in (("train", "train.csv"), ("validation", "val.csv"))
        },
        "test": (
            {"test.csv": f"{SWAG}\n0,v,1,x,He sits.,He,gold,a,b,d,e\n"},
            [("0", "He sits.", "He", ("a", "b", "d", "e"), None)],
        ),
    },
    "dream": {
        split: ({file: DREAM}, [("4-1-0", "M: Hi.\nW: Ho.", "Who?", ("Ann.", "Bob."), 1)])
        for split, file in (("train", "data/train.json"), ("validation", "dev.json"), ("test", "test.json"))
    },
    "race": {
        split: ({f"RACE/{file}/high/3.txt": RACE}, [("high/3-0", "Text.", "Q?", ("a", "b", "c", "d"), 2)])
        for split, file in (("train", "train"), ("validation", "dev"), ("test", "test"))
    },
    **{
        f"trec-{level}": {
            split: ({file: b"NUM:date When did Beyonc\xe9 sing ?\n"}, [("When did Beyoncé sing ?", None, label, "0")])
            for split, file in (("train", "train_5500.label"), ("test", "TREC_10.label"))
        }
        for level, label in (("coarse", "NUM"), ("fine", "NUM:date"))
    },
    "ag-news": {
        split: (
            {f"ag_news_csv/{split}.csv": '"4","Chip","New ""chip"""\n'},
            [('Chip New "chip"', None, "Sci/Tech", "0")],
        )
        for split in ("train", "test")
    },
    "imdb": {
        split: (
            {f"aclImdb/{split}/{name}/0_3.txt": f"Text {name}" for name in ("pos", "neg", "unsup")},
            [("Text neg", None, "neg", "neg/0_3.txt")],
        )
        for split in ("train", "test")
    },
    "semeval2010-task8": {
        split: ({file: SEMEVAL}, [("1", "An audit about waste.", (3, 8), (15, 20), "Message-Topic(e1,e2)")])
        for split, file in (
            ("train", "TRAIN_FILE.TXT"),
            ("test", "SemEval2010_task8_testing_keys/TEST_FILE_FULL.TXT"),
        )
    },
}


@pytest.mark.parametrize("name", STANDARD_SETS)
def test_every_standard_set_is_read_from_its_published_files(tmp_path: Path, name):
    known = STANDARD_SETS[name]
    assert set(LAYOUTS[name]) == set(known.splits)
    for split, (files, expected) in LAYOUTS[name].items():
        for file, content in files.items():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        located = locate(name, split, str(tmp_path))
        assert [file for file, _ in located] == list(known.splits[split])
        firsts = [next(known.read(source, split)) for _, source in located]
        assert {type(first) for first in firsts} == {EXAMPLES[known.task]}
        assert [first[1:] for first in firsts] == expected


def test_every_standard_set_is_read_with_crlf_and_a_byte_order_mark_in_the_folder_of_its_archive(tmp_path: Path):
    for name, layouts in LAYOUTS.items():
        known = STANDARD_SETS[name]
        folder = tmp_path / name / next((each for each in known.folders if "*" not in each), "")
        for split, (files, expected) in layouts.items():
            for file, content in files.items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, str):
                    lines = content.removeprefix("\ufeff").replace("\r\n", "\n")
                    content = ("\ufeff" + lines.replace("\n", "\r\n")).encode()
                (folder / file).write_bytes(content)
            located = locate(name, split, str(tmp_path / name))
            assert [next(known.read(source, split))[1:] for _, source in located] == expected, name


def rows(**features):
    """The features of one row on the hub, and the row."""
    return Features({name: kind for name, (kind, _) in features.items()}), {
        n: value for n, (_, value) in features.items()
    }


TEXT = Value("string")


def classes(*names: str) -> ClassLabel:
    return ClassLabel(names=list(names))


def glue(label, **texts: str):
    return rows(**{name: (TEXT, text) for name, text in texts.items()}, label=label, idx=(Value("int32"), 7))


def pair(label):
    return glue(label, sentence1="a", sentence2="b")


NLI = classes("entailment", "neutral", "contradiction")
ENTAILMENT = classes("entailment", "not_entailment")
TAGS = {
    "tokens": (List(TEXT), ["Rome", "is"]),
    "pos_tags": (List(classes("NNP", "VBZ")), [0, 1]),
    "chunk_tags": (List(classes("O", "B-NP")), [1, 0]),
    "ner_tags": (List(classes("O", "B-LOC")), [1, 0]),
}
ANSWERS = {"text": List(TEXT), "answer_start": List(Value("int32"))}
HUB_QUESTION = rows(
    id=(TEXT, "q"),
    title=(TEXT, "T"),
    context=(TEXT, "Ann left."),
    question=(TEXT, "Who?"),
    answers=(ANSWERS, {"text": ["Ann"], "answer_start": [0]}),
)
TREC = rows(text=(TEXT, "a"), coarse_label=(classes("ABBR", "NUM"), 1), fine_label=(classes("NUM:date"), 0))
TAGGED = ["Rome", "is"]

# name -> a row of the hub, and its example without the location.
HUB_ROWS = {
    "glue/cola": (glue((classes("unacceptable", "acceptable"), 1), sentence="a"), ("a", None, "1", "7")),
    "glue/sst2": (glue((classes("negative", "positive"), 0), sentence="a"), ("a", None, "0", "7")),
    "glue/mrpc": (pair((classes("not_equivalent", "equivalent"), 1)), ("a", "b", "1", "7")),
    "glue/stsb": (pair((Value("float32"), 2.5)), ("a", "b", 2.5, "7")),
    "glue/qqp": (
        glue((classes("not_duplicate", "duplicate"), 0), question1="a", question2="b"),
        ("a", "b", "0", "7"),
    ),
    "glue/mnli": (glue((NLI, 2), premise="a", hypothesis="b"), ("a", "b", "contradiction", "7")),
    "glue/ax": (glue((NLI, -1), premise="a", hypothesis="b"), ("a", "b", None, "7")),
    "glue/qnli": (glue((ENTAILMENT, 1), question="a", sentence="b"), ("a", "b", "not_entailment", "7")),
    "glue/rte": (pair((ENTAILMENT, 0)), ("a", "b", "entailment", "7")),
    "glue/wnli": (pair((classes("not_entailment", "entailment"), 1)), ("a", "b", "1", "7")),
    "conll2003-ner": (rows(**TAGS), (TAGGED, ["B-LOC", "O"], 0)),
    "conll2003-pos": (rows(**TAGS), (TAGGED, ["NNP", "VBZ"], 0)),
    "conll2000-chunking": (rows(**TAGS), (TAGGED, ["B-NP", "O"], 0)),
    "wnut17": (rows(**TAGS), (TAGGED, ["B-LOC", "O"], 0)),
    "universal-dependencies-pos": (
        rows(tokens=TAGS["tokens"], upos=(List(classes("AUX", "PROPN")), [1, 0])),
        (TAGGED, ["PROPN", "AUX"], 0),
    ),
    "squad-v1.1": (HUB_QUESTION, ("q", "Who?", "Ann left.", (("Ann", 0),), False, "T")),
    "squad-v2.0": (HUB_QUESTION, ("q", "Who?", "Ann left.", (("Ann", 0),), False, "T")),
    "swag": (
        rows(
            sent1=(TEXT, "a"),
            sent2=(TEXT, "b"),
            **{f"ending{n}": (TEXT, str(n)) for n in range(4)},
            label=(classes("0", "1", "2", "3"), 2),
        ),
        ("0", "a", "b", ("0", "1", "2", "3"), 2),
    ),
    "dream": (
        rows(
            dialogue=(List(TEXT), ["M: a", "W: b"]),
            question=(TEXT, "q"),
            choice=(List(TEXT), ["x", "y"]),
            answer=(TEXT, "y"),
        ),
        ("0", "M: a\nW: b", "q", ("x", "y"), 1),
    ),
    "race": (
        rows(article=(TEXT, "a"), question=(TEXT, "q"), options=(List(TEXT), ["x", "y"]), answer=(TEXT, "B")),
        ("0", "a", "q", ("x", "y"), 1),
    ),
    "trec-coarse": (TREC, ("a", None, "NUM", "0")),
    "trec-fine": (TREC, ("a", None, "NUM:date", "0")),
    "ag-news": (rows(text=(TEXT, "a b"), label=(classes("World", "Sports"), 1)), ("a b", None, "Sports", "0")),
    "imdb": (rows(text=(TEXT, "a"), label=(classes("neg", "pos"), 1)), ("a", None, "pos", "0")),
    "semeval2010-task8": (
        rows(
            sentence=(TEXT, "<e1>a</e1> <e2>b</e2>"),
            relation=(classes("Cause-Effect(e1,e2)", "Other"), 1),
        ),
        ("0", "a b", (0, 1), (2, 3), "Other"),
    ),
}


@pytest.mark.parametrize("name", STANDARD_SETS)
def test_every_standard_set_is_read_in_the_form_of_the_hub(tmp_path: Path, name):
    (features, row), expected = HUB_ROWS[name]
    datasets.Dataset.from_list([row], features=features).to_parquet(tmp_path / "train.parquet")
    split = "test" if name == "glue/ax" else "train"
    # A file is read like the hub; a data set of the hub is named as one.
    (example,) = STANDARD_SETS[name].read(str(tmp_path / "train.parquet"), split)
    assert example[1:] == expected


def test_a_folder_is_read_as_the_hub_would_be_and_test_labels_of_glue_stay_hidden(tmp_path: Path):
    (features, row), _ = HUB_ROWS["glue/sst2"]
    datasets.Dataset.from_list([row], features=features).to_parquet(tmp_path / "train.parquet")
    for split, label in (("train", "0"), ("test", None)):
        (example,) = STANDARD_SETS["glue/sst2"].read(f"hub:{tmp_path}", split)
        assert example[1:] == ("a", None, label, "7")


def test_broken_rows_of_qqp_are_skipped_in_training_only(tmp_path: Path, caplog):
    content = tsv("id|qid1|qid2|question1|question2|is_duplicate", "1|2|3|Why?", "4|5|6|A?|B?|0")
    (tmp_path / "t.tsv").write_text(content)
    known = STANDARD_SETS["glue/qqp"]
    with caplog.at_level(logging.WARNING):
        assert [e.id for e in known.read(str(tmp_path / "t.tsv"), "train")] == ["4"]
    assert "1 rows are skipped" in caplog.text
    (tmp_path / "u.tsv").write_text(tsv("id|question1|question2", "1|Why?"))
    for split, file in (("validation", "t.tsv"), ("test", "u.tsv")):
        with pytest.raises(InputError, match=r"line 2: this line has \d columns, but the first line has"):
            list(known.read(str(tmp_path / file), split))


@pytest.mark.parametrize("name", STANDARD_SETS)
def test_every_standard_set_is_consistent(name):
    known = STANDARD_SETS[name]
    files = [file for split_files in known.splits.values() for file in split_files]
    assert set(known.splits) <= {"train", "validation", "test"}
    assert known.labels is None or len(set(known.labels)) == len(known.labels) > 1
    assert (known.scheme is None) == (known.task != "token-classification")
    assert (known.problem_type == "regression") <= (known.labels is None)
    assert (known.problem_type is None) == (
        not known.task.endswith(("text-classification", "relation-classification"))
    )
    assert all(file.hub is None or re.fullmatch(rf"{HUB}[^:]+:[^:]*:\w+", file.hub) for file in files)
    submissions = [file.submission for file in known.splits.get("test", ()) if file.submission]
    assert bool(submissions) == name.startswith("glue/")
    assert known.source


def test_glue_is_submitted_in_the_files_that_its_server_expects():
    names = [file.submission for known in STANDARD_SETS.values() for files in known.splits.values() for file in files]
    expected = "AX CoLA MNLI-m MNLI-mm MRPC QNLI QQP RTE SST-2 STS-B WNLI"
    assert sorted(name for name in names if name) == expected.split()


def test_label_sets_have_their_published_size():
    sizes = {name: len(known.labels) for name, known in STANDARD_SETS.items() if known.labels}
    published = {
        "conll2003-ner": 2 * 4 + 1,
        "conll2003-pos": 47,
        "conll2000-chunking": 2 * 11 + 1,
        "wnut17": 2 * 6 + 1,
        "universal-dependencies-pos": 17,
        "trec-coarse": 6,
        "trec-fine": 50,
        "semeval2010-task8": 2 * 9 + 1,
        "ag-news": 4,
        "glue/mnli": 3,
    }
    assert {name: sizes[name] for name in published} == published
    assert STANDARD_SETS["glue/mnli"].labels == ("contradiction", "entailment", "neutral")
    assert standard_set("wnut17").labels[:3] == ("O", "B-corporation", "I-corporation")


def test_without_a_folder_the_error_names_the_hub():
    assert locate("glue/mnli", "validation") == [
        (STANDARD_SETS["glue/mnli"].splits["validation"][0], "hub:nyu-mll/glue:mnli:validation_matched"),
        (STANDARD_SETS["glue/mnli"].splits["validation"][1], "hub:nyu-mll/glue:mnli:validation_mismatched"),
    ]
    assert locate("imdb", "test")[0][1] == "hub:stanfordnlp/imdb::test"
    with pytest.raises(InputError, match="universal-dependencies-pos: the hub has no test split"):
        locate("universal-dependencies-pos", "test")


def test_a_missing_split_or_file_is_named_with_those_that_exist(tmp_path: Path):
    (tmp_path / "dev.tsv").touch()
    (tmp_path / "sub").mkdir()
    with pytest.raises(
        InputError,
        match=r"train.tsv or RTE/train.tsv was looked for, also in glue_data; the folder holds: dev.tsv, sub/$",
    ):
        locate("glue/rte", "train", str(tmp_path))
    for number in range(30):
        (tmp_path / f"x{number:02}").touch()
    with pytest.raises(InputError, match=r"x17 and 12 more$"):
        locate("glue/rte", "train", str(tmp_path))
    with pytest.raises(InputError, match=r"/none: no such folder"):
        locate("glue/rte", "train", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"squad-v1.1 has no test split; it has train, validation"):
        locate("squad-v1.1", "test", str(tmp_path))


def test_the_first_name_that_exists_is_taken_and_may_be_compressed(tmp_path: Path):
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE/train.tsv").touch()
    assert locate("glue/rte", "train", str(tmp_path))[0][1] == str(tmp_path / "RTE/train.tsv")
    (tmp_path / "train.tsv.gz").touch()
    assert locate("glue/rte", "train", str(tmp_path))[0][1] == str(tmp_path / "train.tsv.gz")
    (tmp_path / "en_ewt-ud-dev.conllu.xz").touch()
    name = "universal-dependencies-pos"
    assert locate(name, "validation", str(tmp_path))[0][1] == str(tmp_path / "en_ewt-ud-dev.conllu.xz")
    (tmp_path / "en_gum-ud-dev.conllu.xz").touch()
    with pytest.raises(InputError, match=r"more than one file is \*-ud-dev.conllu: en_ewt.*, en_gum"):
        locate(name, "validation", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("glue/sst-2", "no standard data set is called 'glue/sst-2'; did you mean 'glue/sst2'?"),
        ("WNUT-17", "; did you mean 'wnut17'?"),
        ("xyz", "; known: glue/cola, "),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, message):
    with pytest.raises(InputError, match=re.escape(message)):
        standard_set(name)
    with pytest.raises(InputError, match=re.escape(message)):
        locate(name, "train", None)


def test_the_files_of_a_split_name_its_subsets():
    assert [file.subset for file in STANDARD_SETS["glue/mnli"].splits["test"]] == ["matched", "mismatched"]
    assert STANDARD_SETS["glue/ax"].splits["test"][0].subset == "diagnostics"
    assert STANDARD_SETS["dream"].splits["test"][0].subset == ""


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "folder", "num_train", "num_validation"),
    [
        ("glue/sst2", "SST-2", 67349, 872),
        ("glue/cola", "CoLA", 8551, 1043),
        ("glue/rte", "RTE", 2490, 277),
        ("glue/stsb", "STS-B", 5749, 1500),
    ],
)
def test_glue_has_its_published_number_of_rows_in_its_own_folder_and_in_that_of_all(
    real_data, name, folder, num_train, num_validation
):
    for split, expected in (("train", num_train), ("validation", num_validation)):
        ((_, source),) = locate(name, split, str(real_data / "glue" / folder))
        assert locate(name, split, str(real_data / "glue"))[0][1] == source
        examples = list(standard_set(name).read(source, split))
        assert len(examples) == expected
        assert len({example.id for example in examples}) == expected
        if name == "glue/stsb":
            assert all(0 <= example.label <= 5 and example.text_pair for example in examples)


@pytest.mark.real_data
def test_wnut17_is_found_under_its_names_and_has_no_tag_beside_its_labels(real_data):
    known = standard_set("wnut17")
    for split in known.splits:
        ((_, source),) = locate("wnut17", split, str(real_data / "ner/wnut17"))
        tags = {tag for sentence in known.read(source, split) for tag in sentence.tags}
        assert tags <= set(known.labels)
