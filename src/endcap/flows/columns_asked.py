"""A FeatureConfig and the workspace's tables in, users and products with the columns that it names out."""

from __future__ import annotations

from typing import Final

import ibis
import ibis.expr.types as ir
import msgspec
import pyarrow as pa
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.encoded import Side
from endcap.contracts.errors import ColumnsError
from endcap.contracts.events import ATTRIBUTES, ATTRIBUTES_TABLE, ITEM_VERSIONS, ITEMS, USERS, USERS_TABLE
from endcap.contracts.features import Column, FeatureConfig
from endcap.engines import duckdb
from endcap.features.as_of import ranges_of as changes_of
from endcap.features.attributes import names_of, ranges_of, unknown_columns
from endcap.features.dataset import HISTORY_COLUMNS
from endcap.features.lines import ITEM_MEAN, USER_MEAN
from endcap.features.point_in_time import STRANGER
from endcap.features.products import NUMBERS
from endcap.features.signals import FIRST_SEEN
from endcap.workspace import lineage, tables
from endcap.workspace.layout import Workspace

_MADE: Final[dict[Side, tuple[str, ...]]] = {
    "buyer": (c.USER_ID, "event_time_us", *STRANGER, *HISTORY_COLUMNS, USER_MEAN),
    "product": (c.ITEM_ID, *NUMBERS, ITEM_MEAN, FIRST_SEEN),
}
"""Columns of the feature tables that are made of purchases."""
_ALWAYS: Final[dict[Side, tuple[str, ...]]] = {"buyer": tuple(USERS_TABLE.schema.names[1:]), "product": (c.TITLE,)}
_LASTING: Final = (c.BRAND, c.GROUP_ID)
_PASSING: Final = (c.CATEGORY, c.IN_STOCK)


class Asked(msgspec.Struct, frozen=True):
    """Columns beside those that feature tables always have, sorted."""

    buyer: list[str]
    product: list[str]


def columns_asked(workspace: Workspace, config: FeatureConfig) -> Asked:
    """What the FeatureConfig wants of users and products beyond what is always there.

    Raises ColumnsError, every problem in one message, for columns that nobody has.
    """
    stated = _stated(workspace)
    sides: tuple[Side, ...] = ("buyer", "product")
    more: dict[Side, tuple[str, ...]] = {"buyer": (), "product": (*_LASTING, *_PASSING)}
    asked: dict[Side, list[str]] = {}
    problems = []
    for side in sides:
        always = (*_MADE[side], *_ALWAYS[side])
        wanted = [name for name in config.side(side) if name not in always]
        problems += unknown_columns(side, wanted, [*always, *more[side], *names_of(stated, side)])
        asked[side] = sorted(wanted)
    if problems:
        raise ColumnsError(problems)
    return Asked(asked["buyer"], asked["product"])


def described_users(connection: Backend, workspace: Workspace, config: FeatureConfig, asked: Asked) -> ir.Table:
    """Table `users` with the asked columns; where there are any, one row for each time in which all of them stay."""
    users = duckdb.scan_table(connection, workspace, USERS)
    if not asked.buyer:
        return users
    wanted = _columns(config, "buyer", asked.buyer)
    return ibis.memtable(ranges_of(connection.to_pyarrow(users), c.USER_ID, _stated(workspace), "buyer", wanted))


def described_items(connection: Backend, workspace: Workspace, config: FeatureConfig, asked: Asked) -> ir.Table:
    """Products' ids and titles with the asked columns; where any changes with time, one row for each time in which none does."""
    items = duckdb.scan_table(connection, workspace, ITEMS, columns=lineage.columns_read("features", ITEMS))
    items = items.select(c.ITEM_ID, c.TITLE, *(name for name in _LASTING if name in asked.product))
    wanted = _columns(config, "product", [name for name in asked.product if name not in _LASTING])
    if not wanted:
        return items
    passing = [name for name in _PASSING if name in wanted]
    more = None
    if passing:
        read = lineage.columns_read("features", ITEM_VERSIONS)
        versions = duckdb.scan_table(connection, workspace, ITEM_VERSIONS, columns=read)
        changes = changes_of(versions, passing).rename(item_id="range_item_id")
        more = connection.to_pyarrow(changes.drop("until_us"))
    known = connection.to_pyarrow(items)
    return ibis.memtable(ranges_of(known, c.ITEM_ID, _stated(workspace), "product", wanted, more))


def _columns(config: FeatureConfig, side: Side, names: list[str]) -> dict[str, Column]:
    return {name: config.side(side)[name] for name in names}


def _stated(workspace: Workspace) -> pa.Table:
    if tables.version_in_force(workspace, ATTRIBUTES) is None:
        return ATTRIBUTES_TABLE.schema.empty_table()
    return tables.read_table(workspace, ATTRIBUTES)
