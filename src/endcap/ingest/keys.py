"""The ids of a workspace's users in, the hashed keys under which its logs speak of them out."""

from __future__ import annotations

from collections.abc import Mapping

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.events import BATCHES, LANDED
from endcap.engines import duckdb
from endcap.ingest.sources import logs
from endcap.workspace import tables
from endcap.workspace.layout import Workspace

_OF_LOGS = f"{logs.NAME}/"


def of_logs(landed: ir.Table) -> ir.Table:
    """Landed rows that logs brought."""
    return landed.filter(landed[c.BATCH].startswith(_OF_LOGS))


def known(connection: Backend, workspace: Workspace, landed: ir.Table) -> pa.Table:
    """Every id of a user or guest that landed rows of other sources name: `user_key, user_id`."""
    others = landed.filter(~landed[c.BATCH].startswith(_OF_LOGS))
    found = [
        connection.to_pyarrow(others.select(name).distinct())[name].to_pylist() for name in (c.USER_ID, c.GUEST_ID)
    ]
    ids = sorted({user for column in found for user in column if user is not None})
    keys = pa.array([workspace.user_key(user) for user in ids], pa.string())
    return pa.table({c.USER_KEY: keys, c.USER_ID: pa.array(ids, pa.string())})


def pairs(connection: Backend, workspace: Workspace, versions: Mapping[str, int]) -> list[tuple[str, str]]:
    """Pairs (key, user) of the keys that landed rows of logs bear and whose user other rows name, at `versions`."""
    if LANDED not in versions or BATCHES not in versions:
        return []
    sources = tables.read_table(workspace, BATCHES, version=versions[BATCHES], columns=["source"])
    if logs.NAME not in sources["source"].to_pylist():
        return []
    landed = duckdb.scan_table(connection, workspace, LANDED, version=versions[LANDED])
    borne = of_logs(landed).select(**{c.USER_KEY: landed[c.USER_ID]}).distinct()
    found = ibis.memtable(known(connection, workspace, landed)).semi_join(borne, c.USER_KEY)
    rows = connection.to_pyarrow(found)
    return list(zip(rows[c.USER_KEY].to_pylist(), rows[c.USER_ID].to_pylist(), strict=True))
