"""Feature tables and a configuration in; what would make training or judging pointless is refused before either begins."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from endcap.contracts import columns as c
from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Reporter
from endcap.features.dataset import FeatureTables, day_of
from endcap.features.split import EVAL, PERIOD, TEST

_PAIR = [c.USER_ID, c.ITEM_ID]


def check_before_training(tables: FeatureTables, configuration: Configuration, report: Reporter) -> None:
    """Raise InputError, every problem in one message, when nothing could be learned from the data or measured on it."""
    problems = [*_of_ids(configuration), *_of_periods(tables), *_of_catalog(tables)]
    if problems:
        raise InputError("\n".join(problems))
    num_products, top_k = _num_products(tables), configuration.model.top_k
    if top_k > num_products:
        report.event(
            "remark on the model",
            remark=f"model.top_k: {top_k} is more than the catalog's {num_products:,} products; so many are answered.",
        )


def _of_ids(configuration: Configuration) -> Iterator[str]:
    features = configuration.features
    for side, found, expected in (("buyer", features.user_id, c.USER_ID), ("product", features.item_id, c.ITEM_ID)):
        if found != expected:
            yield (
                f"features.{side}.{found}: is_primary_id stands here; expected it on {expected}, which names a "
                f"{'customer' if side == 'buyer' else 'product'} in a workspace's tables. Move it there."
            )


def _of_periods(tables: FeatureTables) -> Iterator[str]:
    for period in (EVAL, TEST):
        asked = tables.table(period)
        if not asked.num_rows:
            purchases = tables.table("purchases")
            bought = purchases.filter(pc.equal(purchases[PERIOD], period))
            yield (
                f"Nobody bought both in the {period} period and before it: found {bought.num_rows:,} purchases of "
                f"{pc.count_distinct(bought[c.USER_ID]).as_py():,} customers in the period, all of whom came for the "
                "first time. Expected one customer or more who came back, since answers are measured on those. Ingest a "
                "longer time, or change split.*."
            )
        elif period == TEST and not _has_new_to_customer(tables):
            yield (
                f"No customer bought a product in the {period} period that was new to them: found {asked.num_rows:,} "
                f"customers and repeats alone, in a catalog of {_num_products(tables):,} products. Expected one new product "
                "or more, since discovery is measured on those. Ingest a longer time or more products, or change split.*."
            )


def _of_catalog(tables: FeatureTables) -> Iterator[str]:
    num_products = _num_products(tables)
    if num_products < 2:
        yield (
            f"The catalog has {num_products:,} products that were sold before the test period; expected 2 or more, so that "
            "there is something to choose among. Ingest more, and check that the column of products is the right one."
        )


def _num_products(tables: FeatureTables) -> int:
    known = tables.products_on(day_of(tables.split.test_start_us))
    return int(pc.sum(pc.is_valid(known["days_since_first_sold"])).as_py() or 0)


def _has_new_to_customer(tables: FeatureTables) -> bool:
    purchases, is_known = tables.purchases_before(TEST)
    earlier = purchases.filter(pa.array(is_known)).select(_PAIR)
    tested = purchases.filter(pc.equal(purchases[PERIOD], TEST)).select(_PAIR)
    came_back = tested.join(earlier.select([c.USER_ID]), c.USER_ID, join_type="left semi")
    return bool(came_back.join(earlier, _PAIR, join_type="left anti").num_rows)
