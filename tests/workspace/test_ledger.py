from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import msgspec
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


def other(**parts: str) -> StepKey:
    return msgspec.structs.replace(KEY, **parts)


def why(workspace: Workspace, key: StepKey) -> str | None:
    return ledger.why_not_done(workspace, key, ledger.find_latest(workspace, key.step, key.partition))


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({}, None),
        ({"inputs_digest": "z"}, "inputs changed"),
        ({"configuration_digest": "z"}, "configuration changed"),
        ({"code_version": "z"}, "code changed"),
        ({"inputs_digest": "z", "code_version": "z"}, "inputs, code changed"),
        ({"partition": "z"}, "not in the ledger yet"),
        ({"step": "z"}, "not in the ledger yet"),
    ],
)
def test_what_differs_from_the_latest_entry_is_named(
    workspace: Workspace, parts: dict[str, str], reason: str | None
) -> None:
    ledger.record_entry(workspace, ENTRY)
    assert why(workspace, other(**parts)) == reason


def test_the_latest_entry_alone_counts_for_a_partition_that_is_overwritten(workspace: Workspace) -> None:
    ledger.record_entry(workspace, ENTRY)
    ledger.record_entry(workspace, LedgerEntry(key=other(code_version="z"), run_id="s", outputs={}))
    assert ledger.find_entry(workspace, KEY) == ENTRY
    assert why(workspace, KEY) == "code changed"


def test_a_step_that_was_begun_is_not_done_until_it_ends(workspace: Workspace) -> None:
    ledger.record_entry(workspace, ENTRY)
    changed = other(inputs_digest="z")
    ledger.record_attempt(workspace, changed, "s")
    # The changed run may have overwritten half of the partition: neither key is done.
    assert why(workspace, KEY) == why(workspace, changed) == "cut short"
    ledger.record_entry(workspace, LedgerEntry(key=changed, run_id="s", outputs={}))
    assert why(workspace, changed) is None
    assert ledger.find_attempt(workspace, "ingest", "all") is None


def test_attempts_are_counted_and_their_last_error_kept(workspace: Workspace) -> None:
    ledger.record_attempt(workspace, KEY, "r")
    ledger.record_attempt(workspace, KEY, "r")
    ledger.record_attempt(workspace, KEY, "r", error="the disk is full")
    attempt = ledger.find_attempt(workspace, "ingest", "all")
    assert attempt is not None
    assert (attempt.num_attempts, attempt.error, attempt.key) == (2, "the disk is full", KEY)
    assert why(workspace, KEY) == "failed: the disk is full"
    assert ledger.record_attempt(workspace, KEY, "s").num_attempts == 3
    assert ledger.record_attempt(workspace, other(code_version="z"), "s").num_attempts == 1


HOLD = """
import sys, time
from pathlib import Path
from endcap.workspace import ledger
from endcap.workspace.layout import Workspace
with ledger.claim(Workspace.open(Path(sys.argv[1])), "ingest", "a/b"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_claim_keeps_others_out_until_its_process_dies(workspace: Workspace) -> None:
    assert not ledger.is_claimed(workspace, "ingest", "a/b")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(workspace.path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    entered = threading.Event()

    def enter() -> None:
        with ledger.claim(workspace, "ingest", "a/b"):
            entered.set()

    try:
        assert holder.stdout.readline() == "held\n"
        assert ledger.is_claimed(workspace, "ingest", "a/b")
        assert not ledger.is_claimed(workspace, "ingest", "all")
        waiting = threading.Thread(target=enter)
        waiting.start()
        assert not entered.wait(0.2)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert entered.wait(10)
    waiting.join()
    assert not ledger.is_claimed(workspace, "ingest", "a/b")
