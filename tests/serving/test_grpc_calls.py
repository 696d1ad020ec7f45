"""Calls over a real connection to methods of the test's own: deadlines, cancelled calls, failures, and the drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from endcap.serving.batching import Batcher
from endcap.serving.clients import Clients
from endcap.serving.errors import RequestError
from endcap.serving.grpc_calls import Call, Desk, Method, Methods, _address_of
from endcap.serving.metrics import Metrics, ModelCounts
from endcap.serving.versions import Loaded, Models, Version

PATH = "/a.Service/Ask"


class OneAnswer(Batcher):
    """A batcher whose answer the test gives."""

    def submit(self, work: Any, request: Any, timeout_seconds: float, connection: Any = None) -> asyncio.Future[Any]:
        self.timeout_seconds, self.connection = timeout_seconds, connection
        self.asked = asyncio.get_running_loop().create_future()
        return self.asked


class Bench:
    """A server of one method, and a channel to it."""

    def __init__(
        self, answer: Callable[[bytes, Call], Awaitable[bytes]] | None = None, num_at_once: int | None = None
    ) -> None:
        self.batcher = OneAnswer(Metrics())
        self.is_draining = False
        desk = Desk(
            Models([]),
            self.batcher,
            self.batcher.metrics,
            None,
            Clients(concurrent_requests=num_at_once),
            10.0,
            lambda: self.is_draining,
        )
        self.methods = Methods(desk, {PATH: Method(answer or self.submit, "predict", "ask")})

    async def submit(self, _raw: bytes, call: Call) -> bytes:
        loaded = Loaded(None, SimpleNamespace(counts=ModelCounts()))  # type: ignore[arg-type]  # nothing is loaded
        version = Version(1, loaded=loaded)
        await call.submit(version, None)  # type: ignore[arg-type]  # nothing is asked
        return b"done"

    async def __aenter__(self) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        self.server = grpc.aio.server(handlers=[self.methods])
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        return self.channel.unary_unary(PATH)

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        await self.server.stop(0)


async def until(is_reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_reached():
            await asyncio.sleep(0.005)


async def code_of(answer: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await answer
    return refused.value.code(), str(refused.value.details())


# gRPC sends a time of seconds in hundredths, rounded up: 4.99 may come as 5.
@pytest.mark.parametrize(("given", "least", "most"), [(None, 10, 10), (4.99, 4, 5), (7200.0, 600, 600)])
def test_deadline_of_the_call_is_the_deadline_of_the_work(given: float | None, least: float, most: float) -> None:
    async def run() -> float:
        bench = Bench()
        async with bench as ask:
            answer = ask(b"", timeout=given)
            await until(lambda: hasattr(bench.batcher, "asked"))
            answer.cancel()
            return bench.batcher.timeout_seconds

    assert least <= asyncio.run(run()) <= most


def test_cancelled_call_cancels_its_work() -> None:
    """L2."""

    async def run() -> bool:
        bench = Bench()
        async with bench as ask:
            answer = ask(b"")
            await until(lambda: hasattr(bench.batcher, "asked"))
            assert bench.methods.num_busy == 1
            assert bench.batcher.connection.startswith("ipv4:127.0.0.1:")
            answer.cancel()
            await until(lambda: bench.methods.num_busy == 0)
            return bench.batcher.asked.cancelled()

    assert asyncio.run(run())


def test_call_past_its_deadline_cancels_its_work() -> None:
    """L2."""

    async def run() -> tuple[grpc.StatusCode, bool]:
        bench = Bench()
        async with bench as ask:
            code, _ = await code_of(ask(b"", timeout=0.05))
            await until(lambda: bench.batcher.asked.done())
            return code, bench.batcher.asked.cancelled()

    assert asyncio.run(run()) == (grpc.StatusCode.DEADLINE_EXCEEDED, True)


def test_drained_server_refuses_calls_and_finishes_those_under_way() -> None:
    """F7."""

    async def run() -> tuple[tuple[grpc.StatusCode, str], str]:
        bench = Bench()
        async with bench as ask:
            first = ask(b"")
            await until(lambda: hasattr(bench.batcher, "asked"))
            bench.is_draining = True
            refused = await code_of(ask(b""))
            bench.batcher.asked.set_exception(RequestError(429, "Too busy."))
            _, details = await code_of(first)
            return refused, details

    refused, details = asyncio.run(run())
    assert refused == (grpc.StatusCode.UNAVAILABLE, "The server is shutting down. Send the request again.")
    assert details == "Too busy."


def test_limits_of_a_client_hold_over_grpc_too() -> None:
    async def run() -> tuple[tuple[grpc.StatusCode, str], str]:
        bench = Bench(num_at_once=1)
        async with bench as ask:
            first = ask(b"")
            await until(lambda: hasattr(bench.batcher, "asked"))
            refused = await code_of(ask(b""))
            first.cancel()
            await until(lambda: bench.methods.num_busy == 0)
            bench.batcher.asked.cancel()
            del bench.batcher.asked
            second = ask(b"")
            await until(lambda: hasattr(bench.batcher, "asked"))
            bench.batcher.asked.set_exception(RequestError(503, "Let in."))
            return refused, (await code_of(second))[1]

    (code, details), second = asyncio.run(run())
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details.startswith("Too many requests of one client: the limit is 1 requests at once.")
    assert second == "Let in."


@pytest.mark.parametrize(
    ("peer", "address"),
    [("ipv4:10.0.0.1:5000", "10.0.0.1"), ("ipv6:%5B2001:db8::1%5D:5000", "2001:db8::1"), ("unix:", "")],
)
def test_address_of_a_peer(peer: str, address: str) -> None:
    assert _address_of(peer) == address


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, grpc.StatusCode.INVALID_ARGUMENT),
        (401, grpc.StatusCode.UNAUTHENTICATED),
        (403, grpc.StatusCode.PERMISSION_DENIED),
        (404, grpc.StatusCode.NOT_FOUND),
        (413, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (503, grpc.StatusCode.UNAVAILABLE),
        (504, grpc.StatusCode.DEADLINE_EXCEEDED),
        (500, grpc.StatusCode.INTERNAL),
    ],
)
def test_refusal_has_its_code_its_message_and_when_to_come_again(status: int, code: grpc.StatusCode) -> None:
    async def refuse(_raw: bytes, _call: Call) -> bytes:
        raise RequestError(status, "Köln " * 1000, ((b"retry-after", b"3"), (b"allow", b"GET")))

    async def run() -> None:
        async with Bench(refuse) as ask:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(b"")
            assert refused.value.code() is code
            assert str(refused.value.details()).startswith("Köln Köln")
            assert str(refused.value.details()).endswith("...")
            assert dict(refused.value.trailing_metadata()) == {"retry-after": "3"}

    asyncio.run(run())


def test_failure_says_nothing_of_the_call(caplog: pytest.LogCaptureFixture) -> None:
    """S9, S13."""

    async def fail(raw: bytes, _call: Call) -> bytes:
        raise ValueError(raw.decode())

    async def run() -> tuple[grpc.StatusCode, str]:
        async with Bench(fail) as ask:
            return await code_of(ask(b"ann@example.org"))

    with caplog.at_level(logging.DEBUG, "endcap"):
        code, details = asyncio.run(run())
    assert code is grpc.StatusCode.INTERNAL
    assert details == "The server could not answer this call. Its operator finds the place in the log."
    assert [record.getMessage() for record in caplog.records if record.name.startswith("endcap")] == [
        f"A call could not be answered: ValueError in fail:{fail.__code__.co_firstlineno + 1}"
    ]
