"""A signal to end in, the word to stop where it does no harm out."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_asked: Stop | None = None
"""Whom signals ask at present."""


class Stopped(BaseException):
    """The process was asked to end; like KeyboardInterrupt it passes whatever catches failures."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(
            f"Stopped by {signal.Signals(signal_number).name}. The same command goes on where this one was."
        )
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        """128 and the signal, as shells have it: never 0, which launchers read as success."""
        return 128 + self.signal_number

    def end_process(self) -> NoReturn:
        """End with the exit code, at once: taking libraries down whose threads are at work takes seconds."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.exit_code)


class Stop:
    """Whether this process was asked to end. Asked, it raises Stopped at once, or where work is `held`, when it `check`s."""

    def __init__(self) -> None:
        self._signal_number: int | None = None
        self._is_held = False

    @property
    def is_requested(self) -> bool:
        """Whether somebody asked."""
        return self._signal_number is not None

    def request(self, signal_number: int = signal.SIGTERM) -> None:
        """Ask to end; the first signal decides the exit code. A second SIGINT raises KeyboardInterrupt, held or not."""
        if self.is_requested and signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal_number is None:
            self._signal_number = signal_number
        if not self._is_held:
            raise Stopped(self._signal_number)

    def check(self) -> None:
        """Raise Stopped where somebody asked."""
        if self._signal_number is not None:
            raise Stopped(self._signal_number)

    def check_unless_held(self) -> None:
        """Raise Stopped where somebody asked and nothing holds it."""
        if not self._is_held:
            self.check()

    @contextmanager
    def held(self) -> Iterator[None]:
        """In the block a request waits for the next `check`."""
        with self._set_held(True):
            yield

    @contextmanager
    def released(self) -> Iterator[None]:
        """In the block, inside of one that is held, a request raises at once; so does one that waits."""
        with self._set_held(False):
            self.check()
            yield

    @contextmanager
    def _set_held(self, is_held: bool) -> Iterator[None]:
        before, self._is_held = self._is_held, is_held
        try:
            yield
        finally:
            self._is_held = before


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """SIGTERM and SIGINT ask the block to stop; afterwards they do what they did before.

    Whatever ends the block once it was asked counts as Stopped: libraries turn what a signal raises in them into errors
    of their own. Outside of the main thread, which alone hears signals, nothing ever asks.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(signal_number: int, frame: FrameType | None) -> None:
        del frame
        stop.request(signal_number)

    global _asked
    outer, _asked = _asked, stop
    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield stop
    except (Stopped, KeyboardInterrupt):
        raise
    except BaseException:
        stop.check()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked = outer


@contextmanager
def uninterrupted() -> Iterator[None]:
    """In the block no signal raises; one that came does after it, unless it is held there too.

    For calls of libraries which die of an exception that comes up within them: ONNX Runtime reads texts with
    `PyObject_Str`, which looks for signals, and takes its empty answer for a text.
    """
    if (stop := _asked) is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    with stop.held():
        yield
    stop.check_unless_held()
