"""Refusals are told at once, unless they are so many that telling them would leave no time for answers."""

from __future__ import annotations

import asyncio
import resource
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.serving.errors import RequestError
from endcap.serving.turning_away import BURST, MOST_SECONDS, PER_SECOND, Refusals

ERROR = RequestError(429, "Too busy.")


def test_a_burst_is_told_at_once_and_the_others_one_after_the_other() -> None:
    refusals = Refusals()
    delays = [refusals.delay(10.0) for _ in range(BURST + 3)]
    assert delays[:BURST] == pytest.approx([0.0] * BURST, abs=1e-9)
    assert delays[BURST:] == pytest.approx([1 / PER_SECOND, 2 / PER_SECOND, 3 / PER_SECOND])
    assert refusals.delay(10.0 + BURST / PER_SECOND) == 0.0


def test_none_waits_longer_than_the_shortest_retry_after_and_a_flood_is_soon_forgotten() -> None:
    refusals = Refusals()
    assert max(refusals.delay(10.0) for _ in range(5 * PER_SECOND)) == MOST_SECONDS
    assert refusals.delay(10.0 + MOST_SECONDS + BURST / PER_SECOND) == 0.0


@given(st.lists(st.floats(0, 0.01), min_size=1, max_size=2_000))
def test_in_no_second_more_are_told_than_that_and_a_burst(gaps: list[float]) -> None:
    refusals, now, told = Refusals(), 5.0, []
    for gap in gaps:
        now += gap
        delay = refusals.delay(now)
        if delay < MOST_SECONDS:
            told.append(now + delay)
    for start in (5.0, *told[::100]):
        assert sum(start <= at < start + 1 for at in told) <= PER_SECOND + BURST + 1


def play(scenario: Any) -> Any:
    async def run() -> Any:
        return await scenario(Refusals(), asyncio.get_running_loop())

    return asyncio.run(run())


def held_of(refusals: Refusals, loop: asyncio.AbstractEventLoop, timeout_seconds: float = 10.0) -> asyncio.Future[Any]:
    held = refusals.hold(ERROR, 10.0, timeout_seconds, loop)
    assert held is not None
    return held


def test_those_behind_a_burst_are_told_later_what_the_others_were_told() -> None:
    async def scenario(refusals: Refusals, loop: asyncio.AbstractEventLoop) -> None:
        assert [refusals.hold(ERROR, 10.0, 10.0, loop) for _ in range(BURST)] == [None] * BURST
        held = [held_of(refusals, loop) for _ in range(5)]
        held[2].cancel()
        assert refusals.num_held == 5
        told = await asyncio.gather(*held, return_exceptions=True)
        assert [error is ERROR for error in told] == [True, True, False, True, True]
        assert refusals.num_held == 0

    play(scenario)


def test_who_waits_keeps_nothing_of_the_request() -> None:
    class Asked:
        """What a frame of the refusal holds."""

    async def scenario(refusals: Refusals, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(BURST):
            refusals.delay(10.0)

        def refuse() -> tuple[asyncio.Future[Any] | None, weakref.ref[Asked]]:
            asked = Asked()
            try:
                raise RequestError(429, "Too busy.")
            except RequestError as error:
                return refusals.hold(error, 10.0, 10.0, loop), weakref.ref(asked)

        held, asked = refuse()
        assert held is not None
        assert asked() is None
        await asyncio.wait([held])
        assert isinstance(held.exception(), RequestError)

    play(scenario)


def test_none_waits_past_its_deadline() -> None:
    async def scenario(refusals: Refusals, loop: asyncio.AbstractEventLoop) -> None:
        refusals.delay(10.0)
        for _ in range(5 * PER_SECOND):
            refusals.delay(10.0)
        held = held_of(refusals, loop, 0.01)
        with pytest.raises(RequestError, match="Too busy"):
            await asyncio.wait_for(held, MOST_SECONDS / 2)

    play(scenario)


def test_where_any_number_may_be_open_any_number_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    async def scenario(refusals: Refusals, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(BURST):
            refusals.delay(10.0)
        held = [held_of(refusals, loop) for _ in range(3)]
        await asyncio.wait(held)
        assert {future.exception() for future in held} == {ERROR}

    play(scenario)


def test_at_most_half_of_the_connections_that_may_be_open_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (6, 1024))

    async def scenario(refusals: Refusals, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(BURST):
            refusals.delay(10.0)
        held = [held_of(refusals, loop) for _ in range(3)]
        assert refusals.hold(ERROR, 10.0, 10.0, loop) is None
        await asyncio.wait(held)
        assert {future.exception() for future in held} == {ERROR}

    play(scenario)
