"""What is refused on a connection, how the refusal reaches the client, and what nobody waits for forever."""

from __future__ import annotations

import asyncio

import pytest

from endcap.serving import connection
from endcap.serving.connection import LINGER_SECONDS, TRANSFER_SECONDS
from tests.serving.sockets import BIG, PRIVATE, Run, Served, chunked, get, post


def test_a_request_refused_by_its_head_is_not_read_further(over_sockets: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/refused", "content-length: 9", method="POST"))
            status, headers, body = await client.answer()
            assert (status, body, headers["connection"]) == (401, b"No.", "close")
            assert await client.rest() == b""
        assert served.app.asked == []

    over_sockets(scenario)


def test_a_refused_request_waits_for_those_before_it_and_ends_those_behind(over_sockets: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/later"), get("/now"), get("/refused"), get("/now"))
            await served.until_asked(1)
            client.send(b"NONSENSE")
            served.app.later[0].set_result(b"")
            assert [await client.status() for _ in range(3)] == [200, 200, 401]
            assert await client.rest() == b""
        assert served.app.paths == ["/later", "/now"]

    over_sockets(scenario)


def test_a_refusal_is_sent_once_whatever_comes_behind_it(over_sockets: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(chunked("/refused", end=b"no chunk\r\n") + b"NONSENSE\r\n\r\n" * 3)
            assert await client.status() == 401
            client.send(b"NONSENSE\r\n\r\n")
            assert await client.rest() == b""

    over_sockets(scenario)


def test_a_client_that_still_sends_gets_its_refusal(over_sockets: Run) -> None:
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

    over_sockets(scenario)


def test_nobody_lingers_for_long_behind_the_last_answer(over_sockets: Run) -> None:
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

    over_sockets(scenario)


def test_nothing_is_answered_behind_the_last_answer(over_sockets: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/later") + get("/big-closes") + get("/now") + get("/refused"))
            await served.until_asked(1)
            served.app.later[0].set_result(b"")
            assert [await client.status() for _ in range(2)] == [200, 503]
            assert await client.rest() == b""
            assert served.only.deadline < served.loop.time() + LINGER_SECONDS + 1
        assert served.app.paths == ["/later", "/big-closes"]

    over_sockets(scenario)


def test_the_clients_end_is_seen_though_it_sent_too_much_ahead(over_sockets: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/later") + get("/now") * 100)
            await served.until_asked(1)
            served.app.later[0].set_exception(ZeroDivisionError(PRIVATE))
            assert await client.status() == 500
            assert await client.rest() == b""
            assert served.connections.num_busy == 0
        await served.until_gone()

    over_sockets(scenario, "ZeroDivisionError in conclude")


def test_a_last_answer_that_is_still_taken_has_longer(over_sockets: Run) -> None:
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

    over_sockets(scenario)


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
def test_what_can_be_read_in_two_ways_is_refused(over_sockets: Run, sent: bytes, status: int) -> None:
    async def scenario(served: Served) -> None:
        for before in (0, 1):
            async with served.client() as client:
                client.send(get("/now") * before + sent + get("/smuggled"))
                assert [await client.status() for _ in range(before + 1)] == [200] * before + [status]
                assert await client.rest() == b""
        assert served.app.paths == ["/now"]

    over_sockets(scenario)


def test_a_head_over_the_limit_is_refused(over_sockets: Run, monkeypatch: pytest.MonkeyPatch) -> None:
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

    over_sockets(scenario)


@pytest.mark.parametrize(
    "begun", [b"GET /", get("/", "a: ").rstrip(), chunked("/", b"x", end=b"1;a="), chunked("/", b"x", end=b"0\r\na: ")]
)
def test_what_is_no_body_never_goes_on_forever(
    over_sockets: Run, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
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

    over_sockets(scenario)


def test_a_body_is_not_counted_as_head(over_sockets: Run, monkeypatch: pytest.MonkeyPatch) -> None:
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

    over_sockets(scenario)


def test_a_body_over_the_cap_is_refused_while_it_comes(over_sockets: Run, monkeypatch: pytest.MonkeyPatch) -> None:
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

    over_sockets(scenario)


@pytest.mark.parametrize("begun", [b"G", get("/now")[:-2], post("/now", b"body")[:-1], chunked("/now", b"x", end=b"0")])
def test_a_request_that_comes_too_slowly_is_refused(over_sockets: Run, begun: bytes) -> None:
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

    over_sockets(scenario)
