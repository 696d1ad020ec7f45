"""Batches: greedy, bounded by time, and a request that can't be computed fails alone."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from endcap.serving.batching import FEW_CONNECTIONS, Batcher, batches_that_may_wait
from endcap.serving.errors import RequestError
from endcap.serving.instances import Pairs, Query
from endcap.serving.jobs import MAX_BATCH_INSTANCES
from endcap.serving.metrics import Metrics
from endcap.serving.pace import Pace
from endcap.serving.pending import Pending
from endcap.serving.requests import PredictRequest, Rank, Recommend
from endcap.serving.turning_away import BURST


def request_of(name: str, num_instances: int = 1) -> PredictRequest:
    return Recommend([Query([name], 1, None, None) for _ in range(num_instances)], form="rows")


class Work:
    """Answers with the name; fails where it is "bad"; the first batch waits until it is let go."""

    full_batch = MAX_BATCH_INSTANCES

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.let_go = threading.Event()
        self.started = threading.Event()

    def __call__(self, requests: Sequence[PredictRequest]) -> list[bytes]:
        names = [request.queries[0].values[0] for request in requests]
        self.batches.append(names)
        self.started.set()
        assert self.let_go.wait(10)
        if "bad" in names:
            raise ZeroDivisionError("secret value 4711")
        return [name.encode() for name in names]

    def begin(self, requests: Sequence[PredictRequest]) -> Pending[list[bytes]]:
        return Pending(lambda: self(requests))


def batcher_of(work: Work | Tracing, **settings: Any) -> Batcher:
    """With the worker thread alone, unless told otherwise: work that waits would keep the loop from letting it go."""
    batcher = Batcher(Metrics(), **({"max_seconds_on_loop": 0.0} | settings))
    batcher.start()
    return batcher


async def until_started(work: Work) -> None:
    while not work.started.is_set():
        await asyncio.sleep(0.001)


def test_takes_what_queued_while_the_last_batch_ran() -> None:
    async def scenario() -> None:
        work = Work()
        batcher = batcher_of(work)
        answers = [batcher.submit(work, request_of("first"), 10)]
        await until_started(work)
        answers += [batcher.submit(work, request_of(str(n)), 10) for n in range(MAX_BATCH_INSTANCES + 3)]
        work.let_go.set()
        await asyncio.gather(*answers)
        assert [len(batch) for batch in work.batches] == [1, MAX_BATCH_INSTANCES, 3]
        assert [answer.result() for answer in answers[1:3]] == [b"0", b"1"]
        assert batcher.num_waiting == 0
        batcher.stop()

    asyncio.run(scenario())


def test_one_bad_request_fails_alone_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        work = Work()
        batcher = batcher_of(work)
        first = batcher.submit(work, request_of("first"), 10)
        await until_started(work)
        answers = [batcher.submit(work, request_of(name), 10) for name in ("a", "bad", "b")]
        work.let_go.set()
        results = await asyncio.gather(*answers, return_exceptions=True)
        assert await first == b"first"
        assert [results[0], results[2]] == [b"a", b"b"]
        assert isinstance(results[1], RequestError)
        assert results[1].status == 500
        assert "4711" not in results[1].message
        assert work.batches == [["first"], ["a", "bad", "b"], ["a"], ["bad"], ["b"]]
        batcher.stop()

    asyncio.run(scenario())
    assert "ZeroDivisionError" in caplog.text
    assert "4711" not in caplog.text


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
        work = Tracing(seconds=0.2)
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
        for _ in range(3 * BURST):
            try:
                held.append(batcher.submit(work, request_of("again"), 10))
            except RequestError:
                told += 1
        assert BURST <= told < 3 * BURST
        assert batcher.num_waiting == 0
        later = await asyncio.gather(*held, return_exceptions=True)
        assert {(type(error), getattr(error, "status", 0)) for error in later} == {(RequestError, 429)}
        assert work.batches == []
        batcher.stop()

    asyncio.run(scenario())


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


def test_the_more_is_asked_the_fewer_batches_wait() -> None:
    assert [batches_that_may_wait(pressure) for pressure in (0.5, 1.625, 2.0, 9.0)] == [math.inf, 2.375, 0.75, 0.75]


def test_a_burst_that_can_be_done_soon_waits() -> None:
    async def scenario() -> None:
        work = Tracing(seconds=0.001)
        batcher = batcher_of(work)
        await batcher.submit(work, request_of("first"), 10)
        answers = [batcher.submit(work, request_of(str(n)), 10) for n in range(3 * MAX_BATCH_INSTANCES)]
        assert len(await asyncio.gather(*answers)) == 3 * MAX_BATCH_INSTANCES
        batcher.stop()

    asyncio.run(scenario())


def test_expired_requests_are_not_computed() -> None:
    async def scenario() -> None:
        work = Work()
        batcher = batcher_of(work)
        first = batcher.submit(work, request_of("first"), 10)
        await until_started(work)
        late = batcher.submit(work, request_of("late"), 0.01)
        with pytest.raises(RequestError, match="No answer within") as refused:
            await late
        assert refused.value.status == 504
        work.let_go.set()
        assert await first == b"first"
        assert await batcher.submit(work, request_of("next"), 10) == b"next"
        assert work.batches == [["first"], ["next"]]
        batcher.stop()

    asyncio.run(scenario())


def test_requests_of_clients_that_went_away_are_not_computed() -> None:
    async def scenario() -> None:
        work = Work()
        batcher = batcher_of(work)
        first = batcher.submit(work, request_of("first"), 10)
        await until_started(work)
        gone = [batcher.submit(work, request_of(name, 5), 10) for name in ("gone", "gone too")]
        stays = batcher.submit(work, request_of("stays"), 10)
        for answer in gone:
            answer.cancel()
        work.let_go.set()
        assert (await first, await stays) == (b"first", b"stays")
        assert work.batches == [["first"], ["stays"]]
        assert batcher.num_waiting == 0
        batcher.stop()

    asyncio.run(scenario())


def test_stop_refuses_what_still_waits() -> None:
    async def scenario() -> None:
        work = Work()
        batcher = batcher_of(work)
        waiting = batcher.submit(work, request_of("first"), 10)
        await until_started(work)
        batcher.stop()
        with pytest.raises(RequestError) as refused:
            await waiting
        assert refused.value.status == 503
        work.let_go.set()

    asyncio.run(scenario())


def scores_of(name: str, num_pairs: int = 1) -> PredictRequest:
    rows = np.zeros(num_pairs, np.int64)
    return Rank([Pairs([name], None, [""] * num_pairs, rows, {})], form="rows")


def test_requests_for_scores_are_computed_apart_and_a_batch_holds_more_of_their_rows() -> None:
    async def scenario() -> None:
        work = Work()
        batcher = batcher_of(work)
        answers = [batcher.submit(work, request_of("first"), 10)]
        await until_started(work)
        requests = [request_of("a"), scores_of("x", 100), request_of("b"), scores_of("y", 200), scores_of("z")]
        answers += [batcher.submit(work, request, 10) for request in requests]
        assert batcher.num_waiting == 6
        work.let_go.set()
        assert await asyncio.gather(*answers) == [b"first", b"a", b"x", b"b", b"y", b"z"]
        assert work.batches == [["first"], ["a", "b"], ["x", "y"], ["z"]]
        assert batcher.num_waiting == 0
        batcher.stop()

    asyncio.run(scenario())


def test_pairs_that_proved_slow_say_nothing_of_recommendations() -> None:
    async def scenario() -> None:
        work = Tracing(seconds=0.02)
        batcher = batcher_of(work, max_seconds_on_loop=0.005)
        for request in (scores_of("pair"), request_of("first"), scores_of("slow")):
            await batcher.submit(work, request, 10)
        assert work.batches == [(LOOP, ["pair"]), (LOOP, ["first"]), (WORKER, ["slow"])]
        batcher.stop()

    asyncio.run(scenario())


def test_what_waits_for_a_release_of_unknown_pace_tells_of_it_in_one_batch() -> None:
    """Were it cut up by what a full batch is supposed to take, none would be large enough to tell, and all on the loop."""

    async def scenario() -> None:
        work = Tracing(seconds=0.02, seconds_per_request=0.01)
        batcher = batcher_of(work, max_seconds_on_loop=0.1)
        await batcher.submit(work, request_of("first"), 10)
        await asyncio.gather(*(batcher.submit(work, request_of(str(n)), 10) for n in range(MAX_BATCH_INSTANCES)))
        await batcher.submit(work, request_of("last"), 10)
        assert [(thread, len(names)) for thread, names in work.batches] == [
            (LOOP, 1),
            (LOOP, MAX_BATCH_INSTANCES),
            (WORKER, 1),
        ]
        batcher.stop()

    asyncio.run(scenario())


class Tracing:
    """Answers at once, and remembers on which thread."""

    def __init__(
        self, seconds: float = 0.0, seconds_per_request: float = 0.0, full_batch: int = MAX_BATCH_INSTANCES
    ) -> None:
        self.full_batch = full_batch
        self.batches: list[tuple[str, list[str]]] = []
        self.seconds, self.seconds_per_request = seconds, seconds_per_request

    def __call__(self, requests: Sequence[PredictRequest]) -> list[bytes]:
        names = [request.queries[0].values[0] for request in requests]
        self.batches.append((threading.current_thread().name, names))
        time.sleep(self.seconds + self.seconds_per_request * len(requests))
        if "bad" in names:
            raise ZeroDivisionError("secret value 4711")
        return [name.encode() for name in names]

    def begin(self, requests: Sequence[PredictRequest]) -> Pending[list[bytes]]:
        return Pending(lambda: self(requests))


LOOP, WORKER = "MainThread", "endcap-batches"


def test_light_requests_are_batched_on_the_loop() -> None:
    async def scenario() -> None:
        work = Tracing()
        batcher = batcher_of(work, max_seconds_on_loop=10.0)
        answers = [batcher.submit(work, request_of(str(n)), 10) for n in range(MAX_BATCH_INSTANCES + 2)]
        results = await asyncio.gather(*answers)
        assert results == [str(n).encode() for n in range(MAX_BATCH_INSTANCES + 2)]
        assert [(thread, len(batch)) for thread, batch in work.batches] == [(LOOP, MAX_BATCH_INSTANCES), (LOOP, 2)]
        assert batcher.num_waiting == 0
        batcher.stop()

    asyncio.run(scenario())


def test_heavy_requests_and_those_behind_them_go_to_the_worker_in_order() -> None:
    async def scenario() -> None:
        work = Tracing()
        batcher = batcher_of(work, max_seconds_on_loop=10.0)
        answers = [batcher.submit(work, request_of("light"), 10)]
        answers.append(batcher.submit(work, request_of("heavy", MAX_BATCH_INSTANCES + 1), 10))
        answers.append(batcher.submit(work, request_of("behind"), 10))
        assert await asyncio.gather(*answers) == [b"light", b"heavy", b"behind"]
        assert {thread for thread, _ in work.batches} == {WORKER}
        assert [name for _, batch in work.batches for name in batch] == ["light", "heavy", "behind"]
        later = await batcher.submit(work, request_of("later"), 10)
        assert (later, work.batches[-1]) == (b"later", (LOOP, ["later"]))
        batcher.stop()

    asyncio.run(scenario())


def test_a_release_says_what_a_full_batch_is_and_less_of_one_is_heavy_then() -> None:
    async def scenario() -> None:
        work = Tracing(seconds=0.015, full_batch=4)
        batcher = batcher_of(work, max_seconds_on_loop=0.02)
        await asyncio.gather(*(batcher.submit(work, request_of(str(n)), 10) for n in range(9)))
        await batcher.submit(work, request_of("last"), 10)
        # 15 ms for 4 instances would be 60 for 16.
        assert [(thread, len(names)) for thread, names in work.batches] == [
            (LOOP, 4),
            (LOOP, 4),
            (LOOP, 1),
            (WORKER, 1),
        ]
        batcher.stop()

    asyncio.run(scenario())


def test_requests_that_proved_slow_leave_the_loop() -> None:
    async def scenario() -> None:
        work = Tracing(seconds=0.02)
        batcher = batcher_of(work, max_seconds_on_loop=0.005)
        for name in ("first", "second"):
            await batcher.submit(work, request_of(name), 10)
        assert work.batches == [(LOOP, ["first"]), (WORKER, ["second"])]
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


def test_a_bad_request_on_the_loop_fails_alone() -> None:
    async def scenario() -> None:
        work = Tracing()
        batcher = batcher_of(work, max_seconds_on_loop=10.0)
        answers = [batcher.submit(work, request_of(name), 10) for name in ("a", "bad", "b")]
        good, bad, other = await asyncio.gather(*answers, return_exceptions=True)
        assert (good, other) == (b"a", b"b")
        assert isinstance(bad, RequestError)
        assert bad.status == 500
        assert "4711" not in bad.message
        batcher.stop()

    asyncio.run(scenario())
