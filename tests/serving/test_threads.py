"""Threads that stay for the next call."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from endcap.serving.threads import Threads


def test_calls_one_after_the_other_share_a_thread() -> None:
    async def scenario() -> None:
        threads = Threads()
        found = {await threads.run(threading.get_ident) for _ in range(20)}
        assert len(found) == 1
        assert threading.get_ident() not in found
        assert not threads.is_at_work

    asyncio.run(scenario())


def test_calls_at_once_have_a_thread_each() -> None:
    async def scenario() -> None:
        threads = Threads()
        both = threading.Barrier(2, timeout=10)
        calls = [asyncio.create_task(threads.run(both.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        assert threads.is_at_work
        assert sorted(await asyncio.gather(*calls)) == [0, 1]

    asyncio.run(scenario())


def test_what_a_call_raises_is_raised_and_the_thread_goes_on() -> None:
    async def scenario() -> None:
        threads = Threads()
        ident = await threads.run(threading.get_ident)
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)
        assert await threads.run(threading.get_ident) == ident

    asyncio.run(scenario())


def test_a_call_that_nobody_waits_for_any_more_ends_by_itself() -> None:
    async def scenario() -> None:
        threads = Threads()
        go_on = threading.Event()
        call = asyncio.create_task(threads.run(lambda: go_on.wait(10)))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert threads.is_at_work
        go_on.set()
        async with asyncio.timeout(10):
            while threads.is_at_work:
                await asyncio.sleep(0.001)

    asyncio.run(scenario())


def test_a_waiting_thread_holds_on_to_nothing() -> None:
    class Thing:
        """Something that a call needs."""

    async def scenario() -> None:
        threads = Threads()
        thing = Thing()
        gone = weakref.ref(thing)
        await threads.run(lambda thing=thing: repr(thing))  # type: ignore[misc]
        del thing
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            while gone() is not None:
                await asyncio.sleep(0.001)

    gc.disable()
    try:
        asyncio.run(scenario())
    finally:
        gc.enable()
