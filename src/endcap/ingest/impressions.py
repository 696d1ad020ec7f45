"""What a log says was shown and came of it in, table `impressions` out, date by date."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.events import IMPRESSIONS, IMPRESSIONS_TABLE
from endcap.ingest.landing import grouped
from endcap.ingest.quality import utc_date
from endcap.workspace.drafts import Draft


@runtime_checkable
class SourceOfImpressions(Protocol):
    """A source that knows what was shown, beside what happened."""

    def impressions(self, connection: Backend, path: Path) -> ir.Table:
        """One row per product shown: the columns of `IMPRESSIONS_TABLE` but `event_date`, unique by its key."""


def of_source(connection: Backend, source: object, path: Path) -> ir.Table | None:
    """What was shown according to the export at `path`; None when the source doesn't know."""
    return source.impressions(connection, path) if isinstance(source, SourceOfImpressions) else None


def write(connection: Backend, draft: Draft, shown: ir.Table, folder: Path) -> set[str]:
    """Make `shown` the whole content of its dates, and leave all others as they are; give the dates that changed.

    `folder` takes a scratch file.
    """
    file = folder / "shown.parquet"
    dated = shown.mutate(**{c.EVENT_DATE: utc_date(shown[c.TS_US])})
    connection.to_parquet(dated.select(IMPRESSIONS_TABLE.schema.names), file)
    rows = connection.read_parquet(str(file))
    counted = connection.to_pyarrow(rows.group_by(c.EVENT_DATE).aggregate(num_rows=rows.count())).to_pylist()
    num_rows = {str(row[c.EVENT_DATE]): row["num_rows"] for row in counted}
    changed: set[str] = set()
    for dates in grouped(sorted(num_rows), num_rows):
        own = rows.filter(rows[c.EVENT_DATE].cast("string").isin(dates))
        written = draft.replace(IMPRESSIONS, connection.to_pyarrow(own), dates)
        changed |= {*written.replaced, *written.removed}
    return changed
