"""Who is taken into the queue and who is refused, and that the refused leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import weakref

import pytest

from endcap.serving.batching import FEW_CONNECTIONS, Batcher
from endcap.serving.errors import RequestError
from endcap.serving.jobs import MAX_BATCH_INSTANCES
from endcap.serving.pace import Pace
from endcap.serving.requests import Recommend
from endcap.serving.turning_away import BURST
from tests.serving.batches import Tracing, Work, batcher_of, request_of, until_started


def test_refuses_when_the_estimated_wait_is_too_long() -> None:
    async def scenario() -> None:
        work = Work()
        batcher = batcher_of(work, max_wait_seconds=0.0)
        first = batcher.submit(work, request_of("first"), 10)
        await until_started(work)
        await asyncio.sleep(0.02)
        work.let_go.set()
        await first
        # From here on the time per instance is known; a free server still accepts.
        work.let_go.clear()
        work.started.clear()
        second = batcher.submit(work, request_of("second"), 10)
        await until_started(work)
        with pytest.raises(RequestError, match="Too busy") as refused:
            batcher.submit(work, request_of("third"), 10)
        assert refused.value.status == 429
        assert refused.value.headers == ((b"retry-after", b"1"),)
        work.let_go.set()
        assert await second == b"second"
        batcher.stop()

    asyncio.run(scenario())


def test_one_small_batch_that_was_held_up_refuses_no_burst_behind_it() -> None:
    async def scenario() -> None:
        work = Tracing(seconds=0.05)
        batcher = batcher_of(work, max_seconds_on_loop=10.0)
        await batcher.submit(work, request_of("held up"), 10)
        work.seconds = 0.0
        answers = [batcher.submit(work, request_of(str(n)), 10) for n in range(3 * MAX_BATCH_INSTANCES)]
        assert len(await asyncio.gather(*answers)) == 3 * MAX_BATCH_INSTANCES
        batcher.stop()

    asyncio.run(scenario())


def make_many_ask(batcher: Batcher) -> None:
    """As if requests came on more connections than could be told from a flood."""
    batcher._asking.add = lambda _one, _now: FEW_CONNECTIONS + 1  # type: ignore[method-assign]


def test_l1_in_an_overload_what_would_not_be_in_the_next_batch_is_refused_at_once() -> None:
    """RELIABILITY L1, the decision; the benchmark measures that the accepted keep their pace."""

    async def scenario() -> None:
        work = Tracing(seconds=0.02)
        batcher = batcher_of(work, max_wait_seconds=10.0)
        make_many_ask(batcher)
        await batcher.submit(work, request_of("first"), 10)
        # Nobody knows yet what a full batch takes: a burst is taken whole.
        await asyncio.gather(*(batcher.submit(work, request_of("burst"), 10) for _ in range(100)))
        await asyncio.sleep(0.1)
        answers, refusals = [], []
        for n in range(400):
            try:
                answers.append(batcher.submit(work, request_of(str(n)), 10))
            except RequestError as error:
                refusals.append(error)
        assert MAX_BATCH_INSTANCES * 3 // 4 <= len(answers) <= 12 * MAX_BATCH_INSTANCES
        assert len(refusals) == 400 - len(answers)
        assert {(error.status, error.headers) for error in refusals} == {(429, ((b"retry-after", b"1"),))}
        assert "times what this server can do" in refusals[-1].message
        await asyncio.gather(*answers)
        # With room in the next batch a request is taken, whatever was asked before.
        assert await batcher.submit(work, request_of("after"), 10) == b"after"
        batcher.stop()

    asyncio.run(scenario())


def test_l1_clients_that_ask_again_at_once_are_refused_at_a_pace() -> None:
    async def scenario() -> None:
        work = Work()
        batcher = batcher_of(work, max_wait_seconds=-1.0)
        told, held = 0, []
        for _ in range(10 * BURST):
            try:
                held.append(batcher.submit(work, request_of("again"), 10))
            except RequestError:
                told += 1
        assert BURST <= told < 10 * BURST
        assert b'endcap_refused_total{reason="queue"} %d' % (10 * BURST) in batcher.metrics.exposition()
        assert batcher.num_waiting == 0
        later = await asyncio.gather(*held, return_exceptions=True)
        assert {(type(error), getattr(error, "status", 0)) for error in later} == {(RequestError, 429)}
        assert work.batches == []
        batcher.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize("num_refused", [1, 3 * BURST])
def test_who_is_refused_is_forgotten_without_the_collector(num_refused: int) -> None:
    """A version that was unloaded would stay, and what was asked of it, until the collector runs: it seldom does."""

    async def scenario() -> None:
        work = Work()
        batcher = batcher_of(work, max_wait_seconds=-1.0)
        for _ in range(num_refused):
            with contextlib.suppress(RequestError):
                batcher.submit(work, request_of("again"), 10).cancel()
        kept = weakref.ref(work)
        del work
        assert kept() is None
        batcher.stop()

    gc.disable()
    try:
        asyncio.run(scenario())
    finally:
        gc.enable()


def test_l1_who_would_wait_for_next_to_nothing_is_taken_though_much_is_asked() -> None:
    async def scenario() -> None:
        work = Tracing(seconds=0.002)
        batcher = batcher_of(work)
        make_many_ask(batcher)
        # What full batches take is known, whatever else the machine does.
        pace = batcher._paces[(work, Recommend)] = Pace(MAX_BATCH_INSTANCES)
        pace.add(MAX_BATCH_INSTANCES, 0.002)
        for _ in range(40):  # and so much is asked that it would be a flood
            batcher._pressure.add(50.0, 0.05, time.perf_counter())
        answers = [batcher.submit(work, request_of(name, MAX_BATCH_INSTANCES + 4), 10) for name in ("one", "two")]
        assert await asyncio.gather(*answers) == [b"one", b"two"]
        batcher.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize(("num_connections", "is_refused"), [(FEW_CONNECTIONS, False), (FEW_CONNECTIONS + 1, True)])
def test_l1_few_connections_that_wait_for_their_answers_are_no_flood(num_connections: int, is_refused: bool) -> None:
    async def scenario() -> None:
        work = Tracing(seconds=0.02)
        batcher = batcher_of(work, max_wait_seconds=10.0)
        for _ in range(2):  # what full batches take is known
            await asyncio.gather(*(batcher.submit(work, request_of("full"), 10) for _ in range(MAX_BATCH_INSTANCES)))
        batcher._asking.add = lambda one, _now, add=batcher._asking.add: add(one, 123.0)  # type: ignore[method-assign]
        refusals = []

        async def ask(connection: int) -> None:
            for _ in range(3):
                try:
                    await batcher.submit(work, request_of("one"), 10, connection)
                except RequestError as error:
                    refusals.append(error.status)

        for _ in range(40):  # as after much that was refused, and asked again at once
            batcher._pressure.add(50.0, 0.05, time.perf_counter())
        await asyncio.gather(*(ask(connection) for connection in range(num_connections)))
        assert bool(refusals) is is_refused
        batcher.stop()

    asyncio.run(scenario())


def test_a_burst_that_can_be_done_soon_waits() -> None:
    async def scenario() -> None:
        work = Tracing(seconds=0.001)
        batcher = batcher_of(work)
        await batcher.submit(work, request_of("first"), 10)
        answers = [batcher.submit(work, request_of(str(n)), 10) for n in range(3 * MAX_BATCH_INSTANCES)]
        assert len(await asyncio.gather(*answers)) == 3 * MAX_BATCH_INSTANCES
        batcher.stop()

    asyncio.run(scenario())


def test_requests_that_are_not_computed_do_not_make_the_server_seem_faster() -> None:
    async def scenario() -> None:
        work = Tracing(seconds=0.02)
        batcher = batcher_of(work, max_seconds_on_loop=10.0, max_wait_seconds=0.015)
        await batcher.submit(work, request_of("first"), 10)
        for _ in range(50):
            batcher.submit(work, request_of("gone"), 10).cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert [names for _, names in work.batches] == [["first"]]
        assert batcher.num_waiting == 0
        batcher.submit(work, request_of("second"), 10)
        with pytest.raises(RequestError, match="Too busy"):
            batcher.submit(work, request_of("third"), 10)
        batcher.stop()

    asyncio.run(scenario())
