"""Full batches of light requests: begun, and finished once their product is there, while the next one is begun."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future

import pytest

from endcap.serving.batching import Batcher
from endcap.serving.errors import RequestError
from endcap.serving.instances import Query
from endcap.serving.jobs import MAX_BATCH_INSTANCES
from endcap.serving.metrics import Metrics
from endcap.serving.pending import Pending
from endcap.serving.requests import PredictRequest, Recommend

FULL = [str(number) for number in range(MAX_BATCH_INSTANCES)]
ANSWERS = [name.encode() for name in FULL]


class Begun:
    """Notes what is begun, finished and computed at once; the product is done when told."""

    full_batch = MAX_BATCH_INSTANCES

    def __init__(self) -> None:
        self.events: list[tuple[str, list[str]]] = []
        self.products: list[Future[None]] = []

    def __call__(self, requests: Sequence[PredictRequest]) -> list[bytes]:
        return self._answered("at once", _names_of(requests))

    def begin(self, requests: Sequence[PredictRequest]) -> Pending[list[bytes]]:
        names = _names_of(requests)
        self.events.append(("begin", names))
        if "bad to begin" in names:
            raise ZeroDivisionError("secret value 4711")
        self.products.append(Future())
        product = self.products[-1]

        def finish() -> list[bytes]:
            product.result(10)
            if "bad to finish" in names:
                raise ZeroDivisionError("secret value 4711")
            return self._answered("finish", names)

        return Pending(finish, product)

    def _answered(self, event: str, names: list[str]) -> list[bytes]:
        self.events.append((event, names))
        if "bad" in names:
            raise ZeroDivisionError("secret value 4711")
        return [name.encode() for name in names]


def _names_of(requests: Sequence[PredictRequest]) -> list[str]:
    return [request.queries[0].values[0] for request in requests]


class Play:
    """A batcher that computes on the loop, and what it asks."""

    def __init__(self) -> None:
        self.work = Begun()
        self.batcher = Batcher(Metrics(), max_seconds_on_loop=10.0)
        self.batcher.start()

    def submit(self, *names: str, timeout_seconds: float = 10.0) -> list[asyncio.Future[bytes]]:
        """Requests of one instance each."""
        requests = [Recommend([Query([name], 1, None, None)], form="rows") for name in names]
        return [self.batcher.submit(self.work, request, timeout_seconds) for request in requests]  # type: ignore[misc]

    async def turn(self) -> None:
        """Let the loop do what is due."""
        for _ in range(5):
            await asyncio.sleep(0)

    async def finish(self, number: int) -> None:
        """The product of that batch is there."""
        self.work.products[number].set_result(None)
        await self.turn()


def play(scenario: Callable[[Play], Awaitable[None]]) -> None:
    async def played() -> None:
        playing = Play()
        await scenario(playing)
        playing.batcher.stop()

    asyncio.run(played())


def test_the_next_batch_is_begun_before_the_one_before_is_finished() -> None:
    async def scenario(p: Play) -> None:
        first = p.submit(*FULL)
        await p.turn()
        assert p.work.events == [("begin", FULL)]
        assert not p.batcher.is_idle(p.work)
        few = p.submit(*FULL[:5])
        await p.turn()
        assert p.work.events == [("begin", FULL)]  # the batch behind it fills meanwhile
        await p.finish(0)
        assert await asyncio.gather(*first) == ANSWERS
        assert p.work.events == [("begin", FULL), ("begin", FULL[:5]), ("finish", FULL)]
        full = p.submit(*FULL)
        await p.finish(1)
        assert await asyncio.gather(*few) == ANSWERS[:5]
        assert p.work.events[3:] == [("begin", FULL), ("finish", FULL[:5])]
        await p.finish(2)
        assert await asyncio.gather(*full) == ANSWERS
        assert p.batcher.num_waiting == 0
        assert p.batcher.is_idle(p.work)

    play(scenario)


def test_few_requests_alone_need_no_thread() -> None:
    async def scenario(p: Play) -> None:
        assert await asyncio.gather(*p.submit(*FULL[:-1])) == ANSWERS[:-1]
        assert p.work.events == [("at once", FULL[:-1])]

    play(scenario)


def test_a_bad_request_fails_alone() -> None:
    async def scenario(p: Play) -> None:
        answers = p.submit("bad", *FULL[1:])
        await p.turn()
        await p.finish(0)
        first, *others = await asyncio.gather(*answers, return_exceptions=True)
        assert isinstance(first, RequestError)
        assert first.status == 500
        assert others == ANSWERS[1:]

    play(scenario)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("bad to begin", "16 requests could only be computed one by one: ZeroDivisionError in begin:"),
        ("bad to finish", "16 requests could only be computed one by one: ZeroDivisionError in finish:"),
    ],
)
def test_what_fails_in_two_parts_alone_is_answered_and_told(
    bad: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(p: Play) -> None:
        answers = p.submit(bad, *FULL[1:])
        await p.turn()
        for product in p.work.products:
            product.set_result(None)
        assert await asyncio.gather(*answers) == [bad.encode(), *ANSWERS[1:]]

    play(scenario)
    (line,) = caplog.messages
    assert told in line
    assert "4711" not in line


def test_a_heavy_request_waits_until_what_was_begun_is_finished() -> None:
    async def scenario(p: Play) -> None:
        answers = p.submit(*FULL)
        await p.turn()
        p.work.products[0].set_result(None)
        request = Recommend([Query(["heavy"], 1, None, None) for _ in range(MAX_BATCH_INSTANCES + 1)], form="rows")
        heavy = p.batcher.submit(p.work, request, 10)
        assert p.work.events == [("begin", FULL), ("finish", FULL)]
        assert await asyncio.gather(*answers) == ANSWERS
        assert await heavy == b"heavy"

    play(scenario)


def test_one_that_is_past_its_deadline_keeps_the_others_from_nothing() -> None:
    async def scenario(p: Play) -> None:
        answers = [*p.submit("0", timeout_seconds=0.01), *p.submit(*FULL[1:])]
        await p.turn()
        await asyncio.sleep(0.2)
        await p.finish(0)
        late, *others = await asyncio.gather(*answers, return_exceptions=True)
        assert isinstance(late, RequestError)
        assert late.status == 504
        assert others == ANSWERS[1:]
        assert p.batcher.num_waiting == 0

    play(scenario)


def test_a_batch_is_let_go_of_once_it_is_answered() -> None:
    async def scenario(p: Play) -> None:
        answers = p.submit(*FULL)
        await p.turn()
        product = p.work.products.pop()
        gone = weakref.ref(product)
        product.set_result(None)
        del product
        await asyncio.gather(*answers)
        await p.turn()
        assert gone() is None

    gc.disable()
    try:
        play(scenario)
    finally:
        gc.enable()


def test_stops_though_a_batch_was_begun() -> None:
    async def scenario(p: Play) -> None:
        answers = p.submit(*FULL)
        await p.turn()
        p.batcher.stop()
        found = await asyncio.gather(*answers, return_exceptions=True)
        assert {error.status for error in found if isinstance(error, RequestError)} == {503}
        await p.finish(0)

    play(scenario)
