"""`endcap backfill` and `endcap features build`, as they are typed: plans, exit codes, lines for machines."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys

import pytest

from endcap.flows.feature_steps import Daily
from endcap.workspace.layout import Workspace

RANGE = ("--from", "2011-01-03", "--to", "2011-01-04")


def test_planned_run_and_done(endcap, ingested_shop, copy_of):
    workspace = copy_of(ingested_shop).path
    command = ("backfill", *RANGE, "--step", "daily", "-w", workspace, "--log-format", "text")
    planned = endcap(*command, "--dry-run")
    assert (planned.code, planned.err) == (0, "")
    (line,) = [line.split("  ") for line in planned.out.splitlines() if "daily" in line]
    assert [part.strip() for part in line if part.strip()] == [
        "daily", "2011-01-03 to 2011-01-04", "2", "run", "not in the ledger yet",
    ]  # fmt: skip
    assert "Nothing was run. Partitions: 2 run." in planned.out
    assert "Partitions: 2 ran." in endcap(*command).out
    again = endcap(*command)
    assert (again.code, "Partitions: 2 done." in again.out) == (0, True)


def test_features_build_takes_daily_and_windows(endcap, ingested_shop, copy_of):
    said = endcap("features", "build", *RANGE, "--dry-run", "-w", copy_of(ingested_shop).path, "--log-format", "json")
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert said.code == 0
    assert [(line["step_name"], line["first"], line["last"], line["state"]) for line in lines] == [
        ("daily", "2011-01-03", "2011-01-04", "run"),
        ("windows", "2011-01-04", "2011-01-04", "run"),
    ]


def test_a_failure_ends_with_code_1_and_says_what_next(endcap, ingested_shop, copy_of, monkeypatch):
    def fails(self, workspace, partition, context):
        raise ZeroDivisionError("division [by] zero")

    monkeypatch.setattr(Daily, "run", fails)
    command = ("features", "build", *RANGE, "-w", copy_of(ingested_shop).path, "--log-format", "text")
    said = endcap(*command)
    assert said.code == 1
    for part in (
        "ZeroDivisionError: division [by] zero",
        "daily 2011-01-03 failed",
        "2 failed, 1 skipped",
        "same command",
    ):
        assert part in said.out


def test_a_full_disk_ends_with_code_3_and_says_what_to_do(endcap, ingested_shop, copy_of, monkeypatch):
    def fails(self, workspace, partition, context):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Daily, "run", fails)
    said = endcap("features", "build", *RANGE, "-w", copy_of(ingested_shop).path, "--log-format", "text")
    assert said.code == 3
    for part in (
        "backfill stopped",
        "is full: daily 2011-01-03",
        "Free some space",
        "1 failed, 2 skipped",
        "same command",
    ):
        assert part in said.out


def test_a_terminal_shows_how_far_it_is_and_what_is_left(ingested_shop, copy_of):
    """Under a terminal of its own; the tests above run without one."""
    arguments = ["backfill", *RANGE, "--step", "daily", "-w", str(copy_of(ingested_shop).path)]
    shown, terminal = pty.openpty()
    with subprocess.Popen([sys.executable, "-m", "endcap", *arguments], stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        said = b""
        with contextlib.suppress(OSError):  # the end of a terminal nobody writes to any more
            while piece := os.read(shown, 1 << 16):
                said += piece
    os.close(shown)
    assert process.returncode == 0, said
    for part in ("0/2", "1/2", "about ", " left", "Partitions: 2 ran."):
        assert part in said.decode(), said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("backfill", "--from", "2011-01-03"), "give the first and the last date"),
        (("backfill", "--from", "2011-01-04", "--to", "2011-01-03"), "expected the earlier date first"),
        (("backfill", "--from", "yesterday", "--to", "2011-01-03"), "'yesterday' does not match the format"),
        (("backfill", "--from", "1999-01-04", "--to", "1999-01-05"), "There is nothing between"),
        (("backfill", *RANGE, "--step", "dialy"), "Did you mean daily?"),
        (("backfill", *RANGE, "--jobs", "9"), "give at most"),
        (("features", "--dry-run"), "No such option: --dry-run"),
        (("features", "build"), "give the first and the last date"),
    ],
)
def test_wrong_input_ends_with_code_2(endcap, ingested_shop, arguments, message):
    said = endcap(*arguments, "-w", ingested_shop.path)
    assert (said.code, said.out) == (2, "")
    assert message in said.err


def test_a_workspace_without_data_says_how_to_get_some(endcap, tmp_path):
    said = endcap("backfill", *RANGE, "-w", Workspace.init(tmp_path).path)
    assert (said.code, "Fill it with: endcap ingest" in said.err) == (2, True)
