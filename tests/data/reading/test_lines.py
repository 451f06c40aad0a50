import gzip
import lzma
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_lightning.data.reading import lines
from bert_lightning.data.reading.lines import Repairs, numbered_lines, read_lines
from bert_lightning.errors import InputError
from tests.support.files import zstandard


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress), (".zst", zstandard)]
)
def test_compressed_files_of_several_members_read_as_one(tmp_path: Path, suffix, compress):
    path = tmp_path / f"c.txt{suffix}"
    path.write_bytes(compress("é one\ntw".encode()) + compress(b"o\nthree"))
    assert [line for _, line in read_lines(str(path))] == ["é one", "two", "three"]


@given(content=st.binary(max_size=60) | st.text("ab \né中😀", max_size=40).map(str.encode), limit=st.integers(8, 16))
def test_pieces_of_long_lines_are_the_file_and_stay_within_the_limit(tmp_path_factory, content, limit):
    path = tmp_path_factory.mktemp("lines") / "c.txt"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "MAX_PIECE", limit)
        repairs = Repairs()
        pieces = list(numbered_lines(str(path), "replace", repairs, cut=True))
    if content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").count("\ufffd") == 0:
        assert "".join(piece for _, piece in pieces).encode() == content.removeprefix(b"\xef\xbb\xbf")
        assert repairs.num_replaced == 0
    # A first line that ends in CR alone makes every CR an end.
    whole = re.split(rb"\r\n?|\n" if re.match(rb"[^\r\n]*\r+[^\r\n]", content[:limit]) else rb"\n", content)
    assert max([number for number, _ in pieces], default=0) == len(whole) - (whole[-1] == b"")
    assert repairs.num_cut == len({number for number, _ in pieces if [n for n, _ in pieces].count(number) > 1})


def test_a_row_too_long_to_hold_is_an_error_that_names_it(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_ROW", 10)
    (tmp_path / "t.jsonl").write_text("{}\n" + "x" * 11 + "\n")
    with pytest.raises(InputError, match=r"t\.jsonl: line 2 is longer than 10 bytes"):
        list(numbered_lines(str(tmp_path / "t.jsonl")))


def test_the_offset_of_a_bad_byte_counts_from_the_start_of_the_file(tmp_path: Path):
    (tmp_path / "c.txt").write_bytes("é\nab".encode() + b"\xe9\n")
    with pytest.raises(InputError, match=r"c\.txt: line 2: byte 5 \(0xe9\) is not UTF-8"):
        list(numbered_lines(str(tmp_path / "c.txt")))


def test_a_file_in_utf16_is_reported_as_such(tmp_path: Path):
    (tmp_path / "c.txt").write_bytes("hello".encode("utf-16"))
    with pytest.raises(InputError, match="looks like UTF-16"):
        list(numbered_lines(str(tmp_path / "c.txt")))


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (gzip.compress(b"text,label\n", mtime=0), "gzip: give it a name that ends in .gz"),
        (lzma.compress(b"text,label\n"), "xz: give it a name that ends in .xz"),
        (zstandard(b"text,label\n"), "Zstandard: give it a name that ends in .zst"),
        # The first byte that is not UTF-8 may stand in a later line.
        (b"PK\x03\x04\x14\n\x08\n\xfa", "a ZIP archive or an Excel workbook"),
        (b"PAR1\x15\x04\n\x15\xfa", "Parquet: give it a name that ends in .parquet"),
    ],
)
def test_a_compressed_file_without_its_suffix_is_recognised_by_its_first_bytes(tmp_path: Path, content, form):
    (tmp_path / "c.csv").write_bytes(content)
    with pytest.raises(InputError, match=f"is not UTF-8; the file looks like {form}"):
        list(numbered_lines(str(tmp_path / "c.csv")))
