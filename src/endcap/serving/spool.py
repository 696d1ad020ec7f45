"""Things to write down in from the event loop, which never waits for that; handed on in turns by a thread of their own."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

_TURN_SECONDS: Final = 0.2


class Spool(Generic[T]):
    """A bounded queue to a thread. What finds no room, or can't be written, is dropped and counted."""

    def __init__(self, name: str, write: Callable[[list[T], bool], int], max_waiting: int) -> None:
        """`write` is given what came since the last turn, and whether it is the last; it says how many it lost."""
        self._name, self._write, self._max_waiting = name, write, max_waiting
        self._waiting: deque[T] = deque()
        self._is_told_to_stop = threading.Event()
        self._is_failing = False
        self._num_refused = self._num_lost = 0
        self._thread = threading.Thread(target=self._run, name=f"endcap-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread; called in the process that writes."""
        self._thread.start()

    def put(self, thing: T) -> None:
        """Write it down sooner or later, or drop it."""
        if len(self._waiting) >= self._max_waiting:
            self._num_refused += 1
        else:
            self._waiting.append(thing)

    @property
    def num_dropped(self) -> int:
        """How many found no room, or could not be written."""
        return self._num_refused + self._num_lost

    def stop(self, seconds: float) -> None:
        """Write down what is left, for so long at most."""
        self._is_told_to_stop.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._is_told_to_stop.wait(_TURN_SECONDS)
            things = [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                self._num_lost += self._write(things, is_last)
                self._is_failing = False
            except OSError as error:
                self._num_lost += len(things)
                if not self._is_failing:  # once, not at each turn
                    logger.error("The %s can't be written, lines are dropped: %s", self._name, error.strerror)
                self._is_failing = True
