"""`endcap train` in a process of its own, alone or several together, followed while it works and hit whenever one likes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from endcap.flows.fitting import REFITTING

ROOT = Path(__file__).parents[2]
FOLLOWS = {
    "training": "the refit",
    REFITTING: "the export",
    "exporting": "the evaluation",
    "evaluating": "the sealing",
}
PATIENCE_S = 120
ALONE = ("endcap",)
TWO = ("train.main", "--processes", "2")
TORCHRUN = ("torch.distributed.run", "--nproc-per-node", "2", "-m", "train.main")


class LiveTraining:
    """One start; `said` grows while it works."""

    def __init__(self, program: Sequence[str], workspace: Path, overrides: Sequence[str]) -> None:
        """`program` is a module with its own arguments."""
        verb = [] if program[-1] == "train.main" or "--processes" in program else ["train"]
        arguments = [*program, *verb, *overrides, "-w", str(workspace), "--log-format", "json"]
        self.said: list[dict[str, Any]] = []
        self._errors = workspace.with_name(f"{workspace.name}.err")
        with self._errors.open("w", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
                stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))

    @property
    def errors(self) -> str:
        """What it said beside its lines."""
        return self._errors.read_text(encoding="utf-8")

    def milestones(self) -> list[dict[str, Any]]:
        """That it began, each epoch, and the end of each stage."""
        return [
            line
            for line in list(self.said)
            if line["event"] in ("run started", "stage finished") or line["metric"] == "loss"
        ]

    def until(self, num: int) -> None:
        """Wait for so many milestones, or its end."""
        patience = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and len(self.milestones()) < num and time.monotonic() < patience:
            time.sleep(0.01)

    def ended(self, within_s: float | None = None) -> int | None:
        """The exit code; None where it goes on for longer than that."""
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(PATIENCE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def hit(self, number: signal.Signals, whom: str) -> None:
        """Send a signal to the process that was started, to `process RANK` of several, or to all of them."""
        workers = self.workers()
        for one in {"itself": [self.process.pid], "all": [self.process.pid, *workers.values()]}.get(
            whom, [workers[whom]] if whom in workers else []
        ):
            os.kill(one, number)

    def workers(self) -> dict[str, int]:
        """The ids of several processes that train together, by their rank."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                is_child = int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1]) == self.process.pid
                variables = path.joinpath("environ").read_bytes().split(b"\0") if is_child else []
            except OSError:  # it has ended
                continue
            found |= {f"process {one[5:].decode()}": int(path.name) for one in variables if one.startswith(b"RANK=")}
        return found

    def under_way(self) -> str:
        """What it was at, by what it said last."""
        found, stage = "set-up", "tuning"
        for line in self.milestones():
            if line["metric"] == "loss":
                found = f"{stage}, epoch {line['step'] + 1}"
            elif line["event"] == "stage finished":
                found = stage = FOLLOWS.get(line["stage"], stage)
        return found

    def went_on_from(self) -> str:
        """Of each stage, what it was taken up at; the release, where nothing was left to train."""
        found = [line for line in self.said if line["event"].startswith("going on")]
        has_trained = any(line["metric"] == "loss" for line in self.milestones())
        if self.process.returncode == 0 and not found and not has_trained:
            return "the release"
        return ", ".join(f"{line['stage']} {line['checkpoint'].rpartition('/')[2]}" for line in found)
