"""What each process of a server counts in, what all of them counted out: whichever is asked tells for all."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import msgspec

from endcap.serving.metrics import Metrics, State, exposition, merge

_ENDING: Final = ".metrics.json"


class SharedMetrics(Metrics):
    """The counts of one process, published in a folder where the others publish theirs, a second old at most."""

    def __init__(self, folder: Path, number: int) -> None:
        """Go on where the process that had the number before left off: what was counted never becomes less."""
        super().__init__()
        self._folder = folder
        self._file = folder / f"{number}{_ENDING}"
        before = _read(self._file)
        self._before: list[State] = [] if before is None else [{**before, "gauges": {}}]

    def publish(self) -> None:
        """Let the others see the counts."""
        aside = self._file.with_suffix(".tmp")
        # A full disk costs the others a view of this process, and nobody an answer.
        with contextlib.suppress(OSError):
            aside.write_bytes(msgspec.json.encode(self._own()))
            aside.replace(self._file)

    def exposition(self) -> bytes:
        """The counts of all processes as text."""
        others = [_read(file) for file in sorted(self._folder.glob(f"*{_ENDING}")) if file != self._file]
        return exposition(merge([self._own(), *(state for state in others if state is not None)]))

    def _own(self) -> State:
        return merge([self.state(), *self._before])


def _read(file: Path) -> State | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=State)
    except (OSError, msgspec.DecodeError):  # not there yet
        return None
