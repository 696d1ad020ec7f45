"""A shop renames a column of its export and adds another: what the dry run says, what is made again, and what is not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from endcap.workspace.layout import Workspace

OLD = "id,visitor,sku,what,at\n"
NEW = "id,visitor,product,what,at,paid\n"
OLD_MAPPING = "columns: {event_id: id, user_id: visitor, item_id: sku, event_type: what, ts: at}\n"
NEW_MAPPING = """\
columns:
  event_id: id
  user_id: visitor
  item_id: {column: [sku, product]}
  event_type: what
  ts: at
  value: {column: paid, optional: true}
"""
RANGE = ("--from", "2026-01-01", "--to", "2026-01-04")


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Three days in the old shape."""
    folder = tmp_path / "export"
    folder.mkdir()
    for number in (1, 2, 3):
        write(folder, OLD, number, f"{number}a,u,tea,view_item,2026-01-0{number}T10:00:00")
        with (folder / f"day{number}.csv").open("a") as file:
            file.write(f"{number}b,v,cup,purchase,2026-01-0{number}T11:00:00\n")
    (tmp_path / "mapping.yaml").write_text(OLD_MAPPING)
    return folder


def write(folder: Path, header: str, number: int, *lines: str) -> None:
    (folder / f"day{number}.csv").write_text(header + "".join(f"{line}\n" for line in lines))


def states(text: str) -> list[tuple[str, str, str, str]]:
    """Step, dates, state and reason of each line of the table."""
    rows = [
        re.split(r"\s{2,}", line.strip())
        for line in text.splitlines()
        if re.match(r"^\s+(events|catalog|daily|windows)\s", line)
    ]
    return [(row[0], row[1], row[3], row[4] if len(row) > 4 else "") for row in rows]


def test_only_what_depends_on_the_change_is_made_again(endcap, export, tmp_path):
    workspace = Workspace.init(tmp_path / "shop").path
    ingest = ("ingest", "--source", "files", "--mapping", tmp_path / "mapping.yaml", export, "-w", workspace)
    backfill = ("backfill", *RANGE, "-w", workspace, "--log-format", "text")
    assert endcap(*ingest).code == 0
    assert endcap(*backfill).code == 0

    # The last day comes again and a new one comes too, with `sku` called `product` and with what was `paid`.
    write(export, NEW, 3, "3a,u,tea,view_item,2026-01-03T10:00:00,", "3b,v,cup,purchase,2026-01-03T11:00:00,9.50")
    write(export, NEW, 4, "4a,u,pot,purchase,2026-01-04T10:00:00,20")
    (tmp_path / "mapping.yaml").write_text(NEW_MAPPING)
    assert endcap(*ingest).code == 0

    planned = endcap(*backfill, "--dry-run")
    assert planned.code == 0
    # Whatever the ingest built itself is done. The first two days came out the same under the new names, and so did the
    # midnights that look back at them alone; that of the 4th looks back at a price that came with what was paid.
    assert states(planned.out) == [
        ("events", "2026-01-01 to 2026-01-04", "done", "nothing changed"),
        ("catalog", "all", "done", "nothing changed"),
        ("daily", "2026-01-01 to 2026-01-02", "done", "nothing changed"),
        ("daily", "2026-01-03", "run", "inputs changed"),
        ("daily", "2026-01-04", "run", "not in the ledger yet"),
        ("windows", "2026-01-02 to 2026-01-03", "done", "nothing changed"),
        ("windows", "2026-01-04", "run", "inputs changed"),
    ]
    assert "Nothing was run." in planned.out

    before = files(workspace)
    said = endcap(*backfill)
    assert said.code == 0
    assert [row for row in states(said.out) if row[2] == "ran"] == [
        ("daily", "2026-01-03", "ran", "inputs changed"),
        ("daily", "2026-01-04", "ran", "not in the ledger yet"),
        ("windows", "2026-01-04", "ran", "inputs changed"),
    ]
    after = files(workspace)
    changed = {path for path in after if after[path] != before.get(path)}
    assert {(path.parts[-4], path.parts[-2]) for path in changed} == {
        ("daily", "event_date=2026-01-03"), ("daily", "event_date=2026-01-04"), ("windows", "event_date=2026-01-04"),
    }  # fmt: skip
    assert {state for *_, state, _ in states(endcap(*backfill, "--dry-run").out)} == {"done"}


def files(workspace: Path) -> dict[Path, int]:
    """When each file of features was written."""
    return {path: path.stat().st_mtime_ns for path in (workspace / "02_features").rglob("part.parquet")}


def test_lines_for_machines_say_the_same(endcap, export, tmp_path):
    workspace = Workspace.init(tmp_path / "shop").path
    endcap("ingest", "--source", "files", "--mapping", tmp_path / "mapping.yaml", export, "-w", workspace)
    said = endcap("backfill", *RANGE, "-w", workspace, "--dry-run", "--log-format", "json")
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [(line["step_name"], line["state"], line["partitions"], line["why"]) for line in lines] == [
        ("events", "done", 3, "nothing changed"),
        ("catalog", "done", 1, "nothing changed"),
        ("daily", "run", 3, "not in the ledger yet"),
        ("windows", "run", 3, "not in the ledger yet"),
    ]
