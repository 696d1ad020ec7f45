"""A training job's environment in, its staged interactions and its warehouse's logs as checked tables of the workspace out."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from endcap.contracts import columns as c
from endcap.contracts.errors import InputError
from endcap.contracts.events import IMPRESSIONS
from endcap.contracts.job import FEEDBACK_COLUMNS, LOCAL_PROJECT, REQUESTS_COLUMNS, JobEnvironment
from endcap.contracts.reporting import Reporter
from endcap.engines import duckdb
from endcap.ingest.pipeline import ingest
from endcap.ingest.warehouse import export_bigquery, export_delta, is_delta
from endcap.workspace import tables
from endcap.workspace.layout import Workspace
from endcap.workspace.locations import Location
from endcap.workspace.scratch import JOB_PREFIX, claimed_folder

INTERACTIONS: Final = "interactions.parquet"
ITEMS: Final = "items.parquet"


def bring_input(job: JobEnvironment, workspace: Workspace, report: Reporter) -> None:
    """Bring what the job's places and tables hold into the workspace's tables; what is in them already is skipped.

    A job that isn't told of any, and finds none at the default places, goes on with the tables there are. Raises
    InputError when a place or a table that was named holds nothing, TransientError when it can't be reached.
    """
    with claimed_folder(workspace, JOB_PREFIX) as folder:
        staged = _staged(job, folder / "staging", report)
        if staged is not None:
            _ingest(workspace, "staging", staged, report)
        logs = _logs(job, folder / "logs", report)
        if logs is not None:
            _ingest(workspace, "logs", logs, report)
            _tell_whose(job, workspace, report)


def _ingest(workspace: Workspace, source: str, path: Path, report: Reporter) -> None:
    result = ingest(workspace, source, path, report=report)
    report.event(
        "ingested",
        source=source,
        rows=result.account.num_rows,
        events=result.account.events,
        duplicates=result.account.num_duplicates,
        quarantined=result.account.quarantined,
        changed=result.changed,
    )


def _tell_whose(job: JobEnvironment, workspace: Workspace, report: Reporter) -> None:
    """Say of how many users in the requests it is known who they are: keys of another workspace are nobody's here."""
    if tables.version_in_force(workspace, IMPRESSIONS) is None:
        return
    with duckdb.session(workspace) as connection:
        rows = duckdb.scan_table(connection, workspace, IMPRESSIONS, columns=(c.USER_KEY, c.USER_ID))
        users = rows.filter(rows[c.USER_KEY].notnull()).distinct()
        is_known = users[c.USER_KEY] != users[c.USER_ID]
        found = connection.to_pyarrow(users.aggregate(num_users=users.count(), num_known=is_known.sum()))
    num_users, num_known = found["num_users"][0].as_py(), found["num_known"][0].as_py()
    if num_known or not num_users:
        report.event("users in the requests", num_users=num_users, num_known=num_known)
        return
    todo = (
        "Set USER_KEY_SECRET to the name of the secret with the key of the workspace that served them."
        if job.user_key_secret is None
        else f"{job.user_key_secret} isn't the key of the workspace that served them, or the interactions aren't theirs."
    )
    report.event(
        f"nobody in the requests is a user of the interactions: no user_key matches. {todo}", num_users=num_users
    )


def _staged(job: JobEnvironment, folder: Path, report: Reporter) -> Path | None:
    """The folder that holds the staged files: that of the prefix where it can be read in place, else a copy."""
    prefix = Location.parse(job.staging_prefix)
    names = (INTERACTIONS, ITEMS)
    if not prefix.is_remote and not any(is_delta((prefix / name).path) for name in names):
        if (prefix / INTERACTIONS).path.exists():
            return prefix.path
    elif _bring(prefix / INTERACTIONS, folder / INTERACTIONS):
        _bring(prefix / ITEMS, folder / ITEMS)
        report.event("staged", place=str(prefix), num_bytes=_num_bytes(folder))
        return folder
    if job.is_strict or "STAGING_PREFIX" in job.given:
        raise InputError(
            f"There is nothing at {prefix / INTERACTIONS}: expected a file, a folder of parts or a Delta table. Put the "
            "interactions there, or set STAGING_PREFIX to where they are."
        )
    return None


def _logs(job: JobEnvironment, folder: Path, report: Reporter) -> Path | None:
    """A folder with the requests and the feedback of the warehouse; None where neither has rows."""
    found = False
    for name, (table, columns) in {
        "requests": (job.requests_table, REQUESTS_COLUMNS),
        "feedback": (job.feedback_table, FEEDBACK_COLUMNS),
    }.items():
        target = folder / name
        if _brought(job, table, target, columns):
            has_rows = _has_rows(target)
            report.event("read from the warehouse", table=table, is_empty=not has_rows)
            found |= has_rows
            if not has_rows:
                shutil.rmtree(target)
        elif job.is_strict or f"{name.upper()}_TABLE" in job.given:
            raise InputError(
                f"There is no table at {_place_of(job, table)}: expected a Delta table or Parquet files. Set "
                f"{name.upper()}_TABLE to where it is: DATASET.TABLE of BigQuery, or a folder."
            )
    return folder if found else None


def _brought(job: JobEnvironment, table: str, target: Path, columns: Sequence[str]) -> bool:
    """Bring a table's rows below `target`; False where there is no table."""
    if "/" not in table and job.project_id != LOCAL_PROJECT:
        export_bigquery(job.project_id, table, target, columns)
        return True
    place = _place_of(job, table)
    return _bring(place, target / place.name if place.exists() else target, columns)


def _place_of(job: JobEnvironment, table: str) -> Location:
    return Location.parse(table if "/" in table else Path(job.warehouse, *table.split(".", 1)))


def _bring(place: Location, target: Path, columns: Sequence[str] | None = None) -> bool:
    """Bring a file, a folder of parts or a Delta table to `target`; False where there is nothing at `place`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        if place.is_remote:
            place.download_file(target)
        else:
            target.symlink_to(place.path.resolve())
        return True
    source = place.path if not place.is_remote else _downloaded(place, target.with_name(f".{target.name}"))
    if source is None or not source.is_dir():
        return False
    if is_delta(source):
        export_delta(source, target, columns)
        return True
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for file in files:
        link = target / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())
    return bool(files)


def _downloaded(place: Location, aside: Path) -> Path | None:
    if not place.list():
        return None
    place.download_folder(aside, last=None)
    return aside


def _has_rows(folder: Path) -> bool:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return any(path.suffix != ".parquet" or pq.read_metadata(path).num_rows > 0 for path in files)


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
