from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_lightning.checkpoints.files import (
    checksum_path,
    damage,
    link_atomically,
    write_atomically,
    write_text,
    write_with_checksum,
)


def fail_after_writing(file):
    file.write(b"half")
    raise RuntimeError("power cut")


def test_a_write_that_fails_leaves_the_old_content_and_no_temporary_file(tmp_path: Path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="power cut"):
        write_atomically(path, fail_after_writing)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_first_write_that_fails_leaves_nothing(tmp_path: Path):
    with pytest.raises(RuntimeError):
        write_with_checksum(tmp_path / "file", fail_after_writing)
    assert list(tmp_path.iterdir()) == []


@given(content=st.binary(min_size=1, max_size=300), data=st.data())
def test_any_flipped_bit_is_noticed(tmp_path_factory, content: bytes, data):
    path = tmp_path_factory.mktemp("bits") / "file"
    write_with_checksum(path, lambda file: file.write(content))
    assert damage(path) is None
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    assert "damaged" in damage(path)


def test_truncated_missing_and_unchecked_files_are_named_as_such(tmp_path: Path):
    path = tmp_path / "file"
    assert "missing" in damage(path)
    write_with_checksum(path, lambda file: file.write(b"content"))
    path.write_bytes(b"cont")
    assert "damaged" in damage(path)
    checksum_path(path).unlink()
    assert "no checksum" in damage(path)


def test_a_link_is_replaced_and_points_beside_itself(tmp_path: Path):
    for name in ("a", "b"):
        write_text(tmp_path / name, name)
        link_atomically(tmp_path / "last", name)
        assert (tmp_path / "last").read_text() == name
