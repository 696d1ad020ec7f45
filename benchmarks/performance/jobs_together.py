"""A workspace and overrides in; what tuning took with the processes that torchrun started, or with one alone, out as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from endcap.contracts.reporting import Silent
from endcap.contracts.stopping import Stop
from endcap.flows import fitting
from endcap.flows.features import build_features
from endcap.flows.several import first_of_several
from endcap.flows.transformed import transform
from endcap.training.trainer import Trainer
from endcap.workspace.configuration import load_configuration
from endcap.workspace.layout import Workspace


class Clock:
    """Adds up the seconds of calls, and those of the processor in this process."""

    def __init__(self) -> None:
        self.seconds, self.cpu_seconds = 0.0, 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def call(*arguments: Any, **named: Any) -> Any:
            started, cpu_started = time.perf_counter(), time.process_time()
            result = function(*arguments, **named)
            self.seconds += time.perf_counter() - started
            self.cpu_seconds += time.process_time() - cpu_started
            return result

        return call


def main(path: Path, overrides: list[str]) -> None:
    """Steps alone are timed: what is transformed and measured, each process does for itself."""
    workspace, configuration = Workspace.open(path), load_configuration(overrides)
    clock = Clock()
    Trainer.run_epoch = clock.around(Trainer.run_epoch)  # type: ignore[method-assign]

    def job() -> dict[str, float]:
        tables = build_features(workspace, configuration, Silent())
        questions = transform(tables, configuration.features, "tune", Silent()).questions
        num_asked = int(np.count_nonzero(questions.targets.lengths(np.arange(len(questions)))))
        epochs = fitting.tune(tables, configuration, Silent()).trained.epochs
        return {
            "seconds": clock.seconds, "cpu_seconds": clock.cpu_seconds, "num_questions": num_asked * len(epochs),
            "loss": epochs[-1].loss,
        }  # fmt: skip

    found = first_of_several(job, workspace, configuration, Stop())
    if found is not None:
        print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
