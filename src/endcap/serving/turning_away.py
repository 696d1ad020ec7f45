"""Refusals in, when each is to be told out: at once, but for those that would take the event loop from the answers."""

from __future__ import annotations

import asyncio
import math
import resource
from typing import Any, Final

from endcap.serving.errors import RequestError

# Refusals a second that are told at once: a fifth of the event loop's time.
PER_SECOND: Final = 2_000
# So many may come together before any waits.
BURST: Final = 400
# The shortest Retry-After: whoever heeded it would not have asked before.
MOST_SECONDS: Final = 1.0
_NO_SECONDS: Final = 1e-6  # what sums of numbers near the clock's may be off by


class Refusals:
    """Clients that ask again as soon as they are refused could make a server refuse and do nothing else.

    Each that waits for its refusal asks nothing meanwhile: what a thousand such clients take is what `PER_SECOND` refusals take.
    """

    def __init__(self) -> None:
        """Take how many connections may be open: of those, at most half wait for a refusal."""
        most_open = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_held = math.inf if most_open == resource.RLIM_INFINITY else most_open // 2
        self._due = 0.0
        self.num_held = 0
        """Refusals that wait."""

    def delay(self, now: float) -> float:
        """Seconds from `now` after which one more refusal is to be told."""
        self._due = max(self._due, now - BURST / PER_SECOND) + 1 / PER_SECOND
        self._due = min(self._due, now + MOST_SECONDS)
        return max(self._due - now, 0.0)

    def hold(
        self, error: RequestError, now: float, timeout_seconds: float, loop: asyncio.AbstractEventLoop
    ) -> asyncio.Future[Any] | None:
        """What raises the error once it is to be told, well before `timeout_seconds`; None: tell it at once."""
        seconds = min(self.delay(now), timeout_seconds / 2)
        if seconds < _NO_SECONDS or self.num_held >= self._most_held:
            return None
        refused: asyncio.Future[Any] = loop.create_future()
        self.num_held += 1
        # The frames that it was raised in hold the request and the version that it asked.
        loop.call_later(seconds, self._tell, refused, error.with_traceback(None))
        return refused

    def _tell(self, refused: asyncio.Future[Any], error: RequestError) -> None:
        self.num_held -= 1
        if not refused.done():  # else the client went away
            refused.set_exception(error)
