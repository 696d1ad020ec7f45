"""The name of a piece of data work and its files in, the work done in this process and what it took out, as JSON."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.events import OPEN_SESSIONS_TABLE, SESSION_GAP_MINUTES, US_PER_DAY
from endcap.engines import duckdb
from endcap.features.default import default_features
from endcap.ingest import pipeline, quality, sessions
from endcap.workspace.layout import Workspace

ROWS_PER_MB = 1_000
"""Rows that are worked on at once, for each megabyte that the engine may use."""
MAX_ROWS_AT_ONCE = 4_000_000


def sessionize(source: Path, target: Path, memory_mb: int, *, at_once: int | None = None) -> None:
    """Deduplicate events and put them into sessions, days after days, as the ingest builds its tables.

    `target` is a folder of parts: days in their order, each sorted by time. The sessions that are open at the end of a
    part go on in the next. A part has at most `at_once` rows, or one day.
    """
    target.mkdir()
    with _connected(memory_mb) as connection:
        rows = connection.create_view("source_rows", duckdb.scan_parquet(connection, source))
        columns = [name for name in rows.columns if name != c.ROW_NUMBER]
        day = (rows[c.TS_US] // US_PER_DAY).cast("int32")
        counted = connection.to_pyarrow(rows.group_by(day=day).aggregate(n=rows.count()).order_by("day"))
        num_rows = dict(zip(counted["day"].to_pylist(), counted["n"].to_pylist(), strict=True))
        carried = OPEN_SESSIONS_TABLE.schema.empty_table()
        for place, days in enumerate(_groups(num_rows, at_once or min(memory_mb * ROWS_PER_MB, MAX_ROWS_AT_ONCE))):
            own = rows.filter(rows[c.TS_US].between(days[0] * US_PER_DAY, (days[-1] + 1) * US_PER_DAY - 1))
            narrow = own.select(
                c.USER_ID,
                c.TS_US,
                c.EVENT_ID,
                c.ROW_NUMBER,
                **{c.EVENT_DATE: own[c.TS_US] // US_PER_DAY, c.BATCH: ibis.literal("")},
            )
            built = sessions.with_sessions(
                own,
                gap_minutes=SESSION_GAP_MINUTES,
                open_sessions=ibis.memtable(carried),
                key=(c.ROW_NUMBER,),
                chosen=quality.deduplicated(narrow),
            )
            part = target / f"part_{place:04d}.parquet"
            ordered = built.select(*columns, c.START_US, c.SESSION_ID).order_by(c.TS_US, c.EVENT_ID)
            connection.to_parquet(ordered, part, compression="snappy")
            carried = _open_at_end(connection, part, days[-1])


def _open_at_end(connection: Backend, part: Path, day: int) -> pa.Table:
    last = connection.read_parquet(str(part))
    last = last.filter(last[c.TS_US] >= (day + 1) * US_PER_DAY - SESSION_GAP_MINUTES * 60_000_000)
    last = last.mutate(**{c.EVENT_DATE: _date(last)})
    return connection.to_pyarrow(sessions.open_at_midnight(last, gap_minutes=SESSION_GAP_MINUTES))


def _date(rows: ir.Table) -> ir.DateValue:
    return quality.utc_date(rows[c.TS_US])


def _groups(num_rows: dict[int, int], at_once: int) -> Iterator[list[int]]:
    group: list[int] = []
    for day, count in num_rows.items():
        if group and sum(num_rows[other] for other in group) + count > at_once:
            yield group
            group = []
        group.append(day)
    if group:
        yield group


def features(folder: Path, target: Path, memory_mb: int) -> dict[str, float]:
    """Compute the default feature set for `folder`'s spine, group by group, and tell the seconds of each."""
    target.mkdir()
    seconds = {}
    with _connected(memory_mb) as connection:
        spine, events, versions = (
            connection.read_parquet(str(folder / name))
            for name in ("spine.parquet", "events.parquet", "item_versions.parquet")
        )
        for name, table in default_features(spine, events, versions).items():
            started = time.perf_counter()
            connection.to_parquet(table, target / f"{name}.parquet")
            seconds[name] = time.perf_counter() - started
    return seconds


def ingest(source: Path, target: Path, memory_mb: int) -> dict[str, Any]:
    """Ingest invoices into a fresh workspace and give the account of their rows."""
    account = pipeline.ingest(Workspace.init(target), "online_retail", source, memory_mb=memory_mb).account
    return {
        "num_rows": account.num_rows,
        "num_duplicates": account.num_duplicates,
        **{f"num_{name}": count for name, count in account.events.items()},
        "num_quarantined": sum(account.quarantined.values()),
    }


@contextmanager
def _connected(memory_mb: int) -> Iterator[Backend]:
    """A connection whose spilled files go away with it."""
    with (
        tempfile.TemporaryDirectory(prefix="endcap-bench-") as folder,
        duckdb.session(Workspace.init(Path(folder) / "workspace"), memory_mb=memory_mb) as connection,
    ):
        yield connection


JOBS: dict[str, Callable[[Path, Path, int], Any]] = {"sessionize": sessionize, "features": features, "ingest": ingest}


def main(arguments: Iterable[str] | None = None) -> None:
    """Do the job that the command line names and print its seconds and result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance.data_jobs", description=__doc__)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--memory-mb", type=int, required=True)
    options = parser.parse_args(None if arguments is None else list(arguments))
    started = time.perf_counter()
    result = JOBS[options.job](options.source, options.target, options.memory_mb)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib(), "result": result}))


def peak_mib() -> float:
    """The largest resident size of this process so far; what a parent is told may be the parent's own."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
