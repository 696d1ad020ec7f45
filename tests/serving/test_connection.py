"""HTTP/1.1 on real sockets, with an application that does as the path says: order, limits, refusals and ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from endcap.serving import connection
from endcap.serving.connection import IDLE_SECONDS, LINGER_SECONDS, TRANSFER_SECONDS, Connections
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
def run(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Run:
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


def test_answers_one_request_after_the_other_on_one_connection(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            for body in (b"", b"first", b"second"):
                client.send(post("/echo?query", body, "X-Name: Value"))
                status, headers, received = await client.answer()
                assert (status, received) == (200, body)
                assert headers["content-length"] == str(len(body))
                assert headers["date"].endswith(" GMT")
                assert headers["content-type"] == "application/json"
                assert headers["connection"] == "keep-alive"
        assert served.app.asked[1] == ("POST", "/echo", b"first")
        assert served.app.requests[1].headers[1:] == [(b"content-length", b"5"), (b"x-name", b"Value")]

    run(scenario)


@pytest.mark.parametrize(
    ("target", "path"),
    [("/a?b", "/a"), ("/?", "/"), ("http://x/a?b", "/a"), ("http://x", "/"), ("*", "*"), ("/a%2f%00", "/a%2f%00")],
)
def test_the_path_is_the_targets(run: Run, target: str, path: str) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get(target, method="OPTIONS"))
            assert await client.status() == 200
        assert served.app.paths == [path]

    run(scenario)


@pytest.mark.parametrize(
    ("version", "header", "keeps_open"),
    [
        ("1.1", "x: y", True),
        ("1.1", "connection: close", False),
        ("1.1", "Connection: Close, x", False),
        ("1.0", "x: y", False),
        ("1.0", "connection: keep-alive", True),
    ],
)
def test_the_client_says_whether_the_connection_stays(run: Run, version: str, header: str, keeps_open: bool) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/later", header, version=version))
            await served.until_asked(1)
            served.app.later[0].set_result(b"done")
            status, headers, body = await client.answer()
            assert (status, body) == (200, b"done")
            assert headers["connection"] == ("keep-alive" if keeps_open else "close")
            if keeps_open:
                client.send(get("/again", version=version))
                assert await client.status() == 200
            else:
                assert await client.rest() == b""
                assert served.app.paths == ["/later"]

    run(scenario)


def test_a_request_may_come_byte_by_byte(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            for byte in chunked("/echo", b"body", b"parts"):
                client.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await client.answer())[2] == b"bodyparts"

    run(scenario)


def test_head_gets_the_length_without_the_body(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/big", method="HEAD"), get("/refused", method="HEAD"))
            status, headers, _ = await client.answer(has_body=False)
            assert (status, headers["content-length"]) == (200, str(len(BIG)))
            status, headers, _ = await client.answer(has_body=False)
            assert (status, headers["content-length"]) == (401, "3")
            assert await client.rest() == b""

    run(scenario)


def test_answers_come_in_the_order_of_the_requests_one_at_a_time(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(post("/later", b"1"), post("/now", b"2"), post("/later", b"3"))
            await served.until_asked(1)
            assert served.connections.num_busy == 1
            await asyncio.sleep(0.01)
            assert len(served.app.asked) == 1
            served.app.later[0].set_result(b"later")
            await served.until_asked(3)
            served.app.later[1].set_result(b"later")
            assert [(await client.answer())[2] for _ in range(3)] == [b"later1", b"2", b"later3"]
            assert served.connections.num_busy == 0

    run(scenario)


def test_many_requests_at_once_leave_the_loop_to_others_in_between(run: Run) -> None:
    async def scenario(served: Served) -> None:
        turns = [0]

        def turn() -> None:
            turns[-1] += 1
            ticking[0] = served.loop.call_soon(turn)

        ticking = [served.loop.call_soon(turn)]
        served.app.on_answer = lambda: turns.append(turns[-1])
        async with served.client() as client:
            client.send(get("/now") * 500)
            for _ in range(500):
                assert await client.status() == 200
        ticking[0].cancel()
        assert len(set(turns)) == len(turns) == 501

    run(scenario)


def test_takes_in_only_so_much_ahead_of_an_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_BODY_BYTES", 2**20)

    async def scenario(served: Served) -> None:
        large = post("/now", bytes(2**19))
        for many in ([large] * 30, [get("/now") * 5000] * 100):
            async with served.client() as client:
                client.send(get("/later"))
                await served.until(lambda: served.app.later)
                client.send(*many)
                sent = asyncio.create_task(client.writer.drain())
                served.sweep(IDLE_SECONDS + 1)
                await asyncio.sleep(0.05)
                # The client can't get rid of it: most of it is still with it.
                assert client.writer.transport.get_write_buffer_size() > sum(map(len, many)) / 2
                served.app.later.pop().set_result(b"")
                for _ in range(1 + 20):
                    assert await client.status() == 200
                client.reset()
                with contextlib.suppress(OSError):
                    await sent
            await served.until_gone()

    run(scenario)


def test_a_request_refused_by_its_head_is_not_read_further(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/refused", "content-length: 9", method="POST"))
            status, headers, body = await client.answer()
            assert (status, body, headers["connection"]) == (401, b"No.", "close")
            assert await client.rest() == b""
        assert served.app.asked == []

    run(scenario)


def test_a_refused_request_waits_for_those_before_it_and_ends_those_behind(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/later"), get("/now"), get("/refused"), get("/now"))
            await served.until_asked(1)
            client.send(b"NONSENSE")
            served.app.later[0].set_result(b"")
            assert [await client.status() for _ in range(3)] == [200, 200, 401]
            assert await client.rest() == b""
        assert served.app.paths == ["/later", "/now"]

    run(scenario)


def test_a_refusal_is_sent_once_whatever_comes_behind_it(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(chunked("/refused", end=b"no chunk\r\n") + b"NONSENSE\r\n\r\n" * 3)
            assert await client.status() == 401
            client.send(b"NONSENSE\r\n\r\n")
            assert await client.rest() == b""

    run(scenario)


def test_a_client_that_still_sends_gets_its_refusal(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            # Closed with bytes unread, the connection would be reset, and the answer lost.
            client.send(post("/refused", BIG))
            await client.writer.drain()
            await asyncio.sleep(0.01)
            client.send(BIG)
            await client.writer.drain()
            assert await client.status() == 401
            assert await client.rest() == b""

    run(scenario)


def test_nobody_lingers_for_long_behind_the_last_answer(run: Run) -> None:
    async def scenario(served: Served) -> None:
        for sent, status in ((get("/refused"), 401), (post("/refused", b"body")[:-1], 401), (get("/closes"), 503)):
            async with served.client() as client:
                client.send(sent)
                assert await client.status() == status
                assert await client.rest() == b""
                served.sweep(LINGER_SECONDS - 0.5)
                await asyncio.sleep(0.01)
                assert len(served.connections.open) == 1
                client.send(get("/now"))
                served.sweep(LINGER_SECONDS + 0.5)
                await served.until_gone()
        assert served.app.paths == ["/closes"]

    run(scenario)


def test_nothing_is_answered_behind_the_last_answer(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/later") + get("/big-closes") + get("/now") + get("/refused"))
            await served.until_asked(1)
            served.app.later[0].set_result(b"")
            assert [await client.status() for _ in range(2)] == [200, 503]
            assert await client.rest() == b""
            assert served.only.deadline < served.loop.time() + LINGER_SECONDS + 1
        assert served.app.paths == ["/later", "/big-closes"]

    run(scenario)


def test_the_clients_end_is_seen_though_it_sent_too_much_ahead(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/later") + get("/now") * 100)
            await served.until_asked(1)
            served.app.later[0].set_exception(ZeroDivisionError(PRIVATE))
            assert await client.status() == 500
            assert await client.rest() == b""
            assert served.connections.num_busy == 0
        await served.until_gone()

    run(scenario, "ZeroDivisionError in conclude")


def test_a_last_answer_that_is_still_taken_has_longer(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/big", "connection: close"))
            await served.until_due(LINGER_SECONDS)
            served.sweep(LINGER_SECONDS + 1)
            assert len(await client.rest()) > len(BIG)
        async with served.client() as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            client.send(get("/big", "connection: close"))
            await served.until(lambda: served.connections.open)
            await served.until_due(LINGER_SECONDS)
            served.sweep(LINGER_SECONDS + 1)
            served.sweep(TRANSFER_SECONDS - 1)
            await asyncio.sleep(0.01)
            assert len(served.connections.open) == 1
            served.sweep(TRANSFER_SECONDS + 1)
            await served.until_gone()

    run(scenario)


def test_asks_for_the_body_of_a_client_that_expects_it(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            head = get("/echo", "Expect: 100-Continue", "content-length: 4", method="POST")
            client.send(head)
            assert await client.answer() == (100, {}, b"")
            client.send(b"body")
            assert (await client.answer())[2] == b"body"
            client.send(head.replace(b"/echo", b"/refused"))
            assert await client.status() == 401
            assert await client.rest() == b""

    run(scenario)


def test_says_continue_to_nobody_who_could_take_it_for_another_answer(run: Run) -> None:
    async def scenario(served: Served) -> None:
        expecting = post("/now", b"body", "expect: 100-continue")
        async with served.client() as client:
            client.send(get("/later"), expecting, expecting)
            await served.until_asked(1)
            served.app.later[0].set_result(b"")
            assert [await client.status() for _ in range(3)] == [200, 200, 200]
            client.send(expecting.replace(b"HTTP/1.1", b"HTTP/1.0"))
            assert await client.status() == 200
            assert await client.rest() == b""

    run(scenario)


def test_chunks_are_joined_and_trailers_are_no_headers(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            parts = [b"x" * 10_000, b"y", b"", b"z" * 300_000]
            client.send(chunked("/echo", *filter(None, parts), end=b"0\r\nauthorization: trailer\r\n\r\n"))
            assert (await client.answer())[2] == b"".join(parts)
            client.send(chunked("/echo"), post("/echo", b"next"))
            assert (await client.answer())[2] == b""
            assert (await client.answer())[2] == b"next"
        assert not any(name == b"authorization" for request in served.app.requests for name, _ in request.headers)

    run(scenario)


@pytest.mark.parametrize("num_bytes", [1, 50, 1000])
def test_a_wish_for_another_protocol_is_passed_over(run: Run, num_bytes: int) -> None:
    async def scenario(served: Served) -> None:
        # What Java's client sends first of all, body included.
        wish = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAA")
        sent = (
            post("/echo", b"body", *wish)
            + get("/plain", *wish)
            + chunked("/echo", b"plain")
            + post("/last", b"end", *wish)
        )
        async with served.client() as client:
            for start in range(0, len(sent), num_bytes):
                client.send(sent[start : start + num_bytes])
                await asyncio.sleep(0)
            assert [(await client.answer())[2] for _ in range(4)] == [b"body", b"", b"plain", b"end"]
            assert served.app.paths == ["/echo", "/plain", "/echo", "/last"]
            client.send(post("/refused", b"body", *wish), get("/now"))
            assert await client.status() == 401
            assert await client.rest() == b""

    run(scenario)


def test_a_thousand_wishes_for_another_protocol_at_once(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/now", "connection: upgrade", "upgrade: x") * 1500)
            for _ in range(1500):
                assert await client.status() == 200

    run(scenario)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET / HTTP/1.2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nhost: x\n\n", 400),
        (b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n", 400),
        (get("/", "a: \x00"), 400),
        (get("/", "a: 1\r\n 2"), 400),
        (get("/", "content-length : 5"), 400),
        (get("/", "content-length: five"), 400),
        (get("/", "content-length: -5"), 400),
        (get("/", "content-length: +5"), 400),
        (get("/", "content-length: 5, 5"), 400),
        (get("/", "content-length:"), 400),
        (get("/", "content-length: 99999999999999999999"), 400),
        (get("/", "content-length: 5", "content-length: 6"), 400),
        (get("/", "content-length: 5", "transfer-encoding: chunked"), 400),
        (get("/", "transfer-encoding: chunked", "content-length: 5"), 400),
        (get("/", "transfer-encoding: gzip"), 400),
        (get("/", "transfer-encoding: chunked, identity"), 400),
        (get("/", "transfer-encoding: xchunked"), 400),
        (get("/", "transfer-encoding: chunked", "connection: keep-alive", version="1.0") + b"0\r\n\r\n", 400),
        (chunked("/", end=b"zz\r\n"), 400),
        (chunked("/", end=b"-1\r\n"), 400),
        (chunked("/", end=b"11111111111111111\r\n"), 400),
        (chunked("/", end=b"1\r\nab\r\n0\r\n\r\n"), 400),
        (get("x:1", method="CONNECT"), 501),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(run: Run, sent: bytes, status: int) -> None:
    async def scenario(served: Served) -> None:
        for before in (0, 1):
            async with served.client() as client:
                client.send(get("/now") * before + sent + get("/smuggled"))
                assert [await client.status() for _ in range(before + 1)] == [200] * before + [status]
                assert await client.rest() == b""
        assert served.app.paths == ["/now"]

    run(scenario)


def test_a_head_over_the_limit_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_HEAD_BYTES", 1000)

    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/now", f"a: {'x' * 900}"), get("/now", *["a:"] * 160))
            assert [await client.status() for _ in range(2)] == [200, 200]
        heads = [
            get("/now", f"a: {'x' * 1000}"),
            get("/now", *["a:"] * 250),
            get("/" + "x" * 1000),
            get("/" + "x" * 600, "a: " + "x" * 600, "connection: upgrade", "upgrade: x"),
        ]
        for head in heads:
            for num_bytes in (100, 5000):
                async with served.client() as client:
                    for start in range(0, len(head), num_bytes):
                        client.send(head[start : start + num_bytes])
                        await asyncio.sleep(0.001)
                    status, _, body = await client.answer()
                    assert (status, b"1,000 bytes" in body) == (431, True)
                    assert await client.rest() == b""
        assert served.app.paths == ["/now", "/now"]

    run(scenario)


@pytest.mark.parametrize(
    "begun", [b"GET /", get("/", "a: ").rstrip(), chunked("/", b"x", end=b"1;a="), chunked("/", b"x", end=b"0\r\na: ")]
)
def test_what_is_no_body_never_goes_on_forever(run: Run, begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_HEAD_BYTES", 1000)

    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(begun)
            for _ in range(12):
                await asyncio.sleep(0.001)
                assert served.only.deadline > served.loop.time() + LINGER_SECONDS + 1
                client.send(b"x" * 80)
            client.send(b"x" * 200)
            assert await client.status() == 431
            assert await client.rest() == b""
        assert served.app.asked == []

    run(scenario)


def test_a_body_is_not_counted_as_head(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_HEAD_BYTES", 1000)

    async def scenario(served: Served) -> None:
        async with served.client() as client:
            # In one read: much of a body, and the start of the next head.
            client.send(post("/echo", bytes(5000)) + get("/next")[:10])
            assert (await client.answer())[2] == bytes(5000)
            client.send(get("/next")[10:])
            assert await client.status() == 200
            for chunk in [get("/echo", "content-length: 5000", method="POST"), *[bytes(500)] * 10]:
                client.send(chunk)
                await asyncio.sleep(0.001)
            assert (await client.answer())[2] == bytes(5000)

    run(scenario)


def test_a_body_over_the_cap_is_refused_while_it_comes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_BODY_BYTES", 300_000)
    fits, last = bytes(300_000), bytes(1)

    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(post("/echo", fits), chunked("/echo", fits[:1], fits[1:]))
            assert [(await client.answer())[2] for _ in range(2)] == [fits, fits]
        for sent in (post("/echo", fits + last), chunked("/echo", fits, last), chunked("/echo", *[last] * 300_001)):
            async with served.client() as client:
                client.send(sent, get("/now"))
                status, _, body = await client.answer()
                assert (status, b"300,000 bytes" in body) == (413, True)
                assert await client.rest() == b""
        assert served.app.paths == ["/echo", "/echo"]

    run(scenario)


@pytest.mark.parametrize("begun", [b"G", get("/now")[:-2], post("/now", b"body")[:-1], chunked("/now", b"x", end=b"0")])
def test_a_request_that_comes_too_slowly_is_refused(run: Run, begun: bytes) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/now"))
            assert await client.status() == 200
            client.send(begun[:1])
            await served.until_due(TRANSFER_SECONDS)
            due = served.only.deadline
            client.send(begun[1:])
            await asyncio.sleep(0.01)
            assert served.only.deadline == due
            served.sweep(TRANSFER_SECONDS - 1)
            await asyncio.sleep(0.01)
            served.sweep(TRANSFER_SECONDS + 1)
            status, _, body = await client.answer()
            assert (status, b"30 seconds" in body) == (408, True)
            assert await client.rest() == b""
        assert served.app.paths == ["/now"]

    run(scenario)


def test_no_time_runs_while_the_server_owes_an_answer(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            begun, end = b"GET /now HT", b"TP/1.1\r\n\r\n"
            client.send(get("/later") + begun)
            await served.until_asked(1)
            served.sweep(1e9)
            served.app.later[0].set_result(b"")
            assert await client.status() == 200
            await served.until_due(TRANSFER_SECONDS)
            client.send(end)
            assert await client.status() == 200
            await served.until_due(IDLE_SECONDS)

    run(scenario)


def test_an_idle_connection_is_closed(run: Run) -> None:
    async def scenario(served: Served) -> None:
        for sent in (b"", b"\r\n\r\n", get("/now"), post("/now", b"body")):
            async with served.client() as client:
                client.send(sent)
                if sent.strip():
                    assert await client.status() == 200
                await served.until(lambda: served.connections.open)
                await served.until_due(IDLE_SECONDS)
                served.sweep(IDLE_SECONDS - 1)
                await asyncio.sleep(0.01)
                assert len(served.connections.open) == 1
                served.sweep(IDLE_SECONDS + 1)
                assert await client.rest() == b""
                await served.until_gone()

    run(scenario)


@pytest.mark.parametrize("reads", [True, False])
def test_computes_nothing_more_for_a_client_that_does_not_read(run: Run, reads: bool) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            client.send(get("/big") + get("/now"))
            await served.until_asked(1)
            await served.until_due(TRANSFER_SECONDS)
            due = served.only.deadline
            client.send(get("/now"))
            await asyncio.sleep(0.01)
            client.send(get("/refused"))
            served.sweep(TRANSFER_SECONDS - 1)
            await asyncio.sleep(0.01)
            assert served.app.paths == ["/big"]
            assert served.only.deadline == due
            if reads:
                client.writer.transport.resume_reading()  # type: ignore[attr-defined]
                assert [await client.status() for _ in range(4)] == [200, 200, 200, 401]
                assert await client.rest() == b""
            else:
                served.sweep(TRANSFER_SECONDS + 1)
                await served.until_gone()
                assert served.app.paths == ["/big"]

    run(scenario)


def test_a_request_that_was_about_to_begin_waits_too(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/later") + get("/now"))
            await served.until_asked(1)
            served.app.later[0].add_done_callback(lambda _: served.only.pause_writing())
            served.app.later[0].set_result(b"")
            assert await client.status() == 200
            assert served.app.paths == ["/later"]
            served.only.resume_writing()
            assert await client.status() == 200

    run(scenario)


def test_an_answer_may_take_its_time_though_the_one_before_was_taken_late(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/later"))
            await served.until_asked(1)
            served.only.pause_writing()
            assert served.only.deadline < served.loop.time() + TRANSFER_SECONDS + 1
            served.only.resume_writing()
            served.sweep(1e9)
            served.app.later[0].set_result(b"done")
            assert (await client.answer())[2] == b"done"

    run(scenario)


@pytest.mark.parametrize("is_killed", [False, True])
def test_nothing_is_computed_for_a_client_that_went_away(run: Run, is_killed: bool) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/later"), get("/now"), get("/refused"))
            await served.until_asked(1)
            client.reset() if is_killed else client.writer.close()
            await served.until_gone()
            assert served.app.later[0].cancelled()
            assert served.connections.num_busy == 0
        await asyncio.sleep(0.01)
        assert served.app.paths == ["/later"]

    run(scenario)


@pytest.mark.parametrize("error", [None, RequestError(504, "Too late.")])
def test_an_answer_to_a_client_that_just_went_away_goes_nowhere(run: Run, error: RequestError | None) -> None:
    def settle(future: asyncio.Future[bytes]) -> None:
        future.set_result(b"") if error is None else future.set_exception(error)

    async def scenario(served: Served) -> None:
        app, connections = served.app, served.connections

        def lose() -> None:
            served.only._transport.abort()

        def lose_and_settle() -> None:
            lose()
            settle(app.later[0])

        def settle_and_abort() -> None:
            settle(app.later[0])
            connections.abort()

        def settle_and_lose() -> None:
            app.later[0].add_done_callback(lambda _: lose())
            settle(app.later[0])

        for act in (lose_and_settle, settle_and_abort, settle_and_lose):
            async with served.client() as client:
                client.send(get("/later") + get("/now"))
                await served.until(lambda: app.later)
                act()
                await served.until_gone()
                app.later.clear()
        assert app.paths == ["/later"] * 3

    run(scenario)


def test_a_half_closed_connection_gets_what_is_answered_already(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/big"))
            client.writer.write_eof()
            assert (await client.answer())[2] == BIG
            assert await client.rest() == b""

    run(scenario)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/head-fails", "ZeroDivisionError in check_head"),
        ("/answer-fails", "ZeroDivisionError in answer"),
        ("/header-in-header", "ValueError in head_of"),
        ("/no-status", "KeyError in head_of"),
    ],
)
def test_an_application_that_fails_is_a_500_without_its_words(run: Run, path: str, error: str) -> None:
    async def scenario(served: Served) -> None:
        for sent in (get(path, f"x: {PRIVATE}"), get("/later") + get(path) + get("/now"), post(path, b"body")):
            async with served.client() as client:
                client.send(sent)
                if b"/later" in sent:
                    await served.until(lambda: served.app.later)
                    served.app.later.pop().set_result(b"")
                    assert await client.status() == 200
                status, headers, body = await client.answer()
                assert (status, headers["connection"]) == (500, "close")
                assert PRIVATE.encode() not in body
                assert await client.rest() == b""
            await served.until_gone()
        assert "/now" not in served.app.paths

    run(scenario, error, error, error)


@pytest.mark.parametrize(
    ("settle", "error"),
    [
        (lambda future: future.set_exception(ZeroDivisionError(PRIVATE)), "ZeroDivisionError in conclude"),
        (lambda future: future.set_result(PRIVATE), "TypeError in conclude"),
        (lambda future: future.cancel(), "RuntimeError in _deliver"),
    ],
)
def test_an_answer_that_fails_later_is_a_500_too(
    run: Run, settle: Callable[[asyncio.Future[Any]], None], error: str
) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(post("/later", b"body"), get("/now"))
            await served.until_asked(1)
            settle(served.app.later[0])
            assert await client.status() == 500
            assert await client.rest() == b""
        assert served.app.paths == ["/later"]

    run(scenario, error)


def test_an_application_that_fails_at_failing_ends_the_connection(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/all-fails"))
            assert await client.rest() == b""
        await served.until_gone()

    run(scenario, "ZeroDivisionError in answer", "ZeroDivisionError in refuse")


def test_nothing_is_kept_for_longer_than_it_is_needed(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(post("/echo", b"body"))
            assert (await client.answer())[2] == b"body"
            # An open connection keeps no body, and a closed one leaves nothing for the collector.
            assert served.app.requests[0].body == b""
            assert served.only._body == b""
            kept = weakref.ref(served.only)
            gc.disable()
        await served.until_gone()
        await asyncio.sleep(0.001)
        assert kept() is None

    try:
        run(scenario)
    finally:
        gc.enable()


def test_closing_lets_whole_requests_have_their_answers(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as idle, served.client() as busy, served.client() as ahead, served.client() as half:
            idle.send(get("/now"))
            assert await idle.status() == 200
            busy.send(get("/later"))
            await served.until_asked(2)
            ahead.send(get("/later") + get("/now"))
            await served.until_asked(3)
            half.send(get("/now") + get("/now")[:9])
            assert await half.status() == 200
            served.connections.close_idle()
            assert await idle.rest() == b""
            for client in (busy, ahead):
                client.send(get("/too-late"))
            await asyncio.sleep(0.01)
            for future in served.app.later:
                future.set_result(b"done")
            for client, bodies in ((busy, [b"done"]), (ahead, [b"done", b""])):
                answers = [await client.answer() for _ in bodies]
                assert [body for _, _, body in answers] == bodies
                assert answers[-1][1]["connection"] == "close"
                assert await client.rest() == b""
            status, headers, _ = await half.answer()
            assert (status, headers["retry-after"]) == (503, "1")
            assert await half.rest() == b""
        await served.until_gone()
        assert "/too-late" not in served.app.paths

    run(scenario)


def test_aborting_drops_all(run: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as idle, served.client() as busy:
            busy.send(get("/later"))
            await served.until_asked(1)
            await served.until(lambda: len(served.connections.open) == 2)
            served.connections.abort()
            assert served.app.later[0].cancelled()
            assert [await idle.rest(), await busy.rest()] == [b"", b""]
            await served.until_gone()

    run(scenario)
