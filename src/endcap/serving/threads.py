"""Calls that may take long in, their results back on the event loop out: threads that stay for the next call."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class Threads:
    """As many as there are calls at once; none is a reason for the process to stay.

    Whoever starts a thread waits until it runs. On a crowded machine that takes tens of milliseconds, during which nothing is
    answered: what looks for versions once a second takes the one that looked before.
    """

    def __init__(self) -> None:
        self._idle: list[SimpleQueue[Callable[[], None]]] = []
        self._at_work: set[object] = set()

    @property
    def is_at_work(self) -> bool:
        """Whether a call hasn't ended, whether or not anybody waits for it."""
        return bool(self._at_work)

    async def run(self, call: Callable[[], T]) -> T:
        """The result of the call; what it raises is raised here."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        token = object()
        calls = self._take()

        def settle(result: T | None, error: Exception | None) -> None:
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]  # there where no error is

        def work() -> None:
            result, error = None, None
            try:
                result = call()
            except Exception as raised:
                error = raised
            self._at_work.discard(token)
            self._idle.append(calls)  # before anybody is told: the next call comes at once
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server stopped meanwhile
                loop.call_soon_threadsafe(settle, result, error)

        self._at_work.add(token)
        calls.put(work)
        return await done

    def _take(self) -> SimpleQueue[Callable[[], None]]:
        """Where an idle thread waits for its next call."""
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=_serve, args=(calls,), name="endcap-load", daemon=True).start()
        return calls


def _serve(calls: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        _serve_one(calls)


def _serve_one(calls: SimpleQueue[Callable[[], None]]) -> None:
    """In a call of its own: a thread that waits holds on to nothing of what it did."""
    calls.get()()
