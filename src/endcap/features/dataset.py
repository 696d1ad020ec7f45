"""Checked tables in, the feature tables of a training run out: questions by period, catalogs by day, a user snapshot."""

from __future__ import annotations

from pathlib import Path

import ibis
import ibis.expr.types as ir
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from endcap.contracts.configuration import SplitConfig
from endcap.contracts.errors import ArtifactError
from endcap.contracts.reporting import Reporter
from endcap.features.point_in_time import DAY_US, buyer_features, history
from endcap.features.products import product_features
from endcap.features.split import Split, split_by_time

HISTORY_COLUMNS = ("user_history", "user_history_age_days", "user_history_count")
QUESTION_TABLES = ("baskets", "eval", "test", "snapshot")
CODE_VERSION = 1
"""Part of the ledger's key: raise it when a change here changes what is written."""


class FeatureTables(msgspec.Struct, frozen=True):
    """A folder of feature tables and the split they follow.

    `baskets`: one row a customer and moment before the test period, with what was bought (`targets`) and the `period`.
    `eval`, `test`: one row a customer who bought in the period and before it, as of the period's start; `targets` is all
    they bought in it. `snapshot`: one row a customer, as of the end of the data. `products`: one row a product and day.
    """

    folder: Path
    split: Split

    def table(self, name: str) -> pa.Table:
        """Read one table. Raises ArtifactError when it isn't there or can't be read."""
        try:
            return pq.read_table(self.folder / f"{name}.parquet")
        except (OSError, pa.ArrowInvalid) as error:
            raise ArtifactError(
                f"{self.folder / name}.parquet can't be read: {error}. Delete the folder and run `endcap features`."
            ) from error

    def products_on(self, day: int) -> pa.Table:
        """The catalog as of the midnight that begins `day`, in the order of item ids."""
        try:
            return pq.read_table(self.folder / "products.parquet", filters=[("day", "=", day)])
        except (OSError, pa.ArrowInvalid) as error:
            raise ArtifactError(f"{self.folder}/products.parquet can't be read: {error}.") from error


def build(
    purchases: ir.Table,
    items: ir.Table,
    users: ir.Table,
    split: SplitConfig,
    max_length: int,
    folder: Path,
    report: Reporter,
) -> FeatureTables:
    """Write the feature tables into `folder`, which exists and is empty.

    Args:
        purchases: `user_id, item_id, ts_us, price` of purchases alone.
        items: `item_id, title`.
        users: `user_id` and attributes.
        split: How to divide by time.
        max_length: Most products of a history.
        folder: Where to write.
        report: Hears of each table.
    """
    moments = split_by_time(purchases, split)
    num_tables = len(QUESTION_TABLES) + 1
    for number, name in enumerate(QUESTION_TABLES):
        report.progress("features", number, num_tables, name)
        spine = ibis.memtable(_spine(name, purchases, moments).to_pyarrow())
        featured = buyer_features(spine, purchases, users)
        table = featured.left_join(history(spine, purchases, max_length), "query_num").drop("query_num_right")
        _write(_fill_empty(table.order_by("query_num").to_pyarrow()), folder / f"{name}.parquet")
    report.progress("features", num_tables - 1, num_tables, "products")
    first_day = int(purchases.ts_us.min().to_pyarrow().as_py()) // DAY_US
    products = product_features(purchases, items, first_day, day_after(moments.end_us))
    _write(products.order_by("day", "item_id").to_pyarrow(), folder / "products.parquet")
    report.progress("features", num_tables, num_tables)
    return FeatureTables(folder=folder, split=moments)


def day_of(moment_us: int) -> int:
    """The day (from 1970-01-01, UTC) whose midnight comes last before or at `moment_us`."""
    return moment_us // DAY_US


def day_after(end_us: int) -> int:
    """The first day whose midnight lies at or after `end_us`."""
    return -(-end_us // DAY_US)


def _spine(name: str, purchases: ir.Table, split: Split) -> ir.Table:
    """The questions of one table: `query_num, user_id, event_time_us`, and `targets` but for the snapshot."""
    if name == "baskets":
        before = purchases.filter(purchases.ts_us < split.test_start_us).mutate(event_time_us=purchases.ts_us)
        asked = _with_targets(before).mutate(
            period=(ibis._.event_time_us < split.eval_start_us).ifelse("train", "eval")
        )
    elif name == "snapshot":
        asked = purchases.select("user_id").distinct().mutate(event_time_us=ibis.literal(split.end_us, "int64"))
    else:
        start, end = (
            (split.eval_start_us, split.test_start_us) if name == "eval" else (split.test_start_us, split.end_us)
        )
        within = purchases.filter((purchases.ts_us >= start) & (purchases.ts_us < end))
        known = purchases.filter(purchases.ts_us < start).select("user_id").distinct()
        asked = _with_targets(within.semi_join(known, "user_id").mutate(event_time_us=ibis.literal(start, "int64")))
    order = ibis.window(order_by=["event_time_us", "user_id"])
    return asked.mutate(query_num=ibis.row_number().over(order).cast("int64"))


def _with_targets(bought: ir.Table) -> ir.Table:
    pairs = bought.select("user_id", "event_time_us", "item_id").distinct()
    return pairs.group_by("user_id", "event_time_us").aggregate(targets=pairs.item_id.collect(order_by="item_id"))


def _fill_empty(table: pa.Table) -> pa.Table:
    """A question without any history has empty lists rather than null."""
    for name in HISTORY_COLUMNS:
        number = table.schema.get_field_index(name)
        column = table[name].combine_chunks()
        filled = column.fill_null(pa.scalar([], type=column.type))
        table = table.set_column(number, name, filled)
    return table


def _write(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd", row_group_size=64 * 1024)
