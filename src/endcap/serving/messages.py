"""HTTP requests and responses as the application sees them, and a response's head as bytes."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import httptools

from endcap.serving.errors import RequestError

if TYPE_CHECKING:
    from endcap.serving.metrics import ModelCounts
    from endcap.serving.requests import PredictRequest
    from endcap.serving.timing import Timing
    from endcap.serving.tokens import Caller
    from endcap.serving.versions import Loaded, Version

Header = tuple[bytes, bytes]

JSON: Final = b"application/json"

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_UNSAFE: Final = re.compile(rb"[\r\n\0]")


class Notes:
    """What a head says that few heads say."""

    __slots__ = ("accepts_gzip", "is_packed", "is_preflight", "origin", "request_id", "surface", "timing")

    def __init__(self) -> None:
        self.accepts_gzip = False
        self.is_packed = False
        self.is_preflight = False
        # Of a page that may read the answer.
        self.origin = b""
        self.request_id = b""
        self.surface = ""
        self.timing: Timing | None = None


class Request:
    """One request; `body` is whole when it is answered, empty while only the head is looked at. `query` is as it was sent."""

    __slots__ = (
        "asked", "body", "caller", "counts", "headers", "loaded", "method", "notes", "path", "peer", "query", "route",
        "started", "timeout_seconds", "version", "write",
    )  # fmt: skip

    def __init__(self, method: bytes, path: bytes, headers: list[Header]) -> None:
        """Take the method, the path as sent, without the query, and the headers, their names in lower case."""
        self.method = method
        self.path = path
        self.query = b""
        self.headers = headers
        self.body = b""
        self.peer: Any = None
        # The application's own notes.
        self.caller: Caller | None = None
        self.notes: Notes | None = None
        self.counts: ModelCounts | None = None
        self.route = "unknown"
        # What answers a prediction, and what was asked of it.
        self.version: Version | None = None
        self.loaded: Loaded | None = None
        self.asked: PredictRequest | None = None
        self.timeout_seconds = 0.0
        self.started = 0.0
        self.write: Callable[[Any], Response] | None = None

    def let_go(self) -> None:
        """Once it is answered: an idle connection keeps the request, and by it would keep a version that has ended."""
        self.body = b""
        self.version = self.loaded = self.asked = self.write = None


class Response(NamedTuple):
    """What is answered; length and date are added when it is written down."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[Header, ...] = ()
    closes: bool = False
    """Whether the connection ends with it."""


class Application(Protocol):
    """What answers requests. Other errors than those named are answered with 500, and logged without their text."""

    def check_head(self, request: Request) -> None:
        """Refuse a request by its head alone, before its body is read. Raises RequestError."""

    def answer(self, request: Request) -> Response | asyncio.Future[Any]:
        """Answer a whole request at once, or as soon as the future is done: by what `conclude` makes of it."""

    def conclude(self, request: Request, answer: asyncio.Future[Any]) -> Response:
        """The response once the answer is done; not called when it was cancelled."""

    def refuse(self, error: RequestError, request: Request | None) -> Response:
        """The response to a request that `answer` doesn't get to see, or fails at; no request: its head can't be read."""


class Clock:
    """The date header, made anew once a second."""

    def __init__(self) -> None:
        """Start without one."""
        self._second = -1
        self._line = b""

    def line(self) -> bytes:
        """`date: …` of the present second, with the line's end."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._line = b"date: " + http_date(second).encode() + b"\r\n"
        return self._line


def http_date(second: int) -> str:
    """A moment (in seconds since 1970) as HTTP writes it. The standard library's brings all of `email` along."""
    year, month, day, hour, minute, second, weekday, *_ = time.gmtime(second)
    return f"{_DAYS[weekday]}, {day:02} {_MONTHS[month - 1]} {year} {hour:02}:{minute:02}:{second:02} GMT"


def head_of(response: Response, date_line: bytes, *, closes: bool) -> bytes:
    """Status line and headers, up to the empty line. Raises ValueError where a header would be more than one."""
    parts = [
        _STATUS_LINES[response.status],
        date_line,
        b"content-type: %b\r\ncontent-length: %d\r\n" % (response.content_type, len(response.body)),
    ]
    for name, value in response.headers:
        if _UNSAFE.search(name) or _UNSAFE.search(value):
            raise ValueError("A header with a line break.")
        parts.append(b"%b: %b\r\n" % (name, value))
    # HTTP/1.0 keeps a connection open only where it is said.
    parts.append(b"connection: close\r\n\r\n" if closes else b"connection: keep-alive\r\n\r\n")
    return b"".join(parts)


def path_of(url: bytes) -> bytes:
    """The path of a request's target, or what stands in its place."""
    if url.startswith(b"/"):
        return url.partition(b"?")[0]
    try:
        return httptools.parse_url(url).path or b"/"
    except httptools.HttpParserInvalidURLError:
        return url
