"""The thread that computes heavy batches steps back behind the event loop, and where it can't, computes all the same."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Sequence

import pytest

from endcap.serving import priority
from endcap.serving.batching import Batcher
from endcap.serving.instances import Query
from endcap.serving.metrics import Metrics
from endcap.serving.pending import Pending
from endcap.serving.priority import NICENESS, step_back
from endcap.serving.requests import PredictRequest, Recommend

linux = pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def in_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


class Told:
    """Answers what `tell` says on the thread that computes."""

    def __init__(self, tell: Callable[[], str]) -> None:
        self.tell = tell

    def __call__(self, requests: Sequence[PredictRequest]) -> list[bytes]:
        return [self.tell().encode() for _ in requests]

    def begin(self, requests: Sequence[PredictRequest]) -> Pending[list[bytes]]:
        return Pending(lambda: self(requests))


def answer_of(max_seconds_on_loop: float, tell: Callable[[], str] = lambda: str(niceness())) -> bytes:
    async def scenario() -> bytes:
        batcher = Batcher(Metrics(), max_seconds_on_loop=max_seconds_on_loop)
        batcher.start()
        answer = await batcher.submit(Told(tell), Recommend([Query(["a"], 1, None, None)], form="rows"), 10)
        batcher.stop()
        assert isinstance(answer, bytes)
        return answer

    return asyncio.run(scenario())


@linux
def test_heavy_batches_are_computed_behind_the_loop_and_light_ones_on_it() -> None:
    before = niceness()
    assert int(answer_of(max_seconds_on_loop=0.0)) == min(before + NICENESS, 19)
    assert int(answer_of(max_seconds_on_loop=10.0)) == before
    assert niceness() == before


@linux
def test_the_lowest_priority_is_the_last() -> None:
    found: list[int] = []

    def work() -> None:
        for _ in range(5):
            step_back()
        found.append(niceness())

    in_thread(work)
    assert found == [19]


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_where_it_is_forbidden_or_not_there_the_work_is_done_all_the_same(
    platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: int) -> None:
        assert platform == "linux", "elsewhere it would be the whole process's priority, or another's"
        raise PermissionError

    monkeypatch.setattr(priority.sys, "platform", platform)
    monkeypatch.setattr(priority.os, "setpriority", forbidden, raising=False)
    assert answer_of(0.0, lambda: "done") == b"done"
