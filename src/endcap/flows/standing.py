"""A workspace and a moment in, which category each product stood in then, and whether it was in stock, out."""

from __future__ import annotations

import ibis
import pyarrow as pa

from endcap.contracts import columns as c
from endcap.contracts.events import ITEM_VERSIONS
from endcap.engines.duckdb import scan_table, session
from endcap.workspace.layout import Workspace


def standing_at(workspace: Workspace, moment_us: int) -> pa.Table:
    """`item_id, category, in_stock` of the products of which something held; a column that is unknown of all is left out."""
    wanted = [c.ITEM_ID, c.CATEGORY, c.IN_STOCK]
    with session(workspace) as connection:
        versions = scan_table(connection, workspace, ITEM_VERSIONS)
        holds = ibis.and_(
            versions[c.VALID_FROM_US] <= moment_us,
            ibis.or_(versions[c.VALID_TO_US].isnull(), versions[c.VALID_TO_US] > moment_us),
        )
        found: pa.Table = versions.filter(holds).select(*wanted).order_by(c.ITEM_ID).to_pyarrow()
    return found.select([c.ITEM_ID, *(name for name in wanted[1:] if found[name].null_count < found.num_rows)])
