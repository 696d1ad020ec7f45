"""A call to an outside store in, its answer after as many tries as the patience allows out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import tenacity

from endcap.contracts.errors import DiskFullError, EndcapError, TransientError

T = TypeVar("T")

_SHORTEST_S: Final = 0.05


@dataclass(frozen=True)
class Patience:
    """How long a call to a store may take before it is given up. A large file travels in many calls."""

    deadline_s: float = 180.0
    """Of one call with all of its tries and the waits between them."""
    try_s: float = 60.0
    """Of one try, however busily it goes on."""
    silence_s: float = 15.0
    """How long the other side may say nothing, when connecting and in the middle of an answer."""
    first_wait_s: float = 0.5
    """Before the second try at most; the bound doubles with each one. The wait is drawn evenly from 0 to the bound,
    so that many workers that failed together don't return together."""
    longest_wait_s: float = 15.0
    """What the bound grows to."""


def persist(
    what: str, patience: Patience, call: Callable[[float], T], explain: Callable[[Exception], EndcapError | None]
) -> T:
    """The answer of `call(silence_s)`, tried again while `explain` makes a TransientError of what it raises.

    `explain` gives None for a fault of the program, which passes as it is. Raises TransientError when the deadline is
    over, with the last reason.
    """
    start, num_tries = time.monotonic(), 0

    def attempt() -> T:
        nonlocal num_tries
        num_tries += 1
        left_s = max(_SHORTEST_S, min(patience.try_s, start + patience.deadline_s - time.monotonic()))
        try:
            return _bounded(lambda: call(min(patience.silence_s, left_s)), left_s)
        except EndcapError:
            raise
        except Exception as error:
            found = explain(error)
            if found is None:
                raise
            raise found from error

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_pass),
        wait=tenacity.wait_random_exponential(multiplier=patience.first_wait_s, max=patience.longest_wait_s),
        stop=tenacity.stop_before_delay(patience.deadline_s),
        reraise=True,
    )
    try:
        return retrying(attempt)
    except DiskFullError:
        raise
    except TransientError as error:
        tries = "1 try" if num_tries == 1 else f"{num_tries} tries"
        raise TransientError(
            f"{what} failed after {tries} in {time.monotonic() - start:.1f} s: {error} What was there before still "
            "stands; try again later."
        ) from error


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, TransientError) and not isinstance(error, DiskFullError)


def _bounded(call: Callable[[], T], limit_s: float) -> T:
    """Its answer, or TransientError when it takes longer; it is left to itself then.

    A socket's own timeout bounds silence alone: an answer that drips in byte by byte would go on for ever.
    """
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=work, name="endcap-store", daemon=True)
    thread.start()
    thread.join(limit_s)
    if not outcome:
        raise TransientError(f"No whole answer came within {limit_s:.1f} s.")
    answer, error = outcome[0]
    if error is not None:
        raise error
    return answer  # type: ignore[no-any-return]
