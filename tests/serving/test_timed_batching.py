"""TensorFlow Serving's batching parameters: full, or waited long enough; refused when too many wait."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from endcap.serving.errors import RequestError
from endcap.serving.instances import Query
from endcap.serving.metrics import Metrics
from endcap.serving.requests import PredictRequest, Recommend
from endcap.serving.settings import BatchingSettings
from endcap.serving.timed_batching import TimedBatcher


class Work:
    """Answers with the name, once it is let go."""

    full_batch = 16

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.num_at_once = self.most_at_once = 0
        self.let_go = threading.Event()

    def __call__(self, requests: Sequence[PredictRequest]) -> list[bytes]:
        self.batches.append([request.queries[0].values[0] for request in requests])
        self.num_at_once += 1
        self.most_at_once = max(self.most_at_once, self.num_at_once)
        assert self.let_go.wait(10)
        self.num_at_once -= 1
        return [request.queries[0].values[0].encode() for request in requests]


def request_of(name: str, num_instances: int = 1) -> PredictRequest:
    return Recommend([Query([name], 1) for _ in range(num_instances)], "rows")


def play(scenario: Any, **settings: int) -> None:
    async def run() -> None:
        batcher = TimedBatcher(Metrics(), settings=BatchingSettings(**settings))
        batcher.start()
        try:
            await scenario(batcher)
        finally:
            batcher.stop()

    asyncio.run(run())


def test_a_full_batch_does_not_wait() -> None:
    async def scenario(batcher: TimedBatcher) -> None:
        work = Work()
        work.let_go.set()
        answers = [batcher.submit(work, request_of(name), 10) for name in "abcde"]
        assert await asyncio.gather(*answers[:4]) == [b"a", b"b", b"c", b"d"]
        assert work.batches == [["a", "b"], ["c", "d"]]
        assert not answers[4].done()  # waits for a sixth
        assert not batcher.is_idle(work)
        last = batcher.submit(work, request_of("f"), 10)
        assert await asyncio.gather(answers[4], last) == [b"e", b"f"]
        assert batcher.is_idle(work)

    play(scenario, max_batch_size=2, batch_timeout_micros=10_000_000, num_batch_threads=1)


def test_a_batch_that_does_not_fill_waits_its_time() -> None:
    async def scenario(batcher: TimedBatcher) -> None:
        work = Work()
        work.let_go.set()
        started = time.perf_counter()
        assert await batcher.submit(work, request_of("a"), 10) == b"a"
        assert time.perf_counter() - started >= 0.03

    play(scenario, max_batch_size=64, batch_timeout_micros=30_000)


def test_a_request_that_does_not_fit_starts_the_next_batch() -> None:
    async def scenario(batcher: TimedBatcher) -> None:
        work = Work()
        work.let_go.set()
        answers = [batcher.submit(work, request_of(name, size), 10) for name, size in (("a", 2), ("b", 3), ("c", 9))]
        await asyncio.gather(*answers)
        assert work.batches == [["a"], ["b"], ["c"]]

    play(scenario, max_batch_size=4, batch_timeout_micros=1_000, num_batch_threads=1)


def test_several_threads_compute_at_once() -> None:
    async def scenario(batcher: TimedBatcher) -> None:
        work = Work()
        answers = [batcher.submit(work, request_of(name), 10) for name in "abc"]
        while work.num_at_once < 3:
            await asyncio.sleep(0.001)
        work.let_go.set()
        await asyncio.gather(*answers)
        assert work.most_at_once == 3

    play(scenario, max_batch_size=1, num_batch_threads=3)


def test_l1_a_full_queue_refuses_at_once() -> None:
    async def scenario(batcher: TimedBatcher) -> None:
        work = Work()
        answers = [batcher.submit(work, request_of(str(number)), 10) for number in range(6)]
        with pytest.raises(RequestError, match="3 batches of 2 wait already") as raised:
            batcher.submit(work, request_of("late"), 10)
        assert (raised.value.status, raised.value.headers) == (503, ((b"retry-after", b"1"),))
        work.let_go.set()
        await asyncio.gather(*answers)
        assert await batcher.submit(work, request_of("again"), 10) == b"again"

    play(scenario, max_batch_size=2, max_enqueued_batches=3, batch_timeout_micros=1_000, num_batch_threads=1)


def test_l2_what_expired_while_it_waited_is_not_computed() -> None:
    async def scenario(batcher: TimedBatcher) -> None:
        work = Work()
        work.let_go.set()
        with pytest.raises(RequestError, match="the request's deadline"):
            await batcher.submit(work, request_of("late"), 0.01)
        gone = batcher.submit(work, request_of("gone"), 10)
        gone.cancel()
        await asyncio.sleep(0.4)
        assert work.batches == []

    play(scenario, batch_timeout_micros=200_000)
