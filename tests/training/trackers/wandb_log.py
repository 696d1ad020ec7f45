"""The transaction log that W&B's client writes offline, read record by record: blocks of LevelDB's log format."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

_BLOCK_BYTES, _HEADER = 32_768, struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def whole(path: Path) -> list[Record]:
    """Every record, once the client's own process has written the last one."""
    give_up = time.monotonic() + 60
    while not any(record.HasField("exit") for record in records_of(path)):
        assert time.monotonic() < give_up, f"{path} has no end"
        time.sleep(0.05)
    return list(records_of(path))


def records_of(path: Path) -> Iterator[Record]:
    """Every record, in order."""
    data, at, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + _HEADER.size <= len(data):
        left = _BLOCK_BYTES - at % _BLOCK_BYTES
        if left < _HEADER.size:
            at += left
            continue
        _, length, kind = _HEADER.unpack_from(data, at)
        part = data[at + _HEADER.size : at + _HEADER.size + length]
        at += _HEADER.size + length
        parts = part if kind in (_FULL, _FIRST) else parts + part
        if kind in (_FULL, _LAST):
            yield Record.FromString(parts)
