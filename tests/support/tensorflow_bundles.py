"""TensorFlow bundles, written after the description of the format, with other choices than those of TensorFlow."""

import struct
from pathlib import Path

import google_crc32c
import numpy as np


def varint(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def masked(content: bytes) -> int:
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Build a block whose keys are stored in full, each with a restart point."""
    content, restarts = b"", []
    for key, entry in entries:
        restarts.append(len(content))
        content += varint(0) + varint(len(key)) + varint(len(entry)) + key + entry
    content += b"".join(struct.pack("<I", at) for at in [*restarts, len(restarts)])
    return content + b"\0" + struct.pack("<I", masked(content + b"\0"))


def write_bundle(prefix: Path, tensors: dict[str, np.ndarray], dtypes: dict[str, int], num_shards: int) -> None:
    shards, records = [b""] * num_shards, [(b"", b"\x08" + varint(num_shards) + b"\x1a\x02\x08\x01")]
    for number, (name, array) in enumerate(sorted(tensors.items())):
        shard, raw = number % num_shards, array.tobytes()
        dims = b"".join(b"\x12" + varint(len(d)) + d for d in (b"\x08" + varint(size) for size in array.shape))
        records.append(
            (
                name.encode(),
                b"\x08" + varint(dtypes[str(array.dtype)]) + b"\x12" + varint(len(dims)) + dims
                + b"\x18" + varint(shard) + b"\x20" + varint(len(shards[shard])) + b"\x28" + varint(len(raw))
                + b"\x35" + struct.pack("<I", masked(raw)),
            )
        )  # fmt: skip
        shards[shard] += raw
    for number, content in enumerate(shards):
        prefix.with_name(f"{prefix.name}.data-{number:05d}-of-{num_shards:05d}").write_bytes(content)
    table, handles = b"", []
    for start in range(0, len(records), 3):
        handle = varint(len(table)) + varint(len(block(records[start : start + 3])) - 5)
        handles.append((records[min(start + 2, len(records) - 1)][0], handle))
        table += block(records[start : start + 3])
    footer = b""
    for content in (block([]), block(handles)):
        footer += varint(len(table)) + varint(len(content) - 5)
        table += content
    table += footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    prefix.with_name(prefix.name + ".index").write_bytes(table)
