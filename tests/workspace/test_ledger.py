from __future__ import annotations

from pathlib import Path

import pytest

from endcap.workspace import ledger
from endcap.workspace.layout import Workspace
from endcap.workspace.ledger import LedgerEntry, StepKey

KEY = StepKey(step="ingest", partition="all", inputs_digest="a", configuration_digest="b", code_version="c")
ENTRY = LedgerEntry(key=KEY, run_id="r", outputs={"num_rows": 3})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.init(tmp_path)


def test_a_recorded_step_is_found(workspace: Workspace) -> None:
    assert ledger.find_entry(workspace, KEY) is None
    ledger.record_entry(workspace, ENTRY)
    assert ledger.find_entry(workspace, KEY) == ENTRY


@pytest.mark.parametrize("part", ["step", "partition", "inputs_digest", "configuration_digest", "code_version"])
def test_any_other_part_is_another_step(workspace: Workspace, part: str) -> None:
    ledger.record_entry(workspace, ENTRY)
    parts = {name: getattr(KEY, name) for name in KEY.__struct_fields__} | {part: "other"}
    assert ledger.find_entry(workspace, StepKey(**parts)) is None


@pytest.mark.parametrize("content", [b"", b"{\xff", b"{}"])
def test_a_damaged_entry_is_not_done(workspace: Workspace, content: bytes) -> None:
    ledger.record_entry(workspace, ENTRY).write_bytes(content)
    assert ledger.find_entry(workspace, KEY) is None


def test_an_entry_under_a_foreign_name_is_not_done(workspace: Workspace) -> None:
    path = ledger.record_entry(workspace, ENTRY)
    other = StepKey(step="ingest", partition="x", inputs_digest="a", configuration_digest="b", code_version="c")
    ledger.record_entry(workspace, LedgerEntry(key=other, run_id="r", outputs={})).replace(path)
    assert ledger.find_entry(workspace, KEY) is None


def test_digests_ignore_the_order_of_keys() -> None:
    assert ledger.digest_of({"a": 1, "b": 2}) == ledger.digest_of({"b": 2, "a": 1})
    assert ledger.digest_of({"a": 1}) != ledger.digest_of({"a": 2})


def test_the_code_version_follows_the_source() -> None:
    one = ledger.code_version_of("endcap.workspace.ledger")
    assert one == ledger.code_version_of("endcap.workspace.ledger")
    assert one != ledger.code_version_of("endcap.workspace.layout")
    with pytest.raises(ValueError, match="sys has no source file"):
        ledger.code_version_of("sys")
