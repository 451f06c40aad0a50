"""Standard data sets in the forms in which their authors publish them and the hub stores them."""

import json
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Features, Value

from bert_lightning.data.datasets.catalogue import locate, standard_set
from bert_lightning.errors import InputError
from bert_lightning.tasks.text_classification.data import TextClassificationDataModule
from bert_lightning.tasks.text_classification.settings import TextClassificationData


def write(path: Path, *rows: str, mark: str = "") -> str:
    """Write a file of rows in which | stands for a tab, and return its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(mark + "".join(row.replace("|", "\t") + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(name: str, split: str, folder: Path) -> list:
    """Read all examples of a split, without their locations."""
    files = locate(name, split, str(folder))
    return [example[1:] for _, source in files for example in standard_set(name).read(source, split)]


MSR_HEADER = "Quality|#1 ID|#2 ID|#1 String|#2 String"


def msr(folder: Path, name: str, *rows: str) -> None:
    """Write one of Microsoft's two files, with a byte-order mark."""
    write(folder / f"msr_paraphrase_{name}.txt", MSR_HEADER, *rows, mark="\ufeff")


@pytest.mark.parametrize("subfolder", ["", "MRPC", "MSRParaphraseCorpus", "glue_data/MRPC"])
@pytest.mark.parametrize("ids", ["dev_ids.tsv", "mrpc_dev_ids.tsv"])
def test_mrpc_is_split_by_the_list_of_ids(tmp_path: Path, subfolder, ids):
    msr(tmp_path / subfolder, "train", '1|1|2|a "x|b', "0|3|4|c|d", "1|1|4|e|f", "0|5|6|g|h")
    write(tmp_path / subfolder / ids, "3|4", "5|6")
    assert read("glue/mrpc", "train", tmp_path) == [('a "x', "b", "1", "0"), ("e", "f", "1", "1")]
    assert read("glue/mrpc", "validation", tmp_path) == [("c", "d", "0", "0"), ("g", "h", "0", "1")]


def test_mrpc_without_the_list_trains_on_all_pairs_and_says_how_to_validate(tmp_path: Path, tokenizer, caplog):
    msr(tmp_path, "train", "1|1|2|a|b", "0|3|4|c|d")
    msr(tmp_path, "test", "1|7|8|the cat|the dog", "0|9|10|c|d")
    assert len(read("glue/mrpc", "train", tmp_path)) == 2
    assert "the list dev_ids.tsv of GLUE's development set is not in" in caplog.text
    message = r"msr_paraphrase_train\.txt: .* dev_ids\.tsv names\. The list is not in .*name a file.*data\.validation"
    with pytest.raises(InputError, match=message):
        read("glue/mrpc", "validation", tmp_path)
    settings = {"dataset": "glue/mrpc", "folder": str(tmp_path)}
    with pytest.raises(InputError, match=message):
        TextClassificationDataModule(TextClassificationData(**settings), tokenizer)
    named = TextClassificationData(**settings, validation=str(tmp_path / "msr_paraphrase_test.txt"))
    data = TextClassificationDataModule(named, tokenizer)
    assert {split: len(encoded.examples) for split, encoded in data.splits.items()} == {"train": 2, "validation": 2}
    # The labels of the test file are public in this form.
    scored = TextClassificationDataModule(
        TextClassificationData(**settings), tokenizer, labels=["0", "1"], split="test"
    )
    assert scored.splits["test"].labels.tolist() == [1, 0]


def test_mrpc_in_the_form_of_glue_comes_first(tmp_path: Path):
    msr(tmp_path, "train", "1|1|2|a|b")
    write(tmp_path / "train.tsv", MSR_HEADER, "0|3|4|c|d")
    assert read("glue/mrpc", "train", tmp_path) == [("c", "d", "0", "0")]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["1|2", "7|8"], r"dev_ids\.tsv: line 2: no pair of .*msr_paraphrase_train\.txt has the ids 7 and 8"),
        (["2|1"], r"line 1: no pair of .* has the ids 2 and 1"),
        (["id1|id2"], r"line 1: two ids with a tab between them are expected"),
    ],
)
def test_a_list_of_ids_that_does_not_fit_is_named_with_its_line(tmp_path: Path, ids, message):
    msr(tmp_path, "train", "1|1|2|a|b")
    write(tmp_path / "dev_ids.tsv", *ids)
    with pytest.raises(InputError, match=message):
        read("glue/mrpc", "validation", tmp_path)


@pytest.mark.parametrize("subfolder", ["", "stsbenchmark"])
def test_sts_benchmark_is_read_as_published(tmp_path: Path, subfolder):
    for split, file in (("train", "train"), ("validation", "dev"), ("test", "test")):
        row = 'main-captions|MSRvid|2012test|0001|5.000|A "plane, taking off.|An air plane.'
        write(tmp_path / subfolder / f"sts-{file}.csv", row, f"{row}|licence|licence".replace("5.000", "3.8"))
        texts = 'A "plane, taking off.', "An air plane."
        assert read("glue/stsb", split, tmp_path) == [(*texts, 5.0, "0"), (*texts, 3.8, "1")]
    write(tmp_path / subfolder / "sts-train.csv", "main|f|y|1|5.0|only one text")
    with pytest.raises(InputError, match=r"line 1: this line has 6 columns, but column 6"):
        read("glue/stsb", "train", tmp_path)


@pytest.mark.parametrize("subfolder", ["", "raw", "cola_public/raw"])
def test_cola_is_read_as_published_and_both_development_files_are_its_development_set(tmp_path: Path, subfolder):
    write(tmp_path / subfolder / "in_domain_train.tsv", "gj04|1||We ran.", "gj04|0|*|Ran we.")
    assert read("glue/cola", "train", tmp_path) == [("We ran.", None, "1", "0"), ("Ran we.", None, "0", "1")]
    write(tmp_path / subfolder / "in_domain_dev.tsv", "gj04|1||In.")
    with pytest.raises(
        InputError, match=r"out_of_domain_dev\.tsv: no such file; GLUE's development set is in_domain"
    ):
        read("glue/cola", "validation", tmp_path)
    write(tmp_path / subfolder / "out_of_domain_dev.tsv", "a|0|*|Out.")
    assert read("glue/cola", "validation", tmp_path) == [("In.", None, "1", "0"), ("Out.", None, "0", "1")]


@pytest.mark.parametrize("subfolder", ["", "multinli_1.0"])
def test_multinli_is_read_as_published_without_pairs_that_have_no_agreement(tmp_path: Path, subfolder, caplog):
    rows = [
        {
            "gold_label": label,
            "sentence1": f"a {label}",
            "sentence2": "b",
            "annotator_labels": [label],
            "pairID": "1n",
        }
        for label in ("neutral", "-", "entailment")
    ]
    for name in ("train", "dev_matched", "dev_mismatched"):
        write(tmp_path / subfolder / f"multinli_1.0_{name}.jsonl", *map(json.dumps, rows))
    kept = [("a neutral", "b", "neutral", "0"), ("a entailment", "b", "entailment", "1")]
    assert read("glue/mnli", "train", tmp_path) == kept
    assert read("glue/mnli", "validation", tmp_path) == [*kept, *kept]
    assert caplog.text.count("left out: 1 pair with the label '-', which says") == 3


def test_the_hidden_labels_of_multinlis_test_sets_are_none_and_hidden_nowhere_else(tmp_path: Path, tokenizer):
    row = json.dumps({"gold_label": "hidden", "sentence1": "a", "sentence2": "b"})
    source = write(tmp_path / "multinli_0.9_test_matched_unlabeled.jsonl", row, row)
    labels = ["contradiction", "entailment", "neutral"]
    settings = TextClassificationData(dataset="glue/mnli", test=source)
    data = TextClassificationDataModule(settings, tokenizer, labels=labels, split="test")
    assert not data.splits["test"].is_labelled
    assert len(data.splits["test"].examples) == 2
    with pytest.raises(InputError, match="line 1: the label 'hidden' is none of"):
        list(standard_set("glue/mnli").read(source, "validation"))


@pytest.mark.parametrize(
    ("name", "file", "hint"),
    [
        ("glue/sst2", "trees/train.txt", "GLUE's archive SST-2.zip"),
        ("glue/sst2", "datasetSentences.txt", "the treebank as Stanford publishes it is not read"),
        ("glue/qqp", "quora_duplicate_questions.tsv", "Quora's own file, has no splits"),
        ("glue/rte", "rte1/dev.xml", "the challenges' own XML files are not read"),
        ("glue/wnli", "WSCollection.xml", "the collection of schemas in XML is not read"),
        ("glue/qnli", "train-v1.1.json", "are the data set squad-v1.1"),
        ("imdb", "IMDB Dataset.csv", "without the authors' split"),
    ],
)
def test_a_published_form_that_is_not_read_is_named_with_the_form_that_is(tmp_path: Path, name, file, hint):
    write(tmp_path / file, "x")
    with pytest.raises(InputError, match=r"was looked for.*the folder holds: ") as caught:
        locate(name, "train", str(tmp_path))
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "file",
    [
        *("mrpc/train-00000-of-00001.parquet", "data/train-00000-of-00001.parquet", "train-00000-of-00001.parquet"),
        *("mrpc/train/0000.parquet", "train.parquet", "train.jsonl"),
    ],
)
def test_the_parquet_files_of_the_hub_are_found_in_a_folder(tmp_path: Path, file):
    features = Features(
        {
            "sentence1": Value("string"),
            "sentence2": Value("string"),
            "label": ClassLabel(names=["not_equivalent", "equivalent"]),
            "idx": Value("int32"),
        }
    )
    row = {"sentence1": "a", "sentence2": "b", "label": 1, "idx": 7}
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    rows = datasets.Dataset.from_list([row], features=features)
    (rows.to_json if file.endswith("jsonl") else rows.to_parquet)(tmp_path / file)
    assert read("glue/mrpc", "train", tmp_path) == [("a", "b", "1", "7")]


def test_ag_news_with_the_header_of_its_copies_has_the_same_texts(tmp_path: Path):
    path = tmp_path / "train.csv"
    path.write_text('Class Index,Title,Description\n3,"A, B",C\n')
    assert read("ag-news", "train", tmp_path) == [("A, B C", None, "Business", "0")]


def test_universal_dependencies_are_found_in_the_folder_of_their_archive(tmp_path: Path):
    file = write(tmp_path / "UD_English-EWT" / "en_ewt-ud-train.conllu", "1|It|it|PRON|P|_|0|root|_|_")
    assert [source for _, source in locate("universal-dependencies-pos", "train", str(tmp_path))] == [file]
