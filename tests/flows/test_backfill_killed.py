"""A month's backfill is killed again and again, in each of its steps, and ends like one that never was."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from endcap.flows.steps import STEPS
from endcap.workspace import ledger
from endcap.workspace.layout import Workspace
from tests.flows.invoices import command, content, forget_derived, kill_when, latest, run, shop, wait_until

NUM_DAYS = 30


@pytest.mark.slow  # a kill loop
def test_a_month_killed_in_every_step_equals_one_that_was_not(tmp_path: Path) -> None:
    killed = shop(tmp_path, NUM_DAYS)
    forget_derived(killed)
    sound = Workspace.open(shutil.copytree(killed.path, tmp_path / "sound"))
    nodes = {part.node for part in run(killed, NUM_DAYS, gap=60, dry_run=True).outcomes}

    def num_done(step: str) -> int:
        return sum(name == step for name, _ in latest(killed))

    def is_catalog_begun() -> bool:
        return bool(num_done("catalog")) or ledger.find_attempt(killed, "catalog", "all") is not None

    moments = (
        lambda: num_done("events") >= 3,
        is_catalog_begun,
        lambda: num_done("events") >= 20,
        lambda: num_done("daily") >= 4,
        lambda: num_done("windows") >= 3,
        lambda: num_done("windows") >= 20,
    )
    before: dict[tuple[str, str], str] = {}
    for place, reached in enumerate(moments):
        kill_when(reached, command(killed, NUM_DAYS, "--jobs", str(1 + place % 2)), tmp_path / "log")
        # The workers follow their parent: what they held is free again, and they finish nothing behind its back.
        wait_until(lambda: not any(ledger.is_claimed(killed, *node) for node in nodes))
        after = latest(killed)
        assert {node: after[node] for node in before} == before, "what was done is not done again"
        assert len(before) <= len(after) < len(nodes)
        before = after
    assert not list(killed.runs.glob("backfill-*/manifest.json"))

    resumed = run(killed, NUM_DAYS, gap=60, jobs=2)
    assert (resumed.exit_code, resumed.counts["ran"]) == (0, len(nodes) - len(before))
    after = latest(killed)
    assert after.keys() == nodes
    assert {node for node in nodes if after[node] == resumed.run_id} == nodes - before.keys()
    assert {node.step for node in nodes} == set(STEPS)
    assert run(sound, NUM_DAYS, gap=60).counts == {"ran": len(nodes)}
    assert content(killed, NUM_DAYS) == content(sound, NUM_DAYS)
