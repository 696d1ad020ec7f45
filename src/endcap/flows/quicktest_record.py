"""What is known of each quick test, from its beginning on: written into its run's folder, read again, compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from endcap.contracts.configuration import Configuration
from endcap.workspace.atomic import write_json
from endcap.workspace.exclusive import is_anybody_in
from endcap.workspace.layout import Workspace

STEP: Final = "quicktest"
RECORD: Final = "quicktest.json"
LOG: Final = "log.jsonl"

State = Literal["running", "completed", "timed_out", "failed", "stopped"]

EIGHT: Final = (
    "test/recall@5",
    "test/recall@10",
    "test/recall@50",
    "test/recall@100",
    "test/rmse",
    "test/mae",
    "validation/rmse",
    "validation/mae",
)
"""What is stored of every quick test; null where it can't be measured."""
_ERRORS: Final = ("rmse", "mae")


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One quick test.

    `changes` are the keys in which its configuration differs from the source run's, `metrics` what was measured, null
    where it couldn't be, and `source_metrics` the same of the source run's own model after tuning. Times are ISO 8601
    in UTC. `error` says what ended a test that failed or timed out.
    """

    run_id: str
    source_run: str
    state: State
    started_at: str
    changes: dict[str, Any]
    num_epochs: int
    num_parameters: int
    ended_at: str | None = None
    seconds: float | None = None
    chosen_epoch: int | None = None
    metrics: dict[str, float | None] = {}
    source_metrics: dict[str, float | None] = {}
    remarks: list[str] = []
    error: str = ""


def write_record(workspace: Workspace, record: Record) -> Path:
    """Write or replace the record in its run's folder."""
    path = workspace.runs / record.run_id / RECORD
    write_json(path, record)
    return path


def records_of(workspace: Workspace, source_run: str) -> list[Record]:
    """The quick tests of a source run, the earliest first; one whose process is gone before its end was stopped."""
    found = []
    for path in sorted(workspace.runs.glob(f"{STEP}-*/{RECORD}")):
        try:
            record = msgspec.json.decode(path.read_bytes(), type=Record)
        except (OSError, msgspec.DecodeError):  # half-deleted, or of another version: nothing to compare with
            continue
        if record.source_run != source_run:
            continue
        if record.state == "running" and not is_anybody_in(path.parent):
            record = msgspec.structs.replace(record, state="stopped")
        found.append(record)
    return found


def best_of(rows: list[dict[str, float | None]], metric: str) -> float | None:
    """The best value of a metric; None where fewer than two rows have one."""
    values = [value for row in rows if (value := row.get(metric)) is not None]
    if len(values) < 2:
        return None
    return min(values) if metric.rpartition("/")[2] in _ERRORS else max(values)


def changes_between(configuration: Configuration, source: Configuration) -> dict[str, Any]:
    """Keys of model, training and seed whose values differ, by their dotted names; null where a key is left out."""
    mine, theirs = (
        flattened({key: each.model_dump(mode="json", exclude_none=True)[key] for key in ("seed", "model", "training")})
        for each in (configuration, source)
    )
    return {
        key: mine.get(key) for key in [*mine, *(k for k in theirs if k not in mine)] if mine.get(key) != theirs.get(key)
    }


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted names; an empty mapping is a value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= flattened(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
