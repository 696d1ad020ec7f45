"""`python -m tests.flows.stopped_at MOMENT ARGUMENTS…` is `endcap ARGUMENTS…` in a process that is hit at that moment."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from endcap.cli.main import main
from endcap.flows import judging, registering
from endcap.training import checkpoints
from endcap.training.trainer import Trainer


def hit(number: int) -> Callable[..., Any]:
    """Send this process a signal, in the place of whatever would have been called."""

    def call(*arguments: object, **named: object) -> None:
        del arguments, named
        os.kill(os.getpid(), number)

    return call


def after(count: int, function: Callable[..., Any], number: int) -> Callable[..., Any]:
    """The function, and a signal once it was called so often."""
    calls = 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        result = function(*arguments, **named)
        if calls == count:
            os.kill(os.getpid(), number)
        return result

    return call


MOMENTS: dict[str, Callable[[], tuple[object, str, Callable[..., Any]]]] = {
    "in a step": lambda: (Trainer, "_run_step", after(3, Trainer._run_step, signal.SIGTERM)),
    "in a checkpoint": lambda: (checkpoints, "write_json", hit(signal.SIGKILL)),
    "in the evaluation": lambda: (judging, "judge_on_test", hit(signal.SIGKILL)),
    "after the release": lambda: (registering, "register", after(1, registering.register, signal.SIGKILL)),
}

if __name__ == "__main__":
    setattr(*MOMENTS[sys.argv[1]]())
    main(sys.argv[2:])
