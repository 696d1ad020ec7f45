"""What a backfill plans, runs, leaves out and says, on steps that fail as they are told."""

from __future__ import annotations

import json
import threading
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Silent
from endcap.flows import backfill as module
from endcap.flows.backfill import BackfillResult, backfill, plan
from endcap.flows.partitions import MAX_TRIES, Context, run_partition
from endcap.workspace import ledger
from endcap.workspace.layout import Workspace
from endcap.workspace.manifests import read_manifest
from tests.flows.fake_steps import Copy, Raw, output, ran

FIRST, LAST = date(2026, 3, 1), date(2026, 3, 4)
DAYS = [str(FIRST + timedelta(days=number)) for number in range(4)]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace.init(tmp_path / "shop")
    for day in DAYS:
        Raw(workspace).write(date.fromisoformat(day), f"rows of {day}")
    return workspace


def run(workspace: Workspace, *steps: Copy, **options) -> BackfillResult:
    naps = options.pop("naps", [])
    return backfill(workspace, FIRST, LAST, steps, Silent(), sleep=naps.append, **options)


def states(result: BackfillResult) -> dict[str, str]:
    return {str(outcome.node): outcome.state for outcome in result.outcomes}


def why(workspace: Workspace, *steps: Copy) -> dict[str, tuple[str, str]]:
    planned = plan(workspace, FIRST, LAST, steps).partitions
    return {str(outcome.node): (outcome.state, outcome.why) for outcome in planned}


def test_everything_runs_once_and_then_is_done(workspace):
    steps = Copy("events"), Copy("daily", of="events")
    result = run(workspace, *steps)
    assert result.counts == {"ran": 8}
    assert result.exit_code == 0
    assert output(workspace, "daily", DAYS[2]).read_text() == f"daily|events|rows of {DAYS[2]}"
    again = run(workspace, *steps)
    assert again.counts == {"done": 8}
    assert set(ran(workspace).values()) == {1}


def test_the_plan_says_why(workspace):
    steps = Copy("events", chained=True), Copy("daily", of="events")
    assert set(why(workspace, *steps).values()) == {("run", "not in the ledger yet")}
    run(workspace, *steps)
    assert set(why(workspace, *steps).values()) == {("done", "nothing changed")}

    Raw(workspace).write(date(2026, 3, 3), "late rows")
    assert why(workspace, *steps) == {
        f"events {DAYS[0]}": ("done", "nothing changed"),
        f"events {DAYS[1]}": ("done", "nothing changed"),
        f"events {DAYS[2]}": ("run", "inputs changed"),
        f"events {DAYS[3]}": ("maybe", "if events comes out different"),
        f"daily {DAYS[0]}": ("done", "nothing changed"),
        f"daily {DAYS[1]}": ("done", "nothing changed"),
        f"daily {DAYS[2]}": ("maybe", "if events comes out different"),
        f"daily {DAYS[3]}": ("maybe", "if events comes out different"),
    }
    other = steps[0], Copy("daily", of="events", setting="2")
    assert why(workspace, *other)[f"daily {DAYS[0]}"] == ("run", "configuration changed")
    output(workspace, "daily", DAYS[1]).unlink()
    assert why(workspace, *steps)[f"daily {DAYS[1]}"] == ("run", "outputs missing or altered")


def test_a_change_of_one_date_touches_what_is_made_from_it_alone(workspace):
    steps = Copy("events"), Copy("daily", of="events"), Copy("other")
    run(workspace, *steps)
    Raw(workspace).write(date(2026, 3, 3), "late rows")
    result = run(workspace, *steps)
    assert {node for node, state in states(result).items() if state == "ran"} == {
        f"events {DAYS[2]}", f"daily {DAYS[2]}", f"other {DAYS[2]}",
    }  # fmt: skip


def test_what_lies_behind_the_range_is_told(workspace, recorder):
    steps = [Copy("events", chained=True)]
    run(workspace, *steps)
    Raw(workspace).write(date(2026, 3, 2), "late rows")
    backfill(workspace, FIRST, date(2026, 3, 2), steps, recorder)
    assert recorder.events[-1] == (
        "later dates are behind",
        {"step": "events", "since": DAYS[2], "dates": 1, "why": "inputs changed"},
    )


def test_the_first_date_behind_is_found_however_far_it_lies_and_all_are_counted(workspace, recorder):
    """The day after the range is sound, the two after it aren't; a date that was never made is behind nothing."""
    for day in ("2026-03-05", "2026-03-06"):
        Raw(workspace).write(date.fromisoformat(day), "rows")
    steps = [Copy("events")]
    backfill(workspace, FIRST, date(2026, 3, 5), steps, Silent())
    for day in (*DAYS[2:], "2026-03-06"):
        Raw(workspace).write(date.fromisoformat(day), "late rows")
    assert backfill(workspace, FIRST, FIRST, steps, recorder).counts == {"done": 1}
    assert recorder.events[-1] == (
        "later dates are behind",
        {"step": "events", "since": DAYS[2], "dates": 2, "why": "inputs changed"},
    )


def test_two_backfills_at_once_run_each_partition_once(workspace):
    steps = [Copy("events", chained=True, failing=dict.fromkeys(DAYS, "nap")), Copy("daily", of="events")]
    results = []
    both = [threading.Thread(target=lambda: results.append(run(workspace, *steps))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert [result.exit_code for result in results] == [0, 0]
    assert sum(result.counts.get("ran", 0) for result in results) == 8
    assert set(ran(workspace).values()) == {1}


def test_what_comes_out_as_before_stops_the_change(workspace):
    """The setting of `events` changes its key, but not what `daily` reads."""
    constant = _Constant("events")
    run(workspace, constant, Copy("daily", of="events"))
    result = run(workspace, _Constant("events", setting="2"), Copy("daily", of="events"))
    assert Counter(states(result).values()) == {"ran": 4, "unchanged": 4}
    assert {count for (step, _), count in ran(workspace).items() if step == "daily"} == {1}


class _Constant(Copy):
    def run(self, workspace, partition, context):
        entry = super().run(workspace, partition, context)
        output(workspace, self.name, partition).write_text("the same")
        return entry


def test_going_back_to_an_earlier_setting_runs_again(workspace):
    """The entry under the first key still stands, but its outputs were overwritten."""
    run(workspace, Copy("daily"))
    run(workspace, Copy("daily", setting="2"))
    assert run(workspace, Copy("daily")).counts == {"ran": 4}
    assert output(workspace, "daily", DAYS[0]).read_text() == f"daily|rows of {DAYS[0]}"


def test_a_dry_run_writes_nothing(workspace):
    run(workspace, Copy("events"))
    Raw(workspace).write(FIRST, "late rows")
    before = {path: path.stat().st_mtime_ns for path in workspace.path.rglob("*")}
    result = run(workspace, Copy("events"), Copy("daily", of="events"), dry_run=True)
    assert result.counts == {"run": 5, "done": 3}
    assert (result.run_id, result.exit_code) == ("", 0)
    assert {path: path.stat().st_mtime_ns for path in workspace.path.rglob("*")} == before


def test_transient_errors_are_tried_again_ever_later(workspace):
    naps: list[float] = []
    result = run(workspace, Copy("events", failing={DAYS[1]: "transient:2"}), naps=naps)
    assert result.counts == {"ran": 4}
    assert [outcome.num_tries for outcome in result.outcomes] == [1, 3, 1, 1]
    # A second, then two, each with up to a second more so that workers don't come back together.
    assert [1 <= naps[0] <= 2, 2 <= naps[1] <= 3] == [True, True]
    assert ledger.find_attempt(workspace, "events", DAYS[1]) is None


def test_transient_errors_that_stay_fail_in_the_end(workspace, recorder):
    naps: list[float] = []
    steps = [Copy("events", failing={DAYS[1]: "transient"})]
    result = backfill(workspace, FIRST, LAST, steps, recorder, sleep=naps.append)
    assert (len(naps), ran(workspace)["events", DAYS[1]]) == (MAX_TRIES - 1, MAX_TRIES)
    assert result.exit_code == 1
    attempt = ledger.find_attempt(workspace, "events", DAYS[1])
    assert attempt is not None
    assert (attempt.num_attempts, attempt.error) == (MAX_TRIES, "The store answered 503. Try again.")
    assert [event for event, _ in recorder.events] == ["backfill started", "partition failed", "backfill finished"]
    assert recorder.events[1][1]["error"] == "The store answered 503. Try again."


@pytest.mark.parametrize("how", ["input", "fault"])
def test_other_errors_are_not_tried_again(workspace, how):
    naps: list[float] = []
    result = run(workspace, Copy("events", failing={DAYS[1]: how}), naps=naps)
    assert (naps, ran(workspace)["events", DAYS[1]]) == ([], 1)
    (failed,) = result.failed
    assert failed.error == {
        "input": "The file has no column price. Export it again.", "fault": "ZeroDivisionError: division by zero",
    }[how]  # fmt: skip
    assert (failed.details is None) == (how == "input")


def test_a_failure_leaves_out_what_is_made_from_it_and_nothing_else(workspace):
    steps = Copy("events", chained=True, failing={DAYS[2]: "input"}), Copy("daily", of="events"), Copy("other")
    result = run(workspace, *steps)
    assert states(result) == {
        **{f"events {day}": "ran" for day in DAYS[:2]}, f"events {DAYS[2]}": "failed", f"events {DAYS[3]}": "skipped",
        **{f"daily {day}": "ran" for day in DAYS[:2]}, **{f"daily {day}": "skipped" for day in DAYS[2:]},
        **{f"other {day}": "ran" for day in DAYS},
    }  # fmt: skip
    assert {str(part.node): part.error for part in result.failed if part.state == "skipped"} == {
        f"events {DAYS[3]}": f"events {DAYS[2]} failed",
        f"daily {DAYS[2]}": f"events {DAYS[2]} failed",
        f"daily {DAYS[3]}": f"events {DAYS[2]} failed",
    }
    assert why(workspace, *steps)[f"events {DAYS[2]}"] == (
        "run",
        "failed: The file has no column price. Export it again.",
    )

    mended = Copy("events", chained=True), *steps[1:]
    assert run(workspace, *mended).exit_code == 0
    assert {node: count for node, count in ran(workspace).items() if count > 1} == {("events", DAYS[2]): 2}


def test_a_full_disk_ends_the_backfill_at_once(workspace, recorder):
    """Nothing is tried again and nothing else is begun: each would wait and fail like the first."""
    naps: list[float] = []
    steps = Copy("other"), Copy("events", failing={DAYS[1]: "full"}), Copy("daily", of="events")
    result = backfill(workspace, FIRST, LAST, steps, recorder, sleep=naps.append)
    assert (naps, result.exit_code) == ([], 3)
    assert result.counts == {"ran": 5, "failed": 1, "skipped": 6}
    assert set(ran(workspace)) == {*(("other", day) for day in DAYS), ("events", DAYS[0]), ("events", DAYS[1])}
    full = f"The disk that holds {workspace.path} is full: events {DAYS[1]} could not be written"
    assert str(result.stopped).startswith(full)
    assert {part.error for part in result.failed if part.state == "skipped"} == {"not begun: the disk is full"}
    assert [event for event, _ in recorder.events] == ["backfill started", "partition failed", "backfill stopped"]
    assert recorder.ended == ["backfill"]
    assert why(workspace, *steps)[f"events {DAYS[1]}"][1].startswith("failed: The disk")

    resumed = run(workspace, Copy("other"), Copy("events"), Copy("daily", of="events"))
    assert (resumed.exit_code, resumed.counts) == (0, {"done": 5, "ran": 7})


def test_a_full_disk_ends_a_backfill_of_two_jobs(workspace):
    result = run(workspace, Copy("events", chained=True, failing={DAYS[1]: "full"}), Copy("daily", of="events"), jobs=2)
    assert result.exit_code == 3
    assert states(result)[f"events {DAYS[1]}"] == "failed"
    assert {states(result)[f"daily {day}"] for day in DAYS[1:]} == {"skipped"}
    assert run(workspace, Copy("events", chained=True), Copy("daily", of="events")).exit_code == 0


@pytest.mark.parametrize("attribute", ["record_entry", "record_attempt", "claim"])
def test_a_ledger_on_a_full_disk_ends_the_backfill(workspace, monkeypatch, attribute):
    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger, attribute, full)
    result = run(workspace, Copy("events"))
    assert (result.exit_code, result.counts) == (3, {"failed": 1, "skipped": 3})
    monkeypatch.undo()
    assert run(workspace, Copy("events")).counts == {"ran": 4}


def test_an_account_without_room_is_told_and_what_is_done_stays_done(workspace, monkeypatch):
    def full(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    result = run(workspace, Copy("events"))
    assert (result.exit_code, result.counts) == (3, {"ran": 4})
    assert "the account of the run could not be written" in str(result.stopped)
    monkeypatch.undo()
    assert run(workspace, Copy("events")).counts == {"done": 4}


def test_progress_counts_what_is_settled_and_tells_what_is_left(workspace):
    said: list[tuple[str, float, float, str]] = []
    silent = Silent()
    silent.progress = lambda stage, done, total, note="": said.append((stage, done, total, note))
    backfill(workspace, FIRST, LAST, [Copy("events"), Copy("daily", of="events")], silent, jobs=1)
    assert [(stage, done, total) for stage, done, total, _ in said] == [("backfill", n, 8) for n in range(9)]
    assert all(note.startswith("about ") and note.endswith(" left") for *_, note in said[1:-1])
    assert said[-1][3] == ""


def test_the_run_is_accounted_for(workspace):
    steps = Copy("events", failing={DAYS[3]: "fault"}), Copy("daily", of="events")
    result = run(workspace, *steps)
    manifest = read_manifest(workspace, result.run_id)
    assert manifest.configuration == {
        "from": DAYS[0], "to": DAYS[3], "steps": ["events", "daily"], "jobs": 1,
    }  # fmt: skip
    assert {name: manifest.metrics[name] for name in ("num_ran", "num_failed", "num_skipped")} == {
        "num_ran": 6, "num_failed": 1, "num_skipped": 1,
    }  # fmt: skip
    partitions = json.loads((workspace.runs / result.run_id / module.PARTITIONS_FILE).read_text())
    assert [(part["step"], part["partition"], part["state"]) for part in partitions][3:5] == [
        ("events", DAYS[3], "failed"), ("daily", DAYS[0], "ran"),
    ]  # fmt: skip
    assert "ZeroDivisionError" in partitions[3]["details"]
    latest = ledger.find_latest(workspace, "daily", DAYS[0])
    assert latest is not None
    assert latest.run_id == result.run_id


@pytest.mark.parametrize(
    ("first", "last", "options", "message"),
    [
        (LAST, FIRST, {}, "expected the earlier date first"),
        (date(2020, 1, 1), date(2020, 1, 31), {}, "There is nothing between 2020-01-01 and 2020-01-31"),
        (FIRST, LAST, {"jobs": 0}, "expected a whole number above 0"),
        (FIRST, LAST, {"jobs": 9}, "give at most 8 jobs"),
    ],
)
def test_wrong_input_is_refused_before_anything_runs(workspace, first, last, options, message):
    with pytest.raises(InputError, match=message):
        backfill(workspace, first, last, [Copy("events")], Silent(), **options)
    assert ran(workspace) == {}


def test_two_jobs_run_side_by_side_with_half_of_the_memory_each(workspace):
    steps = Copy("events", chained=True), Copy("daily", of="events", failing={DAYS[0]: "meet", DAYS[1]: "fault"})
    result = run(workspace, *steps, jobs=2)
    assert Counter(states(result).values()) == {"ran": 7, "failed": 1}
    lines = [line.split() for line in (workspace.path / "ran.txt").read_text().splitlines()]
    assert len({pid for _, _, pid, _ in lines}) == 2
    assert {memory for _, _, _, memory in lines} == {"512"}
    assert [day for step, day, _, _ in lines if step == "events"] == DAYS
    assert "ZeroDivisionError" in (result.failed[0].details or "")


@pytest.mark.slow  # a kill loop
def test_a_worker_that_is_killed_takes_no_other_partition_with_it(workspace):
    result = run(workspace, Copy("events", failing={DAYS[1]: "die"}), Copy("daily", of="events"), jobs=2)
    assert {node for node, state in states(result).items() if state != "ran"} == {
        f"events {DAYS[1]}", f"daily {DAYS[1]}",
    }  # fmt: skip
    assert "died 3 times over it, most likely killed for want of memory" in (result.failed[0].error or "")
    again = run(workspace, Copy("events"), Copy("daily", of="events"))
    assert again.counts == {"done": 6, "ran": 2}


def test_what_a_worker_finished_before_it_died_was_run_by_this_backfill(workspace):
    step = Copy("events")

    def of_run(run_id):
        return run_partition(workspace, step, DAYS[0], Context(run_id, memory_mb=64, num_threads=1)).state

    assert [of_run("a"), of_run("a"), of_run("b")] == ["ran", "ran", "unchanged"]


@settings(deadline=None, max_examples=20)
@given(failing=st.sets(st.sampled_from(DAYS)), chained=st.booleans())
def test_whatever_fails_a_later_backfill_ends_like_one_that_never_failed(tmp_path_factory, failing, chained):
    folder = tmp_path_factory.mktemp("shop")
    texts = []
    for name, wrong in (("broken", failing), ("sound", set())):
        workspace = Workspace.init(folder / name)
        for day in DAYS:
            Raw(workspace).write(date.fromisoformat(day), f"rows of {day}")
        run(
            workspace,
            Copy("events", chained=chained, failing=dict.fromkeys(wrong, "fault")),
            Copy("daily", of="events"),
        )
        run(workspace, Copy("events", chained=chained), Copy("daily", of="events"))
        texts.append([output(workspace, step, day).read_text() for step in ("events", "daily") for day in DAYS])
        finished = {node: count for node, count in ran(workspace).items() if node[1] not in wrong}
        assert set(finished.values()) <= {1}
    assert texts[0] == texts[1]
