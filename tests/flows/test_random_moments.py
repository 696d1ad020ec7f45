"""SIGKILL and SIGTERM at twenty moments, most of them random: each run ends with the metrics of one that nobody touched."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from endcap.contracts.reporting import Silent
from endcap.flows.features import build_features
from endcap.releases.bundle import open_release
from endcap.workspace.layout import Workspace
from tests.conftest import TINY
from tests.flows.live_training import ALONE, ROOT, TORCHRUN, TWO, LiveTraining

LONGER = (
    *TINY, "training.num_epochs=6", "training.patience=6", "training.checkpoint_steps=4", "training.batch_size=16"
)  # fmt: skip
TABLE = ROOT / "build" / "moments.txt"
HEADS = ("run", "started as", "hit", "whom", "under way", "exit", "gone on from", "metrics equal")
TERM, KILL = signal.SIGTERM, signal.SIGKILL
SAYS = {ALONE: "endcap train", TWO: "--processes 2", TORCHRUN: "torchrun"}
CODES = {ALONE: {TERM: 143, KILL: -9}, TWO: {TERM: 143, KILL: 137}, TORCHRUN: {TERM: 1, KILL: 1}}

# Each run: as what it is started, and what hits its starts one after the other; the start after these is left alone.
RUNS = (
    (ALONE, ("in a step", KILL, TERM)),
    (ALONE, ("in a checkpoint", TERM, KILL)),
    (ALONE, ("in the evaluation", KILL)),
    (ALONE, ("after the release",)),
    (ALONE, (TERM, TERM, KILL)),
    (ALONE, (KILL, KILL)),
    (TWO, ((TERM, "process 1"), (KILL, "process 0"))),
    (TWO, ((TERM, "itself"), (KILL, "all"))),
    (TORCHRUN, ((TERM, "itself"), (KILL, "process 1"))),
)


@dataclass
class Row:
    run: int
    program: tuple[str, ...]
    hit: str
    whom: str
    under_way: str
    code: int
    expected: int
    gone_on_from: str = ""
    is_equal: bool = False

    def cells(self):
        return (str(self.run), SAYS[self.program], self.hit, self.whom, self.under_way, str(self.code),
                self.gone_on_from or "the beginning", "yes" if self.is_equal else "NO")  # fmt: skip


@dataclass
class Whole:
    """A run that nobody touched: its metrics, and how many milestones it told up to an epoch of tuning and to the export."""

    metrics: dict
    num_tuning: int
    num_exported: int


def untouched(program, path):
    live = LiveTraining(program, path, LONGER)
    assert live.ended() == 0, live.errors
    stages = [line.get("stage") for line in live.milestones()]
    return Whole(metrics_of(path), stages.index("training"), stages.index("exporting") + 1)


def metrics_of(path):
    (release,) = [path for path in (Workspace.open(path).releases / "recommender").iterdir() if path.name.isdigit()]
    return open_release(release).manifest.metrics


def placed(number, moment, path, said):
    arguments = ["train", *LONGER, "-w", str(path), "--log-format", "json"]
    program = ["-m", "tests.flows.stopped_at", str(said), moment, "--"]
    done = subprocess.run([sys.executable, *program, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    signal_number = TERM if moment == "in a step" else KILL
    (code,) = json.loads(done.stdout)
    return Row(number, ALONE, signal_number.name, "itself", moment, code, CODES[ALONE][signal_number])


def at_random(number, program, asked, path, num_milestones, rng):
    """Shortly after a milestone: seconds alone would mean other moments on a busy machine."""
    signal_number, whom = asked if isinstance(asked, tuple) else (asked, "itself")
    live = LiveTraining(program, path, LONGER)
    live.until(int(rng.integers(1, num_milestones + 1)))
    if live.ended(within_s=rng.uniform(0, 0.5)) is None:
        live.hit(signal_number, whom)
    code, expected = live.ended(), CODES[program][signal_number] if whom != "all" else -KILL
    return Row(number, program, signal_number.name, whom, live.under_way(), code, expected), live.went_on_from()


def hit_and_left_alone(number, program, hits, path, whole, rng):
    """The rows of one run."""
    rows = []
    for place, asked in enumerate(hits):
        if isinstance(asked, str):
            rows.append(placed(number, asked, path, path.with_name(f"said-{number}-{place}")))
            continue
        # A start that goes on may have nothing to tell before the export; one of several that is asked by itself hears of
        # it in a training.
        num = 2 if place else whole.num_tuning if asked == (TERM, "process 1") else whole.num_exported
        row, went_on = at_random(number, program, asked, path, num, rng)
        if rows:
            rows[-1].gone_on_from = went_on
        rows.append(row)
    last = LiveTraining(program, path, LONGER)
    assert last.ended() == 0, last.errors
    rows[-1].gone_on_from = last.went_on_from()
    for row, following in reversed(list(itertools.pairwise(rows))):
        if following.under_way == "set-up":  # which came too early to say what it goes on from
            row.gone_on_from = following.gone_on_from
    for row in rows:
        row.is_equal = metrics_of(path) == whole.metrics
    return rows


def written(rows):
    table = [HEADS, *(row.cells() for row in rows)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(HEADS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in table
    ]
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return "\n".join(lines)


def untrained(path):
    """The same workspace with its features and without its release."""
    for made in (path / "04_releases" / "recommender", path / ".ledger" / "train", *path.glob("03_runs/train-*")):
        shutil.rmtree(made)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_hit_at_twenty_moments_each_run_ends_with_the_metrics_of_one_that_nobody_touched(
    ingested_shop, configured, tmp_path, capsys
):
    base = tmp_path / "base"
    shutil.copytree(ingested_shop.path, base)
    build_features(Workspace.open(base), configured(), Silent())
    whole = {}
    for program in (ALONE, TWO):
        whole[program] = untouched(program, base)
        untrained(base)
    whole[TORCHRUN] = whole[TWO]
    rng, rows = np.random.default_rng(5), []
    for number, (program, hits) in enumerate(RUNS):
        path = tmp_path / f"run-{number}"
        shutil.copytree(ingested_shop.path if number == 5 else base, path)  # one makes its features too
        rows += hit_and_left_alone(number, program, hits, path, whole[program], rng)
        with capsys.disabled():
            print(f"\n{written(rows)}")
        shutil.rmtree(path)
    assert len(rows) == 20
    assert [row.code for row in rows] == [row.expected for row in rows]
    assert all(row.is_equal for row in rows)
