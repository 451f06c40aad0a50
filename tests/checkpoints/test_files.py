import errno
import hashlib
import io
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save

from bert_lightning.checkpoints import files
from bert_lightning.checkpoints.files import (
    checksum_path,
    damage,
    link_atomically,
    write_atomically,
    write_hashed,
    write_safetensors,
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


def test_folders_made_for_a_failed_write_are_removed(tmp_path: Path):
    (tmp_path / "there").mkdir()
    with pytest.raises(RuntimeError):
        write_atomically(tmp_path / "there" / "a" / "b" / "file", fail_after_writing)
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_an_impossible_output_is_named_before_anything_is_written(tmp_path: Path):
    (tmp_path / "loop").symlink_to("loop")
    for path, number in ((tmp_path, errno.EISDIR), (Path(), errno.EISDIR), (tmp_path / "loop", errno.ELOOP)):
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            write_atomically(path, fail_after_writing)
        assert (caught.value.errno, caught.value.filename) == (number, str(path))
    assert list(tmp_path.iterdir()) == [tmp_path / "loop"]


def test_a_link_to_a_pipe_is_written_through_and_not_replaced(tmp_path: Path):
    reader, writer = os.pipe()
    link = tmp_path / "link"
    link.symlink_to(f"/proc/self/fd/{writer}")
    write_text(link, "text")
    assert os.read(reader, 10) == b"text"
    assert list(tmp_path.iterdir()) == [link]
    os.close(reader)
    os.close(writer)


def test_an_error_names_the_file_and_not_its_temporary_name(tmp_path: Path, monkeypatch):
    def refused(temporary, path):
        raise PermissionError(errno.EPERM, "not permitted", str(temporary), None, str(path))

    monkeypatch.setattr(files.os, "replace", refused)
    with pytest.raises(PermissionError) as caught:
        write_text(tmp_path / "file", "text")
    assert caught.value.filename == str(tmp_path / "file")


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


@pytest.mark.parametrize("content", [[torch.arange(5)], [torch.zeros(300, 300), {"a": torch.ones(2)}]])
def test_the_checksum_covers_the_bytes_given_and_not_those_on_the_disk(tmp_path: Path, monkeypatch, content):
    class Torn(io.FileIO):
        """A disk that silently loses a byte."""

        def write(self, given):
            return super().write(bytes(given)[:-1] + b"?") and len(given)

    write_with_checksum(tmp_path / "file", lambda file: torch.save(content, file))
    assert damage(tmp_path / "file") is None
    # The format of sha256sum.
    written = hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    assert checksum_path(tmp_path / "file").read_text() == f"{written}  file\n"
    assert write_hashed(tmp_path / "other", lambda file: torch.save(content, file)) == written

    def torn(path, mode):
        return (
            Torn(path, mode) if "file" in Path(path).name and ".sha256" not in Path(path).name else open(path, mode)
        )

    with monkeypatch.context() as patched:
        patched.setattr(files, "open", torn, raising=False)
        write_with_checksum(tmp_path / "file", lambda file: torch.save(content, file))
    assert "damaged" in damage(tmp_path / "file")


def test_a_kill_while_a_file_is_replaced_leaves_the_old_one_valid(tmp_path: Path, monkeypatch):
    path = tmp_path / "file"
    write_with_checksum(path, lambda file: file.write(b"old"))
    replace = os.replace

    def killed(source, target):
        if Path(target) == path:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_with_checksum(path, lambda file: file.write(b"new"))
    assert (path.read_bytes(), damage(path)) == (b"old", None)
    write_with_checksum(path, lambda file: file.write(b"new"))
    assert (path.read_bytes(), damage(path)) == (b"new", None)
    assert len(checksum_path(path).read_text().splitlines()) == 1
    path.write_bytes(b"old")
    assert "damaged" in damage(path)


def test_a_reader_beside_a_process_that_replaces_the_file_finds_no_damage(tmp_path: Path, monkeypatch):
    path, hashed = tmp_path / "file", files.sha256
    write_with_checksum(path, lambda file: file.write(b"old"))

    def replaced_meanwhile(read):
        found = hashed(read)
        write_with_checksum(path, lambda file: file.write(b"new"))
        return found

    monkeypatch.setattr(files, "sha256", replaced_meanwhile)
    assert damage(path) is None
    monkeypatch.setattr(files, "sha256", hashed)
    sums = files.recorded_sums

    def replaced_before_hashing(read):
        found = sums(read)
        monkeypatch.setattr(files, "recorded_sums", sums)
        write_with_checksum(path, lambda file: file.write(b"newer"))
        return found

    monkeypatch.setattr(files, "recorded_sums", replaced_before_hashing)
    assert damage(path) is None


def test_truncated_missing_and_unchecked_files_are_named_as_such(tmp_path: Path):
    path = tmp_path / "file"
    assert "missing" in damage(path)
    write_with_checksum(path, lambda file: file.write(b"content"))
    path.write_bytes(b"cont")
    assert "damaged" in damage(path)
    checksum_path(path).unlink()
    assert "no checksum" in damage(path)


def test_a_link_is_replaced_and_points_to_a_file_beside_it(tmp_path: Path):
    for name in ("a", "b"):
        write_text(tmp_path / name, name)
        link_atomically(tmp_path / "last", name)
        assert (tmp_path / "last").read_text() == name


@settings(max_examples=8)
@given(metadata=st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=6))
def test_safetensors_are_the_same_bytes_whatever_the_order_of_their_metadata(metadata, tmp_path_factory):
    folder = tmp_path_factory.mktemp("safetensors")
    types = [torch.bool, torch.float64, torch.int8, torch.bfloat16]
    tensors = {f"tensor {number}": torch.ones(3, number).to(dtype) for number, dtype in enumerate(types)}
    reverse = dict(reversed(metadata.items())) if metadata is not None else None
    for number, entries in enumerate((metadata, metadata, reverse)):
        write_safetensors(folder / f"{number}.safetensors", save(tensors, entries))
    contents = [path.read_bytes() for path in folder.iterdir()]
    assert contents == [contents[0]] * 3
    assert int.from_bytes(contents[0][:8], "little") % 8 == 0
    with safe_open(folder / "0.safetensors", framework="pt") as file:
        assert (file.metadata() or {}) == (metadata or {})
        assert set(file.keys()) == set(tensors)
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())
