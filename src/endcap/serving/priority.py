"""The calling thread in, one that steps back behind the process's others for a processor out, where Linux schedules it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Final

# A tenth of the event loop's weight: half as much leaves twice as many of its waits (docs/performance.md).
NICENESS: Final = 10
_MOST: Final = 19


def step_back() -> None:
    """Let whoever else is ready have the processor first, where threads have priorities of their own."""
    if sys.platform == "linux":  # elsewhere the priority is the whole process's
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):  # a sandbox forbids it
            niceness = os.getpriority(os.PRIO_PROCESS, thread) + NICENESS
            os.setpriority(os.PRIO_PROCESS, thread, min(niceness, _MOST))
