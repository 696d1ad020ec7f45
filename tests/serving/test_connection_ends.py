"""Connections at rest, clients that don't read or go away, answers that fail, and a server that closes."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from endcap.serving.connection import IDLE_SECONDS, TRANSFER_SECONDS
from endcap.serving.errors import RequestError
from tests.serving.sockets import BIG, PRIVATE, Run, Served, get, post


def test_no_time_runs_while_the_server_owes_an_answer(over_sockets: Run) -> None:
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

    over_sockets(scenario)


def test_an_idle_connection_is_closed(over_sockets: Run) -> None:
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

    over_sockets(scenario)


@pytest.mark.parametrize("reads", [True, False])
def test_computes_nothing_more_for_a_client_that_does_not_read(over_sockets: Run, reads: bool) -> None:
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

    over_sockets(scenario)


def test_a_request_that_was_about_to_begin_waits_too(over_sockets: Run) -> None:
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

    over_sockets(scenario)


def test_an_answer_may_take_its_time_though_the_one_before_was_taken_late(over_sockets: Run) -> None:
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

    over_sockets(scenario)


@pytest.mark.parametrize("is_killed", [False, True])
def test_nothing_is_computed_for_a_client_that_went_away(over_sockets: Run, is_killed: bool) -> None:
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

    over_sockets(scenario)


@pytest.mark.parametrize("error", [None, RequestError(504, "Too late.")])
def test_an_answer_to_a_client_that_just_went_away_goes_nowhere(over_sockets: Run, error: RequestError | None) -> None:
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

    over_sockets(scenario)


def test_a_half_closed_connection_gets_what_is_answered_already(over_sockets: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/big"))
            client.writer.write_eof()
            assert (await client.answer())[2] == BIG
            assert await client.rest() == b""

    over_sockets(scenario)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/head-fails", "ZeroDivisionError in check_head"),
        ("/answer-fails", "ZeroDivisionError in answer"),
        ("/header-in-header", "ValueError in head_of"),
        ("/no-status", "KeyError in head_of"),
    ],
)
def test_an_application_that_fails_is_a_500_without_its_words(over_sockets: Run, path: str, error: str) -> None:
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

    over_sockets(scenario, error, error, error)


@pytest.mark.parametrize(
    ("settle", "error"),
    [
        (lambda future: future.set_exception(ZeroDivisionError(PRIVATE)), "ZeroDivisionError in conclude"),
        (lambda future: future.set_result(PRIVATE), "TypeError in conclude"),
        (lambda future: future.cancel(), "RuntimeError in _deliver"),
    ],
)
def test_an_answer_that_fails_later_is_a_500_too(
    over_sockets: Run, settle: Callable[[asyncio.Future[Any]], None], error: str
) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(post("/later", b"body"), get("/now"))
            await served.until_asked(1)
            settle(served.app.later[0])
            assert await client.status() == 500
            assert await client.rest() == b""
        assert served.app.paths == ["/later"]

    over_sockets(scenario, error)


def test_an_application_that_fails_at_failing_ends_the_connection(over_sockets: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as client:
            client.send(get("/all-fails"))
            assert await client.rest() == b""
        await served.until_gone()

    over_sockets(scenario, "ZeroDivisionError in answer", "ZeroDivisionError in refuse")


def test_nothing_is_kept_for_longer_than_it_is_needed(over_sockets: Run) -> None:
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
        over_sockets(scenario)
    finally:
        gc.enable()


def test_closing_lets_whole_requests_have_their_answers(over_sockets: Run) -> None:
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

    over_sockets(scenario)


def test_aborting_drops_all(over_sockets: Run) -> None:
    async def scenario(served: Served) -> None:
        async with served.client() as idle, served.client() as busy:
            busy.send(get("/later"))
            await served.until_asked(1)
            await served.until(lambda: len(served.connections.open) == 2)
            served.connections.abort()
            assert served.app.later[0].cancelled()
            assert [await idle.rest(), await busy.rest()] == [b"", b""]
            await served.until_gone()

    over_sockets(scenario)
