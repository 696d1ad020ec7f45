"""What logs say was shown in, table `impressions` out: whose it was and what came of it, as far as the tables tell.

Outcomes are counted from the feedback in table `landed`, and users are those whose keys the log names, so that what one
export brings completes what others brought before it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts import events as contract
from endcap.contracts.events import IDENTITIES, IMPRESSIONS, IMPRESSIONS_TABLE, LANDED
from endcap.ingest import keys
from endcap.ingest.landing import grouped, scan
from endcap.ingest.quality import utc_date
from endcap.ingest.sources import logs
from endcap.ingest.sources.protocol import Source
from endcap.ingest.sources.stated import SideAccount, account_of
from endcap.workspace.drafts import Draft

_COUNTED: Final = {
    "num_clicks": (contract.SELECT_ITEM, contract.VIEW_ITEM),
    "num_carts": (contract.ADD_TO_CART,),
    "num_purchases": (contract.PURCHASE,),
}
_DERIVED: Final = (c.USER_ID, *_COUNTED, c.VALUE)
_TYPES: Final = {
    name: dtype.copy(nullable=True) for name, dtype in ibis.Schema.from_pyarrow(IMPRESSIONS_TABLE.schema).items()
}
_FOUND: Final = "found_"
_MONEY: Final = f"decimal({contract.MONEY_PRECISION}, {contract.MONEY_SCALE})"
# Rows of a table from before batches were noted give way to a batch that names their request.
_NO_BATCH: Final = "~"


@runtime_checkable
class SourceOfRequests(Protocol):
    """A source that knows what was shown, beside what happened."""

    def judged_requests(self, connection: Backend, path: Path) -> ir.Table | None:
        """See `Logs.judged_requests`."""

    def knowing(self, known: Callable[[Backend], ir.Table]) -> Source:
        """See `Logs.knowing`."""


@dataclass(frozen=True)
class Shown:
    """The requests of an export: a scratch file of their rows, each judged, and where these went."""

    file: Path
    batches: tuple[str, ...]
    account: SideAccount


def of_source(connection: Backend, source: Source, path: Path, folder: Path) -> Shown | None:
    """What was shown according to the export at `path`, in a file below `folder`; None when the source doesn't know."""
    if not isinstance(source, SourceOfRequests):
        return None
    judged = source.judged_requests(connection, path)
    if judged is None:
        return None
    file = folder / "requests.parquet"
    rows = _kept(connection, judged, file)
    account = account_of(connection, rows, logs.REQUEST_REASONS)
    batches = connection.to_pyarrow(rows.select(c.BATCH).distinct())[c.BATCH].to_pylist()
    return Shown(file, tuple(sorted(batches)), account)


def knowing(connection: Backend, draft: Draft, source: Source, shown: Shown | None, folder: Path) -> Source:
    """The source as it reads with all requests in sight: those of its export, and those stored by earlier ones."""
    if not isinstance(source, SourceOfRequests):
        return source
    stored = _facts(_stored(connection, draft)).select(*logs.KNOWN).distinct()
    if shown is not None:
        own = _requests(connection, shown).select(*logs.KNOWN)
        stored = own.union(stored.anti_join(own, c.REQUEST_ID))
    file = folder / "known.parquet"
    once = ibis.window(group_by=stored[c.REQUEST_ID], order_by=stored[c.USER_KEY])
    known = stored.mutate(place=ibis.row_number().over(once)).filter(lambda t: t["place"] == 0).drop("place")
    connection.to_parquet(known, file)
    return source.knowing(lambda engine: engine.read_parquet(str(file)))


def _stored(connection: Backend, draft: Draft) -> ir.Table:
    if IMPRESSIONS in draft.missing():  # somebody removed it: what is shown again makes it anew
        del draft.versions[IMPRESSIONS]
    return scan(connection, draft, IMPRESSIONS)


def _requests(connection: Backend, shown: Shown) -> ir.Table:
    rows = connection.read_parquet(str(shown.file))
    return rows.filter(rows[c.REASON].isnull())


def write(connection: Backend, draft: Draft, shown: Shown | None, folder: Path) -> set[str]:
    """Bring table `impressions` up to what was `shown` and to tables `landed` and `identities`; give dates that changed.

    A batch takes the place of the one of its name; other batches of the same dates stay. A request that two batches name
    counts where the first in the alphabet has it. `folder` takes a scratch file.
    """
    stored = _stored(connection, draft)
    if shown is None and not draft.has(IMPRESSIONS):
        return set()
    rows = _dated(connection, shown, folder)
    gone = shown.batches if shown is not None else ()
    landed = scan(connection, draft, LANDED)
    outcomes = _kept(connection, _outcomes(landed), folder / "outcomes.parquet")
    users = ibis.memtable(keys.known(connection, draft.workspace, landed))
    if draft.has(IDENTITIES):
        users = _identified(users, scan(connection, draft, IDENTITIES))
    # What is stored and would be otherwise is found first: most dates of a long table stay as they are.
    stale = _stale(stored, outcomes, users)
    dates = sorted(
        {date for table in (stale, stored.filter(_is_of(stored, gone)), rows) for date in _dates(connection, table)}
    )
    changed: set[str] = set()
    for group in grouped(dates, _sizes(connection, stored, rows)):
        old = scan(connection, draft, IMPRESSIONS, group)
        fresh = rows.filter(rows[c.EVENT_DATE].cast("string").isin(group))
        own = _facts(old.filter(~_is_of(old, gone))).union(fresh)
        written = draft.replace(IMPRESSIONS, connection.to_pyarrow(_completed(_once(own), outcomes, users)), group)
        changed |= {*written.replaced, *written.removed}
    return changed


def _dated(connection: Backend, shown: Shown | None, folder: Path) -> ir.Table:
    """What was shown, by date, from a scratch file."""
    if shown is None:
        return _facts(ibis.memtable(IMPRESSIONS_TABLE.schema.empty_table()))
    rows = logs.shown(_requests(connection, shown))
    return _kept(connection, _facts(rows.mutate(**{c.EVENT_DATE: utc_date(rows[c.TS_US])})), folder / "shown.parquet")


def _kept(connection: Backend, rows: ir.Table, file: Path) -> ir.Table:
    """The rows, worked out once."""
    connection.to_parquet(rows, file)
    return connection.read_parquet(str(file))


def _is_of(rows: ir.Table, batches: Sequence[str]) -> ir.BooleanValue:
    found: ir.BooleanValue = rows[c.BATCH].isin(batches).fill_null(False) if batches else ibis.literal(False)
    return found


def _dates(connection: Backend, rows: ir.Table) -> list[str]:
    return [str(date) for date in connection.to_pyarrow(rows.select(c.EVENT_DATE).distinct())[c.EVENT_DATE].to_pylist()]


def _facts(rows: ir.Table) -> ir.Table:
    """What a log itself says: all columns but those that are worked out."""
    types = {name: dtype for name, dtype in _TYPES.items() if name not in _DERIVED}
    cells = {name: rows[name] for name in types}
    if c.USER_ID in rows.columns:
        cells[c.USER_KEY] = ibis.coalesce(rows[c.USER_KEY], rows[c.USER_ID])
    return rows.select(**{name: cells[name].cast(dtype) for name, dtype in types.items()})


def _once(rows: ir.Table) -> ir.Table:
    """Rows of each request from one batch."""
    named = rows.mutate(batch_or_none=rows[c.BATCH].fill_null(_NO_BATCH))
    first = named.group_by([c.REQUEST_ID, c.TS_US]).aggregate(batch_or_none=named["batch_or_none"].min())
    return named.semi_join(first, [c.REQUEST_ID, c.TS_US, "batch_or_none"]).drop("batch_or_none")


def _joined(rows: ir.Table, outcomes: ir.Table, users: ir.Table) -> ir.Table:
    """Rows with whose they are and what came of them, under the contract's names behind `_FOUND`."""
    named = users.select(own_key=users[c.USER_KEY], own_user=users[c.USER_ID])
    came = outcomes.select(
        own_request=outcomes[c.REQUEST_ID],
        own_item=outcomes[c.ITEM_ID],
        **{f"own_{name}": outcomes[name] for name in (*_COUNTED, c.VALUE)},
    )
    joined = rows.left_join(named, rows[c.USER_KEY] == named["own_key"])
    joined = joined.left_join(
        came, [joined[c.REQUEST_ID] == came["own_request"], joined[c.ITEM_ID] == came["own_item"]]
    )
    found: dict[str, ir.Value] = {c.USER_ID: ibis.coalesce(joined["own_user"], joined[c.USER_KEY])}
    found |= {name: joined[f"own_{name}"].fill_null(0).cast("int64") for name in _COUNTED}
    found[c.VALUE] = joined[f"own_{c.VALUE}"]
    return joined.select(*rows.columns, **{_FOUND + name: value.cast(_TYPES[name]) for name, value in found.items()})


def _completed(rows: ir.Table, outcomes: ir.Table, users: ir.Table) -> ir.Table:
    """Rows as the contract has them."""
    joined = _joined(rows, outcomes, users)
    return joined.select(**{name: joined[_FOUND + name if name in _DERIVED else name] for name in _TYPES})


def _stale(stored: ir.Table, outcomes: ir.Table, users: ir.Table) -> ir.Table:
    """Stored rows that would be otherwise."""
    keyed = stored.mutate(**{c.USER_KEY: ibis.coalesce(stored[c.USER_KEY], stored[c.USER_ID])})
    joined = _joined(keyed, outcomes, users)
    differs = [~joined[name].identical_to(joined[_FOUND + name]) for name in _DERIVED]
    return joined.filter(functools.reduce(operator.or_, differs))


def _outcomes(landed: ir.Table) -> ir.Table:
    """What came of each product of each request: feedback that landed, equal rows of several batches once."""
    rows = keys.of_logs(landed)
    request = rows[c.PROPERTIES].cast("json")[c.REQUEST_ID].str
    named = rows.filter(rows[c.ITEM_ID].notnull()).mutate(**{c.REQUEST_ID: request})
    once = named.group_by([c.EVENT_ID, c.REQUEST_ID, c.ITEM_ID, c.EVENT_TYPE]).aggregate(value=named[c.VALUE].max())
    event_type = once[c.EVENT_TYPE]
    return once.group_by([c.REQUEST_ID, c.ITEM_ID]).aggregate(
        **{name: event_type.isin(types).cast("int64").sum() for name, types in _COUNTED.items()},
        value=once[c.VALUE].sum(where=event_type == contract.PURCHASE).cast(_MONEY),
    )


def _identified(users: ir.Table, identities: ir.Table) -> ir.Table:
    """Keys of guests as those of the users that they turned out to be."""
    merged = identities.select(guest=identities[c.GUEST_ID], merged_user=identities[c.USER_ID])
    joined = users.left_join(merged, users[c.USER_ID] == merged["guest"])
    return joined.select(c.USER_KEY, **{c.USER_ID: ibis.coalesce(joined["merged_user"], joined[c.USER_ID])})


def _sizes(connection: Backend, stored: ir.Table, rows: ir.Table) -> dict[str, int]:
    dated = _facts(stored).union(rows)
    counted = connection.to_pyarrow(dated.group_by(c.EVENT_DATE).aggregate(num_rows=dated.count()))
    return {str(row[c.EVENT_DATE]): row["num_rows"] for row in counted.to_pylist()}
