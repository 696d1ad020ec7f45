"""What waits in the queue: requests, by what computes them, and how each ends that isn't computed."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from endcap.serving.errors import RequestError
from endcap.serving.pending import Pending
from endcap.serving.requests import PredictRequest, Rank
from endcap.serving.timing import TimedRank

if TYPE_CHECKING:
    from endcap.serving.answers import Arrays

    Answer = bytes | Arrays

logger = logging.getLogger(__name__)

# The largest pass of the search (retrieval.screen.MAX_QUERIES). Larger batches save little, and the answers of a smaller
# one go out sooner.
MAX_BATCH_INSTANCES: Final = 16
# Pairs of one batch: a pass of the graph for each few of them (ranker.MAX_ROWS).
MAX_BATCH_PAIRS: Final = 256
# Parts of a full batch, so that each row of one has a whole number of them: sums of fractions would fall short of one.
FULL: Final = math.lcm(*range(1, MAX_BATCH_INSTANCES + 1), MAX_BATCH_PAIRS)
_RANKS: Final = (Rank, TimedRank)


class Work(Protocol):
    """What is done with a batch: the answering part of one version of a model."""

    full_batch: int
    """Instances of a full batch of recommendations, at most `MAX_BATCH_INSTANCES`: more at once take as much longer."""

    def __call__(self, requests: Sequence[PredictRequest]) -> Sequence[Answer]:
        """The answer to each request; the requests are all of one kind, so that they go through one graph together."""

    def begin(self, requests: Sequence[PredictRequest]) -> Pending[Sequence[Answer]]:
        """The same in two parts; in between, some of it may be computed on a thread."""


Kind = tuple[Work, type[PredictRequest]]
"""Requests that can be computed together: of one version, and of one sort."""


def full_batch_of(kind: Kind) -> int:
    """Rows of a full greedy batch."""
    return MAX_BATCH_PAIRS if kind[1] in _RANKS else kind[0].full_batch


class Job(msgspec.Struct, eq=False):
    """A request that waits for its answer."""

    request: PredictRequest
    kind: Kind
    num_rows: int
    arrived: float
    deadline: float
    answer: asyncio.Future[Answer]
    result: Answer | RequestError | None = None

    @property
    def share(self) -> int:
        """How much of a full greedy batch it is, in parts of which `FULL` are one."""
        return self.num_rows * (FULL // full_batch_of(self.kind))


def timed_out(job: Job, now: float) -> RequestError:
    """What a request is told that is past its deadline."""
    waited_ms = round((now - job.arrived) * 1000)
    return RequestError(
        504, f"No answer within {waited_ms:,} ms, the request's deadline. Ask for less, or wait longer."
    )


def refusal_of(error: Exception) -> RequestError:
    """What a request is told that can't be computed; its place goes into the log, its text may not."""
    if isinstance(error, RequestError):
        return error
    logger.error("A request could not be computed: %s in %s", type(error).__name__, place_of(error))
    return RequestError(
        500, "The release's model could not compute this request. Its operator finds the place in the log."
    )


def place_of(error: Exception) -> str:
    """The function and line that raised it."""
    trace: Any = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace is not None else "unknown"
