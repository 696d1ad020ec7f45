"""HTTP requests and responses as the application sees them, and a response's head as bytes."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, NamedTuple

Header = tuple[bytes, bytes]

JSON: Final = b"application/json"

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Request:
    """One request; `body` is whole when it is answered, empty while only the head is looked at."""

    __slots__ = ("body", "headers", "method", "path", "started", "timeout_seconds")

    def __init__(self, method: bytes, path: bytes, headers: list[Header]) -> None:
        """Take the method, the path as sent, without the query, and the headers, their names in lower case."""
        self.method = method
        self.path = path
        self.headers = headers
        self.body = b""
        # The application's own notes.
        self.timeout_seconds = 0.0
        self.started = 0.0


class Response(NamedTuple):
    """What is answered; length and date are added when it is written down."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[Header, ...] = ()
    closes: bool = False
    """Whether the connection ends with it."""


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
            self._line = b"date: " + formatdate(second, usegmt=True).encode() + b"\r\n"
        return self._line


def head_of(response: Response, date_line: bytes, *, closes: bool) -> bytes:
    """Status line and headers, up to the empty line."""
    parts = [
        _STATUS_LINES[response.status],
        date_line,
        b"content-type: %b\r\ncontent-length: %d\r\n" % (response.content_type, len(response.body)),
    ]
    parts += [b"%b: %b\r\n" % header for header in response.headers]
    parts.append(b"connection: close\r\n\r\n" if closes else b"\r\n")
    return b"".join(parts)
