"""Answered recommendations in, files of the table of requests out: what was shown to whom, for training and for judging.

One JSON line a customer, of the columns of CONTRACTS' requests (`endcap.contracts.job.REQUESTS_COLUMNS`), which
`endcap ingest --source logs` and training jobs read.
"""

from __future__ import annotations

import random
import secrets
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from endcap.contracts.errors import InputError
from endcap.serving.requests import PredictRequest, Recommend
from endcap.serving.spool import Spool
from endcap.serving.users import UserKeys, user_ids_in

if TYPE_CHECKING:
    from endcap.serving.answers import Arrays
    from endcap.serving.versions import Loaded

MAX_WAITING: Final = 5_000
# Answers that wait to be written; with those of the buffer, what the log may take of memory.
MAX_WAITING_BYTES: Final = 32 * 2**20
MAX_BUFFER_BYTES: Final = 16 * 2**20
FLUSH_SECONDS: Final = 60.0
_PREFIX: Final = "requests-"


class _Entry(NamedTuple):
    time: float
    request_id: str
    surface: str
    loaded: Loaded
    asked: Recommend
    answer: bytes | Arrays


class RequestLog:
    """Whole files alone stand in the folder: lines are gathered in memory and written aside, then renamed."""

    def __init__(self, folder: Path, keys: UserKeys, sample: float = 1.0, flush_seconds: float = FLUSH_SECONDS) -> None:
        """`sample` is the share of requests that are written. Raises InputError for a folder that can't be written to."""
        self._folder, self._keys, self._sample, self._flush_seconds = folder, keys, sample, flush_seconds
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(f"--request-log {folder} can't be written to: {error.strerror}. Give another.") from error
        self._name = secrets.token_hex(4)
        self._num_files = 0
        self._lines: dict[str, list[bytes]] = {}
        self._num_buffered = 0
        self._oldest = 0.0
        self._num_put = self._num_taken = 0
        self._num_over = 0
        self.spool: Spool[_Entry] = Spool("request log", self._write, MAX_WAITING)

    @property
    def num_dropped(self) -> int:
        """Requests that found no room, or could not be written."""
        return self._num_over + self.spool.num_dropped

    def start(self) -> None:
        """Start writing; called in the process that answers."""
        self.spool.start()

    def note(
        self, request_id: str, surface: str, loaded: Loaded, asked: PredictRequest, answer: bytes | Arrays
    ) -> None:
        """Write down what was answered, if it is of the sample."""
        if not isinstance(asked, Recommend):  # scores of given products: what of them is shown isn't known here
            return
        if self._sample < 1 and random.random() >= self._sample:  # noqa: S311 (a sample, no secret)
            return
        num_bytes = len(answer) if isinstance(answer, bytes) else 64 * asked.num_results
        if self._num_put - self._num_taken + num_bytes > MAX_WAITING_BYTES:
            self._num_over += 1
            return
        self._num_put += num_bytes
        self.spool.put(_Entry(time.time(), request_id, surface, loaded, asked, answer))

    def _write(self, entries: list[_Entry], is_last: bool) -> int:
        for entry in entries:
            answer = entry.answer
            self._num_taken += len(answer) if isinstance(answer, bytes) else 64 * entry.asked.num_results
            at = datetime.fromtimestamp(entry.time, UTC)
            lines = self._lines.setdefault(f"{at:%Y%m%d}", [])
            for row in self._rows(entry, at):
                lines.append(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY))
                self._num_buffered += len(lines[-1])
        now = time.monotonic()
        if not self._lines:
            self._oldest = now
        is_due = now - self._oldest >= self._flush_seconds or self._num_buffered >= MAX_BUFFER_BYTES
        return self._flush() if self._lines and (is_last or is_due) else 0

    def _rows(self, entry: _Entry, at: datetime) -> Iterator[dict[str, Any]]:
        user_ids = user_ids_in(entry.loaded.predictor, entry.asked, len(entry.asked.queries))
        lists = _lists_in(entry.answer)
        for place, (user_id, (item_ids, scores)) in enumerate(zip(user_ids, lists, strict=True)):
            yield {
                "request_id": entry.request_id if len(user_ids) == 1 else f"{entry.request_id}-{place}",
                "user_key": self._keys.of(user_id),
                "request_time": at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
                "release_digest": entry.loaded.predictor.release.digest,
                "surface": entry.surface or None,
                "item_ids": item_ids,
                "scores": scores,
                "positions": list(range(1, len(item_ids) + 1)),
                # The same request gets the same products: each stood where it stands for certain.
                "propensities": [1.0] * len(item_ids),
                "experiment": None,
                "variant": None,
            }

    def _flush(self) -> int:
        """Write what is gathered, a file a day; how many lines were lost."""
        from endcap.workspace.atomic import write_bytes

        lines, self._lines, self._num_buffered = self._lines, {}, 0
        self._oldest = time.monotonic()
        num_lost = 0
        for day, rows in lines.items():
            self._num_files += 1
            file = self._folder / f"{_PREFIX}{day}-{self._name}-{self._num_files:06d}.jsonl"
            try:
                write_bytes(file, b"".join(rows), mode=0o640)
            except OSError:
                num_lost += len(rows)
        return num_lost


def _lists_in(answer: bytes | Arrays) -> Iterator[tuple[list[Any], Any]]:
    """Product ids and scores of each instance, as they were answered."""
    if not isinstance(answer, bytes):
        yield from zip(answer.ids, answer.scores, strict=True)
        return
    body = orjson.loads(answer)
    if "predictions" in body:
        yield from ((one["product_ids"], one["scores"]) for one in body["predictions"])
    else:
        yield from zip(body["outputs"]["product_ids"], body["outputs"]["scores"], strict=True)
