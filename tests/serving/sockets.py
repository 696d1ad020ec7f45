"""An application that does as the path says, behind a listening socket, and clients of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from endcap.serving import connection
from endcap.serving.connection import Connections
from endcap.serving.errors import RequestError
from endcap.serving.messages import Request, Response

PRIVATE = "user 4711"
BIG = bytes(8_000_000)


class App:
    """Echoes the body; the path says when and whether."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        self.requests: list[Request] = []
        self.later: list[asyncio.Future[bytes]] = []
        self.on_answer: Callable[[], None] = lambda: None

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _ in self.asked]

    def check_head(self, request: Request) -> None:
        if request.path == b"/refused":
            raise RequestError(401, "No.")
        if request.path == b"/head-fails":
            raise ZeroDivisionError(PRIVATE)

    def answer(self, request: Request) -> Response | asyncio.Future[bytes]:
        self.on_answer()
        self.asked.append((request.method.decode(), request.path.decode(), request.body))
        self.requests.append(request)
        match request.path:
            case b"/later":
                self.later.append(asyncio.get_running_loop().create_future())
                return self.later[-1]
            case b"/big":
                return Response(200, BIG)
            case b"/closes":
                return Response(503, b"bye", closes=True)
            case b"/big-closes":
                return Response(503, BIG, closes=True)
            case b"/answer-fails" | b"/all-fails":
                raise ZeroDivisionError(PRIVATE)
            case b"/header-in-header":
                return Response(200, b"", headers=((b"allow", f"a\r\n{PRIVATE}: b".encode()),))
            case b"/no-status":
                return Response(999, PRIVATE.encode())
        return Response(200, request.body, headers=((b"x-path", request.path),))

    def conclude(self, request: Request, answer: asyncio.Future[bytes]) -> Response:
        if isinstance(answer.exception(), RequestError):
            return Response(504, b"")
        return Response(200, answer.result() + request.body)

    def refuse(self, error: RequestError, request: Request | None) -> Response:
        if request is not None and request.path == b"/all-fails":
            raise ZeroDivisionError(PRIVATE)
        return Response(error.status, error.message.encode(), headers=error.headers)


class Client:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)

    async def answer(self, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """The next one; an interim one counts."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        assert len(headers) == len(lines)
        body = await self.reader.readexactly(int(headers.get("content-length", 0))) if has_body else b""
        return int(status.split()[1]), headers, body

    async def status(self) -> int:
        return (await self.answer())[0]

    async def rest(self) -> bytes:
        """All until the server ends the connection."""
        return await self.reader.read()

    def reset(self) -> None:
        """Go without a farewell, as a process does that is killed."""
        option = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        self.writer.transport.abort()


class Served:
    """A listening server."""

    def __init__(self) -> None:
        self.app = App()
        self.connections = Connections(self.app)
        self.loop = asyncio.get_running_loop()
        self.listener = socket.create_server(("127.0.0.1", 0))
        # What is sent and not read piles up where the tests can see it.
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        client = Client(*await asyncio.open_connection(*self.listener.getsockname()[:2], limit=2**25))
        try:
            yield client
        finally:
            client.writer.close()
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()

    @property
    def only(self) -> connection.Connection:
        """The open connection."""
        (one,) = self.connections.open
        return one

    async def until(self, is_reached: Callable[[], Any]) -> None:
        while not is_reached():
            await asyncio.sleep(0.001)

    async def until_asked(self, num_requests: int) -> None:
        await self.until(lambda: len(self.app.asked) == num_requests)

    async def until_due(self, seconds: float) -> None:
        """Until the open connection's time runs out in about that many seconds."""
        await self.until(lambda: abs(self.only.deadline - self.loop.time() - seconds) < 1)

    async def until_gone(self) -> None:
        await self.until(lambda: not self.connections.open)

    def sweep(self, seconds: float) -> None:
        """As if that many seconds had gone by."""
        self.connections.sweep(self.loop.time() + seconds)


Scenario = Callable[[Served], Awaitable[None]]
Run = Callable[..., None]


@pytest.fixture(params=["uvloop", "asyncio"])
def over_sockets(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Run:
    """Runs a scenario against a server, on either kind of loop; nothing is logged, unless a part of it is told."""

    async def serve(scenario: Scenario) -> None:
        problems: list[dict[str, Any]] = []
        served = Served()
        served.loop.set_exception_handler(lambda _, context: problems.append(context))
        server = await served.loop.create_server(served.connections.connect, sock=served.listener)
        try:
            await asyncio.wait_for(scenario(served), 5)
        finally:
            served.connections.abort()
            server.close()
            await asyncio.wait_for(served.until_gone(), 5)
        gc.collect(1)
        await asyncio.sleep(0)
        assert problems == []

    def run(scenario: Scenario, *logged: str) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(serve(scenario))
        assert len(caplog.records) == len(logged), caplog.text
        assert all(part in record.getMessage() for part, record in zip(logged, caplog.records, strict=True))
        assert "4711" not in caplog.text

    return run


def get(path: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "host: x", *headers, "", ""]).encode()


def post(path: str, body: bytes, *headers: str) -> bytes:
    return get(path, f"content-length: {len(body)}", *headers, method="POST") + body


def chunked(path: str, *chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return get(path, "Transfer-Encoding: chunked", method="POST") + framed + end
