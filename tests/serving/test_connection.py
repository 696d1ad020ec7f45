"""HTTP/1.1 on real sockets: requests, their order and their bodies, as they may come."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from endcap.serving import connection
from endcap.serving.connection import IDLE_SECONDS
from tests.serving.sockets import BIG, Run, Served, chunked, get, post


def test_answers_one_request_after_the_other_on_one_connection(over_sockets: Run) -> None:
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

    over_sockets(scenario)


@pytest.mark.parametrize(
    ("target", "path"),
    [("/a?b", "/a"), ("/?", "/"), ("http://x/a?b", "/a"), ("http://x", "/"), ("*", "*"), ("/a%2f%00", "/a%2f%00")],
)
def test_the_path_is_the_targets(over_sockets: Run, target: str, path: str) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get(target, method="OPTIONS"))
            assert await client.status() == 200
        assert served.app.paths == [path]

    over_sockets(scenario)


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
def test_the_client_says_whether_the_connection_stays(
    over_sockets: Run, version: str, header: str, keeps_open: bool
) -> None:
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

    over_sockets(scenario)


def test_a_request_may_come_byte_by_byte(over_sockets: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            for byte in chunked("/echo", b"body", b"parts"):
                client.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await client.answer())[2] == b"bodyparts"

    over_sockets(scenario)


def test_head_gets_the_length_without_the_body(over_sockets: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/big", method="HEAD"), get("/refused", method="HEAD"))
            status, headers, _ = await client.answer(has_body=False)
            assert (status, headers["content-length"]) == (200, str(len(BIG)))
            status, headers, _ = await client.answer(has_body=False)
            assert (status, headers["content-length"]) == (401, "3")
            assert await client.rest() == b""

    over_sockets(scenario)


def test_answers_come_in_the_order_of_the_requests_one_at_a_time(over_sockets: Run) -> None:
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

    over_sockets(scenario)


def test_many_requests_at_once_leave_the_loop_to_others_in_between(over_sockets: Run) -> None:
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

    over_sockets(scenario)


def test_takes_in_only_so_much_ahead_of_an_answer(over_sockets: Run, monkeypatch: pytest.MonkeyPatch) -> None:
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

    over_sockets(scenario)


def test_asks_for_the_body_of_a_client_that_expects_it(over_sockets: Run) -> None:
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

    over_sockets(scenario)


def test_says_continue_to_nobody_who_could_take_it_for_another_answer(over_sockets: Run) -> None:
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

    over_sockets(scenario)


def test_chunks_are_joined_and_trailers_are_no_headers(over_sockets: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            parts = [b"x" * 10_000, b"y", b"", b"z" * 300_000]
            client.send(chunked("/echo", *filter(None, parts), end=b"0\r\nauthorization: trailer\r\n\r\n"))
            assert (await client.answer())[2] == b"".join(parts)
            client.send(chunked("/echo"), post("/echo", b"next"))
            assert (await client.answer())[2] == b""
            assert (await client.answer())[2] == b"next"
        assert not any(name == b"authorization" for request in served.app.requests for name, _ in request.headers)

    over_sockets(scenario)


@pytest.mark.parametrize("num_bytes", [1, 50, 1000])
def test_a_wish_for_another_protocol_is_passed_over(over_sockets: Run, num_bytes: int) -> None:
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

    over_sockets(scenario)


def test_a_thousand_wishes_for_another_protocol_at_once(over_sockets: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/now", "connection: upgrade", "upgrade: x") * 1500)
            for _ in range(1500):
                assert await client.status() == 200

    over_sockets(scenario)
