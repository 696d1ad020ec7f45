"""Batches: greedy, bounded by time, and a request that can't be computed fails alone."""

from __future__ import annotations

import asyncio

import pytest

from endcap.serving.errors import RequestError
from endcap.serving.jobs import MAX_BATCH_INSTANCES
from tests.serving.batches import LOOP, WORKER, Tracing, Work, batcher_of, request_of, scores_of, until_started


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


@pytest.mark.parametrize("full_batch", range(1, MAX_BATCH_INSTANCES + 1))
def test_a_full_batch_has_as_many_as_the_release_says(full_batch: int) -> None:
    async def scenario() -> None:
        for thread, seconds in ((LOOP, 10.0), (WORKER, 0.0)):
            work = Tracing(full_batch=full_batch)
            batcher = batcher_of(work, max_seconds_on_loop=seconds)
            await asyncio.gather(*(batcher.submit(work, request_of(str(n)), 10) for n in range(3 * full_batch)))
            if thread == LOOP:
                assert [(thread, len(names)) for thread, names in work.batches] == [(LOOP, full_batch)] * 3
            else:  # the first is taken as soon as it is there
                assert max(len(names) for _, names in work.batches) <= full_batch
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
