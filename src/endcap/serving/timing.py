"""A predict request that asks how long its answer takes in, that as response headers out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec

from endcap.serving.requests import PredictRequest, Rank, Recommend

if TYPE_CHECKING:
    from endcap.serving.buyers import Buyers
    from endcap.serving.messages import Header

TIMING: Final = b"x-endcap-timing"


class Timing(msgspec.Struct):
    """What is noted of one request on its way through the server."""

    arrived: float = 0.0
    """When the whole body was read."""
    stages: dict[str, float] = {}
    """Seconds, in the order of the stages. A batch's work is that of each of its requests."""
    is_known: bool | None = None
    """Whether the release knows the customer; None: it can't tell, or there are several."""

    def note_begun(self) -> None:
        """Its batch begins: whatever wasn't spent on reading it was spent on waiting."""
        self.stages["queue"] = time.perf_counter() - self.arrived - self.stages.get("decode", 0.0)

    def note(self, stage: str, seconds: float) -> None:
        """A stage, or a part of one."""
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds

    def of(self, request: PredictRequest, arrived: float, buyers: Buyers) -> PredictRequest:
        """The request as it was just read, so that what computes it notes its stages here."""
        self.arrived = arrived
        if len(request.queries) == 1:
            self.is_known = buyers.knows(request.queries[0])
        self.stages["decode"] = time.perf_counter() - self.arrived
        if isinstance(request, Rank):
            return TimedRank(request.queries, request.form, self)
        return TimedRecommend(request.queries, request.form, self)

    def headers(self) -> tuple[Header, ...]:
        """Milliseconds of each stage and of all, and whether the customer is known. Not to be cached."""
        total = time.perf_counter() - self.arrived
        timings = ", ".join(
            f"{name};dur={seconds * 1e3:.3f}" for name, seconds in {**self.stages, "total": total}.items()
        )
        headers = ((b"server-timing", timings.encode()), (b"cache-control", b"no-store"))
        if self.is_known is None:
            return headers
        return (*headers, (b"x-endcap-customer", b"known" if self.is_known else b"unknown"))


class TimedRecommend(Recommend):
    """A request for recommendations whose stages are noted.

    Being a class of its own, it is batched with its like alone, and costs the others nothing.
    """

    timing: Timing


class TimedRank(Rank):
    """The same of a request for scores."""

    timing: Timing


TIMED: Final = frozenset({TimedRecommend, TimedRank})
"""The classes of requests whose stages are noted."""
