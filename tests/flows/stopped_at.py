"""`python -m tests.flows.stopped_at SAID MOMENT… -- ARGUMENTS…` is `endcap ARGUMENTS…`, hit at each moment in turn.

Each start is a process of its own that finds everything imported; what it says goes to `SAID/0.jsonl` and on. The exit codes
of all are said in the end.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch._inductor

from endcap.cli.main import main
from endcap.flows import fitting, job, judging, registering, train_run
from endcap.training import checkpoints
from endcap.training.checkpoints import Checkpoints
from endcap.training.trainer import Trainer

LOADED = (job, train_run, torch._inductor)
"""What a start imports once it is asked to train."""


def hit(number: int) -> Callable[..., Any]:
    """Send this process a signal, in the place of whatever would have been called."""

    def call(*arguments: object, **named: object) -> None:
        del arguments, named
        os.kill(os.getpid(), number)

    return call


def after(count: int, function: Callable[..., Any], done: Callable[[], object]) -> Callable[..., Any]:
    """The function, and something else once it was called so often."""
    calls = 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        result = function(*arguments, **named)
        if calls == count:
            done()
        return result

    return call


def in_step(count: int, number: int) -> None:
    """From now on the signal comes after so many steps."""
    Trainer._run_step = after(count, Trainer._run_step, lambda: os.kill(os.getpid(), number))


def in_a_checkpoint() -> None:
    """Killed when all of a checkpoint but its manifest is written."""
    checkpoints.write_json = hit(signal.SIGKILL)


def past_a_checkpoint() -> None:
    """Killed two steps after a checkpoint was written."""
    Checkpoints._publish = after(1, Checkpoints._publish, lambda: in_step(2, signal.SIGKILL))


def in_the_refit() -> None:
    """Asked to end in the refit's second step."""
    refit = fitting.refit

    def call(*arguments: Any, **named: Any) -> Any:
        in_step(2, signal.SIGTERM)
        return refit(*arguments, **named)

    fitting.refit = call


def in_the_evaluation() -> None:
    """Killed when all graphs are exported and nothing is measured yet."""
    judging.judge_on_test = hit(signal.SIGKILL)


def after_the_release() -> None:
    """Killed when the release is sealed and registered, and nothing else knows of it."""
    registering.register = after(1, registering.register, lambda: os.kill(os.getpid(), signal.SIGKILL))


MOMENTS: dict[str, Callable[[], None]] = {
    "in a step": lambda: in_step(3, signal.SIGTERM),
    "in a checkpoint": in_a_checkpoint,
    "past a checkpoint": past_a_checkpoint,
    "in the refit": in_the_refit,
    "in the evaluation": in_the_evaluation,
    "after the release": after_the_release,
}


def start(moment: str, arguments: list[str], said: Path) -> int:
    """The exit code of one start."""
    if (child := os.fork()) == 0:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT, 0o644), 1)
        MOMENTS[moment]()
        try:
            main(arguments)
        finally:  # one that ends by itself: taking down what the parent imported could wait for threads of the parent's
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    place = sys.argv.index("--")
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    codes = [start(one, sys.argv[place + 1 :], folder / f"{n}.jsonl") for n, one in enumerate(sys.argv[2:place])]
    print(json.dumps(codes))
