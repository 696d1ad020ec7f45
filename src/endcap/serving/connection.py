"""Bytes from a socket in, requests to the application and its responses back: HTTP/1.1 on asyncio, parsed by llhttp.

A request costs a few callbacks, no task and no coroutine of its own: under load that is a sixth of an answer's
processor time (docs/06-serving.md).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Final, Protocol, cast

import httptools

from endcap.serving.errors import RequestError
from endcap.serving.messages import Clock, Header, Request, Response, head_of

MAX_BODY_BYTES: Final = 16 * 2**20
MAX_HEAD_BYTES: Final = 64 * 2**10
# A connection without a request. Longer than load balancers keep theirs (60 s is common), so that they close first.
IDLE_SECONDS: Final = 75.0
# From a request's first byte to its last, and from an answer until the client has taken it.
TRANSFER_SECONDS: Final = 30.0
# What still comes of a refused request is read and dropped for this long: closing at once would reset the connection,
# and the client might never see the answer.
LINGER_SECONDS: Final = 2.0
# Requests sent ahead of their answers on one connection; more wait in the socket.
_MAX_AHEAD: Final = 16
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Application(Protocol):
    """What answers requests."""

    def check_head(self, request: Request) -> None:
        """Refuse a request by its head alone, before its body is read. Raises RequestError."""

    def answer(self, request: Request) -> Response | asyncio.Future[bytes]:
        """Answer a whole request at once, or as soon as the future is done: by what `conclude` makes of it."""

    def conclude(self, request: Request, answer: asyncio.Future[bytes]) -> Response:
        """The response once the answer is done; not called when it was cancelled."""

    def refuse(self, error: RequestError, request: Request | None) -> Response:
        """The response to a request that `answer` doesn't get to see; without a request where its head can't be read."""


class Connections:
    """All open connections of a server: what they share, and the watch over those that stall."""

    def __init__(self, app: Application) -> None:
        """Take the application that they all ask."""
        self.app = app
        self.clock = Clock()
        self.open: set[Connection] = set()

    def connect(self) -> asyncio.Protocol:
        """The protocol of one accepted connection."""
        return Connection(self)

    @property
    def num_busy(self) -> int:
        """Connections with a request that is not answered yet."""
        return sum(connection.is_busy for connection in self.open)

    def sweep(self, now: float) -> None:
        """End what took too long by `now` (the event loop's time); called about once a second."""
        for connection in [one for one in self.open if one.deadline <= now]:
            connection.expire()

    def close_idle(self) -> None:
        """Close those that wait for no answer; the others close once they have theirs."""
        for connection in list(self.open):
            connection.take_no_more()

    def abort(self) -> None:
        """Drop all."""
        for connection in list(self.open):
            connection.abort()


class Connection(asyncio.Protocol):
    """One connection: requests are answered one at a time, in the order in which they came."""

    def __init__(self, connections: Connections) -> None:
        """Wait for the transport."""
        self._connections = connections
        self._app = connections.app
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._ahead: deque[tuple[Request, bool]] = deque()
        self._pending: asyncio.Future[bytes] | None = None
        self.is_busy = False
        """Whether a request is being answered, or is about to be."""
        self._is_receiving = False
        self._is_head_read = True
        self._is_writable = True
        self._is_reading = True
        # Nothing that comes is looked at any more.
        self._is_deaf = False
        self.deadline = self._loop.time() + IDLE_SECONDS
        """When it is to `expire`, in the event loop's time."""

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = cast(asyncio.Transport, transport)
        self._connections.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        """The connection is gone: nobody waits for the answer."""
        self._connections.open.discard(self)
        self._is_deaf = True
        self._ahead.clear()
        if self._pending is not None:
            self._pending.cancel()

    def data_received(self, data: bytes) -> None:
        """Some bytes, which may hold a part of a request or several."""
        if self._is_deaf:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request is answered as plain HTTP; what follows would be of another protocol.
            self.take_no_more()
        except httptools.HttpParserError:
            self._refuse(RequestError(400, "This is not HTTP/1.1. Send requests as the documentation shows."), None)
        else:
            if not self._is_head_read:
                self._num_head_bytes += len(data)
                if self._num_head_bytes > MAX_HEAD_BYTES:
                    error = RequestError(431, f"The request's head is over {MAX_HEAD_BYTES:,} bytes.")
                    self._refuse(error, None)

    def eof_received(self) -> bool:
        """The client sends no more, but may wait for its answer."""
        self.take_no_more()
        return self.is_busy

    def pause_writing(self) -> None:
        """The client doesn't take its answers: no more are computed for it."""
        self._is_writable = False
        self.deadline = self._loop.time() + TRANSFER_SECONDS

    def resume_writing(self) -> None:
        """The client has taken what there was."""
        self._is_writable = True
        if not self.is_busy and not self._is_deaf:
            self._go_on()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._headers: list[Header] = []
        self._url = b""
        self._parts: list[bytes] = []
        self._is_head_read = False
        self._is_receiving = True
        self._num_head_bytes = self._num_body_bytes = 0
        if not self.is_busy:
            self.deadline = self._loop.time() + TRANSFER_SECONDS

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole: a request that can be refused by it is not read further."""
        self._is_head_read = True
        if self._is_deaf:  # sent ahead, behind one that was refused
            return
        self._request = Request(self._parser.get_method(), _path_of(self._url), self._headers)
        try:
            self._app.check_head(self._request)
        except RequestError as error:
            self._refuse(error, self._request)
            return
        for name, value in self._headers:
            if name == b"expect" and value.lower() == b"100-continue" and not self.is_busy:
                self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._num_body_bytes += len(body)
        if self._is_deaf:
            return
        if self._num_body_bytes > MAX_BODY_BYTES:
            self._refuse(too_large(), self._request)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._is_receiving = False
        if self._is_deaf:
            return
        request = self._request
        request.body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        keeps_open = self._parser.should_keep_alive()
        if not self.is_busy and self._is_writable:
            self._begin(request, keeps_open)
            return
        self._ahead.append((request, keeps_open))
        if len(self._ahead) >= _MAX_AHEAD and self._is_reading:
            self._is_reading = False
            self._transport.pause_reading()

    # Answers.

    def _begin(self, request: Request, keeps_open: bool) -> None:
        self.is_busy = True
        self._keeps_open = keeps_open
        self._asked = request
        self.deadline = math.inf
        answer = self._app.answer(request)
        if isinstance(answer, Response):
            self._finish(answer)
        else:
            self._pending = answer
            answer.add_done_callback(self._deliver)

    def _deliver(self, answer: asyncio.Future[bytes]) -> None:
        self._pending = None
        if not answer.cancelled():
            self._finish(self._app.conclude(self._asked, answer))

    def _finish(self, response: Response) -> None:
        closes = response.closes or not self._keeps_open
        self.is_busy = False
        self._write(response, closes=closes, has_body=self._asked.method != b"HEAD")
        if closes:
            self._is_deaf = True
            self._ahead.clear()
            self.deadline = self._loop.time() + TRANSFER_SECONDS
            self._transport.close()
        elif self._is_writable:
            self._go_on()

    def _go_on(self) -> None:
        """The next request, if it is here."""
        if self._ahead:
            # By way of the loop: hundreds of requests sent ahead would be as many calls deep.
            self.is_busy = True
            self._loop.call_soon(self._begin_next)
        else:
            self.deadline = self._loop.time() + (TRANSFER_SECONDS if self._is_receiving else IDLE_SECONDS)

    def _begin_next(self) -> None:
        if not self._ahead:  # the connection is lost
            return
        request, keeps_open = self._ahead.popleft()
        if not self._is_reading and not self._is_deaf:
            self._is_reading = True
            self._transport.resume_reading()
        self._begin(request, keeps_open)

    def _refuse(self, error: RequestError, request: Request | None) -> None:
        """Answer a request that is not read to its end, and close. Behind another's answer: close without."""
        if self.is_busy or self._ahead or self._transport.is_closing():
            self.take_no_more()
            return
        self._is_deaf = True
        self._write(self._app.refuse(error, request), closes=True, has_body=True)
        self._transport.write_eof()
        self.deadline = self._loop.time() + LINGER_SECONDS

    def _write(self, response: Response, *, closes: bool, has_body: bool) -> None:
        head = head_of(response, self._connections.clock.line(), closes=closes)
        self._transport.writelines((head, response.body) if has_body else (head,))

    # Ends.

    def take_no_more(self) -> None:
        """Answer the requests that are whole, then close."""
        self._is_deaf = True
        if self._ahead:
            self._ahead[-1] = (self._ahead[-1][0], False)
        elif self.is_busy:
            self._keeps_open = False
        else:
            self.deadline = self._loop.time() + TRANSFER_SECONDS
            self._transport.close()

    def expire(self) -> None:
        """End a connection on which nothing came or went for too long."""
        if self._is_receiving and self._is_writable and not self._is_deaf:
            error = RequestError(408, f"The request did not arrive within {TRANSFER_SECONDS:.0f} seconds.")
            self._refuse(error, None)
        else:
            self._transport.abort()

    def abort(self) -> None:
        """Drop the connection."""
        self._transport.abort()


def too_large() -> RequestError:
    """A body over the cap."""
    return RequestError(413, f"The request's body is over {MAX_BODY_BYTES:,} bytes. Send it in parts.", closes=True)


def _path_of(url: bytes) -> bytes:
    if url.startswith(b"/"):
        return url.partition(b"?")[0]
    try:
        return httptools.parse_url(url).path or b"/"
    except httptools.HttpParserInvalidURLError:
        return url
