"""Work that notes its batches, and batchers for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from endcap.serving.batching import Batcher
from endcap.serving.instances import Pairs, Query
from endcap.serving.jobs import MAX_BATCH_INSTANCES
from endcap.serving.metrics import Metrics
from endcap.serving.pending import Pending
from endcap.serving.requests import PredictRequest, Rank, Recommend


def request_of(name: str, num_instances: int = 1) -> PredictRequest:
    return Recommend([Query([name], 1, None, None) for _ in range(num_instances)], form="rows")


def scores_of(name: str, num_pairs: int = 1) -> PredictRequest:
    rows = np.zeros(num_pairs, np.int64)
    return Rank([Pairs([name], None, [""] * num_pairs, rows, {})], form="rows")


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


def batcher_of(work: Work | Tracing, **settings: Any) -> Batcher:
    """With the worker thread alone, unless told otherwise: work that waits would keep the loop from letting it go."""
    batcher = Batcher(Metrics(), **({"max_seconds_on_loop": 0.0} | settings))
    batcher.start()
    return batcher


async def until_started(work: Work) -> None:
    while not work.started.is_set():
        await asyncio.sleep(0.001)
