"""Answered requests in, a line of JSON each out: who asked what and how it went, users by their hash alone."""

from __future__ import annotations

import os
import random
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from endcap.serving.messages import Request
from endcap.serving.spool import Spool
from endcap.serving.users import UserKeys, user_ids_in

STDOUT: Final = "-"
MAX_WAITING: Final = 20_000
# Of one request; its number of instances says how many there were.
MAX_USERS: Final = 16
_MODE: Final = 0o640


class _Entry(NamedTuple):
    time: float
    request_id: str
    method: bytes
    route: str
    status: int
    seconds: float
    num_bytes: int
    caller: str | None
    model: str | None
    version: int | None
    num_instances: int
    user_ids: list[Any]


class AccessLog:
    """Writes to a file that may be moved aside, or to standard output. Never keeps an answer waiting."""

    def __init__(self, place: str, keys: UserKeys | None, sample: float = 1.0) -> None:
        """`sample` is the share of requests that are written; without `keys` users are left out."""
        self._path = None if place == STDOUT else Path(place)
        self._keys, self._sample = keys, sample
        self._file: int | None = None
        self._opened: tuple[int, int] | None = None
        self.spool = Spool("access log", self._write, MAX_WAITING)

    def note(self, request: Request, status: int, num_bytes: int) -> None:
        """Write down one answer, if it is of the sample."""
        if self._sample < 1 and random.random() >= self._sample:  # noqa: S311 (a sample, no secret)
            return
        asked, loaded = request.asked, request.loaded
        self.spool.put(
            _Entry(
                time.time(),
                request.notes.request_id.decode() if request.notes is not None else "",
                request.method,
                request.route,
                status,
                time.perf_counter() - request.started if request.started else 0.0,
                num_bytes,
                request.caller.name if request.caller is not None else None,
                request.counts.name if request.counts is not None else None,
                request.version.number if request.version is not None else None,
                len(asked.queries) if asked is not None else 0,
                user_ids_in(loaded.predictor, asked, MAX_USERS)
                if asked is not None and loaded is not None and self._keys is not None
                else [],
            )
        )

    def _write(self, entries: list[_Entry], is_last: bool) -> int:
        if entries:
            lines = b"".join(self._line(entry) for entry in entries)
            if self._path is None:
                sys.stdout.buffer.write(lines)
                sys.stdout.buffer.flush()
            else:
                os.write(self._open(self._path), lines)
        if is_last and self._file is not None:
            os.close(self._file)
            self._file = None
        return 0

    def _open(self, path: Path) -> int:
        """The file to append to: another one when it has been moved aside."""
        try:
            state = path.stat()
            at_path: tuple[int, int] | None = (state.st_dev, state.st_ino)
        except FileNotFoundError:
            at_path = None
        if self._file is not None and at_path == self._opened:
            return self._file
        if self._file is not None:
            os.close(self._file)
            self._file = None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
        opened = os.fstat(self._file)
        self._opened = (opened.st_dev, opened.st_ino)
        return self._file

    def _line(self, entry: _Entry) -> bytes:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(entry.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "request_id": entry.request_id or None,
            "method": entry.method.decode("ascii", "replace"),
            "route": entry.route,
            "status": entry.status,
            "ms": round(entry.seconds * 1000, 3),
            "num_bytes": entry.num_bytes,
            "caller": entry.caller,
            "model": entry.model,
            "version": entry.version,
            "num_instances": entry.num_instances,
        }
        if self._keys is not None:
            line["user_keys"] = [self._keys.of(user_id) for user_id in entry.user_ids]
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
