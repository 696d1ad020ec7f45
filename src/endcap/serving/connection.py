"""Bytes from a socket in, requests to the application and its responses back: HTTP/1.1 on asyncio, parsed by llhttp.

A request costs a few callbacks, no task and no coroutine of its own: under load that is a sixth of an answer's
processor time (docs/06-serving.md).
"""

from __future__ import annotations

import asyncio
import logging
import math
import traceback
from collections import deque
from typing import Any, Final, cast

import httptools

from endcap.serving.errors import RequestError
from endcap.serving.messages import Application, Clock, Header, Request, Response, head_of, path_of

logger = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 16 * 2**20
MAX_HEAD_BYTES: Final = 64 * 2**10
# A connection without a request. Longer than load balancers keep theirs (60 s is common), so that they close first.
IDLE_SECONDS: Final = 75.0
# From a request's first byte to its last, and from an answer until the client has taken it.
TRANSFER_SECONDS: Final = 30.0
# What still comes behind a connection's last answer is read and dropped for this long: closing at once would reset the
# connection, and the client might never see the answer.
LINGER_SECONDS: Final = 2.0
# Requests sent ahead of their answers on one connection, unless their bodies are large; more wait in the socket.
_MAX_AHEAD: Final = 16
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# Headers that change how the request is read.
_HEEDED: Final = frozenset({b"expect", b"transfer-encoding"})


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
        self._body: bytes | bytearray = b""
        self._ahead: deque[tuple[Request, bool]] = deque()
        # What is answered behind all those ahead, as the last.
        self._refused: tuple[RequestError, Request | None] | None = None
        self._pending: asyncio.Future[Any] | None = None
        self.is_busy = False
        """Whether a request is being answered, or is about to be."""
        self._is_receiving = False
        self._is_writable = True
        self._is_reading = True
        # Nothing that comes is looked at any more.
        self._is_deaf = False
        # The last answer is written; the client's end is awaited.
        self._is_lingering = False
        # The request being parsed wishes another protocol.
        self._is_upgrade = False
        self.deadline = self._loop.time() + IDLE_SECONDS
        """When it is to `expire`, in the event loop's time."""

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = cast(asyncio.Transport, transport)
        self._peer = transport.get_extra_info("peername")
        self._connections.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        """The connection is gone."""
        self._connections.open.discard(self)
        self._drop()
        del self._parser  # Each holds the other: the collector would have to find them.

    def data_received(self, data: bytes) -> None:
        """Some bytes, which may hold a part of a request or several."""
        if self._is_deaf:
            return
        self._has_begun = False
        self._num_read = len(data)
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self._is_upgrade:
                    data = self._without_upgrade(data[upgrade.args[0] :])
                    continue
            except httptools.HttpParserCallbackError as error:
                _log(error.__context__ or error)
                self._refuse(_failed(), None)
            except httptools.HttpParserError:
                self._refuse(RequestError(400, "This is not HTTP/1.1. Send requests as the documentation shows."), None)
            break
        if self._is_receiving:
            self._num_bytes += self._num_read
            if self._num_bytes > MAX_HEAD_BYTES:
                self._refuse(_head_too_large(), None)

    def eof_received(self) -> bool:
        """The client is gone: those that give up an answer do it like this, and next to none that still wait for one."""
        self._drop()
        self.deadline = self._loop.time() + TRANSFER_SECONDS
        return False

    def pause_writing(self) -> None:
        """The client doesn't take its answers: no more are computed for it."""
        self._is_writable = False
        self.deadline = self._loop.time() + TRANSFER_SECONDS

    def resume_writing(self) -> None:
        """The client has taken what there was."""
        self._is_writable = True
        if self.is_busy:
            self.deadline = math.inf
        else:
            self._go_on()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._headers: list[Header] = []
        self._url = b""
        self._is_receiving = True
        # Bytes read since the request began or its body last grew; those of that read, of which it isn't known how many
        # came before, cancel out at its end.
        self._num_bytes = -self._num_read
        if not self.is_busy and self._is_writable and not self._is_deaf:
            self.deadline = self._loop.time() + TRANSFER_SECONDS

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or what follows a chunked body in the form of one."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole: a request that can be refused by it is not read further."""
        if self._is_deaf:  # sent ahead, behind one that was refused
            return
        if self._num_bytes >= 0 or self._num_read > MAX_HEAD_BYTES:  # of several reads, or of a large one
            num_bytes = len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers)
            if num_bytes > MAX_HEAD_BYTES:
                self._refuse(_head_too_large(), None)
                return
        method = self._parser.get_method()
        if self._parser.should_upgrade():
            self._is_deaf = self._is_upgrade = method != b"CONNECT"
            if not self._is_upgrade:
                self._refuse(RequestError(501, "This server is no proxy: CONNECT is not known here."), None)
            return
        self._request = Request(method, path_of(self._url), self._headers)
        self._request.peer = self._peer
        if b"?" in self._url:
            self._request.query = self._url.partition(b"?")[2]
        try:
            self._app.check_head(self._request)
            for name, value in self._headers:
                if name in _HEEDED:
                    self._heed(name, value)
        except RequestError as error:
            self._refuse(error, self._request)
        self._headers = []  # What follows the body is none of the request's.

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self._is_deaf:
            return
        self._num_bytes = -self._num_read
        if len(self._body) + len(body) > MAX_BODY_BYTES:
            self._refuse(too_large(), self._request)
        elif not self._body:
            self._body = body
        else:
            # In one piece: of chunks of a few bytes each, a list would take a hundred times the space.
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._is_receiving = False
        if self._is_deaf:
            return
        request = self._request
        request.body = bytes(self._body)
        self._body = b""
        keeps_open = self._parser.should_keep_alive()
        if not self.is_busy and not self._has_begun and self._is_writable:
            self._has_begun = True
            self._begin(request, keeps_open)
            return
        self._ahead.append((request, keeps_open))
        if self._is_reading:
            num_bytes = sum(len(one.body) for one, _ in self._ahead)
            if len(self._ahead) >= _MAX_AHEAD or num_bytes > MAX_BODY_BYTES:
                self._is_reading = False
                self._transport.pause_reading()
        if not self.is_busy and self._is_writable:
            self._go_on()

    def _without_upgrade(self, rest: bytes) -> bytes:
        """The request as if it didn't wish another protocol, which makes llhttp pass over its body, and the rest."""
        lines = [b"%b %b HTTP/%b" % (self._parser.get_method(), self._url, self._parser.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in self._headers if header[0] != b"upgrade"]
        self._parser = httptools.HttpRequestParser(self)
        self._is_deaf = self._is_upgrade = False
        data = b"\r\n".join([*lines, b"", rest])
        self._num_read = len(data)
        return data

    def _heed(self, name: bytes, value: bytes) -> None:
        is_old = self._parser.get_http_version() == "1.0"
        if name == b"transfer-encoding":
            # A proxy that doesn't know of it would see the body's end, and so the next request's start, elsewhere.
            if is_old:
                raise RequestError(400, "HTTP/1.0 has no transfer-encoding. Send content-length, or HTTP/1.1.")
        elif value.lower() == b"100-continue" and not (is_old or self.is_busy or self._ahead) and self._is_writable:
            self._transport.write(_CONTINUE)

    # Answers.

    def _go_on(self) -> None:
        """The next request, if it is here."""
        if self._ahead:
            # By way of the loop: of hundreds sent ahead, each lets the other connections go first.
            self.is_busy = True
            self._loop.call_soon(self._begin_next)
        elif self._refused is not None:
            self._answer_last(*self._refused)
        elif not self._is_deaf:
            self.deadline = self._loop.time() + (TRANSFER_SECONDS if self._is_receiving else IDLE_SECONDS)

    def _begin_next(self) -> None:
        if not self._ahead or self._transport.is_closing():
            return
        if not self._is_writable:
            self.is_busy = False
            return
        request, keeps_open = self._ahead.popleft()
        if not self._is_reading:
            self._is_reading = True
            self._transport.resume_reading()
        self._begin(request, keeps_open)

    def _begin(self, request: Request, keeps_open: bool) -> None:
        self.is_busy = True
        self._keeps_open = keeps_open
        self._asked = request
        self.deadline = math.inf
        try:
            answer = self._app.answer(request)
            if isinstance(answer, Response):
                self._finish(answer)
            else:
                self._pending = answer
                answer.add_done_callback(self._deliver)
        except Exception as error:
            self._fail(error)

    def _deliver(self, answer: asyncio.Future[Any]) -> None:
        self._pending = None
        try:
            if answer.cancelled():  # by the application
                raise RuntimeError
            response = self._app.conclude(self._asked, answer)
            if not self._transport.is_closing():
                self._finish(response)
        except Exception as error:
            self._fail(error)

    def _finish(self, response: Response) -> None:
        closes = response.closes or not self._keeps_open
        self._write(response, self._asked, closes=closes)
        self._asked.let_go()
        self.is_busy = False
        if closes:
            self._end()
        elif self._is_writable:
            self._go_on()

    def _fail(self, error: Exception) -> None:
        _log(error)
        if not self._transport.is_closing():
            self._answer_last(_failed(), self._asked)

    def _refuse(self, error: RequestError, request: Request | None) -> None:
        """Answer a request that is not read to its end, once those ahead have theirs, and close."""
        if self._is_deaf or self._transport.is_closing():
            return
        self._is_deaf = True
        self._body = b""
        self._refused = (error, request)
        if not self.is_busy and self._is_writable:
            self._go_on()

    def _answer_last(self, error: RequestError, request: Request | None) -> None:
        try:
            self._write(self._app.refuse(error, request), request, closes=True)
        except Exception as failure:
            _log(failure)
            self.abort()
        else:
            self._end()

    def _write(self, response: Response, request: Request | None, *, closes: bool) -> None:
        head = head_of(response, self._connections.clock.line(), closes=closes)
        has_body = request is None or request.method != b"HEAD"
        self._transport.writelines((head, response.body) if has_body else (head,))

    # Ends.

    def _end(self) -> None:
        """Send no more, and wait for the client to see it."""
        self._drop()
        self._is_lingering = True
        self.deadline = self._loop.time() + LINGER_SECONDS
        self._transport.write_eof()
        if not self._is_reading:
            self._transport.resume_reading()

    def _drop(self) -> None:
        """Answer nothing more."""
        self._is_deaf = True
        self.is_busy = False
        self._ahead.clear()
        self._refused = None
        if self._pending is not None:
            self._pending.remove_done_callback(self._deliver)
            self._pending.cancel()
            self._pending = None

    def take_no_more(self) -> None:
        """Answer the requests that are whole, then close."""
        if self._is_deaf:  # ends anyway
            return
        if self._is_receiving:
            self._refuse(shutting_down(), None)
        elif self._ahead:
            self._ahead[-1] = (self._ahead[-1][0], False)
        elif self.is_busy:
            self._keeps_open = False
        else:
            self.deadline = self._loop.time() + TRANSFER_SECONDS
            self._transport.close()
        self._is_deaf = True

    def expire(self) -> None:
        """End a connection on which nothing came or went for too long."""
        if self._is_receiving and self._is_writable and not self._is_deaf:
            error = RequestError(408, f"The request did not arrive within {TRANSFER_SECONDS:.0f} seconds.")
            self._refuse(error, None)
        elif self._is_lingering and self._transport.get_write_buffer_size():
            self._is_lingering = False
            self.deadline = self._loop.time() + TRANSFER_SECONDS
        else:
            self.abort()

    def abort(self) -> None:
        """Drop the connection."""
        self._drop()
        self._transport.abort()


def too_large() -> RequestError:
    """A body over the cap."""
    return RequestError(413, f"The request's body is over {MAX_BODY_BYTES:,} bytes. Send it in parts.", closes=True)


def shutting_down() -> RequestError:
    """A request that came too late."""
    return RequestError(
        503, "The server is shutting down. Send the request again.", ((b"retry-after", b"1"),), closes=True
    )


def _head_too_large() -> RequestError:
    return RequestError(431, f"The request's headers are over {MAX_HEAD_BYTES:,} bytes.")


def _failed() -> RequestError:
    return RequestError(500, "The server failed at this request. Its operator finds the place in the log.")


def _log(error: BaseException) -> None:
    places = [f"{frame.f_code.co_name}:{line}" for frame, line in traceback.walk_tb(error.__traceback__)]
    # The error's text may quote the request: type and place only.
    logger.error("A request could not be answered: %s in %s", type(error).__name__, places[-1] if places else "unknown")
