from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_lightning.data.corpus import documents as documents_module
from bert_lightning.data.corpus.documents import CorpusFormat, detect_layout, read_passages
from bert_lightning.data.reading.lines import Repairs
from bert_lightning.errors import InputError


def texts(path: Path, repairs: Repairs | None = None, **settings) -> list[list[str]]:
    """Return the documents of a file as lists of segments."""
    documents: list[list[str]] = [[]]
    for passage in read_passages(str(path), CorpusFormat(**settings), repairs):
        documents[-1] += passage.segments
        if passage.ends:
            documents.append([])
    assert documents[-1] == [], "the last passage ends its document"
    return documents[:-1]


@given(
    documents=st.lists(
        st.lists(st.text("ab .", min_size=1).filter(str.strip), min_size=1, max_size=4), min_size=1, max_size=4
    ),
    line_end=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_the_original_format_reads_back_with_any_line_end_and_byte_order_mark(
    tmp_path_factory, documents, line_end, mark
):
    path = tmp_path_factory.mktemp("text") / "c.txt"
    text = (line_end * 2).join(line_end.join(document) for document in documents)
    path.write_bytes((mark + text + line_end).encode())
    read = texts(path, layout="sentences")
    assert read == [[line.strip() for line in document] for document in documents]


PARAGRAPH = "It was late. The man, who had waited long, went home and slept. Nobody saw him. It rained."
WRAPPED = PARAGRAPH.replace(", ", ",\n").replace(" and ", " and\n").replace("saw ", "saw\n") + "\n"


def test_the_layout_is_judged_by_the_sentences_of_the_language(tmp_path: Path):
    path = tmp_path / "de.txt"
    path.write_text(
        "Er kam am 3. Mai.\nSie ging am 4. Juni.\nEs war der 5. Juli.\n\nSie sahen sich am 6. Mai.\nEs blieb so.\n"
    )
    assert detect_layout(str(path)) == "paragraphs"
    assert detect_layout(str(path), CorpusFormat(language="de")) == "sentences"


@pytest.mark.parametrize(
    ("text", "layout", "paragraphs"),
    [
        ("He came.\nShe left.\nIt rained.\n\nThey met.\nThey spoke.\n", "sentences", None),
        (f"{PARAGRAPH}\n\n{PARAGRAPH}\n\n", "paragraphs", 2),
        (f"{PARAGRAPH}\n{PARAGRAPH}\n{PARAGRAPH}\n", "paragraphs", 3),
        (f"{WRAPPED}\n{WRAPPED}", "paragraphs", 2),
    ],
    ids=["original", "blank lines", "a line each", "hard-wrapped"],
)
def test_the_layout_is_recognised_and_paragraphs_are_joined(tmp_path: Path, text, layout, paragraphs):
    path = tmp_path / "c.txt"
    path.write_text(text)
    assert detect_layout(str(path)) == layout
    if paragraphs is not None:
        [document] = texts(path)
        assert len(document) == paragraphs
        assert " ".join(document).split() == text.split()


@pytest.mark.parametrize("layout", ["sentences", "paragraphs", "auto"])
def test_json_lines_under_another_name_are_read_as_text_and_warned_about_once(tmp_path: Path, caplog, layout):
    path = tmp_path / "wiki_00"
    path.write_text('{"id": 1, "text": "The old cat."}\n' * 3)
    texts(path, layout=layout)
    assert caplog.text.count(f"{path}: line 1: this JSON object is read as text: JSON lines need a name") == 1
    caplog.clear()
    # A line in braces need not be JSON; only the first line is checked.
    path.write_text('{"id" a brace.}\n{"text": "The old cat."}\n')
    texts(path, layout=layout)
    assert not caplog.text


def test_passages_only_cut_documents_up(tmp_path: Path, monkeypatch):
    path = tmp_path / "c.txt"
    path.write_text("a b c.\nd e f.\ng.\n\n\nh.\n\ni.\nj k.\n")
    whole = texts(path, layout="sentences")
    monkeypatch.setattr(documents_module, "PASSAGE", 1)
    passages = list(read_passages(str(path), CorpusFormat(layout="sentences")))
    assert texts(path, layout="sentences") == whole == [["a b c.", "d e f.", "g."], ["h."], ["i.", "j k."]]
    assert [passage.ends for passage in passages] == [False, False, True, True, False, True]


def test_a_row_is_a_document_or_with_layout_sentences_a_line(tmp_path: Path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"text": "One. Two.\\nThree."}\n{"text": ""}\n{"text": "Four."}\n')
    assert texts(path) == [["One. Two.", "Three."], ["Four."]]
    assert texts(path, layout="sentences") == [["One. Two.", "Three."], ["Four."]]
    assert [p.split for p in read_passages(str(path), CorpusFormat())] == [True, True]
    assert [p.split for p in read_passages(str(path), CorpusFormat(layout="sentences"))] == [False, False]


def test_a_heading_can_begin_a_document(tmp_path: Path):
    # As WikiText is published: one row per line, blank rows between paragraphs, titles between equals signs.
    path = tmp_path / "wiki.csv"
    path.write_text('text\n""\n = Apple = \n""\nA fruit.\n = = Use = = \nEaten.\n""\n = Pear = \nTwo.\n')
    assert texts(path, document_start=r"^= [^=].* =$") == [
        ["= Apple =", "A fruit.", "= = Use = =", "Eaten."],
        ["= Pear =", "Two."],
    ]


def test_text_without_documents_can_be_cut_into_some(tmp_path: Path):
    path = tmp_path / "c.txt"
    path.write_text("a\nb\nc\nd\ne\n")
    assert texts(path, layout="sentences", lines_per_document=2) == [["a", "b"], ["c", "d"], ["e"]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"document_start": "("}, "must be a regular expression"), ({"lines_per_document": 0}, "must be at least 1")],
)
def test_impossible_formats_are_errors(settings, message):
    with pytest.raises(InputError, match=message):
        CorpusFormat(**settings)


def test_a_segment_too_long_to_hold_is_cut_at_spaces_and_counted(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(documents_module, "MAX_PIECE", 10)
    path = tmp_path / "c.jsonl"
    path.write_text('{"text": "aaaa bbbb cccc dddddddddddddddd ee"}\n')
    repairs = Repairs()
    [document] = texts(path, repairs)
    assert "".join(document) == "aaaa bbbb cccc dddddddddddddddd ee"
    assert max(map(len, document)) <= 10
    assert repairs.num_cut == 1


CHAPTERS = "CHAPTER I\n" + WRAPPED + "CHAPTER II\n" + WRAPPED


def test_documents_begin_at_lines_of_running_text_too(tmp_path: Path):
    path = tmp_path / "c.txt"
    path.write_text(CHAPTERS)
    documents = texts(path, layout="paragraphs", document_start="^CHAPTER")
    assert [document[0].split()[:2] for document in documents] == [["CHAPTER", "I"], ["CHAPTER", "II"]]
    assert " ".join(" ".join(document) for document in documents).split() == CHAPTERS.split()
    assert len(texts(path, layout="paragraphs", lines_per_document=3)) == -(-len(CHAPTERS.splitlines()) // 3)


def test_a_paragraph_of_wrapped_text_ends_with_a_short_line_where_nothing_else_says_so(tmp_path: Path):
    lines = [
        "A line that is as wide as the page of the book allows and goes",
        "on for as long as there are words in it, until at last it",
        "ends.",
    ]
    path = tmp_path / "c.txt"
    path.write_text("\n".join(lines * 40) + "\n")
    [document] = texts(path, layout="paragraphs")
    assert document == [" ".join(lines)] * 40
